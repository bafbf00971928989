//! Where the routes of one listener meet: what is known of each client, and the errands that run beside its own calls.
//!
//! An *errand* is a frame that mecha sends in a client's name and whose reply it takes itself: the part of a call that
//! was taken apart. It stands in a place of its own ([`Slots`]), and the reply finds it there.
//! An errand that finds its upstream full waits here, with its frame, until the upstream says that there is room.
//!
//! Upstreams of routes hand all replies to the junction. Those for clients are passed on as they are.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use mecha_core::{
    Affinity, Batch, ConnKey, Cx, Decode, Limits, Matched, OpId, Outcome, Peer, Refusal, Session, Span,
    Ticket, Verdict,
};
use mecha_transport::Clock;

use super::guest::Guests;
use super::leg::Leg;
use super::mirror::Mirror;
use super::slots::{Slots, as_copy, is_ours};
use crate::scatter::{Rules, Way};
use crate::{Connection, Delivery, Lane, ReplySink, Slip, SubmitCx, Submitted};

/// Bytes of replies to errands on one worker and listener beyond which an errand fails.
const MAX_HELD: usize = 256 << 20;

/// See the module.
pub struct Junction<P: Rules> {
    clients: Rc<dyn ReplySink<P>>,
    clock: Clock,
    pub(super) guests: RefCell<Guests>,
    places: RefCell<Slots<Place<P>>>,
    held: Cell<usize>,
    me: Weak<Self>,
}

/// Whoever has a place.
enum Place<P: Rules> {
    Errand(Errand<P>),
    Mirror(Weak<Mirror<P>>),
}

/// How an errand ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// There is no reply.
    Failed(Refusal),
    /// The complete reply, and whether it is in the words that a client would read (of a translator), not a server's.
    Replied(Vec<u8>, Outcome, bool),
}

/// Called when an errand ends, possibly before it is under way; then the clients' engine must not be called.
pub(super) type Then = Box<dyn FnOnce(Ended)>;

/// For whom an errand is, and how.
#[derive(Clone)]
pub(super) struct Commission {
    pub(super) peer: Peer,
    pub(super) profile: u8,
    pub(super) timeout_ms: u32,
    /// It must be answered by whoever has the newest data, even if it only reads.
    pub(super) is_strict: bool,
}

struct Errand<P: Rules> {
    leg: Rc<Leg<P>>,
    commission: Commission,
    /// The frame as it is to be sent, until it is.
    waiting: Option<Vec<u8>>,
    reply: Vec<u8>,
    then: Then,
}

// === impl Junction ===

