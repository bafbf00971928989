//! The endpoints of one cluster and the connections to them, on one worker.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use mecha_core::{Batch, Call, Framed, Keys, Limits, Refusal, ReplyCount, Ticket};
use mecha_telemetry::ClusterMetrics;
use mecha_transport::{Address, Clock};

use crate::endpoint::Endpoint;
use crate::timers::Ticks;
use crate::{
    Backoff, Balance, Balancer, Connection, ConnectionOptions, Lane, RateGate, ReplySink, Slip, State,
    SubmitCx, Submitted, Timers, Upstream,
};

/// Dedicated connections kept for the next client that needs one, per endpoint.
const IDLE_PINS: usize = 16;

/// What the configuration says about a cluster.
pub struct ClusterOptions {
    /// For logs.
    pub name: String,
    /// Where its servers are.
    pub endpoints: Vec<Address>,
    /// How a call's server is chosen.
    pub balance: Balance,
    /// Shared connections per endpoint.
    pub connections: usize,
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// First and longest wait after failures.
    pub backoff: (Duration, Duration),
    /// Connection attempts per second and endpoint.
    pub connect_rate: u32,
    /// Dedicated connections at one time.
    pub max_pins: usize,
    /// Unanswered calls per connection.
    pub max_pending: usize,
    /// For the decoder of replies.
    pub limits: Limits,
}

/// What a cluster borrows from its worker.
#[derive(Clone)]
pub struct Environment {
    /// The worker's clock.
    pub clock: Clock,
    /// The worker's deadlines.
    pub timers: Rc<Timers>,
    /// The worker's buffer for upstream reads.
    pub scratch: Rc<RefCell<Vec<u8>>>,
}

struct Server<P: Framed> {
    endpoint: Rc<Endpoint>,
    /// Shared connections; position is `profile * connections + turn`.
    shared: RefCell<Vec<Option<Rc<Connection<P>>>>>,
    idle_pins: RefCell<Vec<Rc<Connection<P>>>>,
}

/// The endpoints of one cluster and the connections to them.
pub struct Cluster<P: Framed> {
    servers: Vec<Server<P>>,
    balance: Balance,
    balancer: Balancer,
    connections: usize,
    max_pins: usize,
    pins: Cell<usize>,
    turn: Cell<usize>,
    metrics: Arc<ClusterMetrics>,
    clock: Clock,
    pinned: RefCell<Vec<Weak<Connection<P>>>>,
    /// Empty but for the time of a tick; kept for its memory.
    ticked: RefCell<Vec<Rc<Connection<P>>>>,
}

/// One frame that a translator wants sent.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The key that chooses the endpoint; `None` for any.
    pub key: Option<&'a [u8]>,
    /// The endpoint, where it must be a certain one.
    pub endpoint: Option<usize>,
    /// Who waits.
    pub ticket: Ticket,
    /// For metrics.
    pub slip: Slip,
    /// 0 means no limit.
    pub timeout_ms: u32,
}

// === impl Cluster ===

impl<P: Framed> Cluster<P> {
    /// Connects to nothing yet: connections are made when a call needs them.
    pub fn new(options: ClusterOptions, metrics: Arc<ClusterMetrics>, environment: &Environment) -> Rc<Self> {
        let names: Vec<_> = options.endpoints.iter().map(ToString::to_string).collect();
        let shared = Rc::new(ConnectionOptions {
            connect_timeout: options.connect_timeout,
            max_pending: options.max_pending.max(1),
            max_abandoned: options.max_pending.clamp(1, 4096),
            limits: options.limits,
        });
        let servers = options.endpoints.into_iter().map(|address| Server {
            endpoint: Rc::new(Endpoint {
                cluster: options.name.clone(),
                address,
                options: Rc::clone(&shared),
                metrics: Arc::clone(&metrics),
                clock: environment.clock,
                timers: Rc::clone(&environment.timers),
                scratch: Rc::clone(&environment.scratch),
                backoff: RefCell::new(Backoff::new(options.backoff.0, options.backoff.1)),
                gate: RefCell::new(RateGate::new(options.connect_rate)),
                down_until_micros: Cell::new(0),
            }),
            shared: RefCell::default(),
            idle_pins: RefCell::default(),
        });
        let cluster = Rc::new(Self {
            servers: servers.collect(),
            balance: options.balance,
            balancer: Balancer::new(options.balance, &names),
            connections: options.connections.max(1),
            max_pins: options.max_pins,
            pins: Cell::new(0),
            turn: Cell::new(0),
            metrics,
            clock: environment.clock,
            pinned: RefCell::default(),
            ticked: RefCell::default(),
        });
        let member = Rc::downgrade(&cluster);
        environment.timers.join(member);
        cluster
    }

