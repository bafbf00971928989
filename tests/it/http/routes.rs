//! Where requests go, and what is changed in them.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Heard, connect, message};
use crate::support::{Fake, Mecha, free_port};

/// A server that answers with `name`, and what it has heard.
fn named(name: &'static str) -> (Fake, Heard) {
    let heard = Heard::default();
    let hears = heard.clone();
    let server = Fake::start(move |mut stream, _| {
        while let Some(message) = message(&mut stream) {
            hears.add(message);
            let answer =
                format!("HTTP/1.1 200 OK\r\nserver: secret\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (server, heard)
}

/// A listener with `routes`, whose own target is `main`.
fn mecha(main: u16, routes: &str) -> Mecha {
    Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: http://127.0.0.1:{main}\n    routes:\n{routes}\n"
    ))
}

/// The answer to a request with this line and fields.
fn ask(mecha: &Mecha, line: &str, fields: &str) -> String {
    let mut stream = connect(mecha.port);
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n").as_bytes()).unwrap();
    message(&mut stream).unwrap()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn the_first_route_whose_conditions_hold_takes_a_request() {
    let (main, _) = named("main");
    let (one, _) = named("one");
    let (two, _) = named("two");
    let mecha = mecha(
        main.port,
        &format!(
            "      - {{ prefix: /api, method: [GET, HEAD], headers: {{ x-canary: '1' }}, to: 'http://127.0.0.1:{one}' }}\n\
             \x20     - {{ prefix: /api, to: 'http://127.0.0.1:{two}' }}\n\
             \x20     - {{ host: '*.example.org', to: 'http://127.0.0.1:{one}' }}\n\
             \x20     - {{ path: '/users/{{id}}', query: {{ beta: '*' }}, to: 'http://127.0.0.1:{one}' }}\n\
             \x20     - {{ grpc: shop.Cart, to: 'http://127.0.0.1:{two}' }}\n",
            one = one.port,
            two = two.port
        ),
    );
    for (line, fields, expected) in [
        ("GET /api/x", "X-Canary: 1\r\n", "one"),
        ("POST /api/x", "X-Canary: 1\r\n", "two"),
        ("GET /api", "", "two"),
        ("GET /apis", "", "main"),
        ("GET http://a.example.org/", "", "one"),
        ("GET /users/7?beta=1", "", "one"),
        ("GET /users/7", "", "main"),
        ("POST /shop.Cart/Add", "", "two"),
    ] {
        assert_eq!(body(&ask(&mecha, line, fields)), expected, "{line}");
    }
    assert_eq!(mecha.metric("mecha_route_calls_total{listener=\"http\",route=\"default\""), 2.0);
}

#[test]
fn paths_hosts_and_fields_are_rewritten_on_the_way() {
    let (main, _) = named("main");
    let (one, heard) = named("one");
    let mecha = mecha(
        main.port,
        &format!(
            "      - prefix: /old/\n        to: http://127.0.0.1:{}\n        rewrite: {{ prefix: /new, host: inner.example }}\n\
             \x20       request: {{ set: {{ X-A: set }}, add: {{ x-b: added }}, remove: [x-c] }}\n\
             \x20       response: {{ set: {{ x-seen: 'yes' }}, remove: [server] }}\n",
            one.port
        ),
    );
    let answer = ask(&mecha, "GET /old/x?y=1", "x-a: 0\r\nx-b: 0\r\nx-c: 0\r\n").to_lowercase();
    assert!(answer.contains("x-seen: yes\r\n") && !answer.contains("server:"), "{answer}");
    let request = heard.all()[0].to_lowercase();
    assert!(request.starts_with("get /new/x?y=1 http/1.1\r\n"), "{request}");
    for wanted in ["host: inner.example\r\n", "x-a: set\r\n", "x-b: 0\r\n", "x-b: added\r\n"] {
        assert!(request.contains(wanted), "{wanted}: {request}");
    }
    assert!(!request.contains("x-c:") && !request.contains("x-a: 0"), "{request}");
}

#[test]
fn redirects_and_own_answers_need_no_server() {
    let dead = free_port();
    let mecha = mecha(
        dead,
        "      - { path: /health, respond: { status: 200, body: fine }, response: { set: { cache-control: no-store } } }\n\
         \x20     - { prefix: /old, redirect: { prefix: /new, status: 301 } }\n\
         \x20     - { host: example.com, redirect: { scheme: https } }\n",
    );
    let answer = ask(&mecha, "GET /health", "");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nfine"), "{answer}");
    assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
    let answer = ask(&mecha, "GET /old/a?b=c", "");
    assert!(answer.starts_with("HTTP/1.1 301 ") && answer.contains("location: /new/a?b=c\r\n"), "{answer}");
    let answer = ask(&mecha, "GET //evil.example/x", "");
    assert!(answer.contains("location: https://example.com//evil.example/x\r\n"), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
}

#[test]
fn a_split_sends_as_many_requests_as_its_weights_say() {
    let (main, _) = named("main");
    let (blue, _) = named("blue");
    let (green, _) = named("green");
    let mecha = mecha(
        main.port,
        &format!(
            "      - {{ prefix: /, split: [ {{ to: 'http://127.0.0.1:{}', weight: 9 }}, {{ to: 'http://127.0.0.1:{}' }} ] }}\n",
            blue.port, green.port
        ),
    );
    let mut stream = connect(mecha.port);
    let green = (0..1000)
        .filter(|_| {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            message(&mut stream).unwrap().ends_with("green")
        })
        .count();
    // 100 are expected; far less likely than one in a million is to be outside of this.
    assert!((45..=155).contains(&green), "{green}");
}

/// A server that fails in `how` until `good` requests have come.
fn failing(how: &'static str, failures: usize) -> (Fake, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&count);
    let server = Fake::start(move |mut stream, _| {
        while message(&mut stream).is_some() {
            let number = counts.fetch_add(1, Ordering::SeqCst);
            let answer =
                if number < failures { how } else { "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood" };
            match answer {
                "" => return,
                "slow" => std::thread::sleep(Duration::from_secs(30)),
                answer => stream.write_all(answer.as_bytes()).unwrap(),
            }
        }
    });
    (server, count)
}

#[test]
fn requests_are_sent_again_when_that_is_wanted_and_changes_nothing() {
    const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nbad";
    for (how, line, is_good, times) in [
        (BAD, "GET /", true, 3),
        (BAD, "POST /", false, 1),
        (BAD, "PUT /", true, 3),
        ("", "GET /", true, 3),
        ("", "POST /", false, 1),
        ("slow", "GET /", true, 3),
    ] {
        let (server, count) = failing(how, 2);
        let mecha = mecha(
            server.port,
            &format!(
                "      - {{ prefix: /, to: 'http://127.0.0.1:{}', retry: {{ attempts: 3, backoff: 1ms, per_try_timeout: 300ms }} }}\n",
                server.port
            ),
        );
        let answer = ask(&mecha, line, "Content-Length: 0\r\n");
        assert_eq!(answer.starts_with("HTTP/1.1 200 "), is_good, "{how:?} {line}: {answer}");
        assert_eq!(count.load(Ordering::SeqCst), times, "{how:?} {line}");
    }
}

#[test]
fn a_body_that_is_small_enough_is_sent_again_whole() {
    let (server, _) = failing("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", 1);
    let (main, heard) = (server.port, Heard::default());
    let _ = heard;
    let mecha = mecha(
        main,
        &format!(
            "      - {{ prefix: /, to: 'http://127.0.0.1:{main}', retry: {{ max_body: 10B, backoff: 1ms }} }}\n"
        ),
    );
    let put = |length: usize| {
        let mut stream = connect(mecha.port);
        let text =
            format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
        stream.write_all(text.as_bytes()).unwrap();
        message(&mut stream).unwrap()
    };
    assert!(put(10).starts_with("HTTP/1.1 200 "));
    let (server, count) = failing("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", 1);
    let port = server.port;
    let mecha = self::mecha(
        port,
        &format!(
            "      - {{ prefix: /, to: 'http://127.0.0.1:{port}', retry: {{ max_body: 10B, backoff: 1ms }} }}\n"
        ),
    );
    let mut stream = connect(mecha.port);
    stream.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world").unwrap();
    assert!(message(&mut stream).unwrap().starts_with("HTTP/1.1 503 "));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_route_has_a_time_of_its_own() {
    let (slow, _) = failing("slow", 10);
    let (main, _) = named("main");
    let mecha = mecha(
        main.port,
        &format!("      - {{ prefix: /slow, to: 'http://127.0.0.1:{}', timeout: 200ms }}\n", slow.port),
    );
    let start = Instant::now();
    assert!(ask(&mecha, "GET /slow", "").starts_with("HTTP/1.1 504 "));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(body(&ask(&mecha, "GET /", "")), "main");
}

#[test]
fn clients_stay_with_a_server_by_a_field_or_by_a_cookie_that_they_get() {
    let servers = ["one", "two", "three"].map(named);
    let to: Vec<_> = servers.iter().map(|(server, _)| format!("127.0.0.1:{}", server.port)).collect();
    let mecha = |hash_on: &str| {
        Mecha::configured(&format!(
            "workers: 2\nlisteners:\n  - {{ listen: http://127.0.0.1:0, to: app }}\nclusters:\n  \
             app: {{ to: 'http://{}', balance: maglev, hash_on: {hash_on} }}\n",
            to.join(",")
        ))
    };
    let by_field = mecha("{ header: X-User }");
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..30 {
        let fields = format!("x-user: {user}\r\n");
        let first = ask(&by_field, "GET /", &fields);
        seen.insert(body(&first).to_string());
        assert_eq!(body(&ask(&by_field, "GET /", &fields)), body(&first), "{user}");
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    let by_cookie = mecha("{ cookie: route, ttl: 1m }");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let first = ask(&by_cookie, "GET /", "");
        let cookie = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        assert!(cookie.ends_with("; Max-Age=60; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
        let fields = format!("Cookie: a=b; {}\r\n", cookie.split(';').next().unwrap());
        let again = ask(&by_cookie, "GET /", &fields);
        assert_eq!(body(&again), body(&first));
        assert!(!again.contains("set-cookie"), "{again}");
        seen.insert(body(&first).to_string());
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn another_server_is_asked_when_the_first_takes_long() {
    let slow = Fake::start(|mut stream, _| {
        while message(&mut stream).is_some() {
            std::thread::sleep(Duration::from_millis(1500));
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").is_err() {
                return;
            }
        }
    });
    let (quick, heard) = named("quick");
    let route = format!(
        "      - {{ prefix: /, to: 'http://127.0.0.1:{},127.0.0.1:{}', retry: {{ hedge_after: 50ms, budget: 100 }} }}\n",
        slow.port, quick.port
    );
    let mecha = mecha(quick.port, &route);
    let start = Instant::now();
    for _ in 0..8 {
        assert_eq!(body(&ask(&mecha, "GET /", "")), "quick");
    }
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    assert!(heard.all().len() >= 8);
    // What may be done once only waits for whoever was asked.
    let posted: Vec<_> = (0..2).map(|_| ask(&mecha, "POST /", "Content-Length: 0\r\n")).collect();
    assert!(posted.iter().any(|answer| body(answer) == "slow"), "{posted:?}");
}
