//! How far groups of consumers are behind, for one listener, over all workers.
//!
//! What is known comes from what passes: how long a partition is, when anybody reads it; how far a group has come, when it
//! commits. So a partition that nobody reads here, and a group that commits elsewhere, are not known, and have no figure.
//!
//! The lock is taken for what is new: a partition that a connection has not seen before, commits, identities of topics. How long a
//! partition is, is told through an atomic that its reader keeps.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Partitions whose length is known, of all topics; topics whose identity is.
const MAX_PARTITIONS: usize = 20_000;

/// Groups that are known, and topics that each of them reads.
const MAX_GROUPS: usize = 200;
const MAX_TOPICS: usize = 50;

/// Partitions of a topic that a group may be known to be in.
const MAX_POSITIONS: usize = 10_000;

/// What a topic is called: by its name, or by its identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LagTopic {
    /// By its identity.
    Id([u8; 16]),
    /// By its name.
    Name(Box<str>),
}

/// How far groups of consumers are behind, for one listener.
#[derive(Debug, Default)]
pub struct Lag {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    ends: HashMap<LagTopic, HashMap<i32, Arc<AtomicI64>>>,
    partitions: usize,
    names: HashMap<[u8; 16], Box<str>>,
    ids: HashMap<Box<str>, [u8; 16]>,
    groups: BTreeMap<Box<str>, Group>,
    /// Commits so far: the youngest has the largest number.
    commits: u64,
}

#[derive(Debug, Default)]
struct Group {
    last: u64,
    positions: HashMap<LagTopic, HashMap<i32, i64>>,
}

impl Lag {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the length of a partition is told: the offset of its next record. `None` if there are too many.
    pub fn end(&self, topic: &LagTopic, partition: i32) -> Option<Arc<AtomicI64>> {
        let mut known = self.known();
        if let Some(end) = known.ends.get(topic).and_then(|ends| ends.get(&partition)) {
            return Some(Arc::clone(end));
        }
        if known.partitions >= MAX_PARTITIONS {
            known.forget_ends();
        }
        if known.partitions >= MAX_PARTITIONS {
            return None;
        }
        known.partitions += 1;
        let ends = known.ends.entry(topic.clone()).or_default();
        Some(Arc::clone(ends.entry(partition).or_insert_with(|| Arc::new(AtomicI64::new(-1)))))
    }

    /// Topics have these identities. One that was made anew has another than before.
    pub fn named<'a>(&self, topics: impl IntoIterator<Item = (&'a str, [u8; 16])>) {
        let mut known = self.known();
        for (name, id) in topics {
            if known.ids.get(name) == Some(&id) {
                continue;
            }
            if known.ids.len() >= MAX_PARTITIONS {
                (known.ids, known.names) = (HashMap::new(), HashMap::new());
            }
            if let Some(former) = known.ids.insert(name.into(), id) {
                known.names.remove(&former);
            }
            known.names.insert(id, name.into());
        }
    }

    /// A group has come so far in these partitions.
    pub fn committed(&self, group: &str, positions: &[(LagTopic, i32, i64)]) {
        let mut known = self.known();
        known.commits += 1;
        let last = known.commits;
        if known.groups.len() >= MAX_GROUPS && !known.groups.contains_key(group) {
            // The one that has not committed for longest.
            let oldest =
                known.groups.iter().min_by_key(|(_, group)| group.last).map(|(name, _)| name.clone());
            oldest.and_then(|name| known.groups.remove(&name));
        }
        let group = known.groups.entry(group.into()).or_default();
        group.last = last;
        for (topic, partition, offset) in positions {
            let is_full = group.positions.len() >= MAX_TOPICS && !group.positions.contains_key(topic);
            if is_full {
                continue;
            }
            let positions = group.positions.entry(topic.clone()).or_default();
            if positions.len() < MAX_POSITIONS || positions.contains_key(partition) {
                positions.insert(*partition, *offset);
            }
        }
    }

    /// Group, topic, and records that the group has to read, of partitions of which both ends are known.
    pub(crate) fn read(&self) -> Vec<(String, String, u64)> {
        let known = self.known();
        let mut rows = Vec::new();
        for (group, state) in &known.groups {
            let mut topics = BTreeMap::<&str, u64>::new();
            for (topic, positions) in &state.positions {
                let (name, id) = match topic {
                    LagTopic::Name(name) => (Some(&**name), known.ids.get(name).copied()),
                    LagTopic::Id(id) => (known.names.get(id).map(|name| &**name), Some(*id)),
                };
                let Some(name) = name else { continue };
                let by_id = id.and_then(|id| known.ends.get(&LagTopic::Id(id)));
                let by_name = known.ends.get(&LagTopic::Name(name.into()));
                for (partition, position) in positions {
                    let end = |ends: Option<&HashMap<i32, Arc<AtomicI64>>>| {
                        ends?.get(partition).map(|end| end.load(Ordering::Relaxed))
                    };
                    let Some(end) = end(by_id).max(end(by_name)).filter(|end| *end >= 0) else { continue };
                    let behind = end.saturating_sub(*position).max(0) as u64;
                    *topics.entry(name).or_default() += behind;
                }
            }
            rows.extend(
                topics.into_iter().map(|(topic, behind)| (group.to_string(), topic.to_string(), behind)),
            );
        }
        rows
    }
}

