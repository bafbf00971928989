//! What a person sees on the terminal.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;

use mecha_config::{ConfigError, Snapshot};
use mecha_transport::Address;

/// All errors of a configuration, one after the other.
pub(super) fn all(errors: &[ConfigError]) -> String {
    let mut text = format!("the configuration has {} error(s)\n", errors.len());
    for error in errors {
        let _ = write!(text, "\n{error}\n");
    }
    text
}

/// Why a socket cannot be had, and what to do about it.
pub(super) fn cannot_bind(what: &str, address: &Address, error: &io::Error) -> String {
    let fix = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there. Stop it, or choose another port: \
             `mecha --listen redis://127.0.0.1:PORT --to embedded:// --admin 127.0.0.1:PORT`, or edit the configuration"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose a higher one",
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; 127.0.0.1 and 0.0.0.0 always exist"
        }
        _ => "check the address",
    };
    format!("{what} cannot listen on {address}: {error}\n  fix: {fix}")
}

/// As [`cannot_bind`], of a port by which clients would reach one of `count` brokers.
pub(super) fn cannot_reach_brokers(what: &str, address: &Address, error: &io::Error, count: u16) -> String {
    format!(
        "{what} cannot listen on {address}, one of the {count} ports by which clients reach single brokers: {error}\n  \
         fix: say in the configuration where there are as many free ports as brokers, as in `brokers: {{ ports: 9093-9099 }}` \
         (the default is the 16 behind the listener's own), or give all brokers one port: \
         `brokers: {{ ports: none, host: \"b$(id).kafka.example\" }}`, with TLS `ports: sni`"
    )
}

/// The start-up screen.
pub(super) fn started(
    snapshot: &Snapshot,
    addresses: &[Address],
    admin: Option<SocketAddr>,
    is_demo: bool,
    micros: u64,
) -> String {
    let mut text = format!(
        "mecha {} is ready after {}.{} ms, {} worker(s)\n",
        env!("CARGO_PKG_VERSION"),
        micros / 1000,
        micros / 100 % 10,
        snapshot.workers
    );
    for (listener, address) in snapshot.listeners.iter().zip(addresses) {
        let Some(cluster) = snapshot.clusters.get(listener.cluster) else { continue };
        let _ = writeln!(
            text,
            "  {:<10} {:<22} -> {} ({})",
            listener.protocol,
            address.to_string(),
            cluster.name,
            cluster.protocol
        );
    }
    if let Some(admin) = admin {
        let _ = writeln!(text, "  {:<10} http://{admin}/", "admin");
    }
    if is_demo {
        let port = |protocol: &str| {
            let at = snapshot.listeners.iter().position(|listener| listener.protocol == protocol)?;
            match addresses.get(at)? {
                Address::Tcp(addr) => Some(addr.port()),
                _ => None,
            }
        };
        text.push_str("\nTry it:\n");
        if let Some(port) = port("resp") {
            let _ = writeln!(text, "  redis-cli -p {port} set greeting hello");
        }
        if let Some(port) = port("memcached") {
            let _ = writeln!(
                text,
                "  bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; printf \"get greeting\\r\\nquit\\r\\n\" >&3; cat <&3'   # the same store"
            );
        }
        text.push_str(
            "  mecha --listen redis://127.0.0.1:6380 --to memcached://127.0.0.1:11212   # another back\n",
        );
        text.push_str("  mecha --help\n");
    }
    text
}
