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
//! The state is one for all workers. Reading it costs a batch one atomic load while the circuit is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use mecha_config::units::Period;
use mecha_config::{ConfigError, Options};
use mecha_core::{Call, Cx, Done, Outcome, Policy, Refusal, Verdict};
use mecha_telemetry::prometheus::{IntCounter, IntGauge};
use serde::Deserialize;

use crate::{BuildCx, Help, PolicyFactory, PolicyKind};

pub(crate) static KIND: PolicyKind = PolicyKind {
    name: "circuit_breaker",
    help: Help {
        summary: "Stops sending to a backend that fails, and probes it until it is well.",
        docs: "failures: failures in a row that open the circuit (default 5; 0 is off)\n\
               ratio: share of failures in a window that opens it, between 0 and 1 (off without it)\n\
               window: the window for `ratio` (default 10s)\n\
               min_calls: calls in a window before `ratio` counts (default 20)\n\
               open_for: how long it stays open at first (default 1s); twice as long after each probe that fails\n\
               max_open_for: at most (default 30s)\n\
               half_open_probes: calls let through to find out, all of which must succeed (default 1)\n\
               A failure is a connection that fails, a timeout, or an error of the backend's own state.",
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

struct Spec {
    failures: u32,
    ratio: Option<f64>,
    window_micros: u64,
    min_calls: u32,
    open_micros: u64,
    max_open_micros: u64,
    probes: u32,
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
        errors.push(options.error("ratio", "must be above 0 and at most 1"));
    }
    if spec.failures == 0 && spec.ratio.is_none() {
        errors.push(options.error("failures", "nothing opens this circuit: give `failures` or `ratio`"));
    }
    for (name, value) in [("window", spec.window_micros), ("open_for", spec.open_micros)] {
        if value < 1000 {
            errors.push(options.error(name, "must be at least 1ms"));
        }
    }
    if spec.max_open_micros < spec.open_micros {
        errors.push(options.error("max_open_for", "must not be shorter than `open_for`"));
    }
    if spec.probes == 0 {
        errors.push(options.error("half_open_probes", "must be at least 1"));
    }
}

const CLOSED: u32 = 0;
const HALF_OPEN: u32 = 1;
const OPEN: u32 = 2;

struct Breaker {
    spec: Spec,
    state: AtomicU32,
    /// When an open circuit becomes half-open; when a half-open one gives its probes up.
    until_micros: AtomicU64,
    in_a_row: AtomicU32,
    window_start: AtomicU64,
    window_calls: AtomicU32,
    window_failures: AtomicU32,
    /// Probes that may still be sent, and those that have succeeded.
    probes_left: AtomicU32,
    probes_good: AtomicU32,
    /// Times that it opened without closing in between.
    reopened: AtomicU32,
    gauge: IntGauge,
    opened: IntCounter,
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
    Ok(Arc::new(Breaker {
        spec,
        state: AtomicU32::new(CLOSED),
        until_micros: AtomicU64::new(0),
        in_a_row: AtomicU32::new(0),
        window_start: AtomicU64::new(0),
        window_calls: AtomicU32::new(0),
        window_failures: AtomicU32::new(0),
        probes_left: AtomicU32::new(0),
        probes_good: AtomicU32::new(0),
        reopened: AtomicU32::new(0),
        gauge,
        opened,
    }))
}

impl PolicyFactory for Arc<Breaker> {
    fn open(&self) -> Box<dyn Policy> {
        // It takes the gauge over from a predecessor that may have been open.
        self.gauge.set(i64::from(self.state.load(Ordering::Relaxed)));
        Box::new(Instance(Arc::clone(self)))
    }
}

struct Instance(Arc<Breaker>);

impl Breaker {
    fn set(&self, state: u32) {
        self.state.store(state, Ordering::Release);
        self.gauge.set(i64::from(state));
    }

    /// Moves to `to` if the state is still `from`: one worker wins.
    fn change(&self, from: u32, to: u32) -> bool {
        let won = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if won {
            self.gauge.set(i64::from(to));
        }
        won
    }

    fn open(&self, from: u32, now_micros: u64) {
        let times = if from == CLOSED { 0 } else { self.reopened.load(Ordering::Relaxed).saturating_add(1) };
        let factor = 1u64.checked_shl(times.min(20)).unwrap_or(1);
        let open_for = self.spec.open_micros.saturating_mul(factor).min(self.spec.max_open_micros);
        self.until_micros.store(now_micros + open_for, Ordering::Relaxed);
        if self.change(from, OPEN) {
            self.reopened.store(times, Ordering::Relaxed);
            self.opened.inc();
        }
    }

    fn half_open(&self, from: u32, now_micros: u64) {
        self.probes_left.store(self.spec.probes, Ordering::Relaxed);
        self.probes_good.store(0, Ordering::Relaxed);
        // Probes that never end (their clients left) must not keep it half-open for ever.
        self.until_micros.store(now_micros + self.spec.max_open_micros, Ordering::Relaxed);
        if from == OPEN {
            self.change(OPEN, HALF_OPEN);
        }
    }

    fn close(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
        self.window_calls.store(0, Ordering::Relaxed);
        self.window_failures.store(0, Ordering::Relaxed);
        self.reopened.store(0, Ordering::Relaxed);
        self.set(CLOSED);
    }

    /// Takes the right to send one probe.
    fn probe(&self) -> bool {
        let take = |left: u32| left.checked_sub(1);
        self.probes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Counts calls of a closed circuit: successes before the last failure, failures, successes behind it.
    fn count(&self, calls: u32, failures: u32, longest_end: u32, is_all: bool, now_micros: u64) {
        let in_a_row = if is_all {
            self.in_a_row.fetch_add(failures, Ordering::Relaxed).saturating_add(failures)
        } else {
            if longest_end != self.in_a_row.load(Ordering::Relaxed) {
                self.in_a_row.store(longest_end, Ordering::Relaxed);
            }
            longest_end
        };
        let mut is_over = self.spec.failures > 0 && in_a_row >= self.spec.failures;
        if let Some(ratio) = self.spec.ratio {
            let start = self.window_start.load(Ordering::Relaxed);
            if now_micros.saturating_sub(start) > self.spec.window_micros {
                self.window_start.store(now_micros, Ordering::Relaxed);
                self.window_calls.store(0, Ordering::Relaxed);
                self.window_failures.store(0, Ordering::Relaxed);
            }
            let calls = self.window_calls.fetch_add(calls, Ordering::Relaxed) + calls;
            let failures = self.window_failures.fetch_add(failures, Ordering::Relaxed) + failures;
            is_over |= calls >= self.spec.min_calls && f64::from(failures) >= ratio * f64::from(calls);
        }
        if is_over {
            self.open(CLOSED, now_micros);
        }
    }
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
        let breaker = &*self.0;
        let mut state = breaker.state.load(Ordering::Acquire);
        if state == CLOSED {
            return;
        }
        if cx.now_micros >= breaker.until_micros.load(Ordering::Relaxed) {
            breaker.half_open(state, cx.now_micros);
            state = HALF_OPEN;
        }
        for call in calls.iter_mut().filter(|call| call.verdict == Verdict::Forward) {
            if state == OPEN || !breaker.probe() {
                call.verdict = Verdict::Refuse(Refusal::CircuitOpen);
            }
        }
    }

    fn on_done(&mut self, done: &[Done], cx: &Cx<'_>) {
        let breaker = &*self.0;
        let (mut calls, mut failures, mut end) = (0u32, 0u32, 0u32);
        for is_failure in done.iter().filter_map(is_failure) {
            calls += 1;
            failures += u32::from(is_failure);
            end = if is_failure { end + 1 } else { 0 };
        }
        if calls == 0 {
            return;
        }
        match breaker.state.load(Ordering::Acquire) {
            CLOSED => breaker.count(calls, failures, end, failures == calls, cx.now_micros),
            HALF_OPEN if failures > 0 => breaker.open(HALF_OPEN, cx.now_micros),
            HALF_OPEN => {
                let good = breaker.probes_good.fetch_add(calls, Ordering::Relaxed) + calls;
                if good >= breaker.spec.probes {
                    breaker.close();
                }
            }
            // Answers to calls from before it opened.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use mecha_core::{OpClass, OpId, Ticket};
    use mecha_telemetry::Registry;

    use super::*;
    use crate::testing::{calls, cx, options, refused, with_cx};

    struct Circuit {
        policy: Box<dyn Policy>,
        registry: Registry,
        now: u64,
    }

    impl Circuit {
        fn new(example: &str) -> Self {
            let registry = Registry::new();
            let factory = with_cx(&registry, |cx| (KIND.build)(&options(example), cx))
                .unwrap_or_else(|e| panic!("{e:?}"));
            Self { policy: factory.open(), registry, now: 0 }
        }

        /// Sends calls with these outcomes; returns how many were let through.
        fn send(&mut self, outcomes: &[Outcome]) -> usize {
            let mut batch = vec![calls(&[OpClass::Read])[0]; outcomes.len()];
            self.policy.on_calls(&mut batch, &cx(self.now));
            let sent = batch.iter().filter(|call| call.verdict == Verdict::Forward).count();
            let done = |outcome| Done { ticket: Ticket::default(), op: OpId::UNKNOWN, outcome, micros: 1 };
            let done: Vec<_> = outcomes[..sent].iter().copied().map(done).collect();
            self.policy.on_done(&done, &cx(self.now));
            sent
        }

        fn state(&self) -> String {
            let text = self.registry.render();
            text.lines()
                .find(|line| line.starts_with("mecha_breaker_state"))
                .unwrap()
                .rsplit(' ')
                .next()
                .unwrap()
                .into()
        }
    }

    const TIMEOUT: Outcome = Outcome::Refused(Refusal::TimedOut);

    #[test]
    fn opens_on_failures_in_a_row_of_every_kind() {
        let mut circuit = Circuit::new("- circuit_breaker: { failures: 3 }");
        circuit.send(&[TIMEOUT, Outcome::ServerError, Outcome::Ok, TIMEOUT, TIMEOUT]);
        assert_eq!(circuit.state(), "0");
        circuit.send(&[
            Outcome::ClientError,
            Outcome::ServerError,
            TIMEOUT,
            Outcome::Refused(Refusal::UpstreamGone),
        ]);
        assert_eq!(circuit.state(), "2");
        assert_eq!(circuit.send(&[Outcome::Ok]), 0);
    }

    #[test]
    fn opens_on_a_share_of_failures_in_a_window() {
        let mut circuit =
            Circuit::new("- circuit_breaker: { failures: 0, ratio: 0.5, min_calls: 4, window: 1s }");
        circuit.send(&[TIMEOUT, Outcome::Ok, TIMEOUT]);
        circuit.now = 2_000_000;
        circuit.send(&[TIMEOUT, Outcome::Ok, Outcome::Ok]);
        assert_eq!(circuit.state(), "0");
        circuit.send(&[TIMEOUT]);
        assert_eq!(circuit.state(), "2");
    }

    #[test]
    fn closes_when_all_probes_succeed() {
        let mut circuit =
            Circuit::new("- circuit_breaker: { failures: 1, open_for: 1s, half_open_probes: 2 }");
        circuit.send(&[TIMEOUT]);
        circuit.now = 999_999;
        assert_eq!(circuit.send(&[Outcome::Ok; 5]), 0);
        circuit.now = 1_000_000;
        assert_eq!(circuit.send(&[Outcome::Ok; 5]), 2);
        assert_eq!((circuit.state().as_str(), circuit.send(&[Outcome::Ok; 5])), ("0", 5));
    }

    #[test]
    fn a_failed_probe_opens_for_longer() {
        let mut circuit = Circuit::new("- circuit_breaker: { failures: 1, open_for: 1s, max_open_for: 3s }");
        circuit.send(&[TIMEOUT]);
        for open_for in [1_000_000, 2_000_000, 3_000_000, 3_000_000] {
            circuit.now += open_for - 1;
            assert_eq!(circuit.send(&[TIMEOUT]), 0);
            circuit.now += 1;
            assert_eq!(circuit.send(&[TIMEOUT]), 1);
        }
    }

    #[test]
    fn its_own_refusals_and_others_are_no_failures() {
        let mut circuit = Circuit::new("- circuit_breaker: { failures: 1 }");
        let refusals = [Refusal::CircuitOpen, Refusal::RateLimited, Refusal::Denied, Refusal::Unsupported];
        circuit.send(&refusals.map(Outcome::Refused));
        assert_eq!(circuit.state(), "0");
    }

    #[test]
    fn probes_that_never_end_do_not_keep_it_half_open() {
        let mut circuit = Circuit::new("- circuit_breaker: { failures: 1, open_for: 1s, max_open_for: 2s }");
        circuit.send(&[TIMEOUT]);
        circuit.now = 1_000_000;
        let mut batch = calls(&[OpClass::Read]);
        circuit.policy.on_calls(&mut batch, &cx(circuit.now));
        assert_eq!(circuit.send(&[Outcome::Ok]), 0);
        circuit.now += 2_000_000;
        assert_eq!(circuit.send(&[Outcome::Ok]), 1);
        assert_eq!(circuit.state(), "0");
    }

    #[test]
    fn options_that_make_no_sense_are_refused_together() {
        let text = refused(
            &KIND,
            "- circuit_breaker: { failures: 0, open_for: 5s, max_open_for: 1s, half_open_probes: 0 }",
        );
        for path in ["failures", "max_open_for", "half_open_probes"] {
            assert!(text.contains(path), "{text}");
        }
    }
}
