//! The bytes of aggregates and envelopes, and their decoder, which trusts nothing: items can be written by anybody.
//!
//! ```text
//! aggregate  version(1 byte, 1)  kind(1 byte)  count(varint)  element*count
//! element    hash: bytes bytes   list, set: bytes   sorted set: score(8 bytes, IEEE 754, big endian) bytes
//! bytes      length(varint)  that many bytes
//! envelope   version(1 byte, 1)  client flags(4 bytes, big endian)  key(bytes)   then the value
//! varint     7 bits each, lowest first, top bit set on all but the last
//! ```
//!
//! Nothing may be left behind an aggregate, and no field or member may occur twice.

use std::collections::VecDeque;

use indexmap::{IndexMap, IndexSet};

use crate::slot::Value;
use crate::zset::ZSet;

const VERSION: u8 = 1;

const HASH: u32 = 1;
const LIST: u32 = 2;
const SET: u32 = 3;
const ZSET: u32 = 4;

/// What stands in front of the value of some items.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope<'w> {
    pub(super) flags: u32,
    pub(super) key: &'w [u8],
    pub(super) value: &'w [u8],
}

/// The number of a value's type in the tag; 0 is a string.
pub(super) fn kind(value: &Value) -> u32 {
    match value {
        Value::Hash(_) => HASH,
        Value::List(_) => LIST,
        Value::Set(_) => SET,
        Value::Str(_) => 0,
        Value::ZSet(_) => ZSET,
    }
}

/// An aggregate of this type without elements.
pub(super) fn vacant(kind: u32) -> Option<Value> {
    match kind {
        HASH => Some(Value::Hash(IndexMap::new())),
        LIST => Some(Value::List(VecDeque::new())),
        SET => Some(Value::Set(IndexSet::new())),
        ZSET => Some(Value::ZSet(ZSet::default())),
        _ => None,
    }
}

/// Appends an aggregate, or a string as it is.
pub(super) fn write(value: &Value, out: &mut Vec<u8>) {
    if let Value::Str(bytes) = value {
        out.extend_from_slice(bytes);
        return;
    }
    out.extend_from_slice(&[VERSION, kind(value) as u8]);
    match value {
        Value::Hash(fields) => {
            write_varint(fields.len(), out);
            for (field, value) in fields {
                write_bytes(field, out);
                write_bytes(value, out);
            }
        }
        Value::List(items) => {
            write_varint(items.len(), out);
            items.iter().for_each(|item| write_bytes(item, out));
        }
        Value::Set(members) => {
            write_varint(members.len(), out);
            members.iter().for_each(|member| write_bytes(member, out));
        }
        Value::ZSet(members) => {
            write_varint(members.len(), out);
            for (member, score) in members.unordered(0..members.len()) {
                out.extend_from_slice(&score.to_bits().to_be_bytes());
                write_bytes(member, out);
            }
        }
        Value::Str(_) => {}
    }
}

/// Reads an aggregate of this type; `None` if the bytes are not one.
pub(super) fn read(kind: u32, bytes: &[u8]) -> Option<Value> {
    let mut from = Reader(bytes);
    if from.take(2)? != [VERSION, u8::try_from(kind).ok()?] {
        return None;
    }
    // The fewest bytes that an element takes bound what a count can make us allocate.
    let value = match kind {
        HASH => {
            let count = from.count(2)?;
            let mut fields = IndexMap::with_capacity(count);
            for _ in 0..count {
                let (field, value) = (from.bytes()?, from.bytes()?);
                if fields.insert(field.to_vec(), value.to_vec()).is_some() {
                    return None;
                }
            }
            Value::Hash(fields)
        }
        LIST => {
            let count = from.count(1)?;
            let mut items = VecDeque::with_capacity(count);
            for _ in 0..count {
                items.push_back(from.bytes()?.to_vec());
            }
            Value::List(items)
        }
        SET => {
            let count = from.count(1)?;
            let mut members = IndexSet::with_capacity(count);
            for _ in 0..count {
                if !members.insert(from.bytes()?.to_vec()) {
                    return None;
                }
            }
            Value::Set(members)
        }
        ZSET => {
            let count = from.count(9)?;
            let mut members = ZSet::default();
            for _ in 0..count {
                let score = f64::from_bits(u64::from_be_bytes(from.take(8)?.try_into().ok()?));
                if members.insert(from.bytes()?, score).ok()?.is_some() {
                    return None;
                }
            }
            Value::ZSet(members)
        }
        _ => return None,
    };
    (from.0.is_empty() && !value.is_vacant()).then_some(value)
}

