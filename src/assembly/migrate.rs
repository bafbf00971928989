//! Migrations of routes: what goes on from one configuration to the next, and what is made anew.

use std::collections::HashMap;
use std::sync::Arc;

use mecha_clusters::{MigratingOptions, Migration, Stage};
use mecha_config::{ClusterSpec, ListenerSpec, MigrateSpec, MigrateStage, RouteSpec, Snapshot};
use mecha_telemetry::Registry;

use super::is_same_target;

/// Migrations by listener and route, each with its clusters, the old one first.
pub(crate) type Migrations = HashMap<String, (Arc<Migration>, [ClusterSpec; 2])>;

/// The name of a route among all.
pub(crate) fn name_of(listener: &str, route: &str) -> String {
    format!("{listener}/{route}")
}

/// Every migration of a configuration: the route's name, its cluster, and what it says.
pub(crate) fn all(listener: &ListenerSpec) -> impl Iterator<Item = (&str, usize, &MigrateSpec)> {
    let routes = listener.routes.iter();
    let routes = routes.map(|route| (route.name.as_str(), route.cluster, route.migrate.as_ref()));
    let all = routes.chain([("default", listener.cluster, listener.migrate.as_ref())]);
    all.filter_map(|(name, cluster, migrate)| Some((name, cluster, migrate?)))
}

/// Those of `snapshot`; what is `known` between the same clusters goes on.
pub(super) fn migrations(snapshot: &Snapshot, registry: &Registry, known: Option<&Migrations>) -> Migrations {
    let mut migrations = Migrations::new();
    for listener in &snapshot.listeners {
        for (route, old, migrate) in all(listener) {
            let clusters = [old, migrate.cluster].map(|at| snapshot.clusters.get(at).cloned());
            let [Some(old), Some(new)] = clusters else { continue };
            let name = name_of(&listener.name, route);
            let same = known.and_then(|known| known.get(&name)).filter(|(_, [known_old, known_new])| {
                is_same_target(known_old, &old) && is_same_target(known_new, &new)
            });
            let migration = same.map(|(migration, _)| Arc::clone(migration));
            let migration = migration.unwrap_or_else(|| Migration::new(registry.migration(&name)));
            migrations.insert(name, (migration, [old, new]));
        }
    }
    migrations
}

/// What `spec` says of the keys of `route`.
pub(super) fn options(
    spec: &MigrateSpec,
    route: &RouteSpec,
    listener: &ListenerSpec,
    snapshot: &Snapshot,
    migration: &Migration,
) -> MigratingOptions {
    let bytes = |prefixes: &[String]| -> Vec<Vec<u8>> {
        prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect()
    };
    // Keys that filters have rewritten do not begin as the route says.
    let is_plain = route.filters.is_empty();
    // What other routes take of a route's keys, they take whoever asks.
    let is_other = |other: &&RouteSpec| {
        other.name != route.name
            && other.databases.is_empty()
            && other.users.is_empty()
            && other.class.is_none()
            && other.prefixes.iter().all(|prefix| {
                route.prefixes.is_empty() || route.prefixes.iter().any(|own| prefix.starts_with(own.as_str()))
            })
    };
    let others = listener.routes.iter().filter(is_other).flat_map(|other| bytes(&other.prefixes));
    MigratingOptions {
        stage: stage(spec.stage),
        window: spec.window,
        pending: spec.pending as usize,
        share: spec.share,
        is_repairing: spec.repair,
        sweep: spec.sweep,
        sweep_delay: snapshot.drain_timeout,
        prefixes: if is_plain { bytes(&route.prefixes) } else { Vec::new() },
        others: if is_plain { others.collect() } else { Vec::new() },
        turn: migration.next_turn(),
    }
}

fn stage(stage: MigrateStage) -> Stage {
    match stage {
        MigrateStage::Backfill => Stage::Backfill,
        MigrateStage::DualWrite => Stage::DualWrite,
        MigrateStage::New => Stage::New,
        MigrateStage::Old => Stage::Old,
        MigrateStage::ShadowRead => Stage::ShadowRead,
    }
}
