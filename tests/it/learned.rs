//! Commands that mecha's table lacks: what they are is asked of the servers, and then they go where their keys are.
//!
//! Real servers get new commands here by giving old ones other names.

use std::sync::{Arc, Mutex};

use crate::support::{Client, Fake, Mecha, Process, RedisCluster, eventually, frame, redis_with};

/// Names that no server has had so far.
const RENAMED: [&str; 12] = [
    "--rename-command",
    "GET",
    "x.fetch",
    "--rename-command",
    "MGET",
    "x.fetchall",
    "--rename-command",
    "BLPOP",
    "x.take",
    "--rename-command",
    "ZUNIONSTORE",
    "x.unite",
];

fn servers(count: usize) -> Option<(Vec<(Process, u16)>, String)> {
    let servers: Option<Vec<_>> = (0..count).map(|_| redis_with(&RENAMED)).collect();
    let servers = servers?;
    let list: Vec<_> = servers.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    Some((servers, format!("redis://{}", list.join(","))))
}

/// What holds wherever keys are on several servers.
fn holds_over_shards(mecha: &Mecha, keys: &[&str], together: [&str; 2]) {
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut client = mecha.client();
        assert!(!client.call(hello).starts_with('-'));
        for key in keys {
            assert_eq!(client.call(&format!("SET {key} {key}")), "+OK\r\n");
            assert_eq!(client.call(&format!("X.Fetch {key}")), format!("${}\r\n{key}\r\n", key.len()));
        }
        // Inline, and many at once.
        client.send(format!("x.fetch {}\r\n", keys[0]).as_bytes());
        assert_eq!(client.reply(), format!("${}\r\n{}\r\n", keys[0].len(), keys[0]));
        client.send(&keys.iter().flat_map(|key| frame(&["x.fetch", key])).collect::<Vec<_>>());
        keys.iter().for_each(|key| assert!(client.reply().contains(key)));
        let reply = client.call(&format!("x.fetchall {} {}", together[0], together[1]));
        assert!(reply.starts_with("*2"), "{reply}");
        let reply = client.call(&format!("x.fetchall {}", keys.join(" ")));
        assert!(reply.starts_with("-CROSSSLOT"), "{reply}");
        // Keys behind a number of keys.
        assert_eq!(client.call(&format!("ZADD {} 1 m", together[0])).len(), 4);
        let unite = format!("x.unite {} 1 {}", together[1], together[0]);
        assert_eq!(client.call(&unite), ":1\r\n", "{unite}");
        assert_eq!(client.call(&format!("ZCARD {}", together[1])), ":1\r\n");
        assert_eq!(client.call(&format!("DEL {} {}", together[0], together[1])), ":2\r\n");
        // In a transaction.
        for (line, reply) in [("MULTI", "+OK\r\n"), (&*format!("x.fetch {}", keys[0]), "+QUEUED\r\n")] {
            assert_eq!(client.call(line), reply);
        }
        assert!(client.call("EXEC").contains(keys[0]));
        let unknown = client.call("x.nothing a");
        assert!(unknown.starts_with("-ERR"), "{unknown}");
    }
}

/// A client that waits has a connection of its own, and holds up nobody.
fn waits_alone(mecha: &Mecha, key: &str) {
    let mut waiting: Vec<_> = (0..3).map(|_| mecha.client()).collect();
    waiting.iter_mut().for_each(|client| client.send(&frame(&["x.take", key, "0"])));
    eventually("they wait on connections of their own", || mecha.metric("mecha_upstream_pins{") == 3.0);
    let mut other = mecha.client();
    assert_eq!(other.call(&format!("RPUSH {key} one two three")), ":3\r\n");
    let mut taken: Vec<_> = waiting.iter_mut().map(|client| client.reply()).collect();
    taken.sort();
    let of = |word: &str| format!("*2\r\n${}\r\n{key}\r\n${}\r\n{word}\r\n", key.len(), word.len());
    assert_eq!(taken, [of("one"), of("two"), of("three")]);
}

