//! Programs of other protocols that dial what they know: Kafka's own tools and kcat, callers of gRPC, and clients of Memcached.

use std::io::Write;
use std::process::{Command, Stdio};

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, Response};

use super::{V4, V6, alone, calls, intercept, run as run_program};
use crate::http::client::{Client, Pieces, Version, run};
use crate::support::{Kafka, Mecha, PATIENCE, eventually, tool};

/// What kcat prints, which dials a broker at the address that it is told.
fn kcat(port: u16, args: &[&str], input: &str) -> String {
    let mut command = Command::new("timeout");
    command.args(["60", "kcat", "-b", &format!("127.0.0.1:{port}")]).args(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn clients_of_kafka_dial_a_broker_that_they_know() {
    alone(|| {
        if Command::new("kcat").arg("-V").output().is_err() {
            assert!(std::env::var_os("MECHA_REQUIRE_SERVERS").is_none(), "no kcat");
            eprintln!("skipped: no kcat");
            return;
        }
        // In this namespace, where nobody else can reach it.
        let Some(kafka) = Kafka::start(1) else { return };
        let known = kafka.advertised()[0];
        let mecha = Mecha::configured(&format!(
            "workers: 1\nlisteners:\n  - name: events\n    listen: kafka://0.0.0.0:19092\n    transparent: redirect\n    to: {}\n    \
             brokers: {{ ports: 19093-19095 }}\n    filters: [ deny: {{ topics: [secret] }} ]\n",
            kafka.target()
        ));
        for rules in ["nft", "iptables"] {
            intercept(&["apply", "--rules", rules, "--port", &format!("{known}=19092")]);
            let before = calls(&mecha, "events");
            let name = format!("t-{rules}");
            let list = kcat(known, &["-L"], "");
            assert!(list.contains("127.0.0.1:1909"), "{list}");
            kcat(known, &["-P", "-t", &name, "-X", "acks=all"], "one\ntwo\n");
            let got = kcat(known, &["-C", "-t", &name, "-o", "beginning", "-e", "-q"], "");
            let mut got: Vec<_> = got.lines().collect();
            got.sort_unstable();
            assert_eq!(got, ["one", "two"]);
            let server = format!("127.0.0.1:{known}");
            let said = tool(
                "consumer.ConsoleConsumer",
                &["--bootstrap-server", &server, "--topic", &name, "--from-beginning", "--max-messages", "2"],
            );
            assert!(said.contains("one") && said.contains("two"), "{said}");
            assert!(calls(&mecha, "events") > before);
            // Who is let past mecha is not let in.
            kafka.assert_hidden();
            intercept(&["remove"]);
        }
    });
}

/// A server of gRPC at this address that says who it is.
fn grpc(address: &'static str, port: u16) {
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run(async move {
            let fields = HeaderMap::from_iter([(
                hyper::header::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )]);
            crate::http::client::serve_at((address, port), Version::Two, move |request| {
                assert_eq!(request.head.uri.path(), "/shop.Cart/Get");
                let body = Pieces::of([&b"\0\0\0\0\x03\x0a\x01a"[..]]).with_trailers(fields.clone());
                Response::builder().header("content-type", "application/grpc").body(body).unwrap()
            })
            .await;
            ready.send(()).unwrap();
            tokio::time::sleep(PATIENCE - std::time::Duration::from_secs(2)).await;
        });
    });
    wait.recv().unwrap();
}

