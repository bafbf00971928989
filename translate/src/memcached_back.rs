//! Memcached as a back: the meta protocol, and how values that Memcached does not know are laid out in its items.
//!
//! Each step is one frame (`mg`, `ms`, `md`, and `flush_all`, which has no meta form), never quiet, so each has one
//! reply. Tokens are cas uniques.
//!
//! # What an item holds (layout version 1)
//!
//! A *string* is stored as it is, with the client flags that it has: programs that speak Memcached natively see the
//! same value. The top byte of the client flags from 0xD0 to 0xEF is ours:
//!
//! ```text
//! bit 31      28 27 26   24 23                      0
//!    |   tag   | E | kind  | low 24 bits of expiry ms |
//! ```
//!
//! The tag is 1101, or 1110 for what expires after January 2038. `kind` is 0 string, 1 hash, 2 list, 3 set, 4 sorted set. `E` tells that the value begins with an envelope (below).
//! A string carries the tag only if it needs it, that is if it expires or has an envelope. Aggregates always do;
//! see [`values`] for their bytes.
//!
//! # Expiry
//!
//! Memcached counts in seconds and drops an item up to a second early. So the item's own time to live is rounded up
//! and one second more, and the exact millisecond is put together from what is left of it (the `t` flag) and the 24
//! bits in the client flags, which repeat after 4.6 hours. An item past its exact expiry is given to the translator as
//! it is, which treats it as missing and knows its token, so that it can be replaced. If the bits and `t` are more than
//! some seconds apart, a Memcached program has touched the key, and `t` is right.
//!
//! A string that has client flags of a Memcached program *and* expires keeps those flags, since that program depends
//! on them, and expires with Memcached's own resolution: up to two seconds late, never early. Redis programs alone
//! never get into this case.
//!
//! Times to live over 30 days are sent as Unix time, as Memcached wants them. It counts that in 32 signed bits, which
//! end in January 2038; see [`far`] for what expires later.
//!
//! # Keys and envelopes
//!
//! See [`keys`]. The items of keys that are too long have the whole key in an envelope in front of the value; it is
//! compared on every read. The same envelope keeps client flags that look like the tag.
//!
//! # Limits
//!
//! When the server finds an item too large it also drops the old one; so values are checked against the configured
//! limit before they are sent.

mod far;
mod keys;
#[cfg(test)]
pub(crate) mod tests;
mod values;

use std::cell::Cell;

use mecha_core::{OpId, Span};
use mecha_memcached::{Memcached, ops};

use crate::kv::{Encoded, Expire, Guard, KvBack, KvError, Step, StepKind, StepReply, Want};
use crate::slot::{Entry, Value};

const TAG_MASK: u32 = 0xf000_0000;
const TAG: u32 = 0xd000_0000;
const FAR_TAG: u32 = 0xe000_0000;
const ENVELOPE: u32 = 0x0800_0000;
const KIND_SHIFT: u32 = 24;
const MOMENT_MASK: u32 = 0x00ff_ffff;

/// Memcached reads larger numbers as Unix time.
const LONGEST_RELATIVE_S: u64 = 60 * 60 * 24 * 30;
/// How far the expiry in the client flags may be before and behind what `t` says.
const BEFORE_MS: u64 = 8_000;
const BEHIND_MS: u64 = 3_000;

impl KvBack for Memcached {
    const BACK: &'static str = "memcached";
    const OUTLIVES_EXPIRY: bool = true;

    fn encode(step: &Step<'_>, now_ms: u64, max_value: usize, out: &mut Vec<u8>) -> Result<Encoded, KvError> {
        let key = encode(step, now_ms, max_value, out)?;
        Ok(Encoded { key, op: op(step) })
    }

    fn needs_key(key: &[u8]) -> bool {
        keys::is_digested(key)
    }

