//! Servers that fail, clients that dawdle, policies that act.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use hyper::Request;

use super::client::{Client, Pieces, Version, run};
use super::{calls, connect, counting, door, message, to_end};
use crate::support::{Fake, Mecha, eventually, free_port, signal};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn an_answer_that_is_cut_off_anywhere_is_never_taken_for_a_whole_one() {
    for whole in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nx: y\r\n\r\n0123456789",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
    ] {
        let server = Fake::start(move |mut stream, number| {
            while message(&mut stream).is_some() {
                // Connection 0 is cut before the first byte, 1 behind it, and so on.
                let _ = stream.write_all(whole.as_bytes().get(..number).unwrap_or(whole.as_bytes()));
                if number < whole.len() {
                    return;
                }
            }
        });
        let mecha = door(server.port);
        for cut in 0..whole.len() {
            let mut stream = connect(mecha.port);
            stream.write_all(GET).unwrap();
            let answer = to_end_of_answer(&mut stream);
            let is_whole =
                answer.starts_with("HTTP/1.1 200") && answer.contains("89") && is_complete(&answer);
            assert!(!is_whole, "cut at {cut}: {answer:?}");
        }
        let mut stream = connect(mecha.port);
        stream.write_all(GET).unwrap();
        assert!(message(&mut stream).unwrap().contains("56789"));
    }
}

