//! One `INFO` of several servers.
//!
//! Numbers that count work or things are added up; what describes a server, or is a ratio or a time, is the first one's.
//! Lines of databases (`db0:keys=…`) are added up field by field. A last section says how many servers it was.

use mecha_resp::reply::Writer;

/// Lines whose numbers are added up. Names that end with `*` stand for all that begin so.
const SUMMED: [&str; 28] = [
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
    "used_memory",
];

/// Appends the report; `None` if a reply is no text.
pub(super) fn merge(replies: &[Vec<u8>], writer: &mut Writer<'_>) -> Option<()> {
    let texts: Option<Vec<String>> = replies.iter().map(|reply| text(reply)).collect();
    let texts = texts?;
    let mut out = String::new();
    for line in texts.first()?.lines() {
        match line.split_once(':') {
            Some((name, _)) if is_database(name) => continue,
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
                if line == "# Keyspace" {
                    merged_databases(&texts).iter().for_each(|line| out.push_str(line));
                }
            }
        }
    }
    out.push_str(&format!("\r\n# Mecha\r\nmecha_shards:{}\r\n", texts.len()));
    writer.verbatim("txt", out.as_bytes());
    Some(())
}

fn is_database(name: &str) -> bool {
    name.strip_prefix("db")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
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

/// `db0:keys=3,expires=1,avg_ttl=0`, with keys and expiries of all servers and the longest average.
fn merged_databases(texts: &[String]) -> Vec<String> {
    let mut rows: Vec<(u32, Vec<(String, u64)>)> = Vec::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        let Some((name, fields)) = line.split_once(':').filter(|(name, _)| is_database(name)) else {
            continue;
        };
        let Ok(number) = name.trim_start_matches("db").parse() else { continue };
        let fields = fields.split(',').filter_map(|field| {
            let (name, value) = field.split_once('=')?;
            Some((name.to_string(), value.parse::<u64>().ok()?))
        });
        match rows.iter_mut().find(|row| row.0 == number) {
            None => rows.push((number, fields.collect())),
            Some((_, known)) => {
                for (name, value) in fields {
                    match known.iter_mut().find(|field| field.0 == name) {
                        Some((_, sum)) if name == "avg_ttl" => *sum = value.max(*sum),
                        Some((_, sum)) => *sum = sum.saturating_add(value),
                        None => known.push((name, value)),
                    }
                }
            }
        }
    }
    rows.sort_by_key(|row| row.0);
    let line = |(number, fields): (u32, Vec<(String, u64)>)| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("db{number}:{}\r\n", fields.join(","))
    };
    rows.into_iter().map(line).collect()
}

/// The text of a bulk or verbatim string.
fn text(reply: &[u8]) -> Option<String> {
    let (kind, length, rest) = super::line(reply)?;
    let body = rest.get(..usize::try_from(length).ok()?)?;
    let body = if kind == b'=' { body.get(4..)? } else { body };
    matches!(kind, b'$' | b'=').then(|| String::from_utf8_lossy(body).into_owned())
}
