//! How a client of Memcached begins: with a command in small letters on a line, or with the head of a binary request.

use mecha_core::Begins;

/// Words that a line may begin with (protocol.txt).
const WORDS: &[&[u8]] = &[
    b"add",
    b"append",
    b"cas",
    b"decr",
    b"delete",
    b"flush_all",
    b"gat",
    b"gats",
    b"get",
    b"gets",
    b"incr",
    b"ma",
    b"md",
    b"me",
    b"mg",
    b"mn",
    b"ms",
    b"prepend",
    b"quit",
    b"replace",
    b"set",
    b"stats",
    b"touch",
    b"verbosity",
    b"version",
];

/// Bytes of the longest of them.
const LONGEST: usize = 9;

/// See [`mecha_core::Framed::begins`].
pub(crate) fn begins(bytes: &[u8]) -> Begins {
    match bytes.first() {
        None => Begins::Maybe,
        Some(0x80) => binary(bytes),
        Some(_) => line(bytes),
    }
}

/// Magic, operation, length of the key, length of the extras, type of the data, which always is 0.
fn binary(bytes: &[u8]) -> Begins {
    match *bytes {
        [_, op, ..] if op > 0x3e => Begins::No,
        [_, _, high, ..] if high > 0 => Begins::No,
        [_, _, _, low, ..] if low > 250 => Begins::No,
        [_, _, _, _, extras, ..] if extras > 20 => Begins::No,
        [_, _, _, _, _, kind, ..] => {
            if kind == 0 {
                Begins::Yes
            } else {
                Begins::No
            }
        }
        _ => Begins::Maybe,
    }
}

fn line(bytes: &[u8]) -> Begins {
    let end = bytes.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    match end {
        Some(end) if WORDS.contains(&bytes.get(..end).unwrap_or_default()) => Begins::Yes,
        Some(_) => Begins::No,
        None if bytes.len() <= LONGEST && WORDS.iter().any(|word| word.starts_with(bytes)) => Begins::Maybe,
        None => Begins::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_binary_heads_are_told_from_their_first_bytes_in_any_pieces() {
        let get = b"\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01";
        for whole in [&b"get k\r\n"[..], b"mg k v\r\n", b"version\r\n", b"set k 0 0 1\r\nx\r\n", get] {
            let said: Vec<_> = (0..=whole.len()).map(|end| begins(&whole[..end])).collect();
            assert!(!said.contains(&Begins::No), "{whole:?}: {said:?}");
            assert_eq!(said.last(), Some(&Begins::Yes), "{whole:?}");
        }
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"*1\r\n$",
            b"getx k\r\n",
            b"EHLO x\r\n",
            b"\x80\xff",
            b"\x16\x03\x01",
            b"\0\0\0\x20",
        ] {
            assert_eq!(begins(other), Begins::No, "{other:?}");
        }
    }
}
