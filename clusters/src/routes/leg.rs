//! One route on one worker: where its calls go, and the filters that stand there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use mecha_core::{
    Batch, Chain, ConnKey, Cx, Decode, Done, Framed, Limits, Matched, OpId, Outcome, Passage, Peer, Refusal,
    Replies, Span, Ticket, Verdict,
};
use mecha_telemetry::RouteMetrics;

use super::junction::Junction;
use crate::scatter::Rules;
use crate::{Connection, Delivery, ReplySink, Slip, Uncounted, Upstream};

/// One route's end: its upstream, behind its own filters.
pub struct Leg<P: Rules> {
    pub(super) upstream: Rc<dyn Upstream<P>>,
    pub(super) chain: Option<Rc<RefCell<Chain<P>>>>,
    /// Who takes replies of this route.
    pub(super) sink: Rc<dyn ReplySink<P>>,
    pub(super) metrics: Arc<RouteMetrics>,
}

/// Shows replies of one route to its filters.
struct LegSink<P: Rules> {
    junction: Rc<Junction<P>>,
    /// Who gets them then.
    next: Rc<dyn ReplySink<P>>,
    chain: Rc<RefCell<Chain<P>>>,
    /// Clients whose replies are not counted, while part of a frame has come.
    begun: RefCell<HashMap<ConnKey, Uncounted<P>>>,
}

// === impl Leg ===

impl<P: Rules> Leg<P> {
    /// Who is to take the replies of a route with these filters. Made before the upstream, which may have to know it.
    pub fn sink(junction: &Rc<Junction<P>>, chain: Option<&Rc<RefCell<Chain<P>>>>) -> Rc<dyn ReplySink<P>> {
        Self::sink_before(junction, Rc::clone(junction) as _, chain)
    }

    /// As [`Leg::sink`], where `next` stands between the filters and the junction.
    pub fn sink_before(
        junction: &Rc<Junction<P>>,
        next: Rc<dyn ReplySink<P>>,
        chain: Option<&Rc<RefCell<Chain<P>>>>,
    ) -> Rc<dyn ReplySink<P>> {
        match chain {
            Some(chain) => Rc::new(LegSink {
                junction: Rc::clone(junction),
                next,
                chain: Rc::clone(chain),
                begun: RefCell::default(),
            }),
            None => next,
        }
    }

    /// Puts it together. `sink` is what [`Leg::sink`] has made.
    pub fn new(
        upstream: Rc<dyn Upstream<P>>,
        chain: Option<Rc<RefCell<Chain<P>>>>,
        sink: Rc<dyn ReplySink<P>>,
        metrics: Arc<RouteMetrics>,
    ) -> Rc<Self> {
        Rc::new(Self { upstream, chain, sink, metrics })
    }

    /// Shows calls to the filters, which must not have seen them before.
    pub(super) fn filter(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: &Cx<'_>) {
        let Some(chain) = &self.chain else { return };
        let heads = batch.heads.get_mut(range.clone()).unwrap_or_default();
        let calls = batch.calls.get_mut(range).unwrap_or_default();
        let mut piece = Batch { wire: batch.wire, local: batch.local, heads, calls, session: batch.session };
        chain.borrow_mut().requests(&mut piece, cx);
        let refused = piece.calls.iter().filter_map(|call| match call.verdict {
            Verdict::Refuse(why) => Some(done(call.ticket, call.op, why)),
            _ => None,
        });
        let refused: Vec<_> = refused.collect();
        if !refused.is_empty() {
            chain.borrow_mut().done(&refused, cx);
        }
    }

    /// Tells the filters of calls that found no upstream.
    pub(super) fn tell_refused(&self, batch: &Batch<'_, P>, range: Range<usize>, why: Refusal, cx: &Cx<'_>) {
        let Some(chain) = &self.chain else { return };
        let calls = batch.calls.get(range).unwrap_or_default();
        let refused: Vec<_> = calls.iter().map(|call| done(call.ticket, call.op, why)).collect();
        chain.borrow_mut().done(&refused, cx);
    }

