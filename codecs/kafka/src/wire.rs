//! Numbers as Kafka writes them: big-endian, or as varints of seven bits a byte, the lowest first.

/// What a body can have wrong with it. Whoever sent it is not to be trusted with the rest of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// A count announces more than the bytes that are there can be.
    Count,
    /// A length announces more bytes than there are, or less than none.
    Length,
    /// Numbers of tags do not ascend, or content is not as long as its tag says.
    Tag,
    /// The message ends and there are bytes left.
    Trailing,
    /// There are no bytes left and the message has not ended.
    Truncated,
    /// This version of this message is not known.
    Unknown,
    /// A string is not UTF-8, or a value is none that its type has.
    Value,
    /// A varint is longer than its type.
    Varint,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Self::Count => "a count is larger than the rest of the message",
            Self::Length => "a length is larger than the rest of the message",
            Self::Tag => "tagged fields are out of order or of the wrong size",
            Self::Trailing => "bytes follow the message",
            Self::Truncated => "the message ends too early",
            Self::Unknown => "this version of this message is not known",
            Self::Value => "a value is none of its type",
            Self::Varint => "a varint is too long",
        })
    }
}

impl std::error::Error for Malformed {}

/// Reads an unsigned varint: its value and its size in bytes. `None` if `input` ends within it.
///
/// # Errors
/// [`Malformed::Varint`] if it does not fit 32 bits.
pub fn uvarint(input: &[u8]) -> Result<Option<(u32, usize)>, Malformed> {
    let mut value = 0u32;
    for (at, byte) in input.iter().take(5).enumerate() {
        let bits = u32::from(byte & 0x7f);
        if at == 4 && *byte > 0x0f {
            return Err(Malformed::Varint);
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    Ok(None)
}

/// Appends an unsigned varint.
pub fn put_uvarint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`put_uvarint`] appends.
#[must_use]
pub fn uvarint_size(value: u32) -> usize {
    (38 - value.leading_zeros().min(31) as usize) / 7
}

/// Appends a string with its length, as flexible versions or the others have it. What is longer than a string can be
/// is cut off, which no address and no name of a topic is.
pub fn put_string(text: &[u8], is_flexible: bool, out: &mut Vec<u8>) {
    let text = text.get(..i16::MAX as usize).unwrap_or(text);
    if is_flexible {
        put_uvarint(text.len() as u32 + 1, out);
    } else {
        out.extend_from_slice(&(text.len() as i16).to_be_bytes());
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::{Malformed, put_uvarint, uvarint, uvarint_size};

    #[test]
    fn a_varint_is_read_as_it_was_written() {
        for value in
            [0, 1, 127, 128, 300, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455, 268_435_456, u32::MAX]
        {
            let mut out = Vec::new();
            put_uvarint(value, &mut out);
            assert_eq!(out.len(), uvarint_size(value), "{value}");
            assert_eq!(uvarint(&out), Ok(Some((value, out.len()))));
            for cut in 0..out.len() {
                assert_eq!(uvarint(&out[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn a_varint_of_more_than_32_bits_is_refused() {
        assert_eq!(uvarint(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(Malformed::Varint));
        assert_eq!(uvarint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(Malformed::Varint));
    }
}
