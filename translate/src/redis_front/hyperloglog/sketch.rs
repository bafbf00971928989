//! The string that Redis keeps for a HyperLogLog: 16384 registers of six bits behind a header of sixteen bytes.
//!
//! Both of its forms are read and written: the dense one, and the run lengths of the sparse one, which holds while it
//! is short and no register exceeds 32. A server reads what is written here and the other way round. Runs are always
//! as long as they can be, where a server may have left neighbours apart: same registers, same count, not always the
//! same bytes.

const REGISTERS: usize = 1 << 14;
const HEADER: usize = 16;
const DENSE: usize = HEADER + REGISTERS * 6 / 8;
/// `hll-sparse-max-bytes`.
const MAX_SPARSE: usize = 3000;
/// Bits of the hash that are not the register's number.
const Q: u32 = 50;

/// What is wrong with a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSketch {
    /// Its runs do not add up.
    Corrupt,
    /// It has no such header.
    Foreign,
}

/// The registers, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sketch {
    registers: Vec<u8>,
    is_dense: bool,
}

// === impl Sketch ===

impl Sketch {
    pub(crate) fn new() -> Self {
        Self { registers: vec![0; REGISTERS], is_dense: false }
    }

    /// Reads a stored string.
    pub(crate) fn read(text: &[u8]) -> Result<Self, NoSketch> {
        match header(text)? {
            Form::Dense(packed) => {
                let registers =
                    packed.as_chunks::<3>().0.iter().flat_map(|[a, b, c]| {
                        [a & 63, a >> 6 | (b << 2 & 63), b >> 4 | (c << 4 & 63), c >> 2]
                    });
                Ok(Self { registers: registers.collect(), is_dense: true })
            }
            Form::Sparse(mut runs) => {
                let mut registers = Vec::with_capacity(REGISTERS);
                loop {
                    let (value, len, rest) = match runs {
                        [] => break,
                        [run @ 0..=0x3f, rest @ ..] => (0, usize::from(*run) + 1, rest),
                        [high @ 0x40..=0x7f, low, rest @ ..] => {
                            (0, (usize::from(high & 63) << 8 | usize::from(*low)) + 1, rest)
                        }
                        [run @ 0x80..=0xff, rest @ ..] => {
                            ((run >> 2 & 31) + 1, usize::from(run & 3) + 1, rest)
                        }
                        _ => return Err(NoSketch::Corrupt),
                    };
                    if registers.len() + len > REGISTERS {
                        return Err(NoSketch::Corrupt);
                    }
                    registers.resize(registers.len() + len, value);
                    runs = rest;
                }
                if registers.len() < REGISTERS {
                    return Err(NoSketch::Corrupt);
                }
                Ok(Self { registers, is_dense: false })
            }
        }
    }

    /// Adds an element. Returns whether a register changed.
    pub(crate) fn add(&mut self, element: &[u8]) -> bool {
        let (register, value) = place(element);
        let Some(known) = self.registers.get_mut(register).filter(|known| **known < value) else {
            return false;
        };
        *known = value;
        true
    }

    /// Takes the larger of each register. Dense once any part was.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.registers.iter_mut().zip(&other.registers) {
            *ours = (*ours).max(*theirs);
        }
        self.is_dense |= other.is_dense;
    }

    /// The estimated number of distinct elements, by Ertl's estimator.
    pub(crate) fn count(&self) -> u64 {
        let mut histogram = [0_u32; 64];
        for register in &self.registers {
            if let Some(bin) = histogram.get_mut(usize::from(*register)) {
                *bin += 1;
            }
        }
        let bin = |value: u32| f64::from(histogram.get(value as usize).copied().unwrap_or(0));
        let m = REGISTERS as f64;
        let mut z = m * tau((m - bin(Q + 1)) / m);
        for value in (1..=Q).rev() {
            z = (z + bin(value)) * 0.5;
        }
        z += m * sigma(bin(0) / m);
        (0.721_347_520_444_481_7 * m * m / z).round() as u64
    }

    /// The string to store, with a cached count that is marked as stale unless nothing was ever added.
    pub(crate) fn write(&self) -> Vec<u8> {
        if !self.is_dense && self.registers.iter().all(|register| *register <= 32) {
            let sparse = self.write_sparse();
            if sparse.len() <= HEADER + MAX_SPARSE {
                return sparse;
            }
        }
        let mut text = head(0, true);
        text.reserve(DENSE);
        for [a, b, c, d] in self.registers.as_chunks::<4>().0 {
            text.extend_from_slice(&[a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2]);
        }
        text
    }

    fn write_sparse(&self) -> Vec<u8> {
        let mut text = head(1, true);
        for run in self.registers.chunk_by(|a, b| a == b) {
            let value = run.first().copied().unwrap_or(0);
            if value > 0 {
                let full = 0x80 | (value - 1) << 2;
                text.extend(run.chunks(4).map(|part| full | (part.len() - 1) as u8));
            } else if run.len() <= 64 {
                text.push((run.len() - 1) as u8);
            } else {
                let len = run.len() - 1;
                text.extend_from_slice(&[0x40 | (len >> 8) as u8, len as u8]);
            }
        }
        text
    }
}

