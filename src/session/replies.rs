//! Replies on their way to clients.

use std::rc::Rc;

use mecha_clusters::{Connection, Delivery, ReplySink, Slip};
use mecha_core::{
    Chain, ConnKey, Cx, Decode, Done, Framed, Matched, OpId, Outcome, Passage, Refusal, Replies, ReplyCount,
    Session, Span, Ticket,
};
use mecha_telemetry::CloseReason;

use super::connection::{Client, Listener, Route, State};
use super::engine::{Engine, EngineCell};

impl<P: Framed> ReplySink<P> for EngineCell<P> {
    fn deliver(&self, conn: ConnKey, delivery: Delivery<'_, P>) {
        self.0.borrow_mut().deliver(conn, delivery);
    }

    fn more(&self, conn: ConnKey, seq: u32, bytes: &[u8], done: Option<(Slip, Outcome, u32)>) {
        let mut engine = self.0.borrow_mut();
        let Some(client) = engine.client(conn) else { return };
        let state = &mut client.state;
        state.put(seq, bytes, done.is_some());
        if let Some((slip, outcome, micros)) = done {
            let done = [Done { ticket: Ticket { conn, seq }, op: slip.op, outcome, micros }];
            let (listener, peer) = (Rc::clone(&state.listener), state.peer.clone());
            engine.ended(&listener, &peer, &done);
        }
        engine.dirty(conn);
    }

    fn answered(&self, ticket: Ticket, op: OpId, bytes: &[u8], outcome: Outcome, now_micros: u64) {
        self.0.borrow_mut().answered(ticket, op, bytes, outcome, now_micros);
    }

    fn fail(&self, conn: ConnKey, first: u32, slips: &[Slip], why: Refusal, broken: bool) {
        let mut engine = self.0.borrow_mut();
        let Some(client) = engine.client(conn) else { return };
        let state = &mut client.state;
        if broken {
            // Part of an answer has left already: nothing that follows would be understood.
            state.break_off(CloseReason::UpstreamLost);
        }
        let mut done = Vec::with_capacity(slips.len());
        for (seq, slip) in (first..=u32::MAX).chain(0..).zip(slips) {
            // An error inside a reply that broke off would look like a part of it.
            if !broken {
                state.fail(seq, slip.asked(), why);
            }
            done.push(Done {
                ticket: Ticket { conn, seq },
                op: slip.op,
                outcome: Outcome::Refused(why),
                micros: 0,
            });
        }
        let (listener, peer) = (Rc::clone(&state.listener), state.peer.clone());
        engine.barrier_done(conn, &done);
        engine.ended(&listener, &peer, &done);
        engine.dirty(conn);
    }

    fn push(&self, conn: ConnKey, bytes: &[u8]) {
        self.0.borrow_mut().push(conn, bytes);
    }

    fn message(&self, conn: ConnKey, first: u8, rest: &[u8]) {
        self.0.borrow_mut().message(conn, None, first, rest);
    }

    fn message_behind(&self, conn: ConnKey, seq: u32, first: u8, rest: &[u8]) {
        self.0.borrow_mut().message(conn, Some(seq), first, rest);
    }

    fn unpinned(&self, conn: ConnKey) {
        let mut engine = self.0.borrow_mut();
        let Some(client) = engine.client(conn) else { return };
        // What the client had built up on that connection is gone, and only its own reconnect makes that clear to it.
        // A single blocking command has built up nothing.
        let is_harmless = client.state.is_releasing() && !client.state.is_raw();
        client.state.drop_pin();
        if !is_harmless {
            let is_bad = client.state.is_left_to_server;
            let why = if is_bad { CloseReason::Protocol } else { CloseReason::UpstreamLost };
            client.state.close(why);
        }
        client.state.wake();
        engine.dirty(conn);
    }

    fn repinned(&self, conn: ConnKey, connection: &Rc<Connection<P>>) -> bool {
        let mut engine = self.0.borrow_mut();
        let Some(client) = engine.client(conn) else { return false };
        let Route::Pinned { connection: known, .. } = &mut client.state.route else { return false };
        let old = std::mem::replace(known, Rc::clone(connection));
        let listener = Rc::clone(&client.state.listener);
        drop(engine);
        listener.upstream.unpin(old, false);
        true
    }

    fn resume(&self, conn: ConnKey) {
        if let Some(client) = self.0.borrow_mut().client(conn) {
            client.state.wake();
        }
    }

