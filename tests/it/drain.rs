//! The end of the process.

use std::time::{Duration, Instant};

use super::support::{Client, Mecha, frame, redis, signal};

/// Each client counts in a key of its own; what it was told and what the server has must agree at the end.
fn every_request_that_was_run_is_answered(name: &str) {
    let Some((_redis, redis)) = redis() else { return };
    let mut mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let port = mecha.port;
    let clients: Vec<_> = (0..20)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::new(port);
                let request = frame(&["INCR".to_string(), format!("count:{number}")]).repeat(1 + number * 3);
                // A thread that never waits for its answers keeps the connection busy to the end.
                let mut writer = client.writer.try_clone().unwrap();
                let writing = std::thread::spawn(move || {
                    while std::io::Write::write_all(&mut writer, &request).is_ok() {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                });
                let mut told = 0;
                while let Some(reply) = client.try_reply() {
                    told += 1;
                    assert_eq!(reply, format!(":{told}\r\n"), "client {number}");
                }
                let _ = client.writer.shutdown(std::net::Shutdown::Both);
                writing.join().unwrap();
                (number, told)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    signal(mecha.process.id(), name);
    let status = mecha.process.wait(Duration::from_secs(8)).expect("it does not end");
    assert!(status.success(), "{name}: {status} after {:?}", start.elapsed());
    let mut server = Client::new(redis);
    for client in clients {
        let (number, told) = client.join().unwrap();
        assert!(told > 0, "client {number} was never served");
        let count = server.call(&format!("GET count:{number}"));
        assert_eq!(count, format!("${}\r\n{told}\r\n", told.to_string().len()), "client {number}");
    }
}

#[test]
fn after_sigterm_every_request_that_was_run_is_answered() {
    every_request_that_was_run_is_answered("TERM");
}

#[test]
fn after_sigint_every_request_that_was_run_is_answered() {
    every_request_that_was_run_is_answered("INT");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let Some((_redis, redis)) = redis() else { return };
    let mut mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let mut blocked = mecha.client();
    blocked.send(&frame(&["BLPOP", "nothing", "0"]));
    let mut other = mecha.client();
    assert_eq!(other.call("PING"), "+PONG\r\n");
    signal(mecha.process.id(), "TERM");
    assert!(other.is_closed(), "idle connections end at once");
    assert!(mecha.process.wait(Duration::from_millis(300)).is_none(), "the blocked client is waited for");
    assert!(mecha.get("/ready").starts_with("HTTP/1.1 503"));
    assert!(Client::try_new(mecha.port).is_none_or(|mut client| client.is_closed()), "nobody is accepted");
    let start = Instant::now();
    signal(mecha.process.id(), "TERM");
    assert!(mecha.process.wait(Duration::from_secs(5)).is_some_and(|status| status.success()));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_drain_ends_within_its_bound() {
    let Some((_redis, redis)) = redis() else { return };
    let mut mecha = Mecha::configured(&format!(
        "drain_timeout: 1s\nlisteners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: \"redis://127.0.0.1:{redis}\" }}\n"
    ));
    let mut blocked = mecha.client();
    blocked.send(&frame(&["BLPOP", "nothing", "0"]));
    let mut subscriber = mecha.client();
    assert!(subscriber.call("SUBSCRIBE ch").starts_with("*3"));
    let start = Instant::now();
    signal(mecha.process.id(), "TERM");
    assert!(mecha.process.wait(Duration::from_secs(5)).is_some_and(|status| status.success()));
    assert!(start.elapsed() > Duration::from_millis(800) && start.elapsed() < Duration::from_secs(3));
    assert!(blocked.is_closed() && subscriber.is_closed());
}
