//! Checks of servers: each is asked now and then, and left out while it does not answer as it should.
//!
//! A thread for each cluster that wants it asks all of its servers, each at its own times. What it finds out is for all
//! workers ([`Health`]), who read an atomic where they choose a server. Nobody's request waits for a check.

mod probe;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mecha_clusters::Health;
use mecha_config::{ClusterSpec, HealthCheckSpec};
use mecha_telemetry::Registry;
use mecha_transport::Address;
use mecha_transport::tls::ClientTls;

use self::probe::Probe;
use crate::assembly::address_of;

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
        let servers = spec.endpoints.iter().map(address_of).collect();
        let health = Arc::new(Health::new(servers, check.panic_below));
        let registry = registry.clone();
        Some(Self { spec: spec.clone(), health, check, tls, registry, is_started: Arc::default() })
    }

    /// Starts asking, unless that has been done. It ends when nobody wants to know any more.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&self) -> std::io::Result<()> {
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
        let servers: Vec<_> = self.health.servers().cloned().collect();
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
    async fn run(self, servers: Vec<Address>) {
        let gauge =
            |name: &str, help: &str| self.registry.gauge(name, help, &format!("cluster:{}", self.cluster));
        let ill =
            gauge("mecha_health_ill_servers", "Servers that are left out because they fail their checks.");
        let panic = gauge("mecha_health_panic", "1 while so few servers are well that none is left out.");
        let me = std::rc::Rc::new(self);
        let checks = servers.into_iter().enumerate();
        let all: Vec<_> = checks
            .map(|(at, server)| {
                let (me, gauges) = (std::rc::Rc::clone(&me), (ill.clone(), panic.clone()));
                tokio::task::spawn_local(async move { me.watch(at, &server, gauges).await })
            })
            .collect();
        for task in all {
            let _ = task.await;
        }
    }

    /// Asks one server, until nobody wants to know any more.
    async fn watch(
        &self,
        at: usize,
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
                health.tell(at, is_ill);
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
