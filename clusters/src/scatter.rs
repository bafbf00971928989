//! Calls that concern several shards: taken apart, sent everywhere at once, and answered as one.
//!
//! [`Scattered`] stands in front of a [`Cluster`] whose servers share the keys. A call for one shard goes straight on,
//! as it is. A call whose keys lie on several (`MGET`, memcached's `get` of many keys), or that is about the whole data
//! (`DBSIZE`, `flush_all`, `SCAN`), becomes *parts*: one frame for each shard, submitted in the client's turn on the
//! connections that its other calls use, so no call of the client overtakes another towards the same key. The replies
//! are collected, and when the last has come the [`Rules`] of the protocol make one of them, which takes its place in
//! the client's order like any other.
//!
//! A part that gets no reply makes the whole call an error that says so. Before anything is sent all connections are
//! looked at: if one server is known to be unreachable nothing runs anywhere. What fails later may have run in part, as
//! it may on a single server that dies while it answers; a split `MSET` is therefore not atomic.
//!
//! Deliberately absent: knowledge of any protocol's bytes ([`Rules`] have it), retries, and reordering.

mod announced;
mod gather;
mod memcached;
mod resp;
mod rules;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::{Rc, Weak};

use mecha_core::{
    Affinity, Batch, Call, ConnKey, Decode, Limits, Matched, OpId, Outcome, Refusal, ReplyCount, Span,
    Ticket, Verdict,
};

use crate::moves::{Moves, SlotSet};
use crate::news::Subscription;
use crate::{Cluster, Connection, Delivery, ReplySink, Slip, SubmitCx, Submitted, Upstream};
pub use announced::{Announced, Announcement};
use gather::{Gather, Gathers};
pub use rules::{Bond, Entrance, Gathered, Itself, Plan, Rules, Scan, ScanStep, Way};

/// Bytes of collected replies on one worker beyond which a call is answered with an error instead.
const MAX_HELD: usize = 256 << 20;

/// A cluster whose calls may concern several shards.
pub struct Scattered<P: Rules> {
    cluster: Rc<Cluster<P>>,
    /// Who waits for whole replies.
    clients: Rc<dyn ReplySink<P>>,
    gathers: RefCell<Gathers<P>>,
    plan: RefCell<Plan>,
    groups: RefCell<Vec<(usize, usize, u32)>>,
    held: Cell<usize>,
    me: Weak<Self>,
}

// === impl Scattered ===