    fn flush(&self, now_micros: u64) -> Option<ConnKey> {
        self.0.borrow_mut().flush(now_micros)
    }

    fn is_choking(&self, conn: ConnKey, now_micros: u64) -> bool {
        self.0.borrow_mut().client(conn).is_some_and(|client| client.state.is_choking(now_micros))
    }
}

impl<P: Framed> Engine<P> {
    fn deliver(&mut self, conn: ConnKey, delivery: Delivery<'_, P>) {
        if self.client(conn).is_none() {
            return;
        }
        let Delivery { first, wire, heads, slips, open, parts_open, micros, now_micros } = delivery;
        let Self { done, local_replies: local, .. } = self;
        let mut done = std::mem::take(done);
        let mut local = std::mem::take(local);
        done.clear();
        local.clear();
        let mut is_quiet = parts_open.is_some_and(|slip| slip.replies == ReplyCount::Maybe);
        let mut ended = heads.iter().filter(|head| P::matched(head) == Matched::Last);
        let complete = slips.len() - usize::from(open).min(slips.len());
        for (index, slip) in slips.iter().enumerate() {
            is_quiet |= slip.replies == ReplyCount::Maybe;
            let outcome = ended.next().map_or(Outcome::Ok, P::outcome);
            if index < complete {
                let ticket = Ticket { conn, seq: first.wrapping_add(index as u32) };
                done.push(Done { ticket, op: slip.op, outcome, micros });
            }
        }
        let Some(client) = self.client(conn) else { return };
        let (listener, peer) = (Rc::clone(&client.state.listener), client.state.peer.clone());
        listener.metrics.done(&done);
        if client.state.is_barred
            && complete == 1
            && let ([done], [head]) = (&*done, &mut *heads)
        {
            let (reply, clients) = (P::reply_span(head).of(wire, &[]), listener.places.taken());
            if client.session.amend(done.op, reply, clients, &mut local) {
                P::set_reply_span(head, Span::local(0, local.len()));
            }
        }
        {
            let mut chain = listener.chain.borrow_mut();
            if !chain.is_empty() {
                let mut replies = Replies { wire, local: &mut local, heads, done: &done };
                chain.replies(&mut replies, &Cx { now_micros, peer: &peer });
            }
        }
        let state = &mut client.state;
        let is_whole = !open && parts_open.is_none() && !is_quiet && local.is_empty();
        let ends = (heads.first().map(P::reply_span), heads.last().map(P::reply_span));
        match ends {
            (Some(from), Some(to)) if is_whole && state.muted.is_empty() && state.ledger.is_next(first) => {
                state.outbox.extend(wire.get(from.start()..to.end()).unwrap_or_default());
                state.ledger.advance(complete as u32);
            }
            _ => state.deliver_each(first, wire, &local, heads, slips, open, parts_open),
        }
        self.barrier_done(conn, &done);
        self.dirty(conn);
        self.done = done;
        self.local_replies = local;
    }

    /// Takes the answer of a translator, showing it to filters that rewrite replies.
    fn answered(&mut self, ticket: Ticket, op: OpId, bytes: &[u8], outcome: Outcome, now_micros: u64) {
        let Some(client) = self.client(ticket.conn) else { return };
        let micros = client.state.since_submitted(ticket.seq, now_micros);
        let (listener, peer) = (Rc::clone(&client.state.listener), client.state.peer.clone());
        let done = [Done { ticket, op, outcome, micros }];
        listener.metrics.done(&done);
        let mut local = Vec::new();
        let cx = Cx { now_micros, peer: &peer };
        let shown = show_answer(&listener, bytes, &done, &mut local, &cx);
        let bytes = if shown { local.as_slice() } else { bytes };
        let Client { session, state, .. } = client;
        let mut amended = Vec::new();
        let is_amended = state.is_barred && session.amend(op, bytes, listener.places.taken(), &mut amended);
        let bytes = if is_amended { &amended } else { bytes };
        if state.is_barred {
            session.on_answer(op, bytes);
            state.is_listening = session.is_listening();
        }
        state.put(ticket.seq, bytes, true);
        self.barrier_done(ticket.conn, &done);
        self.dirty(ticket.conn);
    }

    /// Counts calls that ended without a whole reply passing through the chain.
    fn ended(&mut self, listener: &Listener<P>, peer: &mecha_core::Peer, done: &[Done]) {
        listener.metrics.done(done);
        let now_micros = self.clock_micros();
        listener.chain.borrow_mut().done(done, &Cx { now_micros, peer });
    }

