//! Replies leave in request order.

use std::collections::VecDeque;

/// Memory that the held bytes keep once nothing is held.
const KEEP: usize = 16 << 10;

/// The unanswered calls of one connection, oldest first.
///
/// While answers arrive in order, which is the rule with one upstream, nothing is stored: two counters move. An answer
/// that is early waits until everything before it has left. The early ones share one buffer, so that a client of many
/// upstreams costs no allocation per call.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The oldest unanswered call.
    first: u32,
    /// The next call to be taken.
    next: u32,
    /// Slots from `first` on; shorter than the calls in flight, as late slots are made when needed.
    held: VecDeque<Slot>,
    /// Slots with bytes, or that are done.
    filled: usize,
    /// Where their bytes lie, with gaps where bytes have left.
    bytes: Vec<u8>,
    held_bytes: usize,
    /// Part of the oldest call's answer has left.
    is_begun: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    start: usize,
    len: usize,
    is_done: bool,
}

impl Slot {
    fn is_filled(&self) -> bool {
        self.len > 0 || self.is_done
    }
}

impl Ledger {
    /// Calls that are taken and not answered.
    pub fn in_flight(&self) -> u32 {
        self.next.wrapping_sub(self.first)
    }

    /// The place of the next call.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// The oldest unanswered call.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Whether call `seq` is not answered.
    pub fn awaits(&self, seq: u32) -> bool {
        seq.wrapping_sub(self.first) < self.in_flight()
    }

    /// Bytes that wait for an earlier answer.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether part of an answer has left, so that nothing else may leave before the rest of it.
    pub fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Takes `count` calls.
    pub fn take(&mut self, count: u32) {
        self.next = self.next.wrapping_add(count);
    }

    /// Whether an answer to `seq` can leave at once, with all that follows it in order.
    pub fn is_next(&self, seq: u32) -> bool {
        seq == self.first && self.held.is_empty() && self.first != self.next
    }

    /// The `count` oldest calls are answered, and their bytes have left. Only after [`Ledger::is_next`].
    pub fn advance(&mut self, count: u32) {
        self.first = self.first.wrapping_add(count.min(self.in_flight()));
    }

    /// Adds bytes to the answer of `seq`; with `is_done` they are its last. What can leave goes to `out`. An answer to
    /// a call that is not in flight is dropped.
    pub fn answer(&mut self, seq: u32, bytes: &[u8], is_done: bool, out: &mut Vec<u8>) {
        let distance = seq.wrapping_sub(self.first);
        if distance >= self.in_flight() {
            return;
        }
        if distance > 0 {
            self.hold(distance as usize, bytes, is_done);
            return;
        }
        out.extend_from_slice(bytes);
        self.is_begun |= !bytes.is_empty();
        if is_done {
            self.is_begun = false;
            self.first = self.first.wrapping_add(1);
            self.held.pop_front();
            self.release(out);
        }
    }

    fn hold(&mut self, index: usize, bytes: &[u8], is_done: bool) {
        if self.held.len() <= index {
            self.held.resize_with(index + 1, Slot::default);
        }
        let Some(slot) = self.held.get_mut(index) else { return };
        let was_filled = slot.is_filled();
        if slot.start + slot.len != self.bytes.len() {
            // The answer goes on behind others: it moves to the end, where it can grow.
            let from = slot.start;
            slot.start = self.bytes.len();
            self.bytes.extend_from_within(from..from + slot.len);
        }
        self.bytes.extend_from_slice(bytes);
        slot.len += bytes.len();
        slot.is_done |= is_done;
        self.held_bytes += bytes.len();
        self.filled += usize::from(!was_filled && slot.is_filled());
        if self.bytes.len() > 2 * self.held_bytes + KEEP {
            self.close_gaps();
        }
    }

