//! mecha as a cluster, for clients that insist on one, on every back.

use std::process::Command;

use crate::support::{Client, Mecha, RedisCluster, Sentinels, eventually, free_port, redis};

/// Two listeners that announce each other, over one back.
fn pair(to: &str) -> (Mecha, [u16; 2]) {
    let ports = [free_port(), free_port()];
    let announce = format!("[ \"127.0.0.1:{}\", \"127.0.0.1:{}\" ]", ports[0], ports[1]);
    let listener = |port: u16| {
        format!("  - {{ listen: \"redis://127.0.0.1:{port}\", to: back, announce: {announce} }}\n")
    };
    let yaml = format!(
        "listeners:\n{}{}clusters: {{ back: \"{to}\" }}\nworkers: 2\n",
        listener(ports[0]),
        listener(ports[1])
    );
    (Mecha::configured(&yaml), ports)
}

/// What a client that asks is told, in both versions of the protocol.
fn told(port: u16) -> String {
    let mut client = Client::new(port);
    let mut told = String::new();
    for version in ["2", "3"] {
        assert!(!client.call(&format!("HELLO {version}")).starts_with('-'));
        for question in ["SLOTS", "SHARDS", "NODES", "INFO", "MYID", "LINKS"] {
            let answer = client.call(&format!("CLUSTER {question}"));
            assert!(!answer.starts_with('-'), "{question}: {answer}");
            told += &answer;
        }
        told += &client.call("ROLE");
    }
    assert_eq!(client.call("CLUSTER KEYSLOT foo"), ":12182\r\n");
    for word in ["READONLY", "READWRITE", "ASKING"] {
        assert_eq!(client.call(word), "+OK\r\n");
    }
    // Such a client needs no connection of its own by that.
    assert_eq!([client.call("SET foo 1"), client.call("GET foo")], ["+OK\r\n", "$1\r\n1\r\n"]);
    for order in ["CLUSTER FORGET x", "CLUSTER MEET a 1", "CLUSTER RESET"] {
        assert!(client.call(order).starts_with("-ERR mecha"), "{order}");
    }
    told
}

fn is_told_of_both(to: &str, hidden: &[u16]) {
    let (mecha, ports) = pair(to);
    let both = [told(ports[0]), told(ports[1])];
    for (at, told) in both.iter().enumerate() {
        for port in ports {
            assert!(told.contains(&port.to_string()), "{told}");
        }
        for port in hidden {
            assert!(!told.contains(&port.to_string()), "{port} leaks: {told}");
        }
        let myself = format!("127.0.0.1:{}@{} myself", ports[at], ports[at] + 10_000);
        assert!(told.contains(&myself), "{told}");
    }
    // Slots of one are served by the other as well.
    let mut clients = ports.map(Client::new);
    for key in 0..50 {
        assert_eq!(clients[key % 2].call(&format!("SET key:{key} {key}")), "+OK\r\n");
        let value = clients[(key + 1) % 2].call(&format!("GET key:{key}"));
        assert!(value.ends_with(&format!("\r\n{key}\r\n")), "{value}");
    }
    // A client that follows redirects has none to follow.
    let output = Command::new("redis-cli").args(["-c", "-p", &ports[0].to_string(), "GET", "key:7"]).output();
    assert_eq!(String::from_utf8_lossy(&output.unwrap().stdout).trim_end(), "7");
    assert!(mecha.metric("mecha_calls_total") > 100.0);
    drop(clients);
    mecha.settles();
}

#[test]
fn a_real_cluster_is_announced_as_the_addresses_of_mecha() {
    let Some(cluster) = RedisCluster::start() else { return };
    let hidden: Vec<_> = cluster.nodes.iter().map(|(_, port)| *port).collect();
    is_told_of_both(&cluster.to(), &hidden);
}

#[test]
fn a_single_server_is_announced_as_a_cluster() {
    let Some((_redis, redis)) = redis() else { return };
    is_told_of_both(&format!("redis://127.0.0.1:{redis}"), &[redis]);
}

#[test]
fn what_sentinels_watch_is_announced_as_a_cluster() {
    let Some(all) = Sentinels::start() else { return };
    let hidden: Vec<_> = all.servers.iter().map(|(_, port)| *port).collect();
    is_told_of_both(&all.to(), &hidden);
}

#[test]
fn the_embedded_store_is_announced_as_a_cluster() {
    is_told_of_both("embedded://", &[]);
}

#[test]
fn a_subscription_to_a_slot_that_has_moved_tells_no_address() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    assert_eq!(mecha.client().call("SET foo 1"), "+OK\r\n");
    cluster.move_slot(12182, 2, 0);
    let reply = mecha.client().call("SSUBSCRIBE foo");
    assert!(!reply.contains("127.0.0.1") && !reply.contains("MOVED"), "{reply}");
    eventually("the subscription is accepted", || mecha.client().call("SSUBSCRIBE foo").starts_with("*3"));
}

#[test]
fn a_listener_may_announce_where_the_client_has_connected() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: \"redis://127.0.0.1:{redis}\", announce: self }} ]\n"
    ));
    let slots = mecha.client().call("CLUSTER SLOTS");
    assert!(slots.starts_with("*1\r\n*3\r\n:0\r\n:16383\r\n"), "{slots}");
    assert!(slots.contains(&mecha.port.to_string()) && !slots.contains(&redis.to_string()), "{slots}");
    // On a connection of its own a client gets no answer that is the server's.
    let mut client = mecha.client();
    assert_eq!([client.call("WATCH k"), client.call("MULTI")], ["+OK\r\n", "+OK\r\n"]);
    assert!(client.call("CLUSTER SLOTS").starts_with("-ERR mecha"));
}
