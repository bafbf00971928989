//! What the aggregate commands share: typed looks into slots, options, cursors, glob-filtered scans, random choices.

use std::collections::VecDeque;

use indexmap::{IndexMap, IndexSet};
use mecha_resp::reply::Writer;

use super::super::aggregate::{Error, Run};
use super::long_double::LongDouble;
use crate::{
    slot::{Entry, Slot, Value},
    zset::ZSet,
};

/// Fields of a hash.
pub(crate) type Fields = IndexMap<Vec<u8>, Vec<u8>>;
/// Items of a list.
pub(crate) type Items = VecDeque<Vec<u8>>;
/// Members of a set.
pub(crate) type Members = IndexSet<Vec<u8>>;

/// Up to here a removal keeps the order of insertion; beyond, it moves the last element into the gap.
pub(crate) const KEEPS_ORDER: usize = 512;

/// What a reply may have in it besides everything that is shown once, in bytes.
pub(crate) const MAX_REPEATED: usize = 64 << 20;
/// The answer to a request for more.
pub(crate) const TOO_REPETITIVE: Error = Error::Text("ERR the reply would repeat more than 64 MiB");

/// The content of one type of value.
pub(crate) trait Content: Default {
    fn of(value: &Value) -> Option<&Self>;
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    fn wrap(self) -> Value;
}

macro_rules! content {
    ($type:ty, $variant:ident) => {
        impl Content for $type {
            fn of(value: &Value) -> Option<&Self> {
                if let Value::$variant(content) = value { Some(content) } else { None }
            }

            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                if let Value::$variant(content) = value { Some(content) } else { None }
            }

            fn wrap(self) -> Value {
                Value::$variant(self)
            }
        }
    };
}

content!(Fields, Hash);
content!(Items, List);
content!(Members, Set);
content!(ZSet, ZSet);

/// The content, if the key exists.
pub(crate) fn look<C: Content>(slot: &Slot) -> Result<Option<&C>, Error> {
    slot.entry.as_ref().map(|entry| C::of(&entry.value).ok_or(Error::WrongType)).transpose()
}

/// The content to change, if the key exists. [`Slot::settle`] must follow a change.
pub(crate) fn look_mut<C: Content>(slot: &mut Slot) -> Result<Option<&mut C>, Error> {
    slot.entry.as_mut().map(|entry| C::of_mut(&mut entry.value).ok_or(Error::WrongType)).transpose()
}

/// The content to change, which is made if the key does not exist. [`Slot::settle`] must follow.
pub(crate) fn open<C: Content>(slot: &mut Slot) -> Result<&mut C, Error> {
    let entry = slot.entry.get_or_insert_with(|| Entry::new(C::default().wrap()));
    C::of_mut(&mut entry.value).ok_or(Error::WrongType)
}

/// Replaces whatever the key holds, and its expiry; nothing deletes it.
pub(crate) fn replace<C: Content>(slot: &mut Slot, content: C) {
    let value = content.wrap();
    if value.is_vacant() {
        slot.delete();
    } else {
        slot.put(Entry::new(value));
    }
}

/// Removes a field, keeping the order of small hashes.
pub(crate) fn remove_field(fields: &mut Fields, field: &[u8]) -> Option<Vec<u8>> {
    if fields.len() <= KEEPS_ORDER { fields.shift_remove(field) } else { fields.swap_remove(field) }
}

/// Removes a member, keeping the order of small sets.
pub(crate) fn remove_member(members: &mut Members, member: &[u8]) -> bool {
    if members.len() <= KEEPS_ORDER { members.shift_remove(member) } else { members.swap_remove(member) }
}

// === replies ===

/// Replies that several aggregates share.
pub(crate) trait Shapes {
    /// A bulk string or a null.
    fn maybe_bulk(&mut self, bytes: Option<impl AsRef<[u8]>>);
    /// A score or a null.
    fn maybe_double(&mut self, number: Option<f64>);
    /// A coordinate, with all decimals that it has.
    fn coordinate(&mut self, degrees: f64);
    /// An array of elements, each with a companion if `paired`; [`Shapes::pair`] precedes each.
    fn pairs(&mut self, count: usize, paired: bool);
    /// In RESP3 pairs are arrays of their own; in RESP2 they follow each other.
    fn pair(&mut self, paired: bool);
    /// The head of a scan's reply; `count` bulk strings follow.
    fn scan(&mut self, next: u64, count: usize);
}

