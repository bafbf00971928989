//! SCRAM (RFC 5802): what both sides compute, and its messages.

use std::fmt;
use std::num::NonZeroU32;

use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use super::base64::{decode, encode};
use super::{Mechanism, Unsound};

/// Rounds for passwords that mecha keeps, and the fewest that are taken: what the RFC asks for, and Kafka's default.
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// The most rounds that a server may ask for: they are computed on a thread that serves others. Kafka's limit is 16,384.
const MAX_ROUNDS: u32 = 1 << 16;

/// The longest salt and nonce, in bytes.
const MAX_PART: usize = 1024;

/// "No channel binding", as it is said first, and as it is repeated.
pub(super) const BINDING: (&str, &str) = ("n,,", "biws");

/// The hash of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// What proves a password, without being one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    hash: Hash,
    rounds: NonZeroU32,
    salt: Vec<u8>,
    /// Hash of the client's key.
    stored: Vec<u8>,
    server: Vec<u8>,
}

/// What the password comes to after all rounds.
#[derive(Clone)]
pub(super) struct Salted(Vec<u8>);

// === impl Hash ===

impl Hash {
    pub(super) fn of(mechanism: Mechanism) -> Option<Self> {
        match mechanism {
            Mechanism::ScramSha256 => Some(Self::Sha256),
            Mechanism::ScramSha512 => Some(Self::Sha512),
            Mechanism::OauthBearer | Mechanism::Plain => None,
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }

    pub(super) fn hmac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), bytes).as_ref().to_vec()
    }

    pub(super) fn salted(self, password: &[u8], salt: &[u8], rounds: NonZeroU32) -> Salted {
        let (algorithm, length) = match self {
            Self::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, digest::SHA256_OUTPUT_LEN),
            Self::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, digest::SHA512_OUTPUT_LEN),
        };
        let mut salted = vec![0; length];
        pbkdf2::derive(algorithm, rounds, salt, password, &mut salted);
        Salted(salted)
    }

    /// What the client shows, and what the server answers.
    pub(super) fn proofs(self, Salted(salted): &Salted, said: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let client = self.hmac(salted, b"Client Key");
        let signature = self.hmac(&self.digest(&client), said);
        (xor(&client, &signature), self.hmac(&self.hmac(salted, b"Server Key"), said))
    }
}

fn xor(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter().zip(other).map(|(one, other)| one ^ other).collect()
}

/// Whether both are the same. Takes the same time wherever they differ.
pub(super) fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |all, (one, other)| all | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differing) == 0
}

/// What nobody can guess, in letters.
///
/// # Errors
/// The system has no random numbers.
pub(super) fn nonce() -> Result<String, Unsound> {
    let mut bytes = [0; 24];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Unsound)?;
    Ok(encode(&bytes))
}

/// The value of a message's next attribute, which has to be this one, and what is behind it.
pub(super) fn attribute(message: &str, name: char) -> Result<(&str, &str), Unsound> {
    let rest = message.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).ok_or(Unsound)?;
    Ok(rest.split_once(',').unwrap_or((rest, "")))
}

/// A name as messages spell it.
pub(super) fn spelled(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// The name that is spelled so.
pub(super) fn unspelled(name: &str) -> Result<String, Unsound> {
    let mut parts = name.split('=');
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (sign, rest) = part.split_at_checked(2).ok_or(Unsound)?;
        plain.push(match sign {
            "2C" => ',',
            "3D" => '=',
            _ => return Err(Unsound),
        });
        plain.push_str(rest);
    }
    Ok(plain)
}

/// What a server says first: the nonce, which begins with the client's, the salt, the rounds.
pub(super) struct Challenge<'m> {
    pub(super) nonce: &'m str,
    pub(super) salt: Vec<u8>,
    pub(super) rounds: NonZeroU32,
}

