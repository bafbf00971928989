//! Client-side caching over several servers (`CLIENT TRACKING`).
//!
//! A server tells a *connection* of changes to the keys that were read on it. Clients share connections to several
//! servers here, so [`Tracker`](table::Tracker)s are kept in this process: on each worker, one connection to every server
//! (a *link*) hears of all keys that change (`BCAST`), and each client is told of those that it has read, or whose
//! prefix it has named.
//!
//! **Nothing stale is kept.** A key is remembered as read when the call is sent. What is heard while a client waits for
//! reads is told behind their replies, so that the client never takes an older value for one that came after the news.
//! A lost link, or a server that is new, may have hidden changes: then clients are told that everything may have
//! changed. Replicas are not read, as they may have an older value after the news.
//!
//! **What differs from a server.** Own writes are told also to who asked not to hear of them (`NOLOOP`): who has written
//! is not known. What is too much to be remembered is told as changed, as a server does it. `REDIRECT` is not seen to here.

mod table;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::{Rc, Weak};

use mecha_core::{Affinity, Batch, Call, ConnKey, Framed, OpId, Outcome, Refusal, Ticket, profile_of};
use mecha_resp::reply::Writer;
use mecha_resp::tracking::{Invalid, Tracking as Wanted, chosen, invalidate, is_kept, tracking_info};
use mecha_resp::{Resp, args, op, version_of};

use crate::answers::{Answer, Answers, after_patience, refusal};
use crate::links::{Hears, Links, Watches, retry};
use crate::news::Cause;
use crate::{Cluster, Connection, ReplySink, SubmitCx, Submitted, Upstream};
use table::{Notice, Table, Tracker};

/// Bytes of keys that are remembered for one door's clients of one worker.
const MAX_BYTES: usize = 64 << 20;
/// What a link begins with.
const TRACK: &[u8] = b"*4\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$5\r\nBCAST\r\n";
/// Links speak version 3 of the protocol.
const KIND: u8 = 1;

/// What is known of a link.
#[derive(Default)]
struct Link {
    /// The server tells of changes.
    is_confirmed: bool,
}

/// See the module.
pub(crate) struct Tracking {
    inner: Rc<dyn Upstream<Resp>>,
    cluster: Rc<Cluster<Resp>>,
    table: RefCell<Table>,
    links: Links<Link>,
    answers: Answers<Resp>,
    is_retrying: Cell<bool>,
    is_forgetting: Cell<bool>,
    me: Weak<Self>,
}

// === impl Tracking ===

impl Tracking {
    /// Stands in front of `inner`, which leads to `cluster`, for clients with this login.
    pub(crate) fn new(inner: Rc<dyn Upstream<Resp>>, cluster: Rc<Cluster<Resp>>, login: u8) -> Rc<Self> {
        let answers = Answers::new(&cluster);
        let links = Links::new(Rc::clone(&cluster), profile_of(KIND, login));
        let tracking = Rc::new_cyclic(|me| Self {
            inner,
            cluster,
            table: RefCell::default(),
            links,
            answers,
            is_retrying: Cell::new(false),
            is_forgetting: Cell::new(false),
            me: Weak::clone(me),
        });
        let watcher: Weak<dyn Watches> = tracking.me.clone();
        tracking.cluster.watched_by(watcher);
        tracking
    }

    fn is_sharded(&self) -> bool {
        self.cluster.is_slotted() || self.cluster.is_sharded()
    }

    // --- what clients say ---

    /// Serves a command about tracking; `None` if the client has said nothing of the kind before.
    fn take(&self, batch: &Batch<'_, Resp>, at: usize, cx: &SubmitCx<'_, Resp>) -> Option<Submitted> {
        let call = batch.calls.get(at)?;
        let (ticket, frame) = (call.ticket, batch.frame(at));
        if call.op == op::CLIENT_TRACKING {
            self.track(frame, call, cx);
            return Some(Submitted::Pending(1));
        }
        let mut table = self.table.borrow_mut();
        let tracker = table.trackers.get_mut(&ticket.conn)?;
        let (mut bytes, mut outcome) = (Vec::new(), Outcome::Ok);
        let mut writer = Writer::new(&mut bytes, version_of(cx.profile));
        match call.op {
            op::CLIENT_GETREDIR => writer.int(0),
            op::CLIENT_TRACKINGINFO => tracking_info(&tracker.tracking, tracker.is_chosen, &mut writer),
            _ => match chosen(frame, &tracker.tracking) {
                Ok(()) => {
                    tracker.is_chosen = true;
                    writer.ok();
                }
                Err(words) => {
                    writer.error(&format!("ERR {words}"));
                    outcome = Outcome::ClientError;
                }
            },
        }
        drop(table);
        self.answer(Rc::clone(cx.sink), ticket, call.op, bytes, outcome);
        Some(Submitted::Pending(1))
    }

