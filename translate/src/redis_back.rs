//! Redis as a back: strings with what Memcached knows about them.
//!
//! # What a key holds
//!
//! A Redis string whose first 16 bytes are a header, followed by the value:
//!
//! ```text
//! | d7 'm' 'c' 01 | flags, 4 bytes | token, 8 bytes | value        (numbers big endian)
//! ```
//!
//! The token is new with every write, and different in all processes (63 bits: a random start for each thread, then
//! counted), so a cas unique is never met twice. A string without the header was written by a Redis program: its flags
//! are 0, and its token is the first 60 bits of its SHA-1. That token comes back if the content does, so for such
//! strings alone a cas cannot see that a value was changed and changed back (ABA). Expiry is Redis' own.
//!
//! Redis programs that read what mecha wrote see the header. A string of theirs that starts with these very four bytes
//! and is at least 16 bytes long would be misread.
//!
//! Keys that hold a hash, list, set or sorted set are reported as [`KvError::Unsupported`], and overwritten or deleted
//! only by writes without a condition on the token.
//!
//! # Steps
//!
//! Writes without a token are a `SET` or `DEL`. A read that does not ask for the expiry is a `GET`, one that sets it a
//! `GETEX`. Any other reading takes a script, since no command gives value and expiry in one reply, and so does comparing a
//! token. Scripts are sent whole: Redis caches them by content, and an `EVALSHA` that
//! is not known would need a second frame. All commands exist since Redis 6.2; exact expiry needs 7.0, and is put
//! together from `PTTL` and `TIME` before.
//!
//! Deliberately absent: aggregates, and a flush with a delay.

mod sha1;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

use mecha_core::Span;
use mecha_memcached::write;
use mecha_resp::{Resp, op};

use self::sha1::sha1;
use crate::kv::{Encoded, Expire, Guard, KvBack, KvError, Step, StepKind, StepReply, Want};
use crate::slot::Value;

const MAGIC: &[u8; 4] = b"\xd7mc\x01";
const HEADER: usize = 16;

/// Value and expiry. `false` is a key that does not exist.
const GET: &[u8] = b"local v=redis.pcall('GET',KEYS[1]) \
if type(v)=='table' then return v end if not v then return false end \
local t=redis.pcall('PEXPIRETIME',KEYS[1]) \
if type(t)=='table' then t=redis.call('PTTL',KEYS[1]) if t>=0 then \
local n=redis.call('TIME') t=n[1]*1000+math.floor(n[2]/1000)+t end end \
return {v,t}";

/// As [`GET`], with the header alone, and the digest of a string that has none.
const HEAD: &[u8] = b"local v=redis.pcall('GET',KEYS[1]) \
if type(v)=='table' then return v end if not v then return false end \
local t=redis.pcall('PEXPIRETIME',KEYS[1]) \
if type(t)=='table' then t=redis.call('PTTL',KEYS[1]) if t>=0 then \
local n=redis.call('TIME') t=n[1]*1000+math.floor(n[2]/1000)+t end end \
if #v>=16 and string.sub(v,1,4)=='\\215mc\\1' then return {string.sub(v,1,16),t} end \
return {'',t,redis.sha1hex(v)}";

/// Compares the token: ARGV[1] is its bytes, ARGV[2] its 15 hexadecimal digits. 0 missing, 3 guarded.
const COMPARE: &[u8] = b"local v=redis.pcall('GET',KEYS[1]) \
if type(v)=='table' then return v end if not v then return 0 end \
if #v>=16 and string.sub(v,1,4)=='\\215mc\\1' then \
if string.sub(v,9,16)~=ARGV[1] then return 3 end \
elseif string.sub(redis.sha1hex(v),1,15)~=ARGV[2] then return 3 end ";

/// Behind [`COMPARE`]. ARGV[4] is the expiry in Unix milliseconds, or a word.
const THEN_SET: &[u8] = b"if ARGV[4]=='never' then redis.call('SET',KEYS[1],ARGV[3]) \
elseif ARGV[4]=='keep' then redis.call('SET',KEYS[1],ARGV[3],'KEEPTTL') \
else redis.call('SET',KEYS[1],ARGV[3],'PXAT',ARGV[4]) end return 1";
const THEN_DELETE: &[u8] = b"redis.call('DEL',KEYS[1]) return 1";

