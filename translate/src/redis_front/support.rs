//! What works on which back, as data.

use mecha_core::{OpClass, Protocol};
use mecha_memcached::Memcached;
use mecha_resp::{op_info, op_named};

use super::aggregate;

/// How far a command works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// With other means, or not in every respect: see the note.
    Emulated,
    /// As on a real server.
    Exact,
    /// Refused with a native error.
    Refused,
}

/// One command on one back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name; a subcommand has its command's name and `|` in front.
    pub command: &'static str,
    /// How far it works.
    pub support: Support,
    /// What to know about it.
    pub note: &'static str,
}

use Support::{Emulated, Exact, Refused};

/// Commands that are not rows of the programs' tables: in this process, on a remote back.
const OTHERS: &[(&str, Support, Support, &str)] = &[
    ("acl", Emulated, Emulated, "see its subcommands"),
    ("acl|users", Exact, Exact, "there is the default user"),
    ("acl|whoami", Exact, Exact, "there is the default user"),
    ("auth", Exact, Exact, "there is the default user, without a password"),
    ("client", Emulated, Emulated, "see its subcommands"),
    ("client|getname", Exact, Exact, ""),
    ("client|getredir", Exact, Exact, ""),
    ("client|help", Emulated, Emulated, "lists what works here"),
    ("client|id", Exact, Exact, ""),
    ("client|info", Emulated, Emulated, "without what only a server knows of itself"),
    ("client|kill", Emulated, Emulated, "clients of the same listener; not in transactions"),
    ("client|list", Emulated, Emulated, "clients of the same listener; in transactions the client itself"),
    ("client|no-evict", Emulated, Emulated, "without effect"),
    ("client|no-touch", Emulated, Emulated, "without effect"),
    ("client|reply", Emulated, Emulated, "ON"),
    ("client|setinfo", Emulated, Emulated, "as of Redis 7.2 on"),
    ("client|setname", Exact, Exact, ""),
    ("client|tracking", Emulated, Emulated, "OFF"),
    ("client|trackinginfo", Exact, Exact, ""),
    ("client|unblock", Emulated, Emulated, "clients of the same listener; not in transactions"),
    ("cluster", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|addslots", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|addslotsrange", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|bumpepoch", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|cancelslotmigrations", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|count-failure-reports", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|countkeysinslot", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|delslots", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|delslotsrange", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|failover", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|flushslot", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|flushslots", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|forget", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|getkeysinslot", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|getslotmigrations", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|help", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|info", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|keyslot", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|links", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|meet", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|migrateslots", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|migration", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|myid", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|myshardid", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|nodes", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|replicas", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|replicate", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|reset", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|saveconfig", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|set-config-epoch", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|setslot", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|shards", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|slaves", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|slot-stats", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|slots", Emulated, Emulated, "says that cluster support is disabled"),
    ("cluster|syncslots", Emulated, Emulated, "says that cluster support is disabled"),
    ("command", Emulated, Emulated, "what works here"),
    ("command|count", Emulated, Emulated, "what works here"),
    ("command|docs", Emulated, Emulated, "the summary says how far a command works"),
    ("command|getkeys", Exact, Exact, ""),
    ("command|help", Emulated, Emulated, "lists what works here"),
    ("command|info", Emulated, Emulated, "without categories and tips; key specifications without flags"),
    ("command|list", Emulated, Emulated, "what works here; no FILTERBY ACLCAT"),
    ("config", Emulated, Emulated, "see its subcommands"),
    ("config|get", Emulated, Emulated, "the few settings that have a meaning here"),
    ("config|resetstat", Emulated, Emulated, "without effect"),
    ("config|set", Emulated, Emulated, "the few settings that have a meaning here, to what they are"),
    ("dbsize", Exact, Refused, ""),
    ("discard", Exact, Exact, ""),
    ("echo", Exact, Exact, ""),
    ("exec", Exact, Emulated, "on a remote back at most one key may change"),
    ("flushall", Exact, Exact, ""),
    ("flushdb", Exact, Exact, ""),
    ("function", Emulated, Emulated, "see its subcommands"),
    ("function|flush", Exact, Exact, "there are none"),
    ("function|list", Emulated, Emulated, "there are none"),
    ("hello", Exact, Exact, ""),
    ("info", Emulated, Emulated, "what is known here"),
    ("keys", Exact, Refused, ""),
    ("lastsave", Emulated, Emulated, "when mecha was started"),
    ("latency", Emulated, Emulated, "see its subcommands"),
    ("latency|history", Emulated, Emulated, "nothing is recorded"),
    ("latency|latest", Emulated, Emulated, "nothing is recorded"),
    ("latency|reset", Emulated, Emulated, "nothing is recorded"),
    ("memory", Emulated, Emulated, "see its subcommands"),
    ("memory|usage", Emulated, Emulated, "what the embedded store counts for such a value"),
    ("module", Emulated, Emulated, "see its subcommands"),
    ("module|list", Exact, Exact, "there are none"),
    ("move", Emulated, Emulated, "there is one database to move to, where the key is"),
    ("multi", Exact, Exact, ""),
    ("object", Emulated, Emulated, "see its subcommands"),
    ("object|encoding", Emulated, Emulated, "what a server would choose for such a value"),
    ("object|freq", Exact, Emulated, "not tracked, which is the error that it answers"),
    ("object|help", Emulated, Emulated, "lists what works here"),
    ("object|idletime", Exact, Refused, ""),
    ("object|refcount", Emulated, Emulated, "1"),
    ("ping", Exact, Exact, ""),
    ("psubscribe", Exact, Emulated, WITHIN),
    ("publish", Exact, Emulated, WITHIN),
    ("pubsub", Emulated, Emulated, "see its subcommands"),
    ("pubsub|channels", Exact, Emulated, WITHIN),
    ("pubsub|help", Exact, Exact, ""),
    ("pubsub|numpat", Exact, Emulated, WITHIN),
    ("pubsub|numsub", Exact, Emulated, WITHIN),
    ("pubsub|shardchannels", Exact, Emulated, WITHIN),
    ("pubsub|shardnumsub", Exact, Emulated, WITHIN),
    ("punsubscribe", Exact, Emulated, WITHIN),
    ("quit", Exact, Exact, ""),
    ("randomkey", Exact, Refused, ""),
    ("readonly", Exact, Exact, "says that cluster support is disabled"),
    ("readwrite", Exact, Exact, "says that cluster support is disabled"),
    ("reset", Exact, Exact, ""),
    ("role", Emulated, Emulated, "a master without replicas"),
    ("scan", Exact, Refused, ""),
    ("script", Emulated, Emulated, "see its subcommands"),
    ("script|exists", Exact, Exact, "there are none"),
    ("script|flush", Exact, Exact, "there are none"),
    ("select", Emulated, Emulated, "database 0"),
    ("slowlog", Emulated, Emulated, "see its subcommands"),
    ("slowlog|get", Emulated, Emulated, "nothing is recorded"),
    ("slowlog|len", Emulated, Emulated, "nothing is recorded"),
    ("slowlog|reset", Emulated, Emulated, "nothing is recorded"),
    ("spublish", Exact, Emulated, WITHIN),
    ("ssubscribe", Exact, Emulated, WITHIN),
    ("subscribe", Exact, Emulated, WITHIN),
    ("sunsubscribe", Exact, Emulated, WITHIN),
    ("swapdb", Emulated, Emulated, "database 0 with itself"),
    ("time", Emulated, Emulated, "in milliseconds"),
    ("unsubscribe", Exact, Emulated, WITHIN),
    ("unwatch", Exact, Exact, ""),
    ("wait", Emulated, Emulated, "no replica acknowledges anything, which is answered at once"),
    ("watch", Exact, Refused, ""),
];

