//! One server's connections on one worker.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use mecha_core::{Framed, Refusal, login_of};
use mecha_telemetry::ClusterMetrics;
use mecha_transport::Address;

use crate::cluster::Environment;
use crate::connection::Kind;
use crate::detour::Follow;
use crate::endpoint::Endpoint;
use crate::news::Subscription;
use crate::{Backoff, Connection, ConnectionOptions, Health, RateGate, State};

/// Dedicated connections kept for the next client that needs one, per endpoint.
const IDLE_PINS: usize = 16;

/// What all servers of a cluster have in common: enough to make another one.
pub(crate) struct Blueprint {
    pub(crate) cluster: String,
    pub(crate) options: Rc<ConnectionOptions>,
    pub(crate) metrics: Arc<ClusterMetrics>,
    pub(crate) environment: Environment,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) connect_rate: u32,
    /// Shared connections per server.
    pub(crate) connections: usize,
    /// Where servers are found, and to whom it is told that one is lost.
    pub(crate) news: Option<Subscription>,
    /// What checks say, if there are any.
    pub(crate) health: Option<Arc<Health>>,
}

impl Blueprint {
    pub(crate) fn endpoint(&self, address: Address) -> Rc<Endpoint> {
        Rc::new(Endpoint {
            cluster: self.cluster.clone(),
            pulse: self.health.as_ref().map(|health| health.pulse(&address)),
            address,
            options: Rc::clone(&self.options),
            metrics: Arc::clone(&self.metrics),
            clock: self.environment.clock,
            timers: Rc::clone(&self.environment.timers),
            scratch: Rc::clone(&self.environment.scratch),
            backoff: RefCell::new(Backoff::new(self.backoff.0, self.backoff.1)),
            gate: RefCell::new(RateGate::new(self.connect_rate)),
            down_until_micros: Cell::new(0),
            lost_since_micros: Cell::new(0),
            news: self.news.clone(),
            is_denied: Cell::new(false),
            failures: Cell::new(0),
            eject: OnceCell::new(),
            max_ttl_secs: Cell::new(0),
            lacks_version: Cell::new(false),
        })
    }
}

/// One server's connections on one worker.
pub(crate) struct Server<P: Framed> {
    pub(crate) endpoint: Rc<Endpoint>,
    follower: Option<Weak<dyn Follow<P>>>,
    /// Position is `profile * connections + turn`.
    shared: RefCell<Vec<Option<Rc<Connection<P>>>>>,
    /// As `shared`, for calls that read from it as from a replica.
    reading: RefCell<Vec<Option<Rc<Connection<P>>>>>,
    connections: usize,
    idle_pins: RefCell<Vec<Rc<Connection<P>>>>,
}

// === impl Server ===

