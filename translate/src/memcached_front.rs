//! Memcached as a front: classic and meta commands as programs over slots.
//!
//! Answers are memcached 1.6.18's, byte for byte, for everything that an entry can express. What needs more than an
//! entry has is refused with a `CLIENT_ERROR` that says so: who has already been told to recache (`N` and `R` of `mg`,
//! `I` of `ms` and `md`), hits and access times (`h`, `l`), and the cas unique of what is being written (`c` of `ms`
//! and `ma`), which only the back knows.
//!
//! A key that holds something other than a string, written by a Redis client, is no miss: it is answered with
//! `SERVER_ERROR mecha: key holds a hash`. Storing over it and deleting it works.
//!
//! Expiry. Times to live are counted from the millisecond of the command, not from the last full second, and reported
//! rounded up. 30 days and less are relative, more is Unix time, negative is at once, 0 is never.
//!
//! Quiet commands have an empty answer where memcached is silent.
//!
//! Deliberately absent: `stats` beyond what is known here, and everything that [`mecha_memcached`] refuses itself.

mod classic;
mod meta;
mod number;
#[cfg(test)]
mod tests;

use mecha_core::{OpId, Outcome, Protocol, Refusal};
use mecha_memcached::command::StoreMode;
use mecha_memcached::{Command, Connection, Fault, Memcached, Request, ops, parse, write};

use crate::kv::{
    Atomicity, Expire, Fast, FastAction, Guard, KvError, KvFront, Plan, PlanCx, Program, RunCx, StepReply,
    Txn, Want,
};
use crate::slot::{Slot, Value};

/// Larger numbers are Unix time.
const LONGEST_RELATIVE_S: i32 = 60 * 60 * 24 * 30;
/// Clients compare the number; what follows it is for people.
const VERSION: &str = concat!("1.6.18-mecha-", env!("CARGO_PKG_VERSION"));
const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
const NON_NUMERIC: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value";

/// What a fast step's reply is formatted as, in a memo's low bits.
const STORED: u32 = 0;
const DELETED: u32 = 1;
const FLUSHED: u32 = 2;
const META: u32 = 3;
const META_DELETED: u32 = 4;
const FORM: u32 = 0xff;
/// `noreply`: nothing is answered. `q`: success is not.
const QUIET: u32 = 0x100;

impl KvFront for Memcached {
    fn plan(request: &Request, frame: &[u8], _: &mut Connection, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
        match request.op() {
            ops::QUIT => return Plan::Close,
            _ if request.fault() == Some(Fault::Http) => return Plan::Close,
            ops::MN => return answered("MN", Outcome::Ok, out),
            op if request.fault().is_none() && (ops::SHUTDOWN.0..=ops::REFRESH_CERTS.0).contains(&op.0) => {
                Self::refuse(op, Refusal::Unsupported, out);
                return Plan::Answered(Outcome::Refused(Refusal::Unsupported));
            }
            _ => {}
        }
        // A meta command's `q` hides no error; a fault knows itself.
        let hides_errors = request.is_quiet() && (hides_errors(request.op()) || request.fault().is_some());
        match parse(request, frame) {
            Ok(command) => plan_command(request, command, cx, out),
            Err(_) if hides_errors => Plan::Answered(Outcome::ClientError),
            Err(message) => answered(message, Outcome::ClientError, out),
        }
    }

