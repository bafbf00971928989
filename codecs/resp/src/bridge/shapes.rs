//! How replies of version 3 differ from those of version 2, command by command.
//!
//! Kept by hand, as servers do not tell, and held against real servers (`tests/it/versions.rs`). Nulls differ everywhere and
//! need no shape.

use mecha_core::OpId;

use crate::args;
use crate::ops::op;

/// What becomes of one value.
#[derive(Debug)]
pub(super) enum Shape {
    /// An array of such values.
    Array(&'static Shape),
    /// An array of two, which are the name and the value of one entry of a map.
    Entry,
    /// An array of such entries, which becomes a map.
    Entries,
    /// An array of such values, or an empty set.
    Branches(&'static Shape),
    /// A number that was text.
    Double,
    /// Values alternate between the two.
    Flat(&'static Shape, &'static Shape),
    /// As it is.
    Keep,
    /// An array of names and values that becomes a map.
    Map(&'static Shape, &'static Shape),
    /// An array whose values alternate becomes one of pairs.
    Pairs(&'static Shape, &'static Shape),
    /// A map whose values differ by their names; others are kept.
    Record(&'static [(&'static str, &'static Shape)]),
    /// An array that becomes a set of such values.
    Set(&'static Shape),
    /// Each place has its own; those behind the last are kept.
    Tuple(&'static [&'static Shape]),
    /// Text that is meant for people.
    Verbatim,
}

use Shape::{Array, Branches, Double, Entries, Entry, Flat, Keep, Map, Pairs, Record, Set, Tuple, Verbatim};

static KEEP: Shape = Keep;
static DOUBLE: Shape = Double;
static VERBATIM: Shape = Verbatim;
static SET: Shape = Set(&KEEP);
static MAP: Shape = Map(&KEEP, &KEEP);
static ENTRIES: Shape = Entries;
static ENTRY: Shape = Entry;
static MAPS: Shape = Array(&MAP);
static DOUBLES: Shape = Array(&DOUBLE);
static SCORED: Shape = Flat(&KEEP, &DOUBLE);
static SCORED_PAIRS: Shape = Pairs(&KEEP, &DOUBLE);
static PAIRS: Shape = Pairs(&KEEP, &KEEP);
static POPPED: Shape = Tuple(&[&KEEP, &KEEP, &DOUBLE]);
static MULTI_POPPED: Shape = Tuple(&[&KEEP, &Array(&Tuple(&[&KEEP, &DOUBLE]))]);
static RANKED: Shape = Tuple(&[&KEEP, &DOUBLE]);
static POSITIONS: Shape = Array(&DOUBLES);
/// `COMMAND`, `COMMAND INFO`: three levels of subcommands are more than there are.
static COMMANDS: Shape =
    Array(&Tuple(&[&KEEP, &KEEP, &SET, &KEEP, &KEEP, &KEEP, &SET, &SET, &KEY_SPECS, &SUBCOMMANDS]));
static SUBCOMMANDS: Shape =
    Branches(&Tuple(&[&KEEP, &KEEP, &SET, &KEEP, &KEEP, &KEEP, &SET, &SET, &KEY_SPECS, &SET]));
static KEY_SPECS: Shape = Set(&Record(&[
    ("flags", &SET),
    ("begin_search", &Record(&[("spec", &MAP)])),
    ("find_keys", &Record(&[("spec", &MAP)])),
]));
static DOCS: Shape = Map(&KEEP, &DOC);
static DOC: Shape =
    Record(&[("doc_flags", &SET), ("arguments", &ARGUMENTS), ("subcommands", &DOCS), ("history", &SET)]);
static ARGUMENTS: Shape = Array(&Record(&[("arguments", &ARGUMENTS), ("flags", &SET)]));
static STREAM: Shape = Record(&[]);
static STREAM_FULL: Shape = Record(&[("groups", &Array(&Record(&[("consumers", &Array(&Record(&[])))])))]);
static USER: Shape = Record(&[("flags", &SET), ("selectors", &MAPS)]);
static ACL_LOG: Shape = Array(&Record(&[("age-seconds", &DOUBLE)]));
static LIBRARIES: Shape = Array(&Record(&[("functions", &Array(&Record(&[("flags", &SET)])))]));
static FUNCTION_STATS: Shape = Record(&[("running_script", &MAP), ("engines", &Map(&KEEP, &MAP))]);
static MATCHES: Shape = Record(&[]);
static MEMORY: Shape = Record(&[
    ("keys.bytes-per-key", &KEEP),
    ("dataset.percentage", &DOUBLE),
    ("peak.percentage", &DOUBLE),
    ("allocator-fragmentation.ratio", &DOUBLE),
    ("allocator-rss.ratio", &DOUBLE),
    ("rss-overhead.ratio", &DOUBLE),
    ("fragmentation", &DOUBLE),
    ("db.*", &MAP),
]);
static HISTOGRAM: Shape = Map(&KEEP, &Record(&[("histogram_usec", &MAP)]));
static TRACKING: Shape = Record(&[("flags", &SET)]);
static SHARDS: Shape = Array(&Record(&[("nodes", &MAPS)]));

/// What becomes of the reply to the request in `frame`.
pub(super) fn of(op: OpId, frame: &[u8]) -> &'static Shape {
    let has =
        |from: usize, word: &str| args(frame).skip(from).any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    let count = || args(frame).count();
    match op {
        op::HGETALL | op::CONFIG_GET => &MAP,
        op::XREAD | op::XREADGROUP => &ENTRIES,
        op::XINFO_GROUPS | op::XINFO_CONSUMERS | op::MODULE_LIST | op::CLUSTER_LINKS => &MAPS,
        op::SMEMBERS | op::SUNION | op::SINTER | op::SDIFF => &SET,
        op::SPOP if count() > 2 => &SET,
        op::ZSCORE | op::ZINCRBY => &DOUBLE,
        op::ZADD if has(2, "INCR") => &DOUBLE,
        op::ZMSCORE => &DOUBLES,
        op::ZPOPMIN | op::ZPOPMAX if count() > 2 => &SCORED_PAIRS,
        op::ZPOPMIN | op::ZPOPMAX => &SCORED,
        op::BZPOPMIN | op::BZPOPMAX => &POPPED,
        op::ZMPOP | op::BZMPOP => &MULTI_POPPED,
        op::ZRANK | op::ZREVRANK if has(3, "WITHSCORE") => &RANKED,
        op::ZRANGE
        | op::ZRANGEBYSCORE
        | op::ZREVRANGE
        | op::ZREVRANGEBYSCORE
        | op::ZUNION
        | op::ZINTER
        | op::ZDIFF
        | op::ZRANDMEMBER
            if has(3, "WITHSCORES") =>
        {
            &SCORED_PAIRS
        }
        op::HRANDFIELD if has(3, "WITHVALUES") => &PAIRS,
        op::GEOPOS => &POSITIONS,
        op::GEOSEARCH
        | op::GEORADIUS
        | op::GEORADIUS_RO
        | op::GEORADIUSBYMEMBER
        | op::GEORADIUSBYMEMBER_RO => {
            let is_far = has(2, "WITHDIST");
            match (has(2, "WITHCOORD"), usize::from(is_far) + usize::from(has(2, "WITHHASH"))) {
                (false, _) => &KEEP,
                (true, 0) => &const { Array(&Tuple(&[&Keep, &Array(&Double)])) },
                (true, 1) => &const { Array(&Tuple(&[&Keep, &Keep, &Array(&Double)])) },
                (true, _) => &const { Array(&Tuple(&[&Keep, &Keep, &Keep, &Array(&Double)])) },
            }
        }
        op::INFO
        | op::LOLWUT
        | op::CLIENT_LIST
        | op::CLIENT_INFO
        | op::CLUSTER_INFO
        | op::CLUSTER_NODES
        | op::LATENCY_DOCTOR
        | op::LATENCY_GRAPH
        | op::MEMORY_DOCTOR
        | op::MEMORY_MALLOC_STATS => &VERBATIM,
        op::COMMAND | op::COMMAND_INFO => &COMMANDS,
        op::COMMAND_DOCS => &DOCS,
        op::XINFO_STREAM if has(3, "FULL") => &STREAM_FULL,
        op::XINFO_STREAM => &STREAM,
        op::ACL_GETUSER => &USER,
        op::ACL_LOG if !has(2, "RESET") => &ACL_LOG,
        op::FUNCTION_LIST => &LIBRARIES,
        op::FUNCTION_STATS => &FUNCTION_STATS,
        op::LCS if has(3, "IDX") => &MATCHES,
        op::MEMORY_STATS => &MEMORY,
        op::LATENCY_HISTOGRAM => &HISTOGRAM,
        op::CLIENT_TRACKINGINFO => &TRACKING,
        op::CLUSTER_SHARDS => &SHARDS,
        _ => &KEEP,
    }
}

/// The shape of the value with this name in a [`Shape::Record`].
pub(super) fn field(fields: &'static [(&'static str, &'static Shape)], name: &[u8]) -> &'static Shape {
    let is_it = |known: &&(&str, &Shape)| match known.0.strip_suffix('*') {
        Some(start) => name.starts_with(start.as_bytes()),
        None => name == known.0.as_bytes(),
    };
    fields.iter().find(is_it).map_or(&KEEP, |(_, shape)| shape)
}

/// Of each value of a [`Shape::Entries`].
pub(super) fn entry() -> &'static Shape {
    &ENTRY
}

pub(super) fn keep() -> &'static Shape {
    &KEEP
}
