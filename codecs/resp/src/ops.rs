//! The command table and how a command is found in it.
//!
//! The rows are generated (`cargo xtask commands`). A name is found by hashing at most sixteen of its bytes, case
//! folded, into a table that the compiler builds; subcommands (`CLIENT SETNAME` is `client|setname`) have the same.

mod access;
pub(crate) mod learned;
mod table;

use mecha_core::{OpClass, OpId, OpInfo};

pub use self::access::CATEGORIES;
pub use self::learned::is_learned;
pub use table::{COMMANDS, op};

/// Bits of [`CommandInfo::flags`], named as the server names them.
#[allow(missing_docs, reason = "the names are the server's")]
pub mod flag {
    pub const ADMIN: u16 = 1;
    pub const BLOCKING: u16 = 1 << 1;
    pub const FAST: u16 = 1 << 2;
    pub const MOVABLEKEYS: u16 = 1 << 3;
    pub const NO_AUTH: u16 = 1 << 4;
    pub const NOSCRIPT: u16 = 1 << 5;
    pub const PUBSUB: u16 = 1 << 6;
    pub const READONLY: u16 = 1 << 7;
    pub const WRITE: u16 = 1 << 8;
}

/// Where the keys of a command begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this argument; 0 is the command's name.
    Index(i16),
    /// Behind this word, looked for from this argument on; a negative one counts from the end, backwards.
    Keyword(&'static str, i16),
}

/// How the keys are found from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// An argument tells how many there are.
    Number {
        /// Where that argument is, from the beginning.
        at: i16,
        /// Where the first key is, from the beginning.
        first: i16,
        /// Distance between keys.
        step: i16,
    },
    /// They are in a range.
    Range {
        /// Distance of the last from the first; negative counts from the end of the arguments.
        last: i16,
        /// Distance between keys.
        step: i16,
        /// With `last` -1: the keys are in the first 1/limit of what is left.
        limit: i16,
    },
}

/// One group of keys of a command. <https://redis.io/docs/latest/develop/reference/key-specs/>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Where they begin.
    pub begin: Begin,
    /// How they are found.
    pub find: Find,
}

impl KeySpec {
    /// Keys from argument `first` on.
    pub const fn range(first: i16, last: i16, step: i16, limit: i16) -> Self {
        Self { begin: Begin::Index(first), find: Find::Range { last, step, limit } }
    }
}

/// What is known of one command or subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandInfo {
    /// Lower case; a subcommand has its command's name and `|` in front.
    pub name: &'static str,
    /// Number of arguments with the name; negative is at least so many.
    pub arity: i16,
    /// See [`flag`].
    pub flags: u16,
    /// What it does.
    pub class: OpClass,
    /// Whether repeating it changes nothing.
    pub idempotent: bool,
    /// Whether the next argument is a subcommand.
    pub is_container: bool,
    /// Where its keys are.
    pub keys: &'static [KeySpec],
}

impl CommandInfo {
    /// Stands for every command that the table lacks.
    pub const UNKNOWN: Self = Self {
        name: "unknown",
        arity: -1,
        flags: 0,
        class: OpClass::Write,
        idempotent: false,
        is_container: false,
        keys: &[],
    };

    /// Whether all of `flags` are set.
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// Whether `count` arguments, the name included, are a number that the server accepts.
    pub const fn accepts(&self, count: usize) -> bool {
        let count = count as i64;
        if self.arity >= 0 { count == self.arity as i64 } else { count >= -(self.arity as i64) }
    }

    /// First key, last key and step as `COMMAND` reports them; zeros if there is no such range.
    pub const fn key_range(&self) -> (i16, i16, i16) {
        match self.keys.first() {
            Some(KeySpec { begin: Begin::Index(first), find: Find::Range { last, step, .. } }) => {
                (*first, if *last < 0 { *last } else { *first + *last }, *step)
            }
            _ => (0, 0, 0),
        }
    }

    /// Whether there is one key, where the table says.
    const fn is_single_key(&self) -> bool {
        matches!(self.keys, [KeySpec { begin: Begin::Index(_), find: Find::Range { last: 0, .. } }])
    }

