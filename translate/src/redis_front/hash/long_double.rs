//! Redis adds floats as C `long double`s, which on its usual machines have 64 bits of mantissa, and prints them with
//! seventeen decimals. So `3000 + 0.1` is `3000.10000000000000009`, and an f64 would tell another story. This is that
//! arithmetic in integers: correctly rounded reading, one addition, exact printing.
//!
//! Deliberately absent: gradual underflow. A number that small prints as zero.

/// The largest binary exponent (of the leading bit) of a `long double`.
const MAX_EXPONENT: i32 = 16383;
/// The smallest, with its denormals.
const MIN_EXPONENT: i32 = -16445;
/// A number of this length or longer is no number to Redis.
const MAX_CHARS: usize = 5 * 1024;

/// `mantissa * 2^exponent`; the mantissa's top bit is set unless it is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LongDouble {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

/// What a text means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Finite(LongDouble),
    Infinite,
}

// === impl LongDouble ===

impl LongDouble {
    /// The sum, rounded to even; `None` when it is out of range.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        let (big, small) = if (self.rank(), self.mantissa) >= (other.rank(), other.mantissa) {
            (self, other)
        } else {
            (other, self)
        };
        if small.mantissa == 0 {
            return Some(if big.mantissa == 0 {
                Self { negative: big.negative && small.negative, ..big }
            } else {
                big
            });
        }
        // 63 bits below the mantissa, the lowest of which stands for everything that was shifted out.
        let upper = u128::from(big.mantissa) << 62;
        let shift = (big.exponent - small.exponent).unsigned_abs();
        let whole = u128::from(small.mantissa) << 62;
        let lower =
            if shift > 126 { 1 } else { (whole >> shift) | u128::from(whole.trailing_zeros() < shift) };
        let sum = if big.negative == small.negative { upper + lower } else { upper - lower };
        if sum == 0 {
            return Some(Self { negative: false, mantissa: 0, exponent: 0 });
        }
        Self::round(big.negative, sum, big.exponent - 62, false)
    }

    /// As `%.17Lf` prints it, without trailing zeros.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let mut digits = if self.exponent >= 0 {
            let mut big = Big::from(self.mantissa);
            big.shift_left(self.exponent.unsigned_abs());
            big.decimal()
        } else {
            let scaled = u128::from(self.mantissa) * 100_000_000_000_000_000;
            let shift = self.exponent.unsigned_abs();
            let rounded = if shift > 126 {
                0
            } else {
                let (floor, rest, half) = (scaled >> shift, scaled & ((1 << shift) - 1), 1 << (shift - 1));
                floor + u128::from(rest > half || (rest == half && floor & 1 == 1))
            };
            format!("{rounded:018}").into_bytes()
        };
        if self.exponent < 0 {
            let point = digits.len().saturating_sub(17);
            let zeros = digits.iter().skip(point).rev().take_while(|digit| **digit == b'0').count();
            digits.truncate(digits.len() - zeros);
            if digits.len() > point {
                digits.insert(point, b'.');
            }
        }
        if self.negative && digits != b"0" {
            out.push(b'-');
        }
        out.extend_from_slice(&digits);
    }

    /// Position of the leading bit, for comparing magnitudes.
    fn rank(self) -> i32 {
        if self.mantissa == 0 { i32::MIN } else { self.exponent }
    }

    /// `bits * 2^exponent`, and a little more if `sticky`, rounded to 64 bits of mantissa.
    fn round(negative: bool, bits: u128, exponent: i32, sticky: bool) -> Option<Self> {
        if bits == 0 {
            return Some(Self { negative, mantissa: 0, exponent: 0 });
        }
        let lead = bits.leading_zeros();
        let bits = bits << lead;
        let mut exponent = exponent - lead as i32 + 64;
        let (mut mantissa, rest, half) = ((bits >> 64) as u64, bits as u64, 1_u64 << 63);
        if rest > half || (rest == half && (sticky || mantissa & 1 == 1)) {
            mantissa = mantissa.wrapping_add(1);
            if mantissa == 0 {
                mantissa = 1 << 63;
                exponent += 1;
            }
        }
        (exponent + 63 <= MAX_EXPONENT).then_some(Self { negative, mantissa, exponent })
    }
}

