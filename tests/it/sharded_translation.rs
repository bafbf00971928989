//! Translated doors in front of several servers: Redis clients on Memcached servers that share the keys, Memcached clients
//! on Redis servers and on a Redis Cluster. What spans the servers looks like one; a lost server costs its own keys alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::contention;
use super::differential::{self, Dice};
use super::support::{
    Client, Mecha, Process, RedisCluster, eventually, frame, memcached, memcached_on, redis, signal,
};

type Servers = Vec<(Process, u16)>;

/// Three servers, and the address of all.
fn three(start: fn() -> Option<(Process, u16)>, scheme: &str) -> Option<(Servers, String)> {
    let servers: Option<Servers> = (0..3).map(|_| start()).collect();
    let servers = servers?;
    let list: Vec<_> = servers.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let to = format!("{scheme}://{}", list.join(","));
    Some((servers, to))
}

/// A door on one cluster, whose further keys are `more`.
fn door(scheme: &str, to: &str, more: &str) -> Mecha {
    Mecha::configured(&format!(
        "workers: 2\nclusters:\n  back: {{ to: \"{to}\"{more} }}\nlisteners:\n  - {{ listen: \"{scheme}://127.0.0.1:0\", to: back }}\n"
    ))
}

/// How many keys a memcached holds.
fn items(port: u16) -> u64 {
    let mut client = Client::new(port);
    client.send(b"stats\r\n");
    let mut items = 0;
    loop {
        let line = client.line();
        if let Some(count) = line.strip_prefix("STAT curr_items ") {
            items = count.trim_end().parse().unwrap();
        }
        if !line.starts_with("STAT") {
            return items;
        }
    }
}

fn kill(server: &mut (Process, u16)) {
    signal(server.0.id(), "KILL");
    let _ = server.0.wait(Duration::from_secs(5));
}

#[test]
fn generated_conversations_are_equal_on_memcached_servers_however_keys_are_spread() {
    let Some(((_one, direct), (servers, to))) = redis().zip(three(memcached, "memcached")) else { return };
    let spreads =
        ["", ", balance: modulo, hash: crc16", ", balance: maglev", ", balance: ketama, hash_tag: \"{}\""];
    for (at, spread) in spreads.iter().enumerate() {
        let mecha = door("redis", &to, spread);
        for seed in 1..=2 {
            let version = if seed % 2 == 0 { "HELLO 3" } else { "HELLO 2" };
            let seed = seed * 15_485_863 + at as u64;
            differential::conversation(seed, 200, version, false, direct, &mecha, spread);
        }
        assert!(mecha.metric("mecha_calls_total") > 600.0, "traffic did not cross mecha");
        let mut client = mecha.client();
        for key in 0..60 {
            assert_eq!(client.call(&format!("SET {key}:spread v")), "+OK\r\n");
        }
        assert!(servers.iter().all(|(_, port)| items(*port) > 2), "the keys are not spread: {spread}");
        assert_eq!(client.call("FLUSHALL"), "+OK\r\n");
        assert!((0..60).all(|key| client.call(&format!("GET {key}:spread")) == "$-1\r\n"));
    }
}

/// Commands of a Memcached client whose answers hold no unique and no time.
const MEMCACHED: &[&str] = &[
    "set K F 0 N\r\nV",
    "set K F 1000 N\r\nV",
    "set K 0 -1 N\r\nV",
    "add K F 0 N\r\nV",
    "replace K F 0 N\r\nV",
    "append K 0 0 N\r\nV",
    "prepend K 0 0 N\r\nV",
    "set K 0 0 1\r\n7",
    "set K 0 0 N noreply\r\nV",
    "cas K 0 0 N 1\r\nV",
    "get K",
    "get K K K K",
    "get K nosuch K",
    "gat 1000 K K",
    "touch K 1000",
    "incr K 5",
    "decr K 3",
    "incr K x",
    "delete K",
    "delete K noreply",
    "mg K v f k s",
    "mg K v q",
    "mg K",
    "mg K t",
    "ms K N F5\r\nV",
    "ms K N MA\r\nV",
    "ms K N ME T500\r\nV",
    "ms K N MR q\r\nV",
    "ma K",
    "ma K MD D2 v",
    "ma K N0 J13 v",
    "md K",
    "md K q",
    "mn",
    "bogus",
    "get",
    "set K",
];

