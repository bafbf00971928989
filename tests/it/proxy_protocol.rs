//! Who the client is, told by the proxy in front, and told to the proxy behind.

use std::io::Write;
use std::time::Duration;

use super::support::{Client, Mecha, eventually, redis};

fn door(listen: &str, to: &str) -> Mecha {
    Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"{listen}://127.0.0.1:0\", to: \"{to}\", proxy_protocol: required }}\nworkers: 2\n"
    ))
}

#[test]
fn the_proxys_word_is_taken_for_who_the_client_is() {
    let mecha = door("redis", "embedded://");
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend_from_slice(&[198, 51, 100, 9, 10, 0, 0, 1, 0x1f, 0x90, 0, 80]);
    let v1 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 6379\r\n".to_vec();
    for (header, source) in [(v1, "[2001:db8::7]:4711"), (v2, "198.51.100.9:8080")] {
        // In one piece with the first request, and a byte at a time.
        for size in [usize::MAX, 1] {
            let mut client = mecha.client();
            let bytes = [header.as_slice(), b"PING\r\n"].concat();
            for piece in bytes.chunks(size.min(bytes.len())) {
                client.send(piece);
                std::thread::sleep(Duration::from_micros(200));
            }
            assert_eq!(client.line(), "+PONG\r\n");
            let rows = mecha.get("/connections");
            assert!(rows.contains(source), "{source}\n{rows}");
        }
    }
    mecha.settles();
}

#[test]
fn without_a_header_nobody_is_served_and_nobody_waits() {
    let mecha = door("redis", "embedded://");
    let silent: Vec<_> = (0..100).map(|_| mecha.client()).collect();
    let mut plain = mecha.client();
    plain.send(b"*1\r\n$4\r\nPING\r\n");
    assert!(plain.is_closed());
    let mut good = mecha.client();
    good.send(b"PROXY UNKNOWN\r\nPING\r\n");
    assert_eq!(good.line(), "+PONG\r\n");
    let failures = || mecha.metric("mecha_proxy_protocol_failures_total{");
    assert_eq!(failures(), 1.0);
    // Those who say nothing are given up too.
    eventually("silent connections stay", || failures() == 101.0);
    assert!(silent.into_iter().all(|mut client| client.is_closed()));
    drop(good);
    mecha.settles();
}

#[test]
fn a_chain_of_two_tells_the_last_who_the_client_is() {
    let Some((_redis, redis)) = redis() else { return };
    for version in ["v1", "v2"] {
        let last = door("redis", &format!("redis://127.0.0.1:{redis}"));
        let first = Mecha::configured(&format!(
            "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: back }}\nclusters:\n  back: {{ to: \"tcp://127.0.0.1:{}\", proxy_protocol: {version} }}\nworkers: 1\n",
            last.port
        ));
        let mut client = first.client();
        assert_eq!(client.call("SET who me"), "+OK\r\n");
        let source = client.writer.local_addr().unwrap().to_string();
        let rows = last.get("/connections");
        assert!(rows.contains(&source), "{version}: {source}\n{rows}");
        assert_eq!(Client::new(redis).call("GET who"), "$2\r\nme\r\n");
        // What comes in pieces behind the header is the client's.
        for byte in b"PING\r\n" {
            client.writer.write_all(&[*byte]).unwrap();
        }
        assert_eq!(client.line(), "+PONG\r\n");
    }
}
