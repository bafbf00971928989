//! What entries weigh, and when an aggregate has to be measured again.

use super::Cost;
use crate::slot::{Entry, Value};

/// The item, its places in the cache's tables, and the allocations of key and value: what 200,000 small strings were
/// found to take each.
const ITEM: usize = 232;
/// One element's `Vec` and allocation.
const ELEMENT: usize = 40;
/// What a hash table adds for each element.
const INDEXED: usize = 24;
/// What a sorted set adds for each member: its key stands in two places.
const RANKED: usize = 64;
/// One expiry in the queue.
const EXPIRY: usize = 56;

/// An aggregate is measured again when this part of its weight is assumed.
const ASSUMED_PART: usize = 8;
const ASSUMED_BYTES: usize = 4096;

/// What a string of `len` bytes weighs under this key.
pub(super) fn string(key: &[u8], len: usize, expires: bool) -> usize {
    let expiry = if expires { EXPIRY + key.len() } else { 0 };
    ITEM + key.len() + len + expiry
}

/// What an entry weighs under this key. Looks at each element.
pub(super) fn entry(key: &[u8], entry: &Entry) -> usize {
    let content: usize = match &entry.value {
        Value::Hash(fields) => {
            fields.iter().map(|(field, value)| field.len() + value.len() + 2 * ELEMENT + INDEXED).sum()
        }
        Value::List(items) => items.iter().map(|item| item.len() + ELEMENT).sum(),
        Value::Set(members) => members.iter().map(|member| member.len() + ELEMENT + INDEXED).sum(),
        Value::Str(bytes) => bytes.len(),
        Value::ZSet(members) => {
            members.iter().map(|(member, _)| 2 * (member.len() + ELEMENT) + INDEXED + RANKED).sum()
        }
    };
    string(key, content, entry.expire_at_ms.is_some())
}

/// As much about a value as tells whether a program changed it in place.
pub(super) struct Shape {
    kind: std::mem::Discriminant<Value>,
    len: usize,
    capacity: usize,
}

// === impl Shape ===

impl Shape {
    pub(super) fn of(value: &Value) -> Self {
        let (len, capacity) = match value {
            Value::Hash(fields) => (fields.len(), fields.capacity()),
            Value::List(items) => (items.len(), items.capacity()),
            Value::Set(members) => (members.len(), members.capacity()),
            Value::Str(bytes) => (bytes.len(), bytes.capacity()),
            Value::ZSet(members) => (members.len(), 0),
        };
        Self { kind: std::mem::discriminant(value), len, capacity }
    }

    /// By how much the value, now `after`, has grown at most; `None` if it must be measured.
    pub(super) fn grown(&self, after: &Value, cost: &Cost, assumed: usize, bytes: usize) -> Option<usize> {
        let new = Self::of(after);
        // What a program moved from another key is as long as it likes. Only lists are moved piece by piece, at their
        // ends; everything else that concerns several keys takes as long as the values are anyway.
        let moved = match after {
            Value::List(items) if !cost.alone => {
                items.front().map_or(0, Vec::len) + items.back().map_or(0, Vec::len)
            }
            Value::Str(_) => return None,
            _ if !cost.alone => return None,
            _ => 0,
        };
        let grown = cost.request_len + moved + ELEMENT + RANKED;
        let in_place = new.kind == self.kind
            && new.capacity == self.capacity
            && new.len <= self.len + cost.request_len
            && new.len + cost.request_len >= self.len;
        (in_place && assumed + grown <= bytes / ASSUMED_PART + ASSUMED_BYTES).then_some(grown)
    }
}
