//! What proves that a client is a user: SHA-256 hashes, as Redis keeps them.
//!
//! A hash without salt and without cost protects a password that is long and random, and no other. That is what services
//! use, and what lets a login cost a microsecond on a thread that serves others. `docs/users.md` says so.

use std::fmt;

use sha2::{Digest, Sha256};

/// The hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Hashes a password.
    pub fn of(password: &[u8]) -> Self {
        Self(Sha256::digest(password).into())
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            let [high, low] = *pair else { return None };
            *byte = (digit(high)? << 4 | digit(low)?) as u8;
        }
        Some(Self(bytes))
    }

    /// As Redis shows it.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether both are the same. Takes the same time wherever they differ.
    fn is(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(&other.0).fold(0, |all, (one, other)| all | (one ^ other));
        std::hint::black_box(differing) == 0
    }
}

/// Whether `password` has one of these hashes. All are looked at, so that the time does not tell which.
pub(crate) fn is_one_of(password: &[u8], secrets: &[Secret]) -> bool {
    let given = Secret::of(password);
    secrets.iter().fold(false, |found, secret| found | secret.is(&given))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_redis_writes_it() {
        let hex = "148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";
        let secret = Secret::from_hex(hex).unwrap();
        assert_eq!(secret, Secret::of(b"p"));
        assert_eq!(secret.hex(), hex);
        assert!(is_one_of(b"p", &[Secret::of(b"q"), secret.clone()]));
        assert!(!is_one_of(b"P", &[secret]));
        for wrong in ["", "148d", &"g".repeat(64), &"é".repeat(32)] {
            assert!(Secret::from_hex(wrong).is_none(), "{wrong}");
        }
    }
}
