//! Stops sending to a backend that fails.
//!
//! Failures are what tells of the backend's state: it cannot be reached, its connection was lost, it did not answer in
//! time, or it answered with an error of its own state (`-LOADING`, `-CLUSTERDOWN`, `SERVER_ERROR`). An error that the
//! request caused says nothing about the backend and counts as a success.
//!
//! ```text
//!            too many failures                 open_for has passed
//!  closed ───────────────────────► open ◄────────────────────────► half-open
//!    ▲                              ▲                                 │ │
//!    │                              └──── a probe fails (longer) ─────┘ │
//!    └──────────────────────── all probes succeed ──────────────────────┘
//! ```
//!
//! The state is one for all workers: one word, changed as a whole, so that workers that go half-open together let no more
//! probes through than one would. Reading it costs a batch one atomic load while the circuit is closed. Each half-open time
//! is a generation, and each worker remembers which calls are its probes: answers to calls from before the circuit opened,
//! or to probes of an earlier time, decide nothing.

use std::sync::Arc;
use std::time::Duration;

use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{Call, Cx, Done, Outcome, Policy, Refusal, Ticket, Verdict};
use serde::Deserialize;

use self::state::{Breaker, CLOSED, HALF_OPEN, MAX_PROBES, Spec};
use crate::{BuildCx, Help, PolicyFactory, PolicyKind};

mod state;
#[cfg(test)]
mod tests;

