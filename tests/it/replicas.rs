//! Reads from replicas: who answers, and who must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Client, Fake, Mecha, RedisCluster, Sentinels, eventually, redis, redis_with, signal};

/// One listener, and a cluster with these keys.
fn mecha(cluster: &str, top: &str) -> Mecha {
    Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\nclusters: {{ back: {{ {cluster} }} }}\n\
         workers: 2\n{top}\n"
    ))
}

/// How often a server has carried out `GET`.
fn gets(port: u16) -> u64 {
    let stats = Client::new(port).call("INFO commandstats");
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// Reads until the replica at `port` answers.
fn read_from(mecha: &Mecha, port: u16, key: &str) {
    let before = gets(port);
    eventually("a replica is read from", || {
        mecha.client().call(&format!("GET {key}"));
        gets(port) > before
    });
}

#[test]
fn replicas_of_a_cluster_answer_reads_and_primaries_everything_else() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = mecha(&format!("to: \"{}\", read_from: prefer-replica", cluster.to()), "");
    let mut client = mecha.client();
    for key in ["foo", "bar", "hello"] {
        assert_eq!(client.call(&format!("SET {key} {key}")), "+OK\r\n");
    }
    for (at, key) in [(3, "bar"), (4, "c"), (5, "foo")] {
        read_from(&mecha, cluster.port(at), key);
    }
    eventually("it is replicated", || client.call("GET foo") == "$3\r\nfoo\r\n");
    let before: Vec<_> = (0..3).map(|at| gets(cluster.port(at))).collect();
    for _ in 0..100 {
        assert_eq!(client.call("GET foo"), "$3\r\nfoo\r\n");
        assert_eq!(client.call("MGET foo bar hello"), "*3\r\n$3\r\nfoo\r\n$3\r\nbar\r\n$5\r\nhello\r\n");
        assert_eq!(client.call("EXISTS foo bar nothing"), ":2\r\n");
    }
    let after: Vec<_> = (0..3).map(|at| gets(cluster.port(at))).collect();
    assert_eq!(before, after, "a primary was read");
    assert!(mecha.metric("mecha_upstream_replica_reads_total") >= 300.0);
    // What belongs to a transaction or writes goes to the primary, in both versions of the protocol.
    for version in ["3", "2"] {
        assert!(!client.call(&format!("HELLO {version}")).starts_with('-'));
        assert_eq!([client.call("MULTI"), client.call("GET foo")], ["+OK\r\n", "+QUEUED\r\n"]);
        assert_eq!(client.call("EXEC"), "*1\r\n$3\r\nfoo\r\n");
        assert_eq!(client.call("GET foo"), "$3\r\nfoo\r\n");
    }
    assert_eq!(gets(cluster.port(2)), after[2] + 2);
    assert_eq!(client.call("SETRANGE foo 0 g"), ":3\r\n");
    // A replica that is told of a slot's move says MOVED: the call goes on.
    cluster.move_slot(12182, 2, 0);
    assert_eq!(client.call("GET foo"), "$3\r\ngoo\r\n");
}

#[test]
fn a_replica_that_dies_or_hangs_is_missed_by_nobody() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = mecha(&format!("to: \"{}\", read_from: prefer-replica", cluster.to()), "");
    let mut client = mecha.client();
    assert_eq!(client.call("SET foo 1"), "+OK\r\n");
    read_from(&mecha, cluster.port(5), "foo");
    // A hundred readings are on their way when it stops; the primary answers them.
    signal(cluster.nodes[5].0.id(), "STOP");
    client.send(b"GET foo\r\n".repeat(100).as_slice());
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.reply(), "$1\r\n1\r\n");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    signal(cluster.nodes[5].0.id(), "CONT");
    read_from(&mecha, cluster.port(5), "foo");
    let pid = cluster.nodes[5].0.id();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        signal(pid, "KILL");
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(600) {
        client.send(b"GET foo\r\n".repeat(50).as_slice());
        for _ in 0..50 {
            assert_eq!(client.reply(), "$1\r\n1\r\n");
        }
    }
    killer.join().unwrap();
}

