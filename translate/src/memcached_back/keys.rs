//! Keys: any bytes of any length, over a server that takes 250 bytes without spaces.
//!
//! - *Plain*: 1 to 250 bytes from 33 to 126, as they are.
//! - *Binary*: others, by the meta protocol's `b` flag, while their base64 form fits. The server stores the decoded
//!   bytes, so a program that uses `b` itself sees the same key.
//! - *Digest*: longer ones, and the empty key, are stored under [`PREFIX`] and their SHA-256, and the item has the
//!   whole key in its envelope. A binary key that begins with the prefix is digested too. So no two keys share an item
//!   unless they share a SHA-256, and then the envelope tells.

use mecha_core::Span;
use mecha_memcached::base64;
use sha2::{Digest, Sha256};

/// Begins with a byte that no plain key has.
const PREFIX: &[u8] = b"\0mecha:";
const LONGEST: usize = 250;
/// The longest key whose base64 form fits.
const LONGEST_BINARY: usize = LONGEST / 4 * 3;

/// How a key is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In base64, the item is under the key itself.
    Binary,
    /// In base64, the item is under the key's digest.
    Digest,
    /// As it is.
    Plain,
}

fn form(key: &[u8]) -> Form {
    if (1..=LONGEST).contains(&key.len()) && key.iter().all(|byte| (33..=126).contains(byte)) {
        Form::Plain
    } else if (1..=LONGEST_BINARY).contains(&key.len()) && !key.starts_with(PREFIX) {
        Form::Binary
    } else {
        Form::Digest
    }
}

/// Whether the item's key does not tell the key.
pub(super) fn is_digested(key: &[u8]) -> bool {
    if (1..=LONGEST_BINARY).contains(&key.len()) {
        // What begins with the prefix is not plain. Most keys need no closer look.
        key.starts_with(PREFIX)
    } else {
        form(key) == Form::Digest
    }
}

/// Appends the key as a frame has it.
pub(super) fn write(key: &[u8], out: &mut Vec<u8>) -> (Span, Form) {
    let (start, form) = (out.len(), form(key));
    match form {
        Form::Plain => out.extend_from_slice(key),
        Form::Binary => base64::encode(key, out),
        Form::Digest => {
            let digest = Sha256::digest(key);
            let item: Vec<u8> = PREFIX.iter().chain(digest.iter()).copied().collect();
            base64::encode(&item, out);
        }
    }
    (Span::wire(start, out.len() - start), form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(key: &[u8]) -> (Vec<u8>, Form) {
        let mut out = Vec::new();
        let (span, form) = write(key, &mut out);
        assert_eq!(span.of(&out, &[]).len(), out.len());
        (out, form)
    }

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        for (bytes, expected) in [
            ("\0", "AA=="),
            ("f ", "ZiA="),
            ("f o", "ZiBv"),
            ("fo bar", "Zm8gYmFy"),
            ("\u{ff}\u{fe}", "w7/Dvg=="),
        ] {
            assert_eq!(written(bytes.as_bytes()), (expected.as_bytes().to_vec(), Form::Binary));
        }
    }

    #[test]
    fn each_key_has_the_form_that_its_bytes_and_length_ask_for() {
        assert_eq!(written(&[b'k'; 250]), (vec![b'k'; 250], Form::Plain));
        assert_eq!(form(&[b'k'; 251]), Form::Digest);
        assert_eq!(form(&[b' '; 186]), Form::Binary);
        assert!(written(&[b' '; 186]).0.len() <= 250);
        assert_eq!(form(&[b' '; 187]), Form::Digest);
        assert_eq!(form(b""), Form::Digest);
    }

    #[test]
    fn no_key_is_stored_where_another_keys_digest_is() {
        let item: Vec<u8> = PREFIX.iter().copied().chain(Sha256::digest([b'k'; 300])).collect();
        assert_ne!(written(&item).0, written(&[b'k'; 300]).0);
        assert_eq!(form(&item), Form::Digest);
    }
}
