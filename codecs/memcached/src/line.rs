//! Words and numbers of a command line.
//!
//! Memcached separates words by spaces only; a tab belongs to a word. Numbers are read more strictly than Memcached
//! reads them (no sign but a minus, nothing that overflows): versions differ in what they tolerate, and they must never
//! disagree with mecha about whether a data block follows.

/// The words of a line, with their offsets.
#[derive(Clone, Debug)]
pub(crate) struct Words<'w> {
    line: &'w [u8],
    at: usize,
}

impl<'w> Words<'w> {
    /// `line` is without its end.
    pub(crate) fn new(line: &'w [u8]) -> Self {
        Self { line, at: 0 }
    }

    /// What is behind the word given last.
    pub(crate) fn rest(&self) -> &'w [u8] {
        self.line.get(self.at..).unwrap_or_default()
    }
}

/// A word and where it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'w> {
    pub(crate) at: usize,
    pub(crate) bytes: &'w [u8],
}

impl<'w> Iterator for Words<'w> {
    type Item = Word<'w>;

    #[inline]
    fn next(&mut self) -> Option<Word<'w>> {
        let rest = self.line.get(self.at..)?;
        let skipped = rest.iter().position(|&byte| byte != b' ')?;
        let rest = rest.get(skipped..)?;
        let len = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let at = self.at + skipped;
        self.at = at + len;
        Some(Word { at, bytes: rest.get(..len)? })
    }
}

/// The line without `\n` or `\r\n`.
pub(crate) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Decimal digits and nothing else.
#[inline]
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() || word.len() > 20 {
        return None;
    }
    let mut sum: u64 = 0;
    for &byte in word {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(sum)
}

/// Decimal digits, with a minus in front of them if negative.
#[inline]
pub(crate) fn signed(word: &[u8]) -> Option<i32> {
    match word.strip_prefix(b"-") {
        Some(digits) => i32::try_from(-i64::try_from(number(digits)?).ok()?).ok(),
        None => i32::try_from(number(word)?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_by_any_number_of_spaces() {
        let words: Vec<_> = Words::new(b"  get a\tb   c ").map(|word| (word.at, word.bytes)).collect();
        assert_eq!(words, [(2, b"get".as_slice()), (6, b"a\tb"), (12, b"c")]);
    }

    #[test]
    fn numbers_that_servers_disagree_about_are_none() {
        for word in
            [b"".as_slice(), b"+1", b"-1", b"1x", b"18446744073709551616", b"0x1", b"999999999999999999999"]
        {
            assert_eq!(number(word), None);
        }
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(signed(b"-2147483648"), Some(i32::MIN));
        assert_eq!(signed(b"2147483648"), None);
        assert_eq!(signed(b"-0"), Some(0));
    }
}
