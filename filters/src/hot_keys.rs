//! Tells which keys are used most.
//!
//! Written once for every protocol whose requests have keys; registered by each. One call in `sample` is looked at, chosen by
//! chance, so that no pattern of the traffic hides from it; what is counted is told by the admin server (`/hot_keys`) and
//! nowhere else, as keys may say much about people.

use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{Batch, Cx, Filter, Framed};
use mecha_telemetry::{HotKeys, HotKeysTable};
use serde::Deserialize;
use std::sync::Arc;

use crate::{BuildCx, FilterFactory, FilterKind, Help};

/// Keys that are looked at of one call.
const MAX_KEYS: usize = 16;

/// The kind, for protocol `P`.
pub(crate) const fn kind<P: Framed>() -> FilterKind<P> {
    FilterKind {
        name: "hot_keys",
        help: Help {
            summary: "Tells which keys are used most, at /hot_keys of the admin server.",
            options: &[FilterOption {
                name: "sample",
                takes: Takes::Count(1),
                without: Without::Default("100"),
                about: "one call in so many is looked at, 1 to 1000000",
            }],
            docs: "What is told is of the last half minute or so: each key's share of all calls with a key. Of a key its first 64\n\
                   bytes are shown, to whoever can reach the admin server.",
            example: "- hot_keys: { sample: 50 }",
        },
        build: |options, cx| build(options, cx).map(|keys| Box::new(keys) as Box<dyn FilterFactory<P>>),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHotKeys {
    #[serde(default = "usual")]
    sample: u32,
}

fn usual() -> u32 {
    100
}

struct Factory(Arc<HotKeys>);

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<Factory, Vec<ConfigError>> {
    let raw: RawHotKeys = options.check(|raw: &RawHotKeys, errors| {
        if !(1..=1_000_000).contains(&raw.sample) {
            errors.push(options.error("sample", "must be 1 to 1000000").hint("as in `sample: 100`"));
        }
    })?;
    Ok(Factory(cx.registry.hot_keys(cx.scope, raw.sample)))
}

impl<P: Framed> FilterFactory<P> for Factory {
    fn open(&self) -> Box<dyn Filter<P>> {
        Box::new(Instance { table: self.0.table(), sample: self.0.sample(), left: 1 })
    }
}

struct Instance {
    table: HotKeysTable,
    sample: u32,
    /// Calls up to the next that is looked at, and that one.
    left: u32,
}

impl<P: Framed> Filter<P> for Instance {
    fn on_requests(&mut self, batch: &mut Batch<'_, P>, cx: &Cx<'_>) {
        let mut at = 0usize;
        while let Some(next) = at.checked_add(self.left as usize).filter(|next| *next <= batch.calls.len()) {
            at = next;
            // Between 1 and twice as many: `sample` in the mean.
            self.left = fastrand::u32(1..=self.sample.saturating_mul(2).saturating_sub(1));
            if let Some(head) = batch.heads.get(at - 1) {
                let mut count = 0;
                P::keys(head, batch.frame(at - 1), &mut |key| {
                    count += 1;
                    if count <= MAX_KEYS {
                        self.table.note(key, cx.now_micros);
                    }
                });
            }
        }
        self.left -= (batch.calls.len() - at) as u32;
    }
}

#[cfg(test)]
mod tests {
    use mecha_resp::Resp;
    use mecha_telemetry::Registry;

    use super::*;
    use crate::testing::{batch_of, cx, options, with_cx};

    fn told(example: &str, rounds: usize, lines: &[&str]) -> Vec<(String, f64)> {
        let registry = Registry::new();
        let kind = kind::<Resp>();
        let built = with_cx(&registry, |cx| (kind.build)(&options(example), cx));
        let factory = built.unwrap_or_else(|errors| panic!("{errors:?}"));
        let mut filter = factory.open();
        (0..rounds).for_each(|_| batch_of(lines, |batch| filter.on_requests(batch, &cx(1))));
        let all = registry.all_hot_keys();
        let text = |key: Vec<u8>| String::from_utf8(key).unwrap();
        all[0].1.top(10).into_iter().map(|key| (text(key.key), key.share)).collect()
    }

    #[test]
    fn every_call_is_looked_at_or_one_in_so_many() {
        let all = told("- hot_keys: { sample: 1 }", 10, &["GET a", "MSET a 1 b 2", "PING", "GET a"]);
        assert_eq!(all, [("a".to_string(), 0.75), ("b".to_string(), 0.25)]);
        let some = told("- hot_keys: { sample: 7 }", 3000, &["GET a", "GET b", "GET a", "GET a", "PING"]);
        assert!((some[0].1 - 0.75).abs() < 0.06 && some[0].0 == "a", "{some:?}");
        assert_eq!(some.len(), 2);
    }

    #[test]
    fn a_sample_of_nothing_is_an_error() {
        let built =
            with_cx(&Registry::new(), |cx| (kind::<Resp>().build)(&options("- hot_keys: { sample: 0 }"), cx));
        assert!(built.is_err());
    }
}