    /// Serves `CLIENT TRACKING`.
    fn track(&self, frame: &[u8], call: &Call, cx: &SubmitCx<'_, Resp>) {
        let (ticket, sink) = (call.ticket, Rc::clone(cx.sink));
        let mut table = self.table.borrow_mut();
        let current = table.trackers.get(&ticket.conn).map(|tracker| &tracker.tracking);
        let tracking = match Wanted::asked(frame, current) {
            Ok(Some(tracking)) => tracking,
            Ok(None) => {
                drop(table);
                self.leave(ticket.conn);
                self.answer(sink, ticket, call.op, b"+OK\r\n".to_vec(), Outcome::Ok);
                return;
            }
            Err(words) => {
                let mut bytes = Vec::new();
                Writer::new(&mut bytes, 2).error(&format!("ERR {words}"));
                drop(table);
                self.answer(sink, ticket, call.op, bytes, Outcome::ClientError);
                return;
            }
        };
        match table.trackers.get_mut(&ticket.conn) {
            Some(tracker) => {
                tracker.tracking = tracking;
                drop(table);
                self.answer(sink, ticket, call.op, b"+OK\r\n".to_vec(), Outcome::Ok);
            }
            None => {
                let tracker = Tracker {
                    sink,
                    profile: cx.profile,
                    tracking,
                    is_chosen: false,
                    is_queuing: false,
                    last_read: None,
                    pending: Some((ticket, call.op)),
                };
                table.enter(ticket.conn, tracker);
                drop(table);
                self.connect_all();
                self.confirm_all();
                self.watch_over(ticket, call.timeout_ms);
            }
        }
    }

    /// Call `at` has been sent: what its client keeps of it is remembered.
    fn note(&self, batch: &Batch<'_, Resp>, at: usize) {
        let (Some(call), Some(head)) = (batch.calls.get(at), batch.heads.get(at)) else { return };
        let conn = call.ticket.conn;
        let mut table = self.table.borrow_mut();
        let Some(tracker) = table.trackers.get_mut(&conn) else { return };
        tracker.profile = mecha_core::Session::profile(&*batch.session);
        tracker.is_queuing = batch.session.multi || call.op == op::EXEC;
        let counts = tracker.tracking.counts(tracker.is_chosen);
        // What was said of the next call, or of the next transaction, holds no longer.
        tracker.is_chosen &= batch.session.multi && call.op != op::EXEC;
        let is_read = is_kept(call.op) && !matches!(call.affinity, Affinity::Once | Affinity::Waits);
        if !is_read && call.op != op::EXEC {
            return;
        }
        tracker.last_read = Some(call.ticket.seq);
        if counts && is_read {
            Resp::keys(head, batch.frame(at), &mut |key| table.note(conn, key));
        }
        drop(table);
        self.forget_later();
    }

    /// What is too much to be remembered will be said to have changed: whoever calls is in the middle of a batch.
    fn forget_later(&self) {
        if self.table.borrow().bytes() <= MAX_BYTES || self.is_forgetting.replace(true) {
            return;
        }
        let me = self.me.clone();
        tokio::task::spawn_local(async move {
            if let Some(me) = me.upgrade() {
                me.is_forgetting.set(false);
                me.forget_some();
                me.flush(me.cluster.now_micros());
            }
        });
    }

    fn forget_some(&self) {
        loop {
            let before = self.table.borrow().bytes();
            if before <= MAX_BYTES {
                return;
            }
            for key in self.table.borrow().some_keys() {
                let mut notices = Vec::new();
                self.table.borrow_mut().changed(&key, &mut notices);
                self.tell(&notices, Some(&key));
            }
            if self.table.borrow().bytes() >= before {
                break;
            }
        }
        // They are all of transactions that go on and on, whose clients cannot be told.
        let queuing = self.table.borrow().queuing();
        for (conn, sink) in queuing {
            self.leave(conn);
            sink.unpinned(conn);
        }
    }

