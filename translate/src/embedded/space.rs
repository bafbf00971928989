//! The store as a whole: for commands over all keys, and for sequences of programs that nothing comes between.
//!
//! A cursor is the hash from which to go on: hashes give an order that does not change while keys come and go.

use std::collections::BinaryHeap;

use super::stripe::{Item, Locked, Stripe};
use super::{Cost, Store, is_alive};
use crate::kv::{KeySpace, KvError, RunCx, Sequence, Space, Txn};
use crate::slot::Entry;

/// The store at one moment. Locks one stripe after the other.
pub(super) struct View<'s> {
    pub(super) store: &'s Store,
    pub(super) now_ms: u64,
}

/// Stripes that one sequence has for itself.
pub(super) struct Own<'s> {
    store: &'s Store,
    /// By index, ascending.
    stripes: Vec<(usize, Locked<'s>)>,
    now_ms: u64,
}

/// Each stripe in turn, whoever has locked it.
trait Stripes {
    fn count(&self) -> usize;
    /// Calls `see` with a stripe.
    fn with<R>(&self, index: usize, see: impl FnOnce(&Stripe) -> R) -> Option<R>;
}

// === impl View, Own ===

impl Stripes for View<'_> {
    fn count(&self) -> usize {
        self.store.stripes.len()
    }

    fn with<R>(&self, index: usize, see: impl FnOnce(&Stripe) -> R) -> Option<R> {
        self.store.lock(index).map(|stripe| see(&stripe))
    }
}

impl Stripes for Own<'_> {
    fn count(&self) -> usize {
        self.store.stripes.len()
    }

    fn with<R>(&self, index: usize, see: impl FnOnce(&Stripe) -> R) -> Option<R> {
        let place = self.stripes.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        self.stripes.get(place).map(|(_, stripe)| see(stripe))
    }
}

fn count(stripes: &impl Stripes) -> u64 {
    (0..stripes.count()).filter_map(|index| stripes.with(index, Stripe::len)).sum::<usize>() as u64
}

fn bytes(stripes: &impl Stripes) -> u64 {
    (0..stripes.count()).filter_map(|index| stripes.with(index, Stripe::weight)).sum()
}

fn scan(
    stripes: &impl Stripes,
    first: usize,
    now_ms: u64,
    cursor: u64,
    count: usize,
    each: &mut dyn FnMut(&[u8], &Entry),
) -> u64 {
    let mut wanted = count.max(1);
    let mut cursor = cursor;
    for index in first..stripes.count() {
        let seen = stripes.with(index, |stripe| scan_one(stripe, now_ms, cursor, wanted, each)).flatten();
        let Some((last, seen)) = seen else { continue };
        let Some(next) = last.checked_add(1) else { return 0 };
        if seen >= wanted {
            return next;
        }
        wanted -= seen;
        cursor = next;
    }
    0
}

/// The last hash that was seen, and how many keys.
fn scan_one(
    stripe: &Stripe,
    now_ms: u64,
    cursor: u64,
    wanted: usize,
    each: &mut dyn FnMut(&[u8], &Entry),
) -> Option<(u64, usize)> {
    // The `wanted` lowest hashes from the cursor on; a heap, so that a large stripe need not be sorted.
    let mut lowest = BinaryHeap::new();
    for (_, item) in stripe.items().filter(|(_, item)| item.hash >= cursor) {
        lowest.push(item.hash);
        if lowest.len() > wanted {
            lowest.pop();
        }
    }
    let &last = lowest.peek()?;
    // Keys that share the last hash go together: the cursor cannot tell them apart.
    let mut seen = 0;
    for (key, item) in stripe.items().filter(|(_, item)| (cursor..=last).contains(&item.hash)) {
        seen += 1;
        if let Some(entry) = item.entry.as_ref().filter(|entry| is_alive(entry, now_ms)) {
            each(key, entry);
        }
    }
    Some((last, seen))
}

fn any(stripes: &impl Stripes, now_ms: u64, random: u64) -> Option<Vec<u8>> {
    let mut skip = random.checked_rem(count(stripes))? as usize;
    let alive = |item: &Item| item.entry.as_ref().is_some_and(|entry| is_alive(entry, now_ms));
    // From that position on, and once more from the start, if only expired keys follow.
    for index in (0..stripes.count()).chain(0..stripes.count()) {
        let found = stripes.with(index, |stripe| {
            let len = stripe.len();
            if skip >= len {
                skip -= len;
                return None;
            }
            let found = stripe.items().skip(skip).find(|(_, item)| alive(item));
            skip = 0;
            found.map(|(key, _)| key.to_vec())
        });
        if let Some(key) = found.flatten() {
            return Some(key);
        }
    }
    None
}

impl KeySpace for View<'_> {
    fn count(&self) -> u64 {
        self.store.len() as u64
    }

    fn expiring(&self) -> u64 {
        self.store.expiring()
    }

    fn bytes(&self) -> u64 {
        bytes(self)
    }

    fn evictions(&self) -> u64 {
        self.store.evictions()
    }

    fn scan(&self, cursor: u64, count: usize, each: &mut dyn FnMut(&[u8], &Entry)) -> u64 {
        scan(self, self.store.stripe_of(cursor), self.now_ms, cursor, count, each)
    }

    fn random(&self, random: u64) -> Option<Vec<u8>> {
        any(self, self.now_ms, random)
    }
}

impl KeySpace for Own<'_> {
    fn count(&self) -> u64 {
        count(self)
    }

    fn expiring(&self) -> u64 {
        self.store.expiring()
    }

    fn bytes(&self) -> u64 {
        bytes(self)
    }

    fn evictions(&self) -> u64 {
        self.store.evictions()
    }

    fn scan(&self, cursor: u64, count: usize, each: &mut dyn FnMut(&[u8], &Entry)) -> u64 {
        scan(self, self.store.stripe_of(cursor), self.now_ms, cursor, count, each)
    }

    fn random(&self, random: u64) -> Option<Vec<u8>> {
        any(self, self.now_ms, random)
    }
}

impl<'s> Own<'s> {
    /// Locks what `sequence` asks for.
    pub(super) fn new(store: &'s Store, sequence: &dyn Sequence, now_ms: u64) -> Self {
        Self { store, stripes: store.lock_stripes(sequence.keys()), now_ms }
    }
}

impl Space for Own<'_> {
    fn run(
        &mut self,
        txn: &mut Txn,
        request_len: usize,
        cx: &RunCx,
        out: &mut Vec<u8>,
    ) -> Result<(), KvError> {
        if txn.keys.is_empty() {
            txn.program.run(&mut [], cx, out);
            return Ok(());
        }
        let cost = Cost { writes: true, alone: txn.keys.len() == 1, request_len };
        self.store.run_locked(&mut self.stripes, txn, cx, &cost, out).map(drop)
    }

    fn key_space(&self) -> &dyn KeySpace {
        self
    }

    fn flush(&mut self) {
        self.stripes.iter_mut().for_each(|(_, stripe)| stripe.clear());
    }

    fn version(&mut self, key: &[u8]) -> u64 {
        let hash = self.store.hash(key);
        let place = self.stripes.binary_search_by_key(&self.store.stripe_of(hash), |(index, _)| *index);
        let stripe = place.ok().and_then(|place| self.stripes.get_mut(place));
        stripe.map_or(0, |(_, stripe)| stripe.version(key, hash, self.now_ms))
    }
}
