//! No bytes panic, and cutting them in two changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mecha_core::{Decode, Limits};
use mecha_resp::RequestDecoder;

fn frames(first: &[u8], second: &[u8]) -> Option<Vec<(usize, usize)>> {
    let mut decoder = RequestDecoder::new(Limits { stream_above: usize::MAX, ..Limits::default() });
    let (mut held, mut frames, mut base) = (Vec::new(), Vec::new(), 0);
    for piece in [first, second] {
        held.extend_from_slice(piece);
        let mut heads = Vec::new();
        let decoded = decoder.decode(&held, &mut heads).ok()?;
        frames.extend(heads.iter().map(|head| (base + head.span.start(), head.span.len())));
        held.drain(..decoded.consumed);
        base += decoded.consumed;
    }
    Some(frames)
}

fuzz_target!(|data: &[u8]| {
    let Some((at, bytes)) = data.split_first() else { return };
    let at = usize::from(*at) % (bytes.len() + 1);
    let (first, second) = bytes.split_at(at);
    assert_eq!(frames(bytes, b""), frames(first, second));
});