impl<P: Rules> Junction<P> {
    /// In front of `clients`.
    pub fn new(clients: Rc<dyn ReplySink<P>>, clock: Clock) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            clients,
            clock,
            guests: RefCell::default(),
            places: RefCell::default(),
            held: Cell::new(0),
            me: Weak::clone(me),
        })
    }

    pub(super) fn clients(&self) -> &Rc<dyn ReplySink<P>> {
        &self.clients
    }

    pub(super) fn now_micros(&self) -> u64 {
        self.clock.micros()
    }

    /// Whose calls these are.
    pub(super) fn peer(&self, conn: ConnKey) -> Option<Peer> {
        if !is_ours(conn) {
            return self.guests.borrow_mut().get(conn).map(|guest| guest.peer.clone());
        }
        match self.places.borrow_mut().get(conn)? {
            Place::Errand(errand) => Some(errand.commission.peer.clone()),
            Place::Mirror(mirror) => Some(mirror.upgrade()?.peer()),
        }
    }

    /// A place for the calls of a mirror.
    pub(super) fn place_of(&self, mirror: &Rc<Mirror<P>>) -> ConnKey {
        self.places.borrow_mut().open(Place::Mirror(Rc::downgrade(mirror)))
    }

    /// Sends the one request in `frame`. With `lane`, it belongs to the client's other calls there, which may be in flight
    /// unless it is idle; without, to nobody's.
    ///
    /// # Errors
    /// `frame` is no request; `then` is not called.
    pub(super) fn send(
        &self,
        leg: &Rc<Leg<P>>,
        frame: Vec<u8>,
        commission: Commission,
        lane: Option<(&mut Lane, bool)>,
        then: Then,
    ) {
        let errand =
            Errand { leg: Rc::clone(leg), commission, waiting: Some(frame), reply: Vec::new(), then };
        let conn = self.places.borrow_mut().open(Place::Errand(errand));
        self.submit(conn, lane, true);
    }

    /// As [`Junction::send`], for a request that is no client's call: what stands between the upstream and the junction
    /// leaves its reply alone.
    pub(super) fn send_copy(&self, leg: &Rc<Leg<P>>, frame: Vec<u8>, commission: Commission, then: Then) {
        let errand =
            Errand { leg: Rc::clone(leg), commission, waiting: Some(frame), reply: Vec::new(), then };
        let conn = as_copy(self.places.borrow_mut().open(Place::Errand(errand)));
        self.submit(conn, None, true);
    }

    /// Submits an errand that waits.
    fn submit(&self, conn: ConnKey, lane: Option<(&mut Lane, bool)>, is_new: bool) {
        let Some(me) = self.me.upgrade() else { return };
        let (leg, commission, frame) = match self.places.borrow_mut().get(conn) {
            Some(Place::Errand(errand)) => {
                let Some(frame) = errand.waiting.take() else { return };
                (Rc::clone(&errand.leg), errand.commission.clone(), frame)
            }
            _ => return,
        };
        let limits = Limits { stream_above: usize::MAX, max_frame: usize::MAX, ..Limits::default() };
        let mut heads = Vec::with_capacity(1);
        let decoded = P::request_decoder(limits).decode(&frame, &mut heads);
        if decoded.is_err() || heads.len() != 1 {
            return self.ended(conn, Ended::Failed(Refusal::UpstreamConfused));
        }
        let mut call = P::call(heads.first().expect("there is one"), Ticket { conn, seq: 0 });
        (call.affinity, call.timeout_ms) = (Affinity::Shared, commission.timeout_ms);

        let (mut calls, mut local) = ([call], Vec::new());
        let mut session = P::Session::of_profile(commission.profile);
        let now_micros = self.now_micros();
        let mut batch = Batch {
            wire: &frame,
            local: &mut local,
            heads: &mut heads,
            calls: &mut calls,
            session: &mut session,
        };
        let cx = Cx { now_micros, peer: &commission.peer };
        if is_new {
            leg.filter(&mut batch, 0..1, &cx);
            if let Some(Verdict::Refuse(why)) = batch.calls.first().map(|call| call.verdict) {
                return self.ended(conn, Ended::Failed(why));
            }
        }
        let mut own = Lane::default();
        let (lane, idle) = lane.unwrap_or((&mut own, true));
        let sink = if leg.chain.is_some() { Rc::clone(&leg.sink) } else { me as Rc<dyn ReplySink<P>> };
        let submit = SubmitCx {
            sink: &sink,
            lane,
            idle,
            peer: &commission.peer,
            now_micros,
            profile: commission.profile,
        };
        if commission.is_strict
            && batch.heads.first().is_some_and(|head| P::way(head) == Way::Keyed)
            && let Some(call) = batch.calls.first_mut()
        {
            // No replica answers an operation that nobody knows.
            call.op = OpId::UNKNOWN;
        }
        let is_answered = batch.calls.first().is_some_and(|call| call.verdict != Verdict::Forward);
        let submitted =
            if is_answered { Submitted::Answered(1) } else { leg.upstream.submit(&mut batch, 0..1, submit) };
        match submitted {
            Submitted::Answered(_) | Submitted::Close(_) => {
                leg.show_answers(&mut batch, 0..1, &cx);
                let ended = match batch.calls.first().map(|call| call.verdict) {
                    Some(Verdict::Answered(span)) => {
                        let bytes = span.of(batch.wire, batch.local).to_vec();
                        let outcome = P::answer_outcome(&bytes);
                        Ended::Replied(bytes, outcome, true)
                    }
                    Some(Verdict::Refuse(why)) => Ended::Failed(why),
                    _ => Ended::Failed(Refusal::UpstreamConfused),
                };
                self.ended(conn, ended);
            }
            Submitted::Full => {
                let frame = batch.frame(0).to_vec();
                if let Some(Place::Errand(errand)) = self.places.borrow_mut().get(conn) {
                    errand.waiting = Some(frame);
                }
            }
            Submitted::Pending(_) => {}
            Submitted::Refused(_, why) => {
                leg.tell_refused(&batch, 0..1, why, &cx);
                self.ended(conn, Ended::Failed(why));
            }
        }
    }

    fn append(&self, conn: ConnKey, bytes: &[u8]) {
        let mut places = self.places.borrow_mut();
        let Some(Place::Errand(errand)) = places.get(conn) else { return };
        if self.held.get() + bytes.len() <= MAX_HELD {
            errand.reply.extend_from_slice(bytes);
            self.held.set(self.held.get() + bytes.len());
            return;
        }
        drop(places);
        self.ended(conn, Ended::Failed(Refusal::TooLarge));
    }

    /// The server's reply is complete.
    fn replied(&self, conn: ConnKey, outcome: Outcome) {
        if let Some(errand) = self.close(conn) {
            (errand.then)(Ended::Replied(errand.reply, outcome, false));
        }
    }

    fn ended(&self, conn: ConnKey, ended: Ended) {
        if let Some(errand) = self.close(conn) {
            (errand.then)(ended);
        }
    }

    fn close(&self, conn: ConnKey) -> Option<Errand<P>> {
        let mut places = self.places.borrow_mut();
        let Some(Place::Errand(_)) = places.get(conn) else { return None };
        let Some(Place::Errand(errand)) = places.close(conn) else { return None };
        self.held.set(self.held.get() - errand.reply.len());
        Some(errand)
    }

    fn mirror(&self, conn: ConnKey) -> Option<Rc<Mirror<P>>> {
        match self.places.borrow_mut().get(conn)? {
            Place::Mirror(mirror) => mirror.upgrade(),
            Place::Errand(_) => None,
        }
    }
}

