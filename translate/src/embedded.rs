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
//! Clients may wait for keys ([`waiters`]).
//!
//! A panic in a program loses the entries that it worked on and nothing else.
//!
//! Deliberately absent: persistence, and a clock.

mod measure;
mod serve;
mod space;
mod stripe;
#[cfg(test)]
mod tests;
mod waiters;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mecha_core::{OpClass, Outcome};
use quick_cache::DefaultHashBuilder;

pub use self::serve::{Desk, serve};
use self::stripe::{Census, Locked, Stripe};
use self::waiters::Waiters;
pub use self::waiters::{Late, Post};
use crate::kv::{Expire, Guard, KvError, Program, RunCx, StepReply, Txn};
use crate::slot::{Entry, Slot};

/// Keys and values in memory. Share it through an [`Arc`].
pub struct Store {
    /// A power of two.
    stripes: Box<[Mutex<Stripe>]>,
    hasher: DefaultHashBuilder,
    len: AtomicUsize,
    census: Arc<Census>,
    /// When everything is to be removed; 0 is never.
    flush_at_ms: AtomicU64,
    /// Where the next sweep starts.
    swept: AtomicUsize,
    max_value: usize,
    waiters: Waiters,
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
        let census = Arc::new(Census::new());
        let capacity = max_bytes / count;
        let waiters = Waiters::default();
        let stripe = || Mutex::new(Stripe::new(capacity, Arc::clone(&census), Arc::clone(waiters.ready())));
        Self {
            stripes: std::iter::repeat_with(stripe).take(count).collect(),
            waiters,
            hasher: DefaultHashBuilder::default(),
            len: AtomicUsize::new(0),
            census,
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
        self.census.evictions.load(Ordering::Relaxed)
    }

    /// How many keys will expire.
    pub fn expiring(&self) -> u64 {
        self.census.expiring.load(Ordering::Relaxed)
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

    /// As [`Store::get`], and sets the expiry.
    fn get_touch(&self, key: &[u8], expire: Expire, now_ms: u64, read: impl FnOnce(&StepReply<'_>)) {
        match self.lock(self.stripe_of(self.hash(key))) {
            Some(mut stripe) => {
                // Read before an expiry in the past hides it.
                stripe.get(key, now_ms, read);
                stripe.touch(key, expire, false, now_ms);
            }
            None => read(&StepReply::Missing),
        }
    }

    /// Sets the expiry of a key of any type, which counts as reading it. Returns whether it exists.
    fn touch(&self, key: &[u8], expire: Expire, now_ms: u64) -> bool {
        let stripe = self.lock(self.stripe_of(self.hash(key)));
        stripe.is_some_and(|mut stripe| stripe.touch(key, expire, true, now_ms))
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
                let cx = &RunCx { token: stripe.next_token(), ..*cx };
                let mut slots = [Slot::default()];
                let [slot] = &mut slots;
                let taken = stripe.take(key, cx.now_ms, slot);
                let could_outgrow =
                    cost.writes && program.outgrows(taken.bytes, request_len) > self.max_value;
                let (result, kept) =
                    self.try_program(keys, program.as_mut(), &mut slots, could_outgrow, cx, out);
                let [slot] = slots;
                let taken = if kept { taken } else { taken.to_be_measured() };
                stripe.put_back(key, hash, slot, &taken, &cost)?;
                result
            }
            keys => {
                let mut stripes = self.lock_stripes(Some(keys));
                self.run_locked(&mut stripes, txn, cx, &cost, out)
            }
        }
    }

    /// Locks the stripes of these keys, or all, in ascending order.
    fn lock_stripes(&self, keys: Option<&[Vec<u8>]>) -> Vec<(usize, Locked<'_>)> {
        let mut indexes: Vec<usize> = match keys {
            Some(keys) => keys.iter().map(|key| self.stripe_of(self.hash(key))).collect(),
            None => (0..self.stripes.len()).collect(),
        };
        indexes.sort_unstable();
        indexes.dedup();
        indexes.into_iter().filter_map(|index| Some((index, self.lock(index)?))).collect()
    }

