//! The real process between real clients and real servers, on free ports of this machine. One file per subject.
#![expect(clippy::disallowed_methods, reason = "a test measures by the wall clock")]

mod amplification;
mod announce;
mod breaker;
mod cli;
mod config;
mod contention;
mod differential;
mod discovery;
mod docs;
mod drain;
mod ejection;
mod failover;
mod faults;
mod hostile;
mod isolation;
mod limits;
mod memcached;
mod pins;
mod portable;
mod protocol_errors;
mod proxy_protocol;
mod redis_cluster;
mod reload;
mod replicas;
mod resharding;
mod rows;
mod sentinel;
mod sharded;
mod soak;
mod state;
mod support;
mod tcp;
mod tls;
mod users;
mod writes;
