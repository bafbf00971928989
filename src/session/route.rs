//! Acting on verdicts: which calls of a batch go where, and which must wait.
//!
//! Calls of one client never overtake each other towards the same data. So a change of upstream connection (to a
//! dedicated one and back, to one of another profile) waits until everything in flight is answered.

use std::ops::Range;
use std::rc::Rc;

use mecha_clusters::{ReplySink, SubmitCx, Submitted, Wish};
use mecha_core::{
    Affinity, Asked, Batch, Call, Cx, Done, Framed, Outcome, Refusal, ReplyCount, Session, Verdict,
};
use mecha_telemetry::CloseReason;

use super::connection::{OUTPUT_HIGH, OpenRequest, Position, Route, State, Wait};
use super::replies::show_answer;
use crate::mesh::Mesh;

/// How far a batch got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it.
    Done,
    /// Up to a call that waits.
    Stalled(Wait),
}

/// What processing needs from the engine.
pub(super) struct Processing<'a, P: Framed> {
    pub(super) sink: &'a Rc<dyn ReplySink<P>>,
    pub(super) mesh: &'a Mesh,
    pub(super) now_micros: u64,
    /// Ends of calls answered here; reused.
    pub(super) done: &'a mut Vec<Done>,
    /// Calls from here on are not served: the client has taken its leave.
    pub(super) stop_at: usize,
}

impl<P: Framed> State<P> {
    /// Takes `batch` through the protocol's state and the chain, and acts on the verdicts, from `position` on. Most
    /// batches go in one piece; where calls change the state, piece by piece.
    pub(super) fn serve(
        &mut self,
        batch: &mut Batch<'_, P>,
        position: &mut Position,
        cx: &mut Processing<'_, P>,
    ) -> Progress {
        loop {
            if position.at == position.seen {
                if position.seen == batch.calls.len() {
                    return Progress::Done;
                }
                // What the next calls mean depends on an outcome that is not known yet.
                if self.is_barred && self.ledger.in_flight() > 0 {
                    return Progress::Stalled(Wait::Drained);
                }
                if position.is_special && !self.listener.upstream.recognise(batch, position.seen, cx.sink) {
                    return Progress::Stalled(Wait::Room);
                }
                self.look(batch, position, cx);
            }
            if let Progress::Stalled(wait) = self.process(batch, position, cx) {
                return Progress::Stalled(wait);
            }
            if self.is_broken || cx.stop_at <= position.seen {
                return Progress::Done;
            }
        }
    }

    /// Shows the next piece to the protocol's state and to the chain.
    fn look(&mut self, batch: &mut Batch<'_, P>, position: &mut Position, cx: &mut Processing<'_, P>) {
        let from = position.seen;
        position.seen = batch.calls.len();
        let chain_cx = Cx { now_micros: cx.now_micros, peer: &self.peer };
        if let (Some(guard), Some(who)) = (&*self.listener.guard.borrow(), &mut self.who) {
            if position.judged <= from {
                position.judged = guard.admit(batch, from..position.seen, who, &chain_cx);
            }
            position.seen = position.judged;
            if self.peer.user.as_ref() != who.name() {
                self.peer.user = who.name().cloned();
            }
        }
        if position.is_special {
            let (heads, calls) = (
                batch.heads.get_mut(..position.seen).unwrap_or_default(),
                batch.calls.get_mut(..position.seen).unwrap_or_default(),
            );
            let mut piece =
                Batch { wire: batch.wire, local: batch.local, heads, calls, session: batch.session };
            let looked = P::Session::on_requests(&mut piece, from);
            position.seen = looked.next;
            if looked.is_over {
                self.close(CloseReason::Quit);
                cx.stop_at = looked.next;
            }
        }
        let (heads, calls) = (
            batch.heads.get_mut(from..position.seen).unwrap_or_default(),
            batch.calls.get_mut(from..position.seen).unwrap_or_default(),
        );
        let mut piece = Batch { wire: batch.wire, local: batch.local, heads, calls, session: batch.session };
        let cx = Cx { now_micros: cx.now_micros, peer: &self.peer };
        self.listener.chain.borrow_mut().requests(&mut piece, &cx);
    }

