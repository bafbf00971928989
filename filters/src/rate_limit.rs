//! At most so many calls per period.
//!
//! One bucket is shared by all workers (and, on a cluster, by all doors that lead to it): the generic cell rate algorithm
//! on one atomic, which holds the time at which the bucket would be full again. Each batch withdraws once, whatever its
//! size.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{Call, Cx, Policy, Refusal, Verdict};
use serde::Deserialize;

use crate::select::{Foreign, Selection};
use crate::{BuildCx, Help, PolicyFactory, PolicyKind};

pub(crate) static KIND: PolicyKind = PolicyKind {
    name: "rate_limit",
    help: Help {
        summary: "Refuses calls beyond a rate.",
        options: &[
            FilterOption {
                name: "permits",
                takes: Takes::Count(1),
                without: Without::Nothing,
                about: "calls allowed per period",
            },
            FilterOption {
                name: "per",
                takes: Takes::Duration,
                without: Without::Nothing,
                about: "the period, at least 1ms",
            },
            FilterOption {
                name: "burst",
                takes: Takes::Count(1),
                without: Without::Means("as many as `permits`"),
                about: "calls that may come at once",
            },
            FilterOption {
                name: "by",
                takes: Takes::Word(&["client", "listener"]),
                without: Without::Default("listener"),
                about: "whether all clients share one limit or each client address has its own",
            },
            FilterOption {
                name: "commands",
                takes: Takes::Texts,
                without: Without::Means("all"),
                about: "only these: names, or classes such as @write",
            },
        ],
        docs: "The limits of client addresses share a table of 65,536 places, so two may rarely share a limit.",
        example: "- rate_limit: { permits: 10_000, per: 1s, burst: 20_000 }",
    },
    build: |options, cx| build(options, cx).map(|factory| Box::new(factory) as Box<dyn PolicyFactory>),
};

/// Places for clients' limits: bounded, whoever connects.
const CLIENT_PLACES: usize = 1 << 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRateLimit {
    permits: u32,
    per: Period,
    burst: Option<u32>,
    #[serde(default)]
    commands: Vec<String>,
    #[serde(default)]
    by: By,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum By {
    Client,
    #[default]
    Listener,
}

#[derive(Clone)]
struct RateLimit {
    buckets: Arc<[AtomicU64]>,
    /// Nanoseconds that one permit takes.
    interval_nanos: u64,
    /// Nanoseconds' worth of permits that may be taken at once.
    depth_nanos: u64,
    selection: Selection,
}

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<RateLimit, Vec<ConfigError>> {
    let mut selection = Selection::default();
    let raw: RawRateLimit = options.check(|raw: &RawRateLimit, errors| {
        if raw.permits == 0 {
            errors.push(
                options
                    .error("permits", "must be at least 1")
                    .hint("to refuse everything, use `deny_commands`"),
            );
        }
        if Duration::from(raw.per) < Duration::from_millis(1) {
            errors
                .push(options.error("per", "must be at least 1ms").hint("as in `permits: 10_000, per: 1s`"));
        }
        if raw.burst == Some(0) {
            errors.push(options.error("burst", "must be at least 1").hint("without it as many as `permits`"));
        }
        selection = Selection::read(&raw.commands, cx.ops, options, "commands", Foreign::Refused, errors);
    })?;
    let per = Duration::from(raw.per);
    let interval_nanos =
        (per.as_nanos() / u128::from(raw.permits)).clamp(1, u128::from(u64::MAX >> 32)) as u64;
    let places = if raw.by == By::Client { CLIENT_PLACES } else { 1 };
    Ok(RateLimit {
        buckets: (0..places).map(|_| AtomicU64::new(0)).collect(),
        interval_nanos,
        depth_nanos: interval_nanos.saturating_mul(u64::from(raw.burst.unwrap_or(raw.permits))),
        selection,
    })
}

impl PolicyFactory for RateLimit {
    fn open(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}

impl RateLimit {
    /// Takes up to `wanted` permits and returns how many it got.
    fn take(&self, place: usize, wanted: u64, now_nanos: u64) -> u64 {
        let Some(bucket) = self.buckets.get(place) else { return wanted };
        let mut full_at = bucket.load(Ordering::Relaxed);
        loop {
            let from = full_at.max(now_nanos);
            let room = (now_nanos + self.depth_nanos).saturating_sub(from) / self.interval_nanos;
            let granted = room.min(wanted);
            if granted == 0 {
                return 0;
            }
            let next = from + granted * self.interval_nanos;
            match bucket.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return granted,
                Err(changed) => full_at = changed,
            }
        }
    }

    fn place(&self, cx: &Cx<'_>) -> usize {
        if self.buckets.len() == 1 {
            return 0;
        }
        let ip = cx.peer.addr.map(|addr| match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        });
        BuildHasherDefault::<DefaultHasher>::default().hash_one(ip) as usize % self.buckets.len()
    }

    fn concerns(&self, call: &Call) -> bool {
        call.verdict == Verdict::Forward && (self.selection.is_empty() || self.selection.has(call))
    }
}

