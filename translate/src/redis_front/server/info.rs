//! `INFO` and `CONFIG GET`: what is known here, in the server's form. Fields of mecha's own begin with `mecha_`.

use mecha_resp::reply::Writer;

use super::super::hash::content::is;
use super::super::hash::glob;
use super::REDIS_VERSION;
use crate::kv::PlanCx;

/// Settings that have a meaning here.
const SETTINGS: [(&str, &str); 4] =
    [("appendonly", "no"), ("databases", "1"), ("proto-max-bulk-len", "536870912"), ("save", "")];

/// The text of `INFO` with these arguments, the name first.
pub(super) fn text(words: &[Vec<u8>], cx: &PlanCx<'_>) -> String {
    let uptime = (cx.now_ms / 1000).saturating_sub(cx.started_at.unix_seconds);
    let server = format!(
        "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\narch_bits:{}\r\nprocess_id:{}\r\n\
         uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\nmecha_version:{}\r\nmecha_back:{}\r\n",
        usize::BITS,
        std::process::id(),
        uptime / 86_400,
        env!("CARGO_PKG_VERSION"),
        cx.back,
    );
    // Which keys expire is not counted; clients expect the fields.
    let keys = cx.key_count.filter(|keys| *keys > 0);
    let keyspace = keys.map_or_else(String::new, |keys| format!("db0:keys={keys},expires=0,avg_ttl=0\r\n"));
    let sections = [
        ("Server", server),
        ("Clients", "blocked_clients:0\r\ntracking_clients:0\r\n".to_owned()),
        ("Memory", format!("mecha_max_value_bytes:{}\r\n", cx.max_value)),
        ("Persistence", "loading:0\r\naof_enabled:0\r\n".to_owned()),
        ("Stats", "pubsub_channels:0\r\npubsub_patterns:0\r\n".to_owned()),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Cluster", "cluster_enabled:0\r\n".to_owned()),
        ("Keyspace", keyspace),
    ];
    let wanted = words.get(1..).unwrap_or_default();
    let is_wanted = |name: &str| {
        wanted.is_empty()
            || wanted.iter().any(|word| {
                is(word, name) || is(word, "all") || is(word, "default") || is(word, "everything")
            })
    };
    let shown: Vec<_> = sections
        .iter()
        .filter(|(name, _)| is_wanted(name))
        .map(|(name, body)| format!("# {name}\r\n{body}"))
        .collect();
    shown.join("\r\n")
}

/// `CONFIG GET` with these arguments.
pub(super) fn config_get(words: &[Vec<u8>], writer: &mut Writer<'_>) {
    let patterns: Vec<_> = words.iter().skip(2).map(|pattern| pattern.to_ascii_lowercase()).collect();
    let is_wanted = |name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
    let found: Vec<_> = SETTINGS.iter().filter(|(name, _)| is_wanted(name)).collect();
    writer.map(found.len());
    for (name, value) in found {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
}
