//! Calls that wait for a server, where servers are found and lost.
//!
//! While a server is lost, another one is likely to take its place. A call that was not sent waits for that instead of
//! failing, in one of two ways. One that its session still has stays there: the session gets [`Submitted::Full`], reads
//! nothing more from its client, and is told when to try again, so a waiting client holds one batch and no more. One that
//! a connection had taken, or that a server has sent away until later, is *parked*: its bytes are kept here, within limits,
//! and sent when there is a server for them.
//!
//! Nobody waits for longer than `park`, counted from when the server was lost and from when the call came, nor beyond the
//! call's own timeout. Parked calls of one client leave in the order in which they came, and the client's next calls
//! wait for their answers (see [`Cluster::start_epoch`]).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use mecha_core::{ConnKey, Framed, OpClass, Refusal};

use super::Cluster;
use crate::detour::{Detour, class_of, keys_of};
use crate::endpoint::Endpoint;
use crate::router::Router;
use crate::{Connection, ReplySink};

/// How often parked calls are looked at.
const TICK: Duration = Duration::from_millis(5);
/// How long it is remembered since when a client waits, after it was told to try again.
const MEMORY_MICROS: u64 = 1_000_000;
/// Bytes of parked calls on one worker.
const MAX_BYTES: usize = 16 << 20;

/// A sink, by its address, and its client.
type Client = (usize, ConnKey);

/// A session that waits.
struct Waiter<P: Framed> {
    sink: Rc<dyn ReplySink<P>>,
    since_micros: u64,
    /// When it is to be told, whatever happens.
    until_micros: u64,
    /// It was told, and has not come back so far.
    is_told: bool,
}

/// A call whose bytes are kept.
pub(crate) struct Parked<P: Framed> {
    pub(crate) call: Detour<P>,
    pub(crate) profile: u8,
    /// The dedicated connection that the call came from, and that another one takes the place of.
    pub(crate) pin: Option<Rc<Connection<P>>>,
    /// See [`crate::Connection::turn`].
    pub(crate) turn: usize,
    pub(crate) not_before_micros: u64,
    /// Answers that must have come first, of a connection.
    pub(crate) fence: Option<(Weak<Connection<P>>, u64)>,
    /// When its client is told that it was not sent.
    pub(crate) until_micros: u64,
}

/// What has become of a parked call.
enum Tried<P: Framed> {
    /// It is not to be tried any more.
    Fails(Parked<P>, Refusal),
    Sent,
    Stays(Parked<P>),
}

/// What waits, and for how long it may.
pub(crate) struct Parking<P: Framed> {
    /// 0: nothing waits for a lost server.
    pub(crate) time_micros: u64,
    max_calls: usize,
    waiters: RefCell<HashMap<Client, Waiter<P>>>,
    lot: RefCell<VecDeque<Parked<P>>>,
    bytes: Cell<usize>,
    is_watched: Cell<bool>,
}

// === impl Parked ===

impl<P: Framed> Parked<P> {
    /// Whether answers that must come first are still to come.
    fn is_fenced(&self) -> bool {
        let Some((connection, fence)) = &self.fence else { return false };
        connection.upgrade().is_some_and(|connection| connection.is_before(*fence))
    }

    /// Whether it matters which of two calls of one client is carried out first.
    fn conflicts(&self, other: &Detour<P>) -> bool {
        let call = &self.call;
        if call.conn != other.conn || !Rc::ptr_eq(&call.sink, &other.sink) {
            return false;
        }
        let is_reading = |call| class_of::<P>(call) == OpClass::Read;
        let (keys, others) = (keys_of::<P>(&call.frame), keys_of::<P>(&other.frame));
        !(is_reading(call) && is_reading(other)) && keys.iter().any(|key| others.contains(key))
    }
}

fn client_of<P: Framed>(sink: &Rc<dyn ReplySink<P>>, conn: ConnKey) -> Client {
    (Rc::as_ptr(sink).cast::<()>() as usize, conn)
}

// === impl Parking ===

impl<P: Framed> Parking<P> {
    pub(super) fn new(time: Duration, max_calls: usize) -> Self {
        Self {
            time_micros: time.as_micros() as u64,
            max_calls,
            waiters: RefCell::default(),
            lot: RefCell::default(),
            bytes: Cell::new(0),
            is_watched: Cell::new(false),
        }
    }

