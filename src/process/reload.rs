//! A newer configuration comes into force, or nothing changes.
//!
//! Everything that can fail comes first: reading, checking, building filters, binding sockets. Only then do the workers
//! open the new doors, the acceptor leads clients to them, and the clients of the old doors are handed over. An error
//! leaves the state as it was, is logged with its place, and is counted.
//!
//! ```text
//!  file ─► Snapshot ─► Plan ─► sockets │ workers open ─► acceptor switches ─► workers retire the old doors
//!          any error: keep what is     │ nothing fails from here on
//! ```
//!
//! The file is looked at twice a second and read when it has been still for one look. That finds replaced files and
//! directories behind symbolic links (a mounted `ConfigMap`), on every file system, without a watch that can get lost.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mecha_config::{ListenerSpec, Snapshot};
use mecha_telemetry::prometheus::{IntCounter, IntGauge};
use mecha_transport::{Address, Bound, unix_ms};
use tokio::sync::oneshot;

use super::{Running, bind, mark_outgoing};
use crate::acceptor::Entrance;
use crate::assembly::{Plan, PlannedDoor};
use crate::catalog;
use crate::worker::Message;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The plan in force and the addresses that it listens on, for the admin server.
pub(super) struct InForce(Mutex<(Arc<Plan>, Sockets)>);

/// Addresses by socket; the system has chosen the port of those that asked for port 0.
pub(super) type Sockets = HashMap<String, Address>;

impl InForce {
    pub(super) fn new(plan: Arc<Plan>, sockets: Sockets) -> Arc<Self> {
        Arc::new(Self(Mutex::new((plan, sockets))))
    }

    pub(super) fn get(&self) -> (Arc<Plan>, Sockets) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, plan: Arc<Plan>, sockets: Sockets) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (plan, sockets);
    }
}

/// What identifies a listener's first socket from one configuration to the next.
pub(super) fn socket_of(listener: &ListenerSpec) -> String {
    socket(listener, &listener.address, 0)
}

/// As [`socket_of`], for each address at which it listens.
pub(super) fn sockets_of(listener: &ListenerSpec) -> Vec<(String, mecha_config::Address)> {
    let addresses = listener.sockets().into_iter().enumerate();
    addresses.map(|(at, address)| (socket(listener, &address, at), address)).collect()
}

fn socket(listener: &ListenerSpec, address: &mecha_config::Address, at: usize) -> String {
    match (address, at) {
        (mecha_config::Address::Tcp(addr), 0) if addr.port() == 0 => format!("{addr} of {}", listener.name),
        (mecha_config::Address::Tcp(addr), at) if addr.port() == 0 => {
            format!("{addr} of {}, {at}", listener.name)
        }
        (mecha_config::Address::Tcp(addr), _) => addr.to_string(),
        (mecha_config::Address::Unix(path), _) => format!("unix:{}", path.display()),
    }
}

/// Counts what became of newer configurations.
pub(super) struct Outcomes {
    applied: Option<IntCounter>,
    rejected: Option<IntCounter>,
    since: Option<IntGauge>,
}

impl Outcomes {
    pub(super) fn new(registry: &mecha_telemetry::Registry) -> Self {
        let counter = |name, help| {
            let counter = IntCounter::new(name, help).ok()?;
            registry.prometheus().register(Box::new(counter.clone())).ok().map(|()| counter)
        };
        let since = IntGauge::new(
            "mecha_config_applied_timestamp_seconds",
            "When the configuration in force was applied.",
        );
        let since =
            since.ok().filter(|since| registry.prometheus().register(Box::new(since.clone())).is_ok());
        if let Some(since) = &since {
            since.set((unix_ms() / 1000) as i64);
        }
        Self {
            applied: counter("mecha_config_applied_total", "Newer configurations that came into force."),
            rejected: counter(
                "mecha_config_rejected_total",
                "Newer configurations that were not usable; the last good one stays.",
            ),
            since,
        }
    }

    fn applied(&self) {
        self.applied.iter().for_each(IntCounter::inc);
        self.since.iter().for_each(|since| since.set((unix_ms() / 1000) as i64));
    }
}

/// Looks at a file for changes.
pub(super) struct Watch {
    file: Option<PathBuf>,
    /// Those whose passwords are part of the configuration.
    secrets: Vec<PathBuf>,
    seen: Vec<Option<Look>>,
}

/// What changes when a file is written or replaced.
type Look = (u64, u64, i64, i64, u64);

impl Watch {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        let seen = vec![file.as_deref().and_then(look)];
        Self { file, secrets: Vec::new(), seen }
    }

    /// From now on these files count too. New ones are taken for changed: they were read before they were looked at.
    pub(super) fn look_at(&mut self, secrets: &[PathBuf]) {
        if self.secrets != secrets {
            self.secrets = secrets.to_vec();
            self.seen.truncate(1);
            self.seen.extend(secrets.iter().map(|_| None));
        }
    }

    fn looks(&self) -> Vec<Option<Look>> {
        self.file.iter().chain(&self.secrets).map(|file| look(file)).collect()
    }

    /// Waits until the file has changed and is still.
    pub(super) async fn changed(&mut self) {
        if self.file.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            // A file that is just being replaced may be missing for a moment.
            let now = self.looks();
            if self.seen == now || now.iter().any(Option::is_none) {
                continue;
            }
            tokio::time::sleep(LOOK / 2).await;
            if self.looks() == now {
                self.seen = now;
                return;
            }
        }
    }
}

fn look(file: &std::path::Path) -> Option<Look> {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
}