/// Adds an element to a stored string in place, if that needs no other form. Returns whether a register changed, or
/// `None` if it has to be read and written.
pub(crate) fn add_in_place(text: &mut [u8], element: &[u8]) -> Result<Option<bool>, NoSketch> {
    let Form::Dense(_) = header(text)? else { return Ok(None) };
    let (register, value) = place(element);
    let (byte, shift) = (HEADER + register * 6 / 8, register * 6 % 8);
    let Some([low, rest @ ..]) = text.get_mut(byte..) else { return Err(NoSketch::Corrupt) };
    // The last register ends with the string.
    let word = u16::from(*low) | u16::from(rest.first().copied().unwrap_or(0)) << 8;
    if (word >> shift & 63) as u8 >= value {
        return Ok(Some(false));
    }
    let word = (word & !(63 << shift)) | u16::from(value) << shift;
    *low = word as u8;
    if let Some(high) = rest.first_mut() {
        *high = (word >> 8) as u8;
    }
    if let Some(stale) = text.get_mut(HEADER - 1) {
        *stale |= 0x80;
    }
    Ok(Some(true))
}

/// The count that a server left in the header, unless it is stale.
pub(crate) fn cached_count(text: &[u8]) -> Result<Option<u64>, NoSketch> {
    header(text)?;
    let Some(Ok(card)) = text.get(8..HEADER).map(<[u8; 8]>::try_from) else { return Err(NoSketch::Foreign) };
    let card = u64::from_le_bytes(card);
    Ok((card >> 63 == 0).then_some(card))
}

enum Form<'a> {
    Dense(&'a [u8]),
    Sparse(&'a [u8]),
}

fn header(text: &[u8]) -> Result<Form<'_>, NoSketch> {
    match text.split_at_checked(HEADER) {
        Some(([b'H', b'Y', b'L', b'L', 0, ..], packed)) if text.len() == DENSE => Ok(Form::Dense(packed)),
        Some(([b'H', b'Y', b'L', b'L', 1, ..], runs)) => Ok(Form::Sparse(runs)),
        _ => Err(NoSketch::Foreign),
    }
}

fn head(form: u8, is_stale: bool) -> Vec<u8> {
    let mut text = vec![0; HEADER];
    text.splice(..5, [b'H', b'Y', b'L', b'L', form]);
    if let Some(stale) = text.last_mut().filter(|_| is_stale) {
        *stale = 0x80;
    }
    text
}

/// The element's register, and what it asks of it.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur64a(element, 0xadc8_3b19);
    let register = (hash % REGISTERS as u64) as usize;
    let rest = hash >> 14 | 1 << Q;
    (register, rest.trailing_zeros() as u8 + 1)
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// MurmurHash2, 64-bit version A.
fn murmur64a(text: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut h = seed ^ (text.len() as u64).wrapping_mul(M);
    let (words, tail) = text.as_chunks::<8>();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ k >> 47).wrapping_mul(M);
        h = (h ^ k).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let word = tail.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        h = (h ^ word).wrapping_mul(M);
    }
    h = (h ^ h >> 47).wrapping_mul(M);
    h ^ h >> 47
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_back_as_they_were_written() {
        let mut sketch = Sketch::new();
        for i in 0..20_000_u32 {
            if i.is_power_of_two() || i == 3 || i == 1500 {
                assert_eq!(
                    Sketch::read(&sketch.write()).map(|read| read.registers),
                    Ok(sketch.registers.clone())
                );
            }
            sketch.add(&i.to_le_bytes());
        }
        let text = sketch.write();
        assert_eq!(text.len(), DENSE);
        assert_eq!(Sketch::read(&text).map(|read| read.count()), Ok(sketch.count()));
        assert!(sketch.count().abs_diff(20_000) < 600);
    }

    #[test]
    fn adding_in_place_is_adding() {
        let mut sketch = Sketch { is_dense: true, ..Sketch::new() };
        let mut text = sketch.write();
        for i in 0..5000_u32 {
            let element = i.to_string();
            assert_eq!(add_in_place(&mut text, element.as_bytes()), Ok(Some(sketch.add(element.as_bytes()))));
        }
        assert_eq!(Sketch::read(&text), Ok(sketch));
    }

    #[test]
    fn runs_that_do_not_add_up_are_corrupt() {
        let text = Sketch::new().write();
        assert_eq!(text, b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80\x7f\xff");
        assert_eq!(Sketch::read(&text[..17]), Err(NoSketch::Corrupt));
        assert_eq!(Sketch::read(&text[..16]), Err(NoSketch::Corrupt));
        assert_eq!(Sketch::read(&[text.as_slice(), &[0]].concat()), Err(NoSketch::Corrupt));
        assert_eq!(Sketch::read(b"HYLL"), Err(NoSketch::Foreign));
    }
}
