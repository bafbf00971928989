//! The meta commands.

use std::cell::Cell;

use mecha_core::Outcome;
use mecha_memcached::command::{Meta, MetaVerb, MetaWords, StoreMode};
use mecha_memcached::{Request, write};

use super::classic::{Stored, Write, read};
use super::fast::{self, Form};
use super::number::{Change, Changed};
use super::{Dropped, NON_NUMERIC, TOO_LARGE, answered, expire, expire_at_ms, line, one, wrong_type};
use crate::kv::{Expire, FastAction, Guard, Plan, PlanCx, Program, RunCx, Want};
use crate::slot::{Entry, Marks, Slot, Value};

/// Flags that need marks on the item, by command.
fn unsupported(verb: MetaVerb) -> &'static [u8] {
    match verb {
        MetaVerb::Arithmetic => b"",
        MetaVerb::Delete | MetaVerb::Set => b"I",
        MetaVerb::Get => b"NRhl",
    }
}

pub(super) fn plan(request: &Request, meta: &Meta<'_>, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let unsupported = if cx.back == crate::EMBEDDED { b"" } else { unsupported(meta.verb) };
    if let Some(&flag) = unsupported.iter().find(|&&flag| meta.has(flag)) {
        let text = format!(
            "CLIENT_ERROR mecha: flag {} is not supported on a {} backend",
            char::from(flag),
            cx.back
        );
        return answered(&text, Outcome::ClientError, out);
    }
    let Some(key) = meta.key() else {
        return answered("CLIENT_ERROR error decoding key", Outcome::ClientError, out);
    };
    let quiet = request.is_quiet();
    let echo = Echo { line: meta.line.to_vec() };
    let touch = meta.has(b'T').then(|| expire(meta.exptime, cx.now_ms));
    let vivify = meta.has(b'N').then(|| expire(meta.vivify, cx.now_ms));
    // The key in the frame is the key.
    let is_plain = !meta.has(b'b');
    let fast = |action, form| Plan::Fast(fast::of(request, action, form));
    match meta.verb {
        MetaVerb::Arithmetic => {
            let is_decrement = match meta.mode {
                None | Some(b'I' | b'+') => false,
                Some(b'D' | b'-') => true,
                Some(_) => {
                    return answered("CLIENT_ERROR invalid mode for ma M token", Outcome::ClientError, out);
                }
            };
            let program = Arithmetic {
                change: Change { delta: meta.delta, is_decrement },
                // As in memcached, comparing with 0 is comparing with nothing.
                compare: meta.has(b'C').then_some(meta.compare).filter(|&unique| unique != 0),
                vivify: vivify.map(|expire| (meta.initial, expire)),
                touch,
                with_value: meta.has(b'v'),
                echo,
                quiet,
            };
            one(&key, Want::Everything, program)
        }
        MetaVerb::Delete if is_plain && !meta.has(b'C') && !meta.has(b'I') => {
            fast(FastAction::Delete, Form::MetaDeleted)
        }
        MetaVerb::Delete => {
            let compare = meta.has(b'C').then_some(meta.compare);
            let (invalidates, want) = match meta.has(b'I') {
                true => (Some(touch.unwrap_or(Expire::Keep)), Want::Everything),
                false => (None, Want::Header),
            };
            one(&key, want, Delete { compare, invalidates, echo, quiet })
        }
        MetaVerb::Get => {
            let sees_expiry = meta.has(b't') || meta.has(b'N') || meta.has(b'R');
            let want = if sees_expiry {
                Want::Everything
            } else if meta.has(b'v') || meta.has(b's') {
                Want::Value
            } else {
                Want::Header
            };
            match touch {
                Some(expire) if is_plain && !sees_expiry => fast(FastAction::GetTouch(expire), Form::MetaGot),
                None if is_plain && !meta.has(b'N') && !meta.has(b'R') => {
                    fast(FastAction::Get(want), Form::MetaGot)
                }
                touch => {
                    let recache = meta.has(b'R').then(|| expire(meta.recache, cx.now_ms));
                    let want = if touch.is_some() { Want::Everything } else { want };
                    one(&key, want, Get { touch, vivify, recache, echo, quiet })
                }
            }
        }
        MetaVerb::Set => {
            let mode = match meta.mode {
                None | Some(b'S') => StoreMode::Set,
                Some(b'A') => StoreMode::Append,
                Some(b'E') => StoreMode::Add,
                Some(b'P') => StoreMode::Prepend,
                Some(b'R') => StoreMode::Replace,
                Some(_) => {
                    return answered("CLIENT_ERROR invalid mode for ms M token", Outcome::ClientError, out);
                }
            };
            if meta.value.len() > cx.max_value {
                return one(&key, Want::Header, Dropped { message: Some(TOO_LARGE) });
            }
            let compares = meta.has(b'C') && matches!(mode, StoreMode::Set | StoreMode::Replace);
            let expire = touch.unwrap_or(Expire::Never);
            let guard = match mode {
                _ if meta.has(b'C') && !compares => None,
                StoreMode::Replace | StoreMode::Set if compares => {
                    Some((Guard::Token(meta.compare), Form::MetaCompared))
                }
                StoreMode::Add => Some((Guard::Absent, Form::MetaStored)),
                StoreMode::Replace => Some((Guard::Present, Form::MetaStored)),
                StoreMode::Set => Some((Guard::Always, Form::MetaStored)),
                _ => None,
            };
            if let (true, Some((guard, form))) = (is_plain && !meta.has(b'I'), guard) {
                let (value, flags) = (request.value_span(), meta.client_flags);
                return fast(FastAction::Set { value, flags, expire, guard }, form);
            }
            let program = Set {
                mode: if compares { StoreMode::Cas } else { mode },
                compare: meta.has(b'C').then_some(meta.compare),
                accepts_older: meta.has(b'I'),
                vivify,
                flags: meta.client_flags,
                expire,
                value: meta.value.to_vec(),
                echo,
                quiet,
            };
            let sees_all = meta.has(b'I') || matches!(mode, StoreMode::Append | StoreMode::Prepend);
            one(&key, if sees_all { Want::Everything } else { Want::Header }, program)
        }
    }
}