    /// Lets everything leave that waited for the answer that has just left.
    fn release(&mut self, out: &mut Vec<u8>) {
        while let Some(slot) = self.held.front_mut() {
            out.extend_from_slice(self.bytes.get(slot.start..slot.start + slot.len).unwrap_or_default());
            self.held_bytes -= slot.len;
            self.filled -= usize::from(slot.is_filled());
            let (is_done, len) = (slot.is_done, slot.len);
            *slot = Slot::default();
            if !is_done {
                self.is_begun = len > 0;
                break;
            }
            self.held.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        // Slots that were made only to reach a later one hold nothing.
        if self.filled == 0 {
            self.held.clear();
            self.bytes.clear();
            if self.bytes.capacity() > KEEP {
                self.bytes = Vec::new();
            }
        }
    }

    /// Gives back the room of bytes that have left. Rare: only while something is always held.
    fn close_gaps(&mut self) {
        let mut bytes = Vec::with_capacity(self.held_bytes);
        for slot in &mut self.held {
            let start = bytes.len();
            bytes.extend_from_slice(self.bytes.get(slot.start..slot.start + slot.len).unwrap_or_default());
            slot.start = start;
        }
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ledger(first: u32, count: u32) -> Ledger {
        let mut ledger = Ledger { first, next: first, ..Ledger::default() };
        ledger.take(count);
        ledger
    }

    #[test]
    fn an_early_answer_waits_for_the_ones_before_it() {
        let (mut ledger, mut out) = (ledger(0, 3), Vec::new());
        ledger.answer(2, b"c", true, &mut out);
        ledger.answer(1, b"b1", false, &mut out);
        assert_eq!((out.as_slice(), ledger.held_bytes()), (b"".as_slice(), 3));
        ledger.answer(0, b"a", true, &mut out);
        assert_eq!(out, b"ab1");
        ledger.answer(1, b"b2", true, &mut out);
        assert_eq!((out.as_slice(), ledger.held_bytes(), ledger.in_flight()), (b"ab1b2c".as_slice(), 0, 0));
    }

    #[test]
    fn an_answer_to_no_call_in_flight_is_dropped() {
        let (mut ledger, mut out) = (ledger(5, 1), Vec::new());
        ledger.answer(4, b"late", true, &mut out);
        ledger.answer(6, b"early", true, &mut out);
        assert!(out.is_empty() && ledger.in_flight() == 1);
    }

    #[test]
    fn bytes_that_have_left_do_not_add_up_while_something_is_always_held() {
        let (mut ledger, mut out) = (ledger(0, 2), Vec::new());
        ledger.answer(1, &[7; 1 << 10], true, &mut out);
        for oldest in (0..2_000).step_by(2) {
            ledger.take(2);
            ledger.answer(oldest + 3, &[7; 1 << 10], true, &mut out);
            ledger.answer(oldest, &[8; 1 << 10], true, &mut out);
            assert_eq!((ledger.first(), ledger.held_bytes()), (oldest + 2, 1 << 10));
            assert!(ledger.bytes.len() <= KEEP + (4 << 10), "{}", ledger.bytes.len());
        }
        assert_eq!(out.len(), 2_000 << 10);
    }

    proptest! {
        #[test]
        fn any_order_of_answers_leaves_in_request_order(
            first in prop_oneof![Just(0u32), Just(u32::MAX - 3)],
            order in Just((0..12u32).collect::<Vec<_>>()).prop_shuffle(),
            parts in 1..4usize,
        ) {
            let (mut ledger, mut out) = (ledger(first, 12), Vec::new());
            for call in order {
                let seq = first.wrapping_add(call);
                for part in 0..parts {
                    if ledger.is_next(seq) && part + 1 == parts {
                        out.extend_from_slice(&[call as u8, part as u8]);
                        ledger.advance(1);
                    } else {
                        ledger.answer(seq, &[call as u8, part as u8], part + 1 == parts, &mut out);
                    }
                }
            }
            let expected: Vec<_> = (0..12u8).flat_map(|call| (0..parts as u8).flat_map(move |part| [call, part])).collect();
            prop_assert_eq!(out, expected);
            prop_assert_eq!(ledger.in_flight(), 0);
        }
    }
}
