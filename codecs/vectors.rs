//! What the tests of every codec do with recorded conversations; each includes this file.

use mecha_core::{Decode, Span};

/// Requests and what was answered, of one file.
pub(crate) fn exchanges(file: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut exchanges = Vec::<(Vec<u8>, Vec<u8>)>::new();
    for line in file.lines() {
        match line.split_at_checked(2) {
            Some(("> ", request)) => exchanges.push((bytes(request), Vec::new())),
            Some(("< ", answer)) => exchanges.last_mut().expect("an answer has a request").1 = bytes(answer),
            _ => assert!(line.starts_with('#') || line.is_empty(), "{line}"),
        }
    }
    exchanges
}

/// The bytes of an escaped line.
fn bytes(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        out.push(if byte == b'\\' {
            match rest.next().unwrap() {
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                other => other,
            }
        } else {
            byte
        });
    }
    out
}

/// The frames of `bytes`, given in pieces of `size`, and the most that was ever held back for the next piece.
pub(crate) fn cut<D: Decode>(
    mut decoder: D,
    bytes: &[u8],
    size: usize,
    span: fn(&D::Head) -> Span,
) -> (Vec<Vec<u8>>, Vec<D::Head>, usize) {
    let (mut held, mut frames, mut all, mut most) = (Vec::new(), Vec::<Vec<u8>>::new(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        let mut heads = Vec::new();
        let decoded = decoder.decode(&held, &mut heads).expect("a real server sent it");
        if decoded.tail > 0 {
            frames.last_mut().unwrap().extend_from_slice(&held[..decoded.tail]);
        }
        frames.extend(heads.iter().map(|head| span(head).of(&held, &[]).to_vec()));
        all.extend(heads);
        held.drain(..decoded.consumed);
        most = most.max(held.len());
    }
    assert!(held.is_empty(), "{} bytes are no frame", held.len());
    (frames, all, most)
}