    fn leave(&self, conn: ConnKey) {
        let mut table = self.table.borrow_mut();
        let was_there = table.leave(conn).is_some();
        let is_last = table.trackers.is_empty();
        drop(table);
        if was_there && is_last {
            self.links.close_if(|_| true);
        }
    }

    // --- links ---

    /// Sees to it that every server is listened to, while anybody wants to hear of keys.
    fn connect_all(&self) {
        if self.table.borrow().trackers.is_empty() {
            return;
        }
        let missing = self.cluster.shards().into_iter().filter(|at| !self.has_link(*at)).count();
        if missing > 0 {
            self.retry_later();
        }
    }

    fn has_link(&self, at: usize) -> bool {
        self.links.has(at, &self.me, |connection| {
            connection.submit_bytes(TRACK);
            Link::default()
        })
    }

    fn retry_later(&self) {
        if self.is_retrying.replace(true) {
            return;
        }
        retry(self.me.clone(), |me| {
            let is_whole = me.cluster.shards().into_iter().all(|at| me.has_link(at));
            let is_done = is_whole || me.table.borrow().trackers.is_empty();
            me.is_retrying.set(!is_done);
            is_done
        });
    }

    fn frame(&self, at: usize, frame: &[u8]) {
        match Invalid::of(frame) {
            Some(Invalid::Everything) => self.all_changed(),
            Some(keys) => {
                for key in keys.keys() {
                    let mut notices = Vec::new();
                    self.table.borrow_mut().changed(key, &mut notices);
                    self.tell(&notices, Some(key));
                }
            }
            None if frame.starts_with(b"+OK") => {
                self.links.with(at, |_, link| link.is_confirmed = true);
                // What has changed before, nobody has told.
                self.all_changed();
                self.confirm_all();
            }
            None if matches!(frame.first(), Some(b'-' | b'!')) => self.refused(at, frame),
            None => {}
        }
    }

    /// Answers those who wait, if every server has confirmed.
    fn confirm_all(&self) {
        let shards = self.cluster.shards();
        let is_heard = |at: &usize| self.links.with(*at, |_, link| link.is_confirmed) == Some(true);
        if shards.is_empty() || !shards.iter().all(is_heard) {
            return;
        }
        let mut table = self.table.borrow_mut();
        for tracker in table.trackers.values_mut() {
            if let Some((ticket, op)) = tracker.pending.take() {
                self.answer(Rc::clone(&tracker.sink), ticket, op, b"+OK\r\n".to_vec(), Outcome::Ok);
            }
        }
    }

    /// The server at `at` does not do it.
    fn refused(&self, at: usize, error: &[u8]) {
        let waiting: Vec<_> = (self.table.borrow().trackers.iter())
            .filter(|(_, tracker)| tracker.pending.is_some())
            .map(|(conn, _)| *conn)
            .collect();
        self.links.close(at);
        waiting.into_iter().for_each(|conn| self.undo(conn, error.to_vec(), Outcome::ClientError));
        if !self.table.borrow().trackers.is_empty() {
            self.all_changed();
            self.retry_later();
        }
    }

    /// Answers the client that waits with an error.
    fn undo(&self, conn: ConnKey, error: Vec<u8>, outcome: Outcome) {
        let pending = {
            let mut table = self.table.borrow_mut();
            let tracker = table.trackers.get_mut(&conn);
            tracker.and_then(|tracker| Some((Rc::clone(&tracker.sink), tracker.pending.take()?)))
        };
        let Some((sink, (ticket, op))) = pending else { return };
        self.leave(conn);
        self.answer(sink, ticket, op, error, outcome);
    }

    /// The command `ticket` is not waited for without end.
    fn watch_over(&self, ticket: Ticket, timeout_ms: u32) {
        let is_pending = move |me: &Self| {
            let table = me.table.borrow();
            let tracker = table.trackers.get(&ticket.conn);
            tracker.and_then(|tracker| tracker.pending).filter(|pending| pending.0 == ticket)
        };
        if is_pending(self).is_none() {
            return;
        }
        after_patience(self.me.clone(), timeout_ms, move |me, why| {
            if let Some((_, op)) = is_pending(me) {
                me.undo(ticket.conn, refusal::<Resp>(op, why), Outcome::Refused(why));
            }
        });
    }

