//! The binary protocol, as a real memcached 1.6.18 speaks it.

use mecha_core::{
    Batch, Decode, Framed, Limits, Matched, Outcome, Protocol, ProtocolError, Refusal, ReplyCount, Session,
    Ticket, Verdict,
};
use mecha_memcached::binary::{HEADER, Response, opcode, status};
use mecha_memcached::{Connection, Fault, Memcached, Reply, ReplyDecoder, Request, RequestDecoder, ops};
use proptest::prelude::*;

fn request(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], opaque: u32, cas: u64) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend_from_slice(&(key.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&[extras.len() as u8, 0, 0, 0]);
    bytes.extend_from_slice(&((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
    bytes.extend_from_slice(&opaque.to_be_bytes());
    bytes.extend_from_slice(&cas.to_be_bytes());
    [bytes.as_slice(), extras, key, value].concat()
}

/// Heads with their frames, and the error that ended them.
type Cut<H> = (Vec<(H, Vec<u8>)>, Option<ProtocolError>);

/// Feeds `bytes` in pieces of the given size, as the engine does.
fn feed<D: Decode>(
    mut decoder: D,
    bytes: &[u8],
    size: usize,
    span: impl Fn(&D::Head) -> mecha_core::Span,
) -> Cut<D::Head> {
    let mut held = Vec::new();
    let mut frames: Vec<(D::Head, Vec<u8>)> = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        held.extend_from_slice(piece);
        let mut heads = Vec::new();
        let decoded = decoder.decode(&held, &mut heads);
        let tail = decoded.map_or(0, |decoded| decoded.tail);
        if tail > 0 {
            frames.last_mut().expect("a tail continues a frame").1.extend_from_slice(&held[..tail]);
        }
        for head in heads {
            let frame = span(&head).of(&held, &[]).to_vec();
            frames.push((head, frame));
        }
        match decoded {
            Ok(decoded) => drop(held.drain(..decoded.consumed)),
            Err(error) => return (frames, Some(error)),
        }
    }
    (frames, None)
}

fn requests(bytes: &[u8], size: usize, limits: Limits) -> Cut<Request> {
    feed(RequestDecoder::new(limits), bytes, size, Request::span)
}

fn replies(bytes: &[u8], size: usize, limits: Limits) -> Cut<Reply> {
    feed(Memcached::reply_decoder(limits, 1), bytes, size, Memcached::reply_span)
}

/// What the session answers, and whether it closes.
fn answers(bytes: &[u8]) -> (Vec<(u8, u16, u32)>, bool) {
    let mut heads = Vec::new();
    let _ = RequestDecoder::new(Limits::default()).decode(bytes, &mut heads);
    let mut calls: Vec<_> = heads.iter().map(|head| Memcached::call(head, Ticket::default())).collect();
    let (mut local, mut session) = (Vec::new(), Connection::default());
    assert!(calls.first().is_some_and(|call| session.concerns(call)));
    let mut batch = Batch::<Memcached> {
        wire: bytes,
        local: &mut local,
        heads: &mut heads,
        calls: &mut calls,
        session: &mut session,
    };
    let closes = Connection::on_requests(&mut batch, 0).is_over;
    assert_eq!(session.profile(), 1);
    let text: Vec<u8> = calls
        .iter()
        .flat_map(|call| match call.verdict {
            Verdict::Answered(span) => span.of(bytes, &local).to_vec(),
            _ => Vec::new(),
        })
        .collect();
    let read = |frame: &[u8]| {
        (
            frame[1],
            u16::from_be_bytes([frame[6], frame[7]]),
            u32::from_be_bytes(frame[12..16].try_into().unwrap()),
        )
    };
    (replies(&text, usize::MAX, Limits::default()).0.iter().map(|(_, frame)| read(frame)).collect(), closes)
}

#[test]
fn the_first_byte_decides_for_the_whole_connection() {
    let noop = request(0x0a, b"", b"", b"", 7, 0);
    let (frames, error) =
        requests(&[noop.as_slice(), b"version\r\n"].concat(), usize::MAX, Limits::default());
    assert_eq!(frames.len(), 1);
    assert_eq!(error, Some(ProtocolError::Byte { at: 24, got: b'v' }));
    let mut out = Vec::new();
    Memcached::protocol_error(ProtocolError::Byte { at: 24, got: b'v' }, &mut out);
    assert!(out.is_empty());
    let (frames, error) =
        requests(&[b"version\r\n", noop.as_slice(), b"\n"].concat(), usize::MAX, Limits::default());
    assert_eq!((frames[0].0.op(), frames[1].0.op(), error), (ops::VERSION, ops::UNKNOWN, None));
}

#[test]
fn what_memcached_does_not_take_is_answered_here_as_it_answers() {
    let noop = request(0x0a, b"", b"", b"", 9, 0);
    let then_noop = |bytes: Vec<u8>| answers(&[bytes, noop.clone()].concat());
    let long = [b'k'; 251];
    for (bytes, code, says) in [
        (request(0x01, b"", b"k", b"v", 1, 0), 0x01, status::INVALID),
        (request(0x01, &[0; 8], b"", b"v", 1, 0), 0x01, status::INVALID),
        (request(0x00, b"", b"", b"", 1, 0), 0x00, status::INVALID),
        (request(0x00, b"", b"k", b"v", 1, 0), 0x00, status::INVALID),
        (request(0x00, b"", &long, b"", 1, 0), 0x00, status::INVALID),
        (request(0x0a, b"", b"k", b"", 1, 0), 0x0a, status::INVALID),
        (request(0x05, &[0; 4], b"k", b"", 1, 0), 0x05, status::INVALID),
        (request(0x08, &[0; 8], b"", b"", 1, 0), 0x08, status::INVALID),
        (request(0x21, b"", b"", b"", 1, 0), 0x21, status::INVALID),
    ] {
        assert_eq!(then_noop(bytes), (vec![(code, says, 1)], true), "{code:x}");
    }
    let mut overrun = request(0x00, b"", b"k", b"", 1, 0);
    overrun[3] = 10;
    assert_eq!(then_noop(overrun), (vec![(0x00, status::UNKNOWN_COMMAND, 1)], true));
    // The server would lose its place behind the body of these two.
    for (code, bytes) in
        [(0x55, request(0x55, b"", b"k", b"abc", 1, 0)), (0x1b, request(0x1b, &[0; 4], b"", b"", 1, 0))]
    {
        let expected = vec![(code, status::UNKNOWN_COMMAND, 1), (0x0a, status::OK, 9)];
        assert_eq!(then_noop(bytes), (expected, false));
    }
    assert_eq!(then_noop(request(0x07, b"", b"", b"", 1, 0)), (vec![(0x07, status::OK, 1)], true));
    assert_eq!(then_noop(request(0x17, b"", b"", b"", 1, 0)), (vec![], true));
}

#[test]
fn quiet_requests_are_made_audible_and_their_replies_quiet_again() {
    for code in 0..=0xff_u8 {
        let bytes = request(code, &[0; 8], b"k", b"v", 1, 0);
        let extras: &[u8] = match code {
            0x11..=0x13 => &[0; 8],
            0x15 | 0x16 => &[0; 20],
            0x1e | 0x24 => &[0; 4],
            _ => b"",
        };
        let value: &[u8] = if matches!(code, 0x11..=0x13 | 0x19 | 0x1a) { b"v" } else { b"" };
        let key: &[u8] = if code == 0x18 { b"" } else { b"k" };
        let mut quiet = request(code, extras, key, value, 1, 0);
        let (frames, _) = requests(&quiet, usize::MAX, Limits::default());
        let head = frames[0].0;
        let op = head.op();
        if Memcached::reply_start(op).is_empty() {
            assert!(!head.is_quiet(), "{code:x} {bytes:?}");
            continue;
        }
        assert_eq!(Memcached::call(&head, Ticket::default()).replies, ReplyCount::Maybe);
        let before = quiet.clone();
        Memcached::unquiet(&head, &mut quiet);
        assert_eq!((quiet[0], &quiet[2..]), (0x80, &before[2..]));
        let (audible, _) = requests(&quiet, usize::MAX, Limits::default());
        assert!(!audible[0].0.is_quiet() && audible[0].0.fault().is_none(), "{code:x}");
        assert_eq!(Memcached::reply_start(op), [0x81, code]);
        let silent = |status| {
            let mut reply = Vec::new();
            Response { opcode: quiet[1], status, ..Response::default() }.write(&mut reply);
            Memcached::silent(op, &replies(&reply, usize::MAX, Limits::default()).0[0].0)
        };
        let retrieves = matches!(code, 0x09 | 0x0d | 0x1e | 0x24);
        assert_eq!((silent(status::OK), silent(status::NOT_FOUND)), (!retrieves, retrieves), "{code:x}");
        assert!(!silent(status::EXISTS) && !silent(status::TOO_LARGE) && !silent(status::AUTH));
    }
}

#[test]
fn the_list_of_a_stat_ends_with_a_reply_that_has_no_key() {
    let mut bytes = Vec::new();
    for (key, value) in [(b"pid".as_slice(), b"1".as_slice()), (b"version", b"1.6.18"), (b"", b"")] {
        Response { opcode: 0x10, key, value, ..Response::default() }.write(&mut bytes);
    }
    Response::error(0x10, 5, status::NOT_FOUND, &mut bytes);
    let (frames, error) = replies(&bytes, 7, Limits::default());
    let ends: Vec<_> = frames.iter().map(|(head, _)| Memcached::matched(head)).collect();
    assert_eq!((ends, error), (vec![Matched::Part, Matched::Part, Matched::Last, Matched::Last], None));
    assert_eq!(
        replies(b"STORED\r\n", 100, Limits::default()).1,
        Some(ProtocolError::Byte { at: 0, got: b'S' })
    );
}

#[test]
fn a_refusal_carries_opcode_and_opaque() {
    let mut heads = Vec::new();
    let bytes = request(0x11, &[0; 8], b"k", b"v", 0xdead_beef, 0);
    RequestDecoder::new(Limits::default()).decode(&bytes, &mut heads).expect("the request is right");
    let call = Memcached::call(&heads[0], Ticket::default());
    let mut out = Vec::new();
    Memcached::refuse(call.asked(), Refusal::TimedOut, &mut out);
    assert_eq!((out[1], &out[12..16]), (0x11, 0xdead_beef_u32.to_be_bytes().as_slice()));
    assert_eq!(&out[HEADER..], b"mecha: backend did not answer in time");
    assert_eq!(Memcached::answer_outcome(&out), Outcome::ServerError);
    assert_eq!(opcode(call.op), 0x11);
}

#[test]
fn a_body_that_is_too_large_is_swallowed() {
    let limits = Limits { max_frame: 60, stream_above: 60, ..Limits::default() };
    let bytes =
        [request(0x01, &[0; 8], b"k", &[b'v'; 100], 1, 0), request(0x0a, b"", b"", b"", 2, 0)].concat();
    for size in 1..bytes.len() {
        let (frames, error) = requests(&bytes, size, limits);
        let seen: Vec<_> = frames.iter().map(|(head, _)| (head.op(), head.fault())).collect();
        assert_eq!(seen, [(ops::BIN_MALFORMED, Some(Fault::TooLarge)), (ops::BIN_NOOP, None)], "{size}");
        assert_eq!(error, None);
    }
}

fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let extras = prop::sample::select(vec![0_usize, 4, 8, 20]);
    let key = prop::collection::vec(any::<u8>(), 0..10);
    let value = prop::collection::vec(any::<u8>(), 0..120);
    (0..0x28_u8, extras, key, value, any::<u32>(), any::<u64>()).prop_map(
        |(code, extras, key, value, opaque, cas)| request(code, &vec![3; extras], &key, &value, opaque, cas),
    )
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_requests(
        list in prop::collection::vec(any_request(), 1..6),
        size in 1_usize..40,
        stream_above in prop_oneof![Just(40_usize), Just(64 << 10)],
    ) {
        let limits = Limits { stream_above, ..Limits::default() };
        // What follows a request that ends the connection is nobody's.
        let mut bytes = Vec::new();
        for request in list {
            let ends = requests(&request, usize::MAX, limits).0[0].0.fault().is_some_and(Fault::ends);
            if !ends {
                bytes.extend(request);
            }
        }
        let view = |(frames, error): (Vec<(Request, Vec<u8>)>, _)| {
            let frames: Vec<_> = frames
                .into_iter()
                .map(|(head, frame)| (head.op(), head.fault(), head.key_span(), head.value_span(), head.opaque(), frame))
                .collect();
            (frames, error)
        };
        let whole = view(requests(&bytes, usize::MAX, limits));
        prop_assert_eq!(&view(requests(&bytes, size, limits)), &whole);
        let joined: Vec<u8> = whole.0.iter().flat_map(|frame| frame.5.clone()).collect();
        prop_assert_eq!(joined, bytes);
    }

    #[test]
    fn what_is_written_is_read_again_in_any_pieces(
        code in 0..0x28_u8, status in 0..0x90_u16, opaque: u32, cas: u64, flags: Option<u32>,
        key in prop::collection::vec(any::<u8>(), 0..9), value in prop::collection::vec(any::<u8>(), 0..99), size in 1_usize..40,
    ) {
        let mut bytes = Vec::new();
        Response { opcode: code, status, opaque, cas, flags, key: &key, value: &value }.write(&mut bytes);
        let (frames, error) = replies(&bytes, size, Limits::default());
        prop_assert_eq!(error, None);
        prop_assert_eq!(frames.len(), 1);
        prop_assert_eq!(frames[0].0.value_span().of(&frames[0].1, &[]), value.as_slice());
        prop_assert_eq!(&frames[0].1, &bytes);
    }

    #[test]
    fn no_bytes_panic(code: u8, bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1_usize..30) {
        let limits = Limits { stream_above: 50, max_frame: 100, max_args: 3, ..Limits::default() };
        for start in [0x80, 0x81] {
            let bytes = [&[start, code], bytes.as_slice()].concat();
            for (head, mut frame) in requests(&bytes, size, limits).0 {
                Memcached::keys(&head, &frame, &mut |_| {});
                Memcached::unquiet(&head, &mut frame);
            }
            replies(&bytes, size, limits);
            let _ = ReplyDecoder::new(limits).decode(&bytes, &mut Vec::new());
            Memcached::answer_outcome(&bytes);
        }
    }
}
