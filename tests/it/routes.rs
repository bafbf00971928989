//! One listener, several clusters: who gets which calls, and what one client sees of it.

mod found;
mod mirrors;
mod people;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::support::{Client, Mecha, eventually, frame, memcached, redis, signal};

/// Two servers and an embedded store behind one door: `a:` and `m:` have routes, the rest is the first server's.
fn three_ways(first: u16, second: u16) -> Mecha {
    Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: redis://127.0.0.1:{first}
    routes:
      - {{ prefix: 'a:', to: 'redis://127.0.0.1:{second}' }}
      - {{ prefix: ['m:', 'a:m:'], to: store }}
clusters:
  store: embedded://
workers: 2
"
    ))
}

fn keys(port: u16) -> Vec<String> {
    let reply = Client::new(port).call("KEYS *");
    let mut keys: Vec<_> = reply
        .split("\r\n")
        .filter(|line| !line.is_empty() && !line.starts_with(['*', '$']))
        .map(str::to_string)
        .collect();
    keys.sort();
    keys
}

#[test]
fn the_longest_prefix_leads_and_everything_else_takes_the_default() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let mecha = three_ways(one, two);
    let mut client = mecha.client();
    for key in ["a:1", "a:m:1", "m:1", "b:1", "a", ""] {
        client.send(&frame(&["SET", key, &format!("of {key}")]));
        assert_eq!(client.reply(), "+OK\r\n");
        client.send(&frame(&["GET", key]));
        assert!(client.reply().ends_with(&format!("of {key}\r\n")), "{key}");
    }
    assert_eq!(Client::new(one).call("DBSIZE"), ":3\r\n");
    assert_eq!(Client::new(two).call("DBSIZE"), ":1\r\n");
    assert_eq!(keys(two), ["a:1"]);
    // Without a key: the default.
    assert_eq!(client.call("DBSIZE"), ":3\r\n");
    assert_eq!(mecha.metric("mecha_route_calls_total{listener=\"resp\",route=\"a:\""), 2.0);
    let clusters = mecha.get("/clusters");
    assert!(clusters.contains("resp/a:") && clusters.contains("resp/default"), "{clusters}");
}

#[test]
fn commands_of_keys_on_several_routes_are_split_or_refused() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let mecha = three_ways(one, two);
    let mut client = mecha.client();
    assert_eq!(client.call("MSET a:1 1 b:1 2 m:1 3 a:2 4"), "+OK\r\n");
    let reply = client.call("MGET m:1 b:1 nope a:2 a:1");
    assert_eq!(reply, "*5\r\n$1\r\n3\r\n$1\r\n2\r\n$-1\r\n$1\r\n4\r\n$1\r\n1\r\n");
    assert_eq!(client.call("EXISTS a:1 b:1 m:1 m:2 a:1"), ":4\r\n");
    assert_eq!(client.call("TOUCH a:1 m:1"), ":2\r\n");
    assert_eq!(client.call("DEL a:1 b:1 m:9"), ":2\r\n");
    assert_eq!(client.call("UNLINK a:2 m:1"), ":2\r\n");
    for line in
        ["RENAME a:1 b:1", "SUNION a:1 m:1", "MSETNX a:1 1 b:1 1", "EVAL x 2 a:1 b:1", "BLPOP a:1 b:1 0"]
    {
        let reply = client.call(line);
        assert!(
            reply.starts_with("-CROSSSLOT mecha: keys of the command belong to different routes"),
            "{reply}"
        );
    }
    // In the other version of the protocol too, on the same door.
    client.call("SET b:1 x");
    assert!(client.call("HELLO 3").starts_with('%'));
    assert_eq!(client.call("MGET a:1 b:1 m:1"), "*3\r\n_\r\n$1\r\nx\r\n_\r\n");
    // Nobody knows whose keys these are.
    assert!(client.call("JSON.GET a:1").starts_with("-ERR mecha: no endpoint can take"));
    assert_eq!(mecha.metric("mecha_refusals_total{listener=\"resp\",reason=\"cross_route\"}"), 5.0);
}

