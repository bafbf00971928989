//! Servers that get a connection for each client, because nobody looks at the bytes.
//!
//! There are no calls to batch and no replies to match, so nothing here is shared but the choice of the server and what is
//! known of its health. Servers are taken to be alike: when one cannot be reached, the next is tried, which is safe as
//! long as nothing was sent.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use mecha_core::{Limits, Peer, Refusal};
use mecha_telemetry::ClusterMetrics;
use mecha_transport::tls::ClientTls;
use mecha_transport::{Address, ProxyVersion, ReadHalf, WriteHalf, connect_with, proxy_header};
use tokio::time::Instant;

use crate::CurrentLogin;
use crate::cluster::Environment;
use crate::endpoint::{Eject, Endpoint};
use crate::server::Blueprint;
use crate::{Balancer, ConnectionOptions, Health, Node, Sharding};

/// What the configuration says about such a cluster.
pub struct StreamOptions {
    /// For logs.
    pub name: String,
    /// Where the servers are.
    pub servers: Vec<Address>,
    /// How one is chosen. Where a hash decides, it is that of the client's address.
    pub sharding: Sharding,
    /// Names and weights, in the order of the addresses.
    pub nodes: Vec<Node>,
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// First and longest time that a server is left alone after failures.
    pub backoff: (Duration, Duration),
    /// Whom to trust; `None` without TLS.
    pub tls: Option<Arc<ClientTls>>,
    /// How servers are told who the client is, if they are.
    pub proxy: Option<ProxyVersion>,
    /// What checks say of them, if there are any.
    pub health: Option<Arc<Health>>,
    /// When they are left out, if ever.
    pub outlier: Option<OutlierOptions>,
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
    servers: Vec<Server>,
    /// Servers that are not configured, but that others have named.
    named: RefCell<HashMap<Address, Rc<Server>>>,
    blueprint: Blueprint,
    balancer: Balancer,
    turn: Cell<usize>,
    proxy: Option<ProxyVersion>,
    outlier: Option<OutlierOptions>,
    metrics: Arc<ClusterMetrics>,
}

struct Server {
    endpoint: Rc<Endpoint>,
    /// Connections now.
    open: Rc<Cell<usize>>,
    /// Until when it is left out for its failures, by the worker's clock (0: it is not), and how often it was of late.
    out: Cell<(u64, u32)>,
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
}

