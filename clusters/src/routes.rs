//! Routes: one listener, several clusters.
//!
//! [`Routed`] is the upstream of a listener with routes. It finds the route of each call ([`table`]) and hands calls on,
//! as they are and in runs, to the upstream of their route: any kind of upstream, so that shards, redirects, translation
//! and the embedded store take part without knowing of it. A listener without routes does not have it, and pays nothing.
//!
//! | calls | what happens |
//! |---|---|
//! | with keys of one route | go there |
//! | with keys of several routes | taken apart if the protocol can ([`Rules::way`] says [`Way::Spread`]), else refused |
//! | without keys | the default, or the route of the client's user or database |
//! | on a dedicated connection, or in a translated transaction | bound to the route of the first key; others are refused |
//!
//! **Order.** Replies leave in request order, as the ledger sees to it. Calls for one key take one route, and so stay in
//! order, unless routes differ by class: then a client's next call waits until those that it has in flight on another
//! route are answered. A call that was taken apart keeps its place on each route, except where a route is translated:
//! there the client's next calls wait for it.
//!
//! **Filters of a route** see each of its calls once and all its replies ([`leg`]). What a filter has made of a call
//! stays when the call finds no room and comes again.
//!
//! Deliberately absent: knowledge of any protocol's bytes, and of what upstreams do.

mod guest;
mod junction;
mod leg;
mod migrate;
mod mirror;
mod slots;
mod split;
mod table;

use std::ops::Range;
use std::rc::Rc;

use mecha_core::{Batch, ConnKey, Cx, Keys, OpClass, Peer, Refusal, Session, Verdict};

use self::guest::Guest;
use self::junction::{Commission, appended};
use self::split::Split;
use self::table::{Asker, Table};
use crate::scatter::{Bond, Rules, Way};
use crate::{Connection, ReplySink, SubmitCx, Submitted, Upstream, Wish};

pub use self::junction::Junction;
pub use self::leg::Leg;
pub use self::migrate::{Copies, Migrating, MigratingOptions, Migration, MigrationState, Stage, Watch};
pub use self::mirror::{Mirror, MirrorOptions};
pub use self::table::Conditions;

/// The end of a route, and the cluster that gets copies of its calls.
pub struct RoutedLeg<P: Rules> {
    /// Where its calls go.
    pub leg: Rc<Leg<P>>,
    /// Where copies go.
    pub mirror: Option<Rc<Mirror<P>>>,
}

/// See the module.
pub struct Routed<P: Rules> {
    junction: Rc<Junction<P>>,
    table: Table,
    /// In the configuration's order, the default last.
    legs: Vec<RoutedLeg<P>>,
    is_translated: bool,
    is_partly_translated: bool,
}

/// Where one call goes.
enum Go {
    Refused(Refusal),
    Select(u32),
    Split,
    To(usize),
}

// === impl Routed ===

impl<P: Rules> Routed<P> {
    /// Leads calls to `legs`, one for each of `routes`, and one more, the default.
    pub fn new(junction: Rc<Junction<P>>, routes: Vec<Conditions>, legs: Vec<RoutedLeg<P>>) -> Rc<Self> {
        let is_translated = |leg: &RoutedLeg<P>| leg.leg.upstream.is_translated();
        Rc::new(Self {
            junction,
            table: Table::new(routes),
            is_translated: legs.iter().all(is_translated),
            is_partly_translated: legs.iter().any(is_translated),
            legs,
        })
    }

    fn leg(&self, route: usize) -> Option<&RoutedLeg<P>> {
        self.legs.get(route)
    }

    /// The route of call `at`, whose client is bound to none.
    fn way(&self, batch: &Batch<'_, P>, at: usize, peer: &Peer) -> Go {
        let (Some(call), Some(head)) = (batch.calls.get(at), batch.heads.get(at)) else {
            return Go::Refused(Refusal::NoRoute);
        };
        let frame = batch.frame(at);
        if self.table.is_by_database()
            && let Some(database) = P::database(head, frame)
        {
            return Go::Select(database);
        }
        let asker = asker(call.class, peer, batch.session.database());
        if !self.table.is_by_key() {
            return Go::To(self.table.without_key(&asker));
        }
        let (mut first, mut is_split) = (None, false);
        let keys = P::keys(head, frame, &mut |key| {
            let route = self.table.by_key(key, &asker);
            is_split |= *first.get_or_insert(route) != route;
        });
        match first {
            _ if keys == Keys::Unknown => Go::Refused(Refusal::NoRoute),
            None => Go::To(self.table.without_key(&asker)),
            Some(_) if is_split && P::way(head) == Way::Spread => Go::Split,
            Some(_) if is_split => Go::Refused(Refusal::CrossRoute),
            Some(route) => Go::To(route),
        }
    }

