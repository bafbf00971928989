//! Memcached as a front: classic and meta commands as programs over slots.
//!
//! Answers are memcached 1.6.18's, byte for byte. What needs marks on an item that only the embedded store keeps is
//! refused at other backs with a `CLIENT_ERROR` that says so: who has already been told to recache (`N` and `R` of `mg`,
//! `I` of `ms` and `md`), and hits and access times (`h`, `l`).
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

mod binary;
mod classic;
mod fast;
mod meta;
mod number;
#[cfg(test)]
mod tests;

use mecha_core::{Asked, Outcome, Protocol, Refusal};
use mecha_memcached::command::StoreMode;
use mecha_memcached::{Command, Connection, Fault, Memcached, Request, ops, parse, write};

use self::fast::Form;
use crate::kv::{
    Atomicity, Expire, FastAction, Guard, KvError, KvFront, Plan, PlanCx, Program, Recall, RunCx, StepReply,
    Txn, Want,
};
use crate::slot::{Slot, Value};

/// Larger numbers are Unix time.
const LONGEST_RELATIVE_S: i32 = 60 * 60 * 24 * 30;
/// Clients compare the number; what follows it is for people.
const VERSION: &str = concat!("1.6.18-mecha-", env!("CARGO_PKG_VERSION"));
const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
const NON_NUMERIC: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value";

impl KvFront for Memcached {
    fn plan(request: &Request, frame: &[u8], _: &mut Connection, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
        if request.opcode().is_some() {
            return binary::plan(request, frame, cx, out);
        }
        match request.op() {
            ops::QUIT => return Plan::Close,
            _ if request.fault() == Some(Fault::Http) => return Plan::Close,
            ops::MN => return answered("MN", Outcome::Ok, out),
            op if request.fault().is_none() && ops::is_of_one_server(op) => {
                Self::refuse(Asked { op, echo: 0 }, Refusal::Unsupported, out);
                return Plan::Answered(Outcome::Refused(Refusal::Unsupported));
            }
            _ => {}
        }
        // A meta command's `q` hides no error; a fault knows itself.
        let hides_errors = request.is_quiet() && (ops::is_noreply(request.op()) || request.fault().is_some());
        match parse(request, frame) {
            Ok(command) => plan_command(request, command, cx, out),
            Err(_) if hides_errors => Plan::Answered(Outcome::ClientError),
            Err(message) => answered(message, Outcome::ClientError, out),
        }
    }

    fn fast_reply(recall: &Recall<'_>, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome {
        if ops::is_binary(recall.asked.op) {
            return binary::reply(recall, reply, out);
        }
        fast::reply(recall, reply, out)
    }

