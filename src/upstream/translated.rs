//! A translator joined to the cluster that it translates for.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use mecha_clusters::{Cluster, Delivery, Frame, ReplySink, Slip, SubmitCx, Submitted, Upstream};
use mecha_core::{Batch, ConnKey, Matched, OpId, Outcome, Refusal, Ticket};
use mecha_translate::kv::{Answers, BackFrames, GaveUp};
use mecha_translate::{Exchange, KvBack, KvFront, Options, Taken, Translator};
use mecha_transport::{Clock, unix_ms};
use tokio::task::AbortHandle;

use super::mailbox::Listening;
use super::submitted;

/// Front protocol `A` over a cluster that speaks `B`.
///
/// It is the upstream of `A`'s engine and the reply sink of `B`'s connections. Tokens of the translator travel as the
/// places of an imaginary connection's calls.
pub struct Translated<A: KvFront, B: KvBack> {
    translator: RefCell<Translator<A, B>>,
    cluster: Rc<Cluster<B>>,
    clients: Rc<dyn ReplySink<A>>,
    frames: RefCell<BackFrames>,
    answers: RefCell<Answers>,
    /// Clients whose calls the translator had no room for; any answer may have made some.
    waiting: RefCell<Vec<ConnKey>>,
    /// Clients whose calls wait for the answer to one that waits for its keys.
    behind: RefCell<HashSet<ConnKey>>,
    /// Wakes the translator, at this Unix time in milliseconds.
    alarm: RefCell<Option<(u64, AbortHandle)>>,
    listening: Listening,
    clock: Clock,
    me: Weak<Self>,
}

impl<A: KvFront, B: KvBack> Translated<A, B> {
    /// Joins them.
    pub fn new(
        options: Options,
        cluster: Rc<Cluster<B>>,
        exchange: Arc<Exchange>,
        clock: Clock,
        clients: Rc<dyn ReplySink<A>>,
    ) -> Rc<Self> {
        let listening = Listening::new(exchange);
        let mut translator = Translator::new(options);
        translator.open_door(listening.door.clone());
        Rc::new_cyclic(|me| Self {
            translator: RefCell::new(translator),
            cluster,
            clients,
            frames: RefCell::default(),
            answers: RefCell::default(),
            waiting: RefCell::default(),
            behind: RefCell::default(),
            alarm: RefCell::default(),
            listening,
            clock,
            me: Weak::clone(me),
        })
    }

    fn sink(&self) -> Option<Rc<dyn ReplySink<B>>> {
        self.me.upgrade().map(|me| me as Rc<dyn ReplySink<B>>)
    }

    /// Sends what the translator has made. Returns the tokens that could not be sent.
    fn send(&self, now_micros: u64) -> Vec<(u32, Refusal)> {
        let mut failed = Vec::new();
        let Some(sink) = self.sink() else { return failed };
        let mut frames = self.frames.borrow_mut();
        for frame in &frames.frames {
            let sent = self.cluster.send(
                Frame {
                    bytes: frame.span.of(&frames.wire, &[]),
                    key: Some(frame.key.of(&frames.wire, &[])),
                    endpoint: frame.endpoint.map(usize::from),
                    ticket: Ticket { conn: ConnKey::default(), seq: frame.token },
                    slip: Slip::of(frame.op),
                    timeout_ms: frame.timeout_ms,
                },
                &sink,
                now_micros,
            );
            if let Err(why) = sent {
                failed.push((frame.token, why));
            }
        }
        frames.wire.clear();
        frames.frames.clear();
        failed
    }

    /// Tells the translator about steps that were not sent, and its clients what follows from it.
    fn fail_all(&self, failed: &[(u32, Refusal)], now_micros: u64) {
        let now_ms = unix_ms();
        for (token, why) in failed {
            let (mut frames, mut answers) = (self.frames.borrow_mut(), self.answers.borrow_mut());
            self.translator.borrow_mut().fail(*token, *why, now_ms, &mut frames, &mut answers);
        }
        self.answer(now_micros);
    }

