//! The keys of one migration that are not settled: calls for them are under way, or their copy is.
//!
//! All workers share them, because the copies of one key must not overtake each other, whoever has written it: at most
//! one worker copies a key at one time, and a key that is written meanwhile is copied again. So the last copy of a key
//! begins when the last write is answered, and ends last. The keys are spread over stripes, each behind a lock that is
//! held for a look-up; only listeners that migrate pay for it.
//!
//! | state of a key | what there is |
//! |---|---|
//! | calls that write it are under way | `writers` |
//! | it waits for its copy | `Copy::Queued`, and its place in the queue |
//! | it is being copied | `Copy::Busy`; `Copy::Again` if it was written meanwhile |
//! | none of it | no entry |
//!
//! The number of entries is bounded, and so are the bytes of their keys; whoever remembers a key shares them. What finds
//! no room is not followed, and the caller counts it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks; a power of two.
const STRIPES: usize = 64;

/// Counters of changes; a power of two, and many, so that two keys rarely share one.
const COUNTERS: usize = 8192;

/// Keys per stripe of which is known that they need no backfill. When there are more, nothing is known of any.
const MAX_SETTLED: usize = 32 << 10;

/// Bytes of all keys.
const MAX_BYTES: usize = 64 << 20;

/// Failed copies of one key in a row after which it is given up.
const MAX_ATTEMPTS: u8 = 5;

/// A side of the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    New,
    Old,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::New => Self::Old,
            Self::Old => Self::New,
        }
    }
}

/// A key, whose bytes are there once.
pub(super) type Key = Arc<[u8]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    Again,
    Busy,
    None,
    Queued,
}

#[derive(Debug)]
struct Entry {
    /// Which side gets the copy.
    toward: Side,
    writers: u32,
    copy: Copy,
    attempts: u8,
}

#[derive(Debug, Default)]
struct Stripe {
    entries: HashMap<Key, Entry>,
    /// Hashes of keys whose truth is on the new side, whatever the old one has.
    settled: HashSet<u64>,
}

/// Whether a key may be used on the new side, which is the truth but may lack it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The caller has to see to it, and to say [`Pending::settled`] then.
    Begun,
    /// Somebody sees to it, or there is no room.
    Wait,
    /// It may.
    Yes,
}

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// There was nothing to copy.
    Absent,
    Done,
    /// Whatever happens to other keys, this one cannot be copied as it is.
    Refused,
    /// A server could not be reached.
    Unreachable,
}

/// What becomes of a key whose copy has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It will be copied again.
    Again,
    /// It was given up: the sides differ.
    GivenUp,
    /// Nothing.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pending {
    stripes: Vec<Mutex<Stripe>>,
    /// What may have changed keys is counted, by their hash.
    changes: Vec<AtomicU32>,
    queue: Mutex<VecDeque<Key>>,
    hasher: RandomState,
    entries: AtomicUsize,
    bytes: AtomicUsize,
    capacity: AtomicUsize,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            changes: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
            queue: Mutex::default(),
            hasher: RandomState::new(),
            entries: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            capacity: AtomicUsize::new(0),
        }
    }
}

// === impl Pending ===

impl Pending {
    pub(super) fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.entries.load(Ordering::SeqCst)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn stripe(&self, hash: u64) -> MutexGuard<'_, Stripe> {
        let stripe = &self.stripes[hash as usize % STRIPES];
        // Nothing panics while it is held; what is inside is whole.
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Key>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more entry.
    fn take_place(&self, key: &[u8]) -> bool {
        let capacity = self.capacity.load(Ordering::Relaxed);
        let take_one = |count: usize| (count < capacity).then_some(count + 1);
        let take_bytes = |bytes: usize| Some(bytes + key.len()).filter(|bytes| *bytes <= MAX_BYTES);
        let order = Ordering::SeqCst;
        if self.entries.fetch_update(order, order, take_one).is_err() {
            return false;
        }
        if self.bytes.fetch_update(order, order, take_bytes).is_err() {
            self.entries.fetch_sub(1, order);
            return false;
        }
        true
    }

    /// A call that writes `key` is about to be sent to the other side of `toward`. `None`: there is no room, and nobody
    /// will copy it.
    pub(super) fn begin(&self, key: &[u8], toward: Side) -> Option<Key> {
        let hash = self.hash(key);
        self.changed(hash);
        let mut stripe = self.stripe(hash);
        let known = stripe.entries.get_key_value(key).map(|(known, _)| Arc::clone(known));
        if let (Some(known), Some(entry)) = (known, stripe.entries.get_mut(key)) {
            entry.writers += 1;
            return Some(known);
        }
        if !self.take_place(key) {
            return None;
        }
        let (key, entry) = (Key::from(key), Entry { toward, writers: 1, copy: Copy::None, attempts: 0 });
        stripe.entries.insert(Arc::clone(&key), entry);
        Some(key)
    }

    /// The call was not sent.
    pub(super) fn cancel(&self, key: &[u8]) {
        let mut stripe = self.stripe(self.hash(key));
        let Some(entry) = stripe.entries.get_mut(key) else { return };
        entry.writers = entry.writers.saturating_sub(1);
        self.tidy(&mut stripe, key);
    }