    fn error(asked: Asked, error: KvError, back: &'static str, out: &mut Vec<u8>) -> Outcome {
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
            KvError::TooMuch => (Outcome::ServerError, "SERVER_ERROR out of memory writing get response"),
            KvError::ExpiryTooFar => {
                (Outcome::ClientError, "CLIENT_ERROR mecha: the backend knows no expiry after the year 2594")
            }
            KvError::KeyCollision => (Outcome::ServerError, "SERVER_ERROR mecha: two keys share a digest"),
            KvError::Unsupported => {
                (Outcome::ClientError, "CLIENT_ERROR mecha: not supported on this backend: ")
            }
            KvError::ValueTooLarge => (Outcome::ClientError, TOO_LARGE),
        };
        if ops::is_binary(asked.op) {
            binary::kv_error(asked, error, message, back, out);
        } else if !ops::is_noreply(asked.op) {
            out.extend_from_slice(message.as_bytes());
            if error == KvError::Unsupported {
                out.extend_from_slice(back.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        outcome
    }
}

fn answered(line: &str, outcome: Outcome, out: &mut Vec<u8>) -> Plan {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
    Plan::Answered(outcome)
}

fn plan_command(request: &Request, command: Command<'_>, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let quiet = request.is_quiet();
    let fast = |action, form: Form| Plan::Fast(fast::of(request, action, form));
    match command {
        Command::Arithmetic { key, delta, is_decrement } => {
            let change = number::Change { delta, is_decrement };
            one(key, Want::Everything, classic::Arithmetic { change, quiet })
        }
        Command::Delete { .. } => fast(FastAction::Delete, Form::Deleted),
        Command::FlushAll { delay } => {
            // As with an item's time to live: a past moment is now, a large number is a date.
            let delay_s = match expire(delay, cx.now_ms) {
                Expire::AtMs(at) => at.saturating_sub(cx.now_ms).div_ceil(1000),
                Expire::Keep | Expire::Never => 0,
            };
            let delay_s = u32::try_from(delay_s).unwrap_or(u32::MAX);
            fast(FastAction::Flush { delay_s }, Form::Flushed)
        }
        Command::Get { keys, with_unique, exptime } => {
            let expire = exptime.map(|exptime| expire(exptime, cx.now_ms));
            if keys.clone().count() == 1 {
                let action = expire.map_or(FastAction::Get(Want::Value), FastAction::GetTouch);
                return fast(action, if with_unique { Form::ValueWithUnique } else { Form::Value });
            }
            classic::retrieve(keys, with_unique, expire, out)
        }
        Command::Meta(meta) => meta::plan(request, &meta, cx, out),
        Command::MetaDebug { key, is_base64 } => match mecha_memcached::command::key(key, is_base64) {
            Some(decoded) => one(&decoded, Want::Everything, meta::Debug { raw_key: key.to_vec() }),
            None => answered("CLIENT_ERROR bad command line format", Outcome::ClientError, out),
        },
        Command::Stats { what: None } => {
            stats(each_stat, cx, out);
            Plan::Answered(Outcome::Ok)
        }
        Command::Stats { what: Some(b"settings") } => {
            stats(each_setting, cx, out);
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
            let (guard, form) = match mode {
                StoreMode::Add => (Guard::Absent, Form::Stored),
                StoreMode::Cas => (Guard::Token(unique), Form::Compared),
                StoreMode::Replace => (Guard::Present, Form::Stored),
                StoreMode::Set => (Guard::Always, Form::Stored),
                StoreMode::Append | StoreMode::Prepend => {
                    let store = classic::Store { mode, flags, expire, value: value.to_vec(), quiet };
                    return one(key, Want::Everything, store);
                }
            };
            fast(FastAction::Set { value: request.value_span(), flags, expire, guard }, form)
        }
        Command::Touch { exptime, .. } => fast(FastAction::Touch(expire(exptime, cx.now_ms)), Form::Touched),
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

/// Calls with the name and the value of each statistic of one kind.
type EachStat = fn(&PlanCx<'_>, &mut dyn FnMut(&str, &[u8]));

fn stats(each: EachStat, cx: &PlanCx<'_>, out: &mut Vec<u8>) {
    each(cx, &mut |name, value| write::stat(name, value, out));
    out.extend_from_slice(b"END\r\n");
}

/// Of what memcached can be set to, what has a meaning here.
fn each_setting(cx: &PlanCx<'_>, each: &mut dyn FnMut(&str, &[u8])) {
    each("verbosity", b"0");
    each("cas_enabled", b"yes");
    each("binding_protocol", b"auto-negotiate");
    each("item_size_max", cx.max_value.to_string().as_bytes());
    each("flush_enabled", b"yes");
    each("mecha_backend", cx.back.as_bytes());
}

fn each_stat(cx: &PlanCx<'_>, each: &mut dyn FnMut(&str, &[u8])) {
    let number = |name: &str, value: u64, each: &mut dyn FnMut(&str, &[u8])| {
        let mut digits = Vec::with_capacity(20);
        write::number(value, &mut digits);
        each(name, &digits);
    };
    let now_s = cx.now_ms / 1000;
    number("pid", u64::from(std::process::id()), each);
    number("uptime", now_s.saturating_sub(cx.started_at.unix_seconds), each);
    number("time", now_s, each);
    each("version", VERSION.as_bytes());
    number("pointer_size", u64::from(usize::BITS), each);
    if let Some(count) = cx.key_count {
        number("curr_items", count, each);
    }
    number("item_size_max", cx.max_value as u64, each);
    each("mecha_backend", cx.back.as_bytes());
}
