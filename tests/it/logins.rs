//! Clients that log in at the servers of a cluster: they are who they say on every server, and share connections with those
//! who are the same.

use std::time::Duration;

use crate::support::{Client, Mecha, RedisCluster, eventually, frame, redis};

const QUIET: Duration = Duration::from_millis(200);
const USERS: [&str; 20] = [
    "--user", "alice", "on", ">secret", "~*", "&*", "+@all", "--user", "bob", "on", ">word", "~bob*",
    "&bob*", "+@all", "--user", "carol", "on", ">third", "~*", "+@all",
];

fn start() -> Option<(RedisCluster, Mecha)> {
    let cluster = RedisCluster::start_with(&USERS)?;
    let mecha = Mecha::start("redis", &cluster.to());
    Some((cluster, mecha))
}

/// Connections that `user` has at the first three servers.
fn connections(cluster: &RedisCluster, user: &str) -> usize {
    let of = |at: usize| {
        let list = Client::new(cluster.port(at)).call("CLIENT LIST");
        list.lines().filter(|line| line.contains(&format!(" user={user} "))).count()
    };
    (0..3).map(of).sum()
}

fn login(mecha: &Mecha, words: &str) -> Client {
    let mut client = mecha.client();
    assert_eq!(client.call(&format!("AUTH {words}")), "+OK\r\n");
    client
}

fn is_denied(reply: &str) -> bool {
    reply.starts_with("-NOPERM")
}

#[test]
fn who_has_logged_in_reaches_every_server_as_that_user() {
    let Some((cluster, mecha)) = start() else { return };
    let mut alice = login(&mecha, "alice secret");
    let pairs: String = (0..60).map(|key| format!(" key-{key} v")).collect();
    assert_eq!(alice.call(&format!("MSET{pairs}")), "+OK\r\n");
    for key in 0..60 {
        assert_eq!(alice.call(&format!("GET key-{key}")), "$1\r\nv\r\n");
        assert_eq!(alice.call("ACL WHOAMI"), "$5\r\nalice\r\n");
    }
    assert_eq!(alice.call("DBSIZE"), ":60\r\n");
    // What has a connection of its own is alice's too, wherever its keys are.
    for key in 0..12 {
        alice.send(
            &[frame(&["MULTI"]), frame(&["INCR", &format!("n{key}")]), frame(&["ACL", "WHOAMI"])].concat(),
        );
        alice.send(&frame(&["EXEC"]));
        let replies: String = (0..4).map(|_| alice.reply()).collect();
        assert!(replies.ends_with("*2\r\n:1\r\n$5\r\nalice\r\n"), "{replies}");
        assert_eq!(alice.call(&format!("BLPOP list{key} 0.01")), "*-1\r\n");
    }
    // Bob has what is his, on every server, in batches and in version 3.
    let mut bob = mecha.client();
    let hello = bob.call("HELLO 3 AUTH bob word SETNAME me");
    assert!(hello.contains("$5\r\nproto\r\n:3\r\n"), "{hello}");
    assert_eq!(bob.call("CLIENT GETNAME"), "$2\r\nme\r\n");
    for key in 0..40 {
        assert_eq!(bob.call(&format!("SET bob-{key} v")), "+OK\r\n");
        assert!(is_denied(&bob.call(&format!("GET key-{key}"))));
    }
    assert!(is_denied(&bob.call("MGET key-1 key-2 key-3 bob-1")));
    assert!(bob.call("HGETALL bob-h").starts_with('%'));
    // Nobody else is anybody.
    assert_eq!(mecha.client().call("ACL WHOAMI"), "$7\r\ndefault\r\n");
    // Many share the connections of one.
    let before = connections(&cluster, "alice");
    let mut crowd: Vec<_> = (0..30).map(|_| login(&mecha, "alice secret")).collect();
    for client in &mut crowd {
        assert_eq!(client.call("GET key-1"), "$1\r\nv\r\n");
    }
    assert!(connections(&cluster, "alice") <= before + 6, "{}", connections(&cluster, "alice"));
    // When all have left, nothing is left.
    drop((alice, crowd, bob));
    mecha.settles();
    eventually("their connections end", || {
        connections(&cluster, "alice") == 0 && connections(&cluster, "bob") == 0
    });
}

