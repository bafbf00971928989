//! Looking up servers that are alike: in DNS, or in a file.
//!
//! Each such cluster has a thread that serves nobody. What it finds goes to the workers as a whole list
//! (`clusters/src/listing.rs`). Whatever goes wrong leaves the last list in force, is logged once and counted: a server that
//! is really gone cannot be reached, and is passed over without anybody's help. That a name has no records any more is
//! taken for such a failure too, as nobody takes the last server away on purpose.

mod dns;
mod file;
mod resolver;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mecha_clusters::listing::{Finder, Finding};
use mecha_clusters::{Health, Listed};
use mecha_config::{ClusterSpec, Discovery, Endpoint};
use mecha_telemetry::Registry;
use mecha_telemetry::prometheus::{IntCounter, IntGauge};
use mecha_transport::Address;

use self::resolver::Resolver;
use super::{host_of, port_of};
use crate::assembly::address_of;

pub(crate) use self::file::read as read_file;

/// How often a file is looked at, and for how long it must be still before it is read.
const LOOK: Duration = Duration::from_millis(250);
/// The longest wait before DNS is asked again after a failure.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// Servers that a list may have. What is found beyond is a mistake or malice.
const MAX_SERVERS: usize = 4096;

/// A cluster whose servers are looked up.
#[derive(Clone)]
pub struct Lookup {
    /// What is configured.
    pub spec: ClusterSpec,
    /// What workers hear of it.
    pub finding: Finding,
    finder: Finder,
    health: Option<Arc<Health>>,
    registry: Registry,
    is_started: Arc<AtomicBool>,
}

impl Lookup {
    /// `health` is told of servers before anybody else. Nothing is looked up before [`Lookup::start`].
    pub fn new(spec: &ClusterSpec, health: Option<Arc<Health>>, registry: &Registry) -> Self {
        let (finder, finding) = Finder::new();
        let registry = registry.clone();
        Self { spec: spec.clone(), finding, finder, health, registry, is_started: Arc::default() }
    }

    /// Begins with what an older one has found, if that looks in the same places: a change of something else must not leave
    /// anybody without servers.
    pub fn begin_with(&self, older: &Self) {
        let (own, other) = (&self.spec, &older.spec);
        let is_same = own.discovery == other.discovery
            && own.endpoints == other.endpoints
            && own.alike.subset == other.alike.subset
            && own.reads.zones == other.reads.zones;
        if let Some(list) = older.finding.current().filter(|list| is_same && !list.is_empty()) {
            self.health.iter().for_each(|health| health.replace(&list));
            self.finder.publish(&list);
        }
    }

    /// Starts looking, on a thread of its own, unless that has been done. It ends when nobody listens any more.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&self) -> std::io::Result<()> {
        if self.is_started.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let scope = format!("cluster:{}", self.spec.name);
        let (servers, failures) = ("mecha_lookup_servers", "mecha_lookup_failures_total");
        let looker = Looker {
            spec: self.spec.clone(),
            finder: self.finder.clone(),
            health: self.health.clone(),
            servers: self.registry.gauge(servers, "Servers that DNS or a file tells of.", &scope),
            failures: self.registry.counter(failures, "Lookups of servers that came to nothing.", &scope),
            is_failing: false,
        };
        let main = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
            match runtime {
                Ok(runtime) => runtime.block_on(looker.run()),
                Err(error) => tracing::error!(%error, "lookups have no runtime"),
            }
        };
        std::thread::Builder::new().name("mecha-lookup".into()).spawn(main).map(drop)
    }
}

struct Looker {
    spec: ClusterSpec,
    finder: Finder,
    health: Option<Arc<Health>>,
    servers: Option<IntGauge>,
    failures: Option<IntCounter>,
    is_failing: bool,
}

impl Looker {
    async fn run(mut self) {
        match self.spec.discovery.clone() {
            Discovery::File { path, port } => self.watch(&path, port).await,
            _ => self.ask().await,
        }
    }

