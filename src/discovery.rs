//! Finding the servers of clusters that change while they run.
//!
//! Each such cluster has a thread that serves nobody: a slow or hostile answer delays only the next
//! topology. What is found goes to the workers as a whole, and a failure leaves the last one in force.
//!
//! A question is asked when something points to a change (a redirect, a lost server, a sentinel's word) and now and then
//! without a reason. However many workers wish for it, two questions are at least `FLOOR` apart. While a change is
//! under way the next question follows soon, for a while; after that, dead servers that nobody removes from their
//! cluster are not a reason to keep asking.

mod kafka;
mod listing;
mod query;
mod redis_cluster;
mod redis_sentinel;
mod vigil;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mecha_clusters::news::{Cause, Publisher, Subscription};
use mecha_clusters::topology::{FoundShard, Freshness, MAX_NODES, Node, Topology};
use mecha_config::{ClusterSpec, Discovery as Kind, ReadFrom};
use mecha_transport::tls::ClientTls;
use mecha_transport::{Address, Clock};

pub use self::kafka::watch_brokers;
pub use self::listing::Lookup;
pub(crate) use self::listing::read_file;
pub(crate) use self::query::{Manners, Query};
use self::vigil::Vigil;
use crate::assembly::address_of;

/// The least time between two questions.
const FLOOR: Duration = Duration::from_millis(100);
/// Time between questions while a change is under way.
const SOON: Duration = Duration::from_millis(250);
/// How long a change is expected to be under way after the last sign of it.
const UNREST: Duration = Duration::from_secs(30);

/// A cluster whose servers must be found.
#[derive(Clone)]
pub struct Discovery {
    /// What is configured.
    pub spec: ClusterSpec,
    /// What workers hear of it.
    pub news: Subscription,
    tls: Option<Arc<ClientTls>>,
    clock: Clock,
    publisher: Publisher,
    is_started: Arc<AtomicBool>,
}

/// Whoever was asked with success the last time is asked first.
struct Asked {
    first: Option<Address>,
}

impl Asked {
    /// Everybody who may be asked, the best first.
    fn candidates(&self, seeds: Vec<Address>, known: &Topology) -> Vec<Address> {
        let mut all: Vec<_> = self.first.iter().cloned().collect();
        let nodes = known.nodes.iter().flatten().filter(|node| node.is_well);
        for address in nodes.map(|node| node.address.clone()).chain(seeds) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }
}

impl Discovery {
    /// `tls` is whom to trust; `None` without TLS. Nothing is asked before [`Discovery::start`].
    pub fn new(spec: ClusterSpec, tls: Option<Arc<ClientTls>>) -> Self {
        let clock = Clock::start();
        let (publisher, news) = mecha_clusters::news::news();
        Self { spec, tls, clock, news, publisher, is_started: Arc::default() }
    }

    /// Starts asking, on a thread of its own, unless that has been done. It ends when nobody listens any more.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&self) -> std::io::Result<()> {
        if self.is_started.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let manners = Manners { tls: self.tls.clone(), login: self.spec.login.clone() };
        let finder = Finder { spec: self.spec.clone(), publisher: self.publisher.clone(), manners };
        let clock = self.clock;
        let main = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
            match runtime {
                Ok(runtime) => runtime.block_on(finder.run(clock)),
                Err(error) => tracing::error!(%error, "discovery has no runtime"),
            }
        };
        std::thread::Builder::new().name("mecha-discovery".into()).spawn(main).map(drop)
    }
}

struct Finder {
    spec: ClusterSpec,
    publisher: Publisher,
    /// The servers'.
    manners: Manners,
}

