//! How servers are checked, and when those that fail are left out.

use std::time::Duration;

/// Checks of every server of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheckSpec {
    /// What is asked.
    pub kind: HealthCheckKind,
    /// Time between two checks of a server; a fifth of it is left to chance.
    pub interval: Duration,
    /// Time for the answer.
    pub timeout: Duration,
    /// Failures in a row after which a server is left out.
    pub unhealthy_after: u32,
    /// Successes in a row after which it is back.
    pub healthy_after: u32,
    /// Share of servers that must be well, from 0 to 1; with fewer nobody is left out.
    pub panic_below: f64,
}

/// What a check asks a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// `grpc.health.v1.Health/Check` about this service; empty is the server as a whole.
    Grpc(String),
    /// A `GET`.
    Http {
        /// The path.
        path: String,
        /// What `Host` says; the server's address if it is nothing.
        host: Option<String>,
        /// The first and the last status that is right.
        expect: (u16, u16),
    },
    /// What a client of the protocol would ask first: `PING`, `version`, `ApiVersions`.
    Protocol,
    /// That it can be connected to.
    Tcp,
}

/// When servers that fail their clients are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierSpec {
    /// Failures in a row.
    pub failures: u32,
    /// How long the first time; as much more each time.
    pub eject_for: Duration,
    /// Share of servers that may be left out at a time, from 0 to 1; one may be in any case, if there is another.
    pub max_share: f64,
}
