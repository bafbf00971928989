//! Doors of HTTP.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use mecha_clusters::http::HttpVersion;
use mecha_config::{ClusterSpec, ConfigError, FilterSpec, ListenerSpec, Snapshot};
use mecha_core::{Asked, Peer, Policy, Protocol, Refusal};
use mecha_filters::BuildCx;
use mecha_http::Http;
use mecha_transport::Accepted;

use super::policies::Policies;
use super::{Door, DoorPlan, EngineView, ProtocolEntry, Scope, Shared};
use crate::catalog;
use crate::session::ConnectionInfo;
use crate::session::http::{HttpEngine, HttpListener, Patience};
use crate::worker::Seat;

/// A row of the catalog for HTTP of any version.
pub struct HttpEntry {
    /// What its requests can be sent to.
    pub backs: &'static [&'static str],
}

impl ProtocolEntry for HttpEntry {
    fn name(&self) -> &'static str {
        Http::NAME
    }

    fn backs(&self) -> Vec<&'static str> {
        self.backs.to_vec()
    }

    fn filters(&self) -> Vec<(&'static str, mecha_filters::Help)> {
        Vec::new()
    }

    fn check_filter(&self, spec: &FilterSpec, cx: &BuildCx<'_>) -> Vec<ConfigError> {
        Policies::check(spec, Http::NAME, &BuildCx { ops: Http::ops(), ..*cx })
    }

    fn plan(
        &self,
        listener: &ListenerSpec,
        snapshot: &Snapshot,
        shared: &Arc<Shared>,
        previous: Option<&dyn DoorPlan>,
    ) -> Result<Box<dyn DoorPlan>, Vec<ConfigError>> {
        let previous = previous.and_then(|plan| (plan as &dyn Any).downcast_ref::<HttpPlan>());
        let previous = previous.map(|plan| &plan.policies);
        let policies = Policies::plan(listener, snapshot, shared, previous, (Http::NAME, Http::ops()))?;
        let Some(cluster) = snapshot.clusters.get(listener.cluster).cloned() else { return Err(Vec::new()) };
        Ok(Box::new(HttpPlan { listener: listener.clone(), cluster, policies, shared: Arc::clone(shared) }))
    }
}

struct HttpPlan {
    listener: ListenerSpec,
    cluster: ClusterSpec,
    policies: Policies,
    shared: Arc<Shared>,
}

/// What the servers of a cluster speak.
fn version_of(cluster: &ClusterSpec) -> HttpVersion {
    match &*cluster.protocol {
        catalog::HTTP2 => HttpVersion::Http2,
        Http::NAME if cluster.tls.is_some() => HttpVersion::Negotiated,
        _ => HttpVersion::Http1,
    }
}

impl DoorPlan for HttpPlan {
    fn needs_tls(&self) -> Vec<u8> {
        let mut hint = Vec::new();
        Http::refuse(Asked::default(), Refusal::NeedsTls, &mut hint);
        hint
    }

    fn open(&self, scope: &mut Scope) -> Rc<dyn Door> {
        let upstream = scope.http_servers(&self.cluster, version_of(&self.cluster), &self.shared);
        let name = &self.listener.name;
        let listener = Rc::new(HttpListener {
            name: name.clone(),
            upstream,
            policies: RefCell::new(self.policies.open()),
            // Made with the plan, for every listener that it has.
            places: self.shared.places.get(name).cloned().unwrap_or_default(),
            metrics: scope.listener_metrics(&self.shared.registry, name, Http::NAME, Http::ops()),
            patience: Patience {
                head_micros: self.listener.header_timeout.as_micros() as u64,
                body_micros: self.listener.body_timeout.as_micros() as u64,
                idle_micros: self.listener.idle_timeout.map_or(0, |timeout| timeout.as_micros() as u64),
            },
            is_retired: Cell::new(false),
            successor: RefCell::default(),
        });
        // Ticked as long as it has a client, in force or not.
        let ticked = Rc::downgrade(&listener);
        scope.chains.push(Box::new(move |now| {
            let tick = |listener: Rc<HttpListener>| {
                listener
                    .policies
                    .borrow_mut()
                    .iter_mut()
                    .for_each(|policy: &mut Box<dyn Policy>| policy.on_tick(now));
            };
            ticked.upgrade().map(tick).is_some()
        }));
        let max_connections = self.listener.max_connections as usize;
        Rc::new(HttpDoor { listener, max_connections, engine: scope.http_engine() })
    }
}

struct HttpDoor {
    listener: Rc<HttpListener>,
    max_connections: usize,
    engine: Rc<HttpEngine>,
}

impl Door for HttpDoor {
    fn accept(&self, stream: Accepted, peer: Peer, seat: Seat) -> std::io::Result<()> {
        let halves = stream.into_halves()?;
        let Some(place) = self.listener.places.take(self.max_connections) else {
            self.listener.metrics.refused_connection();
            let mut answer = Vec::new();
            Http::refuse(Asked::default(), Refusal::TooManyClients, &mut answer);
            // What a new socket does not take at once need not be said.
            let _ = halves.1.try_write(&answer);
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

impl EngineView for HttpEngine {
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
