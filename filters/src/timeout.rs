//! How long an upstream may take.
//!
//! This filter only marks calls. The upstream connection looks at its deadlines every 10 ms, answers late calls natively,
//! and drops their replies when they do arrive. Calls that are meant to wait (blocking commands, subscriptions) are
//! exempt.

use std::time::Duration;

use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{Affinity, Call, Cx, Policy, Verdict};
use serde::Deserialize;

use crate::select::{Foreign, Selection};
use crate::{BuildCx, Help, PolicyFactory, PolicyKind};

pub(crate) static KIND: PolicyKind = PolicyKind {
    name: "timeout",
    help: Help {
        summary: "Answers in the backend's place when it takes too long.",
        options: &[
            FilterOption {
                name: "after",
                takes: Takes::Duration,
                without: Without::Nothing,
                about: "how long a call may take; at least 10ms, in steps of 10ms",
            },
            FilterOption {
                name: "commands",
                takes: Takes::Texts,
                without: Without::Means("all"),
                about: "only these: names, or classes such as @write",
            },
        ],
        docs: "Several timeouts may stand in a list; for each call the last that names it counts.\n\
               Blocking commands and subscriptions are exempt.",
        example: "- timeout: { after: 250ms }",
    },
    build: |options, cx| build(options, cx).map(|factory| Box::new(factory) as Box<dyn PolicyFactory>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTimeout {
    after: Period,
    #[serde(default)]
    commands: Vec<String>,
}

#[derive(Clone)]
struct Timeout {
    millis: u32,
    selection: Selection,
}

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<Timeout, Vec<ConfigError>> {
    let mut selection = Selection::default();
    let raw: RawTimeout = options.check(|raw: &RawTimeout, errors| {
        if Duration::from(raw.after) < Duration::from_millis(10) {
            errors.push(
                options
                    .error("after", "must be at least 10ms: that is the resolution")
                    .hint("as in `after: 250ms`"),
            );
        }
        selection = Selection::read(&raw.commands, cx.ops, options, "commands", Foreign::Refused, errors);
    })?;
    let after = Duration::from(raw.after);
    Ok(Timeout { millis: u32::try_from(after.as_millis()).unwrap_or(u32::MAX), selection })
}

impl PolicyFactory for Timeout {
    fn open(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}

impl Policy for Timeout {
    fn on_calls(&mut self, calls: &mut [Call], _cx: &Cx<'_>) {
        for call in calls {
            let waits = matches!(call.affinity, Affinity::Once | Affinity::Raw | Affinity::Waits);
            if call.verdict == Verdict::Forward
                && !waits
                && (self.selection.is_empty() || self.selection.has(call))
            {
                call.timeout_ms = self.millis;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mecha_core::OpClass;

    use super::*;
    use crate::testing::{built, calls, cx, refused};

    #[test]
    fn marks_the_calls_that_it_is_about() {
        let mut policy = built(&KIND, KIND.help.example).open();
        let mut batch = calls(&[OpClass::Read, OpClass::Write]);
        batch[1].affinity = Affinity::Once;
        policy.on_calls(&mut batch, &cx(0));
        assert_eq!(batch.map(|call| call.timeout_ms), [250, 0]);

        let mut policy = built(&KIND, "- timeout: { after: 1s, commands: [\"@write\"] }").open();
        let mut batch = calls(&[OpClass::Read, OpClass::Write]);
        policy.on_calls(&mut batch, &cx(0));
        assert_eq!(batch.map(|call| call.timeout_ms), [0, 1000]);
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        assert!(refused(&KIND, "- timeout: { after: 1ms }").contains("10ms"));
        assert!(refused(&KIND, "- timeout: { after: 1s, commands: [gett] }").contains("did you mean `get`"));
    }
}
