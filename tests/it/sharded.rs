//! Several servers that share the keys: what spans them looks like one server.

use crate::support::{Client, Mecha, Process, eventually, memcached, redis, signal};

fn three(start: fn() -> Option<(Process, u16)>, scheme: &str) -> Option<(Vec<(Process, u16)>, String)> {
    let servers: Option<Vec<_>> = (0..3).map(|_| start()).collect();
    let servers = servers?;
    let list: Vec<_> = servers.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let to = format!("{scheme}://{}", list.join(","));
    Some((servers, to))
}

/// Sorted bulk strings of an array, whatever is around them.
fn bulks(reply: &str) -> Vec<String> {
    let mut all: Vec<_> =
        reply.split("\r\n").filter(|line| !line.starts_with(['*', '$', ':'])).map(String::from).collect();
    all.retain(|line| !line.is_empty());
    all.sort();
    all
}

/// Every key that a whole scan returns, in order.
fn scan(mecha: &Mecha, more: &str) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), "0".to_string());
    for _ in 0..10_000 {
        // A fresh connection each time: a cursor means the same to all.
        let reply = mecha.client().call(&format!("SCAN {cursor}{more}"));
        let mut lines = reply.split("\r\n");
        assert_eq!(lines.next(), Some("*2"), "{reply}");
        cursor = lines.nth(1).unwrap().to_string();
        let rest: Vec<_> = lines.collect();
        keys.extend(bulks(&rest.join("\r\n")));
        assert!(cursor.parse::<u64>().is_ok(), "{cursor}");
        if cursor == "0" {
            keys.sort();
            return keys;
        }
    }
    panic!("the scan does not end");
}

#[test]
fn commands_of_many_keys_answer_as_one_server_does() {
    let Some(((servers, to), (_single, single))) = three(redis, "redis").zip(redis()) else { return };
    let mecha = Mecha::start("redis", &to);
    for version in ["2", "3"] {
        let (mut sharded, mut single) = (mecha.client(), Client::new(single));
        assert_eq!(
            single.call(&format!("HELLO {version}")).as_bytes()[0],
            sharded.call(&format!("HELLO {version}")).as_bytes()[0]
        );
        let all: String = (0..200).map(|key| format!(" {key}k v{key}")).collect();
        let keys: String = (0..220).map(|key| format!(" {key}k")).collect();
        for call in [
            "FLUSHALL",
            &format!("MSET{all}"),
            &format!("MGET{keys}"),
            "MGET 1k nosuch 1k 2k 1k",
            &format!("EXISTS{keys} 1k 1k"),
            &format!("TOUCH{keys}"),
            "DBSIZE",
            "LPUSH list x",
            "MGET 1k list 2k 3k",
            "DEL 1k 2k 3k nosuch 1k",
            "UNLINK 4k 5k 6k list",
            "DBSIZE",
            "MSET a",
            "MSET a 1 b",
            "MGET",
            "SCRIPT LOAD return(1)",
            "SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db nosuch",
            "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 99k",
            "SLOWLOG RESET",
            "CONFIG RESETSTAT",
            "PING",
            "ECHO hi",
            "RANDOMKEY",
        ] {
            let (ours, theirs) = (sharded.call(call), single.call(call));
            if call == "RANDOMKEY" {
                assert!(ours.ends_with("k\r\n"), "{ours}");
            } else {
                assert_eq!(ours, theirs, "{call}");
            }
        }
        assert_eq!(bulks(&sharded.call("KEYS 1*")), bulks(&single.call("KEYS 1*")));
        assert!(sharded.call("INFO keyspace").contains("keys=194"), "{}", sharded.call("INFO keyspace"));
        assert!(sharded.call("INFO").contains("mecha_shards:3"));
    }
    for (_, port) in &servers {
        let size = Client::new(*port).call("DBSIZE");
        assert!(size[1..].trim_end().parse::<u32>().unwrap() > 20, "the keys are not spread: {size}");
    }
    assert!(mecha.metric("mecha_upstream_split_calls_total") > 10.0);
    assert!(mecha.metric("mecha_upstream_parts_total") > 30.0);
}

