//! `INFO` and `CONFIG GET`: what is known here, in the server's form. Fields of mecha's own begin with `mecha_`.

use mecha_core::Outcome;
use mecha_resp::reply::Writer;

use super::super::hash::content::is;
use super::REDIS_VERSION;
use crate::exchange::Door;
use crate::kv::{KeySpace, PlanCx, RunCx, Walk};
use mecha_resp::glob;

/// Settings that have a meaning here.
const SETTINGS: [(&str, &str); 7] = [
    ("appendonly", "no"),
    ("cluster-enabled", "no"),
    ("databases", "1"),
    ("notify-keyspace-events", ""),
    ("proto-max-bulk-len", "536870912"),
    ("requirepass", ""),
    ("save", ""),
];

/// `INFO`. Of the keys it tells what a back in this process knows.
pub(in crate::redis_front) struct Info {
    words: Vec<Vec<u8>>,
    proto: u8,
    back: &'static str,
    uptime_s: u64,
    waiting: usize,
    /// How many channels, and how many patterns, somebody listens to.
    heard: (usize, usize),
}

// === impl Info ===

impl Info {
    /// With these arguments, the name first.
    pub(in crate::redis_front) fn new(words: &[Vec<u8>], proto: u8, cx: &PlanCx<'_>) -> Self {
        let uptime_s = (cx.now_ms / 1000).saturating_sub(cx.started_at.unix_seconds);
        let heard = cx.door.map(Door::heard_names).unwrap_or_default();
        Self { words: words.to_vec(), proto, back: cx.back, uptime_s, waiting: cx.waiting, heard }
    }

    /// The answer. `keys` is what is known of all keys.
    pub(in crate::redis_front) fn answer(
        &self,
        keys: Option<&dyn KeySpace>,
        max_value: usize,
        out: &mut Vec<u8>,
    ) {
        Writer::new(out, self.proto).verbatim("txt", self.text(keys, max_value).as_bytes());
    }

    fn text(&self, keys: Option<&dyn KeySpace>, max_value: usize) -> String {
        let Self { words, back, uptime_s: uptime, waiting, heard: (channels, patterns), .. } = self;
        let server = format!(
            "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\narch_bits:{}\r\nprocess_id:{}\r\n\
         uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\nmecha_version:{}\r\nmecha_back:{back}\r\n",
            usize::BITS,
            std::process::id(),
            uptime / 86_400,
            env!("CARGO_PKG_VERSION"),
        );
        let counted = keys.map(|keys| (keys.count(), keys.expiring(), keys.bytes(), keys.evictions()));
        let keyspace = match counted {
            Some((keys @ 1.., expiring, ..)) => format!("db0:keys={keys},expires={expiring},avg_ttl=0\r\n"),
            _ => String::new(),
        };
        let memory =
            counted.map_or_else(String::new, |(.., bytes, _)| format!("used_memory_dataset:{bytes}\r\n"));
        let evicted = counted.map_or_else(String::new, |(.., evicted)| format!("evicted_keys:{evicted}\r\n"));
        let sections = [
            ("Server", server),
            ("Clients", format!("blocked_clients:{waiting}\r\ntracking_clients:0\r\n")),
            ("Memory", format!("{memory}mecha_max_value_bytes:{max_value}\r\n")),
            ("Persistence", "loading:0\r\naof_enabled:0\r\n".to_owned()),
            ("Stats", format!("{evicted}pubsub_channels:{channels}\r\npubsub_patterns:{patterns}\r\n")),
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
}

impl Walk for Info {
    fn run(&mut self, keys: &dyn KeySpace, cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        self.answer(Some(keys), cx.max_value, out);
        Outcome::Ok
    }
}

/// `CONFIG GET` with these arguments.
/// `CONFIG SET`: every setting may be set to what it is, which clients do that want it so; nothing can be changed.
pub(super) fn config_set(words: &[Vec<u8>], writer: &mut Writer<'_>) {
    let pairs = words.get(2..).unwrap_or_default();
    if pairs.len() % 2 == 1 {
        writer.error("ERR syntax error");
        return;
    }
    let pairs: Vec<(String, &[u8])> = pairs
        .chunks(2)
        .filter_map(|pair| {
            Some((String::from_utf8_lossy(pair.first()?).to_ascii_lowercase(), pair.get(1)?.as_slice()))
        })
        .collect();
    let found = |name: &str| SETTINGS.iter().find(|(known, _)| *known == name);
    if let Some(at) = pairs.iter().position(|(name, _)| found(name).is_none()) {
        let name = words.get(2 + 2 * at).map(Vec::as_slice).unwrap_or_default();
        writer.error_bytes(
            &[b"ERR Unknown option or number of arguments for CONFIG SET - '", name, b"'"].concat(),
        );
        return;
    }
    for (at, (name, value)) in pairs.iter().enumerate() {
        let why = match () {
            () if pairs.iter().take(at).any(|(before, _)| before == name) => "duplicate parameter",
            () if found(name).is_some_and(|(_, is)| value.eq_ignore_ascii_case(is.as_bytes())) => continue,
            () => "can't set immutable config",
        };
        writer.error(&format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"));
        return;
    }
    writer.ok();
}

/// `CONFIG GET`.
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
