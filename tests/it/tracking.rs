//! Client-side caching over several servers: who has read a key hears that it has changed, and keeps nothing stale.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::state::Twins;
use crate::support::{Client, Mecha, Process, RedisCluster, eventually, frame, redis};

const QUIET: Duration = Duration::from_millis(200);
const EVERYTHING: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";

fn changed(key: &str) -> String {
    format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len())
}

/// A client of version 3 that wants to hear of keys.
fn tracked(port: u16, options: &str) -> Client {
    let mut client = Client::new(port);
    assert!(client.call("HELLO 3").contains("proto"));
    assert_eq!(client.call(format!("CLIENT TRACKING ON {options}").trim()), "+OK\r\n");
    client
}

/// Three servers that know nothing of each other, behind one mecha.
fn listed() -> Option<(Vec<(Process, u16)>, Mecha)> {
    let servers: Vec<_> = (0..3).map(|_| redis()).collect::<Option<_>>()?;
    let list: Vec<_> = servers.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let mecha = Mecha::start("redis", &format!("redis://{}", list.join(",")));
    Some((servers, mecha))
}

#[test]
fn readers_hear_of_their_keys_of_all_servers() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let (mut reader, mut writer) = (tracked(mecha.port, ""), mecha.client());
    let keys: Vec<_> = (0..60).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        assert_eq!(reader.call(&format!("GET {key}")), "_\r\n");
    }
    let mget = format!("MGET {}", keys.join(" "));
    let _ = reader.call(&mget);
    for key in &keys {
        assert_eq!(writer.call(&format!("SET {key} 1")), "+OK\r\n");
        assert_eq!(reader.reply(), changed(key));
        // It has not been read since.
        assert_eq!(writer.call(&format!("SET {key} 2")), "+OK\r\n");
    }
    assert_eq!(writer.call("SET other 1"), "+OK\r\n");
    assert_eq!(reader.drain(QUIET).0, b"");
    // One call that is taken apart, and a script.
    let _ = reader.call(&mget);
    let _ = reader.call("EVAL return(redis.call('GET',KEYS[1])) 1 other");
    assert_eq!(writer.call("DEL other"), ":1\r\n");
    assert_eq!(reader.reply(), changed("other"));
    let _ = writer.call(&format!("DEL {}", keys.join(" ")));
    let mut told: Vec<_> = keys.iter().map(|_| reader.reply()).collect();
    let mut wanted: Vec<_> = keys.iter().map(|key| changed(key)).collect();
    told.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(told, wanted);
    // Every server tells that everything is gone.
    let _ = writer.call("FLUSHALL");
    for _ in 0..3 {
        assert_eq!(reader.reply(), EVERYTHING);
    }
    assert_eq!(reader.call("CLIENT TRACKING OFF"), "+OK\r\n");
    let _ = reader.call("GET k");
    let _ = writer.call("SET k 1");
    assert_eq!(reader.drain(QUIET).0, b"");
    drop((reader, writer));
    mecha.settles();
}

#[test]
fn several_servers_tell_what_one_tells() {
    let Some((direct, (servers, mecha))) = redis().zip(listed()) else { return };
    let twins = Twins::of(direct, mecha);
    for script in [
        "a: HELLO 3
         a: CLIENT TRACKING ON
         a: CLIENT TRACKINGINFO
         a: CLIENT GETREDIR
         a: CLIENT CACHING YES
         a: GET x
         b: SET x 1
         a?
         b: SET x 2
         a# GET x | GET y | SET z 1
         b: SET y 1
         a?
         b: SET x 3
         a?
         a# MULTI | GET x | HGETALL h | EXEC
         b: HSET h f v
         a?
         a: HGETALL h
         a: CLIENT TRACKING ON BCAST
         a: CLIENT TRACKING OFF
         a: CLIENT TRACKINGINFO
         a: CLIENT GETREDIR
         a: CLIENT CACHING YES
         b: SET x 4
         a: PING",
        "a: HELLO 3
         a: CLIENT TRACKING ON BCAST PREFIX user: PREFIX news
         a: CLIENT TRACKINGINFO
         a: CLIENT TRACKING ON BCAST PREFIX us
         a: CLIENT TRACKING ON BCAST PREFIX more
         a: CLIENT TRACKING ON
         a: CLIENT TRACKING ON BCAST OPTIN
         a: CLIENT TRACKING NO
         a: CLIENT TRACKING ON BCAST PREFIX
         b: SET user:1 v
         a?
         b: SET else v
         b: SET more v
         a?
         b: SET newspaper v
         a?
         a: CLIENT CACHING YES
         a: RESET
         a: PING",
        "a: HELLO 3
         a: CLIENT TRACKING ON OPTIN
         a: CLIENT TRACKING ON OPTOUT
         a: CLIENT CACHING NO
         a: CLIENT CACHING MAYBE
         a: GET x
         b: SET x 1
         a: CLIENT CACHING YES
         a: CLIENT TRACKINGINFO
         a: GET x
         a: GET y
         b: SET y 1
         b: SET x 2
         a?
         a: CLIENT CACHING YES
         a# MULTI | GET x | GET z | EXEC
         b: SET z 1
         a?
         b: SET x 3
         a?
         a: PING",
        "a: HELLO 3
         a: CLIENT TRACKING ON OPTOUT NOLOOP
         a: CLIENT TRACKINGINFO
         a: CLIENT CACHING YES
         a: CLIENT CACHING NO
         a: GET x
         a: GET y
         b: SET x 1
         b: SET y 1
         a?
         a: PING",
        // Version 2 is told nothing, and all the same afterwards.
        "a: CLIENT TRACKING ON
         a: CLIENT TRACKINGINFO
         a: GET x
         b: SET x 1
         a: PING
         a: HELLO 3
         a: GET x
         b: SET x 2
         a?
         a: PING",
        // Beside subscriptions.
        "a: HELLO 3
         a: CLIENT TRACKING ON
         a: SUBSCRIBE c
         a: GET x
         b: PUBLISH c hi
         a?
         b: SET x 1
         a?
         a: UNSUBSCRIBE c
         a: GET x
         b: SET x 2
         a?
         a: QUIT
         a.",
    ] {
        twins.same(script);
    }
    // Nobody listens any more.
    for (_server, port) in &servers {
        eventually("no connection tracks keys", || {
            !Client::new(*port).call("CLIENT LIST").lines().any(|line| {
                let mut words = line.split(' ');
                words.any(|word| word.strip_prefix("flags=").is_some_and(|flags| flags.contains('t')))
            })
        });
    }
}