/// PERSIST itself does not tell a key without expiry from none.
const PERSIST: &[u8] = b"if redis.call('EXISTS',KEYS[1])==0 then return 0 end \
redis.call('PERSIST',KEYS[1]) return 1";
const ABSENT: &[u8] = b"if redis.call('EXISTS',KEYS[1])==1 then return 3 end return 0";

impl KvBack for Resp {
    const BACK: &'static str = "redis";

    fn encode(step: &Step<'_>, now_ms: u64, max_value: usize, out: &mut Vec<u8>) -> Result<Encoded, KvError> {
        match *step {
            Step::Delete { key, guard } => Ok(match guard {
                Guard::Absent => script(&[ABSENT], key, 0, out),
                Guard::Always | Guard::Present => {
                    array(2, out);
                    bulk(b"DEL", out);
                    Encoded { key: bulk(key, out), op: op::DEL }
                }
                Guard::Token(token) => {
                    let encoded = script(&[COMPARE, THEN_DELETE], key, 2, out);
                    compared(token, out);
                    encoded
                }
            }),
            Step::Flush { delay_s: 0 } => {
                array(1, out);
                bulk(b"FLUSHDB", out);
                Ok(Encoded { key: Span::wire(out.len(), 0), op: op::FLUSHDB })
            }
            Step::Flush { .. } => Err(KvError::Unsupported),
            Step::Get { key, want: Want::Everything } => Ok(script(&[GET], key, 0, out)),
            Step::Get { key, want: Want::Header } => Ok(script(&[HEAD], key, 0, out)),
            Step::Get { key, want: Want::Value } => {
                array(2, out);
                bulk(b"GET", out);
                Ok(Encoded { key: bulk(key, out), op: op::GET })
            }
            Step::GetTouch { key, expire } => {
                let at = moment(expire, now_ms);
                array(if at.is_some() { 4 } else { 3 }, out);
                bulk(b"GETEX", out);
                let key = bulk(key, out);
                match at {
                    Some(at) => {
                        bulk(b"PXAT", out);
                        number(at, out);
                    }
                    None => _ = bulk(b"PERSIST", out),
                }
                Ok(Encoded { key, op: op::GETEX })
            }
            Step::Touch { key, expire } => match moment(expire, now_ms) {
                Some(at) => {
                    array(3, out);
                    bulk(b"PEXPIREAT", out);
                    let key = bulk(key, out);
                    number(at, out);
                    Ok(Encoded { key, op: op::PEXPIREAT })
                }
                None => Ok(script(&[PERSIST], key, 0, out)),
            },
            Step::Put { key, entry, guard } => {
                let Value::Str(value) = &entry.value else { return Err(KvError::Unsupported) };
                let expire = entry.expire_at_ms.map_or(Expire::Never, Expire::AtMs);
                Put { key, value, flags: entry.flags, expire, guard, token: entry.token }
                    .encode(now_ms, max_value, out)
            }
            Step::PutStr { key, value, flags, expire, guard, token } => {
                Put { key, value, flags, expire, guard, token }.encode(now_ms, max_value, out)
            }
        }
    }

    fn fresh_token() -> u64 {
        new_token()
    }

    fn decode<'w>(kind: StepKind, _key: &[u8], frame: &'w [u8], now_ms: u64) -> StepReply<'w> {
        let mut wire = Wire { rest: frame };
        let Some(item) = wire.item() else { return StepReply::Failed(KvError::BackFailed) };
        match (item, kind) {
            (Item::Error(error), _) if error.starts_with(b"WRONGTYPE") => {
                StepReply::Failed(KvError::Unsupported)
            }
            (Item::Error(_), _) => StepReply::Failed(KvError::BackFailed),
            (Item::Array(2 | 3), StepKind::Get(want)) => found(&mut wire, want, now_ms),
            (Item::Bulk(bytes), StepKind::Get(Want::Value)) => {
                string(bytes, None).unwrap_or_else(|| StepReply::Str {
                    value: bytes,
                    flags: 0,
                    expire_at_ms: None,
                    token: digest_token(&sha1(bytes)),
                    marks: None,
                })
            }
            (Item::Nil, StepKind::Get(_)) => StepReply::Missing,
            (Item::Nil, StepKind::Put) => StepReply::Guarded,
            (Item::Ok, StepKind::Flush | StepKind::Put) => StepReply::Applied { token: None },
            (Item::Number(0), StepKind::Delete | StepKind::Put | StepKind::Touch) => StepReply::Missing,
            (Item::Number(1), StepKind::Delete | StepKind::Put | StepKind::Touch) => {
                StepReply::Applied { token: None }
            }
            (Item::Number(3), StepKind::Delete | StepKind::Put) => StepReply::Guarded,
            _ => StepReply::Failed(KvError::BackFailed),
        }
    }
}

