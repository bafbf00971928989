//! Doors for Kafka: one port where any broker will do, and one for each broker.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mecha_clusters::{Brokers, CurrentLogin, LoginSource};
use mecha_config::{ConfigError, FilterSpec, ListenerSpec, OauthSpec, Snapshot, UserSpec};
use mecha_filters::BuildCx;
use mecha_filters::kafka::{FILTERS, KafkaFactory, KafkaKind};
use mecha_kafka::errors::NAMES;
use mecha_transport::Address;
use mecha_users::{Issuer, NoCommands, limiting};

use super::opaque::OpaquePlan;
use super::policies::Policies;
use super::{Door, DoorPlan, ProtocolEntry, Scope, Shared};
use crate::discovery::watch_brokers;
use crate::session::kafka::{Clients, Credentials, Host, OPS, Placement, SingleAddress, VirtualCluster};

/// The row of the catalog for Kafka.
pub struct KafkaEntry {
    /// As configuration spells it; doors and backs have the same.
    pub name: &'static str,
}

impl ProtocolEntry for KafkaEntry {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begins(&self, bytes: &[u8]) -> mecha_core::Begins {
        mecha_kafka::begins(bytes)
    }

    fn backs(&self) -> Vec<&'static str> {
        vec![self.name]
    }

    fn filters(&self) -> Vec<(&'static str, mecha_filters::Help)> {
        FILTERS.iter().map(|kind| (kind.name, kind.help)).collect()
    }

    fn check_filter(&self, spec: &FilterSpec, cx: &BuildCx<'_>) -> Vec<ConfigError> {
        let cx = BuildCx { ops: &OPS, ..*cx };
        match kind(&spec.name) {
            Some(kind) => (kind.build)(&spec.options, &cx).err().unwrap_or_default(),
            None => Policies::check(spec, self.name, &cx),
        }
    }

    fn plan(
        &self,
        listener: &ListenerSpec,
        snapshot: &Snapshot,
        shared: &Arc<Shared>,
        previous: Option<&dyn DoorPlan>,
    ) -> Result<Box<dyn DoorPlan>, Vec<ConfigError>> {
        let previous = previous.and_then(|plan| (plan as &dyn Any).downcast_ref::<KafkaPlan>());
        let filters = filters(listener, snapshot, shared, previous.map(|plan| &plan.filters))?;
        let known = previous.map(|plan| &plan.opaque.policies);
        let mut others = listener.clone();
        others.filters.retain(|spec| kind(&spec.name).is_none());
        let policies = Policies::plan(&others, snapshot, shared, known, (self.name, &OPS))?;
        let Some(cluster) = snapshot.clusters.get(listener.cluster).cloned() else { return Err(Vec::new()) };
        // Ports stay with their brokers, and clients with theirs.
        let known = previous.filter(|plan| {
            plan.opaque.listener.brokers == listener.brokers
                && plan.opaque.cluster.is_same_but_login(&cluster)
        });
        let brokers = known.map_or_else(Arc::default, |plan| Arc::clone(&plan.brokers));
        let placement = known.map_or_else(Arc::default, |plan| Arc::clone(&plan.placement));
        let clients = if listener.users.is_some() || listener.oauth.is_some() {
            let known = previous.and_then(|plan| plan.clients.as_ref());
            Some(clients(listener, known, shared)?)
        } else {
            None
        };
        let (listener, shared) = (listener.clone(), Arc::clone(shared));
        let opaque = OpaquePlan { protocol: self.name, ops: &OPS, listener, cluster, policies, shared };
        Ok(Box::new(KafkaPlan { opaque, filters, brokers, placement, clients }))
    }
}

/// A filter that looks into requests, with what it was made of.
type BuiltFilter = (FilterSpec, Arc<dyn KafkaFactory>);

fn kind(name: &str) -> Option<&'static KafkaKind> {
    FILTERS.iter().find(|kind| kind.name == name).copied()
}

/// Builds the filters that look into requests, or takes them over from `known`.
fn filters(
    listener: &ListenerSpec,
    snapshot: &Snapshot,
    shared: &Shared,
    known: Option<&Vec<BuiltFilter>>,
) -> Result<Vec<BuiltFilter>, Vec<ConfigError>> {
    let scope = format!("listener:{}", listener.name);
    let (registry, log) = (&shared.registry, &shared.log);
    let cx = BuildCx { registry, scope: &scope, workers: snapshot.workers, ops: &OPS, log };
    let mut known = known.cloned().unwrap_or_default();
    let mut errors = Vec::new();
    let typed: Vec<_> = listener.filters.iter().filter(|spec| kind(&spec.name).is_some()).cloned().collect();
    let built = super::build_all(&typed, &mut known, &mut errors, |spec| {
        let kind = kind(&spec.name).ok_or_else(Vec::new)?;
        (kind.build)(&spec.options, &cx).map(Arc::from)
    });
    if errors.is_empty() { Ok(typed.into_iter().zip(built).collect()) } else { Err(errors) }
}

