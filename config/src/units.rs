//! Sizes and durations, which always carry their unit.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration such as `250ms`, `1.5s`, `10m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

/// A number of bytes such as `64KiB`, `8MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

/// A year: no configuration needs longer, and sums of it do not overflow.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;

/// Reads a duration.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_period(text: &str) -> Result<Period, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let seconds = parse(text, &units, "a duration needs a unit: us, ms, s, m, h or d, as in `250ms`")?;
    if seconds > LONGEST_SECONDS {
        return Err(format!("`{text}` is longer than a year"));
    }
    Ok(Period(Duration::from_nanos((seconds * 1e9).round() as u64)))
}

/// Reads a size.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_size(text: &str) -> Result<ByteSize, String> {
    let units = [
        ("B", 1.0),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
    ];
    let bytes = parse(text, &units, "a size needs a unit: B, KiB, MiB, GiB, kB, MB or GB, as in `64KiB`")?;
    if bytes > (1u64 << 50) as f64 {
        return Err(format!("`{text}` is more than a pebibyte"));
    }
    Ok(ByteSize(bytes as u64))
}

fn parse(text: &str, units: &[(&str, f64)], help: &str) -> Result<f64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = units.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| factor);
    match (number.replace('_', "").parse::<f64>(), factor) {
        (Ok(number), Some(factor)) if number.is_finite() => Ok(number * factor),
        _ => Err(help.into()),
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|(shift, _)| self.0 >> shift > 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

struct Text<T>(fn(&str) -> Result<T, String>, &'static str);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(parse_period, "a duration with a unit, as in `250ms`"))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(parse_size, "a size with a unit, as in `64KiB`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_required_and_understood() {
        assert_eq!(parse_period("250ms").map(Duration::from), Ok(Duration::from_millis(250)));
        assert_eq!(parse_period("1.5s").map(Duration::from), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_size("64KiB").map(u64::from), Ok(65_536));
        assert_eq!(parse_size("1_000kB").map(u64::from), Ok(1_000_000));
        for bad in ["250", "", "ms", "-1s", "1x", "1 s s", "9999999d", "1e400s"] {
            assert!(parse_period(bad).is_err(), "{bad}");
        }
        assert!(parse_size("64").is_err());
        assert_eq!(parse_size("8MiB").unwrap().to_string(), "8MiB");
    }
}
