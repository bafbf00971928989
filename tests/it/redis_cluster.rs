//! A cluster that changes behind mecha: clients that know nothing of clusters must not notice, or be told the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Client, Mecha, RedisCluster, eventually, frame, signal};

/// What one client has seen.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    errors: Vec<(Instant, String)>,
}

/// A client that knows what each answer must be: every value carries its key and its place in the order.
fn tagged(port: u16, number: usize, stop: &AtomicBool) -> Seen {
    let (mut client, mut seen, mut round) = (Client::new(port), Seen::default(), 0);
    let mut counters = std::collections::HashMap::<String, Option<u64>>::new();
    while !stop.load(Ordering::Relaxed) {
        let keys: Vec<_> =
            (0..6).map(|place| format!("key:{number}:{}", (round * 7 + place * 31) % 300)).collect();
        let mut request = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            let value = format!("{key}={round}.{place}");
            request.extend(frame(&["SET", key, &value]));
            request.extend(frame(&["GET", key]));
            request.extend(frame(&["INCR", &format!("count:{key}")]));
        }
        client.send(&request);
        for (place, key) in keys.iter().enumerate() {
            let value = format!("{key}={round}.{place}");
            let replies = [client.reply(), client.reply(), client.reply()];
            let at = Instant::now();
            let is_error = |reply: &String| reply.starts_with('-');
            seen.errors
                .extend(replies.iter().filter(|reply| is_error(reply)).map(|reply| (at, reply.clone())));
            if !replies[..2].iter().any(is_error) {
                assert_eq!(replies[0], "+OK\r\n");
                assert_eq!(replies[1], format!("${}\r\n{value}\r\n", value.len()), "another call's answer");
            }
            let count = replies[2].strip_prefix(':').and_then(|text| text.trim_end().parse::<u64>().ok());
            if let (Some(Some(before)), Some(now)) = (counters.get(key), count) {
                assert_eq!(now, before + 1, "{key} was counted twice or not at all");
            }
            // After an error nobody knows whether the command has run.
            counters.insert(key.clone(), count);
            seen.answers += replies.iter().filter(|reply| !is_error(reply)).count();
        }
        round += 1;
    }
    seen
}

/// Runs `change` while clients work, and returns what they have seen.
fn under_load(mecha: &Mecha, change: impl FnOnce()) -> Vec<Seen> {
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (stop, port) = (Arc::clone(&stop), mecha.port);
            std::thread::spawn(move || tagged(port, number, &stop))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    change();
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let seen: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(mecha.metric("mecha_calls_total") >= seen.iter().map(|seen| seen.answers).sum::<usize>() as f64);
    seen
}

#[test]
fn slots_that_move_and_servers_that_come_and_go_fail_no_command() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    assert_eq!(mecha.client().call("PING"), "+PONG\r\n");
    let seen = under_load(&mecha, || {
        let new = cluster.add_node();
        cluster.meet(new);
        eventually("the new server is ready", || {
            let info = Client::new(cluster.port(new)).call("CLUSTER INFO");
            cluster.known(new) == 7 && info.contains("cluster_state:ok")
        });
        for slot in (0..5461).step_by(13) {
            cluster.move_slot(slot, 0, new);
        }
        for slot in (0..5461).step_by(13) {
            cluster.move_slot(slot, new, 1);
        }
    });
    for seen in &seen {
        assert!(seen.answers > 1000, "{}", seen.answers);
        assert_eq!(seen.errors, [], "a command failed");
    }
    assert!(mecha.metric("mecha_upstream_redirects_total") > 0.0, "nothing moved under a client");
}

#[test]
fn a_dead_primary_is_replaced_and_no_answer_is_wrong() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let (mut died, mut replaced) = (Instant::now(), Instant::now());
    let seen = under_load(&mecha, || {
        died = Instant::now();
        signal(cluster.nodes[1].0.id(), "KILL");
        let replica = cluster.port(4);
        eventually("the replica is promoted", || Client::new(replica).call("ROLE").contains("master"));
        replaced = Instant::now();
        std::thread::sleep(Duration::from_millis(1200));
    });
    let late: Vec<_> = seen
        .iter()
        .flat_map(|seen| &seen.errors)
        .filter(|(at, _)| *at > replaced + Duration::from_secs(1) || *at < died)
        .collect();
    assert!(late.is_empty(), "errors a second after the failover: {late:?}");
    for (_, error) in seen.iter().flat_map(|seen| &seen.errors) {
        assert!(!error.contains("127.0.0.1") && !error.contains("MOVED"), "{error}");
    }
    cluster.nodes.remove(1);
}