fn memcached_command(dice: &mut Dice) -> String {
    let value = match dice.below(3) {
        0 => "12".to_string(),
        1 => "value".to_string(),
        _ => "x".repeat(1 + dice.below(400)),
    };
    let (head, body) = match dice.pick(MEMCACHED).split_once("\r\n") {
        Some((head, body)) => (head, Some(body)),
        None => (dice.pick(&["get K", "mg K v", "get K K K"]), None),
    };
    let words: Vec<_> = head
        .split(' ')
        .map(|word| match word {
            "K" => format!("key{}", dice.below(9)),
            "F" => dice.below(70_000).to_string(),
            "N" => value.len().to_string(),
            other => other.to_string(),
        })
        .collect();
    let line = words.join(" ");
    match body {
        Some("V") => format!("{line}\r\n{value}\r\n"),
        Some(body) => format!("{line}\r\n{body}\r\n"),
        None => format!("{line}\r\n"),
    }
}

/// The same commands to a memcached and to mecha: every byte of the answers is the same.
fn memcached_conversation(seed: u64, rounds: usize, direct: u16, mecha: &Mecha, name: &str) {
    let mut dice = Dice(seed);
    let mut pairs: Vec<_> = (0..3).map(|_| (Client::new(direct), mecha.client())).collect();
    let mut last = Vec::new();
    for round in 0..rounds {
        let at = dice.below(pairs.len());
        let (one, other) = &mut pairs[at];
        let batch: String = (0..1 + dice.below(6)).map(|_| memcached_command(&mut dice)).collect();
        last.push(batch.clone());
        let bytes = format!("{batch}echo-{round}\r\nmn\r\n");
        let [expected, seen] = [one, other].map(|client| {
            client.send(bytes.as_bytes());
            let mut lines = String::new();
            // `mn` may be among the commands too; an error that nothing else makes is just before the last one.
            while !lines.ends_with("ERROR\r\nMN\r\n") {
                let line = client.line();
                assert!(!line.is_empty(), "{name}: the connection has ended after {batch}");
                lines += &line;
            }
            lines
        });
        assert_eq!(
            seen,
            expected,
            "{name}, seed {seed}, round {round}: mecha (left) and memcached (right) after\n{}",
            last[last.len().saturating_sub(8)..].concat()
        );
    }
}

#[test]
fn memcached_conversations_are_equal_on_redis_servers_and_on_a_redis_cluster() {
    let Some(((_one, direct), (servers, to))) = memcached().zip(three(redis, "redis")) else { return };
    let Some(cluster) = RedisCluster::start() else { return };
    let clustered = cluster.to();
    let backs = [(&to, ""), (&to, ", balance: modulo"), (&to, ", balance: maglev"), (&clustered, "")];
    for (at, (to, spread)) in backs.into_iter().enumerate() {
        let mecha = door("memcached", to, spread);
        let (mut one, mut client) = (Client::new(direct), mecha.client());
        for seed in 1..=2 {
            // Memcached hides what is stored within the second of a flush, so both begin with deletions.
            for key in 0..9 {
                for client in [&mut one, &mut client] {
                    client.send(format!("delete key{key}\r\n").as_bytes());
                    client.line();
                }
            }
            memcached_conversation(
                seed * 32_452_843 + at as u64,
                200,
                direct,
                &mecha,
                &format!("{to}{spread}"),
            );
        }
        assert!(mecha.metric("mecha_calls_total") > 600.0, "traffic did not cross mecha");
        for key in 0..60 {
            client.send(format!("set {key}:spread 0 0 1\r\nx\r\n").as_bytes());
            assert_eq!(client.line(), "STORED\r\n");
        }
        let ports: Vec<u16> = if *to == clustered {
            (0..3).map(|at| cluster.port(at)).collect()
        } else {
            servers.iter().map(|(_, port)| *port).collect()
        };
        let size = |port: u16| Client::new(port).call("DBSIZE")[1..].trim_end().parse::<u32>().unwrap();
        assert!(ports.iter().all(|port| size(*port) > 2), "the keys are not spread: {to}{spread}");
        client.send(b"flush_all\r\n");
        assert_eq!(client.line(), "OK\r\n");
        assert!(ports.iter().all(|port| size(*port) == 0), "the flush has not reached all: {to}{spread}");
    }
}

