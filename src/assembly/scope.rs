//! What the doors of one worker share: engines and clusters, one of each kind.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mecha_clusters::http::{FieldCase, HttpOptions, HttpServers, HttpVersion};
use mecha_clusters::{
    Cluster, ClusterOptions, HashTag, Listing, LoginSource, OutlierOptions, ReadFrom, ReadPolicy, Servers,
    StreamOptions, Streams,
};
use mecha_config::{ClusterSpec, HeaderCase};
use mecha_core::{Found, Framed, Limits, OpInfo, Protocol};
use mecha_telemetry::{ApiMetrics, ClusterMetrics, ListenerMetrics, Registry, RouteMetrics};
use mecha_transport::{Address, ProxyVersion};

use super::{EngineView, Shared, sharding};
use crate::mesh::{Mesh, Order};
use crate::session::EngineCell;
use crate::session::http::HttpEngine;
use crate::session::opaque::{Destination, OpaqueEngine};

/// Reads from clients: a batch is what fits here.
const CLIENT_READ: usize = 16 << 10;

/// How long a connection to an HTTP server is kept without a request.
const KEPT_MICROS: u64 = 60_000_000;

pub use mecha_clusters::Environment;

/// State of a cluster's endpoints, for people.
pub type EndpointRows = Vec<(String, bool, usize)>;

/// What the doors of one worker share while they are made.
pub struct Scope {
    /// Clock, deadlines, buffer for upstream reads.
    pub environment: Environment,
    /// The way to all workers.
    mesh: Mesh,
    /// The buffer for client reads.
    pub scratch: Rc<RefCell<Vec<u8>>>,
    /// Every engine, for the worker.
    pub engines: Vec<Rc<dyn EngineView>>,
    /// Every cluster, for the worker: its name and a way to ask for its state.
    pub clusters: Vec<ClusterView>,
    /// The chain of every door, to be ticked; `false` means that it is gone.
    pub chains: Vec<Box<dyn Fn(u64) -> bool>>,
    by_type: HashMap<TypeId, Rc<dyn Any>>,
    by_name: HashMap<ClusterKey, (ClusterSpec, Rc<dyn Any>)>,
    /// A figure has one writer for the life of the process, whatever is configured when.
    listeners: HashMap<(String, &'static str), Arc<ListenerMetrics>>,
    cluster_metrics: HashMap<ClusterKey, Arc<ClusterMetrics>>,
    routes: HashMap<[String; 3], Arc<RouteMetrics>>,
    apis: HashMap<String, Arc<ApiMetrics>>,
}

/// A cluster's name, what is spoken with it, and how large a frame may be that is seen whole.
type ClusterKey = (String, TypeId, usize);

/// A cluster's name, and a way to ask for its state while it exists.
type ClusterView = (String, Box<dyn Fn() -> Option<EndpointRows>>);

impl Scope {
    /// Nothing made yet.
    pub fn new(environment: Environment, mesh: Mesh) -> Self {
        Self {
            environment,
            mesh,
            scratch: Rc::new(RefCell::new(vec![0; CLIENT_READ])),
            engines: Vec::new(),
            clusters: Vec::new(),
            chains: Vec::new(),
            by_type: HashMap::new(),
            by_name: HashMap::new(),
            listeners: HashMap::new(),
            cluster_metrics: HashMap::new(),
            routes: HashMap::new(),
            apis: HashMap::new(),
        }
    }

    /// Forgets clusters that `specs` lacks: they end with their last client.
    pub fn keep(&mut self, specs: &[ClusterSpec]) {
        self.by_name.retain(|_, (spec, _)| specs.iter().any(|wanted| wanted.is_same_but_login(spec)));
        self.clusters.retain(|(_, view)| view().is_some());
    }

    /// The worker's figures of a listener.
    pub fn listener_metrics(
        &mut self,
        registry: &Registry,
        name: &str,
        protocol: &'static str,
        ops: &'static [OpInfo],
    ) -> Arc<ListenerMetrics> {
        let fresh = || registry.listener(name, protocol, ops);
        Arc::clone(self.listeners.entry((name.into(), protocol)).or_insert_with(fresh))
    }

    /// The worker's figures of a listener by API, version and error.
    pub fn api_metrics(
        &mut self,
        registry: &Registry,
        listener: &str,
        ops: &'static [OpInfo],
        errors: &'static [&'static str],
    ) -> Arc<ApiMetrics> {
        let fresh = || registry.apis(listener, ops, errors);
        Arc::clone(self.apis.entry(listener.into()).or_insert_with(fresh))
    }

    /// The worker's figures of a route of `listener` to `cluster`.
    pub fn route_metrics(
        &mut self,
        registry: &Registry,
        listener: &str,
        route: &str,
        cluster: &str,
    ) -> Arc<RouteMetrics> {
        let fresh = || registry.route(listener, route, cluster);
        let key = [listener, route, cluster].map(String::from);
        Arc::clone(self.routes.entry(key).or_insert_with(fresh))
    }