    /// The worker's time in microseconds.
    pub fn now_micros(&self) -> u64 {
        self.clock.micros()
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there is no server.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// State of each endpoint for people: address, whether it is left alone after a failure, unanswered calls.
    pub fn describe(&self) -> Vec<(String, bool, usize)> {
        let row = |server: &Server<P>| {
            (server.endpoint.address.to_string(), server.endpoint.is_down(), server.load().unwrap_or(0))
        };
        self.servers.iter().map(row).collect()
    }

    /// Whether a translator should hold back. Frames that it has already made are taken all the same.
    pub fn is_full(&self) -> bool {
        self.servers
            .iter()
            .any(|server| server.shared.borrow().iter().flatten().any(|shared| shared.is_full()))
    }

    /// Asks that `sink` be told when there is room.
    pub fn wait_for_room(&self, sink: &Rc<dyn ReplySink<P>>, conn: mecha_core::ConnKey) {
        for server in &self.servers {
            for shared in server.shared.borrow().iter().flatten().filter(|shared| shared.is_full()) {
                shared.wait_for_room(sink, conn);
            }
        }
    }

    /// Sends one frame of a translator.
    ///
    /// # Errors
    /// The reason for which it was not sent.
    pub fn send(
        &self,
        frame: Frame<'_>,
        sink: &Rc<dyn ReplySink<P>>,
        now_micros: u64,
    ) -> Result<(), Refusal> {
        let index = match (frame.endpoint, frame.key) {
            (Some(index), _) => index,
            (None, _) if self.servers.len() == 1 => 0,
            (None, Some(key)) if self.balance.is_hashed() => {
                self.balancer.by_key(key).ok_or(Refusal::NoRoute)?
            }
            _ => self.choose().ok_or(Refusal::NoRoute)?,
        };
        let server = self.servers.get(index).ok_or(Refusal::NoRoute)?;
        // Steps of one key must not overtake each other, so they stay on one connection.
        let connection = self.shared(server, 0, 0)?;
        connection.submit_frame(frame.bytes, frame.slip, sink, frame.ticket, frame.timeout_ms, now_micros);
        Ok(())
    }

    fn choose(&self) -> Option<usize> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        self.balancer.any(self.servers.len(), turn, |index| self.servers.get(index).and_then(Server::load))
    }

    /// The shared connection number `turn` to `server`, made on first use.
    fn shared(&self, server: &Server<P>, profile: u8, turn: usize) -> Result<Rc<Connection<P>>, Refusal> {
        let at = usize::from(profile) * self.connections + turn % self.connections;
        let mut shared = server.shared.borrow_mut();
        if shared.len() <= at {
            shared.resize_with(at + 1, || None);
        }
        let slot = shared.get_mut(at).ok_or(Refusal::NoRoute)?;
        // A task that ended for good, which only a bug can cause, is replaced.
        slot.take_if(|connection| connection.state() == State::Closed);
        let connection = slot.get_or_insert_with(|| {
            let connection = Connection::new(Rc::clone(&server.endpoint), profile, false);
            tokio::task::spawn_local(Rc::clone(&connection).run());
            connection
        });
        match connection.state() {
            State::BackingOff => Err(Refusal::UpstreamUnreachable),
            State::Closed | State::Connecting | State::Idle | State::Open => Ok(Rc::clone(connection)),
        }
    }

    /// The endpoint for one call, if the policy hashes keys.
    fn endpoint_of(&self, batch: &Batch<'_, P>, index: usize) -> Result<usize, Refusal> {
        let head = batch.heads.get(index).ok_or(Refusal::NoRoute)?;
        let (mut chosen, mut is_split) = (None, false);
        let keys = P::keys(head, batch.frame(index), &mut |key| {
            let endpoint = self.balancer.by_key(key);
            is_split |= chosen.is_some() && chosen != endpoint;
            chosen = endpoint;
        });
        match chosen {
            Some(endpoint) if keys == Keys::Known && !is_split => Ok(endpoint),
            _ => Err(Refusal::NoRoute),
        }
    }

    /// Submits calls that all go to one endpoint.
    fn submit_to(
        &self,
        index: usize,
        batch: &Batch<'_, P>,
        range: Range<usize>,
        cx: &SubmitCx<'_, P>,
    ) -> Submitted {
        let count = range.len();
        let Some(server) = self.servers.get(index) else {
            return Submitted::Refused(count, Refusal::NoRoute);
        };
        let connection = match self.shared(server, cx.profile, cx.peer.id as usize) {
            Ok(connection) => connection,
            Err(why) => return Submitted::Refused(count, why),
        };
        if connection.is_full() {
            if let Some(call) = batch.calls.get(range.start) {
                connection.wait_for_room(cx.sink, call.ticket.conn);
            }
            return Submitted::Full;
        }
        connection.submit(batch, range, cx.sink, cx.now_micros);
        Submitted::Pending(count)
    }

