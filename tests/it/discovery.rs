//! Servers that tell of each other in every way that they can be made to.

use crate::support::{Client, Mecha, RedisCluster, eventually};

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
