//! Arguments of a request frame, and inline commands.

use mecha_core::ProtocolError;

/// Reads a decimal number as the server reads one: digits without a needless zero in front, with a minus sign if it is
/// negative. Nothing else: a count that we accept and the server does not would end a connection that others share.
pub(crate) fn decimal(digits: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match digits.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, digits),
    };
    if digits.is_empty()
        || digits.len() > 19
        || digits.first() == Some(&b'0') && (is_negative || digits.len() > 1)
    {
        return None;
    }
    let mut number: i64 = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if is_negative { Some(number) } else { number.checked_neg() }
}

/// The arguments of `frame`, the name first. A frame that is not an array of bulk strings has none.
pub fn args(frame: &[u8]) -> Args<'_> {
    let (left, rest) = match frame.split_first() {
        Some((b'*', rest)) => split_number(rest).unwrap_or((0, &[])),
        _ => (0, &[][..]),
    };
    Args { left: usize::try_from(left).unwrap_or(0), rest }
}

fn split_number(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\r')?;
    Some((decimal(bytes.get(..end)?)?, bytes.get(end + 2..)?))
}

/// See [`args`].
#[derive(Clone, Debug)]
pub struct Args<'w> {
    left: usize,
    rest: &'w [u8],
}

impl<'w> Iterator for Args<'w> {
    type Item = &'w [u8];

    fn next(&mut self) -> Option<&'w [u8]> {
        if self.left == 0 {
            return None;
        }
        let (length, rest) = split_number(self.rest.strip_prefix(b"$")?)?;
        let length = usize::try_from(length).ok()?;
        let arg = rest.get(..length)?;
        self.rest = rest.get(length + 2..)?;
        self.left -= 1;
        Some(arg)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Every argument takes at least six bytes, so a hostile count reserves nothing.
        (0, Some(self.left.min(self.rest.len() / 6 + 1)))
    }
}

/// Appends the array form of `args`.
pub fn write_request<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    out.push(b'*');
    crate::reply::write_int(args.len() as i64, out);
    out.extend_from_slice(b"\r\n");
    for arg in args {
        out.push(b'$');
        crate::reply::write_int(arg.len() as i64, out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the array form of an inline command, with the server's quoting rules: arguments are separated by white
/// space, double quotes know the escapes `\n \r \t \b \a \xHH`, single quotes know `\'`.
///
/// # Errors
/// [`ProtocolError::Quotes`] if a quoted argument does not end or is not followed by a space.
pub fn inline_to_array(frame: &[u8], out: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let line = frame.strip_suffix(b"\n").unwrap_or(frame);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let args = split_inline(line).ok_or(ProtocolError::Quotes { at: 0 })?;
    write_request(args.iter().map(Vec::as_slice), out);
    Ok(())
}

/// Splits an inline command; `None` if its quotes are unbalanced.
pub(crate) fn split_inline(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (mut args, mut rest) = (Vec::new(), line);
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(args);
        }
        let mut arg = Vec::new();
        rest = match rest.first() {
            _ if !rest.iter().any(|byte| matches!(byte, b'"' | b'\'')) => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                let (word, rest) = rest.split_at(end);
                arg.extend_from_slice(word);
                rest
            }
            _ => split_quoted(rest, &mut arg)?,
        };
        args.push(arg);
    }
}

/// Reads one argument that may have quoted parts.
fn split_quoted<'w>(mut rest: &'w [u8], arg: &mut Vec<u8>) -> Option<&'w [u8]> {
    loop {
        match rest.split_first() {
            None => return Some(rest),
            Some((byte, _)) if byte.is_ascii_whitespace() => return Some(rest),
            Some((b'"', quoted)) => {
                rest = double_quoted(quoted, arg)?;
                return rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest);
            }
            Some((b'\'', quoted)) => {
                rest = single_quoted(quoted, arg)?;
                return rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest);
            }
            Some((byte, more)) => {
                arg.push(*byte);
                rest = more;
            }
        }
    }
}

fn double_quoted<'w>(mut rest: &'w [u8], arg: &mut Vec<u8>) -> Option<&'w [u8]> {
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b'x', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
                arg.push(digit(*high) << 4 | digit(*low));
                rest
            }
            [b'\\', escaped, rest @ ..] => {
                arg.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest
            }
            [byte, rest @ ..] => {
                arg.push(*byte);
                rest
            }
            [] => return None,
        };
    }
}

fn single_quoted<'w>(mut rest: &'w [u8], arg: &mut Vec<u8>) -> Option<&'w [u8]> {
    loop {
        rest = match rest {
            [b'\'', rest @ ..] => return Some(rest),
            [b'\\', b'\'', rest @ ..] => {
                arg.push(b'\'');
                rest
            }
            [byte, rest @ ..] => {
                arg.push(*byte);
                rest
            }
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_strict() {
        assert_eq!(decimal(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(decimal(b"9223372036854775807"), Some(i64::MAX));
        for bad in
            ["", "-", "+1", "-0", "00", "07", "1 ", "9223372036854775808", "0x1", "99999999999999999999"]
        {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn inline_commands_follow_the_servers_quoting() {
        let check = |line: &str, expected: &[&[u8]]| {
            let mut out = Vec::new();
            inline_to_array(line.as_bytes(), &mut out).unwrap();
            assert_eq!(args(&out).collect::<Vec<_>>(), expected, "{line}");
        };
        check("SET k \"a b\\x41\\n\"\r\n", &[b"SET", b"k", b"a bA\n"]);
        check("set  k 'it\\'s'\n", &[b"set", b"k", b"it's"]);
        check("set k \"\"", &[b"set", b"k", b""]);
        check("  ping  \r\n", &[b"ping"]);
        for bad in ["set k \"a", "set k 'a", "set k \"a\"b"] {
            assert!(inline_to_array(bad.as_bytes(), &mut Vec::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn damaged_frames_end_the_iteration() {
        assert_eq!(args(b"*3\r\n$3\r\nGET\r\n$5\r\nab").count(), 1);
        assert_eq!(args(b"*9999999999\r\n").count(), 0);
        assert_eq!(args(b"").count(), 0);
    }
}
