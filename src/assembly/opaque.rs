//! Doors whose bytes are passed on as they are.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use mecha_config::{ClusterSpec, ConfigError, FilterSpec, ListenerSpec, Snapshot};
use mecha_core::{OpInfo, Peer};
use mecha_filters::BuildCx;
use mecha_transport::Accepted;

use super::policies::Policies;
use super::{Door, DoorPlan, EngineView, ProtocolEntry, Scope, Shared};
use crate::session::ConnectionInfo;
use crate::session::opaque::{Destination, OPS, OpaqueEngine, OpaqueListener, Original};
use crate::worker::Seat;

/// A row of the catalog for bytes that nobody looks at.
pub struct OpaqueEntry {
    /// As configuration spells it; doors and backs have the same.
    pub name: &'static str,
}

impl ProtocolEntry for OpaqueEntry {
    fn name(&self) -> &'static str {
        self.name
    }

    fn backs(&self) -> Vec<&'static str> {
        vec![self.name, crate::catalog::ORIGINAL]
    }

    fn filters(&self) -> Vec<(&'static str, mecha_filters::Help)> {
        Vec::new()
    }

    fn check_filter(&self, spec: &FilterSpec, cx: &BuildCx<'_>) -> Vec<ConfigError> {
        Policies::check(spec, self.name, &BuildCx { ops: &OPS, ..*cx })
    }

    fn plan(
        &self,
        listener: &ListenerSpec,
        snapshot: &Snapshot,
        shared: &Arc<Shared>,
        previous: Option<&dyn DoorPlan>,
    ) -> Result<Box<dyn DoorPlan>, Vec<ConfigError>> {
        let previous = previous.and_then(|plan| (plan as &dyn Any).downcast_ref::<OpaquePlan>());
        let previous = previous.map(|plan| &plan.policies);
        let policies = Policies::plan(listener, snapshot, shared, previous, (self.name, &OPS))?;
        let Some(cluster) = snapshot.clusters.get(listener.cluster).cloned() else { return Err(Vec::new()) };
        let (listener, shared) = (listener.clone(), Arc::clone(shared));
        Ok(Box::new(OpaquePlan { protocol: self.name, ops: &OPS, listener, cluster, policies, shared }))
    }
}

/// What is built of every door whose bytes are passed on.
pub(super) struct OpaquePlan {
    pub(super) protocol: &'static str,
    pub(super) ops: &'static [OpInfo],
    pub(super) listener: ListenerSpec,
    pub(super) cluster: ClusterSpec,
    pub(super) policies: Policies,
    pub(super) shared: Arc<Shared>,
}

impl DoorPlan for OpaquePlan {
    fn needs_tls(&self) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, scope: &mut Scope) -> Rc<dyn Door> {
        let streams = scope.streams(&self.cluster, self.protocol, &self.shared);
        if self.cluster.protocol != crate::catalog::ORIGINAL {
            return self.door(scope, streams);
        }
        let own = match &self.listener.address {
            mecha_config::Address::Tcp(addr) => Some(*addr),
            mecha_config::Address::Unix(_) => None,
        };
        self.door(scope, Rc::new(Original { streams, own }))
    }
}

impl OpaquePlan {
    /// Opens it on the worker of `scope`, with this behind it.
    pub(super) fn door<D: Destination>(&self, scope: &mut Scope, upstream: Rc<D>) -> Rc<dyn Door> {
        let mut policies = self.policies.open();
        policies.extend(Policies::of_cluster(&self.cluster, &self.shared));
        let policies = Rc::new(RefCell::new(policies));
        upstream.judged_by(&policies);
        let name = &self.listener.name;
        let listener = OpaqueListener {
            name: name.clone(),
            upstream,
            policies,
            // Made with the plan, for every listener that it has.
            places: self.shared.places.get(name).cloned().unwrap_or_default(),
            metrics: scope.listener_metrics(&self.shared.registry, name, self.protocol, self.ops),
            idle_timeout_micros: self.listener.idle_timeout.map_or(0, |timeout| timeout.as_micros() as u64),
            is_retired: Cell::new(false),
            successor: RefCell::default(),
        };
        OpaqueDoor::open(scope, listener, self.listener.max_connections)
    }
}

/// A door whose clients have a connection to a server each.
pub(super) struct OpaqueDoor<D: Destination> {
    listener: Rc<OpaqueListener<D>>,
    max_connections: usize,
    engine: Rc<OpaqueEngine<D>>,
}

impl<D: Destination> OpaqueDoor<D> {
    /// Opens it on the worker of `scope`.
    pub(super) fn open(scope: &mut Scope, listener: OpaqueListener<D>, max_connections: u32) -> Rc<dyn Door> {
        let is_ticked = !listener.policies.borrow().is_empty();
        let listener = Rc::new(listener);
        if is_ticked {
            // Ticked as long as it has a client, in force or not.
            let ticked = Rc::downgrade(&listener);
            scope.chains.push(Box::new(move |now| {
                let tick = |listener: Rc<OpaqueListener<D>>| {
                    listener.policies.borrow_mut().iter_mut().for_each(|policy| policy.on_tick(now));
                };
                ticked.upgrade().map(tick).is_some()
            }));
        }
        let max_connections = max_connections as usize;
        Rc::new(Self { listener, max_connections, engine: scope.opaque_engine() })
    }
}

impl<D: Destination> Door for OpaqueDoor<D> {
    fn accept(&self, stream: Accepted, peer: Peer, seat: Seat) -> std::io::Result<()> {
        let halves = stream.into_halves()?;
        let Some(place) = self.listener.places.take(self.max_connections) else {
            self.listener.metrics.refused_connection();
            halves.1.abort();
            return Ok(());
        };
        let (engine, listener) = (Rc::clone(&self.engine), Rc::clone(&self.listener));
        tokio::task::spawn_local(async move {
            let _seat = seat;
            engine.serve(listener, place, peer, halves).await;
        });
        Ok(())
    }

    fn retire(&self, successor: Option<&dyn Door>) {
        let successor = successor.and_then(|door| (door as &dyn Any).downcast_ref::<Self>());
        self.listener.retire(successor.map(|door| Rc::clone(&door.listener)));
    }
}

impl<D: Destination> EngineView for OpaqueEngine<D> {
    fn describe(&self, limit: usize) -> Vec<ConnectionInfo> {
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
