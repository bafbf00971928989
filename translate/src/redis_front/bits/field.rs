//! `BITFIELD`: integers of any width at any bit.

use super::super::aggregate::{Error, Run};
use super::super::hash::content::{integer, is, long};
use super::super::strings::{fits, text};
use super::{bit_of, byte_of, grown, offset, set_bit};

/// What becomes of a number that does not fit.
#[derive(Clone, Copy)]
enum Overflow {
    Fail,
    Saturate,
    Wrap,
}

/// How a field is read.
#[derive(Clone, Copy)]
struct Kind {
    is_signed: bool,
    bits: u32,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Increment(i64, Overflow),
    Set(i64, Overflow),
}

struct Operation {
    kind: Kind,
    offset: u64,
    action: Action,
}

// === impl Kind ===

impl Kind {
    fn parse(text: &[u8]) -> Option<Self> {
        let (is_signed, digits) = match text {
            [b'i', digits @ ..] => (true, digits),
            [b'u', digits @ ..] => (false, digits),
            _ => return None,
        };
        let bits = u32::try_from(integer(digits)?).ok()?;
        (1..=63 + u32::from(is_signed)).contains(&bits).then_some(Self { is_signed, bits })
    }

    fn read(self, bytes: &[u8], offset: u64) -> i64 {
        let bits = (0..u64::from(self.bits)).map(|at| u64::from(bit_of(bytes, offset + at)));
        self.truncate(bits.fold(0, |number, bit| number << 1 | bit).into())
    }

    fn write(self, bytes: &mut [u8], offset: u64, number: i64) {
        for at in 0..u64::from(self.bits) {
            let place = u64::from(self.bits) - 1 - at;
            set_bit(bytes, offset + at, number as u64 >> place & 1 != 0);
        }
    }

    /// The lowest bits of `number`, as this kind has them.
    fn truncate(self, number: i128) -> i64 {
        let unused = 64 - self.bits;
        let shifted = (number as u64) << unused;
        if self.is_signed { shifted as i64 >> unused } else { (shifted >> unused) as i64 }
    }

    /// The number that is stored for `number`; `None` if nothing is.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i64> {
        let most = (1_i128 << (self.bits - u32::from(self.is_signed))) - 1;
        let least = if self.is_signed { -most - 1 } else { 0 };
        match overflow {
            _ if (least..=most).contains(&number) => Some(number as i64),
            Overflow::Fail => None,
            Overflow::Saturate => Some(number.clamp(least, most) as i64),
            Overflow::Wrap => Some(self.truncate(number)),
        }
    }

    /// The number that `SET` stores.
    fn set(self, number: i64, overflow: Overflow) -> Option<i64> {
        let most = (1_i128 << (self.bits - u32::from(self.is_signed))) - 1;
        // The distance to the upper end overflows in a server, which then takes the number for a large one.
        let is_misjudged =
            self.is_signed && self.bits < 64 && most - i128::from(number) > i128::from(i64::MAX);
        match overflow {
            Overflow::Saturate if is_misjudged => Some(most as i64),
            _ => self.fit(self.widen(number), overflow),
        }
    }

    /// An argument of `SET`: an unsigned field takes a negative number for a very large one.
    fn widen(self, number: i64) -> i128 {
        if self.is_signed { i128::from(number) } else { i128::from(number as u64) }
    }
}

fn parse(run: &Run<'_>) -> Result<Vec<Operation>, Error> {
    let (mut operations, mut overflow, mut at) = (Vec::new(), Overflow::Wrap, 2);
    while at < run.argc() {
        let (word, left) = (run.arg(at), run.argc() - at - 1);
        if is(word, "overflow") && left >= 1 {
            overflow = match run.arg(at + 1) {
                how if is(how, "wrap") => Overflow::Wrap,
                how if is(how, "sat") => Overflow::Saturate,
                how if is(how, "fail") => Overflow::Fail,
                _ => return Err(Error::Text("ERR Invalid OVERFLOW type specified")),
            };
            at += 2;
            continue;
        }
        let is_get = is(word, "get") && left >= 2;
        if !is_get && !((is(word, "set") || is(word, "incrby")) && left >= 3) {
            return Err(Error::Syntax);
        }
        let kind = Kind::parse(run.arg(at + 1)).ok_or(Error::Text(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
        ))?;
        let offset = offset(run.arg(at + 2), Some(kind.bits))?;
        let action = match () {
            () if is_get => Action::Get,
            () if is(word, "set") => Action::Set(long(run.arg(at + 3))?, overflow),
            () => Action::Increment(long(run.arg(at + 3))?, overflow),
        };
        operations.push(Operation { kind, offset, action });
        at += if is_get { 3 } else { 4 };
    }
    Ok(operations)
}

/// `BITFIELD`.
pub(super) fn bitfield(run: &mut Run<'_>) -> Result<(), Error> {
    run_operations(run, false)
}

/// `BITFIELD_RO`.
pub(super) fn bitfield_ro(run: &mut Run<'_>) -> Result<(), Error> {
    run_operations(run, true)
}

fn run_operations(run: &mut Run<'_>, only_reads: bool) -> Result<(), Error> {
    let operations = parse(run)?;
    let ends = operations.iter().filter(|operation| !matches!(operation.action, Action::Get));
    let last = ends.map(|operation| operation.offset + u64::from(operation.kind.bits) - 1).max();
    if last.is_some() && only_reads {
        return Err(Error::Text("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    text(run.slots.nth(0))?;
    run.reply.array(operations.len());
    let Some(last) = last else {
        let bytes = text(run.slots.nth(0))?.unwrap_or_default();
        for operation in &operations {
            run.reply.int(operation.kind.read(bytes, operation.offset));
        }
        return Ok(());
    };
    fits(byte_of(last) + 1, run)?;
    let slot = run.slots.nth_mut(0);
    let bytes = grown(slot, last)?;
    for Operation { kind, offset, action } in operations {
        let before = kind.read(bytes, offset);
        let (stored, shown) = match action {
            Action::Get => (None, Some(before)),
            Action::Increment(by, overflow) => {
                let sum = kind.fit(i128::from(before) + i128::from(by), overflow);
                (sum, sum)
            }
            Action::Set(number, overflow) => {
                let stored = kind.set(number, overflow);
                (stored, stored.map(|_| before))
            }
        };
        if let Some(stored) = stored {
            kind.write(bytes, offset, stored);
        }
        match shown {
            Some(shown) => run.reply.int(shown),
            None => run.reply.null(),
        }
    }
    slot.settle();
    Ok(())
}
