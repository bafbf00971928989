//! Pieces of replies.

/// Appends a decimal number.
pub fn number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

/// Appends `VALUE <key> <flags> <bytes>[ <cas>]`, the value and the line ends.
pub fn value(key: &[u8], flags: u32, unique: Option<u64>, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    number(u64::from(flags), out);
    out.push(b' ');
    number(value.len() as u64, out);
    if let Some(unique) = unique {
        out.push(b' ');
        number(unique, out);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends `STAT <name> <value>` and the line end.
pub fn stat(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"STAT ");
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