    /// Runs a program whose keys' stripes are among these.
    fn run_locked(
        &self,
        stripes: &mut [(usize, Locked<'_>)],
        txn: &mut Txn,
        cx: &RunCx,
        cost: &Cost,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, KvError> {
        let Txn { keys, program, .. } = txn;
        let mut places = Vec::with_capacity(keys.len());
        for key in keys.iter() {
            let hash = self.hash(key);
            let place = stripes.binary_search_by_key(&self.stripe_of(hash), |(index, _)| *index);
            places.push((place.map_err(|_| KvError::BackFailed)?, hash));
        }
        let mut slots = Vec::with_capacity(keys.len());
        let mut taken = Vec::with_capacity(keys.len());
        for (key, (place, _)) in keys.iter().zip(&places) {
            let mut slot = Slot::default();
            let Some((_, stripe)) = stripes.get_mut(*place) else { return Err(KvError::BackFailed) };
            taken.push(stripe.take(key, cx.now_ms, &mut slot));
            slots.push(slot);
        }
        let held = taken.iter().fold(0, |sum: usize, taken| sum.saturating_add(taken.bytes));
        let could_outgrow = cost.writes && program.outgrows(held, cost.request_len) > self.max_value;
        let (mut result, kept) = self.try_program(keys, program.as_mut(), &mut slots, could_outgrow, cx, out);
        for (((key, (place, hash)), slot), taken) in keys.iter().zip(&places).zip(slots).zip(&taken) {
            let Some((_, stripe)) = stripes.get_mut(*place) else { continue };
            let measured = (!kept).then(|| taken.to_be_measured());
            if let Err(error) = stripe.put_back(key, *hash, slot, measured.as_ref().unwrap_or(taken), cost) {
                result = Err(error);
            }
        }
        result
    }

    /// Runs a program. If a value could become too large to be kept, which cannot be undone in place, it is
    /// given copies: when one has outgrown the limit all slots are as before, and the result is an error. The
    /// second part tells whether the slots hold the allocations that they held before.
    fn try_program(
        &self,
        keys: &[Vec<u8>],
        program: &mut dyn Program,
        slots: &mut [Slot],
        could_outgrow: bool,
        cx: &RunCx,
        out: &mut Vec<u8>,
    ) -> (Result<Outcome, KvError>, bool) {
        let before = if could_outgrow { slots.to_vec() } else { Vec::new() };
        let start = out.len();
        let outcome = program.run(slots, cx, out);
        if program.uses_keys() {
            for entry in slots.iter().filter_map(|slot| slot.entry.as_ref()) {
                entry.marks.set(entry.marks.get().used(cx.now_ms));
            }
        }
        if before.is_empty() {
            return (Ok(outcome), true);
        }
        let mut triples = keys.iter().zip(&before).zip(slots.iter());
        if triples.all(|((key, old), new)| !new.changed || self.keeps(key, old, new)) {
            return (Ok(outcome), false);
        }
        out.truncate(start);
        slots.iter_mut().zip(before).for_each(|(slot, old)| *slot = old);
        (Err(KvError::ValueTooLarge), false)
    }

    /// Whether `new` is small enough, or at least no larger than `old`.
    fn keeps(&self, key: &[u8], old: &Slot, new: &Slot) -> bool {
        let weight = |slot: &Slot| slot.entry.as_ref().map_or(0, |entry| measure::entry(key, entry));
        let new = weight(new);
        // What a stripe admits at most, see `Stripe::heaviest`.
        let heaviest = 2 * self.max_value - self.max_value / 4;
        new <= (self.max_value + measure::string(key, 0, true)).min(heaviest) || new <= weight(old)
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

/// About what an entry takes in this store, in bytes. Looks at each element.
pub(crate) fn weight(key: &[u8], entry: &Entry) -> usize {
    measure::entry(key, entry)
}

/// The earliest expiry first.
type Expiries = BinaryHeap<Reverse<(u64, Arc<[u8]>)>>;