    /// Reads the file whenever it has changed and is still.
    async fn watch(&mut self, path: &Path, port: u16) {
        let mut seen = None;
        let mut is_first = true;
        while self.finder.has_listeners() {
            let now = file::look(path);
            if is_first || now != seen && now.is_some() {
                if !is_first {
                    tokio::time::sleep(LOOK / 2).await;
                }
                if is_first || file::look(path) == now {
                    (seen, is_first) = (now, false);
                    match file::read(path, port) {
                        Ok(list) => {
                            let subset = &self.spec.alike.subset;
                            let listed = list.into_iter().filter(|server| server.has(subset)).map(|server| {
                                let listed = Listed::at(address_of(&server.endpoint));
                                Listed {
                                    name: server.name.unwrap_or_else(|| listed.name.clone()),
                                    weight: server.weight,
                                    zone: server.zone,
                                    priority: server.priority,
                                    ..listed
                                }
                            });
                            self.found(listed.collect());
                        }
                        Err(errors) => {
                            let why: Vec<_> = errors.iter().map(ToString::to_string).collect();
                            self.failed(&why.join("; "));
                        }
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks DNS whenever its last answer has run out.
    async fn ask(&mut self) {
        let (min, max) = (self.spec.alike.dns.min_ttl, self.spec.alike.dns.max_ttl);
        let mut retry = min;
        while self.finder.has_listeners() {
            let wait = match self.look_up().await {
                Ok((list, ttl)) => {
                    self.found(list);
                    retry = min;
                    Duration::from_secs(ttl.into()).clamp(min, max)
                }
                Err(why) => {
                    self.failed(&why);
                    let wait = retry;
                    retry = (retry * 2).min(MAX_RETRY).min(max).max(min);
                    wait
                }
            };
            // Nobody need wait for the end of an answer that nobody wants.
            let _ = tokio::time::timeout(wait, self.finder.unheard()).await;
        }
    }

    /// All servers, and for how many seconds that holds.
    async fn look_up(&self) -> Result<(Vec<Listed>, u32), String> {
        let resolver = Resolver::new(&self.spec.alike.dns);
        let (mut list, mut ttl) = (Vec::new(), u32::MAX);
        let is_service = self.spec.discovery == Discovery::Srv;
        for endpoint in &self.spec.endpoints {
            let Endpoint::Tcp { host, port } = endpoint else { continue };
            let named = host.trim_end_matches('.').to_string();
            let found = |ip, port| Address::Found(named.clone(), std::net::SocketAddr::new(ip, port));
            if is_service {
                let (services, its_ttl) = resolver.services(host).await?;
                ttl = ttl.min(its_ttl);
                for service in services {
                    // A weight of nought is a very small one (RFC 2782).
                    let (weight, priority) = (u32::from(service.weight).max(1), u32::from(service.priority));
                    let host = service.host.trim_end_matches('.').to_string();
                    let addresses =
                        service.addresses.into_iter().map(|ip| std::net::SocketAddr::new(ip, service.port));
                    list.extend(addresses.map(|addr| Listed {
                        weight,
                        priority,
                        ..Listed::at(Address::Found(host.clone(), addr))
                    }));
                }
            } else {
                let (addresses, its_ttl) = resolver.addresses(host).await?;
                ttl = ttl.min(its_ttl);
                list.extend(addresses.into_iter().map(|ip| Listed::at(found(ip, *port))));
            }
        }
        // The same server under two names is one.
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list.dedup_by(|one, other| one.name == other.name);
        Ok((list, ttl))
    }

    fn found(&mut self, mut list: Vec<Listed>) {
        let cluster = &self.spec.name;
        if list.len() > MAX_SERVERS {
            tracing::warn!(%cluster, servers = list.len(), "too many servers were found; the rest is left out");
            list.truncate(MAX_SERVERS);
        }
        for listed in &mut list {
            let (host, port) = (host_of(&listed.address), port_of(&listed.address));
            let zones = &self.spec.reads.zones;
            let zone = zones.iter().find(|(place, _)| place.has(&host, port)).map(|(_, zone)| zone.clone());
            listed.zone = zone.or(listed.zone.take());
        }
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(%cluster, "servers are found again");
        }
        // Checks know a server before it is chosen.
        self.health.iter().for_each(|health| health.replace(&list));
        self.servers.iter().for_each(|gauge| gauge.set(list.len() as i64));
        if self.finder.publish(&list) {
            tracing::info!(%cluster, servers = list.len(), "servers found");
        }
    }

    fn failed(&mut self, why: &str) {
        self.failures.iter().for_each(IntCounter::inc);
        self.finder.nobody();
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(cluster = %self.spec.name, why, "servers could not be looked up; those that are known stay");
        }
    }
}
