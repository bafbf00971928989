//! Record batches: what producers write, logs keep and consumers read.
//!
//! ```text
//! base-offset:i64 length:i32 leader-epoch:i32 magic:i8=2 crc:u32 attributes:i16 last-offset-delta:i32
//! base-timestamp:i64 max-timestamp:i64 producer-id:i64 producer-epoch:i16 base-sequence:i32 count:i32 │ records
//!                                                        └─ compressed as a whole, if they are ──────────┘
//! ```
//!
//! `length` counts what follows it, `crc` (CRC-32C) covers what follows it. Numbers of records are relative to those
//! of the batch, as varints.
//!
//! [`Batches`] cuts the bytes of a `Records` field into batches, whose records stay as they are. Somebody who wants
//! them has them inflated ([`Batch::inflate`], with a bound) and goes over them ([`Records`]), without a copy. To change
//! a record is to write its batch anew: [`Writer`].
//!
//! kafka-protocol has an iterator of its own. It keeps one of several headers with the same key, refuses a batch for a
//! key that is not UTF-8, and inflates without a bound; none of which a proxy may do to what it passes on.
//!
//! Deliberately absent: message sets of the formats 0 and 1, which Kafka 4.0 no longer takes.

mod compression;
mod records;
mod writer;

pub use compression::{Compression, compress};
pub use records::{Header, Headers, Record, Records};
pub use writer::Writer;

/// Bytes from the beginning of a batch to its records.
const HEAD: usize = 61;

/// Bytes from the beginning of a batch to what `length` counts.
const BEFORE_LENGTH: usize = 12;

/// Bytes from the beginning of a batch to what the checksum covers.
const BEFORE_CRC: usize = 21;

/// What a batch says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Offset of its first record in the partition; brokers give it.
    pub base_offset: i64,
    /// Of the leader that took it; brokers give it.
    pub leader_epoch: i32,
    /// Compression and flags, see the methods.
    pub attributes: i16,
    /// Offset of its last record, or of the last that it had before it was compacted, less [`Head::base_offset`].
    pub last_offset_delta: i32,
    /// That of the first record, in milliseconds since 1970.
    pub base_timestamp: i64,
    /// The largest one, in milliseconds since 1970.
    pub max_timestamp: i64,
    /// Who wrote it; -1 if nobody who wants it written once only.
    pub producer_id: i64,
    /// Which incarnation of that.
    pub producer_epoch: i16,
    /// That writer's own number of the first record; -1 if it has none.
    pub base_sequence: i32,
    /// How many records there are.
    pub count: i32,
}

/// A batch, in the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// What it says about itself.
    pub head: Head,
    /// All of it.
    pub bytes: &'a [u8],
}

/// What a batch can have wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchError {
    /// The records cannot be inflated.
    Compression,
    /// The checksum is of other bytes.
    Crc,
    /// The format is not known.
    Magic {
        /// Its number.
        magic: i8,
    },
    /// A record, or the batch, is not as long as it says, or has not as many parts.
    Malformed,
    /// The records are larger than the bound when inflated.
    TooLarge,
}

impl std::fmt::Display for BatchError {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Compression => to.write_str("the records cannot be inflated"),
            Self::Crc => to.write_str("the checksum does not match"),
            Self::Magic { magic } => write!(to, "record format {magic} is not known"),
            Self::Malformed => to.write_str("the batch or a record in it is malformed"),
            Self::TooLarge => to.write_str("the records are too large when inflated"),
        }
    }
}

impl std::error::Error for BatchError {}

/// The batches of a `Records` field. Ends at the first one that is wrong, after telling so.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// Of these bytes.
    #[must_use]
    pub fn new(records: &'a [u8]) -> Self {
        Self { rest: records }
    }

    /// What was not told of yet. A broker ends the bytes of a fetch where the client's limit is, so the beginning of a
    /// batch may be left at the end, which is no error.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let length: &[u8; 4] = self.rest.get(8..BEFORE_LENGTH)?.first_chunk()?;
        let size = usize::try_from(i32::from_be_bytes(*length)).ok().map(|length| length + BEFORE_LENGTH);
        // The format stands at the same place in all formats, and the length may be smaller in others.
        if let Some(magic) = self.rest.get(16).filter(|magic| **magic != 2) {
            self.rest = &[];
            return Some(Err(BatchError::Magic { magic: *magic as i8 }));
        }
        let Some(size) = size.filter(|size| *size >= HEAD) else {
            self.rest = &[];
            return Some(Err(BatchError::Malformed));
        };
        let (bytes, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        Some(Head::read(bytes).map(|head| Batch { head, bytes }).ok_or(BatchError::Malformed))
    }
}

// === impl Head ===

