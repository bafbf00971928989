//! From configuration to a running data plane, in two steps.
//!
//! [`Plan::new`] runs once, on the control side: it builds every filter and names every problem. It is opened
//! on each worker and makes the worker's own doors, engines and clusters from it; nothing of what it makes is shared
//! between threads but what the plan itself holds (filter state, embedded stores).

mod detect;
mod door;
mod framed;
mod http;
mod kafka;
pub(crate) mod migrate;
mod opaque;
mod policies;
mod routed;
mod scope;
pub(crate) mod sharding;
mod tls;
mod users;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mecha_clusters::{Census, LoginSource, Quotas, ScriptStore};
use mecha_config::{ClusterSpec, ConfigError, FilterSpec, LimitsSpec, ListenerSpec, Snapshot, Transparent};
use mecha_core::Login;
use mecha_filters::{BuildCx, LogSink, PolicyFactory};
use mecha_telemetry::Registry;
use mecha_translate::kv::Started;
use mecha_translate::{Exchange, Store};

use crate::catalog;
use crate::discovery::{Discovery, Lookup};
use crate::health::Checks;
use crate::session::Places;
use migrate::Migrations;

pub use door::{Door, DoorPlan, EngineView};
pub use framed::{Back, FramedEntry, ProtocolEntry, announced, embedded, kv, native, scattered};
pub(crate) use http::http_version;
pub use http::{HttpEntry, check_http_route};
pub use kafka::KafkaEntry;
pub use opaque::OpaqueEntry;
pub use routed::{Routing, routed};
pub(crate) use scope::address_of;
pub use scope::{EndpointRows, Environment, Scope};
pub use tls::check_tls;
pub use users::check_rules;

use crate::acceptor::{Prelude, ProxyDoor, TlsDoor};

/// A policy with the options that it was built from.
pub type BuiltPolicy = (FilterSpec, Arc<dyn PolicyFactory>);

static NEXT_DOOR: AtomicU64 = AtomicU64::new(1);

/// What the whole process shares.
pub struct Shared {
    /// Counters.
    pub registry: Registry,
    /// Where access logs go.
    pub log: LogSink,
    /// Embedded stores by cluster.
    pub stores: HashMap<String, Arc<Store>>,
    /// Where clients publish and subscribe if no server does it for them, by cluster.
    pub exchanges: HashMap<String, Arc<Exchange>>,
    /// Policies of clusters: one instance for every door that leads to the cluster.
    pub cluster_policies: HashMap<String, Vec<BuiltPolicy>>,
    /// Clusters whose servers are found, by name.
    pub discoveries: HashMap<String, Discovery>,
    /// Who mecha is to each cluster's servers; goes on from plan to plan while the cluster is the same.
    pub logins: HashMap<String, LoginSource>,
    /// Texts of scripts by cluster; goes on from plan to plan while the cluster is the same.
    pub scripts: HashMap<String, ScriptStore>,
    /// Who listens to what by cluster; goes on as `scripts` does.
    pub census: HashMap<String, Census>,
    /// Clients by listener, for its limit; goes on from plan to plan.
    pub places: HashMap<String, Arc<Places>>,
    /// Migrations by listener and route; they go on from plan to plan while they are between the same clusters.
    pub(crate) migrations: Migrations,
    /// When the process started.
    pub started: Started,
    /// Whom clusters that speak TLS trust.
    pub(crate) trusts: tls::Trusts,
    /// Checks of servers, by cluster.
    pub checks: HashMap<String, Checks>,
    /// Clusters whose servers are looked up, by name.
    pub lookups: HashMap<String, Lookup>,
    /// How much servers may have to do, by cluster; goes on from plan to plan while the limits are the same.
    pub quotas: HashMap<String, (LimitsSpec, Arc<Quotas>)>,
}

/// A configuration that has been understood.
pub struct Plan {
    /// What it came from.
    pub snapshot: Arc<Snapshot>,
    /// What its parts share.
    pub shared: Arc<Shared>,
    /// In the configuration's order.
    pub doors: Vec<PlannedDoor>,
}

/// One listener of a plan.
#[derive(Clone)]
pub struct PlannedDoor {
    /// Unique in this process; a listener that a newer plan takes over unchanged keeps its number.
    pub id: u64,
    /// What to open on each worker.
    pub plan: Arc<dyn DoorPlan>,
    /// Its certificates, if it speaks TLS.
    pub tls: Option<Arc<TlsDoor>>,
    proxy: Option<Arc<ProxyDoor>>,
    listener: ListenerSpec,
    /// All that it leads to; its own target first.
    targets: Vec<ClusterSpec>,
}

