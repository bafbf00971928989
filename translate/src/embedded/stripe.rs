//! One stripe of the store: everything under one lock.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

use quick_cache::unsync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};

use super::measure::{self, Shape};
use super::waiters::Ready;
use super::{Cost, Expiries, is_alive};
use crate::kv::{Expire, Guard, KvError, StepReply};
use crate::slot::{Entry, Marks, Slot, Value};

/// A key's place in the cache.
pub(super) struct Item {
    /// `None` while a program works on it, and after that program panicked.
    pub(super) entry: Option<Entry>,
    pub(super) hash: u64,
    bytes: usize,
    /// How much of `bytes` is assumed, not measured.
    assumed: usize,
    /// Counted among those that expire.
    expires: bool,
}

/// What is known of all items together, and of those that are gone. Shared with the cache's hook.
pub(super) struct Census {
    pub(super) evictions: AtomicU64,
    /// Items that expire.
    pub(super) expiring: AtomicU64,
    /// Removals by hash, so that it shows that a key was there in between. Many keys share one number: somebody who
    /// watches a key that does not exist hears of one in so many removals of others.
    removals: Box<[AtomicU64]>,
}

/// A power of two.
const REMOVAL_COUNTERS: usize = 1 << 16;

// === impl Census ===

impl Census {
    pub(super) fn new() -> Self {
        let removals = std::iter::repeat_with(AtomicU64::default).take(REMOVAL_COUNTERS).collect();
        Self { evictions: AtomicU64::new(0), expiring: AtomicU64::new(0), removals }
    }

    fn removals_of(&self, hash: u64) -> Option<&AtomicU64> {
        self.removals.get(hash as usize & (REMOVAL_COUNTERS - 1))
    }