/// An answer, or what there is of it when the connection ends.
fn to_end_of_answer(stream: &mut std::net::TcpStream) -> String {
    let mut heard = Vec::new();
    let mut byte = [0; 1];
    while let Ok(1) = stream.read(&mut byte) {
        heard.push(byte[0]);
        let text = String::from_utf8_lossy(&heard).into_owned();
        if is_complete(&text) {
            return text;
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}

fn is_complete(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.map_or(body.ends_with("0\r\n\r\n"), |length| body.len() >= length)
}

#[test]
fn a_connection_that_the_server_has_closed_meanwhile_costs_nobody_an_answer() {
    // Every second request on a connection finds it closed.
    let server = Fake::start(|mut stream, _| {
        if message(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let mecha = door(server.port);
    let mut stream = connect(mecha.port);
    for _ in 0..50 {
        stream.write_all(GET).unwrap();
        assert!(message(&mut stream).unwrap().ends_with("ok"));
    }
    assert!(server.accepted() >= 50);
}

#[test]
fn connections_are_kept_and_used_again() {
    let (server, _) = counting();
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners: [ {{ listen: 'http://127.0.0.1:0', to: 'http://127.0.0.1:{}' }} ]\n",
        server.port
    ));
    for number in 1..=20 {
        let mut stream = connect(mecha.port);
        stream.write_all(GET).unwrap();
        let answer = message(&mut stream).unwrap();
        assert!(answer.ends_with(&format!("\r\n\r\n{number}")), "{number}: {answer}");
    }
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_server_that_cannot_be_reached_is_passed_over_and_without_any_the_answer_is_503() {
    let (server, _) = counting();
    let dead = free_port();
    let mecha = Mecha::start("http", &format!("http://127.0.0.1:{dead},127.0.0.1:{}", server.port));
    for _ in 0..10 {
        let mut stream = connect(mecha.port);
        stream.write_all(GET).unwrap();
        assert!(message(&mut stream).unwrap().starts_with("HTTP/1.1 200 "));
    }
    let mecha = door(dead);
    let mut stream = connect(mecha.port);
    stream.write_all(GET).unwrap();
    let answer = message(&mut stream).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("mecha-refused: upstream_unreachable"),
        "{answer}"
    );
    assert_eq!(mecha.metric("mecha_refusals_total{listener=\"http\",reason=\"upstream_unreachable\""), 1.0);
}

#[test]
fn policies_refuse_in_the_words_of_http_and_of_grpc() {
    let (server, _) = counting();
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - listen: http://127.0.0.1:0\n    to: http://127.0.0.1:{}\n    filters:\n      - rate_limit: {{ permits: 1, per: 1m }}\n",
        server.port
    ));
    run(async {
        for version in Version::BOTH {
            let mut client = Client::new(mecha.port, version).await;
            // The first of all is the only one that passes.
            let _ = client.get("/").await.unwrap();
            let refused = client.get("/").await.unwrap();
            assert_eq!((refused.status().as_u16(), refused.header("retry-after")), (429, "1"), "{version:?}");
            let request =
                Request::post("/a.B/C").header("content-type", "application/grpc").body(Pieces::default());
            let refused = client.send(request.unwrap()).await.unwrap();
            assert_eq!((refused.status().as_u16(), refused.header("grpc-status")), (200, "8"), "{version:?}");
        }
    });
    assert!(calls(&mecha, "grpc", "refused") >= 2.0);
}

#[test]
fn a_server_that_does_not_answer_in_time_makes_504() {
    let server = Fake::start(|mut stream, _| {
        let _ = message(&mut stream);
        std::thread::sleep(Duration::from_secs(30));
    });
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - listen: http://127.0.0.1:0\n    to: http://127.0.0.1:{}\n    filters:\n      - timeout: {{ after: 200ms }}\n",
        server.port
    ));
    let start = Instant::now();
    let mut stream = connect(mecha.port);
    stream.write_all(GET).unwrap();
    assert!(message(&mut stream).unwrap().starts_with("HTTP/1.1 504 "));
    run(async {
        let mut client = Client::new(mecha.port, Version::Two).await;
        let request =
            Request::post("/a.B/C").header("content-type", "application/grpc").header("grpc-timeout", "50m");
        let answer = client.send(request.body(Pieces::default()).unwrap()).await.unwrap();
        assert_eq!(answer.header("grpc-status"), "4");
    });
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn clients_that_dawdle_are_closed_and_others_are_not() {
    let (server, _) = counting();
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - listen: http://127.0.0.1:0\n    to: http://127.0.0.1:{}\n    header_timeout: 600ms\n    body_timeout: 600ms\n",
        server.port
    ));
    let mut slow_head = connect(mecha.port);
    let mut slow_body = connect(mecha.port);
    let mut silent = connect(mecha.port);
    slow_body.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").unwrap();
    let start = Instant::now();
    // A byte now and then is not enough.
    let mut writer = slow_head.try_clone().unwrap();
    std::thread::spawn(move || {
        for byte in b"GET / HTTP/1.1\r\nX-Very-Long-Name-Of-A-Field: and more".iter().cycle() {
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    to_end(&mut slow_head);
    to_end(&mut slow_body);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    // Who has nothing under way may be silent.
    silent.write_all(GET).unwrap();
    assert!(message(&mut silent).unwrap().starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_drain_answers_everything_that_was_asked() {
    let server = Fake::start(|mut stream, _| {
        while message(&mut stream).is_some() {
            std::thread::sleep(Duration::from_millis(20));
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    });
    let mut mecha = door(server.port);
    let port = mecha.port;
    let clients: Vec<_> = (0..20)
        .map(|number| {
            std::thread::spawn(move || {
                let version = if number % 2 == 0 { Version::One } else { Version::Two };
                run(async {
                    let mut client = Client::new(port, version).await;
                    let mut answers = 0;
                    loop {
                        let sent = client.get("/").await;
                        match sent {
                            Ok(answer) => {
                                assert_eq!(answer.body, "ok");
                                answers += 1;
                            }
                            // A request that finds the connection closed was not taken.
                            Err(error) => {
                                let is_untaken =
                                    error.is_closed() || error.is_canceled() || version == Version::Two;
                                assert!(is_untaken, "{version:?}: {error:?}");
                                return answers;
                            }
                        }
                    }
                })
            })
        })
        .collect();
    eventually("nobody is served", || calls(&mecha, "get", "ok") > 100.0);
    signal(mecha.process.id(), "TERM");
    let status = mecha.process.wait(Duration::from_secs(8)).expect("it does not end");
    assert!(status.success());
    assert!(clients.into_iter().all(|client| client.join().unwrap() > 0));
}

#[test]
fn connected_clients_follow_an_edited_target() {
    let (old, _) = counting();
    let new = Fake::start(|mut stream, _| {
        while message(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew");
        }
    });
    let path = std::env::temp_dir().join(format!("mecha-it-http-{}.yaml", std::process::id()));
    let write = |port: u16| {
        let text = format!("listeners:\n  - listen: http://127.0.0.1:0\n    to: http://127.0.0.1:{port}\n");
        std::fs::write(&path, text).unwrap();
    };
    write(old.port);
    let mecha = Mecha::from_file(&path);
    let mut stream = connect(mecha.port);
    stream.write_all(GET).unwrap();
    assert!(message(&mut stream).unwrap().ends_with("\r\n\r\n1"));
    write(new.port);
    eventually("the client stays with the old server", || {
        stream.write_all(GET).unwrap();
        message(&mut stream).unwrap().ends_with("new")
    });
    let _ = std::fs::remove_file(&path);
}