/// Appends what stands in front of the value.
pub(super) fn write_envelope(key: &[u8], flags: u32, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&flags.to_be_bytes());
    write_bytes(key, out);
}

/// Takes an item apart; `None` if it does not begin with an envelope.
pub(super) fn read_envelope(bytes: &[u8]) -> Option<Envelope<'_>> {
    let mut from = Reader(bytes);
    if from.take(1)? != [VERSION] {
        return None;
    }
    let flags = u32::from_be_bytes(from.take(4)?.try_into().ok()?);
    let key = from.bytes()?;
    Some(Envelope { flags, key, value: from.0 })
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_varint(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn write_varint(number: usize, out: &mut Vec<u8>) {
    let mut number = number;
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Reader<'w>(&'w [u8]);

impl<'w> Reader<'w> {
    fn take(&mut self, len: usize) -> Option<&'w [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<usize> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let &[byte] = self.take(1)? else { return None };
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(number).ok();
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'w [u8]> {
        let len = self.varint()?;
        self.take(len)
    }

    /// A number of elements of at least `least` bytes each.
    fn count(&mut self, least: usize) -> Option<usize> {
        let count = self.varint()?;
        (count.checked_mul(least)? <= self.0.len()).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn aggregates() -> impl Strategy<Value = Value> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        let many = 1..40_usize;
        prop_oneof![
            prop::collection::vec((bytes(), bytes()), many.clone())
                .prop_map(|pairs| Value::Hash(pairs.into_iter().collect())),
            prop::collection::vec(bytes(), many.clone()).prop_map(|items| Value::List(items.into())),
            prop::collection::vec(bytes(), many.clone())
                .prop_map(|members| Value::Set(members.into_iter().collect())),
            prop::collection::vec((bytes(), -1e300..1e300_f64), many).prop_map(|pairs| {
                let mut members = ZSet::default();
                for (member, score) in pairs {
                    members.insert(&member, score).expect("the range has no NaN");
                }
                Value::ZSet(members)
            }),
        ]
    }

    proptest! {
        #[test]
        fn aggregates_survive_the_round_trip(value in aggregates()) {
            let mut bytes = Vec::new();
            write(&value, &mut bytes);
            prop_assert_eq!(read(kind(&value), &bytes), Some(value));
        }

        #[test]
        fn a_cut_or_longer_aggregate_is_corrupt(value in aggregates(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            write(&value, &mut bytes);
            prop_assert_eq!(read(kind(&value), &bytes[..cut.index(bytes.len())]), None);
            bytes.push(0);
            prop_assert_eq!(read(kind(&value), &bytes), None);
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(kind in 0..8_u32, mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (read(kind, &bytes), read_envelope(&bytes));
            bytes.splice(0..0, [VERSION, kind as u8]);
            let _ = read(kind, &bytes);
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_corrupt() {
        let mut bytes = vec![VERSION, LIST as u8];
        write_varint(usize::MAX >> 2, &mut bytes);
        assert_eq!(read(LIST, &bytes), None);
    }

    #[test]
    fn an_envelope_gives_back_key_flags_and_value() {
        let mut bytes = Vec::new();
        write_envelope(b"the key", 0xd012_3456, &mut bytes);
        bytes.extend_from_slice(b"value");
        let expected = Envelope { flags: 0xd012_3456, key: b"the key", value: b"value" };
        assert_eq!(read_envelope(&bytes), Some(expected));
    }
}
