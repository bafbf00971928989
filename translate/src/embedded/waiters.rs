//! Clients that wait for keys of the store, whichever worker they are on.
//!
//! Each stripe knows which of its keys somebody waits for. A program that leaves a list or a sorted set at such a key notes
//! that it is *ready*; where nobody waits, that costs a look at an empty map under a lock that is held anyway. Whoever ran
//! the program then looks whether anything is ready (an atomic, once for each command) and lets those who wait try again,
//! in the order in which they came: on its own thread, before its next command. So a client that waits is served before
//! the command behind the one that woke it, as in Redis, and what it took is sent to its worker by [`Post`].
//!
//! A client is put on the list under the locks under which its command has found nothing, so nothing comes in between.
//!
//! Locks are taken in one order: the list, then stripes, then what is ready.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mecha_core::{Asked, OpClass, OpId, Outcome, Ticket};

use super::{Cost, Store};
use crate::kv::{Attempt, Blocking, GaveUp, KvError, RunCx};
use crate::translator::Random;

/// The way to one worker's clients.
pub trait Post: Send + Sync {
    /// Takes the answer to a call that was [`crate::Taken::Pending`]. Each such call has one.
    fn post(&self, late: Late);
}

/// The answer to a call that waited.
#[derive(Clone, Debug)]
pub struct Late {
    /// The call.
    pub ticket: Ticket,
    /// Its operation.
    pub op: OpId,
    /// The native reply.
    pub bytes: Vec<u8>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A heap of them, for whoever drives the store on one thread.
impl Post for Mutex<Vec<Late>> {
    fn post(&self, late: Late) {
        self.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }
}

/// Formats what went wrong for the front whose client waits.
pub(super) type WriteError = fn(Asked, KvError, &'static str, &mut Vec<u8>) -> Outcome;

/// Who waits, and what for.
#[derive(Default)]
pub(super) struct Waiters {
    list: Mutex<List>,
    /// How many there are.
    len: AtomicUsize,
    ready: Arc<Ready>,
}

#[derive(Default)]
struct List {
    by_client: HashMap<u64, Waiter>,
    /// In the order in which they came.
    by_key: HashMap<Vec<u8>, VecDeque<u64>>,
}

/// One client's call.
pub(super) struct Waiter {
    pub(super) block: Box<dyn Blocking>,
    pub(super) ticket: Ticket,
    pub(super) asked: Asked,
    pub(super) request_len: usize,
    pub(super) post: Arc<dyn Post>,
    pub(super) write_error: WriteError,
}

/// Keys that have got something for somebody, oldest first.
#[derive(Default)]
pub(super) struct Ready {
    keys: Mutex<VecDeque<Vec<u8>>>,
    len: AtomicUsize,
}

// === impl Ready ===

impl Ready {
    /// Notes a key. Its stripe is locked.
    pub(super) fn push(&self, key: &[u8]) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.back().is_none_or(|last| last != key) {
            keys.push_back(key.to_vec());
        }
        self.len.store(keys.len(), Ordering::Relaxed);
    }

    fn pop(&self) -> Option<Vec<u8>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.pop_front();
        self.len.store(keys.len(), Ordering::Relaxed);
        key
    }

    /// As far as this thread knows, which knows at least of what it has noted itself.
    fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }
}

// === impl Waiters ===

impl Waiters {
    pub(super) fn ready(&self) -> &Arc<Ready> {
        &self.ready
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_len(&self, list: &List) {
        self.len.store(list.by_client.len(), Ordering::Relaxed);
    }
}

// === impl Store ===

impl Store {
    /// How many clients wait for a key.
    pub fn waiting(&self) -> usize {
        self.waiters.len.load(Ordering::Relaxed)
    }

    /// When the call for which this client waits gives up; `None` if it waits for none.
    pub fn waits_until(&self, client: u64) -> Option<Option<u64>> {
        self.waiters.lock().by_client.get(&client).map(|waiter| waiter.block.until_ms())
    }

    /// Ends what this client waits for. Returns whether it did wait.
    pub fn give_up(&self, client: u64, why: GaveUp) -> bool {
        let Some(waiter) = self.strike_off(&mut self.waiters.lock(), client) else { return false };
        let mut bytes = Vec::new();
        let outcome = waiter.block.give_up(why, &mut bytes);
        waiter.answer(bytes, outcome);
        true
    }

