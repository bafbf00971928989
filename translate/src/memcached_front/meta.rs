//! The meta commands.

use mecha_core::Outcome;
use mecha_memcached::command::{Meta, MetaVerb, StoreMode};
use mecha_memcached::{Request, write};

use super::classic::{Stored, Write};
use super::number::Change;
use super::{
    Dropped, META, META_DELETED, NON_NUMERIC, QUIET, TOO_LARGE, answered, expire, expire_at_ms, line, one,
    wrong_type,
};
use crate::kv::{Expire, Fast, FastAction, Guard, Plan, PlanCx, Program, RunCx, Want};
use crate::slot::{Entry, Slot, Value};

/// Flags whose meaning an entry cannot carry, by command.
fn unsupported(verb: MetaVerb) -> &'static [u8] {
    match verb {
        MetaVerb::Arithmetic => b"c",
        MetaVerb::Delete => b"I",
        MetaVerb::Get => b"NRhl",
        MetaVerb::Set => b"Ic",
    }
}

pub(super) fn plan(request: &Request, meta: &Meta<'_>, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    if let Some(&flag) = unsupported(meta.verb).iter().find(|&&flag| meta.has(flag)) {
        let text = format!("CLIENT_ERROR mecha: flag {} is not supported here", char::from(flag));
        return answered(&text, Outcome::ClientError, out);
    }
    let Some(key) = meta.key() else {
        return answered("CLIENT_ERROR error decoding key", Outcome::ClientError, out);
    };
    let echo = Echo {
        raw_key: meta.raw_key.to_vec(),
        is_base64: meta.has(b'b'),
        flags: meta.flags().map(|(flag, token)| (flag, token.to_vec())).collect(),
    };
    let quiet = request.is_quiet();
    let memo = if quiet { QUIET } else { 0 };
    let is_plain = !meta.has(b'b') && !meta.has(b'k') && !meta.has(b'O') && !meta.has(b'C');
    let touch = meta.has(b'T').then(|| expire(meta.exptime, cx.now_ms));
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
                vivify: meta.has(b'N').then(|| (meta.initial, expire(meta.vivify, cx.now_ms))),
                touch,
                with_value: meta.has(b'v'),
                echo,
                quiet,
            };
            one(&key, Want::Everything, program)
        }
        MetaVerb::Delete if is_plain => {
            let action = FastAction::Delete;
            Plan::Fast(Fast { key: request.key_span(), action, memo: memo | META_DELETED })
        }
        MetaVerb::Delete => {
            let compare = meta.has(b'C').then_some(meta.compare);
            one(&key, Want::Header, Delete { compare, echo, quiet })
        }
        MetaVerb::Get => {
            let want = if meta.has(b'v') || meta.has(b's') || touch.is_some() {
                Want::Everything
            } else {
                Want::Header
            };
            one(&key, want, Get { touch, with_value: meta.has(b'v'), echo, quiet })
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
            let expire_at = touch.unwrap_or(Expire::Never);
            let guard = match mode {
                StoreMode::Add => Some(Guard::Absent),
                StoreMode::Replace => Some(Guard::Present),
                StoreMode::Set => Some(Guard::Always),
                _ => None,
            };
            if let (true, Some(guard)) = (is_plain, guard) {
                let (value, flags) = (request.value_span(), meta.client_flags);
                let action = FastAction::Set { value, flags, expire: expire_at, guard };
                return Plan::Fast(Fast { key: request.key_span(), action, memo: memo | META });
            }
            let program = Set {
                mode: if compares { StoreMode::Cas } else { mode },
                compare: meta.has(b'C').then_some(meta.compare),
                vivify: meta.has(b'N').then(|| expire(meta.vivify, cx.now_ms)),
                flags: meta.client_flags,
                expire: expire_at,
                value: meta.value.to_vec(),
                echo,
                quiet,
            };
            let want = super::classic::want(mode);
            one(&key, want, program)
        }
    }
}

/// What a reply repeats of its request.
struct Echo {
    raw_key: Vec<u8>,
    is_base64: bool,
    /// In the client's order, which is the reply's.
    flags: Vec<(u8, Vec<u8>)>,
}

impl Echo {
    /// Appends what `flag` asks for, if it is a repetition.
    fn flag(&self, flag: u8, token: &[u8], out: &mut Vec<u8>) {
        match flag {
            b'O' => {
                out.extend_from_slice(b" O");
                out.extend_from_slice(token);
            }
            b'k' => {
                out.extend_from_slice(b" k");
                out.extend_from_slice(&self.raw_key);
                if self.is_base64 {
                    out.extend_from_slice(b" b");
                }
            }
            _ => {}
        }
    }

