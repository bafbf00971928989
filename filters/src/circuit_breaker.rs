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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{Call, Cx, Done, Outcome, Policy, Refusal, Ticket, Verdict};
use mecha_telemetry::prometheus::{IntCounter, IntGauge};
use serde::Deserialize;

use crate::{BuildCx, Help, PolicyFactory, PolicyKind};

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

const CLOSED: u8 = 0;
const HALF_OPEN: u8 = 1;
const OPEN: u8 = 2;

/// Workers remember their probes.
const MAX_PROBES: u32 = 1000;

/// The state as one atomic word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    state: u8,
    /// Counts the times that it was half-open; wraps.
    generation: u16,
    /// Probes that may still be sent.
    left: u16,
    /// Probes that have succeeded.
    good: u16,
}

impl Word {
    fn of(bits: u64) -> Self {
        let [state, _, g0, g1, l0, l1, o0, o1] = bits.to_le_bytes();
        let [generation, left, good] = [[g0, g1], [l0, l1], [o0, o1]].map(u16::from_le_bytes);
        Self { state, generation, left, good }
    }

    fn bits(self) -> u64 {
        let [[g0, g1], [l0, l1], [o0, o1]] = [self.generation, self.left, self.good].map(u16::to_le_bytes);
        u64::from_le_bytes([self.state, 0, g0, g1, l0, l1, o0, o1])
    }
}

struct Breaker {
    spec: Spec,
    /// A [`Word`].
    word: AtomicU64,
    /// When an open circuit becomes half-open; when a half-open one gives its probes up.
    until_micros: AtomicU64,
    in_a_row: AtomicU32,
    window_start: AtomicU64,
    window_calls: AtomicU32,
    window_failures: AtomicU32,
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
        word: AtomicU64::new(0),
        until_micros: AtomicU64::new(0),
        in_a_row: AtomicU32::new(0),
        window_start: AtomicU64::new(0),
        window_calls: AtomicU32::new(0),
        window_failures: AtomicU32::new(0),
        reopened: AtomicU32::new(0),
        gauge,
        opened,
    }))
}

