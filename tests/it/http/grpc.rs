//! Filters that speak gRPC.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response};

use super::client::{Client, Pieces, Version, Whole, run, serve};
use super::{Heard, connect, message};
use crate::support::{Fake, Mecha, PATIENCE, free_port};

/// A field of a message: a text, bytes, or another message.
pub(super) fn field(number: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut out = varint(u64::from(number) << 3 | 2);
    out.extend(varint(value.len() as u64));
    out.extend(value);
    out
}

/// A field with a number.
pub(super) fn number(field: u8, value: u64) -> Vec<u8> {
    [varint(u64::from(field) << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A message as gRPC frames it.
pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    [[0].as_slice(), &(message.len() as u32).to_be_bytes(), message].concat()
}

pub(super) fn trailers(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        hyper::header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static(status),
    )])
}

/// A server of gRPC on a thread of its own, until the test must be over.
pub(super) fn server(answer: impl Fn(Whole<Parts>) -> Response<Pieces> + Send + 'static) -> u16 {
    let (tell, port) = channel();
    std::thread::spawn(move || {
        run(async move {
            tell.send(serve(Version::Two, answer).await).unwrap();
            tokio::time::sleep(PATIENCE - Duration::from_secs(2)).await;
        });
    });
    port.recv().unwrap()
}

fn answer(message: Vec<u8>, status: &'static str) -> Response<Pieces> {
    let body = Pieces::of([frame(&message)]).with_trailers(trailers(status));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// `HeaderValueOption`.
fn option(key: &str, value: &str) -> Vec<u8> {
    field(1, [field(1, key), field(2, value)].concat())
}

#[test]
fn a_server_of_envoys_api_says_who_may_pass() {
    let heard = Heard::default();
    let hears = heard.clone();
    let app = Fake::start(move |mut stream, _| {
        while let Some(message) = message(&mut stream) {
            hears.add(message);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nin");
        }
    });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asks = Arc::clone(&asked);
    let authz = server(move |request| {
        assert_eq!(request.head.uri.path(), "/envoy.service.auth.v3.Authorization/Check");
        assert_eq!(request.head.headers["grpc-timeout"], "1000m");
        assert_eq!(request.head.headers["content-type"], "application/grpc");
        let text = String::from_utf8_lossy(&request.body).into_owned();
        asks.lock().unwrap().push(request.body.clone());
        if text.contains("session=1") {
            let ok = [
                field(2, option("x-user", "alice")),
                field(5, "x-secret"),
                field(6, option("x-checked", "yes")),
            ];
            return answer([field(1, []), field(3, ok.concat())].concat(), "0");
        }
        if text.contains("broken=1") {
            return answer(field(1, []), "13");
        }
        let denied = [field(1, number(1, 302)), field(2, option("location", "/login")), field(3, "log in")];
        answer(
            [field(1, [number(1, 16), field(2, "who?")].concat()), field(2, denied.concat())].concat(),
            "0",
        )
    });
    let mecha = |authz: u16, more: &str| {
        Mecha::configured(&format!(
            "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: http://127.0.0.1:{}\n    filters: [ ext_authz_grpc: {{ cluster: authz, context: ['policy:shop']{more} }} ]\nclusters:\n  authz: {{ to: 'grpc://127.0.0.1:{authz}' }}\n",
            app.port
        ))
    };
    let told = |mecha: &Mecha, fields: &str| {
        let mut stream = connect(mecha.port);
        write!(
            stream,
            "POST /cart?id=7 HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n{fields}\r\nhi"
        )
        .unwrap();
        message(&mut stream).unwrap()
    };
    let open = mecha(authz, "");
    let refused = told(&open, "X-User: root\r\n");
    assert!(refused.starts_with("HTTP/1.1 302 ") && refused.ends_with("log in"), "{refused}");
    assert!(refused.contains("location: /login\r\n"), "{refused}");
    assert_eq!(heard.all().len(), 0, "it has reached the server");
    let let_in = told(&open, "X-User: root\r\nX-Secret: 1\r\nCookie: session=1\r\n");
    assert!(let_in.starts_with("HTTP/1.1 200 ") && let_in.contains("x-checked: yes\r\n"), "{let_in}");
    let [request] = &*heard.all() else { panic!("it is asked once") };
    assert!(request.contains("x-user: alice\r\n") && request.ends_with("hi"), "{request}");
    assert!(!request.contains("root") && !request.contains("x-secret"), "{request}");
    // What it was told: method, path, host, the client's address, and what the configuration adds.
    let question = asked.lock().unwrap().last().unwrap().clone();
    let holds = |part: &[u8]| question.windows(part.len()).any(|window| window == part);
    for part in [
        field(2, "POST"),
        field(4, "/cart?id=7"),
        field(5, "example.com"),
        field(2, "127.0.0.1"),
        field(10, [field(1, "policy"), field(2, "shop")].concat()),
        field(3, [field(1, "cookie"), field(2, "session=1")].concat()),
    ] {
        assert!(holds(&part), "{}", String::from_utf8_lossy(&part));
    }
    // A call that fails lets nobody in, unless that is wanted.
    assert!(told(&open, "Cookie: broken=1\r\n").starts_with("HTTP/1.1 503 "));
    let nobody = free_port();
    assert!(told(&mecha(nobody, ""), "").starts_with("HTTP/1.1 503 "));
    assert!(told(&mecha(nobody, ", allow_on_failure: true"), "").starts_with("HTTP/1.1 200 "));
    // Clients of gRPC are told in their own way.
    run(async {
        let mut client = Client::new(open.port, Version::Two).await;
        let request = Request::post("/a.B/c").header("content-type", "application/grpc");
        let answer = client.send(request.body(Pieces::of(["x"])).unwrap()).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.header("grpc-status")), (200, "16"));
        assert_eq!(answer.header("grpc-message"), "log in");
    });
}

