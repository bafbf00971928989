//! Keys in base64 (RFC 4648, section 4, with padding), as the meta protocol's `b` flag has them.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};

/// Bits that nobody needs may be anything, as memcached's own decoder has it.
const ENGINE: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// Appends `bytes`, encoded.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = out.get_mut(start..).and_then(|room| ENGINE.encode_slice(bytes, room).ok());
    debug_assert_eq!(written, Some(out.len() - start), "there is room for all of it");
}

/// Appends what `word` stands for. `None`, with `out` unchanged, if it is not base64 or stands for nothing.
pub fn decode(word: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let done = ENGINE.decode_vec(word, out);
    if done.is_err() {
        out.truncate(start);
    }
    (out.len() > start).then_some(())
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
