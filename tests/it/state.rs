//! State that belongs to one connection, where many clients share few: every conversation is held with a redis-server
//! and, through mecha, with another one, and must be the same byte for byte.
//!
//! A script has a line for each step. `a: GET k` sends a request as client `a` and takes one reply; `a> GET k` only
//! sends it; `a?` takes a reply; `a# GET k | GET l` sends several in one write and takes as many replies; `a.` waits for
//! the end of `a`'s connection; `a-` leaves without a word; `~` lets what was sent arrive. After each script, other
//! clients must get their own replies: that is what a mistake here would break first.

use std::collections::BTreeMap;
use std::time::Duration;

use super::support::{Client, Mecha, Process, eventually, frame, redis};

/// Two equal servers, one of them behind mecha.
pub(super) struct Twins {
    pub(super) direct: u16,
    pub(super) mecha: Mecha,
    _servers: Vec<Process>,
}

impl Twins {
    pub(super) fn start() -> Option<Self> {
        let ((one, direct), (other, behind)) = redis().zip(redis())?;
        let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{behind}"));
        Some(Self { direct, mecha, _servers: vec![one, other] })
    }

    /// As [`Twins::start`], with subscriptions that clients share.
    pub(super) fn sharing() -> Option<Self> {
        Self::with("subscriptions: shared")
    }

    /// As [`Twins::start`], with an option of the cluster.
    pub(super) fn with(option: &str) -> Option<Self> {
        let ((one, direct), (other, behind)) = redis().zip(redis())?;
        let mecha = Mecha::configured(&format!(
            "listeners:\n  - listen: redis://127.0.0.1:0\n    to: back\nclusters:\n  back:\n    to: redis://127.0.0.1:{behind}\n    \
             {option}\nworkers: 2\n"
        ));
        Some(Self { direct, mecha, _servers: vec![one, other] })
    }

    /// A server, and what is to answer as that does.
    pub(super) fn of((server, direct): (Process, u16), mecha: Mecha) -> Self {
        Self { direct, mecha, _servers: vec![server] }
    }

    #[track_caller]
    pub(super) fn same(&self, script: &str) {
        let (expected, seen) = (play(self.direct, script), play(self.mecha.port, script));
        assert_eq!(masked(&seen), masked(&expected), "{script}\nthrough mecha (left) and direct (right)");
        // One client for each worker, and for each version of the protocol.
        for (number, hello) in ["HELLO 2", "HELLO 3"].into_iter().cycle().take(4).enumerate() {
            let mut client = self.mecha.client();
            let _ = client.call(hello);
            for round in 0..3 {
                let word = format!("sentinel-{number}-{round}");
                assert_eq!(
                    client.call(&format!("ECHO {word}")),
                    format!("${}\r\n{word}\r\n", word.len()),
                    "after {script}"
                );
            }
        }
        self.mecha.settles();
    }
}

/// The greeting tells the number of a connection, which differs.
fn masked(seen: &[String]) -> Vec<String> {
    let mask = |text: &String| {
        let Some((before, after)) = text.split_once("$2\r\nid\r\n:") else { return text.clone() };
        format!("{before}id {}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
    };
    seen.iter().map(mask).collect()
}

/// What each step brought.
fn play(port: u16, script: &str) -> Vec<String> {
    let mut clients: BTreeMap<char, Client> = BTreeMap::new();
    let _ = Client::new(port).call("FLUSHALL");
    let mut seen = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut letters = line.chars();
        let (name, step, rest) =
            (letters.next().unwrap(), letters.next().unwrap_or_default(), letters.as_str().trim());
        if name == '~' {
            std::thread::sleep(Duration::from_millis(60));
            continue;
        }
        let client = clients.entry(name).or_insert_with(|| Client::new(port));
        let words = |text: &str| frame(&text.split_whitespace().collect::<Vec<_>>());
        match step {
            ':' => {
                client.send(&words(rest));
                seen.push(format!("{line} => {}", client.reply()));
            }
            '>' => client.send(&words(rest)),
            '?' => seen.push(format!("{line} => {}", client.reply())),
            '#' => {
                let requests: Vec<_> = rest.split('|').map(words).collect();
                client.send(&requests.concat());
                let replies: Vec<_> = requests.iter().map(|_| client.reply()).collect();
                seen.push(format!("{line} => {}", replies.concat()));
            }
            '.' => seen.push(format!("{line} => closed: {}", client.is_closed())),
            '-' => drop(clients.remove(&name)),
            _ => panic!("{line}: no such step"),
        }
    }
    seen
}

