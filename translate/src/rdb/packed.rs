//! Small aggregates that servers keep in one piece: listpacks, and what came before them.
//!
//! ```text
//! listpack  bytes(4)  count(2)  { head payload  own length, readable backwards }*  0xff
//! ziplist   bytes(4)  offset of the last(4)  count(2)  { length of the one before  head payload }*  0xff
//! zipmap    count(1)  { length field  length unused(1) value  unused bytes }*  0xff
//! intset    width(4)  count(4)  numbers, ascending
//! ```
//!
//! Numbers are little endian but for lengths inside heads. A count of 65,535 (254 in a zipmap) means "look". Every length is held
//! against what there is, every count and back reference against what was found.

/// One element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Element<'w> {
    Bytes(&'w [u8]),
    Int(i64),
}

/// The end of a listpack, a ziplist and a zipmap.
const END: u8 = 0xff;
/// A count that says nothing.
const UNKNOWN: u16 = 0xffff;
/// A length of the element before that did not fit into a byte follows.
const LONG_BEFORE: u8 = 0xfe;
/// From here on a zipmap does not count.
const MANY_FIELDS: u8 = 0xfe;

// === impl Element ===

impl Element<'_> {
    /// As text.
    pub(super) fn to_vec(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.to_vec(),
            Self::Int(number) => number.to_string().into_bytes(),
        }
    }

    /// Its length as text, at most.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Int(_) => 20,
        }
    }
}

/// Calls `each` with the elements of a listpack in order, until it says no. `None` if it did, or this is none.
pub(super) fn listpack<'w>(bytes: &'w [u8], each: &mut dyn FnMut(Element<'w>) -> Option<()>) -> Option<()> {
    let mut from = Cursor(bytes);
    if usize::try_from(from.u32()?).ok()? != bytes.len() {
        return None;
    }
    let told = from.u16()?;
    let mut count = 0_usize;
    while from.0.first()? != &END {
        let before = from.0;
        let element = listpack_element(&mut from)?;
        let len = before.len() - from.0.len();
        back_length(len, &mut from)?;
        count += 1;
        each(element)?;
    }
    ends(from, told, count)
}

fn listpack_element<'w>(from: &mut Cursor<'w>) -> Option<Element<'w>> {
    let head = from.u8()?;
    Some(match head {
        0..=0x7f => Element::Int(i64::from(head)),
        0x80..=0xbf => Element::Bytes(from.take(usize::from(head & 0x3f))?),
        0xc0..=0xdf => {
            let number = i64::from(head & 0x1f) << 8 | i64::from(from.u8()?);
            // Thirteen bits with a sign.
            Element::Int(number << 51 >> 51)
        }
        0xe0..=0xef => {
            let len = usize::from(head & 0x0f) << 8 | usize::from(from.u8()?);
            Element::Bytes(from.take(len)?)
        }
        0xf0 => {
            let len = usize::try_from(from.u32()?).ok()?;
            Element::Bytes(from.take(len)?)
        }
        0xf1 => Element::Int(from.int(2)?),
        0xf2 => Element::Int(from.int(3)?),
        0xf3 => Element::Int(from.int(4)?),
        0xf4 => Element::Int(from.int(8)?),
        0xf5..=END => return None,
    })
}

/// Passes over an element's length, seven bits in each byte with the highest first and marks on all but the first.
fn back_length(len: usize, from: &mut Cursor<'_>) -> Option<()> {
    let size = match len {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    };
    let told = from.take(size)?.iter().enumerate().try_fold(0_usize, |told, (at, byte)| {
        ((byte & 0x80 != 0) == (at > 0)).then_some(told << 7 | usize::from(byte & 0x7f))
    });
    (told == Some(len)).then_some(())
}