/// Methods that were called, and what with.
type Asked = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A server of `shop.v1.Shop` (`filters/src/http/grpc_json/shop.proto`), and what it was asked.
fn shop() -> (u16, Asked) {
    let asked = Asked::default();
    let asks = Arc::clone(&asked);
    let port = server(move |request| {
        assert_eq!(request.head.headers["content-type"], "application/grpc");
        assert_eq!(request.head.headers["te"], "trailers");
        let method = request.head.uri.path().strip_prefix("/shop.v1.Shop/").unwrap().to_string();
        asks.lock().unwrap().push((method.clone(), request.body.to_vec()));
        let item = |name: &str, price: u64| [field(1, name), number(2, price)].concat();
        match method.as_str() {
            "GetItem" if request.body.windows(4).any(|part| part == b"gone") => {
                // Its head says nothing of that.
                let mut trailers = trailers("5");
                trailers.insert("grpc-message", HeaderValue::from_static("no such item"));
                let body = Pieces::default().with_trailers(trailers);
                Response::builder().header("content-type", "application/grpc").body(body).unwrap()
            }
            "GetItem" | "CreateItem" => answer(item("pear", 250), "0"),
            "WatchItems" => {
                let frames = [frame(&item("a", 1)), frame(&item("b", 2)), frame(&item("c", 3))].concat();
                // In pieces that are no messages.
                let pieces = frames.chunks(5).map(<[u8]>::to_vec).collect::<Vec<_>>();
                let body = Pieces::of(pieces).with_trailers(trailers("0"));
                Response::builder().header("content-type", "application/grpc").body(body).unwrap()
            }
            "AddItems" => answer(number(1, 7), "0"),
            _ => answer(Vec::new(), "12"),
        }
    });
    (port, asked)
}

fn transcoding(port: u16, options: &str) -> Mecha {
    let set = concat!(env!("CARGO_MANIFEST_DIR"), "/filters/src/http/grpc_json/shop.pb");
    Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - listen: http://127.0.0.1:0\n    to: 'grpc://127.0.0.1:{port}'\n    filters: [ grpc_json: {{ descriptors: {set}{options} }} ]\n"
    ))
}

