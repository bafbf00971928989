//! One server of a cluster, as one worker sees it.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use mecha_core::Refusal;
use mecha_telemetry::ClusterMetrics;
use mecha_transport::{Address, Clock};

use crate::health::Pulse;
use crate::news::{Cause, Subscription};
use crate::{Backoff, ConnectionOptions, RateGate, Timers};

/// How long a failure is news after the server may be tried again.
const MEMORY_MICROS: u64 = 1_000_000;

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
    /// Since when it cannot be reached; 0 if it can, as far as is known.
    pub(crate) lost_since_micros: Cell<u64>,
    /// Told when a connection has ended: its server may have left the cluster.
    pub(crate) news: Option<Subscription>,
    /// The last attempt ended with a refused login.
    pub(crate) is_denied: Cell<bool>,
    /// Failures since the last answer.
    pub(crate) failures: Cell<u32>,
    /// How many are too many, and who leaves the server out then.
    pub(crate) eject: OnceCell<(u32, Weak<dyn Eject>)>,
    /// The longest life of what is stored there, in seconds; 0 is no limit.
    pub(crate) max_ttl_secs: Cell<u32>,
    /// What checks say of it, if there are any.
    pub(crate) pulse: Option<Pulse>,
    /// It has refused a version of the protocol that connections wanted.
    pub(crate) lacks_version: Cell<bool>,
}

/// Whoever leaves servers out that fail.
pub(crate) trait Eject {
    /// The server of `endpoint` has failed too often.
    fn eject(&self, endpoint: &Endpoint);
}

impl Endpoint {
    /// Books a connection attempt; it must wait this long.
    pub(crate) fn book(&self, now_micros: u64) -> Duration {
        self.gate.borrow_mut().book(now_micros)
    }

    /// Tells `eject` when `limit` failures have followed one another.
    pub(crate) fn tell_failures(&self, limit: u32, eject: Weak<dyn Eject>) {
        let _ = self.eject.set((limit, eject));
    }

    /// A connection failed, or calls were not answered in time.
    pub(crate) fn count_failure(&self) {
        let Some((limit, eject)) = self.eject.get() else { return };
        self.failures.set(self.failures.get() + 1);
        if self.failures.get() >= *limit {
            self.failures.set(0);
            if let Some(eject) = eject.upgrade() {
                eject.eject(self);
            }
        }
    }

    /// The server has answered.
    #[inline]
    pub(crate) fn answered(&self) {
        if self.failures.get() != 0 {
            self.failures.set(0);
        }
    }

    /// An attempt failed, or what it brought did not last. Returns how long to leave the server alone.
    pub(crate) fn failed(&self) -> Duration {
        self.ended();
        let wait = self.backoff.borrow_mut().failed(fastrand::f64());
        let now_micros = self.clock.micros();
        self.down_until_micros.set(now_micros + wait.as_micros() as u64);
        if self.lost_since_micros.get() == 0 {
            self.lost_since_micros.set(now_micros.max(1));
        }
        self.count_failure();
        wait
    }

    /// A connection was made. Returns whether there was none for a while.
    pub(crate) fn reached(&self) -> bool {
        self.down_until_micros.set(0);
        self.lost_since_micros.take() != 0
    }

    /// Since when the server cannot be reached.
    pub(crate) fn lost_micros(&self) -> Option<u64> {
        Some(self.lost_since_micros.get()).filter(|since| *since > 0)
    }

    /// Whether the server is lost and may yet be replaced, so that calls for it are given to nobody before that is known.
    pub(crate) fn is_lost(&self) -> bool {
        self.news.is_some() && self.lost_since_micros.get() > 0
    }

    /// Nothing is known of the server any more if nobody has tried it for a while: as if it were lost just now.
    pub(crate) fn forget_if_old(&self) {
        let now_micros = self.clock.micros();
        if now_micros > self.down_until_micros.get() + MEMORY_MICROS {
            self.lost_since_micros.set(now_micros.max(1));
        }
    }

    /// Whether calls for the server, which cannot be reached, may wait.
    pub(crate) fn may_park(&self, time_micros: u64, now_micros: u64) -> bool {
        now_micros < self.lost_micros().unwrap_or(now_micros) + time_micros
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

    /// Whether the server is being left alone after a failure, or because it fails its checks.
    pub(crate) fn is_down(&self) -> bool {
        let until = self.down_until_micros.get();
        until != 0 && self.clock.micros() < until || self.is_ill()
    }

    /// Whether the server is left out because it fails its checks.
    pub(crate) fn is_ill(&self) -> bool {
        self.pulse.as_ref().is_some_and(Pulse::is_out)
    }
}