impl<P: Rules> Scattered<P> {
    /// Stands between `clients` and `cluster`.
    pub fn new(cluster: Rc<Cluster<P>>, clients: Rc<dyn ReplySink<P>>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            cluster,
            clients,
            gathers: RefCell::default(),
            plan: RefCell::default(),
            groups: RefCell::default(),
            held: Cell::new(0),
            me: Weak::clone(me),
        })
    }

    /// Which slots have moved, where servers hold slots.
    fn moves(&self) -> Option<&Moves> {
        if self.cluster.is_slotted() { self.cluster.news().map(Subscription::moves) } else { None }
    }

    /// What the servers of all parts are known to hold, where a scan asks.
    fn held(&self, plan: &Plan) -> Vec<SlotSet> {
        let Some(news) = self.cluster.news().filter(|_| plan.asks_all) else { return Vec::new() };
        let topology = news.current();
        // The question stands last, and is the same for all who are asked.
        let question = plan.parts.last().map(|(_, span)| *span);
        let asked = plan.parts.iter().filter(|(_, span)| Some(*span) == question);
        asked.map(|(position, _)| SlotSet::held(&topology, *position)).collect()
    }

    fn way(batch: &Batch<'_, P>, index: usize) -> Way {
        batch.heads.get(index).map_or(Way::Keyed, P::way)
    }

    /// Serves one call that does not simply go where its keys are.
    fn submit_one(
        &self,
        way: Way,
        batch: &mut Batch<'_, P>,
        at: usize,
        mut cx: SubmitCx<'_, P>,
    ) -> Submitted {
        if !self.cluster.may_submit(&mut cx) {
            return Submitted::Full;
        }
        let only = at..at + 1;
        let all = self.cluster.shards();
        // One of several addresses stands for some of the shards, so that clients may add up what all of them tell.
        let mut shards = match way {
            Way::Every | Way::Scan => self.cluster.shards_of(cx.lane.part),
            _ => all.clone(),
        };
        match way {
            Way::Refused => return Submitted::Refused(1, Refusal::Unsupported),
            Way::Itself => return self.submit_itself(batch, at, &cx),
            Way::First => return self.cluster.submit_at(shards.first().copied(), batch, only, &cx),
            _ => {}
        }
        let Some(head) = batch.heads.get(at) else { return Submitted::Refused(1, Refusal::NoRoute) };
        let frame = batch.frame(at);
        let mut plan = self.plan.borrow_mut();
        plan.wire.clear();
        plan.parts.clear();
        plan.places.clear();
        plan.asks_all = false;
        match way {
            Way::Every | Way::EveryAside => {
                plan.wire.extend_from_slice(frame);
                if batch.calls.get(at).is_some_and(|call| call.replies == ReplyCount::Maybe) {
                    P::unquiet(head, &mut plan.wire);
                }
                plan.parts.extend(shards.iter().map(|position| (*position, Span::wire(0, frame.len()))));
            }
            Way::Scan => match P::scan(frame, (&shards, &all), self.moves(), &mut plan.wire) {
                Some(step) => {
                    let span = Span::wire(0, plan.wire.len());
                    match step {
                        ScanStep::At(position) => plan.parts.push((position, span)),
                        ScanStep::Again(position) => {
                            plan.parts.push((position, span));
                            shards = all;
                        }
                        ScanStep::AtAndEvery(position, length) => {
                            plan.asks_all = true;
                            let rest = Span::wire(length, plan.wire.len() - length);
                            plan.parts.push((position, Span::wire(0, length)));
                            plan.parts.extend(all.iter().map(|position| (*position, rest)));
                        }
                        ScanStep::Every => {
                            plan.asks_all = true;
                            plan.parts.extend(all.iter().map(|position| (*position, span)));
                            shards = all;
                        }
                    }
                }
                None => return self.cluster.submit_at(shards.first().copied(), batch, only, &cx),
            },
            _ => match self.spread(head, frame, &mut plan) {
                Ok(None) => {}
                Ok(Some(position)) => return self.cluster.submit_at(Some(position), batch, only, &cx),
                Err(why) => return Submitted::Refused(1, why),
            },
        }
        self.send(&plan, way == Way::EveryAside, &shards, batch, at, &cx)
    }

    /// Serves one call about the cluster itself.
    fn submit_itself(&self, batch: &mut Batch<'_, P>, at: usize, cx: &SubmitCx<'_, P>) -> Submitted {
        let (Some(head), Some(call)) = (batch.heads.get(at), batch.calls.get_mut(at)) else {
            return Submitted::Refused(1, Refusal::NoRoute);
        };
        let frame = call.span.of(batch.wire, batch.local);
        let mut answer = Vec::new();
        let announcement = Announcement { local: cx.peer.local, ..Announcement::default() };
        match P::itself(head, frame, &announcement, cx.profile, &mut answer) {
            Itself::Answered => {
                call.verdict = Verdict::Answered(Span::local(batch.local.len(), answer.len()));
                batch.local.extend_from_slice(&answer);
                Submitted::Answered(1)
            }
            Itself::AtSlot(slot) => self.cluster.submit_at(self.cluster.at_slot(slot), batch, at..at + 1, cx),
            Itself::Refused => Submitted::Refused(1, Refusal::Unsupported),
        }
    }

    /// Sorts the keys by where they belong and makes a frame for each group. A single group needs no frame of its own:
    /// its position is returned.
    fn spread(&self, head: &P::Request, frame: &[u8], plan: &mut Plan) -> Result<Option<usize>, Refusal> {
        let mut groups = self.groups.borrow_mut();
        groups.clear();
        let (mut count, mut is_lost) = (0, false);
        P::keys(head, frame, &mut |key| {
            match self.cluster.place(key) {
                Some((group, position)) => groups.push((group, position, count)),
                None => is_lost = true,
            }
            count += 1;
        });
        let (true, Some(first)) = (!is_lost, groups.first().copied()) else { return Err(Refusal::NoRoute) };
        if groups.iter().all(|group| group.0 == first.0) {
            return Ok(Some(first.1));
        }
        groups.sort_unstable();
        plan.places.resize(count as usize, 0);
        let mut keys = Vec::with_capacity(groups.len());
        for group in groups.chunk_by(|one, other| one.0 == other.0) {
            keys.clear();
            for (_, _, key) in group {
                keys.push(*key);
                if let Some(place) = plan.places.get_mut(*key as usize) {
                    *place = plan.parts.len() as u32;
                }
            }
            let start = plan.wire.len();
            P::part(head, frame, &keys, &mut plan.wire);
            let position = group.first().map_or(first.1, |group| group.1);
            plan.parts.push((position, Span::wire(start, plan.wire.len() - start)));
        }
        Ok(None)
    }

    /// Sends all parts, or none; with `is_aside`, on dedicated connections.
    fn send(
        &self,
        plan: &Plan,
        is_aside: bool,
        shards: &[usize],
        batch: &Batch<'_, P>,
        at: usize,
        cx: &SubmitCx<'_, P>,
    ) -> Submitted {
        let (Some(call), Some(me)) = (batch.calls.get(at), self.me.upgrade()) else {
            return Submitted::Refused(1, Refusal::NoRoute);
        };
        let connections = if is_aside {
            self.pin_all(plan, cx.profile)
        } else {
            match self.with_room(plan, call, cx) {
                Ok(Some(connections)) => Ok(connections),
                Ok(None) => return Submitted::Full,
                Err(why) => Err(why),
            }
        };
        let connections = match connections {
            Ok(connections) => connections,
            Err(why) => return Submitted::Refused(1, why),
        };
        let position = plan.parts.first().map_or(0, |part| part.0);
        let next = shards.iter().copied().filter(|shard| *shard > position).min();
        let gather = Gather {
            ticket: call.ticket,
            slip: Slip { op: call.op, echo: call.echo, replies: call.replies },
            profile: cx.profile,
            frame: batch.frame(at).to_vec(),
            replies: plan.parts.iter().map(|_| Vec::new()).collect(),
            places: plan.places.clone(),
            at: position,
            next,
            first: shards.iter().copied().min().unwrap_or(0),
            held: self.held(plan),
            listened: P::counts_listeners(call.op)
                .then(|| (plan.parts.iter().map(|part| part.0).collect(), cx.lane.part.map(|(own, _)| own))),
            entrance: Entrance {
                port: cx.peer.local.map_or(0, |local| local.port()),
                is_beside: self.cluster.is_beside(cx.lane.part),
            },
            pins: if is_aside { connections.clone() } else { Vec::new() },
            missing: plan.parts.len(),
            failed: None,
            is_too_large: false,
            sent_micros: cx.now_micros,
        };
        let conn = self.gathers.borrow_mut().open(gather);
        let sink = me as Rc<dyn ReplySink<P>>;
        let ahead = if is_aside { P::ahead(call.op) } else { &[] };
        for ((seq, connection), (_, span)) in (0..).zip(&connections).zip(&plan.parts) {
            if !ahead.is_empty() {
                connection.tell_aside(ahead, 1);
            }
            let bytes = span.of(&plan.wire, &[]);
            connection.submit_frame(
                bytes,
                Slip::of(call.op),
                &sink,
                Ticket { conn, seq },
                call.timeout_ms,
                cx.now_micros,
            );
        }
        self.cluster.metrics().split(plan.parts.len());
        Submitted::Pending(1)
    }

    /// The connections that the client's calls share, one for each part; `None` if one is full or lost, and the client
    /// waits.
    fn with_room(
        &self,
        plan: &Plan,
        call: &Call,
        cx: &SubmitCx<'_, P>,
    ) -> Result<Option<Vec<Rc<Connection<P>>>>, Refusal> {
        let mut connections = Vec::with_capacity(plan.parts.len());
        for (position, _) in &plan.parts {
            match self.cluster.connection(*position, call, cx)? {
                Some(connection) => connections.push(connection),
                None => return Ok(None),
            }
        }
        Ok(Some(connections))
    }

    /// A dedicated connection for each part.
    fn pin_all(&self, plan: &Plan, profile: u8) -> Result<Vec<Rc<Connection<P>>>, Refusal> {
        let mut pins = Vec::with_capacity(plan.parts.len());
        for (position, _) in &plan.parts {
            match self.cluster.pin_at(*position, profile) {
                Ok(connection) => pins.push(connection),
                Err(why) => {
                    pins.into_iter().for_each(|connection| self.cluster.unpin(connection, true));
                    return Err(why);
                }
            }
        }
        Ok(pins)
    }

    /// Adds bytes to the reply of part `seq`.
    fn append(&self, conn: ConnKey, seq: u32, bytes: &[u8]) {
        let mut gathers = self.gathers.borrow_mut();
        let Some(gather) = gathers.get(conn) else { return };
        if self.held.get() + bytes.len() > MAX_HELD {
            gather.is_too_large = true;
        }
        if gather.is_too_large {
            let freed = gather.clear();
            self.held.set(self.held.get() - freed);
        } else if let Some(reply) = gather.replies.get_mut(seq as usize) {
            reply.extend_from_slice(bytes);
            self.held.set(self.held.get() + bytes.len());
        }
    }

    /// Part `seq` is over, with its reply or without. Answers the client if it was the last.
    fn ended(&self, conn: ConnKey, failed: Option<Refusal>, now_micros: u64) {
        let gather = {
            let mut gathers = self.gathers.borrow_mut();
            let Some(gather) = gathers.get(conn) else { return };
            if let Some(why) = failed {
                let count = gather.failed.map_or(0, |(_, count)| count);
                gather.failed = Some((why, count + 1));
            }
            gather.missing -= 1;
            if gather.missing > 0 {
                return;
            }
            gathers.close(conn)
        };
        let Some(mut gather) = gather else { return };
        let is_clean = gather.failed.is_none();
        gather.pins.drain(..).for_each(|connection| self.cluster.unpin(connection, is_clean));
        self.answer(&gather, now_micros);
        let freed = gather.clear();
        self.held.set(self.held.get() - freed);
    }

    /// Makes one reply of all and hands it to the client.
    fn answer(&self, gather: &Gather<P>, now_micros: u64) {
        let (ticket, slip) = (gather.ticket, gather.slip);
        let mut bytes = Vec::new();
        let refusal = match gather.failed {
            Some((why, count)) => Some((why, count)),
            None if gather.is_too_large => Some((Refusal::TooLarge, 0)),
            None => {
                (!P::merge(&gather.gathered(self.moves(), self.cluster.census()), gather.profile, &mut bytes))
                    .then_some((Refusal::UpstreamConfused, 0))
            }
        };
        if let Some((why, count)) = refusal {
            if slip.replies == ReplyCount::Maybe || count == 0 {
                self.clients.fail(ticket.conn, ticket.seq, &[slip], why, false);
                return;
            }
            bytes.clear();
            P::broken(slip.asked(), why, count, gather.replies.len(), &mut bytes);
            self.clients.answered(ticket, slip.op, &bytes, Outcome::Refused(why), now_micros);
            return;
        }
        let mut heads = Vec::new();
        let limits = Limits { stream_above: usize::MAX, max_frame: usize::MAX, ..Limits::default() };
        let decoded = P::reply_decoder(limits, gather.profile).decode(&bytes, &mut heads);
        if decoded.is_err() {
            self.clients.fail(ticket.conn, ticket.seq, &[slip], Refusal::UpstreamConfused, false);
            return;
        }
        let delivery = Delivery {
            first: ticket.seq,
            wire: &bytes,
            heads: &mut heads,
            slips: &[slip],
            open: false,
            parts_open: None,
            micros: u32::try_from(now_micros.saturating_sub(gather.sent_micros)).unwrap_or(u32::MAX),
            now_micros,
        };
        self.clients.deliver(ticket.conn, delivery);
    }
}

