//! Values as Redis writes them: what `DUMP` answers and `RESTORE` reads.
//!
//! ```text
//! payload  type(1 byte)  value  version(2 bytes, little endian)  CRC-64 of all before(8 bytes, little endian)
//! ```
//!
//! [`dump`] writes the encodings that every server from 4.0 on reads, one element after the other and uncompressed; a
//! server chooses its own compact encoding when it restores them. [`restore`] reads everything that a server of version
//! 7.0 reads: also what older ones wrote (ziplists, zipmaps, scores as text), and LZF. It trusts nothing: a count is
//! held against the bytes that are there, a compressed string against what such bytes can expand to, and everything
//! against the room that the caller has. What a server takes on trust unless `sanitize-dump-payload` says otherwise, such
//! as the order of an intset or a field that occurs twice, is always looked at.
//!
//! Streams and values of modules are no [`Value`]s, and are refused.

mod crc64;
mod lzf;
mod packed;
mod read;
#[cfg(test)]
mod tests;

use self::read::Reader;
use crate::slot::Value;

/// The version of payloads that servers of 7.0 write, and the highest that they read.
const VERSION: u16 = 10;

/// Version and checksum.
const FOOTER: usize = 10;

/// Types of values, by the names that Redis gives them.
mod kind {
    pub(super) const STRING: u8 = 0;
    pub(super) const LIST: u8 = 1;
    pub(super) const SET: u8 = 2;
    pub(super) const ZSET: u8 = 3;
    pub(super) const HASH: u8 = 4;
    pub(super) const ZSET_2: u8 = 5;
    pub(super) const HASH_ZIPMAP: u8 = 9;
    pub(super) const LIST_ZIPLIST: u8 = 10;
    pub(super) const SET_INTSET: u8 = 11;
    pub(super) const ZSET_ZIPLIST: u8 = 12;
    pub(super) const HASH_ZIPLIST: u8 = 13;
    pub(super) const LIST_QUICKLIST: u8 = 14;
    pub(super) const HASH_LISTPACK: u8 = 16;
    pub(super) const ZSET_LISTPACK: u8 = 17;
    pub(super) const LIST_QUICKLIST_2: u8 = 18;
}

/// Why a payload cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RdbError {
    /// The value is not what its type says, or of a type that is not stored here.
    BadFormat,
    /// It would take more memory than there is room.
    TooLarge,
    /// The version is unknown or the checksum is another.
    WrongFooter,
}

/// Appends the payload of a value.
pub fn dump(value: &Value, out: &mut Vec<u8>) {
    let start = out.len();
    match value {
        Value::Hash(fields) => {
            open(kind::HASH, fields.len(), out);
            for (field, value) in fields {
                write_string(field, out);
                write_string(value, out);
            }
        }
        Value::List(items) => {
            open(kind::LIST, items.len(), out);
            items.iter().for_each(|item| write_string(item, out));
        }
        Value::Set(members) => {
            open(kind::SET, members.len(), out);
            members.iter().for_each(|member| write_string(member, out));
        }
        Value::Str(text) => {
            out.push(kind::STRING);
            write_string(text, out);
        }
        Value::ZSet(members) => {
            open(kind::ZSET_2, members.len(), out);
            // The highest first, as a server does, which spares the one that restores it a search for each place.
            for (member, score) in members.iter().rev() {
                write_string(member, out);
                out.extend_from_slice(&score.to_le_bytes());
            }
        }
    }
    seal(start, out);
}

/// Makes a payload of the type and value that `out` has from `start` on, by adding version and checksum.
pub fn seal(start: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&VERSION.to_le_bytes());
    let sum = crc64::of(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Reads a payload into a value that takes at most about `room` bytes of memory. No intermediate form takes more.
///
/// # Errors
/// [`RdbError`]; the footer is judged before anything else.
pub fn restore(payload: &[u8], room: usize) -> Result<Value, RdbError> {
    let body = checked(payload).ok_or(RdbError::WrongFooter)?;
    let (&kind, value) = body.split_first().ok_or(RdbError::BadFormat)?;
    let value = Reader::new(value, room).value(kind)?;
    if value.is_vacant() { Err(RdbError::BadFormat) } else { Ok(value) }
}

/// What stands in front of the footer, if that is right.
fn checked(payload: &[u8]) -> Option<&[u8]> {
    let (body, footer) = payload.split_at_checked(payload.len().checked_sub(FOOTER)?)?;
    let (version, sum) = footer.split_at_checked(2)?;
    if u16::from_le_bytes(version.try_into().ok()?) > VERSION {
        return None;
    }
    let summed = payload.get(..body.len() + 2)?;
    (crc64::of(summed).to_le_bytes() == sum).then_some(body)
}

fn open(kind: u8, count: usize, out: &mut Vec<u8>) {
    out.push(kind);
    write_length(count, out);
}

fn write_length(length: usize, out: &mut Vec<u8>) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        _ => match u32::try_from(length) {
            Ok(length) => {
                out.push(read::LENGTH_32);
                out.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                out.push(read::LENGTH_64);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        },
    }
}

/// Small integers go as such.
fn write_string(text: &[u8], out: &mut Vec<u8>) {
    match small_integer(text) {
        Some(number) => {
            if let Ok(number) = i8::try_from(number) {
                out.push(read::INT_8);
                out.extend_from_slice(&number.to_le_bytes());
            } else if let Ok(number) = i16::try_from(number) {
                out.push(read::INT_16);
                out.extend_from_slice(&number.to_le_bytes());
            } else {
                out.push(read::INT_32);
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        None => {
            write_length(text.len(), out);
            out.extend_from_slice(text);
        }
    }
}

/// The number, if this is how it is written and it has 32 bits.
fn small_integer(text: &[u8]) -> Option<i32> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.len() < 10 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_canonical.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}
