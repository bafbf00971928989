//! Writes batches: new ones, or such as came with changes.

use super::records::{Header, Record, put_nullable, put_varint};
use super::{BatchError, Compression, Head, compress};

/// Gathers the records of one batch. What it gathered can be used for the next one.
#[derive(Debug, Default)]
pub struct Writer {
    records: Vec<u8>,
    record: Vec<u8>,
    packed: Vec<u8>,
    count: i32,
}

impl Writer {
    /// Without a record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record, with `more` headers behind its own. `head` is that of the batch it will be in: offsets and times
    /// are written relative to it.
    pub fn push(&mut self, head: &Head, record: &Record<'_>, more: &[Header<'_>]) {
        let out = &mut self.record;
        out.clear();
        out.push(record.attributes as u8);
        // Where a broker's time is that of all, records keep what producers said, which nobody can read.
        let time = if head.has_append_time() { head.base_timestamp } else { record.timestamp };
        put_varint(time.wrapping_sub(head.base_timestamp), out);
        put_varint(record.offset.wrapping_sub(head.base_offset), out);
        put_nullable(record.key, out);
        put_nullable(record.value, out);
        put_varint((record.headers.len() + more.len()) as i64, out);
        out.extend_from_slice(record.headers.wire());
        for header in more {
            put_nullable(Some(header.key), out);
            put_nullable(header.value, out);
        }
        put_varint(out.len() as i64, &mut self.records);
        self.records.extend_from_slice(&self.record);
        self.count += 1;
    }

    /// Bytes of the records so far, without compression.
    #[must_use]
    pub fn size(&self) -> usize {
        self.records.len()
    }

    /// Appends the batch and starts another one. All of `head` is taken as it is but for the count, which is that of the
    /// records; length and checksum are made.
    ///
    /// # Errors
    /// [`BatchError::Compression`] if `head` names a compression that there is not; [`BatchError::TooLarge`] for a batch
    /// whose length does not fit.
    pub fn finish(&mut self, head: &Head, out: &mut Vec<u8>) -> Result<(), BatchError> {
        let head = Head { count: self.count, ..*head };
        self.count = 0;
        self.packed.clear();
        let records = match head.compression().ok_or(BatchError::Compression)? {
            Compression::None => &self.records,
            compression => {
                compress(compression, &self.records, &mut self.packed)?;
                &self.packed
            }
        };
        if records.len() > i32::MAX as usize - super::HEAD {
            return Err(BatchError::TooLarge);
        }
        head.write(records, out);
        self.records.clear();
        Ok(())
    }
}
