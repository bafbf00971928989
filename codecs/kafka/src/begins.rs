//! How a client of Kafka begins: with a request that is known, of a length that is believed.

use mecha_core::Begins;

use crate::table::{ApiKey, Judgement, judge};

/// Bytes of the first request: `ApiVersions`, `Metadata` or a handshake, none of which has records.
const MAX_FIRST: u32 = 1 << 20;

/// What the first bytes of a client say.
#[must_use]
pub fn begins(bytes: &[u8]) -> Begins {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 2)?;
        Some(i16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
    };
    // The length says something as soon as its first byte is there.
    if bytes.first().is_some_and(|byte| *byte > 0) {
        return Begins::No;
    }
    let Some(length) = bytes.first_chunk() else { return Begins::Maybe };
    if !(10..=MAX_FIRST).contains(&u32::from_be_bytes(*length)) {
        return Begins::No;
    }
    let (Some(key), Some(version)) = (number(4), number(6)) else { return Begins::Maybe };
    if judge(ApiKey(key), version) != Judgement::Known {
        return Begins::No;
    }
    // Behind the correlation id stands the length of the client's name.
    match number(12) {
        None => Begins::Maybe,
        Some(-1..=255) => Begins::Yes,
        Some(_) => Begins::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_from_its_first_bytes_in_any_pieces() {
        // ApiVersions 3 of a client named "rd".
        let whole = b"\0\0\0\x0f\0\x12\0\x03\0\0\0\x01\0\x02rd\0\x01\0";
        let said: Vec<_> = (0..=whole.len()).map(|end| begins(&whole[..end])).collect();
        assert!(!said.contains(&Begins::No), "{said:?}");
        assert_eq!(said.last(), Some(&Begins::Yes));
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"*1\r\n$",
            b"\x16\x03\x01\0\0",
            b"\0\0\0\x0f\x7f\0\0\x01",
            b"\0\0\0\x01",
            b"\x80\0",
        ] {
            assert_eq!(begins(other), Begins::No, "{other:?}");
        }
    }
}