    /// Acts on the verdicts of what has been seen.
    fn process(
        &mut self,
        batch: &mut Batch<'_, P>,
        position: &mut Position,
        cx: &mut Processing<'_, P>,
    ) -> Progress {
        cx.done.clear();
        let progress = loop {
            let at = position.at;
            let Some(call) = batch.calls.get(at).copied().filter(|_| at < position.seen) else {
                break Progress::Done;
            };
            if self.is_broken || at >= cx.stop_at {
                break Progress::Done;
            }
            match call.verdict {
                Verdict::Answered(span) => {
                    let outcome = P::answer_outcome(span.of(batch.wire, batch.local));
                    if self.is_barred && self.ledger.in_flight() == 0 {
                        // The upstream is in this process, and has answered what was to be sent.
                        batch.session.on_barrier_done(call.op, outcome);
                    }
                    self.answer_here(&call, span.of(batch.wire, batch.local), outcome, cx);
                    self.is_listening = batch.session.is_listening();
                    position.at += 1;
                }
                Verdict::Refuse(why) => {
                    self.refuse(&call, why, cx);
                    position.at += 1;
                    if batch.session.on_refused(&call) {
                        self.close(CloseReason::Refused);
                        cx.stop_at = position.at;
                    }
                }
                Verdict::Forward => match self.forward(batch, position, &call, cx) {
                    Ok(next) => position.at = next,
                    Err(wait) => break Progress::Stalled(wait),
                },
            }
        };
        if !cx.done.is_empty() {
            self.listener.metrics.done(cx.done);
            let peer = &self.peer;
            self.listener.chain.borrow_mut().done(cx.done, &Cx { now_micros: cx.now_micros, peer });
        }
        progress
    }

    /// Sends call `at`, and as many after it as may go the same way. Returns the next position, or what to wait for.
    fn forward(
        &mut self,
        batch: &mut Batch<'_, P>,
        position: &Position,
        call: &Call,
        cx: &mut Processing<'_, P>,
    ) -> Result<usize, Wait> {
        let at = position.at;
        let is_drained = self.ledger.in_flight() == 0;
        if (self.is_barred || self.is_releasing()) && !is_drained || self.is_sought {
            return Err(Wait::Drained);
        }
        self.release_if_due(batch.session);
        // Answers made in this process come at once: a client that does not read them must not have more of them made.
        if self.ledger.in_flight() >= self.listener.limits.max_in_flight || self.unread() >= OUTPUT_HIGH {
            return Err(Wait::Room);
        }
        if call.affinity == Affinity::Errand {
            return self.run_errand(batch, at, call, cx);
        }
        if call.affinity == Affinity::Aside {
            return self.submit_alone(batch, at, cx);
        }
        if !matches!(self.route, Route::Shared) {
            return self.forward_pinned(batch, at, call, cx);
        }
        if !self.deferred.is_empty() {
            return if is_drained { self.pin(batch, at, call, cx) } else { Err(Wait::Drained) };
        }
        match call.affinity {
            Affinity::Shared | Affinity::Release | Affinity::Waits if self.listener.is_private => {
                if is_drained {
                    self.pin(batch, at, call, cx)
                } else {
                    Err(Wait::Drained)
                }
            }
            Affinity::Shared | Affinity::Release | Affinity::Waits => {
                let end = run_end(batch.calls.get(..position.seen).unwrap_or_default(), at);
                self.submit(batch, at..end, cx)
            }
            Affinity::Attempt | Affinity::Once | Affinity::Pin
                if self.listener.upstream.sees_to(batch, at) =>
            {
                let may_bind = matches!(call.affinity, Affinity::Attempt | Affinity::Pin);
                if may_bind && !is_drained {
                    return Err(Wait::Drained);
                }
                batch.session.on_seen_to(call);
                // What would bind a connection may change what the client's next calls mean.
                self.is_barred = may_bind;
                self.submit(batch, at..at + 1, cx)
            }
            // Seen to above.
            Affinity::Errand => Ok(at),
            Affinity::Raw if self.listener.upstream.sees_to(batch, at) => {
                if is_drained {
                    batch.session.on_seen_to(call);
                }
                self.submit_alone(batch, at, cx)
            }
            Affinity::Aside | Affinity::Barrier => self.submit_alone(batch, at, cx),
            Affinity::Attempt | Affinity::Once | Affinity::Pin | Affinity::Raw if !is_drained => {
                Err(Wait::Drained)
            }
            Affinity::Attempt | Affinity::Once | Affinity::Pin | Affinity::Raw => {
                self.pin(batch, at, call, cx)
            }
        }
    }

