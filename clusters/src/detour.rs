//! Calls that a server has sent away: where they go instead.
//!
//! A redirected call was not carried out, so it may be sent again, whatever it does. It keeps its place in its client's
//! order, and its time and deadline. Nothing that the client sends afterwards overtakes it: a slot that moves starts a
//! new epoch (see [`crate::Cluster`]), and what is already in flight behind it goes the same way in the same order.
//!
//! A call that is to be tried *later* may have others of its client behind it in flight. It waits until those are answered.
//! If they are sent away too, they wait behind it. If one for the same keys was carried out, a reading is made again
//! behind the call that waits, as its answer has not left yet; but where one of the two has changed something that cannot
//! be taken back, the call that waits gets an error instead, which says that it was not carried out.
//!
//! A dedicated connection moves with its client's first call, as nothing has been built up on it by then; after that,
//! the client is told.

use std::rc::Rc;
use std::time::Duration;

use mecha_core::{ConnKey, Decode, Framed, Limits, OpClass, Redirect, Refusal};
use mecha_transport::Address;

use crate::connection::Connection;
use crate::connection::deadline;
use crate::news::Cause;
use crate::router::Router;
use crate::server::Server;
use crate::{Cluster, Frame, ReplySink, Slip};

/// Redirects that one call is sent after.
const MAX_HOPS: u8 = 16;
/// How long a call is tried again at least because the servers are in the middle of a change, in microseconds.
pub(crate) const PATIENCE_MICROS: u64 = 1_500_000;
/// First and longest wait before a call is tried again.
const WAITS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// Tries after which the wait grows no more.
const LONGEST_AFTER: u8 = 8;
/// Servers that redirects named and no topology has.
const MAX_EXTRAS: usize = 64;

/// A call on its way to another server.
pub(crate) struct Detour<P: Framed> {
    pub(crate) sink: Rc<dyn ReplySink<P>>,
    pub(crate) conn: ConnKey,
    pub(crate) seq: u32,
    pub(crate) slip: Slip,
    pub(crate) frame: Vec<u8>,
    /// What its client has sent behind it on a dedicated connection.
    pub(crate) behind: Vec<Self>,
    /// Servers that have sent it away.
    pub(crate) hops: u8,
    pub(crate) sent_micros: u64,
    pub(crate) deadline_micros: u64,
}

impl<P: Framed> Detour<P> {
    /// A translator's frame.
    pub(crate) fn of(frame: &Frame<'_>, sink: &Rc<dyn ReplySink<P>>, now_micros: u64) -> Self {
        Self {
            sink: Rc::clone(sink),
            conn: frame.ticket.conn,
            seq: frame.ticket.seq,
            slip: frame.slip,
            frame: frame.bytes.to_vec(),
            behind: Vec::new(),
            hops: 0,
            sent_micros: now_micros,
            deadline_micros: deadline(frame.timeout_ms, now_micros),
        }
    }

    pub(crate) fn fail(self, why: Refusal, now_micros: u64) {
        self.sink.fail(self.conn, self.seq, &[self.slip], why, false);
        self.behind.iter().for_each(|call| call.sink.fail(call.conn, call.seq, &[call.slip], why, false));
        self.sink.flush(now_micros);
    }
}

/// Whoever follows redirects for a connection.
pub(crate) trait Follow<P: Framed> {
    /// Sends `call` where it belongs.
    ///
    /// # Errors
    /// Why it could not be sent; nobody has told the client.
    fn follow(
        &self,
        from: &Rc<Connection<P>>,
        call: Detour<P>,
        redirect: Redirect<'_>,
        now_micros: u64,
    ) -> Result<(), Refusal>;

    /// `call` has been answered by `from`, but an earlier one of its client waits. Returns whether it waits now too, and is to
    /// be carried out again: that it may be only if `is_whole`, so that nothing of its answer has left.
    fn overtakes(&self, from: &Rc<Connection<P>>, call: Detour<P>, is_whole: bool) -> bool;

    /// Keeps calls of a lost connection that were not sent. `profile` and `turn` are the connection's.
    fn keep(&self, calls: Vec<Detour<P>>, profile: u8, turn: usize);

    /// Has calls that a replica did not answer answered by the primary.
    fn reread(&self, calls: Vec<Detour<P>>, profile: u8, turn: usize);

