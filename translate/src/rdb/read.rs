//! From the bytes behind a type to a value.

use std::borrow::Cow;
use std::collections::VecDeque;

use indexmap::{IndexMap, IndexSet};

use super::packed::{Element, intset, listpack, ziplist, zipmap};
use super::{RdbError, kind, lzf};
use crate::slot::Value;
use crate::zset::ZSet;

/// Heads of lengths and strings that are more than a length in the head.
pub(super) const LENGTH_32: u8 = 0x80;
pub(super) const LENGTH_64: u8 = 0x81;
pub(super) const INT_8: u8 = 0xc0;
pub(super) const INT_16: u8 = 0xc1;
pub(super) const INT_32: u8 = 0xc2;
const COMPRESSED: u8 = 0xc3;

/// What an element takes besides its bytes.
const ELEMENT: usize = 40;

/// Nodes of a quicklist: one large element, or a listpack.
const PLAIN: u64 = 1;
const PACKED: u64 = 2;

/// Scores as text have these in place of a length.
const NOT_A_NUMBER: u8 = 253;
const INFINITE: u8 = 254;
const MINUS_INFINITE: u8 = 255;

/// What is left of a value, and of the memory for it.
pub(super) struct Reader<'w> {
    rest: &'w [u8],
    room: usize,
    /// No string may expand to more.
    most: usize,
}

