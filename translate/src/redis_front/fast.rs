//! The plans that dominate real traffic: one step, and not a single allocation.

use std::cell::Cell;

use mecha_core::{Outcome, Span};
use mecha_resp::reply::Writer;
use mecha_resp::{Args, Request, args, op};

use super::hash::content::{integer, is};
use super::keys::{Unit, shown_seconds, type_name};
use crate::kv::{Expire, Fast, FastAction, Guard, PlanCx, Recall, StepReply, Want};
use crate::slot::Marks;

/// What a step's reply is formatted as, in a memo's low bits; the bit above is the protocol's version.
const BULK: u32 = 0;
const STORED: u32 = 1;
const STORED_INT: u32 = 2;
const DELETED: u32 = 3;
const EXISTS: u32 = 4;
const FLUSHED: u32 = 5;
const LENGTH: u32 = 6;
const TYPE: u32 = 7;
const EXPIRY_S: u32 = 8;
const EXPIRY_MS: u32 = 9;
const TOUCHED: u32 = 10;
const FORM: u32 = 0xff;
const RESP3: u32 = 0x100;

/// The step that a request amounts to; `None` leaves it, right or wrong, to the general way.
pub(super) fn plan(request: &Request, frame: &[u8], proto: u8, cx: &PlanCx<'_>) -> Option<Fast> {
    let memo = if proto >= 3 { RESP3 } else { 0 };
    let key = Span::wire(request.key_at as usize, request.key_len as usize);
    let fast = |action, form| Some(Fast { key, action, keep: Span::default(), memo: memo | form });
    let value_at = |at: usize| {
        let value = args(frame).nth(at)?;
        let start = (value.as_ptr() as usize).checked_sub(frame.as_ptr() as usize)?;
        Some(Span::wire(start, value.len()))
    };
    let set = |at, expire, guard, form| {
        fast(FastAction::Set { value: value_at(at)?, flags: 0, expire, guard }, form)
    };
    match (request.op, request.argc) {
        (op::GET, 2) => fast(FastAction::Get(Want::Everything), BULK),
        (op::SET, 3) => set(2, Expire::Never, Guard::Always, STORED),
        (op::SET, 4..=6) => {
            let (expire, guard) = options(args(frame), cx.now_ms)?;
            set(2, expire, guard, STORED)
        }
        (op::SETEX, 4) => {
            set(3, expire(args(frame).nth(2)?, Unit::Seconds, cx.now_ms)?, Guard::Always, STORED)
        }
        (op::PSETEX, 4) => {
            set(3, expire(args(frame).nth(2)?, Unit::Millis, cx.now_ms)?, Guard::Always, STORED)
        }
        (op::SETNX, 3) => set(2, Expire::Never, Guard::Absent, STORED_INT),
        (op::DEL | op::UNLINK, 2) => fast(FastAction::Delete, DELETED),
        (op::EXISTS, 2) => fast(FastAction::Get(Want::Header), EXISTS),
        (op::STRLEN, 2) => fast(FastAction::Get(Want::Everything), LENGTH),
        (op::TOUCH, 2) => fast(FastAction::Get(Want::Header), TOUCHED),
        (op::TYPE, 2) => fast(FastAction::Get(Want::Header), TYPE),
        (op::EXPIRETIME, 2) => fast(FastAction::Get(Want::Header), EXPIRY_S),
        (op::PEXPIRETIME, 2) => fast(FastAction::Get(Want::Header), EXPIRY_MS),
        (op::FLUSHALL | op::FLUSHDB, _) => flush(args(frame).skip(1), proto),
        _ => None,
    }
}

/// FLUSHALL and FLUSHDB with these arguments. `ASYNC` or not is the back's business.
pub(super) fn flush<'w>(mut words: impl Iterator<Item = &'w [u8]>, proto: u8) -> Option<Fast> {
    let is_mode = |word: &[u8]| is(word, "async") || is(word, "sync");
    if !words.next().is_none_or(is_mode) || words.next().is_some() {
        return None;
    }
    let memo = if proto >= 3 { RESP3 } else { 0 } | FLUSHED;
    Some(Fast { key: Span::default(), action: FastAction::Flush { delay_s: 0 }, keep: Span::default(), memo })
}

/// The options of SET, if they are a time to live and a condition and nothing else.
fn options(args: Args<'_>, now_ms: u64) -> Option<(Expire, Guard)> {
    let (mut expiry, mut guard) = (Expire::Never, Guard::Always);
    let mut words = args.skip(3);
    while let Some(word) = words.next() {
        if is(word, "nx") && guard != Guard::Present {
            guard = Guard::Absent;
        } else if is(word, "xx") && guard != Guard::Absent {
            guard = Guard::Present;
        } else if expiry == Expire::Never {
            expiry = expire(words.next()?, Unit::of(word)?, now_ms)?;
        } else {
            return None;
        }
    }
    Some((expiry, guard))
}

/// A time in the future; everything else takes more thought.
fn expire(value: &[u8], unit: Unit, now_ms: u64) -> Option<Expire> {
    let value = integer(value).filter(|value| *value > 0)?;
    let at = u64::try_from(unit.at(value, now_ms)?).ok()?;
    (at > now_ms).then_some(Expire::AtMs(at))
}

/// Notes when the value was used, at a back that wants to know.
fn use_of(marks: Option<&Cell<Marks>>, recall: &Recall<'_>) {
    if let Some(marks) = marks {
        marks.set(marks.get().used(recall.now_ms));
    }
}

/// Formats a step's reply.
pub(super) fn reply(recall: &Recall<'_>, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome {
    let memo = recall.memo;
    let mut writer = Writer::new(out, if memo & RESP3 == 0 { 2 } else { 3 });
    let is_applied = matches!(reply, StepReply::Applied { .. });
    let expire_at_ms = match reply {
        StepReply::Str { expire_at_ms, .. } => Some(*expire_at_ms),
        StepReply::Typed(entry) => Some(entry.expire_at_ms),
        _ => None,
    };
    match (memo & FORM, reply) {
        (BULK | LENGTH, StepReply::Typed(_)) => {
            writer.error("WRONGTYPE Operation against a key holding the wrong kind of value");
            return Outcome::ClientError;
        }
        (BULK, StepReply::Str { value, marks, .. }) => {
            use_of(*marks, recall);
            writer.bulk(value);
        }
        (BULK, _) => writer.null(),
        (STORED, _) if is_applied => writer.ok(),
        (STORED, _) => writer.null(),
        (TOUCHED, reply) => {
            match reply {
                StepReply::Str { marks, .. } => use_of(*marks, recall),
                StepReply::Typed(entry) => use_of(Some(&entry.marks), recall),
                _ => {}
            }
            writer.int(i64::from(expire_at_ms.is_some()));
        }
        (EXISTS, _) => writer.int(i64::from(expire_at_ms.is_some())),
        (FLUSHED, _) => writer.ok(),
        (LENGTH, StepReply::Str { value, marks, .. }) => {
            use_of(*marks, recall);
            writer.int(value.len() as i64);
        }
        (LENGTH, _) => writer.int(0),
        (TYPE, StepReply::Str { .. }) => writer.simple("string"),
        (TYPE, StepReply::Typed(entry)) => writer.simple(type_name(&entry.value)),
        (TYPE, _) => writer.simple("none"),
        (form @ (EXPIRY_S | EXPIRY_MS), _) => writer.int(match expire_at_ms {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) if form == EXPIRY_S => shown_seconds(at) as i64,
            Some(Some(at)) => at as i64,
        }),
        _ => writer.int(i64::from(is_applied)),
    }
    Outcome::Ok
}
