//! Doors of HTTP.

mod filters;
mod routes;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use mecha_clusters::http::HttpVersion;
use mecha_config::{ClusterSpec, ConfigError, FilterSpec, ListenerSpec, Snapshot};
use mecha_core::{Asked, Begins, Peer, Policy, Protocol, Refusal};
use mecha_filters::BuildCx;
use mecha_filters::http::Fetch;
use mecha_http::Http;
use mecha_transport::Accepted;

use self::filters::Factories;
pub use self::routes::check_http_route;
use super::policies::Policies;
use super::scope::field_case;
use super::{Door, DoorPlan, EngineView, ProtocolEntry, Scope, Shared};
use crate::catalog;
use crate::session::ConnectionInfo;
use crate::session::http::{Asker, Forward, HttpEngine, HttpListener, Patience, Target, Tunnel};
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

    fn begins(&self, bytes: &[u8]) -> Begins {
        mecha_http::begins(bytes)
    }

    fn backs(&self) -> Vec<&'static str> {
        self.backs.to_vec()
    }

    fn filters(&self) -> Vec<(&'static str, mecha_filters::Help)> {
        mecha_filters::http::FILTERS.iter().map(|kind| (kind.name, kind.help)).collect()
    }

    fn check_filter(&self, spec: &FilterSpec, cx: &BuildCx<'_>) -> Vec<ConfigError> {
        let cx = BuildCx { ops: Http::ops(), ..*cx };
        match filters::kind(&spec.name) {
            Some(kind) => (kind.build)(&spec.options, &cx).err().unwrap_or_default(),
            None => Policies::check(spec, Http::NAME, &cx),
        }
    }

    fn plan(
        &self,
        listener: &ListenerSpec,
        snapshot: &Snapshot,
        shared: &Arc<Shared>,
        previous: Option<&dyn DoorPlan>,
    ) -> Result<Box<dyn DoorPlan>, Vec<ConfigError>> {
        let previous = previous.and_then(|plan| (plan as &dyn Any).downcast_ref::<HttpPlan>());
        let mut errors = Vec::new();
        let scope = format!("listener:{}", listener.name);
        let cx = BuildCx {
            registry: &shared.registry,
            scope: &scope,
            workers: snapshot.workers,
            ops: Http::ops(),
            log: &shared.log,
        };
        let known = previous.map(|plan| &plan.filters);
        let filters = Factories::plan(&listener.filters, known, &snapshot.clusters, &cx, &mut errors);
        let mut routes = Vec::new();
        for route in &listener.http_routes {
            for spec in route.filters.iter().filter(|spec| filters::kind(&spec.name).is_none()) {
                let error =
                    spec.options.error("", format!("`{}` cannot stand on a route of HTTP", spec.name));
                errors
                    .push(error.hint(
                        "on the listener it is for all requests, on a cluster for those that go there",
                    ));
            }
            let known =
                previous.and_then(|plan| Some(&plan.routes.iter().find(|(name, _)| *name == route.name)?.1));
            let filters = Factories::plan(&route.filters, known, &snapshot.clusters, &cx, &mut errors);
            routes.push((route.name.clone(), filters));
        }
        let mut policies = listener.clone();
        policies.filters.retain(|spec| filters::kind(&spec.name).is_none());
        let known = previous.map(|plan| &plan.policies);
        let policies = Policies::plan(&policies, snapshot, shared, known, (Http::NAME, Http::ops()));
        let policies = policies.map_err(|more| errors.extend(more)).ok();
        let Some(policies) = policies.filter(|_| errors.is_empty()) else { return Err(errors) };
        let (listener, clusters) = (listener.clone(), snapshot.clusters.clone());
        Ok(Box::new(HttpPlan { listener, clusters, policies, filters, routes, shared: Arc::clone(shared) }))
    }
}

struct HttpPlan {
    listener: ListenerSpec,
    /// As the listener's indices count them.
    clusters: Vec<ClusterSpec>,
    policies: Policies,
    filters: Factories,
    /// Those of each route, by its name.
    routes: Vec<(String, Factories)>,
    shared: Arc<Shared>,
}

/// What the servers of a cluster speak.
pub(crate) fn http_version(cluster: &ClusterSpec) -> HttpVersion {
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
        let name = &self.listener.name;
        let is_routed = !self.listener.http_routes.is_empty();
        let mut ticked = Vec::new();
        let mut target = |route: &str, at: usize| {
            let cluster = self.clusters.get(at)?;
            let servers = scope.http_servers(cluster, http_version(cluster), &self.shared);
            let count = || scope.route_metrics(&self.shared.registry, name, route, &cluster.name);
            let metrics = is_routed.then(count);
            let policies = RefCell::new(Policies::of_cluster(cluster, &self.shared));
            let hash_on = cluster.hash_on.clone();
            let target = Rc::new(Target { servers, hash_on, policies, metrics });
            ticked.push(Rc::downgrade(&target));
            Some(target)
        };
        let specs = self.listener.http_routes.iter();
        let mut routes: Vec<_> =
            specs.filter_map(|spec| routes::open(spec, |at| target(&spec.name, at))).collect();
        let forward = Forward {
            targets: target("default", self.listener.cluster).into_iter().map(|target| (target, 1)).collect(),
            ..Forward::default()
        };
        let mut fetch = |name: &str| {
            let cluster = self.clusters.iter().find(|cluster| cluster.name == name)?;
            let servers = scope.http_servers(cluster, http_version(cluster), &self.shared);
            Some(Rc::new(Asker(servers)) as Rc<dyn Fetch>)
        };
        for (route, (_, factories)) in routes.iter_mut().zip(&self.routes) {
            route.filters = factories.open(&mut fetch);
        }
        let filters = self.filters.open(&mut fetch);
        let filters = filters::places(&self.listener.filters).into_iter().zip(filters).collect();
        let tunnels = self.listener.tunnels.iter().filter_map(|spec| {
            let cluster = self.clusters.get(spec.cluster)?;
            let streams = scope.streams(cluster, catalog::TCP, &self.shared);
            let policies = RefCell::new(Policies::of_cluster(cluster, &self.shared));
            let is_original = cluster.protocol == catalog::ORIGINAL;
            Some(Rc::new(Tunnel { allow: spec.allow.clone(), streams, is_original, policies }))
        });
        let tunnels: Vec<_> = tunnels.collect();
        let ticked_tunnels: Vec<_> = tunnels.iter().map(Rc::downgrade).collect();
        let listener = Rc::new(HttpListener {
            tunnels,
            max_duration: self.listener.max_duration,
            has_early: self.listener.has_early_hints,
            case: field_case(self.listener.header_case),
            name: name.clone(),
            routes,
            filters,
            forward,
            is_tls: self.listener.tls.is_some(),
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
        let alive = Rc::downgrade(&listener);
        scope.chains.push(Box::new(move |now| {
            let Some(listener) = alive.upgrade() else { return false };
            tick(&listener.policies, now);
            ticked.iter().filter_map(std::rc::Weak::upgrade).for_each(|target| tick(&target.policies, now));
            let tunnels = ticked_tunnels.iter().filter_map(std::rc::Weak::upgrade);
            tunnels.for_each(|tunnel| tick(&tunnel.policies, now));
            true
        }));
        let max_connections = self.listener.max_connections as usize;
        Rc::new(HttpDoor { listener, max_connections, engine: scope.http_engine() })
    }
}

fn tick(policies: &RefCell<Vec<Box<dyn Policy>>>, now: u64) {
    policies.borrow_mut().iter_mut().for_each(|policy| policy.on_tick(now));
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