    fn decode<'w>(kind: StepKind, key: &[u8], frame: &'w [u8], now_ms: u64) -> StepReply<'w> {
        decode(kind, key, frame, now_ms)
    }
}

fn op(step: &Step<'_>) -> OpId {
    match step {
        Step::Delete { .. } => ops::MD,
        Step::Flush { .. } => ops::FLUSH_ALL,
        Step::Get { .. } | Step::GetTouch { .. } => ops::MG,
        Step::Put { .. } | Step::PutStr { .. } => ops::MS,
        Step::Touch { .. } => ops::TOUCH,
    }
}

/// Appends the frame and returns where its key lies.
fn encode(step: &Step<'_>, now_ms: u64, max_value: usize, out: &mut Vec<u8>) -> Result<Span, KvError> {
    match *step {
        Step::Get { key, want } => {
            out.extend_from_slice(b"mg ");
            let (span, form) = keys::write(key, out);
            // The envelope of a digested key has to be seen in any case.
            let whole = want != Want::Header || form == keys::Form::Digest;
            out.extend_from_slice(if whole { b" v t f c" } else { b" t f c" });
            end_line(form, out);
            Ok(span)
        }
        Step::Delete { key, guard } => {
            out.extend_from_slice(b"md ");
            let (span, form) = keys::write(key, out);
            match guard {
                // A deletion is of something present; the absent form has nothing to do and never matches.
                Guard::Absent => out.extend_from_slice(b" C0"),
                Guard::Always | Guard::Present => {}
                Guard::Token(token) => write_number(b" C", token, out),
            }
            end_line(form, out);
            Ok(span)
        }
        // The exact expiry is in the client flags, which these would leave as they are.
        Step::GetTouch { .. } | Step::Touch { .. } => Err(KvError::Unsupported),
        Step::Flush { delay_s } => {
            out.extend_from_slice(b"flush_all");
            if delay_s > 0 {
                write_number(b" ", u64::from(delay_s), out);
            }
            out.extend_from_slice(b"\r\n");
            Ok(Span::wire(out.len(), 0))
        }
        Step::Put { key, entry, guard } => {
            let item = Item { kind: values::kind(&entry.value), flags: entry.flags };
            match &entry.value {
                Value::Str(value) => {
                    store(key, item, value, entry.expire_at_ms, guard, now_ms, max_value, out)
                }
                aggregate => {
                    let mut value = Vec::new();
                    values::write(aggregate, &mut value);
                    store(key, item, &value, entry.expire_at_ms, guard, now_ms, max_value, out)
                }
            }
        }
        Step::PutStr { key, value, flags, expire, guard, token: _ } => {
            let expire_at_ms = match expire {
                Expire::AtMs(at) => Some(at),
                Expire::Keep => return Err(KvError::Unsupported),
                Expire::Never => None,
            };
            store(key, Item { kind: 0, flags }, value, expire_at_ms, guard, now_ms, max_value, out)
        }
    }
}

#[derive(Clone, Copy)]
struct Item {
    kind: u32,
    /// The client's.
    flags: u32,
}

