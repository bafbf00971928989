//! Places for what waits for a reply, by a key whose epoch tells a reply that is late from one that is expected.

use mecha_core::ConnKey;

/// Marks keys of these places: no engine has so many clients.
const OURS: u32 = 1 << 31;

/// Marks, besides, places of copies, which are nobody's calls.
const COPY: u32 = 1 << 30;

/// See the module.
pub(super) struct Slots<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

/// Whether `conn` is one of these places and no client.
pub(super) fn is_ours(conn: ConnKey) -> bool {
    conn.index & OURS != 0
}

/// Whether `conn` is the place of a copy.
pub(super) fn is_copy(conn: ConnKey) -> bool {
    conn.index & (OURS | COPY) == OURS | COPY
}

/// The same place, as that of a copy.
pub(super) fn as_copy(conn: ConnKey) -> ConnKey {
    ConnKey { index: conn.index | COPY, ..conn }
}

fn index_of(conn: ConnKey) -> u32 {
    conn.index & !(OURS | COPY)
}

impl<T> Slots<T> {
    pub(super) fn open(&mut self, value: T) -> ConnKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        });
        let mut epoch = 0;
        if let Some(place) = self.places.get_mut(index as usize) {
            place.1 = Some(value);
            epoch = place.0;
        }
        ConnKey { index: index | OURS, epoch }
    }

    pub(super) fn get(&mut self, conn: ConnKey) -> Option<&mut T> {
        let (epoch, value) = self.places.get_mut(index_of(conn) as usize)?;
        value.as_mut().filter(|_| *epoch == conn.epoch)
    }

    pub(super) fn close(&mut self, conn: ConnKey) -> Option<T> {
        let index = index_of(conn);
        let (epoch, value) = self.places.get_mut(index as usize).filter(|place| place.0 == conn.epoch)?;
        let value = value.take()?;
        *epoch = epoch.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reply_finds_nobody_when_the_place_has_a_new_tenant() {
        let mut slots = Slots::default();
        let old = slots.open("old");
        assert!(is_ours(old) && !is_ours(ConnKey { index: 7, epoch: 0 }));
        assert_eq!(slots.close(old), Some("old"));
        let new = slots.open("new");
        assert_eq!((new.index, slots.get(old).is_none()), (old.index, true));
        assert_eq!(slots.close(old), None);
        assert_eq!(slots.get(new), Some(&mut "new"));
    }
}