    fn gone(&self, item: &Item) {
        self.note_expiry(item.expires, false);
        if let Some(removals) = self.removals_of(item.hash) {
            removals.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_expiry(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => drop(self.expiring.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.expiring.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

pub(super) struct Stripe {
    cache: Cache<Arc<[u8]>, Item, ByBytes, DefaultHashBuilder, CountGone>,
    census: Arc<Census>,
    /// Has every expiry of an item in the cache, and may have some that are no longer true.
    expiries: Expiries,
    token: u64,
    /// Larger items than this would not be admitted.
    heaviest: usize,
    /// Keys that clients wait for, and how many.
    awaited: HashMap<Vec<u8>, usize>,
    /// Where it is noted that one of them has come.
    ready: Arc<Ready>,
}

/// What is remembered about an item while its entry is out.
pub(super) struct Taken {
    pub(super) bytes: usize,
    expire_at_ms: Option<u64>,
    shape: Option<Shape>,
}

impl Taken {
    /// The same, without what would save looking at each element.
    pub(super) fn to_be_measured(&self) -> Self {
        Self { bytes: self.bytes, expire_at_ms: self.expire_at_ms, shape: None }
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Arc<[u8]>, Item> for ByBytes {
    fn weight(&self, _: &Arc<[u8]>, item: &Item) -> u64 {
        item.bytes as u64
    }
}

struct CountGone(Arc<Census>);

impl Lifecycle<Arc<[u8]>, Item> for CountGone {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Arc<[u8]>, item: Item) {
        self.0.evictions.fetch_add(1, Ordering::Relaxed);
        self.0.gone(&item);
    }
}

/// For a guess at how many keys fill a stripe, which sizes the memory of keys that were evicted.
const USUAL_ITEM_BYTES: usize = 256;
const STALE_EXPIRIES: usize = 1024;

// === impl Stripe ===

impl Stripe {
    pub(super) fn new(capacity: usize, census: Arc<Census>, ready: Arc<Ready>) -> Self {
        let cache = Cache::with(
            (capacity / USUAL_ITEM_BYTES).max(1),
            capacity as u64,
            ByBytes,
            DefaultHashBuilder::default(),
            CountGone(Arc::clone(&census)),
        );
        let heaviest = capacity - capacity / 8;
        Self { cache, census, expiries: Expiries::new(), token: 0, heaviest, awaited: HashMap::new(), ready }
    }

    /// One more client waits for this key.
    pub(super) fn await_key(&mut self, key: &[u8]) {
        *self.awaited.entry(key.to_vec()).or_default() += 1;
    }

    /// One of those that wait for this key does not any more.
    pub(super) fn await_no_more(&mut self, key: &[u8]) {
        if let Some(count) = self.awaited.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.awaited.remove(key);
            }
        }
    }

    /// Whether there is such a key.
    pub(super) fn has(&self, key: &[u8], now_ms: u64) -> bool {
        let entry = self.cache.peek(key).and_then(|item| item.entry.as_ref());
        entry.is_some_and(|entry| is_alive(entry, now_ms))
    }

    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(super) fn weight(&self) -> u64 {
        self.cache.weight()
    }

    pub(super) fn clear(&mut self) {
        self.cache.iter().for_each(|(_, item)| self.census.gone(item));
        self.cache.clear();
        self.expiries.clear();
    }

    fn remove(&mut self, key: &[u8]) -> Option<Item> {
        let (_, item) = self.cache.remove(key)?;
        self.census.gone(&item);
        Some(item)
    }

    /// See [`crate::kv::Space::version`]. `hash` is the key's.
    pub(super) fn version(&mut self, key: &[u8], hash: u64, now_ms: u64) -> u64 {
        let entry = self.cache.peek(key).and_then(|item| item.entry.as_ref());
        match entry.map(|entry| (is_alive(entry, now_ms), entry.token)) {
            Some((true, token)) => return token << 1 | 1,
            Some((false, _)) => drop(self.remove(key)),
            None => {}
        }
        self.census.removals_of(hash).map_or(0, |removals| removals.load(Ordering::Relaxed)) << 1
    }

    pub(super) fn items(&self) -> impl Iterator<Item = (&[u8], &Item)> {
        self.cache.iter().map(|(key, item)| (&**key, item))
    }

    pub(super) fn get<R>(&mut self, key: &[u8], now_ms: u64, read: impl FnOnce(&StepReply<'_>) -> R) -> R {
        match self.cache.get(key).and_then(|item| item.entry.as_ref()) {
            None => read(&StepReply::Missing),
            Some(entry) if !is_alive(entry, now_ms) => {
                self.remove(key);
                read(&StepReply::Missing)
            }
            Some(Entry { value: Value::Str(value), expire_at_ms, flags, token, marks }) => {
                let (flags, expire_at_ms, token) = (*flags, *expire_at_ms, *token);
                read(&StepReply::Str { value, flags, expire_at_ms, token, marks: Some(marks) })
            }
            Some(_) => {
                // Lent out in its box instead of copied.
                let entry = self.cache.get_mut(key).and_then(|mut item| item.entry.take());
                let Some(entry) = entry else { return read(&StepReply::Missing) };
                let reply = StepReply::Typed(Box::new(entry));
                let result = read(&reply);
                if let (StepReply::Typed(entry), Some(mut item)) = (reply, self.cache.get_mut(key)) {
                    item.entry = Some(*entry);
                }
                result
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn set(
        &mut self,
        key: &[u8],
        hash: u64,
        value: &[u8],
        flags: u32,
        expire: Expire,
        guard: Guard,
        now_ms: u64,
    ) -> StepReply<'static> {
        let token = self.token + 1;
        let mut expire_at_ms = match expire {
            Expire::AtMs(at) => Some(at),
            Expire::Keep | Expire::Never => None,
        };
        let marks = Cell::new(Marks::written(now_ms));
        let mut known_expiry = None;
        match self.cache.get_mut(key) {
            Some(mut item) => {
                let alive = item.entry.as_ref().filter(|entry| is_alive(entry, now_ms));
                if !holds(guard, alive) {
                    return refused(guard, alive.is_some());
                }
                known_expiry = item.entry.as_ref().and_then(|entry| entry.expire_at_ms);
                if expire == Expire::Keep && alive.is_some() {
                    expire_at_ms = known_expiry;
                }
                let bytes = reuse(item.entry.take(), value);
                item.bytes = measure::string(key, value.len(), expire_at_ms.is_some());
                item.assumed = 0;
                self.census.note_expiry(item.expires, expire_at_ms.is_some());
                item.expires = expire_at_ms.is_some();
                item.entry = Some(Entry { value: Value::Str(bytes), expire_at_ms, flags, token, marks });
            }
            None if !holds(guard, None) => return refused(guard, false),
            None => {
                let bytes = measure::string(key, value.len(), expire_at_ms.is_some());
                let entry = Entry { value: Value::Str(value.to_vec()), expire_at_ms, flags, token, marks };
                self.insert(key, Item { entry: Some(entry), hash, bytes, assumed: 0, expires: false });
            }
        }
        self.token = token;
        self.note_expiry(key, known_expiry, expire_at_ms);
        self.make_room();
        StepReply::Applied { token: Some(token) }
    }

    /// The token of the next write.
    pub(super) fn next_token(&self) -> u64 {
        self.token + 1
    }

    /// Sets the expiry of a key of any type, which may count as reading it. Returns whether it exists.
    pub(super) fn touch(&mut self, key: &[u8], expire: Expire, is_read: bool, now_ms: u64) -> bool {
        let (before, after) = {
            let Some(mut item) = self.cache.get_mut(key) else { return false };
            let Some(entry) = item.entry.as_mut().filter(|entry| is_alive(entry, now_ms)) else {
                return false;
            };
            if is_read {
                entry.marks.set(entry.marks.get().read(now_ms));
            }
            let before = entry.expire_at_ms;
            entry.expire_at_ms = match expire {
                Expire::AtMs(at) => Some(at),
                Expire::Keep => before,
                Expire::Never => None,
            };
            let after = entry.expire_at_ms;
            self.census.note_expiry(item.expires, after.is_some());
            item.expires = after.is_some();
            (before, after)
        };
        self.note_expiry(key, before, after);
        true
    }

    fn insert(&mut self, key: &[u8], mut item: Item) {
        item.expires = item.entry.as_ref().is_some_and(|entry| entry.expire_at_ms.is_some());
        self.census.note_expiry(false, item.expires);
        self.cache.insert(Arc::from(key), item);
    }

    /// Removes the key.
    pub(super) fn take_out(&mut self, key: &[u8]) -> Option<Entry> {
        self.remove(key).and_then(|item| item.entry)
    }

    /// Lends a program the entry.
    pub(super) fn take(&mut self, key: &[u8], now_ms: u64, slot: &mut Slot) -> Taken {
        let mut taken = Taken { bytes: 0, expire_at_ms: None, shape: None };
        if let Some(mut item) = self.cache.get_mut(key) {
            slot.entry = item.entry.take();
            taken.bytes = item.bytes;
        }
        let Some(entry) = &slot.entry else { return taken };
        taken.expire_at_ms = entry.expire_at_ms;
        if is_alive(entry, now_ms) {
            taken.shape = Some(Shape::of(&entry.value));
        } else {
            slot.entry = None;
            self.remove(key);
            taken.bytes = 0;
        }
        taken
    }

    /// Takes the entry back from a program.
    pub(super) fn put_back(
        &mut self,
        key: &[u8],
        hash: u64,
        slot: Slot,
        taken: &Taken,
        cost: &Cost,
    ) -> Result<(), KvError> {
        let Some(mut entry) = slot.entry else {
            self.remove(key);
            return Ok(());
        };
        if !slot.changed && !slot.touched {
            // If it is gone, another key of the same program has pushed it out, and it goes in again below.
            if let Some(mut item) = self.cache.get_mut(key) {
                item.entry = Some(entry);
                return Ok(());
            }
        }
        if slot.changed {
            self.token += 1;
            entry.token = self.token;
            if !self.awaited.is_empty()
                && matches!(entry.value, Value::List(_) | Value::ZSet(_))
                && self.awaited.contains_key(key)
            {
                self.ready.push(key);
            }
        }
        let expire_at_ms = entry.expire_at_ms;
        let item = self.cache.get_mut(key);
        let assumed = item.as_ref().map_or(0, |item| item.assumed);
        let grown =
            taken.shape.as_ref().and_then(|shape| shape.grown(&entry.value, cost, assumed, taken.bytes));
        let (bytes, assumed) = match grown {
            Some(grown) => (taken.bytes + grown, assumed + grown),
            None => (measure::entry(key, &entry), 0),
        };
        let admitted = bytes <= self.heaviest;
        match item {
            Some(mut item) if admitted => {
                self.census.note_expiry(item.expires, expire_at_ms.is_some());
                item.expires = expire_at_ms.is_some();
                (item.bytes, item.assumed, item.entry) = (bytes, assumed, Some(entry));
            }
            Some(_) => {}
            None if admitted => {
                self.insert(key, Item { entry: Some(entry), hash, bytes, assumed, expires: false });
            }
            None => {}
        }
        if !admitted {
            self.remove(key);
            return Err(KvError::ValueTooLarge);
        }
        self.note_expiry(key, taken.expire_at_ms, expire_at_ms);
        self.make_room();
        Ok(())
    }

    /// Removes expired items while there is `budget`.
    pub(super) fn sweep(&mut self, now_ms: u64, budget: &mut usize) -> usize {
        let mut removed = 0;
        while *budget > 0 {
            let due = self.expiries.peek().is_some_and(|Reverse((at, _))| *at <= now_ms);
            let Some(Reverse((_, key))) = due.then(|| self.expiries.pop()).flatten() else { break };
            *budget -= 1;
            let expired = |item: &Item| item.entry.as_ref().is_none_or(|entry| !is_alive(entry, now_ms));
            if let Some((_, item)) = self.cache.remove_if(&key, expired) {
                self.census.gone(&item);
                removed += 1;
            }
        }
        removed
    }

    fn note_expiry(&mut self, key: &[u8], before: Option<u64>, now: Option<u64>) {
        let Some(at) = now.filter(|_| before != now) else { return };
        self.expiries.push(Reverse((at, Arc::from(key))));
        if self.expiries.len() > 2 * self.cache.len() + STALE_EXPIRIES {
            let cache = &self.cache;
            let is_true = |at: u64, key: &[u8]| {
                let entry = cache.peek(key).and_then(|item| item.entry.as_ref());
                entry.is_some_and(|entry| entry.expire_at_ms == Some(at))
            };
            self.expiries.retain(|Reverse((at, key))| is_true(*at, key));
        }
    }

    #[cfg(test)]
    pub(super) fn expiries_queued(&self) -> usize {
        self.expiries.len()
    }

    /// Items that grew in place may have made the cache too heavy, which it does not see by itself.
    fn make_room(&mut self) {
        let capacity = self.cache.capacity();
        if self.cache.weight() > capacity {
            self.cache.set_capacity(capacity);
        }
    }
}

fn holds(guard: Guard, entry: Option<&Entry>) -> bool {
    match guard {
        Guard::Absent => entry.is_none(),
        Guard::Always => true,
        Guard::Present => entry.is_some(),
        Guard::Token(token) => entry.is_some_and(|entry| entry.token == token),
    }
}

/// Why a write had no effect.
fn refused(guard: Guard, is_there: bool) -> StepReply<'static> {
    if matches!(guard, Guard::Token(_)) && !is_there { StepReply::Missing } else { StepReply::Guarded }
}

/// The new string, in the old one's memory where that fits.
fn reuse(old: Option<Entry>, value: &[u8]) -> Vec<u8> {
    match old {
        Some(Entry { value: Value::Str(mut bytes), .. })
            if bytes.capacity() >= value.len() && bytes.capacity() <= 2 * value.len() + 16 =>
        {
            bytes.clear();
            bytes.extend_from_slice(value);
            bytes
        }
        _ => value.to_vec(),
    }
}

/// A locked stripe. Keeps the store's count of keys.
pub(super) struct Locked<'s> {
    stripe: MutexGuard<'s, Stripe>,
    before: usize,
    count: &'s AtomicUsize,
}

// === impl Locked ===

impl<'s> Locked<'s> {
    pub(super) fn new(stripe: MutexGuard<'s, Stripe>, count: &'s AtomicUsize) -> Self {
        Self { before: stripe.len(), stripe, count }
    }
}

impl Deref for Locked<'_> {
    type Target = Stripe;

    fn deref(&self) -> &Stripe {
        &self.stripe
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Stripe {
        &mut self.stripe
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let now = self.stripe.len();
        if now > self.before {
            self.count.fetch_add(now - self.before, Ordering::Relaxed);
        } else if now < self.before {
            self.count.fetch_sub(self.before - now, Ordering::Relaxed);
        }
    }
}