    /// Sends call `at` when nothing is in flight, and nothing behind it before it is answered.
    fn submit_alone(
        &mut self,
        batch: &mut Batch<'_, P>,
        at: usize,
        cx: &mut Processing<'_, P>,
    ) -> Result<usize, Wait> {
        if self.ledger.in_flight() > 0 {
            return Err(Wait::Drained);
        }
        self.is_barred = true;
        self.submit(batch, at..at + 1, cx)
    }

    /// Gets the client a dedicated connection and sends call `at` there.
    fn pin(
        &mut self,
        batch: &mut Batch<'_, P>,
        at: usize,
        call: &Call,
        cx: &mut Processing<'_, P>,
    ) -> Result<usize, Wait> {
        let upstream = Rc::clone(&self.listener.upstream);
        let mut key = batch.heads.get(at).and_then(|head| P::key(head, batch.frame(at)));
        if !self.deferred.is_empty() {
            // The first call behind it chooses the server, if it has a key; any other call may go anywhere.
            key = key.or(Some(&[]));
        }
        let wish = Wish {
            op: call.op,
            class: call.class,
            key,
            profile: batch.session.profile(),
            lane: &self.lane,
            conn: call.ticket.conn,
            peer: &self.peer,
            database: batch.session.database(),
        };
        if !upstream.is_ready(cx.sink, &wish) {
            return Err(Wait::Room);
        }
        if self.deferred.is_empty()
            && key.is_none()
            && upstream.waits_for_key()
            && let Some(reply) = P::deferral(call.op)
        {
            self.deferred = batch.frame(at).to_vec();
            self.answer_here(call, reply, Outcome::Ok, cx);
            return Ok(at + 1);
        }
        let deferred = std::mem::take(&mut self.deferred);
        match upstream.pin(&wish) {
            Ok(connection) => {
                if let Err(why) = upstream.fits(&connection, batch, at) {
                    upstream.unpin(connection, true);
                    self.deferred = deferred;
                    return Ok(misfit(batch, at, why));
                }
                let taker =
                    upstream.taker(&connection, call.ticket.conn).unwrap_or_else(|| Rc::clone(cx.sink));
                let owner = (taker, call.ticket.conn);
                connection.set_owner(Some(owner), false);
                let mut first = Vec::new();
                let replies = batch.session.introduction(&mut first);
                first.extend_from_slice(&deferred);
                let noted = deferred.len();
                connection.submit_preamble(&first, replies + u32::from(noted > 0), noted);
                self.route = Route::Pinned { connection, is_releasing: false, is_raw: false };
                self.forward_pinned(batch, at, call, cx)
            }
            Err(why) => {
                self.refuse(call, why, cx);
                // What the client sends behind a `MULTI` that there was no connection for must not be run.
                let is_over = !deferred.is_empty() || call.affinity != Affinity::Once;
                if batch.session.on_refused(call) || is_over {
                    self.close(CloseReason::Refused);
                    cx.stop_at = at + 1;
                }
                Ok(at + 1)
            }
        }
    }

