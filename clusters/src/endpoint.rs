//! One server of a cluster, as one worker sees it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mecha_core::Refusal;
use mecha_telemetry::ClusterMetrics;
use mecha_transport::{Address, Clock};

use crate::news::{Cause, Subscription};
use crate::{Backoff, ConnectionOptions, RateGate, Timers};

/// What the connections to one server share. The backoff is one: a dedicated connection that fails tells the shared
/// ones, and the reverse.
pub(crate) struct Endpoint {
    pub(crate) cluster: String,
    pub(crate) address: Address,
    pub(crate) options: Rc<ConnectionOptions>,
    pub(crate) metrics: Arc<ClusterMetrics>,
    pub(crate) clock: Clock,
    pub(crate) timers: Rc<Timers>,
    /// All connections of a worker read into this buffer, one at a time.
    pub(crate) scratch: Rc<RefCell<Vec<u8>>>,
    pub(crate) backoff: RefCell<Backoff>,
    pub(crate) gate: RefCell<RateGate>,
    pub(crate) down_until_micros: Cell<u64>,
    /// Told when a connection has ended: its server may have left the cluster.
    pub(crate) news: Option<Subscription>,
    /// The last attempt ended with a refused login.
    pub(crate) is_denied: Cell<bool>,
}

impl Endpoint {
    /// Books a connection attempt; it must wait this long.
    pub(crate) fn book(&self, now_micros: u64) -> Duration {
        self.gate.borrow_mut().book(now_micros)
    }

    /// An attempt failed, or what it brought did not last. Returns how long to leave the server alone.
    pub(crate) fn failed(&self) -> Duration {
        self.ended();
        let wait = self.backoff.borrow_mut().failed(fastrand::f64());
        self.down_until_micros.set(self.clock.micros() + wait.as_micros() as u64);
        wait
    }

    /// A connection did last. Returns how long to wait before the next: nothing.
    pub(crate) fn succeeded(&self) -> Duration {
        self.ended();
        self.backoff.borrow_mut().succeeded();
        self.down_until_micros.set(0);
        Duration::ZERO
    }

    fn ended(&self) {
        if let Some(news) = &self.news {
            news.want(Cause::Failure);
        }
    }

    /// Why calls are refused while the server is left alone.
    pub(crate) fn refusal(&self) -> Refusal {
        if self.is_denied.get() { Refusal::UpstreamDenied } else { Refusal::UpstreamUnreachable }
    }

    /// Whether the server is being left alone after a failure.
    pub(crate) fn is_down(&self) -> bool {
        let until = self.down_until_micros.get();
        until != 0 && self.clock.micros() < until
    }
}
