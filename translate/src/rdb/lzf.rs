//! LZF, as far as it has to be read.
//!
//! ```text
//! literal    000lllll              then l+1 bytes
//! copy       lllddddd dddddddd     l+2 bytes (l is 1 to 6) from d+1 bytes back in the output
//! long copy  111ddddd llllllll dddddddd     l+9 bytes
//! ```

/// A long copy makes so many bytes of three; nothing makes more.
const MOST_OF_THREE: usize = 264;

/// Expands `bytes`; `None` if they are not exactly `len` bytes that were compressed.
pub(super) fn expand(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    if len / MOST_OF_THREE > bytes.len() / 3 + 1 {
        return None;
    }
    let mut out = Vec::with_capacity(len);
    let mut rest = bytes;
    while let Some((&control, behind)) = rest.split_first() {
        rest = behind;
        let control = usize::from(control);
        if control < 32 {
            let (literal, behind) = rest.split_at_checked(control + 1)?;
            rest = behind;
            out.extend_from_slice(literal);
        } else {
            let mut count = (control >> 5) + 2;
            if count == 9 {
                count += take(&mut rest)?;
            }
            let back = ((control & 0x1f) << 8 | take(&mut rest)?) + 1;
            let from = out.len().checked_sub(back)?;
            // What is copied may overlap what it makes.
            for at in from..from + count {
                let byte = *out.get(at)?;
                out.push(byte);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

fn take(rest: &mut &[u8]) -> Option<usize> {
    let (&byte, behind) = rest.split_first()?;
    *rest = behind;
    Some(usize::from(byte))
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn literals_and_copies_are_put_together() {
        assert_eq!(expand(b"\x02abc\x20\x02\xe0\x01\x05", 16).as_deref(), Some(&b"abcabcabcabcabca"[..]));
        assert_eq!(expand(b"\x00a\xe0\xff\x00", 265), Some(vec![b'a'; 265]));
        assert_eq!(expand(b"", 0), Some(Vec::new()));
    }

    #[test]
    fn what_reaches_outside_or_has_another_length_is_nothing() {
        let broken: &[(&[u8], usize)] = &[
            (b"\x20\x00", 3),
            (b"\x00a\x20\x01", 4),
            (b"\x01a", 2),
            (b"\x00a\xe0\x00", 10),
            (b"\x00a\x20", 4),
            (b"\x00a", 2),
            (b"\x00a\x20\x00", 3),
        ];
        for (bytes, len) in broken {
            assert_eq!(expand(bytes, *len), None, "{bytes:?}");
        }
    }

    #[test]
    fn no_room_is_made_for_more_than_the_bytes_can_become() {
        assert_eq!(expand(b"\x00a\xe0\xff\x00", usize::MAX), None);
        assert_eq!(expand(b"", 1 << 40), None);
    }
}
