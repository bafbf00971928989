//! Strings as arrays of bits, the highest bit of the first byte first.

mod field;

use super::aggregate::{Error, Keys, Run, Spec, spec};
use super::hash::content::{clamp, integer, is, long};
use super::strings::{fits, text};
use crate::slot::{Entry, Slot, Value};

/// In alphabetical order.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("bitcount", -2, Keys::First, bitcount),
    spec("bitfield", -2, Keys::First, field::bitfield),
    spec("bitfield_ro", -2, Keys::First, field::bitfield_ro),
    spec("bitop", -4, Keys::From(2), bitop),
    spec("bitpos", -3, Keys::First, bitpos),
    spec("getbit", 3, Keys::First, getbit),
    spec("setbit", 4, Keys::First, setbit),
];

/// No string is longer, whatever the back.
const MOST_BYTES: u64 = 512 << 20;

/// A position; `#n` is the nth field of this width, where there are fields.
fn offset(argument: &[u8], width: Option<u32>) -> Result<u64, Error> {
    let (digits, factor) = match (argument.strip_prefix(b"#"), width) {
        (Some(digits), Some(width)) => (digits, i64::from(width)),
        _ => (argument, 1),
    };
    let offset = integer(digits).and_then(|number| number.checked_mul(factor));
    offset
        .and_then(|offset| u64::try_from(offset).ok())
        .filter(|offset| offset >> 3 < MOST_BYTES)
        .ok_or(Error::Text("ERR bit offset is not an integer or out of range"))
}

/// The string of a slot, made as long as to have this bit.
fn grown(slot: &mut Slot, bit: u64) -> Result<&mut Vec<u8>, Error> {
    let entry = slot.entry.get_or_insert_with(|| Entry::new(Value::Str(Vec::new())));
    let Value::Str(bytes) = &mut entry.value else { return Err(Error::WrongType) };
    let length = (bit >> 3) as usize + 1;
    if bytes.len() < length {
        bytes.resize(length, 0);
    }
    Ok(bytes)
}

fn bit_of(bytes: &[u8], at: u64) -> bool {
    bytes.get((at >> 3) as usize).is_some_and(|byte| byte & 0x80 >> (at & 7) != 0)
}

fn set_bit(bytes: &mut [u8], at: u64, on: bool) {
    if let Some(byte) = bytes.get_mut((at >> 3) as usize) {
        let mask = 0x80 >> (at & 7);
        *byte = if on { *byte | mask } else { *byte & !mask };
    }
}

fn setbit(run: &mut Run<'_>) -> Result<(), Error> {
    let at = offset(run.arg(2), None)?;
    let on = match integer(run.arg(3)) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Error::Text("ERR bit is not an integer or out of range")),
    };
    text(run.slots.nth(0))?;
    fits((at >> 3) as usize + 1, run)?;
    let slot = run.slots.nth_mut(0);
    let bytes = grown(slot, at)?;
    let before = bit_of(bytes, at);
    set_bit(bytes, at, on);
    slot.settle();
    run.reply.int(i64::from(before));
    Ok(())
}

fn getbit(run: &mut Run<'_>) -> Result<(), Error> {
    let at = offset(run.arg(2), None)?;
    let bytes = text(run.slots.nth(0))?.unwrap_or_default();
    run.reply.int(i64::from(bit_of(bytes, at)));
    Ok(())
}

/// `BIT` or `BYTE`: how many bits a unit of the range has.
fn unit(word: &[u8]) -> Result<i64, Error> {
    match () {
        () if is(word, "bit") => Ok(1),
        () if is(word, "byte") => Ok(8),
        () => Err(Error::Syntax),
    }
}

/// The bits from unit `start` to unit `end`, both counted from the end if negative; `None` if there are none.
fn bits_between(start: i64, end: i64, width: i64, bytes: usize) -> Option<std::ops::Range<u64>> {
    let total = bytes as i64 * 8 / width;
    let from_end = |at: i64| if at < 0 { at.saturating_add(total).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(total - 1));
    (start <= end).then(|| (start * width) as u64..((end + 1) * width) as u64)
}

/// Calls `each` with the whole bytes of a range, and with those at its ends masked.
fn masked(bytes: &[u8], range: &std::ops::Range<u64>) -> impl Iterator<Item = (u64, u8, u8)> {
    let (start, end) = (range.start, range.end);
    let first = (start >> 3) as usize;
    let last = end.div_ceil(8) as usize;
    let touched = bytes.get(first..last.min(bytes.len())).unwrap_or_default();
    touched.iter().enumerate().map(move |(index, byte)| {
        let at = (first + index) as u64 * 8;
        let head = if at < start { 0xff >> (start - at) } else { 0xff };
        let tail = if at + 8 > end { (0xff00_u16 >> (end - at)) as u8 } else { 0xff };
        (at, *byte, head & tail)
    })
}