    /// Whether calls wait for a server that is lost.
    fn is_awaited(&self) -> bool;

    /// A server that was lost can be reached again.
    fn recovered(&self);
}

/// Whether a call that was sent `age_micros` ago is to be sent after `redirect`. With `is_bound`, its client has built
/// something up on the dedicated connection that it came from.
pub(crate) fn is_followed(
    redirect: Redirect<'_>,
    is_bound: bool,
    age_micros: u64,
    patience_micros: u64,
) -> bool {
    match redirect {
        // The server's error is the honest answer; it names no address.
        Redirect::Later => !is_bound && age_micros < patience_micros,
        Redirect::Ask { .. } | Redirect::Moved { .. } => true,
    }
}

/// What the call's operation does.
pub(crate) fn class_of<P: Framed>(call: &Detour<P>) -> OpClass {
    P::ops().get(usize::from(call.slip.op.0)).map_or(OpClass::Write, |info| info.class)
}

/// The keys of the one request in `frame`.
pub(crate) fn keys_of<P: Framed>(frame: &[u8]) -> Vec<&[u8]> {
    let limits = Limits { stream_above: usize::MAX, max_frame: usize::MAX, ..Limits::default() };
    let (mut heads, mut keys) = (Vec::new(), Vec::new());
    if P::request_decoder(limits).decode(frame, &mut heads).is_ok()
        && let Some(head) = heads.first()
    {
        P::keys(head, frame, &mut |key| keys.push(key));
        if keys.is_empty() {
            keys.extend(P::key(head, frame));
        }
    }
    keys
}

impl<P: Framed> Follow<P> for Cluster<P> {
    fn follow(
        &self,
        from: &Rc<Connection<P>>,
        mut call: Detour<P>,
        redirect: Redirect<'_>,
        now_micros: u64,
    ) -> Result<(), Refusal> {
        self.want(Cause::Redirect);
        // Waiting is bounded by time.
        let most = if redirect == Redirect::Later { LONGEST_AFTER } else { MAX_HOPS + 1 };
        call.hops = (call.hops + 1).min(most);
        if call.hops > MAX_HOPS || call.frame.is_empty() {
            return Err(Refusal::Moved);
        }
        let (slot, host, port) = match redirect {
            Redirect::Later if from.is_reading() => {
                self.metrics().redirected("later");
                self.reread(vec![call], from.profile, from.turn);
                return Ok(());
            }
            Redirect::Later => {
                self.metrics().redirected("later");
                self.later(call, from, now_micros);
                return Ok(());
            }
            Redirect::Ask { slot, host, port } | Redirect::Moved { slot, host, port } => (slot, host, port),
        };
        let is_ask = matches!(redirect, Redirect::Ask { .. });
        self.metrics().redirected(if is_ask { "ask" } else { "moved" });
        let server = self.server_named(host, port, &from.endpoint.address).ok_or(Refusal::Moved)?;
        if !is_ask {
            self.slot_moved(slot, &server);
        }
        if from.is_dedicated() {
            // What is left of it counts from now, in case the slot moves again.
            let elapsed_micros = now_micros.saturating_sub(call.sent_micros);
            if P::shorten_wait(call.slip.op, &mut call.frame, elapsed_micros) {
                call.sent_micros = now_micros;
            }
            return self.move_pin(from, &server, call, Some(slot), is_ask);
        }
        match server.shared(from.profile, from.turn) {
            Ok(connection) => connection.submit_detour(call, is_ask),
            // It was the one that has just been lost, or is the one that will be there in a moment.
            Err(_) if now_micros.saturating_sub(call.sent_micros) < from.endpoint.options.patience_micros => {
                self.later(call, from, now_micros);
            }
            Err(why) => return Err(why),
        }
        Ok(())
    }

    fn overtakes(&self, from: &Rc<Connection<P>>, call: Detour<P>, is_whole: bool) -> bool {
        if !self.is_overtaken_by(&call) {
            return false;
        }
        // A reading that came too early is made again. What has changed something cannot be taken back.
        if is_whole && class_of::<P>(&call) == OpClass::Read && !call.frame.is_empty() {
            self.later(call, from, self.now_micros());
            return true;
        }
        self.give_up_for(&call);
        false
    }

