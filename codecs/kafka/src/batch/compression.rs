//! Compression of records, with a bound on what comes out.

use std::io::Read;

use flate2::bufread::{GzEncoder, MultiGzDecoder};

use super::BatchError;

/// How records are compressed. The order, and the numbers, are Kafka's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i16)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy: raw as librdkafka has it, or in the blocks of Xerial's library, which Java has.
    Snappy = 2,
    /// LZ4's frame format.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

impl Compression {
    pub(super) fn from_number(number: i16) -> Option<Self> {
        [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|compression| *compression as i16 == number)
    }
}

/// What blocks of Xerial's library begin with: a mark, a version, and the version that can read it.
const XERIAL: &[u8; 16] = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";

/// Bytes of records in such a block, as Java has it.
const XERIAL_BLOCK: usize = 32 << 10;

/// A window that zstd may want although little comes out: its compressors take one by their level, not by the size.
const ZSTD_WINDOW: u64 = 8 << 20;

/// Appends what was compressed.
pub(super) fn inflate(
    compression: Compression,
    payload: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    match compression {
        Compression::None => read(payload, limit, out),
        Compression::Gzip => read(MultiGzDecoder::new(payload), limit, out),
        Compression::Lz4 => read(lz4_flex::frame::FrameDecoder::new(payload), limit, out),
        Compression::Snappy => match payload.strip_prefix(XERIAL) {
            Some(blocks) => xerial(blocks, limit, out),
            None => snappy(payload, limit, out),
        },
        Compression::Zstd => {
            let mut rest = payload;
            // Frames may follow each other.
            while !rest.is_empty() {
                let window = ZSTD_WINDOW.max(limit as u64);
                let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(&mut rest, window)
                    .map_err(|_| BatchError::Compression)?;
                read(decoder, limit, out)?;
            }
            Ok(())
        }
    }
}

/// Appends what a decoder has, if that makes no more than the bound.
fn read(decoder: impl Read, limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let room = limit.saturating_sub(out.len()) as u64;
    decoder.take(room + 1).read_to_end(out).map_err(|_| BatchError::Compression)?;
    if out.len() > limit { Err(BatchError::TooLarge) } else { Ok(()) }
}

fn snappy(payload: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let size = snap::raw::decompress_len(payload).map_err(|_| BatchError::Compression)?;
    // Of 64 bytes that come out, three come in at least: nothing is reserved for a claim.
    if size > limit.saturating_sub(out.len()) || size / 32 > payload.len() {
        return Err(BatchError::TooLarge);
    }
    let start = out.len();
    out.resize(start + size, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    snap::raw::Decoder::new().decompress(payload, room).map_err(|_| BatchError::Compression)?;
    Ok(())
}

fn xerial(mut blocks: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    while !blocks.is_empty() {
        let (size, rest) = blocks.split_first_chunk().ok_or(BatchError::Compression)?;
        let size = usize::try_from(i32::from_be_bytes(*size)).map_err(|_| BatchError::Compression)?;
        let (block, rest) = rest.split_at_checked(size).ok_or(BatchError::Compression)?;
        snappy(block, limit, out)?;
        blocks = rest;
    }
    Ok(())
}

/// Appends records compressed, so that every client can read them.
///
/// # Errors
/// [`BatchError::Compression`] if a library fails, which none does while there is memory.
pub fn compress(compression: Compression, records: &[u8], out: &mut Vec<u8>) -> Result<(), BatchError> {
    let failed = |_| BatchError::Compression;
    match compression {
        Compression::None => out.extend_from_slice(records),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(records, flate2::Compression::default());
            encoder.read_to_end(out).map_err(failed)?;
        }
        Compression::Lz4 => {
            // Blocks that do not refer to each other, which is all that Java reads.
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
            std::io::Write::write_all(&mut encoder, records).map_err(failed)?;
            encoder.finish().map_err(|_| BatchError::Compression)?;
        }
        Compression::Snappy => {
            out.extend_from_slice(XERIAL);
            let mut encoder = snap::raw::Encoder::new();
            for block in records.chunks(XERIAL_BLOCK) {
                let block = encoder.compress_vec(block).map_err(|_| BatchError::Compression)?;
                out.extend_from_slice(&(block.len() as i32).to_be_bytes());
                out.extend_from_slice(&block);
            }
        }
        Compression::Zstd => {
            ruzstd::encoding::compress(records, out, ruzstd::encoding::CompressionLevel::Fastest);
        }
    }
    Ok(())
}
