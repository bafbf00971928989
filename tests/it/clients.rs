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
fn a_blocked_client_that_leaves_takes_nothing_whatever_connection_it_has() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{redis}"));
    let mut server = Client::new(redis);
    // The connection is kept for the database; the second client also has a command behind the blocking one.
    for behind in ["", "*1\r\n$4\r\nPING\r\n"] {
        let mut leaving = mecha.client();
        assert_eq!(leaving.call("SELECT 3"), "+OK\r\n");
        leaving.send(format!("*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n0\r\n{behind}").as_bytes());
        eventually("it does not block", || server.call("INFO clients").contains("blocked_clients:1"));
        leaving.writer.shutdown(std::net::Shutdown::Write).unwrap();
        eventually("the server waits for a client that has left", || {
            server.call("INFO clients").contains("blocked_clients:0")
        });
        assert!(leaving.is_closed());
    }
    assert_eq!(server.call("SELECT 3"), "+OK\r\n");
    assert_eq!(server.call("RPUSH l v"), ":1\r\n");
    assert_eq!(server.call("LLEN l"), ":1\r\n");
    assert!(mecha.metric("mecha_calls_total{") >= 2.0);
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

/// The number behind `name` in a reply to `HELLO` or `CLIENT TRACKINGINFO`.
fn told(reply: &str, name: &str) -> u64 {
    let (_, behind) = reply.split_once(&format!("\r\n{name}\r\n:")).unwrap_or_else(|| panic!("{reply}"));
    behind.split("\r\n").next().unwrap().parse().unwrap_or_else(|_| panic!("{reply}"))
}