impl Known {
    /// Forgets partitions that no connection reads.
    fn forget_ends(&mut self) {
        for ends in self.ends.values_mut() {
            ends.retain(|_, end| Arc::strong_count(end) > 1);
        }
        self.ends.retain(|_, ends| !ends.is_empty());
        self.partitions = self.ends.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LagTopic {
        LagTopic::Name(text.into())
    }

    #[test]
    fn a_group_is_behind_by_what_it_has_not_committed() {
        let registry = crate::Registry::new();
        let lag = registry.lag("front");
        lag.end(&name("orders"), 0).unwrap().store(100, Ordering::Relaxed);
        lag.end(&LagTopic::Id([7; 16]), 1).unwrap().store(50, Ordering::Relaxed);
        lag.named([("orders", [7; 16])]);
        // Of partition 2 nobody knows the end, and of a topic that has an identity only nobody knows the name.
        let of = |partition, offset| (name("orders"), partition, offset);
        lag.committed("readers", &[of(0, 90), of(1, 20), of(2, 5), (LagTopic::Id([8; 16]), 0, 1)]);
        lag.committed("others", &[(LagTopic::Id([7; 16]), 1, 60)]);
        let line = |group: &str, count: u32| {
            format!(r#"mecha_kafka_group_lag{{listener="front",group="{group}",topic="orders"}} {count}"#)
        };
        let text = registry.render();
        assert!(text.contains(&line("readers", 40)) && text.contains(&line("others", 0)), "{text}");
        assert!(Arc::ptr_eq(&lag, &registry.lag("front")));
        // The topic is made anew.
        lag.named([("orders", [9; 16])]);
        assert!(registry.render().contains(&line("readers", 10)));
    }

    #[test]
    fn groups_and_partitions_are_bounded() {
        let lag = Lag::default();
        for at in 0..1000 {
            lag.committed(&format!("group-{at}"), &[(name("t"), 0, 1)]);
        }
        let known = lag.known();
        assert_eq!(known.groups.len(), MAX_GROUPS);
        assert!(known.groups.contains_key("group-999") && !known.groups.contains_key("group-1"));
        drop(known);
        let held: Vec<_> = (0..MAX_PARTITIONS as i32).map(|at| lag.end(&name("t"), at).unwrap()).collect();
        assert!(lag.end(&name("more"), 0).is_none());
        drop(held);
        // Nobody reads those any more.
        assert!(lag.end(&name("more"), 0).is_some());
    }
}