impl<'m> Challenge<'m> {
    pub(super) fn read(message: &'m str, own_nonce: &str) -> Result<Self, Unsound> {
        let (nonce, rest) = attribute(message, 'r')?;
        let (salt, rest) = attribute(rest, 's')?;
        let (rounds, _) = attribute(rest, 'i')?;
        let is_mine =
            nonce.len() > own_nonce.len() && nonce.starts_with(own_nonce) && nonce.len() <= MAX_PART;
        let rounds: NonZeroU32 = rounds.parse().map_err(|_| Unsound)?;
        // A server that asks for fewer wants to guess.
        if !is_mine || salt.len() > MAX_PART || rounds < ROUNDS || rounds.get() > MAX_ROUNDS {
            return Err(Unsound);
        }
        Ok(Self { nonce, salt: decode(salt)?, rounds })
    }
}

// === impl Verifier ===

impl Verifier {
    /// For a password that is known, with a salt of its own. Takes a millisecond or two. `None` if the mechanism is not SCRAM, or the system
    /// has no random numbers.
    #[must_use]
    pub fn of(mechanism: Mechanism, password: &[u8]) -> Option<Self> {
        let hash = Hash::of(mechanism)?;
        let mut salt = vec![0; 16];
        SystemRandom::new().fill(&mut salt).ok()?;
        let Salted(salted) = hash.salted(password, &salt, ROUNDS);
        let stored = hash.digest(&hash.hmac(&salted, b"Client Key"));
        let server = hash.hmac(&salted, b"Server Key");
        Some(Self { hash, rounds: ROUNDS, salt, stored, server })
    }

    /// As PostgreSQL keeps them: `SCRAM-SHA-256$4096:<salt>$<stored key>:<server key>`, all in base64.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (mechanism, rest) = text.split_once('$')?;
        let (cost, keys) = rest.split_once('$')?;
        let ((rounds, salt), (stored, server)) = (cost.split_once(':')?, keys.split_once(':')?);
        let hash = Hash::of(Mechanism::named(mechanism)?)?;
        let rounds = rounds.parse().ok().filter(|rounds| *rounds >= ROUNDS)?;
        let bytes = |text| decode(text).ok();
        let read = Self { hash, rounds, salt: bytes(salt)?, stored: bytes(stored)?, server: bytes(server)? };
        let size = hash.digest(&[]).len();
        (!read.salt.is_empty() && read.stored.len() == size && read.server.len() == size).then_some(read)
    }

    /// What it is good for.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        match self.hash {
            Hash::Sha256 => Mechanism::ScramSha256,
            Hash::Sha512 => Mechanism::ScramSha512,
        }
    }

    /// Nobody's: what a client is asked that names nobody, so that it cannot tell who there is. The same name has the same
    /// salt as long as the process lives.
    #[must_use]
    pub(super) fn nobodys(hash: Hash, name: &str) -> Self {
        static SEED: std::sync::LazyLock<[u8; 32]> = std::sync::LazyLock::new(|| {
            let mut seed = [0; 32];
            // Without random numbers no nonce is made either.
            let _ = SystemRandom::new().fill(&mut seed);
            seed
        });
        let mut salt = hash.hmac(&*SEED, name.as_bytes());
        salt.truncate(16);
        Self { hash, rounds: ROUNDS, salt, stored: Vec::new(), server: Vec::new() }
    }

    pub(super) fn challenge(&self, nonce: &str) -> String {
        format!("r={nonce},s={},i={}", encode(&self.salt), self.rounds)
    }

    /// Whether `proof` proves the password; then it is what the server has to show.
    pub(super) fn verify(&self, proof: &[u8], said: &[u8]) -> Option<Vec<u8>> {
        let signature = self.hash.hmac(&self.stored, said);
        let client = xor(proof, &signature);
        let is_it = proof.len() == signature.len() && is_same(&self.hash.digest(&client), &self.stored);
        is_it.then(|| self.hash.hmac(&self.server, said))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
