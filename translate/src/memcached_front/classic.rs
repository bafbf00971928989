//! The classic commands that are more than one step.

use std::cell::Cell;

use mecha_core::Outcome;
use mecha_memcached::command::{KeyWords, StoreMode};
use mecha_memcached::write;

use super::number::{Change, Changed};
use super::{NON_NUMERIC, expire_at_ms, line, wrong_type};
use crate::kv::{Atomicity, Expire, Plan, Program, RunCx, Txn, Want};
use crate::slot::{Entry, Marks, Slot, Value};

/// `get` and its kin. Keys that occur twice are answered twice, from one slot.
pub(super) fn retrieve(
    keys: KeyWords<'_>,
    with_unique: bool,
    expire: Option<Expire>,
    out: &mut Vec<u8>,
) -> Plan {
    let mut distinct: Vec<Vec<u8>> = Vec::new();
    let mut order = Vec::new();
    let mut seen = std::collections::HashMap::new();
    for key in keys {
        let place = *seen.entry(key).or_insert_with(|| {
            distinct.push(key.to_vec());
            distinct.len() - 1
        });
        order.push(place);
    }
    if distinct.is_empty() {
        line("END", out);
        return Plan::Answered(Outcome::Ok);
    }
    let want = if expire.is_some() { Want::Everything } else { Want::Value };
    let program = Retrieve { keys: distinct.clone(), order, with_unique, expire };
    let (program, atomicity) = (Box::new(program), Atomicity::PerKey);
    Plan::Txn(Txn { keys: distinct, program, want, atomicity })
}

/// What an answer may have in it besides every value once, in bytes.
const MOST_REPEATED: usize = 64 << 20;

struct Retrieve {
    keys: Vec<Vec<u8>>,
    /// For each key of the request, its slot.
    order: Vec<usize>,
    with_unique: bool,
    expire: Option<Expire>,
}

impl Program for Retrieve {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        // Before anything is changed: an error is the whole answer.
        if let Some(message) = slots.iter().find_map(|slot| wrong_type(&slot.entry.as_ref()?.value)) {
            line(message, out);
            return Outcome::ServerError;
        }
        let len = |slot: &Slot| match slot.entry.as_ref().map(|entry| &entry.value) {
            Some(Value::Str(value)) => value.len(),
            _ => 0,
        };
        let bytes = self.order.iter().filter_map(|&place| slots.get(place)).map(len).sum::<usize>();
        if bytes.saturating_sub(slots.iter().map(len).sum()) > MOST_REPEATED {
            line("SERVER_ERROR out of memory writing get response", out);
            return Outcome::ServerError;
        }
        for &place in &self.order {
            let (Some(key), Some(slot)) = (self.keys.get(place), slots.get_mut(place)) else { continue };
            let Some(Entry { value: Value::Str(value), flags, token, marks, .. }) = &slot.entry else {
                continue;
            };
            read(marks, cx.now_ms);
            write::value(key, *flags, self.with_unique.then_some(*token), value, out);
        }
        if let Some(expire) = self.expire {
            for slot in slots {
                slot.touch(expire);
            }
        }
        line("END", out);
        Outcome::Ok
    }
}

/// Notes that an item has been read.
pub(super) fn read(marks: &Cell<Marks>, now_ms: u64) {
    marks.set(marks.get().read(now_ms));
}

/// `incr`, `decr`.
pub(super) struct Arithmetic {
    pub(super) change: Change,
    pub(super) quiet: bool,
}

impl Program for Arithmetic {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let start = out.len();
        let outcome = self.answer(slots, cx, out);
        if self.quiet {
            out.truncate(start);
        }
        outcome
    }
}

impl Arithmetic {
    fn answer(&self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        let Some(entry) = &mut slot.entry else {
            line("NOT_FOUND", out);
            return Outcome::Ok;
        };
        match self.change.apply_to(entry, cx) {
            Changed::WrongType(message) => {
                line(message, out);
                Outcome::ServerError
            }
            Changed::To(number) => {
                slot.changed = true;
                write::number(number, out);
                out.extend_from_slice(b"\r\n");
                Outcome::Ok
            }
            Changed::NonNumeric => {
                line(NON_NUMERIC, out);
                Outcome::ClientError
            }
        }
    }
}