impl<P: Rules> ReplySink<P> for Junction<P> {
    fn deliver(&self, conn: ConnKey, delivery: Delivery<'_, P>) {
        if !is_ours(conn) {
            return self.clients.deliver(conn, delivery);
        }
        let complete = delivery.slips.len() - usize::from(delivery.open).min(delivery.slips.len());
        let last = delivery.heads.iter().filter(|head| P::matched(head) == Matched::Last);
        let outcomes = last.take(complete).map(P::outcome);
        if let Some(mirror) = self.mirror(conn) {
            return mirror.ended(outcomes);
        }
        // An errand has one call.
        let outcomes: Vec<_> = outcomes.collect();
        for head in delivery.heads.iter().filter(|head| P::matched(head) != Matched::Push) {
            self.append(conn, P::reply_span(head).of(delivery.wire, &[]));
        }
        if let Some(outcome) = outcomes.last() {
            self.replied(conn, *outcome);
        }
    }

    fn more(&self, conn: ConnKey, seq: u32, bytes: &[u8], done: Option<(Slip, Outcome, u32)>) {
        if !is_ours(conn) {
            return self.clients.more(conn, seq, bytes, done);
        }
        if let Some(mirror) = self.mirror(conn) {
            return mirror.ended(done.into_iter().map(|(_, outcome, _)| outcome));
        }
        self.append(conn, bytes);
        if let Some((_, outcome, _)) = done {
            self.replied(conn, outcome);
        }
    }

    fn answered(&self, ticket: Ticket, op: OpId, bytes: &[u8], outcome: Outcome, now_micros: u64) {
        if !is_ours(ticket.conn) {
            return self.clients.answered(ticket, op, bytes, outcome, now_micros);
        }
        match self.mirror(ticket.conn) {
            Some(mirror) => mirror.ended(std::iter::once(outcome)),
            None => self.ended(ticket.conn, Ended::Replied(bytes.to_vec(), outcome, true)),
        }
    }

    fn fail(&self, conn: ConnKey, first: u32, slips: &[Slip], why: Refusal, broken: bool) {
        if !is_ours(conn) {
            return self.clients.fail(conn, first, slips, why, broken);
        }
        match self.mirror(conn) {
            Some(mirror) => mirror.ended(slips.iter().map(|_| Outcome::Refused(why))),
            None => self.ended(conn, Ended::Failed(why)),
        }
    }

    fn push(&self, conn: ConnKey, bytes: &[u8]) {
        if !is_ours(conn) {
            self.clients.push(conn, bytes);
        }
    }

    fn message(&self, conn: ConnKey, first: u8, rest: &[u8]) {
        if !is_ours(conn) {
            self.clients.message(conn, first, rest);
        }
    }

    fn unpinned(&self, conn: ConnKey) {
        self.clients.unpinned(conn);
    }

    fn repinned(&self, conn: ConnKey, connection: &Rc<Connection<P>>) -> bool {
        self.clients.repinned(conn, connection)
    }

    fn resume(&self, conn: ConnKey) {
        if is_ours(conn) {
            self.submit(conn, None, false);
        } else {
            self.clients.resume(conn);
        }
    }

    fn flush(&self, now_micros: u64) -> Option<ConnKey> {
        self.clients.flush(now_micros)
    }

    fn is_choking(&self, conn: ConnKey, now_micros: u64) -> bool {
        !is_ours(conn) && self.clients.is_choking(conn, now_micros)
    }
}

/// The span of a piece that was appended to `local`.
pub(super) fn appended(local: &mut Vec<u8>, bytes: &[u8]) -> Span {
    let span = Span::local(local.len(), bytes.len());
    local.extend_from_slice(bytes);
    span
}