/// What a reply repeats of its request.
struct Echo {
    line: Vec<u8>,
}

impl Echo {
    /// Appends a reply that has nothing but repetitions.
    fn line(&self, code: &str, out: &mut Vec<u8>) {
        lead(code, &MetaWords::of(&self.line), None, out);
    }
}

/// Appends a reply that repeats what its request has of `O` and `k`, and tells the cas unique if there is one and `c`
/// asks for it.
pub(super) fn lead(code: &str, words: &MetaWords<'_>, unique: Option<u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(code.as_bytes());
    for (flag, token) in words.flags() {
        match (flag, unique) {
            (b'c', Some(unique)) => number(b'c', unique, out),
            _ => repeat(flag, token, words, out),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends what `flag` asks for, if it is a repetition.
fn repeat(flag: u8, token: &[u8], words: &MetaWords<'_>, out: &mut Vec<u8>) {
    let token = match flag {
        b'O' => token,
        b'k' => words.key,
        _ => return,
    };
    out.extend_from_slice(&[b' ', flag]);
    out.extend_from_slice(token);
    if flag == b'k' && words.is_base64 {
        out.extend_from_slice(b" b");
    }
}

fn number(before: u8, number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b' ', before]);
    write::number(number, out);
}

/// `t`: whole seconds, rounded up; -1 is forever.
fn time_left(expire_at_ms: Option<u64>, now_ms: u64, out: &mut Vec<u8>) {
    match expire_at_ms {
        None => out.extend_from_slice(b" t-1"),
        Some(at) => number(b't', at.saturating_sub(now_ms).div_ceil(1000), out),
    }
}

/// An item that `mg` has found, or made.
pub(super) struct Hit<'a> {
    pub(super) value: &'a [u8],
    pub(super) flags: u32,
    pub(super) token: u64,
    /// Before this command.
    pub(super) expire_at_ms: Option<u64>,
    /// `T`.
    pub(super) touch: Option<Expire>,
    /// `N`, if the item has just been made for it.
    pub(super) vivified: Option<Expire>,
    /// `R`.
    pub(super) recache: Option<Expire>,
    pub(super) marks: Option<&'a Cell<Marks>>,
    pub(super) now_ms: u64,
}

