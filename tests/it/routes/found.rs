//! Routes to servers that are found: a Redis Cluster and a set behind Sentinel, and what clients see when a primary dies.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Mecha, NAME, RedisCluster, Sentinels, eventually, frame, redis, signal};

/// What a client that counts has seen of one key.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    value: u64,
    doubtful: u64,
}

/// Keys of the route whose primary fails begin so; the others' cluster must not notice.
const CLUSTERED: &str = "c:";
/// As [`CLUSTERED`]. Sentinels promote a replica while the old primary still takes writes, which are lost.
const WATCHED: &str = "s:";

/// Counts with these keys, all in each batch, until told to stop. Every answer must be possible, and every error an honest one.
fn count(port: u16, keys: &[String], stop: &AtomicBool) -> HashMap<String, Counter> {
    let (mut client, mut seen) = (Client::new(port), HashMap::<String, Counter>::new());
    while !stop.load(Ordering::Relaxed) {
        client.send(&keys.iter().flat_map(|key| frame(&["INCR", key])).collect::<Vec<_>>());
        for key in keys {
            let reply = client.reply();
            let counter = seen.entry(key.clone()).or_default();
            let number = reply.strip_prefix(':').and_then(|text| text.trim_end().parse::<u64>().ok());
            if key.starts_with(WATCHED) {
                let is_honest = reply.starts_with("-ERR mecha") || reply.starts_with("-READONLY");
                assert!(number.is_some() || is_honest, "{key}: {reply}");
                *counter = Counter::default();
                continue;
            }
            match number {
                Some(value) => {
                    let possible = counter.value + 1..=counter.value + counter.doubtful + 1;
                    assert!(possible.contains(&value), "{key}: {value} after {counter:?}");
                    *counter = Counter { value, doubtful: 0 };
                }
                None => {
                    let is_honest = key.starts_with(CLUSTERED) && reply.contains("the command may have run");
                    assert!(is_honest, "{key}: {reply}");
                    counter.doubtful += 1;
                }
            }
        }
        // Paced, so that the servers hear of each other.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    seen
}

/// Counts while `fail` makes a primary fail and waits for its successor, and holds the counters against what is stored.
fn fails_over(mecha: &Mecha, prefixes: &[&str], fail: impl FnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (stop, port) = (Arc::clone(&stop), mecha.port);
            let keys =
                prefixes.iter().flat_map(|prefix| (0..4).map(move |key| format!("{prefix}{number}:{key}")));
            let keys: Vec<_> = keys.collect();
            std::thread::spawn(move || count(port, &keys, &stop))
        })
        .collect();
    eventually("nothing is counted", || mecha.metric("mecha_calls_total") > 500.0);
    fail();
    let before = mecha.metric("mecha_calls_total");
    eventually("nothing is counted any more", || mecha.metric("mecha_calls_total") > before + 500.0);
    stop.store(true, Ordering::Relaxed);
    let mut reader = mecha.client();
    for client in clients {
        for (key, counter) in client.join().unwrap() {
            let reply = reader.call(&format!("GET {key}"));
            let value: u64 = reply.lines().nth(1).unwrap_or_default().parse().unwrap();
            let possible = counter.value..=counter.value + counter.doubtful;
            assert!(key.starts_with(WATCHED) || possible.contains(&value), "{key} is {value}, {counter:?}");
        }
    }
    drop(reader);
    mecha.settles();
}

#[test]
fn a_route_to_a_redis_cluster_outlives_a_primary_and_others_do_not_notice() {
    let Some((_beside, port)) = redis() else { return };
    let Some(mut cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: redis://127.0.0.1:{port}
    routes:
      - {{ prefix: 'c:', to: shards }}
clusters:
  shards: {{ to: '{}', park: 15s }}
workers: 1
",
        cluster.to()
    ));
    let mut client = mecha.client();
    assert_eq!(client.call("MSET c:a 1 c:b 2 c:c 3 d 4"), "+OK\r\n");
    assert_eq!(client.call("MGET d c:c c:b c:a"), "*4\r\n$1\r\n4\r\n$1\r\n3\r\n$1\r\n2\r\n$1\r\n1\r\n");
    assert_eq!(Client::new(port).call("DBSIZE"), ":1\r\n");
    let transaction = ["MULTI", "INCR c:{t}a", "INCR c:{t}b", "EXEC"].map(|line| client.call(line));
    assert_eq!(transaction[3], "*2\r\n:1\r\n:1\r\n");
    client.send(&frame(&["BLPOP", "c:list", "0"]));
    assert_eq!(mecha.client().call("RPUSH c:list x"), ":1\r\n");
    assert_eq!(client.reply(), "*2\r\n$6\r\nc:list\r\n$1\r\nx\r\n");
    drop(client);
    let dead = cluster.nodes[1].0.id();
    let replica = cluster.port(4);
    fails_over(&mecha, &["c:", "d:"], || {
        signal(dead, "KILL");
        eventually("the replica is promoted", || Client::new(replica).call("ROLE").contains("master"));
    });
    cluster.nodes.remove(1);
    let clusters = mecha.get("/clusters");
    assert!(clusters.contains("resp/c:"), "{clusters}");
}

#[test]
fn a_route_behind_sentinels_outlives_a_primary_and_others_do_not_notice() {
    let Some((_beside, port)) = redis() else { return };
    let Some(all) = Sentinels::start() else { return };
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: redis://127.0.0.1:{port}
    routes:
      - {{ prefix: 's:', to: watched }}
clusters:
  watched: {{ to: '{}', park: 15s }}
workers: 1
",
        all.to()
    ));
    let mut client = mecha.client();
    assert_eq!(client.call("MSET s:a 1 d 2"), "+OK\r\n");
    assert_eq!(client.call("MGET d s:a"), "*2\r\n$1\r\n2\r\n$1\r\n1\r\n");
    assert_eq!(Client::new(all.servers[0].1).call("GET s:a"), "$1\r\n1\r\n");
    let replicated = || all.servers.iter().all(|(_, port)| Client::new(*port).call("GET s:a").contains('1'));
    eventually("the replicas do not follow", replicated);
    drop(client);
    fails_over(&mecha, &["s:", "d:"], || {
        assert_eq!(Client::new(all.sentinels[0].1).call(&format!("SENTINEL FAILOVER {NAME}")), "+OK\r\n");
        eventually("another server is promoted", || all.primary().is_some_and(|primary| primary != 0));
    });
    let primary = all.primary().expect("there is one");
    assert_eq!(mecha.client().call("SET s:last 1"), "+OK\r\n");
    assert_eq!(Client::new(all.servers[primary].1).call("GET s:last"), "$1\r\n1\r\n");
}