    fn answer(&self, now_micros: u64) {
        let mut answers = self.answers.take();
        for answer in &answers.list {
            self.clients.answered(
                answer.ticket,
                answer.op,
                answer.span.of(&answers.wire, &[]),
                answer.outcome,
                now_micros,
            );
            let conn = answer.ticket.conn;
            if !self.behind.borrow().is_empty() && self.behind.borrow_mut().remove(&conn) {
                self.clients.resume(conn);
            }
        }
        answers.wire.clear();
        answers.list.clear();
        self.answers.replace(answers);
    }

    /// Sends what replies have led to, until nothing fails any more.
    fn go_on(&self, now_micros: u64) {
        self.answer(now_micros);
        loop {
            let failed = self.send(now_micros);
            if failed.is_empty() {
                break;
            }
            self.fail_all(&failed, now_micros);
        }
        for conn in self.waiting.take() {
            self.clients.resume(conn);
        }
        self.set_alarm();
    }

    /// Sees to it that whoever waits for keys is tried again in time.
    fn set_alarm(&self) {
        let Some(at) = self.translator.borrow().wakes_at() else { return };
        let mut alarm = self.alarm.borrow_mut();
        if alarm.as_ref().is_some_and(|(set, _)| *set <= at) {
            return;
        }
        let me = Weak::clone(&self.me);
        let pause = Duration::from_millis(at.saturating_sub(unix_ms()));
        let task = tokio::task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            if let Some(me) = me.upgrade() {
                me.alarm.replace(None);
                me.wake();
            }
        });
        if let Some((_, earlier)) = alarm.replace((at, task.abort_handle())) {
            earlier.abort();
        }
    }

    /// Ends what this client waits for.
    fn give_up(&self, conn: ConnKey, why: GaveUp) -> bool {
        let did = self.translator.borrow_mut().give_up(conn, why, &mut self.answers.borrow_mut());
        let now_micros = self.cluster.now_micros();
        self.answer(now_micros);
        self.clients.flush(now_micros);
        did
    }

    fn wake(&self) {
        let now_micros = self.cluster.now_micros();
        {
            let (mut frames, mut answers) = (self.frames.borrow_mut(), self.answers.borrow_mut());
            self.translator.borrow_mut().wake(unix_ms(), &mut frames, &mut answers);
        }
        self.go_on(now_micros);
        self.clients.flush(now_micros);
    }
}

impl<A: KvFront, B: KvBack> Upstream<A> for Translated<A, B> {
    fn submit(&self, batch: &mut Batch<'_, A>, range: Range<usize>, cx: SubmitCx<'_, A>) -> Submitted {
        let first = range.start;
        if self.cluster.is_full()
            && let (Some(sink), Some(call)) = (self.sink(), batch.calls.get(range.start))
        {
            self.cluster.wait_for_room(&sink, call.ticket.conn);
            return Submitted::Full;
        }
        if let (Some(sink), Some(call)) = (self.sink(), batch.calls.get(range.start))
            && self.cluster.waits_for_news(&sink, call.ticket.conn, cx.now_micros)
        {
            return Submitted::Full;
        }
        // What the client has in flight may yet be on its way to where its keys were.
        if !self.cluster.may_send(cx.lane, cx.idle) {
            return Submitted::Full;
        }
        self.listening.start(&self.clients, self.clock);
        self.translator.borrow_mut().set_endpoints(self.cluster.len());
        let taken = self.translator.borrow_mut().requests(
            batch,
            range,
            cx.peer,
            unix_ms(),
            &mut self.frames.borrow_mut(),
        );
        let failed = self.send(cx.now_micros);
        if !failed.is_empty()
            && let Some(me) = self.me.upgrade()
        {
            // The engine is in the middle of this client's batch: it hears of the failure in its own turn.
            let now_micros = cx.now_micros;
            tokio::task::spawn_local(async move {
                me.fail_all(&failed, now_micros);
                me.go_on(now_micros);
                me.clients.flush(now_micros);
            });
        }
        if taken == Taken::Full
            && let Some(conn) = batch.calls.get(first).map(|call| call.ticket.conn)
        {
            if self.translator.borrow().is_waiting(conn) {
                self.behind.borrow_mut().insert(conn);
            } else {
                self.waiting.borrow_mut().push(conn);
            }
        }
        submitted(taken)
    }