impl Drop for StreamSeat {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.metrics.connection_closed();
    }
}

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
        let server = |address| Server {
            endpoint: blueprint.endpoint(address),
            open: Rc::default(),
            out: Cell::default(),
        };
        let servers: Vec<_> = options.servers.into_iter().map(server).collect();
        Rc::new_cyclic(|me: &Weak<Self>| Self {
            servers: servers
                .into_iter()
                .inspect(|server| {
                    if let Some(outlier) = options.outlier {
                        server.endpoint.tell_failures(outlier.failures, Weak::clone(me) as Weak<dyn Eject>);
                    }
                })
                .collect(),
            outlier: options.outlier,
            named: RefCell::default(),
            balancer: Balancer::new(options.sharding, &options.nodes),
            turn: Cell::new(fastrand::usize(..1 << 16)),
            proxy: options.proxy,
            metrics,
            blueprint,
        })
    }

    /// Connects for a client, whose address is what a hash is made of. Tries each server at most once, the one that the policy
    /// names first, and takes no longer than `within` in all.
    ///
    /// # Errors
    /// `NoRoute` without servers, `TimedOut` after `within`, else `UpstreamUnreachable`.
    pub async fn open(&self, client: &Peer, within: Option<Duration>) -> Result<Stream, Refusal> {
        let preface = self.proxy.map(|version| proxy_header(version, client.addr, client.local));
        let deadline = within.map(|within| Instant::now() + within);
        let first = self.choose(&key_of(client)).ok_or(Refusal::NoRoute)?;
        let count = self.servers.len();
        let order = || (0..count).map(|step| (first + step) % count);
        let is_up = |at: &usize| !self.is_down(*at);
        // Those that have failed lately come last, but they do come: one that is up again is worth more than none.
        let (up, down): (Vec<_>, Vec<_>) = order().partition(is_up);
        for server in up.into_iter().chain(down).filter_map(|at| self.servers.get(at)) {
            let connecting = self.connect(server, preface.as_deref().unwrap_or_default());
            let connected = match deadline {
                None => connecting.await,
                Some(deadline) => match tokio::time::timeout_at(deadline, connecting).await {
                    Ok(connected) => connected,
                    Err(_) => return Err(Refusal::TimedOut),
                },
            };
            if let Some(stream) = connected {
                server.endpoint.answered();
                return Ok(stream);
            }
        }
        Err(Refusal::UpstreamUnreachable)
    }

    /// Connects for a client to this server and no other, which need not be a configured one. As [`Streams::open`] otherwise.
    ///
    /// # Errors
    /// `TimedOut` after `within`, else `UpstreamUnreachable`.
    pub async fn open_at(
        &self,
        address: &Address,
        client: &Peer,
        within: Option<Duration>,
    ) -> Result<Stream, Refusal> {
        let preface = self.proxy.map(|version| proxy_header(version, client.addr, client.local));
        let server = self.named(address);
        let connecting = self.connect(&server, preface.as_deref().unwrap_or_default());
        let connected = match within {
            None => connecting.await,
            Some(within) => tokio::time::timeout(within, connecting).await.map_err(|_| Refusal::TimedOut)?,
        };
        connected.ok_or(Refusal::UpstreamUnreachable)
    }

    fn named(&self, address: &Address) -> Rc<Server> {
        let mut named = self.named.borrow_mut();
        if let Some(server) = named.get(address) {
            return Rc::clone(server);
        }
        // Servers come and go, and nobody says so.
        named.retain(|_, server| server.open.get() > 0);
        let endpoint = self.blueprint.endpoint(address.clone());
        let server = Rc::new(Server { endpoint, open: Rc::default(), out: Cell::default() });
        named.insert(address.clone(), Rc::clone(&server));
        server
    }

    fn choose(&self, key: &[u8]) -> Option<usize> {
        self.choose_by(key, |at| self.servers.get(at).map_or(0, |server| server.open.get()))
    }

    /// The server that comes first; `load` tells how busy one is.
    pub(crate) fn choose_by(&self, key: &[u8], load: impl Fn(usize) -> usize) -> Option<usize> {
        let balance = self.balancer.balance();
        if balance.is_hashed() {
            return self.balancer.by_key(key);
        }
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        balance.any(self.servers.len(), turn, |at| (!self.is_down(at)).then(|| load(at)))
    }

    /// How many servers there are.
    pub(crate) fn len(&self) -> usize {
        self.servers.len()
    }

    /// Their addresses, as people write them.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.servers.iter().map(|server| server.endpoint.address.to_string())
    }

    /// Whether this one is left alone after failures.
    pub(crate) fn is_down(&self, at: usize) -> bool {
        self.servers.get(at).is_none_or(|server| server.endpoint.is_down() || self.is_out(server))
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
    pub(crate) fn note(&self, at: usize, has_failed: bool) {
        let Some(server) = self.servers.get(at).filter(|_| self.outlier.is_some()) else { return };
        if has_failed {
            server.endpoint.count_failure();
        } else {
            server.endpoint.answered();
        }
    }

    /// Connects to this one, for nobody in particular.
    pub(crate) async fn reach(&self, at: usize) -> Option<Stream> {
        self.connect(self.servers.get(at)?, &[]).await
    }

    async fn connect(&self, server: &Server, preface: &[u8]) -> Option<Stream> {
        let endpoint = &server.endpoint;
        let options = &endpoint.options;
        let address = &endpoint.address;
        let (timeout, tls) = (options.connect_timeout, options.tls.as_deref());
        match connect_with(address, timeout, tls, preface).await {
            Ok((read, write)) => {
                endpoint.succeeded();
                self.metrics.connection_opened();
                server.open.set(server.open.get() + 1);
                let seat = StreamSeat { open: Rc::clone(&server.open), metrics: Arc::clone(&self.metrics) };
                Some(Stream { read, write, seat })
            }
            Err(error) => {
                self.metrics.connect_failed();
                if !endpoint.is_down() {
                    tracing::warn!(cluster = endpoint.cluster, server = %address, %error, "server cannot be reached");
                }
                endpoint.failed();
                None
            }
        }
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
        let row = |server: &Server| {
            let is_down = server.endpoint.is_down() || self.is_out(server);
            (server.endpoint.address.to_string(), is_down, server.open.get())
        };
        let mut rows: Vec<_> = self.servers.iter().map(row).collect();
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
        let out = self.servers.iter().filter(|server| self.is_out(server)).count();
        let most = ((self.servers.len() as f64 * outlier.max_share) as usize).max(1);
        let Some(server) = self.servers.iter().find(|server| std::ptr::eq(&*server.endpoint, endpoint))
        else {
            return;
        };
        // Somebody has to serve, and who is out already goes on as it is.
        if out >= most || out + 1 >= self.servers.len() || self.is_out(server) {
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
