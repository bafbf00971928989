//! When to try an endpoint again.

use std::time::Duration;

/// Exponential, with full jitter on the upper half: workers that lost the same server must not return in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits `initial` after the first failure, twice as long after each further one, and at most `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max: max.max(initial), failures: 0 }
    }

    /// Counts a failure and returns how long to wait. `random` is uniform in `0.0..1.0`.
    pub fn failed(&mut self, random: f64) -> Duration {
        let factor = 1u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let full = self.initial.saturating_mul(factor).min(self.max);
        full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// The endpoint answered.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// At most so many connection attempts per second to one endpoint from one worker, however many clients ask.
#[derive(Clone, Debug)]
pub struct RateGate {
    interval_micros: u64,
    burst_micros: u64,
    next_micros: u64,
}

impl RateGate {
    /// `per_second` attempts, in bursts of a tenth of a second's worth, at least one.
    pub fn new(per_second: u32) -> Self {
        let interval_micros = 1_000_000 / u64::from(per_second.max(1));
        Self { interval_micros, burst_micros: 100_000.max(interval_micros), next_micros: 0 }
    }

    /// Books one attempt and returns how long it must wait.
    pub fn book(&mut self, now_micros: u64) -> Duration {
        let earliest = now_micros.saturating_sub(self.burst_micros - self.interval_micros);
        let slot = self.next_micros.max(earliest);
        self.next_micros = slot + self.interval_micros;
        Duration::from_micros(slot.saturating_sub(now_micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(300));
        let waits: Vec<_> = (0..4).map(|_| backoff.failed(1.0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 300]);
        assert_eq!(backoff.failed(0.0).as_millis(), 150);
        backoff.succeeded();
        assert_eq!(backoff.failed(1.0).as_millis(), 50);
    }

    #[test]
    fn never_overflows_however_often_it_fails() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        assert!((0..100).all(|_| backoff.failed(0.5) <= Duration::from_secs(5)));
    }

    #[test]
    fn attempts_beyond_the_rate_wait_their_turn() {
        let mut gate = RateGate::new(100);
        let now = 1_000_000;
        let waits: Vec<_> = (0..15).map(|_| gate.book(now).as_millis()).collect();
        assert_eq!(waits.iter().filter(|wait| **wait == 0).count(), 10);
        assert_eq!(waits[14], 50);
        assert_eq!(gate.book(now + 1_000_000).as_millis(), 0);
    }
}