#[test]
fn a_client_that_is_there_before_the_map_of_the_cluster_waits_for_it() {
    let Some(cluster) = RedisCluster::start() else { return };
    // Whoever is asked for the map is silent for a while.
    signal(cluster.nodes[0].0.id(), "STOP");
    let mecha = Mecha::start("memcached", &cluster.to());
    let mut client = mecha.client();
    client.send(b"set early 0 0 1\r\nx\r\nget early\r\nflush_all\r\n");
    std::thread::sleep(Duration::from_millis(100));
    signal(cluster.nodes[0].0.id(), "CONT");
    let lines: Vec<_> = (0..5).map(|_| client.line()).collect();
    assert_eq!(lines, ["STORED\r\n", "VALUE early 0 1\r\n", "x\r\n", "END\r\n", "OK\r\n"]);
}

#[test]
fn nothing_is_lost_when_processes_race_on_keys_of_several_memcached_servers() {
    let Some((_servers, to)) = three(memcached, "memcached") else { return };
    contention::nothing_is_lost_at(&to);
}

#[test]
fn a_lost_memcached_costs_redis_clients_its_own_keys_and_no_others() {
    let Some((mut servers, to)) = three(memcached, "memcached") else { return };
    let mecha = door("redis", &to, ", backoff: { initial: 5ms, max: 50ms }");
    let mut client = mecha.client();
    let keys: Vec<_> = (0..60).map(|key| format!("{key}:lost")).collect();
    keys.iter().for_each(|key| assert_eq!(client.call(&format!("RPUSH {key} a b")), ":2\r\n"));
    let is_there = |port: u16, key: &str| {
        let mut client = Client::new(port);
        client.send(format!("mg {key}\r\n").as_bytes());
        client.line().starts_with("HD")
    };
    let dead = servers[1].1;
    let (lost, kept): (Vec<_>, Vec<_>) = keys.iter().partition(|key| is_there(dead, key));
    assert!(lost.len() > 5 && kept.len() > 10, "{lost:?}");
    kill(&mut servers[1]);
    for key in &kept {
        assert_eq!(client.call(&format!("LLEN {key}")), ":2\r\n", "{key}");
    }
    for key in &lost {
        let reply = client.call(&format!("LLEN {key}"));
        assert!(reply.starts_with("-ERR mecha: backend"), "{key}: {reply}");
    }
    // In one piece: each call has its own answer, in order.
    let calls: Vec<u8> = keys.iter().flat_map(|key| frame(&["LINDEX", key, "0"])).collect();
    client.send(&calls);
    for key in &keys {
        let reply = client.reply();
        assert_eq!(reply.starts_with("-ERR mecha: backend"), lost.contains(&key), "{key}: {reply}");
        assert!(lost.contains(&key) || reply == "$1\r\na\r\n", "{key}: {reply}");
    }
    // What needs all of them does not pretend to have reached them.
    assert!(client.call("FLUSHALL").starts_with("-ERR mecha: backend"));
    assert!(client.call(&format!("EXISTS {} {}", kept[0], lost[0])).starts_with("-ERR mecha: backend"));
    assert!(client.call(&format!("DEL {} {}", kept[0], lost[0])).starts_with("-ERR mecha: backend"));
    servers[1].0 = memcached_on(dead);
    eventually("the server that is back is not used", || {
        client.call(&format!("LLEN {}", lost[0])) == ":0\r\n"
    });
    assert_eq!(client.call("FLUSHALL"), "+OK\r\n");
    drop(client);
    mecha.settles();
}