    fn fast_reply(memo: u32, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome {
        let done = matches!(reply, StepReply::Applied { .. });
        let is_meta = matches!(memo & FORM, META | META_DELETED);
        if memo & QUIET != 0 && (done || !is_meta) {
            return Outcome::Ok;
        }
        let answer: &[u8] = match (memo & FORM, done) {
            (STORED, true) => b"STORED\r\n",
            (STORED, false) => b"NOT_STORED\r\n",
            (DELETED, true) => b"DELETED\r\n",
            (DELETED, false) => b"NOT_FOUND\r\n",
            (META | META_DELETED, true) => b"HD\r\n",
            (META, false) => b"NS\r\n",
            (META_DELETED, false) => b"NF\r\n",
            _ => b"OK\r\n",
        };
        out.extend_from_slice(answer);
        Outcome::Ok
    }

    fn error(op: OpId, error: KvError, back: &'static str, out: &mut Vec<u8>) -> Outcome {
        let (outcome, message) = match error {
            KvError::BackFailed => {
                (Outcome::ServerError, "SERVER_ERROR mecha: the backend answered with an error")
            }
            KvError::Contended => {
                (Outcome::ServerError, "SERVER_ERROR mecha: too many concurrent writes to the key")
            }
            KvError::Corrupt => {
                (Outcome::ServerError, "SERVER_ERROR mecha: the stored bytes cannot be decoded")
            }
            KvError::KeyCollision => (Outcome::ServerError, "SERVER_ERROR mecha: two keys share a digest"),
            KvError::Unsupported => {
                (Outcome::ClientError, "CLIENT_ERROR mecha: not supported on this backend: ")
            }
            KvError::ValueTooLarge => (Outcome::ClientError, TOO_LARGE),
        };
        if !hides_errors(op) {
            out.extend_from_slice(message.as_bytes());
            if error == KvError::Unsupported {
                out.extend_from_slice(back.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        outcome
    }
}

/// Whether the operation is one of `noreply`.
fn hides_errors(op: OpId) -> bool {
    !matches!(op, ops::MG_UPDATE | ops::MG_UPDATE_QUIET)
        && !(ops::MG_QUIET.0..=ops::MA_QUIET.0).contains(&op.0)
        && ops::spoken(op) != op
}

fn answered(line: &str, outcome: Outcome, out: &mut Vec<u8>) -> Plan {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
    Plan::Answered(outcome)
}

fn plan_command(request: &Request, command: Command<'_>, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let quiet = request.is_quiet();
    let memo = if quiet { QUIET } else { 0 };
    match command {
        Command::Arithmetic { key, delta, is_decrement } => {
            let change = number::Change { delta, is_decrement };
            one(key, Want::Everything, classic::Arithmetic { change, quiet })
        }
        Command::Delete { .. } => {
            Plan::Fast(Fast { key: request.key_span(), action: FastAction::Delete, memo: memo | DELETED })
        }
        Command::FlushAll { delay } => {
            let delay_s = match expire(delay, cx.now_ms) {
                Expire::AtMs(at) => at.saturating_sub(cx.now_ms).div_ceil(1000),
                Expire::Keep | Expire::Never => 0,
            };
            let delay_s = u32::try_from(delay_s).unwrap_or(u32::MAX);
            let action = FastAction::Flush { delay_s };
            Plan::Fast(Fast { key: request.key_span(), action, memo: memo | FLUSHED })
        }
        Command::Get { keys, with_unique, exptime } => {
            let expire = exptime.map(|exptime| expire(exptime, cx.now_ms));
            classic::retrieve(keys, with_unique, expire, out)
        }
        Command::Meta(meta) => meta::plan(request, &meta, cx, out),
        Command::MetaDebug { key, is_base64 } => match mecha_memcached::command::key(key, is_base64) {
            Some(decoded) => one(&decoded, Want::Everything, meta::Debug { raw_key: key.to_vec() }),
            None => answered("CLIENT_ERROR bad command line format", Outcome::ClientError, out),
        },
        Command::Stats { what: None } => {
            stats(cx, out);
            Plan::Answered(Outcome::Ok)
        }
        Command::Stats { what: Some(b"reset") } => answered("RESET", Outcome::Ok, out),
        Command::Stats { what: Some(_) } => {
            answered("CLIENT_ERROR mecha: these statistics are not known here", Outcome::ClientError, out)
        }
        Command::Store { key, value, .. } if value.len() > cx.max_value => {
            let message = (!quiet).then_some(TOO_LARGE);
            one(key, Want::Header, Dropped { message })
        }
        Command::Store { mode, key, flags, exptime, unique, value } => {
            let expire = expire(exptime, cx.now_ms);
            let guard = match mode {
                StoreMode::Add => Guard::Absent,
                StoreMode::Replace => Guard::Present,
                StoreMode::Set => Guard::Always,
                StoreMode::Append | StoreMode::Cas | StoreMode::Prepend => {
                    let store = classic::Store { mode, flags, expire, unique, value: value.to_vec(), quiet };
                    return one(key, classic::want(mode), store);
                }
            };
            let action = FastAction::Set { value: request.value_span(), flags, expire, guard };
            Plan::Fast(Fast { key: request.key_span(), action, memo: memo | STORED })
        }
        Command::Touch { key, exptime } => {
            one(key, Want::Everything, classic::Touch { expire: expire(exptime, cx.now_ms), quiet })
        }
        Command::Verbosity if quiet => Plan::Answered(Outcome::Ok),
        Command::Verbosity => answered("OK", Outcome::Ok, out),
        Command::Version => answered(&format!("VERSION {VERSION}"), Outcome::Ok, out),
    }
}

/// What an exptime means.
fn expire(exptime: i32, now_ms: u64) -> Expire {
    match u64::try_from(exptime) {
        Ok(0) => Expire::Never,
        Ok(seconds) if exptime <= LONGEST_RELATIVE_S => Expire::AtMs(now_ms.saturating_add(seconds * 1000)),
        Ok(unix_seconds) => Expire::AtMs(unix_seconds * 1000),
        Err(_) => Expire::AtMs(1),
    }
}

fn expire_at_ms(expire: Expire, before: Option<u64>) -> Option<u64> {
    match expire {
        Expire::AtMs(at) => Some(at),
        Expire::Keep => before,
        Expire::Never => None,
    }
}

fn one(key: &[u8], want: Want, program: impl Program + 'static) -> Plan {
    Plan::Txn(Txn {
        keys: vec![key.to_vec()],
        program: Box::new(program),
        want,
        atomicity: Atomicity::PerKey,
    })
}

/// A value too large to store: memcached drops the old one, lest it be read as if it were the new one.
struct Dropped {
    message: Option<&'static str>,
}

impl Program for Dropped {
    fn run(&mut self, slots: &mut [Slot], _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        if let Some(slot) = slots.first_mut() {
            slot.delete();
        }
        if let Some(message) = self.message {
            line(message, out);
        }
        Outcome::ClientError
    }
}

fn line(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The answer about a key that holds no string; nothing for strings.
fn wrong_type(value: &Value) -> Option<&'static str> {
    match value {
        Value::Hash(_) => Some("SERVER_ERROR mecha: key holds a hash"),
        Value::List(_) => Some("SERVER_ERROR mecha: key holds a list"),
        Value::Set(_) => Some("SERVER_ERROR mecha: key holds a set"),
        Value::Str(_) => None,
        Value::ZSet(_) => Some("SERVER_ERROR mecha: key holds a sorted set"),
    }
}

fn stats(cx: &PlanCx<'_>, out: &mut Vec<u8>) {
    let number = |name: &str, value: u64, out: &mut Vec<u8>| {
        let mut digits = Vec::with_capacity(20);
        write::number(value, &mut digits);
        write::stat(name, &digits, out);
    };
    let now_s = cx.now_ms / 1000;
    number("pid", u64::from(std::process::id()), out);
    number("uptime", now_s.saturating_sub(cx.started_at.unix_seconds), out);
    number("time", now_s, out);
    write::stat("version", VERSION.as_bytes(), out);
    number("pointer_size", u64::from(usize::BITS), out);
    if let Some(count) = cx.key_count {
        number("curr_items", count, out);
    }
    number("item_size_max", cx.max_value as u64, out);
    write::stat("mecha_backend", cx.back.as_bytes(), out);
    out.extend_from_slice(b"END\r\n");
}