#[test]
fn news_of_a_key_comes_behind_the_older_value() {
    let Some((_servers, mecha)) = listed() else { return };
    let port = mecha.port;
    let stop = Arc::new(AtomicBool::new(false));
    let mut reader = tracked(port, "");
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let (mut client, mut number) = (Client::new(port), 0u64);
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let _ = client.call(&format!("MSET a {number} b {number} c {number} d {number}"));
            }
        }
    });
    // A cache that is never asked again what it has not been told of.
    let deadline = Instant::now() + Duration::from_secs(3);
    let (mut cache, mut told) = (HashMap::<&str, String>::new(), 0);
    while Instant::now() < deadline {
        told += look(&mut reader, &mut cache);
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    std::thread::sleep(QUIET);
    told += look(&mut reader, &mut cache);
    for (key, value) in &cache {
        assert_eq!(mecha.client().call(&format!("GET {key}")), *value, "{key} is stale");
    }
    assert!(told > 100, "{told} messages");
}

/// Reads what is not in the cache, and drops from it what the client is told of. Returns how often it was told.
fn look(reader: &mut Client, cache: &mut HashMap<&'static str, String>) -> usize {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    let mut told = 0;
    let missing: Vec<_> = KEYS.into_iter().filter(|key| !cache.contains_key(key)).collect();
    let mut wire: Vec<u8> = missing.iter().flat_map(|key| frame(&["GET", key])).collect();
    wire.extend(frame(&["PING"]));
    reader.send(&wire);
    let mut waiting = missing.into_iter();
    loop {
        let reply = reader.reply();
        if reply.starts_with('>') {
            told += 1;
            match KEYS.into_iter().find(|key| reply == changed(key)) {
                Some(key) => drop(cache.remove(key)),
                None => cache.clear(),
            }
        } else if let Some(key) = waiting.next() {
            cache.insert(key, reply);
        } else {
            assert_eq!(reply, "+PONG\r\n");
            return told;
        }
    }
}

#[test]
fn a_lost_server_may_have_changed_everything() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let mut reader = tracked(mecha.port, "");
    for number in 0..40 {
        let _ = reader.call(&format!("GET key-{number}"));
    }
    cluster.nodes[0].0.0.kill().unwrap();
    assert_eq!(reader.reply(), EVERYTHING);
    // The successor is listened to as well.
    eventually("a replica has taken over", || {
        let info = Client::new(cluster.port(3)).call("INFO replication");
        info.contains("role:master") && mecha.client().call("SET {key-1}x 1") == "+OK\r\n"
    });
    let mut writer = mecha.client();
    eventually("every key is told of again", || {
        let _ = reader.drain(QUIET);
        (0..40).all(|number| {
            let key = format!("key-{number}");
            reader.send(&frame(&["GET", &key]));
            let mut reply = reader.reply();
            while reply.starts_with('>') {
                reply = reader.reply();
            }
            writer.call(&format!("SET {key} 1")) == "+OK\r\n" && reader.reply() == changed(&key)
        })
    });
    drop((reader, writer));
    mecha.settles();
}

#[test]
fn a_slot_that_moves_takes_its_readers_along() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let (mut reader, mut writer) = (tracked(mecha.port, ""), mecha.client());
    let slot = |key: &str| -> u16 {
        let reply = Client::new(cluster.port(0)).call(&format!("CLUSTER KEYSLOT {key}"));
        reply.trim_start_matches(':').trim_end().parse().unwrap()
    };
    let key = (0..).map(|number| format!("k{number}")).find(|key| slot(key) <= 5460).unwrap();
    let _ = writer.call(&format!("SET {key} 1"));
    let _ = reader.call(&format!("GET {key}"));
    cluster.move_slot(slot(&key), 0, 1);
    // It has left the one server, which is told as a change.
    assert_eq!(reader.reply(), changed(&key));
    for number in 2..5 {
        reader.send(&frame(&["GET", &key]));
        let mut reply = reader.reply();
        while reply.starts_with('>') {
            reply = reader.reply();
        }
        assert_eq!(reply, format!("$1\r\n{}\r\n", number - 1));
        assert_eq!(writer.call(&format!("SET {key} {number}")), "+OK\r\n");
        assert_eq!(reader.reply(), changed(&key));
    }
}

#[test]
fn what_cannot_be_together_is_refused() {
    let Some((_servers, mecha)) = listed() else { return };
    let mut client = tracked(mecha.port, "");
    for words in ["MONITOR", "SYNC"] {
        assert!(client.call(words).starts_with("-ERR mecha: "), "{words}");
    }
    assert_eq!(client.call("MULTI"), "+OK\r\n");
    assert!(client.call("CLIENT TRACKING OFF").starts_with("-ERR mecha: "));
    assert_eq!(client.call("DISCARD"), "+OK\r\n");
    assert_eq!(client.call("GET k"), "_\r\n");
    let _ = mecha.client().call("SET k 1");
    assert_eq!(client.reply(), changed("k"));
}