impl Finder {
    async fn run(self, clock: Clock) {
        let vigil = self.vigil(clock);
        let seeds: Vec<_> = self.spec.endpoints.iter().map(address_of).collect();
        let sentinels = Manners {
            tls: self.manners.tls.clone().filter(|_| self.spec.sentinels.is_tls),
            login: self.spec.sentinels.login.clone(),
        };
        if let Some(vigil) = &vigil {
            tokio::task::spawn_local(Rc::clone(vigil).keep());
        }
        let mut asked = Asked { first: None };
        if let Kind::Sentinel(_) = self.spec.discovery {
            tokio::task::spawn_local(redis_sentinel::listen(
                seeds.clone(),
                self.publisher.clone(),
                self.spec.connect_timeout,
                sentinels.clone(),
            ));
        }
        let (mut unrest_until, mut is_hopeless) = (tokio::time::Instant::now() + UNREST, false);
        while self.publisher.has_listeners() {
            let known = self.publisher.current();
            let timeout = self.spec.connect_timeout;
            let found = match &self.spec.discovery {
                Kind::Cluster => {
                    redis_cluster::find(&mut asked, &seeds, &known, timeout, &self.manners).await
                }
                Kind::Sentinel(name) => {
                    redis_sentinel::find(&mut asked, &seeds, name, timeout, (&sentinels, &self.manners)).await
                }
                Kind::Listed => Ok(self.listed()),
                // Nobody makes a finder of keys for servers that are alike: see `listing`.
                Kind::Dns | Kind::File { .. } | Kind::Srv => Ok(Vec::new()),
            };
            let is_settled = match found {
                Ok(shards) => self.found(shards, &known, vigil.as_deref()),
                Err(why) => {
                    tracing::warn!(cluster = %self.spec.name, why, "servers could not be found");
                    if known.is_empty() && !is_hopeless {
                        self.publisher.publish(Topology::default());
                        is_hopeless = true;
                    }
                    false
                }
            };
            tokio::time::sleep(FLOOR).await;
            let is_soon = !is_settled && tokio::time::Instant::now() < unrest_until;
            // Workers, and processes, must not ask in step.
            let wait = if is_soon { SOON } else { self.spec.refresh.mul_f64(0.8 + 0.4 * fastrand::f64()) };
            let causes = match tokio::time::timeout(wait, self.publisher.wanted()).await {
                Ok(causes) => {
                    unrest_until = tokio::time::Instant::now() + UNREST;
                    causes
                }
                Err(_) => vec![Cause::Period],
            };
            tracing::debug!(cluster = %self.spec.name, ?causes, "asking for the servers");
        }
    }

    /// Who watches over replicas, if they are read.
    fn vigil(&self, clock: Clock) -> Option<Rc<Vigil>> {
        let times = (self.spec.reads.max_staleness, self.spec.connect_timeout);
        let vigil = || Vigil::new(self.publisher.clone(), self.manners.clone(), times, clock);
        (self.spec.reads.from != ReadFrom::Primary).then(vigil)
    }

    /// What the configuration tells.
    fn listed(&self) -> Vec<FoundShard> {
        let node = |endpoint, is_replica| Node {
            address: address_of(endpoint),
            is_replica,
            is_well: true,
            zone: None,
            fresh: Freshness::default(),
        };
        let replicas = self.spec.reads.replicas.iter().map(|endpoint| node(endpoint, true)).collect();
        let primary = self.spec.endpoints.first().map(|endpoint| node(endpoint, false));
        primary.map(|primary| FoundShard { primary, replicas, slots: Vec::new() }).into_iter().collect()
    }

    /// Publishes what is new. Returns whether it looks final.
    fn found(&self, shards: Vec<FoundShard>, known: &Topology, vigil: Option<&Vigil>) -> bool {
        let mut next = known.next(shards, self.spec.discovery == Kind::Cluster);
        for node in next.nodes.iter_mut().flatten() {
            let zones = &self.spec.reads.zones;
            let (host, port) = (host_of(&node.address), port_of(&node.address));
            let zone = zones.iter().find(|(place, _)| place.has(&host, port)).map(|(_, zone)| zone.clone());
            node.zone = zone.or(node.zone.take());
        }
        if let Some(vigil) = vigil {
            next = vigil.judged(next);
        }
        let is_settled = next.is_settled();
        if next != *known {
            let (cluster, servers, slots) = (&self.spec.name, next.len(), next.slots_covered());
            if next.nodes == known.nodes {
                tracing::debug!(%cluster, slots, "slots have moved");
            } else {
                tracing::info!(%cluster, servers, shards = next.shards.len(), slots, "servers found");
            }
            self.publisher.publish(next);
        }
        is_settled
    }
}

/// Whether these servers are more than a cluster can have.
fn are_too_many(shards: &[FoundShard]) -> bool {
    shards.iter().map(|shard| shard.replicas.len() + 1).sum::<usize>() > MAX_NODES
}

/// The address of a server that another one has named.
fn named(host: &str, port: u16) -> Address {
    match host.parse() {
        Ok(ip) => Address::Tcp(std::net::SocketAddr::new(ip, port)),
        Err(_) => Address::Host(host.into(), port),
    }
}

fn port_of(address: &Address) -> u16 {
    match address {
        Address::Host(_, port) => *port,
        Address::Found(_, addr) | Address::Tcp(addr) => addr.port(),
        Address::Unix(_) => 0,
    }
}

/// The host of `address`, as a server at it would be named by others.
fn host_of(address: &Address) -> String {
    match address {
        Address::Host(host, _) => host.clone(),
        Address::Found(_, addr) | Address::Tcp(addr) => addr.ip().to_string(),
        Address::Unix(_) => String::new(),
    }
}
