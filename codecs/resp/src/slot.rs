//! Hash slots: which of 16,384 groups a key belongs to in a cluster.
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model>

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// CRC16/XMODEM: polynomial 0x1021, from zero, nothing reflected.
static CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The slot of `key`: the checksum of its hash tag, if it has one, else of all of it.
#[inline]
pub fn key_slot(key: &[u8]) -> u16 {
    let crc = tag(key).iter().fold(0u16, |crc, byte| {
        let index = usize::from(crc >> 8) ^ usize::from(*byte);
        crc << 8 ^ CRC16.get(index & 0xff).copied().unwrap_or_default()
    });
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
