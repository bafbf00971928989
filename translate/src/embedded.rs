//! The embedded store: a back in this process, shared by all workers.
//!
//! Keys are spread over *stripes* by hash. A stripe is a mutex over a [`quick_cache`] (which evicts by weight, and does
//! not let one pass over many keys push out those that are used), a queue of expiries and a counter for tokens.
//! A program runs with all stripes of its keys locked, in ascending order, so programs are atomic over any keys and
//! cannot wait for each other in a circle. It works on the entries themselves: they are taken out of the cache, changed
//! and put back, never copied.
//!
//! Weights are bytes: exact for strings; for aggregates the last exact count plus the sizes of the requests since, which
//! is counted again before it can be far off, so that a push onto a long list does not walk the list.
//!
//! An entry that has expired is never seen; it goes when somebody asks for it, or in [`Store::sweep`], which the engine
//! calls now and then.
//!
//! A panic in a program loses the entries that it worked on and nothing else.
//!
//! Deliberately absent: persistence, and a clock.

mod measure;
mod serve;
mod stripe;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mecha_core::{OpClass, Outcome};
use quick_cache::DefaultHashBuilder;

pub use self::serve::serve;
use self::stripe::{Item, Locked, Stripe};
use crate::kv::{Expire, Guard, KeySpace, KvError, RunCx, StepReply, Txn};
use crate::slot::{Entry, Slot};

/// Keys and values in memory. Share it through an [`Arc`].
pub struct Store {
    /// A power of two.
    stripes: Box<[Mutex<Stripe>]>,
    hasher: DefaultHashBuilder,
    len: AtomicUsize,
    evictions: Arc<AtomicU64>,
    /// When everything is to be removed; 0 is never.
    flush_at_ms: AtomicU64,
    /// Where the next sweep starts.
    swept: AtomicUsize,
    max_value: usize,
}

/// A stripe holds values of up to half its size, so it should not be small; but workers should rarely meet in one.
const STRIPE_BYTES: usize = 16 << 20;
const MOST_STRIPES: usize = 32;

// === impl Store ===

impl Store {
    /// An empty store that holds about `max_bytes` and evicts what is used least.
    pub fn new(max_bytes: usize) -> Self {
        let max_bytes = max_bytes.max(4096);
        let count = (max_bytes / STRIPE_BYTES).clamp(1, MOST_STRIPES);
        let count = if count.is_power_of_two() { count } else { count.next_power_of_two() / 2 };
        let evictions = Arc::new(AtomicU64::new(0));
        let capacity = max_bytes / count;
        let stripe = || Mutex::new(Stripe::new(capacity, Arc::clone(&evictions)));
        Self {
            stripes: std::iter::repeat_with(stripe).take(count).collect(),
            hasher: DefaultHashBuilder::default(),
            len: AtomicUsize::new(0),
            evictions,
            flush_at_ms: AtomicU64::new(0),
            swept: AtomicUsize::new(0),
            max_value: capacity / 2,
        }
    }

    /// Number of keys, including those that have expired unnoticed.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What keys and values take, in bytes. Locks each stripe in turn.
    pub fn bytes(&self) -> u64 {
        (0..self.stripes.len()).filter_map(|index| self.lock(index)).map(|stripe| stripe.weight()).sum()
    }

    /// How many keys had to make room for others so far.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Largest value in bytes.
    pub fn max_value(&self) -> usize {
        self.max_value
    }

    /// Removes all keys.
    pub fn flush(&self) {
        self.flush_at_ms.store(0, Ordering::Relaxed);
        for index in 0..self.stripes.len() {
            if let Some(mut stripe) = self.lock(index) {
                stripe.clear();
            }
        }
    }

    /// Removes all keys that there are at `at_ms`, then.
    fn flush_at(&self, at_ms: u64) {
        self.flush_at_ms.store(at_ms, Ordering::Relaxed);
    }

    fn flush_if_due(&self, now_ms: u64) {
        let at = self.flush_at_ms.load(Ordering::Relaxed);
        if at != 0
            && at <= now_ms
            && self.flush_at_ms.compare_exchange(at, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.flush();
        }
    }

