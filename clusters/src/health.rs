//! What active checks say of the servers of one cluster, for all workers.
//!
//! Whoever checks ([`Health::tell`]) is one, whoever chooses servers are many: they read an atomic. If too few servers
//! were left (`panic_below`) of every priority, the checks are more likely wrong than the servers, and nobody is left out.
//! Where servers are found, they come and go; the lock is taken when one does, and never for a choice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mecha_transport::Address;

use crate::Listed;

/// The servers of one cluster, and which of them are left out.
#[derive(Debug)]
pub struct Health {
    servers: Mutex<Vec<Patient>>,
    ill: AtomicUsize,
    /// Share of servers, from 0 to 1, below which being well means nothing.
    panic_below: f64,
    is_panicking: AtomicBool,
}

/// One server.
#[derive(Clone, Debug)]
struct Patient {
    address: Address,
    priority: u32,
    is_ill: Arc<AtomicBool>,
}

/// One server's place in the health of its cluster.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    health: Arc<Health>,
    is_ill: Arc<AtomicBool>,
}

impl Health {
    /// All are well as long as nobody says otherwise.
    pub fn new(servers: &[Listed], panic_below: f64) -> Self {
        let health = Self {
            servers: Mutex::default(),
            ill: AtomicUsize::new(0),
            panic_below,
            is_panicking: AtomicBool::new(false),
        };
        health.replace(servers);
        health
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Patient>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are the servers from now on. Those that were known before are as they were.
    pub fn replace(&self, servers: &[Listed]) {
        let mut known = self.locked();
        let patient = |listed: &Listed| Patient {
            address: listed.address.clone(),
            priority: listed.priority,
            is_ill: known
                .iter()
                .find(|known| known.address == listed.address)
                .map_or_else(Arc::default, |known| Arc::clone(&known.is_ill)),
        };
        let now = servers.iter().map(patient).collect();
        *known = now;
        self.count(&known);
    }

    /// Says how a server is.
    pub fn tell(&self, server: &Address, is_ill: bool) {
        let known = self.locked();
        let patients = known.iter().filter(|known| known.address == *server);
        patients.for_each(|patient| patient.is_ill.store(is_ill, Ordering::Relaxed));
        self.count(&known);
    }

    fn count(&self, servers: &[Patient]) {
        let mut levels = BTreeMap::<u32, (usize, usize)>::new();
        for patient in servers {
            let (all, ill) = levels.entry(patient.priority).or_default();
            *all += 1;
            *ill += usize::from(patient.is_ill.load(Ordering::Relaxed));
        }
        self.ill.store(levels.values().map(|(_, ill)| ill).sum(), Ordering::Relaxed);
        let has_too_few = |(all, ill): &(usize, usize)| ((all - ill) as f64) < self.panic_below * *all as f64;
        let is_panicking = !levels.is_empty() && levels.values().all(has_too_few);
        self.is_panicking.store(is_panicking, Ordering::Relaxed);
    }

    /// Servers that are ill.
    pub fn ill(&self) -> usize {
        self.ill.load(Ordering::Relaxed)
    }

    /// Whether too few are well for that to mean anything.
    pub fn is_panicking(&self) -> bool {
        self.is_panicking.load(Ordering::Relaxed)
    }

    /// The place of this server, which somebody may be about to list.
    pub(crate) fn pulse(self: &Arc<Self>, address: &Address) -> Pulse {
        let known = self.locked();
        let known = known.iter().find(|known| known.address == *address);
        Pulse {
            health: Arc::clone(self),
            is_ill: known.map_or_else(Arc::default, |known| Arc::clone(&known.is_ill)),
        }
    }
}

impl Pulse {
    /// Whether the server is left out.
    pub(crate) fn is_out(&self) -> bool {
        self.is_ill.load(Ordering::Relaxed) && !self.health.is_panicking()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(port: u16, priority: u32) -> Listed {
        Listed { priority, ..Listed::at(Address::Tcp(([127, 0, 0, 1], port).into())) }
    }

    #[test]
    fn who_is_ill_is_left_out_unless_too_few_were_left() {
        let servers: Vec<_> = (1..=4).map(|port| listed(port, 0)).collect();
        let health = Arc::new(Health::new(&servers, 0.5));
        let pulses: Vec<_> = servers.iter().map(|server| health.pulse(&server.address)).collect();
        let tell = |at: usize, is_ill| health.tell(&servers[at].address, is_ill);
        let out = || pulses.iter().filter(|pulse| pulse.is_out()).count();
        assert_eq!((out(), health.ill()), (0, 0));
        tell(0, true);
        tell(2, true);
        assert!(pulses[0].is_out() && !pulses[1].is_out() && pulses[2].is_out());
        tell(1, true);
        assert!(health.is_panicking());
        assert_eq!((out(), health.ill()), (0, 3));
        tell(0, false);
        assert_eq!(out(), 2);
        health.tell(&Address::Host("other".into(), 1), true);
        assert_eq!(health.ill(), 2);
    }

    #[test]
    fn one_priority_that_is_well_is_no_reason_to_panic() {
        let servers = [listed(1, 0), listed(2, 0), listed(3, 0), listed(4, 1)];
        let health = Arc::new(Health::new(&servers, 0.5));
        servers[..3].iter().for_each(|server| health.tell(&server.address, true));
        assert!(!health.is_panicking() && health.pulse(&servers[0].address).is_out());
        health.tell(&servers[3].address, true);
        assert!(health.is_panicking());
    }

    #[test]
    fn servers_that_come_and_go_take_their_health_with_them() {
        let servers = [listed(1, 0), listed(2, 0), listed(3, 0)];
        let health = Arc::new(Health::new(&servers[..2], 0.0));
        let pulse = health.pulse(&servers[0].address);
        health.tell(&servers[0].address, true);
        health.replace(&servers[..]);
        assert!(pulse.is_out() && health.pulse(&servers[0].address).is_out());
        assert_eq!(health.ill(), 1);
        health.replace(&servers[1..]);
        assert_eq!(health.ill(), 0);
        health.replace(&servers[..]);
        assert!(!health.pulse(&servers[0].address).is_out());
    }
}