struct Put<'a> {
    key: &'a [u8],
    value: &'a [u8],
    flags: u32,
    expire: Expire,
    guard: Guard,
    token: u64,
}

impl Put<'_> {
    fn encode(&self, now_ms: u64, max_value: usize, out: &mut Vec<u8>) -> Result<Encoded, KvError> {
        if self.value.len() > max_value {
            return Err(KvError::ValueTooLarge);
        }
        let expire = match self.expire {
            Expire::Keep => Expire::Keep,
            expire => moment(expire, now_ms).map_or(Expire::Never, Expire::AtMs),
        };
        if let Guard::Token(token) = self.guard {
            let encoded = script(&[COMPARE, THEN_SET], self.key, 4, out);
            compared(token, out);
            self.bulk_value(out);
            match expire {
                Expire::AtMs(at) => number(at, out),
                Expire::Keep => _ = bulk(b"keep", out),
                Expire::Never => _ = bulk(b"never", out),
            }
            return Ok(encoded);
        }
        let expire_words = match expire {
            Expire::AtMs(_) => 2,
            Expire::Keep => 1,
            Expire::Never => 0,
        };
        array(3 + expire_words + usize::from(self.guard != Guard::Always), out);
        bulk(b"SET", out);
        let encoded = Encoded { key: bulk(self.key, out), op: op::SET };
        self.bulk_value(out);
        match self.guard {
            Guard::Absent => _ = bulk(b"NX", out),
            Guard::Present => _ = bulk(b"XX", out),
            Guard::Always | Guard::Token(_) => {}
        }
        match expire {
            Expire::AtMs(at) => {
                bulk(b"PXAT", out);
                number(at, out);
            }
            Expire::Keep => _ = bulk(b"KEEPTTL", out),
            Expire::Never => {}
        }
        Ok(encoded)
    }

    fn bulk_value(&self, out: &mut Vec<u8>) {
        out.push(b'$');
        write::number((HEADER + self.value.len()) as u64, out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.token.to_be_bytes());
        out.extend_from_slice(self.value);
        out.extend_from_slice(b"\r\n");
    }
}

/// The moment that a key ceases to exist, as Redis takes it: any of the past but 0, and none that no clock reaches.
fn moment(expire: Expire, now_ms: u64) -> Option<u64> {
    match expire {
        Expire::AtMs(at) if at <= now_ms => Some(1),
        Expire::AtMs(at) if i64::try_from(at).is_err() => None,
        Expire::AtMs(at) => Some(at),
        Expire::Keep | Expire::Never => None,
    }
}

thread_local! {
    // The hasher's keys are random, and others in each process and thread.
    static NEXT_TOKEN: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
}

/// Never 0, which memcached takes for none, and positive where clients read it as signed.
fn new_token() -> u64 {
    let next = NEXT_TOKEN.with(|next| next.replace(next.get().wrapping_add(1)));
    (next & (u64::MAX >> 1)).max(1)
}

/// The token of a string that has no header: 15 hexadecimal digits.
fn digest_token(digest: &[u8; 20]) -> u64 {
    let first = digest.first_chunk::<8>().copied().unwrap_or_default();
    u64::from_be_bytes(first) >> 4
}

/// Begins an `EVAL` with one key, to be followed by `arguments` more words.
fn script(parts: &[&[u8]], key: &[u8], arguments: usize, out: &mut Vec<u8>) -> Encoded {
    array(4 + arguments, out);
    bulk(b"EVAL", out);
    out.push(b'$');
    write::number(parts.iter().map(|part| part.len() as u64).sum(), out);
    out.extend_from_slice(b"\r\n");
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
    bulk(b"1", out);
    Encoded { key: bulk(key, out), op: op::EVAL }
}

