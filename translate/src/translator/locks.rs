//! Who may work on a key: one queue for each key that machines of this translator are on.
//!
//! A machine joins the queues of all its keys at once and starts when it is first in each. Since all join at once,
//! the order is the same in every queue, and nobody can wait in a circle. Keys are told apart by hash; two keys that
//! share one merely wait for each other.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use mecha_core::ConnKey;

/// The queues.
#[derive(Default)]
pub(super) struct Locks {
    queues: HashMap<u64, VecDeque<(usize, ConnKey)>>,
    hasher: RandomState,
}

impl Locks {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether a machine of `conn` is on `key`.
    pub(super) fn has(&self, key: &[u8], conn: ConnKey) -> bool {
        let queue = self.queues.get(&self.hasher.hash_one(key));
        queue.is_some_and(|queue| queue.iter().any(|&(_, of)| of == conn))
    }

    /// Joins the queues of `keys`, and returns which they are and in how many of them others are first.
    pub(super) fn enqueue(&mut self, keys: &[Vec<u8>], machine: usize, conn: ConnKey) -> (Vec<u64>, usize) {
        let mut locks: Vec<u64> = keys.iter().map(|key| self.hasher.hash_one(key.as_slice())).collect();
        locks.sort_unstable();
        locks.dedup();
        let mut waits_for = 0;
        for &lock in &locks {
            let queue = self.queues.entry(lock).or_default();
            waits_for += usize::from(!queue.is_empty());
            queue.push_back((machine, conn));
        }
        (locks, waits_for)
    }

    /// Those behind the first in a queue, in order.
    pub(super) fn behind_first(&self, lock: u64) -> impl Iterator<Item = usize> {
        self.queues.get(&lock).into_iter().flatten().skip(1).map(|&(index, _)| index)
    }

    /// Leaves a queue and returns who is first there now, if that changed.
    pub(super) fn dequeue(&mut self, lock: u64, machine: usize) -> Option<usize> {
        let queue = self.queues.get_mut(&lock)?;
        let place = queue.iter().position(|&(index, _)| index == machine)?;
        queue.remove(place);
        let first = queue.front().map(|&(index, _)| index);
        if first.is_none() {
            self.queues.remove(&lock);
        }
        if place == 0 { first } else { None }
    }
}
