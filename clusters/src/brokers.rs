//! Brokers that clients are led to by ports of our own.
//!
//! A client of Kafka asks any broker who the others are, and goes to each. So each broker has a port here, and clients are told those
//! ports instead of addresses. Which port that is follows from the broker's number alone as long as the range is large enough: number
//! `n` has port `n mod size`, in every process and after every restart. Where two numbers meet, the one that came later has the next port
//! that is free.
//!
//! What is known comes from what brokers say, to whomever, and is shared by all workers. A port stays with its broker when
//! that is gone, unless it is needed: it may come back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mecha_transport::Address;
use tokio::sync::{Notify, watch};

/// Brokers that are remembered; a cluster has fewer, and a hostile one must not fill the memory.
const MAX_BROKERS: usize = 10_000;

/// How long a client waits for its broker to be found.
const PATIENCE: Duration = Duration::from_secs(3);

/// One cluster's brokers, and the ports by which clients reach them.
#[derive(Debug)]
pub struct Brokers {
    known: Mutex<Known>,
    changes: watch::Sender<u64>,
    wanted: Notify,
}

/// A broker as others name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its number, 0 or more.
    pub id: i32,
    /// Where it is.
    pub address: Address,
}

/// How a client has said whom it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knock {
    /// By the broker's number, which its name tells.
    Broker(i32),
    /// By the port to which it came.
    Port(u16),
}

/// Where a client has knocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// Where any broker will do.
    Any,
    /// At the port of one broker.
    Of(Broker),
    /// At a port that has no broker, as far as is known.
    Vacant,
}

#[derive(Debug, Default)]
struct Known {
    /// The port where any broker will do, then those of the brokers.
    ports: Vec<u16>,
    brokers: BTreeMap<i32, Entry>,
    /// Whether somebody has told of all brokers.
    is_complete: bool,
    /// Somebody was told that there are too few ports.
    has_complained: bool,
}

#[derive(Debug)]
struct Entry {
    address: Address,
    /// Which of the brokers' ports; `None` if there was none left.
    place: Option<usize>,
    /// Whether the last full list has it.
    is_there: bool,
}

impl Default for Brokers {
    fn default() -> Self {
        Self { known: Mutex::default(), changes: watch::Sender::new(0), wanted: Notify::new() }
    }
}

impl Brokers {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ports are open: first that where any broker will do, then those of the brokers. Returns whether ports were
    /// open before.
    pub fn bound(&self, ports: Vec<u16>) -> bool {
        let mut known = self.known();
        let was_bound = !known.ports.is_empty();
        if known.ports != ports {
            known.ports = ports;
            let ids: Vec<i32> = known.brokers.keys().copied().collect();
            known.brokers.values_mut().for_each(|entry| entry.place = None);
            ids.into_iter().for_each(|id| known.settle(id));
        }
        was_bound
    }

    /// Somebody has named brokers: all that there are, or some. Returns whether that is news.
    pub fn learn(&self, brokers: impl IntoIterator<Item = Broker>, is_all: bool) -> bool {
        let mut known = self.known();
        let mut is_new = false;
        let mut named = Vec::new();
        for Broker { id, address } in brokers.into_iter().filter(|broker| broker.id >= 0) {
            named.push(id);
            let is_full = known.brokers.len() >= MAX_BROKERS;
            match known.brokers.get_mut(&id) {
                Some(entry) => {
                    is_new |= entry.address != address || !entry.is_there;
                    (entry.address, entry.is_there) = (address, true);
                }
                None if !is_full => {
                    known.brokers.insert(id, Entry { address, place: None, is_there: true });
                    is_new = true;
                }
                None => continue,
            }
            known.settle(id);
        }
        if is_all && !named.is_empty() {
            named.sort_unstable();
            for (id, entry) in &mut known.brokers {
                let is_there = named.binary_search(id).is_ok();
                is_new |= entry.is_there != is_there;
                entry.is_there = is_there;
            }
            is_new |= !known.is_complete;
            known.is_complete = true;
        }
        drop(known);
        if is_new {
            self.changes.send_modify(|count| *count += 1);
        }
        is_new
    }

    /// The port by which clients reach this broker; that where any broker will do if it has none.
    pub fn port_of(&self, id: i32) -> u16 {
        self.known().port_of(id)
    }

    /// Where a client has knocked that came to `port`.
    pub fn door(&self, port: u16) -> Door {
        let known = self.known();
        let Some(at) = known.ports.iter().position(|known| *known == port).filter(|at| *at > 0) else {
            return Door::Any;
        };
        let broker = known.brokers.iter().find(|(_, entry)| entry.place == Some(at - 1));
        broker
            .map_or(Door::Vacant, |(id, entry)| Door::Of(Broker { id: *id, address: entry.address.clone() }))
    }

    /// The door of the broker with this number.
    fn door_of(&self, id: i32) -> Door {
        let known = self.known();
        let entry = known.brokers.get(&id);
        entry.map_or(Door::Vacant, |entry| Door::Of(Broker { id, address: entry.address.clone() }))
    }

