//! Servers that get a connection for each client, because nobody looks at the bytes.
//!
//! There are no calls to batch and no replies to match, so nothing here is shared but the choice of the server (`roster`) and
//! what is known of its health. Servers are taken to be alike: when one cannot be reached, the next is tried, which is safe as
//! long as nothing was sent. Where they are found, a newer list takes the place of the older one; servers that are on both
//! keep what is known of them, and those that have left keep the connections that they have.

mod roster;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use mecha_core::{Limits, Peer, Refusal};
use mecha_telemetry::ClusterMetrics;
use mecha_transport::tls::ClientTls;
use mecha_transport::{Address, Clock, ProxyVersion, ReadHalf, WriteHalf, connect_with, proxy_header};
use tokio::time::Instant;

use self::roster::{Look, Roster};
use crate::CurrentLogin;
use crate::cluster::Environment;
use crate::endpoint::{Eject, Endpoint};
use crate::http::Pool;
use crate::listing::{Finding, Listed, Listing};
use crate::quotas::{Quota, Quotas, Share};
use crate::server::Blueprint;
use crate::{ConnectionOptions, Health};

pub use self::roster::Choice;

/// What the configuration says about such a cluster.
pub struct StreamOptions {
    /// For logs.
    pub name: String,
    /// Where the servers are.
    pub servers: Listing,
    /// How one is chosen. Where a hash decides, it is that of the client's address.
    pub choice: Choice,
    /// Time for one connection attempt, and for the first list of servers.
    pub connect_timeout: Duration,
    /// First and longest time that a server is left alone after failures.
    pub backoff: (Duration, Duration),
    /// Whom to trust; `None` without TLS.
    pub tls: Option<Arc<ClientTls>>,
    /// How servers are told who the client is, if they are.
    pub proxy: Option<ProxyVersion>,
    /// Whether they are spoken to from the clients' addresses.
    pub keeps_source: bool,
    /// What checks say of them, if there are any.
    pub health: Option<Arc<Health>>,
    /// When they are left out, if ever.
    pub outlier: Option<OutlierOptions>,
    /// How much they may have to do.
    pub quotas: Arc<Quotas>,
}

/// When servers that fail their clients are left out.
#[derive(Clone, Copy, Debug)]
pub struct OutlierOptions {
    /// Failures in a row.
    pub failures: u32,
    /// How long the first time; as much more each time.
    pub eject_for: Duration,
    /// Share of servers that may be left out at a time; one may be in any case, if there is another.
    pub max_share: f64,
}

/// Times in a row after which a server is left out no longer than the last time.
const MAX_TIMES: u32 = 10;

/// The servers of one cluster, on one worker.
pub struct Streams {
    servers: RefCell<Rc<Servers>>,
    /// Where newer lists come from.
    finding: Option<Finding>,
    /// Servers that are not configured, but that others have named.
    named: RefCell<HashMap<Address, Rc<Server>>>,
    blueprint: Blueprint,
    choice: Choice,
    proxy: Option<ProxyVersion>,
    keeps_source: bool,
    outlier: Option<OutlierOptions>,
    quotas: Arc<Quotas>,
    metrics: Arc<ClusterMetrics>,
    clock: Clock,
    me: Weak<Self>,
}

/// The servers at one time. Replaced as a whole.
#[derive(Default)]
pub(crate) struct Servers {
    all: Vec<Rc<Server>>,
    roster: Roster,
}

/// One of them.
pub(crate) struct Server {
    endpoint: Rc<Endpoint>,
    /// Connections now.
    open: Rc<Cell<usize>>,
    /// Until when it is left out for its failures, by the worker's clock (0: it is not), and how often it was of late.
    out: Cell<(u64, u32)>,
    /// Whether it was down when it was last looked at.
    was_down: Cell<bool>,
    /// Connections that are kept for requests of HTTP.
    pub(crate) pool: OnceCell<Pool>,
}

/// A connection to one of the servers.
pub struct Stream {
    /// What comes from the server.
    pub read: ReadHalf,
    /// What goes to it.
    pub write: WriteHalf,
    /// Counts the connection until it is dropped.
    pub seat: StreamSeat,
}

/// One connection in its server's count.
pub struct StreamSeat {
    open: Rc<Cell<usize>>,
    metrics: Arc<ClusterMetrics>,
    _share: Share,
}

impl Drop for StreamSeat {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.metrics.connection_closed();
    }
}

/// What a roster is told of servers, where `L` tells how busy one is.
struct View<'a, L> {
    streams: &'a Streams,
    servers: &'a Servers,
    load: L,
}