    /// Whether anybody waits for a server.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.lot.borrow().is_empty() || self.waiters.borrow().values().any(|waiter| !waiter.is_told)
    }

    /// A client's call has found a server.
    #[inline]
    pub(super) fn arrived(&self, sink: &Rc<dyn ReplySink<P>>, conn: ConnKey) {
        if !self.waiters.borrow().is_empty() {
            self.waiters.borrow_mut().remove(&client_of(sink, conn));
        }
    }

    /// Those that are to be told, now that `now_micros` has come.
    fn due(&self, now_micros: u64) -> Vec<(Rc<dyn ReplySink<P>>, ConnKey)> {
        let mut due = Vec::new();
        self.waiters.borrow_mut().retain(|(_, conn), waiter| {
            if !waiter.is_told && waiter.until_micros <= now_micros {
                (waiter.is_told, waiter.until_micros) = (true, now_micros);
                due.push((Rc::clone(&waiter.sink), *conn));
            }
            !waiter.is_told || waiter.until_micros + MEMORY_MICROS > now_micros
        });
        due
    }
}

// === impl Cluster ===

impl<P: Framed> Cluster<P> {
    /// Whether a client's call waits for a server that cannot be reached now. It is told when to try again.
    ///
    /// # Errors
    /// The reason for which it does not.
    pub(super) fn wait_for(
        &self,
        endpoint: &Endpoint,
        why: Refusal,
        (sink, conn): (&Rc<dyn ReplySink<P>>, ConnKey),
        timeout_ms: u32,
        now_micros: u64,
    ) -> Result<(), Refusal> {
        let time = self.parking.time_micros;
        if why != Refusal::UpstreamUnreachable || time == 0 {
            return Err(why);
        }
        let client = client_of(sink, conn);
        let mut waiters = self.parking.waiters.borrow_mut();
        let since = waiters.get(&client).map_or(now_micros, |waiter| waiter.since_micros);
        let limit = endpoint.lost_micros().unwrap_or(now_micros).min(since) + time;
        let deadline = if timeout_ms == 0 { u64::MAX } else { since + u64::from(timeout_ms) * 1000 };
        if now_micros >= limit.min(deadline) {
            waiters.remove(&client);
            return Err(if now_micros >= deadline { Refusal::TimedOut } else { why });
        }
        let until_micros = limit.min(deadline);
        let waiter = Waiter { sink: Rc::clone(sink), since_micros: since, until_micros, is_told: false };
        if waiters.insert(client, waiter).is_none() {
            self.metrics().parked();
        }
        drop(waiters);
        self.watch();
        Ok(())
    }

    /// The client is told when there is a topology.
    pub(super) fn wait_for_news(&self, sink: &Rc<dyn ReplySink<P>>, conn: ConnKey, now_micros: u64) {
        let waiter = Waiter {
            sink: Rc::clone(sink),
            since_micros: now_micros,
            until_micros: u64::MAX,
            is_told: false,
        };
        self.parking.waiters.borrow_mut().insert(client_of(sink, conn), waiter);
    }

    /// Something has changed: everybody who waits tries again.
    pub(crate) fn resume_waiters(&self) {
        for waiter in self.parking.waiters.borrow_mut().values_mut() {
            waiter.until_micros = 0;
        }
        for (sink, conn) in self.parking.due(self.now_micros()) {
            sink.resume(conn);
        }
    }

    /// Keeps calls until there is a server for them. Those that find no room fail.
    pub(crate) fn park(&self, calls: impl Iterator<Item = Parked<P>>) {
        // Their clients send nothing more before they are answered.
        self.start_epoch();
        let mut surplus = Vec::new();
        for parked in calls {
            let length = parked.call.frame.len();
            let mut lot = self.parking.lot.borrow_mut();
            if lot.len() >= self.parking.max_calls || self.parking.bytes.get() + length > MAX_BYTES {
                surplus.push(parked.call);
                continue;
            }
            self.metrics().parked();
            self.parking.bytes.set(self.parking.bytes.get() + length);
            lot.push_back(parked);
        }
        let now_micros = self.now_micros();
        surplus.into_iter().for_each(|call| call.fail(Refusal::UpstreamUnreachable, now_micros));
        self.watch();
    }

    /// Whether a parked call of the same client should have been carried out before `call`.
    pub(crate) fn is_overtaken_by(&self, call: &Detour<P>) -> bool {
        self.parking.lot.borrow().iter().any(|parked| parked.conflicts(call))
    }