#[test]
fn a_lost_redis_costs_memcached_clients_its_own_keys_and_no_others() {
    let Some((mut servers, to)) = three(redis, "redis") else { return };
    let mecha = door("memcached", &to, ", backoff: { initial: 5ms, max: 50ms }");
    let mut client = mecha.client();
    let keys: Vec<_> = (0..60).map(|key| format!("{key}:lost")).collect();
    for key in &keys {
        client.send(format!("set {key} 3 0 1\r\nx\r\n").as_bytes());
        assert_eq!(client.line(), "STORED\r\n");
    }
    let dead = servers[1].1;
    let at_dead = |key: &String| Client::new(dead).call(&format!("EXISTS {key}")) == ":1\r\n";
    let (lost, kept): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| at_dead(key));
    assert!(lost.len() > 5 && kept.len() > 10, "{lost:?}");
    kill(&mut servers[1]);
    for key in &keys {
        client.send(format!("incr {key} 1\r\nmg {key} f\r\n").as_bytes());
        let lines = [client.line(), client.line()];
        if lost.contains(&key) {
            assert!(lines.iter().all(|line| line.starts_with("SERVER_ERROR mecha: backend")), "{lines:?}");
        } else {
            assert!(lines[0].starts_with("CLIENT_ERROR") && lines[1] == "HD f3\r\n", "{lines:?}");
        }
    }
    // Several keys in one command: an error, or what is there, but no miss that is none.
    client.send(format!("get {} {} {}\r\nmn\r\n", kept[0], lost[0], kept[1]).as_bytes());
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "MN\r\n") {
        lines.push(client.line());
    }
    assert!(lines.iter().any(|line| line.starts_with("SERVER_ERROR mecha: backend")), "{lines:?}");
    assert!(!lines.contains(&"END\r\n".to_string()), "{lines:?}");
    client.send(b"flush_all\r\n");
    assert!(client.line().starts_with("SERVER_ERROR mecha: backend"));
}

#[test]
fn keys_of_an_ejected_memcached_go_to_the_gutter_for_redis_clients_too() {
    let Some((mut servers, _)) = three(memcached, "memcached") else { return };
    let (to, gutter) =
        (format!("memcached://127.0.0.1:{},127.0.0.1:{}", servers[0].1, servers[1].1), servers[2].1);
    let eject = format!(
        ", backoff: {{ initial: 5ms, max: 10ms }}, auto_eject: {{ failures: 3, retry_after: 500ms, gutter: \"memcached://127.0.0.1:{gutter}\", gutter_ttl: 2s }}"
    );
    let mecha = door("redis", &to, &eject);
    let mut client = mecha.client();
    let keys: Vec<_> = (0..40).map(|key| format!("{key}:gutter")).collect();
    keys.iter().for_each(|key| assert_eq!(client.call(&format!("HSET {key} f v")), ":1\r\n"));
    assert_eq!(items(gutter), 0);
    let dead = servers[0].1;
    kill(&mut servers[0]);
    // The first client keeps its worker busy, so that another one gets the other.
    eventually("the dead server is not ejected by both workers", || {
        let mut fresh = mecha.client();
        for key in &keys {
            client.call(&format!("HGET {key} f"));
            fresh.call(&format!("HGET {key} f"));
        }
        mecha.metric("mecha_upstream_ejections_total") >= 2.0
    });
    let lost: Vec<_> = keys.iter().filter(|key| client.call(&format!("HGET {key} f")) == "$-1\r\n").collect();
    assert!(lost.len() > 5 && lost.len() < 35, "{}", lost.len());
    for key in &lost {
        assert_eq!(client.call(&format!("HSET {key} f second")), ":1\r\n");
        assert_eq!(client.call(&format!("HGET {key} f")), "$6\r\nsecond\r\n");
    }
    assert_eq!(items(gutter), lost.len() as u64);
    eventually("what is stored in the gutter lives for ever", || {
        client.call(&format!("EXISTS {}", lost[0])) == ":0\r\n"
    });
    servers[0].0 = memcached_on(dead);
    eventually("the server that is back is not used", || mecha.metric("mecha_upstream_ejected{") == 0.0);
    assert_eq!(client.call(&format!("SET {} third", lost[0])), "+OK\r\n");
    assert_eq!(items(dead), 1);
}