/// Bits of [`Head::attributes`].
const COMPRESSION: i16 = 0b111;
const APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.get(BEFORE_CRC..HEAD)?;
        let (attributes, rest) = rest.split_first_chunk()?;
        let (last_offset_delta, rest) = rest.split_first_chunk()?;
        let (base_timestamp, rest) = rest.split_first_chunk()?;
        let (max_timestamp, rest) = rest.split_first_chunk()?;
        let (producer_id, rest) = rest.split_first_chunk()?;
        let (producer_epoch, rest) = rest.split_first_chunk()?;
        let (base_sequence, rest) = rest.split_first_chunk()?;
        Some(Self {
            base_offset: i64::from_be_bytes(*bytes.first_chunk()?),
            leader_epoch: i32::from_be_bytes(*bytes.get(BEFORE_LENGTH..)?.first_chunk()?),
            attributes: i16::from_be_bytes(*attributes),
            last_offset_delta: i32::from_be_bytes(*last_offset_delta),
            base_timestamp: i64::from_be_bytes(*base_timestamp),
            max_timestamp: i64::from_be_bytes(*max_timestamp),
            producer_id: i64::from_be_bytes(*producer_id),
            producer_epoch: i16::from_be_bytes(*producer_epoch),
            base_sequence: i32::from_be_bytes(*base_sequence),
            count: i32::from_be_bytes(*rest.first_chunk()?),
        })
    }

    /// Appends a batch of these records, which are compressed as the attributes say.
    fn write(&self, records: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.base_offset.to_be_bytes());
        out.extend_from_slice(&((HEAD - BEFORE_LENGTH + records.len()) as i32).to_be_bytes());
        out.extend_from_slice(&self.leader_epoch.to_be_bytes());
        // The format, and the place of the checksum.
        out.extend_from_slice(&[2, 0, 0, 0, 0]);
        out.extend_from_slice(&self.attributes.to_be_bytes());
        out.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        out.extend_from_slice(&self.base_timestamp.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.to_be_bytes());
        out.extend_from_slice(&self.base_sequence.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(records);
        let crc = crc32c::crc32c(out.get(start + BEFORE_CRC..).unwrap_or_default());
        if let Some(place) = out.get_mut(start + BEFORE_CRC - 4..start + BEFORE_CRC) {
            place.copy_from_slice(&crc.to_be_bytes());
        }
    }

    /// How the records are compressed; `None` for a number that means nothing.
    #[must_use]
    pub fn compression(&self) -> Option<Compression> {
        Compression::from_number(self.attributes & COMPRESSION)
    }

    /// The same, with the records compressed so.
    #[must_use]
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.attributes = self.attributes & !COMPRESSION | compression as i16;
        self
    }

    /// Whether the time of all records is when a broker took them, [`Head::max_timestamp`].
    #[must_use]
    pub fn has_append_time(&self) -> bool {
        self.attributes & APPEND_TIME != 0
    }

    /// Whether it is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it says how a transaction ended, instead of having anybody's records.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether [`Head::base_timestamp`] is when tombstones may go, and no time of a record.
    #[must_use]
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON != 0
    }
}

// === impl Batch ===

impl<'a> Batch<'a> {
    /// Whether the checksum is that of the bytes.
    ///
    /// # Errors
    /// [`BatchError::Crc`] if not.
    pub fn check(&self) -> Result<(), BatchError> {
        let crc = self.bytes.get(BEFORE_CRC - 4..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let covered = self.bytes.get(BEFORE_CRC..).unwrap_or_default();
        if u32::from_be_bytes(crc) == crc32c::crc32c(covered) { Ok(()) } else { Err(BatchError::Crc) }
    }

    /// The records as they are on the wire.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEAD..).unwrap_or_default()
    }

    /// Goes over the records. If they are compressed, `room` is filled with them first; with `limit` bytes at most.
    ///
    /// # Errors
    /// [`BatchError::Compression`], [`BatchError::TooLarge`]; what is wrong with a record is told when it is reached.
    pub fn records<'r>(&self, limit: usize, room: &'r mut Vec<u8>) -> Result<Records<'r>, BatchError>
    where
        'a: 'r,
    {
        Ok(Records::new(self.head, self.inflate(limit, room)?))
    }

    /// The records without compression: where they are, or in `room`.
    ///
    /// # Errors
    /// As [`Batch::records`].
    pub fn inflate<'r>(&self, limit: usize, room: &'r mut Vec<u8>) -> Result<&'r [u8], BatchError>
    where
        'a: 'r,
    {
        match self.head.compression().ok_or(BatchError::Compression)? {
            Compression::None => Ok(self.payload()),
            compression => {
                room.clear();
                compression::inflate(compression, self.payload(), limit, room)?;
                Ok(room)
            }
        }
    }
}

#[cfg(test)]
mod tests;