#[allow(clippy::too_many_arguments)]
fn store(
    key: &[u8],
    item: Item,
    value: &[u8],
    expire_at_ms: Option<u64>,
    guard: Guard,
    now_ms: u64,
    max_value: usize,
    out: &mut Vec<u8>,
) -> Result<Span, KvError> {
    let ttl = expire_at_ms.map(|at| time_to_live(at, now_ms)).transpose()?;
    let is_far = matches!(ttl, Some(Ttl::Far(_)));
    // A tag leaves no room for client flags.
    let needs_tag = item.kind != 0 || is_far;
    let envelope = keys::is_digested(key) || is_tagged(item.flags) || (needs_tag && item.flags != 0);
    let mut head = Vec::new();
    if envelope {
        values::write_envelope(key, item.flags, &mut head);
    }
    let len = head.len() + value.len();
    if len > max_value {
        return Err(KvError::ValueTooLarge);
    }
    let moment = expire_at_ms.map_or(0, |at| at as u32 & MOMENT_MASK);
    let tag = if is_far { FAR_TAG } else { TAG };
    let tagged = tag | if envelope { ENVELOPE } else { 0 } | item.kind << KIND_SHIFT | moment;
    let native = !needs_tag && !envelope && (item.flags != 0 || ttl.is_none());
    let flags = if native { item.flags } else { tagged };

    out.extend_from_slice(b"ms ");
    let (span, form) = keys::write(key, out);
    write_number(b" ", len as u64, out);
    if flags != 0 {
        write_number(b" F", u64::from(flags), out);
    }
    match ttl {
        None => {}
        Some(Ttl::Over) => out.extend_from_slice(b" T-1"),
        Some(Ttl::Far(ttl) | Ttl::Near(ttl)) => write_number(b" T", ttl, out),
    }
    match guard {
        Guard::Absent => out.extend_from_slice(b" ME"),
        Guard::Always => {}
        Guard::Present => out.extend_from_slice(b" MR"),
        Guard::Token(token) => write_number(b" C", token, out),
    }
    end_line(form, out);
    out.extend_from_slice(&head);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(span)
}

/// What the `T` flag gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ttl {
    /// The place of a moment that Memcached cannot count to.
    Far(u64),
    Near(u64),
    /// At once.
    Over,
}

fn time_to_live(expire_at_ms: u64, now_ms: u64) -> Result<Ttl, KvError> {
    let Some(left_ms) = expire_at_ms.checked_sub(now_ms).filter(|&left| left > 0) else {
        return Ok(Ttl::Over);
    };
    let relative_s = left_ms.div_ceil(1000) + 1;
    if relative_s <= LONGEST_RELATIVE_S {
        return Ok(Ttl::Near(relative_s));
    }
    let absolute_s = expire_at_ms.div_ceil(1000) + 1;
    if absolute_s < far::FIRST_S {
        return Ok(Ttl::Near(absolute_s));
    }
    far::place(expire_at_ms).map(Ttl::Far).ok_or(KvError::ExpiryTooFar)
}

/// Whether client flags are ours, or look like it.
fn is_tagged(flags: u32) -> bool {
    matches!(flags & TAG_MASK, TAG | FAR_TAG)
}

fn end_line(form: keys::Form, out: &mut Vec<u8>) {
    out.extend_from_slice(if form == keys::Form::Plain { b"\r\n" } else { b" b\r\n" });
}

fn write_number(before: &[u8], mut number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(before);
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

fn decode<'w>(kind: StepKind, key: &[u8], frame: &'w [u8], now_ms: u64) -> StepReply<'w> {
    let Some(end) = frame.iter().position(|&byte| byte == b'\n') else {
        return StepReply::Failed(KvError::BackFailed);
    };
    let (line, rest) = frame.split_at(end + 1);
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let (status, flags) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(line.len()));
    match (status, kind) {
        (b"VA", StepKind::Get(want)) => {
            let (size, flags) = next_number(flags.get(1..).unwrap_or_default());
            let value = size.and_then(|size| rest.get(..usize::try_from(size).ok()?));
            match value {
                Some(value) => found(Meta::of(flags), Some(value), want, key, now_ms),
                None => StepReply::Failed(KvError::BackFailed),
            }
        }
        (b"HD", StepKind::Get(Want::Header)) => found(Meta::of(flags), None, Want::Header, key, now_ms),
        (b"HD", StepKind::Put | StepKind::Delete) | (b"OK", StepKind::Flush) => {
            StepReply::Applied { token: None }
        }
        (b"EN" | b"NF", _) => StepReply::Missing,
        (b"NS" | b"EX", _) => StepReply::Guarded,
        // A server from before 1.6 knows no meta commands.
        (b"ERROR", _) => StepReply::Failed(KvError::Unsupported),
        _ if line == b"SERVER_ERROR object too large for cache" => StepReply::Failed(KvError::ValueTooLarge),
        _ => StepReply::Failed(KvError::BackFailed),
    }
}