    /// Shows answers that were made at once to the filters.
    pub(super) fn show_answers(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: &Cx<'_>) {
        let Some(chain) = &self.chain else { return };
        for call in batch.calls.get_mut(range).unwrap_or_default() {
            let Verdict::Answered(span) = call.verdict else { continue };
            let bytes = span.of(batch.wire, batch.local);
            let done =
                [Done { ticket: call.ticket, op: call.op, outcome: P::answer_outcome(bytes), micros: 0 }];
            if let Some(shown) = show(chain, bytes, &done, cx) {
                call.verdict = Verdict::Answered(Span::local(batch.local.len(), shown.len()));
                batch.local.extend_from_slice(&shown);
            }
        }
    }
}

fn done(ticket: Ticket, op: OpId, why: Refusal) -> Done {
    Done { ticket, op, outcome: Outcome::Refused(why), micros: 0 }
}

/// Shows a complete answer to the filters; what they make of it, if that is something else.
fn show<P: Framed>(chain: &RefCell<Chain<P>>, bytes: &[u8], done: &[Done], cx: &Cx<'_>) -> Option<Vec<u8>> {
    let mut chain = chain.borrow_mut();
    let limits = Limits { stream_above: usize::MAX, max_frame: usize::MAX, ..Limits::default() };
    let mut heads = Vec::new();
    let is_framed = P::answer_decoder(limits, bytes).decode(bytes, &mut heads).is_ok() && heads.len() == 1;
    if !is_framed {
        chain.done(done, cx);
        return None;
    }
    let mut local = Vec::new();
    chain.replies(&mut Replies { wire: bytes, local: &mut local, heads: &mut heads, done }, cx);
    let span = heads.first().map(P::reply_span).filter(|span| span.is_local())?;
    Some(span.of(&[], &local).to_vec())
}

// === impl LegSink ===

impl<P: Rules> LegSink<P> {
    fn peer(&self, conn: ConnKey) -> Option<Peer> {
        self.junction.peer(conn)
    }
}

impl<P: Rules> ReplySink<P> for LegSink<P> {
    fn deliver(&self, conn: ConnKey, delivery: Delivery<'_, P>) {
        let Some(peer) = self.peer(conn) else { return };
        let Delivery { first, wire, heads, slips, open, parts_open, micros, now_micros } = delivery;
        let mut ended = heads.iter().filter(|head| P::matched(head) == Matched::Last);
        let complete = slips.len() - usize::from(open).min(slips.len());
        let done = slips.iter().take(complete).enumerate().map(|(index, slip)| {
            let outcome = ended.next().map_or(Outcome::Ok, P::outcome);
            Done {
                ticket: Ticket { conn, seq: first.wrapping_add(index as u32) },
                op: slip.op,
                outcome,
                micros,
            }
        });
        let done: Vec<_> = done.collect();
        let mut local = Vec::new();
        let mut replies = Replies { wire, local: &mut local, heads: &mut *heads, done: &done };
        self.chain.borrow_mut().replies(&mut replies, &Cx { now_micros, peer: &peer });
        let mut rewritten = Vec::new();
        if !local.is_empty() {
            for head in heads.iter_mut() {
                let start = rewritten.len();
                rewritten.extend_from_slice(P::reply_span(head).of(wire, &local));
                P::set_reply_span(head, Span::wire(start, rewritten.len() - start));
            }
        }
        let wire = if local.is_empty() { wire } else { &rewritten };
        let delivery = Delivery { first, wire, heads, slips, open, parts_open, micros, now_micros };
        self.next.deliver(conn, delivery);
    }

