//! Bounds how often passwords can be tried from one address.
//!
//! A table of fixed size, by a hash of the address: it cannot grow, and two addresses that meet in one slot share it. A
//! slot holds the time at which its allowance will be whole again (the generic cell rate algorithm). Only failures cost.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Failures that may come at once.
const BURST: u64 = 100;
/// Microseconds for one more.
const EVERY_MICROS: u64 = 100_000;
/// Addresses that are told apart, at most.
const SLOTS: usize = 4096;

pub(crate) struct Throttle {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Throttle {
    pub(crate) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }

    /// Whether a password from this address may be looked at.
    pub(crate) fn may_try(&self, from: Option<SocketAddr>, now_micros: u64) -> bool {
        let whole_at = self.slot(from).load(Ordering::Relaxed);
        whole_at < now_micros + BURST * EVERY_MICROS
    }

    /// Notes a failure.
    pub(crate) fn failed(&self, from: Option<SocketAddr>, now_micros: u64) {
        let next = |whole_at: u64| Some(whole_at.max(now_micros) + EVERY_MICROS);
        // The function always has a value.
        let _ = self.slot(from).fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn slot(&self, from: Option<SocketAddr>) -> &AtomicU64 {
        // Who has one address of version 6 has a whole network of them.
        let network = from.map(|from| match from.ip() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        });
        let index = self.hasher.hash_one(network) as usize % SLOTS;
        self.slots.get(index).unwrap_or(&NOWHERE)
    }
}

/// Never used: the index is below the number of slots.
static NOWHERE: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_from_one_address_run_out_and_come_back() {
        let throttle = Throttle::new();
        let one = Some("10.0.0.1:1".parse().unwrap());
        let tries = (0..1000).filter(|_| {
            let may = throttle.may_try(one, 5_000_000);
            if may {
                throttle.failed(one, 5_000_000);
            }
            may
        });
        assert_eq!(tries.count() as u64, BURST);
        assert!(
            !throttle.may_try(Some("10.0.0.1:2".parse().unwrap()), 5_000_000),
            "another port is no other address"
        );
        assert!(throttle.may_try(one, 5_000_000 + EVERY_MICROS));
        let others = (0..100_u8).filter(|last| {
            let other = Some(SocketAddr::from(([10, 0, 1, *last], 1)));
            throttle.may_try(other, 5_000_000)
        });
        assert!(others.count() >= 98, "others may go on");
    }
}