#[test]
fn a_login_that_is_wrong_changes_nothing() {
    let Some((_cluster, mecha)) = start() else { return };
    let mut client = mecha.client();
    for words in ["AUTH bob wrong", "AUTH nobody x", "HELLO 3 AUTH bob wrong"] {
        assert!(client.call(words).starts_with("-WRONGPASS"), "{words}");
        assert_eq!(client.call("ACL WHOAMI"), "$7\r\ndefault\r\n");
    }
    assert!(client.call("AUTH x").starts_with("-ERR AUTH <password> called without any password configured"));
    // It stays who it was when the next one is wrong, too.
    assert_eq!(client.call("AUTH bob word"), "+OK\r\n");
    assert!(client.call("AUTH alice wrong").starts_with("-WRONGPASS"));
    assert_eq!(client.call("ACL WHOAMI"), "$3\r\nbob\r\n");
    assert_eq!(client.call("AUTH alice secret"), "+OK\r\n");
    assert_eq!(client.call("ACL WHOAMI"), "$5\r\nalice\r\n");
    // In one piece with what it concerns.
    client.send(
        &[frame(&["AUTH", "bob", "word"]), frame(&["SET", "x", "1"]), frame(&["SET", "bob-x", "1"])].concat(),
    );
    assert_eq!(client.reply(), "+OK\r\n");
    assert!(is_denied(&client.reply()));
    assert_eq!(client.reply(), "+OK\r\n");
    assert_eq!(client.call("RESET"), "+RESET\r\n");
    assert_eq!(client.call("ACL WHOAMI"), "$7\r\ndefault\r\n");
    // A transaction is reset as well.
    assert_eq!(client.call("AUTH bob word"), "+OK\r\n");
    assert_eq!(client.call("WATCH bob-x"), "+OK\r\n");
    assert_eq!(client.call("RESET"), "+RESET\r\n");
    assert_eq!(client.call("ACL WHOAMI"), "$7\r\ndefault\r\n");
    assert_eq!(client.call("SET x 1"), "+OK\r\n");
    drop(client);
    mecha.settles();
}

#[test]
fn what_a_client_listens_to_is_its_users_business() {
    let Some((_cluster, mecha)) = start() else { return };
    let (mut alice, mut bob) = (login(&mecha, "alice secret"), login(&mecha, "bob word"));
    assert!(is_denied(&bob.call("SUBSCRIBE news")), "bob listens to what is not his");
    assert!(bob.call("SUBSCRIBE bobs").starts_with("*3\r\n$9\r\nsubscribe"));
    assert!(alice.call("SUBSCRIBE news bobs").starts_with("*3\r\n$9\r\nsubscribe"));
    let _ = alice.reply();
    let mut carol = login(&mecha, "carol third");
    assert!(is_denied(&carol.call("SUBSCRIBE news")));
    let mut anybody = mecha.client();
    assert!(anybody.call("PUBLISH bobs hi").starts_with(':'));
    assert!(alice.reply().ends_with("$2\r\nhi\r\n") && bob.reply().ends_with("$2\r\nhi\r\n"));
    // Keys that change are told of to whoever has read them.
    let mut reader = mecha.client();
    let _ = reader.call("HELLO 3 AUTH bob word");
    assert_eq!(reader.call("CLIENT TRACKING ON"), "+OK\r\n");
    assert_eq!(reader.call("GET bob-1"), "_\r\n");
    assert_eq!(anybody.call("SET bob-1 v"), "+OK\r\n");
    assert_eq!(reader.reply(), ">2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\nbob-1\r\n");
    // Whoever listens stays who he is.
    assert!(reader.call("AUTH alice secret").starts_with("-ERR mecha: "));
    assert_eq!(reader.call("ACL WHOAMI"), "$3\r\nbob\r\n");
    drop((alice, bob, carol, anybody, reader));
    mecha.settles();
}

#[test]
fn a_user_that_is_gone_harms_nobody_else() {
    let Some((cluster, mecha)) = start() else { return };
    let (mut alice, mut bob) = (login(&mecha, "alice secret"), login(&mecha, "bob word"));
    let mut anybody = mecha.client();
    for key in 0..20 {
        assert_eq!(bob.call(&format!("SET bob-{key} v")), "+OK\r\n");
        assert_eq!(alice.call(&format!("SET key-{key} v")), "+OK\r\n");
    }
    for at in 0..6 {
        assert_eq!(Client::new(cluster.port(at)).call("ACL DELUSER bob"), ":1\r\n");
    }
    let until = std::time::Instant::now() + Duration::from_secs(2);
    let mut refused = 0;
    while std::time::Instant::now() < until {
        for key in 0..20 {
            refused += u32::from(bob.call(&format!("GET bob-{key}")).starts_with("-ERR mecha: backend"));
            assert_eq!(alice.call(&format!("GET key-{key}")), "$1\r\nv\r\n");
            assert_eq!(anybody.call(&format!("GET key-{key}")), "$1\r\nv\r\n");
        }
    }
    assert!(refused > 20, "{refused}");
    assert!(bob.call("GET bob-1").contains("refused mecha's login"), "{}", bob.call("GET bob-1"));
    // It comes back, and so do its clients.
    for at in 0..6 {
        let words = "ACL SETUSER bob on >word ~bob* &bob* +@all";
        assert_eq!(Client::new(cluster.port(at)).call(words), "+OK\r\n");
    }
    eventually("bob is served again", || {
        (0..20).all(|key| bob.call(&format!("GET bob-{key}")) == "$1\r\nv\r\n")
    });
}

