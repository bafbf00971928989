//! Scripts that a server has lost: whoever loaded one through mecha may go on calling it by its digest.

use crate::support::{Client, Mecha, RedisCluster, eventually, frame, redis, redis_on, signal};

/// Appends its argument to its key.
const APPEND: &str = "return redis.call('append',KEYS[1],ARGV[1])";
const READ: &str = "return redis.call('get',KEYS[1])";
const LACKING: &str = "-NOSCRIPT No matching script. Please use EVAL.\r\n";

/// Loads a script and returns its digest.
fn load(client: &mut Client, text: &str) -> String {
    client.send(&frame(&["SCRIPT", "LOAD", text]));
    let reply = client.reply();
    assert!(reply.starts_with("$40\r\n"), "{reply}");
    reply.lines().nth(1).unwrap().to_string()
}

/// The replies to requests that are sent in one write.
fn at_once(client: &mut Client, lines: &[String]) -> Vec<String> {
    let requests = lines.iter().flat_map(|line| frame(&line.split(' ').collect::<Vec<_>>()));
    client.send(&requests.collect::<Vec<_>>());
    lines.iter().map(|_| client.reply()).collect()
}

fn told(mecha: &Mecha) -> f64 {
    mecha.metric("mecha_upstream_scripts_told_total{")
}