#[test]
fn reports_of_several_servers_are_one() {
    let Some((servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut client = mecha.client();
        let _ = client.call(hello);
        let _ = client.call("FLUSHALL");
        let _ = client.call("CONFIG RESETSTAT");
        let pairs: String = (0..90).map(|key| format!(" {key}:key v")).collect();
        assert_eq!(client.call(&format!("MSET{pairs}")), "+OK\r\n");
        for key in 0..90 {
            assert_eq!(client.call(&format!("GET {key}:key")), "$1\r\nv\r\n");
        }
        // Settings are what all have alike; a port is one server's own.
        assert_eq!(client.call("CONFIG SET maxmemory 100mb"), "+OK\r\n");
        let settings = client.call("CONFIG GET maxmemory");
        assert!(settings.ends_with("$9\r\nmaxmemory\r\n$9\r\n104857600\r\n"), "{settings}");
        assert!(matches!(client.call("CONFIG GET port").as_str(), "*0\r\n" | "%0\r\n"));
        let memory = client.call("MEMORY STATS");
        assert!(memory.contains("$10\r\nkeys.count\r\n:90\r\n"), "{memory}");
        let latency = client.call("LATENCY HISTOGRAM get");
        assert!(latency.contains("$5\r\ncalls\r\n:90\r\n"), "{latency}");
        for call in ["MEMORY DOCTOR", "LATENCY DOCTOR", "MEMORY MALLOC-STATS"] {
            let text = client.call(call);
            assert!((0..3).all(|shard| text.contains(&format!("# shard {shard}\n"))), "{call}: {text}");
        }
        assert_eq!(client.call("CONFIG SET latency-monitor-threshold 1"), "+OK\r\n");
        for key in 0..30 {
            let _ = client.call(&format!("EVAL {SLEEPS} 1 {key}:key"));
        }
        let latest = client.call("LATENCY LATEST");
        assert_eq!(latest.matches("$7\r\ncommand\r\n").count(), 1, "{latest}");
        let times = times_of(&client.call("LATENCY HISTORY command"));
        assert!(times.len() > 1 && times.is_sorted(), "{times:?}");
        assert!(client.call("LATENCY GRAPH command").contains("# shard 2\n"));
        assert_eq!(client.call("CONFIG SET latency-monitor-threshold 0"), "+OK\r\n");
        let info = client.call("INFO");
        let keys: u32 = (0..3)
            .map(|shard| {
                let own = info.lines().find(|line| line.starts_with(&format!("mecha_shard{shard}:")));
                let own = own.unwrap_or_else(|| panic!("{info}"));
                assert!(own.contains("redis_version=") && own.contains(",used_memory="), "{own}");
                own.rsplit_once("keys=").unwrap().1.parse::<u32>().unwrap()
            })
            .sum();
        assert_eq!(keys, 90);
    }
    drop(servers);
}

/// A script that takes two milliseconds.
const SLEEPS: &str = "local\tt=redis.call('TIME')\tlocal\tend_=t[1]*1000000+t[2]+2000\trepeat\tt=redis.call('TIME')\tuntil\tt[1]*1000000+t[2]>end_";

/// The first number of each row.
fn times_of(reply: &str) -> Vec<u64> {
    let rows = reply.split("*2\r\n:").skip(1);
    rows.filter_map(|row| row.split_once('\r')?.0.parse().ok()).collect()
}

#[test]
fn commands_that_need_one_server_are_refused_when_their_keys_are_on_several() {
    let Some((servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    let mut client = mecha.client();
    let keys: String = (0..20).map(|key| format!(" {key}:other")).collect();
    let cross = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
    for call in [
        format!("MSETNX{}", (0..20).map(|key| format!(" {key}:other v")).collect::<String>()),
        format!("SUNION{keys}"),
        format!("PFCOUNT{keys}"),
        format!("BITOP AND{keys}"),
        format!("EVAL return(1) 20{keys}"),
        format!("BLPOP{keys} 1"),
        format!("WATCH{keys}"),
        format!("SINTERSTORE{keys}"),
    ] {
        assert_eq!(client.call(&call), cross, "{call}");
        assert_eq!(client.call("PING"), "+PONG\r\n", "{call}");
    }
    // A tag keeps them together.
    assert_eq!(client.call("MSETNX {t}a 1 {t}b 2"), ":1\r\n");
    assert_eq!(client.call("EVAL return(KEYS[2]) 2 {t}a {t}b"), "$4\r\n{t}b\r\n");
    assert_eq!(client.call("RENAME {t}a {t}c"), "+OK\r\n");
    // A transaction on one server takes no key of another.
    assert_eq!(client.call("WATCH {t}c"), "+OK\r\n");
    assert_eq!(client.call("MULTI"), "+OK\r\n");
    assert_eq!(client.call("SET {t}c 3"), "+QUEUED\r\n");
    let others = (0..20).map(|key| client.call(&format!("SET {key}:other 1")));
    assert!(others.filter(|reply| reply == cross).count() > 5);
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    assert_eq!(client.call("EXEC"), aborted);
    for call in ["DEBUG JMAP", "SHUTDOWN", "REPLICAOF NO ONE", "MIGRATE h 1 k 0 5"] {
        assert!(
            client.call(call).starts_with("-ERR mecha: command is not supported"),
            "{call} {}",
            client.call(call)
        );
    }
    // A script that does not end keeps its connection busy, and is ended all the same.
    let mut endless = mecha.client();
    endless.send(&crate::support::frame(&["CONFIG", "SET", "lua-time-limit", "10"]));
    assert_eq!(endless.reply(), "+OK\r\n");
    endless.send(&crate::support::frame(&["EVAL", "while true do end", "1", "k"]));
    assert!(
        client.call("SCRIPT KILL").starts_with('+') || {
            eventually("the script goes on", || client.call("SCRIPT KILL") == "+OK\r\n");
            true
        }
    );
    assert!(endless.reply().contains("killed by user"));
    drop((client, endless, servers));
    mecha.settles();
}

#[test]
fn a_scan_returns_each_key_exactly_once() {
    let Some((servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    let mut client = mecha.client();
    assert_eq!(scan(&mecha, ""), Vec::<String>::new());
    let pairs: String = (0..3000).map(|key| format!(" {key}:key {key}")).collect();
    assert_eq!(client.call(&format!("MSET{pairs}")), "+OK\r\n");
    let mut expected: Vec<_> = (0..3000).map(|key| format!("{key}:key")).collect();
    expected.sort();
    assert_eq!(scan(&mecha, " COUNT 7"), expected);
    assert_eq!(scan(&mecha, " COUNT 5000"), expected);
    assert_eq!(
        scan(&mecha, " MATCH 77*"),
        (0..3000)
            .map(|key| format!("{key}:key"))
            .filter(|key| key.starts_with("77"))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert!(client.call("SCAN x").starts_with("-ERR invalid cursor"));
    assert!(client.call("SCAN 18446744073709551615").starts_with('*'));
    drop(servers);
}

#[test]
fn publishers_and_subscribers_meet() {
    let Some((_servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    let (mut one, mut all, mut publisher) = (mecha.client(), mecha.client(), mecha.client());
    one.send(b"SUBSCRIBE a b c d\r\n");
    (0..4).for_each(|_| assert!(one.reply().contains("subscribe")));
    assert!(all.call("PSUBSCRIBE *").contains("psubscribe"));
    for channel in ["a", "b", "c", "d"] {
        assert_eq!(publisher.call(&format!("PUBLISH {channel} hi")), ":2\r\n");
        assert!(one.reply().contains(channel));
        assert!(all.reply().contains(channel));
    }
    assert_eq!(bulks(&publisher.call("PUBSUB CHANNELS")), ["a", "b", "c", "d"]);
}

#[test]
fn a_dedicated_connection_takes_nothing_that_belongs_to_another_server() {
    let Some((servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    let mut subscriber = mecha.client();
    assert!(subscriber.call("SUBSCRIBE news").contains("subscribe"));
    let cross = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
    // Keys of every server, so that the outcome is not one of luck.
    let mut outcomes = std::collections::BTreeSet::new();
    for key in (0..30).map(|key| format!("{key}:watched")) {
        let mut client = mecha.client();
        assert_eq!(client.call(&format!("WATCH {key}")), "+OK\r\n");
        // What is published there must arrive, or not be accepted.
        let published = client.call("PUBLISH news hi");
        if published == ":1\r\n" {
            assert!(subscriber.reply().contains("hi"));
        } else {
            assert_eq!(published, cross, "{key}");
        }
        outcomes.insert(published);
        assert_eq!(client.call("SCAN 0"), "-ERR mecha: command is not supported on this backend (scan)\r\n");
        assert!(client.call("JSON.GET doc").starts_with("-ERR mecha: no endpoint"), "{key}");
        assert_eq!(client.call("MULTI"), "+OK\r\n");
        assert_eq!(client.call(&format!("SET {key} 1")), "+QUEUED\r\n");
        assert_eq!(client.call("EXEC"), "*1\r\n+OK\r\n");
        assert_eq!(mecha.client().call(&format!("GET {key}")), "$1\r\n1\r\n");
        // Somebody who listens elsewhere would wait for ever.
        let mut listener = mecha.client();
        assert_eq!(listener.call(&format!("WATCH {key}")), "+OK\r\n");
        let listens = listener.call("SUBSCRIBE other");
        if listens == cross {
            assert_eq!(listener.call("PING"), "+PONG\r\n");
            continue;
        }
        assert!(listens.contains("subscribe"), "{listens}");
        assert_eq!(client.call("PUBLISH other hi"), ":1\r\n");
        assert!(listener.reply().contains("hi"));
        drop(listener);
        eventually("the subscription stays", || client.call("PUBLISH other hi") == ":0\r\n");
    }
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    // A transaction goes where its first command belongs.
    let mut client = mecha.client();
    for key in (0..30).map(|key| format!("{key}:plain")) {
        let words = ["MULTI", &format!("SET {key} 1"), "EXEC"].map(|call| client.call(call));
        assert_eq!(words.concat(), "+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
        assert_eq!(client.call(&format!("GET {key}")), "$1\r\n1\r\n");
    }
    let words = ["MULTI", "PUBLISH news queued", "EXEC"].map(|call| client.call(call));
    assert_eq!(words.concat(), "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
    assert!(subscriber.reply().contains("queued"));
    drop((client, subscriber, servers));
}

#[test]
fn a_dead_shard_makes_spanning_commands_fail_and_leaves_the_others_alone() {
    let Some((mut servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    let mut client = mecha.client();
    let keys: Vec<_> = (0..60).map(|key| format!("{key}:k")).collect();
    keys.iter().for_each(|key| assert_eq!(client.call(&format!("SET {key} v")), "+OK\r\n"));
    let (dead, _) = servers.remove(1);
    drop(dead);
    let reply = client.call(&format!("DEL {}", keys.join(" ")));
    assert!(reply.starts_with("-ERR mecha: backend"), "{reply}");
    assert!(client.call(&format!("MGET {}", keys.join(" "))).starts_with("-ERR mecha: backend"));
    assert!(client.call("DBSIZE").starts_with("-ERR mecha: backend"));
    let works = keys.iter().filter(|key| !client.call(&format!("SET {key} w")).starts_with('-')).count();
    assert!((20..60).contains(&works), "{works}");
}

#[test]
fn a_paused_shard_delays_only_what_needs_it_and_replies_keep_their_order() {
    let Some((servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    let mut client = mecha.client();
    // Every value carries its key; parts of one client overtake nothing.
    let mut expected = String::new();
    for round in 0..200 {
        let pairs: Vec<_> = (0..5).map(|key| format!("{key}k {round}:{key}")).collect();
        client.send(&crate::support::frame(
            &format!("MSET {}", pairs.join(" ")).split(' ').collect::<Vec<_>>(),
        ));
        client.send(&crate::support::frame(&["MGET", "4k", "0k", "3k", "1k", "2k"]));
        client.send(&crate::support::frame(&["GET", "2k"]));
        expected += "+OK\r\n*5\r\n";
        for key in [4, 0, 3, 1, 2, 2] {
            let value = format!("{round}:{key}");
            expected += &format!("${}\r\n{value}\r\n", value.len());
        }
    }
    let mut got = String::new();
    (0..600).for_each(|_| got += &client.reply());
    assert_eq!(got, expected);
    let keys: Vec<_> = (0..200).map(|key| format!("{key}:other")).collect();
    keys.iter().for_each(|key| assert_eq!(client.call(&format!("SET {key} {key}")), "+OK\r\n"));
    let mut paused = Client::new(servers[0].1);
    let (held, free): (Vec<_>, Vec<_>) =
        keys.iter().partition(|key| paused.call(&format!("EXISTS {key}")) == ":1\r\n");
    assert!(!held.is_empty() && !free.is_empty(), "the keys are not spread");
    signal(servers[0].0.id(), "STOP");
    let mut waiting = mecha.client();
    waiting.send(b"DBSIZE\r\nPING\r\n");
    // Were they held up, they would be for as long as the server is paused, which is longer than a client's patience.
    for key in free {
        assert_eq!(client.call(&format!("GET {key}")), format!("${}\r\n{key}\r\n", key.len()));
    }
    signal(servers[0].0.id(), "CONT");
    assert_eq!(waiting.reply(), ":205\r\n");
    assert_eq!(waiting.reply(), "+PONG\r\n");
}

#[test]
fn memcached_clients_see_one_server_too() {
    let Some(((servers, to), (_single, single))) = three(memcached, "memcached").zip(memcached()) else {
        return;
    };
    let mecha = Mecha::start("memcached", &to);
    let (mut sharded, mut single) = (mecha.client(), Client::new(single));
    let mut calls = Vec::new();
    for key in 0..100 {
        let value = format!("value-{key}");
        calls.push(format!("set k{key} {key} 0 {}\r\n{value}\r\n", value.len()));
    }
    let keys: String = (0..120).map(|key| format!(" k{key}")).collect();
    calls.push(format!("get{keys}\r\n"));
    calls.push("get k1 nosuch k1 k2  k3\r\nget k9\r\ngat 100 k1 k2 k3\r\n".into());
    calls.push("mg k1 v q\r\nmg no v q\r\nmg k2 v k q\r\nmn\r\n".into());
    calls.push("delete k1 noreply\r\nget k1 k2\r\nverbosity 0\r\nversion\r\n".into());
    calls.push("flush_all noreply\r\nget k1 k2 k3 k4\r\nflush_all\r\n".into());
    for call in calls {
        let sentinel = "mg sentinel v\r\n";
        let mut both = [&mut sharded, &mut single].map(|client| {
            client.send(format!("{call}{sentinel}").as_bytes());
            let mut text = String::new();
            while !text.ends_with("EN\r\n") {
                let line = client.line();
                assert!(!line.is_empty(), "{call}: {text}");
                text += &line;
            }
            text
        });
        both.iter_mut().for_each(|text| *text = text.replace("END\r\n", "E-N-D\r\n"));
        assert_eq!(both[0], both[1], "{call}");
    }
    sharded.send(b"stats\r\n");
    let mut stats = String::new();
    while !stats.ends_with("END\r\n") {
        stats += &sharded.line();
    }
    assert!(stats.contains("STAT cmd_flush 6\r\n"), "{stats}");
    assert!(stats.contains("STAT total_items 100\r\n"), "{stats}");
    drop(servers);
}

#[test]
fn translated_clients_work_on_every_balance() {
    let (Some((_redises, to_redis)), Some((_caches, to_cache))) =
        (three(redis, "redis"), three(memcached, "memcached"))
    else {
        return;
    };
    for balance in ["ketama", "ketama_nginx", "ketama_unweighted", "maglev", "modulo"] {
        let mecha = |door: &str, to: &str| {
            Mecha::configured(&format!(
                "listeners: [ {{ listen: \"{door}://127.0.0.1:0\", to: pool }} ]\nclusters: {{ pool: {{ to: \"{to}\", balance: {balance} }} }}\n"
            ))
        };
        let pairs: String = (0..50).map(|key| format!(" k{key} {balance}{key}")).collect();
        let redis_on_caches = mecha("redis", &to_cache);
        let mut client = redis_on_caches.client();
        assert_eq!(client.call("FLUSHALL"), "+OK\r\n", "{balance}");
        assert_eq!(client.call(&format!("MSET{pairs}")), "+OK\r\n", "{balance}");
        let reply = client.call("MGET k49 k0 nosuch k7");
        assert!(reply.starts_with("*4\r\n") && reply.contains(&format!("{balance}49\r\n")), "{reply}");
        assert_eq!(client.call("DEL k0 k1 k2 k3 nosuch"), ":4\r\n");
        assert_eq!(client.call("FLUSHALL"), "+OK\r\n");
        assert_eq!(client.call("EXISTS k4 k5 k6 k7 k8 k9"), ":0\r\n", "{balance}");
        let cache_on_redises = mecha("memcached", &to_redis);
        let mut client = cache_on_redises.client();
        for key in 0..20 {
            client.send(format!("set k{key} 1 0 1\r\nx\r\n").as_bytes());
            assert_eq!(client.line(), "STORED\r\n");
        }
        client.send(b"get k0 k1 k2 k3 k4 k5\r\nflush_all\r\nget k0 k1 k2 k3 k4 k5\r\n");
        (0..6).for_each(|key| {
            assert_eq!(client.line(), format!("VALUE k{key} 1 1\r\n"), "{balance}");
            assert_eq!(client.line(), "x\r\n");
        });
        assert_eq!(
            [client.line(), client.line(), client.line()],
            ["END\r\n", "OK\r\n", "END\r\n"],
            "{balance}"
        );
        eventually("traffic did not cross mecha", || cache_on_redises.metric("mecha_calls_total") >= 20.0);
    }
}

#[test]
fn what_servers_count_of_their_commands_is_added_up() {
    let Some((_servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    let mut client = mecha.client();
    assert_eq!(client.call("CONFIG RESETSTAT"), "+OK\r\n");
    for key in 0..30 {
        client.call(&format!("SET {key}:k v"));
        client.call(&format!("LPUSH {key}:k v"));
    }
    // No server has seen all of them, and a command that one has seen is told of, whichever it is.
    client.call("GEOADD one 1 1 a");
    let stats = client.call("INFO commandstats");
    for start in ["cmdstat_set:calls=30,usec=", "cmdstat_lpush:calls=30,", "cmdstat_geoadd:calls=1,"] {
        assert_eq!(stats.lines().filter(|line| line.starts_with(start)).count(), 1, "{start} in {stats}");
    }
    let lpush = stats.lines().find(|line| line.starts_with("cmdstat_lpush:")).unwrap();
    assert!(lpush.ends_with("failed_calls=30"), "{lpush}");
    assert!(client.call("INFO errorstats").contains("\r\nerrorstat_WRONGTYPE:count=30\r\n"));
}

#[test]
fn a_pause_is_every_servers() {
    let Some((servers, to)) = three(redis, "redis") else { return };
    let mecha = Mecha::start("redis", &to);
    let mut client = mecha.client();
    assert_eq!(client.call("CLIENT PAUSE 60000 WRITE"), "+OK\r\n");
    let mut writers: Vec<Client> = servers.iter().map(|(_, port)| Client::new(*port)).collect();
    let mut seen: Vec<Client> = servers.iter().map(|(_, port)| Client::new(*port)).collect();
    writers.iter_mut().for_each(|writer| writer.send(b"SET k v\r\n"));
    for server in &mut seen {
        eventually("a server is not paused", || {
            server.call("INFO clients").contains("\r\nblocked_clients:1\r\n")
        });
    }
    assert_eq!(client.call("CLIENT UNPAUSE"), "+OK\r\n");
    writers.iter_mut().for_each(|writer| assert_eq!(writer.reply(), "+OK\r\n"));
}