#[test]
fn a_transaction_is_bound_to_the_route_of_its_first_key() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let mecha = three_ways(one, two);
    let mut client = mecha.client();
    let mut say = |line: &str| client.call(line);
    assert_eq!(["MULTI", "SET a:1 1", "INCR a:1", "EXEC"].map(&mut say)[3], "*2\r\n+OK\r\n:2\r\n");
    assert_eq!(["WATCH a:1", "MULTI", "GET a:1", "EXEC"].map(&mut say)[3], "*1\r\n$1\r\n2\r\n");
    let replies = ["MULTI", "SET a:1 5", "SET b:1 5", "EXEC"].map(&mut say);
    assert!(replies[2].starts_with("-CROSSSLOT"), "{replies:?}");
    assert!(replies[3].starts_with("-EXECABORT"), "{replies:?}");
    assert_eq!(say("GET a:1"), "$1\r\n2\r\n");
    assert_eq!(say("BLPOP a:none 0.05"), "*-1\r\n");
    assert!(say("BLPOP m:none 0.05").contains("not supported on this backend"));
    // A list that another client fills on the same route.
    let mut waiting = mecha.client();
    waiting.send(&frame(&["BLPOP", "a:list", "0"]));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(say("RPUSH a:list x"), ":1\r\n");
    assert_eq!(waiting.reply(), "*2\r\n$6\r\na:list\r\n$1\r\nx\r\n");
    let mut subscriber = mecha.client();
    subscriber.call("SUBSCRIBE news");
    assert_eq!(say("PUBLISH news 1"), ":1\r\n");
    assert!(subscriber.reply().contains("message"));
    drop((client, waiting, subscriber));
    mecha.settles();
}

#[test]
fn translated_transactions_are_bound_to_a_route_too() {
    let mecha = Mecha::configured(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: one
    routes: [{ prefix: 'a:', to: two }]
  - { listen: 'redis://127.0.0.1:0', to: two, name: second }
clusters: { one: 'embedded://', two: 'embedded://' }
workers: 1
",
    );
    let mut client = mecha.client();
    let mut say = |line: &str| client.call(line);
    assert_eq!(["MULTI", "SET a:1 1", "PING", "EXEC"].map(&mut say)[3], "*2\r\n+OK\r\n+PONG\r\n");
    let replies = ["MULTI", "SET a:1 2", "SET b:1 2", "EXEC"].map(&mut say);
    assert!(replies[2].starts_with("-CROSSSLOT") && replies[3].starts_with("-EXECABORT"), "{replies:?}");
    assert_eq!(["WATCH a:1", "MULTI", "GET a:1", "EXEC"].map(&mut say)[3], "*1\r\n$1\r\n1\r\n");
    assert_eq!(["MULTI", "SET b:1 7", "EXEC", "GET b:1"].map(&mut say)[3], "$1\r\n7\r\n");
    // In one write: the route of what stands behind the transaction is its own again.
    let lines = ["MULTI", "INCR a:1", "EXEC", "GET b:1", "GET a:1"];
    client.send(&lines.map(|line| frame(&line.split(' ').collect::<Vec<_>>())).concat());
    let replies: Vec<_> = lines.iter().map(|_| client.reply()).collect();
    assert_eq!(replies, ["+OK\r\n", "+QUEUED\r\n", "*1\r\n:2\r\n", "$1\r\n7\r\n", "$1\r\n2\r\n"]);
    assert_eq!(client.call("DBSIZE"), ":1\r\n");
}

#[test]
fn databases_are_clusters() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: redis://127.0.0.1:{one}
    routes:
      - {{ db: 1, to: 'redis://127.0.0.1:{two}' }}
      - {{ db: [2, 3], to: store }}
clusters: {{ store: 'embedded://' }}
workers: 1
"
    ));
    let mut client = mecha.client();
    let lines = [
        "SET k 0", "SELECT 1", "SET k 1", "DBSIZE", "SELECT 2", "SET k 2", "SELECT 3", "GET k", "SELECT 0",
        "GET k", "SELECT 7", "GET k", "SELECT x", "SELECT 1", "GET k", "MULTI", "GET k", "EXEC", "RESET",
        "GET k",
    ];
    client.send(&lines.map(|line| frame(&line.split(' ').collect::<Vec<_>>())).concat());
    let replies: Vec<_> = lines.iter().map(|_| client.reply()).collect();
    let expected = [
        "+OK",
        "+OK",
        "+OK",
        ":1",
        "+OK",
        "+OK",
        "+OK",
        "$1\r\n2",
        "+OK",
        "$1\r\n0",
        "-ERR DB index is out of range",
        "$1\r\n0",
        "-ERR",
        "+OK",
        "$1\r\n1",
        "+OK",
        "+QUEUED",
        "*1\r\n$1\r\n1",
        "+RESET",
        "$1\r\n0",
    ];
    for ((line, reply), expected) in lines.iter().zip(&replies).zip(expected) {
        assert!(reply.starts_with(expected), "{line}: {reply}");
    }
    assert_eq!(
        (Client::new(one).call("DBSIZE"), Client::new(two).call("DBSIZE")),
        (":1\r\n".into(), ":1\r\n".into())
    );
    // No client holds a connection for its database.
    assert_eq!(mecha.metric("mecha_upstream_pins{"), 0.0);
    let replies = ["MULTI", "SELECT 1", "SET k 9", "EXEC"].map(|line| client.call(line));
    assert!(replies[1].starts_with("-CROSSSLOT") && replies[3].starts_with("-EXECABORT"), "{replies:?}");
}