/// The first two arguments of [`COMPARE`].
fn compared(token: u64, out: &mut Vec<u8>) {
    bulk(&token.to_be_bytes(), out);
    let mut hex = [0; 15];
    for (place, digit) in hex.iter_mut().enumerate() {
        let nibble = (token >> (56 - 4 * place)) as u8 & 15;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
    bulk(&hex, out);
}

fn array(len: usize, out: &mut Vec<u8>) {
    out.push(b'*');
    write::number(len as u64, out);
    out.extend_from_slice(b"\r\n");
}

/// Returns where the bytes are.
fn bulk(bytes: &[u8], out: &mut Vec<u8>) -> Span {
    out.push(b'$');
    write::number(bytes.len() as u64, out);
    out.extend_from_slice(b"\r\n");
    let span = Span::wire(out.len(), bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    span
}

fn number(number: u64, out: &mut Vec<u8>) {
    let mut digits = Vec::with_capacity(20);
    write::number(number, &mut digits);
    bulk(&digits, out);
}

/// Reads the few reply types that these commands have.
struct Wire<'w> {
    rest: &'w [u8],
}

enum Item<'w> {
    Array(i64),
    Bulk(&'w [u8]),
    Error(&'w [u8]),
    Nil,
    Number(i64),
    Ok,
}

impl<'w> Wire<'w> {
    fn item(&mut self) -> Option<Item<'w>> {
        let end = self.rest.iter().position(|&byte| byte == b'\n')?;
        let (line, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        let (&kind, line) = line.strip_suffix(b"\r\n")?.split_first()?;
        let count = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
        Some(match kind {
            b'-' => Item::Error(line),
            b'+' => Item::Ok,
            b':' => Item::Number(count()?),
            b'_' => Item::Nil,
            b'$' | b'*' if line == b"-1" => Item::Nil,
            b'*' => Item::Array(count()?),
            b'$' => {
                let len = usize::try_from(count()?).ok()?;
                let bytes = self.rest.get(..len)?;
                self.rest = self.rest.get(len + 2..)?;
                Item::Bulk(bytes)
            }
            _ => return None,
        })
    }
}

fn found<'w>(wire: &mut Wire<'w>, want: Want, now_ms: u64) -> StepReply<'w> {
    let (Some(Item::Bulk(bytes)), Some(Item::Number(expiry))) = (wire.item(), wire.item()) else {
        return StepReply::Failed(KvError::BackFailed);
    };
    // -1 is forever, -2 a key that expired just now.
    let expire_at_ms = match u64::try_from(expiry) {
        Ok(at) if at <= now_ms => return StepReply::Missing,
        Ok(at) => Some(at),
        Err(_) if expiry == -2 => return StepReply::Missing,
        Err(_) => None,
    };
    if let Some(reply) = string(bytes, expire_at_ms) {
        return reply;
    }
    let token = match want {
        Want::Everything | Want::Value => digest_token(&sha1(bytes)),
        Want::Header => {
            let Some(Item::Bulk(hex)) = wire.item() else { return StepReply::Failed(KvError::BackFailed) };
            let digits = hex.get(..15).and_then(|hex| std::str::from_utf8(hex).ok());
            let Some(token) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else {
                return StepReply::Failed(KvError::BackFailed);
            };
            token
        }
    };
    StepReply::Str { value: bytes, flags: 0, expire_at_ms, token, marks: None }
}

/// A string that mecha wrote.
fn string(bytes: &[u8], expire_at_ms: Option<u64>) -> Option<StepReply<'_>> {
    let (header, value) = bytes.split_first_chunk::<HEADER>()?;
    let rest = header.strip_prefix(MAGIC)?;
    let (flags, token) = rest.split_first_chunk::<4>()?;
    let token = u64::from_be_bytes(*token.first_chunk::<8>()?);
    Some(StepReply::Str { value, flags: u32::from_be_bytes(*flags), expire_at_ms, token, marks: None })
}
