//! Doors of protocols whose frames we cut ourselves.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use mecha_clusters::{Announced, Cluster, ReplySink, Rules, Scattered, Upstream};
use mecha_config::{
    ClusterSpec, ConfigError, Discovery, FilterSpec, KnownRoutes, ListenerSpec, Snapshot, Subscriptions,
};
use mecha_core::{Asked, Begins, Chain, Filter, Framed, Limits, Peer, Refusal};
use mecha_filters::{BuildCx, FilterFactory, FilterKind, PolicyFactory};
use mecha_translate::{Exchange, KvBack, KvFront, Options};
use mecha_transport::Accepted;
use mecha_users::{Gate, Guarded};

use super::routed::{RoutesPlan, Routing};
use super::{Door, DoorPlan, Scope, Shared, build_all};
use crate::catalog;
use crate::session::{ClientTask, EngineCell, Listener, ListenerLimits, serve, turn_away};
use crate::upstream::{Embedded, Translated};
use crate::worker::Seat;

/// The largest request or reply where frames must be seen whole.
const MAX_WHOLE_FRAME: usize = 64 << 20;

/// Surplus clients of one door and worker that are being told so; beyond, they are closed without a word, or a storm of
/// them would hold the descriptors that the limit is to save.
const MAX_LEAVING: usize = 256;

/// One row of the catalog.
pub trait ProtocolEntry: Sync {
    /// The protocol's name, as configuration spells it.
    fn name(&self) -> &'static str;
    /// Names of the backs that a door of this protocol can lead to.
    fn backs(&self) -> Vec<&'static str>;
    /// The typed filters.
    fn filters(&self) -> Vec<(&'static str, mecha_filters::Help)>;
    /// Whether a client that nobody knows speaks it, from the first bytes that it sends. What mecha does not speak nobody does.
    fn begins(&self, bytes: &[u8]) -> Begins {
        let _ = bytes;
        Begins::No
    }
    /// What routes of its listeners can have; `None`: there are none.
    fn routes(&self) -> Option<KnownRoutes> {
        None
    }
    /// What the filter `spec` has to say about its options; nothing if it is fine.
    fn check_filter(&self, spec: &mecha_config::FilterSpec, cx: &BuildCx<'_>) -> Vec<ConfigError>;
    /// Understands one listener. Filters that `previous` has with equal options are taken over with their state.
    ///
    /// # Errors
    /// Everything that its filters have to say.
    fn plan(
        &self,
        listener: &ListenerSpec,
        snapshot: &Snapshot,
        shared: &Arc<Shared>,
        previous: Option<&dyn DoorPlan>,
    ) -> Result<Box<dyn DoorPlan>, Vec<ConfigError>>;
}

/// How a door of protocol `P` gets to one kind of back.
pub struct Back<P: Framed> {
    /// The back's name.
    pub name: &'static str,
    /// Whether requests are translated, so that frames must be seen whole.
    pub is_translated: bool,
    pub(super) open: fn(&Opening<'_, P>, &mut Scope) -> Rc<dyn Upstream<P>>,
}

/// What opening an upstream needs.
pub(super) struct Opening<'a, P: Framed> {
    pub(super) cluster: &'a ClusterSpec,
    pub(super) shared: &'a Shared,
    /// Whether a filter must see replies whole.
    pub(super) is_whole: bool,
    /// Whether it is one of several routes.
    pub(super) is_routed: bool,
    /// Who waits for replies.
    pub(super) clients: Rc<dyn ReplySink<P>>,
}

impl<P: Framed> Opening<'_, P> {
    /// Where the clients of the cluster publish and subscribe, if mecha sees to that.
    fn exchange(&self) -> Arc<Exchange> {
        self.shared.exchanges.get(&self.cluster.name).cloned().unwrap_or_default()
    }

    fn native(&self, scope: &mut Scope) -> Rc<Cluster<P>> {
        let limits = if self.is_whole { whole_frames(MAX_WHOLE_FRAME) } else { Limits::default() };
        scope.cluster::<P>(self.cluster, limits, self.shared)
    }
}

/// The back that speaks the door's own protocol: each call goes to one server, as it is.
pub const fn native<P: Framed>(name: &'static str) -> Back<P> {
    Back { name, is_translated: false, open: |opening, scope| opening.native(scope) }
}

/// As [`native`], for a protocol with calls that concern several servers: they are taken apart, and their answers put
/// together.
pub const fn scattered<P: Rules>(name: &'static str) -> Back<P> {
    Back {
        name,
        is_translated: false,
        open: |opening, scope| {
            let cluster = opening.native(scope);
            let is_sharded = is_sharded(opening.cluster);
            let upstream: Rc<dyn Upstream<P>> = if is_sharded {
                Scattered::new(Rc::clone(&cluster), Rc::clone(&opening.clients))
            } else {
                Rc::clone(&cluster) as _
            };
            let shares_subscriptions = match opening.cluster.subscriptions {
                Subscriptions::Auto => is_sharded,
                Subscriptions::Shared => true,
                Subscriptions::Dedicated => false,
            };
            // Routes see to what belongs to one client; a subscription there has a connection of its own.
            if opening.is_routed {
                upstream
            } else {
                P::in_front(upstream, cluster, shares_subscriptions, is_sharded)
            }
        },
    }
}

/// Whether calls may have to be taken apart.
fn is_sharded(cluster: &ClusterSpec) -> bool {
    match cluster.discovery {
        Discovery::Cluster => true,
        Discovery::Listed => cluster.endpoints.len() > 1,
        Discovery::Dns | Discovery::File { .. } | Discovery::Sentinel(_) | Discovery::Srv => false,
    }
}

/// A back of the `kv` family.
pub const fn kv<A: KvFront, B: KvBack>() -> Back<A> {
    Back {
        name: B::NAME,
        is_translated: true,
        open: |opening, scope| {
            let limits = whole_frames(MAX_WHOLE_FRAME);
            let cluster = scope.cluster::<B>(opening.cluster, limits, opening.shared);
            let options = Options {
                endpoints: cluster.len(),
                max_value: opening.cluster.max_value as usize,
                started: opening.shared.started,
                random_seed: fastrand::u64(..),
                ..Options::default()
            };
            let clock = scope.environment.clock;
            Translated::<A, B>::new(options, cluster, opening.exchange(), clock, Rc::clone(&opening.clients))
        },
    }
}

/// The store in this process.
pub const fn embedded<A: KvFront>() -> Back<A> {
    Back {
        name: catalog::EMBEDDED,
        is_translated: true,
        open: |opening, scope| {
            // Made with the plan, for every embedded cluster that it has.
            let store = opening.shared.stores.get(&opening.cluster.name).cloned();
            let store = store.unwrap_or_else(|| std::sync::Arc::new(mecha_translate::Store::new(1 << 20)));
            let (started, clock) = (opening.shared.started, scope.environment.clock);
            Rc::new(Embedded::new(store, started, opening.exchange(), clock, Rc::clone(&opening.clients)))
        },
    }
}

fn whole_frames(max_frame: usize) -> Limits {
    Limits { stream_above: max_frame, max_frame, ..Limits::default() }
}

/// Puts what is told about a cluster, and these addresses of it, before a back.
type Announce<P> = fn(Rc<dyn Upstream<P>>, Vec<(String, u16)>) -> Rc<dyn Upstream<P>>;

/// See [`FramedEntry::announce`].
pub fn announced<P: Rules>(inner: Rc<dyn Upstream<P>>, nodes: Vec<(String, u16)>) -> Rc<dyn Upstream<P>> {
    Announced::new(inner, nodes)
}

/// A protocol whose frames we cut ourselves.
pub struct FramedEntry<P: Framed> {
    /// Typed filters.
    pub filters: &'static [&'static FilterKind<P>],
    /// Where its doors can lead.
    pub backs: &'static [Back<P>],
    /// What stands before a back whose clients are told that it is a cluster; for protocols that have such a thing.
    pub announce: Option<Announce<P>>,
    /// How its listeners lead to several clusters, if they can.
    pub routing: Option<Routing<P>>,
}