#[test]
fn reads_and_writes_part_and_stay_in_order() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    // Both clusters are one server, so that order can be seen.
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: main
    routes: [{{ class: reads, to: replica }}]
  - listen: redis://127.0.0.1:0
    name: apart
    to: main
    routes: [{{ class: reads, to: 'redis://127.0.0.1:{two}' }}]
clusters: {{ main: 'redis://127.0.0.1:{one}', replica: 'redis://127.0.0.1:{one}' }}
workers: 1
"
    ));
    let mut client = mecha.client();
    for round in 0..20 {
        let mut batch = Vec::new();
        for _ in 0..20 {
            batch.extend(frame(&["INCR", "n"]));
            batch.extend(frame(&["GET", "n"]));
        }
        client.send(&batch);
        for step in 1..=20 {
            let number = (round * 20 + step).to_string();
            assert_eq!(client.reply(), format!(":{number}\r\n"));
            assert_eq!(client.reply(), format!("${}\r\n{number}\r\n", number.len()));
        }
    }
    assert_eq!(mecha.metric("mecha_route_calls_total{listener=\"resp\",route=\"reads\""), 400.0);
    assert_eq!(mecha.metric("mecha_upstream_replies_total{cluster=\"replica\""), 400.0);
}

/// Every value tells its key and how often it was written.
fn load(port: u16, id: usize, is_over: &AtomicBool) -> (u64, Vec<String>) {
    let mut client = Client::new(port);
    let (mut rounds, mut failures) = (0, Vec::new());
    while !is_over.load(Ordering::Relaxed) && failures.len() < 5 {
        rounds += 1;
        let keys = ["a:", "m:", "b:"].map(|prefix| format!("{prefix}{id}"));
        let mut batch = Vec::new();
        for key in &keys {
            batch.extend(frame(&["SET", key, &format!("{key}={rounds}")]));
        }
        batch.extend(frame(&["MGET", &keys[2], &keys[0], &keys[1]]));
        for key in &keys {
            batch.extend(frame(&["GET", key]));
        }
        client.send(&batch);
        let value = |key: &String| {
            let value = format!("{key}={rounds}");
            format!("${}\r\n{value}\r\n", value.len())
        };
        let mut expected = vec!["+OK\r\n".to_string(); 3];
        expected.push(format!("*3\r\n{}{}{}", value(&keys[2]), value(&keys[0]), value(&keys[1])));
        expected.extend(keys.iter().map(value));
        for expected in expected {
            let reply = client.reply();
            if reply != expected {
                failures.push(format!("{reply:?} is not {expected:?}"));
            }
        }
    }
    (rounds, failures)
}

#[test]
fn every_client_gets_its_own_answers_in_order_whatever_routes_they_take() {
    let (Some((_first, one)), Some((_second, two)), Some((_third, three))) = (redis(), redis(), memcached())
    else {
        return;
    };
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: redis://127.0.0.1:{one}
    routes:
      - {{ prefix: 'a:', to: 'redis://127.0.0.1:{two}' }}
      - {{ prefix: 'm:', to: 'memcached://127.0.0.1:{three}' }}
workers: 2
"
    ));
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|id| {
            let (port, is_over) = (mecha.port, Arc::clone(&is_over));
            std::thread::spawn(move || load(port, id, &is_over))
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        let (rounds, failures) = client.join().unwrap();
        assert!(rounds > 20 && failures.is_empty(), "{rounds} rounds, {failures:?}");
    }
    for cluster in ["resp-upstream\"", "resp-upstream-2\"", "resp-upstream-3\""] {
        let crossed = mecha.metric(&format!("mecha_upstream_replies_total{{cluster=\"{cluster}"));
        assert!(crossed > 100.0, "{cluster} {crossed}");
    }
    mecha.settles();
}

