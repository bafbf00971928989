//! What sessions submit: calls on shared connections, and dedicated ones.

use std::ops::Range;
use std::rc::Rc;

use mecha_core::{Batch, Call, ConnKey, Framed, Keys, OpId, Refusal};

use super::{Cluster, Members};
use crate::router::Router;
use crate::server::Server;
use crate::{Connection, Lane, ReplySink, State, SubmitCx, Submitted, Upstream, Wish};

impl<P: Framed> Cluster<P> {
    /// The endpoint for one call, and the replica of it that answers in its place.
    #[inline]
    fn target_of(
        &self,
        members: &Members<P>,
        batch: &Batch<'_, P>,
        index: usize,
        cx: &SubmitCx<'_, P>,
    ) -> Result<(usize, Option<usize>), Refusal> {
        let position = self.endpoint_of(members, batch, index, cx.lane)?;
        if members.reads.is_none() {
            return Ok((position, None));
        }
        let op = batch.calls.get(index).map_or(OpId::UNKNOWN, |call| call.op);
        Ok((position, self.replica_for(members, position, op, cx)))
    }

    /// The endpoint for one call, if the policy hashes keys.
    fn endpoint_of(
        &self,
        members: &Members<P>,
        batch: &Batch<'_, P>,
        index: usize,
        lane: &Lane,
    ) -> Result<usize, Refusal> {
        let head = batch.heads.get(index).ok_or(Refusal::NoRoute)?;
        if let Router::Primary(position) = members.router {
            return Ok(position);
        }
        if let Router::Slots(map) = &members.router {
            // Whether the other keys of a call belong to the same slot, the server knows best.
            return match P::key(head, batch.frame(index)) {
                Some(key) => map.at(P::slot(key)).ok_or(Refusal::NoRoute),
                None => {
                    let is_shard = |at: &usize| members.shards.contains(at);
                    let own = members.part(lane.part).next();
                    own.or(lane.endpoint.filter(is_shard))
                        .or_else(|| self.choose(members))
                        .ok_or(Refusal::NoRoute)
                }
            };
        }
        let (mut chosen, mut is_split) = (None, false);
        let keys = P::keys(head, batch.frame(index), &mut |key| {
            let endpoint = members.router.by_key::<P>(key);
            is_split |= chosen.is_some() && chosen != endpoint;
            chosen = endpoint;
        });
        match chosen {
            _ if keys == Keys::Unknown => Err(Refusal::NoRoute),
            _ if is_split => Err(Refusal::CrossSlot),
            Some(endpoint) => Ok(endpoint),
            // Without keys: any server, always the same, so that what it is told of its connections makes sense.
            None => Ok(members.any),
        }
    }

    /// The replica of the server in `position` that answers this call, if one is to.
    #[inline]
    fn replica_for(
        &self,
        members: &Members<P>,
        position: usize,
        op: OpId,
        cx: &SubmitCx<'_, P>,
    ) -> Option<usize> {
        let reads = members.reads.as_ref().filter(|_| P::is_reading(op) && !cx.lane.only_primaries)?;
        reads.replica(position, members, cx.peer.id, cx.now_micros)
    }

    /// Submits calls that all go to one endpoint, or to one replica of it.
    fn submit_to(
        &self,
        members: &Members<P>,
        (position, replica): (usize, Option<usize>),
        batch: &Batch<'_, P>,
        range: Range<usize>,
        cx: &SubmitCx<'_, P>,
    ) -> Submitted {
        let count = range.len();
        let Some(call) = batch.calls.get(range.start) else { return Submitted::Pending(0) };
        match self.connection_at(members, (position, replica), call, cx) {
            Ok(Some(connection)) => {
                connection.submit(batch, range, cx.sink, cx.now_micros);
                self.parking.arrived(cx.sink, call.ticket.conn);
                Submitted::Pending(count)
            }
            Ok(None) => Submitted::Full,
            Err(why) => Submitted::Refused(count, why),
        }
    }

