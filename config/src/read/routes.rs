//! Routes: the keys of one entry of a listener's `routes`, and of `mirror` and `migrate`, which a listener may have too.

use super::Reader;
use super::fields::Found;
use crate::node::{Kind, Node};
use crate::target::Complaint;
use crate::{ClusterSpec, ListenerSpec, MigrateSpec, MigrateStage, MirrorSpec, RouteClass, RouteSpec};

/// Routes of one listener; more are a mistake.
pub(super) const MAX_ROUTES: usize = 1024;
/// Databases that can be selected.
const MAX_DATABASE: u32 = 65_535;

/// Clusters, and whether an address made them.
pub(super) type Clusters = Vec<(ClusterSpec, bool)>;

impl Reader<'_> {
    pub(super) fn routes(
        &mut self,
        found: Found<'_>,
        listener: &ListenerSpec,
        clusters: &mut Clusters,
    ) -> Vec<RouteSpec> {
        let mut routes: Vec<RouteSpec> = Vec::new();
        self.routable(&found, listener);
        for (node, path) in self.items(found) {
            if routes.len() == MAX_ROUTES {
                let hint = "one route can have several prefixes".to_string();
                self.error(node.place, &path, format!("more than {MAX_ROUTES} routes"), Some(hint));
                break;
            }
            let Some(mut route) = self.route(node, &path, listener, clusters) else { continue };
            let is_taken = |name: &str| name == "default" || routes.iter().any(|other| other.name == name);
            if is_taken(&route.name) {
                let free = (2..).map(|n| format!("{}-{n}", route.name)).find(|name| !is_taken(name));
                route.name = free.unwrap_or_default();
            }
            if let Some(prefix) = self.shadowed(&route, &routes) {
                let hint = "the first one takes all its calls; remove one, or give it another condition";
                let message = format!("another route has {prefix} and the same conditions");
                self.error(node.place, &path, message, Some(hint.into()));
            }
            routes.push(route);
        }
        routes
    }

    /// Complains where the listener's protocol has no routes at all.
    fn routable(&mut self, found: &Found<'_>, listener: &ListenerSpec) {
        if let Some((node, path)) = found
            && !listener.protocol.is_empty()
            && (self.known.routes)(&listener.protocol).is_none()
        {
            let message = format!("a {} listener leads to one cluster only", listener.protocol);
            let hint = "calls are told apart on redis:// and memcached:// listeners".to_string();
            self.error(node.place, path, message, Some(hint));
        }
    }

    /// What an earlier route takes before `route` can.
    fn shadowed(&self, route: &RouteSpec, earlier: &[RouteSpec]) -> Option<String> {
        let others = earlier.iter().filter(|other| {
            other.class == route.class && other.databases == route.databases && other.users == route.users
        });
        for other in others {
            if route.prefixes.is_empty() && other.prefixes.is_empty() {
                return Some("no prefix".into());
            }
            if let Some(prefix) = route.prefixes.iter().find(|prefix| other.prefixes.contains(prefix)) {
                return Some(format!("the prefix `{prefix}`"));
            }
        }
        None
    }

    fn route(
        &mut self,
        node: &Node,
        path: &str,
        listener: &ListenerSpec,
        clusters: &mut Clusters,
    ) -> Option<RouteSpec> {
        let known_errors = self.errors.len();
        let mut fields = self.fields(node, path);
        let name = self.text(fields.take("name"));
        let prefixes = self.words(fields.take("prefix"));
        let class = self.word(fields.take("class"), &RouteClass::ALL);
        let databases = self.words(fields.take("db"));
        let databases: Vec<u32> = databases
            .iter()
            .filter_map(|text| match text.parse() {
                Ok(number) if number <= MAX_DATABASE => Some(number),
                _ => {
                    let message = format!("`{text}` is no number from 0 to {MAX_DATABASE}");
                    let hint = Some("as in `db: [0, 3]`".to_string());
                    self.error(node.place, &format!("{path}.db"), message, hint);
                    None
                }
            })
            .collect();
        let users = self.words(fields.take("user"));
        let name = name.unwrap_or_else(|| {
            let number = databases.first().map(|number| format!("db-{number}"));
            let class = RouteClass::ALL.iter().find(|(_, known)| Some(*known) == class);
            let first = prefixes.first().cloned().or(number).or(users.first().cloned());
            first.or(class.map(|(name, _)| (*name).into())).unwrap_or_default()
        });
        let to = fields.take("to");
        if to.is_none() {
            let hint = "a cluster's name or a target, as in `to: redis://127.0.0.1:6380`";
            self.error(node.place, path, "`to` is missing", Some(hint.into()));
        }
        if prefixes.iter().any(String::is_empty) {
            let hint = "the listener's own `to` takes every key that no route takes";
            self.error(node.place, &format!("{path}.prefix"), "a prefix is empty", Some(hint.into()));
        }
        if !databases.is_empty()
            && (self.known.routes)(&listener.protocol).is_some_and(|known| !known.has_databases)
        {
            let message = format!("a {} client selects no database", listener.protocol);
            let hint = Some("`prefix` and `class` tell its calls apart".to_string());
            self.error(node.place, &format!("{path}.db"), message, hint);
        }
        let cluster = to.and_then(|to| self.target(to, &listener.name, clusters, &listener.protocol));
        let protocol = (!listener.protocol.is_empty()).then_some(listener.protocol.as_str());
        let filters = self.filters(fields.take("filters"), protocol);
        let mirror = self.mirror(fields.take("mirror"), listener, clusters);
        let moved = fields.take("migrate");
        if let (Some((node, path)), Some(_)) = (&moved, class) {
            let hint = "leave `class` out: reads and writes of a key move together";
            self.error(
                node.place,
                path,
                "a route of one class of calls cannot be migrated",
                Some(hint.into()),
            );
        }
        let migrate = self.migrate(moved, listener, cluster, clusters);
        self.finish(fields);
        let is_open = prefixes.is_empty() && class.is_none() && databases.is_empty() && users.is_empty();
        if is_open && self.errors.len() == known_errors {
            let hint =
                "say `prefix`, `class`, `db` or `user`; what no route takes goes to the listener's `to`";
            self.error(node.place, path, "the route has no condition", Some(hint.into()));
        }
        let cluster = cluster.filter(|_| !is_open)?;
        Some(RouteSpec { name, prefixes, class, databases, users, cluster, filters, mirror, migrate })
    }

    /// `mirror: { to: …, percent: 10, class: writes, window: 1024 }`.
    pub(super) fn mirror(
        &mut self,
        found: Found<'_>,
        listener: &ListenerSpec,
        clusters: &mut Clusters,
    ) -> Option<MirrorSpec> {
        self.routable(&found, listener);
        let (node, path) = found?;
        let mut fields = self.fields(node, &path);
        let cluster = self.second(node, &path, fields.take("to"), listener, clusters);
        let share = self.parsed(fields.take("percent"), share);
        let class = self.word(fields.take("class"), &RouteClass::ALL);
        let window = self.count(fields.take("window"), 1_000_000).unwrap_or(1024);
        self.finish(fields);
        Some(MirrorSpec { cluster: cluster?, share: share.unwrap_or(10_000), class, window })
    }

    /// `migrate: { to: …, stage: dual_write, sweep: 500, percent: 10, repair: true, window: 64, pending: 65536 }`.
    pub(super) fn migrate(
        &mut self,
        found: Found<'_>,
        listener: &ListenerSpec,
        old: Option<usize>,
        clusters: &mut Clusters,
    ) -> Option<MigrateSpec> {
        self.routable(&found, listener);
        let (node, path) = found?;
        let mut fields = self.fields(node, &path);
        let to = fields.take("to");
        let place = to.as_ref().map_or(node.place, |(node, _)| node.place);
        let cluster = self.second(node, &path, to, listener, clusters);
        if cluster.is_some() && cluster == old {
            let hint = "`to` beside `migrate` is where the keys are, `to` in it where they shall be";
            self.error(place, &format!("{path}.to"), "the keys are there already", Some(hint.into()));
        }
        let stage = fields.take("stage");
        if stage.is_none() {
            let hint = "one after the other: old, dual_write, shadow_read, backfill, new";
            self.error(node.place, &path, "`stage` is missing", Some(hint.into()));
        }
        let stage = self.word(stage, &MigrateStage::ALL);
        let share = self.parsed(fields.take("percent"), share);
        let repair = self.word(fields.take("repair"), &[("true", true), ("false", false)]);
        let window = self.count(fields.take("window"), 10_000).unwrap_or(64);
        let pending = self.count(fields.take("pending"), 10_000_000).unwrap_or(65_536);
        let sweep = fields.take("sweep");
        let back = old.and_then(|at| clusters.get(at)).map(|(cluster, _)| cluster.protocol.clone());
        if let (Some((node, path)), Some(back)) = (&sweep, back)
            && (self.known.routes)(&listener.protocol)
                .is_some_and(|known| !known.lists_keys_of.contains(&back.as_str()))
        {
            let hint = "keys move as they are used; what nobody uses ends with its expiry";
            let message = format!("a {} listener cannot list the keys of {back}", listener.protocol);
            self.error(node.place, path, message, Some(hint.into()));
        }
        let sweep = self.count(sweep, 1_000_000);
        self.finish(fields);
        Some(MigrateSpec {
            cluster: cluster?,
            stage: stage?,
            window,
            pending,
            share: share.unwrap_or(10_000),
            repair: repair.unwrap_or(false),
            sweep,
        })
    }

    fn second(
        &mut self,
        node: &Node,
        path: &str,
        to: Found<'_>,
        listener: &ListenerSpec,
        clusters: &mut Clusters,
    ) -> Option<usize> {
        if to.is_none() {
            let hint = "a cluster's name or a target, as in `to: redis://127.0.0.1:6380`";
            self.error(node.place, path, "`to` is missing", Some(hint.into()));
        }
        self.target(to?, &listener.name, clusters, &listener.protocol)
    }

    /// One text, or a list of them.
    pub(super) fn words(&mut self, found: Found<'_>) -> Vec<String> {
        match found {
            Some((Node { kind: Kind::Scalar(text, _), .. }, _)) => vec![text.clone()],
            other => {
                let items = self.items(other);
                items.into_iter().filter_map(|(node, path)| self.text(Some((node, path)))).collect()
            }
        }
    }
}

/// A percentage above 0, as so many of ten thousand.
fn share(text: &str) -> Result<u32, Complaint> {
    match text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok((percent * 100.0).round().max(1.0) as u32),
        _ => {
            let hint = "as in `percent: 10`, or 0.5".to_string();
            Err((format!("`{text}` is not a number above 0 and up to 100"), Some(hint)))
        }
    }
}