impl PolicyFactory for Arc<Breaker> {
    fn open(&self) -> Box<dyn Policy> {
        // It takes the gauge over from a predecessor that may have been open.
        self.gauge.set(i64::from(self.word().state));
        let probing = Vec::with_capacity(self.spec.probes as usize);
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

impl Breaker {
    fn word(&self) -> Word {
        Word::of(self.word.load(Ordering::Acquire))
    }

    /// Changes the word if it is still `from`: one worker wins.
    fn change(&self, from: Word, to: Word) -> bool {
        let (old, new) = (from.bits(), to.bits());
        let has_won = self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if has_won && from.state != to.state {
            self.gauge.set(i64::from(to.state));
        }
        has_won
    }

    /// Changes the word by `to` for as long as it gives something.
    fn update(&self, to: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        loop {
            let from = self.word();
            let to = to(from)?;
            if self.change(from, to) {
                return Some(to);
            }
        }
    }

    fn open(&self, from: Word, now_micros: u64) {
        let is_again = from.state != CLOSED;
        let times = if is_again { self.reopened.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        let factor = 1u64.checked_shl(times.min(20)).unwrap_or(1);
        let open_for = self.spec.open_micros.saturating_mul(factor).min(self.spec.max_open_micros);
        // Before the state, which nobody reads without this; a half-open circuit's time is not over meanwhile.
        if !is_again {
            self.until_micros.store(now_micros + open_for, Ordering::Release);
        }
        if self.change(from, Word { state: OPEN, ..from }) {
            self.until_micros.store(now_micros + open_for, Ordering::Release);
            self.reopened.store(times, Ordering::Relaxed);
            self.opened.inc();
        }
    }

    /// Begins a half-open time if that of the current state is over. The worker that moves the end begins it.
    fn half_open(&self, from: Word, now_micros: u64) {
        let until = self.until_micros.load(Ordering::Acquire);
        if now_micros < until {
            return;
        }
        // Probes that never end (their clients left) must not keep it half-open for ever.
        let next = now_micros + self.spec.max_open_micros;
        let is_mine =
            self.until_micros.compare_exchange(until, next, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_mine {
            let generation = from.generation.wrapping_add(1);
            let left = self.spec.probes.min(MAX_PROBES) as u16;
            // A probe of the time before may just have been sent or have ended: what is true then is what counts.
            let begin = |word: Word| {
                let is_same = word.state != CLOSED && word.generation == from.generation;
                is_same.then_some(Word { state: HALF_OPEN, generation, left, good: 0 })
            };
            self.update(begin);
        }
    }

    fn close(&self, from: Word) {
        self.in_a_row.store(0, Ordering::Relaxed);
        self.window_calls.store(0, Ordering::Relaxed);
        self.window_failures.store(0, Ordering::Relaxed);
        self.reopened.store(0, Ordering::Relaxed);
        self.change(from, Word { state: CLOSED, ..from });
    }

    /// Takes the right to send one probe; returns its generation.
    fn probe(&self) -> Option<u16> {
        let take = |word: Word| {
            let left = word.left.checked_sub(1).filter(|_| word.state == HALF_OPEN)?;
            Some(Word { left, ..word })
        };
        self.update(take).map(|word| word.generation)
    }

    /// A probe of this generation has ended: with `is_failure`, or without telling anything.
    fn probed(&self, generation: u16, is_failure: Option<bool>, now_micros: u64) {
        let is_current = |word: Word| word.state == HALF_OPEN && word.generation == generation;
        let counted = self.update(|word| {
            let word = is_current(word).then_some(word)?;
            Some(match is_failure {
                // Its right goes back.
                None => Word { left: word.left + 1, ..word },
                Some(false) => Word { good: word.good + 1, ..word },
                Some(true) => word,
            })
        });
        let Some(mut word) = counted else { return };
        if is_failure == Some(true) {
            // Until it is open: other probes are counted at the same time.
            while is_current(word) {
                self.open(word, now_micros);
                word = self.word();
            }
        } else if u32::from(word.good) >= self.spec.probes {
            self.close(word);
        }
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
            let word = self.word();
            if word.state == CLOSED {
                self.open(word, now_micros);
            }
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
        let word = self.breaker.word();
        if word.state == CLOSED {
            return;
        }
        self.breaker.half_open(word, cx.now_micros);
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
    fn answers_to_calls_from_before_it_opened_are_no_probes() {
        let mut circuit = Circuit::new("- circuit_breaker: { failures: 1, open_for: 1s }");
        circuit.send(&[TIMEOUT]);
        circuit.now = 1_000_000;
        let mut probe = calls(&[OpClass::Read]);
        probe[0].ticket.seq = 9;
        circuit.policy.on_calls(&mut probe, &cx(circuit.now));
        let done = |seq, outcome| {
            let ticket = Ticket { seq, ..Ticket::default() };
            Done { ticket, op: OpId::UNKNOWN, outcome, micros: 1 }
        };
        circuit.policy.on_done(&[done(1, Outcome::Ok), done(2, TIMEOUT)], &cx(circuit.now));
        assert_eq!(circuit.state(), "1");
        circuit.policy.on_done(&[done(9, Outcome::Ok)], &cx(circuit.now));
        assert_eq!(circuit.state(), "0");
    }

    #[test]
    fn workers_that_go_half_open_together_send_no_more_probes_than_one() {
        let registry = Registry::new();
        let example =
            "- circuit_breaker: { failures: 1, open_for: 1s, max_open_for: 1s, half_open_probes: 2 }";
        let factory =
            with_cx(&registry, |cx| (KIND.build)(&options(example), cx)).unwrap_or_else(|e| panic!("{e:?}"));
        let done = Done { ticket: Ticket::default(), op: OpId::UNKNOWN, outcome: TIMEOUT, micros: 1 };
        factory.open().on_done(&[done], &cx(0));
        let (start, sent) = (std::sync::Barrier::new(4), AtomicU64::new(0));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    let mut worker = factory.open();
                    for round in 1..=3000u64 {
                        start.wait();
                        let mut batch = vec![calls(&[OpClass::Read])[0]; 3];
                        worker.on_calls(&mut batch, &cx(round * 1_000_000));
                        let passed = batch.iter().filter(|call| call.verdict == Verdict::Forward).count();
                        sent.fetch_add(passed as u64, Ordering::Relaxed);
                        if start.wait().is_leader() {
                            assert!(sent.swap(0, Ordering::Relaxed) <= 2, "round {round}");
                        }
                    }
                });
            }
        });
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