impl<P: Rules> Upstream<P> for Scattered<P> {
    fn inner(&self) -> Option<&dyn Upstream<P>> {
        Some(&*self.cluster)
    }

    fn submit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: SubmitCx<'_, P>) -> Submitted {
        if !self.cluster.is_sharded() && !self.cluster.is_slotted() {
            return self.cluster.submit(batch, range, cx);
        }
        let is_slotted = self.cluster.is_slotted();
        let is_keyed = |way| way == Way::Keyed || way == Way::Itself && !is_slotted;
        match Self::way(batch, range.start) {
            way if is_keyed(way) => {
                let is_other = |index: &usize| !is_keyed(Self::way(batch, *index));
                let end = (range.start + 1..range.end).find(is_other).unwrap_or(range.end);
                self.cluster.submit(batch, range.start..end, cx)
            }
            way => self.submit_one(way, batch, range.start, cx),
        }
    }

    fn sees_to(&self, batch: &Batch<'_, P>, at: usize) -> bool {
        // A connection whose replies are not counted is never shared.
        if batch.calls.get(at).is_some_and(|call| call.affinity == Affinity::Raw) {
            return false;
        }
        match Self::way(batch, at) {
            Way::EveryAside | Way::Refused => self.cluster.is_sharded(),
            Way::Itself => self.cluster.is_slotted(),
            _ => false,
        }
    }

    fn fits(&self, connection: &Connection<P>, batch: &Batch<'_, P>, at: usize) -> Result<(), Refusal> {
        if !self.cluster.is_balanced() {
            // What concerns the connection alone may go to a server, which a client that is bound to it may know.
            let is_shared = batch.calls.get(at).is_some_and(|call| call.affinity == Affinity::Shared);
            let is_itself = is_shared && self.cluster.is_slotted() && Self::way(batch, at) == Way::Itself;
            return if is_itself {
                Err(Refusal::Unsupported)
            } else {
                self.cluster.is_of_transaction(connection, batch, at)
            };
        }
        match Self::way(batch, at) {
            _ if batch.calls.get(at).is_some_and(|call| P::meets(call.op)) => {
                self.cluster.meets_at(connection)
            }
            Way::First => self.cluster.meets_at(connection),
            Way::Itself | Way::Keyed | Way::Spread => self.cluster.holds_all(connection, batch, at),
            Way::Every | Way::EveryAside | Way::Refused | Way::Scan => Err(Refusal::Unsupported),
        }
    }
}

