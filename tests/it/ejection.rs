//! Servers of a list that fail: their keys go to others for a while, and come back.

use std::time::Duration;

use crate::support::{Client, Mecha, Process, eventually, memcached, memcached_on, redis, redis_on, signal};

fn kill(server: &mut (Process, u16)) {
    signal(server.0.id(), "KILL");
    let _ = server.0.wait(Duration::from_secs(5));
}

fn set(client: &mut Client, key: &str, value: &str) -> String {
    client.send(format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()).as_bytes());
    client.line()
}

fn get(client: &mut Client, key: &str) -> Option<String> {
    client.send(format!("get {key}\r\n").as_bytes());
    let head = client.line();
    if !head.starts_with("VALUE") {
        assert_eq!(head, "END\r\n");
        return None;
    }
    let value = client.line();
    assert_eq!(client.line(), "END\r\n");
    Some(value.trim_end().into())
}

#[test]
fn keys_of_a_dead_memcached_go_to_the_gutter_and_live_there_for_a_short_time() {
    let (Some(mut one), Some(other), Some(gutter)) = (memcached(), memcached(), memcached()) else { return };
    let mecha = Mecha::configured(&format!(
        "workers: 1
clusters:
  cache:
    to: memcached://127.0.0.1:{},127.0.0.1:{}
    hash: murmur
    backoff: {{ initial: 5ms, max: 10ms }}
    auto_eject: {{ failures: 3, retry_after: 500ms, gutter: \"memcached://127.0.0.1:{}\", gutter_ttl: 2s }}
listeners:
  - {{ listen: \"memcached://127.0.0.1:0\", to: cache }}
",
        one.1, other.1, gutter.1
    ));
    let mut client = mecha.client();
    let keys: Vec<_> = (0..40).map(|key| format!("key{key}")).collect();
    keys.iter().for_each(|key| assert_eq!(set(&mut client, key, "first"), "STORED\r\n"));
    let at = |port: u16, key: &str| get(&mut Client::new(port), key);
    assert!(keys.iter().all(|key| at(gutter.1, key).is_none()), "the gutter is used though all are well");
    let (lost, kept): (Vec<_>, Vec<_>) = keys.iter().partition(|key| at(one.1, key).is_some());
    assert!(lost.len() > 5 && kept.len() > 5, "{lost:?} {kept:?}");
    kill(&mut one);
    eventually("the dead server is not ejected", || {
        set(&mut client, lost[0], "second");
        mecha.metric("mecha_upstream_ejected{") == 1.0
    });
    for key in &lost {
        assert_eq!(get(&mut client, key).filter(|value| value != "second"), None);
        assert_eq!(set(&mut client, key, "second"), "STORED\r\n");
        assert_eq!(
            [get(&mut client, key), at(gutter.1, key)],
            [Some("second".into()), Some("second".into())]
        );
    }
    // The others have not moved.
    assert!(kept.iter().all(|key| get(&mut client, key).as_deref() == Some("first")));
    client.send(format!("mn\r\nms {} 5 q\r\nthird\r\nmg {} t v\r\n", lost[1], lost[1]).as_bytes());
    let replies = [client.line(), client.line(), client.line()].concat();
    assert!(replies == "MN\r\nVA 5 t2\r\nthird\r\n" || replies == "MN\r\nVA 5 t1\r\nthird\r\n", "{replies}");
    eventually("what is stored in the gutter lives for ever", || get(&mut client, lost[0]).is_none());
    one.0 = memcached_on(one.1);
    eventually("the server that is back is not used", || mecha.metric("mecha_upstream_ejected{") == 0.0);
    assert_eq!(set(&mut client, lost[0], "fourth"), "STORED\r\n");
    assert_eq!(at(one.1, lost[0]).as_deref(), Some("fourth"));
    assert_eq!(mecha.metric("mecha_upstream_ejections_total"), 1.0);
}

#[test]
fn keys_of_a_dead_redis_go_where_a_ring_without_it_has_them() {
    let (Some(mut one), Some(two), Some(three)) = (redis(), redis(), redis()) else { return };
    let door = |to: &str| {
        Mecha::configured(&format!(
            "workers: 1
clusters:
  shards:
    to: \"{to}\"
    hash: murmur
    backoff: {{ initial: 5ms, max: 10ms }}
    auto_eject: {{ failures: 2, retry_after: 300ms }}
listeners:
  - {{ listen: \"redis://127.0.0.1:0\", to: shards }}
"
        ))
    };
    let mecha = door(&format!("redis://127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}", one.1, two.1, three.1));
    let without = door(&format!("redis://127.0.0.1:{},127.0.0.1:{}", two.1, three.1));
    let (mut client, mut other) = (mecha.client(), without.client());
    kill(&mut one);
    eventually("the dead server is not ejected", || {
        (0..30).for_each(|key| drop(client.call(&format!("SET key{key} 1"))));
        mecha.metric("mecha_upstream_ejected{") == 1.0
    });
    for key in 0..60 {
        assert_eq!(client.call(&format!("SET key{key} {key}")), "+OK\r\n");
        assert!(other.call(&format!("GET key{key}")).ends_with(&format!("\r\n{key}\r\n")), "key{key}");
    }
    // Nothing that needs all of them pretends to have reached them.
    assert!(client.call("DBSIZE").starts_with("-ERR mecha: backend is unreachable"));
    assert_eq!(client.call("PING"), "+PONG\r\n");
    one.0 = redis_on(one.1);
    eventually("the server that is back is not used", || mecha.metric("mecha_upstream_ejected{") == 0.0);
    (0..60).for_each(|key| assert_eq!(client.call(&format!("SET key{key} {key}")), "+OK\r\n"));
    assert_ne!(Client::new(one.1).call("DBSIZE"), ":0\r\n");
}

#[test]
fn a_server_that_does_not_answer_in_time_is_ejected() {
    let (Some(one), Some(other)) = (memcached(), memcached()) else { return };
    let mecha = Mecha::configured(&format!(
        "workers: 1
clusters:
  cache:
    to: memcached://127.0.0.1:{},127.0.0.1:{}
    hash: murmur
    auto_eject: {{ failures: 2, retry_after: 60s }}
listeners:
  - {{ listen: \"memcached://127.0.0.1:0\", to: cache, filters: [ {{ timeout: {{ after: 50ms }} }} ] }}
",
        one.1, other.1
    ));
    signal(one.0.id(), "STOP");
    let mut client = mecha.client();
    for key in 0..20 {
        set(&mut client, &format!("key{key}"), "x");
    }
    for key in 0..20 {
        assert_eq!(set(&mut client, &format!("key{key}"), "x"), "STORED\r\n", "key{key}");
    }
    signal(one.0.id(), "CONT");
    assert_eq!(mecha.metric("mecha_upstream_ejected{"), 1.0);
}