    /// The connection that the client's calls to the server in `position` share, or to its replica; `None` if it is full or
    /// its server lost, and the client waits.
    #[inline]
    fn connection_at(
        &self,
        members: &Members<P>,
        (position, replica): (usize, Option<usize>),
        call: &Call,
        cx: &SubmitCx<'_, P>,
    ) -> Result<Option<Rc<Connection<P>>>, Refusal> {
        let client = (cx.sink, call.ticket.conn);
        let with_room = |connection: Rc<Connection<P>>| {
            if connection.is_full() {
                connection.wait_for_room(client.0, client.1);
                return None;
            }
            Some(connection)
        };
        if let Some(replica) = replica {
            let is_told = matches!(members.router, Router::Slots(_));
            // One that cannot be reached is no reason not to answer.
            if let Ok(connection) = members.at(replica)?.reading(cx.profile, cx.peer.id as usize, is_told) {
                return Ok(with_room(connection));
            }
        }
        let server = members.at(position)?;
        match server.shared(cx.profile, cx.peer.id as usize) {
            Ok(connection) => Ok(with_room(connection)),
            Err(why) => {
                self.wait_for(&server.endpoint, why, client, call.timeout_ms, cx.now_micros)?;
                Ok(None)
            }
        }
    }

    /// Groups neighbours that go to the same endpoint.
    fn submit_keyed(
        &self,
        members: &Members<P>,
        batch: &Batch<'_, P>,
        range: Range<usize>,
        cx: &mut SubmitCx<'_, P>,
    ) -> Submitted {
        let mut start = range.start;
        let mut next = self.target_of(members, batch, start, cx);
        while start < range.end {
            let target = match next {
                Ok(target) => target,
                Err(why) if start == range.start => return Submitted::Refused(1, why),
                Err(_) => break,
            };
            cx.lane.endpoint = Some(target.0);
            let timeout = batch.calls.get(start).map(|call| call.timeout_ms);
            let mut end = start + 1;
            while end < range.end {
                next = self.target_of(members, batch, end, cx);
                if next != Ok(target) || batch.calls.get(end).map(|call| call.timeout_ms) != timeout {
                    break;
                }
                end += 1;
            }
            match self.submit_to(members, target, batch, start..end, cx) {
                Submitted::Pending(_) => start = end,
                other if start == range.start => return other,
                _ => break,
            }
        }
        Submitted::Pending(start - range.start)
    }

    /// Whether the client's calls may go to where keys are now. Calls in flight may yet be on their way from an old server
    /// to a new one: nothing may overtake them. The session tries again with each answer.
    pub(crate) fn may_submit(&self, cx: &mut SubmitCx<'_, P>) -> bool {
        self.may_send(cx.lane, cx.idle)
    }

    /// As for calls that are submitted, for those that are translated: of the client with this lane, which has nothing in
    /// flight if it is `idle`.
    pub fn may_send(&self, lane: &mut Lane, idle: bool) -> bool {
        if lane.epoch != self.epoch.get() {
            if !idle {
                return false;
            }
            *lane = Lane { endpoint: None, epoch: self.epoch.get(), ..*lane };
        }
        true
    }

    /// Submits calls to a server whose position is known.
    pub(crate) fn submit_at(
        &self,
        position: Option<usize>,
        batch: &Batch<'_, P>,
        range: Range<usize>,
        cx: &SubmitCx<'_, P>,
    ) -> Submitted {
        match position {
            Some(position) => {
                let members = self.members();
                let op = batch.calls.get(range.start).map_or(OpId::UNKNOWN, |call| call.op);
                let replica = self.replica_for(&members, position, op, cx);
                self.submit_to(&members, (position, replica), batch, range, cx)
            }
            None => Submitted::Refused(range.len(), Refusal::NoRoute),
        }
    }

    /// The connection to the server in `position` that the calls of this client share; `None` if it is full or its server
    /// lost, and the client waits.
    pub(crate) fn connection(
        &self,
        position: usize,
        call: &Call,
        cx: &SubmitCx<'_, P>,
    ) -> Result<Option<Rc<Connection<P>>>, Refusal> {
        let members = self.members();
        let replica = self.replica_for(&members, position, call.op, cx);
        self.connection_at(&members, (position, replica), call, cx)
    }

    /// A dedicated connection to the server in `position`; to be given back with [`Upstream::unpin`].
    pub(crate) fn pin_at(&self, position: usize, profile: u8) -> Result<Rc<Connection<P>>, Refusal> {
        if self.pins.get() >= self.max_pins {
            self.blueprint.metrics.pin_refused();
            return Err(Refusal::TooManyPins);
        }
        let members = self.members();
        let server = members.at(position)?;
        if server.endpoint.is_down() {
            return Err(server.endpoint.refusal());
        }
        Ok(self.open_pin(server, profile))
    }