    /// As [`Routed::way`], for a client whose calls may be bound to each other.
    fn bound_way(&self, batch: &Batch<'_, P>, at: usize, guest: &mut Guest, peer: &Peer) -> Go {
        let go = self.way(batch, at, peer);
        let Some(head) = batch.heads.get(at).filter(|_| self.is_translated) else { return go };
        let bond = P::bond(head);
        if bond == Bond::None && !guest.bond.is_there() {
            return go;
        }
        let has_key = P::key(head, batch.frame(at)).is_some();
        let go = match go {
            Go::To(route) if has_key => match *guest.bond.route.get_or_insert(route) {
                bound if bound == route => Go::To(route),
                _ => Go::Refused(Refusal::CrossRoute),
            },
            Go::To(route) => Go::To(guest.bond.route.unwrap_or(route)),
            Go::Select(_) | Go::Split if guest.bond.is_there() => Go::Refused(Refusal::CrossRoute),
            other => other,
        };
        if let (Go::To(route), Some(call)) = (&go, batch.calls.get(at)) {
            // What is noted here must not be asked for again.
            guest.settle(call.ticket.seq, 1, *route);
            match bond {
                Bond::Queues => guest.bond.is_queueing = true,
                Bond::Watches => guest.bond.is_watching = true,
                Bond::Ends if guest.bond.is_queueing => guest.bond = Default::default(),
                Bond::Unwatches if !guest.bond.is_queueing => guest.bond = Default::default(),
                Bond::Resets => guest.bond = Default::default(),
                _ => {}
            }
        }
        go
    }

    /// The end of the run of calls from `at` on that take `route`.
    fn run_end(&self, batch: &Batch<'_, P>, range: Range<usize>, route: usize, peer: &Peer) -> usize {
        let is_other = |at: &usize| {
            let has_bond =
                || self.is_translated && batch.heads.get(*at).is_some_and(|head| P::bond(head) != Bond::None);
            !matches!(self.way(batch, *at, peer), Go::To(other) if other == route) || has_bond()
        };
        (range.start + 1..range.end).find(is_other).unwrap_or(range.end)
    }

    /// Hands calls that take one route on.
    fn hand_on(
        &self,
        guest: &mut Guest,
        route: usize,
        is_seen: bool,
        batch: &mut Batch<'_, P>,
        range: Range<usize>,
        cx: SubmitCx<'_, P>,
    ) -> Submitted {
        let (at, end) = (range.start, range.end);
        let (Some(RoutedLeg { leg, mirror }), Some(call)) = (self.leg(route), batch.calls.get(at).copied())
        else {
            return Submitted::Refused(1, Refusal::NoRoute);
        };
        if self.table.is_by_class() && !cx.idle && guest.last != route {
            // The session tries again with each answer.
            return Submitted::Full;
        }
        let (seen, profile) = (Cx { now_micros: cx.now_micros, peer: cx.peer }, cx.profile);
        if leg.chain.is_some() && !is_seen {
            guest.settle(call.ticket.seq, end - at, route);
            leg.filter(batch, range.clone(), &seen);
        }
        let is_stopped =
            |at: &usize| batch.calls.get(*at).is_none_or(|call| call.verdict != Verdict::Forward);
        let end = range.clone().find(is_stopped).unwrap_or(end);
        if end == at {
            // A filter has decided: the session meets the call again with its verdict.
            return Submitted::Answered(1);
        }
        guest.last = route;
        let Some(lane) = guest.lanes.get_mut(route) else { return Submitted::Refused(1, Refusal::NoRoute) };
        let sink = if leg.chain.is_some() { &leg.sink } else { cx.sink };
        let submitted = leg.upstream.submit(batch, at..end, SubmitCx { sink, lane, ..cx });
        match submitted {
            Submitted::Pending(count) | Submitted::Answered(count) | Submitted::Close(count) => {
                leg.metrics.calls(count);
                if let Some(mirror) = mirror {
                    mirror.copy(batch, at..at + count, profile, &seen);
                }
                if !matches!(submitted, Submitted::Pending(_)) {
                    leg.show_answers(batch, at..at + count, &seen);
                }
            }
            Submitted::Refused(count, why) => leg.tell_refused(batch, at..at + count, why, &seen),
            Submitted::Full => {}
        }
        submitted
    }

