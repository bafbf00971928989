//! Figures of one route of a listener on one worker.

use crate::Counter;

/// Figures of one route of a listener on one worker.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    pub(crate) listener: String,
    pub(crate) route: String,
    pub(crate) cluster: String,
    pub(crate) calls: Counter,
    pub(crate) mirror_failed: Counter,
    pub(crate) mirror_lost: Counter,
}

impl RouteMetrics {
    pub(crate) fn new(listener: &str, route: &str, cluster: &str) -> Self {
        Self { listener: listener.into(), route: route.into(), cluster: cluster.into(), ..Self::default() }
    }

    /// Calls took this route.
    #[inline]
    pub fn calls(&self, count: usize) {
        self.calls.add(count as u64);
    }

    /// Copies were answered with an error of the mirror's own state.
    pub fn mirror_failed(&self, count: usize) {
        self.mirror_failed.add(count as u64);
    }

    /// Copies were not made for want of room, or never answered.
    pub fn mirror_lost(&self, count: usize) {
        self.mirror_lost.add(count as u64);
    }
}
