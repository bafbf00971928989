use mecha_core::{Decode, Limits, ProtocolError};
use proptest::prelude::*;

use super::{Request, RequestDecoder};
use crate::ops::op;
use crate::write_request;

fn small() -> Limits {
    Limits { stream_above: 64, max_frame: 4096, max_args: 64, max_line: 128, ..Limits::default() }
}

/// Feeds `bytes` in pieces, as a connection would, and returns the frames' bytes with what their heads say.
fn pieces(bytes: &[u8], cuts: &[usize], limits: Limits) -> Result<Vec<(Vec<u8>, Request)>, ProtocolError> {
    let mut decoder = RequestDecoder::new(limits);
    let (mut held, mut frames, mut at) = (Vec::new(), Vec::<(Vec<u8>, Request)>::new(), 0);
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    for cut in cuts {
        held.extend_from_slice(&bytes[at..cut]);
        at = cut;
        let mut heads = Vec::new();
        let decoded = decoder.decode(&held, &mut heads)?;
        assert!(decoded.tail <= decoded.consumed && decoded.consumed <= held.len());
        if decoded.tail > 0 {
            frames.last_mut().unwrap().0.extend_from_slice(&held[..decoded.tail]);
        }
        for head in heads {
            frames.push((head.span.of(&held, &[]).to_vec(), head));
        }
        held.drain(..decoded.consumed);
    }
    Ok(frames)
}

fn check(bytes: &[u8], expected: Result<usize, ProtocolError>) {
    assert_eq!(pieces(bytes, &[], small()).map(|frames| frames.len()), expected, "{}", bytes.escape_ascii());
}

#[test]
fn heads_tell_the_command_and_its_first_key() {
    let mut bytes =
        b"*2\r\n$3\r\nGeT\r\n$3\r\nkey\r\n*3\r\n$6\r\nOBJECT\r\n$8\r\nencoding\r\n$1\r\nk\r\n".to_vec();
    bytes.extend_from_slice(b"PING\r\n");
    let frames = pieces(&bytes, &[], small()).unwrap();
    let seen: Vec<_> = frames
        .iter()
        .map(|(frame, head)| {
            (head.op, head.argc, &frame[head.key_at as usize..][..head.key_len as usize], head.is_inline)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (op::GET, 2, &b"key"[..], false),
            (op::OBJECT_ENCODING, 3, &b"k"[..], false),
            (op::PING, 1, &b""[..], true)
        ]
    );
}

#[test]
fn broken_bytes_are_named() {
    check(b"*1\r\n$4\r\nPING\r\n", Ok(1));
    check(b"\r\n\n*0\r\n*-1\r\nPING\r\n", Ok(1));
    check(b"*x\r\n", Err(ProtocolError::Count { at: 1 }));
    check(b"*65\r\n", Err(ProtocolError::Count { at: 0 }));
    check(b"*1\r\n:4\r\n", Err(ProtocolError::Byte { at: 4, got: b':' }));
    check(b"*1\r\n$-1\r\n", Err(ProtocolError::Length { at: 4 }));
    check(b"*1\r\n$+1\r\n", Err(ProtocolError::Length { at: 5 }));
    check(b"*1\r\n$4\r\nPINGxx", Err(ProtocolError::Byte { at: 12, got: b'x' }));
    check(b"*1\r\n$5000\r\n", Err(ProtocolError::FrameTooLarge { at: 0 }));
    check(b"get 'a\r\n", Err(ProtocolError::Quotes { at: 0 }));
    check(&[b'a'; 200], Err(ProtocolError::LineTooLong { at: 0 }));
}

#[test]
fn a_large_frame_is_handed_on_in_pieces() {
    let mut bytes = Vec::new();
    let value = vec![b'v'; 3000];
    write_request([b"SET".as_slice(), b"key", &value].into_iter(), &mut bytes);
    let whole = bytes.clone();
    write_request([b"GET".as_slice(), b"key"].into_iter(), &mut bytes);
    let mut decoder = RequestDecoder::new(small());
    let mut heads = Vec::new();
    let first = decoder.decode(&bytes[..100], &mut heads).unwrap();
    assert!(first.open && first.consumed == 100 && heads[0].op == op::SET && heads[0].key_len == 3);
    let frames = pieces(&bytes, &(0..bytes.len()).step_by(7).collect::<Vec<_>>(), small()).unwrap();
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0].0, whole);
}

#[test]
fn a_slow_sender_costs_no_rescans() {
    // 200 kB one byte at a time: a decoder that starts over on each call would look at 2e10 bytes.
    let mut bytes = Vec::new();
    let words: Vec<_> = (0..20_000).map(|word| format!("w{word:05}")).collect();
    write_request(words.iter().map(|word| word.as_bytes()), &mut bytes);
    let mut decoder = RequestDecoder::new(Limits { stream_above: usize::MAX, ..Limits::default() });
    let mut heads = Vec::new();
    for end in 1..=bytes.len() {
        decoder.decode(&bytes[..end], &mut heads).unwrap();
    }
    assert_eq!((heads.len(), heads[0].argc), (1, 20_000));
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"GET".to_vec()),
        Just(b"client".to_vec()),
        Just(b"setname".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(any::<u8>(), 90..200),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let request = prop::collection::vec(word(), 1..6).prop_map(|words| {
        let mut frame = Vec::new();
        write_request(words.iter().map(Vec::as_slice), &mut frame);
        frame
    });
    let inline = "[a-z]{1,8}( [a-z]{1,8}){0,3}\r\n".prop_map(String::into_bytes);
    prop::collection::vec(prop_oneof![4 => request, 1 => inline], 1..8).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_frames(bytes in stream(), cuts in prop::collection::vec(any::<usize>(), 0..20)) {
        let unlimited = Limits { stream_above: usize::MAX, ..small() };
        let whole = pieces(&bytes, &[], unlimited).unwrap();
        let pieced = pieces(&bytes, &cuts, unlimited).unwrap();
        let streamed = pieces(&bytes, &cuts, small()).unwrap();
        // Round trip: the frames are the input.
        prop_assert_eq!(whole.iter().flat_map(|frame| frame.0.clone()).collect::<Vec<_>>(), bytes);
        prop_assert_eq!(whole.len(), pieced.len());
        for ((one, two), three) in whole.iter().zip(&pieced).zip(&streamed) {
            let facts = |head: &Request| (head.op, head.argc, head.key_at, head.key_len, head.is_inline);
            prop_assert_eq!(&one.0, &two.0);
            prop_assert_eq!(facts(&one.1), facts(&two.1));
            prop_assert_eq!(&one.0, &three.0);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(any::<usize>(), 0..10)) {
        let _ = pieces(&bytes, &cuts, small());
    }

    #[test]
    fn no_damaged_frames_panic(
        mut bytes in stream(),
        damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = pieces(&bytes, &cuts, small());
    }
}
