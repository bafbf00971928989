//! What the doors of one worker share: engines and clusters, one of each kind.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mecha_clusters::{Cluster, ClusterOptions, HashTag, Servers};
use mecha_config::ClusterSpec;
use mecha_core::{Framed, Limits, Protocol};
use mecha_telemetry::Registry;
use mecha_transport::Address;

use super::{EngineView, sharding};
use crate::session::EngineCell;

/// Reads from clients: a batch is what fits here.
const CLIENT_READ: usize = 16 << 10;

pub use mecha_clusters::Environment;

/// State of a cluster's endpoints, for people.
pub type EndpointRows = Vec<(String, bool, usize)>;

/// What the doors of one worker share while they are made.
pub struct Scope {
    /// Clock, deadlines, buffer for upstream reads.
    pub environment: Environment,
    /// The buffer for client reads.
    pub scratch: Rc<RefCell<Vec<u8>>>,
    /// Every engine, for the worker.
    pub engines: Vec<Rc<dyn EngineView>>,
    /// Every cluster, for the worker: its name and a way to ask for its state.
    pub clusters: Vec<(String, Rc<dyn Fn() -> EndpointRows>)>,
    /// The chain of every door, to be ticked.
    pub chains: Vec<Rc<dyn Fn(u64)>>,
    by_type: HashMap<TypeId, Rc<dyn Any>>,
    by_name: HashMap<(String, TypeId, usize), Rc<dyn Any>>,
}

impl Scope {
    /// Nothing made yet.
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            scratch: Rc::new(RefCell::new(vec![0; CLIENT_READ])),
            engines: Vec::new(),
            clusters: Vec::new(),
            chains: Vec::new(),
            by_type: HashMap::new(),
            by_name: HashMap::new(),
        }
    }

    /// The worker's engine for protocol `P`.
    pub fn engine<P: Framed>(&mut self) -> Rc<EngineCell<P>> {
        let known = self.by_type.get(&TypeId::of::<P>()).cloned();
        if let Some(engine) = known.and_then(|engine| engine.downcast::<EngineCell<P>>().ok()) {
            return engine;
        }
        let engine = EngineCell::<P>::new(self.environment.clock);
        self.by_type.insert(TypeId::of::<P>(), Rc::clone(&engine) as _);
        self.engines.push(Rc::clone(&engine) as _);
        engine
    }

    /// The worker's connections to `spec`, whose servers speak `P`. Doors that need frames whole have connections of
    /// their own.
    pub fn cluster<P: Framed>(
        &mut self,
        spec: &ClusterSpec,
        limits: Limits,
        registry: &Registry,
    ) -> Rc<Cluster<P>> {
        let key = (spec.name.clone(), TypeId::of::<P>(), limits.stream_above);
        let known = self.by_name.get(&key).cloned();
        if let Some(cluster) = known.and_then(|cluster| cluster.downcast::<Cluster<P>>().ok()) {
            return cluster;
        }
        let metrics: Arc<_> = registry.cluster(&spec.name, P::NAME);
        // Keys of Redis have tags by convention, those of Memcached do not.
        let default_tag = (P::NAME == mecha_resp::Resp::NAME).then_some(HashTag { open: b'{', close: b'}' });
        let options = ClusterOptions {
            name: spec.name.clone(),
            servers: Servers::Fixed(
                spec.endpoints.iter().map(address_of).collect(),
                sharding::of(spec, default_tag),
                sharding::nodes(spec),
            ),
            connections: spec.connections as usize,
            connect_timeout: spec.connect_timeout,
            backoff: (spec.backoff.initial, spec.backoff.max),
            connect_rate: spec.connect_rate,
            max_pins: spec.max_pins as usize,
            max_pending: spec.max_pending as usize,
            limits,
        };
        let cluster = Cluster::<P>::new(options, metrics, &self.environment);
        self.by_name.insert(key, Rc::clone(&cluster) as _);
        let view = Rc::clone(&cluster);
        self.clusters.push((spec.name.clone(), Rc::new(move || view.describe())));
        cluster
    }
}

impl<P: Framed> EngineView for EngineCell<P> {
    fn describe(&self) -> Vec<crate::session::ConnectionInfo> {
        Self::describe(self)
    }

    fn connections(&self) -> usize {
        self.len()
    }

    fn drain(&self) {
        Self::drain(self);
    }

    fn close_idle(&self, now_micros: u64) {
        Self::close_idle(self, now_micros);
    }
}

fn address_of(endpoint: &mecha_config::Endpoint) -> Address {
    match endpoint {
        mecha_config::Endpoint::Tcp { host, port } => match host.parse() {
            Ok(ip) => Address::Tcp(std::net::SocketAddr::new(ip, *port)),
            Err(_) => Address::Host(host.clone(), *port),
        },
        mecha_config::Endpoint::Unix(path) => Address::Unix(path.clone()),
    }
}
