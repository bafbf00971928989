//! Scores as text, as `strtod` reads them; and distances.

use std::io::Write as _;

/// Reads a float as `strtod` does: decimal or hexadecimal, `inf`, no surrounding space, no NaN. Numbers out of range
/// give infinity and zero here; see [`parse_score`].
pub(crate) fn parse_bound(text: &[u8]) -> Option<f64> {
    // The standard library reads the same grammar but for hexadecimal digits.
    let unsigned = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    let value = match unsigned {
        [b'0', b'x' | b'X', digits @ ..] => hexadecimal(digits)?,
        [b'+' | b'-', ..] => return None,
        _ => std::str::from_utf8(unsigned).ok()?.parse().ok()?,
    };
    if value.is_nan() {
        return None;
    }
    Some(if text.starts_with(b"-") { -value } else { value })
}

/// Reads a score: a number that overflows, or vanishes, is none.
pub(crate) fn parse_score(text: &[u8]) -> Option<f64> {
    let value = parse_bound(text)?;
    let spelled_out = || text.iter().any(|byte| byte.eq_ignore_ascii_case(&b'n'));
    let vanished = || {
        let hex = text.iter().any(|byte| byte.eq_ignore_ascii_case(&b'x'));
        let end = if hex { b'p' } else { b'e' };
        let mut digits = text.iter().take_while(|byte| !byte.eq_ignore_ascii_case(&end));
        digits.any(|byte| byte.is_ascii_hexdigit() && *byte != b'0')
    };
    let out_of_range = (value.is_infinite() && !spelled_out()) || (value == 0.0 && vanished());
    (!out_of_range).then_some(value)
}

/// Digits behind `0x`, up to sixteen that count.
fn hexadecimal(text: &[u8]) -> Option<f64> {
    let (mut mantissa, mut scale, mut seen, mut point, mut at) = (0_u64, 0_i32, false, false, 0);
    while let Some(&byte) = text.get(at) {
        match char::from(byte).to_digit(16) {
            Some(digit) if mantissa >> 60 == 0 => {
                mantissa = mantissa << 4 | u64::from(digit);
                scale -= if point { 4 } else { 0 };
                seen = true;
            }
            Some(digit) => {
                mantissa |= u64::from(digit != 0);
                scale += if point { 0 } else { 4 };
            }
            None if byte == b'.' && !point => point = true,
            None => break,
        }
        at += 1;
    }
    if !seen {
        return None;
    }
    let power = match text.get(at..)? {
        [] => 0,
        [b'p' | b'P', digits @ ..] => {
            std::str::from_utf8(digits).ok()?.parse::<i32>().ok()?.clamp(-3000, 3000)
        }
        _ => return None,
    };
    // In two steps, since 2^power alone may be out of range.
    let power = power.saturating_add(scale);
    Some(mantissa as f64 * 2_f64.powi(power / 2) * 2_f64.powi(power - power / 2))
}

/// Appends the number as `%.4f` prints it.
pub(crate) fn write_distance(value: f64, out: &mut Vec<u8>) {
    let _ = write!(out, "{value:.4}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_scores_read_back_the_same() {
        let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..20_000 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            let value = f64::from_bits(bits);
            if value.is_finite() {
                let mut text = Vec::new();
                mecha_resp::reply::write_double(value, &mut text);
                assert_eq!(parse_score(&text), Some(value));
            }
        }
    }

    #[test]
    fn floats_are_read_as_c_reads_them() {
        for (text, expect) in [
            ("1", 1.0),
            ("+1.5", 1.5),
            ("-.5", -0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("0x10", 16.0),
            ("-0X1.8p1", -3.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("5e-324", 5e-324),
            ("0e-999", 0.0),
            ("0x0", 0.0),
        ] {
            assert_eq!(parse_score(text.as_bytes()), Some(expect), "{text}");
        }
        for text in [
            "", " 1", "1 ", "nan", "-nan", "1e400", "1e-400", "--1", "+-1", "0x", "1_0", "abc", "e1",
            "0x1p9999",
        ] {
            assert_eq!(parse_score(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_bound(b"1e400"), Some(f64::INFINITY));
    }
}