const WITHIN: &str = "among the clients of one mecha process; no subscribing in a transaction";

/// Programs that change more than one key, all or none.
const LOCAL_ONLY: &[&str] = &["rename", "renamenx"];

/// Programs that leave something out on a remote back.
const PARTIAL: &[(&str, &str)] =
    &[("sort", "BY and GET with patterns are refused"), ("sort_ro", "BY and GET with patterns are refused")];

/// Programs that are not what a server does on any back.
const NOWHERE_EXACT: &[(&str, &str)] = &[
    ("dump", "in plain encodings, which every server since 4.0 reads, uncompressed"),
    ("restore", "no streams and no values of modules"),
    ("restore-asking", "no streams and no values of modules"),
];

/// Programs that amount to one step on a remote back.
const ONE_STEP: &[&str] = &[
    "del",
    "exists",
    "expiretime",
    "get",
    "mget",
    "pexpiretime",
    "pttl",
    "setnx",
    "strlen",
    "touch",
    "ttl",
    "type",
    "unlink",
];

/// Programs that give a key an expiry.
const EXPIRING: &[&str] = &["expire", "expireat", "getex", "pexpire", "pexpireat", "psetex", "set", "setex"];

const NO_FAR_EXPIRY: &str = "no expiry after the year 2594 on memcached";
const BY_LOADING: &str = "loads the whole value";
const BY_COMPARE_AND_SWAP: &str = "loads the value, changes it, and stores it with compare-and-swap";