    fn forward_pinned(
        &mut self,
        batch: &mut Batch<'_, P>,
        at: usize,
        call: &Call,
        cx: &mut Processing<'_, P>,
    ) -> Result<usize, Wait> {
        let Route::Pinned { connection, is_releasing, is_raw } = &mut self.route else { return Ok(at) };
        if connection.is_full() {
            connection.wait_for_room(cx.sink, call.ticket.conn);
            return Err(Wait::Room);
        }
        // Until the first answer the connection may yet be exchanged for one to another server.
        if (connection.may_move() || connection.is_moving()) && self.ledger.in_flight() > 0 {
            return Err(Wait::Drained);
        }
        if connection.is_unsettled()
            && let Some(key) = batch.heads.get(at).and_then(|head| P::key(head, batch.frame(at)))
        {
            // The first key of a transaction decides where it runs.
            if self.ledger.in_flight() > 0 {
                return Err(Wait::Drained);
            }
            let upstream = &self.listener.upstream;
            let conn = call.ticket.conn;
            let taker = upstream.taker(connection, conn).unwrap_or_else(|| Rc::clone(cx.sink));
            match upstream.settle(connection, (taker, conn), key) {
                Ok(None) => {}
                Ok(Some(other)) => upstream.unpin(std::mem::replace(connection, other), false),
                Err(why) => return Ok(misfit(batch, at, why)),
            }
        }
        if let Err(why) = self.listener.upstream.fits(connection, batch, at) {
            return Ok(misfit(batch, at, why));
        }
        if !self.listener.upstream.may_go(connection, batch, at) {
            return Err(Wait::Room);
        }
        // Once a call that waits, or whose replies are not counted, is under way, the server can be asked no more.
        let waits = matches!(call.affinity, Affinity::Once | Affinity::Waits);
        let is_new_raw = call.affinity == Affinity::Raw && !*is_raw;
        let may_ask = (waits || is_new_raw && !batch.session.is_noted()) && P::is_sought(call.op);
        let whoami = if may_ask { P::whoami() } else { &[] };
        // Once replies are not counted, those in flight must have left.
        let goes_alone = call.affinity == Affinity::Attempt
            || is_new_raw
            || !whoami.is_empty() && connection.whoami().is_empty();
        if goes_alone && self.ledger.in_flight() > 0 {
            return Err(Wait::Drained);
        }
        let seen = Cx { now_micros: cx.now_micros, peer: &self.peer };
        self.listener.upstream.shape(connection, batch, at, &seen);
        if batch.calls.get(at).is_some_and(|call| call.verdict != Verdict::Forward) {
            if call.affinity == Affinity::Once {
                self.drop_pin();
            }
            return Ok(at);
        }
        let taker =
            self.listener.upstream.taker(connection, call.ticket.conn).unwrap_or_else(|| Rc::clone(cx.sink));
        if !whoami.is_empty() {
            connection.identify(whoami);
            self.blocked = waits.then_some(call.ticket.seq);
        }
        match call.affinity {
            Affinity::Attempt => self.is_barred = true,
            Affinity::Once | Affinity::Release => *is_releasing = true,
            Affinity::Raw if !*is_raw => {
                *is_raw = true;
                let hush = batch.session.hush();
                if !hush.is_empty() {
                    connection.tell_aside(hush, 0);
                }
                connection.set_owner(Some((Rc::clone(&taker), call.ticket.conn)), true);
            }
            _ => {}
        }
        self.mark_open(batch, at);
        let Route::Pinned { connection, is_raw, is_releasing } = &self.route else { return Ok(at) };
        if *is_raw {
            connection.submit_bytes(batch.frame(at));
            self.ledger.take(1);
            self.ledger.advance(1);
            let ticket = call.ticket;
            cx.done.push(Done { ticket, op: call.op, outcome: Outcome::Ok, micros: 0 });
        } else {
            let spoiler = batch.session.spoiler();
            if !spoiler.is_empty() {
                connection.submit_unasked(spoiler, &taker, call.ticket, cx.now_micros);
            }
            if *is_releasing {
                connection.commit();
            }
            connection.submit(batch, at..at + 1, &taker, cx.now_micros);
            self.take(batch, at..at + 1);
        }
        Ok(at + 1)
    }

