//! One port whose clients speak what they like.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::support::{Mecha, PATIENCE, eventually, free_port, memcached, redis};
use super::tls::Folder;

/// A server that speaks first, as mail servers do, and then repeats what it is told.
fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                let _ = back.write_all(b"220 hello\r\n");
                let _ = std::io::copy(&mut stream, &mut back);
            });
        }
    });
    port
}

/// A listener that leads to one for Redis, one for Memcached and one for HTTP, and everything else to the greeter.
fn mecha(wait: &str) -> Option<(Mecha, [super::support::Process; 2])> {
    let ((redis, redis_port), (memcached, memcached_port)) = (redis()?, memcached()?);
    let mecha = Mecha::configured(&format!(
        "listeners:\n\
         - {{ name: any, listen: \"auto://127.0.0.1:0\", to: \"tcp://127.0.0.1:{}\", detect: {{ to: [cache, memory, web], wait: {wait} }} }}\n\
         - {{ name: cache, listen: \"redis://127.0.0.1:0\", to: \"redis://127.0.0.1:{redis_port}\" }}\n\
         - {{ name: memory, listen: \"memcached://127.0.0.1:0\", to: \"memcached://127.0.0.1:{memcached_port}\" }}\n\
         - {{ name: web, listen: \"http://127.0.0.1:0\", to: \"http://127.0.0.1:1\", routes: [ {{ path: /, respond: {{ status: 200, body: here }} }} ] }}\n\
         workers: 2\n",
        greeter()
    ));
    Some((mecha, [redis, memcached]))
}

fn detected(mecha: &Mecha, what: &str) -> f64 {
    mecha.metric(&format!("mecha_detected_total{{scope=\"listener:any says:{what}\"}}"))
}

/// Says `words`, in pieces of so many bytes, and returns the first bytes of the answer.
#[track_caller]
fn said(mecha: &Mecha, words: &[u8], piece: usize, expected: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", mecha.port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for bytes in words.chunks(piece) {
        stream.write_all(bytes).unwrap();
        if piece < words.len() {
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, expected, "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn clients_are_served_by_what_they_speak_whatever_the_pieces() {
    let Some((mecha, _servers)) = mecha("10s") else { return };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for piece in [1, 7, 1000] {
        let before: Vec<f64> =
            ["resp", "memcached", "http"].iter().map(|what| detected(&mecha, what)).collect();
        said(&mecha, b"*1\r\n$4\r\nPING\r\n", piece, b"+PONG\r\n");
        said(&mecha, b"version\r\n", piece, b"VERSION ");
        said(&mecha, b"\x80\x0b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", piece, b"\x81\x0b");
        said(&mecha, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", piece, b"HTTP/1.1 200 OK\r\n");
        // A frame of settings, which begins with its length.
        said(&mecha, preface, piece, b"\0\0");
        let now: Vec<f64> = ["resp", "memcached", "http"].iter().map(|what| detected(&mecha, what)).collect();
        assert_eq!(now, [before[0] + 1.0, before[1] + 2.0, before[2] + 2.0]);
    }
    assert!(mecha.metric("mecha_calls_total{listener=\"cache\"") >= 3.0);
    mecha.settles();
}

#[test]
fn what_is_none_of_these_and_who_waits_pass_as_bytes() {
    let Some((mecha, _servers)) = mecha("50ms") else { return };
    // It is no protocol of mecha's from its first byte on, so nobody waits.
    said(&mecha, b"EHLO x\r\n", 100, b"220 hello\r\nEHLO x\r\n");
    let start = Instant::now();
    said(&mecha, b"", 1, b"220 hello\r\n");
    assert!(start.elapsed() >= Duration::from_millis(50), "a silent client was not waited for");
    // It could yet be HTTP.
    said(&mecha, b"GE", 100, b"220 hello\r\nGE");
    said(&mecha, b"\x16\x03\x01\x02\0\x01", 100, b"220 hello\r\n\x16\x03");
    for (what, count) in [("unknown", 2.0), ("silent", 1.0), ("tls", 1.0)] {
        eventually("it is not counted", || (detected(&mecha, what) - count).abs() < 0.5);
    }
    mecha.settles();
}

#[test]
fn tls_is_led_by_the_name_that_is_asked_for_and_not_ended_unless_that_is_wanted() {
    let folder = Folder::new("names");
    let (one, two, front) = (free_port(), free_port(), free_port());
    let web = |name: &str, port: u16, host: &str| {
        folder.issue(name, host);
        let (cert, key) = (folder.file(&format!("{name}.pem")), folder.file(&format!("{name}.key")));
        format!(
            "- {{ name: {name}, listen: \"https://127.0.0.1:{port}\", to: \"http://127.0.0.1:1\", tls: {{ cert: {cert}, key: {key} }}, \
             routes: [ {{ prefix: /, respond: {{ status: 200, body: {name} }} }} ] }}\n"
        )
    };
    // Who has the certificates is another process.
    let servers = web("one", one, "one.example") + &web("two", two, "a.b.two.example");
    let _servers = Mecha::configured(&format!("listeners:\n{servers}workers: 1\n"));
    let own = web("own", 0, "own.example");
    let mecha = Mecha::configured(&format!(
        "listeners:\n\
         - {{ name: any, listen: \"tcp://127.0.0.1:{front}\", to: \"tcp://127.0.0.1:{}\", detect: {{ wait: 2s, \
         sni: {{ one.example: first, \"*.two.example\": second, own.example: own }} }} }}\n\
         - {{ name: first, listen: \"tcp://127.0.0.1:0\", to: \"tcp://127.0.0.1:{one}\" }}\n\
         - {{ name: second, listen: \"tcp://127.0.0.1:0\", to: \"tcp://127.0.0.1:{two}\" }}\n{own}workers: 2\n",
        greeter()
    ));
    let curl = |host: &str| {
        let (resolve, url) = (format!("{host}:{front}:127.0.0.1"), format!("https://{host}:{front}/"));
        let args =
            ["-s", "--max-time", "20", "--cacert", &folder.file("ca.pem"), "--resolve", &resolve, &url];
        let output = std::process::Command::new("curl").args(args).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (host, name) in [("one.example", "one"), ("a.b.two.example", "two"), ("own.example", "own")] {
        // The certificate is that of whoever is meant, or curl would say so.
        assert_eq!(curl(host), (true, name.to_string()), "{host}");
    }
    // Nobody has these: they stay with the listener's own server, which speaks no TLS.
    for host in ["two.example", "xone.example"] {
        assert!(!curl(host).0, "{host}");
    }
    assert_eq!(detected(&mecha, "tls"), 5.0);
    // A hello in two pieces, and something that only begins like one.
    said(&mecha, b"\x16\x03\x01\x02\x00not a hello at all", 3, b"220 hello\r\n");
}
