use std::sync::atomic::{AtomicU64, Ordering};

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
        let factory =
            with_cx(&registry, |cx| (KIND.build)(&options(example), cx)).unwrap_or_else(|e| panic!("{e:?}"));
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
    let mut circuit = Circuit::new("- circuit_breaker: { failures: 1, open_for: 1s, half_open_probes: 2 }");
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
    let example = "- circuit_breaker: { failures: 1, open_for: 1s, max_open_for: 1s, half_open_probes: 2 }";
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