/// The flags of a reply to `mg`.
#[derive(Default)]
struct Meta {
    flags: u32,
    token: u64,
    /// Seconds; `None` is forever.
    left_s: Option<u64>,
}

impl Meta {
    fn of(line: &[u8]) -> Self {
        let mut meta = Self::default();
        for flag in line.split(|&byte| byte == b' ') {
            let Some((&name, value)) = flag.split_first() else { continue };
            match (name, next_number(value).0) {
                (b'c', Some(token)) => meta.token = token,
                (b'f', Some(flags)) => meta.flags = u32::try_from(flags).unwrap_or_default(),
                // Forever is `t-1`, which is no number here.
                (b't', left) => meta.left_s = left,
                _ => {}
            }
        }
        meta
    }

    fn expire_at_ms(&self, now_ms: u64) -> Option<u64> {
        let by_server = now_ms.saturating_add(self.left_s?.saturating_mul(1000)).max(now_ms + 1);
        match self.flags & TAG_MASK {
            TAG => {}
            FAR_TAG => return Some(far::moment(by_server, self.flags & MOMENT_MASK).unwrap_or(by_server)),
            _ => return Some(by_server),
        }
        // The first moment from `earliest` on whose low bits are those of the tag.
        let earliest = by_server.saturating_sub(BEFORE_MS);
        let ahead = (self.flags & MOMENT_MASK).wrapping_sub(earliest as u32) & MOMENT_MASK;
        let exact = earliest.saturating_add(u64::from(ahead));
        Some(if exact <= by_server.saturating_add(BEHIND_MS) { exact } else { by_server })
    }
}

/// Reads decimal digits and returns what is behind them.
fn next_number(bytes: &[u8]) -> (Option<u64>, &[u8]) {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = bytes.split_at(digits);
    if number.is_empty() {
        return (None, rest);
    }
    let add = |sum: u64, &digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    (number.iter().try_fold(0, add), rest)
}

fn found<'w>(meta: Meta, value: Option<&'w [u8]>, want: Want, key: &[u8], now_ms: u64) -> StepReply<'w> {
    let expire_at_ms = meta.expire_at_ms(now_ms);
    let token = meta.token;
    let (mut kind, mut flags, mut value) = (0, meta.flags, value);
    if is_tagged(meta.flags) {
        kind = (meta.flags & !TAG_MASK & !ENVELOPE) >> KIND_SHIFT;
        flags = 0;
        if let (true, Some(bytes)) = (meta.flags & ENVELOPE != 0, value) {
            let Some(envelope) = values::read_envelope(bytes) else {
                return StepReply::Failed(KvError::Corrupt);
            };
            // The key is given only where the item's key does not tell it.
            if !key.is_empty() && envelope.key != key {
                return StepReply::Failed(KvError::KeyCollision);
            }
            (flags, value) = (envelope.flags, Some(envelope.value));
        }
    }
    let enveloped = is_tagged(meta.flags) && meta.flags & ENVELOPE != 0;
    if !enveloped && !key.is_empty() && keys::is_digested(key) {
        return StepReply::Failed(KvError::Corrupt);
    }
    let content = value.filter(|_| want != Want::Header);
    if kind == 0 {
        return StepReply::Str {
            value: content.unwrap_or_default(),
            flags,
            expire_at_ms,
            token,
            marks: None,
        };
    }
    let aggregate = match content {
        Some(bytes) => values::read(kind, bytes),
        None => values::vacant(kind),
    };
    match aggregate {
        Some(value) => {
            StepReply::Typed(Box::new(Entry { value, expire_at_ms, flags, token, marks: Cell::default() }))
        }
        None => StepReply::Failed(KvError::Corrupt),
    }
}
