//! A primary dies under load. Who was not answered is told the truth, who was not sent waits, and nothing runs twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Client, Mecha, RedisCluster, eventually, frame, signal};

/// What is known of one counter.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The last answer.
    value: u64,
    /// Calls since then that may have run.
    doubtful: u64,
    /// Answered calls.
    counted: u64,
}

/// What one client has seen.
#[derive(Default)]
struct Seen {
    counters: HashMap<String, Known>,
    /// Errors other than that a call may have run.
    errors: Vec<String>,
    /// When the last answer came after which nothing failed.
    healthy: Option<Instant>,
    last: Option<Instant>,
}

/// Counts on all shards, eight calls deep, and knows what each answer may be.
fn count(port: u16, number: usize, stop: &AtomicBool) -> Seen {
    let (mut client, mut seen) = (Client::new(port), Seen::default());
    let keys: Vec<_> = (0..24).map(|key| format!("counter:{number}:{key}")).collect();
    while !stop.load(Ordering::Relaxed) {
        for keys in keys.chunks(8) {
            client.send(&keys.iter().flat_map(|key| frame(&["INCR", key])).collect::<Vec<_>>());
            for key in keys {
                let reply = client.reply();
                let known = seen.counters.entry(key.clone()).or_default();
                match reply.strip_prefix(':').map(|text| text.trim_end().parse::<u64>().unwrap()) {
                    Some(value) => {
                        let possible = known.value + 1..=known.value + known.doubtful + 1;
                        assert!(possible.contains(&value), "{key}: {value} after {known:?}");
                        *known = Known { value, doubtful: 0, counted: known.counted + 1 };
                    }
                    None if reply.contains("the command may have run") => known.doubtful += 1,
                    None => seen.errors.push(reply.clone()),
                }
                let now = Instant::now();
                if reply.starts_with(':') {
                    seen.healthy.get_or_insert(now);
                } else {
                    seen.healthy = None;
                }
                seen.last = Some(now);
            }
        }
    }
    seen
}

#[test]
fn a_server_that_came_back_while_nobody_asked_fails_nobody() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::configured(&format!(
        "workers: 1\nclusters:\n  shards: {{ to: \"{}\", park: 100ms, backoff: {{ initial: 5ms, max: 20ms }} }}\nlisteners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: shards }}\n",
        cluster.to()
    ));
    let mut client = mecha.client();
    assert_eq!(client.call("SET foo 1"), "+OK\r\n");
    // The server that has foo, and its replica, so that nobody takes its place.
    for at in [5, 2] {
        signal(cluster.nodes[at].0.id(), "KILL");
    }
    eventually("the loss is not noticed", || client.call("SET foo 1").contains("backend is unreachable"));
    for at in [2, 5] {
        cluster.start_again(at);
    }
    let primary = cluster.port(2);
    eventually("the server is not back", || Client::new(primary).call("SET foo 2") == "+OK\r\n");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.call("GET foo"), "$1\r\n2\r\n");
    drop(client);
    mecha.settles();
}

#[test]
fn what_was_not_sent_to_a_dead_primary_is_sent_to_its_successor_and_nothing_runs_twice() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    // With one connection to each server, a primary tells its replica of a call before it tells mecha.
    let mecha = Mecha::configured(&format!(
        "workers: 1\nclusters:\n  shards: {{ to: \"{}\", park: 15s }}\nlisteners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: shards }}\n",
        cluster.to()
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (stop, port) = (Arc::clone(&stop), mecha.port);
            std::thread::spawn(move || count(port, number, &stop))
        })
        .collect();
    eventually("nothing is counted", || mecha.metric("mecha_calls_total") > 2000.0);
    signal(cluster.nodes[1].0.id(), "KILL");
    let replica = cluster.port(4);
    eventually("the replica is promoted", || Client::new(replica).call("ROLE").contains("master"));
    let replaced = Instant::now();
    std::thread::sleep(Duration::from_millis(1500));
    stop.store(true, Ordering::Relaxed);
    let mut counted = 0;
    for client in clients {
        let seen = client.join().unwrap();
        assert_eq!(seen.errors, Vec::<String>::new(), "a call that was not sent has failed");
        let healthy = seen.healthy.expect("nothing is served after the failover");
        let late = healthy.saturating_duration_since(replaced);
        assert!(late < Duration::from_secs(1), "served {late:?} after the failover");
        assert!(seen.last.unwrap() > replaced + Duration::from_secs(1));
        let mut client = mecha.client();
        for (key, known) in &seen.counters {
            let reply = client.call(&format!("GET {key}"));
            let value: u64 = reply.lines().nth(1).unwrap_or_default().parse().unwrap();
            let doubtful = known.value..=known.value + known.doubtful;
            assert!(doubtful.contains(&value), "{key} is {value}, {known:?}");
            counted += known.counted;
        }
    }
    assert!(mecha.metric("mecha_calls_total") >= counted as f64, "the traffic went elsewhere");
    assert!(mecha.metric("mecha_upstream_parked_total") > 0.0, "nothing has waited");
    cluster.nodes.remove(1);
    mecha.settles();
}