/// Who clients may be.
fn clients(
    listener: &ListenerSpec,
    known: Option<&Arc<Clients>>,
    shared: &Shared,
) -> Result<Arc<Clients>, Vec<ConfigError>> {
    let (users, oauth) = (listener.users.as_deref().unwrap_or_default(), listener.oauth.as_ref());
    let complain = |user: &UserSpec| {
        let rule = limiting(&user.rules)?;
        let path = format!("users.{}", user.name);
        let message = format!("`{}` is not looked at on the listener `{}`", shown(rule), listener.name);
        let hint = "users of Kafka are who they are: `~* +@all`, or leave the user out with `users` on the listener; \
                    filters say who may do what";
        Some(ConfigError { hint: Some(hint.into()), ..ConfigError::new(path, message) })
    };
    let errors: Vec<ConfigError> = users.iter().filter_map(complain).collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    if let Some(known) = known.filter(|known| known.is_of(users, oauth)) {
        return Ok(Arc::clone(known));
    }
    let logins = shared.registry.logins(&listener.name);
    let gate = super::users::gate::<NoCommands>(users, logins, known.map(|known| known.gate()))?;
    let issuer = |spec: &OauthSpec| {
        let mut issuer = Issuer::read(&spec.jwks).map_err(|why| {
            let error = ConfigError::new("oauth.jwks_file", format!("the keys cannot be used: {why}"));
            vec![ConfigError { hint: Some("a JWKS, as the issuer publishes it".into()), ..error }]
        })?;
        (issuer.name, issuer.audience) = (spec.issuer.clone(), spec.audience.clone());
        issuer.claim.clone_from(&spec.claim);
        Ok::<_, Vec<ConfigError>>((spec.clone(), issuer))
    };
    Ok(Arc::new(Clients::new(users, gate, oauth.map(issuer).transpose()?)))
}

/// A rule as it may be shown: what may be a password is not.
fn shown(rule: &str) -> &str {
    if rule.starts_with(['+', '-', '~', '&', '%', '(']) { rule } else { "a rule" }
}

struct KafkaPlan {
    opaque: OpaquePlan,
    filters: Vec<BuiltFilter>,
    brokers: Arc<Brokers>,
    placement: Arc<Placement>,
    clients: Option<Arc<Clients>>,
}

impl DoorPlan for KafkaPlan {
    fn needs_tls(&self) -> Vec<u8> {
        Vec::new()
    }

    fn bound(&self, addresses: &[Address]) -> std::io::Result<()> {
        let port = |address: &Address| match address {
            Address::Found(_, addr) | Address::Tcp(addr) => addr.port(),
            Address::Host(_, port) => *port,
            Address::Unix(_) => 0,
        };
        let is_watched = self.brokers.bound(addresses.iter().map(port).collect());
        if is_watched {
            return Ok(());
        }
        let OpaquePlan { cluster, shared, .. } = &self.opaque;
        let tls = shared.trusts.get(&cluster.name).map(|(_, tls)| Arc::clone(tls));
        watch_brokers(&self.brokers, cluster, tls, self.login())
    }

    fn open(&self, scope: &mut Scope) -> Rc<dyn Door> {
        let OpaquePlan { protocol, listener, cluster, shared, .. } = &self.opaque;
        let spec = listener.brokers.clone().unwrap_or_default();
        let is_single = spec.is_single();
        let cluster = VirtualCluster {
            streams: scope.streams(cluster, protocol, shared),
            credentials: Rc::new(Credentials::new(self.login())),
            clients: self.clients.clone(),
            offers: RefCell::default(),
            brokers: Arc::clone(&self.brokers),
            named: spec.host.clone().filter(|_| spec.is_by_name).map(Host::new),
            host: spec.host,
            max_frame: u32::try_from(listener.max_frame).unwrap_or(u32::MAX),
            judges: RefCell::default(),
            filters: self.filters.iter().map(|(_, factory)| Arc::clone(factory)).collect(),
            apis: scope.api_metrics(&shared.registry, &listener.name, &OPS, &NAMES),
            lag: shared.registry.lag(&listener.name),
            clock: scope.environment.clock,
        };
        if is_single {
            let placement = Arc::clone(&self.placement);
            self.opaque.door(scope, Rc::new(SingleAddress { cluster, placement }))
        } else {
            self.opaque.door(scope, Rc::new(cluster))
        }
    }
}

impl KafkaPlan {
    /// Who mecha is to the brokers.
    fn login(&self) -> CurrentLogin {
        let OpaquePlan { cluster, shared, .. } = &self.opaque;
        shared.logins.get(&cluster.name).map(LoginSource::current).unwrap_or_default()
    }
}
