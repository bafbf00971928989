//! What active checks say of the servers of one cluster, for all workers.
//!
//! Whoever checks ([`Health::tell`]) is one, whoever chooses servers are many: they read an atomic. If too few servers
//! were left (`panic_below`), the checks are more likely wrong than the servers, and nobody is left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mecha_transport::Address;

/// The servers of one cluster, and which of them are left out.
#[derive(Debug)]
pub struct Health {
    servers: Vec<(Address, AtomicBool)>,
    ill: AtomicUsize,
    /// Share of servers, from 0 to 1, below which being well means nothing.
    panic_below: f64,
    is_panicking: AtomicBool,
}

/// One server's place in the health of its cluster.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    health: Arc<Health>,
    at: usize,
}

impl Health {
    /// All are well as long as nobody says otherwise.
    pub fn new(servers: Vec<Address>, panic_below: f64) -> Self {
        let servers = servers.into_iter().map(|address| (address, AtomicBool::new(false))).collect();
        Self { servers, ill: AtomicUsize::new(0), panic_below, is_panicking: AtomicBool::new(false) }
    }

    /// The servers, in their order.
    pub fn servers(&self) -> impl Iterator<Item = &Address> {
        self.servers.iter().map(|(address, _)| address)
    }

    /// Says how the server in place `at` is. For one caller at a time.
    pub fn tell(&self, at: usize, is_ill: bool) {
        let Some((_, known)) = self.servers.get(at) else { return };
        if known.swap(is_ill, Ordering::Relaxed) != is_ill {
            let ill = self.servers.iter().filter(|(_, is_ill)| is_ill.load(Ordering::Relaxed)).count();
            self.ill.store(ill, Ordering::Relaxed);
            let well = self.servers.len().saturating_sub(ill) as f64;
            let is_panicking = well < self.panic_below * self.servers.len() as f64;
            self.is_panicking.store(is_panicking, Ordering::Relaxed);
        }
    }

    /// Servers that are ill.
    pub fn ill(&self) -> usize {
        self.ill.load(Ordering::Relaxed)
    }

    /// Whether too few are well for that to mean anything.
    pub fn is_panicking(&self) -> bool {
        self.is_panicking.load(Ordering::Relaxed)
    }

    /// The place of this server.
    pub(crate) fn pulse(self: &Arc<Self>, address: &Address) -> Option<Pulse> {
        let at = self.servers.iter().position(|(known, _)| known == address)?;
        Some(Pulse { health: Arc::clone(self), at })
    }
}

impl Pulse {
    /// Whether the server is left out.
    pub(crate) fn is_out(&self) -> bool {
        let server = self.health.servers.get(self.at);
        server.is_some_and(|(_, is_ill)| is_ill.load(Ordering::Relaxed)) && !self.health.is_panicking()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ill_is_left_out_unless_too_few_were_left() {
        let addresses: Vec<_> = (1..=4).map(|port| Address::Tcp(([127, 0, 0, 1], port).into())).collect();
        let health = Arc::new(Health::new(addresses.clone(), 0.5));
        let pulses: Vec<_> = addresses.iter().map(|address| health.pulse(address).unwrap()).collect();
        let out = || pulses.iter().filter(|pulse| pulse.is_out()).count();
        assert_eq!((out(), health.ill()), (0, 0));
        health.tell(0, true);
        health.tell(2, true);
        assert!(pulses[0].is_out() && !pulses[1].is_out() && pulses[2].is_out());
        health.tell(1, true);
        assert!(health.is_panicking());
        assert_eq!((out(), health.ill()), (0, 3));
        health.tell(0, false);
        assert_eq!(out(), 2);
        health.tell(9, true);
        assert!(health.pulse(&Address::Host("other".into(), 1)).is_none());
    }
}
