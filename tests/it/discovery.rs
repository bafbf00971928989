//! Servers that tell of each other in every way that they can be made to.

use std::time::Duration;

use crate::support::{Client, Fake, Mecha, NAME, RedisCluster, Sentinels, eventually, free_port, signal};

/// Says `command` to every server.
fn tell_all(cluster: &RedisCluster, command: &str) {
    for (_, port) in &cluster.nodes {
        assert_eq!(Client::new(*port).call(command), "+OK\r\n", "{command}");
    }
}

/// Writes to every server through mecha, and follows a slot that moves under it.
fn works(cluster: &RedisCluster, key: &str, slot: u16, from: usize) {
    let mecha = Mecha::start("redis", &cluster.to());
    let mut client = mecha.client();
    for key in ["foo", "bar", "hello", "a"] {
        assert_eq!(client.call(&format!("SET {key} {key}")), "+OK\r\n");
    }
    cluster.move_slot(slot, from, 1);
    assert_eq!(client.call(&format!("SET {key} 2")), "+OK\r\n");
    assert_eq!(client.call(&format!("GET {key}")), "$1\r\n2\r\n");
    assert!(mecha.metric("mecha_upstream_redirects_total") > 0.0);
}

#[test]
fn servers_are_reached_by_whatever_they_call_themselves() {
    let Some(cluster) = RedisCluster::start() else { return };
    tell_all(&cluster, "CONFIG SET cluster-announce-hostname localhost");
    let is_known = |what: &str| {
        cluster
            .nodes
            .iter()
            .all(|(_, port)| Client::new(*port).call("CLUSTER SLOTS").matches(what).count() >= 6)
    };
    eventually("the names are known", || is_known("localhost"));
    tell_all(&cluster, "CONFIG SET cluster-preferred-endpoint-type hostname");
    works(&cluster, "foo", 12182, 2);
    // Nobody says where it is: they are where the one that was asked is.
    tell_all(&cluster, "CONFIG SET cluster-preferred-endpoint-type unknown-endpoint");
    let told = Client::new(cluster.port(0)).call("CLUSTER SLOTS");
    assert!(told.contains("*4\r\n$-1\r\n"), "{told}");
    works(&cluster, "bar", 5061, 0);
    // Names are preferred, and nobody has one.
    tell_all(&cluster, "CONFIG SET cluster-announce-hostname ");
    tell_all(&cluster, "CONFIG SET cluster-preferred-endpoint-type hostname");
    eventually("the names are forgotten", || is_known("$1\r\n?\r\n"));
    works(&cluster, "hello", 866, 0);
}

/// The same bytes to whoever asks: a sentinel that says that `port` is the primary.
fn sentinel_that_names(port: u16) -> Fake {
    Fake::start(move |stream, _| {
        Fake::talk(stream, |read| {
            let text = String::from_utf8_lossy(read).to_uppercase();
            let digits = port.to_string();
            Ok(match () {
                () if text.contains("GET-MASTER-ADDR") => {
                    format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{digits}\r\n", digits.len())
                }
                () if text.contains("SUBSCRIBE") => "*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n".into(),
                () => "*0\r\n".into(),
            }
            .into_bytes())
        });
    })
}

