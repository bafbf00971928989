//! Scores as text: what `strtod` reads, and what `%.17g` prints.

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

/// Appends the number as `%.17g` prints it: enough digits to read the same number back.
pub(crate) fn write_score(value: f64, out: &mut Vec<u8>) {
    if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"inf" } else { b"-inf" });
        return;
    }
    if value.fract() == 0.0 && value.abs() < 1e16 && !(value == 0.0 && value.is_sign_negative()) {
        let _ = write!(out, "{}", value as i64);
        return;
    }
    let mut digits = [0_u8; 32];
    let mut cursor = digits.as_mut_slice();
    let _ = write!(cursor, "{:.16e}", value.abs());
    let unused = cursor.len();
    let text = digits.get(..digits.len() - unused).unwrap_or_default();
    let mut parts = text.splitn(2, |byte| *byte == b'e');
    let (mantissa, power) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let power: i32 = std::str::from_utf8(power).ok().and_then(|power| power.parse().ok()).unwrap_or(0);
    let mantissa = mantissa.iter().copied().filter(|byte| *byte != b'.');
    let zeros = mantissa.clone().rev().take_while(|digit| *digit == b'0').count();
    let significant = 17_usize.saturating_sub(zeros).max(1);

    if value.is_sign_negative() {
        out.push(b'-');
    }
    let mut put = |digits: usize, point_after: usize| {
        for (at, digit) in mantissa.clone().take(digits).enumerate() {
            if at == point_after {
                out.push(b'.');
            }
            out.push(digit);
        }
    };
    if (-4..0).contains(&power) {
        // The leading zeros come before all digits.
        let leading = "0.000".get(..1 + power.unsigned_abs() as usize).unwrap_or("0.");
        out.extend_from_slice(leading.as_bytes());
        out.extend(mantissa.take(significant));
    } else if (0..17).contains(&power) {
        let whole = power as usize + 1;
        put(significant.max(whole), whole);
    } else {
        put(significant, 1);
        let sign = if power < 0 { '-' } else { '+' };
        let _ = write!(out, "e{sign}{:02}", power.unsigned_abs());
    }
}

/// Appends the number as `%.4f` prints it.
pub(crate) fn write_distance(value: f64, out: &mut Vec<u8>) {
    let _ = write!(out, "{value:.4}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: f64) -> String {
        let mut out = Vec::new();
        write_score(value, &mut out);
        String::from_utf8(out).expect("digits")
    }

    #[test]
    fn scores_print_as_c_prints_them() {
        for (value, expect) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-3.0, "-3"),
            (1.1, "1.1000000000000001"),
            (0.1, "0.10000000000000001"),
            (0.5, "0.5"),
            (-0.25, "-0.25"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e300, "1.0000000000000001e+300"),
            (1.5e300, "1.5000000000000001e+300"),
            (5e-324, "4.9406564584124654e-324"),
            (2_f64.powi(-25), "2.9802322387695312e-08"),
            (1234.5, "1234.5"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(text(value), expect);
        }
    }

    #[test]
    fn printed_scores_read_back_the_same() {
        let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..20_000 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            let value = f64::from_bits(bits);
            if value.is_finite() {
                assert_eq!(parse_score(text(value).as_bytes()), Some(value));
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