impl<P: Rules> ReplySink<P> for Scattered<P> {
    fn deliver(&self, conn: ConnKey, delivery: Delivery<'_, P>) {
        let Delivery { first, wire, heads, slips, open, parts_open, now_micros, .. } = delivery;
        let mut index = 0;
        for (at, head) in heads.iter().enumerate() {
            if index >= slips.len() && parts_open.is_none() {
                break;
            }
            let seq = first.wrapping_add(index as u32);
            self.append(conn, seq, P::reply_span(head).of(wire, &[]));
            if P::matched(head) == Matched::Last {
                index += 1;
                if !(open && at + 1 == heads.len()) {
                    self.ended(conn, None, now_micros);
                }
            }
        }
    }

    fn more(&self, conn: ConnKey, seq: u32, bytes: &[u8], done: Option<(Slip, Outcome, u32)>) {
        self.append(conn, seq, bytes);
        if done.is_some() {
            self.ended(conn, None, self.cluster.now_micros());
        }
    }

    /// Nobody answers parts here.
    fn answered(&self, _ticket: Ticket, _op: OpId, _bytes: &[u8], _outcome: Outcome, _now_micros: u64) {}

    fn fail(&self, conn: ConnKey, _first: u32, slips: &[Slip], why: Refusal, _broken: bool) {
        let now_micros = self.cluster.now_micros();
        slips.iter().for_each(|_| self.ended(conn, Some(why), now_micros));
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