#[test]
fn a_client_has_one_number_wherever_it_is_told() {
    let Some((_server, mecha)) = standalone() else { return };
    // So that the server's numbers are others.
    let others: Vec<Client> = (0..4).map(|_| mecha.client()).collect();
    let mut client = mecha.client();
    let mine = id(&mut client);
    for greeting in ["HELLO", "HELLO 2", "HELLO 3", "HELLO 3 SETNAME me"] {
        assert_eq!(told(&client.call(greeting), "id"), mine, "{greeting}");
    }
    let line = client.call("CLIENT INFO");
    assert_eq!(
        (field(&line[line.find("id=").unwrap()..], "id"), field(&line, "name")),
        (&*mine.to_string(), "me")
    );
    // And on a connection of its own, in whose greeting the version counts as much.
    client.call("SELECT 1");
    assert_eq!((told(&client.call("HELLO 2"), "id"), id(&mut client)), (mine, mine));
    assert!(client.call("CLIENT INFO").starts_with('$'), "not of the type that RESP3 has for it");
    assert_eq!(told(&client.call("HELLO 3 SETNAME you"), "id"), mine);
    assert!(client.call("CLIENT INFO").starts_with('='));
    assert_eq!(client.call("CLIENT GETNAME"), "$3\r\nyou\r\n");
    assert!(client.call("HELLO 4").starts_with("-NOPROTO"));
    assert!(client.call("CLIENT INFO").starts_with('='), "what fails changes nothing");
    client.send(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n");
    assert_eq!(
        [client.reply(), client.reply(), client.reply()].concat(),
        format!(":{mine}\r\n$1\r\nx\r\n:{mine}\r\n")
    );
    // The server has the last word on who may ask.
    let mut admin = mecha.client();
    assert_eq!(admin.call("ACL SETUSER narrow on nopass +@all -client|id"), "+OK\r\n");
    assert_eq!(client.call("AUTH narrow x"), "+OK\r\n");
    assert!(client.call("CLIENT ID").starts_with("-NOPERM"));
    drop((others, client, admin));
    mecha.settles();
}

#[test]
fn a_client_that_messages_are_redirected_to_is_named_by_its_number() {
    let Some((_server, mecha)) = standalone() else { return };
    let others: Vec<Client> = (0..4).map(|_| mecha.client()).collect();
    let (mut listening, mut tracking) = (mecha.client(), mecha.client());
    let theirs = id(&mut listening);
    assert!(listening.call("SUBSCRIBE __redis__:invalidate").starts_with('*'));
    assert_eq!(tracking.call("CLIENT GETREDIR"), ":-1\r\n");
    for greeting in ["HELLO 2", "HELLO 3"] {
        tracking.call(greeting);
        assert_eq!(tracking.call(&format!("CLIENT TRACKING ON REDIRECT {theirs} NOLOOP")), "+OK\r\n");
        assert_eq!(tracking.call("CLIENT GETREDIR"), format!(":{theirs}\r\n"));
        let info = tracking.call("CLIENT TRACKINGINFO");
        assert!(info.contains("noloop") && told(&info, "redirect") == theirs, "{info}");
    }
    assert_eq!(tracking.call("CLIENT TRACKING OFF"), "+OK\r\n");
    assert_eq!(tracking.call("CLIENT GETREDIR"), ":-1\r\n");
    assert_eq!(tracking.call("CLIENT TRACKING ON"), "+OK\r\n");
    assert_eq!(tracking.call("CLIENT GETREDIR"), ":0\r\n");
    let nobody = tracking.call("CLIENT TRACKING ON REDIRECT 999999");
    assert!(nobody.starts_with("-ERR The client ID you want redirect to does not exist"), "{nobody}");
    drop((others, listening, tracking));
    mecha.settles();
}

/// A client that another one redirects its messages to, in whatever state it is, gets them.
fn gets_redirected_messages(mecha: &Mecha, state: &str, mut listening: Client, then: &str) {
    let (mut tracking, mut writing) = (mecha.client(), mecha.client());
    let theirs = listening.call("CLIENT ID").trim_start_matches(':').trim_end().to_owned();
    assert_eq!(tracking.call(&format!("CLIENT TRACKING ON REDIRECT {theirs}")), "+OK\r\n", "{state}");
    tracking.call("GET tracked");
    if !then.is_empty() {
        assert!(!listening.call(then).starts_with('-'), "{state}");
    }
    writing.call("SET tracked 1");
    let message = listening.reply();
    assert!(message.contains("invalidate") && message.contains("tracked"), "{state}: {message}");
}

#[test]
fn messages_are_redirected_to_clients_without_a_connection_of_their_own() {
    let Some((_server, mecha)) = standalone() else { return };
    let in_version_3 = || {
        let mut client = mecha.client();
        assert!(client.call("HELLO 3").starts_with('%'));
        client
    };
    // Clients spread over both workers: each kind is met on the worker that asks, and on the other.
    for _ in 0..4 {
        gets_redirected_messages(&mecha, "idle", in_version_3(), "");
        let mut named = in_version_3();
        named.call("CLIENT SETNAME listener");
        gets_redirected_messages(&mecha, "named", named, "GET other");
        let mut elsewhere = in_version_3();
        elsewhere.call("SELECT 2");
        gets_redirected_messages(&mecha, "in another database", elsewhere, "");
        gets_redirected_messages(
            &mecha,
            "subscribes later",
            mecha.client(),
            "SUBSCRIBE __redis__:invalidate",
        );
    }
    mecha.settles();
}

#[test]
fn a_client_that_is_redirected_to_in_the_middle_of_something_keeps_its_order() {
    let Some((_server, mecha)) = standalone() else { return };
    let (mut listening, mut tracking, mut writing) = (mecha.client(), mecha.client(), mecha.client());
    listening.call("HELLO 3");
    let theirs = id(&mut listening);
    listening.send(b"*3\r\n$5\r\nBLPOP\r\n$4\r\nlist\r\n$1\r\n0\r\n");
    eventually("the client is blocked", || is_blocked(&mut writing, theirs));
    assert_eq!(tracking.call(&format!("CLIENT TRACKING ON REDIRECT {theirs}")), "+OK\r\n");
    tracking.call("GET tracked");
    assert_eq!(writing.call("RPUSH list x"), ":1\r\n");
    assert_eq!(listening.reply(), "*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
    // The connection has been its own for one call, and must not go to somebody else now.
    let mut other = mecha.client();
    other.call("HELLO 3");
    other.send(b"*3\r\n$5\r\nBLPOP\r\n$4\r\nlist\r\n$1\r\n0\r\n");
    writing.call("SET tracked 1");
    let message = listening.reply();
    assert!(message.contains("invalidate"), "{message}");
    writing.call("RPUSH list y");
    assert_eq!(other.reply(), "*2\r\n$4\r\nlist\r\n$1\r\ny\r\n");
    // And one that sends without waiting.
    let mut busy = mecha.client();
    busy.call("HELLO 3");
    let theirs = id(&mut busy);
    for round in 0..200 {
        busy.send(format!("*2\r\n$4\r\nECHO\r\n$3\r\n{round:03}\r\n").as_bytes());
        if round == 100 {
            tracking.send(format!("*5\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$8\r\nREDIRECT\r\n${}\r\n{theirs}\r\n", theirs.to_string().len()).as_bytes());
        }
    }
    for round in 0..200 {
        assert_eq!(busy.reply(), format!("$3\r\n{round:03}\r\n"));
    }
    assert_eq!(tracking.reply(), "+OK\r\n");
    tracking.call("GET tracked");
    writing.call("SET tracked 2");
    assert!(busy.reply().contains("invalidate"));
    drop((listening, busy, other, tracking, writing));
    mecha.settles();
}

#[test]
fn info_counts_the_clients_of_the_listener() {
    let Some((_server, mecha)) = standalone() else { return };
    let mut clients: Vec<Client> = (0..7).map(|_| mecha.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.call("PING")));
    let line = |text: &str, name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    };
    for before in ["PING", "SELECT 1", "HELLO 3", "SELECT 0"] {
        clients[0].call(before);
        let text = clients[0].call("INFO clients");
        assert_eq!(line(&text, "connected_clients"), "7", "{before}");
        assert_ne!(line(&text, "mecha_server_connections"), "7", "{before}");
    }
    assert!(!clients[1].call("INFO server").contains("connected"));
    assert_eq!(clients[2].call("CLIENT KILL SKIPME yes"), ":6\r\n");
    drop(clients);
    mecha.settles();
}