    /// Whom a client has knocked for, after a while if that is what it takes to learn who is there.
    pub async fn found(&self, knock: Knock) -> Door {
        let mut changes = self.changes.subscribe();
        let searching = async {
            loop {
                let door = match knock {
                    Knock::Broker(id) => self.door_of(id),
                    Knock::Port(port) => self.door(port),
                };
                match door {
                    Door::Vacant => self.wanted.notify_one(),
                    door => return door,
                }
                if changes.changed().await.is_err() {
                    return Door::Vacant;
                }
            }
        };
        tokio::time::timeout(PATIENCE, searching).await.unwrap_or(Door::Vacant)
    }

    /// What is known may be wrong: somebody should ask.
    pub fn refresh(&self) {
        self.wanted.notify_one();
    }

    /// Waits until somebody should ask.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Every broker that the last full list had, with its port.
    pub fn all(&self) -> Vec<(Broker, u16)> {
        let known = self.known();
        let there = known.brokers.iter().filter(|(_, entry)| entry.is_there);
        let row = |(id, entry): (&i32, &Entry)| {
            (Broker { id: *id, address: entry.address.clone() }, known.port_of(*id))
        };
        there.map(row).collect()
    }
}

// === impl Known ===

impl Known {
    fn port_of(&self, id: i32) -> u16 {
        let place = self.brokers.get(&id).and_then(|entry| entry.place);
        let port = place.and_then(|place| self.ports.get(place + 1));
        port.or_else(|| self.ports.first()).copied().unwrap_or_default()
    }

    /// Gives a broker a port if it has none.
    fn settle(&mut self, id: i32) {
        let count = self.ports.len().saturating_sub(1);
        if count == 0 || self.brokers.get(&id).is_none_or(|entry| entry.place.is_some()) {
            return;
        }
        let first = id as usize % count;
        let order = || (0..count).map(|step| (first + step) % count);
        let holder = |place| self.brokers.iter().find(|(_, entry)| entry.place == Some(place));
        let free = order().find(|place| holder(*place).is_none());
        // A broker that is gone has to yield to one that is there.
        let vacated = || {
            order().find_map(|place| {
                holder(place).filter(|(_, entry)| !entry.is_there).map(|(id, _)| (place, Some(*id)))
            })
        };
        let Some((place, former)) = free.map(|place| (place, None)).or_else(vacated) else {
            if !std::mem::replace(&mut self.has_complained, true) {
                tracing::error!(
                    broker = id,
                    ports = count,
                    "there are more brokers than ports: clients cannot reach this one"
                );
            }
            return;
        };
        if let Some(former) = former.and_then(|id| self.brokers.get_mut(&id)) {
            former.place = None;
        }
        if let Some(entry) = self.brokers.get_mut(&id) {
            entry.place = Some(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(id: i32) -> Broker {
        Broker { id, address: Address::Host("broker".into(), 9000 + id as u16) }
    }

    fn with(ports: u16) -> Brokers {
        let brokers = Brokers::default();
        brokers.bound((9092..=9092 + ports).collect());
        brokers
    }

    #[test]
    fn a_port_follows_from_the_number_whoever_comes_first() {
        let (one, other) = (with(4), with(4));
        one.learn([1001, 1002, 1003].map(broker), true);
        other.learn([broker(1003)], false);
        other.learn([broker(1002), broker(1001)], false);
        for id in [1001, 1002, 1003] {
            assert_eq!(one.port_of(id), 9093 + (id % 4) as u16);
            assert_eq!(one.port_of(id), other.port_of(id));
            assert_eq!(one.door(one.port_of(id)), Door::Of(broker(id)));
        }
        assert_eq!(one.door(9092), Door::Any);
        assert_eq!(one.door(9093), Door::Vacant);
    }

    #[test]
    fn numbers_that_meet_have_ports_of_their_own() {
        let brokers = with(3);
        brokers.learn([1, 4, 7].map(broker), true);
        let mut ports = [1, 4, 7].map(|id| brokers.port_of(id));
        assert_eq!(ports[0], 9094);
        ports.sort_unstable();
        assert_eq!(ports, [9093, 9094, 9095]);
        // There is no port left, so nothing better than the way to any broker.
        brokers.learn([broker(9)], false);
        assert_eq!(brokers.port_of(9), 9092);
    }

    #[test]
    fn a_port_waits_for_its_broker_until_it_is_needed() {
        let brokers = with(2);
        brokers.learn([broker(0), broker(1)], true);
        let port = brokers.port_of(1);
        assert!(brokers.learn([broker(0)], true));
        assert_eq!(brokers.door(port), Door::Of(broker(1)));
        brokers.learn([broker(0), broker(2)], true);
        assert_eq!(brokers.port_of(2), port);
        assert_eq!(brokers.port_of(1), 9092);
    }

    #[test]
    fn a_broker_that_moves_keeps_its_port() {
        let brokers = with(2);
        assert!(brokers.learn([broker(0)], true));
        assert!(!brokers.learn([broker(0)], true));
        let port = brokers.port_of(0);
        let moved = Broker { id: 0, address: Address::Host("elsewhere".into(), 1) };
        assert!(brokers.learn([moved.clone()], false));
        assert_eq!(brokers.door(port), Door::Of(moved));
    }
}
