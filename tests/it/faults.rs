//! Servers and clients that fail. Every value carries its key and a number, so an exchanged reply cannot go unseen.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::support::{Client, Fake, Mecha, eventually, frame, redis, redis_on, signal};

fn one_worker(port: u16, more: &str) -> Mecha {
    Mecha::configured(&format!(
        "workers: 1\nclusters:\n  back: {{ to: \"redis://127.0.0.1:{port}\"{more} }}\nlisteners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: back }}\n"
    ))
}

#[test]
fn late_replies_of_calls_that_timed_out_reach_nobody() {
    let Some((server, redis)) = redis() else { return };
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: redis://127.0.0.1:0\n    to: redis://127.0.0.1:{redis}\n    filters:\n      - timeout: {{ after: 100ms }}\n"
    ));
    let mut clients: Vec<_> = (0..8).map(|_| mecha.client()).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.call(&format!("SET key:{number} {number}-{round}")), "+OK\r\n");
        }
        signal(server.id(), "STOP");
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&frame(&["GET".to_string(), format!("key:{number}")]).repeat(3));
        }
        for client in &mut clients {
            for _ in 0..3 {
                assert_eq!(client.reply(), "-ERR mecha: backend did not answer in time (get)\r\n");
            }
        }
        signal(server.id(), "CONT");
        // The late answers arrive ahead of these.
        for (number, client) in clients.iter_mut().enumerate() {
            let word = format!("{number}-{round}-after");
            eventually("the server does not come back", || {
                let reply = client.call(&format!("ECHO {word}"));
                assert!(reply.contains(&word) || reply.starts_with("-ERR mecha: "), "{reply}");
                reply.contains(&word)
            });
        }
    }
    drop(clients);
    mecha.settles();
}