pub(super) enum Factory<P: Framed> {
    Filter(Arc<dyn FilterFactory<P>>),
    Policy(Arc<dyn PolicyFactory>),
}

impl<P: Framed> Clone for Factory<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Filter(factory) => Self::Filter(Arc::clone(factory)),
            Self::Policy(factory) => Self::Policy(Arc::clone(factory)),
        }
    }
}

impl<P: Framed> FramedEntry<P> {
    pub(super) fn build(
        &self,
        spec: &mecha_config::FilterSpec,
        cx: &BuildCx<'_>,
    ) -> Result<Factory<P>, Vec<ConfigError>> {
        if let Some(kind) = self.filters.iter().find(|kind| kind.name == spec.name) {
            return (kind.build)(&spec.options, cx).map(|factory| Factory::Filter(Arc::from(factory)));
        }
        match mecha_filters::POLICIES.iter().find(|kind| kind.name == spec.name) {
            Some(kind) => (kind.build)(&spec.options, cx).map(|factory| Factory::Policy(Arc::from(factory))),
            None => Err(vec![
                spec.options.error("", format!("there is no filter `{}` for {}", spec.name, P::NAME)),
            ]),
        }
    }
}

impl<P: Guarded> ProtocolEntry for FramedEntry<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn begins(&self, bytes: &[u8]) -> Begins {
        P::begins(bytes)
    }

    fn backs(&self) -> Vec<&'static str> {
        self.backs.iter().map(|back| back.name).collect()
    }

    fn filters(&self) -> Vec<(&'static str, mecha_filters::Help)> {
        self.filters.iter().map(|kind| (kind.name, kind.help)).collect()
    }

    fn routes(&self) -> Option<KnownRoutes> {
        self.routing.as_ref().map(|routing| routing.known)
    }

    fn check_filter(&self, spec: &mecha_config::FilterSpec, cx: &BuildCx<'_>) -> Vec<ConfigError> {
        let cx = BuildCx { ops: P::ops(), ..*cx };
        self.build(spec, &cx).err().unwrap_or_default()
    }

    fn plan(
        &self,
        listener: &ListenerSpec,
        snapshot: &Snapshot,
        shared: &Arc<Shared>,
        previous: Option<&dyn DoorPlan>,
    ) -> Result<Box<dyn DoorPlan>, Vec<ConfigError>> {
        let previous = previous.and_then(|plan| (plan as &dyn Any).downcast_ref::<FramedPlan<P>>());
        let mut known: Vec<(FilterSpec, Factory<P>)> = previous.map_or_else(Vec::new, |plan| {
            let own = plan.listener.filters.iter().cloned().zip(plan.factories.iter().cloned());
            let of_routes = plan.routes.iter().flat_map(|routes| routes.known_filters());
            own.chain(of_routes).collect()
        });
        let mut errors = Vec::new();
        let scope = format!("listener:{}", listener.name);
        let cx = BuildCx {
            registry: &shared.registry,
            scope: &scope,
            workers: snapshot.workers,
            ops: P::ops(),
            log: &shared.log,
        };
        let mut factories =
            build_all(&listener.filters, &mut known, &mut errors, |spec| self.build(spec, &cx));
        let routes = match self.routing.as_ref().filter(|_| listener.is_routed()) {
            Some(routing) => {
                let plan =
                    RoutesPlan::new(self, routing, listener, snapshot, shared, &mut known, &mut errors);
                plan.map(Some)
            }
            None => Some(None),
        };
        let cluster = snapshot.clusters.get(listener.cluster).cloned();
        let back =
            cluster.as_ref().and_then(|cluster| self.backs.iter().find(|back| back.name == cluster.protocol));
        let (Some(cluster), Some(back), Some(routes)) = (cluster, back, routes) else { return Err(errors) };
        if routes.is_none() {
            factories.extend(policies_of(&cluster, shared));
        }
        let gate = listener.users.as_ref().map(|users| {
            let known = previous.and_then(|plan| plan.gate.as_ref());
            super::users::gate::<P>(users, shared.registry.logins(&listener.name), known)
        });
        let gate = gate.transpose().unwrap_or_else(|more| {
            errors.extend(more);
            None
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        let shared = Arc::clone(shared);
        Ok(Box::new(FramedPlan {
            listener: listener.clone(),
            cluster,
            back,
            announce: self.announce,
            factories,
            routes,
            gate,
            shared,
        }))
    }
}

/// What calls to this cluster pass, whichever door they come through.
pub(super) fn policies_of<P: Framed>(
    cluster: &ClusterSpec,
    shared: &Shared,
) -> impl Iterator<Item = Factory<P>> {
    let policies = shared.cluster_policies.get(&cluster.name).into_iter().flatten();
    policies.map(|(_, factory)| Factory::Policy(Arc::clone(factory)))
}

struct FramedPlan<P: Framed> {
    listener: ListenerSpec,
    cluster: ClusterSpec,
    back: &'static Back<P>,
    announce: Option<Announce<P>>,
    factories: Vec<Factory<P>>,
    /// Who may come, if that is asked.
    gate: Option<Arc<Gate>>,
    routes: Option<RoutesPlan<P>>,
    shared: Arc<Shared>,
}

impl<P: Guarded> DoorPlan for FramedPlan<P> {
    fn needs_tls(&self) -> Vec<u8> {
        let mut hint = Vec::new();
        P::refuse(Asked::default(), Refusal::NeedsTls, &mut hint);
        hint
    }

    fn open(&self, scope: &mut Scope) -> Rc<dyn Door> {
        let is_rewriting = self.factories.iter().any(Factory::needs_whole_frames);
        let is_whole = is_rewriting
            || self.back.is_translated
            || self.routes.as_ref().is_some_and(RoutesPlan::needs_whole_frames);
        let clients = scope.engine::<P>() as Rc<dyn ReplySink<P>>;
        let upstream = match &self.routes {
            Some(routes) => routes.open(&self.shared, is_whole, clients, scope),
            None => {
                let opening = Opening {
                    cluster: &self.cluster,
                    shared: &self.shared,
                    is_whole,
                    is_routed: false,
                    clients,
                };
                (self.back.open)(&opening, scope)
            }
        };
        let upstream = match (self.announce, &self.listener.announce) {
            (Some(announce), Some(nodes)) => announce(upstream, nodes.clone()),
            _ => upstream,
        };
        let filters: Vec<Box<dyn Filter<P>>> = self.factories.iter().map(Factory::open).collect();
        let chain = Chain::new(filters);
        let max_frame = self.listener.max_frame as usize;
        let frames = if is_whole {
            whole_frames(max_frame.min(MAX_WHOLE_FRAME))
        } else if self.routes.is_some() || is_sharded(&self.cluster) || self.gate.is_some() {
            // Whatever may have to be taken apart, or judged by all of its keys, is collected; a single value that is larger still passes in pieces.
            Limits { max_frame, stream_above: MAX_WHOLE_FRAME, ..Limits::default() }
        } else {
            Limits { max_frame, ..Limits::default() }
        };
        let idle_timeout_micros = self.listener.idle_timeout.map_or(0, |timeout| timeout.as_micros() as u64);
        let listener = Listener {
            name: self.listener.name.clone(),
            upstream,
            rewrites_messages: chain.rewrites_messages(),
            chain: RefCell::new(chain),
            guard: RefCell::new(self.gate.clone().map(|gate| gate as _)),
            is_private: self.cluster.is_private && !self.back.is_translated && self.routes.is_none(),
            rewrites_replies: is_rewriting,
            // Made with the plan, for every listener that it has.
            places: self.shared.places.get(&self.listener.name).cloned().unwrap_or_default(),
            metrics: scope.listener_metrics(&self.shared.registry, &self.listener.name, P::NAME, P::ops()),
            limits: ListenerLimits {
                frames,
                max_in_flight: self.listener.max_in_flight,
                max_output: self.listener.max_output as usize,
                idle_timeout_micros,
            },
            is_retired: Cell::new(false),
            successor: RefCell::default(),
        };
        let listener = Rc::new(listener);
        if !self.factories.is_empty() {
            // Ticked as long as it has a client, in force or not.
            let ticked = Rc::downgrade(&listener);
            scope.chains.push(Box::new(move |now| {
                ticked.upgrade().map(|listener| listener.chain.borrow_mut().tick(now)).is_some()
            }));
        }
        Rc::new(FramedDoor {
            listener,
            max_connections: self.listener.max_connections as usize,
            leaving: Rc::default(),
            engine: scope.engine::<P>(),
            scratch: Rc::clone(&scope.scratch),
            clock: scope.environment.clock,
        })
    }
}

impl<P: Framed> Factory<P> {
    /// Whether it rewrites frames.
    pub(super) fn needs_whole_frames(&self) -> bool {
        matches!(self, Self::Filter(filter) if filter.needs_whole_frames())
    }

    pub(super) fn open(&self) -> Box<dyn Filter<P>> {
        match self {
            Self::Filter(factory) => factory.open(),
            Self::Policy(factory) => Box::new(factory.open()),
        }
    }
}

struct FramedDoor<P: Framed> {
    listener: Rc<Listener<P>>,
    max_connections: usize,
    /// Has a clone for each surplus client that is being told so.
    leaving: Rc<()>,
    engine: Rc<EngineCell<P>>,
    scratch: Rc<RefCell<Vec<u8>>>,
    clock: mecha_transport::Clock,
}

impl<P: Framed> Door for FramedDoor<P> {
    fn accept(&self, stream: Accepted, peer: Peer, seat: Seat) -> std::io::Result<()> {
        let Some(place) = self.listener.places.take(self.max_connections) else {
            self.listener.metrics.refused_connection();
            if Rc::strong_count(&self.leaving) <= MAX_LEAVING {
                let (halves, scratch) = (stream.into_halves()?, Rc::clone(&self.scratch));
                let leaving = Rc::clone(&self.leaving);
                let mut why = Vec::new();
                P::refuse(Asked::default(), Refusal::TooManyClients, &mut why);
                tokio::task::spawn_local(async move {
                    turn_away(scratch, halves, why).await;
                    drop(leaving);
                });
            }
            return Ok(());
        };
        let halves = stream.into_halves()?;
        let task = ClientTask {
            engine: Rc::clone(&self.engine),
            scratch: Rc::clone(&self.scratch),
            clock: self.clock,
        };
        let listener = Rc::clone(&self.listener);
        tokio::task::spawn_local(async move {
            let _seat = seat;
            serve(task, listener, place, peer, halves).await;
        });
        Ok(())
    }

    fn retire(&self, successor: Option<&dyn Door>) {
        let successor = successor.and_then(|door| (door as &dyn Any).downcast_ref::<Self>());
        self.listener.retire(successor.map(|door| Rc::clone(&door.listener)));
    }
}
