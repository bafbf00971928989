//! Hashes of keys, as the C libraries compute them that twemproxy and libmemcached share.
//!
//! A key must meet the server that the proxy or client before us chose, so what looks like a slip is kept: their
//! characters are signed, so bytes above 127 enter most sums with their sign; 64-bit FNV-1a is cut to 32 bits before it
//! starts; CRC-16 never drops its upper half; CRC-32 keeps fifteen bits of itself.

use md5::{Digest, Md5};

/// How a key becomes a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyHash {
    /// CRC-16 (XMODEM), upper half not cleared.
    Crc16,
    /// Fifteen bits of a CRC-32.
    Crc32,
    /// CRC-32.
    Crc32a,
    /// FNV-1, 32 bits.
    Fnv132,
    /// FNV-1, lower 32 of 64 bits.
    Fnv164,
    /// FNV-1a, 32 bits.
    Fnv1a32,
    /// FNV-1a with the 64-bit constants cut to 32 bits; twemproxy's default.
    #[default]
    Fnv1a64,
    /// Paul Hsieh's SuperFastHash.
    Hsieh,
    /// Bob Jenkins' lookup3.
    Jenkins,
    /// First four bytes of an MD5 digest; libmemcached's choice for weighted ketama.
    Md5,
    /// MurmurHash2.
    Murmur,
    /// Bob Jenkins' one-at-a-time; libmemcached's default.
    OneAtATime,
}

impl KeyHash {
    /// The hash of `key`.
    pub fn of(self, key: &[u8]) -> u32 {
        match self {
            Self::Crc16 => {
                key.iter().fold(0, |crc: u32, byte| (crc << 8) ^ crc16_step((crc >> 8) as u8 ^ byte))
            }
            Self::Crc32 => (crc32fast::hash(key) >> 16) & 0x7fff,
            Self::Crc32a => crc32fast::hash(key),
            Self::Fnv132 => {
                key.iter().fold(FNV_32, |hash, byte| hash.wrapping_mul(16_777_619) ^ signed(*byte))
            }
            Self::Fnv164 => {
                let step = |hash: u64, byte: &u8| hash.wrapping_mul(0x0100_0000_01b3) ^ (*byte as i8 as u64);
                key.iter().fold(FNV_64, step) as u32
            }
            Self::Fnv1a32 => {
                key.iter().fold(FNV_32, |hash, byte| (hash ^ signed(*byte)).wrapping_mul(16_777_619))
            }
            Self::Fnv1a64 => {
                key.iter().fold(FNV_64 as u32, |hash, byte| (hash ^ signed(*byte)).wrapping_mul(0x1b3))
            }
            Self::Hsieh => hsieh(key),
            Self::Jenkins => jenkins(key),
            Self::Md5 => md5_words(key)[0],
            Self::Murmur => murmur(key),
            Self::OneAtATime => one_at_a_time(key),
        }
    }
}

const FNV_32: u32 = 2_166_136_261;
const FNV_64: u64 = 0xcbf2_9ce4_8422_2325;

/// A C `char` widened.
fn signed(byte: u8) -> u32 {
    byte as i8 as u32
}

/// One byte through the polynomial 0x1021.
fn crc16_step(byte: u8) -> u32 {
    const TABLE: [u16; 256] = {
        let (mut table, mut index) = ([0; 256], 0);
        while index < 256 {
            let (mut crc, mut bit) = ((index as u16) << 8, 0);
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    TABLE.get(usize::from(byte)).copied().map_or(0, u32::from)
}

/// The digest as four little-endian words: four points of a ketama ring.
pub(super) fn md5_words(bytes: &[u8]) -> [u32; 4] {
    let digest = Md5::digest(bytes);
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(digest.chunks_exact(4)) {
        *word = little_endian(chunk);
    }
    words
}

/// Up to four bytes as a little-endian number.
fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte))
}

fn one_at_a_time(key: &[u8]) -> u32 {
    let mut hash = key.iter().fold(0u32, |hash, byte| {
        let hash = hash.wrapping_add(signed(*byte));
        let hash = hash.wrapping_add(hash << 10);
        hash ^ (hash >> 6)
    });
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

fn murmur(key: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    let length = key.len() as u32;
    let mut hash = 0xdead_beef_u32.wrapping_mul(length) ^ length;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        word ^= word >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ word.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        hash = (hash ^ little_endian(rest)).wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

fn hsieh(key: &[u8]) -> u32 {
    let mut hash = 0u32;
    let (words, rest) = key.as_chunks::<4>();
    for [a, b, c, d] in words {
        hash = hash.wrapping_add(u32::from(u16::from_le_bytes([*a, *b])));
        let high = (u32::from(u16::from_le_bytes([*c, *d])) << 11) ^ hash;
        hash = (hash << 16) ^ high;
        hash = hash.wrapping_add(hash >> 11);
    }
    match rest {
        [a, b, c] => {
            hash = hash.wrapping_add(u32::from(u16::from_le_bytes([*a, *b])));
            hash ^= hash << 16;
            hash ^= signed(*c) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        [a, b] => {
            hash = hash.wrapping_add(u32::from(u16::from_le_bytes([*a, *b])));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [a] => {
            hash = hash.wrapping_add(u32::from(*a));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

/// lookup3's `hashlittle`, seeded as the libraries seed it.
fn jenkins(key: &[u8]) -> u32 {
    let seed = 0xdead_beef_u32.wrapping_add(key.len() as u32).wrapping_add(13);
    let [mut a, mut b, mut c] = [seed; 3];
    let mut rest = key;
    while rest.len() > 12 {
        let (block, more) = rest.split_at(12);
        (a, b, c) = added(a, b, c, block);
        for (left, right) in [(4, 6), (8, 16), (19, 4)] {
            a = a.wrapping_sub(c) ^ c.rotate_left(left);
            c = c.wrapping_add(b);
            // The pairs of shifts are taken by a, b, c in turn.
            b = b.wrapping_sub(a) ^ a.rotate_left(right);
            a = a.wrapping_add(c);
            (a, b, c) = (c, a, b);
        }
        rest = more;
    }
    if rest.is_empty() {
        return c;
    }
    (a, b, c) = added(a, b, c, rest);
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// Adds up to twelve bytes, as three words.
fn added(a: u32, b: u32, c: u32, block: &[u8]) -> (u32, u32, u32) {
    let word = |at: usize| little_endian(block.get(at..block.len().min(at + 4)).unwrap_or_default());
    (a.wrapping_add(word(0)), b.wrapping_add(word(4)), c.wrapping_add(word(8)))
}
