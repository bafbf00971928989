//! How long an item may live, written down anew: for servers that stand in for others, where nothing may live long.
//!
//! Every request that stores, or sets an expiry, says how long: as a word of a text command, as a flag of a meta command, or in
//! the extras of the binary protocol. 0, and an `ms` that says nothing, is for ever; a negative number is at once; up to 30 days
//! it is seconds from now, beyond the time of day. `append`, `prepend` and what only reads leave an item's expiry alone.

use crate::line::{Words, without_end};
use crate::{Request, binary};

/// The largest number that counts from now.
const MONTH_SECS: i64 = 60 * 60 * 24 * 30;

/// Appends `frame` with every expiry in it bounded by `ttl_secs`.
pub(crate) fn shorten(request: &Request, frame: &[u8], ttl_secs: u32, now_unix_secs: u64, out: &mut Vec<u8>) {
    let bound = Bound { ttl_secs: i64::from(ttl_secs).min(MONTH_SECS), now: now_unix_secs as i64 };
    if let Some(opcode) = request.binary {
        let start = out.len();
        out.extend_from_slice(frame);
        bound.binary(binary::audible(opcode), out.get_mut(start..).unwrap_or_default());
        return;
    }
    let (line, data) = frame.split_at(request.line_len().min(frame.len()));
    let text = without_end(line);
    match Words::new(text).next().map(|word| word.bytes) {
        Some(b"ma" | b"md" | b"mg" | b"ms") => bound.meta(text, out),
        _ => bound.classic(text, out),
    }
    out.extend_from_slice(line.get(text.len()..).unwrap_or_default());
    out.extend_from_slice(data);
}

struct Bound {
    ttl_secs: i64,
    now: i64,
}

impl Bound {
    fn of(&self, expiry: i64) -> i64 {
        match expiry {
            0 => self.ttl_secs,
            ..0 => expiry,
            1..=MONTH_SECS => expiry.min(self.ttl_secs),
            _ if expiry <= self.now => expiry,
            _ => (expiry - self.now).min(self.ttl_secs),
        }
    }

    /// A number in text; anything else stays what it is, for the server to refuse.
    fn word(&self, word: &[u8], out: &mut Vec<u8>) {
        match std::str::from_utf8(word).ok().and_then(|text| text.parse::<i64>().ok()) {
            Some(expiry) => out.extend_from_slice(self.of(expiry).to_string().as_bytes()),
            None => out.extend_from_slice(word),
        }
    }

    fn classic(&self, line: &[u8], out: &mut Vec<u8>) {
        let place = match Words::new(line).next().map(|word| word.bytes) {
            Some(b"set" | b"add" | b"replace" | b"cas") => 3,
            Some(b"touch") => 2,
            Some(b"gat" | b"gats") => 1,
            _ => 0,
        };
        match Words::new(line).nth(place).filter(|_| place > 0) {
            Some(word) => {
                out.extend_from_slice(line.get(..word.at).unwrap_or_default());
                self.word(word.bytes, out);
                out.extend_from_slice(line.get(word.at + word.bytes.len()..).unwrap_or_default());
            }
            None => out.extend_from_slice(line),
        }
    }

    fn meta(&self, line: &[u8], out: &mut Vec<u8>) {
        let is_set = line.starts_with(b"ms ");
        // The key, and the length of the data, may look like a flag.
        let flags_from = if is_set { 3 } else { 2 };
        let (mut at, mut is_said) = (0, false);
        for word in Words::new(line).skip(flags_from) {
            let Some((b'T' | b'N', number)) = word.bytes.split_first().map(|(flag, rest)| (*flag, rest))
            else {
                continue;
            };
            out.extend_from_slice(line.get(at..word.at + 1).unwrap_or_default());
            self.word(number, out);
            at = word.at + word.bytes.len();
            is_said |= word.bytes.starts_with(b"T");
        }
        out.extend_from_slice(line.get(at..).unwrap_or_default());
        if is_set && !is_said {
            out.extend_from_slice(format!(" T{}", self.ttl_secs).as_bytes());
        }
    }