fn all_the_same(scripts: &[&str]) {
    let Some(twins) = Twins::start() else { return };
    scripts.iter().for_each(|script| twins.same(script));
}

#[test]
fn a_selected_database_is_its_clients_alone() {
    all_the_same(&[
        "a: SET k zero
         b: SELECT 1
         b: GET k
         b: SET k one
         a: GET k
         c: GET k
         b: SELECT 0
         b: GET k
         b: SELECT 1
         b: GET k",
        "a# SET k zero | SELECT 2 | SET k two | GET k | SELECT 0 | GET k | SELECT 3 | GET k",
        "b: GET k",
        "a: SELECT 5
         a: SELECT 99
         a: SET k five
         a: SELECT 0 x
         a: GET k
         a: SELECT 00
         a: SELECT +0
         a: SELECT -1
         a: SELECT x
         a: SELECT
         a: GET k
         b: GET k",
        "a: SELECT 5
         a: SET k five
         a: MULTI
         a: SELECT 0
         a: DISCARD
         a: GET k
         b: MULTI
         b: GET k
         b: EXEC",
        "a: SELECT 5
         a: MULTI
         a: SELECT 0
         a: NOSUCH
         a: EXEC
         a: SET k five
         b: WATCH x
         b: GET k
         b: UNWATCH",
        "a: MULTI
         a: SELECT 3
         a: SET k three
         a: EXEC
         a: GET k
         b: WATCH k
         b: GET k
         b: UNWATCH
         a: RESET
         a: GET k",
        "a: SELECT 4
         a: SET k four
         a: RESET
         a: GET k
         b: WATCH k
         b: GET k",
        "a: SELECT 1
         a: SET k one
         a-
         b: MULTI
         b: GET k
         b: EXEC",
        "a: SELECT 1
         a: SWAPDB 0 1
         b: SET k zero
         a: GET k",
    ]);
}

#[test]
fn a_transaction_is_its_clients_alone_and_ends_when_the_server_says_so() {
    all_the_same(&[
        "a: MULTI
         b: SET k b
         a: SET k a
         b: GET k
         a: INCR n
         a: EXEC
         b: GET k
         a: EXEC
         a: DISCARD",
        "a# MULTI | SET k 1 | INCR k | LRANGE k 0 1 | EXEC | GET k | MULTI | DISCARD | EXEC",
        "a: MULTI
         a: MULTI
         a: WATCH k
         a: DISCARD x
         a: SET k 1
         a: EXEC
         b: MULTI
         b: EXEC",
        "a: MULTI
         a: SET k 1
         a: EXEC now
         a: EXEC
         b: WATCH k
         b: MULTI
         b: GET k
         b: EXEC",
        "a: MULTI now
         a: SET k 1
         a: EXEC
         a: GET k",
        "a: WATCH k
         b: SET k b
         a: MULTI
         a: SET k a
         a: EXEC
         a: GET k
         a: WATCH k
         a: UNWATCH x
         b: SET k c
         a: MULTI
         a: GET k
         a: EXEC
         a: UNWATCH",
        "a: WATCH k
         b: SET k b
         a: UNWATCH
         a: MULTI
         a: GET k
         a: EXEC",
        "a: WATCH k
         a: EXEC
         b: SET k b
         a: MULTI
         a: GET k
         a: EXEC",
        "a: WATCH k
         a: RESET
         b: SET k b
         a: MULTI
         a: GET k
         a: EXEC",
        "a: MULTI
         a: SET k 1
         a: RESET
         a: GET k
         a: EXEC",
        "a: MULTI
         a: SET k 1
         a: QUIT
         a.
         b: GET k",
        "a: MULTI
         a: SET k 1
         a-
         b: MULTI
         b: GET k
         b: EXEC",
        "a: MULTI
         a: BLPOP nothing 0
         a: XREAD BLOCK 0 STREAMS s 0
         a: WAIT 0 0
         a: EXEC
         a: GET k",
        "a: MULTI
         a: AUTH wrong
         a: HELLO 3
         a: CLIENT SETNAME inside
         a: PING
         a: EXEC
         a: PING
         b: WATCH k
         b: CLIENT GETNAME
         b: UNWATCH
         b: HGETALL nothing",
        "a: MULTI
         a: UNSUBSCRIBE
         a: PING
         a: EXEC
         a: PING",
        "a: MULTI
         a: EVAL return{1,2,redis.call('incr',KEYS[1])} 1 n
         a: NOSUCHCOMMAND
         a: EXEC
         a: GET n",
    ]);
}

