//! `OBJECT` and `MEMORY USAGE`: what can be told of one key.
//!
//! Encodings are those that a server with its default settings would have chosen for such a value; here there is one
//! for each type.

use mecha_core::{OpId, Outcome};
use mecha_resp::op;
use mecha_resp::reply::Writer;

use super::super::aggregate::{Error, write_error};
use super::super::hash::content::{integer, is, long};
use crate::kv::{Atomicity, Plan, Program, RunCx, Txn, Want};
use crate::slot::{Entry, Slot, Value};

const HELP: &[&str] = &[
    "ENCODING <key>",
    "    Return the encoding that a server would use for the value of <key>.",
    "FREQ <key>",
    "    Frequencies are not tracked.",
    "IDLETIME <key>",
    "    Return for how many seconds nobody has used the value of <key>.",
    "REFCOUNT <key>",
    "    Return 1 if there is such a key.",
    "HELP",
    "    Print this help.",
];

const NO_FREQUENCY: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
                            when switching between policies at runtime LRU and LFU data will take some time to adjust.";

/// Sizes up to which a server keeps small values in one piece.
const SMALL_ENTRIES: usize = 512;
const SMALL_ZSET: usize = 128;
const SMALL_ELEMENT: usize = 64;
const EMBEDDED_STRING: usize = 44;
const LONGEST_INTEGER: usize = 20;

#[derive(Clone, Copy)]
enum Question {
    Encoding,
    Frequency,
    Idle,
    Memory,
    References,
}

struct Ask {
    question: Question,
    key_len: usize,
    proto: u8,
}

/// Plans one of these commands; `None` for all others.
pub(super) fn plan(op: OpId, words: &[Vec<u8>], proto: u8, out: &mut Vec<u8>) -> Option<Plan> {
    let question = match op {
        op::OBJECT_HELP => {
            super::help("OBJECT", HELP, &mut Writer::new(out, proto));
            return Some(Plan::Answered(Outcome::Ok));
        }
        op::OBJECT_ENCODING => Question::Encoding,
        op::OBJECT_FREQ => Question::Frequency,
        op::OBJECT_IDLETIME => Question::Idle,
        op::OBJECT_REFCOUNT => Question::References,
        op::MEMORY_USAGE => {
            if let Err(error) = samples(words) {
                return Some(Plan::Answered(write_error(
                    &error,
                    "memory|usage",
                    &mut Writer::new(out, proto),
                )));
            }
            Question::Memory
        }
        _ => return None,
    };
    let key = words.get(2).cloned().unwrap_or_default();
    let program = Box::new(Ask { question, key_len: key.len(), proto });
    let want = if matches!(question, Question::Encoding | Question::Memory) {
        Want::Everything
    } else {
        Want::Header
    };
    Some(Plan::Txn(Txn { keys: vec![key], program, want, atomicity: Atomicity::PerKey }))
}

/// `SAMPLES` has no effect: everything is looked at.
fn samples(words: &[Vec<u8>]) -> Result<(), Error> {
    let mut options = words.get(3..).unwrap_or_default();
    while let [option, rest @ ..] = options {
        let [count, rest @ ..] = rest else { return Err(Error::Syntax) };
        if !is(option, "samples") || long(count)? < 0 {
            return Err(Error::Syntax);
        }
        options = rest;
    }
    Ok(())
}

impl Program for Ask {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let mut writer = Writer::new(out, self.proto);
        let entry = slots.first().and_then(|slot| slot.entry.as_ref());
        let Some(entry) = entry else {
            writer.null();
            return Outcome::Ok;
        };
        match self.question {
            Question::Encoding => writer.bulk(encoding(&entry.value).as_bytes()),
            Question::Frequency => {
                writer.error(NO_FREQUENCY);
                return Outcome::ClientError;
            }
            Question::Idle => {
                let used_s = u64::from(entry.marks.get().accessed_s);
                writer.int((cx.now_ms / 1000).saturating_sub(used_s) as i64);
            }
            Question::Memory => writer.int((memory(entry) + self.key_len) as i64),
            Question::References => writer.int(1),
        }
        Outcome::Ok
    }
}

fn memory(entry: &Entry) -> usize {
    crate::embedded::weight(&[], entry)
}

fn encoding(value: &Value) -> &'static str {
    let small = |mut lengths: Box<dyn Iterator<Item = usize> + '_>| lengths.all(|len| len <= SMALL_ELEMENT);
    match value {
        Value::Hash(fields) => {
            let lengths = fields.iter().flat_map(|(field, value)| [field.len(), value.len()]);
            if fields.len() <= SMALL_ENTRIES && small(Box::new(lengths)) { "listpack" } else { "hashtable" }
        }
        Value::List(_) => "quicklist",
        Value::Set(members) => {
            let are_integers = || members.iter().all(|member| integer(member).is_some());
            if members.len() <= SMALL_ENTRIES && are_integers() { "intset" } else { "hashtable" }
        }
        Value::Str(text) if text.len() <= LONGEST_INTEGER && integer(text).is_some() => "int",
        Value::Str(text) if text.len() <= EMBEDDED_STRING => "embstr",
        Value::Str(_) => "raw",
        Value::ZSet(members) => {
            let lengths = members.iter().map(|(member, _)| member.len());
            if members.len() <= SMALL_ZSET && small(Box::new(lengths)) { "listpack" } else { "skiplist" }
        }
    }
}
