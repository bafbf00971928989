//! Latencies in fixed buckets.

use crate::Counter;

/// Upper bounds of the exported buckets, in microseconds: 1, 2.5 and 5 of each decade from 10 us to 60 s.
pub(crate) const BOUNDS_MICROS: [u64; 21] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// First bucket to look at for each power of two, so that finding one takes at most three comparisons.
const FIRST: [u8; 64] = {
    let mut first = [0; 64];
    let mut power = 0;
    while power < 64 {
        let mut bucket = 0;
        while bucket < BOUNDS_MICROS.len() && BOUNDS_MICROS[bucket] < 1 << power {
            bucket += 1;
        }
        first[power] = bucket as u8;
        power += 1;
    }
    first
};

/// One writer. Microseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS_MICROS.len() + 1],
    sum: Counter,
}

impl Histogram {
    /// Counts `count` calls that took `micros` each.
    #[inline]
    pub fn record(&self, micros: u32, count: u64) {
        let micros = u64::from(micros);
        let power = 63 - (micros | 1).leading_zeros() as usize;
        let mut bucket = usize::from(FIRST.get(power).copied().unwrap_or_default());
        while BOUNDS_MICROS.get(bucket).is_some_and(|bound| *bound < micros) {
            bucket += 1;
        }
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(count);
        }
        self.sum.add(micros * count);
    }

    /// Counts per bucket, the last one without bound, and the sum in microseconds.
    pub fn read(&self) -> ([u64; BOUNDS_MICROS.len() + 1], u64) {
        (std::array::from_fn(|bucket| self.buckets.get(bucket).map_or(0, Counter::get)), self.sum.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lands_in_the_first_bucket_that_holds_it() {
        for micros in (0..2000).chain([9_999, 10_000, 10_001, 60_000_000, 60_000_001, u32::MAX]) {
            let histogram = Histogram::default();
            histogram.record(micros, 1);
            let (buckets, sum) = histogram.read();
            let expected = BOUNDS_MICROS
                .iter()
                .position(|bound| u64::from(micros) <= *bound)
                .unwrap_or(BOUNDS_MICROS.len());
            assert_eq!(buckets.iter().position(|count| *count == 1), Some(expected), "{micros}");
            assert_eq!(sum, u64::from(micros));
        }
    }
}