    fn keep(&self, calls: Vec<Detour<P>>, profile: u8, turn: usize) {
        let now_micros = self.now_micros();
        if self.parking.time_micros == 0 {
            calls.into_iter().for_each(|call| call.fail(Refusal::UpstreamUnreachable, now_micros));
            return;
        }
        self.park(calls.into_iter().map(|call| self.parked(call, profile, turn)));
    }

    fn reread(&self, calls: Vec<Detour<P>>, profile: u8, turn: usize) {
        let left: Vec<_> =
            calls.into_iter().filter_map(|call| self.send_again(self.parked(call, profile, turn))).collect();
        if !left.is_empty() {
            self.keep(left, profile, turn);
        }
    }

    fn is_awaited(&self) -> bool {
        self.parking.is_awaited()
    }

    fn recovered(&self) {
        self.resume_waiters();
    }
}

impl<P: Framed> Cluster<P> {
    /// The server that one at `from` has named; one that nobody has told of is taken in until there is a topology
    /// that knows better.
    fn server_named(&self, host: &str, port: u16, from: &Address) -> Option<Rc<Server<P>>> {
        let address = match (host, from) {
            ("", Address::Host(host, _)) => Address::Host(host.clone(), port),
            ("", Address::Found(_, addr) | Address::Tcp(addr)) => {
                Address::Tcp(std::net::SocketAddr::new(addr.ip(), port))
            }
            ("", Address::Unix(_)) => return None,
            _ => match host.parse() {
                Ok(ip) => Address::Tcp(std::net::SocketAddr::new(ip, port)),
                Err(_) => Address::Host(host.into(), port),
            },
        };
        let members = self.members();
        let mut extras = self.extras.borrow_mut();
        let all = members.servers.iter().flatten().chain(extras.iter());
        if let Some(known) = all.into_iter().find(|server| server.endpoint.address == address) {
            return Some(Rc::clone(known));
        }
        if extras.len() == MAX_EXTRAS {
            return None;
        }
        let server = self.server(address);
        extras.push(Rc::clone(&server));
        Some(server)
    }

    /// Takes note that a slot has moved, without waiting for the next topology.
    fn slot_moved(&self, slot: u16, to: &Rc<Server<P>>) {
        let members = self.members();
        let is_it =
            |server: &Option<Rc<Server<P>>>| server.as_ref().is_some_and(|server| Rc::ptr_eq(server, to));
        if let Router::Slots(map) = &members.router
            && let Some(position) = members.servers.iter().position(is_it)
            && map.at(slot) != Some(position)
        {
            map.set(slot, position);
            self.start_epoch();
        }
    }

    /// Tries a call again after a while.
    fn later(&self, call: Detour<P>, from: &Rc<Connection<P>>, now_micros: u64) {
        let patience_micros = from.endpoint.options.patience_micros;
        let wait = WAITS.0.saturating_mul(1 << u32::from(call.hops.min(LONGEST_AFTER))).min(WAITS.1);
        let mut parked = self.parked(call, from.profile, from.turn);
        parked.fence = Some((Rc::downgrade(from), from.fence()));
        if from.is_dedicated() {
            from.begin_move();
            parked.pin = Some(Rc::clone(from));
        }
        parked.not_before_micros = now_micros + wait.as_micros() as u64;
        parked.until_micros = parked.call.sent_micros + patience_micros;
        self.park(std::iter::once(parked));
    }

    /// Gives the client another dedicated connection, if it has built up nothing on its present one that cannot be built up
    /// again.
    pub(crate) fn move_pin(
        &self,
        from: &Rc<Connection<P>>,
        to: &Rc<Server<P>>,
        call: Detour<P>,
        slot: Option<u16>,
        is_ask: bool,
    ) -> Result<(), Refusal> {
        if from.has_answered() || from.in_flight() > 0 {
            let is_other = from.pinned_slot().is_some_and(|pinned| slot.is_some_and(|slot| slot != pinned));
            return Err(if is_other { Refusal::CrossSlot } else { Refusal::Moved });
        }
        let connection = self.open_pin(to, from.profile);
        let (sink, conn) = (Rc::clone(&call.sink), call.conn);
        let is_told = connection.take_over(from, (Rc::clone(&sink), conn), is_ask);
        if let Some(slot) = slot {
            connection.settle(slot);
        }
        connection.submit_detour(call, !is_told);
        if !sink.repinned(conn, &connection) {
            crate::Upstream::unpin(self, connection, false);
        }
        Ok(())
    }
}