#[test]
fn learned_commands_go_where_their_keys_are() {
    let Some((_servers, to)) = servers(3) else { return };
    let mecha = Mecha::start("redis", &to);
    // Their places on the ring are made of ports: of so many keys some are on another server than the rest.
    let keys: Vec<_> = (0..16).map(|number| format!("key-{number}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    holds_over_shards(&mecha, &keys, ["{same}1", "{same}2"]);
    waits_alone(&mecha, "queue");
    // Their names are no labels: clients could make any number of those.
    let metrics = mecha.get("/metrics");
    assert!(!metrics.contains("x.fetch") && metrics.contains("\"unknown\""));
    mecha.settles();
}

#[test]
fn learned_commands_go_where_their_keys_are_in_a_redis_cluster() {
    let Some(cluster) = RedisCluster::start_with(&RENAMED) else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    holds_over_shards(&mecha, &["foo", "bar", "c"], ["{same}1", "{same}2"]);
    waits_alone(&mecha, "queue");
    // A slot that has moved is followed.
    let mut client = mecha.client();
    assert_eq!(client.call("SET foo moved"), "+OK\r\n");
    cluster.move_slot(12182, 2, 0);
    assert_eq!(client.call("x.fetch foo"), "$5\r\nmoved\r\n");
}

#[test]
fn one_server_gets_learned_commands_as_they_are() {
    let Some((_servers, to)) = servers(1) else { return };
    let mecha = Mecha::start("redis", &to);
    let mut client = mecha.client();
    assert_eq!(client.call("SET k v"), "+OK\r\n");
    assert_eq!(client.call("x.fetch k"), "$1\r\nv\r\n");
    assert!(client.call("x.fetch").contains("wrong number of arguments"));
    assert!(client.call("x.nothing a").starts_with("-ERR unknown command 'x.nothing'"));
    waits_alone(&mecha, "queue");
    drop(client);
    mecha.settles();
}

#[test]
fn routes_rules_and_users_hold_for_learned_commands() {
    let (Some((_one, first)), Some((_two, second))) = (servers(1), servers(1)) else { return };
    let mecha = Mecha::configured(&format!(
        "listeners:
  - listen: redis://127.0.0.1:0
    users: none
    to: {first}
    filters: [ {{ deny_commands: {{ commands: [x.fetchall] }} }} ]
    routes: [ {{ prefix: 'a:', to: '{second}' }} ]
  - listen: redis://127.0.0.1:0
    users: none
    to: {first}
    filters: [ {{ deny_commands: {{ commands: ['@write'] }} }} ]
  - listen: redis://127.0.0.1:0
    to: {first}
    users: [ u ]
users: {{ u: 'nopass ~own:* +@all' }}
workers: 2
"
    ));
    let mut client = mecha.client();
    for key in ["a:1", "b:1"] {
        assert_eq!(client.call(&format!("SET {key} {key}")), "+OK\r\n");
        assert_eq!(client.call(&format!("x.fetch {key}")), format!("$3\r\n{key}\r\n"));
    }
    let mut reads = Client::new(mecha.ports[1]);
    assert_eq!(reads.call("x.fetch b:1"), "$3\r\nb:1\r\n");
    for (client, line) in [(&mut client, "x.fetchall b:1"), (&mut reads, "x.take q 0")] {
        let reply = client.call(line);
        assert!(reply.starts_with("-NOPERM"), "{reply}");
    }
    let mut user = Client::new(mecha.ports[2]);
    assert_eq!(user.call("AUTH u x"), "+OK\r\n");
    assert_eq!(user.call("SET own:1 v"), "+OK\r\n");
    assert_eq!(user.call("x.fetch own:1"), "$1\r\nv\r\n");
    let reply = user.call("x.fetch b:1");
    assert!(reply.starts_with("-NOPERM"), "{reply}");
}

/// What a server with modules says of them.
fn modules(word: &str) -> String {
    let old = |name: &str, arity: i32, flag: &str, keys: &str| {
        format!(
            "*6\r\n${}\r\n{name}\r\n:{arity}\r\n*1\r\n+{flag}\r\n{}",
            name.len(),
            keys.replace(' ', "\r\n")
        )
    };
    match word {
        "json.set" => old("json.set", -4, "write", ":1 :1 :1 "),
        "json.mget" => old("json.mget", -3, "readonly", ":1 :-2 :1 "),
        "ft.search" => old("ft.search", -3, "readonly", ":0 :0 :0 "),
        "x.code" => old("x.code", -2, "movablekeys", ":0 :0 :0 "),
        _ => "*-1\r\n".into(),
    }
}

#[test]
fn commands_of_modules_are_asked_about_once_and_reach_one_shard() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let fakes: Vec<_> = (0..2)
        .map(|number| {
            let heard = Arc::clone(&heard);
            Fake::start(move |stream, _| {
                Fake::talk(stream, |bytes| {
                    let text = String::from_utf8_lossy(bytes).to_lowercase();
                    let words: Vec<_> =
                        text.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect();
                    let mut answer = String::new();
                    let names: Vec<_> = words.iter().filter(|word| word.contains('.')).copied().collect();
                    heard.lock().unwrap().push((number, text.replace("\r\n", " ")));
                    if words.contains(&"command") {
                        answer += &format!("*{}\r\n", names.len());
                        names.iter().for_each(|name| answer += &modules(name));
                    } else {
                        answer += &format!("$1\r\n{number}\r\n").repeat(names.len());
                    }
                    Ok(answer.into_bytes())
                });
            })
        })
        .collect();
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: 'redis://127.0.0.1:0', to: 'redis://127.0.0.1:{},127.0.0.1:{}' }} ]\nworkers: 1\n",
        fakes[0].port, fakes[1].port
    ));
    let mut client = mecha.client();
    let mut homes = Vec::new();
    for number in 0..60_u32 {
        let key = format!("{:08x}", (number + 1).wrapping_mul(2_654_435_761));
        let home = client.call(&format!("JSON.SET {key} $ 1"));
        assert_eq!(client.call(&format!("json.mget {key} $")), home, "the same key, the same shard");
        homes.push(home);
    }
    assert!(homes.contains(&"$1\r\n0\r\n".to_string()) && homes.contains(&"$1\r\n1\r\n".to_string()));
    // Without a key, anywhere; with keys that only the server's code finds, nowhere.
    assert!(client.call("FT.SEARCH idx *").starts_with("$1"));
    let reply = client.call("X.CODE 1 k");
    assert!(reply.starts_with("-ERR mecha: no endpoint can take this command (x.code)"), "{reply}");
    let asked = heard
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, text)| text.contains("json.set") && text.contains("command"))
        .count();
    assert_eq!(asked, 1);
}

#[test]
fn a_server_that_does_not_say_what_a_command_is_still_gets_it() {
    // It never answers the question.
    let fake = Fake::start(|stream, _| {
        Fake::talk(stream, |bytes| {
            let text = String::from_utf8_lossy(bytes).to_lowercase();
            Ok(if text.contains("command") { Vec::new() } else { b"+done\r\n".to_vec() })
        });
    });
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{}", fake.port));
    let mut client = mecha.client();
    assert_eq!(client.call("x.what k"), "+done\r\n");
    assert_eq!(client.call("x.what k"), "+done\r\n");
}
