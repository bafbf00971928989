//! RESP as a front: Redis commands as programs over slots.
//!
//! Errors are Redis 7.0's, word for word. What a back cannot do honestly is refused with
//! `ERR <COMMAND> is not supported on a <back> backend`; the table of what is exact, emulated and refused is
//! [`supported`].
//!
//! Deliberately absent so far: bit operations, SORT, transactions, and commands over all keys other than DBSIZE and the
//! flushes. They are refused.

mod aggregate;
mod geo;
mod hash;
mod hyperloglog;
mod keys;
mod list;
mod server;
mod set;
mod strings;
mod support;
#[cfg(test)]
mod tests;
mod zset;

use mecha_core::{OpId, Outcome, Span};
use mecha_resp::reply::Writer;
use mecha_resp::{Request, Resp, Session, args, inline_to_array, op, op_info};

use crate::kv::{
    Expire, Fast, FastAction, Guard, KvError, KvFront, Plan, PlanCx, RunCx, StepReply, Want,
};

pub use support::{Row, Support, supported};

/// What a fast step's reply is formatted as, in a memo's low bits; the bit above is the protocol's version.
const BULK: u32 = 0;
const STORED: u32 = 1;
const STORED_INT: u32 = 2;
const DELETED: u32 = 3;
const EXISTS: u32 = 4;
const FLUSHED: u32 = 5;
const FORM: u32 = 0xff;
const RESP3: u32 = 0x100;

impl KvFront for Resp {
    fn plan(request: &Request, frame: &[u8], session: &mut Session, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
        if request.is_inline {
            let mut array = Vec::new();
            if inline_to_array(frame, &mut array).is_err() {
                Writer::new(out, session.proto).error("ERR Protocol error: unbalanced quotes in request");
                return Plan::Close;
            }
            // Spans would point into the copy: the general way owns its arguments.
            return plan_general(request.op, &array, session, cx, out);
        }
        match plan_fast(request, frame, session.proto) {
            Some(fast) => Plan::Fast(fast),
            None => plan_general(request.op, frame, session, cx, out),
        }
    }

    fn fast_reply(memo: u32, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome {
        let mut writer = Writer::new(out, if memo & RESP3 == 0 { 2 } else { 3 });
        let is_applied = matches!(reply, StepReply::Applied { .. });
        match (memo & FORM, reply) {
            (BULK, StepReply::Str { value, .. }) => writer.bulk(value),
            (BULK, StepReply::Typed(_)) => {
                writer.error("WRONGTYPE Operation against a key holding the wrong kind of value");
                return Outcome::ClientError;
            }
            (BULK, _) => writer.null(),
            (STORED, _) if is_applied => writer.ok(),
            (STORED, _) => writer.null(),
            (EXISTS, StepReply::Str { .. } | StepReply::Typed(_)) => writer.int(1),
            (EXISTS, _) => writer.int(0),
            (FLUSHED, _) => writer.ok(),
            _ => writer.int(i64::from(is_applied)),
        }
        Outcome::Ok
    }

    fn error(op: OpId, error: KvError, back: &'static str, out: &mut Vec<u8>) -> Outcome {
        let (outcome, text) = match error {
            KvError::BackFailed => (Outcome::ServerError, format!("ERR the {back} backend answered with an error")),
            KvError::Contended => {
                (Outcome::ServerError, "TRYAGAIN mecha: too many concurrent writes to the key".into())
            }
            KvError::Corrupt => (Outcome::ServerError, "ERR mecha: the stored bytes cannot be decoded".into()),
            KvError::KeyCollision => (Outcome::ServerError, "ERR mecha: two keys share a digest".into()),
            KvError::Unsupported => (Outcome::ClientError, unsupported(op, back)),
            KvError::ValueTooLarge => {
                (Outcome::ClientError, format!("ERR the value is larger than an item of the {back} backend"))
            }
        };
        Writer::new(out, 2).error(&text);
        outcome
    }
}

fn unsupported(op: OpId, back: &str) -> String {
    format!("ERR {} is not supported on a {back} backend", op_info(op).name.to_uppercase().replace('|', " "))
}

/// Plans that are one step, without a single allocation.
fn plan_fast(request: &Request, frame: &[u8], proto: u8) -> Option<Fast> {
    let memo = if proto >= 3 { RESP3 } else { 0 };
    let key = Span::wire(request.key_at as usize, request.key_len as usize);
    let fast = |action, form| Some(Fast { key, action, memo: memo | form });
    let set = |value: &[u8], guard, form| {
        let value = Span::wire(value.as_ptr() as usize - frame.as_ptr() as usize, value.len());
        fast(FastAction::Set { value, flags: 0, expire: Expire::Never, guard }, form)
    };
    match (request.op, request.argc) {
        (op::GET, 2) => fast(FastAction::Get(Want::Everything), BULK),
        (op::EXISTS, 2) => fast(FastAction::Get(Want::Header), EXISTS),
        (op::DEL | op::UNLINK, 2) => fast(FastAction::Delete, DELETED),
        (op::SET, 3) => set(args(frame).nth(2)?, Guard::Always, STORED),
        (op::SETNX, 3) => set(args(frame).nth(2)?, Guard::Absent, STORED_INT),
        (op::FLUSHALL | op::FLUSHDB, 1) => fast(FastAction::Flush { delay_s: 0 }, FLUSHED),
        (op::FLUSHALL | op::FLUSHDB, 2) => {
            let word = args(frame).nth(1)?;
            let is_mode = word.eq_ignore_ascii_case(b"ASYNC") || word.eq_ignore_ascii_case(b"SYNC");
            if is_mode { fast(FastAction::Flush { delay_s: 0 }, FLUSHED) } else { None }
        }
        _ => None,
    }
}

fn plan_general(op: OpId, frame: &[u8], session: &mut Session, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let words: Vec<Vec<u8>> = args(frame).map(<[u8]>::to_vec).collect();
    let Some(name) = words.first() else {
        Writer::new(out, session.proto).error("ERR empty command");
        return Plan::Answered(Outcome::ClientError);
    };
    if let Some(spec) = aggregate::find(name) {
        let run_cx = RunCx { now_ms: cx.now_ms, random: cx.random, max_value: cx.max_value };
        return aggregate::plan(spec, words, session.proto, &run_cx, out);
    }
    server::plan(op, &words, session, cx, out)
}
