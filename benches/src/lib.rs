//! The data plane without its sockets, so that its own work can be measured.
//!
//! [`Pump`] is a client of the real engine, with a real chain of five policies, before the real upstream connection, of
//! which only the sockets and tasks are left out: their bytes are carried by hand. What it takes for a command is what
//! mecha adds to the system calls.

mod pump;
mod translation;

use mecha::catalog;
use mecha_core::{Call, Chain, ConnKey, Decode, Framed, Limits, Protocol, Ticket};
use mecha_filters::{BuildCx, LogSink, POLICIES};
use mecha_telemetry::Registry;

pub use pump::Pump;
pub use translation::Translation;

/// Commands in one batch.
pub const DEPTH: usize = 16;

/// Five policies, none of which refuses anything here.
const CONFIGURATION: &str = "
listeners:
  - name: front
    listen: redis://127.0.0.1:0
    to: back
    filters:
      - access_log: { to: stderr, only: [errors, refused] }
      - circuit_breaker: { failures: 10 }
      - rate_limit: { permits: 1_000_000_000, per: 1s }
      - rate_limit: { permits: 900_000_000, per: 1s }
      - timeout: { after: 30s }
clusters:
  back: { to: 'redis://127.0.0.1:1' }
";

/// Alternately `SET` and `GET` with values of 64 bytes, each with its own key.
pub fn resp_requests() -> Vec<u8> {
    let value = "v".repeat(64);
    let one = |index: usize| match index % 2 {
        0 => format!("*3\r\n$3\r\nSET\r\n$7\r\nkey:{index:03}\r\n$64\r\n{value}\r\n"),
        _ => format!("*2\r\n$3\r\nGET\r\n$7\r\nkey:{index:03}\r\n"),
    };
    (0..DEPTH).map(one).collect::<String>().into()
}

/// What a server answers to [`resp_requests`].
pub fn resp_replies() -> Vec<u8> {
    let get = format!("$64\r\n{}\r\n", "v".repeat(64));
    (0..DEPTH).map(|index| if index % 2 == 0 { "+OK\r\n" } else { get.as_str() }).collect::<String>().into()
}

/// As [`resp_requests`], in memcached's words.
pub fn memcached_requests() -> Vec<u8> {
    let value = "v".repeat(64);
    let one = |index: usize| match index % 2 {
        0 => format!("set key:{index:03} 0 0 64\r\n{value}\r\n"),
        _ => format!("get key:{index:03}\r\n"),
    };
    (0..DEPTH).map(one).collect::<String>().into()
}

/// The heads of all requests in `wire`.
///
/// # Panics
/// They are not well-formed: the measurement's own fault.
pub fn heads<P: Framed>(wire: &[u8]) -> Vec<P::Request> {
    let mut heads = Vec::new();
    P::request_decoder(Limits::default()).decode(wire, &mut heads).expect("our own bytes");
    heads
}

/// The calls of one client's requests, from place `seq` on.
pub fn calls<P: Framed>(heads: &[P::Request], seq: u32, out: &mut Vec<Call>) {
    out.clear();
    let conn = ConnKey::default();
    let each = heads.iter().zip(seq..).map(|(head, seq)| P::call(head, Ticket { conn, seq }));
    out.extend(each);
}

/// The five policies.
///
/// # Panics
/// The configuration above is wrong.
pub fn five_policies<P: Framed + Protocol>() -> Chain<P> {
    let snapshot = mecha_config::load(CONFIGURATION, "bench", &catalog::known()).expect("it is right");
    let registry = Registry::new();
    let log = LogSink::new(&registry);
    let cx = BuildCx { registry: &registry, scope: "listener:front", workers: 1, ops: P::ops(), log: &log };
    let filters = snapshot.listeners.iter().flat_map(|listener| &listener.filters);
    let built = filters.map(|spec| {
        let kind = POLICIES.iter().find(|kind| kind.name == spec.name).expect("a policy");
        let factory = (kind.build)(&spec.options, &cx).unwrap_or_else(|errors| panic!("{errors:?}"));
        Box::new(factory.open()) as _
    });
    Chain::new(built.collect())
}
