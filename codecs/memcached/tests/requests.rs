//! Requests: what a real memcached 1.6.18 takes for a command, and how it answers those that are wrong.

use mecha_core::{
    Affinity, Batch, Decode, Framed, Keys, Limits, Protocol, ProtocolError, ReplyCount, Session, Ticket,
    Verdict,
};
use mecha_memcached::{Connection, Fault, Memcached, Request, RequestDecoder, ops};
use proptest::prelude::*;

fn decode(bytes: &[u8]) -> Vec<Request> {
    let mut heads = Vec::new();
    RequestDecoder::new(Limits::default())
        .decode(bytes, &mut heads)
        .expect("the vector is no protocol error");
    heads
}

/// Feeds `bytes` in pieces of the given sizes, as the engine does.
fn feed(bytes: &[u8], sizes: &[usize], limits: Limits) -> (Vec<(Request, Vec<u8>)>, Option<ProtocolError>) {
    let mut decoder = RequestDecoder::new(limits);
    let (mut held, mut at) = (Vec::new(), 0);
    let mut frames: Vec<(Request, Vec<u8>)> = Vec::new();
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
            let frame = head.span().of(&held, &[]).to_vec();
            frames.push((head, frame));
        }
        match decoded {
            Ok(decoded) => drop(held.drain(..decoded.consumed)),
            Err(error) => return (frames, Some(error)),
        }
    }
    (frames, None)
}

/// What the session answers, and whether it closes.
fn answers(bytes: &[u8]) -> (String, bool) {
    let mut heads = decode(bytes);
    let mut calls: Vec<_> = heads.iter().map(|head| Memcached::call(head, Ticket::default())).collect();
    let (mut local, mut session) = (Vec::new(), Connection::default());
    let mut batch = Batch::<Memcached> {
        wire: bytes,
        local: &mut local,
        heads: &mut heads,
        calls: &mut calls,
        session: &mut session,
    };
    let closes = Connection::on_requests(&mut batch, 0).is_over;
    let mut text = String::new();
    for call in &calls {
        match call.verdict {
            Verdict::Answered(span) => text += &String::from_utf8_lossy(span.of(bytes, &local)),
            _ => text += "FORWARDED\r\n",
        }
    }
    (text, closes)
}