    fn is_translated(&self) -> bool {
        true
    }

    fn is_waiting(&self, conn: ConnKey) -> bool {
        self.translator.borrow().is_waiting(conn)
    }

    fn unblock(&self, conn: ConnKey, with_error: bool) -> bool {
        self.give_up(conn, if with_error { GaveUp::Unblocked } else { GaveUp::TimeUp })
    }

    fn release(&self) {
        let waiting: Vec<_> = self.translator.borrow().who_waits().collect();
        for conn in waiting {
            self.give_up(conn, GaveUp::Moved);
        }
    }

    fn forget(&self, conn: ConnKey) {
        self.behind.borrow_mut().remove(&conn);
        self.listening.door.forget(conn);
        if !self.translator.borrow().is_waiting(conn) {
            return;
        }
        {
            let (mut frames, mut answers) = (self.frames.borrow_mut(), self.answers.borrow_mut());
            self.translator.borrow_mut().forget(conn, unix_ms(), &mut frames, &mut answers);
        }
        // Others may have become first in a queue; the engine may be in the middle of closing this one.
        if let Some(me) = self.me.upgrade() {
            tokio::task::spawn_local(async move {
                let now_micros = me.cluster.now_micros();
                me.go_on(now_micros);
                me.clients.flush(now_micros);
            });
        }
    }
}

impl<A: KvFront, B: KvBack> ReplySink<B> for Translated<A, B> {
    fn deliver(&self, _conn: ConnKey, delivery: Delivery<'_, B>) {
        let now_ms = unix_ms();
        {
            let mut translator = self.translator.borrow_mut();
            let (mut frames, mut answers) = (self.frames.borrow_mut(), self.answers.borrow_mut());
            let last = delivery.heads.iter().filter(|head| B::matched(head) == Matched::Last);
            for (index, head) in last.take(delivery.slips.len()).enumerate() {
                let frame = B::reply_span(head).of(delivery.wire, &[]);
                let token = delivery.first.wrapping_add(index as u32);
                translator.reply(token, head, frame, now_ms, &mut frames, &mut answers);
            }
        }
        self.go_on(delivery.now_micros);
    }

    /// Replies of a back are decoded whole: its connections are opened with limits that say so.
    fn more(&self, _conn: ConnKey, seq: u32, _bytes: &[u8], done: Option<(Slip, Outcome, u32)>) {
        if done.is_some() {
            let now_micros = self.cluster.now_micros();
            self.fail_all(&[(seq, Refusal::UpstreamGone)], now_micros);
            self.go_on(now_micros);
        }
    }

    fn answered(&self, _ticket: Ticket, _op: OpId, _bytes: &[u8], _outcome: Outcome, _now_micros: u64) {}

    fn fail(&self, _conn: ConnKey, first: u32, slips: &[Slip], why: Refusal, _broken: bool) {
        let failed: Vec<_> = (0..slips.len() as u32).map(|index| (first.wrapping_add(index), why)).collect();
        let now_micros = self.cluster.now_micros();
        self.fail_all(&failed, now_micros);
        self.go_on(now_micros);
    }

    fn push(&self, _conn: ConnKey, _bytes: &[u8]) {}

    fn unpinned(&self, _conn: ConnKey) {}

    fn resume(&self, conn: ConnKey) {
        self.clients.resume(conn);
    }

    fn flush(&self, now_micros: u64) -> Option<ConnKey> {
        self.clients.flush(now_micros)
    }

    fn is_choking(&self, conn: ConnKey, now_micros: u64) -> bool {
        self.clients.is_choking(conn, now_micros)
    }
}