impl From<f64> for LongDouble {
    /// NaN and infinities become zero; no caller has them.
    fn from(value: f64) -> Self {
        let bits = value.to_bits();
        let (fraction, biased) = (bits & ((1 << 52) - 1), (bits >> 52 & 0x7ff) as i32);
        let (mantissa, exponent) = match biased {
            0 => (fraction, -1074),
            0x7ff => (0, 0),
            _ => (fraction | 1 << 52, biased - 1075),
        };
        Self::round(value.is_sign_negative(), u128::from(mantissa), exponent, false).unwrap_or(Self {
            negative: false,
            mantissa: 0,
            exponent: 0,
        })
    }
}

/// Reads what `strtold` reads and Redis accepts; no spaces around, no NaN.
pub(crate) fn parse(text: &[u8]) -> Option<Number> {
    if text.len() >= MAX_CHARS {
        return None;
    }
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
        return Some(Number::Infinite);
    }
    let hex = matches!(rest, [b'0', b'x' | b'X', ..]);
    let radix = if hex { 16 } else { 10 };
    let digits = if hex { rest.get(2..)? } else { rest };

    let mut big = Big::default();
    // Digits behind the point.
    let (mut scale, mut seen, mut at, mut point) = (0_i32, false, 0, false);
    while let Some(&byte) = digits.get(at) {
        match char::from(byte).to_digit(radix) {
            Some(digit) => {
                big.times_plus(radix, digit);
                seen = true;
                scale += i32::from(point);
            }
            None if byte == b'.' && !point => point = true,
            None => break,
        }
        at += 1;
    }
    let power = match digits.get(at..)? {
        [] => 0,
        [mark, power @ ..] if mark.eq_ignore_ascii_case(if hex { &b'p' } else { &b'e' }) => exponent(power)?,
        _ => return None,
    };
    if !seen {
        return None;
    }
    if big.is_zero() {
        return Some(Number::Finite(LongDouble { negative, mantissa: 0, exponent: 0 }));
    }
    let number = if hex {
        let (bits, exponent, sticky) = big.leading();
        LongDouble::round(negative, bits, exponent + power - 4 * scale, sticky)?
    } else {
        // Digits before the point, were it placed behind the first: far out of range needs no arithmetic.
        let magnitude = power - scale + big.decimal_len();
        if !(-5000..=5000).contains(&magnitude) {
            return None;
        }
        decimal(negative, big, power - scale)?
    };
    // The smallest numbers become zero, which Redis takes for an error.
    (number.exponent + 63 >= MIN_EXPONENT).then_some(Number::Finite(number))
}

/// Decimal digits with a sign, cut off where they make no difference.
fn exponent(text: &[u8]) -> Option<i32> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0_i32;
    for byte in digits {
        let digit = char::from(*byte).to_digit(10)?;
        value = (value * 10 + digit as i32).min(1_000_000);
    }
    Some(if negative { -value } else { value })
}

/// `digits * 10^power`, correctly rounded.
fn decimal(negative: bool, mut digits: Big, power: i32) -> Option<LongDouble> {
    if power >= 0 {
        for _ in 0..power {
            digits.times_plus(10, 0);
        }
        let (bits, exponent, sticky) = digits.leading();
        return LongDouble::round(negative, bits, exponent, sticky);
    }
    let mut divisor = Big::from(1);
    for _ in 0..power.unsigned_abs() {
        divisor.times_plus(10, 0);
    }
    // Aligned so that the quotient is at least one half and less than two; then one bit after the other.
    let shift = divisor.bits() as i32 - digits.bits() as i32;
    if shift >= 0 {
        digits.shift_left(shift.unsigned_abs());
    } else {
        divisor.shift_left(shift.unsigned_abs());
    }
    let mut quotient = 0_u128;
    for _ in 0..100 {
        quotient <<= 1;
        if digits.at_least(&divisor) {
            digits.minus(&divisor);
            quotient |= 1;
        }
        digits.shift_left(1);
    }
    LongDouble::round(negative, quotient, -shift - 99, !digits.is_zero())
}

// === Big ===

