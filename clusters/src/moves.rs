//! Slots that have moved: what a scan that goes from server to server may have missed.
//!
//! A slot that moves from a server that a scan has yet to visit to one that it has visited takes its keys along unseen.
//! So it is noted which slots have changed hands, or were about to, in which *generation*: a number that goes on when
//! slots move, at most every 30 seconds. Whoever begins a scan keeps the generation, and asks at the end what has moved
//! since then. What moved a little earlier may be among it, which costs time and no truth.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::topology::{SLOTS, Topology};

/// Generations that are remembered. Their numbers are told apart by one byte.
const KEPT: usize = 250;
/// The shortest that there is.
const SHORTEST: Duration = Duration::from_secs(30);
const WORDS: usize = SLOTS / 64;

/// Some of all slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet([u64; WORDS]);

/// See the module. Shared by everybody who scans one cluster in this process.
#[derive(Default)]
pub struct Moves(Mutex<Log>);

#[derive(Default)]
struct Log {
    /// Of the newest one.
    number: u64,
    /// What has moved, the newest generation last, and when that began.
    generations: VecDeque<(Instant, SlotSet)>,
}

// === impl SlotSet ===

impl Default for SlotSet {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl SlotSet {
    /// Every slot.
    pub fn all() -> Self {
        Self([u64::MAX; WORDS])
    }

    /// Adds a slot; one that does not exist changes nothing.
    pub fn add(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Whether `slot` is among them.
    pub fn has(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    /// Those that are in one of the two and not in the other.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word ^= other);
        set
    }

    /// Those that the server in `position` holds.
    pub fn held(topology: &Topology, position: usize) -> Self {
        let mut set = Self::default();
        let own = topology.shards.iter().filter(|shard| shard.primary == position);
        own.flat_map(|shard| &shard.slots)
            .flat_map(|(first, last)| *first..=*last)
            .for_each(|slot| set.add(slot));
        set
    }
}

// === impl Moves ===

impl Moves {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is held by others in `next` than in `known`.
    pub fn compare(&self, known: &Topology, next: &Topology) {
        if known.shards.is_empty() || !next.is_slotted {
            return;
        }
        let positions = known.shards.iter().chain(&next.shards).map(|shard| shard.primary);
        let mut moved = SlotSet::default();
        for position in positions {
            moved.add_all(&SlotSet::held(known, position).differing(&SlotSet::held(next, position)));
        }
        self.note(&moved);
    }

    /// Notes that these slots have moved, or are about to.
    #[expect(clippy::disallowed_methods, reason = "slots move seldom, and no call waits for it")]
    pub fn note(&self, moved: &SlotSet) {
        if moved.is_empty() {
            return;
        }
        let mut log = self.log();
        match log.generations.back_mut() {
            Some((begun, slots)) if begun.elapsed() < SHORTEST => slots.add_all(moved),
            _ => {
                log.number += 1;
                log.generations.push_back((Instant::now(), moved.clone()));
                if log.generations.len() > KEPT {
                    log.generations.pop_front();
                }
            }
        }
    }

    /// The present generation, as [`Moves::since`] takes it.
    pub fn generation(&self) -> u8 {
        self.log().number as u8
    }

    /// What has moved in this generation and all later ones; everything if that was too long ago to be known.
    pub fn since(&self, generation: u8) -> SlotSet {
        let log = self.log();
        let age = usize::from((log.number as u8).wrapping_sub(generation));
        if age > log.generations.len() {
            return SlotSet::all();
        }
        let mut moved = SlotSet::default();
        log.generations.iter().rev().take(age + 1).for_each(|(_, slots)| moved.add_all(slots));
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Shard;

    fn topology(shards: &[(usize, u16, u16)]) -> Topology {
        let shard = |(primary, first, last): &(usize, u16, u16)| Shard {
            primary: *primary,
            replicas: Vec::new(),
            slots: vec![(*first, *last)],
        };
        Topology { nodes: Vec::new(), shards: shards.iter().map(shard).collect(), is_slotted: true }
    }

    #[test]
    fn what_changes_hands_is_noted() {
        let moves = Moves::default();
        let before = topology(&[(0, 0, 99), (1, 100, 16_383)]);
        moves.compare(&Topology::default(), &before);
        let start = moves.generation();
        assert!(moves.since(start).is_empty());
        moves.compare(&before, &topology(&[(0, 0, 98), (1, 99, 16_383)]));
        let moved = moves.since(start);
        assert!(moved.has(99) && !moved.has(98) && !moved.has(100));
        // A server that takes another one's place has all of its slots.
        moves.compare(&before, &topology(&[(2, 0, 99), (1, 100, 16_383)]));
        assert!(moves.since(start).has(0) && !moves.since(start).has(100));
        // Who begins now may have missed the last moves.
        assert!(moves.since(moves.generation()).has(0));
        // Of a generation that there never was, nothing is known.
        assert!(moves.since(moves.generation().wrapping_add(1)) == SlotSet::all());
    }
}
