//! The binary protocol: the same commands, other words.
//!
//! What is done to the slots is what the text commands do; only reading the request and writing the reply differ. A
//! reply needs the operation (which has the opcode), the opaque (the call's echo) and, for the forms with `K`, the key.
//! Expiry is unsigned here, so no number means "at once".

use mecha_core::{Asked, Outcome, Span};
use mecha_memcached::binary::{HEADER, Response, opcode, status};
use mecha_memcached::command::StoreMode;
use mecha_memcached::{Request, ops, write};

use super::classic::{Stored, Write, read};
use super::number::{Change, Changed};
use super::{LONGEST_RELATIVE_S, VERSION, one, wrong_type};
use crate::kv::{
    Expire, Fast, FastAction, Guard, KvError, Plan, PlanCx, Program, Recall, RunCx, StepReply, Want,
};
use crate::slot::{Entry, Slot, Value};

/// A memo: the write compares a cas unique.
const COMPARES: u32 = 1;

/// Plans one request.
pub(super) fn plan(request: &Request, frame: &[u8], cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let asked = Asked { op: request.op(), echo: request.opaque() };
    if let Some(fault) = request.fault() {
        Response::error(request.opcode().unwrap_or_default(), asked.echo, fault.status(), out);
        return if fault.ends() { Plan::Close } else { Plan::Answered(Outcome::ClientError) };
    }
    let frame = Parts { request, frame };
    let key = frame.key();
    let cas = frame.cas();
    let compare = (cas != 0).then_some(cas);
    let fast = |action, keep, memo| Plan::Fast(Fast { key: request.key_span(), action, keep, memo });
    let nothing = Span::default();
    match asked.op {
        ops::BIN_NOOP => ok(asked, out),
        ops::BIN_QUIT => {
            ok(asked, out);
            Plan::Close
        }
        ops::BIN_QUITQ => Plan::Close,
        ops::BIN_VERSION => {
            answer(asked, Response { value: VERSION.as_bytes(), ..Response::default() }, out);
            Plan::Answered(Outcome::Ok)
        }
        ops::BIN_STAT => stat(asked, key, cx, out),
        ops::BIN_GET | ops::BIN_GETQ => fast(FastAction::Get(Want::Value), nothing, 0),
        ops::BIN_GETK | ops::BIN_GETKQ => fast(FastAction::Get(Want::Value), request.key_span(), 0),
        ops::BIN_GAT | ops::BIN_GATQ | ops::BIN_TOUCH => {
            fast(FastAction::GetTouch(expire(frame.extra_u32(0), cx.now_ms)), nothing, 0)
        }
        ops::BIN_GATK | ops::BIN_GATKQ => {
            fast(FastAction::GetTouch(expire(frame.extra_u32(0), cx.now_ms)), request.key_span(), 0)
        }
        ops::BIN_FLUSH | ops::BIN_FLUSHQ => {
            let delay_s = match expire(frame.extra_u32(0), cx.now_ms) {
                Expire::AtMs(at) => at.saturating_sub(cx.now_ms).div_ceil(1000),
                Expire::Keep | Expire::Never => 0,
            };
            fast(FastAction::Flush { delay_s: u32::try_from(delay_s).unwrap_or(u32::MAX) }, nothing, 0)
        }
        ops::BIN_DELETE | ops::BIN_DELETEQ => match compare {
            None => fast(FastAction::Delete, nothing, 0),
            Some(unique) => one(key, Want::Header, Delete { asked, unique }),
        },
        ops::BIN_INCREMENT | ops::BIN_INCREMENTQ | ops::BIN_DECREMENT | ops::BIN_DECREMENTQ => {
            let is_decrement = matches!(asked.op, ops::BIN_DECREMENT | ops::BIN_DECREMENTQ);
            let exptime = frame.extra_u32(16);
            let program = Arithmetic {
                asked,
                change: Change { delta: frame.extra_u64(0), is_decrement },
                compare,
                // All bits set is the protocol's "do not create".
                vivify: (exptime != u32::MAX).then(|| (frame.extra_u64(8), expire(exptime, cx.now_ms))),
            };
            one(key, Want::Everything, program)
        }
        ops::BIN_SET
        | ops::BIN_SETQ
        | ops::BIN_ADD
        | ops::BIN_ADDQ
        | ops::BIN_REPLACE
        | ops::BIN_REPLACEQ
        | ops::BIN_APPEND
        | ops::BIN_APPENDQ
        | ops::BIN_PREPEND
        | ops::BIN_PREPENDQ => store(asked, &frame, compare, cx),
        // mecha asks nobody who they are here, like a memcached without SASL.
        _ => {
            error(asked, status::UNKNOWN_COMMAND, out);
            Plan::Answered(Outcome::ClientError)
        }
    }
}

