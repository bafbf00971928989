//! CRC-64 with Jones' coefficients, reflected, starting from zero: the checksum of everything that Redis writes.

/// Jones' polynomial, its bits reversed.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

const TABLE: [u64; 256] = table();

const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

/// The checksum of some bytes.
pub(super) fn of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| {
        let place = (sum as u8 ^ byte) as usize;
        TABLE.get(place).copied().unwrap_or_default() ^ sum >> 8
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_is_that_of_the_catalogue() {
        assert_eq!(super::of(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }
}