/// What curl prints, and the status in front of it.
fn curl(mecha: &Mecha, path: &str, args: &[&str]) -> String {
    let url = format!("http://127.0.0.1:{}{path}", mecha.port);
    let args =
        [&["-s", "-g", "--max-time", "20", "-o", "-", "-w", "%{stderr}%{http_code} %{content_type}"], args]
            .concat();
    let output = std::process::Command::new("curl").args(args).arg(url).output().unwrap();
    assert!(output.status.success(), "curl {path}: {}", output.status);
    format!("{} {}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

#[test]
fn programs_that_speak_json_call_grpc() {
    let (port, asked) = shop();
    let mecha = transcoding(port, "");
    let last = || asked.lock().unwrap().last().cloned().unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let told = curl(&mecha, "/v1/shelves/1/items/2?view=full", &[version]);
        assert_eq!(told, r#"200 application/json {"name":"pear","priceCents":"250"}"#);
        let expected = frame(&[field(1, "shelves/1/items/2"), field(2, "full")].concat());
        assert_eq!(last(), ("GetItem".into(), expected));
        let body = r#"{"name":"pear","priceCents":250,"tags":["x","y"]}"#;
        let told = curl(
            &mecha,
            "/v1/shelves/7/items?dryRun=true",
            &[version, "-d", body, "-H", "Content-Type: application/json"],
        );
        assert!(told.starts_with("200 application/json {"), "{told}");
        let item = [field(1, "pear"), number(2, 250), field(4, "x"), field(4, "y")].concat();
        let expected = frame(&[field(1, "7"), field(2, item), number(3, 1)].concat());
        assert_eq!(last(), ("CreateItem".into(), expected));
    }
    // Errors come with trailers, and yet have their status.
    let told = curl(&mecha, "/v1/items/gone", &[]);
    assert_eq!(told, r#"404 application/json {"code":5,"details":[],"message":"no such item"}"#);
    let before = asked.lock().unwrap().len();
    for (path, args) in [("/v1/items/a?colour=red", &[][..]), ("/v1/items:add", &["-d", "{ no json"])] {
        let told = curl(&mecha, path, args);
        assert!(told.starts_with(r#"400 application/json {"code":3,"#), "{told}");
    }
    let told = curl(&mecha, "/v1/items:add", &["-d", r#"{"name":"a"}{"name":"b"}"#]);
    assert_eq!(told, r#"200 application/json {"priceCents":"7"}"#);
    assert_eq!(last().1, [frame(&field(1, "a")), frame(&field(1, "b"))].concat());
    // A broken body may have begun to be sent, but it has not come to its end.
    assert!(asked.lock().unwrap().len() <= before + 2);
    let told = curl(&mecha, "/v1/shelves/1/items:watch", &[]);
    let items = ["a", "b", "c"]
        .iter()
        .zip(1..)
        .map(|(name, price)| format!(r#"{{"name":"{name}","priceCents":"{price}"}}"#));
    let items: Vec<_> = items.collect();
    assert_eq!(told, format!("200 application/json [{}]", items.join(",")));
    let lines = transcoding(port, ", streams: lines");
    let told = curl(&lines, "/v1/shelves/1/items:watch", &[]);
    assert_eq!(told, format!("200 application/x-ndjson {}\n", items.join("\n")));
    // Those who speak gRPC are served as ever.
    run(async {
        let mut client = Client::new(mecha.port, Version::Two).await;
        let request = Request::post("/shop.v1.Shop/GetItem").header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(Pieces::of([frame(&field(1, "gone"))])).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.trailers["grpc-status"], "5");
    });
    let dead = transcoding(free_port(), "");
    assert!(curl(&dead, "/v1/items/a", &[]).starts_with("503 text/plain"));
}

#[test]
fn a_stream_passes_while_it_comes() {
    let port = server(|_| {
        let body = Pieces::of([frame(&field(1, "a"))]).without_end();
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    });
    for (options, expected) in [("", "[{\"name\":\"a\"}"), (", streams: lines", "{\"name\":\"a\"}\n")] {
        let mecha = transcoding(port, options);
        let mut stream = connect(mecha.port);
        stream.write_all(b"GET /v1/shelves/1/items:watch HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let (mut heard, mut byte) = (Vec::new(), [0; 1]);
        while !heard.ends_with(expected.as_bytes()) {
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&heard));
            heard.push(byte[0]);
        }
    }
}
