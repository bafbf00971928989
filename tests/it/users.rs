//! Users that are defined in mecha, with real clients in front of real servers.

use std::path::PathBuf;

use super::support::{Client, Mecha, eventually, memcached, memcached_with, redis};

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

/// A cluster that logs in with the password in `file`.
fn with_login(to: &str, username: &str, file: &File) -> String {
    let door = if to.starts_with("memcached") { "memcached" } else { "redis" };
    format!(
        "listeners:\n  - listen: {door}://127.0.0.1:0\n    to: cache\nworkers: 1\ndrain_timeout: 1s\nclusters:\n  cache:\n    \
         to: {to}\n    auth: {{ username: {username}, password_file: {} }}\n",
        file.name()
    )
}

#[test]
fn a_changed_password_file_is_used_and_drops_nobody() {
    let Some((_redis, redis)) = redis() else { return };
    let mut server = Client::new(redis);
    assert_eq!(server.call("ACL SETUSER app on >first ~* &* +@all"), "+OK\r\n");
    let password = File::new("rotated", "first\n");
    let file =
        File::new("rotated.yaml", &with_login(&format!("redis://127.0.0.1:{redis}"), "app", &password));
    let mecha = Mecha::from_file(&file.0);
    let (mut client, mut in_transaction, mut subscriber) = (mecha.client(), mecha.client(), mecha.client());
    assert_eq!(client.call("SET a 1"), "+OK\r\n");
    assert_eq!(in_transaction.call("MULTI"), "+OK\r\n");
    assert_eq!(in_transaction.call("INCR a"), "+QUEUED\r\n");
    assert!(subscriber.call("SUBSCRIBE news").starts_with("*3"));
    // Both are right for a while, then the older one is gone.
    assert_eq!(server.call("ACL SETUSER app >second"), "+OK\r\n");
    password.write("second\n");
    eventually("the password is not taken", || mecha.metric("mecha_config_applied_total") == 1.0);
    assert_eq!(server.call("ACL SETUSER app <first"), "+OK\r\n");
    // A new connection logs in with the newer one; those that there are go on.
    assert_eq!(mecha.client().call("BLPOP none 0.01"), "*-1\r\n");
    assert_eq!(client.call("GET a"), "$1\r\n1\r\n");
    assert_eq!(in_transaction.call("EXEC"), "*1\r\n:2\r\n");
    assert!(server.call("CLIENT KILL USER app TYPE normal").starts_with(':'));
    eventually("nobody logs in again", || client.call("GET a") == "$1\r\n2\r\n");
    assert_eq!(server.call("PUBLISH news x"), ":1\r\n");
    assert!(subscriber.reply().ends_with("$1\r\nx\r\n"), "the subscriber was dropped");
}

#[test]
fn mecha_logs_in_to_memcached_with_a_first_set() {
    let logins = File::new("logins", "app:secret\n");
    let Some((_memcached, memcached)) = memcached_with(&["-Y", logins.name()]) else { return };
    let password = File::new("memcached", "secret");
    let to = format!("memcached://127.0.0.1:{memcached}");
    let mecha = Mecha::configured(&with_login(&to, "app", &password));
    let mut client = mecha.client();
    client.send(b"set a 0 0 1\r\nx\r\nget a\r\n");
    assert_eq!([client.line(), client.line(), client.line()], ["STORED\r\n", "VALUE a 0 1\r\n", "x\r\n"]);
    let mecha = Mecha::configured(&with_login(&to, "nobody", &password));
    let mut client = mecha.client();
    client.send(b"set a 0 0 1\r\nx\r\n");
    assert!(client.line().contains("backend refused mecha's login"));
}

#[test]
fn a_login_in_text_at_memcached_itself_is_that_of_one_client() {
    let logins = File::new("own-logins", "app:secret\n");
    let Some((_memcached, memcached)) = memcached_with(&["-Y", logins.name()]) else { return };
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"memcached://127.0.0.1:0\", to: back }}\nclusters:\n  back: \
         {{ to: \"memcached://127.0.0.1:{memcached}\", clients: dedicated }}\nworkers: 1\n"
    ));
    let (mut app, mut other) = (mecha.client(), mecha.client());
    app.send(b"set login 0 0 10\r\napp secret\r\nset a 0 0 1\r\nx\r\n");
    assert_eq!([app.line(), app.line()], ["STORED\r\n", "STORED\r\n"]);
    other.send(b"get a\r\n");
    assert_eq!(other.line(), "CLIENT_ERROR unauthenticated\r\n");
    // A command that has a connection of its own otherwise leaves that of the client to nobody.
    app.send(b"cache_memlimit 100\r\nget a\r\n");
    assert_eq!([app.line(), app.line()], ["OK\r\n", "VALUE a 0 1\r\n"]);
    for _ in 0..5 {
        other.send(b"get a\r\n");
        assert_eq!(other.line(), "CLIENT_ERROR unauthenticated\r\n");
    }
    drop(app);
    let mut next = mecha.client();
    next.send(b"get a\r\n");
    assert_eq!(next.line(), "CLIENT_ERROR unauthenticated\r\n");
    assert!(mecha.metric("mecha_calls_total{") >= 9.0);
}

#[test]
fn mecha_logs_in_to_memcached_with_sasl_plain() {
    let fake = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = fake.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut socket, _) = fake.accept().unwrap();
        let mut login = vec![0; 24 + 5 + 11];
        socket.read_exact(&mut login).unwrap();
        assert_eq!((login[0], login[1], &login[24..]), (0x80, 0x21, b"PLAIN\0app\0secret".as_slice()));
        let reply = |opcode| [vec![0x81, opcode], vec![0; 22]].concat();
        socket.write_all(&reply(0x21)).unwrap();
        let mut request = vec![0; 24];
        socket.read_exact(&mut request).unwrap();
        assert_eq!(request[1], 0x0b, "nothing but the client's own request follows");
        socket.write_all(&reply(0x0b)).unwrap();
    });
    let password = File::new("sasl", "secret");
    let mecha = Mecha::configured(&with_login(&format!("memcached://127.0.0.1:{port}"), "app", &password));
    let mut client = mecha.client();
    client.send(&[vec![0x80, 0x0b], vec![0; 22]].concat());
    let mut reply = [0; 24];
    std::io::Read::read_exact(&mut client.writer, &mut reply).unwrap();
    assert_eq!((reply[0], reply[1], reply[7]), (0x81, 0x0b, 0));
    server.join().unwrap();
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
