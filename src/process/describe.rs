//! What the admin server is told.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use mecha_config::{Balance, Snapshot};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::reload::{InForce, socket_of};
use crate::admin::AdminState;
use crate::assembly::{Plan, migrate};
use crate::worker::{Description, Message, Worker};

/// How long a worker may take to answer a question.
const PATIENCE: Duration = Duration::from_millis(500);

/// Everything that the admin server may ask.
pub(super) fn admin_state(
    in_force: Arc<InForce>,
    workers: &[Worker],
    drain: watch::Sender<bool>,
) -> AdminState {
    let (of_clusters, of_connections) = (workers.to_vec(), workers.to_vec());
    let registry = in_force.get().0.shared.registry.clone();
    let of_stores = Arc::clone(&in_force);
    let clusters = move || {
        let mut rows: Vec<Value> = of_stores
            .get()
            .0
            .shared
            .stores
            .iter()
            .map(|(name, store)| {
                json!({
                    "name": name, "protocol": "embedded", "endpoints": [],
                    "keys": store.len(), "bytes": store.bytes(), "evictions": store.evictions(),
                })
            })
            .collect();
        rows.extend(merged(&ask(&of_clusters, 0)));
        let plan = of_stores.get().0;
        for row in &mut rows {
            let name = row["name"].as_str().unwrap_or_default().to_string();
            row["routes"] = routes_to(&plan.snapshot, &name).into();
            let migrations = migrations_of(&plan, &name);
            if !migrations.is_empty() {
                row["migrations"] = migrations.into();
            }
        }
        Value::Array(rows)
    };
    AdminState {
        registry,
        ready: AtomicBool::new(false),
        config: Box::new(move || config(&in_force)),
        clusters: Box::new(clusters),
        connections: Box::new(move |limit| connections(&ask(&of_connections, limit), limit)),
        drain,
    }
}

/// Asks every worker, also about at most `limit` of its clients; one that does not answer in time is left out.
fn ask(workers: &[Worker], limit: usize) -> Vec<Description> {
    let questions: Vec<_> = workers
        .iter()
        .filter_map(|worker| {
            let (reply, answer) = sync_channel(1);
            worker.inbox.try_send(Message::Describe(reply, limit)).is_ok().then_some(answer)
        })
        .collect();
    questions.into_iter().filter_map(|answer| answer.recv_timeout(PATIENCE).ok()).collect()
}

/// One row per cluster: an endpoint is down if any worker leaves it alone.
fn merged(descriptions: &[Description]) -> Vec<Value> {
    let mut clusters =
        std::collections::BTreeMap::<&str, std::collections::BTreeMap<&str, (bool, usize)>>::new();
    for (name, endpoints) in descriptions.iter().flat_map(|description| &description.clusters) {
        for (address, is_down, in_flight) in endpoints {
            let row = clusters.entry(name).or_default().entry(address).or_default();
            *row = (row.0 || *is_down, row.1 + in_flight);
        }
    }
    let row = |(name, endpoints): (&str, std::collections::BTreeMap<&str, (bool, usize)>)| {
        let endpoints = endpoints.into_iter().map(
            |(address, (is_down, in_flight))| json!({ "address": address, "down": is_down, "in_flight": in_flight }),
        );
        json!({ "name": name, "endpoints": endpoints.collect::<Vec<_>>() })
    };
    clusters.into_iter().map(row).collect()
}

fn connections(descriptions: &[Description], limit: usize) -> Value {
    let all = descriptions.iter().flat_map(|description| &description.connections);
    let row = |info: &crate::session::ConnectionInfo| {
        let identity = info.peer.identity.as_ref().map(|identity| {
            json!({ "subject": identity.subject, "names": identity.names, "sha256": identity.fingerprint })
        });
        json!({
            "id": info.id,
            "peer": info.peer.addr.map_or_else(|| "unix".to_string(), |addr| addr.to_string()),
            "identity": identity,
            "user": info.peer.user.as_deref(),
            "listener": info.listener,
            "in_flight": info.in_flight,
            "unread_bytes": info.unread_bytes,
            "pinned": info.is_pinned,
            "idle_seconds": info.idle_micros as f64 / 1e6,
        })
    };
    let total: usize = descriptions.iter().map(|description| description.clients).sum();
    json!({ "total": total, "connections": all.take(limit).map(row).collect::<Vec<_>>() })
}

