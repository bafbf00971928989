//! Copies of Memcached items: value, flags and expiry, by the meta commands. The cas unique belongs to the server.

use mecha_core::OpId;
use mecha_memcached::{Memcached, Request, ops};

use super::{Copies, How, Likeness, Step, Told};

/// Larger expiries are times of day.
const LONGEST_RELATIVE: i64 = 60 * 60 * 24 * 30;

/// Appends a key as meta commands take it; returns the flag that goes with it.
fn name(key: &[u8], out: &mut Vec<u8>) -> &'static [u8] {
    if key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        mecha_memcached::base64::encode(key, out);
        return b" b";
    }
    out.extend_from_slice(key);
    b""
}

fn request(command: &[u8], key: &[u8], rest: &str) -> Vec<u8> {
    let mut out = [command, b" "].concat();
    let flag = name(key, &mut out);
    out.extend_from_slice(rest.as_bytes());
    out.extend_from_slice(flag);
    out.extend_from_slice(b"\r\n");
    out
}

/// The value, its flags, and its life in seconds, negative for ever.
fn item(reply: &[u8]) -> Option<(&[u8], u32, i64)> {
    let end = memchr::memchr(b'\n', reply)?;
    let line = std::str::from_utf8(reply.get(..end)?).ok()?;
    let mut words = line.trim_end().split(' ');
    if words.next()? != "VA" {
        return None;
    }
    let length: usize = words.next()?.parse().ok()?;
    let (mut flags, mut life) = (0, -1);
    for word in words {
        match word.split_at_checked(1)? {
            ("f", number) => flags = number.parse().ok()?,
            ("t", number) => life = number.parse().ok()?,
            _ => {}
        }
    }
    Some((reply.get(end + 1..)?.get(..length)?, flags, life))
}

impl Copies for Memcached {
    fn copy(key: &[u8], how: How, replies: &[Vec<u8>]) -> Step {
        let Some(reply) = replies.first() else { return Step::Ask(vec![request(b"mg", key, " v f t")]) };
        if reply.starts_with(b"EN") {
            return Step::Put(if how.is_replacing { vec![Self::remove(key)] } else { Vec::new() });
        }
        let Some((value, flags, life)) = item(reply) else { return Step::Refused };
        let life = match life {
            ..0 => 0,
            0 => 1,
            1..=LONGEST_RELATIVE => life,
            // Otherwise it would be read as a time long past.
            _ => life.saturating_add_unsigned(how.now_unix_secs),
        };
        let mode = if how.is_replacing { "S" } else { "E" };
        let mut put = request(b"ms", key, &format!(" {} F{flags} T{life} M{mode}", value.len()));
        put.extend_from_slice(value);
        put.extend_from_slice(b"\r\n");
        Step::Put(vec![put])
    }

    fn told(reply: &[u8]) -> Told {
        match reply.get(..2) {
            // Not stored: somebody was faster, with something newer. Not found: there is nothing to remove.
            Some(b"HD" | b"NS" | b"NF") => Told::Done,
            Some(b"SE") if !reply.starts_with(b"SERVER_ERROR object too large") => Told::Later,
            _ => Told::Never,
        }
    }

    fn remove(key: &[u8]) -> Vec<u8> {
        request(b"md", key, "")
    }

    fn whether(key: &[u8]) -> Vec<u8> {
        request(b"mg", key, "")
    }

    fn is_there(reply: &[u8]) -> Option<bool> {
        match reply.get(..2)? {
            b"HD" => Some(true),
            b"EN" => Some(false),
            _ => None,
        }
    }

    fn is_boundless(op: OpId) -> bool {
        ops::spoken(op) == ops::FLUSH_ALL || op == OpId::UNKNOWN
    }

    fn likeness(request: &Request, frame: &[u8]) -> Likeness {
        match ops::spoken(request.op()) {
            ops::GET => Likeness::Bytes,
            // Flags that tell of the item's value, and of nothing that differs from server to server.
            ops::MG => {
                let words = frame.trim_ascii_end().split(|byte| *byte == b' ').skip(2);
                let mut flags = words.filter_map(<[u8]>::first);
                if flags.all(|flag| b"bfkqsvO".contains(flag)) { Likeness::Bytes } else { Likeness::None }
            }
            _ => Likeness::None,
        }
    }

    fn is_alike(likeness: Likeness, one: &[u8], other: &[u8]) -> bool {
        // The binary protocol puts the cas unique into every answer.
        let without = |reply: &[u8]| {
            let mut reply = reply.to_vec();
            if reply.first() == Some(&0x81)
                && let Some(cas) = reply.get_mut(16..24)
            {
                cas.fill(0);
            }
            reply
        };
        likeness == Likeness::None || one == other || without(one) == without(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: How = How { is_exact: true, is_replacing: true, now_unix_secs: 2_000_000_000 };

    fn put(how: How, reply: &str) -> String {
        match Memcached::copy(b"k", how, &[reply.as_bytes().to_vec()]) {
            Step::Put(frames) => frames.iter().map(|frame| String::from_utf8_lossy(frame)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn value_flags_and_expiry_are_copied() {
        assert_eq!(Memcached::copy(b"k", COPY, &[]), Step::Ask(vec![b"mg k v f t\r\n".to_vec()]));
        assert_eq!(put(COPY, "VA 3 f7 t-1\r\na\r\n\r\n"), "ms k 3 F7 T0 MS\r\na\r\n\r\n");
        let new = How { is_replacing: false, ..COPY };
        assert_eq!(put(new, "VA 1 f0 t0\r\na\r\n"), "ms k 1 F0 T1 ME\r\na\r\n");
        assert_eq!(put(COPY, "VA 1 f0 t2592001\r\na\r\n"), "ms k 1 F0 T2002592001 MS\r\na\r\n");
        assert_eq!(put(COPY, "EN\r\n"), "md k\r\n");
        assert_eq!(put(new, "EN\r\n"), "");
        assert_eq!(Memcached::copy(b"k", COPY, &[b"VA 9 f0\r\nshort\r\n".to_vec()]), Step::Refused);
    }

    #[test]
    fn a_key_that_is_no_word_goes_in_base64() {
        assert_eq!(Memcached::whether(b"a b"), b"mg YSBi b\r\n");
    }
}
