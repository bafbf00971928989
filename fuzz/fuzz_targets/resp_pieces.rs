//! What both RESP targets check: no bytes panic, and cutting them in two changes nothing.

use mecha_core::{Decode, Limits, Span};

/// Asserts it for a decoder; the first byte says where to cut.
pub fn check<D: Decode>(data: &[u8], decoder: fn(Limits) -> D, span: fn(&D::Head) -> Span) {
    let Some((at, bytes)) = data.split_first() else { return };
    let frames = |pieces: [&[u8]; 2]| -> Option<Vec<(usize, usize)>> {
        let mut decoder = decoder(Limits { stream_above: usize::MAX, ..Limits::default() });
        let (mut held, mut frames, mut base) = (Vec::new(), Vec::new(), 0);
        for piece in pieces {
            held.extend_from_slice(piece);
            let mut heads = Vec::new();
            let decoded = decoder.decode(&held, &mut heads).ok()?;
            frames.extend(heads.iter().map(span).map(|span| (base + span.start(), span.len())));
            held.drain(..decoded.consumed);
            base += decoded.consumed;
        }
        Some(frames)
    };
    let (first, second) = bytes.split_at(usize::from(*at) % (bytes.len() + 1));
    assert_eq!(frames([bytes, b""]), frames([first, second]));
}
