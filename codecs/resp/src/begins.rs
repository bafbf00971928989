//! How a client of Redis begins: with an array of strings, as every library sends requests.
//!
//! Words on a line, as people type them into `telnet`, are not told from other protocols that are spoken in lines.

use mecha_core::Begins;

/// Digits of the largest count that is believed.
const MAX_DIGITS: usize = 9;

/// See [`mecha_core::Framed::begins`].
pub(crate) fn begins(bytes: &[u8]) -> Begins {
    let Some(rest) = bytes.strip_prefix(b"*") else { return Begins::with(bytes, b"*") };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = rest.get(digits..).unwrap_or_default();
    if digits > MAX_DIGITS || digits == 0 && !rest.is_empty() {
        return Begins::No;
    }
    Begins::with(rest, b"\r\n$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_of_strings_is_told_from_its_first_bytes_in_any_pieces() {
        let whole = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        for end in 0..whole.len() {
            assert_ne!(begins(&whole[..end]), Begins::No, "{end}");
        }
        assert_eq!(begins(b"*2\r\n$"), Begins::Yes);
        assert_eq!(begins(b"*2\r\n"), Begins::Maybe);
        for other in
            [&b"GET / HTTP/1.1\r\n"[..], b"get k\r\n", b"*x", b"*1\r\nG", b"*1234567890\r\n$", b"\x80", b"**"]
        {
            assert_eq!(begins(other), Begins::No, "{other:?}");
        }
    }
}
