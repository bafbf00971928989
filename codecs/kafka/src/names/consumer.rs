//! What consumers of a classic group tell each other.
//!
//! ```text
//! subscription  version:i16 [topic] user-data:bytes  1+: [topic [partition:i32]]  2+: generation:i32  3+: rack
//! assignment    version:i16 [topic [partition:i32]] user-data:bytes
//! ```
//!
//! Lengths are as in versions that are not flexible. What a newer version adds is behind this, and stays as it is; so does
//! `user-data`, which assignors read and nobody else.

use super::{Failure, Map, Name};
use crate::wire::{Malformed, put_string};

/// Appends a subscription or an assignment with other names of topics in it.
pub(super) fn copy(
    bytes: &[u8],
    is_assignment: bool,
    is_response: bool,
    map: &mut Map<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let mut copier = Copier { rest: bytes, is_response, map, out };
    let version = i16::from_be_bytes(*copier.copy(2)?.first_chunk().ok_or(Malformed::Truncated)?);
    if is_assignment {
        copier.topics(true)?;
        copier.data()?;
    } else {
        copier.topics(false)?;
        copier.data()?;
        // Some clients leave out what their version should have.
        if version >= 1 && !copier.rest.is_empty() {
            copier.topics(true)?;
        }
    }
    copier.copy(copier.rest.len())?;
    Ok(())
}

struct Copier<'a, 'c> {
    rest: &'a [u8],
    is_response: bool,
    map: &'c mut Map<'c>,
    out: &'c mut Vec<u8>,
}

impl<'a> Copier<'a, '_> {
    fn copy(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        self.out.extend_from_slice(taken);
        Ok(taken)
    }

    fn number(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(*self.copy(4)?.first_chunk().ok_or(Malformed::Truncated)?))
    }

    /// Topics, and the partitions of each.
    fn topics(&mut self, with_partitions: bool) -> Result<(), Failure> {
        let place = self.out.len();
        let count = self.number()?;
        let (mut kept, mut name) = (0i32, Vec::new());
        for _ in 0..count {
            let before = self.out.len();
            let length = self.rest.first_chunk().map(|length| i16::from_be_bytes(*length));
            let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(Malformed::Length)?;
            let topic = self.rest.get(2..2 + length).ok_or(Malformed::Length)?;
            self.rest = self.rest.get(2 + length..).unwrap_or_default();
            name.clear();
            let is_own = (self.map)(Name::Topic, topic, &mut name) && name.len() <= i16::MAX as usize;
            if !is_own && !self.is_response {
                return Err(Failure::Foreign(Name::Topic));
            }
            put_string(&name, false, self.out);
            if with_partitions {
                let partitions = usize::try_from(self.number()?).map_err(|_| Malformed::Count)?;
                self.copy(partitions.saturating_mul(4))?;
            }
            if is_own {
                kept += 1;
            } else {
                self.out.truncate(before);
            }
        }
        // Null stays null.
        if let Some(place) = self.out.get_mut(place..place + 4).filter(|_| count >= 0) {
            place.copy_from_slice(&kept.to_be_bytes());
        }
        Ok(())
    }

    fn data(&mut self) -> Result<(), Malformed> {
        let length = self.number()?;
        self.copy(usize::try_from(length).unwrap_or(0))?;
        Ok(())
    }
}