#[test]
fn a_paused_shard_does_not_hold_up_clients_of_the_others() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let (mut other, mut stuck) = (mecha.client(), mecha.client());
    // Slots 12182 and 5061: the third server and the first.
    assert_eq!([other.call("SET bar 1"), stuck.call("SET foo 1")], ["+OK\r\n", "+OK\r\n"]);
    signal(cluster.nodes[2].0.id(), "STOP");
    stuck.send(b"GET foo\r\n");
    let start = Instant::now();
    for _ in 0..500 {
        assert_eq!(other.call("GET bar"), "$1\r\n1\r\n");
    }
    let took = start.elapsed();
    signal(cluster.nodes[2].0.id(), "CONT");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(stuck.reply(), "$1\r\n1\r\n");
}

#[test]
fn transactions_and_blocking_calls_find_their_server() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let (mut one, mut other) = (mecha.client(), mecha.client());
    for key in ["foo", "bar", "a", "b", "hello"] {
        let calls = [format!("WATCH {key}"), "MULTI".into(), format!("SET {key} 1"), format!("INCR {key}")];
        let replies: Vec<_> = calls.iter().map(|call| one.call(call)).collect();
        assert_eq!(replies, ["+OK\r\n", "+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n"], "{key}");
        assert_eq!(one.call("EXEC"), "*2\r\n+OK\r\n:2\r\n", "{key}");
        one.send(&frame(&["BLPOP", &format!("{{{key}}}list"), "5"]));
        assert_eq!(other.call(&format!("RPUSH {{{key}}}list v")), ":1\r\n");
        assert!(one.reply().ends_with("$1\r\nv\r\n"), "{key}");
    }
    assert_eq!([one.call("MULTI"), one.call("EXEC")], ["+OK\r\n", "*0\r\n"]);
    assert_eq!([one.call("MULTI"), one.call("SET foo 1")], ["+OK\r\n", "+QUEUED\r\n"]);
    assert!(one.call("SET bar 1").starts_with("-CROSSSLOT"));
    assert!(one.call("EXEC").starts_with("-EXECABORT"));
    // The first key chooses the server, not the first command; another slot is refused even on the same server (foo is in
    // slot 12182, bar in 5061, hello in 866).
    for key in ["foo", "bar", "hello"] {
        one.send(
            &["MULTI", "PING", "ECHO x"].map(|call| frame(&call.split(' ').collect::<Vec<_>>())).concat(),
        );
        assert_eq!([one.reply(), one.reply(), one.reply()].concat(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
        assert_eq!(one.call(&format!("STRLEN {key}")), "+QUEUED\r\n");
        assert_eq!(one.call("EXEC"), "*3\r\n+PONG\r\n$1\r\nx\r\n:1\r\n");
    }
    assert_eq!([one.call("MULTI"), one.call("SET bar 1")], ["+OK\r\n", "+QUEUED\r\n"]);
    assert!(one.call("SET hello 1").starts_with("-CROSSSLOT"));
    assert!(one.call("EXEC").starts_with("-EXECABORT"));
    // mecha's map is old, and the first call of a dedicated connection finds out.
    cluster.move_slot(12182, 2, 0);
    assert_eq!(
        [one.call("MULTI"), one.call("SET foo 7"), one.call("EXEC")],
        ["+OK\r\n", "+QUEUED\r\n", "*1\r\n+OK\r\n"]
    );
    assert_eq!(other.call("GET foo"), "$1\r\n7\r\n");
    drop((one, other));
    mecha.settles();
}

#[test]
fn calls_of_every_kind_wait_for_the_first_map() {
    let Some(cluster) = RedisCluster::start() else { return };
    signal(cluster.nodes[0].0.id(), "STOP");
    let mecha = Mecha::start("redis", &cluster.to());
    let mut clients: Vec<_> = (0..4).map(|_| mecha.client()).collect();
    let calls: [&[&str]; 4] = [
        &["BLPOP nothing 0.05"],
        &["SUBSCRIBE news"],
        &["DEL foo bar hello"],
        &["MULTI", "SET own 1", "EXEC"],
    ];
    for (client, lines) in clients.iter_mut().zip(calls) {
        lines.iter().for_each(|line| client.send(&frame(&line.split(' ').collect::<Vec<_>>())));
    }
    std::thread::sleep(Duration::from_millis(100));
    signal(cluster.nodes[0].0.id(), "CONT");
    let mut replies = clients.iter_mut().map(Client::reply);
    assert_eq!(replies.next().unwrap(), "*-1\r\n");
    assert!(replies.next().unwrap().ends_with(":1\r\n"));
    assert_eq!(replies.next().unwrap(), ":0\r\n");
    assert_eq!(replies.next().unwrap(), "+OK\r\n");
    drop(replies);
    assert_eq!([clients[3].reply(), clients[3].reply()], ["+QUEUED\r\n", "*1\r\n+OK\r\n"]);
}

#[test]
fn wait_tells_of_the_shard_that_is_behind() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let mut client = mecha.client();
    assert_eq!([client.call("SET foo 1"), client.call("WAIT 1 5000")], ["+OK\r\n", ":1\r\n"]);
    // The replica of the third server, which has foo.
    signal(cluster.nodes[5].0.id(), "STOP");
    assert_eq!([client.call("SET foo 2"), client.call("WAIT 1 200")], ["+OK\r\n", ":0\r\n"]);
    assert_eq!(client.call("WAIT x 0"), "-ERR value is not an integer or out of range\r\n");
    signal(cluster.nodes[5].0.id(), "CONT");
    assert_eq!(client.call("WAIT 1 10000"), ":1\r\n");
    drop(client);
    mecha.settles();
}