impl<P: Framed> Server<P> {
    pub(crate) fn new(
        address: Address,
        blueprint: &Blueprint,
        follower: Option<Weak<dyn Follow<P>>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            follower,
            endpoint: blueprint.endpoint(address),
            shared: RefCell::default(),
            reading: RefCell::default(),
            connections: blueprint.connections,
            idle_pins: RefCell::default(),
        })
    }

    /// Unanswered calls; `None` while the server is left alone after a failure.
    pub(crate) fn load(&self) -> Option<usize> {
        if self.endpoint.is_down() {
            return None;
        }
        Some(self.shared.borrow().iter().flatten().map(|shared| shared.in_flight()).sum())
    }

    /// The shared connections that exist.
    pub(crate) fn each_shared(&self, mut each: impl FnMut(&Rc<Connection<P>>)) {
        self.shared.borrow().iter().flatten().for_each(&mut each);
        self.reading.borrow().iter().flatten().for_each(&mut each);
    }

    /// It is not to be read from as a replica any more: calls that it has not answered are answered by others.
    pub(crate) fn stop_reading(&self) {
        self.reading.borrow().iter().flatten().for_each(|connection| connection.close());
    }

    /// The shared connection number `turn`, made on first use.
    pub(crate) fn shared(&self, profile: u8, turn: usize) -> Result<Rc<Connection<P>>, Refusal> {
        self.connection(&self.shared, Kind::Shared, profile, turn)
    }

    /// As [`Server::shared`], to read from it as from a replica. With `is_told`, it must be told that this is meant.
    pub(crate) fn reading(
        &self,
        profile: u8,
        turn: usize,
        is_told: bool,
    ) -> Result<Rc<Connection<P>>, Refusal> {
        self.connection(&self.reading, Kind::Reading { is_told }, profile, turn)
    }

    fn connection(
        &self,
        connections: &RefCell<Vec<Option<Rc<Connection<P>>>>>,
        kind: Kind,
        profile: u8,
        turn: usize,
    ) -> Result<Rc<Connection<P>>, Refusal> {
        let at = usize::from(profile) * self.connections + turn % self.connections;
        let mut shared = connections.borrow_mut();
        if shared.len() <= at {
            shared.resize_with(at + 1, || None);
        }
        let slot = shared.get_mut(at).ok_or(Refusal::NoRoute)?;
        // A task that ended for good, which only a bug can cause, is replaced.
        slot.take_if(|connection| connection.state() == State::Closed);
        let connection = slot.get_or_insert_with(|| {
            let turn = Some(turn % self.connections);
            let endpoint = Rc::clone(&self.endpoint);
            let connection = Connection::new(endpoint, profile, turn, kind, self.follower.clone());
            tokio::task::spawn_local(Rc::clone(&connection).run());
            connection
        });
        match connection.state() {
            State::BackingOff => Err(connection.refusal()),
            // It is there and does not do its work: what is sent to it would wait.
            State::Open if self.endpoint.is_ill() => Err(self.endpoint.refusal()),
            State::Connecting | State::Idle if self.endpoint.is_lost() => {
                // With calls coming in, it would have been tried.
                if connection.try_to_open() {
                    self.endpoint.forget_if_old();
                }
                Err(self.endpoint.refusal())
            }
            State::Closed | State::Connecting | State::Idle | State::Open => Ok(Rc::clone(connection)),
        }
    }

    /// A dedicated connection: one that another client has given back, or a new one, which `is_new` is told of.
    pub(crate) fn pin(&self, profile: u8, is_new: impl FnOnce(&Rc<Connection<P>>)) -> Rc<Connection<P>> {
        self.idle_pin(profile).unwrap_or_else(|| {
            let endpoint = Rc::clone(&self.endpoint);
            let connection = Connection::new(endpoint, profile, None, Kind::Dedicated, self.follower.clone());
            tokio::task::spawn_local(Rc::clone(&connection).run());
            is_new(&connection);
            connection
        })
    }

    /// A dedicated connection that another client has given back.
    fn idle_pin(&self, profile: u8) -> Option<Rc<Connection<P>>> {
        let mut idle = self.idle_pins.borrow_mut();
        idle.retain(|connection| connection.state() != State::Closed);
        let at = idle.iter().rposition(|connection| connection.profile == profile)?;
        Some(idle.swap_remove(at))
    }

    /// Keeps a dedicated connection for the next client.
    pub(crate) fn keep_pin(&self, connection: Rc<Connection<P>>) {
        let mut idle = self.idle_pins.borrow_mut();
        idle.push(connection);
        if idle.len() > IDLE_PINS {
            idle.swap_remove(0).close();
        }
    }

    /// Nobody has this login any more. Returns the connections that live on for what is in flight.
    pub(crate) fn dismiss(&self, login: u8) -> Vec<Rc<Connection<P>>> {
        let is_theirs = |connection: &Rc<Connection<P>>| login_of(connection.profile) == login;
        self.idle_pins.borrow_mut().retain(|connection| {
            let goes = is_theirs(connection);
            if goes {
                connection.close();
            }
            !goes
        });
        let mut left = Vec::new();
        for connections in [&self.shared, &self.reading] {
            left.extend(
                connections.borrow_mut().iter_mut().filter_map(|slot| slot.take_if(|known| is_theirs(known))),
            );
        }
        left.iter().for_each(|connection| connection.retire());
        left
    }

    /// The server has left the cluster: what is in flight is still answered, and nothing new comes. Returns the
    /// connections that live on for that.
    pub(crate) fn retire(&self) -> Vec<Rc<Connection<P>>> {
        self.idle_pins.take().iter().for_each(|connection| connection.close());
        let shared: Vec<_> = self.shared.take().into_iter().chain(self.reading.take()).flatten().collect();
        shared.iter().for_each(|connection| connection.retire());
        shared
    }
}