#[test]
fn a_server_that_pauses_or_dies_under_load_loses_and_exchanges_nothing() {
    let Some((server, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let (is_over, served, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let door = mecha.port;
    let clients: Vec<_> = (0..16)
        .map(|number| {
            let (is_over, served, failed) = (Arc::clone(&is_over), Arc::clone(&served), Arc::clone(&failed));
            std::thread::spawn(move || {
                let mut client = Client::new(door);
                let mut round = 0;
                while !is_over.load(Ordering::SeqCst) {
                    round += 1;
                    let words: Vec<_> = (0..8).map(|part| format!("{number}-{round}-{part}")).collect();
                    client.send(&words.iter().flat_map(|word| frame(&["ECHO", word])).collect::<Vec<_>>());
                    for word in words {
                        let reply = client.reply();
                        if reply.starts_with("-ERR mecha: backend ") {
                            failed.fetch_add(1, Ordering::SeqCst);
                        } else {
                            assert_eq!(reply, format!("${}\r\n{word}\r\n", word.len()));
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    if failed.load(Ordering::SeqCst) > 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            })
        })
        .collect();
    let progress = |what: &str| {
        let before = served.load(Ordering::SeqCst);
        eventually(what, || served.load(Ordering::SeqCst) > before + 1000);
    };
    progress("nothing is served");
    signal(server.id(), "STOP");
    std::thread::sleep(Duration::from_millis(300));
    signal(server.id(), "CONT");
    progress("nothing is served after a pause");
    assert_eq!(failed.load(Ordering::SeqCst), 0, "a pause without a timeout fails nothing");
    let mut server = server;
    for _ in 0..2 {
        drop(server);
        let before = failed.load(Ordering::SeqCst);
        eventually("nobody is told", || failed.load(Ordering::SeqCst) > before + 16);
        server = redis_on(port);
        progress("nothing is served after the return");
    }
    is_over.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    mecha.settles();
}

#[test]
fn a_reply_that_breaks_off_ends_its_client_and_no_other() {
    let fake = Fake::start(|stream, _| {
        Fake::talk(stream, |bytes| {
            if bytes.windows(5).any(|word| word == b"break") {
                return Err(());
            }
            Ok(b"$2\r\nok\r\n".to_vec())
        });
    });
    // A large reply, of which half arrives.
    let half = Fake::start(|mut stream, _| {
        let mut buffer = [0; 4096];
        if std::io::Read::read(&mut stream, &mut buffer).is_ok() {
            let _ = stream.write_all(b"$1000000\r\n");
            let _ = stream.write_all(&[b'x'; 300_000]);
        }
    });
    let mecha = one_worker(fake.port, "");
    let (mut one, mut other) = (mecha.client(), mecha.client());
    assert_eq!([one.call("GET a"), other.call("GET a")].concat(), "$2\r\nok\r\n$2\r\nok\r\n");
    assert!(one.call("GET break").starts_with("-ERR mecha: backend connection was lost"));
    eventually("the others do not go on", || other.call("GET a") == "$2\r\nok\r\n");
    drop((one, other));
    mecha.settles();

    let mecha = one_worker(half.port, "");
    let mut client = mecha.client();
    client.send(&frame(&["GET", "large"]));
    let (bytes, is_over) = client.drain(Duration::from_secs(5));
    assert!(is_over && bytes.starts_with(b"$1000000\r\nxxx") && bytes.len() < 1_000_000);
    assert!(!bytes.windows(4).any(|word| word == b"-ERR"), "no error may look like a part of the value");
    drop(client);
    mecha.settles();
}

#[test]
fn garbage_and_replies_that_nobody_asked_for_reach_nobody() {
    for (name, answer) in [
        ("garbage", b"\x00\xff?!\r\nHTTP/1.1 400 Bad Request\r\n\r\n".as_slice()),
        ("deep", b"*1\r\n".repeat(100_000).as_slice()),
        ("huge", b"*999999999999\r\n"),
        ("negative", b"$-7\r\n"),
    ] {
        let answer = answer.to_vec();
        let fake = Fake::start(move |stream, _| {
            let answer = answer.clone();
            Fake::talk(stream, |bytes| {
                let is_bad = bytes.windows(3).any(|word| word == b"bad");
                Ok(if is_bad { answer.clone() } else { b"+fine\r\n".to_vec() })
            });
        });
        let mecha = one_worker(fake.port, ", backoff: { initial: 1ms, max: 5ms }");
        let mut client = mecha.client();
        assert_eq!(client.call("GET a"), "+fine\r\n");
        let reply = client.call("GET bad");
        assert!(reply.is_empty() || reply.starts_with("-ERR mecha: backend"), "{name}: {reply}");
        let mut other = mecha.client();
        eventually(name, || other.call("GET a") == "+fine\r\n");
        assert!(mecha.resident_mib() < 100.0, "{name}");
    }
    let fake = Fake::start(|stream, _| {
        let mut number = 0;
        Fake::talk(stream, |_| {
            number += 1;
            Ok(format!(":{number}\r\n+EXTRA\r\n").into_bytes())
        });
    });
    let mecha = one_worker(fake.port, ", backoff: { initial: 1ms, max: 5ms }, connect_rate: 10_000");
    let mut client = mecha.client();
    for _ in 0..20 {
        let reply = client.call("INCR n");
        assert!(!reply.contains("EXTRA"), "{reply}");
    }
}

#[test]
fn a_failing_server_is_not_stormed() {
    let fake = Fake::start(|stream, _| drop(stream));
    let mecha = one_worker(fake.port, ", connect_rate: 20, backoff: { initial: 1ms, max: 1ms }");
    let mut clients: Vec<_> = (0..20).map(|_| mecha.client()).collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        for client in &mut clients {
            assert!(client.call("GET k").starts_with("-ERR mecha: backend"));
        }
    }
    let limit = 20.0 * start.elapsed().as_secs_f64() + 5.0;
    assert!((fake.accepted() as f64) <= limit, "{} attempts, {limit} allowed", fake.accepted());
}

#[test]
fn ten_thousand_idle_clients_cost_little() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limit: usize = files.split_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap_or(1024);
    let count = 10_000.min(limit.saturating_sub(limit / 4));
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let before = mecha.resident_mib();
    // A debug build takes longer and more than a release build, whose bounds are 30 ms and 12 MiB.
    assert!(mecha.started_after < Duration::from_secs(2), "started after {:?}", mecha.started_after);
    assert!(before < 40.0, "{before} MiB at the start");
    let request = frame(&["PING"]);
    let mut idle: Vec<_> = (0..count)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", mecha.port)).unwrap();
            stream.write_all(&request).unwrap();
            stream
        })
        .collect();
    for stream in &mut idle {
        let mut answer = [0; 7];
        std::io::Read::read_exact(stream, &mut answer).unwrap();
        assert_eq!(&answer, b"+PONG\r\n");
    }
    assert_eq!(mecha.metric("mecha_client_connections{"), count as f64);
    let with = mecha.resident_mib();
    assert!(with < 100.0, "{count} idle clients: {with} MiB");
    let mut client = mecha.client();
    assert_eq!(client.call("ECHO x"), "$1\r\nx\r\n");
    drop((idle, client));
    mecha.settles();
}