/// Commands of RESP that mecha does not simply pass on to servers of RESP.
const NATIVE_EMULATED: &[(&str, &str)] = &[
    ("client|setinfo", "answered by mecha, as of Redis 7.2 on"),
    ("psync", "on a connection of its own; its offsets and acknowledgements mean that connection"),
    ("sync", "on a connection of its own; its offsets and acknowledgements mean that connection"),
];

/// Commands of Memcached that are for one server alone.
const OF_ONE_SERVER: &[&str] =
    &["cache_memlimit", "extstore", "lru", "lru_crawler", "refresh_certs", "shutdown", "slabs", "watch"];
const REFUSED_BY_SEVERAL: &str = "on a connection of its own; refused where several servers share the keys";

const MEMCACHED_REFUSED: &[&str] = &[
    "bin_sasl_auth",
    "bin_sasl_list",
    "bin_sasl_step",
    "verbosity|bin_verbosity",
    "cache_memlimit",
    "extstore",
    "lru",
    "lru_crawler",
    "refresh_certs",
    "shutdown",
    "slabs",
    "watch",
];

const MEMCACHED_EMULATED: &[(&str, &str)] = &[
    ("me", "there are no slab classes; size is that of the value"),
    ("stats|bin_stat", "what is known here; no arguments but reset and settings"),
    ("stats", "what is known here; no arguments but reset and settings"),
    ("verbosity", "without effect"),
    ("version|bin_version", "1.6.18-mecha- and the version of mecha"),
    ("version", "1.6.18-mecha- and the version of mecha"),
];

/// What only the embedded store can do in full.
const MEMCACHED_REMOTE: &[(&str, &str)] = &[
    ("flush_all|bin_flush", "without a delay"),
    ("flush_all|bin_flushq", "without a delay"),
    ("flush_all", "without a delay"),
    ("md", "without I on redis"),
    ("mg", "without N, R, h and l on redis"),
    ("ms", "without I on redis"),
];

/// Whether a back with this name lives in this process.
pub(super) fn is_local(back: &str) -> bool {
    back == "embedded"
}

/// Every command of `front` on `back`, in the order of the command table. Where both speak the same protocol nothing
/// is translated, and the server behind decides.
pub fn supported(front: &str, back: &str) -> Vec<Row> {
    let is_memcached = front == Memcached::NAME;
    let names = || {
        let ops = if is_memcached { Memcached::ops() } else { <mecha_resp::Resp as Protocol>::ops() };
        ops.iter().map(|op| op.name)
    };
    if front == back {
        let names = names().skip(1).filter(|name| !is_memcached || is_memcached_command(name));
        return names.map(|command| native_row(command, is_memcached)).collect();
    }
    if is_memcached {
        let names = names().filter(|name| is_memcached_command(name));
        return names.map(|command| memcached_row(command, back)).collect();
    }
    names().skip(1).map(|command| resp_row(command, back)).collect()
}

/// Whether this is a command, and no form of one.
fn is_memcached_command(name: &str) -> bool {
    (!name.contains('|') || name.contains("|bin_"))
        && !name.ends_with("malformed")
        && !name.ends_with("unknown")
}

/// Where nothing is translated, what mecha does not simply pass on.
fn native_row(command: &'static str, is_memcached: bool) -> Row {
    if is_memcached {
        return if OF_ONE_SERVER.contains(&command) {
            Row { command, support: Emulated, note: REFUSED_BY_SEVERAL }
        } else if command == "verbosity|bin_verbosity" {
            Row { command, support: Refused, note: "refused, as memcached knows no such opcode" }
        } else {
            Row { command, support: Exact, note: "" }
        };
    }
    match NATIVE_EMULATED.iter().find(|(name, _)| *name == command) {
        Some((_, note)) => Row { command, support: Emulated, note },
        None => Row { command, support: Exact, note: "" },
    }
}

/// How far a command of RESP works.
pub(super) fn resp_support(command: &str, back: &str) -> Support {
    resp_entry(command, back).0
}

fn resp_row(command: &'static str, back: &str) -> Row {
    let (support, note) = resp_entry(command, back);
    Row { command, support, note: if support == Refused { "" } else { note } }
}

