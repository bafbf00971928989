//! Two tenants on the same servers, each behind a `key_prefix` of its own: neither reads, changes or hears of the other's
//! names, and none of them ever shows a prefix.

use std::time::Duration;

use super::support::{Client, Mecha, Process, RedisCluster, eventually, frame, redis};

const QUIET: Duration = Duration::from_millis(150);

/// Two doors, to `to`, for tenants whose names would be patterns.
fn tenants(to: &str, more: &str) -> Mecha {
    let door = |name: &str| {
        format!(
            "  - name: {name}\n    listen: redis://127.0.0.1:0\n    to: back\n    filters: [ key_prefix: {{ prefix: '{name}*:' }} ]\n"
        )
    };
    Mecha::configured(&format!(
        "listeners:\n{}{}clusters:\n  back:\n    to: {to}\n{more}workers: 2\n",
        door("one"),
        door("two")
    ))
}

fn clients(mecha: &Mecha, version: u8) -> [Client; 2] {
    [0, 1].map(|at| {
        let mut client = Client::new(mecha.ports[at]);
        if version == 3 {
            assert!(client.call("HELLO 3").contains("proto"));
        }
        client
    })
}

/// What is heard until nothing comes any more, words only.
fn heard(client: &mut Client) -> Vec<String> {
    let (bytes, _) = client.drain(QUIET);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (mut frames, mut lines) = (Vec::new(), text.lines());
    while let Some(head) = lines.next() {
        if !head.starts_with(['*', '>']) {
            frames.push(head.to_owned());
            continue;
        }
        let count: usize = head.get(1..).and_then(|count| count.parse().ok()).expect("a frame of elements");
        let mut words = Vec::new();
        for _ in 0..count {
            let line = lines.next().expect("an element");
            words.push(if line.starts_with('$') { lines.next().expect("its text") } else { line });
        }
        frames.push(words.join(" "));
    }
    frames
}

/// At least so many frames, and what follows them at once.
fn hears(client: &mut Client, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    eventually("too little is heard", || {
        all.extend(heard(client));
        all.len() >= count
    });
    all
}

fn wait(client: &mut Client, messages: &[&str]) {
    let mut all = hears(client, messages.len());
    all.extend(heard(client));
    all.sort();
    let mut expected: Vec<String> = messages.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(all, expected);
}

