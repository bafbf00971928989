//! Who takes the replies of both sides on their way to clients: here it is seen that a write is answered, and what a
//! read was answered that is compared.
//!
//! Replies that belong to nobody (copies) go past it. What is remembered of a call is dropped when its reply comes or is
//! given up, also when its client has gone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mecha_core::{ConnKey, Matched, OpId, Outcome, Refusal, Ticket};
use tokio::sync::Notify;

use super::compare::Shadow;
use super::copies::Copies;
use super::migration::Migration;
use super::pending::Key;
use crate::routes::junction::Junction;
use crate::routes::slots::is_copy;
use crate::{Connection, Delivery, ReplySink, Slip};

/// A call whose reply matters.
pub(super) enum Watched<P: Copies> {
    Read(Rc<Shadow<P>>),
    /// The keys that it may have changed.
    Write(Vec<Key>),
}

/// See the module.
pub struct Watch<P: Copies> {
    pub(super) junction: Rc<Junction<P>>,
    next: Rc<dyn ReplySink<P>>,
    pub(super) migration: Arc<Migration>,
    calls: RefCell<HashMap<Ticket, Watched<P>>>,
    /// Clients that wait for a key.
    waiting: RefCell<HashMap<Key, Vec<ConnKey>>>,
    /// Clients that wait for they know not what.
    idle: RefCell<Vec<ConnKey>>,
    /// There may be something to do.
    pub(super) work: Notify,
}

// === impl Watch ===

impl<P: Copies> Watch<P> {
    /// Between the sides of a migration and `next`.
    pub fn new(junction: Rc<Junction<P>>, next: Rc<dyn ReplySink<P>>, migration: Arc<Migration>) -> Rc<Self> {
        Rc::new(Self {
            junction,
            next,
            migration,
            calls: RefCell::default(),
            waiting: RefCell::default(),
            idle: RefCell::default(),
            work: Notify::new(),
        })
    }

    pub(super) fn watch(&self, ticket: Ticket, watched: Watched<P>) {
        self.calls.borrow_mut().insert(ticket, watched);
    }

    /// The keys were written, or may have been.
    pub(super) fn written(&self, keys: &[Key]) {
        let stage = self.migration.stage();
        for key in keys {
            // One that was begun before anybody followed.
            let is_late = !self.migration.pending.end(key) && stage.is_between();
            if is_late && !self.migration.pending.mark(key, stage.truth().other()) {
                self.migration.lose();
            }
        }
        self.work.notify_one();
    }

    /// The client's call waits for `key`.
    pub(super) fn wait_for(&self, key: &[u8], conn: ConnKey) {
        let mut waiting = self.waiting.borrow_mut();
        let all = waiting.entry(key.into()).or_default();
        if !all.contains(&conn) {
            all.push(conn);
        }
        self.work.notify_one();
    }

    /// The client's call waits for no key in particular.
    pub(super) fn wait(&self, conn: ConnKey) {
        let mut idle = self.idle.borrow_mut();
        if !idle.contains(&conn) {
            idle.push(conn);
        }
        self.work.notify_one();
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty() || !self.idle.borrow().is_empty()
    }

    /// Something about `key` has changed.
    pub(super) fn wake(&self, key: &[u8]) {
        let woken = self.waiting.borrow_mut().remove(key);
        woken.into_iter().flatten().for_each(|conn| self.next.resume(conn));
    }

    /// Whoever waits looks again: another worker may have done it.
    pub(super) fn wake_all(&self) {
        let waiting = self.waiting.take();
        let woken: Vec<_> = waiting.into_values().flatten().chain(self.idle.take()).collect();
        woken.into_iter().for_each(|conn| self.next.resume(conn));
    }

    /// A call was answered before its submission returned.
    pub(super) fn answered_here(&self, ticket: Ticket, bytes: &[u8]) {
        self.append(ticket, bytes);
        self.ended(ticket, true);
    }

    /// A call was not sent.
    pub(super) fn forget(&self, ticket: Ticket) {
        self.calls.borrow_mut().remove(&ticket);
    }

