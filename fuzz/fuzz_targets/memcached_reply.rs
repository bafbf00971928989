//! Whatever a server sends, in whatever pieces: no panic, and the same frames as at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mecha_core::{Decode, Framed, Limits};
use mecha_memcached::{Memcached, ReplyDecoder};

fuzz_target!(|data: &[u8]| {
    let Some((&step, bytes)) = data.split_first() else { return };
    assert_eq!(cut(bytes, usize::MAX), cut(bytes, usize::from(step).max(1)));
});

fn cut(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
    let limits = Limits { stream_above: 64, max_frame: 1 << 20, ..Limits::default() };
    let mut decoder = ReplyDecoder::new(limits);
    let (mut held, mut frames, mut heads) = (Vec::new(), Vec::<Vec<u8>>::new(), Vec::new());
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        heads.clear();
        let decoded = decoder.decode(&held, &mut heads);
        if let (Ok(decoded), Some(last)) = (&decoded, frames.last_mut()) {
            last.extend_from_slice(&held[..decoded.tail]);
        }
        for head in &heads {
            frames.push(Memcached::reply_span(head).of(&held, &[]).to_vec());
        }
        match decoded {
            Ok(decoded) => drop(held.drain(..decoded.consumed)),
            // How much of an open frame was handed out before its end proved wrong depends on the pieces.
            Err(_) => {
                frames.pop();
                break;
            }
        }
    }
    frames
}
