//! Processes, clients and fake servers that the subjects share.
//!
//! Ports: mecha is started on port 0 and tells where it listens, so no port is guessed. Servers that cannot do that get
//! one below the range that the system gives to outgoing connections, and are asked who they are.

mod client;
mod fake;
mod issuer;
mod kafka;
mod levels;
mod names;
mod redis_cluster;
mod sentinels;
mod servers;
mod tagged;

pub(crate) use client::{Client, frame};
pub(crate) use fake::Fake;
pub(crate) use issuer::Issuer;
pub(crate) use kafka::{Kafka, Tool, kafka, secured, tool, tool_where};
pub(crate) use names::{Names, Record};
pub(crate) use redis_cluster::RedisCluster;
pub(crate) use sentinels::{NAME, Sentinels};
pub(crate) use servers::{
    Mecha, Process, free_port, memcached, memcached_on, memcached_with, redis, redis_on, redis_with, signal,
    translated_doors,
};
pub(crate) use tagged::Tagged;

use std::time::{Duration, Instant};

/// How long anything may take that should take no time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `is_so` holds; panics with `what` if it never does.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