impl Shapes for Writer<'_> {
    fn maybe_bulk(&mut self, bytes: Option<impl AsRef<[u8]>>) {
        self.bulk_or_null(bytes.as_ref().map(AsRef::as_ref));
    }

    fn maybe_double(&mut self, number: Option<f64>) {
        match number {
            Some(number) => self.double(number),
            None => self.null(),
        }
    }

    fn coordinate(&mut self, degrees: f64) {
        let mut text = Vec::new();
        LongDouble::from(degrees).write(&mut text);
        if self.proto >= 3 {
            self.out.push(b',');
            self.out.extend_from_slice(&text);
            self.out.extend_from_slice(b"\r\n");
        } else {
            self.bulk(&text);
        }
    }

    fn pairs(&mut self, count: usize, paired: bool) {
        self.array(if paired && self.proto < 3 { 2 * count } else { count });
    }

    fn pair(&mut self, paired: bool) {
        if paired && self.proto >= 3 {
            self.array(2);
        }
    }

    fn scan(&mut self, next: u64, count: usize) {
        self.array(2);
        self.bulk(next.to_string().as_bytes());
        self.array(count);
    }
}

// === arguments ===

/// Whether an argument is this keyword, in any case.
pub(crate) fn is(argument: &[u8], keyword: &str) -> bool {
    argument.eq_ignore_ascii_case(keyword.as_bytes())
}

/// Reads a signed 64-bit integer the way Redis does: no spaces, no plus, no leading zeros.
pub(crate) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] => (text.len() == 1).then_some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < 19 && rest.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(text).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// A `long` argument.
pub(crate) fn long(text: &[u8]) -> Result<i64, Error> {
    integer(text).ok_or(Error::NotInteger)
}

/// A `long` of at least `min`, or else this error.
pub(crate) fn at_least(min: i64, text: &[u8], otherwise: &'static str) -> Result<i64, Error> {
    integer(text).filter(|value| *value >= min).ok_or(Error::Text(otherwise))
}

/// A count to pop.
pub(crate) fn pop_count(text: &[u8]) -> Result<usize, Error> {
    at_least(0, text, "ERR value is out of range, must be positive").map(clamp)
}

/// A count of random elements; negative allows repeats.
pub(crate) fn random_count(text: &[u8]) -> Result<i64, Error> {
    long(text).and_then(|count| {
        let error =
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807";
        if count == i64::MIN { Err(Error::Text(error)) } else { Ok(count) }
    })
}

/// `key [count [WITH…]]` of the commands that pick at random. `None`: one element, not an array.
pub(crate) fn random_options(run: &Run<'_>, with: &str) -> Result<Option<(i64, bool)>, Error> {
    if run.argc() < 3 {
        return Ok(None);
    }
    let count = random_count(run.arg(2))?;
    let paired = run.argc() == 4 && is(run.arg(3), with);
    if run.argc() > 4 || (run.argc() == 4 && !paired) {
        return Err(Error::Syntax);
    }
    if paired && count.unsigned_abs() > i64::MAX.unsigned_abs() / 2 {
        return Err(Error::Text("ERR value is out of range"));
    }
    Ok(Some((count, paired)))
}

/// A non-negative number as a length.
pub(crate) fn clamp(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// `numkeys` of the commands that say how many keys follow. The keys start at argument `first`.
pub(crate) fn key_count(run: &Run<'_>, first: usize) -> Result<usize, Error> {
    at_least(1, run.arg(first - 1), "ERR numkeys should be greater than 0").map(clamp)
}

/// The positions `start..=stop`, negative ones from the end, of something with `len` elements.
pub(crate) fn positions(start: i64, stop: i64, len: usize) -> std::ops::Range<usize> {
    let from_end = |at: i64| if at < 0 { at.saturating_add(len as i64) } else { at };
    let (start, stop) = (from_end(start).max(0), from_end(stop).min(len as i64 - 1));
    if start > stop { 0..0 } else { clamp(start)..clamp(stop) + 1 }
}

// === scans ===

/// Parsed `key cursor [MATCH pattern] [COUNT count]`.
pub(crate) struct Scan<'a> {
    cursor: u64,
    pattern: Option<&'a [u8]>,
    count: usize,
}