    pub(crate) fn open_pin(&self, server: &Rc<Server<P>>, profile: u8) -> Rc<Connection<P>> {
        let connection = server.pin(profile, |connection| self.remember(connection));
        connection.begin_pin(None);
        self.pins.set(self.pins.get() + 1);
        self.blueprint.metrics.pin_opened();
        connection
    }

    /// Whether all keys of a call are held by the server of `connection`.
    pub(crate) fn holds_all(
        &self,
        connection: &Connection<P>,
        batch: &Batch<'_, P>,
        index: usize,
    ) -> Result<(), Refusal> {
        let members = self.members();
        let own = members.position_of(connection);
        let Some(head) = batch.heads.get(index) else { return Ok(()) };
        let mut is_elsewhere = false;
        let keys = P::keys(head, batch.frame(index), &mut |key| {
            is_elsewhere |= members.router.by_key::<P>(key) != own;
        });
        match keys {
            _ if is_elsewhere => Err(Refusal::CrossSlot),
            Keys::Known => Ok(()),
            Keys::Unknown => Err(Refusal::NoRoute),
        }
    }

    /// Whether all keys of a call are in the slot of the transaction on `connection`, if there is one.
    pub(crate) fn is_of_transaction(
        &self,
        connection: &Connection<P>,
        batch: &Batch<'_, P>,
        index: usize,
    ) -> Result<(), Refusal> {
        let (Some(slot), Some(head)) = (connection.noted_slot(), batch.heads.get(index)) else {
            return Ok(());
        };
        let mut is_elsewhere = false;
        P::keys(head, batch.frame(index), &mut |key| is_elsewhere |= P::slot(key) != slot);
        if is_elsewhere { Err(Refusal::CrossSlot) } else { Ok(()) }
    }

    /// Whether `connection` leads to where calls meet that have no key (`PUBLISH`).
    pub(crate) fn meets_at(&self, connection: &Connection<P>) -> Result<(), Refusal> {
        let members = self.members();
        let is_there = members.shards.first().copied() == members.position_of(connection);
        if is_there { Ok(()) } else { Err(Refusal::CrossSlot) }
    }

    /// The position of the server that a wish is for.
    fn pin_position(&self, members: &Members<P>, wish: &Wish<'_>) -> Option<usize> {
        let Wish { op, key, lane, .. } = *wish;
        let meets = P::meets(op) && self.is_balanced();
        match (&members.router, key) {
            _ if meets => members.shards.first().copied(),
            (Router::Slots(_), None) if lane.part.is_some() => {
                members.part(lane.part).next().or_else(|| self.choose(members))
            }
            (router, Some(key)) if router.is_keyed() && members.shards.len() > 1 => router.by_key::<P>(key),
            (Router::Balanced(balancer), None)
                if balancer.balance().is_hashed() && members.shards.len() > 1 =>
            {
                // What it is for, nobody knows yet.
                None
            }
            _ if lane.epoch == self.epoch.get() => lane.endpoint.or_else(|| self.choose(members)),
            _ => self.choose(members),
        }
    }

    /// Nothing is known of the servers: the client waits until there is, or until nobody can tell.
    fn submit_unknown(
        &self,
        is_hopeless: bool,
        batch: &Batch<'_, P>,
        cx: &SubmitCx<'_, P>,
        at: usize,
    ) -> Submitted {
        match batch.calls.get(at) {
            Some(call) if !is_hopeless => {
                self.wait_for_news(cx.sink, call.ticket.conn, cx.now_micros);
                Submitted::Full
            }
            _ => Submitted::Refused(1, Refusal::UpstreamUnreachable),
        }
    }
}

/// Calls at the front of `calls` that have the same timeout and so may form one run.
fn same_timeout(calls: &[Call]) -> usize {
    let first = calls.first().map(|call| call.timeout_ms);
    calls.iter().position(|call| Some(call.timeout_ms) != first).unwrap_or(calls.len())
}