    /// The worker's engine for protocol `P`.
    pub fn engine<P: Framed>(&mut self) -> Rc<EngineCell<P>> {
        let known = self.by_type.get(&TypeId::of::<P>()).cloned();
        if let Some(engine) = known.and_then(|engine| engine.downcast::<EngineCell<P>>().ok()) {
            return engine;
        }
        let engine = EngineCell::<P>::joined(self.environment.clock, self.mesh.clone());
        self.by_type.insert(TypeId::of::<P>(), Rc::clone(&engine) as _);
        self.engines.push(Rc::clone(&engine) as _);
        engine
    }

    /// The worker's engine for clients with a connection to a server each, to a destination of this kind.
    pub fn opaque_engine<D: Destination>(&mut self) -> Rc<OpaqueEngine<D>> {
        let known = self.by_type.get(&TypeId::of::<OpaqueEngine<D>>()).cloned();
        if let Some(engine) = known.and_then(|engine| engine.downcast::<OpaqueEngine<D>>().ok()) {
            return engine;
        }
        let engine = OpaqueEngine::new(self.environment.clock, Rc::clone(&self.environment.scratch));
        self.by_type.insert(TypeId::of::<OpaqueEngine<D>>(), Rc::clone(&engine) as _);
        self.engines.push(Rc::clone(&engine) as _);
        engine
    }

    /// The servers of `spec`, for clients who each get a connection of their own.
    pub fn streams(&mut self, spec: &ClusterSpec, protocol: &'static str, shared: &Shared) -> Rc<Streams> {
        let key = (spec.name.clone(), TypeId::of::<Streams>(), 0);
        let known = self.by_name.get(&key).filter(|(known, _)| known.is_same_but_login(spec));
        if let Some(streams) = known.and_then(|(_, streams)| Rc::clone(streams).downcast::<Streams>().ok()) {
            return streams;
        }
        let fresh = || shared.registry.cluster(&spec.name, protocol);
        let metrics = Arc::clone(self.cluster_metrics.entry(key.clone()).or_insert_with(fresh));
        let options = StreamOptions {
            name: spec.name.clone(),
            servers: match shared.lookups.get(&spec.name) {
                Some(lookup) => Listing::Found(lookup.finding.clone()),
                None => Listing::Fixed(sharding::listed(spec)),
            },
            choice: sharding::choice(spec),
            quotas: shared.quotas.get(&spec.name).map(|(_, quotas)| Arc::clone(quotas)).unwrap_or_default(),
            connect_timeout: spec.connect_timeout,
            backoff: (spec.backoff.initial, spec.backoff.max),
            tls: shared.trusts.get(&spec.name).map(|(_, tls)| Arc::clone(tls)),
            keeps_source: spec.keeps_source,
            proxy: spec.proxy_protocol.map(|version| match version {
                mecha_config::ProxyProtocol::V1 => ProxyVersion::V1,
                mecha_config::ProxyProtocol::V2 => ProxyVersion::V2,
            }),
            health: shared.checks.get(&spec.name).map(|checks| Arc::clone(&checks.health)),
            outlier: spec.outlier.map(|outlier| OutlierOptions {
                failures: outlier.failures,
                eject_for: outlier.eject_for,
                max_share: outlier.max_share,
            }),
        };
        let streams = Streams::new(options, metrics, &self.environment);
        self.by_name.insert(key, (spec.clone(), Rc::clone(&streams) as _));
        let view = Rc::downgrade(&streams);
        self.clusters
            .push((spec.name.clone(), Box::new(move || view.upgrade().map(|streams| streams.describe()))));
        streams
    }

    /// The worker's engine for HTTP.
    pub fn http_engine(&mut self) -> Rc<HttpEngine> {
        let known = self.by_type.get(&TypeId::of::<HttpEngine>()).cloned();
        if let Some(engine) = known.and_then(|engine| engine.downcast::<HttpEngine>().ok()) {
            return engine;
        }
        let engine = HttpEngine::new(self.environment.clock, Rc::clone(&self.environment.scratch));
        self.by_type.insert(TypeId::of::<HttpEngine>(), Rc::clone(&engine) as _);
        self.engines.push(Rc::clone(&engine) as _);
        engine
    }

    /// The servers of `spec`, which speak HTTP of this version.
    pub fn http_servers(
        &mut self,
        spec: &ClusterSpec,
        version: HttpVersion,
        shared: &Shared,
    ) -> Rc<HttpServers> {
        let key = (spec.name.clone(), TypeId::of::<HttpServers>(), 0);
        let known = self.by_name.get(&key).filter(|(known, _)| known.is_same_but_login(spec));
        if let Some(servers) = known.and_then(|(_, known)| Rc::clone(known).downcast::<HttpServers>().ok()) {
            return servers;
        }
        let streams = self.streams(spec, mecha_http::Http::NAME, shared);
        let options = HttpOptions {
            version,
            max_connections: spec.max_pins as usize,
            shared: spec.connections as usize,
            idle_micros: KEPT_MICROS,
            case: field_case(spec.header_case),
        };
        let metrics = Arc::clone(streams.shared_metrics());
        let servers = HttpServers::new(streams, options, metrics, self.environment.clock);
        self.by_name.insert(key, (spec.clone(), Rc::clone(&servers) as _));
        let swept = Rc::downgrade(&servers);
        self.chains.push(Box::new(move |now| swept.upgrade().map(|servers| servers.sweep(now)).is_some()));
        servers
    }