    /// The last call of a batch may be an open request, whose pieces follow on the same connection.
    fn mark_open(&mut self, batch: &Batch<'_, P>, at: usize) {
        if self.open_request == OpenRequest::Waiting && at + 1 == batch.calls.len() {
            self.open_request = OpenRequest::Forwarding;
        }
    }

    fn submit(
        &mut self,
        batch: &mut Batch<'_, P>,
        range: Range<usize>,
        cx: &mut Processing<'_, P>,
    ) -> Result<usize, Wait> {
        let start = range.start;
        let profile = batch.session.profile();
        let submit_cx = SubmitCx {
            sink: cx.sink,
            lane: &mut self.lane,
            idle: self.ledger.in_flight() == 0,
            peer: &self.peer,
            now_micros: cx.now_micros,
            profile,
        };
        let upstream = Rc::clone(&self.listener.upstream);
        match upstream.submit(batch, range, submit_cx) {
            Submitted::Pending(count) => {
                self.take(batch, start..start + count);
                if let Some(last) = batch.calls.get(start + count - 1)
                    && upstream.is_waiting(last.ticket.conn)
                {
                    self.blocked = Some(last.ticket.seq);
                }
                if upstream.is_timed_by_session() {
                    self.forget_answered();
                    self.batches.push_back((self.ledger.next(), cx.now_micros));
                }
                Ok(start + count)
            }
            Submitted::Full => Err(Wait::Room),
            Submitted::Refused(count, why) => {
                for index in start..start + count {
                    if let Some(call) = batch.calls.get(index).copied() {
                        self.refuse(&call, why, cx);
                    }
                }
                Ok(start + count)
            }
            Submitted::Answered(count @ 1..) if self.listener.rewrites_replies => {
                self.answer_shown(batch, start..start + count, cx);
                Ok(start + count)
            }
            Submitted::Close(count) if self.listener.rewrites_replies => {
                self.answer_shown(batch, start..start + count, cx);
                self.close(CloseReason::Quit);
                cx.stop_at = start + count;
                Ok(start + count)
            }
            // The loop in `process` meets these calls again with their new verdicts.
            Submitted::Answered(count) => Ok(if count == 0 { start + 1 } else { start }),
            Submitted::Close(count) => {
                self.close(CloseReason::Quit);
                cx.stop_at = start + count;
                Ok(start)
            }
        }
    }

    /// Takes answers that an upstream in this process made at once, and shows them to filters that rewrite replies.
    fn answer_shown(&mut self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: &Processing<'_, P>) {
        let listener = Rc::clone(&self.listener);
        for at in range {
            let Some(call) = batch.calls.get(at).copied() else { continue };
            let Verdict::Answered(span) = call.verdict else { continue };
            let bytes = span.of(batch.wire, batch.local);
            let outcome = P::answer_outcome(bytes);
            if self.is_barred && self.ledger.in_flight() == 0 {
                batch.session.on_barrier_done(call.op, outcome);
            }
            let done = [Done { ticket: call.ticket, op: call.op, outcome, micros: 0 }];
            listener.metrics.done(&done);
            let mut local = Vec::new();
            let seen = Cx { now_micros: cx.now_micros, peer: &self.peer };
            let is_rewritten = show_answer(&listener, bytes, &done, &mut local, &seen);
            let bytes = if is_rewritten { &local } else { bytes };
            let bytes = if call.replies == ReplyCount::None { &[] } else { bytes };
            self.ledger.take(1);
            self.ledger.answer(call.ticket.seq, bytes, true, self.outbox.buffer());
            self.is_listening = batch.session.is_listening();
        }
    }