#[test]
fn faults_are_answered_as_memcached_answers_them() {
    let vectors: &[(&[u8], &str)] = &[
        (b"set a 0 0 1\r\nabc\r\nget a\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\nFORWARDED\r\n"),
        (b"set a 0 0 3\r\na\r\nget a\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        (b"set a 0 0 1 noreply\r\nabcdefghijk\r\nversion\r\n", "ERROR\r\nFORWARDED\r\n"),
        (b"set a 0 0 1\nx\r\nversion\n", "FORWARDED\r\nFORWARDED\r\n"),
        (b"set a x 0 1\r\nx\r\n", "CLIENT_ERROR bad command line format\r\nERROR\r\n"),
        (b"set a 0 0 -1\r\nx\r\n", "CLIENT_ERROR bad command line format\r\nERROR\r\n"),
        (b"set a 0 0\r\nx\r\n", "ERROR\r\nERROR\r\n"),
        (b"set a 0 0 1 2 3\r\nx\r\n", "ERROR\r\nERROR\r\n"),
        (b"set a 0 0 1 foo\r\nx\r\n", "FORWARDED\r\n"),
        (b"set a 0 0 1 noreply foo\r\nx\r\n", "ERROR\r\nERROR\r\n"),
        (b"cas a 0 0 1\r\nx\r\n", "ERROR\r\nERROR\r\n"),
        (b"cas a 0 0 1 x\r\nx\r\n", "CLIENT_ERROR bad command line format\r\nERROR\r\n"),
        (b"foo\r\n\r\n", "ERROR\r\nERROR\r\n"),
        (
            b" get a\r\nGET a\r\nget\r\nget \r\ngat\r\ngat 0\r\n",
            "FORWARDED\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\nFORWARDED\r\n",
        ),
        (b"ms n x\r\nx\r\n", "CLIENT_ERROR bad command line format\r\nERROR\r\n"),
        (
            b"ms n\r\nms\r\nmg\r\nmx n\r\n",
            "CLIENT_ERROR bad command line format\r\nERROR\r\nERROR\r\nERROR\r\n",
        ),
        (b"ms n 1 q\r\nxyz\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        (b"mn\r\nmn q\r\nmn foo\r\n", "MN\r\nMN\r\nMN\r\n"),
        (b"me\r\n", "CLIENT_ERROR bad command line format\r\n"),
        (b"verbosity\r\nverbosity 1 2 noreply\r\nflush_all 1 2 3\r\n", "ERROR\r\nERROR\r\nERROR\r\n"),
        (b"incr k\r\ntouch k\r\ntouch k 0 foo bar\r\ndelete\r\n", "ERROR\r\nERROR\r\nERROR\r\nERROR\r\n"),
    ];
    for (bytes, expected) in vectors {
        assert_eq!(answers(bytes).0, *expected, "{}", String::from_utf8_lossy(bytes));
    }
    let long = format!("set {} 0 0 1\r\nx\r\n", "k".repeat(251));
    assert_eq!(answers(long.as_bytes()).0, "CLIENT_ERROR bad command line format\r\nERROR\r\n");
    let long = format!("mg {} q\r\n", "k".repeat(251));
    assert_eq!(answers(long.as_bytes()).0, "CLIENT_ERROR bad command line format\r\n");
}

#[test]
fn nothing_behind_quit_is_run() {
    assert_eq!(answers(b"get a\r\nquit\r\nset a 0 0 1\r\nx\r\n"), ("FORWARDED\r\n".into(), true));
    assert_eq!(answers(b"GET / HTTP/1.1\r\n"), (String::new(), true));
}

#[test]
fn commands_for_one_server_alone_go_on_a_connection_of_their_own() {
    for (command, quiet, audible) in [
        ("shutdown graceful", None, None),
        ("lru_crawler metadump all", None, None),
        ("slabs reassign 1 2", None, None),
        // The server would not read it as such.
        ("slabs reassign 1 2 noreply", None, None),
        ("slabs automove 1 noreply", Some(ops::SLABS_NOREPLY), Some("slabs automove 1        ")),
        ("cache_memlimit 64 noreply", Some(ops::CACHE_MEMLIMIT_NOREPLY), Some("cache_memlimit 64        ")),
        ("lru mode flat noreply", Some(ops::LRU_NOREPLY), Some("lru mode flat        ")),
    ] {
        let mut bytes = format!("{command}\r\n").into_bytes();
        let head = decode(&bytes)[0];
        assert_eq!(Memcached::call(&head, Ticket::default()).affinity, Affinity::Once, "{command}");
        assert_eq!((head.is_quiet(), head.fault()), (quiet.is_some(), None), "{command}");
        assert!(ops::is_of_one_server(head.op()) && quiet.is_none_or(|op| op == head.op()), "{command}");
        Memcached::unquiet(&head, &mut bytes);
        assert_eq!(bytes, format!("{}\r\n", audible.unwrap_or(command)).as_bytes());
    }
    // Lines without end.
    let watch = decode(b"watch mutations\r\n")[0];
    assert_eq!(Memcached::call(&watch, Ticket::default()).affinity, Affinity::Raw);
}

#[test]
fn a_value_that_is_too_large_is_swallowed() {
    let limits = Limits { max_frame: 40, stream_above: 40, ..Limits::default() };
    let mut bytes = b"set k 0 0 100\r\n".to_vec();
    bytes.extend_from_slice(&[b'x'; 100]);
    bytes.extend_from_slice(b"\r\nversion\r\n");
    for size in 1..bytes.len() {
        let (frames, error) = feed(&bytes, &vec![size; bytes.len()], limits);
        let ops: Vec<_> = frames.iter().map(|(head, _)| (head.op(), head.fault())).collect();
        assert_eq!(ops, [(ops::MALFORMED, Some(Fault::TooLarge)), (ops::VERSION, None)]);
        assert_eq!(error, None);
    }
}

#[test]
fn only_retrievals_may_have_long_lines() {
    let keys = "key ".repeat(2000);
    let (frames, error) = feed(format!("get {keys}\r\n").as_bytes(), &[5000], Limits::default());
    assert_eq!((frames.len(), error), (1, None));
    let many = "key ".repeat(1 << 20);
    let (frames, error) = feed(format!("get {many}\r\n").as_bytes(), &[], Limits::default());
    assert_eq!((frames.len(), error), (1, None));
    let (frames, error) = feed(format!("get {many}{many}{many}\r\n").as_bytes(), &[], Limits::default());
    assert_eq!((frames.len(), error), (0, Some(ProtocolError::LineTooLong { at: 0 })));
    for chunk in [1, 100, 100_000] {
        let (frames, error) = feed(format!("mg {keys}\r\n").as_bytes(), &[chunk; 9000], Limits::default());
        assert_eq!((frames.len(), error), (0, Some(ProtocolError::LineTooLong { at: 0 })));
    }
    let limits = Limits { max_args: 1999, ..Limits::default() };
    let (frames, _) = feed(format!("get {keys}\r\n").as_bytes(), &[], limits);
    assert_eq!(frames[0].0.fault(), Some(Fault::TooManyKeys));
}

#[test]
fn quiet_requests_are_made_audible_without_changing_their_length() {
    let vectors: &[(&[u8], &[u8])] = &[
        (b"set k 0 0 1 noreply\r\nx\r\n", b"set k 0 0 1        \r\nx\r\n"),
        (b"delete noreply noreply\r\n", b"delete noreply        \r\n"),
        (b"flush_all noreply\r\n", b"flush_all        \r\n"),
        (b"mg q q v\r\n", b"mg q   v\r\n"),
        (b"ms q 1 T0 q\r\nq\r\n", b"ms q 1 T0  \r\nq\r\n"),
        (b"mg k qqq t\r\n", b"mg k     t\r\n"),
    ];
    for (bytes, expected) in vectors {
        let head = decode(bytes)[0];
        assert_eq!(Memcached::call(&head, Ticket::default()).replies, ReplyCount::Maybe);
        let mut copy = bytes.to_vec();
        Memcached::unquiet(&head, &mut copy);
        assert_eq!(copy, *expected);
    }
    // Two are an error that the client must see, and `delete noreply` deletes that key.
    for loud in [b"mg k q q\r\n".as_slice(), b"delete noreply\r\n", b"me k q\r\n", b"get noreply\r\n"] {
        assert_eq!(Memcached::call(&decode(loud)[0], Ticket::default()).replies, ReplyCount::One);
    }
    // Without its last word these would still ask for no answer.
    for silent in [b"incr k noreply noreply\r\n".as_slice(), b"flush_all noreply noreply\r\n"] {
        assert_eq!(answers(silent).0, "");
    }
}

#[test]
fn keys_are_reported_in_order() {
    let bytes = b"gats 10  a b  a \r\n";
    let head = decode(bytes)[0];
    let mut keys = Vec::new();
    assert_eq!(Memcached::keys(&head, bytes, &mut |key| keys.push(key)), Keys::Known);
    assert_eq!(keys, [b"a", b"b", b"a"]);
    assert_eq!(Memcached::key(&head, bytes), Some(b"a".as_slice()));
    assert_eq!(Memcached::key(&decode(b"stats x\r\n")[0], b"stats x\r\n"), None);
}

/// Each byte is looked at once: a line and a value that come in single bytes cost what they cost at once, not the
/// square of it.
#[test]
fn a_frame_in_single_bytes_is_not_scanned_again() {
    let limits = Limits::default();
    let line = format!("get {}\r\n", "k ".repeat(200_000));
    let mut decoder = RequestDecoder::new(limits);
    let (mut heads, bytes) = (Vec::new(), line.as_bytes());
    for end in 1..bytes.len() {
        assert_eq!(decoder.decode(&bytes[..end], &mut heads).map(|decoded| decoded.consumed), Ok(0));
    }
    assert!(heads.is_empty());
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let key = "[a-z]{1,8}";
    prop_oneof![
        (key, any::<u32>(), any::<i32>(), prop::collection::vec(any::<u8>(), 0..80), any::<bool>()).prop_map(
            |(key, flags, exptime, value, quiet)| {
                let quiet = if quiet { " noreply" } else { "" };
                let mut bytes =
                    format!("set {key} {flags} {exptime} {}{quiet}\r\n", value.len()).into_bytes();
                bytes.extend_from_slice(&value);
                bytes.extend_from_slice(b"\r\n");
                bytes
            }
        ),
        (key, prop::collection::vec(any::<u8>(), 0..80), any::<u64>()).prop_map(|(key, value, unique)| {
            let mut bytes = format!("ms {key} {} C{unique} q k\r\n", value.len()).into_bytes();
            bytes.extend_from_slice(&value);
            bytes.extend_from_slice(b"\r\n");
            bytes
        }),
        prop::collection::vec(key, 1..9).prop_map(|keys| format!("gets {}\r\n", keys.join(" ")).into_bytes()),
        "[a-z0-9 ]{0,40}\r\n".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_frames(
        requests in prop::collection::vec(request(), 1..12),
        sizes in prop::collection::vec(1_usize..40, 0..400),
        stream_above in prop_oneof![Just(16_usize), Just(64 << 10)],
    ) {
        let bytes = requests.concat();
        let limits = Limits { stream_above, ..Limits::default() };
        let view = |(frames, error): (Vec<(Request, Vec<u8>)>, _)| {
            let frames: Vec<_> = frames
                .into_iter()
                .map(|(head, frame)| (head.op(), head.fault(), head.is_quiet(), head.key_span(), head.value_span(), frame))
                .collect();
            (frames, error)
        };
        let whole = view(feed(&bytes, &[], limits));
        prop_assert_eq!(&view(feed(&bytes, &sizes, limits)), &whole);
        if whole.1.is_none() && stream_above > 1000 {
            let joined: Vec<u8> = whole.0.iter().flat_map(|frame| frame.5.clone()).collect();
            prop_assert_eq!(joined, bytes);
        }
    }

    #[test]
    fn a_well_formed_request_is_one_frame(request in request()) {
        let heads = decode(&request);
        if heads.first().is_some_and(|head| head.fault().is_none()) && heads.len() == 1 {
            prop_assert_eq!(heads[0].span().len(), request.len());
            let _ = mecha_memcached::parse(&heads[0], &request);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), sizes in prop::collection::vec(1_usize..20, 0..30)) {
        let limits = Limits { stream_above: 50, max_frame: 100, max_args: 3, ..Limits::default() };
        for (head, mut frame) in feed(&bytes, &sizes, limits).0 {
            let _ = mecha_memcached::parse(&head, &frame);
            Memcached::keys(&head, &frame, &mut |_| {});
            Memcached::unquiet(&head, &mut frame);
        }
    }

    #[test]
    fn no_line_of_words_panics(words in prop::collection::vec("(mg|ms|ma|md|set|get|gat|k|1|noreply|q|v|T5|Fx|b|O|M|cas|0)", 0..24)) {
        let bytes = format!("{}\r\n", words.join(" ")).into_bytes();
        for (head, mut frame) in feed(&bytes, &[], Limits::default()).0 {
            let _ = mecha_memcached::parse(&head, &frame);
            Memcached::unquiet(&head, &mut frame);
        }
    }
}
