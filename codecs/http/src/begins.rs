//! How a client of HTTP begins: with a method and a target, or with the preface of HTTP/2 (RFC 9113, section 3.4).

use mecha_core::Begins;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Methods (RFC 9110, section 9, and RFC 5789).
const METHODS: &[&[u8]] =
    &[b"CONNECT ", b"DELETE ", b"GET ", b"HEAD ", b"OPTIONS ", b"PATCH ", b"POST ", b"PUT ", b"TRACE "];

/// What the first bytes of a client say.
#[must_use]
pub fn begins(bytes: &[u8]) -> Begins {
    let method = |method: &&[u8]| match bytes.strip_prefix(*method) {
        None => match Begins::with(bytes, method) {
            Begins::Yes => Begins::Maybe,
            other => other,
        },
        // A path, `*`, an address, or the host of a tunnel.
        Some(target) => match target.first() {
            None => Begins::Maybe,
            Some(b'/' | b'*') => Begins::Yes,
            Some(byte) if byte.is_ascii_alphanumeric() || *byte == b'[' => absolute(target),
            Some(_) => Begins::No,
        },
    };
    METHODS.iter().map(method).fold(Begins::with(bytes, PREFACE), Begins::or)
}

/// What has no path in front is told by the end of its line.
fn absolute(target: &[u8]) -> Begins {
    match target.iter().position(|byte| *byte == b' ' || *byte == b'\r' || *byte == b'\n') {
        Some(end) => Begins::with(target.get(end..).unwrap_or_default(), b" HTTP/1."),
        None if target.len() < 8 << 10 => Begins::Maybe,
        None => Begins::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_both_versions_are_told_from_their_first_bytes_in_any_pieces() {
        for whole in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"OPTIONS * HTTP/1.1\r\n",
            b"CONNECT a.example:443 HTTP/1.1\r\n",
            b"GET http://a.example/ HTTP/1.0\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            let said: Vec<_> = (0..=whole.len()).map(|end| begins(&whole[..end])).collect();
            assert!(!said.contains(&Begins::No), "{whole:?}: {said:?}");
            assert_eq!(said.last(), Some(&Begins::Yes), "{whole:?}");
        }
        for other in [
            &b"get k\r\n"[..],
            b"GET k\r\n",
            b"*1\r\n$",
            b"EHLO x",
            b"PING\r\n",
            b"\x16\x03\x01",
            b"\0\0\0\x20",
        ] {
            assert_eq!(begins(other), Begins::No, "{other:?}");
        }
    }
}