    /// This client is gone, and takes nothing any more.
    pub fn forget(&self, client: u64) {
        if self.waiting() > 0 {
            self.strike_off(&mut self.waiters.lock(), client);
        }
    }

    /// Lets those try again whose keys have got something.
    pub(super) fn serve_ready(&self, cx: &RunCx) {
        if !self.waiters.ready.is_empty() {
            self.serve_list(&mut self.waiters.lock(), cx);
        }
    }

    /// Runs a command that may wait. Returns whether it is answered; if not, `client` is on the list.
    pub(super) fn run_or_wait(
        &self,
        waiter: Waiter,
        client: u64,
        cx: &RunCx,
        out: &mut Vec<u8>,
    ) -> Result<bool, KvError> {
        let start = out.len();
        if self.waiting() == 0 {
            // Nobody came before it, so nobody need be asked.
            let mut txn = waiter.block.attempt(Attempt::First);
            self.run(&mut txn, cx, OpClass::Write, waiter.request_len, out)?;
            if !txn.program.waits() {
                return Ok(true);
            }
            out.truncate(start);
        }
        let mut list = self.waiters.lock();
        self.serve_list(&mut list, cx);
        let mut txn = waiter.block.attempt(Attempt::First);
        let mut stripes = self.lock_stripes(Some(&txn.keys));
        let cost = Cost { writes: true, alone: txn.keys.len() == 1, request_len: waiter.request_len };
        self.run_locked(&mut stripes, &mut txn, cx, &cost, out)?;
        if !txn.program.waits() {
            return Ok(true);
        }
        out.truncate(start);
        for key in waiter.block.keys() {
            let place = stripes.binary_search_by_key(&self.stripe_of(self.hash(&key)), |(index, _)| *index);
            if let Some((_, stripe)) = place.ok().and_then(|place| stripes.get_mut(place)) {
                stripe.await_key(&key);
            }
            list.by_key.entry(key).or_default().push_back(client);
        }
        list.by_client.insert(client, waiter);
        self.waiters.note_len(&list);
        Ok(false)
    }

    fn serve_list(&self, list: &mut List, cx: &RunCx) {
        let mut random = Random(cx.random);
        // What is moved may make another key ready.
        while let Some(key) = self.waiters.ready.pop() {
            let clients: Vec<u64> = list.by_key.get(&key).into_iter().flatten().copied().collect();
            for client in clients {
                let Some(waiter) = list.by_client.get(&client) else { continue };
                let (mut txn, mut bytes) = (waiter.block.attempt(Attempt::At(&key)), Vec::new());
                let cx = RunCx { random: random.next(), ..*cx };
                let result = self.run(&mut txn, &cx, OpClass::Write, waiter.request_len, &mut bytes);
                if result.is_ok() && txn.program.waits() {
                    if self.holds(&key, cx.now_ms) {
                        // It waits for something of another type.
                        continue;
                    }
                    break;
                }
                let outcome = result.unwrap_or_else(|error| {
                    bytes.clear();
                    (waiter.write_error)(waiter.asked, error, crate::EMBEDDED, &mut bytes)
                });
                if let Some(waiter) = self.strike_off(list, client) {
                    waiter.answer(bytes, outcome);
                }
            }
        }
    }

    fn holds(&self, key: &[u8], now_ms: u64) -> bool {
        self.lock(self.stripe_of(self.hash(key))).is_some_and(|stripe| stripe.has(key, now_ms))
    }

    /// Takes a client off the list.
    fn strike_off(&self, list: &mut List, client: u64) -> Option<Waiter> {
        let waiter = list.by_client.remove(&client)?;
        for key in waiter.block.keys() {
            if let Some(queue) = list.by_key.get_mut(&key) {
                if let Some(at) = queue.iter().position(|waiting| *waiting == client) {
                    queue.remove(at);
                }
                if queue.is_empty() {
                    list.by_key.remove(&key);
                }
            }
            if let Some(mut stripe) = self.lock(self.stripe_of(self.hash(&key))) {
                stripe.await_no_more(&key);
            }
        }
        self.waiters.note_len(list);
        Some(waiter)
    }
}

impl Waiter {
    fn answer(self, bytes: Vec<u8>, outcome: Outcome) {
        self.post.post(Late { ticket: self.ticket, op: self.asked.op, bytes, outcome });
    }
}
