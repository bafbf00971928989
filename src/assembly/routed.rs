//! Listeners that lead to several clusters.
//!
//! A protocol takes part by one line in the catalog (`routing: Some(routed(..))`) and by implementing [`Rules`], whose
//! defaults are right for a protocol without calls of several keys.

use std::cell::RefCell;
use std::rc::Rc;

use mecha_clusters::{
    Conditions, Junction, Leg, Mirror, MirrorOptions, ReplySink, Routed, RoutedLeg, Rules, Upstream,
};
use mecha_config::{
    ClusterSpec, ConfigError, FilterSpec, KnownRoutes, ListenerSpec, MirrorSpec, RouteClass, RouteSpec,
    Snapshot,
};
use mecha_core::{Chain, Filter, Framed, OpClass};
use mecha_filters::BuildCx;

use super::framed::{Back, Factory, FramedEntry, Opening, policies_of};
use super::{Scope, Shared, build_all};

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
pub const fn routed<P: Rules>(known: KnownRoutes) -> Routing<P> {
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
            routes.push(Route { name, conditions, filters, target: main, mirror });
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
        let mut all = self.routes.iter().map(|route| &route.target).chain(mirrors);
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
struct Opener<'a, P: Rules> {
    shared: &'a Shared,
    is_whole: bool,
    junction: Rc<Junction<P>>,
    listener: &'a str,
}

fn open<P: Rules>(opening: &OpeningRoutes<'_, P>, scope: &mut Scope) -> Rc<dyn Upstream<P>> {
    let OpeningRoutes { plan, shared, is_whole, clients } = opening;
    let junction = Junction::new(Rc::clone(clients), scope.environment.clock);
    let opener = Opener { shared, is_whole: *is_whole, junction, listener: &plan.listener };
    let legs = plan.routes.iter().map(|route| {
        let leg = opener.leg(&route.name, &route.target, scope);
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

impl<P: Rules> Opener<'_, P> {
    fn leg(&self, name: &str, target: &Target<P>, scope: &mut Scope) -> Rc<Leg<P>> {
        let chain = self.chain(&target.factories, scope);
        let sink = Leg::sink(&self.junction, chain.as_ref());
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