#[test]
fn a_client_that_asks_for_the_cluster_sees_only_mecha() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let mut client = mecha.client();
    assert_eq!(client.call("SET foo 1"), "+OK\r\n");
    let mut told = String::new();
    for version in ["2", "3"] {
        assert!(!client.call(&format!("HELLO {version}")).starts_with('-'));
        for question in ["SLOTS", "SHARDS", "NODES", "INFO", "MYID"] {
            told += &client.call(&format!("CLUSTER {question}"));
        }
    }
    assert!(told.contains(&mecha.port.to_string()) && told.contains("cluster_state:ok"), "{told}");
    for (_, port) in &cluster.nodes {
        assert!(!told.contains(&port.to_string()), "{port} leaks: {told}");
    }
    assert_eq!(client.call("CLUSTER COUNTKEYSINSLOT 12182"), ":1\r\n");
    assert_eq!(client.call("CLUSTER KEYSLOT foo"), ":12182\r\n");
    assert!(client.call("CLUSTER FORGET x").starts_with("-ERR mecha"));
    assert_eq!([client.call("READONLY"), client.call("ASKING")], ["+OK\r\n", "+OK\r\n"]);
}

#[test]
fn a_memcached_program_runs_on_a_cluster() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("memcached", &cluster.to());
    let mut client = mecha.client();
    for key in 0..50 {
        client.send(format!("set key{key} 0 0 1\r\nx\r\n").as_bytes());
        assert_eq!(client.line(), "STORED\r\n");
    }
    client.send(b"flush_all\r\n");
    assert_eq!(client.line(), "OK\r\n");
    for (_, port) in &cluster.nodes[..3] {
        assert_eq!(Client::new(*port).call("DBSIZE"), ":0\r\n");
    }
}

#[test]
fn without_a_server_to_ask_the_client_is_told() {
    let mecha = Mecha::start("redis", "redis-cluster://127.0.0.1:1");
    assert!(mecha.client().call("GET a").starts_with("-ERR mecha: backend is unreachable"));
}

#[test]
fn a_client_that_is_made_like_new_is_bound_to_no_server() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let mut client = mecha.client();
    let refused = |client: &mut Client| {
        (0..12).filter(|key| client.call(&format!("SET key:{key} v")).starts_with('-')).count()
    };
    assert_eq!(refused(&mut client), 0);
    assert_eq!(client.call("CLIENT NO-EVICT ON"), "+OK\r\n");
    assert!(refused(&mut client) > 0, "the server of its connection has not all keys");
    assert_eq!(client.call("RESET"), "+RESET\r\n");
    assert_eq!(refused(&mut client), 0);
    drop(client);
    mecha.settles();
}
