//! Figures of one cluster on one worker.

use crate::Counter;

/// Figures of one cluster on one worker.
#[derive(Debug, Default)]
pub struct ClusterMetrics {
    pub(crate) name: String,
    pub(crate) protocol: &'static str,
    pub(crate) connections: Counter,
    pub(crate) connects: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) connect_delays: Counter,
    pub(crate) replies: Counter,
    pub(crate) abandoned: Counter,
    pub(crate) stalls: Counter,
    pub(crate) pins: Counter,
    pub(crate) pins_opened: Counter,
    pub(crate) pins_refused: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) redirects_ask: Counter,
    pub(crate) redirects_later: Counter,
    pub(crate) redirects_moved: Counter,
    pub(crate) ejected: Counter,
    pub(crate) ejections: Counter,
    pub(crate) parked: Counter,
    pub(crate) replica_reads: Counter,
    pub(crate) scripts_told: Counter,
    pub(crate) splits: Counter,
    pub(crate) parts: Counter,
    pub(crate) received_bytes: Counter,
}

impl ClusterMetrics {
    pub(crate) fn new(name: &str, protocol: &'static str) -> Self {
        Self { name: name.into(), protocol, ..Self::default() }
    }

    /// A connection was made.
    pub fn connection_opened(&self) {
        self.connects.add(1);
        self.connections.add(1);
    }

    /// A connection is gone.
    pub fn connection_closed(&self) {
        self.connections.sub(1);
    }

    /// A connection could not be made.
    pub fn connect_failed(&self) {
        self.connect_failures.add(1);
    }

    /// An attempt had to wait for the rate limit.
    pub fn connect_delayed(&self) {
        self.connect_delays.add(1);
    }

    /// A server has sent a call away: `ask`, `later` or `moved`.
    pub fn redirected(&self, how: &str) {
        match how {
            "ask" => self.redirects_ask.add(1),
            "later" => self.redirects_later.add(1),
            _ => self.redirects_moved.add(1),
        }
    }

    /// Calls were sent to a replica.
    #[inline]
    pub fn replica_read(&self, count: usize) {
        self.replica_reads.add(count as u64);
    }

    /// Calls were answered.
    #[inline]
    pub fn replied(&self, count: usize) {
        self.replies.add(count as u64);
    }

    /// Calls timed out; their replies will be dropped.
    pub fn abandoned(&self, count: usize) {
        self.abandoned.add(count as u64);
    }

    /// A client had to wait for room.
    pub fn stalled(&self) {
        self.stalls.add(1);
    }

    /// A client got a dedicated connection.
    pub fn pin_opened(&self) {
        self.pins.add(1);
        self.pins_opened.add(1);
    }

    /// A client gave its dedicated connection back.
    pub fn pin_closed(&self) {
        self.pins.sub(1);
    }

    /// A client got none because there are too many.
    pub fn pin_refused(&self) {
        self.pins_refused.add(1);
    }

    /// A server is left out because it fails.
    pub fn ejected(&self) {
        self.ejected.add(1);
        self.ejections.add(1);
    }

    /// A server that was left out is back.
    pub fn readmitted(&self) {
        self.ejected.sub(1);
    }

    /// Calls of a client wait for a server that is lost or in the middle of a change.
    pub fn parked(&self) {
        self.parked.add(1);
    }

    /// A server lacked the script of a call, which was sent again with its text.
    pub fn script_told(&self) {
        self.scripts_told.add(1);
    }

    /// A call was taken apart.
    pub fn split(&self, parts: usize) {
        self.splits.add(1);
        self.parts.add(parts as u64);
    }

    /// Bytes went to the cluster.
    #[inline]
    pub fn sent_bytes(&self, count: usize) {
        self.sent_bytes.add(count as u64);
    }

    /// Bytes came from the cluster.
    #[inline]
    pub fn received_bytes(&self, count: usize) {
        self.received_bytes.add(count as u64);
    }
}