    /// The argument that is the first key, if that can be told from the table alone. 0 if not.
    const fn first_key(&self) -> u8 {
        match self.keys.first() {
            Some(KeySpec { begin: Begin::Index(index), find: Find::Range { .. } })
                if *index > 0 && *index <= u8::MAX as i16 =>
            {
                *index as u8
            }
            _ => 0,
        }
    }
}

const COUNT: usize = COMMANDS.len();

/// What a rule about access needs to know of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// A bit for each of [`CATEGORIES`].
    pub categories: u32,
    /// What is done with the keys of each specification, see [`touch`].
    pub keys: &'static [u8],
}

/// Bits of [`Access::keys`].
pub mod touch {
    /// Values are read.
    pub const READ: u8 = 1;
    /// Values are changed, or keys come and go.
    pub const WRITE: u8 = 1 << 1;
    /// It is a channel, not a key.
    pub const CHANNEL: u8 = 1 << 2;
}

/// What a rule about access needs to know of `op`.
pub fn access(op: OpId) -> Access {
    let known = access::ACCESS.get(usize::from(op.0)).copied();
    known.or_else(|| Some(learned::row(op)?.access)).unwrap_or(Access { categories: 0, keys: &[] })
}

/// The neutral rows.
static OPS: [OpInfo; COUNT] = {
    let mut ops = [OpInfo { name: "unknown", class: OpClass::Write, idempotent: false }; COUNT];
    let mut index = 1;
    while index < COUNT {
        let info = &COMMANDS[index];
        ops[index] = OpInfo { name: info.name, class: info.class, idempotent: info.idempotent };
        index += 1;
    }
    ops
};

/// The neutral rows.
pub fn ops() -> &'static [OpInfo] {
    &OPS
}

/// What is known of `op`.
pub fn op_info(op: OpId) -> &'static CommandInfo {
    match COMMANDS.get(usize::from(op.0)) {
        Some(info) => info,
        None => learned::row(op).map_or(&CommandInfo::UNKNOWN, |row| &row.info),
    }
}

/// What the decoder needs of a row, packed so that it stays in the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) class: OpClass,
    pub(crate) first_key: u8,
    pub(crate) is_container: bool,
    /// Whether the first key is the only one.
    pub(crate) is_single_key: bool,
    /// Whether the session must look at it.
    pub(crate) is_special: bool,
    /// Whether a replica may answer it.
    pub(crate) is_reading: bool,
}

impl Facts {
    const fn of(info: &CommandInfo, is_stateful: bool) -> Self {
        Self {
            class: info.class,
            first_key: info.first_key(),
            is_container: info.is_container,
            is_single_key: info.is_single_key(),
            is_special: info.has(flag::BLOCKING) || matches!(info.class, OpClass::Session) || is_stateful,
            is_reading: info.has(flag::READONLY)
                && !info.keys.is_empty()
                // What it does to the key's age must be done where keys are evicted.
                && !equal(info.name.as_bytes(), b"touch"),
        }
    }
}

/// A name that the table lacks may be one that the session knows (`POST`).
const UNKNOWN_FACTS: Facts = Facts {
    class: OpClass::Write,
    first_key: 0,
    is_container: false,
    is_single_key: false,
    is_special: true,
    is_reading: false,
};

static FACTS: [Facts; COUNT] = {
    let mut facts = [UNKNOWN_FACTS; COUNT];
    let mut index = 1;
    while index < COUNT {
        let info = &COMMANDS[index];
        facts[index] = Facts::of(info, is_stateful(info.name));
        index += 1;
    }
    facts
};

