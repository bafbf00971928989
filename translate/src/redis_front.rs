//! RESP as a front: Redis commands as programs over slots.
//!
//! Replies and errors are Redis 7.0's, word for word; `redis_front/differential.rs` compares them with a server's. What
//! a back cannot do honestly is refused with `ERR <COMMAND> is not supported on a <back> backend` (`an embedded`). The table of what is
//! exact, emulated and refused is [`supported`]; it is also what decides.
//!
//! A request takes one of three ways: [`fast`], a single step without allocation; the command's row in one of the
//! tables that [`aggregate`] joins, a program over the slots of its keys; or an answer from here ([`server`],
//! [`transaction`], [`walk`]).
//!
//! Where this is not what Redis does:
//! - There is one database. Expiry is exact, never late, and nothing is ever reported about expired keys.
//! - BITFIELD, SETBIT and the like refuse what the back could not hold, not what exceeds 512 MiB. LCS refuses strings
//!   whose table would exceed 64 MiB.
//! - SORT ALPHA compares bytes, whatever the locale, and has patterns on the embedded store only. OBJECT ENCODING tells what a server would have chosen.
//! - The order of sets, hashes and scans is that of insertion. Cursors of SCAN are hashes.
//! - WATCH of a key that does not exist takes one in 65,536 removals of other keys for a change.
//! - CLIENT SETINFO is known, as in Redis 7.2, since client libraries send it.
//! - DUMP compresses nothing. RESTORE refuses streams and values of modules, and whatever is broken inside a value, as a server
//!   does with `sanitize-dump-payload yes`.
//! - On Memcached no key can expire after the year 2594.

mod aggregate;
mod bits;
mod blocking;
#[cfg(test)]
mod differential;
mod dump;
mod fast;
mod geo;
mod hash;
#[cfg(test)]
mod hostile;
mod hyperloglog;
mod keys;
mod lcs;
mod list;
mod pubsub;
mod server;
mod set;
mod sort;
mod strings;
mod support;
#[cfg(test)]
mod tests;
mod transaction;
mod walk;
mod zset;

use mecha_core::{Asked, OpId, Outcome, Session as _};
use mecha_resp::reply::Writer;
use mecha_resp::{Request, Resp, Session, args, inline_to_array, op, op_info};

use self::aggregate::Error;
pub use self::support::{Row, Support, supported};
use self::support::{is_local, resp_support};
use crate::kv::{KvError, KvFront, Plan, PlanCx, Recall, RunCx, StepReply, Walk};

impl KvFront for Resp {
    fn plan(
        request: &Request,
        frame: &[u8],
        session: &mut Session,
        cx: &PlanCx<'_>,
        out: &mut Vec<u8>,
    ) -> Plan {
        let mut array = Vec::new();
        if request.is_inline && inline_to_array(frame, &mut array).is_err() {
            Writer::new(out, session.proto).error("ERR Protocol error: unbalanced quotes in request");
            return Plan::Close;
        }
        if !transaction::settle(request.op, session) {
            return Plan::Wait;
        }
        if session.is_listening()
            && let Some(plan) = pubsub::restrict(request.op, || arguments(frame), session, cx, out)
        {
            return plan;
        }
        // The spans of a fast plan would point into the copy.
        let frame = if request.is_inline { &array } else { frame };
        if let Some(plan) = transaction::queue(request.op, frame, session, cx, out) {
            return plan;
        }
        let fast = if request.is_inline { None } else { fast::plan(request, frame, session.proto, cx) };
        match fast {
            Some(fast) => Plan::Fast(fast),
            None => plan_general(request.op, arguments(frame), session, cx, out),
        }
    }

    fn fast_reply(recall: &Recall<'_>, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome {
        fast::reply(recall, reply, out)
    }

    fn error(asked: Asked, error: KvError, back: &'static str, out: &mut Vec<u8>) -> Outcome {
        let (outcome, text) = match error {
            KvError::BackFailed => {
                (Outcome::ServerError, format!("ERR the {back} backend answered with an error"))
            }
            KvError::Contended => {
                (Outcome::ServerError, "TRYAGAIN mecha: too many concurrent writes to the key".into())
            }
            KvError::Corrupt => {
                (Outcome::ServerError, "ERR mecha: the stored bytes cannot be decoded".into())
            }
            KvError::ExpiryTooFar => (
                Outcome::ClientError,
                format!("ERR invalid expire time: the {back} backend knows none after the year 2594"),
            ),
            KvError::KeyCollision => (Outcome::ServerError, "ERR mecha: two keys share a digest".into()),
            KvError::TooMuch => {
                (Outcome::ClientError, "ERR mecha: the values of these keys are larger than 256 MiB".into())
            }
            KvError::Unsupported => (Outcome::ClientError, unsupported(asked.op, back)),
            KvError::ValueTooLarge => {
                (Outcome::ClientError, format!("ERR the value is larger than an item of the {back} backend"))
            }
        };
        Writer::new(out, 2).error(&text);
        outcome
    }
}