impl Policy for RateLimit {
    fn on_calls(&mut self, calls: &mut [Call], cx: &Cx<'_>) {
        // One withdrawal per batch: the bucket is shared between workers and is the only contended line here.
        let wanted = calls.iter().filter(|call| self.concerns(call)).count();
        if wanted == 0 {
            return;
        }
        let granted = self.take(self.place(cx), wanted as u64, cx.now_micros * 1000) as usize;
        if granted < wanted {
            let limit = &*self;
            let over = calls.iter_mut().filter(|call| limit.concerns(call)).skip(granted);
            over.for_each(|call| call.verdict = Verdict::Refuse(Refusal::RateLimited));
        }
    }
}

#[cfg(test)]
mod tests {
    use mecha_core::OpClass;

    use super::*;
    use crate::testing::{built, calls, cx, cx_from, refused};

    fn granted(policy: &mut dyn Policy, count: usize, cx: &Cx<'_>) -> usize {
        let mut batch = vec![calls(&[OpClass::Read])[0]; count];
        policy.on_calls(&mut batch, cx);
        batch.iter().filter(|call| call.verdict == Verdict::Forward).count()
    }

    #[test]
    fn calls_beyond_the_rate_are_refused_and_the_bucket_refills() {
        let factory = built(&KIND, "- rate_limit: { permits: 10, per: 1s }");
        let (mut one, mut other) = (factory.open(), factory.open());
        assert_eq!(granted(&mut *one, 7, &cx(0)), 7);
        // Workers share the bucket.
        assert_eq!(granted(&mut *other, 7, &cx(0)), 3);
        assert_eq!(granted(&mut *one, 7, &cx(250_000)), 2);
        assert_eq!(granted(&mut *one, 50, &cx(60_000_000)), 10);
    }

    #[test]
    fn a_refused_call_takes_no_permit() {
        let mut policy = built(&KIND, "- rate_limit: { permits: 1, per: 1s }").open();
        let mut batch = calls(&[OpClass::Read, OpClass::Read]);
        batch[0].verdict = Verdict::Refuse(Refusal::Denied);
        policy.on_calls(&mut batch, &cx(0));
        assert_eq!(batch[1].verdict, Verdict::Forward);
    }

    #[test]
    fn each_client_has_a_limit_of_its_own_if_wanted() {
        let mut policy = built(&KIND, "- rate_limit: { permits: 1, per: 1s, by: client }").open();
        assert_eq!(granted(&mut *policy, 2, &cx_from("10.0.0.1:1")), 1);
        assert_eq!(granted(&mut *policy, 2, &cx_from("10.0.0.2:1")), 1);
        assert_eq!(granted(&mut *policy, 2, &cx_from("10.0.0.1:2")), 0);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let text = refused(&KIND, "- rate_limit: { permits: 0, per: 1us, burst: 0 }");
        assert!(text.contains("permits") && text.contains("per") && text.contains("burst"), "{text}");
    }
}
