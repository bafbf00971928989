//! The state that all workers share, changed without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mecha_telemetry::prometheus::{IntCounter, IntGauge};

/// What opens and closes it.
pub(super) struct Spec {
    pub(super) failures: u32,
    pub(super) ratio: Option<f64>,
    pub(super) window_micros: u64,
    pub(super) min_calls: u32,
    pub(super) open_micros: u64,
    pub(super) max_open_micros: u64,
    pub(super) probes: u32,
}

pub(super) const CLOSED: u8 = 0;
pub(super) const HALF_OPEN: u8 = 1;
const OPEN: u8 = 2;

/// Workers remember their probes.
pub(super) const MAX_PROBES: u32 = 1000;

/// The state as one atomic word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) state: u8,
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

/// The circuit, as all workers share it.
pub(super) struct Breaker {
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

impl Breaker {
    pub(super) fn new(spec: Spec, gauge: IntGauge, opened: IntCounter) -> Self {
        Self {
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
        }
    }

    /// Has the gauge show this circuit.
    pub(super) fn show(&self) {
        self.gauge.set(i64::from(self.word().state));
    }

    /// How many probes there may be at one time.
    pub(super) fn probes(&self) -> usize {
        self.spec.probes as usize
    }

    pub(super) fn word(&self) -> Word {
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

    /// The end of the current state's time, if it has passed.
    pub(super) fn passed(&self, now_micros: u64) -> Option<u64> {
        let until = self.until_micros.load(Ordering::Acquire);
        (now_micros >= until).then_some(until)
    }

    /// Begins a half-open time, for a worker that has seen this word and that its time, which ended at `until`, has
    /// passed. Of several that have, one begins it.
    pub(super) fn half_open(&self, from: Word, until: u64, now_micros: u64) {
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
    pub(super) fn probe(&self) -> Option<u16> {
        let take = |word: Word| {
            let left = word.left.checked_sub(1).filter(|_| word.state == HALF_OPEN)?;
            Some(Word { left, ..word })
        };
        self.update(take).map(|word| word.generation)
    }

    /// A probe of this generation has ended: with `is_failure`, or without telling anything.
    pub(super) fn probed(&self, generation: u16, is_failure: Option<bool>, now_micros: u64) {
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
    pub(super) fn count(&self, calls: u32, failures: u32, longest_end: u32, is_all: bool, now_micros: u64) {
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

#[cfg(test)]
mod tests {
    use mecha_telemetry::Registry;

    use super::*;

    #[test]
    fn workers_that_see_the_time_pass_together_begin_one_half_open_time() {
        let registry = Registry::new();
        let gauge = registry.gauge("mecha_breaker_state", "State.", "test").unwrap();
        let opened = registry.counter("mecha_breaker_opened_total", "Times.", "test").unwrap();
        let spec = Spec {
            failures: 1,
            ratio: None,
            window_micros: 1_000_000,
            min_calls: 1,
            open_micros: 1_000_000,
            max_open_micros: 1_000_000,
            probes: 2,
        };
        let breaker = Breaker::new(spec, gauge, opened);
        breaker.count(1, 1, 1, true, 0);
        let now = 1_000_000;
        // Both look before one of them acts.
        let [one, other] = [(); 2].map(|()| (breaker.word(), breaker.passed(now).expect("it is time")));
        breaker.half_open(one.0, one.1, now);
        let probes = [breaker.probe(), breaker.probe(), breaker.probe()];
        assert_eq!(probes, [Some(1), Some(1), None]);
        breaker.half_open(other.0, other.1, now);
        assert_eq!(breaker.probe(), None, "the second worker gave its probes out anew");
        // An answer to a probe counts for the time that it belongs to.
        breaker.probed(1, Some(false), now);
        assert_eq!(breaker.word().state, HALF_OPEN);
        breaker.probed(1, Some(false), now);
        assert_eq!(breaker.word().state, CLOSED);
    }
}