fn store(asked: Asked, frame: &Parts<'_>, compare: Option<u64>, cx: &PlanCx<'_>) -> Plan {
    let (request, key) = (frame.request, frame.key());
    let value = request.value_span().of(frame.frame, &[]);
    let mode = match asked.op {
        ops::BIN_ADD | ops::BIN_ADDQ => StoreMode::Add,
        ops::BIN_REPLACE | ops::BIN_REPLACEQ => StoreMode::Replace,
        ops::BIN_APPEND | ops::BIN_APPENDQ => StoreMode::Append,
        ops::BIN_PREPEND | ops::BIN_PREPENDQ => StoreMode::Prepend,
        _ => StoreMode::Set,
    };
    if value.len() > cx.max_value {
        return one(key, Want::Header, TooLarge { asked, drops: mode == StoreMode::Set });
    }
    let guard = match (mode, compare) {
        (StoreMode::Append | StoreMode::Prepend, unique) => {
            return one(key, Want::Everything, Append { asked, mode, unique, value: value.to_vec() });
        }
        (_, Some(unique)) => Guard::Token(unique),
        (StoreMode::Add, None) => Guard::Absent,
        (StoreMode::Replace, None) => Guard::Present,
        _ => Guard::Always,
    };
    let (flags, expire) = (frame.extra_u32(0), expire(frame.extra_u32(4), cx.now_ms));
    let action = FastAction::Set { value: request.value_span(), flags, expire, guard };
    let memo = if compare.is_some() { COMPARES } else { 0 };
    Plan::Fast(Fast { key: request.key_span(), action, keep: Span::default(), memo })
}

/// Where things are in a frame.
struct Parts<'w> {
    request: &'w Request,
    frame: &'w [u8],
}