/// Answers `mg`, and marks the item as read, and as won by a client that is told so. Returns its new expiry.
pub(super) fn hit(words: &MetaWords<'_>, found: Hit<'_>, out: &mut Vec<u8>) -> Option<u64> {
    let Hit { value, now_ms, .. } = found;
    let mut marks = found.marks.map(Cell::get).unwrap_or_default();
    let mut expires = found.expire_at_ms;
    let (mut wins, mut updates) = (found.vivified.is_some(), true);
    let with_value = words.flags().any(|(flag, _)| flag == b'v');
    if with_value {
        out.extend_from_slice(b"VA ");
        write::number(value.len() as u64, out);
    } else {
        out.extend_from_slice(b"HD");
    }
    for (flag, token) in words.flags() {
        match flag {
            b'N' => expires = expire_at_ms(found.vivified.unwrap_or(Expire::Keep), expires),
            b'R' => {
                let is_due = match (found.recache, expires) {
                    (Some(Expire::AtMs(limit)), Some(at)) => at < limit,
                    _ => false,
                };
                wins |= is_due && !marks.is_won && found.vivified.is_none();
            }
            b'T' => expires = expire_at_ms(found.touch.unwrap_or(Expire::Keep), expires),
            b'c' => number(b'c', found.token, out),
            b'f' => number(b'f', u64::from(found.flags), out),
            b'h' => number(b'h', u64::from(marks.is_fetched), out),
            b'l' => {
                let now_s = (now_ms / 1000) as u32;
                let idle_s = if marks.accessed_s == 0 { 0 } else { now_s.saturating_sub(marks.accessed_s) };
                number(b'l', u64::from(idle_s), out);
            }
            b's' => number(b's', value.len() as u64, out),
            b't' => time_left(expires, now_ms, out),
            b'u' => updates = false,
            _ => repeat(flag, token, words, out),
        }
    }
    if marks.is_won {
        out.extend_from_slice(b" Z");
    }
    if marks.is_stale {
        out.extend_from_slice(b" X");
        wins |= !marks.is_won;
    }
    if wins {
        out.extend_from_slice(b" W");
        marks.is_won = true;
    }
    out.extend_from_slice(b"\r\n");
    if with_value {
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(cell) = found.marks {
        cell.set(marks);
        if updates {
            read(cell, now_ms);
        }
    }
    expires
}

struct Get {
    touch: Option<Expire>,
    vivify: Option<Expire>,
    recache: Option<Expire>,
    echo: Echo,
    quiet: bool,
}

impl Program for Get {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        let mut vivified = None;
        if slot.entry.is_none() {
            if self.vivify.is_none() {
                if !self.quiet {
                    self.echo.line("EN", out);
                }
                return Outcome::Ok;
            }
            vivified = self.vivify;
            let marks = Cell::new(Marks::written(cx.now_ms));
            slot.put(Entry { token: cx.token, marks, ..Entry::new(Value::Str(Vec::new())) });
        }
        let Some(entry) = &mut slot.entry else { return Outcome::Ok };
        let Value::Str(value) = &entry.value else {
            line(wrong_type(&entry.value).unwrap_or_default(), out);
            return Outcome::ServerError;
        };
        let found = Hit {
            value,
            flags: entry.flags,
            token: entry.token,
            expire_at_ms: entry.expire_at_ms,
            touch: self.touch,
            vivified,
            recache: self.recache,
            marks: Some(&entry.marks),
            now_ms: cx.now_ms,
        };
        let words = MetaWords::of(&self.echo.line);
        let expires = hit(&words, found, out);
        slot.touched |= entry.expire_at_ms != expires;
        entry.expire_at_ms = expires;
        Outcome::Ok
    }
}

struct Set {
    mode: StoreMode,
    compare: Option<u64>,
    /// `I`.
    accepts_older: bool,
    /// For append and prepend: store a missing key with this expiry.
    vivify: Option<Expire>,
    flags: u32,
    expire: Expire,
    value: Vec<u8>,
    echo: Echo,
    quiet: bool,
}

impl Program for Set {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        let (mut mode, mut expire) = (self.mode, self.expire);
        if let (StoreMode::Append | StoreMode::Prepend, Some(at), None) = (mode, self.vivify, &slot.entry) {
            (mode, expire) = (StoreMode::Add, at);
        }
        let write = Write {
            mode,
            unique: self.compare,
            accepts_older: self.accepts_older,
            flags: self.flags,
            expire,
            value: &self.value,
        };
        let (code, unique) = match write.apply(slot, cx) {
            Stored::Exists => ("EX", 0),
            Stored::Missing => ("NF", 0),
            Stored::Refused => ("NS", 0),
            Stored::Done if self.quiet => return Outcome::Ok,
            Stored::Done => ("HD", cx.token),
            Stored::WrongType(message) => {
                line(message, out);
                return Outcome::ServerError;
            }
        };
        let words = MetaWords::of(&self.echo.line);
        lead(code, &words, Some(unique), out);
        Outcome::Ok
    }
}

struct Delete {
    compare: Option<u64>,
    /// `I`: the item stays, marked as stale, and with this expiry.
    invalidates: Option<Expire>,
    echo: Echo,
    quiet: bool,
}