impl Shared {
    /// Starts whatever looks for servers, and at them, unless that has been done.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn watch(&self) -> std::io::Result<()> {
        self.discoveries.values().try_for_each(Discovery::start)?;
        self.lookups.values().try_for_each(Lookup::start)?;
        self.checks.iter().try_for_each(|(name, checks)| checks.start(self.lookups.get(name)))
    }
}

impl Plan {
    /// Builds every filter and store. What `previous` has and the snapshot wants unchanged is taken over: whole doors,
    /// the data of embedded stores, and the state of filters that stand before the same cluster.
    ///
    /// # Errors
    /// Everything that filters have to say about their options.
    pub fn new(
        snapshot: Arc<Snapshot>,
        registry: Registry,
        started: Started,
        previous: Option<&Plan>,
    ) -> Result<Self, Vec<ConfigError>> {
        let log = previous.map_or_else(|| LogSink::new(&registry), |plan| plan.shared.log.clone());
        let mut errors = Vec::new();
        let mut stores = HashMap::new();
        let mut cluster_policies = HashMap::new();
        let mut discoveries = HashMap::new();
        let mut trusts = tls::Trusts::new();
        let mut checks = HashMap::new();
        let mut lookups = HashMap::new();
        let mut quotas = HashMap::new();
        for cluster in &snapshot.clusters {
            if cluster.protocol == catalog::EMBEDDED {
                let known = previous.and_then(|plan| plan.shared.stores.get(&cluster.name));
                let fresh = || Arc::new(Store::new(cluster.max_memory as usize));
                stores.insert(cluster.name.clone(), known.cloned().unwrap_or_else(fresh));
            }
            if let Some(spec) = &cluster.tls {
                let known = previous.and_then(|plan| plan.shared.trusts.get(&cluster.name));
                match known.filter(|(known, _)| known == spec).cloned() {
                    Some(known) => drop(trusts.insert(cluster.name.clone(), known)),
                    None => match tls::client(cluster, spec, &registry) {
                        Ok(tls) => drop(trusts.insert(cluster.name.clone(), (spec.clone(), Arc::new(tls)))),
                        Err(more) => errors.extend(more),
                    },
                }
            }
            if cluster.is_found() {
                let known = previous.and_then(|plan| plan.shared.discoveries.get(&cluster.name));
                let known = known.filter(|known| known.spec == *cluster).cloned();
                let tls = trusts.get(&cluster.name).map(|(_, tls)| Arc::clone(tls));
                let discovery = known.unwrap_or_else(|| Discovery::new(cluster.clone(), tls));
                discoveries.insert(cluster.name.clone(), discovery);
            }
            let known = previous.and_then(|plan| plan.shared.checks.get(&cluster.name));
            let known = known.filter(|known| known.spec.is_same_but_login(cluster)).cloned();
            let tls = trusts.get(&cluster.name).map(|(_, tls)| Arc::clone(tls));
            if let Some(wanted) = known.or_else(|| Checks::new(cluster, tls, &registry)) {
                checks.insert(cluster.name.clone(), wanted);
            }
            if cluster.is_looked_up() {
                let older = previous.and_then(|plan| plan.shared.lookups.get(&cluster.name));
                let known = older.filter(|known| known.spec.is_same_but_login(cluster)).cloned();
                let health = checks.get(&cluster.name).map(|checks: &Checks| Arc::clone(&checks.health));
                let lookup = known.unwrap_or_else(|| {
                    let fresh = Lookup::new(cluster, health, &registry);
                    older.into_iter().for_each(|older| fresh.begin_with(older));
                    fresh
                });
                lookups.insert(cluster.name.clone(), lookup);
            }
            let scope = format!("cluster:{}", cluster.name);
            let known = previous.and_then(|plan| plan.shared.quotas.get(&cluster.name));
            let known = known.filter(|(known, _)| *known == cluster.alike.limits).cloned();
            let fresh = || (cluster.alike.limits, quotas_of(&cluster.alike.limits, &registry, &scope));
            quotas.insert(cluster.name.clone(), known.unwrap_or_else(fresh));
            let cx = BuildCx {
                registry: &registry,
                scope: &scope,
                workers: snapshot.workers,
                ops: &[],
                log: &log,
            };
            let known = previous.and_then(|plan| plan.shared.cluster_policies.get(&cluster.name));
            let is_same = |plan: &Plan| plan.snapshot.clusters.iter().any(|old| is_same_target(old, cluster));
            let known = known.filter(|_| previous.is_some_and(is_same));
            let policies = build_policies(&cluster.filters, known, &cx, &mut errors);
            cluster_policies.insert(cluster.name.clone(), policies);
        }
        let clusters = &snapshot.clusters;
        let same_but_login = |cluster: &ClusterSpec| {
            previous.filter(|plan| {
                plan.snapshot
                    .clusters
                    .iter()
                    .any(|old| old.name == cluster.name && old.is_same_but_login(cluster))
            })
        };
        let census = carried(clusters, |cluster| same_but_login(cluster)?.shared.census.get(&cluster.name));
        let scripts = carried(clusters, |cluster| same_but_login(cluster)?.shared.scripts.get(&cluster.name));
        let exchanges = carried(clusters, |cluster| previous?.shared.exchanges.get(&cluster.name));
        let logins = snapshot.clusters.iter().map(|cluster| {
            let same = same_but_login(cluster);
            let known = same.and_then(|plan| plan.shared.logins.get(&cluster.name)).cloned();
            (cluster.name.clone(), known.unwrap_or_else(|| LoginSource::new(login_of(cluster))))
        });
        let logins = logins.collect();
        let places = snapshot.listeners.iter().map(|listener| {
            let known = previous.and_then(|plan| plan.shared.places.get(&listener.name));
            (listener.name.clone(), known.cloned().unwrap_or_default())
        });
        let places = places.collect();
        let known = previous.map(|plan| &plan.shared.migrations);
        let migrations = migrate::migrations(&snapshot, &registry, known);
        let shared = Arc::new(Shared {
            registry,
            log,
            stores,
            exchanges,
            cluster_policies,
            discoveries,
            logins,
            scripts,
            census,
            places,
            migrations,
            started,
            trusts,
            checks,
            lookups,
            quotas,
        });
        let mut doors = Vec::new();
        for listener in &snapshot.listeners {
            let Some(entry) = catalog::entry(&listener.protocol) else { continue };
            let all = listener.targets().into_iter().filter_map(|at| snapshot.clusters.get(at).cloned());
            let targets: Vec<_> = all.collect();
            let Some(cluster) = targets.first() else { continue };
            let old = previous.and_then(|plan| plan.door_named(&listener.name));
            if let Some(old) = old.filter(|old| old.is_for(listener, &targets)) {
                doors.push(old.clone());
                continue;
            }
            let old = old.filter(|old| old.targets.first().is_some_and(|old| is_same_target(old, cluster)));
            match entry.plan(listener, &snapshot, &shared, old.map(|old| &*old.plan)) {
                Ok(plan) => {
                    let hint = plan.needs_tls();
                    let tls =
                        listener.tls.as_ref().map(|spec| tls::door(listener, spec, hint, &shared.registry));
                    let tls = tls.transpose().unwrap_or_else(|more| {
                        errors.extend(more);
                        None
                    });
                    let (tls, listener) = (tls.map(Arc::new), listener.clone());
                    let id = NEXT_DOOR.fetch_add(1, Ordering::Relaxed);
                    let proxy =
                        listener.proxy_protocol.then(|| Arc::new(proxy_door(&listener, &shared.registry)));
                    doors.push(PlannedDoor { id, plan: Arc::from(plan), tls, proxy, listener, targets });
                }
                Err(more) => errors.extend(more),
            }
        }
        if errors.is_empty() { Ok(Self { snapshot, shared, doors }) } else { Err(errors) }
    }

