//! Keys in base64 (RFC 4648, section 4, with padding), as the meta protocol's `b` flag has them.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `bytes`, encoded.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let mut group = 0_u32;
        for place in 0..3 {
            group = group << 8 | u32::from(chunk.get(place).copied().unwrap_or_default());
        }
        for place in 0..4 {
            let index = (group >> (18 - 6 * place)) & 63;
            let letter = ALPHABET.get(index as usize).copied().unwrap_or(b'=');
            out.push(if place > chunk.len() { b'=' } else { letter });
        }
    }
}

/// Appends what `word` stands for. `None`, with `out` unchanged, if it is not base64 or stands for nothing.
pub fn decode(word: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let done = decode_groups(word, out);
    if done.is_none() {
        out.truncate(start);
    }
    done
}

fn decode_groups(word: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if word.is_empty() || !word.len().is_multiple_of(4) {
        return None;
    }
    let padding = word.iter().rev().take(2).take_while(|&&byte| byte == b'=').count();
    let letters = word.get(..word.len() - padding)?;
    let mut chunks = letters.chunks_exact(4);
    for chunk in chunks.by_ref() {
        let group = chunk.iter().try_fold(0_u32, |sum, &byte| Some(sum << 6 | value(byte)?))?;
        out.extend_from_slice(group.to_be_bytes().get(1..)?);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let group = rest.iter().try_fold(0_u32, |sum, &byte| Some(sum << 6 | value(byte)?))?;
        let bytes = (group << (6 * padding)).to_be_bytes();
        out.extend_from_slice(bytes.get(1..4 - padding)?);
    }
    Some(())
}

fn value(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_again() {
        for len in 1..80_u8 {
            let bytes: Vec<u8> = (0..len).map(|byte| byte.wrapping_mul(37)).collect();
            let (mut word, mut back) = (Vec::new(), Vec::new());
            encode(&bytes, &mut word);
            assert_eq!(decode(&word, &mut back), Some(()));
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn known_words_are_right() {
        let (mut word, mut back) = (Vec::new(), Vec::new());
        encode(b"foob", &mut word);
        assert_eq!(word, b"Zm9vYg==");
        for wrong in [b"".as_slice(), b"Zm9", b"Z===", b"====", b"Zm9v!A==", b"Zm=v"] {
            assert_eq!(decode(wrong, &mut back), None, "{wrong:?}");
            assert!(back.is_empty());
        }
    }
}