impl Program for Delete {
    fn run(&mut self, slots: &mut [Slot], _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        match &mut slot.entry {
            None => self.echo.line("NF", out),
            Some(entry) if self.compare.is_some_and(|unique| unique != entry.token) => {
                self.echo.line("EX", out)
            }
            entry => {
                match (entry, self.invalidates) {
                    (Some(entry), Some(expire)) => {
                        entry.expire_at_ms = expire_at_ms(expire, entry.expire_at_ms);
                        let marks = Marks { is_stale: true, is_won: false, ..entry.marks.get() };
                        entry.marks.set(marks);
                        slot.changed = true;
                    }
                    _ => _ = slot.delete(),
                }
                if !self.quiet {
                    self.echo.line("HD", out);
                }
            }
        }
        Outcome::Ok
    }
}

struct Arithmetic {
    change: Change,
    compare: Option<u64>,
    /// Initial number and expiry of a missing key.
    vivify: Option<(u64, Expire)>,
    touch: Option<Expire>,
    with_value: bool,
    echo: Echo,
    quiet: bool,
}

impl Program for Arithmetic {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        let (result, created) = match (&mut slot.entry, self.vivify) {
            (None, None) => {
                self.echo.line("NF", out);
                return Outcome::Ok;
            }
            (None, Some((initial, expire))) => {
                let mut value = Vec::with_capacity(20);
                write::number(initial, &mut value);
                let marks = Cell::new(Marks::written(cx.now_ms));
                slot.put(Entry { marks, ..Entry::new(Value::Str(value)) });
                (initial, Some(expire))
            }
            (Some(entry), _) => {
                let matches = self.compare.is_none_or(|unique| unique == entry.token);
                if !matches && !matches!(&entry.value, Value::Str(value) if value.is_empty()) {
                    self.echo.line("EX", out);
                    return Outcome::Ok;
                }
                match self.change.apply_to(entry, cx) {
                    Changed::NonNumeric => {
                        line(NON_NUMERIC, out);
                        return Outcome::ClientError;
                    }
                    Changed::To(number) => {
                        slot.changed = true;
                        (number, None)
                    }
                    Changed::WrongType(message) => {
                        line(message, out);
                        return Outcome::ServerError;
                    }
                }
            }
        };
        let mut digits = Vec::with_capacity(20);
        write::number(result, &mut digits);
        let Some(entry) = &mut slot.entry else { return Outcome::Ok };
        let start = out.len();
        if self.with_value {
            out.extend_from_slice(b"VA ");
            write::number(digits.len() as u64, out);
        } else {
            out.extend_from_slice(b"HD");
        }
        let words = MetaWords::of(&self.echo.line);
        for (flag, token) in words.flags() {
            match flag {
                b'N' => {
                    entry.expire_at_ms = expire_at_ms(created.unwrap_or(Expire::Keep), entry.expire_at_ms)
                }
                b'T' => {
                    entry.expire_at_ms = expire_at_ms(self.touch.unwrap_or(Expire::Keep), entry.expire_at_ms)
                }
                b'c' => self::number(b'c', cx.token, out),
                b't' => time_left(entry.expire_at_ms, cx.now_ms, out),
                _ => repeat(flag, token, &words, out),
            }
        }
        out.extend_from_slice(b"\r\n");
        if self.with_value {
            out.extend_from_slice(&digits);
            out.extend_from_slice(b"\r\n");
        }
        if self.quiet {
            out.truncate(start);
        }
        Outcome::Ok
    }
}

/// `me`: what is known about an item.
pub(super) struct Debug {
    pub(super) raw_key: Vec<u8>,
}

impl Program for Debug {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(entry) = slots.first().and_then(|slot| slot.entry.as_ref()) else {
            line("EN", out);
            return Outcome::Ok;
        };
        let Value::Str(value) = &entry.value else {
            line(wrong_type(&entry.value).unwrap_or_default(), out);
            return Outcome::ServerError;
        };
        out.extend_from_slice(b"ME ");
        out.extend_from_slice(&self.raw_key);
        out.extend_from_slice(b" exp=");
        match entry.expire_at_ms {
            None => out.extend_from_slice(b"-1"),
            Some(at) => write::number(at.saturating_sub(cx.now_ms).div_ceil(1000), out),
        }
        let marks = entry.marks.get();
        let idle_s = (cx.now_ms / 1000).saturating_sub(u64::from(marks.accessed_s));
        out.extend_from_slice(b" la=");
        write::number(if marks.accessed_s == 0 { 0 } else { idle_s }, out);
        out.extend_from_slice(b" cas=");
        write::number(entry.token, out);
        out.extend_from_slice(if marks.is_fetched { b" fetch=yes" } else { b" fetch=no" });
        // There are no slab classes here.
        out.extend_from_slice(b" cls=0 size=");
        write::number(value.len() as u64, out);
        out.extend_from_slice(b"\r\n");
        Outcome::Ok
    }
}
