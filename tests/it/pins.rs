//! Dedicated connections: who gets one, and for how long.

use super::support::{Client, Mecha, eventually, frame, redis, signal};

#[test]
fn what_the_server_refuses_leaves_no_dedicated_connection_behind() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::configured(&format!(
        "workers: 1\nclusters:\n  few: {{ to: \"redis://127.0.0.1:{redis}\", max_pins: 1 }}\nlisteners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: few }}\n"
    ));
    let (mut one, mut other) = (mecha.client(), mecha.client());
    for wrong in ["SELECT 99", "AUTH nobody wrong", "HELLO 3 AUTH nobody wrong"] {
        assert!(one.call(wrong).starts_with('-'), "{wrong}");
        assert_eq!([other.call("MULTI"), other.call("EXEC")].concat(), "+OK\r\n*0\r\n", "after {wrong}");
    }
    // What follows at once finds the database that there is.
    assert_eq!(other.call("SET k zero"), "+OK\r\n");
    let words = ["SELECT 99", "SELECT 0", "GET k", "SELECT 2", "SELECT 99", "SET k two", "SELECT 0", "GET k"];
    let frames = words.map(|line| frame(&line.split(' ').collect::<Vec<_>>()));
    one.send(&frames.concat());
    let seen: Vec<_> = words.iter().map(|_| one.reply()).collect();
    assert!(seen[0].starts_with("-ERR") && seen[4].starts_with("-ERR"), "{seen:?}");
    assert_eq!(seen[1..4].concat(), "+OK\r\n$4\r\nzero\r\n+OK\r\n");
    assert_eq!(seen[5..].concat(), "+OK\r\n+OK\r\n$4\r\nzero\r\n");
    // One that is accepted holds the only connection, until it is taken back.
    assert_eq!(one.call("SELECT 2"), "+OK\r\n");
    assert_eq!(one.call("GET k"), "$3\r\ntwo\r\n");
    assert!(mecha.client().call("MULTI").contains("too many dedicated"));
    assert_eq!(one.call("SELECT 0"), "+OK\r\n");
    assert_eq!([other.call("MULTI"), other.call("EXEC")].concat(), "+OK\r\n*0\r\n");
    drop((one, other));
    mecha.settles();
}

#[test]
fn wait_waits_for_what_its_client_has_written_on_a_shared_connection() {
    let (Some((_primary, port)), Some((replica, second))) = (redis(), redis()) else { return };
    // Without a file, which other servers would find when they start.
    for call in ["CONFIG SET repl-diskless-load swapdb", &format!("REPLICAOF 127.0.0.1 {port}")] {
        assert_eq!(Client::new(second).call(call), "+OK\r\n");
    }
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let mut client = mecha.client();
    eventually("the replica does not follow", || {
        client.call("SET k 1");
        client.call("WAIT 1 100") == ":1\r\n"
    });
    signal(replica.id(), "STOP");
    // The connection that WAIT gets has served before, and knows nothing of this.
    assert_eq!([client.call("SET k 2"), client.call("WAIT 1 100")], ["+OK\r\n", ":0\r\n"]);
    signal(replica.id(), "CONT");
    assert_eq!(client.call("WAIT 1 10000"), ":1\r\n");
    drop(client);
    mecha.settles();
}
