//! Memcached's arithmetic: unsigned 64 bits, wrapping at the top, stopping at 0, padded to the length of the old value.

use mecha_memcached::write;

/// What to do with a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) delta: u64,
    pub(super) is_decrement: bool,
}

impl Change {
    /// The new number, written over the old one as memcached does: in place if it fits, and then padded with spaces.
    /// `None` if `value` holds no number.
    pub(super) fn apply(self, value: &mut Vec<u8>) -> Option<u64> {
        let old = read(value)?;
        let new =
            if self.is_decrement { old.saturating_sub(self.delta) } else { old.wrapping_add(self.delta) };
        let len = value.len();
        value.clear();
        write::number(new, value);
        if value.len() < len {
            value.resize(len, b' ');
        }
        Some(new)
    }
}

/// As C's `strtoull` reads it, followed by a space or nothing.
fn read(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii_start();
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = digits.split_at(len);
    if digits.is_empty() || rest.first().is_some_and(|byte| !byte.is_ascii_whitespace() && *byte != 11) {
        return None;
    }
    let add = |sum: u64, &digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    digits.iter().try_fold(0, add)
}