    /// `call` was carried out before parked ones that it should have followed: those fail.
    pub(crate) fn give_up_for(&self, call: &Detour<P>) {
        let (failed, staying): (VecDeque<_>, _) =
            self.parking.lot.take().into_iter().partition(|parked| parked.conflicts(call));
        self.parking.lot.replace(staying);
        let now_micros = self.now_micros();
        for parked in failed {
            self.parking.bytes.set(self.parking.bytes.get().saturating_sub(parked.call.frame.len()));
            parked.call.fail(Refusal::Moved, now_micros);
        }
    }

    /// Looks after what waits until nothing does.
    fn watch(&self) {
        if self.parking.is_watched.replace(true) {
            return;
        }
        let me = Weak::clone(&self.me);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let Some(me) = me.upgrade() else { break };
                let now_micros = me.now_micros();
                me.leave(now_micros);
                for (sink, conn) in me.parking.due(now_micros) {
                    sink.resume(conn);
                }
                if me.parking.lot.borrow().is_empty() && me.parking.waiters.borrow().is_empty() {
                    me.parking.is_watched.set(false);
                    break;
                }
            }
        });
    }

    /// Sends parked calls for which there is a server now, and tells the clients of those whose time is over.
    fn leave(&self, now_micros: u64) {
        if self.parking.lot.borrow().is_empty() {
            return;
        }
        let all = self.parking.lot.take();
        // Nothing overtakes a call of its client that stays.
        let (mut staying, mut stayed) = (VecDeque::new(), HashSet::new());
        let mut failed = Vec::new();
        for parked in all {
            let client = client_of(&parked.call.sink, parked.call.conn);
            let length = parked.call.frame.len();
            let tried = if now_micros >= parked.call.deadline_micros {
                Tried::Fails(parked, Refusal::TimedOut)
            } else if stayed.contains(&client) || now_micros < parked.not_before_micros || parked.is_fenced()
            {
                Tried::Stays(parked)
            } else {
                self.try_again(parked)
            };
            match tried {
                Tried::Sent => {}
                Tried::Stays(parked) if now_micros < parked.until_micros => {
                    stayed.insert(client);
                    staying.push_back(parked);
                    continue;
                }
                Tried::Stays(parked) => failed.push((parked, Refusal::UpstreamUnreachable)),
                Tried::Fails(parked, why) => failed.push((parked, why)),
            }
            self.parking.bytes.set(self.parking.bytes.get().saturating_sub(length));
        }
        // Nobody parks anything while this goes on.
        self.parking.lot.replace(staying);
        for (parked, why) in failed {
            let (sink, conn) = (Rc::clone(&parked.call.sink), parked.call.conn);
            let is_lost = parked.pin.is_some();
            parked.call.fail(why, now_micros);
            if is_lost {
                sink.unpinned(conn);
            }
        }
    }

    /// Sends a call at once. Returns it if it must wait; one that can never be sent fails.
    pub(crate) fn send_again(&self, parked: Parked<P>) -> Option<Detour<P>> {
        match self.try_again(parked) {
            Tried::Fails(parked, why) => {
                parked.call.fail(why, self.now_micros());
                None
            }
            Tried::Sent => None,
            Tried::Stays(parked) => Some(parked.call),
        }
    }

    /// Sends a parked call, or gives it back because there is no server or no room, or with a reason that lasts.
    fn try_again(&self, parked: Parked<P>) -> Tried<P> {
        let members = self.members();
        let slot = match (&members.router, keys_of::<P>(&parked.call.frame).first()) {
            (Router::Slots(_), Some(key)) => Some(P::slot(key)),
            _ => parked.pin.as_ref().and_then(|pin| pin.pinned_slot()),
        };
        let position = match (&members.router, slot) {
            (Router::Slots(map), Some(slot)) => map.at(slot),
            _ => self.choose(&members),
        };
        let server = position.and_then(|position| members.at(position).ok());
        if let (Some(pin), Some(server)) = (&parked.pin, server) {
            if server.endpoint.is_down() {
                return Tried::Stays(parked);
            }
            let pin = Rc::clone(pin);
            // What refuses to move was told to move, and nothing can have happened on it since.
            let _ = self.move_pin(&pin, server, parked.call, slot, false);
            return Tried::Sent;
        }
        match server.map(|server| server.shared(parked.profile, parked.turn)) {
            Some(Ok(connection)) if !connection.is_full() => {
                connection.submit_detour(parked.call, false);
                Tried::Sent
            }
            Some(Err(why)) if why != Refusal::UpstreamUnreachable => Tried::Fails(parked, why),
            _ => Tried::Stays(parked),
        }
    }
}
