//! Memcached's arithmetic: unsigned 64 bits, wrapping at the top, stopping at 0, padded to the length of the old value.

use std::cell::Cell;

use mecha_memcached::write;

use super::wrong_type;
use crate::kv::RunCx;
use crate::slot::{Entry, Marks, Value};

/// What to do with a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) delta: u64,
    pub(super) is_decrement: bool,
}

/// What came of a change.
pub(super) enum Changed {
    NonNumeric,
    To(u64),
    WrongType(&'static str),
}

impl Change {
    /// Changes the number that `entry` holds. One that outgrows its place is a new item to memcached, without marks.
    pub(super) fn apply_to(self, entry: &mut Entry, cx: &RunCx) -> Changed {
        let Value::Str(value) = &mut entry.value else {
            return Changed::WrongType(wrong_type(&entry.value).unwrap_or_default());
        };
        let before = value.len();
        let Some(number) = self.apply(value) else { return Changed::NonNumeric };
        if value.len() > before {
            entry.marks = Cell::new(Marks::written(cx.now_ms));
        }
        Changed::To(number)
    }

    /// The new number, written over the old one as memcached does: in place if it fits, and then padded with spaces.
    /// `None` if `value` holds no number.
    fn apply(self, value: &mut Vec<u8>) -> Option<u64> {
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
