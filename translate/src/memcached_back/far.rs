//! Expiry after January 2038, where Memcached's 32 signed bits of seconds end.
//!
//! Such an item has a tag of its own, and a time to live that is not its own but stands for it. The client flags hold the
//! low 24 bits of the expiry in milliseconds as they do for all others, which tell the moment within 4.6 hours; and each
//! span of 4.6 hours behind the first such moment has a *place* of 64 seconds before the end of Memcached's time, which
//! the item is sent with. So the reply's `t` tells the span, exactly as long as the clocks here and there differ by less
//! than half a minute. If a Memcached program has touched the key, `t` is no place any more, and it is right.
//!
//! What it costs: the server drops the item at its place, so some months before January 2038 for moments in the 21st
//! century, and two years before for the last moment that has a place, in the year 2594. Until then every answer is
//! exact; no item of Memcached outlives 2038 anyway.

/// The first moment, in Unix seconds, that is told by a place; some seconds before the end of Memcached's time, so that
/// no item with an expiry of its own is taken for one with a place.
pub(super) const FIRST_S: u64 = i32::MAX as u64 - 128;

const END_S: u64 = i32::MAX as u64 - 64;
const PLACE_S: u64 = 64;
const PLACES: u64 = 1 << 20;
const SPAN_BITS: u32 = 24;
const FIRST_SPAN: u64 = ((FIRST_S - 1) * 1000) >> SPAN_BITS;

/// What to send as Unix seconds; `None` for moments that have no place.
pub(super) fn place(expire_at_ms: u64) -> Option<u64> {
    let span = (expire_at_ms >> SPAN_BITS).checked_sub(FIRST_SPAN)?;
    (span < PLACES).then(|| END_S - span * PLACE_S)
}

/// The moment of an item that the server drops at about `by_server_ms`; `None` if that is no place.
pub(super) fn moment(by_server_ms: u64, low_bits: u32) -> Option<u64> {
    let before_end_s = (END_S * 1000 + PLACE_S * 500).checked_sub(by_server_ms)? / 1000;
    let span = before_end_s / PLACE_S;
    (span < PLACES).then(|| ((FIRST_SPAN + span) << SPAN_BITS) | u64::from(low_bits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_tells_its_moment_though_clocks_differ(
            at in FIRST_S * 1000..(FIRST_SPAN + PLACES) << SPAN_BITS,
            skew in -30_000..30_000_i64,
        ) {
            let by_server = (place(at).unwrap() * 1000).saturating_add_signed(skew);
            prop_assert_eq!(moment(by_server, at as u32 & 0x00ff_ffff), Some(at));
        }
    }

    #[test]
    fn places_are_times_that_memcached_can_count_to() {
        let last = ((FIRST_SPAN + PLACES) << SPAN_BITS) - 1;
        let start_of_2595 = 19_723_132_800_000;
        assert!(last > start_of_2595);
        assert_eq!(place(last + 1), None);
        assert!(place(last).is_some_and(|place| place > 2_080_000_000));
        assert!(place(FIRST_S * 1000).is_some_and(|place| place <= i32::MAX as u64));
    }

    #[test]
    fn a_touched_key_has_no_place() {
        assert_eq!(moment(1_800_000_000_000, 5), None);
    }
}
