//! The same program on every back, and what pass-through adds.

use std::time::{Duration, Instant};

use super::support::{Client, Mecha, eventually, frame, memcached, redis, redis_on};

/// The same conversation on any back.
fn portable(mecha: &Mecha) {
    let mut client = mecha.client();
    for (call, expected) in [
        ("SET a 1", "+OK\r\n"),
        ("INCRBY a 41", ":42\r\n"),
        ("GET a", "$2\r\n42\r\n"),
        ("SET b 1 PX 100000", "+OK\r\n"),
        ("DEL b nosuch", ":1\r\n"),
        ("HSET h f v g w", ":2\r\n"),
        ("HGET h g", "$1\r\nw\r\n"),
        ("GET h", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
        ("RPUSH l x y z", ":3\r\n"),
        ("LRANGE l 0 -1", "*3\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\nz\r\n"),
        ("ZADD z 2 b 1 a", ":2\r\n"),
        ("ZRANGE z 0 -1", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("SADD s m", ":1\r\n"),
        ("SREM s m", ":1\r\n"),
        ("EXISTS s", ":0\r\n"),
        ("NOSUCH x", "-ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n"),
        ("MGET a nosuch", "*2\r\n$2\r\n42\r\n$-1\r\n"),
    ] {
        assert_eq!(client.call(call), expected, "{call}");
    }
    assert!(mecha.metric("mecha_calls_total") >= 17.0, "traffic did not cross mecha");
}

#[test]
fn a_redis_program_runs_on_redis_on_memcached_and_on_the_store() {
    let Some(((_redis, redis), (_memcached, memcached))) = redis().zip(memcached()) else { return };
    for to in [
        format!("redis://127.0.0.1:{redis}"),
        format!("memcached://127.0.0.1:{memcached}"),
        "embedded://".into(),
    ] {
        let mecha = Mecha::start("redis", &to);
        portable(&mecha);
        assert!(mecha.stop(), "{to}");
    }
}

#[test]
fn a_memcached_program_runs_on_memcached_on_redis_and_on_the_store() {
    let Some(((_redis, redis), (_memcached, memcached))) = redis().zip(memcached()) else { return };
    for to in [
        format!("memcached://127.0.0.1:{memcached}"),
        format!("redis://127.0.0.1:{redis}"),
        "embedded://".into(),
    ] {
        let mecha = Mecha::start("memcached", &to);
        let mut client = mecha.client();
        client.send(b"set a 7 0 1 noreply\r\nx\r\nset n 0 0 2\r\n10\r\nget a nosuch n\r\nincr n 5\r\nmg a v q\r\nmg no v q\r\nmn\r\nbogus\r\n");
        let expected =
            ["STORED", "VALUE a 7 1", "x", "VALUE n 0 2", "10", "END", "15", "VA 1", "x", "MN", "ERROR"];
        for expected in expected {
            assert_eq!(client.line().trim_end(), expected, "{to}");
        }
        assert!(mecha.metric("mecha_calls_total") >= 7.0);
    }
}

#[test]
fn transactions_are_honest_on_every_back() {
    let Some((_memcached, memcached)) = memcached() else { return };
    for (to, both) in [
        ("embedded://".to_string(), "*2\r\n+OK\r\n+OK\r\n"),
        (format!("memcached://127.0.0.1:{memcached}"), "-EXECABORT"),
    ] {
        let mecha = Mecha::start("redis", &to);
        let mut client = mecha.client();
        assert_eq!(
            [client.call("MULTI"), client.call("SET a 1"), client.call("INCR a")].concat(),
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n"
        );
        assert_eq!(client.call("EXEC"), "*2\r\n+OK\r\n:2\r\n", "{to}");
        assert_eq!(
            [client.call("MULTI"), client.call("SET x 1"), client.call("SET y 1")].concat(),
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n"
        );
        assert!(client.call("EXEC").starts_with(both), "{to}");
        assert_eq!(client.call("EXEC"), "-ERR EXEC without MULTI\r\n");
    }
}

#[test]
fn stateful_commands_work_on_redis() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let (mut one, mut other) = (mecha.client(), mecha.client());
    assert_eq!(
        [one.call("MULTI"), one.call("SET k 1"), other.call("GET k")],
        ["+OK\r\n", "+QUEUED\r\n", "$-1\r\n"]
    );
    assert_eq!(one.call("EXEC"), "*1\r\n+OK\r\n");
    one.send(b"BLPOP list 5\r\n");
    assert_eq!(other.call("RPUSH list v"), ":1\r\n");
    assert_eq!(one.reply(), "*2\r\n$4\r\nlist\r\n$1\r\nv\r\n");
    assert_eq!(one.call("SUBSCRIBE ch"), "*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    assert_eq!(other.call("PUBLISH ch hi"), ":1\r\n");
    assert_eq!(one.reply(), "*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n");
    drop((one, other));
    mecha.settles();
}

#[test]
fn large_values_pass_and_every_client_gets_its_own() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let port = mecha.port;
    let clients: Vec<_> = (0..20)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::new(port);
                for round in 0..20 {
                    let value = format!("{number}-{round}-").repeat(1 + round * round * 200);
                    assert_eq!(client.call(&format!("SET key:{number} {value}")), "+OK\r\n");
                    assert_eq!(
                        client.call(&format!("GET key:{number}")),
                        format!("${}\r\n{value}\r\n", value.len())
                    );
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_lost_backend_is_a_clear_error_and_its_return_is_noticed() {
    let Some((redis, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let mut client = mecha.client();
    assert_eq!(client.call("PING"), "+PONG\r\n");
    drop(redis);
    assert!(client.call("SET a 1").starts_with("-ERR mecha: backend"));
    let _redis = redis_on(port);
    eventually("the backend's return is not noticed", || client.call("PING") == "+PONG\r\n");
}

#[test]
fn a_client_that_never_reads_harms_nobody() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let mut client = mecha.client();
    assert_eq!(client.call(&format!("SET big {}", "x".repeat(200_000))), "+OK\r\n");
    let mut deaf = mecha.client();
    // 60 MB of answers that nobody reads.
    deaf.send("GET big\r\n".repeat(300).as_bytes());
    let before = Instant::now();
    for _ in 0..200 {
        assert_eq!(client.call("PING"), "+PONG\r\n");
    }
    assert!(before.elapsed() < Duration::from_secs(5), "others had to wait");
    assert!(mecha.metric("process_resident_memory_bytes") < 60e6);
}

#[test]
fn a_slow_reader_that_has_caught_up_begins_anew() {
    let mecha = Mecha::start("redis", "embedded://");
    let mut client = mecha.client();
    assert_eq!(client.call(&format!("SET big {}", "x".repeat(1 << 20))), "+OK\r\n");
    let ask = format!("MGET{}", " big".repeat(20));
    for round in 0..3 {
        // More than `max_output`, which nobody reads for longer than a client that keeps others waiting has.
        client.send(&frame(&ask.split(' ').collect::<Vec<_>>()));
        std::thread::sleep(Duration::from_millis(1200));
        let reply = client.reply();
        assert!(reply.len() > 20 << 20, "round {round}: {} bytes", reply.len());
    }
}

#[test]
fn a_reply_as_deep_as_a_script_can_make_it_disturbs_nobody() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let script = "local t = 1; for _ = 1, 1000 do t = {t} end; return t";
    let deep = format!("{}:1\r\n", "*1\r\n".repeat(1000));
    let mut client = mecha.client();
    for _ in 0..3 {
        client.send(&frame(&["EVAL", script, "0"]));
        let answer: String = (0..=1000).map(|_| client.line()).collect();
        assert!(answer == deep);
    }
    assert_eq!(client.call("PING"), "+PONG\r\n");
}
