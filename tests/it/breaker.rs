//! Policies before servers that fail: a circuit that opens and recovers, a limit that workers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::support::{Fake, Mecha, eventually, frame, redis, redis_on, signal};

/// Two workers in front of `to`, with these filters.
fn filtered(door: &str, to: &str, filters: &str) -> Mecha {
    Mecha::configured(&format!(
        "workers: 2\nlisteners:\n  - listen: {door}://127.0.0.1:0\n    to: {to}\n    filters: [{filters}]\n"
    ))
}

#[test]
fn errors_of_the_servers_own_state_open_the_circuit_and_it_recovers() {
    for (door, request, bad, good) in [
        ("redis", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "-LOADING Redis is loading\r\n", "$-1\r\n"),
        ("memcached", "get k\r\n", "SERVER_ERROR out of memory\r\n", "END\r\n"),
    ] {
        let (is_well, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (well, count) = (Arc::clone(&is_well), Arc::clone(&asked));
        let fake = Fake::start(move |stream, _| {
            Fake::talk(stream, |bytes| {
                let calls = String::from_utf8_lossy(bytes).to_lowercase().matches("get").count();
                count.fetch_add(calls, Ordering::SeqCst);
                let answer = if well.load(Ordering::SeqCst) { good } else { bad };
                Ok(answer.repeat(calls).into_bytes())
            });
        });
        let mecha = filtered(
            door,
            &format!("{door}://127.0.0.1:{}", fake.port),
            "{ circuit_breaker: { failures: 3, open_for: 500ms, max_open_for: 500ms, half_open_probes: 2 } }",
        );
        // One on each worker.
        let mut clients = [mecha.client(), mecha.client()];
        let mut ask = |number: usize| {
            clients[number % 2].send(request.as_bytes());
            clients[number % 2].line()
        };
        for number in 0..3 {
            assert_eq!(ask(number), bad);
        }
        let refused = ask(3);
        assert!(refused.contains("circuit breaker is open"), "{refused}");
        assert_eq!(asked.load(Ordering::SeqCst), 3, "an open circuit sends nothing");
        is_well.store(true, Ordering::SeqCst);
        let mut number = 0;
        eventually("the circuit does not close", || {
            number += 1;
            ask(number);
            mecha.metric("mecha_breaker_state{") == 0.0
        });
        assert!((0..4).all(|number| ask(number) == good));
    }
}

#[test]
fn a_server_that_hangs_or_dies_opens_the_circuit_and_its_return_closes_it() {
    let Some((server, port)) = redis() else { return };
    let mecha = filtered(
        "redis",
        &format!("redis://127.0.0.1:{port}"),
        "{ circuit_breaker: { failures: 2, open_for: 200ms, max_open_for: 400ms, half_open_probes: 2 } }, { timeout: { after: 100ms } }",
    );
    let mut clients = [mecha.client(), mecha.client()];
    let mut number = 0;
    let mut ask = || {
        number += 1;
        let word = format!("word-{number}");
        let reply = clients[number % 2].call(&format!("ECHO {word}"));
        assert!(reply.starts_with("-ERR mecha: ") || reply.contains(&word), "{reply} for {word}");
        reply
    };
    assert!(ask().starts_with('$') && ask().starts_with('$'));
    signal(server.id(), "STOP");
    eventually("a server that hangs does not open the circuit", || ask().contains("circuit breaker is open"));
    signal(server.id(), "CONT");
    eventually("the circuit does not close after the pause", || ask().starts_with('$'));
    eventually("the gauge stays", || ask().starts_with('$') && mecha.metric("mecha_breaker_state{") == 0.0);
    drop(server);
    eventually("a server that is gone does not open it", || ask().contains("circuit breaker is open"));
    let _server = redis_on(port);
    eventually("the circuit does not close after the return", || {
        ask().starts_with('$') && mecha.metric("mecha_breaker_state{") == 0.0
    });
}

#[test]
fn workers_share_one_limit_and_refuse_exactly_what_is_over_it() {
    let Some((_server, port)) = redis() else { return };
    let mecha = filtered(
        "redis",
        &format!("redis://127.0.0.1:{port}"),
        "{ rate_limit: { permits: 1, per: 1h, burst: 100 } }",
    );
    let mut clients: Vec<_> = (0..4).map(|_| mecha.client()).collect();
    for client in &mut clients {
        client.send(&frame(&["INCR", "n"]).repeat(60));
    }
    let (mut passed, mut refused) = (0, 0);
    for client in &mut clients {
        for _ in 0..60 {
            match client.reply() {
                reply if reply.starts_with(':') => passed += 1,
                reply if reply.contains("rate limit exceeded") => refused += 1,
                reply => panic!("{reply}"),
            }
        }
    }
    assert_eq!((passed, refused), (100, 140));
    let mut direct = super::support::Client::new(port);
    assert_eq!(direct.call("GET n"), "$3\r\n100\r\n");
}