    /// Removes expired keys, looking at no more than `budget` of them, and returns how many it removed.
    pub fn sweep(&self, now_ms: u64, budget: usize) -> usize {
        self.flush_if_due(now_ms);
        let count = self.stripes.len();
        let start = self.swept.load(Ordering::Relaxed);
        let (mut left, mut removed) = (budget, 0);
        for index in start..start + count {
            if left == 0 {
                break;
            }
            if let Some(mut stripe) = self.lock(index % count) {
                removed += stripe.sweep(now_ms, &mut left);
            }
            self.swept.store((index + 1) % count, Ordering::Relaxed);
        }
        removed
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The stripe of keys with this hash: by its highest bits, so that stripes follow each other in hash order.
    fn stripe_of(&self, hash: u64) -> usize {
        let bits = self.stripes.len().trailing_zeros();
        if bits == 0 { 0 } else { (hash >> (64 - bits)) as usize }
    }

    fn lock(&self, index: usize) -> Option<Locked<'_>> {
        // After a panic in a program the stripe is sound: what the program worked on had been taken out.
        let stripe = self.stripes.get(index)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Locked::new(stripe, &self.len))
    }

    // --- single steps ---

    /// Calls `read` with what the key holds. The value is not copied.
    fn get<R>(&self, key: &[u8], now_ms: u64, read: impl FnOnce(&StepReply<'_>) -> R) -> R {
        match self.lock(self.stripe_of(self.hash(key))) {
            Some(mut stripe) => stripe.get(key, now_ms, read),
            None => read(&StepReply::Missing),
        }
    }

    fn set(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u32,
        expire: Expire,
        guard: Guard,
        now_ms: u64,
    ) -> StepReply<'static> {
        if key.len().saturating_add(value.len()) > self.max_value {
            return StepReply::Failed(KvError::ValueTooLarge);
        }
        let hash = self.hash(key);
        match self.lock(self.stripe_of(hash)) {
            Some(mut stripe) => stripe.set(key, hash, value, flags, expire, guard, now_ms),
            None => StepReply::Failed(KvError::BackFailed),
        }
    }

    fn delete(&self, key: &[u8], now_ms: u64) -> StepReply<'static> {
        let removed = self.lock(self.stripe_of(self.hash(key))).and_then(|mut stripe| stripe.take_out(key));
        match removed.filter(|entry| is_alive(entry, now_ms)) {
            Some(_) => StepReply::Applied { token: None },
            None => StepReply::Missing,
        }
    }

    // --- programs ---

    /// Runs a program with its keys locked. `request_len` bounds what it can add to an aggregate.
    fn run(
        &self,
        txn: &mut Txn,
        cx: &RunCx,
        class: OpClass,
        request_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, KvError> {
        let Txn { keys, program, .. } = txn;
        let cost = Cost { writes: class != OpClass::Read, alone: keys.len() == 1, request_len };
        match keys.as_slice() {
            [] => Ok(program.run(&mut [], cx, out)),
            [key] => {
                let hash = self.hash(key);
                let Some(mut stripe) = self.lock(self.stripe_of(hash)) else {
                    return Err(KvError::BackFailed);
                };
                let mut slots = [Slot::default()];
                let [slot] = &mut slots;
                let taken = stripe.take(key, cx.now_ms, slot);
                if cost.writes && taken.bytes.saturating_add(request_len) > self.max_value {
                    // It may become too large to be kept, which cannot be undone in place.
                    let old = std::mem::take(slot);
                    let (tried, start) = (old.clone(), out.len());
                    *slot = tried;
                    let outcome = program.run(&mut slots, cx, out);
                    let [slot] = slots;
                    let taken = taken.to_be_measured();
                    if self.keeps(key, &old, &slot) {
                        stripe.put_back(key, hash, slot, &taken, &cost)?;
                        return Ok(outcome);
                    }
                    out.truncate(start);
                    stripe.put_back(key, hash, old, &taken, &cost)?;
                    return Err(KvError::ValueTooLarge);
                }
                let outcome = program.run(&mut slots, cx, out);
                let [slot] = slots;
                stripe.put_back(key, hash, slot, &taken, &cost)?;
                Ok(outcome)
            }
            keys => {
                let hashes: Vec<u64> = keys.iter().map(|key| self.hash(key)).collect();
                let mut indexes: Vec<usize> = hashes.iter().map(|&hash| self.stripe_of(hash)).collect();
                indexes.sort_unstable();
                indexes.dedup();
                let mut stripes: Vec<Locked<'_>> =
                    indexes.iter().filter_map(|&index| self.lock(index)).collect();
                let mut slots = Vec::with_capacity(keys.len());
                let mut taken = Vec::with_capacity(keys.len());
                let mut place = Vec::with_capacity(keys.len());
                for (key, &hash) in keys.iter().zip(&hashes) {
                    let at = indexes.partition_point(|&index| index < self.stripe_of(hash));
                    let Some(stripe) = stripes.get_mut(at) else { return Err(KvError::BackFailed) };
                    let mut slot = Slot::default();
                    taken.push(stripe.take(key, cx.now_ms, &mut slot));
                    slots.push(slot);
                    place.push(at);
                }
                let outcome = program.run(&mut slots, cx, out);
                let mut result = Ok(outcome);
                for (index, slot) in slots.into_iter().enumerate() {
                    let (Some(key), Some(&hash)) = (keys.get(index), hashes.get(index)) else { continue };
                    let (Some(taken), Some(&at)) = (taken.get(index), place.get(index)) else { continue };
                    let Some(stripe) = stripes.get_mut(at) else { continue };
                    if let Err(error) = stripe.put_back(key, hash, slot, taken, &cost) {
                        result = Err(error);
                    }
                }
                result
            }
        }
    }

    /// Whether `new` is small enough, or at least no larger than `old`.
    fn keeps(&self, key: &[u8], old: &Slot, new: &Slot) -> bool {
        let weight = |slot: &Slot| slot.entry.as_ref().map_or(0, |entry| measure::entry(key, entry));
        let new = weight(new);
        new <= self.max_value + measure::string(key, 0, true) || new <= weight(old)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Store").field("len", &self.len()).field("stripes", &self.stripes.len()).finish()
    }
}