fn count(bytes: &[u8], range: &std::ops::Range<u64>) -> u64 {
    if range.start.is_multiple_of(8) && range.end.is_multiple_of(8) {
        let whole = bytes.get((range.start / 8) as usize..(range.end / 8) as usize).unwrap_or_default();
        let (words, rest) = whole.as_chunks::<8>();
        let words: u64 = words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum();
        return words + rest.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
    }
    masked(bytes, range).map(|(_, byte, mask)| u64::from((byte & mask).count_ones())).sum()
}

fn bitcount(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let Some(bytes) = text(run.slots.nth(0))? else {
        run.reply.int(0);
        return Ok(());
    };
    let (start, end, width) = match argc {
        2 => (0, -1, 8),
        4 | 5 => {
            let (start, end) = (long(run.args.at(2))?, long(run.args.at(3))?);
            // Redis answers this before it looks at the unit.
            if start < 0 && end < 0 && start > end {
                run.reply.int(0);
                return Ok(());
            }
            (start, end, if argc == 5 { unit(run.args.at(4))? } else { 8 })
        }
        _ => return Err(Error::Syntax),
    };
    let found = bits_between(start, end, width, bytes.len()).map_or(0, |range| count(bytes, &range));
    run.reply.int(found as i64);
    Ok(())
}

fn bitpos(run: &mut Run<'_>) -> Result<(), Error> {
    let wanted = match long(run.arg(2))? {
        0 => false,
        1 => true,
        _ => return Err(Error::Text("ERR The bit argument must be 1 or 0.")),
    };
    let argc = run.argc();
    let Some(bytes) = text(run.slots.nth(0))? else {
        run.reply.int(if wanted { -1 } else { 0 });
        return Ok(());
    };
    let (start, end, width) = match argc {
        3 => (0, -1, 8),
        4..=6 => {
            let start = long(run.args.at(3))?;
            let width = if argc == 6 { unit(run.args.at(5))? } else { 8 };
            (start, if argc > 4 { long(run.args.at(4))? } else { -1 }, width)
        }
        _ => return Err(Error::Syntax),
    };
    let found = bits_between(start, end, width, bytes.len()).and_then(|range| {
        let found = masked(bytes, &range).find_map(|(at, byte, mask)| {
            let hits = if wanted { byte & mask } else { !byte & mask };
            (hits != 0).then(|| at + u64::from(hits.leading_zeros()))
        });
        // A string goes on with zeros for ever, unless its end was named.
        found.or_else(|| (!wanted && argc < 5).then_some(bytes.len() as u64 * 8))
    });
    run.reply.int(found.map_or(-1, |at| at as i64));
    Ok(())
}

/// What `BITOP` does to two bytes.
fn operation(name: &[u8]) -> Option<fn(u8, u8) -> u8> {
    match () {
        () if is(name, "and") => Some(|one, other| one & other),
        () if is(name, "or") => Some(|one, other| one | other),
        () if is(name, "xor") => Some(|one, other| one ^ other),
        () => None,
    }
}

fn bitop(run: &mut Run<'_>) -> Result<(), Error> {
    let name = run.arg(1);
    let is_not = is(name, "not");
    let operation = operation(name);
    if operation.is_none() && !is_not {
        return Err(Error::Syntax);
    }
    if is_not && run.argc() != 4 {
        return Err(Error::Text("ERR BITOP NOT must be called with a single source key."));
    }
    let sources = 1..run.slots.len();
    let mut longest = 0;
    for key in sources.clone() {
        longest = longest.max(text(run.slots.nth(key))?.unwrap_or_default().len());
    }
    let mut result = text(run.slots.nth(1))?.unwrap_or_default().to_vec();
    result.resize(longest, 0);
    match operation {
        None => result.iter_mut().for_each(|byte| *byte = !*byte),
        Some(operation) => {
            for key in sources.skip(1) {
                let bytes = text(run.slots.nth(key))?.unwrap_or_default();
                let padded = bytes.iter().copied().chain(std::iter::repeat(0));
                result.iter_mut().zip(padded).for_each(|(byte, other)| *byte = operation(*byte, other));
            }
        }
    }
    let slot = run.slots.nth_mut(0);
    if longest == 0 {
        slot.delete();
    } else {
        slot.put(Entry::new(Value::Str(result)));
    }
    run.reply.int(longest as i64);
    Ok(())
}

/// `clamp` for lengths that come as bits.
fn byte_of(bit: u64) -> usize {
    clamp((bit >> 3) as i64)
}