fn names_are_apart(mecha: &Mecha, direct: &[u16], version: u8) {
    let [mut one, mut two] = clients(mecha, version);
    for (client, value) in [(&mut one, "1"), (&mut two, "2")] {
        assert!(["$-1\r\n", "_\r\n"].contains(&client.call("RANDOMKEY").as_str()));
        for key in ["{t}a", "{t}b"] {
            assert_eq!(client.call(&format!("SET {key} {value}")), "+OK\r\n");
        }
    }
    for (client, value) in [(&mut one, "1"), (&mut two, "2")] {
        assert_eq!(client.call("GET {t}a"), format!("$1\r\n{value}\r\n"));
        let keys = client.call("KEYS *");
        assert!(keys.starts_with("*2\r\n"), "{keys}");
        assert!(!keys.contains(':') && keys.contains("{t}a") && keys.contains("{t}b"), "{keys}");
        let mut seen = String::new();
        for _ in 0..64 {
            seen += &client.call("RANDOMKEY");
        }
        assert!(seen.contains("{t}a") && seen.contains("{t}b") && !seen.contains(':'), "{seen}");
        for scan in
            ["SCAN 0 COUNT 1000", "SCAN 0 MATCH nothing MATCH * COUNT 1000", "SCAN 0 COUNT 1000 TYPE string"]
        {
            let (mut cursor, mut all) = ("0".to_owned(), String::new());
            loop {
                let reply = client.call(&scan.replacen(" 0", &format!(" {cursor}"), 1));
                cursor = reply.lines().nth(2).expect("a cursor").to_owned();
                all += &reply.lines().skip(3).collect::<Vec<_>>().join("\n");
                if cursor == "0" {
                    break;
                }
            }
            assert_eq!((all.matches("{t}").count(), all.contains(':')), (2, false), "{scan}: {all}");
        }
        for (request, holds) in [
            ("TYPE {t}a", "string"),
            ("OBJECT ENCODING {t}a", "int"),
            ("COPY {t}a {t}c", ":1"),
            ("COMMAND GETKEYS SET {t}a 1", "{t}a"),
            ("EVAL return(KEYS[1]) 1 {t}a", "{t}a"),
            ("RPUSH {t}l x y z", ":3"),
            ("LMPOP 1 {t}l LEFT", "{t}l"),
            ("BLPOP {t}l 1", "{t}l"),
            ("BLMPOP 1 1 {t}l LEFT", "{t}l"),
            ("ZADD {t}z 1 a 2 b 3 c", ":3"),
            ("ZMPOP 1 {t}z MIN", "{t}z"),
            ("BZPOPMIN {t}z 1", "{t}z"),
            ("BZMPOP 1 1 {t}z MIN", "{t}z"),
            ("XADD {t}x 1-1 f v", "1-1"),
            ("XREAD STREAMS {t}x 0", "{t}x"),
            ("XGROUP CREATE {t}x g 0", "OK"),
            ("XREADGROUP GROUP g c STREAMS {t}x >", "{t}x"),
            ("MEMORY USAGE {t}x", ":"),
            ("DEL {t}x {t}c", ":2"),
        ] {
            let reply = client.call(request);
            assert!(reply.contains(holds), "{request}: {reply}");
            // A script says what the server sees, and nothing else may.
            assert!(request.starts_with("EVAL") || !reply.contains("*:"), "{request}: {reply}");
        }
        for request in [
            "FLUSHALL",
            "FLUSHDB",
            "DBSIZE",
            "SWAPDB 0 1",
            "MONITOR",
            "SLOWLOG GET",
            "PUBSUB NUMPAT",
            "MIGRATE h 1 {t}a 0 1",
            "CLIENT TRACKING ON BCAST",
            "DEBUG OBJECT {t}a",
            "FUNCTION LIST",
            "CLUSTER COUNTKEYSINSLOT 1",
        ] {
            assert!(client.call(request).starts_with('-'), "{request}");
        }
    }
    assert_eq!(two.call("DEL {t}a {t}b"), ":2\r\n");
    assert_eq!(one.call("EXISTS {t}a {t}b"), ":2\r\n");
    assert_eq!(one.call("DEL {t}a {t}b"), ":2\r\n");
    let left: String = direct.iter().map(|port| Client::new(*port).call("KEYS *")).collect();
    assert!(left.lines().all(|line| line.starts_with('*')), "something is left: {left}");
}