/// Calls `each` with the elements of a ziplist in order, until it says no. `None` if it did, or this is none.
pub(super) fn ziplist<'w>(bytes: &'w [u8], each: &mut dyn FnMut(Element<'w>) -> Option<()>) -> Option<()> {
    let mut from = Cursor(bytes);
    if usize::try_from(from.u32()?).ok()? != bytes.len() {
        return None;
    }
    let tail = usize::try_from(from.u32()?).ok()?;
    let told = from.u16()?;
    let (mut count, mut before) = (0_usize, 0);
    // Without elements it is where they would start.
    let mut last = bytes.len() - from.0.len();
    while from.0.first()? != &END {
        last = bytes.len() - from.0.len();
        let told_before = match from.u8()? {
            LONG_BEFORE => usize::try_from(from.u32()?).ok()?,
            short => usize::from(short),
        };
        if told_before != before {
            return None;
        }
        let element = ziplist_element(&mut from)?;
        before = bytes.len() - from.0.len() - last;
        count += 1;
        each(element)?;
    }
    if last != tail {
        return None;
    }
    ends(from, told, count)
}

fn ziplist_element<'w>(from: &mut Cursor<'w>) -> Option<Element<'w>> {
    let head = from.u8()?;
    Some(match head {
        0..=0x3f => Element::Bytes(from.take(usize::from(head))?),
        0x40..=0x7f => {
            let len = usize::from(head & 0x3f) << 8 | usize::from(from.u8()?);
            Element::Bytes(from.take(len)?)
        }
        0x80 => {
            let len = u32::from_be_bytes(from.take(4)?.try_into().ok()?);
            Element::Bytes(from.take(usize::try_from(len).ok()?)?)
        }
        0xc0 => Element::Int(from.int(2)?),
        0xd0 => Element::Int(from.int(4)?),
        0xe0 => Element::Int(from.int(8)?),
        0xf0 => Element::Int(from.int(3)?),
        0xf1..=0xfd => Element::Int(i64::from(head & 0x0f) - 1),
        0xfe => Element::Int(from.int(1)?),
        _ => return None,
    })
}

/// Nothing may follow the end, and a count must be right.
fn ends(from: Cursor<'_>, told: u16, found: usize) -> Option<()> {
    let is_counted = told == UNKNOWN || usize::from(told) == found;
    (from.0 == [END] && is_counted).then_some(())
}

/// Calls `each` with fields and values in turn, until it says no. `None` if it did, or this is no zipmap.
pub(super) fn zipmap<'w>(bytes: &'w [u8], each: &mut dyn FnMut(Element<'w>) -> Option<()>) -> Option<()> {
    let mut from = Cursor(bytes);
    let told = from.u8()?;
    let mut count = 0_usize;
    while from.0.first()? != &END {
        let len = from.zipmap_length()?;
        each(Element::Bytes(from.take(len)?))?;
        let len = from.zipmap_length()?;
        let unused = usize::from(from.u8()?);
        each(Element::Bytes(from.take(len)?))?;
        from.take(unused)?;
        count += 1;
    }
    let is_counted = told >= MANY_FIELDS || usize::from(told) == count;
    (from.0 == [END] && is_counted).then_some(())
}

/// Calls `each` with the numbers of an intset, until it says no. `None` if it did, or this is none.
pub(super) fn intset<'w>(bytes: &'w [u8], each: &mut dyn FnMut(Element<'w>) -> Option<()>) -> Option<()> {
    let mut from = Cursor(bytes);
    let width @ (2 | 4 | 8) = usize::try_from(from.u32()?).ok()? else { return None };
    let count = usize::try_from(from.u32()?).ok()?;
    if count.checked_mul(width)? != from.0.len() {
        return None;
    }
    let mut before = None;
    for _ in 0..count {
        let number = from.int(width)?;
        if before.is_some_and(|before| before >= number) {
            return None;
        }
        before = Some(number);
        each(Element::Int(number))?;
    }
    Some(())
}

/// What is left to be read.
struct Cursor<'w>(&'w [u8]);

// === impl Cursor ===

impl<'w> Cursor<'w> {
    fn take(&mut self, len: usize) -> Option<&'w [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A signed number of up to eight bytes.
    fn int(&mut self, width: usize) -> Option<i64> {
        let bytes = self.take(width)?;
        let number = bytes.iter().rev().fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
        let unused = 64 - 8 * u32::try_from(width).ok()?;
        Some(number << unused >> unused)
    }

    fn zipmap_length(&mut self) -> Option<usize> {
        match self.u8()? {
            LONG_BEFORE => usize::try_from(self.u32()?).ok(),
            END => None,
            short => Some(usize::from(short)),
        }
    }
}