impl Running {
    /// Brings the file's configuration into force, or says why not.
    pub(super) async fn reload(&mut self, why: &str) {
        let (old, sockets) = self.in_force.get();
        let attempt = self.prepare(&old, &sockets);
        match attempt {
            Ok(None) => tracing::info!(by = why, "the configuration is unchanged"),
            Ok(Some(prepared)) => {
                let changes = changes(&old.snapshot, &prepared.plan.snapshot);
                self.put_in_force(prepared).await;
                self.outcomes.applied();
                tracing::info!(by = why, changes, "a newer configuration is in force");
            }
            Err(errors) => {
                self.outcomes.rejected.iter().for_each(IntCounter::inc);
                for error in errors {
                    tracing::error!(by = why, "configuration rejected, the last good one stays: {error}");
                }
            }
        }
        old.shared.log.reopen();
    }

    /// Everything that can fail.
    fn prepare(&self, old: &Arc<Plan>, sockets: &Sockets) -> Result<Option<Prepared>, Vec<String>> {
        let snapshot = self.arguments.reread(&catalog::known())?;
        if snapshot == *old.snapshot {
            return Ok(None);
        }
        for (what, is_changed) in [
            ("workers", snapshot.workers != old.snapshot.workers),
            ("admin", snapshot.admin != old.snapshot.admin),
            ("log", snapshot.log != old.snapshot.log),
        ] {
            if is_changed {
                tracing::warn!("a change of `{what}` needs a restart and is left alone");
            }
        }
        let stays = &old.snapshot;
        let snapshot =
            Snapshot { workers: stays.workers, admin: stays.admin, log: stays.log.clone(), ..snapshot };
        let (registry, started) = (old.shared.registry.clone(), old.shared.started);
        let plan = Plan::new(Arc::new(snapshot), registry, started, Some(old))
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let watched = plan.shared.watch();
        watched.map_err(|error| vec![format!("cannot start looking at servers: {error}")])?;
        mark_outgoing(&plan.snapshot);
        let (mut bound, mut addresses) = (Vec::new(), Sockets::new());
        for listener in &plan.snapshot.listeners {
            for (socket, address) in sockets_of(listener) {
                if let Some(address) = sockets.get(&socket) {
                    addresses.insert(socket, address.clone());
                    continue;
                }
                let fresh = bind(listener, &address).map_err(|error| vec![error])?;
                if let Ok(address) = fresh.local_address() {
                    addresses.insert(socket.clone(), address);
                }
                bound.push((socket, fresh));
            }
        }
        tell_bound(&plan, &addresses).map_err(|error| vec![error])?;
        Ok(Some(Prepared { plan: Arc::new(plan), bound, sockets: addresses }))
    }

    /// Nothing in here fails.
    pub(super) async fn put_in_force(&mut self, prepared: Prepared) {
        let Prepared { plan, mut bound, sockets } = prepared;
        plan.change_logins();
        for worker in &self.workers {
            let (done, opened) = oneshot::channel();
            if worker.inbox.send(Message::Open(Arc::clone(&plan), done)).await.is_ok() {
                // A worker that is gone opens nothing, and nobody is led there.
                let _ = opened.await;
            }
        }
        let sockets_of =
            |door| sockets_of(PlannedDoor::listener(door)).into_iter().map(move |(socket, _)| (door, socket));
        let entrances = plan.doors.iter().flat_map(sockets_of).map(|(door, socket)| {
            let at = bound.iter().position(|(known, _)| *known == socket);
            let bound = at.map(|at| bound.swap_remove(at).1);
            Entrance { door: door.id, bound, socket, prelude: plan.prelude_of(door) }
        });
        let (done, switched) = oneshot::channel();
        let entrances: Vec<_> = entrances.collect();
        if let Some(orders) = &self.orders
            && orders.send((entrances, done)).await.is_ok()
        {
            let _ = switched.await;
        }
        for worker in &self.workers {
            let _ = worker.inbox.send(Message::Retire(Arc::clone(&plan))).await;
        }
        self.in_force.set(plan, sockets);
    }
}

/// Tells doors where they listen.
pub(super) fn tell_bound(plan: &Plan, sockets: &Sockets) -> Result<(), String> {
    for door in &plan.doors {
        let all = sockets_of(door.listener());
        let addresses: Vec<_> = all.iter().filter_map(|(socket, _)| sockets.get(socket).cloned()).collect();
        let told = door.plan.bound(&addresses);
        told.map_err(|error| format!("listener `{}`: {error}", door.listener().name))?;
    }
    Ok(())
}

/// A configuration that can come into force.
pub(super) struct Prepared {
    pub(super) plan: Arc<Plan>,
    pub(super) bound: Vec<(String, Bound)>,
    pub(super) sockets: Sockets,
}

/// What a person wants to read in the log.
fn changes(old: &Snapshot, new: &Snapshot) -> String {
    let mut words = Vec::new();
    let target = |snapshot: &Snapshot, listener: &ListenerSpec| {
        let cluster = snapshot.clusters.get(listener.cluster)?;
        Some(format!("{} {}", cluster.protocol, cluster.places().join(",")).trim_end().to_string())
    };
    for listener in &new.listeners {
        match old.listeners.iter().find(|known| known.name == listener.name) {
            None => words.push(format!("listener {} added", listener.name)),
            Some(known) => {
                let (from, to) = (target(old, known), target(new, listener));
                if from != to {
                    let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
                    words.push(format!("listener {} leads to {to} instead of {from}", listener.name));
                } else if known != listener {
                    words.push(format!("listener {} changed", listener.name));
                }
            }
        }
    }
    for gone in old.listeners.iter().filter(|gone| !new.listeners.iter().any(|kept| kept.name == gone.name)) {
        words.push(format!("listener {} removed", gone.name));
    }
    if words.is_empty() { "options".into() } else { words.join(", ") }
}