    /// The client selects a database, which is a matter of routes.
    fn select(&self, database: u32, batch: &mut Batch<'_, P>, at: usize) -> Submitted {
        let is_there = self.table.has_database(database);
        if is_there {
            batch.session.select(database);
        }
        let mut answer = Vec::new();
        P::selected(is_there, &mut answer);
        self.answer(batch, at, &answer)
    }

    fn answer(&self, batch: &mut Batch<'_, P>, at: usize, bytes: &[u8]) -> Submitted {
        let span = appended(batch.local, bytes);
        if let Some(call) = batch.calls.get_mut(at) {
            call.verdict = Verdict::Answered(span);
        }
        Submitted::Answered(1)
    }

    /// Takes a call apart and sends its parts.
    fn split(
        &self,
        guest: &mut Guest,
        batch: &mut Batch<'_, P>,
        at: usize,
        cx: SubmitCx<'_, P>,
    ) -> Submitted {
        // On a translated route, parts are another client's calls: nothing of this one may be in flight beside them.
        if self.is_partly_translated && !cx.idle {
            return Submitted::Full;
        }
        let (Some(call), Some(head)) = (batch.calls.get(at).copied(), batch.heads.get(at)) else {
            return Submitted::Refused(1, Refusal::NoRoute);
        };
        let frame = batch.frame(at);
        let asker = asker(call.class, cx.peer, batch.session.database());
        let mut routes = Vec::new();
        P::keys(head, frame, &mut |key| routes.push(self.table.by_key(key, &asker)));
        let mut distinct = routes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |route: &usize| distinct.binary_search(route).unwrap_or_default() as u32;
        let places: Vec<u32> = routes.iter().map(place).collect();
        let slip = split::slip(call.op, call.echo, call.replies);
        let split = Split::new(
            &self.junction,
            call.ticket,
            slip,
            cx.profile,
            frame,
            places.clone(),
            distinct.len(),
            cx.now_micros,
        );
        let commission = Commission {
            peer: cx.peer.clone(),
            profile: cx.profile,
            timeout_ms: call.timeout_ms,
            is_strict: false,
        };
        let parts: Vec<Vec<u8>> = (0..distinct.len() as u32)
            .map(|part| {
                let keys = (0..).zip(&places).filter(|(_, place)| **place == part).map(|(key, _)| key);
                let mut out = Vec::new();
                P::part(head, frame, &keys.collect::<Vec<u32>>(), &mut out);
                out
            })
            .collect();
        for (index, (route, part)) in distinct.iter().zip(parts).enumerate() {
            let Some(RoutedLeg { leg, .. }) = self.leg(*route) else { continue };
            leg.metrics.calls(1);
            let lane = guest.lanes.get_mut(*route).map(|lane| (lane, cx.idle));
            let own = Rc::clone(&split);
            let then = Box::new(move |ended| own.ended(index, ended));
            self.junction.send(leg, part, commission.clone(), lane, then);
        }
        match split.submitted() {
            Some(split::Verdict::Answer(bytes) | split::Verdict::Error(bytes, _)) => {
                self.answer(batch, at, &bytes)
            }
            None => {
                guest.barriers += 1;
                Submitted::Pending(1)
            }
        }
    }
}

fn asker(class: OpClass, peer: &Peer, database: u32) -> Asker<'_> {
    let names = peer.identity.as_ref().map_or(&[][..], |identity| &identity.names);
    Asker { class, database, user: peer.user.as_deref(), names }
}

