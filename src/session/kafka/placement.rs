//! Which of Kafka's brokers leads a partition, and which keeps a group or a transaction.
//!
//! Where all brokers have one address, requests are led by what they name ([`mecha_kafka::route`] says by which names); this
//! is what is known about those names. It comes from what brokers say, to whomever, and is shared by all workers: a
//! client may ask about a partition on one and write to it on another. Whoever wants to know it asks once for each request,
//! and holds the lock for as long as that takes.
//!
//! What is wrong here is found out by whoever acts on it: a broker that is not the one says so, and its client asks anew.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use mecha_kafka::route::learn::{self, Kept};
use mecha_kafka::route::{Key, Topic};
use mecha_kafka::wire::Malformed;

/// Partitions that are remembered. A cluster of Kafka has fewer.
const MAX_PARTITIONS: usize = 1 << 20;

/// Groups and transactions that are remembered. When there are more, all are forgotten: clients ask again.
const MAX_KEPT: usize = 1 << 16;

/// What is known about one cluster.
#[derive(Debug, Default)]
pub struct Placement {
    known: RwLock<Known>,
}

/// What is known, to be looked at.
#[derive(Debug, Default)]
pub struct Known {
    by_name: HashMap<Box<str>, Vec<i32>>,
    by_id: HashMap<[u8; 16], Vec<i32>>,
    partitions: usize,
    groups: HashMap<Box<str>, i32>,
    transactions: HashMap<Box<str>, i32>,
}

// === impl Placement ===

impl Placement {
    /// Looks at what is known.
    pub fn look<R>(&self, look: impl FnOnce(&Known) -> R) -> R {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known.
    pub fn learn<R>(&self, learn: impl FnOnce(&mut Known) -> R) -> R {
        learn(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Placement {
    /// Learns who leads from the body of a response to `Metadata`.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn learn_leaders(&self, version: i16, body: &[u8]) -> Result<(), Malformed> {
        self.learn(|known| {
            learn::leaders(version, body, &mut |led| {
                led.topics().for_each(|topic| known.leads(topic, led.index, led.leader));
            })
        })
    }

    /// Learns who coordinates from the body of a response to `FindCoordinator`, which was asked for these names.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn learn_coordinators(
        &self,
        version: i16,
        body: &[u8],
        sought: &[(Kept, String)],
    ) -> Result<(), Malformed> {
        self.learn(|known| {
            learn::coordinators(version, body, &mut |name, broker| {
                let is_it = |(_, known): &&(Kept, String)| name.is_none_or(|name| name == known);
                if let Some((kind, name)) = sought.iter().find(is_it) {
                    known.keeps(*kind, name, broker);
                }
            })
        })
    }

    /// The broker that a request is for which names this.
    #[must_use]
    pub fn of(&self, key: Key<'_>) -> Option<i32> {
        self.look(|known| match key {
            Key::Group(name) => known.coordinator(Kept::Group, name),
            Key::Node(broker) => Some(broker),
            Key::Partition(topic, partition) => known.leader(topic, partition),
            Key::Transaction(name) => known.coordinator(Kept::Transaction, name),
        })
    }
}

// === impl Known ===

impl Known {
    /// The broker that leads a partition.
    #[must_use]
    pub fn leader(&self, topic: Topic<'_>, partition: i32) -> Option<i32> {
        let leaders = match topic {
            Topic::Id(id) => self.by_id.get(&id),
            Topic::Name(name) => self.by_name.get(name),
        }?;
        leaders.get(usize::try_from(partition).ok()?).copied().filter(|leader| *leader >= 0)
    }

    /// The broker that keeps a group or a transaction.
    #[must_use]
    pub fn coordinator(&self, kind: Kept, name: &str) -> Option<i32> {
        match kind {
            Kept::Group => self.groups.get(name),
            Kept::Transaction => self.transactions.get(name),
        }
        .copied()
    }

    /// A partition is led by this broker; by none if its number is negative.
    pub fn leads(&mut self, topic: Topic<'_>, partition: i32, leader: i32) {
        let Ok(at) = usize::try_from(partition) else { return };
        let leaders = match topic {
            Topic::Id(id) => self.by_id.entry(id).or_default(),
            Topic::Name(name) => match self.by_name.get_mut(name) {
                Some(leaders) => leaders,
                None => self.by_name.entry(name.into()).or_default(),
            },
        };
        if at >= leaders.len() {
            let more = at + 1 - leaders.len();
            if self.partitions + more > MAX_PARTITIONS {
                return;
            }
            self.partitions += more;
            leaders.resize(at + 1, -1);
        }
        if let Some(place) = leaders.get_mut(at) {
            *place = leader;
        }
    }

    /// A group or a transaction is kept by this broker.
    pub fn keeps(&mut self, kind: Kept, name: &str, broker: i32) {
        let kept = match kind {
            Kept::Group => &mut self.groups,
            Kept::Transaction => &mut self.transactions,
        };
        match kept.get_mut(name) {
            Some(place) => *place = broker,
            None => {
                if kept.len() >= MAX_KEPT {
                    kept.clear();
                }
                kept.insert(name.into(), broker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_known_by_the_names_of_its_topic() {
        let placement = Placement::default();
        placement.learn(|known| {
            known.leads(Topic::Name("a"), 2, 7);
            known.leads(Topic::Id([1; 16]), 0, 8);
            known.leads(Topic::Name("a"), -1, 7);
        });
        placement.look(|known| {
            assert_eq!(known.leader(Topic::Name("a"), 2), Some(7));
            assert_eq!(known.leader(Topic::Name("a"), 1), None);
            assert_eq!(known.leader(Topic::Name("a"), 3), None);
            assert_eq!(known.leader(Topic::Name("b"), 2), None);
            assert_eq!(known.leader(Topic::Id([1; 16]), 0), Some(8));
        });
        placement.learn(|known| known.leads(Topic::Name("a"), 2, -1));
        assert_eq!(placement.look(|known| known.leader(Topic::Name("a"), 2)), None);
    }

    #[test]
    fn a_hostile_partition_number_takes_no_memory() {
        let placement = Placement::default();
        placement.learn(|known| known.leads(Topic::Name("a"), i32::MAX, 1));
        assert_eq!(placement.look(|known| known.leader(Topic::Name("a"), i32::MAX)), None);
        assert_eq!(placement.look(|known| known.partitions), 0);
    }

    #[test]
    fn groups_and_transactions_are_not_the_same_and_not_without_limit() {
        let placement = Placement::default();
        placement.learn(|known| known.keeps(Kept::Group, "a", 1));
        assert_eq!(placement.look(|known| known.coordinator(Kept::Transaction, "a")), None);
        assert_eq!(placement.look(|known| known.coordinator(Kept::Group, "a")), Some(1));
        placement.learn(|known| {
            (0..=MAX_KEPT).for_each(|at| known.keeps(Kept::Group, &at.to_string(), 2));
        });
        assert!(placement.look(|known| known.groups.len()) <= MAX_KEPT);
    }
}