    // --- to clients ---

    fn all_changed(&self) {
        let notices = self.table.borrow_mut().all_changed();
        self.tell(&notices, None);
    }

    /// Tells clients that `key` has changed, or that everything may have.
    fn tell(&self, notices: &[Notice], key: Option<&[u8]>) {
        if notices.is_empty() {
            return;
        }
        let mut rest = Vec::new();
        invalidate(key.into_iter().collect::<Vec<_>>().into_iter(), &mut rest);
        for Notice { conn, behind, sink } in notices {
            match behind {
                Some(seq) => sink.message_behind(*conn, *seq, b'>', &rest),
                None => sink.message(*conn, b'>', &rest),
            }
            self.links.touched(sink);
        }
    }

    fn answer(
        &self,
        sink: Rc<dyn ReplySink<Resp>>,
        ticket: Ticket,
        op: OpId,
        bytes: Vec<u8>,
        outcome: Outcome,
    ) {
        self.answers.give(Answer { sink, ticket, op, bytes, outcome });
    }
}

impl Hears for Tracking {
    fn heard(&self, key: ConnKey, bytes: &[u8]) {
        self.links.hear(key, bytes, |at, frame| self.frame(at, frame));
    }

    fn lost(&self, key: ConnKey) {
        if !self.links.lost(key) {
            return;
        }
        self.all_changed();
        self.flush(self.cluster.now_micros());
        self.cluster.want(Cause::Failure);
        self.retry_later();
    }

    fn flush(&self, now_micros: u64) {
        self.links.flush(now_micros);
    }
}

impl Watches for Tracking {
    fn members_changed(&self) {
        self.links.strays().into_iter().for_each(|key| self.lost(key));
        self.connect_all();
        self.confirm_all();
    }
}

impl Upstream<Resp> for Tracking {
    fn inner(&self) -> Option<&dyn Upstream<Resp>> {
        Some(&*self.inner)
    }

    fn submit(&self, batch: &mut Batch<'_, Resp>, range: Range<usize>, cx: SubmitCx<'_, Resp>) -> Submitted {
        let Some(call) = batch.calls.get(range.start).copied() else { return Submitted::Pending(0) };
        let is_tracked = self.table.borrow().trackers.contains_key(&call.ticket.conn);
        cx.lane.only_primaries = is_tracked;
        if call.affinity == Affinity::Aside
            || call.op == op::CLIENT_TRACKING && self.sees_to(batch, range.start)
        {
            match call.op {
                op::CLIENT_CACHING | op::CLIENT_GETREDIR | op::CLIENT_TRACKING | op::CLIENT_TRACKINGINFO => {
                    if let Some(submitted) = self.take(batch, range.start, &cx) {
                        return submitted;
                    }
                }
                op::RESET => self.leave(call.ticket.conn),
                _ => {}
            }
        }
        if !is_tracked {
            return self.inner.submit(batch, range, cx);
        }
        let start = range.start;
        let submitted = self.inner.submit(batch, range, cx);
        if let Submitted::Pending(count) = submitted {
            (start..start + count).for_each(|at| self.note(batch, at));
        }
        submitted
    }

    fn sees_to(&self, batch: &Batch<'_, Resp>, at: usize) -> bool {
        let is_ours = batch.calls.get(at).is_some_and(|call| call.op == op::CLIENT_TRACKING)
            && self.is_sharded()
            && batch.heads.get(at).is_some_and(|head| !head.is_open)
            && !args(batch.frame(at)).any(|word| word.eq_ignore_ascii_case(b"REDIRECT"));
        is_ours || self.inner.sees_to(batch, at)
    }

    fn fits(&self, connection: &Connection<Resp>, batch: &Batch<'_, Resp>, at: usize) -> Result<(), Refusal> {
        self.inner.fits(connection, batch, at)?;
        if let Some(call) = batch.calls.get(at)
            && self.table.borrow().trackers.contains_key(&call.ticket.conn)
        {
            if call.op == op::RESET {
                self.leave(call.ticket.conn);
            } else {
                self.note(batch, at);
            }
        }
        Ok(())
    }

    fn forget(&self, conn: ConnKey) {
        self.leave(conn);
        self.inner.forget(conn);
    }
}