    /// Tells clusters that go on from an older plan who mecha is to their servers from now on.
    pub fn change_logins(&self) {
        for cluster in &self.snapshot.clusters {
            if let Some(source) = self.shared.logins.get(&cluster.name) {
                source.change(login_of(cluster));
            }
        }
    }

    /// Reads certificates again where their files have changed. Connections keep what they were made with.
    pub fn reload_certificates(&self) {
        for door in self.doors.iter().filter_map(|door| door.tls.as_ref()) {
            tls::report(&door.name, &self.shared.registry, door.tls.reload(), || door.tls.ends());
        }
        for (name, (_, trust)) in &self.shared.trusts {
            tls::report(name, &self.shared.registry, trust.reload(), || trust.ends());
        }
    }

    /// The door of the listener with this name.
    pub fn door_named(&self, name: &str) -> Option<&PlannedDoor> {
        self.doors.iter().find(|door| door.listener.name == name)
    }
}

impl Plan {
    /// What comes before the protocol of one of its doors.
    pub fn prelude_of(&self, door: &PlannedDoor) -> Prelude {
        let detect = detect::door(door.listener(), &self.doors, &self.shared.registry).map(Arc::new);
        Prelude { detect, ..door.prelude() }
    }

    /// Whether clients of this listener may have dialled other addresses: they were led to it, or to one that leads them on.
    pub fn is_redirected(&self, listener: &ListenerSpec) -> bool {
        let leads = |other: &ListenerSpec| {
            other.name == listener.name
                || other
                    .detect
                    .as_ref()
                    .is_some_and(|detect| detect.listeners().any(|name| name == listener.name))
        };
        let is_transparent = |other: &&ListenerSpec| other.transparent == Transparent::Redirect;
        self.snapshot.listeners.iter().filter(is_transparent).any(leads)
    }
}

