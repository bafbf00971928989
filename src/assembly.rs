//! From configuration to a running data plane, in two steps.
//!
//! [`Plan::new`] runs once, on the control side: it builds every filter and names every problem. [`Plan::open`] runs
//! on each worker and makes the worker's own doors, engines and clusters from it; nothing of what it makes is shared
//! between threads but what the plan itself holds (filter state, embedded stores).

mod door;
mod framed;
mod scope;
mod sharding;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mecha_config::{ConfigError, FilterSpec, Snapshot};
use mecha_filters::{BuildCx, LogSink, PolicyFactory};
use mecha_telemetry::Registry;
use mecha_translate::Store;
use mecha_translate::kv::Started;

use crate::catalog;

pub use door::{Door, DoorPlan, EngineView};
pub use framed::{Back, FramedEntry, ProtocolEntry, embedded, kv, native};
pub use scope::{EndpointRows, Environment, Scope};

/// What the whole process shares.
pub struct Shared {
    /// Counters.
    pub registry: Registry,
    /// Where access logs go.
    pub log: LogSink,
    /// Embedded stores by cluster.
    pub stores: HashMap<String, Arc<Store>>,
    /// Policies of clusters: one instance for every door that leads to the cluster.
    pub cluster_policies: HashMap<String, Vec<Arc<dyn PolicyFactory>>>,
    /// When the process started.
    pub started: Started,
}

/// A configuration that has been understood.
pub struct Plan {
    /// What it came from.
    pub snapshot: Arc<Snapshot>,
    /// What its parts share.
    pub shared: Arc<Shared>,
    doors: Vec<Box<dyn DoorPlan>>,
}

impl Plan {
    /// Builds every filter and store.
    ///
    /// # Errors
    /// Everything that filters have to say about their options.
    pub fn new(
        snapshot: Arc<Snapshot>,
        registry: Registry,
        started: Started,
    ) -> Result<Self, Vec<ConfigError>> {
        let log = LogSink::new(&registry);
        let mut errors = Vec::new();
        let mut stores = HashMap::new();
        let mut cluster_policies = HashMap::new();
        for cluster in &snapshot.clusters {
            if cluster.protocol == catalog::EMBEDDED {
                stores.insert(cluster.name.clone(), Arc::new(Store::new(cluster.max_memory as usize)));
            }
            let scope = format!("cluster:{}", cluster.name);
            let cx = BuildCx {
                registry: &registry,
                scope: &scope,
                workers: snapshot.workers,
                ops: &[],
                log: &log,
            };
            let policies = build_policies(&cluster.filters, &cx, &mut errors);
            cluster_policies.insert(cluster.name.clone(), policies);
        }
        let shared = Arc::new(Shared { registry, log, stores, cluster_policies, started });
        let mut doors = Vec::new();
        for listener in &snapshot.listeners {
            let Some(entry) = catalog::entry(&listener.protocol) else { continue };
            match entry.plan(listener, &snapshot, &shared) {
                Ok(door) => doors.push(door),
                Err(more) => errors.extend(more),
            }
        }
        if errors.is_empty() { Ok(Self { snapshot, shared, doors }) } else { Err(errors) }
    }

    /// Makes the calling worker's part of it, one door per listener, in the configuration's order.
    pub fn open(&self, scope: &mut Scope) -> Vec<Rc<dyn Door>> {
        self.doors.iter().map(|door| door.open(scope)).collect()
    }
}

fn build_policies(
    specs: &[FilterSpec],
    cx: &BuildCx<'_>,
    errors: &mut Vec<ConfigError>,
) -> Vec<Arc<dyn PolicyFactory>> {
    let mut policies = Vec::new();
    for spec in specs {
        let Some(kind) = mecha_filters::POLICIES.iter().find(|kind| kind.name == spec.name) else {
            errors.push(spec.options.error("", format!("`{}` cannot be used on a cluster", spec.name)));
            continue;
        };
        match (kind.build)(&spec.options, cx) {
            Ok(factory) => policies.push(Arc::from(factory)),
            Err(more) => errors.extend(more),
        }
    }
    policies
}