    /// Groups neighbours that go to the same endpoint.
    fn submit_hashed(&self, batch: &Batch<'_, P>, range: Range<usize>, cx: &SubmitCx<'_, P>) -> Submitted {
        let mut start = range.start;
        while start < range.end {
            let endpoint = match self.endpoint_of(batch, start) {
                Ok(endpoint) => endpoint,
                Err(why) if start == range.start => return Submitted::Refused(1, why),
                Err(_) => break,
            };
            let timeout = batch.calls.get(start).map(|call| call.timeout_ms);
            let same = |index: &usize| {
                self.endpoint_of(batch, *index) == Ok(endpoint)
                    && batch.calls.get(*index).map(|call| call.timeout_ms) == timeout
            };
            let end = (start + 1..range.end).find(|index| !same(index)).unwrap_or(range.end);
            match self.submit_to(endpoint, batch, start..end, cx) {
                Submitted::Pending(_) => start = end,
                other if start == range.start => return other,
                _ => break,
            }
        }
        Submitted::Pending(start - range.start)
    }
}

/// Calls at the front of `calls` that have the same timeout and so may form one run.
fn same_timeout(calls: &[Call]) -> usize {
    let first = calls.first().map(|call| call.timeout_ms);
    calls.iter().position(|call| Some(call.timeout_ms) != first).unwrap_or(calls.len())
}

impl<P: Framed> Upstream<P> for Cluster<P> {
    fn submit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: SubmitCx<'_, P>) -> Submitted {
        if self.servers.len() > 1 && self.balance.is_hashed() {
            return self.submit_hashed(batch, range, &cx);
        }
        let count = same_timeout(batch.calls.get(range.clone()).unwrap_or_default());
        let range = range.start..range.start + count;
        let index = match cx.lane.endpoint {
            _ if self.servers.len() == 1 => 0,
            Some(index) if !cx.idle => index,
            _ => match self.choose() {
                Some(index) => index,
                None => return Submitted::Refused(count, Refusal::NoRoute),
            },
        };
        cx.lane.endpoint = Some(index);
        self.submit_to(index, batch, range, &cx)
    }

    fn pin(&self, key: Option<&[u8]>, profile: u8, lane: &Lane) -> Result<Rc<Connection<P>>, Refusal> {
        if self.pins.get() >= self.max_pins {
            self.metrics.pin_refused();
            return Err(Refusal::TooManyPins);
        }
        let index = match (self.servers.len(), key) {
            (1, _) => 0,
            (_, Some(key)) if self.balance.is_hashed() => {
                self.balancer.by_key(key).ok_or(Refusal::NoRoute)?
            }
            (_, None) if self.balance.is_hashed() => return Err(Refusal::NoRoute),
            _ => lane.endpoint.or_else(|| self.choose()).ok_or(Refusal::NoRoute)?,
        };
        let server = self.servers.get(index).ok_or(Refusal::NoRoute)?;
        if server.endpoint.is_down() {
            return Err(Refusal::UpstreamUnreachable);
        }
        let mut idle = server.idle_pins.borrow_mut();
        idle.retain(|connection| connection.state() != State::Closed);
        let connection = match idle.iter().rposition(|connection| connection.profile == profile) {
            Some(at) => idle.swap_remove(at),
            None => {
                let connection = Connection::new(Rc::clone(&server.endpoint), profile, true);
                tokio::task::spawn_local(Rc::clone(&connection).run());
                let mut pinned = self.pinned.borrow_mut();
                pinned.retain(|connection| connection.strong_count() > 0);
                pinned.push(Rc::downgrade(&connection));
                connection
            }
        };
        self.pins.set(self.pins.get() + 1);
        self.metrics.pin_opened();
        Ok(connection)
    }

    fn unpin(&self, connection: Rc<Connection<P>>, clean: bool) {
        self.pins.set(self.pins.get().saturating_sub(1));
        self.metrics.pin_closed();
        connection.set_owner(None, false);
        let home = self.servers.iter().find(|server| Rc::ptr_eq(&server.endpoint, &connection.endpoint));
        match home {
            Some(server) if clean && connection.state() == State::Open && connection.in_flight() == 0 => {
                let mut idle = server.idle_pins.borrow_mut();
                idle.push(connection);
                if idle.len() > IDLE_PINS {
                    idle.swap_remove(0).close();
                }
            }
            _ => connection.close(),
        }
    }
}

impl<P: Framed> Server<P> {
    /// Unanswered calls; `None` while the server is left alone after a failure.
    fn load(&self) -> Option<usize> {
        if self.endpoint.is_down() {
            return None;
        }
        Some(self.shared.borrow().iter().flatten().map(|shared| shared.in_flight()).sum())
    }
}

impl<P: Framed> Ticks for Cluster<P> {
    fn tick(&self, now_micros: u64) -> bool {
        // Nothing may be borrowed while a connection tells its clients, who may submit again.
        let mut all = self.ticked.take();
        all.extend(self.pinned.borrow().iter().filter_map(Weak::upgrade));
        for server in &self.servers {
            all.extend(server.shared.borrow().iter().flatten().cloned());
        }
        let is_left = all.drain(..).fold(false, |left, connection| connection.tick(now_micros) | left);
        self.ticked.replace(all);
        is_left
    }
}

impl Slip {
    /// For a translator's frame, which always gets a reply.
    pub fn of(op: mecha_core::OpId) -> Self {
        Self { op, replies: ReplyCount::One }
    }
}
