//! Whatever a client sends, in whatever pieces: no panic, and the same frames as at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mecha_core::{Decode, Framed, Limits};
use mecha_memcached::{Memcached, RequestDecoder, parse};

fuzz_target!(|data: &[u8]| {
    let Some((&step, bytes)) = data.split_first() else { return };
    let limits = Limits { stream_above: 1 << 20, max_frame: 1 << 20, ..Limits::default() };
    let whole = cut(bytes, usize::MAX, limits);
    assert_eq!(whole, cut(bytes, usize::from(step).max(1), limits));
});

fn cut(bytes: &[u8], step: usize, limits: Limits) -> Vec<(u16, bool, Vec<u8>)> {
    let mut decoder = RequestDecoder::new(limits);
    let (mut held, mut frames, mut heads) = (Vec::new(), Vec::<(u16, bool, Vec<u8>)>::new(), Vec::new());
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        heads.clear();
        let decoded = decoder.decode(&held, &mut heads);
        if let (Ok(decoded), Some(last)) = (&decoded, frames.last_mut()) {
            last.2.extend_from_slice(&held[..decoded.tail]);
        }
        for head in &heads {
            let mut frame = head.span().of(&held, &[]).to_vec();
            frames.push((head.op().0, head.fault().is_some(), frame.clone()));
            let _ = parse(head, &frame);
            Memcached::keys(head, &frame, &mut |_| {});
            Memcached::unquiet(head, &mut frame);
        }
        match decoded {
            Ok(decoded) => drop(held.drain(..decoded.consumed)),
            Err(_) => break,
        }
    }
    frames
}
