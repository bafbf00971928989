//! The registration list of protocols: one entry each. Nothing else in the process names them.

use mecha_config::{ConfigError, FilterSpec, Known, KnownRoutes, Scheme, SchemeServers};
use mecha_core::Protocol;
use mecha_filters::{BuildCx, LogSink};
use mecha_http::Http;
use mecha_memcached::Memcached;
use mecha_resp::Resp;
use mecha_telemetry::Registry;

use crate::assembly::{
    FramedEntry, HttpEntry, KafkaEntry, OpaqueEntry, ProtocolEntry, announced, embedded, kv, routed,
    scattered,
};
use crate::cli::{FilterHelp, Help, SupportRow};

/// The back that needs no server.
pub const EMBEDDED: &str = "embedded";

/// Bytes that are passed on as they are.
pub const TCP: &str = "tcp";

/// Wherever a connection of a transparent listener was going.
pub const ORIGINAL: &str = "original";

/// Kafka's own protocol.
pub const KAFKA: &str = "kafka";

/// HTTP/2 from the first byte, as backs may want it; doors speak both.
pub const HTTP2: &str = "http2";

/// Every protocol that clients can speak, and where each can lead.
pub const PROTOCOLS: &[&dyn ProtocolEntry] = &[
    &FramedEntry::<Resp> {
        filters: mecha_filters::resp::FILTERS,
        backs: &[scattered(Resp::NAME), kv::<Resp, Memcached>(), embedded()],
        announce: Some(announced::<Resp>),
        routing: Some(routed(KnownRoutes { has_databases: true, lists_keys_of: &[Resp::NAME, EMBEDDED] })),
    },
    &FramedEntry::<Memcached> {
        filters: mecha_filters::memcached::FILTERS,
        backs: &[scattered(Memcached::NAME), kv::<Memcached, Resp>(), embedded()],
        announce: None,
        routing: Some(routed(KnownRoutes { has_databases: false, lists_keys_of: &[] })),
    },
    &HttpEntry { backs: &[Http::NAME, HTTP2] },
    &KafkaEntry { name: KAFKA },
    &OpaqueEntry { name: TCP },
];

/// How addresses name them; the first scheme of a protocol is the usual one.
pub const DOORS: &[Scheme] = &[
    Scheme::plain("redis", Resp::NAME, 6379),
    Scheme::plain("valkey", Resp::NAME, 6379),
    Scheme::plain("resp", Resp::NAME, 6379),
    Scheme::plain("memcached", Memcached::NAME, 11211),
    Scheme::tls("rediss", Resp::NAME, 6379),
    Scheme::tls("valkeys", Resp::NAME, 6379),
    Scheme::tls("memcacheds", Memcached::NAME, 11211),
    Scheme::plain("http", Http::NAME, 80).streamed(),
    Scheme::tls("https", Http::NAME, 443).streamed(),
    Scheme::plain("kafka", KAFKA, 9092).opaque(),
    Scheme::tls("kafkas", KAFKA, 9092).opaque(),
    Scheme::plain("auto", TCP, 0).opaque(),
    Scheme::plain("tcp", TCP, 0).opaque(),
    Scheme::tls("tls", TCP, 0).opaque(),
];

/// As [`DOORS`], with what needs no server.
pub const BACKS: &[Scheme] = &[
    Scheme::plain("redis", Resp::NAME, 6379),
    Scheme::plain("valkey", Resp::NAME, 6379),
    Scheme::plain("resp", Resp::NAME, 6379),
    Scheme::found("redis-cluster", Resp::NAME, 6379, SchemeServers::Cluster),
    Scheme::found("valkey-cluster", Resp::NAME, 6379, SchemeServers::Cluster),
    Scheme::found("redis-sentinel", Resp::NAME, 26379, SchemeServers::Sentinel),
    Scheme::found("valkey-sentinel", Resp::NAME, 26379, SchemeServers::Sentinel),
    Scheme::found_tls("rediss-cluster", Resp::NAME, 6379, SchemeServers::Cluster),
    Scheme::found_tls("valkeys-cluster", Resp::NAME, 6379, SchemeServers::Cluster),
    Scheme::found_tls("rediss-sentinel", Resp::NAME, 26379, SchemeServers::Sentinel),
    Scheme::found_tls("valkeys-sentinel", Resp::NAME, 26379, SchemeServers::Sentinel),
    Scheme::plain("memcached", Memcached::NAME, 11211),
    Scheme::tls("rediss", Resp::NAME, 6379),
    Scheme::tls("valkeys", Resp::NAME, 6379),
    Scheme::tls("memcacheds", Memcached::NAME, 11211),
    Scheme::plain("http", Http::NAME, 80).streamed(),
    Scheme::tls("https", Http::NAME, 443).streamed(),
    Scheme::plain("h2c", HTTP2, 80).streamed(),
    Scheme::plain("grpc", HTTP2, 80).streamed(),
    Scheme::tls("grpcs", HTTP2, 443).streamed(),
    Scheme::plain("kafka", KAFKA, 9092).opaque(),
    Scheme::tls("kafkas", KAFKA, 9092).opaque(),
    Scheme::plain("tcp", TCP, 0).opaque(),
    Scheme::tls("tls", TCP, 0).opaque(),
    Scheme::inside("embedded", EMBEDDED),
    Scheme::inside("original", ORIGINAL).opaque(),
];

