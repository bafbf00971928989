//! Figures of one listener on one worker.

use std::sync::OnceLock;

use mecha_core::{Done, OpInfo, Outcome, Refusal};

use crate::{Counter, Histogram};

/// Why a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// A panic in mecha.
    Bug,
    /// The client ended it.
    ClientLeft,
    /// mecha is stopping.
    Drained,
    /// Silent for longer than allowed.
    Idle,
    /// Another client has asked for it.
    Killed,
    /// The client's user is gone, or may not do any more what the client does.
    LoggedOut,
    /// The client broke the protocol.
    Protocol,
    /// The client took its leave by command.
    Quit,
    /// The socket failed while reading.
    ReadFailed,
    /// mecha refused a call without which the client cannot go on.
    Refused,
    /// The client did not read its replies.
    SlowReader,
    /// State that the client had on an upstream connection was lost with it.
    UpstreamLost,
    /// The socket failed while writing.
    WriteFailed,
}

impl CloseReason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 13] = [
        Self::Bug,
        Self::ClientLeft,
        Self::Drained,
        Self::Idle,
        Self::Killed,
        Self::LoggedOut,
        Self::Protocol,
        Self::Quit,
        Self::ReadFailed,
        Self::Refused,
        Self::SlowReader,
        Self::UpstreamLost,
        Self::WriteFailed,
    ];

    /// Metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bug => "bug",
            Self::ClientLeft => "client_left",
            Self::Drained => "drained",
            Self::Idle => "idle",
            Self::Killed => "killed",
            Self::LoggedOut => "logged_out",
            Self::Protocol => "protocol",
            Self::Quit => "quit",
            Self::ReadFailed => "read_failed",
            Self::Refused => "refused",
            Self::SlowReader => "slow_reader",
            Self::UpstreamLost => "upstream_lost",
            Self::WriteFailed => "write_failed",
        }
    }
}

/// Outcomes as columns of the call counters.
pub(crate) const OUTCOMES: [&str; 4] = ["ok", "client_error", "server_error", "refused"];

/// Figures of one operation; made when it is first used.
#[derive(Debug, Default)]
pub(crate) struct OpMetrics {
    pub(crate) outcomes: [Counter; OUTCOMES.len()],
    pub(crate) latency: Histogram,
}

/// Figures of one listener on one worker.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub(crate) name: String,
    pub(crate) protocol: &'static str,
    pub(crate) ops: &'static [OpInfo],
    pub(crate) by_op: Vec<OnceLock<Box<OpMetrics>>>,
    pub(crate) refusals: [Counter; Refusal::ALL.len()],
    pub(crate) closed: [Counter; CloseReason::ALL.len()],
    pub(crate) connections: Counter,
    pub(crate) opened: Counter,
    pub(crate) refused_connections: Counter,
    pub(crate) read_bytes: Counter,
    pub(crate) wrote_bytes: Counter,
}

impl ListenerMetrics {
    pub(crate) fn new(name: &str, protocol: &'static str, ops: &'static [OpInfo]) -> Self {
        Self {
            name: name.into(),
            protocol,
            ops,
            by_op: (0..ops.len().max(1)).map(|_| OnceLock::new()).collect(),
            refusals: Default::default(),
            closed: Default::default(),
            connections: Counter::default(),
            opened: Counter::default(),
            refused_connections: Counter::default(),
            read_bytes: Counter::default(),
            wrote_bytes: Counter::default(),
        }
    }

    /// Counts calls that have ended. Neighbours of one kind, which pipelines are made of, are counted at once.
    #[inline]
    pub fn done(&self, done: &[Done]) {
        let is_same = |one: &Done, other: &Done| {
            one.op == other.op && one.outcome == other.outcome && one.micros == other.micros
        };
        for run in done.chunk_by(is_same) {
            let Some(first) = run.first() else { continue };
            self.count(first, run.len() as u64);
        }
    }

    fn count(&self, done: &Done, count: u64) {
        let row = self.by_op.get(usize::from(done.op.0)).or_else(|| self.by_op.first());
        let Some(metrics) = row.map(|row| row.get_or_init(Box::default)) else { return };
        let [ok, client_error, server_error, refused] = &metrics.outcomes;
        match done.outcome {
            Outcome::Ok => ok.add(count),
            Outcome::ClientError => client_error.add(count),
            Outcome::ServerError => server_error.add(count),
            Outcome::Refused(why) => {
                refused.add(count);
                if let Some(reason) = self.refusals.get(why as usize) {
                    reason.add(count);
                }
                return;
            }
        }
        metrics.latency.record(done.micros, count);
    }

    /// A client has connected.
    pub fn opened(&self) {
        self.opened.add(1);
        self.connections.add(1);
    }

    /// A client is gone.
    pub fn closed(&self, why: CloseReason) {
        self.connections.sub(1);
        if let Some(reason) = self.closed.get(why as usize) {
            reason.add(1);
        }
    }

    /// A client goes on under the name of another listener.
    pub fn moved_to(&self, other: &Self) {
        self.connections.sub(1);
        other.connections.add(1);
    }

    /// A client was turned away because there are too many.
    pub fn refused_connection(&self) {
        self.refused_connections.add(1);
    }

    /// Clients connected now.
    pub fn connections(&self) -> u64 {
        self.connections.get()
    }

    /// Bytes came from clients.
    #[inline]
    pub fn read_bytes(&self, count: usize) {
        self.read_bytes.add(count as u64);
    }

    /// Bytes went to clients.
    #[inline]
    pub fn wrote_bytes(&self, count: usize) {
        self.wrote_bytes.add(count as u64);
    }
}