pub(crate) static KIND: PolicyKind = PolicyKind {
    name: "circuit_breaker",
    help: Help {
        summary: "Stops sending to a backend that fails, and probes it until it is well.",
        options: &[
            FilterOption {
                name: "failures",
                takes: Takes::Count(0),
                without: Without::Default("5"),
                about: "failures in a row that open the circuit; 0 is off",
            },
            FilterOption {
                name: "ratio",
                takes: Takes::Share,
                without: Without::Means("off"),
                about: "share of failures in a window that opens it",
            },
            FilterOption {
                name: "window",
                takes: Takes::Duration,
                without: Without::Default("10s"),
                about: "the window for `ratio`",
            },
            FilterOption {
                name: "min_calls",
                takes: Takes::Count(0),
                without: Without::Default("20"),
                about: "calls in a window before `ratio` counts",
            },
            FilterOption {
                name: "open_for",
                takes: Takes::Duration,
                without: Without::Default("1s"),
                about: "how long it stays open at first; twice as long after each probe that fails",
            },
            FilterOption {
                name: "max_open_for",
                takes: Takes::Duration,
                without: Without::Default("30s"),
                about: "how long it stays open at most",
            },
            FilterOption {
                name: "half_open_probes",
                takes: Takes::Count(1),
                without: Without::Default("1"),
                about: "calls let through to find out, all of which must succeed",
            },
        ],
        docs: "A failure is a connection that fails, a timeout, or an error of the backend's own state.",
        example: "- circuit_breaker: { failures: 5, open_for: 1s, half_open_probes: 3 }",
    },
    build: |options, cx| build(options, cx).map(|factory| Box::new(factory) as Box<dyn PolicyFactory>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBreaker {
    #[serde(default = "five")]
    failures: u32,
    ratio: Option<f64>,
    window: Option<Period>,
    min_calls: Option<u32>,
    open_for: Option<Period>,
    max_open_for: Option<Period>,
    half_open_probes: Option<u32>,
}

fn five() -> u32 {
    5
}

impl Spec {
    fn of(raw: &RawBreaker) -> Self {
        let micros = |period: Option<Period>, default: u64| {
            period.map_or(default, |period| Duration::from(period).as_micros() as u64)
        };
        let open_micros = micros(raw.open_for, 1_000_000);
        Self {
            failures: raw.failures,
            ratio: raw.ratio,
            window_micros: micros(raw.window, 10_000_000),
            min_calls: raw.min_calls.unwrap_or(20),
            open_micros,
            max_open_micros: micros(raw.max_open_for, open_micros.max(30_000_000)),
            probes: raw.half_open_probes.unwrap_or(1),
        }
    }
}

fn judge(spec: &Spec, options: &Options, errors: &mut Vec<ConfigError>) {
    if spec.ratio.is_some_and(|ratio| !(ratio > 0.0 && ratio <= 1.0)) {
        errors.push(
            options
                .error("ratio", "must be above 0 and at most 1")
                .hint("as in `ratio: 0.5`: half of the calls"),
        );
    }
    if spec.failures == 0 && spec.ratio.is_none() {
        errors
            .push(options.error("failures", "nothing opens this circuit").hint("give `failures` or `ratio`"));
    }
    for (name, value) in [("window", spec.window_micros), ("open_for", spec.open_micros)] {
        if value < 1000 {
            errors.push(options.error(name, "must be at least 1ms").hint("as in `1s`"));
        }
    }
    if spec.max_open_micros < spec.open_micros {
        errors.push(
            options
                .error("max_open_for", "must not be shorter than `open_for`")
                .hint("it is where the doubling of `open_for` ends"),
        );
    }
    if spec.probes == 0 {
        errors.push(
            options
                .error("half_open_probes", "must be at least 1")
                .hint("without a probe an open circuit would never close"),
        );
    }
    if spec.probes > MAX_PROBES {
        errors.push(
            options
                .error("half_open_probes", format!("must be at most {MAX_PROBES}"))
                .hint("a few are enough to find out"),
        );
    }
}

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<Arc<Breaker>, Vec<ConfigError>> {
    let raw: RawBreaker = options.check(|raw, errors| judge(&Spec::of(raw), options, errors))?;
    let spec = Spec::of(&raw);
    let gauge = cx.registry.gauge("mecha_breaker_state", "0 closed, 1 half-open, 2 open.", cx.scope);
    let opened =
        cx.registry.counter("mecha_breaker_opened_total", "Times that the circuit opened.", cx.scope);
    let (Some(gauge), Some(opened)) = (gauge, opened) else {
        return Err(vec![options.error("", "its metrics cannot be made")]);
    };
    Ok(Arc::new(Breaker::new(spec, gauge, opened)))
}

impl PolicyFactory for Arc<Breaker> {
    fn open(&self) -> Box<dyn Policy> {
        // It takes the gauge over from a predecessor that may have been open.
        self.show();
        let probing = Vec::with_capacity(self.probes());
        Box::new(Instance { breaker: Arc::clone(self), generation: 0, probing })
    }
}

struct Instance {
    breaker: Arc<Breaker>,
    /// Which half-open time `probing` is about.
    generation: u16,
    /// Probes that this worker has sent and that are not answered.
    probing: Vec<Ticket>,
}

/// Whether this end tells that the backend fails; `None` if it tells nothing about the backend.
fn is_failure(done: &Done) -> Option<bool> {
    match done.outcome {
        Outcome::Ok | Outcome::ClientError => Some(false),
        Outcome::ServerError => Some(true),
        Outcome::Refused(
            Refusal::TimedOut
            | Refusal::UpstreamDenied
            | Refusal::UpstreamGone
            | Refusal::UpstreamUnreachable,
        ) => Some(true),
        Outcome::Refused(_) => None,
    }
}

impl Policy for Instance {
    fn on_calls(&mut self, calls: &mut [Call], cx: &Cx<'_>) {
        let word = self.breaker.word();
        if word.state == CLOSED {
            return;
        }
        if let Some(until) = self.breaker.passed(cx.now_micros) {
            self.breaker.half_open(word, until, cx.now_micros);
        }
        for call in calls.iter_mut().filter(|call| call.verdict == Verdict::Forward) {
            let Some(generation) = self.breaker.probe() else {
                call.verdict = Verdict::Refuse(Refusal::CircuitOpen);
                continue;
            };
            if generation != self.generation {
                self.generation = generation;
                self.probing.clear();
            }
            self.probing.push(call.ticket);
        }
    }

    fn on_done(&mut self, done: &[Done], cx: &Cx<'_>) {
        let breaker = &*self.breaker;
        match breaker.word().state {
            CLOSED => {
                let (mut calls, mut failures, mut end) = (0u32, 0u32, 0u32);
                for is_failure in done.iter().filter_map(is_failure) {
                    calls += 1;
                    failures += u32::from(is_failure);
                    end = if is_failure { end + 1 } else { 0 };
                }
                if calls > 0 {
                    breaker.count(calls, failures, end, failures == calls, cx.now_micros);
                }
            }
            HALF_OPEN => {
                for done in done.iter().filter(|done| done.outcome != Outcome::Refused(Refusal::CircuitOpen))
                {
                    if let Some(at) = self.probing.iter().position(|ticket| *ticket == done.ticket) {
                        self.probing.swap_remove(at);
                        breaker.probed(self.generation, is_failure(done), cx.now_micros);
                    }
                }
            }
            // Answers to calls from before it opened.
            _ => {}
        }
    }
}