#[test]
fn a_subscriber_that_wants_no_replies_gets_what_the_server_sends_it_all_the_same() {
    let Some((_server, port)) = redis() else { return };
    for before in ["PING", "SELECT 1", "shared"] {
        let subscriptions = if before == "shared" { "shared" } else { "dedicated" };
        let mecha = Mecha::configured(&format!(
            "listeners:\n  - listen: redis://127.0.0.1:0\n    to: back\nclusters:\n  back:\n    \
             to: redis://127.0.0.1:{port}\n    subscriptions: {subscriptions}\nworkers: 2\n"
        ));
        let (mut listening, mut other) = (mecha.client(), mecha.client());
        listening.call("HELLO 3");
        listening.call(before);
        listening.send(b"CLIENT REPLY OFF\r\nGET k\r\nSUBSCRIBE news\r\n");
        assert_eq!(listening.reply(), ">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n", "{before}");
        assert_eq!(other.call("PUBLISH news one"), ":1\r\n");
        assert!(listening.reply().contains("one"));
        // Its other replies are still kept from it.
        listening.send(b"GET k\r\nPING\r\nCLIENT REPLY ON\r\n");
        assert_eq!(listening.reply(), "+OK\r\n", "{before}");
        assert_eq!(other.call("PUBLISH news two"), ":1\r\n");
        assert!(listening.reply().contains("two"));
        assert_eq!(listening.call("ECHO x"), "$1\r\nx\r\n");
        listening.send(b"CLIENT REPLY SKIP\r\nUNSUBSCRIBE news\r\nECHO y\r\n");
        assert_eq!(listening.reply(), ">3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n", "{before}");
        assert_eq!(listening.reply(), "$1\r\ny\r\n", "{before}");
        drop((listening, other));
        mecha.settles();
    }
}

#[test]
fn a_list_has_what_only_the_server_knows_of_clients_with_a_connection_of_their_own() {
    let Some((_server, mecha)) = standalone() else { return };
    let (mut own, mut shared, mut listening) = (mecha.client(), mecha.client(), mecha.client());
    let ids = [id(&mut own), id(&mut shared), id(&mut listening)];
    own.call("SELECT 1");
    own.call(&format!("SET k {}", "x".repeat(40_000)));
    listening.call("SUBSCRIBE one");
    listening.call("SUBSCRIBE two");
    shared.call("GET k");
    // Asked by a client that shares connections, and by one that does not; in a list, and of itself.
    let mut lists = vec![shared.call("CLIENT LIST"), own.call("CLIENT LIST")];
    own.call("HELLO 3");
    lists.push(own.call("CLIENT LIST"));
    for list in lists {
        let list = lines(&list.replace("\r\ntxt:", "\r\n"));
        assert_eq!(list.len(), 3);
        let of = |at: usize, name: &str| {
            let line = list.iter().find(|line| field(line, "id") == ids[at].to_string()).unwrap();
            field(line, name).parse::<i64>().unwrap()
        };
        assert!(of(0, "tot-mem") > 0 && of(0, "fd") > 0, "{list:?}");
        assert_eq!((of(1, "qbuf-free"), of(1, "fd")), (0, -1), "{list:?}");
        assert_eq!((of(2, "sub"), of(0, "sub"), of(1, "sub")), (2, 0, 0), "{list:?}");
    }
    let info = own.call("CLIENT INFO");
    let info = info.split_once("\r\ntxt:").unwrap().1;
    assert!(info.starts_with(&format!("id={} ", ids[0])), "{info}");
    assert!(field(info, "fd").parse::<i64>().unwrap() > 0, "{info}");
    drop((own, shared, listening));
    mecha.settles();
}
