//! What filters that look into requests do to them, to bodies and to answers.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Heard, connect, message, to_end};
use crate::support::{Fake, Issuer, Mecha, free_port};

/// A server that answers with these fields and this body, and what it has heard.
fn server(fields: &'static str, body: &'static str) -> (Fake, Heard) {
    let heard = Heard::default();
    let hears = heard.clone();
    let server = Fake::start(move |mut stream, _| {
        while let Some(message) = message(&mut stream) {
            hears.add(message);
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (server, heard)
}

/// A listener before `port` with these filters, a line each, and more of the configuration.
fn mecha(port: u16, filters: &str, more: &str) -> Mecha {
    let filters: String = filters.lines().map(|line| format!("      - {}\n", line.trim())).collect();
    Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: http://127.0.0.1:{port}\n    filters:\n{filters}{more}"
    ))
}

/// The answer to a request with this line and fields, in lower case but for its body.
fn ask(mecha: &Mecha, line: &str, fields: &str) -> String {
    let mut stream = connect(mecha.port);
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n").as_bytes()).unwrap();
    message(&mut stream).unwrap()
}

/// What curl prints for these arguments and the path behind mecha's address.
fn curl(mecha: &Mecha, path: &str, args: &[&str]) -> String {
    let url = format!("http://127.0.0.1:{}{path}", mecha.port);
    let output = Command::new("curl").args(["-s", "--max-time", "20"]).args(args).arg(url).output().unwrap();
    assert!(output.status.success(), "curl {args:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pages_of_named_origins_may_read_even_what_is_refused() {
    let (server, heard) = server("access-control-allow-origin: *\r\n", "page");
    let mecha = mecha(
        server.port,
        "cors: { origins: ['https://app.example.com'], methods: [GET, DELETE], credentials: true, expose: [x-id] }
         basic_auth: { users: ['alice:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8'] }",
        "",
    );
    let question = "Origin: https://app.example.com\r\nAccess-Control-Request-Method: DELETE\r\n";
    let told = ask(&mecha, "OPTIONS /x", question);
    assert!(
        told.starts_with("HTTP/1.1 204 ") && told.contains("access-control-allow-methods: GET, DELETE"),
        "{told}"
    );
    let told = ask(&mecha, "OPTIONS /x", &question.replace("app", "evil"));
    assert!(told.starts_with("HTTP/1.1 403 ") && !told.contains("access-control"), "{told}");
    assert_eq!(heard.all().len(), 0, "a question has reached the server");
    // Refused by the next filter, and a page may learn that.
    let told = ask(&mecha, "GET /x", "Origin: https://app.example.com\r\n");
    assert!(told.starts_with("HTTP/1.1 401 "), "{told}");
    assert!(told.contains("access-control-allow-origin: https://app.example.com\r\n"), "{told}");
    let login = "Authorization: Basic YWxpY2U6cGFzc3dvcmQ=\r\n";
    let told = ask(&mecha, "GET /x", &format!("Origin: https://app.example.com\r\n{login}"));
    assert!(told.starts_with("HTTP/1.1 200 ") && told.ends_with("page"), "{told}");
    assert_eq!(told.matches("access-control-allow-origin").count(), 1, "{told}");
    assert!(told.contains("access-control-expose-headers: x-id\r\n"), "{told}");
    let told = ask(&mecha, "GET /x", &format!("Origin: https://evil.example.com\r\n{login}"));
    assert!(told.starts_with("HTTP/1.1 200 ") && !told.contains("access-control-allow"), "{told}");
}

#[test]
fn a_password_lets_in_and_policies_stand_where_they_are_configured() {
    let (server, heard) = server("", "in");
    let auth = "basic_auth: { users: ['alice:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8'], realm: shop, user_header: x-user }";
    let before = mecha(server.port, &format!("{auth}\nrate_limit: {{ permits: 2, per: 1h, burst: 2 }}"), "");
    assert!(curl(&before, "/", &["-i"]).contains("www-authenticate: Basic realm=\"shop\""));
    for _ in 0..5 {
        assert!(curl(&before, "/", &["-i", "-u", "alice:wrong"]).starts_with("HTTP/1.1 401 "));
    }
    // Those who were turned away before it have used nothing up.
    for _ in 0..2 {
        assert_eq!(curl(&before, "/", &["-u", "alice:password", "-H", "x-user: root"]), "in");
    }
    assert!(curl(&before, "/", &["-i", "-u", "alice:password"]).starts_with("HTTP/1.1 429 "));
    for message in heard.all() {
        assert!(message.contains("x-user: alice") && !message.contains("root"), "{message}");
        assert!(!message.to_lowercase().contains("authorization"), "{message}");
    }
    assert_eq!(heard.all().len(), 2);
    assert_eq!(before.metric("mecha_refusals_total{listener=\"http\",reason=\"login_failed\""), 5.0);
    let behind = mecha(server.port, &format!("rate_limit: {{ permits: 2, per: 1h, burst: 2 }}\n{auth}"), "");
    for expected in ["401", "401", "429"] {
        assert!(curl(&behind, "/", &["-i"]).starts_with(&format!("HTTP/1.1 {expected} ")), "{expected}");
    }
}

/// A server that has the issuer's keys, as they are at the time, and how often it was asked.
fn keys(jwks: impl Fn() -> String + Send + Sync + 'static) -> (Fake, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Fake::start(move |mut stream, _| {
        while let Some(message) = message(&mut stream) {
            assert!(message.starts_with("GET /keys "), "{message}");
            count.fetch_add(1, Ordering::SeqCst);
            let body = jwks();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (server, asked)
}

#[test]
fn tokens_are_judged_by_keys_that_are_asked_for_once() {
    let (server, heard) = server("", "in");
    let issuer = Issuer::new();
    let jwks = issuer.jwks();
    let (keys, asked) = keys(move || jwks.clone());
    let mecha = mecha(
        server.port,
        "jwt: { cluster: issuer, path: /keys, audience: shop, claims: ['sub:x-user', 'aud:x-aud'], strip: true }",
        &format!("clusters:\n  issuer: {{ to: 'http://127.0.0.1:{}' }}\n", keys.port),
    );
    let with =
        |token: &str| ask(&mecha, "GET /", &format!("Authorization: Bearer {token}\r\nX-Aud: root\r\n"));
    for _ in 0..3 {
        assert!(with(&issuer.token("shop", 60)).ends_with("in"));
    }
    for (token, why) in [
        (issuer.token("other", 60), "for somebody else"),
        (Issuer::new().token("shop", 60), "of somebody else"),
        (issuer.token("shop", 0).replace('.', ".."), "no token"),
    ] {
        let told = with(&token);
        assert!(told.starts_with("HTTP/1.1 401 "), "{why}: {told}");
        assert!(told.contains("www-authenticate: Bearer error=\"invalid_token\""), "{why}: {told}");
    }
    let told = ask(&mecha, "GET /", "");
    assert!(told.starts_with("HTTP/1.1 401 ") && told.contains("www-authenticate: Bearer\r\n"), "{told}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(heard.all().len(), 3);
    for message in heard.all() {
        assert!(message.contains("x-user: orders") && message.contains("x-aud: shop"), "{message}");
        assert!(!message.contains("root") && !message.contains("Bearer"), "{message}");
    }
}

#[test]
fn a_server_of_the_user_says_who_may_pass_and_as_whom() {
    let (server, heard) = server("", "in");
    let questions = Heard::default();
    let hears = questions.clone();
    let auth = Fake::start(move |mut stream, _| {
        while let Some(message) = message(&mut stream) {
            let is_known = message.to_lowercase().contains("cookie: session=1");
            hears.add(message);
            let answer = if is_known {
                "HTTP/1.1 200 OK\r\nx-user: alice\r\ncontent-length: 0\r\n\r\n"
            } else {
                "HTTP/1.1 302 Found\r\nlocation: https://login.example.com/\r\ncontent-length: 5\r\n\r\nlogin"
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let clusters = format!("clusters:\n  auth: {{ to: 'http://127.0.0.1:{}' }}\n", auth.port);
    let filter = "ext_authz: { cluster: auth, path: '/verify?x=1', copy: [x-user] }";
    let mecha = mecha(server.port, filter, &clusters);
    let told = ask(&mecha, "POST /cart?id=7", "Content-Length: 2\r\nX-User: root\r\n");
    assert!(told.starts_with("HTTP/1.1 302 ") && told.ends_with("login"), "{told}");
    assert!(told.contains("location: https://login.example.com/\r\n"), "{told}");
    assert_eq!(heard.all().len(), 0);
    assert_eq!(curl(&mecha, "/cart?id=7", &["-d", "hi", "-b", "session=1", "-H", "x-user: root"]), "in");
    let [asked] = &*heard.all() else { panic!("it is asked once") };
    assert!(asked.contains("x-user: alice") && !asked.contains("root") && asked.ends_with("hi"), "{asked}");
    let question = questions.all().pop().unwrap().to_lowercase();
    assert!(question.starts_with("get /verify?x=1 http/1.1\r\n"), "{question}");
    for field in ["x-forwarded-method: post", "x-forwarded-uri: /cart?id=7", "x-forwarded-proto: http"] {
        assert!(question.contains(field), "{field}: {question}");
    }
    assert!(question.contains(&format!("host: 127.0.0.1:{}\r\n", auth.port)), "{question}");
    assert!(!question.contains("content-length: 2"), "{question}");
    // Nobody is let in because nobody can be asked, unless that is wanted.
    let nobody = format!("clusters:\n  auth: {{ to: 'http://127.0.0.1:{}' }}\n", free_port());
    for (filter, status) in
        [(filter.to_string(), "503"), (filter.replace("copy:", "allow_on_failure: true, copy:"), "200")]
    {
        let mecha = self::mecha(server.port, &filter, &nobody);
        let told = ask(&mecha, "GET /", "Cookie: session=1\r\n");
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
    }
}

#[test]
fn bodies_end_at_their_bounds_in_both_directions() {
    let (server, heard) = server("", "0123456789");
    let bounded = mecha(server.port, "body_limit: { request: 10B }", "");
    assert_eq!(curl(&bounded, "/", &["-d", "0123456789"]), "0123456789");
    let told = ask(&bounded, "POST /", "Content-Length: 11\r\n");
    assert!(told.starts_with("HTTP/1.1 413 ") && told.contains("mecha-refused: too_large"), "{told}");
    assert_eq!(heard.all().len(), 1, "it has reached the server");
    // Nobody has said how long it is.
    let mut stream = connect(bounded.port);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(format!("{head}8\r\n01234567\r\n3\r\n012\r\n0\r\n\r\n").as_bytes()).unwrap();
    let told = message(&mut stream).unwrap();
    assert!(told.starts_with("HTTP/1.1 413 "), "{told}");
    let mut stream = connect(bounded.port);
    stream.write_all(format!("{head}8\r\n01234567\r\n2\r\n01\r\n0\r\n\r\n").as_bytes()).unwrap();
    assert!(message(&mut stream).unwrap().ends_with("0123456789"));

    let bounded = mecha(server.port, "body_limit: { response: 9B }", "");
    let mut stream = connect(bounded.port);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let told = to_end(&mut stream);
    assert!(!told.contains("0123456789"), "{told}");
}

#[test]
fn answers_are_compressed_for_those_who_can_read_them_so() {
    static PAGE: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| "All work and no play. ".repeat(2000));
    let (server, _) = server("content-type: text/plain\r\netag: \"a\"\r\n", &PAGE);
    let mecha = mecha(server.port, "compression", "");
    assert!(curl(&mecha, "/", &["--compressed"]) == *PAGE);
    let sizes = curl(&mecha, "/", &["--compressed", "-o", "/dev/null", "-w", "%{size_download}"]);
    assert!(sizes.parse::<usize>().unwrap() < 2000, "{sizes}");
    let told = curl(&mecha, "/", &["-i"]);
    assert!(told.ends_with(&*PAGE) && told.contains("vary: accept-encoding"), "{}", &told[..300]);
    // Its head says nothing that is true of another answer.
    let told = curl(&mecha, "/", &["-I", "-H", "accept-encoding: gzip"]);
    assert!(!told.contains("content-encoding") && told.contains("content-length: 44000"), "{told}");
    let told = curl(&mecha, "/", &["--http2-prior-knowledge", "--compressed"]);
    assert!(told == *PAGE);
}

#[test]
fn what_a_server_sends_is_compressed_at_once() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Fake::start(move |mut stream, _| {
        message(&mut stream);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}b\r\ndata: one\n\n\r\n").as_bytes()).unwrap();
        let _ = wait.lock().unwrap().recv_timeout(Duration::from_secs(20));
        let _ = stream.write_all(b"0\r\n\r\n");
    });
    let mecha = mecha(server.port, "compression", "");
    let mut stream = connect(mecha.port);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    let mut part = [0; 1024];
    // The head, and a piece of gzip that is more than its ten bytes of head.
    while heard.windows(4).position(|part| part == b"\r\n\r\n").is_none_or(|at| heard.len() < at + 24) {
        let count = std::io::Read::read(&mut stream, &mut part).unwrap();
        assert!(count > 0, "{:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&part[..count]);
    }
    assert!(String::from_utf8_lossy(&heard).contains("content-encoding: gzip"));
    go.send(()).unwrap();
}

#[test]
fn filters_of_a_route_are_for_its_requests_only() {
    let (server, heard) = server("", "in");
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: http://127.0.0.1:{port}\n    filters: [traceparent]\n    routes:\n               - {{ prefix: /admin, to: 'http://127.0.0.1:{port}', filters: [basic_auth: {{ users: ['a:{hash}'] }}] }}\n",
        port = server.port,
        hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
    ));
    assert!(ask(&mecha, "GET /", "").ends_with("in"));
    assert!(ask(&mecha, "GET /admin/x", "").starts_with("HTTP/1.1 401 "));
    assert_eq!(curl(&mecha, "/admin/x", &["-u", "a:password"]), "in");
    let heard = heard.all();
    let traces: Vec<_> = heard
        .iter()
        .map(|message| {
            message.lines().find_map(|line| line.strip_prefix("traceparent: 00-")).unwrap().to_string()
        })
        .collect();
    assert!(
        traces.len() == 2 && traces[0] != traces[1] && traces.iter().all(|one| one.len() == 52),
        "{traces:?}"
    );
}

#[test]
fn grpc_clients_are_turned_away_in_their_own_words() {
    let (server, _) = server("", "in");
    let mecha = mecha(
        server.port,
        "basic_auth: { users: ['a:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8'] }",
        "",
    );
    let args = [
        "-i",
        "--http2-prior-knowledge",
        "-X",
        "POST",
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
    ];
    let told = curl(&mecha, "/shop.Cart/Add", &args);
    assert!(told.starts_with("HTTP/2 200") && told.contains("grpc-status: 16"), "{told}");
}

#[test]
fn pages_call_grpc_and_read_its_trailers() {
    use super::client::{Pieces, Version, run, serve};
    let (tell, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run(async move {
            let port = serve(Version::Two, |request| {
                assert_eq!(request.head.headers["content-type"], "application/grpc+proto");
                assert_eq!(request.head.headers["te"], "trailers");
                let mut trailers = hyper::HeaderMap::new();
                trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
                let body =
                    Pieces::of([request.body.slice(..2), request.body.slice(2..)]).with_trailers(trailers);
                hyper::Response::builder()
                    .header("content-type", "application/grpc+proto")
                    .body(body)
                    .unwrap()
            })
            .await;
            tell.send(port).unwrap();
            tokio::time::sleep(Duration::from_secs(15)).await;
        });
    });
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - {{ listen: http://127.0.0.1:0, to: 'grpc://127.0.0.1:{}', filters: [grpc_web] }}\n",
        port.recv().unwrap()
    ));
    let ask = |kind: &str, body: &str| {
        let mut stream = connect(mecha.port);
        let fields =
            format!("Host: a\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close", body.len());
        stream
            .write_all(format!("POST /shop.Cart/Add HTTP/1.1\r\n{fields}\r\n\r\n{body}").as_bytes())
            .unwrap();
        to_end(&mut stream)
    };
    let told = ask("application/grpc-web+proto", "\0\0\0\0\u{2}hi");
    assert!(told.contains("content-type: application/grpc-web+proto\r\n"), "{told}");
    assert!(told.contains("\0\0\0\0\u{2}hi") || told.contains("\0\0\r\n"), "{told:?}");
    assert!(told.contains("grpc-status: 0\r\n"), "{told:?}");
    // The same in base64, as old browsers want it.
    let told = ask("application/grpc-web-text+proto", "AAAAAAJoaQ==");
    assert!(told.contains("content-type: application/grpc-web-text+proto\r\n"), "{told}");
    let text: String = told.split_once("\r\n\r\n").unwrap().1.lines().skip(1).step_by(2).collect();
    assert_eq!(text.trim_end_matches('='), "AAAAAAJoaYAAAAAQZ3JwYy1zdGF0dXM6IDANCg");
}

#[test]
fn answers_are_kept_for_the_next_who_asks_and_asked_about_when_they_are_old() {
    let heard = Heard::default();
    let hears = heard.clone();
    let server = Fake::start(move |mut stream, _| {
        while let Some(message) = message(&mut stream) {
            let is_known = message.to_lowercase().contains("if-none-match: \"1\"");
            let (status, length, body) = if is_known {
                ("304 Not Modified", String::new(), "")
            } else {
                ("200 OK", "content-length: 5\r\n".into(), "hello")
            };
            // What is asked for as /old is old at once.
            let age = if message.starts_with("GET /old ") { 0 } else { 60 };
            hears.add(message);
            let answer = format!(
                "HTTP/1.1 {status}\r\netag: \"1\"\r\ncache-control: max-age={age}\r\n{length}\r\n{body}"
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mecha =
        mecha(server.port, "cache: { size: 4MiB }\ncompression: { min_size: 1B, types: ['text/*'] }", "");
    for _ in 0..5 {
        assert_eq!(curl(&mecha, "/page", &[]), "hello");
    }
    assert_eq!(heard.all().len(), 1);
    let told = curl(&mecha, "/page", &["-i", "--http2-prior-knowledge"]);
    assert!(
        told.contains("cache-status: mecha; hit") && told.contains("age: ") && told.ends_with("hello"),
        "{told}"
    );
    let told = curl(&mecha, "/page", &["-i", "-H", "if-none-match: \"1\""]);
    assert!(told.starts_with("HTTP/1.1 304 ") && !told.contains("hello"), "{told}");
    assert_eq!(heard.all().len(), 1);
    assert_eq!(curl(&mecha, "/old", &[]), "hello");
    for number in 3..6 {
        let told = curl(&mecha, "/old", &["-i"]);
        assert!(told.contains("detail=revalidated") && told.ends_with("hello"), "{told}");
        assert_eq!(heard.all().len(), number);
    }
    // What changes it ends it.
    curl(&mecha, "/page", &["-X", "DELETE"]);
    assert_eq!(curl(&mecha, "/page", &[]), "hello");
    let last: Vec<_> =
        heard.all().iter().skip(5).map(|message| message.split(' ').next().unwrap().to_string()).collect();
    assert_eq!(last, ["DELETE", "GET"]);
}
