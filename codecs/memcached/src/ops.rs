//! The operation table, kept by hand: Memcached has nothing that reports its commands.
//!
//! A request that wants no answer is an operation of its own (`set|noreply`, `mg|quiet`), because what its client may
//! see of the answer is decided by the operation alone. So are `mg` forms that change the item (`mg|update`), and the
//! opcodes of the binary protocol (`set|bin_setq`): a rule about `set` is about all of them.

use mecha_core::{OpClass, OpId, OpInfo};

const fn row(name: &'static str, class: OpClass, idempotent: bool) -> OpInfo {
    OpInfo { name, class, idempotent }
}

use OpClass::{Admin, Read, Session, Write};

macro_rules! table {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $class:ident, $idempotent:literal;)*) => {
        /// Row numbers, in the order of the table.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[repr(u16)]
        enum Row { $($id),* }
        $($(#[$doc])* pub const $id: OpId = OpId(Row::$id as u16);)*
        /// All rows.
        pub(crate) static OPS: &[OpInfo] = &[$(row($name, $class, $idempotent)),*];
    };
}

table! {
    /// No command of Memcached.
    UNKNOWN = "unknown", Session, false;
    /// A command whose line or data block is wrong; answered here.
    MALFORMED = "malformed", Session, false;
    /// The same of a command that wanted no answer.
    MALFORMED_NOREPLY = "malformed|noreply", Session, false;
    /// Closes the connection.
    QUIT = "quit", Session, true;
    /// Meta no-op; answered here, in its place among the answers.
    MN = "mn", Session, true;
    /// Ends the server, if it allows that; the rows from here to [`REFRESH_CERTS_NOREPLY`] concern one server alone.
    SHUTDOWN = "shutdown", Admin, false;
    /// Turns the connection into an endless log.
    WATCH = "watch", Admin, false;
    /// Looks through a server's memory for what has expired, or lists what is there.
    LRU_CRAWLER = "lru_crawler", Admin, false;
    /// Tunes which items a server's memory keeps.
    LRU = "lru", Admin, false;
    /// Moves a server's memory between sizes of items.
    SLABS = "slabs", Admin, false;
    /// Sets the size of a server's memory.
    CACHE_MEMLIMIT = "cache_memlimit", Admin, false;
    /// Tunes a server's storage.
    EXTSTORE = "extstore", Admin, false;
    /// Makes a server read its certificates again.
    REFRESH_CERTS = "refresh_certs", Admin, false;
    /// `lru` without answer; the rows from here on are in the order of those from [`LRU`].
    LRU_NOREPLY = "lru|noreply", Admin, false;
    /// `slabs` without answer.
    SLABS_NOREPLY = "slabs|noreply", Admin, false;
    /// `cache_memlimit` without answer.
    CACHE_MEMLIMIT_NOREPLY = "cache_memlimit|noreply", Admin, false;
    /// `extstore` without answer.
    EXTSTORE_NOREPLY = "extstore|noreply", Admin, false;
    /// `refresh_certs` without answer.
    REFRESH_CERTS_NOREPLY = "refresh_certs|noreply", Admin, false;
    /// Reads values.
    GET = "get", Read, true;
    /// Reads values with cas uniques.
    GETS = "gets", Read, true;
    /// Reads values and sets their expiry.
    GAT = "gat", Write, true;
    /// Reads values with cas uniques and sets their expiry.
    GATS = "gats", Write, true;
    /// Stores.
    SET = "set", Write, true;
    /// Stores if absent.
    ADD = "add", Write, false;
    /// Stores if present.
    REPLACE = "replace", Write, true;
    /// Adds bytes at the end.
    APPEND = "append", Write, false;
    /// Adds bytes at the front.
    PREPEND = "prepend", Write, false;
    /// Stores if unchanged.
    CAS = "cas", Write, false;
    /// Adds to a number.
    INCR = "incr", Write, false;
    /// Subtracts from a number.
    DECR = "decr", Write, false;
    /// Removes.
    DELETE = "delete", Write, true;
    /// Sets the expiry.
    TOUCH = "touch", Write, true;
    /// `set` without answer; the rows from here to [`TOUCH_NOREPLY`] are in the order of those from [`SET`].
    SET_NOREPLY = "set|noreply", Write, true;
    /// `add` without answer.
    ADD_NOREPLY = "add|noreply", Write, false;
    /// `replace` without answer.
    REPLACE_NOREPLY = "replace|noreply", Write, true;
    /// `append` without answer.
    APPEND_NOREPLY = "append|noreply", Write, false;
    /// `prepend` without answer.
    PREPEND_NOREPLY = "prepend|noreply", Write, false;
    /// `cas` without answer.
    CAS_NOREPLY = "cas|noreply", Write, false;
    /// `incr` without answer.
    INCR_NOREPLY = "incr|noreply", Write, false;
    /// `decr` without answer.
    DECR_NOREPLY = "decr|noreply", Write, false;
    /// `delete` without answer.
    DELETE_NOREPLY = "delete|noreply", Write, true;
    /// `touch` without answer.
    TOUCH_NOREPLY = "touch|noreply", Write, true;
    /// Removes everything.
    FLUSH_ALL = "flush_all", Admin, true;
    /// `flush_all` without answer.
    FLUSH_ALL_NOREPLY = "flush_all|noreply", Admin, true;
    /// Sets the server's log level.
    VERBOSITY = "verbosity", Admin, true;
    /// `verbosity` without answer.
    VERBOSITY_NOREPLY = "verbosity|noreply", Admin, true;
    /// Server statistics.
    STATS = "stats", Admin, true;
    /// Server version.
    VERSION = "version", Read, true;
    /// Item facts for people.
    ME = "me", Read, true;
    /// Meta get.
    MG = "mg", Read, true;
    /// Meta set.
    MS = "ms", Write, false;
    /// Meta delete.
    MD = "md", Write, true;
    /// Meta arithmetic.
    MA = "ma", Write, false;
    /// Meta get that hides misses; the rows from here to [`MA_QUIET`] are in the order of those from [`MG`].
    MG_QUIET = "mg|quiet", Read, true;
    /// Meta set that hides success.
    MS_QUIET = "ms|quiet", Write, false;
    /// Meta delete that hides success.
    MD_QUIET = "md|quiet", Write, true;
    /// Meta arithmetic that hides success.
    MA_QUIET = "ma|quiet", Write, false;
    /// Meta get that changes the item: touch, vivify, recache.
    MG_UPDATE = "mg|update", Write, false;
    /// The same, hiding misses.
    MG_UPDATE_QUIET = "mg|update|quiet", Write, false;
    /// Binary protocol: no opcode of Memcached; answered here.
    BIN_UNKNOWN = "bin_unknown", Session, false;
    /// Binary protocol: wrong lengths, or too large; answered here.
    BIN_MALFORMED = "bin_malformed", Session, false;
    /// Binary protocol: no-op; answered here, in its place among the answers.
    BIN_NOOP = "mn|bin_noop", Session, true;
    /// Binary protocol: closes the connection.
    BIN_QUIT = "quit|bin_quit", Session, true;
    /// The same without answer.
    BIN_QUITQ = "quit|bin_quitq", Session, true;
    /// Binary protocol: not known to memcached, which says so; answered here.
    BIN_VERBOSITY = "verbosity|bin_verbosity", Admin, true;
    /// `get` of the binary protocol.
    BIN_GET = "get|bin_get", Read, true;
    /// `getq` of the binary protocol.
    BIN_GETQ = "get|bin_getq", Read, true;
    /// `getk` of the binary protocol.
    BIN_GETK = "get|bin_getk", Read, true;
    /// `getkq` of the binary protocol.
    BIN_GETKQ = "get|bin_getkq", Read, true;
    /// `set` of the binary protocol.
    BIN_SET = "set|bin_set", Write, true;
    /// `setq` of the binary protocol.
    BIN_SETQ = "set|bin_setq", Write, true;
    /// `add` of the binary protocol.
    BIN_ADD = "add|bin_add", Write, false;
    /// `addq` of the binary protocol.
    BIN_ADDQ = "add|bin_addq", Write, false;
    /// `replace` of the binary protocol.
    BIN_REPLACE = "replace|bin_replace", Write, true;
    /// `replaceq` of the binary protocol.
    BIN_REPLACEQ = "replace|bin_replaceq", Write, true;
    /// `append` of the binary protocol.
    BIN_APPEND = "append|bin_append", Write, false;
    /// `appendq` of the binary protocol.
    BIN_APPENDQ = "append|bin_appendq", Write, false;
    /// `prepend` of the binary protocol.
    BIN_PREPEND = "prepend|bin_prepend", Write, false;
    /// `prependq` of the binary protocol.
    BIN_PREPENDQ = "prepend|bin_prependq", Write, false;
    /// `delete` of the binary protocol.
    BIN_DELETE = "delete|bin_delete", Write, true;
    /// `deleteq` of the binary protocol.
    BIN_DELETEQ = "delete|bin_deleteq", Write, true;
    /// `increment` of the binary protocol.
    BIN_INCREMENT = "incr|bin_increment", Write, false;
    /// `incrementq` of the binary protocol.
    BIN_INCREMENTQ = "incr|bin_incrementq", Write, false;
    /// `decrement` of the binary protocol.
    BIN_DECREMENT = "decr|bin_decrement", Write, false;
    /// `decrementq` of the binary protocol.
    BIN_DECREMENTQ = "decr|bin_decrementq", Write, false;
    /// `touch` of the binary protocol.
    BIN_TOUCH = "touch|bin_touch", Write, true;
    /// `gat` of the binary protocol.
    BIN_GAT = "gat|bin_gat", Write, true;
    /// `gatq` of the binary protocol.
    BIN_GATQ = "gat|bin_gatq", Write, true;
    /// `gatk` of the binary protocol.
    BIN_GATK = "gat|bin_gatk", Write, true;
    /// `gatkq` of the binary protocol.
    BIN_GATKQ = "gat|bin_gatkq", Write, true;
    /// `flush` of the binary protocol.
    BIN_FLUSH = "flush_all|bin_flush", Admin, true;
    /// `flushq` of the binary protocol.
    BIN_FLUSHQ = "flush_all|bin_flushq", Admin, true;
    /// `stat` of the binary protocol.
    BIN_STAT = "stats|bin_stat", Admin, true;
    /// `version` of the binary protocol.
    BIN_VERSION = "version|bin_version", Read, true;
    /// `sasl_list` of the binary protocol.
    BIN_SASL_LIST = "bin_sasl_list", Session, true;
    /// `sasl_auth` of the binary protocol.
    BIN_SASL_AUTH = "bin_sasl_auth", Session, false;
    /// `sasl_step` of the binary protocol.
    BIN_SASL_STEP = "bin_sasl_step", Session, false;
}

/// Whether the session answers this operation in the server's place.
pub(crate) fn is_local(op: OpId) -> bool {
    op.0 <= MN.0 || (BIN_UNKNOWN.0..=BIN_VERBOSITY.0).contains(&op.0)
}

/// Whether the operation is about one server: its life, its memory, its log. Where several servers share the keys none
/// of them is meant.
pub fn is_of_one_server(op: OpId) -> bool {
    (SHUTDOWN.0..=REFRESH_CERTS_NOREPLY.0).contains(&op.0)
}

/// Whether the operation is a quiet one of the binary protocol.
pub fn is_quiet_binary(op: OpId) -> bool {
    op == BIN_QUITQ || !crate::binary::start(op).is_empty()
}

/// Whether the operation is of the binary protocol.
pub fn is_binary(op: OpId) -> bool {
    op.0 >= BIN_UNKNOWN.0
}

/// Whether a request that wants no answer at all is of this operation.
pub fn is_noreply(op: OpId) -> bool {
    (SET_NOREPLY.0..=TOUCH_NOREPLY.0).contains(&op.0)
        || (LRU_NOREPLY.0..=REFRESH_CERTS_NOREPLY.0).contains(&op.0)
        || matches!(op, MALFORMED_NOREPLY | FLUSH_ALL_NOREPLY | VERBOSITY_NOREPLY)
}

/// Whether a frame is a meta set, whose errors are never hidden.
pub(crate) fn is_meta_store(frame: &[u8]) -> bool {
    crate::line::Words::new(frame).next().is_some_and(|word| word.bytes == b"ms")
}

/// The operation without its quiet form: what the command does.
pub fn spoken(op: OpId) -> OpId {
    if (SET_NOREPLY.0..=TOUCH_NOREPLY.0).contains(&op.0) {
        return OpId(op.0 - SET_NOREPLY.0 + SET.0);
    }
    if (LRU_NOREPLY.0..=REFRESH_CERTS_NOREPLY.0).contains(&op.0) {
        return OpId(op.0 - LRU_NOREPLY.0 + LRU.0);
    }
    if (MG_QUIET.0..=MA_QUIET.0).contains(&op.0) {
        return OpId(op.0 - MG_QUIET.0 + MG.0);
    }
    match op {
        FLUSH_ALL_NOREPLY => FLUSH_ALL,
        MALFORMED_NOREPLY => MALFORMED,
        MG_UPDATE | MG_UPDATE_QUIET => MG,
        VERBOSITY_NOREPLY => VERBOSITY,
        other => other,
    }
}

/// The form of `op` that wants no answer, for those that have one.
pub(crate) fn quiet(op: OpId) -> OpId {
    if (SET.0..=TOUCH.0).contains(&op.0) {
        return OpId(op.0 - SET.0 + SET_NOREPLY.0);
    }
    if (LRU.0..=REFRESH_CERTS.0).contains(&op.0) {
        return OpId(op.0 - LRU.0 + LRU_NOREPLY.0);
    }
    if (MG.0..=MA.0).contains(&op.0) {
        return OpId(op.0 - MG.0 + MG_QUIET.0);
    }
    match op {
        FLUSH_ALL => FLUSH_ALL_NOREPLY,
        MALFORMED => MALFORMED_NOREPLY,
        MG_UPDATE => MG_UPDATE_QUIET,
        VERBOSITY => VERBOSITY_NOREPLY,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quiet_row_names_its_spoken_row() {
        for (index, row) in OPS.iter().enumerate().filter(|(_, row)| !row.name.contains("bin_")) {
            let op = OpId(index as u16);
            let base = OPS[spoken(op).0 as usize];
            let mut parts = row.name.split('|');
            assert_eq!(parts.next(), Some(base.name));
            if row.name.ends_with("noreply") || row.name.ends_with("quiet") {
                let loud = row.name.rsplit_once('|').map(|(loud, _)| loud);
                let loud = OPS.iter().position(|row| Some(row.name) == loud).map(|at| OpId(at as u16));
                assert_eq!(loud.map(quiet), Some(op), "{}", row.name);
            }
        }
        // A rule about a text command must hold for the binary forms too.
        for row in OPS.iter().filter(|row| row.name.contains("|bin_")) {
            let text = row.name.split('|').next().and_then(|name| OPS.iter().find(|row| row.name == name));
            assert!(text.is_some_and(|text| text.class == row.class), "{}", row.name);
        }
        assert_eq!(OPS[UNKNOWN.0 as usize].name, "unknown");
        assert_eq!(UNKNOWN, OpId::UNKNOWN);
    }
}
