//! How much a cluster may have to do at one time, over all workers.
//!
//! What is above a limit is refused at once: a server that is slow must not take everything that clients wait for with it.
//! One atomic for each thing that is limited, touched only where there is a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mecha_telemetry::prometheus::IntCounter;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Connections to servers.
    Connections,
    /// Clients, or requests, that wait for a connection.
    Pending,
    /// Requests that are not yet answered to the end.
    Requests,
    /// Requests that are being sent again.
    Retries,
}

/// The limits of one cluster, and what is taken of them.
#[derive(Debug, Default)]
pub struct Quotas {
    /// By [`Quota`].
    gates: [Gate; 4],
}

#[derive(Debug, Default)]
struct Gate {
    /// `None` is no limit.
    limit: Option<u32>,
    taken: AtomicU32,
    refused: Option<IntCounter>,
}

/// One place of a quota, until it is dropped.
#[derive(Debug)]
pub struct Share(Option<(Arc<Quotas>, Quota)>);

impl Quotas {
    /// `limits` and counters of what they refuse, by [`Quota`].
    pub fn new(limits: [(Option<u32>, Option<IntCounter>); 4]) -> Arc<Self> {
        let gate = |(limit, refused)| Gate { limit, taken: AtomicU32::new(0), refused };
        Arc::new(Self { gates: limits.map(gate) })
    }

    fn gate(&self, quota: Quota) -> &Gate {
        let [connections, pending, requests, retries] = &self.gates;
        match quota {
            Quota::Connections => connections,
            Quota::Pending => pending,
            Quota::Requests => requests,
            Quota::Retries => retries,
        }
    }

    /// A place, unless all are taken.
    pub fn take(self: &Arc<Self>, quota: Quota) -> Option<Share> {
        let gate = self.gate(quota);
        let Some(limit) = gate.limit else { return Some(Share(None)) };
        if gate.taken.fetch_add(1, Ordering::Relaxed) >= limit {
            gate.taken.fetch_sub(1, Ordering::Relaxed);
            gate.refused.iter().for_each(IntCounter::inc);
            return None;
        }
        Some(Share(Some((Arc::clone(self), quota))))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some((quotas, quota)) = self.0.take() {
            quotas.gate(quota).taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_a_limit_is_refused_and_counted() {
        let refused = IntCounter::new("refused", "Refused.").unwrap();
        let quotas =
            Quotas::new([(Some(2), Some(refused.clone())), (None, None), (None, None), (Some(1), None)]);
        let one = quotas.take(Quota::Connections).unwrap();
        let two = quotas.take(Quota::Connections).unwrap();
        assert!(quotas.take(Quota::Connections).is_none());
        assert_eq!(refused.get(), 1);
        drop(one);
        let three = quotas.take(Quota::Connections);
        assert!(three.is_some() && quotas.take(Quota::Connections).is_none());
        let unlimited: Vec<_> = (0..9).map_while(|_| quotas.take(Quota::Pending)).collect();
        assert_eq!(unlimited.len(), 9);
        drop((two, quotas.take(Quota::Retries)));
        assert!(quotas.take(Quota::Retries).is_some());
    }
}
