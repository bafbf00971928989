//! Clients that mean harm, on every door: mecha stays up, its memory bounded, and other clients are served.

use std::time::{Duration, Instant};

use super::support::{Client, Mecha, frame, memcached, redis};

/// What must not be answered by anything but an error or an end; the name is for the report.
fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..50_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.push(state as u8);
    }
    let many = [b"*100001\r\n$4\r\nMGET\r\n".to_vec(), b"$1\r\na\r\n".repeat(100_000)].concat();
    vec![
        ("nothing but noise", noise),
        ("half a frame", b"*3\r\n$3\r\nSET\r\n$1\r\n".to_vec()),
        ("a giant bulk", b"*2\r\n$3\r\nGET\r\n$999999999999\r\n".to_vec()),
        ("a giant array", b"*2147483647\r\n$3\r\nGET\r\n".to_vec()),
        ("an overflowing count", b"*99999999999999999999\r\n".to_vec()),
        ("a negative bulk", b"*2\r\n$3\r\nGET\r\n$-5\r\n".to_vec()),
        ("a zero in front", b"*02\r\n$3\r\nGET\r\n$1\r\na\r\n".to_vec()),
        ("nested arrays", b"*1\r\n".repeat(50_000)),
        ("an endless line", vec![b'a'; 4 << 20]),
        ("unbalanced quotes", b"set \"a\r\n".to_vec()),
        ("half a gigabyte, announced", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nabc".to_vec()),
        ("a hundred thousand arguments", many),
        ("a giant value, announced", b"set k 0 0 4294967295\r\nabc".to_vec()),
        ("a negative value", b"set k 0 0 -1\r\n".to_vec()),
        ("a long key", [b"get ".to_vec(), vec![b'k'; 100_000], b"\r\n".to_vec()].concat()),
        ("many keys", [b"get".to_vec(), b" k".repeat(200_000), b"\r\n".to_vec()].concat()),
        (
            "a binary header",
            [b"\x80\x01\xff\xff\xff\x00\x00\x00\xff\xff\xff\xff".to_vec(), vec![0; 12]].concat(),
        ),
        ("a web browser", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTTP/1.1\r\n\r\n".to_vec()),
        ("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20)),
    ]
}

/// Whether the process serves a well-behaved client.
fn serves(mecha: &Mecha, door: &str, what: &str) {
    let mut client = mecha.client();
    if door == "redis" {
        assert_eq!(client.call("SET steady 1"), "+OK\r\n", "{what}");
        assert_eq!(client.call("GET steady"), "$1\r\n1\r\n", "{what}");
    } else {
        client.send(b"set steady 0 0 1\r\n1\r\nget steady\r\n");
        let lines: String = (0..4).map(|_| client.line()).collect();
        assert_eq!(lines, "STORED\r\nVALUE steady 0 1\r\n1\r\nEND\r\n", "{what}");
    }
}

fn survives(door: &str, to: &str) {
    let mecha = Mecha::start(door, to);
    serves(&mecha, door, "at first");
    let mut held = Vec::new();
    for (what, bytes) in attacks() {
        let mut client = mecha.client();
        // The connection may be closed while this is still being written.
        let _ = std::io::Write::write_all(&mut client.writer, &bytes);
        let (answer, _) = client.drain(Duration::from_millis(20));
        assert!(answer.len() < 16 << 20, "{what}: {} bytes", answer.len());
        serves(&mecha, door, what);
        held.push(client);
    }
    // Many who announce much, and stay.
    for _ in 0..100 {
        let mut client = mecha.client();
        client.send(if door == "redis" {
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$400000000\r\nabc"
        } else {
            b"set k 0 0 1000000\r\nabc"
        });
        held.push(client);
    }
    serves(&mecha, door, "beside a hundred announcements");
    let resident = mecha.resident_mib();
    assert!(resident < 150.0, "{door} to {to}: {resident} MiB");
    drop(held);
    mecha.settles();
    assert!(mecha.stop());
}

#[test]
fn hostile_bytes_harm_nobody_on_redis_doors() {
    let Some(((_redis, redis), (_memcached, memcached))) = redis().zip(memcached()) else { return };
    survives("redis", &format!("redis://127.0.0.1:{redis}"));
    survives("redis", &format!("memcached://127.0.0.1:{memcached}"));
    survives("redis", "embedded://");
}

#[test]
fn hostile_bytes_harm_nobody_on_memcached_doors() {
    let Some(((_redis, redis), (_memcached, memcached))) = redis().zip(memcached()) else { return };
    survives("memcached", &format!("memcached://127.0.0.1:{memcached}"));
    survives("memcached", &format!("redis://127.0.0.1:{redis}"));
    survives("memcached", "embedded://");
}

#[test]
fn a_client_that_sends_byte_by_byte_is_served_and_keeps_nobody_waiting() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let (mut slow, mut steady) = (mecha.client(), mecha.client());
    let bytes = [frame(&["SET", "slow", "value"]), b"GET slow\r\n".to_vec()].concat();
    let start = Instant::now();
    for byte in bytes {
        slow.send(&[byte]);
        assert_eq!(steady.call("PING"), "+PONG\r\n");
    }
    assert_eq!([slow.reply(), slow.reply()].concat(), "+OK\r\n$5\r\nvalue\r\n");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_flood_of_requests_that_nobody_reads_the_answers_of_is_bounded() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let mut steady: Vec<_> = (0..4).map(|_| mecha.client()).collect();
    let flood = b"PING\r\n".repeat((1 << 20) / 6);
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let mut client = mecha.client();
            client.writer.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let _ = std::io::Write::write_all(&mut client.writer, &flood);
            client
        })
        .collect();
    let start = Instant::now();
    for round in 0..100 {
        for client in &mut steady {
            assert_eq!(
                client.call(&format!("ECHO {round}")).lines().last(),
                Some(round.to_string().as_str())
            );
        }
    }
    // The requests that were read are served in turn with everybody's; a debug build takes its time for them.
    assert!(start.elapsed() < Duration::from_secs(30), "others had to wait {:?}", start.elapsed());
    assert!(mecha.resident_mib() < 150.0, "{} MiB", mecha.resident_mib());
    // Whoever reads after all gets every answer.
    let mut floods: Vec<Client> = floods;
    let (answers, _) = floods[0].drain(Duration::from_secs(2));
    assert!(answers.len() % 7 == 0 && answers.chunks(7).all(|answer| answer == b"+PONG\r\n"));
    drop((floods, steady));
    mecha.settles();
}

#[test]
fn answers_of_the_store_are_made_as_they_are_read() {
    let mecha = Mecha::start("redis", "embedded://");
    let mut client = mecha.client();
    let big = "v".repeat(1 << 20);
    client.send(&frame(&["SET", "big", &big]));
    assert_eq!(client.reply(), "+OK\r\n");
    let before = mecha.resident_mib();
    client.send(&b"GET big\r\n".repeat(200));
    let mut steady = mecha.client();
    for round in 0..50 {
        assert_eq!(steady.call(&format!("SET round {round}")), "+OK\r\n");
    }
    let after = mecha.resident_mib();
    assert!(after < before + 24.0, "{before} MiB, then {after} MiB for 200 MiB of answers");
    let answer = format!("$1048576\r\n{big}\r\n");
    for _ in 0..200 {
        assert!(client.reply() == answer);
    }
    assert_eq!(client.call("PING"), "+PONG\r\n");
}