    /// Tells the protocol's state how a barrier call ended.
    fn barrier_done(&mut self, conn: ConnKey, done: &[Done]) {
        let Some(client) = self.client(conn).filter(|client| client.state.is_barred) else { return };
        for done in done {
            let is_needed = client.session.on_barrier_done(done.op, done.outcome);
            if let Route::Pinned { is_releasing, .. } = &mut client.state.route {
                *is_releasing |= !is_needed;
            }
        }
    }
}

/// Runs an answer that was made in this process up the chain. Returns whether a filter rewrote it into `local`.
pub(super) fn show_answer<P: Framed>(
    listener: &Listener<P>,
    bytes: &[u8],
    done: &[Done],
    local: &mut Vec<u8>,
    cx: &Cx<'_>,
) -> bool {
    let mut chain = listener.chain.borrow_mut();
    let mut heads = Vec::new();
    let is_framed = listener.rewrites_replies
        && P::answer_decoder(listener.limits.frames, bytes).decode(bytes, &mut heads).is_ok();
    if !is_framed || heads.len() != 1 || heads.iter().any(|head| P::matched(head) == Matched::Push) {
        chain.done(done, cx);
        return show_parts::<P>(&mut chain, bytes, &heads, local, cx);
    }
    chain.replies(&mut Replies { wire: bytes, local, heads: &mut heads, done }, cx);
    let span = heads.first().map(P::reply_span).filter(|span| span.is_local());
    if let Some(span) = span {
        local.truncate(span.end());
        local.drain(..span.start());
    }
    span.is_some()
}

/// As [`show_answer`], for one that consists of messages.
fn show_parts<P: Framed>(
    chain: &mut Chain<P>,
    bytes: &[u8],
    heads: &[P::Reply],
    local: &mut Vec<u8>,
    cx: &Cx<'_>,
) -> bool {
    for head in heads {
        let part = P::reply_span(head).of(bytes, &[]);
        if chain.message(part, local, cx) == Passage::Kept {
            local.extend_from_slice(part);
        }
    }
    !heads.is_empty()
}

impl<P: Framed> State<P> {
    /// The careful way: out of order, rewritten, quiet, or in parts.
    #[expect(clippy::too_many_arguments, reason = "a delivery taken apart")]
    fn deliver_each(
        &mut self,
        first: u32,
        wire: &[u8],
        local: &[u8],
        heads: &[P::Reply],
        slips: &[Slip],
        open: bool,
        parts_open: Option<Slip>,
    ) {
        let mut index = 0;
        for (at, head) in heads.iter().enumerate() {
            let Some(slip) = slips.get(index).copied().or(parts_open) else { return };
            let is_last = P::matched(head) == Matched::Last;
            let is_silent = slip.replies == ReplyCount::Maybe && P::silent(slip.op, head);
            let mut bytes = if is_silent { &[] } else { P::reply_span(head).of(wire, local) };
            let goes_on = open && at + 1 == heads.len();
            let seq = first.wrapping_add(index as u32);
            if slip.replies == ReplyCount::Maybe && !is_silent {
                let start = P::reply_start(slip.op);
                self.put(seq, start, false);
                bytes = bytes.get(start.len()..).unwrap_or_default();
            }
            self.put(seq, bytes, is_last && !goes_on);
            index += usize::from(is_last);
        }
    }

    /// Forgets when batches were submitted whose calls are all answered.
    pub(super) fn forget_answered(&mut self) {
        let (first, in_flight) = (self.ledger.first(), self.ledger.in_flight());
        let is_over = |(end, _): &(u32, u64)| end.wrapping_sub(first).wrapping_sub(1) >= in_flight;
        while self.batches.front().is_some_and(is_over) {
            self.batches.pop_front();
        }
    }

    /// How long ago the batch with call `seq` was submitted; 0 if that was not noted.
    fn since_submitted(&mut self, seq: u32, now_micros: u64) -> u32 {
        self.forget_answered();
        let first = self.ledger.first();
        let is_of = |end: &u32| seq.wrapping_sub(first) < end.wrapping_sub(first);
        let batch = self.batches.iter().find(|(end, _)| is_of(end));
        batch.map_or(0, |(_, start)| u32::try_from(now_micros.saturating_sub(*start)).unwrap_or(u32::MAX))
    }
}