    /// Gives the dedicated connection back when nothing is in flight on it.
    pub(super) fn release_if_due(&mut self, session: &mut P::Session) {
        if self.ledger.in_flight() > 0 {
            return;
        }
        self.is_barred = false;
        if self.is_releasing()
            && let Route::Pinned { connection, .. } = std::mem::replace(&mut self.route, Route::Shared)
        {
            let mut last = Vec::new();
            let (replies, is_clean) = (session.farewell(&mut last), !session.is_spent());
            if replies > 0 && is_clean {
                connection.tell_aside(&last, replies);
            }
            self.listener.upstream.unpin(connection, is_clean);
        }
    }

    /// Gives the dedicated connection up, in whatever state it is.
    pub(super) fn drop_pin(&mut self) {
        if let Route::Pinned { connection, .. } = std::mem::replace(&mut self.route, Route::Shared) {
            connection.set_owner(None, false);
            self.listener.upstream.unpin(connection, false);
        }
    }

    fn refuse(&mut self, call: &Call, why: Refusal, cx: &mut Processing<'_, P>) {
        if self.open_request == OpenRequest::Waiting {
            self.open_request = OpenRequest::Swallowing;
        }
        let error = refusal::<P>(call.asked(), why);
        self.answer_here(call, &error, Outcome::Refused(why), cx);
    }

    /// Calls are under way.
    fn take(&mut self, batch: &Batch<'_, P>, range: Range<usize>) {
        self.ledger.take(range.len() as u32);
        if batch.session.is_deaf() {
            let calls = batch.calls.get(range).unwrap_or_default();
            let muted = calls.iter().filter(|call| call.replies == ReplyCount::None);
            self.muted.extend(muted.map(|call| call.ticket.seq));
        }
    }

    /// Adds bytes to an answer, as [`super::Ledger::answer`] does, unless the client wants none.
    pub(super) fn put(&mut self, seq: u32, bytes: &[u8], is_done: bool) {
        let mut bytes = bytes;
        if let Some(at) = self.muted.iter().position(|muted| *muted == seq) {
            bytes = &[];
            if is_done {
                self.muted.remove(at);
            }
        }
        self.ledger.answer(seq, bytes, is_done, self.outbox.buffer());
    }

    pub(super) fn answer_here(
        &mut self,
        call: &Call,
        bytes: &[u8],
        outcome: Outcome,
        cx: &mut Processing<'_, P>,
    ) {
        let bytes = if call.replies == ReplyCount::None { &[] } else { bytes };
        self.ledger.take(1);
        self.ledger.answer(call.ticket.seq, bytes, true, self.outbox.buffer());
        cx.done.push(Done { ticket: call.ticket, op: call.op, outcome, micros: 0 });
    }

    /// Appends the refusal of a call that was sent.
    pub(super) fn fail(&mut self, seq: u32, asked: Asked, why: Refusal) {
        let error = refusal::<P>(asked, why);
        self.put(seq, &error, true);
    }
}

/// Call `at` may not go where its client's calls go now. The loop in `process` meets it again.
pub(super) fn misfit<P: Framed>(batch: &mut Batch<'_, P>, at: usize, why: Refusal) -> usize {
    if let Some(call) = batch.calls.get_mut(at) {
        call.verdict = Verdict::Refuse(why);
    }
    at
}

/// The native error.
pub(super) fn refusal<P: Framed>(asked: Asked, why: Refusal) -> Vec<u8> {
    let mut error = Vec::new();
    P::refuse(asked, why, &mut error);
    error
}

/// The end of the run of calls from `at` on that go to shared connections as they are.
fn run_end(calls: &[Call], at: usize) -> usize {
    let is_plain = |call: &Call| call.verdict == Verdict::Forward && call.affinity == Affinity::Shared;
    calls
        .iter()
        .enumerate()
        .skip(at + 1)
        .find(|(_, call)| !is_plain(call))
        .map_or(calls.len(), |(index, _)| index)
}
