//! `CLIENT` and its subcommands: what clients are told about, and can do to, mecha's clients, on whatever worker they are.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::support::{Client, Mecha, eventually, redis};

/// mecha with two workers before a server of its own; clients spread over both.
fn standalone() -> Option<(impl Drop, Mecha)> {
    let (server, port) = redis()?;
    Some((server, Mecha::start("redis", &format!("redis://127.0.0.1:{port}"))))
}

fn id(client: &mut Client) -> u64 {
    client.call("CLIENT ID").trim_start_matches(':').trim_end().parse().unwrap()
}

fn addr(client: &Client) -> SocketAddr {
    client.writer.local_addr().unwrap()
}

/// The lines of a list of clients.
fn lines(reply: &str) -> Vec<String> {
    reply.lines().filter(|line| line.starts_with("id=")).map(str::to_owned).collect()
}

/// A field of such a line.
fn field<'l>(line: &'l str, name: &str) -> &'l str {
    line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_else(|| {
        panic!("no {name} in {line}");
    })
}

fn is_blocked(seen: &mut Client, id: u64) -> bool {
    let line = seen.call(&format!("CLIENT LIST ID {id}"));
    lines(&line).first().is_some_and(|line| field(line, "flags") == "b")
}

#[test]
fn a_list_shows_the_clients_of_all_workers_as_they_are() {
    let Some((_server, mecha)) = standalone() else { return };
    let mut clients: Vec<Client> = (0..6).map(|_| mecha.client()).collect();
    let ids: Vec<u64> = clients.iter_mut().map(id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    clients[1].call("CLIENT SETNAME second");
    clients[2].call("SELECT 3");
    clients[3].call("MULTI");
    clients[3].call("GET k");
    clients[4].call("HELLO 3");
    clients[5].call("GET k");
    let list = lines(&clients[0].call("CLIENT LIST"));
    let listed: Vec<u64> = list.iter().map(|line| field(line, "id").parse().unwrap()).collect();
    assert_eq!(listed, ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
    for (client, id) in clients.iter().zip(&ids) {
        let line = list.iter().find(|line| field(line, "id") == id.to_string()).unwrap();
        assert_eq!(field(line, "addr"), addr(client).to_string());
        assert_eq!(field(line, "laddr"), format!("127.0.0.1:{}", mecha.port));
        assert_eq!(field(line, "user"), "default");
    }
    let of = |at: usize, name: &str| {
        let line = list.iter().find(|line| field(line, "id") == ids[at].to_string()).unwrap();
        field(line, name).to_owned()
    };
    assert_eq!((of(0, "cmd"), of(0, "flags")), ("client|list".into(), "N".into()));
    assert_eq!((of(1, "name"), of(2, "db"), of(4, "resp")), ("second".into(), "3".into(), "3".into()));
    assert_eq!((of(3, "flags"), of(3, "multi"), of(5, "cmd")), ("x".into(), "1".into(), "get".into()));
    // Its own line, and those that are asked for.
    let info = clients[1].call("CLIENT INFO");
    assert_eq!(field(&lines(&info)[0], "id"), ids[1].to_string());
    assert!(clients[4].call("CLIENT INFO").starts_with('='), "RESP3 has a type for it");
    let some = lines(&clients[0].call(&format!("CLIENT LIST ID {} {} 999999", ids[5], ids[2])));
    assert_eq!(some.len(), 2);
    assert_eq!(lines(&clients[0].call("CLIENT LIST TYPE normal")).len(), 6);
    assert!(lines(&clients[0].call("CLIENT LIST TYPE replica")).is_empty());
    let mut subscriber = mecha.client();
    subscriber.call("SUBSCRIBE news");
    let subscribers = lines(&clients[0].call("CLIENT LIST TYPE pubsub"));
    assert_eq!(subscribers.len(), 1, "{subscribers:?}");
    assert_eq!(field(&subscribers[0], "addr"), addr(&subscriber).to_string());
}

#[test]
fn what_a_request_about_clients_gets_wrong_is_said_as_the_server_says_it() {
    let Some(((_server, direct), mecha)) = redis().zip(redis()).map(|((server, port), (other, behind))| {
        (((server, other), port), Mecha::start("redis", &format!("redis://127.0.0.1:{behind}")))
    }) else {
        return;
    };
    for request in [
        "CLIENT LIST TYPE nosuch",
        "CLIENT LIST ID",
        "CLIENT LIST ID x",
        "CLIENT LIST ID 0",
        "CLIENT LIST NOSUCH x",
        "CLIENT INFO x",
        "CLIENT ID x",
        "CLIENT KILL",
        "CLIENT KILL 127.0.0.1:1",
        "CLIENT KILL ID x",
        "CLIENT KILL ID 0",
        "CLIENT KILL ID 999999",
        "CLIENT KILL TYPE nosuch",
        "CLIENT KILL SKIPME maybe",
        "CLIENT KILL NOSUCH x",
        "CLIENT KILL ID 1 ADDR",
        "CLIENT KILL USER nosuch",
        "CLIENT UNBLOCK x",
        "CLIENT UNBLOCK 999999",
        "CLIENT UNBLOCK 1 NOSUCH",
        "CLIENT REPLY NOSUCH",
        "CLIENT REPLY",
    ] {
        let expected = Client::new(direct).call(request);
        assert_eq!(mecha.client().call(request), expected, "{request}");
    }
}

#[test]
fn a_killed_client_is_closed_on_whatever_worker_it_is() {
    let Some((_server, mecha)) = standalone() else { return };
    let mut killer = mecha.client();
    let mut by_id: Vec<Client> = (0..4).map(|_| mecha.client()).collect();
    for victim in &mut by_id {
        let id = id(victim);
        assert_eq!(killer.call(&format!("CLIENT KILL ID {id}")), ":1\r\n");
        assert!(victim.is_closed());
        assert_eq!(killer.call(&format!("CLIENT KILL ID {id}")), ":0\r\n");
    }
    let mut victim = mecha.client();
    assert_eq!(victim.call("PING"), "+PONG\r\n");
    assert_eq!(killer.call(&format!("CLIENT KILL {}", addr(&victim))), "+OK\r\n");
    assert!(victim.is_closed());
    // In the middle of something.
    let (mut blocked, mut watching) = (mecha.client(), mecha.client());
    let id = id(&mut blocked);
    blocked.send(b"*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n0\r\n");
    eventually("it does not block", || is_blocked(&mut killer, id));
    assert_eq!(watching.call("WATCH k"), "+OK\r\n");
    assert_eq!(watching.call("MULTI"), "+OK\r\n");
    let laddr = format!("127.0.0.1:{}", mecha.port);
    assert_eq!(killer.call(&format!("CLIENT KILL LADDR {laddr} TYPE normal")), ":2\r\n");
    assert!(blocked.is_closed() && watching.is_closed());
    // The killed client's blocking command took nothing.
    assert_eq!(killer.call("RPUSH l v"), ":1\r\n");
    assert_eq!(killer.call("LPOP l"), "$1\r\nv\r\n");
    // Itself: the answer first.
    assert_eq!(killer.call("CLIENT KILL USER default"), ":0\r\n");
    assert_eq!(killer.call("CLIENT KILL USER default SKIPME no"), ":1\r\n");
    assert!(killer.is_closed());
    assert!(mecha.metric("mecha_client_closed_total{") >= 8.0);
    mecha.settles();
}

#[test]
fn a_client_is_unblocked_whatever_stands_before_its_server() {
    let Some((_server, port)) = redis() else { return };
    for before in ["announce: self", "routes: [{ prefix: 'l', to: back }]"] {
        let mecha = Mecha::configured(&format!(
            "listeners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: back, {before} }}\nclusters: {{ back: \"redis://127.0.0.1:{port}\" }}\nworkers: 2\n"
        ));
        let (mut client, mut other) = (mecha.client(), mecha.client());
        let id = id(&mut client);
        client.send(b"*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n0\r\n");
        eventually("it is not unblocked", || other.call(&format!("CLIENT UNBLOCK {id}")) == ":1\r\n");
        assert_eq!(client.reply(), "*-1\r\n", "{before}");
        drop((client, other));
        mecha.settles();
    }
}

#[test]
fn a_client_that_is_blocked_through_mecha_is_unblocked_from_any_worker() {
    let Some((_server, mecha)) = standalone() else { return };
    let mut others: Vec<Client> = (0..2).map(|_| mecha.client()).collect();
    // Alone on a connection for one call, and on one that it has for longer.
    for (number, before) in ["PING", "WATCH k", "SELECT 1"].into_iter().enumerate() {
        let mut client = mecha.client();
        client.call(before);
        let id = id(&mut client);
        for other in &mut others {
            assert_eq!(other.call(&format!("CLIENT UNBLOCK {id}")), ":0\r\n", "not blocked");
            client.send(b"*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n0\r\n");
            eventually("it does not block", || {
                is_blocked(other, id) && other.call(&format!("CLIENT UNBLOCK {id} TIMEOUT")) == ":1\r\n"
            });
            assert_eq!(client.reply(), "*-1\r\n", "{number}");
            client.send(b"*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n0\r\n");
            eventually("it does not block", || {
                is_blocked(other, id) && other.call(&format!("CLIENT UNBLOCK {id} ERROR")) == ":1\r\n"
            });
            assert_eq!(client.reply(), "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
            assert!(!is_blocked(other, id));
        }
        assert_eq!(client.call("PING"), "+PONG\r\n");
    }
    drop(others);
    mecha.settles();
}

#[test]
fn who_may_not_ask_the_server_about_clients_may_not_ask_mecha() {
    let Some((_server, mecha)) = standalone() else { return };
    let (mut admin, mut user) = (mecha.client(), mecha.client());
    assert_eq!(admin.call("ACL SETUSER app on >secret ~* +@all -@admin"), "+OK\r\n");
    assert_eq!(user.call("AUTH app secret"), "+OK\r\n");
    let id = id(&mut admin);
    for request in ["CLIENT LIST".to_owned(), format!("CLIENT KILL ID {id}"), format!("CLIENT UNBLOCK {id}")]
    {
        assert!(user.call(&request).starts_with("-NOPERM"), "{request}");
    }
    let list = lines(&admin.call("CLIENT LIST"));
    assert_eq!(list.iter().filter(|line| field(line, "user") == "app").count(), 1, "{list:?}");
    // The login of those who share mecha's connections is mecha's.
    assert_eq!(admin.call("ACL SETUSER default -client|list"), "+OK\r\n");
    assert!(mecha.client().call("CLIENT LIST").starts_with("-NOPERM"));
    assert_eq!(admin.call("CLIENT KILL USER app"), ":1\r\n");
    assert!(user.is_closed());
}

#[test]
fn replies_that_a_client_does_not_want_are_kept_from_it_in_any_pipeline() {
    let Some((_server, mecha)) = standalone() else { return };
    let mut client = mecha.client();
    let mut pipeline = |requests: &str, replies: &str| {
        client.send(requests.replace(" | ", "\r\n").as_bytes());
        client.send(b"\r\nECHO end\r\n");
        let mut seen = String::new();
        while !seen.ends_with("$3\r\nend\r\n") {
            let reply = client.try_reply().unwrap_or_else(|| panic!("{requests}: only {seen:?}"));
            seen += &reply;
        }
        assert_eq!(seen.trim_end_matches("$3\r\nend\r\n"), replies, "{requests}");
    };
    pipeline("SET a 1 | CLIENT REPLY SKIP | INCR a | GET a", "+OK\r\n$1\r\n2\r\n");
    pipeline(
        "CLIENT REPLY OFF | INCR a | NOSUCH | QUITX | GET a | CLIENT REPLY ON | GET a",
        "+OK\r\n$1\r\n3\r\n",
    );
    pipeline("CLIENT REPLY OFF | CLIENT REPLY SKIP | GET a | CLIENT REPLY ON", "+OK\r\n");
    pipeline("CLIENT REPLY SKIP | CLIENT REPLY ON | GET a", "+OK\r\n$1\r\n3\r\n");
    // Transactions, dedicated connections, and answers of mecha itself.
    pipeline(
        "CLIENT REPLY OFF | MULTI | INCR a | EXEC | WATCH a | SELECT 1 | GET a | SELECT 0 | UNWATCH | CLIENT ID | \
         CLIENT LIST | BLPOP nosuch 0.01 | CLIENT REPLY ON | GET a",
        "+OK\r\n$1\r\n4\r\n",
    );
    pipeline("CLIENT REPLY SKIP | CLIENT LIST | CLIENT REPLY SKIP | CLIENT ID | GET a", "$1\r\n4\r\n");
    // A reply that comes in pieces.
    pipeline(
        "SETRANGE large 199999 v | CLIENT REPLY SKIP | GET large | STRLEN large",
        ":200000\r\n:200000\r\n",
    );
    drop(client);
    mecha.settles();
}
