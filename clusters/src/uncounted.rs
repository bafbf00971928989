//! The bytes of a connection whose replies are not counted, cut into frames for filters that rewrite them.

use mecha_core::{Decode, Framed, Limits, Passage};

/// The largest frame that filters are shown. A server closes a subscriber for half of it.
const MAX_FRAME: usize = 64 << 20;
/// An empty buffer that is larger than this is given back.
const KEPT_BUFFER: usize = 64 << 10;

/// Where the bytes of one connection are between two reads.
pub struct Uncounted<P: Framed> {
    decoder: P::ReplyDecoder,
    /// Less than a frame.
    unread: Vec<u8>,
}

/// Bytes that are no frames, or a frame of more than 64 MiB: what cannot be told apart cannot be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFrame;

impl<P: Framed> Uncounted<P> {
    /// At the beginning of a frame, on a connection of this kind ([`mecha_core::Session::profile`]).
    pub fn new(profile: u8) -> Self {
        let limits = Limits { stream_above: usize::MAX, max_frame: MAX_FRAME, ..Limits::default() };
        Self { decoder: P::reply_decoder(limits, profile), unread: Vec::new() }
    }

    /// Whether all bytes so far were whole frames.
    pub fn is_between(&self) -> bool {
        self.unread.is_empty()
    }

    /// Takes bytes, shows each whole frame, and appends what becomes of it to `out`.
    ///
    /// # Errors
    /// [`NoFrame`]: nothing more can be taken.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut show: impl FnMut(&[u8], &mut Vec<u8>) -> Passage,
        out: &mut Vec<u8>,
    ) -> Result<(), NoFrame> {
        self.unread.extend_from_slice(bytes);
        let mut heads = Vec::new();
        let decoded = self.decoder.decode(&self.unread, &mut heads).map_err(|_| NoFrame)?;
        for head in &heads {
            let frame = P::reply_span(head).of(&self.unread, &[]);
            if show(frame, out) == Passage::Kept {
                out.extend_from_slice(frame);
            }
        }
        self.unread.drain(..decoded.consumed);
        if self.unread.is_empty() && self.unread.capacity() > KEPT_BUFFER {
            self.unread = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mecha_resp::Resp;

    use super::*;

    #[test]
    fn frames_are_shown_whole_however_they_come() {
        let wire = b"+a\r\n>2\r\n$1\r\nb\r\n:1\r\n*1\r\n$2\r\nok\r\n$-1\r\n";
        for size in 1..=wire.len() {
            let (mut stream, mut seen, mut out) = (Uncounted::<Resp>::new(1), Vec::new(), Vec::new());
            for piece in wire.chunks(size) {
                let show = |frame: &[u8], out: &mut Vec<u8>| {
                    seen.push(frame.to_vec());
                    match frame.first() {
                        Some(b'>') => Passage::Dropped,
                        Some(b'*') => {
                            out.extend_from_slice(b"+other\r\n");
                            Passage::Rewritten
                        }
                        _ => Passage::Kept,
                    }
                };
                stream.take(piece, show, &mut out).unwrap();
            }
            assert!(stream.is_between());
            assert_eq!(seen.len(), 4, "{size}");
            assert_eq!(String::from_utf8(out).unwrap(), "+a\r\n+other\r\n$-1\r\n", "{size}");
        }
    }

    #[test]
    fn what_is_no_frame_is_not_let_through() {
        let mut out = Vec::new();
        let kept = |_: &[u8], _: &mut Vec<u8>| Passage::Kept;
        assert_eq!(Uncounted::<Resp>::new(1).take(b"nonsense\r\n", kept, &mut out), Err(NoFrame));
        assert!(out.is_empty());
    }
}
