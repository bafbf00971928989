use proptest::prelude::*;

use super::*;

/// What becomes of `bytes`: how many pass, and why no more do.
fn passed(bytes: &[u8]) -> (usize, Option<Violation>) {
    let mut guard = Guard::default();
    let count = guard.look(bytes).err().unwrap_or(bytes.len());
    (count, guard.violation())
}

fn refused(bytes: &[u8]) -> Violation {
    passed(bytes).1.unwrap_or_else(|| panic!("it passes: {}", String::from_utf8_lossy(bytes)))
}

fn is_idle_after(bytes: &[u8]) {
    let mut guard = Guard::default();
    assert_eq!(guard.look(bytes), Ok(()), "{:?}", guard.violation());
    assert_eq!(guard.phase(), Phase::Idle);
}

#[test]
fn plain_requests_pass_to_their_end() {
    is_idle_after(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    is_idle_after(b"\r\nGET /?q=1 HTTP/1.1\r\nhost:a:80\r\nX-Tab:\ta b\t\r\n\r\nGET / HTTP/1.0\r\n\r\n");
    is_idle_after(b"POST / HTTP/1.1\r\nHost: [::1]:8080\r\nContent-Length: 5\r\n\r\nhe\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    is_idle_after(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:  Chunked \r\n\r\n\
          5;name=\"value\"\r\nhello\r\n00\r\nTrailer: x\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    );
}

#[test]
fn what_two_parsers_might_read_in_two_ways_does_not_pass() {
    let field = |field: &str| refused(format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n").as_bytes());
    for (text, why) in [
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", Violation::TransferCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1", Violation::TransferCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Violation::TransferCoding),
        ("Transfer-Encoding: gzip, chunked", Violation::TransferCoding),
        ("Transfer-Encoding: chunked, identity", Violation::TransferCoding),
        ("Transfer-Encoding: xchunked", Violation::TransferCoding),
        ("Transfer-Encoding: \u{b}chunked", Violation::Control),
        ("Content-Length: 1\r\nContent-Length: 1", Violation::Length),
        ("Content-Length: 1, 1", Violation::Length),
        ("Content-Length: +1", Violation::Length),
        ("Content-Length: 0x1", Violation::Length),
        ("Content-Length: ", Violation::Length),
        ("Content-Length: 99999999999999999999999", Violation::Length),
        ("Content-Length : 1", Violation::Name),
        ("Content Length: 1", Violation::Name),
        (": 1", Violation::Name),
        ("no colon", Violation::Name),
        ("X: 1\r\n folded: 2", Violation::Folded),
        ("X: 1\r\n\tfolded", Violation::Folded),
        ("X: a\rb", Violation::BareLineEnd),
        ("X: a\nContent-Length: 1", Violation::BareLineEnd),
        ("X: a\0b", Violation::Control),
        ("Host: b", Violation::Host),
    ] {
        assert_eq!(field(text), why, "{text:?}");
    }
}

#[test]
fn odd_request_lines_and_hosts_do_not_pass() {
    for text in
        ["GET  / HTTP/1.1", "GET / HTTP/1.1 ", " GET / HTTP/1.1", "GET /", "GET / HTTP/2.0", "G@T / HTTP/1.1"]
    {
        assert_eq!(
            refused(format!("{text}\r\nHost: a\r\n\r\n").as_bytes()),
            Violation::RequestLine,
            "{text}"
        );
    }
    assert_eq!(refused(b"GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n"), Violation::Control);
    assert_eq!(refused(b"GET / HTTP/1.1\nHost: a\n\n"), Violation::BareLineEnd);
    assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n"), Violation::Host);
    for host in ["a/b", "a,b", "a b", "u@a", "a\"", "a#b", "a?b", "a\\b"] {
        assert_eq!(
            refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()),
            Violation::Host,
            "{host}"
        );
    }
    assert_eq!(refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Violation::TransferCoding);
}

#[test]
fn odd_chunks_do_not_pass() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "x\r\n",
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5 a\r\nhello\r\n",
        "\r\n",
        "5\r\nhelloX\r\n",
    ] {
        assert_eq!(refused(format!("{head}{body}").as_bytes()), Violation::Chunk, "{body:?}");
    }
    assert_eq!(refused(format!("{head}fffffffffffffffff\r\n").as_bytes()), Violation::Chunk);
    assert_eq!(refused(format!("{head}5;{}", "x".repeat(300)).as_bytes()), Violation::Chunk);
    assert_eq!(refused(format!("{head}5\nhello\n").as_bytes()), Violation::BareLineEnd);
    assert_eq!(refused(format!("{head}0\r\nX: 1\r\n Y: 2\r\n\r\n").as_bytes()), Violation::Folded);
}

#[test]
fn nothing_that_ends_a_head_passes_before_a_violation() {
    let bytes = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let (count, _) = passed(bytes);
    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
    assert_eq!(text.matches("\r\n\r\n").count(), 1, "{text}");
}

#[test]
fn phases_tell_what_a_client_is_slow_with() {
    let mut guard = Guard::default();
    assert_eq!(guard.phase(), Phase::Idle);
    guard.look(b"GE").unwrap();
    assert_eq!(guard.phase(), Phase::Head);
    guard.look(b"T / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n").unwrap();
    assert_eq!(guard.phase(), Phase::Body);
    guard.look(b"ab").unwrap();
    assert_eq!(guard.phase(), Phase::Idle);
}

#[test]
fn a_line_without_an_end_is_not_held_for_ever() {
    let mut guard = Guard::default();
    let piece = [b'a'; 4096];
    let held = (0..1000).take_while(|_| guard.look(&piece).is_ok()).count();
    assert!(held * piece.len() <= MAX_LINE && guard.violation() == Some(Violation::Long));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b"GET / HTTP/1.1\r\n".to_vec()), Just(b"POST /a HTTP/1.1\r\n".to_vec()), Just(b"Host: a\r\n".to_vec()),
            Just(b"Content-Length: 3\r\n".to_vec()), Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            Just(b"\r\n".to_vec()), Just(b"3\r\nabc\r\n".to_vec()), Just(b"0\r\n\r\n".to_vec()), Just(b"abc".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ], 0..12).prop_map(|parts| parts.concat()),
        cuts in proptest::collection::vec(0usize..64, 0..8),
    ) {
        let whole = passed(&bytes);
        let mut guard = Guard::default();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            if guard.look(now).is_err() { break; }
            rest = later;
        }
        if guard.violation().is_none() {
            let _ = guard.look(rest);
        }
        prop_assert_eq!(guard.violation(), whole.1);
    }
}

#[test]
fn a_tunnel_is_no_request_where_there_are_tunnels() {
    let rest = b"\0 anything \r\n\r\nGET";
    let message = [b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(), rest].concat();
    let mut guard = Guard::default();
    guard.let_tunnels();
    for byte in &message {
        guard.look(std::slice::from_ref(byte)).unwrap();
    }
    assert_eq!((guard.heads(), guard.phase()), (1, Phase::Idle));
    assert!(Guard::default().look(&message).is_err());
    for (fields, why) in
        [("Content-Length: 0", Violation::Length), ("Transfer-Encoding: chunked", Violation::TransferCoding)]
    {
        let mut guard = Guard::default();
        guard.let_tunnels();
        let head = format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        assert!(guard.look(head.as_bytes()).is_err());
        assert_eq!(guard.violation(), Some(why));
    }
}
