//! One `INFO` of several servers.
//!
//! Numbers that count work or things are added up; what describes a server, or is a ratio or a time, is the first one's.
//! Lines that not every server has (`db0:keys=…`, `cmdstat_get:calls=…`) are added up field by field. A last section says
//! how many servers it was, and some figures of each, in the order of their slots.

use mecha_resp::reply::Writer;

use crate::scatter::Entrance;

/// Lines whose numbers are added up. Names that end with `*` stand for all that begin so.
const SUMMED: [&str; 31] = [
    "acl_access_denied_*",
    "aof_current_size",
    "blocked_clients",
    "clients_in_timeout_table",
    "connected_clients",
    "connected_slaves",
    "evicted_keys",
    "expired_keys",
    "instantaneous_ops_per_sec",
    "keyspace_hits",
    "keyspace_misses",
    "lazyfree*",
    "maxmemory",
    "number_of_cached_scripts",
    "number_of_functions*",
    "pubsub_channels",
    "pubsub_patterns",
    "pubsubshard_channels",
    "rdb_changes_since_last_save",
    "rejected_connections",
    "slave_expires_tracked_keys",
    "total_blocking_keys",
    "total_commands_processed",
    "total_connections_received",
    "total_error_replies",
    "total_net_*",
    "total_reads_processed",
    "total_writes_processed",
    "tracking_*",
    "unexpected_error_replies",
    "used_memory",
];

/// Figures of which every server's own are told too.
const OWN: [&str; 8] = [
    "redis_version",
    "uptime_in_seconds",
    "connected_clients",
    "used_memory",
    "maxmemory",
    "instantaneous_ops_per_sec",
    "connected_slaves",
    "master_repl_offset",
];

/// A section whose lines not every server has.
struct Gathered {
    header: &'static str,
    /// How its lines begin.
    start: &'static str,
}

const GATHERED: [Gathered; 3] = [
    Gathered { header: "# Commandstats", start: "cmdstat_" },
    Gathered { header: "# Errorstats", start: "errorstat_" },
    Gathered { header: "# Keyspace", start: "db" },
];

/// Appends the report, as at the address that is asked; `None` if a reply is no
/// text.
pub(super) fn merge(replies: &[Vec<u8>], entrance: Entrance, writer: &mut Writer<'_>) -> Option<()> {
    let texts: Option<Vec<String>> = replies.iter().map(|reply| text(reply)).collect();
    let texts = texts?;
    let mut out = String::new();
    for line in texts.first()?.lines() {
        match line.split_once(':') {
            Some((name, _)) if GATHERED.iter().any(|section| section.has(name)) || is_of_servers(name) => {
                continue;
            }
            Some(("tcp_port", _)) if entrance.port > 0 => {
                out.push_str(&format!("tcp_port:{}\r\n", entrance.port))
            }
            Some(("role", _)) if entrance.is_beside => {
                out.push_str("role:slave\r\nmaster_link_status:up\r\n")
            }
            Some((name, value)) if is_summed(name) => {
                let all =
                    texts.iter().map(|text| value_of(text, name).and_then(|value| value.parse::<u64>().ok()));
                match all.sum::<Option<u64>>() {
                    Some(sum) => out.push_str(&format!("{name}:{sum}\r\n")),
                    None => out.push_str(&format!("{name}:{value}\r\n")),
                }
            }
            _ => {
                out.push_str(line);
                out.push_str("\r\n");
                if let Some(section) = GATHERED.iter().find(|section| section.header == line) {
                    section.merge(&texts, &mut out);
                }
            }
        }
    }
    out.push_str(&format!("\r\n# Mecha\r\nmecha_shards:{}\r\n", texts.len()));
    for (number, text) in texts.iter().enumerate() {
        out.push_str(&own_line(number, text));
    }
    writer.verbatim("txt", out.as_bytes());
    Some(())
}

/// What one server alone says; empty if the sections that were asked for have nothing of it.
fn own_line(number: usize, text: &str) -> String {
    let keys = text.lines().filter(|line| {
        GATHERED
            .iter()
            .any(|all| all.start == "db" && line.split_once(':').is_some_and(|(name, _)| all.has(name)))
    });
    let keys: Vec<u64> =
        keys.filter_map(|line| line.split_once("keys=")?.1.split(',').next()?.parse().ok()).collect();
    let mut fields: Vec<String> =
        OWN.iter().filter_map(|name| Some(format!("{name}={}", value_of(text, name)?))).collect();
    if text.contains("# Keyspace") {
        fields.push(format!("keys={}", keys.iter().sum::<u64>()));
    }
    if fields.is_empty() { String::new() } else { format!("mecha_shard{number}:{}\r\n", fields.join(",")) }
}

/// Lines that tell where other servers are, which clients have no use for here.
fn is_of_servers(name: &str) -> bool {
    let is_replica =
        name.strip_prefix("slave").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    is_replica && name != "slave" || matches!(name, "master_host" | "master_port")
}

fn is_summed(name: &str) -> bool {
    SUMMED.iter().any(|known| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => *known == name,
    })
}

fn value_of<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines()
        .find_map(|line| line.split_once(':').filter(|(known, _)| *known == name))
        .map(|(_, value)| value)
}

// === impl Gathered ===

impl Gathered {
    fn has(&self, name: &str) -> bool {
        match name.strip_prefix(self.start) {
            Some(number) if self.start == "db" => {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            }
            rest => rest.is_some(),
        }
    }

    /// Appends the lines of all servers, each name once, with the sums of their fields.
    fn merge(&self, texts: &[String], out: &mut String) {
        let mut rows: Vec<(&str, Vec<(&str, f64)>)> = Vec::new();
        let lines = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once(':'));
        for (name, fields) in lines.filter(|(name, _)| self.has(name)) {
            let at = rows.iter().position(|row| row.0 == name).unwrap_or_else(|| {
                rows.push((name, Vec::new()));
                rows.len() - 1
            });
            let Some((_, known)) = rows.get_mut(at) else { continue };
            for (name, value) in fields.split(',').filter_map(|field| field.split_once('=')) {
                let Ok(value) = value.parse::<f64>() else { continue };
                match known.iter_mut().find(|field| field.0 == name) {
                    Some((_, longest)) if name == "avg_ttl" => *longest = longest.max(value),
                    Some((_, sum)) => *sum += value,
                    None => known.push((name, value)),
                }
            }
        }
        for (name, fields) in rows {
            let of = |wanted: &str| fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| match (*name, of("usec"), of("calls")) {
                    ("usec_per_call", Some(usec), Some(calls)) => {
                        format!("{name}={:.2}", usec / calls.max(1.0))
                    }
                    _ => format!("{name}={value}"),
                })
                .collect();
            out.push_str(&format!("{name}:{}\r\n", fields.join(",")));
        }
    }
}

/// The text of a bulk or verbatim string.
fn text(reply: &[u8]) -> Option<String> {
    let (kind, length, rest) = super::line(reply)?;
    let body = rest.get(..usize::try_from(length).ok()?)?;
    let body = if kind == b'=' { body.get(4..)? } else { body };
    matches!(kind, b'$' | b'=').then(|| String::from_utf8_lossy(body).into_owned())
}
