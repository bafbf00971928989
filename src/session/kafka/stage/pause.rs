//! Clients that are to send nothing more for a while, and how they are told (KIP-219).
//!
//! Nothing is read from the connection for as long, and what had come before is kept. The answers meanwhile say how long that will
//! be; of those that pass in pieces, the field stands at the beginning, and its bytes wait for each other.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use mecha_kafka::table::ApiKey;
use mecha_kafka::throttle::{place, raised};
use mecha_transport::Clock;
use tokio::time::Sleep;

/// When a client may go on.
#[derive(Default)]
pub(super) struct Pause {
    /// By the process' clock; 0 is now.
    until_micros: u64,
    sleep: Option<Pin<Box<Sleep>>>,
    /// The connection is about to end, and nobody waits any more.
    is_draining: bool,
}

/// The beginning of an answer, up to the field that says how long its client should wait.
pub(super) struct Opening {
    place: usize,
    millis: i32,
    bytes: [u8; 5],
    len: usize,
}

// === impl Pause ===

impl Pause {
    /// Lasts so long from now on at least.
    pub(super) fn extend(&mut self, micros: u64, now_micros: u64) {
        let until = now_micros.saturating_add(micros);
        if micros > 0 && until > self.until_micros && !self.is_draining {
            (self.until_micros, self.sleep) = (until, None);
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.until_micros > 0
    }

    /// Milliseconds that are left, which is what clients are told.
    pub(super) fn millis(&self, now_micros: u64) -> i32 {
        i32::try_from(self.until_micros.saturating_sub(now_micros).div_ceil(1000)).unwrap_or(i32::MAX)
    }

    /// Whether it has just ended. The task is woken when it does.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, clock: Clock) -> bool {
        if !self.is_on() {
            return false;
        }
        let left = || Duration::from_micros(self.until_micros.saturating_sub(clock.micros()));
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(left())));
        match sleep.as_mut().poll(cx) {
            Poll::Pending => false,
            Poll::Ready(()) => {
                (self.until_micros, self.sleep) = (0, None);
                true
            }
        }
    }

    /// It ends, and no other begins.
    pub(super) fn drain(&mut self) {
        *self = Self { is_draining: true, ..Self::default() };
    }
}

// === impl Opening ===

impl Opening {
    /// `None` if the version has the field elsewhere.
    pub(super) fn new(key: ApiKey, version: i16, millis: i32) -> Option<Self> {
        let place = place(key, version).filter(|place| *place <= 1)?;
        Some(Self { place, millis, bytes: [0; 5], len: 0 })
    }

    /// Takes what `piece` begins with, and appends it once the field is there, or nothing more will come: how many bytes were
    /// taken. Then it is over.
    pub(super) fn take(&mut self, piece: &[u8], is_last: bool, out: &mut Vec<u8>) -> (usize, bool) {
        let size = self.place + 4;
        let room = self.bytes.get_mut(self.len..size).unwrap_or_default();
        let taken = room.len().min(piece.len());
        room.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
        self.len += taken;
        let is_whole = self.len == size;
        if !(is_whole || is_last && taken == piece.len()) {
            return (taken, false);
        }
        let (header, field) = self.bytes.split_at_mut(self.place);
        if let Some(field) =
            field.first_chunk_mut().filter(|_| is_whole && header.iter().all(|byte| *byte == 0))
        {
            *field = raised(*field, self.millis);
        }
        out.extend_from_slice(self.bytes.get(..self.len).unwrap_or_default());
        (taken, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_raised_in_any_pieces() {
        // Flexible versions have a byte before it.
        for (version, place) in [(11, 0), (17, 1)] {
            let body: Vec<u8> = [&vec![0; place][..], &[0, 0, 0, 9], b"rest"].concat();
            for (size, millis) in [(1, 700), (2, 700), (3, 5), (100, 700)] {
                let mut opening = Opening::new(ApiKey::FETCH, version, millis);
                let mut out = Vec::new();
                for piece in body.chunks(size) {
                    let Some(begun) = &mut opening else {
                        out.extend_from_slice(piece);
                        continue;
                    };
                    let (taken, is_over) = begun.take(piece, false, &mut out);
                    if is_over {
                        opening = None;
                        out.extend_from_slice(&piece[taken..]);
                    }
                }
                let told = millis.max(9).to_be_bytes();
                assert_eq!(out, [&vec![0; place][..], &told, b"rest"].concat(), "pieces of {size}");
            }
        }
        // What ends before the field is passed as it is.
        let (mut opening, mut out) = (Opening::new(ApiKey::FETCH, 17, 1).unwrap(), Vec::new());
        assert_eq!(opening.take(&[0, 0, 7], true, &mut out), (3, true));
        assert_eq!(out, [0, 0, 7]);
    }
}