/// A Memcached client that counts and compares in a slot that moves, and pipelines writes to one key.
fn moving(number: usize, port: u16, added: &AtomicUsize, stop: &AtomicBool) -> usize {
    let (mut client, mut round) = (Client::new(port), 0);
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        client.send(b"incr {m}count 1\r\n");
        let line = client.line();
        if line.trim_end().parse::<u64>().is_ok() {
            added.fetch_add(1, Ordering::Relaxed);
        } else {
            assert!(line.starts_with("SERVER_ERROR mecha: too many concurrent writes"), "{line}");
        }
        let own = format!("{{m}}{number}");
        let last = 7 + round % 5;
        let mut bytes = String::new();
        for value in 0..=last {
            bytes += &format!("set {own} 1 0 {}\r\n{round}.{value}\r\n", format!("{round}.{value}").len());
        }
        client.send(format!("{bytes}get {own}\r\n").as_bytes());
        for _ in 0..=last {
            assert_eq!(client.line(), "STORED\r\n");
        }
        let lines = [client.line(), client.line(), client.line()];
        assert_eq!(lines[1], format!("{round}.{last}\r\n"), "a write has overtaken another: {lines:?}");
        client.send(format!("gets {own} {{m}}nosuch\r\n").as_bytes());
        let head = client.line();
        let unique = head.trim_end().rsplit(' ').next().unwrap().to_owned();
        assert_eq!([client.line(), client.line()], [lines[1].clone(), "END\r\n".into()], "{head}");
        client.send(format!("cas {own} 1 0 1 {unique}\r\nc\r\ncas {own} 1 0 1 {unique}\r\nd\r\nappend {own} 0 0 1\r\n+\r\n").as_bytes());
        let lines = [client.line(), client.line(), client.line()];
        assert_eq!(lines, ["STORED\r\n", "EXISTS\r\n", "STORED\r\n"], "round {round}");
    }
    round
}

#[test]
fn memcached_clients_of_two_processes_see_no_error_and_no_order_change_while_a_slot_moves() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mechas = [(); 2].map(|()| Mecha::start("memcached", &cluster.to()));
    let (stop, added) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut client = mechas[0].client();
    client.send(b"set {m}count 0 0 1\r\n0\r\n");
    assert_eq!(client.line(), "STORED\r\n");
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let (port, stop, added) = (mechas[number % 2].port, Arc::clone(&stop), Arc::clone(&added));
            std::thread::spawn(move || moving(number, port, &added, &stop))
        })
        .collect();
    let slot: u16 = Client::new(cluster.port(0)).call("CLUSTER KEYSLOT {m}")[1..].trim_end().parse().unwrap();
    for round in 0..20 {
        std::thread::sleep(Duration::from_millis(20));
        let from = (0..3).find(|at| cluster.slots_of(*at).contains(&slot)).unwrap();
        cluster.move_slot(slot, from, (from + 1 + round % 2) % 3);
        assert!(clients.iter().all(|client| !client.is_finished()), "a command has failed");
    }
    stop.store(true, Ordering::Relaxed);
    let rounds: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(rounds > 50, "{rounds}");
    client.send(b"get {m}count\r\n");
    let lines = [client.line(), client.line(), client.line()];
    assert_eq!(lines[1].trim_end(), added.load(Ordering::Relaxed).to_string(), "{lines:?}");
    assert!(mechas.iter().all(|mecha| mecha.metric("mecha_upstream_redirects_total") > 10.0));
}
