//! A primary that sentinels watch: it changes, sentinels come and go, and clients that know nothing of sentinels go on.

use std::time::{Duration, Instant};

use crate::support::{Client, Mecha, NAME, Sentinels, eventually, signal};

/// Waits until the sentinels have made another server the primary, and returns it.
fn promoted(all: &Sentinels, old: usize) -> usize {
    let mut new = old;
    eventually("another server is promoted", || {
        new = all.primary().unwrap_or(old);
        new != old
    });
    new
}

/// How long it takes until a write succeeds; every error before that must be an honest one.
fn writes_again(client: &mut Client) -> Duration {
    let start = Instant::now();
    eventually("writes succeed again", || {
        let reply = client.call("SET k after");
        assert!(
            reply == "+OK\r\n" || reply.starts_with("-ERR mecha") || reply.starts_with("-READONLY"),
            "{reply}"
        );
        reply == "+OK\r\n"
    });
    start.elapsed()
}

#[test]
fn a_failover_that_is_asked_for_fails_no_command_for_long() {
    let Some(all) = Sentinels::start() else { return };
    // Nobody asks without a reason: what is noticed was announced.
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\n\
         clusters: {{ back: {{ to: \"{}\", refresh: 1h }} }}\n",
        all.to()
    ));
    let mut client = mecha.client();
    assert_eq!(client.call("SET k before"), "+OK\r\n");
    assert_eq!(Client::new(all.sentinels[0].1).call(&format!("SENTINEL FAILOVER {NAME}")), "+OK\r\n");
    let new = promoted(&all, 0);
    let took = writes_again(&mut client);
    assert!(took < Duration::from_secs(2), "{took:?} after the promotion");
    assert_eq!(Client::new(all.servers[new].1).call("GET k"), "$5\r\nafter\r\n");
}

#[test]
fn a_primary_that_dies_is_replaced() {
    let Some(all) = Sentinels::start() else { return };
    let mecha = Mecha::start("redis", &all.to());
    let mut client = mecha.client();
    assert_eq!(client.call("SET k before"), "+OK\r\n");
    signal(all.servers[0].0.id(), "KILL");
    let new = promoted(&all, 0);
    let took = writes_again(&mut client);
    assert!(took < Duration::from_secs(2), "{took:?} after the promotion");
    assert_eq!(Client::new(all.servers[new].1).call("GET k"), "$5\r\nafter\r\n");
}

#[test]
fn without_a_quorum_the_last_known_primary_keeps_working() {
    let Some(mut all) = Sentinels::start() else { return };
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\n\
         clusters: {{ back: {{ to: \"{}\", refresh: 100ms }} }}\n",
        all.to()
    ));
    let mut client = mecha.client();
    assert_eq!(client.call("SET k 1"), "+OK\r\n");
    let ports: Vec<_> = all.sentinels.iter().map(|(_, port)| *port).collect();
    all.sentinels.clear();
    let calm = Instant::now();
    while calm.elapsed() < Duration::from_secs(1) {
        assert_eq!(client.call("INCR k").as_bytes().first(), Some(&b':'));
    }
    // A new worker's first call, and a connection that must be made anew, find it as well.
    assert_eq!(mecha.client().call("ECHO x"), "$1\r\nx\r\n");
    assert!(Client::new(all.servers[0].1).call("CLIENT KILL TYPE normal SKIPME yes").starts_with(':'));
    eventually("a new connection is made", || client.call("INCR k").starts_with(':'));
    // Sentinels that were started again are listened to again.
    for port in ports {
        let sentinel = all.run(port);
        all.sentinels.push((sentinel, port));
    }
    eventually("the sentinels agree", || {
        Client::new(all.sentinels[1].1).call(&format!("SENTINEL CKQUORUM {NAME}")).starts_with("+OK")
    });
    // One that has just been started gives a failover up if it has not heard of a fit replica so far.
    eventually("a failover succeeds", || {
        Client::new(all.sentinels[1].1).call(&format!("SENTINEL FAILOVER {NAME}"));
        std::thread::sleep(Duration::from_millis(500));
        all.primary().is_some_and(|primary| primary != 0)
    });
    writes_again(&mut client);
}

#[test]
fn a_minority_of_sentinels_is_enough_to_find_the_primary() {
    let Some(mut all) = Sentinels::start() else { return };
    let to = all.to();
    // The first two are gone, the third hangs for a while and then knows.
    all.sentinels.drain(..2);
    let mecha = Mecha::start("redis", &to);
    assert_eq!(mecha.client().call("SET k 1"), "+OK\r\n");
}

#[test]
fn sentinels_that_know_no_such_primary_are_named_in_the_error() {
    let Some(all) = Sentinels::start() else { return };
    let to = format!("redis-sentinel://{}/other", all.addresses());
    let mecha = Mecha::start("redis", &to);
    assert!(mecha.client().call("GET k").starts_with("-ERR mecha: backend is unreachable"));
    // Once somebody tells the sentinels of it, it is found.
    for (_, port) in &all.sentinels {
        let monitor = format!("SENTINEL MONITOR other 127.0.0.1 {} 2", all.servers[0].1);
        assert_eq!(Client::new(*port).call(&monitor), "+OK\r\n");
    }
    eventually("the primary is found", || mecha.client().call("SET k 1") == "+OK\r\n");
}

#[test]
fn a_primary_that_is_a_replica_by_now_gets_no_write() {
    let Some(all) = Sentinels::start() else { return };
    let mecha = Mecha::start("redis", &all.to());
    let mut client = mecha.client();
    assert_eq!(client.call("SET k 1"), "+OK\r\n");
    // Sentinels in tilt act on nothing, and tell what they knew: stopped ones that go on are so for a while.
    for (process, _) in &all.sentinels {
        signal(process.id(), "STOP");
    }
    let (old, new) = (all.servers[0].1, all.servers[1].1);
    assert_eq!(Client::new(new).call("REPLICAOF NO ONE"), "+OK\r\n");
    assert_eq!(Client::new(old).call(&format!("REPLICAOF 127.0.0.1 {new}")), "+OK\r\n");
    let reply = client.call("SET k 2");
    assert!(reply.starts_with('-'), "{reply}");
    std::thread::sleep(Duration::from_millis(2500));
    for (process, _) in &all.sentinels {
        signal(process.id(), "CONT");
    }
    eventually("the sentinels are in tilt", || {
        Client::new(all.sentinels[0].1).call("INFO sentinel").contains("sentinel_tilt:1")
    });
    let reply = client.call("SET k 3");
    assert!(reply.starts_with('-'), "{reply}");
    // What the sentinels believe becomes true again, by whoever mends it.
    assert_eq!(Client::new(old).call("REPLICAOF NO ONE"), "+OK\r\n");
    eventually("the primary is used again", || client.call("SET k 4") == "+OK\r\n");
    assert_eq!(Client::new(old).call("GET k"), "$1\r\n4\r\n");
}
