//! The servers of one cluster and the connections to them, on one worker.
//!
//! Which servers there are is either configured, and then fixed, or a [`Topology`] that changes while the cluster
//! runs (see [`crate::news`]). A server that has left answers what it was asked and is asked nothing more.
//!
//! **Order.** A key may move from one server to another while a client has calls for it in flight. So each change has an
//! *epoch*, and a client that has calls in flight under an older one waits with its next calls until those are
//! answered; see [`Lane`].

mod ejection;
mod learning;
pub(crate) mod parking;
mod submit;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use mecha_core::{ConnKey, Framed, Limits, Refusal, ReplyCount, Ticket};
use mecha_telemetry::ClusterMetrics;
use mecha_transport::tls::ClientTls;
use mecha_transport::{Address, Clock};

use self::ejection::Ejection;
pub use self::ejection::{EjectOptions, Gutter};
use self::learning::Learning;
use self::parking::{Parked, Parking};
use crate::CurrentLogin;
use crate::Health;
use crate::detour::{Detour, Follow, PATIENCE_MICROS};
use crate::links::Watches;
use crate::logins::Guests;
use crate::news::{Cause, Subscription};
use crate::pubsub::Census;
use crate::reads::{ReadPolicy, Reads};
use crate::router::Router;
use crate::scripts::{ScriptStore, Scripts};
use crate::server::{Blueprint, Server};
use crate::timers::Ticks;
use crate::topology::Topology;
use crate::{Balance, Balancer, Connection, ConnectionOptions, Node, ReplySink, Sharding, Slip, Timers};

/// What the configuration says about a cluster.
pub struct ClusterOptions {
    /// For logs.
    pub name: String,
    /// Where its servers are.
    pub servers: Servers,
    /// Shared connections per endpoint.
    pub connections: usize,
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// First and longest wait after failures.
    pub backoff: (Duration, Duration),
    /// Connection attempts per second and endpoint.
    pub connect_rate: u32,
    /// What checks say of its servers, if there are any.
    pub health: Option<Arc<Health>>,
    /// Dedicated connections at one time.
    pub max_pins: usize,
    /// Unanswered calls per connection.
    pub max_pending: usize,
    /// For the decoder of replies.
    pub limits: Limits,
    /// Whom to trust; `None` without TLS.
    pub tls: Option<Arc<ClientTls>>,
    /// What new connections say first.
    pub login: CurrentLogin,
    /// Texts of scripts that its servers may have to be told again.
    pub scripts: ScriptStore,
    /// Who listens to what.
    pub census: Census,
    /// When servers of a list that keys are spread over are left out; never if there is nothing here.
    pub eject: Option<EjectOptions>,
    /// From where calls that change nothing are answered.
    pub reads: ReadPolicy,
    /// How long calls wait for a server that is lost, where servers are found; 0 is not at all.
    pub park: Duration,
}