/// Commands outside the session class that concern more than one call.
const fn is_stateful(name: &str) -> bool {
    let names = [
        "asking",
        "client|capa",
        "client|import-source",
        "function|kill",
        "info",
        "monitor",
        "psync",
        "punsubscribe",
        "readonly",
        "readwrite",
        "replconf",
        "script|debug",
        "script|kill",
        "shutdown",
        "sunsubscribe",
        "sync",
        "unsubscribe",
        "wait",
        "waitaof",
        "xread",
        "xreadgroup",
    ];
    let mut at = 0;
    while at < names.len() {
        if equal(name.as_bytes(), names[at].as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn equal(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

pub(crate) fn facts(op: OpId) -> Facts {
    match FACTS.get(usize::from(op.0)) {
        Some(facts) => *facts,
        None => learned::row(op).map_or(UNKNOWN_FACTS, |row| row.facts),
    }
}

/// Whether the session must look at it.
pub(crate) fn is_special(op: OpId) -> bool {
    facts(op).is_special
}

// === lookup ===

/// Slots of the hash table: a power of two, four times the rows.
const SLOTS: usize = 2048;

/// Hash of a name without case: first and last eight bytes, length, and the container for subcommands.
const fn hash(name: &[u8], container: u16) -> usize {
    let (head, tail) = (fold(name, 0), fold(name, name.len().saturating_sub(8)));
    let mixed = head ^ tail.rotate_left(23) ^ ((name.len() as u64) << 56) ^ ((container as u64) << 40);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as usize % SLOTS
}

/// Up to eight bytes from `at` on, in lower case.
const fn fold(name: &[u8], at: usize) -> u64 {
    let (mut word, mut count) = (0, 0);
    while count < 8 && at + count < name.len() {
        word = word << 8 | (name[at + count] | 0x20) as u64;
        count += 1;
    }
    word
}

static INDEX: [u16; SLOTS] = {
    let mut slots = [0; SLOTS];
    let mut row = 1;
    while row < COUNT {
        let name = COMMANDS[row].name.as_bytes();
        let bar = bar(name);
        let container = if bar < name.len() { find_row(name, bar) } else { 0 };
        let own = if bar < name.len() { name.split_at(bar + 1).1 } else { name };
        let mut slot = hash(own, container);
        while slots[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = row as u16;
        row += 1;
    }
    slots
};

/// Where the bar of a subcommand's name is; the length if there is none.
const fn bar(name: &[u8]) -> usize {
    let mut at = 0;
    while at < name.len() && name[at] != b'|' {
        at += 1;
    }
    at
}

/// The row of the container whose name is the first `length` bytes of `name`.
const fn find_row(name: &[u8], length: usize) -> u16 {
    let mut row = 1;
    while row < COUNT {
        if equal(COMMANDS[row].name.as_bytes(), name.split_at(length).0) {
            return row as u16;
        }
        row += 1;
    }
    0
}

fn find(name: &[u8], container: OpId) -> OpId {
    let mut slot = hash(name, container.0);
    while let Some(row) = INDEX.get(slot).copied().filter(|row| *row != 0) {
        let full = COMMANDS.get(usize::from(row)).map_or("", |info| info.name).as_bytes();
        let is_same = match container {
            OpId::UNKNOWN => full.eq_ignore_ascii_case(name),
            _ => {
                let own = full.get(full.len().saturating_sub(name.len())..).unwrap_or_default();
                let stem = op_info(container).name.len();
                own.eq_ignore_ascii_case(name)
                    && full.len() == stem + 1 + name.len()
                    && full.get(stem) == Some(&b'|')
            }
        };
        if is_same {
            return OpId(row);
        }
        slot = (slot + 1) % SLOTS;
    }
    OpId::UNKNOWN
}

/// The command called `name`, in any case; [`OpId::UNKNOWN`] if the table lacks it. For subcommands see [`sub_named`].
pub fn op_named(name: &[u8]) -> OpId {
    // A bar is never part of a command's own name.
    if name.contains(&b'|') { OpId::UNKNOWN } else { find(name, OpId::UNKNOWN) }
}

/// The subcommand `name` of `container`; the container itself if the table lacks it.
pub fn sub_named(container: OpId, name: &[u8]) -> OpId {
    match find(name, container) {
        OpId::UNKNOWN => container,
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        for (row, info) in COMMANDS.iter().enumerate().skip(1) {
            for name in [info.name.to_string(), info.name.to_uppercase()] {
                let found = match name.split_once('|') {
                    Some((container, own)) => sub_named(op_named(container.as_bytes()), own.as_bytes()),
                    None => op_named(name.as_bytes()),
                };
                assert_eq!(usize::from(found.0), row, "{name}");
            }
        }
    }

    #[test]
    fn other_names_are_unknown() {
        for name in ["", "g", "gett", "client|setname", "get\0", "averyveryverylongcommandname", "\u{ff}"] {
            assert_eq!(op_named(name.as_bytes()), OpId::UNKNOWN, "{name}");
        }
        assert_eq!(sub_named(op::CLIENT, b"nosuch"), op::CLIENT);
    }
}