#[test]
fn the_version_of_the_protocol_is_its_clients_alone() {
    all_the_same(&[
        "a: HSET h f v
         b# HELLO 3 | HGETALL h | HELLO 2 | HGETALL h | HELLO 3 | HGETALL h
         a: HGETALL h
         c: HGETALL h"
            .replace("HELLO 3", "HELLO 3 NOOP")
            .replace("HELLO 2", "HELLO 2 SETNAME")
            .as_str(),
        "a: HELLO 9
         a: HELLO x
         a: HELLO 3 AUTH default
         a: HELLO 3 AUTH nobody wrong
         a: HGETALL nothing
         a: CLIENT GETNAME
         a: HELLO 3 SETNAME
         a: HGETALL nothing",
    ]);
    let Some(twins) = Twins::start() else { return };
    // The greeting has numbers that differ, so only what follows it is compared.
    let (mut a, mut b, mut c) = (twins.mecha.client(), twins.mecha.client(), twins.mecha.client());
    assert_eq!(a.call("HSET h f v"), ":1\r\n");
    for round in 0..20 {
        b.send(
            &[
                frame(&["HGETALL", "h"]),
                frame(&["HELLO", "3"]),
                frame(&["HGETALL", "h"]),
                frame(&["HELLO", "2"]),
                frame(&["HGETALL", "h"]),
            ]
            .concat(),
        );
        assert_eq!(b.reply(), "*2\r\n$1\r\nf\r\n$1\r\nv\r\n", "{round}");
        assert!(b.reply().starts_with("%7\r\n"), "{round}");
        assert_eq!(b.reply(), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n", "{round}");
        assert!(b.reply().starts_with("*14\r\n"), "{round}");
        assert_eq!(b.reply(), "*2\r\n$1\r\nf\r\n$1\r\nv\r\n", "{round}");
        assert_eq!(a.call("HGETALL h"), "*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
        assert_eq!(c.call("HGETALL h"), "*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
    }
    // A version that was chosen, reset, and never seen by the next tenant of a dedicated connection.
    assert!(a.call("HELLO 3").starts_with("%7"));
    assert_eq!(
        [a.call("WATCH h"), a.call("RESET"), a.call("HGETALL h")].concat(),
        "+OK\r\n+RESET\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n"
    );
    assert!(b.call("HELLO 3").starts_with("%7"));
    assert_eq!([b.call("WATCH h"), b.call("HGETALL h")].concat(), "+OK\r\n%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
}

#[test]
fn names_and_numbers_of_connections_are_their_clients() {
    all_the_same(&[
        "a: CLIENT SETNAME one
         b: CLIENT SETNAME two
         a: CLIENT GETNAME
         c: CLIENT GETNAME
         a: CLIENT SETNAME with\tspace
         a: CLIENT GETNAME
         a: CLIENT GETNAME x
         a: CLIENT SETNAME
         a: WATCH k
         a: CLIENT GETNAME
         a: CLIENT SETNAME three
         a: UNWATCH
         c: WATCH k
         c: CLIENT GETNAME
         c: UNWATCH
         a: CLIENT GETNAME",
        "a: CLIENT SETNAME mine
         a: MULTI
         a: CLIENT GETNAME
         a: EXEC
         b: MULTI
         b: CLIENT GETNAME
         b: EXEC
         a: WATCH k
         a: CLIENT SETNAME other
         a: MULTI
         a: CLIENT GETNAME
         a: DISCARD
         a# WATCH k | UNWATCH | CLIENT SETNAME third | MULTI | CLIENT GETNAME | EXEC | CLIENT GETNAME
         a: SELECT 1
         a: EVAL return(redis.call('client','getname')) 0
         a: SELECT 0
         b# WATCH k | MULTI | CLIENT GETNAME | EXEC | CLIENT SETNAME b | MULTI | CLIENT GETNAME | EXEC
         c# SELECT 1 | MULTI | CLIENT GETNAME | EXEC | SELECT 0",
        "a: AUTH default anything
         a: CLIENT SETNAME held
         a: CLIENT GETNAME
         a: SELECT 1
         a: CLIENT GETNAME
         b: CLIENT GETNAME",
        "a: CLIENT NOSUCH
         a: CLIENT
         a: CLIENT GETREDIR
         a: CLIENT TRACKINGINFO
         a: CLIENT CACHING YES
         a: CLIENT NO-EVICT OFF
         a: CLIENT NO-EVICT ON
         a: CLIENT TRACKING OFF",
    ]);
    let Some(twins) = Twins::start() else { return };
    let mut clients: Vec<_> = (0..6).map(|_| twins.mecha.client()).collect();
    let mut ids: Vec<_> = clients.iter_mut().map(|client| client.call("CLIENT ID")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6, "two clients have the same number");
    // What CLIENT INFO tells is this client's.
    let (mut one, mut other) = (twins.mecha.client(), twins.mecha.client());
    assert_eq!(one.call("CLIENT SETNAME first"), "+OK\r\n");
    let id = one.call("CLIENT ID").trim_start_matches(':').trim_end().to_string();
    let info = one.call("CLIENT INFO");
    assert!(info.contains(&format!("id={id} ")) && info.contains(" name=first "), "{info}");
    assert_eq!(one.call("CLIENT GETNAME"), "$5\r\nfirst\r\n");
    // Another client can unblock it by that number, and end it.
    one.send(&frame(&["BLPOP", "nothing", "0"]));
    eventually("the blocked client is not found", || {
        other.call(&format!("CLIENT UNBLOCK {id} ERROR")) == ":1\r\n"
    });
    assert!(one.reply().starts_with("-UNBLOCKED"));
    assert_eq!(other.call(&format!("CLIENT KILL ID {id}")), ":1\r\n");
    assert!(one.is_closed());
    assert_eq!(other.call("PING"), "+PONG\r\n");
}

#[test]
fn credentials_are_their_clients_alone() {
    let Some(twins) = Twins::start() else { return };
    for port in [twins.direct, twins.mecha.port] {
        let mut admin = Client::new(port);
        assert_eq!(admin.call("ACL SETUSER app on >secret ~* +@all"), "+OK\r\n");
        assert_eq!(
            admin.call("ACL SETUSER reader on >secret ~* -@all +get +acl|whoami +auth +hello"),
            "+OK\r\n"
        );
    }
    for script in [
        "a: AUTH app wrong
         a: ACL WHOAMI
         a: AUTH app secret
         a: ACL WHOAMI
         b: ACL WHOAMI
         a: MULTI
         a: ACL WHOAMI
         a: EXEC
         c: MULTI
         c: ACL WHOAMI
         c: EXEC
         a: RESET
         a: ACL WHOAMI",
        "a: MULTI
         a: AUTH app secret
         a: EXEC
         a: ACL WHOAMI
         b: MULTI
         b: ACL WHOAMI
         b: EXEC",
        "a: AUTH reader secret
         a: SET k 1
         a: GET k
         b: SET k 2
         a: GET k",
        "a# AUTH app secret | ACL WHOAMI | AUTH reader secret | ACL WHOAMI
         b: ACL WHOAMI",
        "a: AUTH one two three
         a: AUTH
         a: HELLO 2 AUTH app
         a: ACL WHOAMI",
    ] {
        twins.same(script);
    }
}

#[test]
fn blocking_commands_block_their_client_only() {
    all_the_same(&[
        "a> BLPOP l 0
         ~
         b: RPUSH l 1 2
         a?
         a: LRANGE l 0 -1",
        "a: BLPOP l 0.05
         a: BRPOP l m 0.05
         a: BLMOVE l m LEFT RIGHT 0.05
         a: BRPOPLPUSH l m 0.05
         a: BZPOPMIN z 0.05
         a: BZMPOP 0.05 1 z MIN
         a: BLMPOP 0.05 1 l LEFT
         a: XREAD BLOCK 50 STREAMS s $
         a: BLPOP l -1
         a: BLPOP l x
         a: BLPOP l
         a: SET k v
         a: BLPOP k 0",
        "a# BLPOP l 0.05 | PING | BLPOP l 0.05 | GET k
         b: PING",
        "a> XREAD BLOCK 0 STREAMS s $
         ~
         b: XADD s 1-1 f v
         a?
         b: XGROUP CREATE s g 0
         b: XREADGROUP GROUP g c COUNT 1 STREAMS s >
         a> XREADGROUP GROUP g d BLOCK 0 STREAMS s >
         ~
         b: XADD s 2-1 f v
         a?",
        "a> BLPOP l 0
         ~
         a-
         ~
         b: RPUSH l x
         b: LLEN l",
        "a: SELECT 1
         a> BLPOP l 0
         ~
         b: RPUSH l zero
         c: SELECT 1
         c: RPUSH l one
         a?
         b: LRANGE l 0 -1",
        "a: WATCH k
         a> BLPOP l 0
         ~
         b: SET k 1
         b: RPUSH l x
         a?
         a: MULTI
         a: PING
         a: EXEC",
    ]);
}

/// Conversations about subscriptions of one client at a time.
pub(super) const SUBSCRIPTIONS: &[&str] = &[
    "a: SUBSCRIBE x y
     a?
     b: PUBLISH x hello
     a?
     a: PING
     a: PING word
     a: GET k
     a: UNSUBSCRIBE x
     a: UNSUBSCRIBE
     a: GET k
     a: SELECT 1
     a: SET k one
     b: GET k",
    "a: PSUBSCRIBE n*
     b: PUBLISH news 1
     a?
     a: SSUBSCRIBE shard
     b: SPUBLISH shard 2
     a?
     a: PUNSUBSCRIBE n*
     a: SUNSUBSCRIBE
     ~
     b: PUBLISH news 3
     a: PING",
    "a> UNSUBSCRIBE p q
     a?
     a?
     a: PUNSUBSCRIBE
     a: SUNSUBSCRIBE
     a: PING
     b: PING",
    "a> SUBSCRIBE x
     a> QUIT
     a?
     a?
     a.",
    "a: SUBSCRIBE x
     a: RESET
     a: GET k
     b: PUBLISH x nobody
     a: PING
     a: CLIENT GETNAME
     a: SUBSCRIBE y
     b: PUBLISH y somebody
     a?",
    "a: SUBSCRIBE
     a: PING
     a: MULTI
     a: SUBSCRIBE z
     a: EXEC
     b: PUBLISH z 1
     a?",
    "a: SUBSCRIBE x
     a-
     ~
     b: PUBLISH x nobody
     b: PUBSUB NUMSUB x",
    "a: CONFIG SET notify-keyspace-events KEA
     a: PSUBSCRIBE __key*__:*
     b: SET k v
     a?
     a?
     b: CONFIG SET notify-keyspace-events KEA",
];

#[test]
fn subscriptions_reach_their_clients_only() {
    all_the_same(SUBSCRIPTIONS);
}

#[test]
fn subscriptions_and_tracking_work_in_version_3() {
    let Some(twins) = Twins::start() else { return };
    for port in [twins.direct, twins.mecha.port] {
        let (mut one, mut other) = (Client::new(port), Client::new(port));
        assert!(one.call("HELLO 3").starts_with('%'));
        one.send(&frame(&["UNSUBSCRIBE", "x", "y"]));
        assert_eq!(one.reply(), ">3\r\n$11\r\nunsubscribe\r\n$1\r\nx\r\n:0\r\n");
        assert_eq!(one.reply(), ">3\r\n$11\r\nunsubscribe\r\n$1\r\ny\r\n:0\r\n");
        assert_eq!(one.call("PUNSUBSCRIBE"), ">3\r\n$12\r\npunsubscribe\r\n_\r\n:0\r\n");
        assert_eq!(one.call("SUBSCRIBE ch"), ">3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
        assert_eq!(one.call("SET k v"), "+OK\r\n", "commands may be mixed in");
        assert_eq!(other.call("PUBLISH ch hi"), ":1\r\n");
        assert_eq!(one.reply(), ">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n");
        assert_eq!(one.call("GET k"), "$1\r\nv\r\n");

        let mut cached = Client::new(port);
        assert!(cached.call("HELLO 3").starts_with('%'));
        assert_eq!(cached.call("CLIENT TRACKING ON"), "+OK\r\n");
        assert_eq!(cached.call("GET k"), "$1\r\nv\r\n");
        assert_eq!(other.call("SET k w"), "+OK\r\n");
        assert_eq!(cached.reply(), ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
        assert_eq!(cached.call("GET k"), "$1\r\nw\r\n");

        // Redirected to a second connection, as clients of version 2 must do it.
        let (mut listening, mut plain) = (Client::new(port), Client::new(port));
        let id = listening.call("CLIENT ID").trim_start_matches(':').trim_end().to_string();
        assert_eq!(listening.call("SELECT 1"), "+OK\r\n");
        assert!(listening.call("SUBSCRIBE __redis__:invalidate").starts_with('*'));
        assert_eq!(plain.call(&format!("CLIENT TRACKING ON REDIRECT {id}")), "+OK\r\n");
        assert_eq!(plain.call("GET k"), "$1\r\nw\r\n");
        assert_eq!(other.call("SET k x"), "+OK\r\n");
        assert!(listening.reply().contains("__redis__:invalidate"));
    }
    twins.mecha.settles();
}

#[test]
fn replies_that_cannot_be_counted_disturb_nobody() {
    all_the_same(&[
        "a> CLIENT REPLY OFF
         a> SET k 1
         a> CLIENT REPLY ON
         a?
         a: GET k
         a> CLIENT REPLY SKIP
         a> SET k 2
         a: GET k
         b: GET k",
        "a: CLIENT REPLY ON
         a: CLIENT REPLY
         a: CLIENT REPLY MAYBE
         a: GET k",
        "a> REPLCONF ACK 1
         a> REPLCONF GETACK *
         a: PING
         b: ECHO b",
        "a: REPLCONF NOSUCH x
         a: REPLCONF listening-port 1
         b: ECHO b",
        "a: MONITOR
         b: SET k v
         ~
         b: PING"
            .replace("MONITOR", "PING")
            .as_str(),
        "a: SCRIPT DEBUG SYNC
         a: SCRIPT DEBUG NO
         a: PING
         b: EVAL return{1,2} 0",
        "a> POST / HTTP/1.1
         a> SET k 1
         a.
         b: GET k",
        "a: SET k 1
         a> host: example.org
         a.
         b: GET k",
        "a# SET k 1 | QUIT
         a> SET k 2
         a.
         b: GET k",
        "a> QUIT
         a> SET k 3
         a?
         a.
         b: GET k",
        "a: QUIT now
         a.
         b: PING",
        "a: ASKING
         a: READONLY
         a: READWRITE
         a: CLUSTER INFO
         b: PING",
        "a: RESET
         a: RESET x
         a: ECHO a",
    ]);
}

#[test]
fn what_follows_a_farewell_in_the_same_write_is_not_run() {
    let Some(twins) = Twins::start() else { return };
    for port in [twins.direct, twins.mecha.port] {
        let mut client = Client::new(port);
        client.send(&[frame(&["SET", "k", "1"]), frame(&["QUIT"]), frame(&["SET", "k", "2"])].concat());
        assert_eq!([client.reply(), client.reply(), client.reply()].concat(), "+OK\r\n+OK\r\n");
        assert!(client.is_closed());
        assert_eq!(Client::new(port).call("GET k"), "$1\r\n1\r\n");
    }
    twins.mecha.settles();
}

#[test]
fn a_monitor_sees_commands_and_nobody_else_does() {
    let Some(twins) = Twins::start() else { return };
    let (mut monitor, mut other) = (twins.mecha.client(), twins.mecha.client());
    assert_eq!(monitor.call("MONITOR"), "+OK\r\n");
    assert_eq!(other.call("SET k v"), "+OK\r\n");
    assert!(monitor.reply().contains("\"SET\" \"k\" \"v\""));
    for round in 0..10 {
        assert_eq!(other.call(&format!("ECHO {round}")), format!("$1\r\n{round}\r\n"));
    }
    drop(monitor);
    twins.mecha.get("/metrics");
    drop(other);
    twins.mecha.settles();
}

#[test]
fn a_script_that_does_not_end_can_be_killed_by_another_client() {
    let Some(twins) = Twins::start() else { return };
    let mut clients: Vec<_> = (0..4).map(|_| twins.mecha.client()).collect();
    assert_eq!(clients[0].call("CONFIG SET busy-reply-threshold 1"), "+OK\r\n");
    let script = frame(&["EVAL", "while true do end", "0"]);
    clients[0].send(&script);
    // One of these shares the connection that nobody reads from while the script runs.
    eventually("the script is not killed", || clients[1].call("SCRIPT KILL") == "+OK\r\n");
    assert!(clients[0].reply().contains("killed"));
    clients[2].send(&script);
    eventually("the script is not killed", || clients[3].call("SCRIPT KILL") == "+OK\r\n");
    assert!(clients[2].reply().contains("killed"));
    for client in &mut clients {
        assert_eq!(client.call("PING"), "+PONG\r\n");
    }
}

#[test]
fn a_refused_command_spoils_its_transaction() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::configured(&format!(
        "listeners:\n  - listen: redis://127.0.0.1:0\n    to: redis://127.0.0.1:{redis}\n    filters:\n      - deny_commands: {{ commands: [set, subscribe] }}\n"
    ));
    let mut client = mecha.client();
    let refused = "-NOPERM mecha: command is denied by configuration (set)\r\n";
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    assert_eq!(
        [client.call("MULTI"), client.call("INCR n"), client.call("SET k 1")].concat(),
        format!("+OK\r\n+QUEUED\r\n{refused}")
    );
    assert_eq!(client.call("EXEC"), aborted);
    client.send(
        &[
            frame(&["MULTI"]),
            frame(&["INCR", "n"]),
            frame(&["SET", "k", "1"]),
            frame(&["EXEC"]),
            frame(&["GET", "n"]),
        ]
        .concat(),
    );
    assert_eq!(
        [client.reply(), client.reply(), client.reply()].concat(),
        format!("+OK\r\n+QUEUED\r\n{refused}")
    );
    assert_eq!(client.reply(), aborted);
    assert_eq!(client.reply(), "$-1\r\n", "nothing of the transaction was run");
    assert_eq!(
        [client.call("MULTI"), client.call("INCR n"), client.call("EXEC")].concat(),
        "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n"
    );
    // Where replies are not counted, a refusal's place among them is not known, so it is the last.
    drop(client);
    let mut client = mecha.client();
    assert!(client.call("PSUBSCRIBE x*").starts_with("*3"));
    assert!(client.call("SUBSCRIBE y").starts_with("-NOPERM"));
    assert!(client.is_closed());
    mecha.settles();
}

#[test]
fn a_client_without_a_dedicated_connection_does_not_go_on_without_one() {
    let Some((_redis, redis)) = redis() else { return };
    let mecha = Mecha::configured(&format!(
        "workers: 1\nclusters:\n  few: {{ to: \"redis://127.0.0.1:{redis}\", max_pins: 1 }}\nlisteners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: few }}\n"
    ));
    let (mut one, mut other) = (mecha.client(), mecha.client());
    assert_eq!(one.call("MULTI"), "+OK\r\n");
    other.send(&[frame(&["MULTI"]), frame(&["SET", "k", "1"]), frame(&["EXEC"])].concat());
    assert_eq!(other.reply(), "-ERR mecha: too many dedicated upstream connections (multi)\r\n");
    assert!(other.is_closed(), "a transaction may not be run in pieces");
    let mut third = mecha.client();
    assert_eq!(third.call("BLPOP l 0"), "-ERR mecha: too many dedicated upstream connections (blpop)\r\n");
    assert_eq!(third.call("GET k"), "$-1\r\n");
    assert_eq!(one.call("EXEC"), "*0\r\n");
    assert_eq!([third.call("MULTI"), third.call("EXEC")].concat(), "+OK\r\n*0\r\n");
}