#[test]
fn a_route_whose_server_stands_still_keeps_only_its_own_calls() {
    let (Some((_first, one)), Some((second, two))) = (redis(), redis()) else { return };
    let mecha = three_ways(one, two);
    let (mut stuck, mut free) = (mecha.client(), mecha.client());
    assert_eq!(stuck.call("SET a:1 1"), "+OK\r\n");
    assert_eq!(stuck.call("SET b:1 2"), "+OK\r\n");
    signal(second.id(), "STOP");
    stuck.send(&[frame(&["GET", "a:1"]), frame(&["GET", "b:1"]), frame(&["MGET", "a:1", "b:1"])].concat());
    for _ in 0..50 {
        assert_eq!(free.call("SET b:1 2"), "+OK\r\n");
        assert_eq!(free.call("SET m:1 2"), "+OK\r\n");
    }
    signal(second.id(), "CONT");
    assert_eq!(stuck.reply(), "$1\r\n1\r\n");
    assert_eq!(stuck.reply(), "$1\r\n2\r\n", "sent at once, and held until its turn");
    assert_eq!(stuck.reply(), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
    drop(second);
    eventually("the loss is noticed", || free.call("GET a:1").starts_with('-'));
    assert_eq!(free.call("GET b:1"), "$1\r\n2\r\n");
    let reply = free.call("MGET a:1 b:1");
    assert!(reply.starts_with("-ERR mecha: backend is unreachable"), "{reply}");
    let reply = free.call("DEL b:1 a:1");
    assert!(reply.contains("1 of 2 shards, the others have done their part"), "{reply}");
}

#[test]
fn memcached_retrievals_of_many_keys_are_split() {
    let (Some((_first, one)), Some((_second, two)), Some((_third, three))) =
        (memcached(), memcached(), redis())
    else {
        return;
    };
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: memcached://127.0.0.1:0
    to: memcached://127.0.0.1:{one}
    routes:
      - {{ prefix: 'a:', to: 'memcached://127.0.0.1:{two}' }}
      - {{ prefix: 'r:', to: 'redis://127.0.0.1:{three}' }}
workers: 1
"
    ));
    let mut client = mecha.client();
    for key in ["a:1", "r:1", "b:1"] {
        client.send(format!("set {key} 7 0 4\r\n{key}!\r\n").as_bytes());
        assert_eq!(client.line(), "STORED\r\n");
    }
    client.send(
        b"get r:1 nope b:1 a:1\r\nget a:1\r\nset b:2 0 0 1 noreply\r\nx\r\nmg a:1 v\r\ngets b:2 a:2\r\n",
    );
    let mut lines = Vec::new();
    while lines.iter().filter(|line| *line == "END\r\n").count() < 3 {
        lines.push(client.line());
        assert!(lines.last().is_some_and(|line| !line.is_empty()), "{lines:?}");
    }
    let start: Vec<_> = lines.iter().take(13).map(|line| line.trim_end()).collect();
    assert_eq!(
        start,
        [
            "VALUE r:1 7 4",
            "r:1!",
            "VALUE b:1 7 4",
            "b:1!",
            "VALUE a:1 7 4",
            "a:1!",
            "END",
            "VALUE a:1 7 4",
            "a:1!",
            "END",
            "VA 4",
            "a:1!",
            lines[12].trim_end(),
        ]
    );
    assert!(lines[12].starts_with("VALUE b:2 0 1 "), "{lines:?}");
    let mut direct = Client::new(two);
    direct.send(b"get a:1 b:1\r\n");
    assert_eq!([direct.line(), direct.line(), direct.line()], ["VALUE a:1 7 4\r\n", "a:1!\r\n", "END\r\n"]);
    assert!(Client::new(three).call("GET r:1").ends_with("r:1!\r\n"));
    // The binary protocol takes the same routes.
    let mut binary = mecha.client();
    binary.send(b"\x80\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00a:1");
    let (reply, _) = binary.drain(Duration::from_millis(200));
    assert!(reply.starts_with(b"\x81\x00") && reply.ends_with(b"a:1!"), "{reply:?}");
}