    /// Appends a reply that has nothing but repetitions.
    fn line(&self, code: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(code.as_bytes());
        for (flag, token) in &self.flags {
            self.flag(*flag, token, out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn number(before: u8, number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b' ', before]);
    write::number(number, out);
}

/// `t`: whole seconds, rounded up; -1 is forever.
fn time_left(expire_at_ms: Option<u64>, cx: &RunCx, out: &mut Vec<u8>) {
    match expire_at_ms {
        None => out.extend_from_slice(b" t-1"),
        Some(at) => number(b't', at.saturating_sub(cx.now_ms).div_ceil(1000), out),
    }
}

struct Get {
    touch: Option<Expire>,
    with_value: bool,
    echo: Echo,
    quiet: bool,
}

impl Program for Get {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        let Some(entry) = &slot.entry else {
            if !self.quiet {
                self.echo.line("EN", out);
            }
            return Outcome::Ok;
        };
        let Value::Str(value) = &entry.value else {
            line(wrong_type(&entry.value).unwrap_or_default(), out);
            return Outcome::ServerError;
        };
        if self.with_value {
            out.extend_from_slice(b"VA ");
            write::number(value.len() as u64, out);
        } else {
            out.extend_from_slice(b"HD");
        }
        let mut expires = entry.expire_at_ms;
        for (flag, token) in &self.echo.flags {
            match flag {
                b'T' => expires = expire_at_ms(self.touch.unwrap_or(Expire::Keep), expires),
                b'c' => number(b'c', entry.token, out),
                b'f' => number(b'f', u64::from(entry.flags), out),
                b's' => number(b's', value.len() as u64, out),
                b't' => time_left(expires, cx, out),
                _ => self.echo.flag(*flag, token, out),
            }
        }
        out.extend_from_slice(b"\r\n");
        if self.with_value {
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        if let Some(expire) = self.touch {
            super::classic::touch(slot, expire);
        }
        Outcome::Ok
    }
}

struct Set {
    mode: StoreMode,
    compare: Option<u64>,
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
        let write = Write { mode, unique: self.compare, flags: self.flags, expire, value: &self.value };
        match write.apply(slot, cx) {
            Stored::Exists => self.echo.line("EX", out),
            Stored::Missing => self.echo.line("NF", out),
            Stored::Refused => self.echo.line("NS", out),
            Stored::Done if self.quiet => {}
            Stored::Done => self.echo.line("HD", out),
            Stored::WrongType(message) => {
                line(message, out);
                return Outcome::ServerError;
            }
        }
        Outcome::Ok
    }
}

struct Delete {
    compare: Option<u64>,
    echo: Echo,
    quiet: bool,
}

impl Program for Delete {
    fn run(&mut self, slots: &mut [Slot], _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let Some(slot) = slots.first_mut() else { return Outcome::Ok };
        match &slot.entry {
            None => self.echo.line("NF", out),
            Some(entry) if self.compare.is_some_and(|unique| unique != entry.token) => {
                self.echo.line("EX", out)
            }
            Some(_) => {
                slot.delete();
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
                slot.put(Entry::new(Value::Str(value)));
                (initial, Some(expire))
            }
            (Some(entry), _) => {
                let matches = self.compare.is_none_or(|unique| unique == entry.token);
                let Value::Str(value) = &mut entry.value else {
                    line(wrong_type(&entry.value).unwrap_or_default(), out);
                    return Outcome::ServerError;
                };
                if !matches && !value.is_empty() {
                    self.echo.line("EX", out);
                    return Outcome::Ok;
                }
                let Some(number) = self.change.apply(value) else {
                    line(NON_NUMERIC, out);
                    return Outcome::ClientError;
                };
                slot.changed = true;
                (number, None)
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
        for (flag, token) in &self.echo.flags {
            match flag {
                b'N' => {
                    entry.expire_at_ms = expire_at_ms(created.unwrap_or(Expire::Keep), entry.expire_at_ms)
                }
                b'T' => {
                    entry.expire_at_ms = expire_at_ms(self.touch.unwrap_or(Expire::Keep), entry.expire_at_ms)
                }
                b't' => time_left(entry.expire_at_ms, cx, out),
                _ => self.echo.flag(*flag, token, out),
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
        out.extend_from_slice(b" cas=");
        write::number(entry.token, out);
        out.extend_from_slice(b" size=");
        write::number(value.len() as u64, out);
        out.extend_from_slice(b"\r\n");
        Outcome::Ok
    }
}