    /// A call is answered, or never will be.
    fn ended(&self, ticket: Ticket, is_answered: bool) {
        let watched = self.calls.borrow_mut().remove(&ticket);
        match watched {
            Some(Watched::Read(shadow)) if is_answered => Shadow::answered(&shadow),
            Some(Watched::Read(_)) | None => {}
            Some(Watched::Write(keys)) => self.written(&keys),
        }
    }

    fn append(&self, ticket: Ticket, bytes: &[u8]) {
        if let Some(Watched::Read(shadow)) = self.calls.borrow().get(&ticket) {
            shadow.append(bytes);
        }
    }

    fn is_idle(&self) -> bool {
        self.calls.borrow().is_empty()
    }
}

impl<P: Copies> ReplySink<P> for Watch<P> {
    fn deliver(&self, conn: ConnKey, delivery: Delivery<'_, P>) {
        if is_copy(conn) {
            return self.junction.deliver(conn, delivery);
        }
        if !self.is_idle() {
            let complete = delivery.slips.len() - usize::from(delivery.open).min(delivery.slips.len());
            let ticket = |index: usize| Ticket { conn, seq: delivery.first.wrapping_add(index as u32) };
            let mut index = 0;
            for head in delivery.heads.iter() {
                if P::matched(head) == Matched::Push {
                    continue;
                }
                self.append(ticket(index), P::reply_span(head).of(delivery.wire, &[]));
                index += usize::from(P::matched(head) == Matched::Last);
            }
            (0..complete).for_each(|index| self.ended(ticket(index), true));
        }
        self.next.deliver(conn, delivery);
    }

    fn more(&self, conn: ConnKey, seq: u32, bytes: &[u8], done: Option<(Slip, Outcome, u32)>) {
        if is_copy(conn) {
            return self.junction.more(conn, seq, bytes, done);
        }
        if !self.is_idle() {
            self.append(Ticket { conn, seq }, bytes);
            if done.is_some() {
                self.ended(Ticket { conn, seq }, true);
            }
        }
        self.next.more(conn, seq, bytes, done);
    }

    fn answered(&self, ticket: Ticket, op: OpId, bytes: &[u8], outcome: Outcome, now_micros: u64) {
        if is_copy(ticket.conn) {
            return self.junction.answered(ticket, op, bytes, outcome, now_micros);
        }
        if !self.is_idle() {
            self.append(ticket, bytes);
            self.ended(ticket, true);
        }
        self.next.answered(ticket, op, bytes, outcome, now_micros);
    }

    fn fail(&self, conn: ConnKey, first: u32, slips: &[Slip], why: Refusal, broken: bool) {
        if is_copy(conn) {
            return self.junction.fail(conn, first, slips, why, broken);
        }
        if !self.is_idle() {
            for index in 0..slips.len() as u32 {
                // What is called failed may have been done.
                self.ended(Ticket { conn, seq: first.wrapping_add(index) }, false);
            }
        }
        self.next.fail(conn, first, slips, why, broken);
    }

    fn push(&self, conn: ConnKey, bytes: &[u8]) {
        self.next.push(conn, bytes);
    }

    fn message(&self, conn: ConnKey, first: u8, rest: &[u8]) {
        self.next.message(conn, first, rest);
    }

    fn unpinned(&self, conn: ConnKey) {
        self.next.unpinned(conn);
    }

    fn repinned(&self, conn: ConnKey, connection: &Rc<Connection<P>>) -> bool {
        self.next.repinned(conn, connection)
    }

    fn resume(&self, conn: ConnKey) {
        if is_copy(conn) {
            return self.junction.resume(conn);
        }
        self.next.resume(conn);
    }

    fn flush(&self, now_micros: u64) -> Option<ConnKey> {
        self.next.flush(now_micros)
    }

    fn is_choking(&self, conn: ConnKey, now_micros: u64) -> bool {
        self.next.is_choking(conn, now_micros)
    }
}