#[test]
fn routes_change_under_connected_clients() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let path = std::env::temp_dir().join(format!("mecha-it-routes-{}.yaml", std::process::id()));
    let write = |routes: &str| {
        let text = format!(
            "listeners:\n  - listen: redis://127.0.0.1:0\n    to: redis://127.0.0.1:{one}\n{routes}workers: 2\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    write("");
    let mecha = Mecha::from_file(&path);
    let mut client = mecha.client();
    assert_eq!(client.call("SET a:1 old"), "+OK\r\n");
    write(&format!("    routes: [{{ prefix: 'a:', to: 'redis://127.0.0.1:{two}' }}]\n"));
    signal(mecha.process.id(), "HUP");
    eventually("the route is not taken", || client.call("GET a:1") == "$-1\r\n");
    assert_eq!(client.call("SET a:1 new"), "+OK\r\n");
    write("");
    signal(mecha.process.id(), "HUP");
    eventually("the route is still taken", || client.call("GET a:1") == "$3\r\nold\r\n");
    let _ = std::fs::remove_file(&path);
    assert_eq!(Client::new(two).call("GET a:1"), "$3\r\nnew\r\n");
}

/// One door to two servers: keys with `t:` have a name space of their own on the second, and all calls are copied to a third.
fn rewritten(first: u16, second: u16) -> Mecha {
    Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: redis://127.0.0.1:{first}
    routes:
      - {{ prefix: 't:', to: 'redis://127.0.0.1:{second}', filters: [ key_prefix: {{ prefix: 'own:' }} ] }}
      - {{ db: 2, to: store, filters: [ key_prefix: {{ prefix: 'own:' }}, deny_commands: {{ commands: [incr] }} ] }}
clusters: {{ store: 'embedded://' }}
workers: 1
"
    ))
}

#[test]
fn filters_of_a_route_see_its_calls_once_and_all_their_replies() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let mecha = rewritten(one, two);
    let mut client = mecha.client();
    let mut say = |line: &str| client.call(line);
    assert_eq!(["SET t:1 a", "SET b:1 b"].map(&mut say), ["+OK\r\n", "+OK\r\n"]);
    assert_eq!((keys(one), keys(two)), (vec!["b:1".to_string()], vec!["own:t:1".to_string()]));
    // The parts of a call that is taken apart.
    assert_eq!(say("MSET t:2 x b:2 y"), "+OK\r\n");
    assert_eq!(say("MGET t:2 b:2 t:1"), "*3\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\na\r\n");
    assert_eq!(keys(two), ["own:t:1", "own:t:2"]);
    // Dedicated connections, whose replies name keys.
    assert_eq!(["MULTI", "GET t:1", "EXEC"].map(&mut say)[2], "*1\r\n$1\r\na\r\n");
    assert_eq!(say("RPUSH t:list v"), ":1\r\n");
    assert_eq!(say("BLPOP t:list 1"), "*2\r\n$6\r\nt:list\r\n$1\r\nv\r\n");
    // Shared ones.
    assert_eq!(say("RPUSH t:list v"), ":1\r\n");
    assert_eq!(say("LMPOP 1 t:list LEFT"), "*2\r\n$6\r\nt:list\r\n*1\r\n$1\r\nv\r\n");
    // A database of its own in the store of this process, where answers are made at once.
    assert_eq!(["SELECT 2", "SET k 1", "KEYS *"].map(&mut say)[2], "*1\r\n$1\r\nk\r\n");
    assert!(say("SCAN 0").ends_with("*1\r\n$1\r\nk\r\n"));
    assert!(say("INCR k").starts_with("-NOPERM mecha: command is denied by configuration"));
    assert_eq!(say("GET k"), "$1\r\n1\r\n");
    drop(client);
    mecha.settles();
}

#[test]
fn calls_that_find_no_room_are_not_rewritten_twice() {
    let (Some((_first, one)), Some((second, two))) = (redis(), redis()) else { return };
    let mecha = rewritten(one, two);
    let mut client = mecha.client();
    assert_eq!(client.call("SET t:0 x"), "+OK\r\n");
    signal(second.id(), "STOP");
    // Far more than an outbox and the sockets take.
    let value = "v".repeat(60_000);
    let batch: Vec<u8> =
        (0..200).flat_map(|number| frame(&["SET", &format!("t:{number}"), &value])).collect();
    let mut writer = client.writer.try_clone().unwrap();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &batch).is_ok());
    std::thread::sleep(Duration::from_millis(300));
    signal(second.id(), "CONT");
    for _ in 0..200 {
        assert_eq!(client.reply(), "+OK\r\n");
    }
    assert!(sender.join().unwrap());
    assert_eq!(Client::new(two).call("DBSIZE"), ":200\r\n");
    assert!(keys(two).iter().all(|key| key.starts_with("own:t:")));
    assert!(mecha.metric("mecha_upstream_stalls_total{") > 0.0, "nothing had to wait");
}
