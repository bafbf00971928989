//! Base64 with padding (RFC 4648, section 4), as SCRAM's messages have it.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};

use super::Unsound;

/// Bits that nobody needs may be anything, as Kafka's own decoder has it.
const ENGINE: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));

pub(super) fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

pub(super) fn decode(text: &str) -> Result<Vec<u8>, Unsound> {
    ENGINE.decode(text).map_err(|_| Unsound)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn what_is_encoded_is_decoded_and_as_the_rfc_writes_it() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        for wrong in ["Z", "Zg=", "Z===", "====", "Zg==Zg==", "Zm9*", "Zm9v\n"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }
}