/// The cursor, which Redis reads before it looks at the key.
pub(crate) fn scan_cursor(run: &Run<'_>) -> Result<u64, Error> {
    cursor(run.arg(2)).ok_or(Error::Text("ERR invalid cursor"))
}

/// A cursor as `strtoul` reads it: nothing is 0, and what has a minus counts down from the largest.
pub(crate) fn cursor(text: &[u8]) -> Option<u64> {
    let (is_negative, digits) = match text.split_first() {
        Some((b'-', digits)) => (true, digits),
        Some((b'+', digits)) => (false, digits),
        Some(_) => (false, text),
        None => return Some(0),
    };
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let number: u64 = digits?.parse().ok()?;
    Some(if is_negative { number.wrapping_neg() } else { number })
}

/// The options, which Redis reads behind the type check, and not at all when the key is missing.
pub(crate) fn scan_options<'a>(run: &Run<'a>, cursor: u64) -> Result<Scan<'a>, Error> {
    let (mut pattern, mut count, mut at) = (None, 10, 3);
    while at < run.argc() {
        if at + 1 == run.argc() {
            return Err(Error::Syntax);
        }
        let value = run.arg(at + 1);
        if is(run.arg(at), "count") {
            count = long(value)?;
            if count < 1 {
                return Err(Error::Syntax);
            }
        } else if is(run.arg(at), "match") {
            pattern = Some(value).filter(|pattern| *pattern != b"*");
        } else {
            return Err(Error::Syntax);
        }
        at += 2;
    }
    Ok(Scan { cursor, pattern, count: clamp(count) })
}

impl Scan<'_> {
    /// Which elements of an indexed aggregate this call looks at, and the next cursor.
    ///
    /// Small aggregates come whole, as Redis gives its compact encodings. Larger ones are gone through from the last
    /// index down: removals move elements only to lower indexes, where they are met again rather than missed, and
    /// insertions append.
    pub(crate) fn window(&self, len: usize) -> (std::ops::Range<usize>, u64) {
        if len <= KEEPS_ORDER && self.cursor == 0 {
            return (0..len, 0);
        }
        let end = if self.cursor == 0 { len } else { usize::try_from(self.cursor).unwrap_or(len).min(len) };
        let start = end.saturating_sub(self.count);
        (start..end, start as u64)
    }

    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| mecha_resp::glob::matches(pattern, name))
    }
}

// === random choices ===

/// Marsaglia's xorshift64*, seeded for one command.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(run: &Run<'_>) -> Self {
        // Spreads seeds that differ in few bits.
        let seed = run.cx.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let seed = (seed ^ seed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Self((seed ^ seed >> 27) | 1)
    }

    /// A number below `end`, or 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = u128::from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)) * end as u128;
        (wide >> 64) as usize
    }

    /// The indexes that `count` asks for out of `len`: distinct if positive, all in order if there are not more, with
    /// repeats if negative. `bytes` is the size of an element, since a reply with repeats may outgrow any memory.
    pub(crate) fn choose(
        &mut self,
        count: i64,
        len: usize,
        bytes: impl Fn(usize) -> usize,
    ) -> Result<Vec<usize>, Error> {
        if len == 0 || count == 0 {
            return Ok(Vec::new());
        }
        if count < 0 {
            let (mut chosen, mut size) = (Vec::new(), 0);
            for _ in 0..count.unsigned_abs() {
                let index = self.below(len);
                size += bytes(index) + 16;
                if size > MAX_REPEATED {
                    return Err(TOO_REPETITIVE);
                }
                chosen.push(index);
            }
            return Ok(chosen);
        }
        let count = clamp(count);
        if count >= len {
            return Ok((0..len).collect());
        }
        // Floyd's: each subset is as likely as any other, with as many draws as elements.
        let mut chosen = IndexSet::with_capacity(count);
        for last in len - count..len {
            let pick = self.below(last + 1);
            if !chosen.insert(pick) {
                chosen.insert(last);
            }
        }
        Ok(chosen.into_iter().collect())
    }
}