impl<P: Rules> Upstream<P> for Routed<P> {
    fn submit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: SubmitCx<'_, P>) -> Submitted {
        let at = range.start;
        let Some(call) = batch.calls.get(at).copied() else { return Submitted::Refused(1, Refusal::NoRoute) };
        let mut guests = self.junction.guests.borrow_mut();
        let guest = guests.of(call.ticket.conn, self.legs.len(), cx.peer);
        if guest.barriers > 0 && self.is_partly_translated {
            return Submitted::Full;
        }
        if let Some((route, count)) = guest.stuck_at(call.ticket.seq) {
            let end = range.end.min(at + count);
            return self.hand_on(guest, route, true, batch, at..end, cx);
        }
        match self.bound_way(batch, at, guest, cx.peer) {
            Go::To(route) if guest.bond.is_there() || guest.stuck_at(call.ticket.seq).is_some() => {
                self.hand_on(guest, route, false, batch, at..at + 1, cx)
            }
            Go::To(route) => {
                let end = self.run_end(batch, range, route, cx.peer);
                self.hand_on(guest, route, false, batch, at..end, cx)
            }
            Go::Select(database) => self.select(database, batch, at),
            Go::Split => self.split(guest, batch, at, cx),
            Go::Refused(why) => {
                // By its verdict, so that the protocol's state learns of it.
                if let Some(call) = batch.calls.get_mut(at) {
                    call.verdict = Verdict::Refuse(why);
                }
                Submitted::Answered(1)
            }
        }
    }

    /// The first cluster that knows an operation tells what it is.
    fn recognise(&self, batch: &mut Batch<'_, P>, from: usize, sink: &Rc<dyn ReplySink<P>>) -> bool {
        self.legs.iter().all(|leg| leg.leg.upstream.recognise(batch, from, sink))
    }

    fn is_ready(&self, sink: &Rc<dyn ReplySink<P>>, wish: &Wish<'_>) -> bool {
        self.leg(self.wished(wish)).is_none_or(|leg| leg.leg.upstream.is_ready(sink, wish))
    }

    fn pin(&self, wish: &Wish<'_>) -> Result<Rc<Connection<P>>, Refusal> {
        let route = self.wished(wish);
        let mut guests = self.junction.guests.borrow_mut();
        let guest = guests.of(wish.conn, self.legs.len(), wish.peer);
        guest.pinned = route;
        let lane = guest.lanes.get(route).copied().unwrap_or_default();
        let leg = self.leg(route).ok_or(Refusal::NoRoute)?;
        leg.leg.upstream.pin(&Wish { lane: &lane, ..*wish })
    }

    fn owns(&self, connection: &Connection<P>) -> bool {
        self.owner(connection).is_some()
    }

    fn shape(&self, connection: &Connection<P>, batch: &mut Batch<'_, P>, at: usize, cx: &Cx<'_>) {
        let Some(call) = batch.calls.get(at).copied() else { return };
        if let Some(leg) = self.pinned(call.ticket.conn) {
            leg.leg.metrics.calls(1);
            leg.leg.filter(batch, at..at + 1, cx);
            if batch.calls.get(at).is_some_and(|call| call.verdict == Verdict::Forward) {
                leg.leg.upstream.shape(connection, batch, at, cx);
            }
        }
    }

    fn taker(&self, connection: &Connection<P>, conn: ConnKey) -> Option<Rc<dyn ReplySink<P>>> {
        let leg = self.pinned(conn)?;
        let inner = leg.leg.upstream.taker(connection, conn);
        inner.or_else(|| leg.leg.chain.is_some().then(|| Rc::clone(&leg.leg.sink)))
    }

    fn may_go(&self, connection: &Connection<P>, batch: &Batch<'_, P>, at: usize) -> bool {
        let leg = batch.calls.get(at).and_then(|call| self.pinned(call.ticket.conn));
        leg.is_none_or(|leg| leg.leg.upstream.may_go(connection, batch, at))
    }

    fn sees_to(&self, batch: &Batch<'_, P>, at: usize) -> bool {
        let Some((call, head)) = batch.calls.get(at).zip(batch.heads.get(at)) else { return false };
        // A connection whose replies are not counted is never shared.
        if call.affinity == mecha_core::Affinity::Raw {
            return false;
        }
        if self.table.is_by_database() && P::database(head, batch.frame(at)).is_some() {
            return true;
        }
        let peer = self.junction.peer(call.ticket.conn);
        let nobody = Peer { id: 0, addr: None, local: None, identity: None, user: None };
        match self.way(batch, at, peer.as_ref().unwrap_or(&nobody)) {
            Go::To(route) => self.leg(route).is_some_and(|leg| leg.leg.upstream.sees_to(batch, at)),
            // Refused where every other such call is.
            Go::Refused(_) | Go::Select(_) | Go::Split => true,
        }
    }

    fn fits(&self, connection: &Connection<P>, batch: &Batch<'_, P>, at: usize) -> Result<(), Refusal> {
        let Some((call, head)) = batch.calls.get(at).zip(batch.heads.get(at)) else { return Ok(()) };
        let guests = &self.junction.guests;
        let pinned =
            guests.borrow_mut().get(call.ticket.conn).map(|guest| (guest.pinned, guest.peer.clone()));
        let Some((route, peer)) = pinned else { return Ok(()) };
        match self.way(batch, at, &peer) {
            Go::To(other) if other == route || P::key(head, batch.frame(at)).is_none() => {}
            Go::To(_) | Go::Split | Go::Select(_) => return Err(Refusal::CrossRoute),
            Go::Refused(why) => return Err(why),
        }
        self.leg(route).map_or(Ok(()), |leg| leg.leg.upstream.fits(connection, batch, at))
    }

    fn settle(
        &self,
        connection: &Rc<Connection<P>>,
        owner: (Rc<dyn ReplySink<P>>, ConnKey),
        key: &[u8],
    ) -> Result<Option<Rc<Connection<P>>>, Refusal> {
        let guests = &self.junction.guests;
        let pinned = guests.borrow_mut().get(owner.1).map(|guest| (guest.pinned, guest.peer.clone()));
        let Some((route, peer)) = pinned else { return Ok(None) };
        // A key that belongs elsewhere must not decide; the call will not fit either.
        let is_elsewhere = [OpClass::Read, OpClass::Write]
            .into_iter()
            .all(|class| self.table.by_key(key, &asker(class, &peer, 0)) != route);
        if is_elsewhere && self.table.is_by_key() {
            return Ok(None);
        }
        self.leg(route).map_or(Ok(None), |leg| leg.leg.upstream.settle(connection, owner, key))
    }

    fn waits_for_key(&self) -> bool {
        self.table.is_by_key() || self.legs.iter().any(|leg| leg.leg.upstream.waits_for_key())
    }

    fn beside(&self, connection: &Connection<P>) -> Option<Rc<Connection<P>>> {
        self.owner(connection)?.leg.upstream.beside(connection)
    }

    fn unpin(&self, connection: Rc<Connection<P>>, clean: bool) {
        match self.owner(&connection) {
            Some(leg) => leg.leg.upstream.unpin(connection, clean),
            None => connection.close(),
        }
    }

    fn is_translated(&self) -> bool {
        self.is_translated
    }

    fn is_timed_by_session(&self) -> bool {
        self.is_partly_translated
    }

    fn is_waiting(&self, conn: ConnKey) -> bool {
        self.legs.iter().any(|leg| leg.leg.upstream.is_waiting(conn))
    }

    fn unblock(&self, conn: ConnKey, with_error: bool) -> bool {
        self.legs.iter().any(|leg| leg.leg.upstream.unblock(conn, with_error))
    }

    fn release(&self) {
        self.legs.iter().for_each(|leg| leg.leg.upstream.release());
    }

    fn forget(&self, conn: ConnKey) {
        self.junction.guests.borrow_mut().forget(conn);
        self.legs.iter().for_each(|leg| leg.leg.upstream.forget(conn));
    }
}

impl<P: Rules> Routed<P> {
    /// The route for a connection that a client wishes for.
    fn wished(&self, wish: &Wish<'_>) -> usize {
        let asker = asker(wish.class, wish.peer, wish.database);
        match wish.key.filter(|key| !key.is_empty()) {
            Some(key) => self.table.by_key(key, &asker),
            None => self.table.without_key(&asker),
        }
    }

    /// The end of the route that a dedicated connection belongs to.
    fn owner(&self, connection: &Connection<P>) -> Option<&RoutedLeg<P>> {
        self.legs.iter().find(|leg| leg.leg.upstream.owns(connection))
    }

    fn pinned(&self, conn: ConnKey) -> Option<&RoutedLeg<P>> {
        let route = self.junction.guests.borrow_mut().get(conn)?.pinned;
        self.leg(route)
    }
}
