//! Replies, as a real memcached 1.6.18 sent them.

use mecha_core::{Asked, Decode, Framed, Limits, Matched, Outcome, Protocol, ProtocolError, Refusal};
use mecha_memcached::{Memcached, Reply, ReplyDecoder, ReplyKind, ops};
use proptest::prelude::*;

fn feed(bytes: &[u8], sizes: &[usize], limits: Limits) -> (Vec<(Reply, Vec<u8>)>, Option<ProtocolError>) {
    let mut decoder = ReplyDecoder::new(limits);
    let (mut held, mut at) = (Vec::new(), 0);
    let mut frames: Vec<(Reply, Vec<u8>)> = Vec::new();
    let mut sizes = sizes.iter().copied().chain(std::iter::repeat(usize::MAX));
    while at < bytes.len() {
        let take = sizes.next().unwrap_or(usize::MAX).clamp(1, bytes.len() - at);
        held.extend_from_slice(&bytes[at..at + take]);
        at += take;
        let mut heads = Vec::new();
        let decoded = decoder.decode(&held, &mut heads);
        let tail = decoded.map_or(0, |decoded| decoded.tail);
        if tail > 0 {
            frames.last_mut().expect("a tail continues a frame").1.extend_from_slice(&held[..tail]);
        }
        for head in heads {
            let frame = Memcached::reply_span(&head).of(&held, &[]).to_vec();
            frames.push((head, frame));
        }
        match decoded {
            Ok(decoded) => drop(held.drain(..decoded.consumed)),
            Err(error) => return (frames, Some(error)),
        }
    }
    (frames, None)
}

const RECORDED: &[u8] = b"VALUE k 0 3\r\na\nb\r\nVALUE l 7 0 99\r\n\r\nEND\r\nSTORED\r\n11\r\nVA 1 kn t-1\r\nx\r\nHD O1\r\nEN\r\nNF Oz\r\n\
STAT pid 1\r\nSTAT version 1.6.18\r\nEND\r\nVERSION 1.6.18\r\nMN\r\nME Zm9v exp=-1 la=0 cas=28 fetch=yes cls=1 size=63\r\n\
ERROR\r\nERROR: shutdown not enabled\r\nCLIENT_ERROR bad data chunk\r\nSERVER_ERROR object too large for cache\r\nSERVER_ERROR out of memory\r\nRESET\r\nOK\r\n";

#[test]
fn recorded_replies_end_where_their_requests_end() {
    let (frames, error) = feed(RECORDED, &[], Limits::default());
    assert_eq!(error, None);
    let parts: Vec<_> =
        frames.iter().map(|(head, _)| (head.matched() == Matched::Part, head.outcome())).collect();
    let (part, ok) = ((true, Outcome::Ok), (false, Outcome::Ok));
    let (client, server) = ((false, Outcome::ClientError), (false, Outcome::ServerError));
    assert_eq!(
        parts,
        [
            part, part, ok, ok, ok, ok, ok, ok, ok, part, part, ok, ok, ok, ok, client, client, client,
            client, server, ok, ok
        ]
    );
    assert_eq!(frames[0].0.value_span().of(&frames[0].1, &[]), b"a\nb");
    assert_eq!(frames[1].0.kind(), ReplyKind::Value);
}

#[test]
fn lists_of_one_server_are_one_reply_and_its_complaints_are_replies() {
    let bytes = b"key=a exp=-1 la=1 cas=2 fetch=no cls=1 size=63\r\nkey=b exp=-1\r\nEND\r\nmg a\r\nmg b b\r\nEN\r\nEND\r\n\
BUSY currently processing crawler request\r\nBADCLASS invalid class id\r\nNOTSTARTED no items to crawl\r\n\
MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\nSAME src and dst class are identical\r\nError TLS not enabled\r\n";
    let (frames, error) = feed(bytes, &[], Limits::default());
    assert_eq!(error, None);
    let parts: Vec<_> = frames.iter().map(|(head, _)| head.matched() == Matched::Part).collect();
    assert_eq!(
        parts,
        [true, true, false, true, true, false, false, false, false, false, false, false, false]
    );
}