/// How storing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Done,
    Exists,
    Missing,
    Refused,
    WrongType(&'static str),
}

/// `append`, `prepend`.
pub(super) struct Store {
    pub(super) mode: StoreMode,
    pub(super) flags: u32,
    pub(super) expire: Expire,
    pub(super) value: Vec<u8>,
    pub(super) quiet: bool,
}

impl Program for Store {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        let write = Write {
            mode: self.mode,
            unique: None,
            accepts_older: false,
            flags: self.flags,
            expire: self.expire,
            value: &self.value,
        };
        let (text, outcome) = match write.apply(slot, cx) {
            Stored::Exists => ("EXISTS", Outcome::Ok),
            Stored::Missing => ("NOT_FOUND", Outcome::Ok),
            Stored::Refused => ("NOT_STORED", Outcome::Ok),
            Stored::Done => ("STORED", Outcome::Ok),
            Stored::WrongType(message) => (message, Outcome::ServerError),
        };
        if !self.quiet {
            line(text, out);
        }
        outcome
    }
}

/// One storage command, classic or meta.
pub(super) struct Write<'a> {
    pub(super) mode: StoreMode,
    /// The cas unique to compare with, 0 included, which never matches for [`StoreMode::Cas`] and is none for others.
    pub(super) unique: Option<u64>,
    /// Whether [`StoreMode::Cas`] with a unique older than the item's stores all the same, as a stale item.
    pub(super) accepts_older: bool,
    pub(super) flags: u32,
    pub(super) expire: Expire,
    pub(super) value: &'a [u8],
}

impl Write<'_> {
    pub(super) fn apply(&self, slot: &mut Slot, cx: &RunCx) -> Stored {
        let matches = match (&slot.entry, self.unique) {
            (Some(entry), Some(unique)) if unique != 0 => entry.token == unique,
            (_, unique) => unique.is_none() || self.mode != StoreMode::Cas,
        };
        match (self.mode, &mut slot.entry) {
            (StoreMode::Add, Some(_)) => return Stored::Refused,
            (StoreMode::Cas, None) => return Stored::Missing,
            (StoreMode::Append | StoreMode::Prepend | StoreMode::Replace, None) => return Stored::Refused,
            (StoreMode::Cas, Some(entry))
                if self.accepts_older
                    && self.unique.is_some_and(|unique| unique != 0 && unique < entry.token) =>
            {
                let (expire_at_ms, was) = (entry.expire_at_ms, entry.marks.get());
                let marks = Marks { is_stale: true, is_won: was.is_won, ..Marks::written(cx.now_ms) };
                self.put(slot, expire_at_ms, marks);
                return Stored::Done;
            }
            (StoreMode::Append | StoreMode::Cas | StoreMode::Prepend, Some(_)) if !matches => {
                return Stored::Exists;
            }
            (StoreMode::Append | StoreMode::Prepend, Some(entry)) => {
                let Value::Str(old) = &mut entry.value else {
                    return Stored::WrongType(wrong_type(&entry.value).unwrap_or_default());
                };
                if old.len() + self.value.len() > cx.max_value {
                    return Stored::Refused;
                }
                let at = if self.mode == StoreMode::Append { old.len() } else { 0 };
                old.splice(at..at, self.value.iter().copied());
                entry.marks.set(Marks::written(cx.now_ms));
                slot.changed = true;
                return Stored::Done;
            }
            _ => {}
        }
        self.put(slot, expire_at_ms(self.expire, None), Marks::written(cx.now_ms));
        Stored::Done
    }

    fn put(&self, slot: &mut Slot, expire_at_ms: Option<u64>, marks: Marks) {
        let fresh = Entry::new(Value::Str(self.value.to_vec()));
        slot.put(Entry { expire_at_ms, flags: self.flags, marks: Cell::new(marks), ..fresh });
    }
}