    /// The call is answered, or never will be: the key is to be copied. `false`: nobody has begun it.
    pub(super) fn end(&self, key: &Key) -> bool {
        let mut stripe = self.stripe(self.hash(key));
        let Some(entry) = stripe.entries.get_mut(key) else { return false };
        entry.writers = entry.writers.saturating_sub(1);
        self.want(entry, key);
        true
    }

    /// `key` is to be copied, though nobody writes it. `false`: there is no room. Does nothing if that will happen anyway.
    pub(super) fn mark(&self, key: &[u8], toward: Side) -> bool {
        let mut stripe = self.stripe(self.hash(key));
        if stripe.entries.contains_key(key) {
            return true;
        }
        if !self.take_place(key) {
            return false;
        }
        let (key, mut entry) = (Key::from(key), Entry { toward, writers: 0, copy: Copy::None, attempts: 0 });
        self.want(&mut entry, &key);
        stripe.entries.insert(key, entry);
        true
    }

    fn want(&self, entry: &mut Entry, key: &Key) {
        match entry.copy {
            Copy::Again | Copy::Queued => {}
            Copy::Busy => entry.copy = Copy::Again,
            Copy::None => {
                entry.copy = Copy::Queued;
                self.queue().push_back(Arc::clone(key));
            }
        }
    }

    /// Removes the entry if there is nothing left of it.
    fn tidy(&self, stripe: &mut Stripe, key: &[u8]) {
        if stripe.entries.get(key).is_some_and(|entry| entry.writers == 0 && entry.copy == Copy::None) {
            stripe.entries.remove(key);
            self.entries.fetch_sub(1, Ordering::SeqCst);
            self.bytes.fetch_sub(key.len(), Ordering::SeqCst);
        }
    }

    /// The next key that waits for its copy, and the side that gets it. [`Pending::copied`] must follow.
    pub(super) fn claim(&self) -> Option<(Key, Side)> {
        loop {
            let key = self.queue().pop_front()?;
            let mut stripe = self.stripe(self.hash(&key));
            if let Some(entry) = stripe.entries.get_mut(&key)
                && entry.copy == Copy::Queued
            {
                entry.copy = Copy::Busy;
                let toward = entry.toward;
                drop(stripe);
                return Some((key, toward));
            }
        }
    }

    /// A claimed key is copied, or is not.
    pub(super) fn copied(&self, key: &Key, copied: Copied) -> Next {
        let hash = self.hash(key);
        self.changed(hash);
        let mut stripe = self.stripe(hash);
        let Some(entry) = stripe.entries.get_mut(key) else { return Next::Nothing };
        match copied {
            Copied::Absent | Copied::Done => entry.attempts = 0,
            Copied::Refused => entry.attempts += 1,
            Copied::Unreachable => {}
        }
        let is_given_up = copied == Copied::Refused && entry.attempts >= MAX_ATTEMPTS;
        let is_written = entry.copy == Copy::Again;
        entry.copy = Copy::None;
        if is_given_up {
            entry.attempts = 0;
        }
        let is_failed = matches!(copied, Copied::Refused | Copied::Unreachable);
        if is_written || is_failed && !is_given_up {
            self.want(entry, key);
            return Next::Again;
        }
        self.tidy(&mut stripe, key);
        if is_given_up { Next::GivenUp } else { Next::Nothing }
    }

    /// Whether a call for `key` to `truth` must wait, because that side is yet to get its copy from the other one.
    pub(super) fn is_behind(&self, key: &[u8], truth: Side) -> bool {
        self.stripe(self.hash(key)).entries.get(key).is_some_and(|entry| entry.toward == truth)
    }

    /// Whether the copy of `key` is yet to come, or calls that write it are under way.
    pub(super) fn is_unsettled(&self, key: &[u8]) -> bool {
        self.stripe(self.hash(key)).entries.contains_key(key)
    }

    /// A number that changes when anything may have changed `key`.
    pub(super) fn changes(&self, key: &[u8]) -> u32 {
        self.changes[self.hash(key) as usize % COUNTERS].load(Ordering::SeqCst)
    }

    fn changed(&self, hash: u64) {
        self.changes[hash as usize % COUNTERS].fetch_add(1, Ordering::SeqCst);
    }

    /// Whether `key` may be used on the new side.
    pub(super) fn settle(&self, key: &[u8]) -> Settled {
        let hash = self.hash(key);
        let mut stripe = self.stripe(hash);
        match stripe.entries.get(key) {
            Some(entry) if entry.toward == Side::New => return Settled::Wait,
            // It was written there already.
            Some(_) => return Settled::Yes,
            None if stripe.settled.contains(&hash) => return Settled::Yes,
            None => {}
        }
        if !self.take_place(key) {
            return Settled::Wait;
        }
        let entry = Entry { toward: Side::New, writers: 0, copy: Copy::Busy, attempts: 0 };
        stripe.entries.insert(Key::from(key), entry);
        Settled::Begun
    }