/// How the elements of a value lie in one string.
type Unpack = for<'a, 'w> fn(&'w [u8], &'a mut dyn FnMut(Element<'w>) -> Option<()>) -> Option<()>;

// === impl Reader ===

impl<'w> Reader<'w> {
    pub(super) fn new(rest: &'w [u8], room: usize) -> Self {
        Self { rest, room, most: room }
    }

    /// The value of this type.
    pub(super) fn value(&mut self, kind: u8) -> Result<Value, RdbError> {
        match kind {
            kind::STRING => {
                let text = self.string()?;
                self.spend(text.len())?;
                Ok(Value::Str(text.into_owned()))
            }
            kind::LIST => self.list(),
            kind::SET => self.set(),
            kind::ZSET => self.zset(Self::score_as_text),
            kind::ZSET_2 => self.zset(Self::score),
            kind::HASH => self.hash(),
            kind::HASH_ZIPMAP => self.packed_hash(zipmap),
            kind::HASH_ZIPLIST => self.packed_hash(ziplist),
            kind::HASH_LISTPACK => self.packed_hash(listpack),
            kind::LIST_ZIPLIST => {
                let mut items = VecDeque::new();
                self.unpack(ziplist, &mut |element| {
                    items.push_back(element.to_vec());
                    Some(())
                })?;
                Ok(Value::List(items))
            }
            kind::LIST_QUICKLIST => self.quicklist(false),
            kind::LIST_QUICKLIST_2 => self.quicklist(true),
            kind::SET_INTSET => {
                let mut members = IndexSet::new();
                self.unpack(intset, &mut |element| members.insert(element.to_vec()).then_some(()))?;
                Ok(Value::Set(members))
            }
            kind::ZSET_ZIPLIST => self.packed_zset(ziplist),
            kind::ZSET_LISTPACK => self.packed_zset(listpack),
            _ => Err(RdbError::BadFormat),
        }
    }

    fn list(&mut self) -> Result<Value, RdbError> {
        let mut items = VecDeque::new();
        for _ in 0..self.count()? {
            let item = self.string()?;
            self.spend(item.len())?;
            items.push_back(item.into_owned());
        }
        Ok(Value::List(items))
    }

    fn set(&mut self) -> Result<Value, RdbError> {
        let mut members = IndexSet::new();
        for _ in 0..self.count()? {
            let member = self.string()?;
            self.spend(member.len())?;
            if !members.insert(member.into_owned()) {
                return Err(RdbError::BadFormat);
            }
        }
        Ok(Value::Set(members))
    }

    fn hash(&mut self) -> Result<Value, RdbError> {
        let mut fields = IndexMap::new();
        for _ in 0..self.count()? {
            let field = self.string()?;
            self.spend(field.len())?;
            let value = self.string()?;
            self.spend(value.len())?;
            if fields.insert(field.into_owned(), value.into_owned()).is_some() {
                return Err(RdbError::BadFormat);
            }
        }
        Ok(Value::Hash(fields))
    }

    fn zset(&mut self, score: fn(&mut Self) -> Result<f64, RdbError>) -> Result<Value, RdbError> {
        let mut members = ZSet::default();
        for _ in 0..self.count()? {
            let member = self.string()?;
            // It stands in two places.
            self.spend(2 * member.len() + ELEMENT)?;
            let score = score(self)?;
            if !matches!(members.insert(&member, score), Ok(None)) {
                return Err(RdbError::BadFormat);
            }
        }
        Ok(Value::ZSet(members))
    }

    fn packed_hash(&mut self, unpack: Unpack) -> Result<Value, RdbError> {
        let (mut fields, mut field) = (IndexMap::new(), None);
        self.unpack(unpack, &mut |element| match field.take() {
            None => {
                field = Some(element.to_vec());
                Some(())
            }
            Some(field) => fields.insert(field, element.to_vec()).is_none().then_some(()),
        })?;
        if field.is_some() {
            return Err(RdbError::BadFormat);
        }
        Ok(Value::Hash(fields))
    }

    fn packed_zset(&mut self, unpack: Unpack) -> Result<Value, RdbError> {
        let (mut members, mut member) = (ZSet::default(), None::<Vec<u8>>);
        self.unpack(unpack, &mut |element| match member.take() {
            None => {
                member = Some(element.to_vec());
                Some(())
            }
            Some(member) => {
                let score = match element {
                    Element::Bytes(text) => number(text)?,
                    Element::Int(number) => number as f64,
                };
                matches!(members.insert(&member, score), Ok(None)).then_some(())
            }
        })?;
        if member.is_some() {
            return Err(RdbError::BadFormat);
        }
        Ok(Value::ZSet(members))
    }

    /// A list in nodes. Empty nodes count for nothing.
    fn quicklist(&mut self, has_plain_nodes: bool) -> Result<Value, RdbError> {
        let mut items = VecDeque::new();
        for _ in 0..self.count()? {
            let container = if has_plain_nodes { self.length()? } else { PACKED };
            match container {
                PLAIN => {
                    let item = self.string()?;
                    self.spend(item.len())?;
                    items.push_back(item.into_owned());
                }
                PACKED => {
                    let unpack: Unpack = if has_plain_nodes { listpack } else { ziplist };
                    self.unpack(unpack, &mut |element| {
                        items.push_back(element.to_vec());
                        Some(())
                    })?;
                }
                _ => return Err(RdbError::BadFormat),
            }
        }
        Ok(Value::List(items))
    }

    /// Calls `each` with the elements that lie in the next string, and pays for them.
    fn unpack(
        &mut self,
        unpack: Unpack,
        each: &mut dyn FnMut(Element<'_>) -> Option<()>,
    ) -> Result<(), RdbError> {
        let string = self.string()?;
        let mut room = Ok(self.room);
        let done = unpack(&string, &mut |element| {
            room = room.and_then(|room| pay(room, 2 * element.len()));
            room.is_ok().then_some(())?;
            each(element)
        });
        self.room = room?;
        done.ok_or(RdbError::BadFormat)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), RdbError> {
        self.room = pay(self.room, bytes)?;
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&'w [u8], RdbError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(RdbError::BadFormat)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        self.take(N)?.try_into().map_err(|_| RdbError::BadFormat)
    }

    /// A number of elements, none of which is without a byte.
    fn count(&mut self) -> Result<u64, RdbError> {
        let count = self.length()?;
        if count > self.rest.len() as u64 { Err(RdbError::BadFormat) } else { Ok(count) }
    }

    fn length(&mut self) -> Result<u64, RdbError> {
        let [head] = self.array()?;
        self.length_behind(head)
    }

    fn length_behind(&mut self, head: u8) -> Result<u64, RdbError> {
        match head {
            0..=0x3f => Ok(u64::from(head)),
            0x40..=0x7f => {
                let [low] = self.array()?;
                Ok(u64::from(head & 0x3f) << 8 | u64::from(low))
            }
            LENGTH_32 => Ok(u64::from(u32::from_be_bytes(self.array()?))),
            LENGTH_64 => Ok(u64::from_be_bytes(self.array()?)),
            _ => Err(RdbError::BadFormat),
        }
    }

    /// A length of bytes that can be there.
    fn size(&mut self) -> Result<usize, RdbError> {
        usize::try_from(self.length()?).map_err(|_| RdbError::BadFormat)
    }

    fn string(&mut self) -> Result<Cow<'w, [u8]>, RdbError> {
        let [head] = self.array()?;
        let number = match head {
            INT_8 => i64::from(i8::from_le_bytes(self.array()?)),
            INT_16 => i64::from(i16::from_le_bytes(self.array()?)),
            INT_32 => i64::from(i32::from_le_bytes(self.array()?)),
            COMPRESSED => {
                let (compressed, len) = (self.size()?, self.size()?);
                let compressed = self.take(compressed)?;
                if len > self.most {
                    return Err(RdbError::TooLarge);
                }
                return lzf::expand(compressed, len).map(Cow::Owned).ok_or(RdbError::BadFormat);
            }
            _ => {
                let len = usize::try_from(self.length_behind(head)?).map_err(|_| RdbError::BadFormat)?;
                return self.take(len).map(Cow::Borrowed);
            }
        };
        Ok(Cow::Owned(number.to_string().into_bytes()))
    }

    fn score(&mut self) -> Result<f64, RdbError> {
        self.array().map(f64::from_le_bytes)
    }

    /// As servers before 4.0 wrote it.
    fn score_as_text(&mut self) -> Result<f64, RdbError> {
        let [len] = self.array()?;
        match len {
            NOT_A_NUMBER => Err(RdbError::BadFormat),
            INFINITE => Ok(f64::INFINITY),
            MINUS_INFINITE => Ok(f64::NEG_INFINITY),
            len => number(self.take(usize::from(len))?).ok_or(RdbError::BadFormat),
        }
    }
}

/// What is left of `room` behind an element.
fn pay(room: usize, bytes: usize) -> Result<usize, RdbError> {
    room.checked_sub(bytes.saturating_add(ELEMENT)).ok_or(RdbError::TooLarge)
}

/// A score as text; infinite is `inf`.
fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|number: &f64| !number.is_nan())
}