/// Where a cluster's servers are.
pub enum Servers {
    /// Here, and a call's server is chosen so, by names and weights in the order of the addresses.
    Fixed(Vec<Address>, Sharding, Vec<Node>),
    /// Somebody finds out, and tells.
    Found(Subscription),
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

/// The servers at one time. Replaced as a whole.
pub(crate) struct Members<P: Framed> {
    /// By position; those that have left are empty.
    pub(crate) servers: Vec<Option<Rc<Server<P>>>>,
    pub(crate) router: Router,
    /// Positions of the servers that together hold everything.
    shards: Vec<usize>,
    /// Position of the server for calls without a key, where keys decide.
    any: usize,
    /// `None` where the primaries alone are read.
    reads: Option<Reads>,
    /// Each shard's position and slots, by the lowest slot; only where keys are hashed to slots.
    pub(crate) slices: Vec<(usize, Vec<(u16, u16)>)>,
}

/// The servers of one cluster and the connections to them.
pub struct Cluster<P: Framed> {
    members: RefCell<Rc<Members<P>>>,
    reads: ReadPolicy,
    /// Counts the changes of who holds what; wraps.
    epoch: Cell<u32>,
    blueprint: Blueprint,
    census: Census,
    pub(crate) me: Weak<Self>,
    /// Servers that redirects named and no topology has.
    pub(crate) extras: RefCell<Vec<Rc<Server<P>>>>,
    max_pins: usize,
    pins: Cell<usize>,
    turn: Cell<usize>,
    /// Connections that no server knows: dedicated ones, and those of servers that have left.
    loose: RefCell<Vec<Weak<Connection<P>>>>,
    /// Who wants to know of each change of the servers.
    watchers: RefCell<Vec<Weak<dyn Watches>>>,
    /// Empty but for the time of a tick; kept for its memory.
    ticked: RefCell<Vec<Rc<Connection<P>>>>,
    pub(crate) parking: Parking<P>,
    learning: Learning<P>,
    ejection: Option<Ejection>,
}

/// One frame that a translator wants sent.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The key that chooses the endpoint; `None` for any.
    pub key: Option<&'a [u8]>,
    /// The number of the shard, below [`Cluster::len`], where it must be a certain one.
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
        let subscription =
            if let Servers::Found(news) = &options.servers { Some(news.clone()) } else { None };
        let blueprint = Blueprint {
            cluster: options.name,
            options: Rc::new(ConnectionOptions {
                connect_timeout: options.connect_timeout,
                max_pending: options.max_pending.max(1),
                max_abandoned: options.max_pending.clamp(1, 4096),
                patience_micros: (options.park.as_micros() as u64).max(PATIENCE_MICROS),
                limits: options.limits,
                tls: options.tls,
                login: options.login,
                guests: Guests::default(),
                scripts: Scripts::new(options.scripts),
            }),
            metrics,
            environment: environment.clone(),
            backoff: options.backoff,
            connect_rate: options.connect_rate,
            health: options.health,
            connections: options.connections.max(1),
            news: subscription.clone(),
        };
        let mut ejection = None;
        let members = match options.servers {
            Servers::Fixed(mut addresses, sharding, nodes) => {
                let router = Router::Balanced(Balancer::new(sharding, &nodes));
                let shards = (0..addresses.len()).collect();
                if let Some(options) = options.eject {
                    addresses.extend(options.gutter.iter().flat_map(|gutter| gutter.addresses.clone()));
                    ejection = Some(Ejection::new(options, sharding, nodes));
                }
                let server = |addr| Some(Server::new(addr, &blueprint, None));
                Members {
                    servers: addresses.into_iter().map(server).collect(),
                    router,
                    shards,
                    any: 0,
                    reads: None,
                    slices: Vec::new(),
                }
            }
            Servers::Found(_) => Members {
                servers: Vec::new(),
                router: Router::Unknown(false),
                shards: Vec::new(),
                any: 0,
                reads: None,
                slices: Vec::new(),
            },
        };
        let park = if subscription.is_some() { options.park } else { Duration::ZERO };
        let parking = Parking::new(park, options.max_pending);
        let cluster = Rc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            extras: RefCell::default(),
            members: RefCell::new(Rc::new(members)),
            reads: options.reads,
            epoch: Cell::new(0),
            census: options.census,
            blueprint,
            max_pins: options.max_pins,
            pins: Cell::new(0),
            turn: Cell::new(0),
            loose: RefCell::default(),
            ticked: RefCell::default(),
            watchers: RefCell::default(),
            parking,
            learning: Learning::default(),
            ejection,
        });
        let member = Rc::downgrade(&cluster);
        environment.timers.join(member);
        cluster.watch_failures();
        if let Some(mut news) = subscription {
            let cluster = Rc::downgrade(&cluster);
            tokio::task::spawn_local(async move {
                // What was published before this worker listened is news to it, unless it is nothing.
                if !news.current().is_empty() {
                    news.topology.mark_changed();
                }
                while news.topology.changed().await.is_ok() {
                    let Some(cluster) = cluster.upgrade() else { break };
                    let topology = Arc::clone(&news.topology.borrow_and_update());
                    cluster.adopt(&topology);
                }
            });
        }
        cluster
    }

    /// Takes over what was found out. Servers that are still there keep their connections. An empty topology says that
    /// nobody could be asked so far; it never replaces a known one.
    fn adopt(&self, topology: &Topology) {
        let old = self.members();
        if topology.shards.is_empty() && !old.shards.is_empty() {
            return;
        }
        let extras = self.extras.take();
        let known = |address: &Address| {
            let mut all = old.servers.iter().flatten().chain(&extras);
            all.find(|server| server.endpoint.address == *address).cloned()
        };
        let server = |node: &Option<crate::topology::Node>| {
            let address = &node.as_ref()?.address;
            Some(known(address).unwrap_or_else(|| self.server(address.clone())))
        };
        let members = Members {
            servers: topology.nodes.iter().map(server).collect(),
            router: Router::of(topology),
            shards: topology.shards.iter().map(|shard| shard.primary).collect(),
            any: topology.shards.first().map_or(0, |shard| shard.primary),
            reads: Reads::of(topology, &self.reads),
            slices: slices_of(topology),
        };
        for (node, server) in topology.nodes.iter().zip(&members.servers) {
            if let (Some(node), Some(server)) = (node, server)
                && !(node.is_replica && node.is_well)
            {
                server.stop_reading();
            }
        }
        for left in old.servers.iter().flatten().chain(&extras) {
            if !members.servers.iter().flatten().any(|server| Rc::ptr_eq(server, left)) {
                left.retire().iter().for_each(|connection| self.remember(connection));
            }
        }
        self.members.replace(Rc::new(members));
        self.start_epoch();
        self.resume_waiters();
        let watchers: Vec<_> = self.watchers.borrow().iter().filter_map(Weak::upgrade).collect();
        watchers.iter().for_each(|watcher| watcher.members_changed());
    }

    /// From now on, `watcher` is told when servers have come or gone.
    pub(crate) fn watched_by(&self, watcher: Weak<dyn Watches>) {
        let mut watchers = self.watchers.borrow_mut();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    /// Who listens to what.
    pub(crate) fn census(&self) -> &Census {
        &self.census
    }

    /// Clients' logins.
    pub(crate) fn guests(&self) -> &Guests {
        &self.blueprint.options.guests
    }

    /// Nobody has this login any more: its connections end with what is in flight on them.
    pub(crate) fn dismiss(&self, login: u8) {
        let members = self.members();
        let extras = self.extras.borrow();
        for server in members.servers.iter().flatten().chain(&*extras) {
            server.dismiss(login).iter().for_each(|connection| self.remember(connection));
        }
    }

    /// Whether the server in `position` is left alone after a failure.
    pub(crate) fn is_down(&self, position: usize) -> bool {
        self.members().at(position).is_ok_and(|server| server.endpoint.is_down())
    }

    /// The position of the server that `connection` leads to, while it belongs to the cluster.
    pub(crate) fn position(&self, connection: &Connection<P>) -> Option<usize> {
        self.members().position_of(connection)
    }

    /// A server that was found, so that it may send calls away.
    pub(crate) fn server(&self, address: Address) -> Rc<Server<P>> {
        let follower: Weak<dyn Follow<P>> = self.me.clone();
        Server::new(address, &self.blueprint, Some(follower))
    }

    /// Who holds what has changed: clients let their calls in flight end before they send more.
    pub(crate) fn start_epoch(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
    }

    /// What is known of servers that are found.
    pub(crate) fn news(&self) -> Option<&Subscription> {
        self.blueprint.news.as_ref()
    }

    /// Wishes for news, where servers are found.
    pub(crate) fn want(&self, cause: Cause) {
        if let Some(news) = &self.blueprint.news {
            news.want(cause);
        }
    }

    pub(crate) fn members(&self) -> Rc<Members<P>> {
        Rc::clone(&self.members.borrow())
    }

    /// Keeps an eye on the deadlines of a connection that no server knows.
    fn remember(&self, connection: &Rc<Connection<P>>) {
        let mut loose = self.loose.borrow_mut();
        loose.retain(|connection| connection.strong_count() > 0);
        loose.push(Rc::downgrade(connection));
    }

    /// The worker's time in microseconds.
    pub fn now_micros(&self) -> u64 {
        self.blueprint.environment.clock.micros()
    }

    /// How many servers together hold everything.
    pub fn len(&self) -> usize {
        self.members.borrow().shards.len()
    }

    /// Whether there is no server, or none is known so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of the servers that together hold everything: where a command for the whole data must go. Positions
    /// mean the same on all workers, and a server keeps its own while it belongs to the cluster.
    pub fn shards(&self) -> Vec<usize> {
        self.members.borrow().shards.clone()
    }

    /// The position of the server that holds `key`, where keys decide.
    pub fn by_key(&self, key: &[u8]) -> Option<usize> {
        self.members.borrow().router.by_key::<P>(key)
    }

    /// Whether several servers share the keys.
    pub fn is_sharded(&self) -> bool {
        let members = self.members.borrow();
        members.shards.len() > 1 && members.router.is_keyed()
    }

    /// The positions of the shards that an address of several stands for (`part`), which are all where there is one.
    pub(crate) fn shards_of(&self, part: Option<(u16, u16)>) -> Vec<usize> {
        let members = self.members.borrow();
        let own: Vec<_> = members.part(part).collect();
        if own.is_empty() { members.shards.clone() } else { own }
    }

    /// Whether the address of several is one of those that are left over ([`Members::part`]).
    pub(crate) fn is_beside(&self, part: Option<(u16, u16)>) -> bool {
        let shards = self.members.borrow().slices.len();
        shards > 0 && part.is_some_and(|(own, _)| usize::from(own) >= shards)
    }

    /// Whether keys are hashed to slots.
    pub(crate) fn is_slotted(&self) -> bool {
        matches!(self.members.borrow().router, Router::Slots(_))
    }

    /// The position of the server that holds `slot`.
    pub(crate) fn at_slot(&self, slot: u16) -> Option<usize> {
        if let Router::Slots(map) = &self.members.borrow().router { map.at(slot) } else { None }
    }

    /// Whether the servers know nothing of each other and keys are spread by mecha alone.
    pub(crate) fn is_balanced(&self) -> bool {
        matches!(self.members.borrow().router, Router::Balanced(_)) && self.is_sharded()
    }

    /// What keys of one frame must have in common (as [`Cluster::group_of`]), and the position of the server, in one.
    pub(crate) fn place(&self, key: &[u8]) -> Option<(usize, usize)> {
        match &self.members.borrow().router {
            Router::Slots(map) => {
                let slot = P::slot(key);
                Some((usize::from(slot), map.at(slot)?))
            }
            router => router.by_key::<P>(key).map(|position| (position, position)),
        }
    }

    pub(crate) fn metrics(&self) -> &ClusterMetrics {
        &self.blueprint.metrics
    }

    /// What the keys of one frame must have in common: their slot where keys are hashed to slots, else their server.
    /// `None` where any keys may be together, or nobody holds this one.
    pub fn group_of(&self, key: &[u8]) -> Option<usize> {
        match &self.members.borrow().router {
            Router::Slots(_) => Some(usize::from(P::slot(key))),
            router => router.by_key::<P>(key),
        }
    }

    /// State of each endpoint for people: address, whether it is left alone after a failure, unanswered calls.
    pub fn describe(&self) -> Vec<(String, bool, usize)> {
        let row = |server: &Rc<Server<P>>| {
            (server.endpoint.address.to_string(), server.endpoint.is_down(), server.load().unwrap_or(0))
        };
        self.members.borrow().servers.iter().flatten().map(row).collect()
    }

    /// Whether a translator should hold back. Frames that it has already made are taken all the same.
    pub fn is_full(&self) -> bool {
        let mut is_full = false;
        for server in self.members.borrow().servers.iter().flatten() {
            server.each_shared(|shared| is_full |= shared.is_full());
        }
        is_full
    }

    /// Whether nothing is known of the servers so far. Then `sink` is told when there is, or when nobody can tell.
    pub fn waits_for_news(&self, sink: &Rc<dyn ReplySink<P>>, conn: ConnKey, now_micros: u64) -> bool {
        let is_unknown = matches!(self.members().router, Router::Unknown(false));
        if is_unknown {
            self.wait_for_news(sink, conn, now_micros);
        }
        is_unknown
    }

    /// Asks that `sink` be told when there is room.
    pub fn wait_for_room(&self, sink: &Rc<dyn ReplySink<P>>, conn: ConnKey) {
        for server in self.members.borrow().servers.iter().flatten() {
            server.each_shared(|shared| {
                if shared.is_full() {
                    shared.wait_for_room(sink, conn);
                }
            });
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
        let members = self.members();
        let position = match (frame.endpoint, frame.key) {
            (Some(shard), _) => members.shards.get(shard).copied(),
            (None, Some(key)) if members.router.is_keyed() && members.shards.len() > 1 => {
                members.router.by_key::<P>(key)
            }
            _ => self.choose(&members),
        };
        let server = members.at(position.ok_or(members.nowhere())?)?;
        // Steps of one key must not overtake each other, so they stay on one connection.
        let connection = match server.shared(0, 0) {
            Ok(connection) => connection,
            Err(Refusal::UpstreamUnreachable)
                if server.endpoint.may_park(self.parking.time_micros, now_micros) =>
            {
                self.park(std::iter::once(self.parked(Detour::of(&frame, sink, now_micros), 0, 0)));
                return Ok(());
            }
            Err(why) => return Err(why),
        };
        connection.submit_frame(frame.bytes, frame.slip, sink, frame.ticket, frame.timeout_ms, now_micros);
        Ok(())
    }

    /// A call that waits for its server from now on.
    pub(crate) fn parked(&self, call: Detour<P>, profile: u8, turn: usize) -> Parked<P> {
        let until_micros = call.sent_micros + self.parking.time_micros;
        Parked { call, profile, pin: None, turn, fence: None, not_before_micros: 0, until_micros }
    }

    /// A server for a call that any can answer.
    pub(crate) fn choose(&self, members: &Members<P>) -> Option<usize> {
        let balance = match &members.router {
            Router::Balanced(balancer) => balancer.balance(),
            Router::Primary(position) => return Some(*position),
            Router::Slots(_) => Balance::RoundRobin,
            Router::Unknown(_) => return None,
        };
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let load = |index: usize| members.at(*members.shards.get(index)?).ok()?.load();
        let index = balance.any(members.shards.len(), turn, load)?;
        members.shards.get(index).copied()
    }
}

impl<P: Framed> Members<P> {
    /// The positions of the shards that one of several addresses stands for: whole ones, so that what their servers tell of
    /// themselves adds up. Addresses beyond the number of shards stand for one that another stands for too.
    pub(crate) fn part(&self, part: Option<(u16, u16)>) -> impl Iterator<Item = usize> {
        let shards = self.slices.len();
        let (own, step) = match part {
            Some((own, of)) if shards > 0 => {
                let step = usize::from(of).clamp(1, shards);
                (usize::from(own) % step, step)
            }
            _ => (shards, 1),
        };
        self.slices.iter().skip(own).step_by(step).map(|(position, _)| *position)
    }

    pub(crate) fn at(&self, position: usize) -> Result<&Rc<Server<P>>, Refusal> {
        self.servers.get(position).and_then(Option::as_ref).ok_or(Refusal::NoRoute)
    }

    /// The position of the server that `connection` leads to, while it belongs to the cluster.
    fn position_of(&self, connection: &Connection<P>) -> Option<usize> {
        let is_it = |server: &Option<Rc<Server<P>>>| {
            server.as_ref().is_some_and(|server| Rc::ptr_eq(&server.endpoint, &connection.endpoint))
        };
        self.servers.iter().position(is_it)
    }

    /// Why there is no server for a call.
    fn nowhere(&self) -> Refusal {
        match self.router {
            Router::Unknown(_) => Refusal::UpstreamUnreachable,
            _ => Refusal::NoRoute,
        }
    }
}

impl<P: Framed> Ticks for Cluster<P> {
    fn tick(&self, now_micros: u64) -> bool {
        // Nothing may be borrowed while a connection tells its clients, who may submit again.
        let mut all = self.ticked.take();
        all.extend(self.loose.borrow().iter().filter_map(Weak::upgrade));
        let extras = self.extras.borrow();
        for server in self.members.borrow().servers.iter().flatten().chain(extras.iter()) {
            server.each_shared(|connection| all.push(Rc::clone(connection)));
        }
        drop(extras);
        let is_left = all.drain(..).fold(false, |left, connection| connection.tick(now_micros) | left);
        self.ticked.replace(all);
        is_left
    }
}

impl Slip {
    /// For a translator's frame, which always gets a reply.
    pub fn of(op: mecha_core::OpId) -> Self {
        Self { op, echo: 0, replies: ReplyCount::One }
    }
}

/// A configuration without this cluster has come into force, and its last client has left.
impl<P: Framed> Drop for Cluster<P> {
    fn drop(&mut self) {
        for server in self.members.get_mut().servers.iter().flatten() {
            server.retire();
        }
    }
}

/// See [`Members::slices`].
fn slices_of(topology: &Topology) -> Vec<(usize, Vec<(u16, u16)>)> {
    if !topology.is_slotted {
        return Vec::new();
    }
    let held = topology.shards.iter().filter(|shard| !shard.slots.is_empty());
    let mut slices: Vec<_> = held.map(|shard| (shard.primary, shard.slots.clone())).collect();
    slices.iter_mut().for_each(|(_, slots)| slots.sort_unstable());
    slices.sort_by_key(|(_, slots)| slots.first().copied());
    slices
}