#[test]
fn what_no_memcached_sends_is_an_error() {
    for bytes in
        [b"+OK\r\n".as_slice(), b"hello\r\n", b"\r\n", b"HTTP/1.1 400\r\n", b"VALUE k 0 1\r\nxyz\r\n"]
    {
        assert!(
            matches!(feed(bytes, &[], Limits::default()).1, Some(ProtocolError::Byte { .. })),
            "{bytes:?}"
        );
    }
    assert!(matches!(feed(b"VALUE k 0 x\r\n", &[], Limits::default()).1, Some(ProtocolError::Length { .. })));
    let small = Limits { max_frame: 10, stream_above: 10, ..Limits::default() };
    assert!(matches!(feed(b"VA 100\r\n", &[], small).1, Some(ProtocolError::FrameTooLarge { at: 0 })));
    let streamed = Limits { stream_above: 4, ..Limits::default() };
    assert!(matches!(
        feed(b"VA 3\r\nabcdef", &[7, 1, 1, 1], streamed).1,
        Some(ProtocolError::Byte { got: b'd', .. })
    ));
}

#[test]
fn quiet_forms_hide_what_memcached_hides() {
    let silent = |op, reply: &[u8]| Memcached::silent(op, &feed(reply, &[], Limits::default()).0[0].0);
    for reply in [b"STORED\r\n".as_slice(), b"CLIENT_ERROR x\r\n", b"NOT_FOUND\r\n", b"5\r\n"] {
        assert!(silent(ops::SET_NOREPLY, reply) && silent(ops::TOUCH_NOREPLY, reply));
        assert!(!silent(ops::SET, reply));
    }
    assert!(silent(ops::MG_QUIET, b"EN\r\n") && silent(ops::MG_UPDATE_QUIET, b"EN Ox\r\n"));
    assert!(!silent(ops::MG_QUIET, b"HD\r\n") && !silent(ops::MG_QUIET, b"VA 0\r\n\r\n"));
    for op in [ops::MS_QUIET, ops::MD_QUIET, ops::MA_QUIET] {
        assert!(silent(op, b"HD Ox\r\n"));
        for reply in [
            b"NS\r\n".as_slice(),
            b"EX\r\n",
            b"NF Ox\r\n",
            b"CLIENT_ERROR invalid flag\r\n",
            b"SERVER_ERROR x\r\n",
        ] {
            assert!(!silent(op, reply));
        }
    }
    assert!(silent(ops::MA_QUIET, b"VA 1\r\n5\r\n"));
}

#[test]
fn refusals_are_kept_from_noreply_alone() {
    let refusal = |op| {
        let mut out = Vec::new();
        Memcached::refuse(Asked { op, echo: 0 }, Refusal::TimedOut, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    for op in [
        ops::MG_QUIET,
        ops::MG_UPDATE_QUIET,
        ops::MS_QUIET,
        ops::MD_QUIET,
        ops::MA_QUIET,
        ops::SET,
        ops::MALFORMED,
    ] {
        assert_eq!(refusal(op), "SERVER_ERROR mecha: backend did not answer in time\r\n");
    }
    for op in [ops::SET_NOREPLY, ops::TOUCH_NOREPLY, ops::FLUSH_ALL_NOREPLY, ops::MALFORMED_NOREPLY] {
        assert_eq!(refusal(op), "");
    }
}

#[test]
fn answers_made_here_tell_their_outcome() {
    assert_eq!(Memcached::answer_outcome(b"VALUE a 0 5\r\nERROR\r\nEND\r\n"), Outcome::Ok);
    assert_eq!(Memcached::answer_outcome(b"VA 5\r\nERROR\r\n"), Outcome::Ok);
    assert_eq!(Memcached::answer_outcome(b"CLIENT_ERROR x\r\n"), Outcome::ClientError);
    assert_eq!(Memcached::answer_outcome(b"SERVER_ERROR x\r\n"), Outcome::ServerError);
    assert_eq!(Memcached::answer_outcome(b""), Outcome::Ok);
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_replies(
        sizes in prop::collection::vec(1_usize..20, 0..300),
        stream_above in prop_oneof![Just(8_usize), Just(64 << 10)],
    ) {
        let limits = Limits { stream_above, ..Limits::default() };
        let view = |(frames, error): (Vec<(Reply, Vec<u8>)>, _)| {
            let frames: Vec<_> = frames.into_iter().map(|(head, frame)| (head.kind(), head.value_span(), frame)).collect();
            (frames, error)
        };
        prop_assert_eq!(view(feed(RECORDED, &sizes, limits)), view(feed(RECORDED, &[], limits)));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), words in "(VALUE|VA|END|STAT|5)( [a-z0-9]{1,6}){0,5}\r\n") {
        let limits = Limits { stream_above: 20, max_frame: 100, ..Limits::default() };
        feed(&bytes, &[3, 5, 7], limits);
        feed(&[words.as_bytes(), &bytes].concat(), &[3, 5, 7], limits);
    }
}