    fn binary(&self, opcode: u8, frame: &mut [u8]) {
        let extras = match opcode {
            0x01..=0x03 => 4,
            0x05 | 0x06 => 16,
            0x1c | 0x1d | 0x23 => 0,
            _ => return,
        };
        let at = binary::HEADER + extras;
        let Some(expiry) = frame.get_mut(at..at + 4) else { return };
        let Ok(number) = <[u8; 4]>::try_from(&*expiry) else { return };
        // All ones in an increment says that nothing is to be made.
        if number != [0xff; 4] {
            let bounded = self.of(i64::from(i32::from_be_bytes(number))) as i32;
            expiry.copy_from_slice(&bounded.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use mecha_core::{Decode, Framed, Limits};

    use crate::Memcached;

    fn shortened(frame: &[u8]) -> Vec<u8> {
        let (mut heads, mut out) = (Vec::new(), Vec::new());
        let mut decoder = Memcached::request_decoder(Limits::default());
        assert_eq!(decoder.decode(frame, &mut heads).unwrap().consumed, frame.len());
        for head in &heads {
            let frame = head.span().of(frame, &[]);
            Memcached::shorten(head, frame, 10, 2_000_000_000, &mut out);
        }
        out
    }

    #[test]
    fn every_text_form_of_an_expiry_is_bounded() {
        for (frame, wanted) in [
            ("set k 7 0 2\r\nab\r\n", "set k 7 10 2\r\nab\r\n"),
            ("set 0 0 5 1 noreply\r\nx\r\n", "set 0 0 5 1 noreply\r\nx\r\n"),
            ("add k 0 99 1\r\nx\r\n", "add k 0 10 1\r\nx\r\n"),
            ("cas k 0 2592001 1 5\r\nx\r\n", "cas k 0 2592001 1 5\r\nx\r\n"),
            ("replace k 0 2000000004 1\r\nx\r\n", "replace k 0 4 1\r\nx\r\n"),
            ("set k 0 -1 1\r\nx\r\n", "set k 0 -1 1\r\nx\r\n"),
            ("append k 0 0 1\r\nx\r\n", "append k 0 0 1\r\nx\r\n"),
            ("touch k 0\r\n", "touch k 10\r\n"),
            ("gat 3600 a b\r\n", "gat 10 a b\r\n"),
            ("get a T0 N0\r\n", "get a T0 N0\r\n"),
            ("incr n 0\r\n", "incr n 0\r\n"),
            ("ms T0 2 c\r\nab\r\n", "ms T0 2 c T10\r\nab\r\n"),
            ("ms k 2 T0 c\r\nab\r\n", "ms k 2 T10 c\r\nab\r\n"),
            ("ms k 0\r\n\r\n", "ms k 0 T10\r\n\r\n"),
            ("mg k v N0 T5\r\n", "mg k v N10 T5\r\n"),
            ("ma k N3600\r\n", "ma k N10\r\n"),
            ("mg k v t\r\n", "mg k v t\r\n"),
        ] {
            assert_eq!(String::from_utf8(shortened(frame.as_bytes())).unwrap(), wanted);
        }
    }

    #[test]
    fn every_binary_form_of_an_expiry_is_bounded() {
        let request = |opcode: u8, extras: &[u8], key: &[u8], value: &[u8]| {
            let body = (extras.len() + key.len() + value.len()) as u32;
            let mut frame = vec![0x80, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0];
            frame.extend_from_slice(&body.to_be_bytes());
            frame.extend_from_slice(&[0; 12]);
            [&frame, extras, key, value].concat()
        };
        for (opcode, before) in [(0x01, 4), (0x12, 4), (0x05, 16), (0x1c, 0), (0x1e, 0)] {
            let value: &[u8] = if before == 4 { b"v" } else { b"" };
            let with = |expiry: [u8; 4]| {
                let extras = [&vec![1; before][..], &expiry].concat();
                request(opcode, &extras, b"k", value)
            };
            assert_eq!(shortened(&with([0; 4])), with([0, 0, 0, 10]), "{opcode:x}");
            assert_eq!(shortened(&with([0, 0, 0, 3])), with([0, 0, 0, 3]), "{opcode:x}");
            assert_eq!(shortened(&with([0xff; 4])), with([0xff; 4]), "{opcode:x}");
        }
        let get = request(0x00, b"", b"k", b"");
        assert_eq!(shortened(&get), get);
    }
}