#[test]
fn callers_of_grpc_dial_a_server_that_they_know() {
    alone(|| {
        for address in [V4, V6] {
            grpc(address, 50_051);
        }
        for (mode, rules) in [("redirect", "nft"), ("tproxy", "iptables")] {
            let mecha = Mecha::configured(&format!(
                "workers: 1\nlisteners:\n  - name: rest\n    listen: \"auto://[::]:15001\"\n    transparent: {mode}\n    to: \"original://\"\n    \
                 detect: {{ to: [shop] }}\n  - name: shop\n    listen: \"http://[::]:18080\"\n    to: \"grpc://{V4}:50051\"\n    \
                 routes: [ {{ grpc: shop.Admin, respond: {{ status: 403 }} }} ]\n"
            ));
            // Whoever asks mecha itself speaks HTTP too.
            let admin = mecha.admin.to_string();
            let excluded = ["--exclude-port", &admin];
            intercept(
                &[&["apply", "--rules", rules, "--mode", mode, "--rest", "15001"][..], &excluded].concat(),
            );
            for address in [V4, V6] {
                let call = |method: &'static str| {
                    run(async move {
                        let mut client = Client::at((address, 50_051), Version::Two).await;
                        let request = Request::post(method).header("content-type", "application/grpc");
                        let request = request.header("te", "trailers").body(Pieces::of([&b"\0\0\0\0\0"[..]]));
                        client.send(request.unwrap()).await.unwrap()
                    })
                };
                let answer = call("/shop.Cart/Get");
                assert_eq!(
                    (&answer.body[..], &answer.trailers["grpc-status"]),
                    (&b"\0\0\0\0\x03\x0a\x01a"[..], &HeaderValue::from_static("0"))
                );
                assert_eq!(call("/shop.Admin/Drop").status(), 403);
            }
            eventually("a call did not cross mecha", || calls(&mecha, "shop") >= 4.0);
            intercept(&["remove"]);
        }
    });
}

/// A client of Memcached: binary protocol and all, as a program of its own.
const MEMCACHED: &str = r"
import socket, struct, sys
s = socket.create_connection((sys.argv[1], 11211), 10)
f = s.makefile('rb')
def call(op, key=b'', extras=b'', value=b''):
    body = extras + key + value
    s.sendall(struct.pack('>BBHBBHIIQ', 0x80, op, len(key), len(extras), 0, 0, len(body), 7, 0) + body)
    head = struct.unpack('>BBHBBHIIQ', f.read(24))
    body = f.read(head[6])
    return head[5], body[head[3] + head[2]:]
assert call(1, b'key', struct.pack('>II', 0, 0), b'value')[0] == 0
print(call(0, b'key')[1].decode(), call(8)[0])
";

#[test]
fn clients_of_memcached_dial_a_server_that_they_know() {
    alone(|| {
        let has = |name: &str| Command::new(name).arg("--version").output().is_ok();
        if !has("memcached") || !has("python3") {
            assert!(std::env::var_os("MECHA_REQUIRE_SERVERS").is_none(), "no memcached or no python3");
            eprintln!("skipped: no memcached or no python3");
            return;
        }
        let mut command = Command::new("memcached");
        command.args(["-u", "root", "-l", &format!("{V4},{V6}")]).stdout(Stdio::null()).stderr(Stdio::null());
        let _server = crate::support::Process(command.spawn().unwrap());
        for address in [V4, V6] {
            eventually("memcached does not start", || std::net::TcpStream::connect((address, 11211)).is_ok());
        }
        let mecha = Mecha::configured(&format!(
            "workers: 1\nlisteners:\n  - {{ name: memory, listen: \"memcached://[::]:21211\", transparent: redirect, to: \"memcached://{V4}:11211\", filters: [ deny_commands: {{ commands: [flush_all] }} ] }}\n"
        ));
        for rules in ["nft", "iptables"] {
            intercept(&["apply", "--rules", rules, "--port", "11211=21211"]);
            for address in [V4, V6] {
                let before = calls(&mecha, "memory");
                let said = run_program("python3", &["-c", MEMCACHED, address]);
                let (value, flushed) = said.trim().split_once(' ').unwrap();
                assert!(value == "value" && flushed != "0", "{said}");
                eventually("a call did not cross mecha", || calls(&mecha, "memory") >= before + 3.0);
            }
        }
        intercept(&["remove"]);
    });
}