/// What is offered in TLS handshakes where the configuration says nothing (RFC 7301).
pub fn alpn(protocol: &str) -> &'static [&'static str] {
    match protocol {
        Http::NAME => &["h2", "http/1.1"],
        HTTP2 => &["h2"],
        _ => &[],
    }
}

/// The entry of one protocol.
pub fn entry(name: &str) -> Option<&'static dyn ProtocolEntry> {
    PROTOCOLS.iter().find(|entry| entry.name() == name).copied()
}

/// What a configuration may name.
pub fn known() -> Known<'static> {
    let mut filters: Vec<&str> = mecha_filters::POLICIES.iter().map(|kind| kind.name).collect();
    filters.extend(PROTOCOLS.iter().flat_map(|entry| entry.filters()).map(|(name, _)| name));
    filters.sort_unstable();
    filters.dedup();
    Known {
        doors: DOORS,
        backs: BACKS,
        filters,
        check_filter: &check_filter,
        check_tls: &crate::assembly::check_tls,
        check_rules: &crate::assembly::check_rules,
        check_http_route: &crate::assembly::check_http_route,
        routes: &|door| entry(door)?.routes(),
        pairs: &|door, back| entry(door).is_some_and(|entry| entry.backs().contains(&back)),
    }
}

/// Builds a filter only to hear what it says about its options.
fn check_filter(spec: &FilterSpec, protocol: Option<&str>) -> Vec<ConfigError> {
    let registry = Registry::new();
    let log = LogSink::new(&registry);
    let cx = BuildCx { registry: &registry, scope: "check", workers: 1, ops: &[], log: &log };
    match protocol.and_then(entry) {
        Some(entry) => entry.check_filter(spec, &cx),
        None => match mecha_filters::POLICIES.iter().find(|kind| kind.name == spec.name) {
            Some(kind) => (kind.build)(&spec.options, &cx).err().unwrap_or_default(),
            None => {
                let message = format!("`{}` looks into requests, so it belongs to a listener", spec.name);
                vec![spec.options.error("", message).hint("move it to `listeners`")]
            }
        },
    }
}

/// What the command line tells about all this.
pub fn help() -> Help {
    let mut filters: Vec<FilterHelp> = Vec::new();
    for kind in mecha_filters::POLICIES {
        let applies_to = "every listener and cluster".to_string();
        filters.push(filter_help(kind.name, kind.help, applies_to));
    }
    for entry in PROTOCOLS {
        for (name, help) in entry.filters() {
            match filters.iter_mut().find(|filter| filter.name == name) {
                Some(filter) => filter.applies_to = format!("{}, {}", filter.applies_to, entry.name()),
                None => filters.push(filter_help(name, help, format!("listeners of {}", entry.name()))),
            }
        }
    }
    filters.sort_by_key(|filter| filter.name);
    Help { filters, support }
}

fn filter_help(name: &'static str, help: mecha_filters::Help, applies_to: String) -> FilterHelp {
    FilterHelp {
        name,
        summary: help.summary,
        options: help.options,
        docs: help.docs,
        example: help.example,
        applies_to,
    }
}

/// Nothing where nothing is translated.
fn support(front: &str, back: &str) -> Vec<SupportRow> {
    let is_translated = |name: &str| [Resp::NAME, Memcached::NAME, EMBEDDED].contains(&name);
    if !is_translated(front) || !is_translated(back) {
        return Vec::new();
    }
    let row = |row: mecha_translate::Row| SupportRow {
        command: row.command.to_string(),
        support: match row.support {
            mecha_translate::Support::Emulated => "emulated",
            mecha_translate::Support::Exact => "exact",
            mecha_translate::Support::Refused => "refused",
        },
        note: row.note.to_string(),
    };
    mecha_translate::supported(front, back).into_iter().map(row).collect()
}
