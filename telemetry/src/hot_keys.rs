//! The keys that are used most, for one filter, over all workers: counted from samples, in a table that does not grow.
//!
//! Each worker has a table of [`SEATS`] keys. A key that has none takes the seat, and the count, of the one that was seen least
//! (*space-saving*: Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams",
//! 2005), so that every key with more than its share of the samples is there, and no count is too small. Counts are
//! halved every ten seconds, so that what is told is of the last half minute or so.
//!
//! A worker writes only where nobody reads just then: a sample more or less changes nothing.

use std::sync::{Arc, Mutex, PoisonError};

/// Keys that a worker knows.
const SEATS: usize = 128;
/// Bytes that are kept of a key.
const KEPT: usize = 64;
/// How often counts are halved.
const HALF_MICROS: u64 = 10_000_000;

/// The tables of one filter.
#[derive(Debug)]
pub struct HotKeys {
    /// One call in so many is looked at.
    sample: u32,
    tables: Mutex<Vec<Arc<Mutex<Table>>>>,
}

/// One worker's table.
#[derive(Clone, Debug)]
pub struct HotKeysTable(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    seats: Vec<Seat>,
    samples: f64,
    halved_micros: u64,
}

#[derive(Debug)]
struct Seat {
    key: [u8; KEPT],
    length: usize,
    hash: u64,
    count: f64,
}

/// One key, as it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct HotKey {
    /// Its first 64 bytes.
    pub key: Vec<u8>,
    /// How long it is, in bytes.
    pub length: usize,
    /// Its share of all calls with a key, from 0 to 1. At most so much; a small one may be too large.
    pub share: f64,
}

// === impl Table ===

impl Table {
    fn note(&mut self, key: &[u8], now_micros: u64) {
        if now_micros.saturating_sub(self.halved_micros) > HALF_MICROS {
            self.halved_micros = now_micros;
            self.samples /= 2.0;
            self.seats.iter_mut().for_each(|seat| seat.count /= 2.0);
            self.seats.retain(|seat| seat.count > 0.25);
        }
        self.samples += 1.0;
        let hash = hash(key);
        let is_it = |seat: &&mut Seat| seat.hash == hash && seat.length == key.len();
        if let Some(seat) = self.seats.iter_mut().find(is_it) {
            seat.count += 1.0;
            return;
        }
        let count = if self.seats.len() < SEATS {
            1.0
        } else {
            let least =
                self.seats.iter().enumerate().min_by(|one, other| one.1.count.total_cmp(&other.1.count));
            let Some(at) = least.map(|(at, _)| at) else { return };
            self.seats.swap_remove(at).count + 1.0
        };
        let mut seat = Seat { key: [0; KEPT], length: key.len(), hash, count };
        let kept = key.len().min(KEPT);
        if let (Some(to), Some(from)) = (seat.key.get_mut(..kept), key.get(..kept)) {
            to.copy_from_slice(from);
        }
        self.seats.push(seat);
    }
}

/// FNV-1a over the whole key.
fn hash(key: &[u8]) -> u64 {
    key.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

// === impl HotKeysTable ===

impl HotKeysTable {
    /// A call with this key was looked at.
    pub fn note(&self, key: &[u8], now_micros: u64) {
        if let Ok(mut table) = self.0.try_lock() {
            table.note(key, now_micros);
        }
    }
}

// === impl HotKeys ===

impl HotKeys {
    pub(crate) fn new(sample: u32) -> Self {
        Self { sample, tables: Mutex::default() }
    }

    /// One call in so many is looked at.
    pub fn sample(&self) -> u32 {
        self.sample
    }

    /// A table for one worker.
    pub fn table(&self) -> HotKeysTable {
        let table = Arc::<Mutex<Table>>::default();
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of workers that have gone, or have another chain now.
        tables.retain(|table| Arc::strong_count(table) > 1);
        tables.push(Arc::clone(&table));
        HotKeysTable(table)
    }

    /// The keys that are used most, at most so many, the first one most.
    pub fn top(&self, most: usize) -> Vec<HotKey> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut all, mut samples) = (Vec::<(u64, f64, HotKey)>::new(), 0.0);
        for table in tables {
            let table = table.lock().unwrap_or_else(PoisonError::into_inner);
            samples += table.samples;
            for seat in &table.seats {
                let is_it = |(hash, _, known): &&mut (u64, f64, HotKey)| {
                    *hash == seat.hash && known.length == seat.length
                };
                match all.iter_mut().find(is_it) {
                    Some((_, count, _)) => *count += seat.count,
                    None => {
                        let key = seat.key.get(..seat.length.min(KEPT)).unwrap_or_default().to_vec();
                        all.push((seat.hash, seat.count, HotKey { key, length: seat.length, share: 0.0 }));
                    }
                }
            }
        }
        all.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.2.key.cmp(&other.2.key)));
        all.truncate(most);
        all.into_iter()
            .map(|(_, count, key)| HotKey { share: (count / f64::max(samples, 1.0)).min(1.0), ..key })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_are_used_most_are_found_among_many() {
        let keys = HotKeys::new(1);
        let tables = [keys.table(), keys.table()];
        for round in 0..20_000u32 {
            let table = &tables[round as usize % 2];
            match round % 10 {
                0..3 => table.note(b"first", 1),
                3 | 4 => table.note(b"second", 1),
                _ => table.note(format!("other-{round}").as_bytes(), 1),
            }
        }
        let top = keys.top(3);
        assert_eq!((top[0].key.as_slice(), top[1].key.as_slice()), (&b"first"[..], &b"second"[..]));
        assert!((0.28..0.34).contains(&top[0].share) && (0.18..0.24).contains(&top[1].share), "{top:?}");
        assert!(top[2].share < 0.02, "{top:?}");
    }

    #[test]
    fn what_was_hot_grows_cold_and_long_keys_are_cut() {
        let keys = HotKeys::new(1);
        let table = keys.table();
        let long = vec![b'x'; 1000];
        (0..100).for_each(|_| table.note(&long, 1));
        let top = keys.top(5);
        assert_eq!((top[0].key.len(), top[0].length, top[0].share), (KEPT, 1000, 1.0));
        for second in 1..20 {
            (0..10).for_each(|_| table.note(b"new", second * HALF_MICROS + second));
        }
        let top = keys.top(5);
        assert_eq!((top.len(), top[0].key.as_slice()), (1, &b"new"[..]));
        // A worker that is gone takes its table along.
        drop(table);
        let _other = keys.table();
        assert!(keys.top(5).is_empty());
    }
}
