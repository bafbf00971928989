//! One key and what it holds: the neutral model that every front reads and writes, and every back stores.

use std::cell::Cell;
use std::collections::VecDeque;

use indexmap::{IndexMap, IndexSet};

use crate::kv::Expire;
use crate::zset::ZSet;

/// What a key holds. Aggregates keep insertion order.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Field to value.
    Hash(IndexMap<Vec<u8>, Vec<u8>>),
    /// Left end first.
    List(VecDeque<Vec<u8>>),
    /// Distinct members.
    Set(IndexSet<Vec<u8>>),
    /// Bytes, also numbers and bitmaps.
    Str(Vec<u8>),
    /// Members ordered by score, then bytes.
    ZSet(ZSet),
}

impl Value {
    /// Whether this is an aggregate without elements: such a key does not exist.
    pub fn is_vacant(&self) -> bool {
        match self {
            Self::Hash(fields) => fields.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Set(members) => members.is_empty(),
            Self::Str(_) => false,
            Self::ZSet(members) => members.is_empty(),
        }
    }
}

/// A key that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Unix time in milliseconds at which the key ceases to exist; `None` is never.
    pub expire_at_ms: Option<u64>,
    /// Memcached client flags. 0 for keys written through RESP.
    pub flags: u32,
    /// Changes with every write; memcached's cas unique. Fronts read it and never write it.
    pub token: u64,
    /// Changed by reads too, so they are in a cell. Only the embedded store keeps them.
    pub marks: Cell<Marks>,
}

/// What memcached's meta protocol knows about an item besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Unix seconds of the last read or, before the first, of the write; 0 is unknown.
    pub accessed_s: u32,
    /// Has been read since it was written.
    pub is_fetched: bool,
    /// Marked as outdated: still readable, and some client should renew it.
    pub is_stale: bool,
    /// A client has been told that it is the one to renew it.
    pub is_won: bool,
}

impl Marks {
    /// Those of something that is written now.
    pub fn written(now_ms: u64) -> Self {
        Self { accessed_s: (now_ms / 1000) as u32, ..Self::default() }
    }

    /// The same after a use that is no reading, as Memcached has it.
    pub fn used(self, now_ms: u64) -> Self {
        Self { accessed_s: (now_ms / 1000) as u32, ..self }
    }

    /// The same after a read.
    pub fn read(self, now_ms: u64) -> Self {
        Self { is_fetched: true, accessed_s: (now_ms / 1000) as u32, ..self }
    }
}

impl Entry {
    /// A fresh value without expiry.
    pub fn new(value: Value) -> Self {
        Self { value, expire_at_ms: None, flags: 0, token: 0, marks: Cell::default() }
    }
}

/// One key during one command: loaded by the back, changed by the front's program, stored by the back if `changed`.
/// An entry that has expired at the command's time is loaded as absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slot {
    /// `None`: the key does not exist.
    pub entry: Option<Entry>,
    /// Set by the program when the back must store (or delete) the entry.
    pub changed: bool,
    /// Set by the program when the back must store the entry with the token that it has: only its expiry is another, or
    /// its marks.
    pub touched: bool,
}

impl Slot {
    /// Replaces the whole entry; a vacant aggregate deletes the key.
    pub fn put(&mut self, entry: Entry) {
        self.entry = (!entry.value.is_vacant()).then_some(entry);
        self.changed = true;
    }

    /// Deletes the key. Returns whether it existed.
    pub fn delete(&mut self) -> bool {
        let existed = self.entry.take().is_some();
        self.changed |= existed;
        existed
    }

    /// Sets the expiry of what is there. Returns whether there is anything.
    pub fn touch(&mut self, expire: Expire) -> bool {
        let Some(entry) = &mut self.entry else { return false };
        let at = match expire {
            Expire::AtMs(at) => Some(at),
            Expire::Keep => entry.expire_at_ms,
            Expire::Never => None,
        };
        self.touched |= entry.expire_at_ms != at;
        entry.expire_at_ms = at;
        true
    }

    /// To be called after changing the value in place: deletes a vacant aggregate and marks the slot.
    pub fn settle(&mut self) {
        self.changed = true;
        if self.entry.as_ref().is_some_and(|entry| entry.value.is_vacant()) {
            self.entry = None;
        }
    }
}