#[test]
fn connections_of_one_user_that_servers_end_at_once_harm_nobody_else() {
    let Some((cluster, mecha)) = start() else { return };
    let mut anybody = mecha.client();
    for key in 0..12 {
        assert_eq!(anybody.call(&format!("SET key-{key} v")), "+OK\r\n");
    }
    let mut servers: Vec<_> = (0..6).map(|at| Client::new(cluster.port(at))).collect();
    for _ in 0..15 {
        let mut alice = login(&mecha, "alice secret");
        // Whether the server still answers it is another matter.
        (0..12).for_each(|key| drop(alice.call(&format!("GET key-{key}"))));
        for server in &mut servers {
            let _ = server.call("CLIENT KILL USER alice");
        }
        for key in 0..12 {
            assert_eq!(anybody.call(&format!("GET key-{key}")), "$1\r\nv\r\n");
        }
    }
}

#[test]
fn slots_move_for_those_who_have_logged_in_too() {
    let Some((cluster, mecha)) = start() else { return };
    let mut alice = login(&mecha, "alice secret");
    for key in 0..200 {
        assert_eq!(alice.call(&format!("SET key-{key} {key}")), "+OK\r\n");
    }
    for slot in cluster.slots_of(0).into_iter().take(40) {
        cluster.move_slot(slot, 0, 1);
        for key in 0..40 {
            let value = key.to_string();
            assert_eq!(alice.call(&format!("GET key-{key}")), format!("${}\r\n{value}\r\n", value.len()));
        }
    }
    assert_eq!(alice.call("ACL WHOAMI"), "$5\r\nalice\r\n");
    assert_eq!(alice.drain(QUIET).0, b"");
}

#[test]
fn a_password_that_everybody_has_is_no_obstacle() {
    let options = ["--requirepass", "main", "--masterauth", "main"];
    // The servers want it from the test, too, which asks before there is one.
    let Some(cluster) = RedisCluster::start() else { return };
    for at in 0..6 {
        let mut server = Client::new(cluster.port(at));
        for pair in options.chunks(2) {
            let name = pair[0].trim_start_matches('-');
            assert_eq!(server.call(&format!("CONFIG SET {name} {}", pair[1])), "+OK\r\n");
        }
    }
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\nclusters:\n  back:\n    to: {}\n    auth: {{ password: main }}\n",
        cluster.to()
    ));
    let mut client = login(&mecha, "main");
    for key in 0..60 {
        assert_eq!(client.call(&format!("SET key-{key} v")), "+OK\r\n");
    }
    assert!(client.call("AUTH other").starts_with("-WRONGPASS"));
    let mut third = mecha.client();
    assert!(third.call("HELLO 3 AUTH default main").contains("proto"));
    assert_eq!(third.call("DBSIZE"), ":60\r\n");
}

#[test]
fn a_list_of_servers_knows_its_users_too() {
    let Some(servers) = (0..3).map(|_| redis()).collect::<Option<Vec<_>>>() else { return };
    for (_, port) in &servers {
        assert_eq!(Client::new(*port).call("ACL SETUSER alice on >secret ~* &* +@all"), "+OK\r\n");
    }
    let list: Vec<_> = servers.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let mecha = Mecha::start("redis", &format!("redis://{}", list.join(",")));
    let mut alice = login(&mecha, "alice secret");
    let pairs: String = (0..60).map(|key| format!(" key-{key} v")).collect();
    assert_eq!(alice.call(&format!("MSET{pairs}")), "+OK\r\n");
    for key in 0..20 {
        alice.send(&[frame(&["WATCH", &format!("key-{key}")]), frame(&["ACL", "WHOAMI"])].concat());
        assert_eq!([alice.reply(), alice.reply()], ["+OK\r\n", "$5\r\nalice\r\n"]);
        assert_eq!(alice.call("UNWATCH"), "+OK\r\n");
    }
    drop(alice);
    mecha.settles();
}
