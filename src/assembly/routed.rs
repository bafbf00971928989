//! Listeners that lead to several clusters.
//!
//! A protocol takes part by one line in the catalog (`routing: Some(routed(..))`) and by implementing
//! [`mecha_clusters::Rules`], whose defaults are right for a protocol without calls of several keys, and [`Copies`], whose
//! defaults copy nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mecha_clusters::{
    Conditions, Copies, Junction, Leg, Migrating, MigratingOptions, Migration, Mirror, MirrorOptions,
    ReplySink, Routed, RoutedLeg, Upstream, Watch,
};
use mecha_config::{
    ClusterSpec, ConfigError, FilterSpec, KnownRoutes, ListenerSpec, MirrorSpec, RouteClass, RouteSpec,
    Snapshot,
};
use mecha_core::{Chain, Filter, Framed, OpClass};
use mecha_filters::BuildCx;

use super::framed::{Back, Factory, FramedEntry, Opening, policies_of};
use super::{Scope, Shared, build_all, migrate};

/// How listeners of protocol `P` lead to several clusters.
pub struct Routing<P: Framed> {
    /// What their routes can have.
    pub known: KnownRoutes,
    open: fn(&OpeningRoutes<'_, P>, &mut Scope) -> Rc<dyn Upstream<P>>,
}

/// What opening a listener's routes needs.
struct OpeningRoutes<'a, P: Framed> {
    plan: &'a RoutesPlan<P>,
    shared: &'a Shared,
    /// Whether a filter must see replies whole.
    is_whole: bool,
    /// Who waits for replies.
    clients: Rc<dyn ReplySink<P>>,
}

/// Routes for a protocol that has rules for calls of several keys.
pub const fn routed<P: Copies>(known: KnownRoutes) -> Routing<P> {
    Routing { known, open }
}

/// Where one route leads, and its filters there.
struct Target<P: Framed> {
    cluster: ClusterSpec,
    back: &'static Back<P>,
    factories: Vec<Factory<P>>,
}

/// One route, understood.
struct Route<P: Framed> {
    /// `default` for what no route takes.
    name: String,
    conditions: Conditions,
    /// Those of the configuration, for a later plan.
    filters: Vec<FilterSpec>,
    target: Target<P>,
    mirror: Option<(MirrorSpec, Target<P>)>,
    migrate: Option<Migrate<P>>,
}

/// Where a route's keys move to.
struct Migrate<P: Framed> {
    target: Target<P>,
    /// Policies of the cluster that they leave; the filters of the route stand before both.
    policies: Vec<Factory<P>>,
    options: MigratingOptions,
    migration: Arc<Migration>,
}