impl<P: Framed> Upstream<P> for Cluster<P> {
    fn submit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, mut cx: SubmitCx<'_, P>) -> Submitted {
        let members = self.members();
        if !self.may_submit(&mut cx) {
            return Submitted::Full;
        }
        match &members.router {
            Router::Unknown(is_hopeless) => {
                return self.submit_unknown(*is_hopeless, batch, &cx, range.start);
            }
            router if members.shards.len() > 1 && router.is_keyed() => {
                return self.submit_keyed(&members, batch, range, &mut cx);
            }
            Router::Slots(_) => return self.submit_keyed(&members, batch, range, &mut cx),
            Router::Primary(_) if members.reads.is_some() => {
                return self.submit_keyed(&members, batch, range, &mut cx);
            }
            Router::Balanced(..) | Router::Primary(_) => {}
        }
        let count = same_timeout(batch.calls.get(range.clone()).unwrap_or_default());
        let range = range.start..range.start + count;
        let index = match cx.lane.endpoint {
            Some(index) if !cx.idle || members.shards.len() == 1 => index,
            _ => match self.choose(&members) {
                Some(index) => index,
                None => return Submitted::Refused(count, Refusal::NoRoute),
            },
        };
        cx.lane.endpoint = Some(index);
        self.submit_to(&members, (index, None), batch, range, &cx)
    }

    fn recognise(&self, batch: &mut Batch<'_, P>, from: usize, sink: &Rc<dyn ReplySink<P>>) -> bool {
        self.recognise_all(batch, from, sink)
    }

    fn is_ready(&self, sink: &Rc<dyn ReplySink<P>>, wish: &Wish<'_>) -> bool {
        let (members, now_micros) = (self.members(), self.now_micros());
        if let Router::Unknown(false) = members.router {
            self.wait_for_news(sink, wish.conn, now_micros);
            return false;
        }
        let server = self.pin_position(&members, wish).and_then(|position| members.at(position).ok());
        let Some(server) = server.filter(|server| server.endpoint.is_down()) else { return true };
        let why = server.endpoint.refusal();
        self.wait_for(&server.endpoint, why, (sink, wish.conn), 0, now_micros).is_err()
    }

    fn pin(&self, wish: &Wish<'_>) -> Result<Rc<Connection<P>>, Refusal> {
        let members = self.members();
        let position = self.pin_position(&members, wish);
        let connection = self.pin_at(position.ok_or(members.nowhere())?, wish.profile)?;
        if let (Router::Slots(_), Some(key)) = (&members.router, wish.key.filter(|key| !key.is_empty())) {
            connection.begin_pin(Some(P::slot(key)));
        }
        Ok(connection)
    }

    fn settle(
        &self,
        connection: &Rc<Connection<P>>,
        owner: (Rc<dyn ReplySink<P>>, ConnKey),
        key: &[u8],
    ) -> Result<Option<Rc<Connection<P>>>, Refusal> {
        let members = self.members();
        let Router::Slots(map) = &members.router else { return Ok(None) };
        let slot = P::slot(key);
        connection.settle(slot);
        let position = map.at(slot).ok_or(Refusal::NoRoute)?;
        if members.position_of(connection) == Some(position) {
            return Ok(None);
        }
        let other = self.pin_at(position, connection.profile)?;
        other.take_over(connection, owner, false);
        Ok(Some(other))
    }

    fn slices(&self) -> Vec<Vec<(u16, u16)>> {
        self.members().slices.iter().map(|(_, slots)| slots.clone()).collect()
    }

    fn owns(&self, connection: &Connection<P>) -> bool {
        // Every cluster of a worker has figures of its own.
        std::sync::Arc::ptr_eq(&connection.endpoint.metrics, &self.blueprint.metrics)
    }

    fn waits_for_key(&self) -> bool {
        matches!(self.members().router, Router::Slots(_)) || self.is_sharded()
    }

    fn beside(&self, connection: &Connection<P>) -> Option<Rc<Connection<P>>> {
        let members = self.members();
        let is_same = |server: &&Rc<Server<P>>| std::ptr::eq(&*server.endpoint, &*connection.endpoint);
        let server = members.servers.iter().flatten().find(is_same)?;
        // It does not count against the clients' own: whoever is blocked may hold the last of those.
        Some(self.open_pin(server, 0))
    }

    fn unpin(&self, connection: Rc<Connection<P>>, clean: bool) {
        self.pins.set(self.pins.get().saturating_sub(1));
        self.blueprint.metrics.pin_closed();
        connection.set_owner(None, false);
        let members = self.members();
        let is_home = |server: &&Rc<Server<P>>| Rc::ptr_eq(&server.endpoint, &connection.endpoint);
        match members.servers.iter().flatten().find(is_home) {
            Some(server) if clean && connection.state() == State::Open && connection.in_flight() == 0 => {
                server.keep_pin(connection);
            }
            _ => connection.close(),
        }
    }
}
