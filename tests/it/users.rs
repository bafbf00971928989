//! Users that are defined in mecha, with real clients in front of real servers.

use std::path::PathBuf;

use super::support::{Client, Mecha, eventually, memcached, redis};

/// SHA-256 of `p`.
const P: &str = "#148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";

struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("mecha-users-{}-{name}", std::process::id())));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        let fresh = self.0.with_extension("new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &self.0).unwrap();
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One listener with `users`, a line each.
fn config(door: &str, to: &str, users: &[&str]) -> String {
    let users: String = users.iter().map(|user| format!("  {user}\n")).collect();
    format!(
        "listeners:\n  - listen: {door}://127.0.0.1:0\n    to: {to}\nworkers: 2\ndrain_timeout: 1s\nusers:\n{users}"
    )
}

#[test]
fn a_client_may_do_what_its_user_may_do() {
    let Some((_redis, redis)) = redis() else { return };
    let users =
        [&*format!("app: \"{P} ~app:* &news:* +@all -@dangerous\""), &*format!("admin: \"{P} ~* &* +@all\"")];
    for to in [format!("redis://127.0.0.1:{redis}"), "embedded://".into()] {
        let mecha = Mecha::configured(&config("redis", &to, &users));
        let mut client = mecha.client();
        assert!(client.call("GET app:1").starts_with("-NOAUTH Authentication required."), "{to}");
        assert!(client.call("HELLO 3").starts_with("-NOAUTH HELLO must be"), "{to}");
        assert!(client.call("AUTH app q").starts_with("-WRONGPASS"), "{to}");
        assert_eq!(client.call("AUTH app p"), "+OK\r\n", "{to}");
        assert_eq!(client.call("ACL WHOAMI"), "$3\r\napp\r\n", "{to}");
        assert_eq!(client.call("SET app:1 x"), "+OK\r\n", "{to}");
        assert!(client.call("SET other x").starts_with("-NOPERM"), "{to}");
        assert!(client.call("FLUSHALL").starts_with("-NOPERM"), "{to}");
        // Refused inside a transaction, it takes the transaction with it.
        assert_eq!(client.call("MULTI"), "+OK\r\n", "{to}");
        assert!(client.call("GET other").starts_with("-NOPERM"), "{to}");
        assert!(client.call("EXEC").starts_with("-EXECABORT"), "{to}");
        // Who one client is says nothing about another.
        assert!(mecha.client().call("GET app:1").starts_with("-NOAUTH"), "{to}");
        let mut admin = mecha.client();
        let hello = admin.call("HELLO 3 AUTH admin p SETNAME boss");
        assert!(hello.starts_with("%") && hello.contains("proto\r\n:3"), "{to}: {hello}");
        assert_eq!(admin.call("GET app:1"), "$1\r\nx\r\n", "{to}");
        assert_eq!(admin.call("FLUSHALL"), "+OK\r\n", "{to}");
        assert_eq!(admin.call("RESET"), "+RESET\r\n", "{to}");
        assert!(admin.call("GET app:1").starts_with("-NOAUTH"), "{to}");
        assert!(mecha.get("/connections").contains("\"user\": \"app\""), "{to}");
        assert_eq!(mecha.metric("mecha_logins_total{listener=\"resp\",result=\"ok\"}"), 2.0, "{to}");
        assert_eq!(mecha.metric("mecha_logins_total{listener=\"resp\",result=\"failed\"}"), 1.0, "{to}");
        // Several logins with no upstream connection of their own.
        assert_eq!(mecha.metric("mecha_upstream_pins{"), 0.0, "{to}");
        drop((client, admin));
        mecha.settles();
    }
}

#[test]
fn one_batch_may_change_who_the_client_is() {
    let Some((_redis, redis)) = redis() else { return };
    let users = [&*format!("a: \"{P} ~a +@all\""), &*format!("b: \"{P} ~b +@all\"")];
    let mecha = Mecha::configured(&config("redis", &format!("redis://127.0.0.1:{redis}"), &users));
    let mut client = mecha.client();
    client.send(b"GET a\r\nAUTH a p\r\nGET a\r\nGET b\r\nAUTH b p\r\nGET b\r\nGET a\r\nMULTI\r\nGET b\r\nAUTH a p\r\nEXEC\r\nPING\r\n");
    let replies: Vec<_> = (0..12).map(|_| client.reply()).collect();
    let starts = [
        "-NOAUTH",
        "+OK",
        "$-1",
        "-NOPERM",
        "+OK",
        "$-1",
        "-NOPERM",
        "+OK",
        "+QUEUED",
        "-ERR",
        "-EXECABORT",
        "+PONG",
    ];
    for (reply, start) in replies.iter().zip(starts) {
        assert!(reply.starts_with(start), "{replies:?}");
    }
}

#[test]
fn changed_users_hold_for_connected_clients() {
    let Some((_redis, redis)) = redis() else { return };
    let to = format!("redis://127.0.0.1:{redis}");
    let before = [&*format!("app: \"{P} ~* &* +@all\""), &*format!("gone: \"{P} ~* &* +@all\"")];
    let file = File::new("reload.yaml", &config("redis", &to, &before));
    let mecha = Mecha::from_file(&file.0);
    let login = |name: &str| {
        let mut client = mecha.client();
        assert_eq!(client.call(&format!("AUTH {name} p")), "+OK\r\n");
        client
    };
    let (mut app, mut gone, mut in_transaction, mut subscriber) =
        (login("app"), login("gone"), login("app"), login("app"));
    assert_eq!(in_transaction.call("MULTI"), "+OK\r\n");
    assert!(subscriber.call("SUBSCRIBE news").starts_with("*3"));
    file.write(&config("redis", &to, &[&format!("app: \"{P} ~app:* &app:* +@all\"")]));
    eventually("the newer rules do not hold", || app.call("GET x").starts_with("-NOPERM"));
    assert_eq!(app.call("SET app:1 x"), "+OK\r\n");
    // The transaction goes on, under the newer rules.
    assert!(in_transaction.call("GET x").starts_with("-NOPERM"));
    assert!(in_transaction.call("EXEC").starts_with("-EXECABORT"));
    assert!(gone.is_closed(), "a client whose user is gone stays");
    assert!(subscriber.is_closed(), "a subscriber keeps what its user may not read any more");
    assert_eq!(mecha.metric("mecha_client_closed_total{listener=\"resp\",reason=\"logged_out\"}"), 2.0);
}

#[test]
fn passwords_that_fail_too_often_are_not_looked_at() {
    let mecha = Mecha::configured(&config("redis", "embedded://", &[&format!("app: \"{P} ~* +@all\"")]));
    let mut client = mecha.client();
    client.send(&[b"AUTH app wrong\r\n".repeat(200), b"AUTH app p\r\n".to_vec()].concat());
    let refused = (0..200).filter(|_| client.reply().contains("too many failed logins")).count();
    assert!((50..=100).contains(&refused), "{refused}");
    assert!(client.reply().contains("too many failed logins"), "the right password is looked at");
    assert!(mecha.metric("mecha_logins_total{listener=\"resp\",result=\"throttled\"}") > 50.0);
}

#[test]
fn memcached_clients_log_in_as_memcached_has_it() {
    let Some((_memcached, memcached)) = memcached() else { return };
    for to in [format!("memcached://127.0.0.1:{memcached}"), "embedded://".into()] {
        let mecha =
            Mecha::configured(&config("memcached", &to, &[&format!("app: \"{P} ~app:* +@all -flush_all\"")]));
        let mut client = mecha.client();
        client.send(b"get app:1\r\nset any 0 0 5\r\napp p\r\nset app:1 0 0 1\r\nx\r\nget app:1\r\nget other\r\nflush_all\r\n");
        let lines: Vec<_> = (0..8).map(|_| client.line()).collect();
        assert_eq!(lines[..3], ["CLIENT_ERROR unauthenticated\r\n", "STORED\r\n", "STORED\r\n"], "{to}");
        assert_eq!(lines[3..6], ["VALUE app:1 0 1\r\n", "x\r\n", "END\r\n"], "{to}");
        assert!(
            lines[6..].iter().all(|line| line.starts_with("CLIENT_ERROR mecha: user has no")),
            "{lines:?}"
        );
        assert!(mecha.client().call("x").starts_with("CLIENT_ERROR unauthenticated"), "{to}");
    }
}

/// Pass-through: the server knows the users, and mecha shares its connections.
#[test]
fn what_one_client_logs_in_as_is_no_other_clients() {
    let Some((_redis, redis)) = redis() else { return };
    let mut server = Client::new(redis);
    assert_eq!(server.call("ACL SETUSER app on >p ~app:* +@all"), "+OK\r\n");
    assert_eq!(server.call("ACL SETUSER default off"), "+OK\r\n");
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let (mut one, mut other) = (mecha.client(), mecha.client());
    for _ in 0..20 {
        assert_eq!(one.call("AUTH app p"), "+OK\r\n");
        assert_eq!(one.call("SET app:1 x"), "+OK\r\n");
        assert!(other.call("GET app:1").starts_with("-NOAUTH"));
        assert!(other.call("AUTH app wrong").starts_with("-WRONGPASS"));
        assert!(other.call("GET app:1").starts_with("-NOAUTH"));
    }
    drop(one);
    // Nor does its connection come to somebody else when it has gone.
    eventually("the connection stays", || mecha.metric("mecha_upstream_pins{") == 0.0);
    for _ in 0..20 {
        assert!(other.call("MULTI").starts_with("-NOAUTH"));
        assert!(mecha.client().call("BLPOP app:l 1").starts_with("-NOAUTH"));
    }
}

#[test]
fn no_output_shows_a_secret() {
    const SECRETS: [&str; 3] = ["hunter2-file", "hunter2-yaml", "hunter2-inline"];
    let password = File::new("password", "hunter2-file\n");
    let with = |rules: &str| {
        format!(
            "listeners:\n  - listen: redis://127.0.0.1:0\n    to: cache\nusers:\n  app: {{ rules: \"{rules}\", \
             password_file: {} }}\nclusters:\n  cache:\n    to: redis://127.0.0.1:1\n    auth: {{ password: hunter2-yaml }}\n",
            password.name()
        )
    };
    let mut shown = String::new();
    for (name, rules) in [("good.yaml", "~* +@all"), ("bad.yaml", ">hunter2-inline ~* +@nosuch")] {
        let file = File::new(name, &with(rules));
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_mecha"))
            .args(["check", file.name()])
            .output()
            .unwrap();
        shown += &String::from_utf8_lossy(&output.stdout);
        shown += &String::from_utf8_lossy(&output.stderr);
    }
    assert!(shown.contains("password in plain text") && shown.contains("nosuch"), "{shown}");
    let file = File::new("run.yaml", &with("~* +@all"));
    let mecha = Mecha::from_file(&file.0);
    let mut client = mecha.client();
    assert_eq!(client.call("AUTH app hunter2-file"), "+OK\r\n");
    for command in ["ACL LIST", "ACL GETUSER app", "GET a", "AUTH app hunter2-inline", "CLIENT LIST"] {
        shown += &client.call(command);
    }
    for path in ["/config", "/metrics", "/connections", "/clusters", "/"] {
        shown += &mecha.get(path);
    }
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}

#[test]
fn a_listener_that_cannot_ask_is_no_way_around() {
    let text = config("tcp", "tcp://127.0.0.1:1", &["app: \"nopass ~* +@all\""]);
    let file = File::new("tcp.yaml", &text);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_mecha"))
        .args(["check", file.name()])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot ask who its clients are"), "{output:?}");
}
