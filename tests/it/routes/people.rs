//! Routes by user: those that mecha knows, and those whom a certificate names.

use crate::support::{Client, Mecha, eventually, frame, redis};
use crate::tls::{Folder, TlsClient};

/// SHA-256 of `p`.
const P: &str = "#148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";

/// Two users with a server each, and everybody else at a store.
fn by_user(one: u16, two: u16) -> Mecha {
    Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    to: store
    routes:
      - {{ user: alice, to: 'redis://127.0.0.1:{one}' }}
      - {{ user: bob, to: 'redis://127.0.0.1:{two}', filters: [ key_prefix: {{ prefix: 'bobs:' }} ] }}
clusters: {{ store: 'embedded://' }}
users:
  default: 'nopass ~* &* +@all'
  alice: '{P} ~* &* +@all'
  bob: '{P} ~* &* +@all'
  carol: '{P} ~* &* +@all'
workers: 2
"
    ))
}

fn login(mecha: &Mecha, name: &str) -> Client {
    let mut client = mecha.client();
    assert_eq!(client.call(&format!("AUTH {name} p")), "+OK\r\n");
    client
}

#[test]
fn each_user_has_a_cluster_and_everybody_else_the_default() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let mecha = by_user(one, two);
    let (mut alice, mut bob, mut carol) =
        (login(&mecha, "alice"), login(&mecha, "bob"), login(&mecha, "carol"));
    let mut anybody = mecha.client();
    for (client, value) in [(&mut alice, "a"), (&mut bob, "b"), (&mut carol, "c"), (&mut anybody, "d")] {
        assert_eq!(client.call(&format!("SET k {value}")), "+OK\r\n");
    }
    assert_eq!(alice.call("GET k"), "$1\r\na\r\n");
    assert_eq!(bob.call("GET k"), "$1\r\nb\r\n");
    // Those two share the store.
    assert_eq!(carol.call("GET k"), "$1\r\nd\r\n");
    assert_eq!(Client::new(one).call("GET k"), "$1\r\na\r\n");
    assert_eq!(Client::new(two).call("GET bobs:k"), "$1\r\nb\r\n");
    // Also without keys, several, in transactions and while waiting.
    assert_eq!(alice.call("DBSIZE"), ":1\r\n");
    assert_eq!(alice.call("MSET x 1 y 2"), "+OK\r\n");
    assert_eq!(Client::new(one).call("DBSIZE"), ":3\r\n");
    assert_eq!(["MULTI", "INCR n", "EXEC"].map(|line| alice.call(line))[2], "*1\r\n:1\r\n");
    assert_eq!(Client::new(one).call("GET n"), "$1\r\n1\r\n");
    alice.send(&frame(&["BLPOP", "queue", "0"]));
    assert_eq!(bob.call("RPUSH queue bobs"), ":1\r\n");
    assert_eq!(Client::new(one).call("RPUSH queue own"), ":1\r\n");
    assert_eq!(alice.reply(), "*2\r\n$5\r\nqueue\r\n$3\r\nown\r\n");
    assert_eq!(bob.call("BLPOP queue 1"), "*2\r\n$5\r\nqueue\r\n$4\r\nbobs\r\n");
    drop((alice, bob, carol, anybody));
    mecha.settles();
}

#[test]
fn a_login_in_the_middle_of_a_batch_changes_the_route_behind_it() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let mecha = by_user(one, two);
    let mut client = mecha.client();
    let lines = [
        "SET k d",
        "AUTH alice p",
        "SET k a",
        "GET k",
        "AUTH bob p",
        "SET k b",
        "GET k",
        "AUTH alice q",
        "GET k",
    ];
    client
        .send(&lines.iter().flat_map(|line| frame(&line.split(' ').collect::<Vec<_>>())).collect::<Vec<_>>());
    let replies: Vec<_> = lines.iter().map(|_| client.reply()).collect();
    let expected = ["+OK", "+OK", "+OK", "$1\r\na", "+OK", "+OK", "$1\r\nb", "-WRONGPASS", "$1\r\nb"];
    for (reply, expected) in replies.iter().zip(expected) {
        assert!(reply.starts_with(expected), "{replies:?}");
    }
    assert_eq!(Client::new(one).call("GET k"), "$1\r\na\r\n");
    assert_eq!(Client::new(two).call("GET bobs:k"), "$1\r\nb\r\n");
    // Whoever resets is nobody again.
    assert_eq!(client.call("RESET"), "+RESET\r\n");
    assert_eq!(client.call("GET k"), "$1\r\nd\r\n");
}

#[test]
fn users_publish_and_subscribe_where_their_route_leads() {
    let (Some((_first, one)), Some((_second, two))) = (redis(), redis()) else { return };
    let mecha = by_user(one, two);
    for version in ["2", "3"] {
        let mut listening = ["alice", "bob"].map(|name| {
            let mut client = login(&mecha, name);
            client.call(&format!("HELLO {version}"));
            for request in ["SUBSCRIBE news", "PSUBSCRIBE n*"] {
                let reply = client.call(request);
                assert!(reply.contains("ubscribe") && !reply.contains("bobs"), "{reply}");
            }
            client
        });
        let (mut alice, mut bob) = (login(&mecha, "alice"), login(&mecha, "bob"));
        assert_eq!(alice.call("PUBLISH news ofalice"), ":2\r\n");
        assert_eq!(bob.call("PUBLISH news ofbob"), ":2\r\n");
        for (client, text) in listening.iter_mut().zip(["ofalice", "ofbob"]) {
            let both = client.reply() + &client.reply();
            assert_eq!((both.matches(text).count(), both.contains("bobs:")), (2, false), "{both}");
        }
        assert_eq!(Client::new(two).call("PUBLISH bobs:news direct"), ":2\r\n");
        let both = listening[1].reply() + &listening[1].reply();
        assert_eq!((both.matches("direct").count(), both.contains("bobs:")), (2, false), "{both}");
    }
}

#[test]
fn a_certificate_names_the_user_of_a_route() {
    let Some((_first, one)) = redis() else { return };
    let folder = Folder::new("routes");
    folder.issue("app", "app.test");
    folder.issue("batch", "batch.test");
    let (cert, key, ca) = (folder.file("server.pem"), folder.file("server.key"), folder.file("ca.pem"));
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: rediss://127.0.0.1:0
    to: store
    tls: {{ cert: {cert}, key: {key}, client_ca: {ca} }}
    routes:
      - {{ user: batch.test, to: 'redis://127.0.0.1:{one}' }}
clusters: {{ store: 'embedded://' }}
workers: 1
"
    ));
    let mut app = TlsClient::new(&folder.config(Some("app")), mecha.port);
    let mut batch = TlsClient::new(&folder.config(Some("batch")), mecha.port);
    app.call(b"SET k a\r\n", b"+OK\r\n");
    batch.call(b"SET k b\r\n", b"+OK\r\n");
    app.call(b"GET k\r\n", b"$1\r\na\r\n");
    batch.call(b"GET k\r\n", b"$1\r\nb\r\n");
    batch.call(b"MULTI\r\nAPPEND k b\r\nEXEC\r\n", b"+OK\r\n+QUEUED\r\n*1\r\n:2\r\n");
    assert_eq!(Client::new(one).call("GET k"), "$2\r\nbb\r\n");
    eventually("the calls are not counted", || {
        mecha.metric("mecha_route_calls_total{listener=\"resp\",route=\"user batch.test\"") >= 2.0
            || mecha.metric("mecha_route_calls_total{listener=\"resp\"") >= 5.0
    });
}