/// The migrations to and from a cluster.
fn migrations_of(plan: &Plan, cluster: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for listener in &plan.snapshot.listeners {
        for (route, _, spec) in migrate::all(listener) {
            let name = migrate::name_of(&listener.name, route);
            let Some((migration, [old, new])) = plan.shared.migrations.get(&name) else { continue };
            if old.name == cluster || new.name == cluster {
                let state = migration.state();
                all.push(json!({
                    "route": name, "from": old.name, "to": new.name, "stage": spec.stage.name(),
                    "pending": state.pending, "behind": state.is_behind, "swept": state.is_swept,
                }));
            }
        }
    }
    all
}

/// What leads to a cluster: listeners and their routes, as `listener/route`.
fn routes_to(snapshot: &Snapshot, cluster: &str) -> Vec<String> {
    let is_it = |at: usize| snapshot.clusters.get(at).is_some_and(|known| known.name == cluster);
    let mut all = Vec::new();
    for listener in &snapshot.listeners {
        let routes = listener
            .routes
            .iter()
            .map(|route| (route.name.as_str(), route.cluster, &route.mirror, &route.migrate));
        let default = ("default", listener.cluster, &listener.mirror, &listener.migrate);
        for (name, at, mirror, migrate) in routes.chain([default]) {
            let name = format!("{}/{name}", listener.name);
            if mirror.as_ref().is_some_and(|mirror| is_it(mirror.cluster)) {
                all.push(format!("{name} (copies)"));
            }
            if migrate.as_ref().is_some_and(|migrate| is_it(migrate.cluster)) {
                all.push(format!("{name} (migration)"));
            }
            if is_it(at) {
                all.push(name);
            }
        }
    }
    all
}

/// The configuration in force, with the ports that the system chose.
fn config(in_force: &InForce) -> Value {
    let (plan, sockets) = in_force.get();
    let snapshot = &plan.snapshot;
    let names = |filters: &[mecha_config::FilterSpec]| {
        filters.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>()
    };
    let listeners = snapshot.listeners.iter().map(|listener| {
        json!({
            "name": listener.name,
            "protocol": listener.protocol,
            "address": sockets.get(&socket_of(listener)).map(ToString::to_string),
            "cluster": snapshot.clusters.get(listener.cluster).map(|cluster| cluster.name.clone()),
            "routes": listener.routes.iter().map(|route| json!({
                "name": route.name,
                "when": crate::cli::conditions(route),
                "cluster": snapshot.clusters.get(route.cluster).map(|cluster| cluster.name.clone()),
                "filters": names(&route.filters),
            })).collect::<Vec<_>>(),
            "filters": names(&listener.filters),
            "max_connections": listener.max_connections,
            "max_in_flight": listener.max_in_flight,
            "max_output": listener.max_output,
            "max_frame": listener.max_frame,
            // Names only: rules have hashes of passwords in them.
            "users": listener.users.as_ref().map(|users| {
                users.iter().map(|user| user.name.clone()).collect::<Vec<_>>()
            }),
        })
    });
    let clusters = snapshot.clusters.iter().map(|cluster| {
        json!({
            "name": cluster.name,
            "protocol": cluster.protocol,
            "endpoints": cluster.places(),
            "balance": Balance::ALL.iter().find(|(_, balance)| *balance == cluster.balance).map(|(name, _)| name),
            "connections": cluster.connections,
            "filters": names(&cluster.filters),
        })
    });
    json!({
        "workers": snapshot.workers,
        "listeners": listeners.collect::<Vec<_>>(),
        "clusters": clusters.collect::<Vec<_>>(),
    })
}