fn resp_entry(command: &str, back: &str) -> (Support, &'static str) {
    if let Some(spec) = aggregate::find(command.as_bytes()) {
        if let Some((_, note)) = NOWHERE_EXACT.iter().find(|(name, _)| *name == spec.name) {
            return (Emulated, note);
        }
        return match () {
            () if is_local(back) => (Exact, ""),
            () if PARTIAL.iter().any(|(name, _)| *name == spec.name) => (Emulated, partial_note(spec.name)),
            () if LOCAL_ONLY.contains(&spec.name) => (Refused, ""),
            () if EXPIRING.contains(&spec.name) => (Emulated, NO_FAR_EXPIRY),
            () if ONE_STEP.contains(&spec.name) => (Exact, ""),
            () if spec.note.is_empty() && is_read(spec.name) => (Emulated, BY_LOADING),
            () if spec.note.is_empty() => (Emulated, BY_COMPARE_AND_SWAP),
            () => (Emulated, spec.note),
        };
    }
    let found = OTHERS.binary_search_by(|(name, ..)| (*name).cmp(command)).ok().and_then(|at| OTHERS.get(at));
    let Some((_, local, remote, note)) = found else { return (Refused, "") };
    (if is_local(back) { *local } else { *remote }, note)
}

fn is_read(command: &str) -> bool {
    op_info(op_named(command.as_bytes())).class == OpClass::Read
}

fn partial_note(command: &str) -> &'static str {
    PARTIAL.iter().find(|(name, _)| *name == command).map_or("", |(_, note)| note)
}

fn memcached_row(command: &'static str, back: &str) -> Row {
    if MEMCACHED_REFUSED.contains(&command) {
        return Row { command, support: Refused, note: "" };
    }
    let remote = if is_local(back) { &[] } else { MEMCACHED_REMOTE };
    match MEMCACHED_EMULATED.iter().chain(remote).find(|(name, _)| *name == command) {
        Some((_, note)) => Row { command, support: Emulated, note },
        None => Row { command, support: Exact, note: "" },
    }
}

#[cfg(test)]
mod tests {
    use mecha_resp::COMMANDS;

    use super::*;

    #[test]
    fn the_tables_are_sorted_and_name_commands() {
        assert!(OTHERS.is_sorted_by(|one, other| one.0 < other.0));
        let programs = LOCAL_ONLY.iter().chain(ONE_STEP).chain(EXPIRING);
        for name in programs.chain(OTHERS.iter().map(|(name, ..)| name)) {
            assert!(COMMANDS.iter().any(|info| info.name == *name), "{name}");
        }
        for spec in aggregate::all() {
            assert!(COMMANDS.iter().any(|info| info.name == spec.name), "{}", spec.name);
        }
    }

    /// `docs/support.md` is written from the tables: `UPDATE_DOCS=1 cargo test -p mecha-translate support`.
    #[test]
    fn the_document_says_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/support.md");
        let expected = document();
        if std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1") {
            std::fs::write(path, &expected).expect("docs can be written");
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == expected, "docs/support.md is out of date; run with UPDATE_DOCS=1");
    }

    fn document() -> String {
        let mut text = String::from(
            "# What works on which back\n\n\
             Generated from the tables in `translate/src/redis_front/support.rs`. A listener whose protocol is that of \
             its servers passes everything on; the few exceptions are at the end.\n\n\
             *exact*: as on a real server. *emulated*: with other means, or not in every respect. *refused*: answered \
             with a native error; RESP clients read `ERR <COMMAND> is not supported on a <back> backend`.\n",
        );
        for (front, backs) in [("resp", ["embedded", "memcached"]), ("memcached", ["embedded", "resp"])] {
            let [first, second] = backs.map(|back| supported(front, back));
            text.push_str(&format!(
                "\n## {front} clients\n\n| command | {} | {} | notes |\n",
                backs[0], backs[1]
            ));
            text.push_str("|---|---|---|---|\n");
            let mut refused = Vec::new();
            for (one, other) in first.iter().zip(&second) {
                let command = one.command.replace('|', " ").to_uppercase();
                if one.support == Refused && other.support == Refused {
                    refused.push(command);
                    continue;
                }
                let mut notes = vec![one.note, other.note];
                notes.dedup();
                notes.retain(|note| !note.is_empty());
                let word = |row: &Row| format!("{:?}", row.support).to_lowercase();
                text.push_str(&format!(
                    "| `{command}` | {} | {} | {} |\n",
                    word(one),
                    word(other),
                    notes.join("; ")
                ));
            }
            text.push_str(&format!("\nRefused on both: {}.\n", refused.join(", ")));
        }
        text.push_str("\n## where nothing is translated\n\n");
        for (front, name) in [("resp", "resp"), ("memcached", "memcached")] {
            for row in supported(front, front).iter().filter(|row| row.support != Exact) {
                let command = row.command.replace('|', " ").to_uppercase();
                text.push_str(&format!("- `{command}` of {name} clients: {}.\n", row.note));
            }
        }
        text
    }
}
