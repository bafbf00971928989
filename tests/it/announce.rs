//! mecha as a cluster, for clients that insist on one, on every back.

use std::process::Command;

use crate::support::{Client, Mecha, RedisCluster, Sentinels, eventually, free_port, redis};

/// Listeners that announce each other, over one back.
fn several<const COUNT: usize>(to: &str) -> (Mecha, [u16; COUNT]) {
    let ports = [(); COUNT].map(|()| free_port());
    let addresses: Vec<_> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let listener = |port: &u16| {
        let announce = addresses.join(", ");
        format!("  - {{ listen: \"redis://127.0.0.1:{port}\", to: back, announce: [ {announce} ] }}\n")
    };
    let listeners: String = ports.iter().map(listener).collect();
    (
        Mecha::configured(&format!("listeners:\n{listeners}clusters: {{ back: \"{to}\" }}\nworkers: 2\n")),
        ports,
    )
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
    let (mecha, ports) = several::<2>(to);
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

/// Keys that a whole scan through one address returns.
fn scanned(client: &mut Client) -> Vec<String> {
    let (mut cursor, mut keys) = ("0".to_string(), Vec::new());
    loop {
        let reply = client.call(&format!("SCAN {cursor} COUNT 7"));
        let mut lines = reply.split("\r\n").skip(2);
        cursor = lines.next().unwrap_or_default().into();
        keys.extend(
            lines.skip(1).filter(|line| !line.is_empty() && !line.starts_with('$')).map(String::from),
        );
        if cursor == "0" {
            return keys;
        }
    }
}

#[test]
fn what_clients_add_up_over_the_addresses_is_the_whole() {
    let Some(cluster) = RedisCluster::start() else { return };
    // Fewer addresses than shards, as many, and more.
    let (two, three, seven) =
        (several::<2>(&cluster.to()), several::<3>(&cluster.to()), several::<7>(&cluster.to()));
    let mut anybody = Client::new(two.1[0]);
    let mut all: Vec<_> = (0..90).map(|number| format!("key-{number}")).collect();
    all.iter().for_each(|key| assert_eq!(anybody.call(&format!("SET {key} v")), "+OK\r\n"));
    all.sort();
    for (ports, primaries) in [(two.1.as_slice(), 2), (three.1.as_slice(), 3), (seven.1.as_slice(), 3)] {
        eventually("the cluster is known", || {
            Client::new(ports[0]).call("CLUSTER INFO").contains(&format!("cluster_size:{primaries}"))
        });
        let mut clients: Vec<_> = ports.iter().take(primaries).map(|port| Client::new(*port)).collect();
        let sizes: Vec<u32> = clients
            .iter_mut()
            .map(|client| client.call("DBSIZE").trim_start_matches(':').trim_end().parse().unwrap())
            .collect();
        assert_eq!(sizes.iter().sum::<u32>(), 90, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size > 0), "{sizes:?}");
        let mut seen: Vec<_> = clients.iter_mut().flat_map(scanned).collect();
        seen.sort();
        assert_eq!(seen, all);
        let listed: usize =
            clients.iter_mut().map(|client| client.call("KEYS key-*").matches("key-").count()).sum();
        assert_eq!(listed, 90);
        // Each shard is told once.
        for client in &mut clients {
            let library =
                "FUNCTION LOAD #!lua\tname=mylib\nredis.register_function('f',function()return(1)end)";
            let words: Vec<_> = library.split(' ').map(|word| word.replace('\t', " ")).collect();
            client.send(&crate::support::frame(&words));
            assert_eq!(client.reply(), "$5\r\nmylib\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.call("FUNCTION DELETE mylib"), "+OK\r\n");
        }
    }
    // What is left over stands beside another address, and serves every key.
    let mut last = Client::new(seven.1[6]);
    let role = last.call("ROLE");
    assert!(role.contains("slave") && role.contains(&seven.1[0].to_string()), "{role}");
    let info = last.call("INFO replication");
    assert!(info.contains("role:slave") && !info.contains("slave0"), "{info}");
    let info = Client::new(seven.1[2]).call("INFO server");
    assert!(info.contains(&format!("tcp_port:{}\r\n", seven.1[2])), "{info}");
    let info = Client::new(seven.1[0]).call("INFO replication");
    assert!(info.contains("role:master") && !info.contains("slave0"), "{info}");
    assert_eq!([last.call("READONLY"), last.call("GET key-1")], ["+OK\r\n", "$1\r\nv\r\n"]);
    let output = Command::new("redis-cli")
        .args(["--cluster", "call", &format!("127.0.0.1:{}", seven.1[4]), "DBSIZE", "--cluster-only-masters"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!((0..3).all(|at| text.contains(&seven.1[at].to_string())), "{text}");
    let count = |line: &str| line.rsplit(' ').next().and_then(|word| word.parse::<u32>().ok());
    let sum: u32 = text.lines().skip(1).filter_map(count).sum();
    assert_eq!(sum, 90, "{text}");
}
