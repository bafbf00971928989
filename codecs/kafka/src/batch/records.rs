//! The records of a batch, one after the other.
//!
//! ```text
//! length:varint attributes:i8 timestamp-delta:varint offset-delta:varint
//! key-length:varint key  value-length:varint value  count:varint { key-length:varint key value-length:varint value }
//! ```
//!
//! Varints are signed here: 0, -1, 1, -2 … are 0, 1, 2, 3 …. A length of -1 is null.

use super::{BatchError, Head};

/// A record, in the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the partition, once a broker gave it one.
    pub offset: i64,
    /// In milliseconds since 1970.
    pub timestamp: i64,
    /// No bit of it means anything yet.
    pub attributes: i8,
    /// Which of the records with the same key it is the newest of, where somebody compacts them.
    pub key: Option<&'a [u8]>,
    /// What it says; null deletes the key.
    pub value: Option<&'a [u8]>,
    /// What it says besides.
    pub headers: Headers<'a>,
}

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name. Kafka wants UTF-8; not every client knows.
    pub key: &'a [u8],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, in order; a key may occur again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    count: u32,
    /// As on the wire; read through once already.
    bytes: &'a [u8],
}

/// The records of a batch. Ends at the first one that is wrong, after telling so.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    head: Head,
    left: i32,
    rest: &'a [u8],
}

// === impl Records ===

impl<'a> Records<'a> {
    pub(super) fn new(head: Head, inflated: &'a [u8]) -> Self {
        Self { head, left: head.count, rest: inflated }
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let length = usize::try_from(varint(&mut self.rest)?).ok()?;
        let (mut record, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        let from = &mut record;
        let (attributes, behind) = from.split_first()?;
        *from = behind;
        let (timestamp_delta, offset_delta) = (varint(from)?, i32::try_from(varint(from)?).ok()?);
        let (key, value) = (nullable(from)?, nullable(from)?);
        let headers = Headers { count: u32::try_from(varint(from)?).ok()?, bytes: from };
        // Each takes two bytes at least, so that this ends.
        if headers.count as usize > headers.bytes.len() / 2 {
            return None;
        }
        for _ in 0..headers.count {
            header(from)?;
        }
        let timestamp = match self.head.has_append_time() {
            true => self.head.max_timestamp,
            false => self.head.base_timestamp.wrapping_add(timestamp_delta),
        };
        from.is_empty().then_some(Record {
            offset: self.head.base_offset.wrapping_add(offset_delta.into()),
            timestamp,
            attributes: *attributes as i8,
            key,
            value,
            headers,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            // More bytes than records, or fewer records than none.
            let is_over = self.left == 0 && self.rest.is_empty();
            (self.left, self.rest) = (0, &[]);
            return if is_over { None } else { Some(Err(BatchError::Malformed)) };
        }
        self.left -= 1;
        let record = self.record();
        if record.is_none() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(record.ok_or(BatchError::Malformed))
    }
}

// === impl Headers ===

impl Headers<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn wire(&self) -> &[u8] {
        self.bytes
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.count = self.count.checked_sub(1)?;
        header(&mut self.bytes)
    }
}

fn header<'a>(from: &mut &'a [u8]) -> Option<Header<'a>> {
    Some(Header { key: nullable(from)??, value: nullable(from)? })
}

/// Bytes with their length before them; the inner `None` for null.
fn nullable<'a>(from: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint(from)? {
        -1 => Some(None),
        length => {
            let (bytes, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
            *from = rest;
            Some(Some(bytes))
        }
    }
}

/// Reads a signed varint of up to 64 bits.
fn varint(from: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (at, byte) in from.iter().take(10).enumerate() {
        if at == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *from = from.get(at + 1..)?;
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Appends a signed varint.
pub(super) fn put_varint(value: i64, out: &mut Vec<u8>) {
    let mut value = (value << 1 ^ value >> 63) as u64;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes with their length before them.
pub(super) fn put_nullable(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    put_varint(bytes.map_or(-1, |bytes| bytes.len() as i64), out);
    out.extend_from_slice(bytes.unwrap_or_default());
}
