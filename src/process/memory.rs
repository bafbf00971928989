//! Memory that a burst has left goes back to the system.
//!
//! An allocator keeps what is freed in the middle of its heaps. That is right while it is needed again, and wrong after the
//! one hour in a year with ten thousand clients. Nobody tells when that hour is over, so it is tried: soon after the process
//! has grown or clients have left in numbers, and otherwise the less often the less it brings. A try costs the workers
//! nothing while they do not allocate, which is the steady state.

use std::time::Duration;

/// How often the process looks at itself.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// The least that is worth a try.
const SPARE: u64 = 1 << 20;
/// Microseconds from a try that was worth it to the next, and to one after many that were not.
const SOON: u64 = 2_000_000;
const LATE: u64 = 60_000_000;
/// Clients that must have left before that is a reason.
const CROWD: usize = 100;

/// When to try next.
pub(super) struct Memory {
    /// The least that was ever resident.
    floor: u64,
    /// The most clients since the last try.
    most: usize,
    /// What was resident after the last try, and when that was.
    left: u64,
    tried: u64,
    wait: u64,
}

impl Memory {
    pub(super) fn new(resident: u64, now_micros: u64) -> Self {
        Self { floor: resident, most: 0, left: resident, tried: now_micros, wait: SOON }
    }

    /// Whether to try now.
    pub(super) fn is_due(&mut self, resident: u64, clients: usize, now_micros: u64) -> bool {
        self.floor = self.floor.min(resident);
        self.most = self.most.max(clients);
        let have_left = clients + CROWD <= self.most && clients <= self.most / 2;
        if have_left || resident > self.left + spare(self.left) {
            self.wait = SOON;
        }
        if have_left {
            self.most = clients;
        }
        now_micros >= self.tried + self.wait && resident > self.floor + spare(self.floor)
    }

    /// A try is made; so much was resident before it and after it.
    pub(super) fn tried(&mut self, before: u64, after: u64, now_micros: u64) {
        let is_worth_it = before.saturating_sub(after) > spare(before);
        self.floor = self.floor.min(after);
        self.wait = if is_worth_it { SOON } else { (self.wait * 2).min(LATE) };
        (self.left, self.tried) = (after, now_micros);
    }
}

/// Bytes above `resident` that are worth no try.
fn spare(resident: u64) -> u64 {
    SPARE.max(resident / 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn tries_that_bring_nothing_become_rare_and_a_crowd_that_leaves_is_a_reason() {
        let mut memory = Memory::new(10 * MIB, 0);
        let mut tries = Vec::new();
        // All of it is needed.
        for second in 1..600 {
            if memory.is_due(100 * MIB, 10_000, second * 1_000_000) {
                memory.tried(100 * MIB, 100 * MIB, second * 1_000_000);
                tries.push(second);
            }
        }
        assert_eq!(tries[..6], [2, 6, 14, 30, 62, 122]);
        assert!(tries.len() <= 14, "{tries:?}");
        let last = tries[tries.len() - 1] * 1_000_000;
        assert!(!memory.is_due(100 * MIB, 50, last + 1_000_000), "they have hardly left");
        assert!(memory.is_due(100 * MIB, 50, last + SOON));
        memory.tried(100 * MIB, 10 * MIB, last + SOON);
        assert!(!memory.is_due(10 * MIB, 50, last + LATE), "there is nothing to give back");
        // A burst that nobody sees in the number of clients.
        assert!(memory.is_due(30 * MIB, 50, last + LATE));
    }

    #[test]
    fn a_process_that_never_grew_is_left_alone() {
        let mut memory = Memory::new(10 * MIB, 0);
        assert!((1..1000).all(|second| !memory.is_due(10 * MIB + SPARE, 50, second * 1_000_000)));
    }
}