/// A natural number, least significant word first, without leading zero words.
#[derive(Clone, Debug, Default)]
struct Big(Vec<u32>);

impl Big {
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |top| self.0.len() * 32 - top.leading_zeros() as usize)
    }

    /// Number of decimal digits, one too many at most.
    fn decimal_len(&self) -> i32 {
        (self.bits() as f64 * std::f64::consts::LOG10_2) as i32 + 1
    }

    fn times_plus(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.0 {
            carry += u64::from(*word) * u64::from(factor);
            *word = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    fn shift_left(&mut self, bits: u32) {
        let odd = bits % 32;
        if odd > 0 {
            self.times_plus(1 << odd, 0);
        }
        if !self.is_zero() {
            self.0.splice(0..0, std::iter::repeat_n(0, (bits / 32) as usize));
        }
    }

    fn at_least(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.0.iter().rev(), other.0.iter().rev());
        self.0.len().cmp(&other.0.len()).then_with(|| ours.cmp(theirs)).is_ge()
    }

    /// Takes away what is not more.
    fn minus(&mut self, other: &Self) {
        let mut borrow = 0_i64;
        for (at, word) in self.0.iter_mut().enumerate() {
            let rest = i64::from(*word) - i64::from(other.0.get(at).copied().unwrap_or(0)) + borrow;
            *word = rest as u32;
            borrow = rest >> 32;
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    /// The leading 96 bits or more, their exponent, and whether anything follows them.
    fn leading(&self) -> (u128, i32, bool) {
        let skipped = self.0.len().saturating_sub(4);
        let top = self.0.iter().skip(skipped).rev().fold(0, |sum, word| sum << 32 | u128::from(*word));
        (top, skipped as i32 * 32, self.0.iter().take(skipped).any(|word| *word != 0))
    }

    fn decimal(mut self) -> Vec<u8> {
        let mut digits = Vec::new();
        while !self.is_zero() {
            let mut rest = 0_u64;
            for word in self.0.iter_mut().rev() {
                rest = rest << 32 | u64::from(*word);
                *word = (rest / 1_000_000_000) as u32;
                rest %= 1_000_000_000;
            }
            while self.0.last() == Some(&0) {
                self.0.pop();
            }
            for _ in 0..9 {
                digits.push(b'0' + (rest % 10) as u8);
                rest /= 10;
            }
        }
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            digits.push(b'0');
        }
        digits.reverse();
        digits
    }
}

impl From<u64> for Big {
    fn from(value: u64) -> Self {
        let mut big = Self(vec![value as u32, (value >> 32) as u32]);
        while big.0.last() == Some(&0) {
            big.0.pop();
        }
        big
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finite(text: &str) -> LongDouble {
        match parse(text.as_bytes()) {
            Some(Number::Finite(number)) => number,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn sum(a: &str, b: &str) -> String {
        let mut out = Vec::new();
        finite(a).plus(finite(b)).expect("in range").write(&mut out);
        String::from_utf8(out).expect("digits")
    }

    #[test]
    fn sums_are_those_that_a_server_gives() {
        for (a, b, expect) in [
            ("3.0e3", "0.1", "3000.10000000000000009"),
            ("3000.10000000000000009", "1e17", "100000000000003000.1015625"),
            ("100000000000003000.1015625", "0.1", "100000000000003000.203125"),
            ("0", "0x10", "16"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1", "0"),
            ("-0", "-0", "0"),
            ("0.1", "0.2", "0.3"),
            ("1e-20", "0", "0"),
            ("-1.5", "0.25", "-1.25"),
            (".5", "5.", "5.5"),
        ] {
            assert_eq!(sum(a, b), expect, "{a} + {b}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in
            ["", " 1", "1 ", ".", "e5", "1e", "nan", "0x", "1.2.3", "abc", "--1", "1e400000", "1e-400000"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"-Infinity"), Some(Number::Infinite));
        assert_eq!(finite("1.1e4932").plus(finite("1.1e4932")), None);
    }

    #[test]
    fn a_double_prints_all_that_it_holds() {
        let mut out = Vec::new();
        LongDouble::from(13.361_389_338_970_184).write(&mut out);
        assert_eq!(out, b"13.36138933897018433");
    }
}
