//! Replies leave in request order.

use std::collections::VecDeque;

/// The unanswered calls of one connection, oldest first.
///
/// While answers arrive in order, which is the rule with one upstream, nothing is stored: two counters move. An answer
/// that is early waits in a slot until everything before it has left.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The oldest unanswered call.
    first: u32,
    /// The next call to be taken.
    next: u32,
    /// Slots from `first` on; shorter than the calls in flight, as late slots are made when needed.
    held: VecDeque<Slot>,
    held_bytes: usize,
}

#[derive(Debug, Default)]
struct Slot {
    bytes: Vec<u8>,
    is_done: bool,
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

    /// Bytes that wait for an earlier answer.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
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
        if distance == 0 {
            out.extend_from_slice(bytes);
            if is_done {
                self.first = self.first.wrapping_add(1);
                self.held.pop_front();
                self.release(out);
            }
            return;
        }
        let index = distance as usize;
        if self.held.len() <= index {
            self.held.resize_with(index + 1, Slot::default);
        }
        if let Some(slot) = self.held.get_mut(index) {
            slot.bytes.extend_from_slice(bytes);
            slot.is_done |= is_done;
            self.held_bytes += bytes.len();
        }
    }

    /// Lets everything leave that waited for the answer that has just left.
    fn release(&mut self, out: &mut Vec<u8>) {
        while let Some(slot) = self.held.front_mut() {
            self.held_bytes -= slot.bytes.len();
            out.append(&mut slot.bytes);
            if !slot.is_done {
                break;
            }
            self.held.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        // Slots that were made only to reach a later one hold nothing.
        if self.held.iter().all(|slot| slot.bytes.is_empty() && !slot.is_done) {
            self.held.clear();
        }
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