/// All routes of one listener.
pub(super) struct RoutesPlan<P: Framed> {
    listener: String,
    /// The default comes last.
    routes: Vec<Route<P>>,
    open: fn(&OpeningRoutes<'_, P>, &mut Scope) -> Rc<dyn Upstream<P>>,
}

// === impl RoutesPlan ===

impl<P: Framed> RoutesPlan<P> {
    pub(super) fn new(
        entry: &FramedEntry<P>,
        routing: &Routing<P>,
        listener: &ListenerSpec,
        snapshot: &Snapshot,
        shared: &Shared,
        known: &mut Vec<(FilterSpec, Factory<P>)>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Self> {
        let target = |at: usize| {
            let cluster = snapshot.clusters.get(at)?.clone();
            let back = entry.backs.iter().find(|back| back.name == cluster.protocol)?;
            let factories = policies_of(&cluster, shared).collect();
            Some(Target { cluster, back, factories })
        };
        let default = RouteSpec {
            name: "default".into(),
            prefixes: Vec::new(),
            class: None,
            databases: Vec::new(),
            users: Vec::new(),
            cluster: listener.cluster,
            filters: Vec::new(),
            mirror: listener.mirror.clone(),
            migrate: listener.migrate.clone(),
        };
        let mut routes = Vec::new();
        for spec in listener.routes.iter().chain([&default]) {
            let scope = format!("route:{}/{}", listener.name, spec.name);
            let cx = BuildCx {
                registry: &shared.registry,
                scope: &scope,
                workers: snapshot.workers,
                ops: P::ops(),
                log: &shared.log,
            };
            let mut main = target(spec.cluster)?;
            let mut factories = build_all(&spec.filters, known, errors, |spec| entry.build(spec, &cx));
            let migrate = match &spec.migrate {
                Some(migrate) => {
                    let (migration, _) =
                        shared.migrations.get(&migrate::name_of(&listener.name, &spec.name))?;
                    Some(Migrate {
                        target: target(migrate.cluster)?,
                        policies: std::mem::take(&mut main.factories),
                        options: migrate::options(migrate, spec, listener, snapshot, migration),
                        migration: Arc::clone(migration),
                    })
                }
                None => None,
            };
            factories.append(&mut main.factories);
            main.factories = factories;
            let mirror = match &spec.mirror {
                Some(mirror) => Some((mirror.clone(), target(mirror.cluster)?)),
                None => None,
            };
            let conditions = Conditions {
                prefixes: spec.prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect(),
                class: spec.class.map(class_of),
                databases: spec.databases.clone(),
                users: spec.users.clone(),
            };
            let (name, filters) = (spec.name.clone(), spec.filters.clone());
            routes.push(Route { name, conditions, filters, target: main, mirror, migrate });
        }
        Some(Self { listener: listener.name.clone(), routes, open: routing.open })
    }

    /// The filters that the configuration has named, for a later plan.
    pub(super) fn known_filters(&self) -> impl Iterator<Item = (FilterSpec, Factory<P>)> {
        self.routes
            .iter()
            .flat_map(|route| route.filters.iter().cloned().zip(route.target.factories.iter().cloned()))
    }

    /// Whether any of its calls must be seen whole.
    pub(super) fn needs_whole_frames(&self) -> bool {
        let mirrors = self.routes.iter().filter_map(|route| route.mirror.as_ref().map(|(_, target)| target));
        let moved = self.routes.iter().filter_map(|route| Some(&route.migrate.as_ref()?.target));
        let mut all = self.routes.iter().map(|route| &route.target).chain(mirrors).chain(moved);
        all.any(|target| {
            target.back.is_translated || target.factories.iter().any(Factory::needs_whole_frames)
        })
    }

    pub(super) fn open(
        &self,
        shared: &Shared,
        is_whole: bool,
        clients: Rc<dyn ReplySink<P>>,
        scope: &mut Scope,
    ) -> Rc<dyn Upstream<P>> {
        (self.open)(&OpeningRoutes { plan: self, shared, is_whole, clients }, scope)
    }
}

fn class_of(class: RouteClass) -> OpClass {
    match class {
        RouteClass::Reads => OpClass::Read,
        RouteClass::Writes => OpClass::Write,
    }
}

/// What opening one listener's routes shares.
struct Opener<'a, P: Copies> {
    shared: &'a Shared,
    is_whole: bool,
    junction: Rc<Junction<P>>,
    listener: &'a str,
}

fn open<P: Copies>(opening: &OpeningRoutes<'_, P>, scope: &mut Scope) -> Rc<dyn Upstream<P>> {
    let OpeningRoutes { plan, shared, is_whole, clients } = opening;
    let junction = Junction::new(Rc::clone(clients), scope.environment.clock);
    let opener = Opener { shared, is_whole: *is_whole, junction, listener: &plan.listener };
    let legs = plan.routes.iter().map(|route| {
        let leg = match &route.migrate {
            Some(migrate) => opener.migrating(route, migrate, scope),
            None => opener.leg(&route.name, &route.target, scope),
        };
        let mirror = route.mirror.as_ref().map(|(spec, target)| {
            let leg = opener.leg(&format!("{}.mirror", route.name), target, scope);
            let options =
                MirrorOptions { share: spec.share, class: spec.class.map(class_of), window: spec.window };
            Mirror::new(&opener.junction, leg, options)
        });
        RoutedLeg { leg, mirror }
    });
    let legs = legs.collect();
    let conditions = plan.routes.iter().map(|route| route.conditions.clone());
    let conditions = conditions.take(plan.routes.len().saturating_sub(1)).collect();
    Routed::new(Rc::clone(&opener.junction), conditions, legs)
}

impl<P: Copies> Opener<'_, P> {
    /// A route whose keys are moving: its filters stand before both sides, and the clusters' policies before their own.
    fn migrating(&self, route: &Route<P>, migrate: &Migrate<P>, scope: &mut Scope) -> Rc<Leg<P>> {
        let chain = self.chain(&route.target.factories, scope);
        let sink = Leg::sink(&self.junction, chain.as_ref());
        let watch = Watch::new(Rc::clone(&self.junction), Rc::clone(&sink), Arc::clone(&migrate.migration));
        let mut side = |name: &str, target: &Target<P>, policies: &[Factory<P>]| {
            let chain = self.chain(policies, scope);
            let sink = Leg::sink_before(&self.junction, Rc::clone(&watch) as _, chain.as_ref());
            self.leg_to(&format!("{}.{name}", route.name), target, chain, sink, scope)
        };
        let old = side("old", &route.target, &migrate.policies);
        let new = side("new", &migrate.target, &migrate.target.factories);
        let upstream = Migrating::new(watch, old, new, migrate.options.clone());
        let (registry, cluster) = (&self.shared.registry, &route.target.cluster.name);
        let metrics = scope.route_metrics(registry, self.listener, &route.name, cluster);
        Leg::new(upstream, chain, sink, metrics)
    }

    fn leg(&self, name: &str, target: &Target<P>, scope: &mut Scope) -> Rc<Leg<P>> {
        let chain = self.chain(&target.factories, scope);
        let sink = Leg::sink(&self.junction, chain.as_ref());
        self.leg_to(name, target, chain, sink, scope)
    }

    fn leg_to(
        &self,
        name: &str,
        target: &Target<P>,
        chain: Option<Rc<RefCell<Chain<P>>>>,
        sink: Rc<dyn ReplySink<P>>,
        scope: &mut Scope,
    ) -> Rc<Leg<P>> {
        let opening = Opening {
            cluster: &target.cluster,
            shared: self.shared,
            is_whole: self.is_whole,
            is_routed: true,
            clients: Rc::clone(&sink),
        };
        let upstream = (target.back.open)(&opening, scope);
        let metrics = scope.route_metrics(&self.shared.registry, self.listener, name, &target.cluster.name);
        Leg::new(upstream, chain, sink, metrics)
    }

    fn chain(&self, factories: &[Factory<P>], scope: &mut Scope) -> Option<Rc<RefCell<Chain<P>>>> {
        let filters: Vec<Box<dyn Filter<P>>> = factories.iter().map(Factory::open).collect();
        if filters.is_empty() {
            return None;
        }
        let chain = Rc::new(RefCell::new(Chain::new(filters)));
        let ticked = Rc::downgrade(&chain);
        scope
            .chains
            .push(Box::new(move |now| ticked.upgrade().map(|chain| chain.borrow_mut().tick(now)).is_some()));
        Some(chain)
    }
}