    /// The worker's connections to `spec`, whose servers speak `P`. Doors that need frames whole have connections of
    /// their own.
    pub fn cluster<P: Framed>(
        &mut self,
        spec: &ClusterSpec,
        limits: Limits,
        shared: &Shared,
    ) -> Rc<Cluster<P>> {
        let key = (spec.name.clone(), TypeId::of::<P>(), limits.stream_above);
        let known = self
            .by_name
            .get(&key)
            .filter(|(known, _)| known.is_same_but_login(spec))
            .map(|(_, cluster)| cluster.clone());
        if let Some(cluster) = known.and_then(|cluster| cluster.downcast::<Cluster<P>>().ok()) {
            return cluster;
        }
        let fresh = || shared.registry.cluster(&spec.name, P::NAME);
        let metrics = Arc::clone(self.cluster_metrics.entry(key.clone()).or_insert_with(fresh));
        // Keys of Redis have tags by convention, those of Memcached do not.
        let default_tag = (P::NAME == mecha_resp::Resp::NAME).then_some(HashTag { open: b'{', close: b'}' });
        let options = ClusterOptions {
            name: spec.name.clone(),
            servers: match shared.discoveries.get(&spec.name) {
                Some(discovery) => Servers::Found(discovery.news.clone()),
                None => Servers::Fixed(
                    spec.endpoints.iter().map(address_of).collect(),
                    sharding::of(spec, default_tag),
                    sharding::nodes(spec),
                ),
            },
            connections: spec.connections as usize,
            connect_timeout: spec.connect_timeout,
            backoff: (spec.backoff.initial, spec.backoff.max),
            connect_rate: spec.connect_rate,
            health: shared.checks.get(&spec.name).map(|checks| Arc::clone(&checks.health)),
            max_pins: spec.max_pins as usize,
            max_pending: spec.max_pending as usize,
            eject: spec.eject.as_ref().map(sharding::eject),
            park: spec.park,
            limits,
            reads: reads(spec),
            tls: shared.trusts.get(&spec.name).map(|(_, tls)| Arc::clone(tls)),
            login: shared.logins.get(&spec.name).map(LoginSource::current).unwrap_or_default(),
            scripts: shared.scripts.get(&spec.name).cloned().unwrap_or_default(),
            census: shared.census.get(&spec.name).cloned().unwrap_or_default(),
        };
        let cluster = Cluster::<P>::new(options, metrics, &self.environment);
        self.by_name.insert(key, (spec.clone(), Rc::clone(&cluster) as _));
        let view = Rc::downgrade(&cluster);
        let describe = move || view.upgrade().map(|cluster| cluster.describe());
        self.clusters.push((spec.name.clone(), Box::new(describe)));
        cluster
    }
}

/// How names of fields are written.
pub(super) fn field_case(case: HeaderCase) -> FieldCase {
    match case {
        HeaderCase::Lower => FieldCase::Lower,
        HeaderCase::Preserve => FieldCase::Preserve,
        HeaderCase::Title => FieldCase::Title,
    }
}

fn reads(spec: &ClusterSpec) -> ReadPolicy {
    let from = match spec.reads.from {
        mecha_config::ReadFrom::Any => ReadFrom::Any,
        mecha_config::ReadFrom::Nearest => ReadFrom::Nearest,
        mecha_config::ReadFrom::PreferReplica => ReadFrom::PreferReplica,
        mecha_config::ReadFrom::Primary => ReadFrom::Primary,
    };
    ReadPolicy { from, zone: spec.reads.zone.clone() }
}

impl<P: Framed> EngineView for EngineCell<P> {
    fn protocol(&self) -> &'static str {
        P::NAME
    }

    fn carry_out(self: Rc<Self>, order: Arc<Order>, reply: tokio::sync::oneshot::Sender<Found>) {
        tokio::task::spawn_local(Self::carry_out(self, order, reply));
    }

    fn describe(&self, limit: usize) -> Vec<crate::session::ConnectionInfo> {
        Self::describe(self, limit)
    }

    fn connections(&self) -> usize {
        self.len()
    }

    fn drain(&self) {
        Self::drain(self);
    }

    fn hand_over(&self, is_late: bool) -> usize {
        Self::hand_over(self, is_late)
    }

    fn close_idle(&self, now_micros: u64) {
        Self::close_idle(self, now_micros);
    }
}

pub(crate) fn address_of(endpoint: &mecha_config::Endpoint) -> Address {
    match endpoint {
        mecha_config::Endpoint::Tcp { host, port } => match host.parse() {
            Ok(ip) => Address::Tcp(std::net::SocketAddr::new(ip, *port)),
            Err(_) => Address::Host(host.clone(), *port),
        },
        mecha_config::Endpoint::Unix(path) => Address::Unix(path.clone()),
    }
}