    /// A key for which [`Pending::settle`] has said `Begun` is on the new side, or nowhere; or that could not be found
    /// out.
    pub(super) fn settled(&self, key: &[u8], is_done: bool) {
        let hash = self.hash(key);
        self.changed(hash);
        let mut stripe = self.stripe(hash);
        if is_done {
            if stripe.settled.len() >= MAX_SETTLED {
                stripe.settled.clear();
            }
            stripe.settled.insert(hash);
        }
        if let Some(entry) = stripe.entries.get_mut(key) {
            entry.copy = Copy::None;
        }
        self.tidy(&mut stripe, key);
    }

    /// Nothing is known any more of what needs no backfill: the old side is the truth again.
    pub(super) fn forget_settled(&self) {
        for stripe in &self.stripes {
            stripe.lock().unwrap_or_else(PoisonError::into_inner).settled.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> Pending {
        let pending = Pending::default();
        pending.set_capacity(2);
        pending
    }

    fn claimed(pending: &Pending) -> Option<(Vec<u8>, Side)> {
        pending.claim().map(|(key, toward)| (key.to_vec(), toward))
    }

    #[test]
    fn a_key_is_copied_after_its_last_write_and_by_nobody_else_meanwhile() {
        let pending = pending();
        let a = pending.begin(b"a", Side::New).unwrap();
        assert!(Arc::ptr_eq(&a, &pending.begin(b"a", Side::New).unwrap()));
        assert_eq!(pending.claim(), None);
        pending.end(&a);
        assert_eq!(claimed(&pending), Some((b"a".to_vec(), Side::New)));
        // Written while it is being copied: nobody gets it now, and it comes again.
        pending.end(&a);
        assert_eq!(pending.claim(), None);
        assert_eq!(pending.copied(&a, Copied::Done), Next::Again);
        assert!(claimed(&pending).is_some());
        assert_eq!(pending.copied(&a, Copied::Done), Next::Nothing);
        assert_eq!((pending.claim(), pending.len()), (None, 0));
    }

    #[test]
    fn calls_wait_for_a_copy_toward_the_side_that_they_go_to() {
        let pending = pending();
        let a = pending.begin(b"a", Side::New).unwrap();
        assert!(pending.is_behind(b"a", Side::New) && !pending.is_behind(b"a", Side::Old));
        assert_eq!(pending.settle(b"a"), Settled::Wait);
        pending.end(&a);
        assert!(pending.claim().is_some() && pending.is_behind(b"a", Side::New));
        pending.copied(&a, Copied::Done);
        assert!(!pending.is_behind(b"a", Side::New));
    }

    #[test]
    fn there_are_never_more_keys_than_there_is_room_for() {
        let pending = pending();
        assert!(pending.begin(b"a", Side::New).is_some() && pending.mark(b"b", Side::New));
        assert!(pending.begin(b"c", Side::New).is_none() && !pending.mark(b"d", Side::New));
        assert_eq!(pending.settle(b"e"), Settled::Wait);
        pending.cancel(b"a");
        assert_eq!(pending.len(), 1);
        assert!(pending.begin(b"c", Side::New).is_some());
        pending.cancel(b"c");
        let large = vec![b'x'; MAX_BYTES];
        assert!(pending.begin(&large, Side::New).is_none(), "as many bytes as there may be, and one more");
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn a_key_that_cannot_be_copied_is_given_up_and_a_lost_server_is_waited_for() {
        let pending = pending();
        pending.mark(b"a", Side::New);
        let a = Key::from(&b"a"[..]);
        for _ in 0..100 {
            assert!(pending.claim().is_some());
            assert_eq!(pending.copied(&a, Copied::Unreachable), Next::Again);
        }
        for _ in 1..MAX_ATTEMPTS {
            assert!(pending.claim().is_some());
            assert_eq!(pending.copied(&a, Copied::Refused), Next::Again);
        }
        assert!(pending.claim().is_some());
        assert_eq!(pending.copied(&a, Copied::Refused), Next::GivenUp);
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn a_key_is_looked_for_on_the_old_side_once() {
        let pending = pending();
        assert_eq!(pending.settle(b"a"), Settled::Begun);
        assert_eq!(pending.settle(b"a"), Settled::Wait);
        assert!(pending.is_behind(b"a", Side::New));
        pending.settled(b"a", false);
        assert_eq!(pending.settle(b"a"), Settled::Begun);
        pending.settled(b"a", true);
        assert_eq!((pending.settle(b"a"), pending.len()), (Settled::Yes, 0));
        // What is written on the new side needs no look at the old one, whatever else is known.
        assert!(pending.begin(b"a", Side::Old).is_some());
        pending.forget_settled();
        assert_eq!(pending.settle(b"a"), Settled::Yes);
        pending.cancel(b"a");
        assert_eq!(pending.settle(b"a"), Settled::Begun);
    }

    #[test]
    fn what_may_have_changed_a_key_is_seen() {
        let pending = pending();
        let before = pending.changes(b"a");
        assert!(pending.begin(b"a", Side::New).is_some());
        assert_ne!(pending.changes(b"a"), before);
    }
}
