//! Bytes that two programs might read in two ways.

use std::io::Write;

use super::{calls, connect, counting, door, message, to_end};
use crate::support::{Fake, Mecha, eventually};

#[test]
fn fields_of_one_hop_end_here_and_all_others_pass() {
    let (server, heard) = counting();
    let mecha = door(server.port);
    let mut stream = connect(mecha.port);
    stream
        .write_all(
            b"GET /x?y=1 HTTP/1.1\r\nHost: example.com:80\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
              Proxy-Connection: x\r\nTE: deflate\r\nUpgrade: h2c\r\nX-End: to end\r\nCookie: a=b\r\n\r\n",
        )
        .unwrap();
    let answer = message(&mut stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n1"), "{answer}");
    assert!(!answer.contains("x-secret"), "{answer}");
    let mut lines: Vec<_> = heard.all()[0].trim_end().split("\r\n").map(str::to_lowercase).collect();
    lines[1..].sort();
    assert_eq!(lines, ["get /x?y=1 http/1.1", "cookie: a=b", "host: example.com:80", "x-end: to end"]);
    assert_eq!(calls(&mecha, "get", "ok"), 1.0);
}

#[test]
fn ambiguous_requests_get_400_and_reach_no_server() {
    let (server, heard) = counting();
    let mecha = door(server.port);
    for bad in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        "Content-Length: +4\r\n\r\nabcd",
        "Content-Length: 4, 4\r\n\r\nabcd",
        "Content-Length : 4\r\n\r\nabcd",
        "X: 1\r\n Content-Length: 4\r\n\r\nabcd",
        "X: 1\nContent-Length: 4\r\n\r\nabcd",
        "X: 1\rContent-Length: 4\r\n\r\nabcd",
        "X: \0\r\n\r\n",
        "Host: evil\r\n\r\n",
        "no colon\r\n\r\n",
    ] {
        let mut stream = connect(mecha.port);
        // What follows would be a request of its own for whoever reads lengths in another way.
        let text = format!("POST /bad HTTP/1.1\r\nHost: a\r\n{bad}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let answer = to_end(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{bad:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{bad:?}: {answer:?}");
    }
    assert_eq!(heard.all(), Vec::<String>::new());
    eventually("a connection is left open", || {
        mecha.metric("mecha_client_closed_total{listener=\"http\",reason=\"protocol\"") == 15.0
    });
}

#[test]
fn what_comes_before_a_bad_request_is_answered_and_what_comes_behind_it_is_not() {
    let (server, heard) = counting();
    let mecha = door(server.port);
    let mut stream = connect(mecha.port);
    let good = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(format!("{good}{good}GET /bad HTTP/1.1\nHost: a\r\n\r\n{good}").as_bytes()).unwrap();
    let answer = to_end(&mut stream);
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 400 Bad Request").count(), 1, "{answer}");
    assert_eq!(heard.all().len(), 2);
}

#[test]
fn chunks_that_are_spelt_oddly_break_the_request_and_its_upstream_connection() {
    let (server, _) = counting();
    let mecha = door(server.port);
    for body in ["5\r\nhelloX\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "-5\r\n"] {
        let mut stream = connect(mecha.port);
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let answer = to_end(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{body:?}: {answer:?}");
    }
    // The connections on which those were cut off carry nothing any more.
    let mut stream = connect(mecha.port);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(message(&mut stream).unwrap().ends_with("\r\n\r\n1"));
}

#[test]
fn the_targets_authority_is_the_host_that_the_server_hears() {
    let (server, heard) = counting();
    let mecha = door(server.port);
    let mut stream = connect(mecha.port);
    stream.write_all(b"GET http://right.example/p HTTP/1.1\r\nHost: wrong.example\r\n\r\n").unwrap();
    message(&mut stream).unwrap();
    stream.write_all(b"GET /old HTTP/1.0\r\n\r\n").unwrap();
    to_end(&mut stream);
    let all = heard.all();
    assert!(
        all[0].starts_with("GET /p HTTP/1.1\r\n")
            && all[0].to_lowercase().contains("host: right.example\r\n")
    );
    assert!(all[1].to_lowercase().contains(&format!("host: 127.0.0.1:{}\r\n", server.port)), "{}", all[1]);
}

#[test]
fn a_head_that_is_too_large_gets_431() {
    let (server, heard) = counting();
    let mecha = door(server.port);
    let mut stream = connect(mecha.port);
    let _ = stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(70_000)).as_bytes());
    let answer = to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    assert_eq!(heard.all().len(), 0);
}

#[test]
fn a_connection_becomes_what_both_ends_have_agreed() {
    let server = Fake::start(|mut stream, _| {
        let request = message(&mut stream).unwrap().to_lowercase();
        assert!(
            request.contains("upgrade: websocket\r\n") && request.contains("connection: upgrade\r\n"),
            "{request}"
        );
        // The first bytes of the new protocol come with the head.
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: b\r\n\r\nhello";
        stream.write_all(answer.as_bytes()).unwrap();
        let mut copy = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut stream, &mut copy);
        let _ = copy.write_all(b"bye");
    });
    let mecha = door(server.port);
    let mut stream = connect(mecha.port);
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .unwrap();
    let answer = message(&mut stream).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("x-a: b\r\n"), "{answer}");
    assert!(answer.contains("upgrade: websocket\r\n"), "{answer}");
    // No HTTP, and nothing that looks at it.
    let raw: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = raw.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut heard = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut heard).unwrap();
    writing.join().unwrap();
    assert!(heard == [b"hello", raw.as_slice(), b"bye"].concat(), "{} bytes", heard.len());
    mecha.settles();
}

#[test]
fn a_switch_that_nobody_asked_for_is_no_answer() {
    let server = Fake::start(|mut stream, _| {
        let _ = message(&mut stream);
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
    });
    let mecha = Mecha::start("http", &format!("http://127.0.0.1:{}", server.port));
    let mut stream = connect(mecha.port);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let answer = to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer:?}");
}
