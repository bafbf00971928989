//! Figures of one migration, over all workers.

use prometheus::{IntCounter, IntGauge};

use crate::Registry;

/// Figures of one migration. They belong to the route, and go on when its configuration changes.
#[derive(Clone, Debug)]
pub struct MigrationMetrics {
    /// Keys brought to the new cluster because somebody asked for them.
    pub backfills: Option<IntCounter>,
    /// 1 while something was not copied that only a sweep can find.
    pub behind: Option<IntGauge>,
    /// Reads whose answers were compared.
    pub compared: Option<IntCounter>,
    /// Keys copied.
    pub copies: Option<IntCounter>,
    /// Copies that failed, to be tried again.
    pub failures: Option<IntCounter>,
    /// Writes that were not followed for want of room.
    pub lost: Option<IntCounter>,
    /// Compared answers that differ.
    pub mismatches: Option<IntCounter>,
    /// Keys that wait for their copy, or have calls under way.
    pub pending: Option<IntGauge>,
    /// Keys that cannot be copied as they are.
    pub refused: Option<IntCounter>,
    /// Keys copied again because answers differ.
    pub repairs: Option<IntCounter>,
    /// Keys that sweeps have visited.
    pub swept: Option<IntCounter>,
    /// 1 when a sweep has visited every key in this stage.
    pub sweep_done: Option<IntGauge>,
}

impl MigrationMetrics {
    /// Those of `route`, a listener's and a route's name.
    pub(crate) fn new(registry: &Registry, route: &str) -> Self {
        let scope = format!("route:{route}");
        let counter = |name: &str, help: &str| registry.counter(name, help, &scope);
        let gauge = |name: &str, help: &str| registry.gauge(name, help, &scope);
        Self {
            backfills: counter(
                "mecha_migration_backfills_total",
                "Keys brought to the new cluster because a call wanted them.",
            ),
            behind: gauge(
                "mecha_migration_behind",
                "1 while something was not copied that only a sweep can find.",
            ),
            compared: counter("mecha_migration_compared_total", "Reads whose answers were compared."),
            copies: counter("mecha_migration_copies_total", "Keys copied."),
            failures: counter("mecha_migration_failures_total", "Copies that failed; most are tried again."),
            lost: counter("mecha_migration_lost_total", "Writes not followed for want of room."),
            mismatches: counter("mecha_migration_mismatches_total", "Compared answers that differ."),
            pending: gauge(
                "mecha_migration_pending",
                "Keys that wait for their copy, or have calls under way.",
            ),
            refused: counter(
                "mecha_migration_refused_total",
                "Keys given up: they cannot be copied as they are.",
            ),
            repairs: counter("mecha_migration_repairs_total", "Keys copied again because answers differ."),
            swept: counter("mecha_migration_swept_total", "Keys that sweeps have visited."),
            sweep_done: gauge(
                "mecha_migration_sweep_done",
                "1 when a sweep has visited every key in this stage.",
            ),
        }
    }
}

/// Counts one; nothing where the figure could not be registered.
pub fn count(counter: &Option<IntCounter>) {
    counter.iter().for_each(IntCounter::inc);
}