#[test]
fn sentinels_that_lie_or_talk_nonsense_send_no_write_to_a_wrong_server() {
    let Some(all) = Sentinels::start() else { return };
    let (primary, replica) = (all.servers[0].1, all.servers[1].1);
    let liars = [sentinel_that_names(replica), sentinel_that_names(free_port()), sentinel_that_names(1)];
    let garbage = Fake::start(|stream, _| Fake::talk(stream, |_| Ok(b"*2\r\n$-5\r\n!\r\n\0\0".to_vec())));
    let silent = Fake::start(|stream, _| Fake::talk(stream, |_| Ok(Vec::new())));
    let fakes: Vec<_> =
        liars.iter().chain([&garbage, &silent]).map(|fake| format!("127.0.0.1:{}", fake.port)).collect();
    let to = format!("redis-sentinel://{},127.0.0.1:{}/{NAME}", fakes.join(","), all.sentinels[2].1);
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\n\
         clusters: {{ back: {{ to: \"{to}\", refresh: 100ms, connect_timeout: 300ms }} }}\n"
    ));
    let mut client = mecha.client();
    eventually("the honest one is not found", || client.call("SET k 1") == "+OK\r\n");
    for _ in 0..30 {
        assert_eq!(client.call("INCR k").as_bytes()[0], b':');
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        liars.iter().chain([&garbage, &silent]).all(|fake| fake.accepted() > 0),
        "somebody was not asked"
    );
    assert_eq!(Client::new(primary).call("GET k"), "$2\r\n31\r\n");
    // Liars alone: an error, and nothing is written anywhere.
    let alone = Mecha::start("redis", &format!("redis-sentinel://{}/{NAME}", fakes.join(",")));
    let reply = alone.client().call("SET k lie");
    assert!(reply.starts_with("-ERR mecha: backend is unreachable"), "{reply}");
    assert_eq!(Client::new(primary).call("GET k"), "$2\r\n31\r\n");
}

/// A user of every server who may do all but these.
fn restricted(cluster: &RedisCluster, rules: &str) {
    for (_, port) in &cluster.nodes {
        let set = format!("ACL SETUSER old on >pw ~* &* +@all {rules}");
        assert_eq!(Client::new(*port).call(&set), "+OK\r\n");
    }
}

#[test]
fn servers_that_know_no_shards_are_asked_for_slots_and_then_for_nodes() {
    let Some(cluster) = RedisCluster::start() else { return };
    for (at, rules) in ["-cluster|shards", "-cluster|shards -cluster|slots"].into_iter().enumerate() {
        restricted(&cluster, rules);
        let mut old = Client::new(cluster.port(0));
        assert_eq!(old.call("AUTH old pw"), "+OK\r\n");
        assert!(old.call("CLUSTER SHARDS").starts_with("-NOPERM"));
        let mecha = Mecha::configured(&format!(
            "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\n\
             clusters: {{ back: {{ to: \"{}\", auth: {{ username: old, password: pw }} }} }}\n",
            cluster.to()
        ));
        let mut client = mecha.client();
        for key in 0..60 {
            assert_eq!(client.call(&format!("SET key:{key} {key}")), "+OK\r\n", "{rules}");
        }
        for shard in 0..3 {
            assert_ne!(Client::new(cluster.port(shard)).call("DBSIZE"), ":0\r\n", "{rules}");
        }
        assert_eq!(mecha.metric("mecha_upstream_redirects_total"), 0.0, "the map is guessed from redirects");
        // foo's slot moves; the map is asked for again in the same way.
        cluster.move_slot(12182, if at == 0 { 2 } else { 1 }, if at == 0 { 1 } else { 2 });
        assert_eq!([client.call("SET foo 1"), client.call("GET foo")], ["+OK\r\n", "$1\r\n1\r\n"]);
        for (_, port) in &cluster.nodes {
            Client::new(*port).call("ACL DELUSER old");
        }
    }
}

#[test]
fn a_dead_seed_does_no_harm_and_seeds_that_come_back_are_found() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let (dead, hole) = (free_port(), Fake::start(|stream, _| Fake::talk(stream, |_| Ok(Vec::new()))));
    let to =
        format!("redis-cluster://127.0.0.1:{dead},127.0.0.1:{},127.0.0.1:{}", hole.port, cluster.port(1));
    let mecha = Mecha::start("redis", &to);
    assert_eq!(mecha.client().call("SET foo 1"), "+OK\r\n");
    // All of them die; a process that starts now finds nobody, and says so.
    for at in 0..6 {
        signal(cluster.nodes[at].0.id(), "KILL");
        assert!(cluster.nodes[at].0.wait(Duration::from_secs(10)).is_some());
    }
    let late = Mecha::start("redis", &cluster.to());
    let reply = late.client().call("GET foo");
    assert!(reply.starts_with("-ERR mecha: backend is unreachable"), "{reply}");
    (0..6).for_each(|at| cluster.start_again(at));
    for mecha in [&mecha, &late] {
        let mut client = mecha.client();
        eventually("servers that are back are not found", || client.call("SET bar 2") == "+OK\r\n");
        eventually("all shards are back", || {
            client.call("SET foo 3") == "+OK\r\n" && client.call("SET a 1") == "+OK\r\n"
        });
    }
}