fn unsupported(op: OpId, back: &str) -> String {
    format!("ERR {} is not supported on {} backend", spelled(op), with_article(back))
}

/// As [`unsupported`], of what works outside of transactions.
fn unsupported_in_transaction(op: OpId, back: &str) -> String {
    format!("ERR {} is not supported inside a transaction on {} backend", spelled(op), with_article(back))
}

/// The name of a back with `a` or `an` in front.
fn with_article(back: &str) -> String {
    let article = if back.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {back}")
}

/// The command as people write it.
fn spelled(op: OpId) -> String {
    op_info(op).name.to_uppercase().replace('|', " ")
}

fn arguments(frame: &[u8]) -> Vec<Vec<u8>> {
    args(frame).map(<[u8]>::to_vec).collect()
}

/// Refuses what is no command, has the wrong number of arguments, or cannot be had from this back.
fn refuse(op: OpId, words: &[Vec<u8>], back: &str, writer: &mut Writer<'_>) -> Option<Outcome> {
    let info = op_info(op);
    if op == OpId::UNKNOWN {
        server::unknown_command(words, writer);
    } else if info.is_container && words.len() > 1 {
        server::unknown_subcommand(info.name, words, writer);
    } else if op == op::EXEC && !info.accepts(words.len()) {
        writer.error(
            "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command",
        );
    } else if !info.accepts(words.len()) {
        writer.error(&format!("ERR wrong number of arguments for '{}' command", info.name));
    } else if resp_support(info.name, back) == Support::Refused {
        writer.error(&unsupported(op, back));
    } else {
        return None;
    }
    Some(Outcome::ClientError)
}

/// Plans in the way that needs no luck. `words` are the request's arguments, the name first.
fn plan_general(
    op: OpId,
    words: Vec<Vec<u8>>,
    session: &mut Session,
    cx: &PlanCx<'_>,
    out: &mut Vec<u8>,
) -> Plan {
    let proto = session.proto;
    let Some(name) = words.first() else {
        // Redis does not answer an empty request at all; but each has its answer here.
        Writer::new(out, proto).error("ERR empty command");
        return Plan::Answered(Outcome::ClientError);
    };
    if let Some(outcome) = refuse(op, &words, cx.back, &mut Writer::new(out, proto)) {
        transaction::spoil(op, session);
        return Plan::Answered(outcome);
    }
    if is_local(cx.back)
        && let Some(plan) = sort::plan(op, &words, proto, cx.back)
    {
        return plan;
    }
    if let Some(spec) = aggregate::find(name) {
        let run_cx = RunCx { now_ms: cx.now_ms, random: cx.random, max_value: cx.max_value, token: 0 };
        return aggregate::plan(spec, words, proto, &run_cx, out);
    }
    if let Some(plan) = transaction::plan(op, &words, session, cx, out) {
        return plan;
    }
    if let Some(plan) = pubsub::answer(op, &words, session, cx, out) {
        return plan;
    }
    if matches!(op, op::FLUSHALL | op::FLUSHDB) {
        return match fast::flush(words.get(1..).unwrap_or_default().iter().map(Vec::as_slice), proto) {
            Some(fast) => Plan::Fast(fast),
            None => Plan::Answered(aggregate::write_error(&Error::Syntax, "", &mut Writer::new(out, proto))),
        };
    }
    match plan_walk(op, &words, proto, cx) {
        Some(Ok(walk)) => Plan::Walk(walk),
        Some(Err(error)) => {
            Plan::Answered(aggregate::write_error(&error, op_info(op).name, &mut Writer::new(out, proto)))
        }
        None => server::plan(op, &words, session, cx, out),
    }
}

fn plan_walk(
    op: OpId,
    words: &[Vec<u8>],
    proto: u8,
    cx: &PlanCx<'_>,
) -> Option<Result<Box<dyn Walk>, Error>> {
    match op {
        op::DBSIZE if cx.key_count.is_none() => Some(Ok(Box::new(walk::Size { proto }))),
        op::INFO if is_local(cx.back) => Some(Ok(Box::new(server::info::Info::new(words, proto, cx)))),
        op::KEYS => {
            let pattern = words.get(1).cloned().unwrap_or_default();
            Some(Ok(Box::new(walk::Matching { pattern, proto })))
        }
        op::RANDOMKEY => Some(Ok(Box::new(walk::Any { proto }))),
        op::SCAN => Some(walk::Scan::parse(words, proto).map(|scan| Box::new(scan) as Box<dyn Walk>)),
        _ => None,
    }
}