/// What a command can do to the weight of its keys.
struct Cost {
    writes: bool,
    /// It has one key only.
    alone: bool,
    request_len: usize,
}

fn is_alive(entry: &Entry, now_ms: u64) -> bool {
    entry.expire_at_ms.is_none_or(|at| at > now_ms)
}

/// The store at one moment, for commands over all keys. A cursor is the hash from which to go on: hashes give an order
/// that does not change while keys come and go.
struct View<'s> {
    store: &'s Store,
    now_ms: u64,
}

impl KeySpace for View<'_> {
    fn count(&self) -> u64 {
        self.store.len() as u64
    }

    fn scan(&self, cursor: u64, count: usize, each: &mut dyn FnMut(&[u8], &Entry)) -> u64 {
        let mut wanted = count.max(1);
        let mut cursor = cursor;
        for index in self.store.stripe_of(cursor)..self.store.stripes.len() {
            let Some(stripe) = self.store.lock(index) else { continue };
            // The `wanted` lowest hashes from the cursor on; a heap, so that a large stripe need not be sorted.
            let mut lowest = BinaryHeap::new();
            for (_, item) in stripe.items().filter(|(_, item)| item.hash >= cursor) {
                lowest.push(item.hash);
                if lowest.len() > wanted {
                    lowest.pop();
                }
            }
            let Some(&last) = lowest.peek() else { continue };
            // Keys that share the last hash go together: the cursor cannot tell them apart.
            let mut seen = 0;
            for (key, item) in stripe.items() {
                if item.hash >= cursor && item.hash <= last {
                    seen += 1;
                    if let Some(entry) = item.entry.as_ref().filter(|entry| is_alive(entry, self.now_ms)) {
                        each(key, entry);
                    }
                }
            }
            let Some(next) = last.checked_add(1) else { return 0 };
            if seen >= wanted {
                return next;
            }
            wanted -= seen;
            cursor = next;
        }
        0
    }

    fn random(&self, random: u64) -> Option<Vec<u8>> {
        let count = self.store.stripes.len();
        let mut skip = random.checked_rem(self.store.len() as u64)? as usize;
        // From that position on, and once more from the start, if only expired keys follow.
        for index in (0..count).chain(0..count) {
            let stripe = self.store.lock(index)?;
            let len = stripe.len();
            if skip >= len {
                skip -= len;
                continue;
            }
            let alive = |item: &Item| item.entry.as_ref().is_some_and(|entry| is_alive(entry, self.now_ms));
            if let Some((key, _)) = stripe.items().skip(skip).find(|(_, item)| alive(item)) {
                return Some(key.to_vec());
            }
            skip = 0;
        }
        None
    }
}

/// The earliest expiry first.
type Expiries = BinaryHeap<Reverse<(u64, Arc<[u8]>)>>;