#[test]
fn a_script_that_a_server_has_lost_runs_all_the_same() {
    let Some((mut server, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let (mut client, mut direct) = (mecha.client(), Client::new(port));
    let digest = load(&mut client, APPEND);
    let call = |key: &str, word: &str| format!("EVALSHA {digest} 1 {key} {word}");
    assert_eq!(client.call(&call("k", "ab")), ":2\r\n");
    assert_eq!(told(&mecha), 0.0);
    // Behind mecha's back, for clients of both workers and of both versions.
    for (turn, hello) in ["HELLO 2", "HELLO 3", "HELLO 2", "HELLO 3"].into_iter().enumerate() {
        let mut other = mecha.client();
        assert!(!other.call(hello).starts_with('-'));
        for half in 0..2 {
            assert_eq!(direct.call("SCRIPT FLUSH"), "+OK\r\n");
            assert_eq!(other.call(&call("k", "c").to_lowercase()), format!(":{}\r\n", 3 + turn * 2 + half));
        }
    }
    assert!(told(&mecha) >= 4.0);
    // One that was only run is known as well.
    client.send(&frame(&["EVAL", READ, "1", "k"]));
    assert_eq!(client.reply(), "$10\r\nabcccccccc\r\n");
    let read = load(&mut direct, READ);
    assert_eq!(direct.call("SCRIPT FLUSH"), "+OK\r\n");
    assert_eq!(client.call(&format!("EVALSHA_RO {read} 1 k")), "$10\r\nabcccccccc\r\n");
    // A new server on the same port has never heard of it.
    signal(server.id(), "KILL");
    server.wait(crate::support::PATIENCE);
    let _server = redis_on(port);
    eventually("the server is back", || client.call("PING") == "+PONG\r\n");
    assert_eq!(client.call(&call("new", "abc")), ":3\r\n");
    // Nobody has loaded this one, and what was flushed through mecha is forgotten.
    assert_eq!(client.call("EVALSHA ffffffffffffffffffffffffffffffffffffffff 0"), LACKING);
    assert_eq!(client.call("SCRIPT FLUSH"), "+OK\r\n");
    for _ in 0..4 {
        let mut other = mecha.client();
        eventually("the other worker has a connection", || other.call("PING") == "+PONG\r\n");
        assert_eq!(other.call(&call("k", "x")), LACKING);
    }
}

#[test]
fn a_lost_script_runs_where_it_stands_among_the_calls_of_its_client() {
    let Some((_server, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let (mut client, mut direct) = (mecha.client(), Client::new(port));
    let digest = load(&mut client, APPEND);
    let call = |key: &str, word: &str| format!("EVALSHA {digest} 1 {key} {word}");
    // In the second round on a connection of its own.
    for database in [0, 0, 5] {
        assert_eq!(client.call(&format!("SELECT {database}")), "+OK\r\n");
        assert_eq!([direct.call("SCRIPT FLUSH"), direct.call("FLUSHALL")], ["+OK\r\n", "+OK\r\n"]);
        let lines = [
            "SET k a".to_string(),
            call("k", "b"),
            "GET k".to_string(),
            call("k", "c"),
            "APPEND k d".to_string(),
            call("k", "e"),
        ];
        let replies = at_once(&mut client, &lines);
        assert_eq!(
            replies,
            ["+OK\r\n", ":2\r\n", "$2\r\nab\r\n", ":3\r\n", ":4\r\n", ":5\r\n"],
            "{database}"
        );
        assert_eq!(client.call("GET k"), "$5\r\nabcde\r\n");
    }
    assert_eq!(client.call("SELECT 0"), "+OK\r\n");
    // Where a client writes again before it has the answer, only such calls are behind it.
    for round in 0..50 {
        assert_eq!([direct.call("SCRIPT FLUSH"), direct.call("DEL k")].len(), 2);
        for word in ["a", "b", "c"] {
            client.send(&frame(&call("k", word).split(' ').collect::<Vec<_>>()));
        }
        assert_eq!([(); 3].map(|()| client.reply()), [":1\r\n", ":2\r\n", ":3\r\n"], "{round}");
        assert_eq!(client.call("GET k"), "$3\r\nabc\r\n");
    }
}

#[test]
fn a_lost_script_runs_in_a_transaction() {
    let Some((_server, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let (mut client, mut direct) = (mecha.client(), Client::new(port));
    let digest = load(&mut client, APPEND);
    for watch in [false, true] {
        assert_eq!([direct.call("SCRIPT FLUSH"), direct.call("FLUSHALL")], ["+OK\r\n", "+OK\r\n"]);
        if watch {
            assert_eq!(client.call("WATCH k"), "+OK\r\n");
            assert_eq!(client.call(&format!("EVALSHA {digest} 1 other b")), ":1\r\n");
        }
        let lines =
            ["MULTI", "SET k a", &format!("EVALSHA {digest} 1 k b"), "GET k", "EXEC"].map(String::from);
        let replies = at_once(&mut client, &lines);
        assert_eq!(replies[4], "*3\r\n+OK\r\n:2\r\n$2\r\nab\r\n", "{replies:?}");
        let replies: Vec<_> = lines.iter().map(|line| client.call(line)).collect();
        assert_eq!(replies[2..], ["+QUEUED\r\n", "+QUEUED\r\n", "*3\r\n+OK\r\n:2\r\n$2\r\nab\r\n"]);
    }
    drop(client);
    mecha.settles();
}

#[test]
fn a_script_that_talks_like_a_server_that_lacks_it_runs_once() {
    let Some((_server, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let mut client = mecha.client();
    let lie = "redis.call('incr',KEYS[1]) return redis.error_reply(ARGV[1])";
    let digest = load(&mut client, lie);
    client.send(&frame(&["EVALSHA", &digest, "1", "runs", "NOSCRIPT No matching script. Please use EVAL."]));
    let reply = client.reply();
    assert!(reply.starts_with("-NOSCRIPT"), "{reply}");
    assert_eq!(client.call("GET runs"), "$1\r\n1\r\n");
    assert_eq!(told(&mecha), 0.0);
}

#[test]
fn one_who_may_not_bring_scripts_is_told_what_the_server_says() {
    let Some((_server, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let (mut client, mut direct) = (mecha.client(), Client::new(port));
    let digest = load(&mut client, APPEND);
    assert_eq!(direct.call("ACL SETUSER caller on >secret ~* +@all -eval -script"), "+OK\r\n");
    assert_eq!(client.call("AUTH caller secret"), "+OK\r\n");
    let lines = ["MULTI", &format!("EVALSHA {digest} 1 k b"), "EXEC"].map(String::from);
    assert_eq!(at_once(&mut client, &lines), ["+OK\r\n", "+QUEUED\r\n", "*1\r\n:1\r\n"]);
    assert_eq!(client.call(&format!("EVALSHA {digest} 1 k b")), ":2\r\n");
    assert_eq!(direct.call("SCRIPT FLUSH"), "+OK\r\n");
    let reply = client.call(&format!("EVALSHA {digest} 1 k b"));
    assert!(reply.starts_with("-NOPERM"), "{reply}");
}

#[test]
fn shards_replicas_and_new_primaries_are_told_scripts_that_they_lack() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\nclusters: {{ back: {{ to: \"{}\", read_from: \
         prefer-replica }} }}\nworkers: 2\n",
        cluster.to()
    ));
    let mut client = mecha.client();
    let (append, read) = (load(&mut client, APPEND), load(&mut client, READ));
    // All shards have it from the one who loaded it.
    for at in 0..3 {
        let mut direct = Client::new(cluster.port(at));
        assert_eq!(direct.call(&format!("SCRIPT EXISTS {append}")), "*1\r\n:1\r\n");
        assert_eq!(direct.call("SCRIPT FLUSH"), "+OK\r\n");
    }
    for at in 3..6 {
        assert_eq!(Client::new(cluster.port(at)).call("SCRIPT FLUSH"), "+OK\r\n");
    }
    let keys = ["foo", "bar", "c"];
    let lines: Vec<_> =
        keys.iter().cycle().take(9).map(|key| format!("EVALSHA {append} 1 {key} x")).collect();
    let replies = at_once(&mut client, &lines);
    assert_eq!(
        replies,
        [":1\r\n"; 3].into_iter().chain([":2\r\n"; 3]).chain([":3\r\n"; 3]).collect::<Vec<_>>()
    );
    // Replicas never get what their primary was told.
    let replica = |at: usize| {
        let stats = Client::new(cluster.port(at)).call("INFO commandstats");
        stats.lines().any(|line| line.starts_with("cmdstat_evalsha_ro:calls="))
    };
    eventually("every replica answers", || {
        for key in keys {
            assert_eq!(client.call(&format!("EVALSHA_RO {read} 1 {key}")), "$3\r\nxxx\r\n");
        }
        (3..6).all(replica)
    });
    // The successor of a primary that died was never told anything.
    let promoted = cluster.port(5);
    signal(cluster.nodes[2].0.id(), "KILL");
    eventually("a replica is promoted", || Client::new(promoted).call("ROLE").contains("master"));
    eventually("the new primary runs it", || {
        let reply = client.call(&format!("EVALSHA {append} 1 foo y"));
        assert!(!reply.contains("NOSCRIPT"), "{reply}");
        reply.starts_with(':')
    });
}
