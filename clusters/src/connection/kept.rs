//! The requests that a connection has not got answers to, byte for byte, so that one can be sent again elsewhere.

use std::collections::VecDeque;

/// Unanswered bytes at which submissions must wait.
pub(super) const KEPT_HIGH: usize = 1 << 20;

/// A queue of frames in one buffer.
#[derive(Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    start: usize,
    lengths: VecDeque<u32>,
    /// The last frame goes on in pieces that are not kept.
    is_cut: bool,
}

impl Kept {
    /// Adds frames of these lengths, which together are `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8], lengths: impl Iterator<Item = usize>) {
        self.bytes.extend_from_slice(bytes);
        self.lengths.extend(lengths.map(|length| length as u32));
    }

    /// More of the last frame was sent than is kept.
    pub(super) fn cut(&mut self) {
        self.is_cut = !self.lengths.is_empty();
    }

    /// The oldest frame; empty if it is not there as a whole.
    pub(super) fn front(&self) -> &[u8] {
        let length = self.lengths.front().map_or(0, |length| *length as usize);
        if self.is_cut && self.lengths.len() == 1 {
            return &[];
        }
        self.bytes.get(self.start..self.start + length).unwrap_or_default()
    }

    /// All frames, the oldest first.
    pub(super) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.start;
        self.lengths.iter().map(move |length| {
            let start = at;
            at += *length as usize;
            self.bytes.get(start..at).unwrap_or_default()
        })
    }

    /// Forgets the `count` oldest frames.
    pub(super) fn answered(&mut self, count: usize) {
        let count = count.min(self.lengths.len());
        self.start += self.lengths.drain(..count).map(|length| length as usize).sum::<usize>();
        if self.lengths.is_empty() {
            if self.bytes.capacity() > KEPT_HIGH {
                self.bytes = Vec::new();
            }
            self.bytes.clear();
            (self.start, self.is_cut) = (0, false);
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Whether every frame is there as a whole.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_cut
    }

    /// How many of the youngest frames lie wholly in the last `bytes` bytes: those that were not sent.
    pub(super) fn unsent(&self, bytes: usize) -> usize {
        let mut left = if self.is_cut { 0 } else { bytes };
        let is_unsent = |length: &&u32| {
            let fits = left >= **length as usize;
            left = left.saturating_sub(**length as usize);
            fits
        };
        self.lengths.iter().rev().take_while(is_unsent).count()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - self.start >= KEPT_HIGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_kept_until_they_are_answered() {
        let mut kept = Kept::default();
        kept.push(b"aabbb", [2, 3].into_iter());
        kept.push(b"c", [1].into_iter());
        assert_eq!(kept.front(), b"aa");
        kept.answered(1);
        assert_eq!(kept.front(), b"bbb");
        kept.answered(1);
        assert_eq!(kept.front(), b"c");
        kept.cut();
        assert_eq!(kept.front(), b"");
        kept.answered(7);
        kept.push(b"dd", [2].into_iter());
        assert_eq!(kept.front(), b"dd");
    }

    #[test]
    fn a_frame_of_which_a_byte_was_sent_is_not_unsent() {
        let mut kept = Kept::default();
        kept.push(b"aabbbc", [2, 3, 1].into_iter());
        let unsent: Vec<_> = (0..8).map(|bytes| kept.unsent(bytes)).collect();
        assert_eq!(unsent, [0, 1, 1, 1, 2, 2, 3, 3]);
        kept.answered(1);
        assert_eq!([kept.unsent(6), kept.unsent(4), kept.unsent(3)], [2, 2, 1]);
        kept.cut();
        assert_eq!(kept.unsent(4), 0, "of a frame that is not kept whole nobody knows");
    }
}