impl<L: Fn(&Server) -> usize> Look for View<'_, L> {
    fn is_down(&self, at: usize) -> bool {
        let Some(server) = self.servers.all.get(at) else { return true };
        let is_down = self.streams.is_down(server);
        if server.was_down.replace(is_down) && !is_down && self.servers.roster.has_slow_start() {
            self.servers.roster.warm(at, self.streams.clock.micros());
        }
        is_down
    }

    fn load(&self, at: usize) -> usize {
        self.servers.all.get(at).map_or(0, |server| (self.load)(server))
    }
}

// === impl Servers ===

impl Servers {
    /// This one, and then all others in the order in which they are tried.
    pub(crate) fn get(&self, at: usize) -> Option<&Rc<Server>> {
        self.all.get(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rc<Server>> {
        self.all.iter()
    }
}

// === impl Server ===

impl Server {
    /// Its address, as people write it.
    pub(crate) fn name(&self) -> String {
        match &self.endpoint.address {
            Address::Found(host, addr) => format!("{host}:{}", addr.port()),
            address => address.to_string(),
        }
    }
}

// === impl Streams ===

impl Streams {
    /// Connects to nothing yet.
    pub fn new(options: StreamOptions, metrics: Arc<ClusterMetrics>, environment: &Environment) -> Rc<Self> {
        let blueprint = Blueprint {
            cluster: options.name,
            options: Rc::new(ConnectionOptions {
                connect_timeout: options.connect_timeout,
                max_pending: 1,
                max_abandoned: 1,
                patience_micros: 0,
                limits: Limits::default(),
                tls: options.tls,
                login: CurrentLogin::default(),
                guests: crate::logins::Guests::default(),
                scripts: crate::scripts::Scripts::default(),
            }),
            metrics: Arc::clone(&metrics),
            environment: environment.clone(),
            backoff: options.backoff,
            connect_rate: 1,
            connections: 1,
            news: None,
            health: options.health,
        };
        let (fixed, finding) = match options.servers {
            Listing::Fixed(list) => (Some(list), None),
            Listing::Found(finding) => (finding.current().map(|list| list.to_vec()), Some(finding)),
        };
        let streams = Rc::new_cyclic(|me: &Weak<Self>| Self {
            servers: RefCell::default(),
            finding: finding.clone(),
            named: RefCell::default(),
            choice: options.choice,
            proxy: options.proxy,
            keeps_source: options.keeps_source,
            outlier: options.outlier,
            quotas: options.quotas,
            metrics,
            blueprint,
            clock: environment.clock,
            me: Weak::clone(me),
        });
        if let Some(list) = fixed {
            streams.adopt(list);
        }
        if let Some(mut finding) = finding {
            let streams = Rc::downgrade(&streams);
            tokio::task::spawn_local(async move {
                while let Some(list) = finding.changed().await {
                    let Some(streams) = streams.upgrade() else { break };
                    streams.adopt(list.to_vec());
                }
            });
        }
        streams
    }

    /// Takes over a list. Servers that join others warm up.
    fn adopt(&self, mut list: Vec<Listed>) {
        list.sort_by_key(|listed| listed.priority);
        let old = self.servers();
        let roster = Roster::new(self.choice.clone(), &list);
        let now_micros = self.clock.micros();
        let known =
            |listed: &Listed| old.all.iter().position(|server| server.endpoint.address == listed.address);
        let all = list.into_iter().enumerate().map(|(at, listed)| match known(&listed) {
            Some(before) => {
                roster.go_on(at, old.roster.warm_since(before));
                old.all.get(before).map_or_else(|| self.server(listed.address), Rc::clone)
            }
            None => {
                if !old.all.is_empty() {
                    roster.warm(at, now_micros);
                }
                self.server(listed.address)
            }
        });
        let all = all.collect();
        self.servers.replace(Rc::new(Servers { all, roster }));
        // Whoever has left is out no more.
        let new = self.servers();
        let is_gone = |server: &&Rc<Server>| !new.all.iter().any(|kept| Rc::ptr_eq(kept, server));
        old.all
            .iter()
            .filter(is_gone)
            .filter(|server| server.out.get().0 != 0)
            .for_each(|_| self.metrics.readmitted());
    }

    fn server(&self, address: Address) -> Rc<Server> {
        let endpoint = self.blueprint.endpoint(address);
        if let Some(outlier) = self.outlier {
            endpoint.tell_failures(outlier.failures, Weak::clone(&self.me) as Weak<dyn Eject>);
        }
        let (open, out, was_down, pool) = (Rc::default(), Cell::default(), Cell::default(), OnceCell::new());
        Rc::new(Server { endpoint, open, out, was_down, pool })
    }

    /// The servers now.
    pub(crate) fn servers(&self) -> Rc<Servers> {
        Rc::clone(&self.servers.borrow())
    }

    /// The servers, when there has been a first list of them.
    pub(crate) async fn found(&self) -> Rc<Servers> {
        let now = self.servers();
        let Some(finding) = self.finding.as_ref().filter(|_| now.all.is_empty()) else { return now };
        let list = match finding.current() {
            // This worker has not heard of it yet.
            Some(list) => Some(list),
            None => {
                let timeout = self.blueprint.options.connect_timeout;
                tokio::time::timeout(timeout, finding.clone().changed()).await.ok().flatten()
            }
        };
        if let Some(list) = list.filter(|_| self.servers.borrow().all.is_empty()) {
            self.adopt(list.to_vec());
        }
        self.servers()
    }

    /// Connects for a client, whose address is what a hash is made of. Tries each server at most once, the one that the policy
    /// names first, and takes no longer than `within` in all.
    ///
    /// # Errors
    /// `NoRoute` without servers, `TimedOut` after `within`, `Overloaded` above a limit, else `UpstreamUnreachable`.
    pub async fn open(&self, client: &Peer, within: Option<Duration>) -> Result<Stream, Refusal> {
        let preface = self.proxy.map(|version| proxy_header(version, client.addr, client.local));
        let deadline = within.map(|within| Instant::now() + within);
        let _pending = self.quotas.take(Quota::Pending).ok_or(Refusal::Overloaded)?;
        let servers = self.found().await;
        let first = self.first(&servers, &key_of(client), |server| server.open.get());
        let first = first.ok_or(Refusal::NoRoute)?;
        let mut others = None;
        let mut next = Some(first);
        while let Some(server) = next.and_then(|at| servers.all.get(at)) {
            let connecting =
                self.connect(server, self.source(client), preface.as_deref().unwrap_or_default());
            let connected = match deadline {
                None => connecting.await,
                Some(deadline) => match tokio::time::timeout_at(deadline, connecting).await {
                    Ok(connected) => connected,
                    Err(_) => return Err(Refusal::TimedOut),
                },
            };
            match connected {
                Ok(stream) => {
                    server.endpoint.answered();
                    return Ok(stream);
                }
                Err(Refusal::UpstreamUnreachable) => {}
                Err(why) => return Err(why),
            }
            let others = others.get_or_insert_with(|| self.others(&servers, first).into_iter());
            next = others.next();
        }
        Err(Refusal::UpstreamUnreachable)
    }

    /// Connects for a client to this server and no other, which need not be a configured one. As [`Streams::open`] otherwise.
    ///
    /// # Errors
    /// `TimedOut` after `within`, `Overloaded` above a limit, else `UpstreamUnreachable`.
    pub async fn open_at(
        &self,
        address: &Address,
        client: &Peer,
        within: Option<Duration>,
    ) -> Result<Stream, Refusal> {
        let preface = self.proxy.map(|version| proxy_header(version, client.addr, client.local));
        let _pending = self.quotas.take(Quota::Pending).ok_or(Refusal::Overloaded)?;
        let server = self.named(address);
        let connecting = self.connect(&server, self.source(client), preface.as_deref().unwrap_or_default());
        match within {
            None => connecting.await,
            Some(within) => tokio::time::timeout(within, connecting).await.map_err(|_| Refusal::TimedOut)?,
        }
    }

    fn named(&self, address: &Address) -> Rc<Server> {
        let mut named = self.named.borrow_mut();
        if let Some(server) = named.get(address) {
            return Rc::clone(server);
        }
        // Servers come and go, and nobody says so.
        named.retain(|_, server| server.open.get() > 0);
        let server = self.server(address.clone());
        named.insert(address.clone(), Rc::clone(&server));
        server
    }

    /// The position of the server that comes first; `load` tells how busy one is.
    pub(crate) fn first(
        &self,
        servers: &Servers,
        key: &[u8],
        load: impl Fn(&Server) -> usize,
    ) -> Option<usize> {
        servers.roster.first(key, &View { streams: self, servers, load }, self.clock.micros())
    }

    /// The positions of all others, in the order in which they are tried.
    pub(crate) fn others(&self, servers: &Servers, first: usize) -> Vec<usize> {
        servers.roster.others(first, &View { streams: self, servers, load: |_: &Server| 0 })
    }

    /// Whether this one is left alone after failures.
    fn is_down(&self, server: &Server) -> bool {
        server.endpoint.is_down() || self.is_out(server)
    }

    /// Whether a server is left out because it has failed its clients.
    fn is_out(&self, server: &Server) -> bool {
        let (until, times) = server.out.get();
        if until == 0 || server.endpoint.clock.micros() < until {
            return until != 0;
        }
        server.out.set((0, times));
        self.metrics.readmitted();
        false
    }

    /// Takes note of what a request has come to at this one.
    pub(crate) fn note(&self, server: &Server, has_failed: bool) {
        if self.outlier.is_none() {
            return;
        }
        if has_failed {
            server.endpoint.count_failure();
        } else {
            server.endpoint.answered();
        }
    }

    /// Connects to this one, for nobody in particular.
    ///
    /// # Errors
    /// `Overloaded` above a limit, else `UpstreamUnreachable`.
    pub(crate) async fn reach(&self, server: &Server) -> Result<Stream, Refusal> {
        self.connect(server, None, &[]).await
    }

    /// The address that servers see, where it is the client's.
    fn source(&self, client: &Peer) -> Option<IpAddr> {
        client.addr.map(|addr| addr.ip()).filter(|_| self.keeps_source)
    }

    async fn connect(
        &self,
        server: &Server,
        source: Option<IpAddr>,
        preface: &[u8],
    ) -> Result<Stream, Refusal> {
        let endpoint = &server.endpoint;
        let share = self.quotas.take(Quota::Connections).ok_or(Refusal::Overloaded)?;
        let options = &endpoint.options;
        let address = &endpoint.address;
        let (timeout, tls) = (options.connect_timeout, options.tls.as_deref());
        match connect_with(address, source, timeout, tls, preface).await {
            Ok((read, write)) => {
                endpoint.succeeded();
                self.metrics.connection_opened();
                server.open.set(server.open.get() + 1);
                let (open, metrics) = (Rc::clone(&server.open), Arc::clone(&self.metrics));
                Ok(Stream { read, write, seat: StreamSeat { open, metrics, _share: share } })
            }
            Err(error) => {
                self.metrics.connect_failed();
                if !endpoint.is_down() {
                    tracing::warn!(cluster = endpoint.cluster, server = %address, %error, "server cannot be reached");
                }
                endpoint.failed();
                Err(Refusal::UpstreamUnreachable)
            }
        }
    }

    /// How much its servers may have to do.
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// Its figures.
    pub fn metrics(&self) -> &ClusterMetrics {
        &self.metrics
    }

    /// As [`Streams::metrics`], to be kept.
    pub fn shared_metrics(&self) -> &Arc<ClusterMetrics> {
        &self.metrics
    }

    /// State of each server for people: address, whether it has failed lately, connections.
    pub fn describe(&self) -> Vec<(String, bool, usize)> {
        let row =
            |server: &Server| (server.endpoint.address.to_string(), self.is_down(server), server.open.get());
        let mut rows: Vec<_> = self.servers().all.iter().map(|server| row(server)).collect();
        for (address, is_down, open) in self.named.borrow().values().map(|server| row(server)) {
            match rows.iter_mut().find(|row| row.0 == address) {
                // Somebody has named a server that is configured.
                Some(row) => *row = (address, row.1 || is_down, row.2 + open),
                None => rows.push((address, is_down, open)),
            }
        }
        rows
    }
}

impl Eject for Streams {
    fn eject(&self, endpoint: &Endpoint) {
        let Some(outlier) = self.outlier else { return };
        let servers = self.servers();
        let out = servers.all.iter().filter(|server| self.is_out(server)).count();
        let most = ((servers.all.len() as f64 * outlier.max_share) as usize).max(1);
        let Some(server) = servers.all.iter().find(|server| std::ptr::eq(&*server.endpoint, endpoint)) else {
            return;
        };
        // Somebody has to serve, and who is out already goes on as it is.
        if out >= most || out + 1 >= servers.all.len() || self.is_out(server) {
            return;
        }
        let (_, times) = server.out.get();
        let times = (times + 1).min(MAX_TIMES);
        let until = endpoint.clock.micros() + outlier.eject_for.as_micros() as u64 * u64::from(times);
        server.out.set((until, times));
        self.metrics.ejected();
        let (cluster, address) = (&endpoint.cluster, &endpoint.address);
        tracing::warn!(cluster, server = %address, "server fails its clients, and is left out");
    }
}

/// What a hash of the client is made of: its address without the port, so that all its connections meet one server.
fn key_of(peer: &Peer) -> [u8; 16] {
    match peer.addr.map(|addr| addr.ip()) {
        Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(ip)) => ip.octets(),
        None => [0; 16],
    }
}