fn channels_are_apart(mecha: &Mecha, direct: &[u16], version: u8) {
    for port in direct {
        Client::new(*port).call("CONFIG SET notify-keyspace-events KEA");
    }
    let [mut one, mut two] = clients(mecha, version);
    let [mut says, mut other] = clients(mecha, 2);
    for client in [&mut one, &mut two] {
        client.send(&frame(&["SUBSCRIBE", "news", "__keyspace@0__:{t}k", "__keyevent@0__:del"]));
        wait(
            client,
            &["subscribe news :1", "subscribe __keyspace@0__:{t}k :2", "subscribe __keyevent@0__:del :3"],
        );
        client.send(&frame(&["PSUBSCRIBE", "n*", "*", "__key*__:*"]));
        wait(client, &["psubscribe n* :4", "psubscribe * :5", "psubscribe __key*__:* :6"]);
    }
    says.call("PUBLISH news hello");
    wait(&mut one, &["message news hello", "pmessage n* news hello", "pmessage * news hello"]);
    assert_eq!(heard(&mut two), Vec::<String>::new());
    other.call("SET {t}k v");
    wait(
        &mut two,
        &[
            "message __keyspace@0__:{t}k set",
            "pmessage __key*__:* __keyspace@0__:{t}k set",
            "pmessage __key*__:* __keyevent@0__:set {t}k",
        ],
    );
    other.call("DEL {t}k");
    wait(
        &mut two,
        &[
            "message __keyspace@0__:{t}k del",
            "message __keyevent@0__:del {t}k",
            "pmessage __key*__:* __keyspace@0__:{t}k del",
            "pmessage __key*__:* __keyevent@0__:del {t}k",
        ],
    );
    assert_eq!(heard(&mut one), Vec::<String>::new());
    assert!(says.call("PUBLISH __keyevent@0__:del x").starts_with('-'));
    let channels = says.call("PUBSUB CHANNELS");
    assert_eq!(channels, "*1\r\n$4\r\nnews\r\n");
    assert_eq!(says.call("PUBSUB CHANNELS no*"), "*0\r\n");
    let counted = says.call("PUBSUB NUMSUB news nosuch");
    assert!(counted.starts_with("*4\r\n$4\r\nnews\r\n:1\r\n$6\r\nnosuch\r\n:0\r\n"), "{counted}");
    if version == 3 {
        // Ordinary commands are answered between messages.
        for (request, answer) in [("SET {t}k v", "+OK"), ("DEL {t}k", ":1")] {
            one.send(&frame(&request.split(' ').collect::<Vec<_>>()));
            let all = hears(&mut one, 4);
            assert!(all.iter().any(|frame| frame == answer), "{all:?}");
            assert!(all.iter().all(|frame| !frame.contains("*:")), "{all:?}");
        }
    }
    drop(heard(&mut one));
    one.send(&frame(&["PUNSUBSCRIBE", "__key*__:*"]));
    wait(&mut one, &["punsubscribe __key*__:* :5"]);
    one.send(&frame(&["UNSUBSCRIBE"]));
    let mut gone: Vec<String> =
        hears(&mut one, 3).iter().map(|frame| frame[..frame.len() - 3].to_owned()).collect();
    gone.sort();
    assert_eq!(
        gone,
        ["unsubscribe __keyevent@0__:del", "unsubscribe __keyspace@0__:{t}k", "unsubscribe news"]
    );
}

fn shard_channels_are_apart(mecha: &Mecha, version: u8) {
    let [mut one, mut two] = clients(mecha, version);
    let [mut says, _] = clients(mecha, 2);
    for client in [&mut one, &mut two] {
        client.send(&frame(&["SSUBSCRIBE", "{s}a"]));
        wait(client, &["ssubscribe {s}a :1"]);
    }
    says.call("SPUBLISH {s}a hello");
    wait(&mut one, &["smessage {s}a hello"]);
    assert_eq!(heard(&mut two), Vec::<String>::new());
    assert_eq!(says.call("PUBSUB SHARDCHANNELS"), "*1\r\n$4\r\n{s}a\r\n");
}

fn all(mecha: &Mecha, direct: &[u16]) {
    for version in [2, 3] {
        names_are_apart(mecha, direct, version);
        channels_are_apart(mecha, direct, version);
        shard_channels_are_apart(mecha, version);
    }
    assert!(mecha.metric("mecha_calls_total") > 100.0, "traffic did not cross mecha");
    mecha.settles();
}

fn one_server(more: &str) {
    let Some((_redis, port)) = redis() else { return };
    all(&tenants(&format!("redis://127.0.0.1:{port}"), more), &[port]);
}

#[test]
fn tenants_of_a_server_are_apart() {
    one_server("");
}

#[test]
fn tenants_who_share_subscriptions_are_apart() {
    one_server("    subscriptions: shared\n");
}

#[test]
fn tenants_with_connections_of_their_own_are_apart() {
    one_server("    clients: dedicated\n");
}

#[test]
fn tenants_of_several_servers_are_apart() {
    let servers: Option<Vec<(Process, u16)>> = (0..2).map(|_| redis()).collect();
    let Some(servers) = servers else { return };
    let ports: Vec<u16> = servers.iter().map(|(_, port)| *port).collect();
    let list: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    all(&tenants(&format!("redis://{}", list.join(",")), ""), &ports);
}

#[test]
fn tenants_of_a_redis_cluster_are_apart() {
    let Some(cluster) = RedisCluster::start() else { return };
    let ports: Vec<u16> = (0..3).map(|at| cluster.port(at)).collect();
    all(&tenants(&cluster.to(), ""), &ports);
}