#[test]
fn a_replica_that_has_lost_its_primary_is_not_read() {
    let (Some((_primary, primary)), Some((_replica, replica))) = (redis(), redis_with(&["--dir", "/tmp"]))
    else {
        return;
    };
    let follow = format!("REPLICAOF 127.0.0.1 {primary}");
    assert_eq!(Client::new(replica).call(&follow), "+OK\r\n");
    let mecha = mecha(
        &format!(
            "to: \"redis://127.0.0.1:{primary}\", replicas: \"redis://127.0.0.1:{replica}\", \
             read_from: prefer-replica, max_staleness: 2s"
        ),
        "",
    );
    let mut client = mecha.client();
    assert_eq!(client.call("SET k 1"), "+OK\r\n");
    read_from(&mecha, replica, "k");
    assert_eq!(Client::new(replica).call("REPLICAOF 127.0.0.1 1"), "+OK\r\n");
    assert_eq!(client.call("SET k 2"), "+OK\r\n");
    eventually("the primary is read", || client.call("GET k") == "$1\r\n2\r\n");
    let before = gets(replica);
    for _ in 0..100 {
        assert_eq!(client.call("GET k"), "$1\r\n2\r\n");
    }
    assert_eq!(gets(replica), before, "a replica without its primary was read");
    assert_eq!(Client::new(replica).call(&follow), "+OK\r\n");
    read_from(&mecha, replica, "k");
    // Where the primary is gone, what was permitted holds for as long as it was permitted, and no longer.
    drop(_primary);
    let start = Instant::now();
    assert_eq!(client.call("GET k"), "$1\r\n2\r\n");
    let mut last = start;
    while start.elapsed() < Duration::from_secs(3) {
        let before = Instant::now();
        client.send(b"GET k\r\n");
        if client.reply() == "$1\r\n2\r\n" {
            last = before;
        } else {
            break;
        }
    }
    assert!(last - start > Duration::from_millis(500), "{:?}", last - start);
    assert!(last - start < Duration::from_millis(2700), "{:?}", last - start);
}

#[test]
fn a_replica_that_is_behind_is_read_no_longer_than_permitted() {
    // It answers everything, and its history goes as far as the test says.
    let offset = Arc::new(AtomicU64::new(u64::MAX));
    let says = Arc::clone(&offset);
    let Some((_primary, primary)) = redis() else { return };
    let history = move || {
        let info = Client::new(primary).call("INFO replication");
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_string();
        (field("master_replid:"), field("master_repl_offset:").parse::<u64>().unwrap())
    };
    let fake = Fake::start(move |stream, _| {
        let says = Arc::clone(&says);
        Fake::talk(stream, move |request| {
            let text = String::from_utf8_lossy(request).to_ascii_lowercase();
            if text.contains("info") {
                let (offset, id) = (says.load(Ordering::SeqCst), history().0);
                let info = format!(
                    "role:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0\r\n\
                     slave_repl_offset:{offset}\r\nmaster_replid:{id}\r\n"
                );
                return Ok(format!("${}\r\n{info}\r\n", info.len()).into_bytes());
            }
            Ok(b"$4\r\nfake\r\n".repeat(text.matches("get").count()))
        });
    });
    let mecha = mecha(
        &format!(
            "to: \"redis://127.0.0.1:{primary}\", replicas: \"redis://127.0.0.1:{}\", read_from: any, \
             max_staleness: 600ms",
            fake.port
        ),
        "",
    );
    // Half of the clients read from each.
    let is_read = || (0..8).any(|_| mecha.client().call("GET k") == "$4\r\nfake\r\n");
    eventually("the replica is read", is_read);
    assert!((0..8).any(|_| mecha.client().call("GET k") == "$-1\r\n"), "`any` includes the primary");
    // The primary goes on without it.
    offset.store(history().1, Ordering::SeqCst);
    let Some((_other, other)) = redis_with(&["--dir", "/tmp"]) else { return };
    assert_eq!(Client::new(other).call(&format!("REPLICAOF 127.0.0.1 {primary}")), "+OK\r\n");
    eventually("the primary's history goes on", || {
        Client::new(primary).call("SET k 1");
        history().1 > offset.load(Ordering::SeqCst)
    });
    eventually("the replica is not read any more", || !is_read());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!is_read());
    offset.store(u64::MAX, Ordering::SeqCst);
    eventually("it is read again", is_read);
}

#[test]
fn the_nearest_server_is_read() {
    let Some(all) = Sentinels::start() else { return };
    let (primary, near, far) = (all.servers[0].1, all.servers[1].1, all.servers[2].1);
    let zones = format!("zones: {{ a: [ \"127.0.0.1:{near}\" ], b: [ 127.0.0.0/8 ] }}");
    let mecha = mecha(&format!("to: \"{}\", read_from: nearest, {zones}", all.to()), "zone: a");
    let mut client = mecha.client();
    assert_eq!(client.call("SET k 1"), "+OK\r\n");
    read_from(&mecha, near, "k");
    let before = [gets(primary), gets(far)];
    let mut clients: Vec<_> = (0..8).map(|_| mecha.client()).collect();
    for client in &mut clients {
        assert_eq!(client.call("GET k"), "$1\r\n1\r\n");
    }
    assert_eq!([gets(primary), gets(far)], before, "a server elsewhere was read");
    // Without it, the one in the other zone.
    signal(all.servers[1].0.id(), "KILL");
    for client in &mut clients {
        assert_eq!(client.call("GET k"), "$1\r\n1\r\n");
    }
    read_from(&mecha, far, "k");
}
