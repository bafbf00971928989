//! What works on which back, as data.

use mecha_core::Protocol;
use mecha_memcached::Memcached;
use mecha_resp::{COMMANDS, op_named};

use super::{aggregate, server};

/// How far a command works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// With the back's own means, or under locks.
    Emulated,
    /// As on a real server.
    Exact,
    /// Refused with a native error.
    Refused,
}

/// One command on one back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub command: &'static str,
    /// How far it works.
    pub support: Support,
    /// What to know about it.
    pub note: &'static str,
}

/// Every command of `front` on `back`, in the order of the command table.
pub fn supported(front: &str, back: &str) -> Vec<Row> {
    let is_local = back == "embedded";
    if front == Memcached::NAME {
        return Memcached::ops().iter().skip(1).map(|op| memcached_row(op.name)).collect();
    }
    COMMANDS.iter().skip(1).map(|info| resp_row(info.name, is_local)).collect()
}

fn resp_row(command: &'static str, is_local: bool) -> Row {
    let emulated = if is_local { Support::Exact } else { Support::Emulated };
    if let Some(spec) = aggregate::find(command.as_bytes()) {
        let needs_local = spec.note.starts_with("only on the embedded store") && !is_local;
        let is_string = super::strings::COMMANDS.iter().chain(super::keys::COMMANDS).any(|own| own.name == spec.name);
        let support = match (needs_local, is_string) {
            (true, _) => Support::Refused,
            (_, true) => Support::Exact,
            _ => emulated,
        };
        return Row { command, support, note: if is_local { "" } else { spec.note } };
    }
    let is_answered = server::answers(command)
        || matches!(command, "flushall" | "flushdb")
        || command == "dbsize" && is_local;
    let support = if is_answered && op_named(command.as_bytes()).0 > 0 || command.contains('|') && server::answers(command) {
        Support::Exact
    } else {
        Support::Refused
    };
    Row { command, support, note: "" }
}

fn memcached_row(command: &'static str) -> Row {
    const REFUSED: [&str; 8] =
        ["shutdown", "watch", "lru", "lru_crawler", "slabs", "cache_memlimit", "extstore", "refresh_certs"];
    let base = command.split('|').next().unwrap_or(command);
    let support = if REFUSED.contains(&base) { Support::Refused } else { Support::Exact };
    Row { command, support, note: "" }
}
