//! `CONNECT`, exchanges that may not last, and how names of fields are written.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Client, Pieces, Version, run};
use super::{calls, connect, message, to_end};
use crate::support::{Fake, Mecha, PATIENCE, eventually};

/// A server that says which it is, repeats what it hears to the end, and says goodbye.
fn echo(name: &'static str) -> Fake {
    Fake::start(move |mut stream, _| {
        let _ = stream.write_all(name.as_bytes());
        let mut copy = stream.try_clone().unwrap();
        if std::io::copy(&mut stream, &mut copy).is_ok() {
            let _ = copy.write_all(b"bye");
        }
    })
}

fn app() -> Fake {
    Fake::start(|mut stream, _| {
        while message(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\napp");
        }
    })
}

/// A listener whose clients may go to `tunnels`, with `keys` of its own.
fn door(app: &Fake, tunnels: &str, keys: &str, clusters: &str) -> Mecha {
    Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: app\n    connect: {tunnels}\n{keys}\nclusters:\n  app: {{ to: 'http://127.0.0.1:{}' }}\n{clusters}\n",
        app.port
    ))
}

/// The head of an answer.
fn head(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let mut byte = [0; 1];
    while !heard.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        heard.push(byte[0]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

fn tunnel(mecha: &Mecha, to: &str) -> (TcpStream, String) {
    let mut stream = connect(mecha.port);
    write!(stream, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").unwrap();
    let head = head(&mut stream);
    (stream, head)
}

#[test]
fn clients_reach_whom_they_may_name_and_nobody_else() {
    let (app, server) = (app(), echo("a"));
    let tunnels = format!("[ {{ allow: ['127.0.0.1:{0}', 'localhost:{0}'] }} ]", server.port);
    let mecha = door(&app, &tunnels, "", "");
    for host in ["127.0.0.1", "LOCALHOST"] {
        let (mut stream, head) = tunnel(&mecha, &format!("{host}:{}", server.port));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        // Much, both ways, and the end of one direction is not that of the other.
        let sent: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
        let mut writer = stream.try_clone().unwrap();
        let (own, sending) = (
            sent.clone(),
            std::thread::spawn(move || {
                writer.write_all(&sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            }),
        );
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        sending.join().unwrap();
        assert!(heard == [b"a", own.as_slice(), b"bye"].concat(), "{} bytes", heard.len());
    }
    assert_eq!(calls(&mecha, "connect", "ok"), 2.0);
    let (_, refused) = tunnel(&mecha, &format!("127.0.0.1:{}", app.port));
    assert!(
        refused.starts_with("HTTP/1.1 403 ") && refused.contains("mecha-refused: denied\r\n"),
        "{refused}"
    );
    assert!(tunnel(&mecha, "127.0.0.1").1.starts_with("HTTP/1.1 400 "));
    // Others are served as ever.
    let mut stream = connect(mecha.port);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    assert!(to_end(&mut stream).ends_with("app"));
    let none = door(&app, "[]", "", "");
    assert!(tunnel(&none, &format!("127.0.0.1:{}", server.port)).1.starts_with("HTTP/1.1 501 "));
    mecha.settles();
}

#[test]
fn what_follows_a_refused_tunnel_is_nobodys_request() {
    let (app, server) = (app(), echo("a"));
    let mecha = door(&app, &format!("[ {{ allow: '127.0.0.1:{}' }} ]", server.port), "", "");
    let mut stream = connect(mecha.port);
    stream
        .write_all(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let answer = to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!((answer.matches("HTTP/1.1").count(), app.accepted()), (1, 0), "{answer}");
    for fields in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
        let mut stream = connect(mecha.port);
        write!(stream, "CONNECT 127.0.0.1:{} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n", server.port).unwrap();
        assert!(to_end(&mut stream).starts_with("HTTP/1.1 400 "), "{fields}");
    }
    // What an impatient client says at once is for the server, whatever it is.
    let mut stream = connect(mecha.port);
    write!(stream, "CONNECT 127.0.0.1:{} HTTP/1.1\r\nHost: a\r\n\r\n\0\r\n no request", server.port).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let heard = to_end(&mut stream);
    assert!(heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("a\0\r\n no requestbye"), "{heard:?}");
}

#[test]
fn a_tunnel_leads_to_the_servers_of_a_cluster_through_policies() {
    let (app, a, b) = (app(), echo("a"), echo("b"));
    let tunnels =
        "[ { allow: 'db.example:5432', to: db }, { allow: '*.example:*', to: 'tcp://127.0.0.1:1' } ]";
    let clusters = format!(
        "  db: {{ to: 'tcp://127.0.0.1:{},127.0.0.1:{}', filters: [ rate_limit: {{ permits: 2, per: 1h }} ] }}",
        a.port, b.port
    );
    let mecha = door(&app, tunnels, "", &clusters);
    let greeting = || {
        let (mut stream, head) = tunnel(&mecha, "db.example:5432");
        let mut name = [0; 1];
        if !head.starts_with("HTTP/1.1 200 ") {
            return head;
        }
        stream.read_exact(&mut name).unwrap();
        char::from(name[0]).to_string()
    };
    let mut both = [greeting(), greeting()];
    both.sort();
    assert_eq!(both, ["a", "b"]);
    let limited = greeting();
    assert!(limited.starts_with("HTTP/1.1 429 ") && limited.contains("connection: close"), "{limited}");
    assert!(tunnel(&mecha, "other.example:1").1.starts_with("HTTP/1.1 503 "));
    assert!(tunnel(&mecha, "db.elsewhere:5432").1.starts_with("HTTP/1.1 403 "));
}

#[test]
fn tunnels_are_streams_of_http2_too() {
    let (app, server) = (app(), echo("a"));
    let mecha = door(&app, &format!("[ {{ allow: '127.0.0.1:{}' }} ]", server.port), "", "");
    run(async {
        let mut client = Client::new(mecha.port, Version::Two).await;
        let Client::Two(sender) = &mut client else { unreachable!() };
        let asked = |port: u16| {
            let uri = format!("127.0.0.1:{port}");
            Request::builder().method(Method::CONNECT).uri(uri).body(Pieces::default()).unwrap()
        };
        let refused = sender.send_request(asked(1)).await.unwrap();
        assert_eq!(refused.status(), 403);
        let answer = sender.send_request(asked(server.port)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let sent = vec![b'x'; 300_000];
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let (written, heard) = tokio::join!(
            async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await
            },
            async {
                let mut heard = Vec::new();
                reader.read_to_end(&mut heard).await.unwrap();
                heard
            }
        );
        written.unwrap();
        assert!(heard == [b"a", sent.as_slice(), b"bye"].concat(), "{} bytes", heard.len());
        // The connection goes on.
        assert_eq!(client.get("/").await.unwrap().body, "app");
    });
    assert_eq!(calls(&mecha, "connect", "ok"), 1.0);
}

/// A server whose answers never end.
fn endless() -> Fake {
    Fake::start(|mut stream, _| {
        if message(&mut stream).is_none() {
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while stream.write_all(b"1\r\nx\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

#[test]
fn an_answer_takes_no_longer_than_it_may() {
    let server = endless();
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: app\n    max_duration: 1h\n    routes: [ {{ path: /short, to: app, max_duration: 300ms }} ]\nclusters:\n  app: {{ to: 'http://127.0.0.1:{}' }}\n",
        server.port
    ));
    let start = Instant::now();
    let mut stream = connect(mecha.port);
    stream.write_all(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let answer = to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    assert!((Duration::from_millis(300)..PATIENCE / 2).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(calls(&mecha, "get", "refused"), 1.0);
    run(async {
        let mut client = Client::new(mecha.port, Version::Two).await;
        let error = client.get("/short").await.unwrap_err();
        assert!(!error.is_timeout(), "{error}");
    });
    // Others are not bounded so.
    let mut stream = connect(mecha.port);
    stream.write_all(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(600) {
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    }
}

#[test]
fn a_stream_of_grpc_that_takes_too_long_ends_with_its_status() {
    let server = endless();
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - {{ listen: http://127.0.0.1:0, to: app, max_duration: 300ms }}\nclusters:\n  app: {{ to: 'http://127.0.0.1:{}' }}\n",
        server.port
    ));
    run(async {
        let mut client = Client::new(mecha.port, Version::Two).await;
        let request = Request::post("/a.B/c").header("content-type", "application/grpc");
        let answer = client.send(request.body(Pieces::of(["x"])).unwrap()).await.unwrap();
        assert_eq!(answer.trailers["grpc-status"], "4");
        assert_eq!(answer.trailers["mecha-refused"], "timed_out");
        assert!(!answer.body.is_empty());
    });
}

#[test]
fn a_tunnel_lasts_no_longer_than_it_may() {
    let (app, server) = (app(), echo("a"));
    let mecha =
        door(&app, &format!("[ {{ allow: '127.0.0.1:{}' }} ]", server.port), "    max_duration: 300ms", "");
    let (mut stream, head) = tunnel(&mecha, &format!("127.0.0.1:{}", server.port));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let start = Instant::now();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    assert!(start.elapsed() < PATIENCE / 2);
    eventually("it is not closed", || mecha.metric("mecha_client_connections{") == 0.0);
}

#[test]
fn names_of_fields_are_written_as_they_came_or_with_capitals() {
    let heard = super::Heard::default();
    let hears = heard.clone();
    let server = Fake::start(move |mut stream, _| {
        while let Some(message) = message(&mut stream) {
            hears.add(message);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-ODD-name: 1\r\nContent-LENGTH: 2\r\n\r\nok");
        }
    });
    let asked = |of_listener: &str, of_cluster: &str| {
        let mecha = Mecha::configured(&format!(
            "workers: 1\nlisteners:\n  - {{ listen: http://127.0.0.1:0, to: app, header_case: {of_listener} }}\nclusters:\n  app: {{ to: 'http://127.0.0.1:{}', header_case: {of_cluster} }}\n",
            server.port
        ));
        let mut stream = connect(mecha.port);
        stream.write_all(b"GET / HTTP/1.1\r\nHOST: a\r\nX-cASe: 2\r\nconnection: close\r\n\r\n").unwrap();
        (heard.all().len(), to_end(&mut stream), heard.all().pop().unwrap())
    };
    let (_, answer, request) = asked("preserve", "preserve");
    assert!(request.contains("\r\nX-cASe: 2\r\n"), "{request}");
    assert!(
        answer.contains("\r\nX-ODD-name: 1\r\n") && answer.contains("\r\nContent-LENGTH: 2\r\n"),
        "{answer}"
    );
    let (_, answer, request) = asked("title", "title");
    assert!(
        request.contains("\r\nX-Case: 2\r\n") && answer.contains("\r\nX-Odd-Name: 1\r\n"),
        "{request}{answer}"
    );
    let (_, answer, request) = asked("lower", "lower");
    assert!(
        request.contains("\r\nx-case: 2\r\n") && answer.contains("\r\nx-odd-name: 1\r\n"),
        "{request}{answer}"
    );
}

#[test]
fn hints_pass_before_the_answer_and_never_into_one() {
    let server = Fake::start(|mut stream, _| {
        while message(&mut stream).is_some() {
            let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n";
            let _ = stream.write_all(hints.repeat(2).as_bytes());
            std::thread::sleep(Duration::from_millis(50));
            let _ = stream
                .write_all(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let mecha = |keys: &str| {
        Mecha::configured(&format!(
            "workers: 1\nlisteners:\n  - {{ listen: http://127.0.0.1:0, to: app{keys} }}\nclusters:\n  app: {{ to: 'http://127.0.0.1:{}' }}\n",
            server.port
        ))
    };
    let with = mecha(", early_hints: true");
    let heard = |mecha: &Mecha, version: &str, count: usize| {
        let mut stream = connect(mecha.port);
        let request = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n");
        // All at once: each answer has its own hints.
        let last = request.replace("Host", "Connection: close\r\nHost");
        stream.write_all((request.repeat(count - 1) + &last).as_bytes()).unwrap();
        to_end(&mut stream)
    };
    let told = heard(&with, "1.1", 3);
    let statuses: Vec<_> =
        told.lines().filter_map(|line| line.split_once("HTTP/1.1 ").map(|(_, rest)| &rest[..3])).collect();
    assert_eq!(statuses, ["103", "103", "102", "200"].repeat(3), "{told}");
    assert!(told.contains("link: </a.css>\r\n") && !told.contains("x-hop"), "{told}");
    assert_eq!(told.matches("\r\n\r\nok").count(), 3, "{told}");
    let old = heard(&with, "1.0", 1);
    assert!(!old.contains("103") && old.ends_with("ok"), "{old}");
    assert!(!heard(&mecha(""), "1.1", 2).contains("103"));
    run(async {
        let mut client = Client::new(with.port, Version::Two).await;
        assert_eq!(client.get("/").await.unwrap().body, "ok");
    });
}