impl<'w> Parts<'w> {
    fn key(&self) -> &'w [u8] {
        self.request.key_span().of(self.frame, &[])
    }

    fn cas(&self) -> u64 {
        let cas = self.frame.get(HEADER - 8..).and_then(|bytes| bytes.first_chunk());
        cas.map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// The extras from `at` on; missing ones are 0, as in a `FLUSH` without a moment.
    fn extra_u32(&self, at: usize) -> u32 {
        self.extras(at).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn extra_u64(&self, at: usize) -> u64 {
        self.extras(at).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    fn extras(&self, at: usize) -> Option<&'w [u8]> {
        self.frame.get(HEADER + at..self.request.key_span().start())
    }
}

/// What an exptime means.
fn expire(exptime: u32, now_ms: u64) -> Expire {
    match u64::from(exptime) {
        0 => Expire::Never,
        seconds if seconds <= LONGEST_RELATIVE_S as u64 => {
            Expire::AtMs(now_ms.saturating_add(seconds * 1000))
        }
        unix_seconds => Expire::AtMs(unix_seconds * 1000),
    }
}

fn answer(asked: Asked, response: Response<'_>, out: &mut Vec<u8>) {
    Response { opcode: opcode(asked.op), opaque: asked.echo, ..response }.write(out);
}

fn error(asked: Asked, status: u16, out: &mut Vec<u8>) -> Outcome {
    Response::error(opcode(asked.op), asked.echo, status, out);
    match status {
        status::NOT_FOUND | status::EXISTS | status::NOT_STORED => Outcome::Ok,
        _ => Outcome::ClientError,
    }
}

fn ok(asked: Asked, out: &mut Vec<u8>) -> Plan {
    answer(asked, Response::default(), out);
    Plan::Answered(Outcome::Ok)
}

/// Success of something that is written; not heard from quiet requests.
fn done(asked: Asked, cas: u64, value: &[u8], out: &mut Vec<u8>) -> Outcome {
    if !is_quiet(asked) {
        answer(asked, Response { cas, value, ..Response::default() }, out);
    }
    Outcome::Ok
}

fn is_quiet(asked: Asked) -> bool {
    ops::is_quiet_binary(asked.op)
}

fn of_other_type(asked: Asked, value: &Value, out: &mut Vec<u8>) -> Outcome {
    let text = wrong_type(value).unwrap_or_default();
    let text = text.strip_prefix("SERVER_ERROR ").unwrap_or(text);
    answer(asked, Response { status: status::INTERNAL, value: text.as_bytes(), ..Response::default() }, out);
    Outcome::ServerError
}

fn stat(asked: Asked, what: &[u8], cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let mut each = |name: &str, value: &[u8]| {
        answer(asked, Response { key: name.as_bytes(), value, ..Response::default() }, out);
    };
    match what {
        b"" => super::each_stat(cx, &mut each),
        b"settings" => super::each_setting(cx, &mut each),
        b"reset" => {}
        _ => {
            error(asked, status::NOT_FOUND, out);
            return Plan::Answered(Outcome::Ok);
        }
    }
    ok(asked, out)
}

/// Formats a step's reply.
pub(super) fn reply(recall: &Recall<'_>, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome {
    let asked = recall.asked;
    let compares = recall.memo & COMPARES != 0;
    match (reply, asked.op) {
        (StepReply::Typed(entry), _) => of_other_type(asked, &entry.value, out),
        (StepReply::Str { value, flags, token, marks, .. }, op) => {
            if let Some(marks) = marks {
                read(marks, recall.now_ms);
            }
            let value = if op == ops::BIN_TOUCH { &[][..] } else { value };
            let found =
                Response { flags: Some(*flags), cas: *token, key: recall.kept, value, ..Response::default() };
            answer(asked, found, out);
            Outcome::Ok
        }
        (
            StepReply::Missing,
            ops::BIN_GET | ops::BIN_GETK | ops::BIN_GAT | ops::BIN_GATK | ops::BIN_TOUCH,
        ) => {
            if recall.kept.is_empty() {
                return error(asked, status::NOT_FOUND, out);
            }
            let missing = Response { status: status::NOT_FOUND, key: recall.kept, ..Response::default() };
            answer(asked, missing, out);
            Outcome::Ok
        }
        (StepReply::Missing, ops::BIN_GETQ | ops::BIN_GETKQ | ops::BIN_GATQ | ops::BIN_GATKQ) => Outcome::Ok,
        (StepReply::Applied { token }, op) => {
            // A deletion or a flush writes nothing that could have one.
            let cas = match op {
                ops::BIN_DELETE | ops::BIN_FLUSH => 0,
                _ => token.unwrap_or_default(),
            };
            done(asked, cas, &[], out)
        }
        (StepReply::Missing, _) => error(asked, status::NOT_FOUND, out),
        (_, ops::BIN_REPLACE | ops::BIN_REPLACEQ) if !compares => error(asked, status::NOT_FOUND, out),
        _ => error(asked, status::EXISTS, out),
    }
}

/// The native error; `message` is what text clients read, without its first word.
pub(super) fn kv_error(asked: Asked, error: KvError, message: &str, back: &str, out: &mut Vec<u8>) {
    let status = match error {
        KvError::ValueTooLarge => {
            Response::error(opcode(asked.op), asked.echo, status::TOO_LARGE, out);
            return;
        }
        KvError::Unsupported => status::NOT_SUPPORTED,
        KvError::Contended => status::TEMPORARY_FAILURE,
        _ => status::INTERNAL,
    };
    let text = message.split_once(' ').map_or(message, |(_, text)| text);
    let text = if error == KvError::Unsupported { format!("{text}{back}") } else { text.to_owned() };
    answer(asked, Response { status, value: text.as_bytes(), ..Response::default() }, out);
}

struct Delete {
    asked: Asked,
    unique: u64,
}

impl Program for Delete {
    fn run(&mut self, slots: &mut [Slot], _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        match &slot.entry {
            None => error(self.asked, status::NOT_FOUND, out),
            Some(entry) if entry.token != self.unique => error(self.asked, status::EXISTS, out),
            Some(_) => {
                slot.delete();
                done(self.asked, 0, &[], out)
            }
        }
    }
}

/// A value too large to store: `SET` drops the old one, lest it be read as if it were the new one.
struct TooLarge {
    asked: Asked,
    drops: bool,
}

impl Program for TooLarge {
    fn run(&mut self, slots: &mut [Slot], _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        if let (Some(slot), true) = (slots.first_mut(), self.drops) {
            slot.delete();
        }
        error(self.asked, status::TOO_LARGE, out)
    }
}

struct Append {
    asked: Asked,
    mode: StoreMode,
    unique: Option<u64>,
    value: Vec<u8>,
}

impl Program for Append {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        if let Some(value) = slot.entry.as_ref().map(|entry| &entry.value)
            && wrong_type(value).is_some()
        {
            return of_other_type(self.asked, value, out);
        }
        let write = Write {
            mode: self.mode,
            unique: self.unique,
            accepts_older: false,
            flags: 0,
            expire: Expire::Keep,
            value: &self.value,
        };
        match write.apply(slot, cx) {
            Stored::Done => done(self.asked, cx.token, &[], out),
            Stored::Exists => error(self.asked, status::EXISTS, out),
            Stored::Missing | Stored::Refused | Stored::WrongType(_) => {
                error(self.asked, status::NOT_STORED, out)
            }
        }
    }
}

struct Arithmetic {
    asked: Asked,
    change: Change,
    compare: Option<u64>,
    /// Initial number and expiry of a missing key.
    vivify: Option<(u64, Expire)>,
}

impl Program for Arithmetic {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        let number = match (&mut slot.entry, self.vivify) {
            (None, None) => return error(self.asked, status::NOT_FOUND, out),
            (None, Some((initial, expire))) => {
                let mut digits = Vec::with_capacity(20);
                write::number(initial, &mut digits);
                let expire_at_ms = super::expire_at_ms(expire, None);
                slot.put(Entry { expire_at_ms, ..Entry::new(Value::Str(digits)) });
                initial
            }
            (Some(entry), _) if self.compare.is_some_and(|unique| unique != entry.token) => {
                return error(self.asked, status::EXISTS, out);
            }
            (Some(entry), _) => match self.change.apply_to(entry, cx) {
                Changed::To(number) => {
                    slot.changed = true;
                    number
                }
                Changed::NonNumeric => return error(self.asked, status::NON_NUMERIC, out),
                Changed::WrongType(_) => return of_other_type(self.asked, &entry.value, out),
            },
        };
        done(self.asked, cx.token, &number.to_be_bytes(), out)
    }
}
