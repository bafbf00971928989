//! Hash slots: which of 16,384 groups a key belongs to in a cluster.
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model>

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// Bytes that are looked up at once.
const STRIDE: usize = 8;

/// CRC16/XMODEM: polynomial 0x1021, from zero, nothing reflected. Table `n` is for a byte with `n` more behind it, so that
/// eight bytes are eight lookups that do not wait for each other.
static CRC16: [[u16; 256]; STRIDE] = {
    let mut tables = [[0; 256]; STRIDE];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut behind = 1;
    while behind < STRIDE {
        byte = 0;
        while byte < 256 {
            let crc = tables[behind - 1][byte];
            tables[behind][byte] = crc << 8 ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        behind += 1;
    }
    tables
};

/// The slot of `key`: the checksum of its hash tag, if it has one, else of all of it.
#[inline]
pub fn key_slot(key: &[u8]) -> u16 {
    let (strides, rest) = tag(key).as_chunks::<STRIDE>();
    let crc = strides.iter().fold(0, |crc: u16, bytes| {
        let [a, b, c, d, e, f, g, h] = *bytes;
        let [high, low] = crc.to_be_bytes();
        let [last, t1, t2, t3, t4, t5, t6, t7] = &CRC16;
        t7[usize::from(a ^ high)]
            ^ t6[usize::from(b ^ low)]
            ^ t5[usize::from(c)]
            ^ t4[usize::from(d)]
            ^ t3[usize::from(e)]
            ^ t2[usize::from(f)]
            ^ t1[usize::from(g)]
            ^ last[usize::from(h)]
    });
    let [last, ..] = &CRC16;
    let crc = rest.iter().fold(crc, |crc, byte| crc << 8 ^ last[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS
}

/// What stands between the first `{` and the first `}` behind it, unless that is nothing.
#[inline]
fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    let behind = key.get(open + 1..).unwrap_or_default();
    match memchr::memchr(b'}', behind) {
        Some(close) if close > 0 => behind.get(..close).unwrap_or_default(),
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_bytes_at_once_give_what_bit_by_bit_gives() {
        let slowly = |key: &[u8]| {
            key.iter().fold(0u16, |crc, byte| {
                (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
                    if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
                })
            }) % SLOTS
        };
        let bytes: Vec<u8> = (0..300u32).map(|at| (at * at * 31 + at * 7 + 3) as u8 & 0x7f | 0x80).collect();
        for length in 0..80 {
            for start in [0, 1, 57, 200] {
                let key = &bytes[start..start + length];
                assert_eq!(key_slot(key), slowly(key), "{length} from {start}");
            }
        }
    }

    #[test]
    fn slots_are_those_of_the_server() {
        // From CLUSTER KEYSLOT of a Redis 7.0 server.
        for (key, slot) in [
            ("", 0),
            ("a", 15495),
            ("foo", 12182),
            ("123456789", 12739),
            ("somekey", 11058),
            ("foo{hash_tag}", 2515),
            ("bar{hash_tag}", 2515),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("foo{bar}{zap}", 5061),
            ("{", 4092),
        ] {
            assert_eq!(key_slot(key.as_bytes()), slot, "{key}");
        }
    }
}