    fn more(&self, conn: ConnKey, seq: u32, bytes: &[u8], done: Option<(Slip, Outcome, u32)>) {
        if let (Some((slip, outcome, micros)), Some(peer)) = (done, self.peer(conn)) {
            let done = [Done { ticket: Ticket { conn, seq }, op: slip.op, outcome, micros }];
            let now_micros = self.junction.now_micros();
            self.chain.borrow_mut().done(&done, &Cx { now_micros, peer: &peer });
        }
        self.next.more(conn, seq, bytes, done);
    }

    fn answered(&self, ticket: Ticket, op: OpId, bytes: &[u8], outcome: Outcome, now_micros: u64) {
        let Some(peer) = self.peer(ticket.conn) else { return };
        let done = [Done { ticket, op, outcome, micros: 0 }];
        let shown = show(&self.chain, bytes, &done, &Cx { now_micros, peer: &peer });
        self.next.answered(ticket, op, shown.as_deref().unwrap_or(bytes), outcome, now_micros);
    }

    fn fail(&self, conn: ConnKey, first: u32, slips: &[Slip], why: Refusal, broken: bool) {
        if let Some(peer) = self.peer(conn) {
            let failed = (0..)
                .zip(slips)
                .map(|(index, slip)| done(Ticket { conn, seq: first.wrapping_add(index) }, slip.op, why));
            let failed: Vec<_> = failed.collect();
            let now_micros = self.junction.now_micros();
            self.chain.borrow_mut().done(&failed, &Cx { now_micros, peer: &peer });
        }
        self.next.fail(conn, first, slips, why, broken);
    }

    fn push(&self, conn: ConnKey, bytes: &[u8]) {
        if !self.chain.borrow().rewrites_messages() {
            self.next.push(conn, bytes);
            return;
        }
        let Some(peer) = self.peer(conn) else { return };
        // The widest profile: it reads the frames of all others.
        let begun = self.begun.borrow_mut().remove(&conn);
        let mut stream = begun.unwrap_or_else(|| Uncounted::new(1));
        let cx = Cx { now_micros: self.junction.now_micros(), peer: &peer };
        let show = |frame: &[u8], out: &mut Vec<u8>| self.chain.borrow_mut().message(frame, out, &cx);
        let mut out = Vec::new();
        if stream.take(bytes, show, &mut out).is_err() {
            self.next.unpinned(conn);
            return;
        }
        if !stream.is_between() {
            let mut begun = self.begun.borrow_mut();
            // Clients that have left in the middle of a frame.
            begun.retain(|conn, _| self.peer(*conn).is_some());
            begun.insert(conn, stream);
        }
        self.next.push(conn, &out);
    }

    fn message(&self, conn: ConnKey, first: u8, rest: &[u8]) {
        if !self.chain.borrow().rewrites_messages() {
            self.next.message(conn, first, rest);
            return;
        }
        let Some(peer) = self.peer(conn) else { return };
        let (frame, mut out) = ([&[first][..], rest].concat(), Vec::new());
        let cx = Cx { now_micros: self.junction.now_micros(), peer: &peer };
        let passage = self.chain.borrow_mut().message(&frame, &mut out, &cx);
        match (passage, out.split_first()) {
            (Passage::Kept, _) => self.next.message(conn, first, rest),
            (Passage::Rewritten, Some((first, rest))) => self.next.message(conn, *first, rest),
            (Passage::Dropped | Passage::Rewritten, _) => {}
        }
    }

    fn unpinned(&self, conn: ConnKey) {
        self.next.unpinned(conn);
    }

    fn repinned(&self, conn: ConnKey, connection: &Rc<Connection<P>>) -> bool {
        self.next.repinned(conn, connection)
    }

    fn resume(&self, conn: ConnKey) {
        self.next.resume(conn);
    }

    fn flush(&self, now_micros: u64) -> Option<ConnKey> {
        self.next.flush(now_micros)
    }

    fn is_choking(&self, conn: ConnKey, now_micros: u64) -> bool {
        self.next.is_choking(conn, now_micros)
    }
}