impl PlannedDoor {
    /// What comes before its protocol, but for telling which that is.
    fn prelude(&self) -> Prelude {
        Prelude { proxy: self.proxy.clone(), detect: None, tls: self.tls.clone() }
    }

    /// Its listener.
    pub fn listener(&self) -> &ListenerSpec {
        &self.listener
    }

    fn is_for(&self, listener: &ListenerSpec, targets: &[ClusterSpec]) -> bool {
        let is_same = |(one, other): (&ClusterSpec, &ClusterSpec)| one.is_same_but_login(other);
        self.listener.without_targets() == listener.without_targets()
            && self.targets.len() == targets.len()
            && self.targets.iter().zip(targets).all(is_same)
    }
}

fn proxy_door(listener: &ListenerSpec, registry: &Registry) -> ProxyDoor {
    let help = "Connections closed for want of a header of the PROXY protocol.";
    let scope = format!("listener:{}", listener.name);
    let failures = registry.counter("mecha_proxy_protocol_failures_total", help, &scope);
    ProxyDoor { name: listener.name.clone(), failures }
}

/// What the servers of a cluster may have to do; what is refused is counted.
/// What each cluster had before, where it still applies, and a fresh one elsewhere.
fn carried<'p, T: Clone + Default + 'p>(
    clusters: &[ClusterSpec],
    known: impl Fn(&ClusterSpec) -> Option<&'p T>,
) -> HashMap<String, T> {
    clusters
        .iter()
        .map(|cluster| (cluster.name.clone(), known(cluster).cloned().unwrap_or_default()))
        .collect()
}

fn quotas_of(limits: &LimitsSpec, registry: &Registry, scope: &str) -> Arc<Quotas> {
    let refused = |limit: Option<u32>, name: &str, what: &str| {
        let counter = limit.and_then(|_| {
            let help = format!("{what} that a limit of their cluster has refused.");
            registry.counter(&format!("mecha_limited_{name}_total"), &help, scope)
        });
        (limit, counter)
    };
    Quotas::new([
        refused(limits.connections, "connections", "Connections"),
        refused(limits.pending, "pending", "Clients and requests waiting for a connection"),
        refused(limits.requests, "requests", "Requests"),
        refused(limits.retries, "retries", "Requests to be sent again"),
    ])
}

/// Who mecha is to the servers of `cluster`.
fn login_of(cluster: &ClusterSpec) -> Login {
    Login {
        username: cluster.login.username.clone(),
        password: cluster.login.password.as_ref().map(|secret| secret.0.clone()),
        database: cluster.database,
        mechanism: cluster.login.mechanism.clone(),
    }
}

/// Whether what is known of one backend (an open circuit, a budget) holds for the other.
fn is_same_target(one: &ClusterSpec, other: &ClusterSpec) -> bool {
    one.name == other.name && one.protocol == other.protocol && one.endpoints == other.endpoints
}

/// The first of `known` that was built from an equal `spec`, which it loses.
fn take_known<T: Clone>(known: &mut Vec<(FilterSpec, T)>, spec: &FilterSpec) -> Option<T> {
    let at = known.iter().position(|(old, _)| old == spec)?;
    Some(known.remove(at).1)
}

/// Builds what `specs` name, or takes over what is `known` with equal options.
fn build_all<T: Clone>(
    specs: &[FilterSpec],
    known: &mut Vec<(FilterSpec, T)>,
    errors: &mut Vec<ConfigError>,
    build: impl Fn(&FilterSpec) -> Result<T, Vec<ConfigError>>,
) -> Vec<T> {
    let mut built = Vec::new();
    for spec in specs {
        match take_known(known, spec).map_or_else(|| build(spec), Ok) {
            Ok(one) => built.push(one),
            Err(more) => errors.extend(more),
        }
    }
    built
}

fn build_policies(
    specs: &[FilterSpec],
    known: Option<&Vec<BuiltPolicy>>,
    cx: &BuildCx<'_>,
    errors: &mut Vec<ConfigError>,
) -> Vec<BuiltPolicy> {
    let mut known = known.cloned().unwrap_or_default();
    let policies = build_all(specs, &mut known, errors, |spec| {
        match mecha_filters::POLICIES.iter().find(|kind| kind.name == spec.name) {
            Some(kind) => (kind.build)(&spec.options, cx).map(Arc::from),
            None => Err(vec![spec.options.error("", format!("`{}` cannot be used on a cluster", spec.name))]),
        }
    });
    // With an error they would not match, and nobody would see them.
    specs.iter().cloned().zip(policies).collect()
}
