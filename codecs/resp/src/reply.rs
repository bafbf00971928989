//! Writing replies, in RESP2 or RESP3 as the client asked.

/// Appends `number` in decimal.
pub fn write_int(number: i64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = number.unsigned_abs();
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + (left % 10) as u8;
        }
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

/// Appends a floating-point number as the server prints one (`%.17g`, with `inf`, `-inf` and `nan` spelled so).
pub fn write_double(number: f64, out: &mut Vec<u8>) {
    let text: &[u8] = if number.is_nan() {
        b"nan"
    } else if number == f64::INFINITY {
        b"inf"
    } else if number == f64::NEG_INFINITY {
        b"-inf"
    } else {
        if number == number.trunc() && number.abs() < 1e17 {
            if number == 0.0 && number.is_sign_negative() {
                out.push(b'-');
            }
            return write_int(number as i64, out);
        }
        return write_17g(number, out);
    };
    out.extend_from_slice(text);
}

/// `%.17g` of a finite number.
fn write_17g(number: f64, out: &mut Vec<u8>) {
    use std::io::Write;
    let mut text = Vec::with_capacity(32);
    // Writing to memory does not fail.
    let _ = write!(text, "{number:.16e}");
    let split = text.iter().position(|byte| *byte == b'e').unwrap_or(text.len());
    let (mantissa, exponent) = text.split_at(split);
    let exponent: i32 = std::str::from_utf8(exponent.get(1..).unwrap_or_default())
        .ok()
        .and_then(|e| e.parse().ok())
        .unwrap_or(0);
    let is_negative = mantissa.first() == Some(&b'-');
    let digits: Vec<u8> = mantissa.iter().copied().filter(u8::is_ascii_digit).collect();
    let significant = digits.iter().rposition(|digit| *digit != b'0').map_or(1, |last| last + 1);
    let digits = digits.get(..significant).unwrap_or_default();
    if is_negative {
        out.push(b'-');
    }
    if !(-4..17).contains(&exponent) {
        let (first, rest) = digits.split_at(1.min(digits.len()));
        out.extend_from_slice(first);
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest);
        }
        let _ = write!(out, "e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    } else if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
        out.extend_from_slice(digits);
    } else {
        let whole = exponent as usize + 1;
        let (before, after) = digits.split_at(whole.min(digits.len()));
        out.extend_from_slice(before);
        out.extend(std::iter::repeat_n(b'0', whole - before.len()));
        if !after.is_empty() {
            out.push(b'.');
            out.extend_from_slice(after);
        }
    }
}

/// Appends replies in the version of the protocol that the client speaks.
#[derive(Debug)]
pub struct Writer<'a> {
    /// Where to.
    pub out: &'a mut Vec<u8>,
    /// 2 or 3.
    pub proto: u8,
}

impl<'a> Writer<'a> {
    /// Appends to `out` for a client that speaks version `proto`.
    pub fn new(out: &'a mut Vec<u8>, proto: u8) -> Self {
        Self { out, proto }
    }

    fn header(&mut self, kind: u8, number: i64) {
        self.out.push(kind);
        write_int(number, self.out);
        self.out.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        // A line break inside would end the reply early.
        self.out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// `+OK` and the like.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// An error; `text` starts with the code word (`ERR`, `WRONGTYPE`).
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text.as_bytes());
    }

    /// As [`Writer::error`], for text with bytes of the client in it.
    pub fn error_bytes(&mut self, text: &[u8]) {
        self.line(b'-', text);
    }

    /// An integer.
    pub fn int(&mut self, number: i64) {
        self.header(b':', number);
    }

    /// A bulk string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A bulk string that is a number.
    pub fn bulk_int(&mut self, number: i64) {
        let mut digits = Vec::with_capacity(20);
        write_int(number, &mut digits);
        self.bulk(&digits);
    }

    /// The absence of a value.
    pub fn null(&mut self) {
        self.out.extend_from_slice(if self.proto >= 3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// The absence of an array.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(if self.proto >= 3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// A value or its absence.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// An array of `count` elements, which follow.
    pub fn array(&mut self, count: usize) {
        self.header(b'*', count as i64);
    }

    /// A map of `count` pairs, which follow; in RESP2 a flat array.
    pub fn map(&mut self, count: usize) {
        if self.proto >= 3 { self.header(b'%', count as i64) } else { self.header(b'*', 2 * count as i64) }
    }

    /// A set of `count` members, which follow; in RESP2 an array.
    pub fn set(&mut self, count: usize) {
        self.header(if self.proto >= 3 { b'~' } else { b'*' }, count as i64);
    }

    /// An out-of-band message of `count` elements, which follow; in RESP2 an array.
    pub fn push(&mut self, count: usize) {
        self.header(if self.proto >= 3 { b'>' } else { b'*' }, count as i64);
    }

    /// A floating-point number; in RESP2 a bulk string.
    pub fn double(&mut self, number: f64) {
        let mut text = Vec::with_capacity(24);
        write_double(number, &mut text);
        if self.proto >= 3 { self.line(b',', &text) } else { self.bulk(&text) }
    }

    /// A truth value; in RESP2 0 or 1.
    pub fn bool(&mut self, value: bool) {
        match (self.proto >= 3, value) {
            (true, true) => self.out.extend_from_slice(b"#t\r\n"),
            (true, false) => self.out.extend_from_slice(b"#f\r\n"),
            (false, value) => self.int(i64::from(value)),
        }
    }

    /// Text with a format of three letters (`txt`, `mkd`); in RESP2 a bulk string.
    pub fn verbatim(&mut self, format: &str, bytes: &[u8]) {
        if self.proto < 3 {
            return self.bulk(bytes);
        }
        self.header(b'=', bytes.len() as i64 + 4);
        self.out.extend_from_slice(format.as_bytes());
        self.out.push(b':');
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_look_like_the_servers() {
        let check = |number: f64, expected: &str| {
            let mut out = Vec::new();
            write_double(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(1.0, "1");
        check(-0.0, "-0");
        check(3.3, "3.2999999999999998");
        check(0.1, "0.10000000000000001");
        check(1e17, "1e+17");
        check(1.5e300, "1.5000000000000001e+300");
        check(1e-5, "1.0000000000000001e-05");
        check(0.0001, "0.0001");
        check(-123.456, "-123.456");
        check(f64::NEG_INFINITY, "-inf");
    }

    #[test]
    fn integers_reach_both_ends() {
        for number in [0, 7, -7, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            write_int(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn a_line_break_cannot_end_an_error_early() {
        let mut out = Vec::new();
        Writer::new(&mut out, 2).error("ERR a\r\n+OK");
        assert_eq!(out, b"-ERR a  +OK\r\n");
    }
}
