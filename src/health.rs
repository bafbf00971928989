//! Checks of servers: each is asked now and then, and left out while it does not answer as it should.
//!
//! A thread for each cluster that wants it asks all of its servers, each at its own times. What it finds out is for all
//! workers ([`Health`]), who read an atomic where they choose a server. Nobody's request waits for a check.

mod probe;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mecha_clusters::{Health, Listed, Listing};
use mecha_config::{ClusterSpec, HealthCheckSpec};
use mecha_telemetry::Registry;
use mecha_transport::Address;
use mecha_transport::tls::ClientTls;
use tokio::task::AbortHandle;

use self::probe::Probe;
use crate::assembly::sharding;
use crate::discovery::Lookup;

/// How often it is looked whether anybody still wants to know.
const LOOK: Duration = Duration::from_millis(500);

/// The checks of one cluster.
#[derive(Clone)]
pub struct Checks {
    /// What is configured.
    pub spec: ClusterSpec,
    /// What is known.
    pub health: Arc<Health>,
    check: HealthCheckSpec,
    tls: Option<Arc<ClientTls>>,
    registry: Registry,
    is_started: Arc<AtomicBool>,
}

impl Checks {
    /// Those that `spec` wants, if any. Nobody is asked before [`Checks::start`].
    pub fn new(spec: &ClusterSpec, tls: Option<Arc<ClientTls>>, registry: &Registry) -> Option<Self> {
        let check = spec.health_check.clone()?;
        // Those that are looked up become known to it when they are found.
        let servers = if spec.is_looked_up() { Vec::new() } else { sharding::listed(spec) };
        let health = Arc::new(Health::new(&servers, check.panic_below));
        let registry = registry.clone();
        Some(Self { spec: spec.clone(), health, check, tls, registry, is_started: Arc::default() })
    }

    /// Starts asking, unless that has been done. It ends when nobody wants to know any more. `lookup` finds the servers, if
    /// they are looked up.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&self, lookup: Option<&Lookup>) -> std::io::Result<()> {
        if self.is_started.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let checker = Checker {
            cluster: self.spec.name.clone(),
            check: self.check.clone(),
            health: Arc::downgrade(&self.health),
            probe: Probe::new(&self.spec, &self.check, self.tls.clone()),
            registry: self.registry.clone(),
        };
        let listed = sharding::listed(&self.spec);
        let servers = match lookup {
            Some(lookup) => Listing::Found(lookup.finding.clone()),
            None => Listing::Fixed(listed),
        };
        let main = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
            match runtime {
                Ok(runtime) => runtime.block_on(checker.run(servers)),
                Err(error) => tracing::error!(%error, "health checks have no runtime"),
            }
        };
        std::thread::Builder::new().name("mecha-health".into()).spawn(main).map(drop)
    }
}

struct Checker {
    cluster: String,
    check: HealthCheckSpec,
    health: Weak<Health>,
    probe: Probe,
    registry: Registry,
}

impl Checker {
    async fn run(self, servers: Listing) {
        let gauge =
            |name: &str, help: &str| self.registry.gauge(name, help, &format!("cluster:{}", self.cluster));
        let ill =
            gauge("mecha_health_ill_servers", "Servers that are left out because they fail their checks.");
        let panic = gauge("mecha_health_panic", "1 while so few servers are well that none is left out.");
        let me = Rc::new(self);
        let mut watched = HashMap::<Address, AbortHandle>::new();
        let mut watch = |servers: &[Listed]| {
            watched.retain(|address, task| {
                let is_kept = servers.iter().any(|listed| listed.address == *address);
                if !is_kept {
                    task.abort();
                }
                is_kept
            });
            for Listed { address, .. } in servers {
                watched.entry(address.clone()).or_insert_with(|| {
                    let (me, gauges, server) =
                        (Rc::clone(&me), (ill.clone(), panic.clone()), address.clone());
                    tokio::task::spawn_local(async move { me.watch(&server, gauges).await }).abort_handle()
                });
            }
            let health = me.health.upgrade();
            // Those that have left are not ill any more.
            ill.iter().for_each(|gauge| gauge.set(health.as_ref().map_or(0, |health| health.ill()) as i64));
        };
        match servers {
            Listing::Fixed(list) => watch(&list),
            Listing::Found(mut finding) => {
                // What was found before this began is news to it.
                if let Some(list) = finding.current() {
                    watch(&list);
                }
                while me.health.strong_count() > 0 {
                    let waited = tokio::time::timeout(LOOK, finding.changed()).await;
                    match waited {
                        Ok(Some(list)) => watch(&list),
                        Ok(None) => break,
                        Err(_) => {}
                    }
                }
            }
        }
        while me.health.strong_count() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks one server, until nobody wants to know any more.
    async fn watch(
        &self,
        server: &Address,
        (ill, panic): (Option<prometheus::IntGauge>, Option<prometheus::IntGauge>),
    ) {
        let (mut is_ill, mut in_a_row) = (false, 0);
        while self.health.strong_count() > 0 {
            let asked = tokio::time::timeout(self.check.timeout, self.probe.ask(server)).await;
            let failed = asked.unwrap_or_else(|_| Err("it does not answer in time".into())).err();
            let Some(health) = self.health.upgrade() else { return };
            in_a_row = if failed.is_some() == is_ill { 0 } else { in_a_row + 1 };
            let enough = if is_ill { self.check.healthy_after } else { self.check.unhealthy_after };
            if in_a_row >= enough {
                (is_ill, in_a_row) = (!is_ill, 0);
                health.tell(server, is_ill);
                match failed {
                    Some(why) => {
                        tracing::warn!(cluster = self.cluster, %server, why, "server fails its checks")
                    }
                    None => tracing::info!(cluster = self.cluster, %server, "server passes its checks again"),
                }
                ill.iter().for_each(|gauge| gauge.set(health.ill() as i64));
                panic.iter().for_each(|gauge| gauge.set(health.is_panicking().into()));
            }
            drop(health);
            let wait = self.check.interval.mul_f64(0.9 + 0.2 * fastrand::f64());
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }
}
