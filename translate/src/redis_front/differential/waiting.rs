//! Clients that wait, and clients that listen, on the embedded store and on a real server: who gets what, after which command, byte for byte.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use super::dice::Dice;
use super::ours::{CLIENTS, Ours};
use super::{Server, frame_of, split};
use crate::kv::GaveUp;

/// What the clients have got from both sides.
struct Both {
    server: Server,
    streams: Vec<TcpStream>,
    ours: Ours,
    /// Who waits for an answer.
    waits: [bool; CLIENTS],
    history: Vec<String>,
}

// === impl Both ===

impl Both {
    /// Clients that speak version `proto`; `None` if no server is installed and that is allowed.
    fn start(proto: &str) -> Option<Self> {
        let server = Server::start()?;
        let connect = || TcpStream::connect(("127.0.0.1", server.port)).expect("it listens");
        let streams: Vec<_> = std::iter::repeat_with(connect).take(CLIENTS).collect();
        for stream in &streams {
            stream.set_nonblocking(true).expect("a socket");
            stream.set_nodelay(true).expect("a socket");
        }
        let mut both =
            Self { server, streams, ours: Ours::embedded(), waits: Default::default(), history: Vec::new() };
        (0..CLIENTS).for_each(|client| both.greet(client, proto));
        Some(both)
    }

    /// The answer has numbers of each side's own.
    fn greet(&mut self, client: usize, proto: &str) {
        let hello = frame_of(&split(&format!("hello {proto}")), false);
        self.ours.bytes(client, &hello);
        self.streams[client].write_all(&hello).expect("the server reads");
        self.theirs();
    }

    /// Everything that the server has said to each client so far.
    fn theirs(&mut self) -> [Vec<u8>; CLIENTS] {
        // What it does for one client is sent by the time at which it hears the second.
        for _ in 0..2 {
            self.server.call(0, &frame_of(&split("ping"), false));
        }
        let mut said: [Vec<u8>; CLIENTS] = Default::default();
        for (stream, said) in self.streams.iter_mut().zip(&mut said) {
            match stream.read_to_end(said) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => panic!("the server ended: {other:?}"),
            }
        }
        said
    }

    /// Sends one command as `client`, and compares what everybody has got by then.
    fn step(&mut self, client: usize, line: &str) {
        self.history.push(format!("{client}: {line}"));
        let frame = frame_of(&split(line), false);
        self.streams[client].write_all(&frame).expect("the server reads");
        let mut own: [Vec<u8>; CLIENTS] = Default::default();
        own[client] = self.ours.bytes(client, &frame);
        self.waits[client] = own[client].is_empty();
        self.compare(own);
    }

    fn compare(&mut self, mut own: [Vec<u8>; CLIENTS]) {
        for (client, bytes) in self.ours.late() {
            assert!(self.waits[client], "an answer for {client}, who does not wait");
            self.waits[client] = false;
            own[client].extend_from_slice(&bytes);
        }
        for (client, bytes) in self.ours.messages() {
            own[client].extend_from_slice(&bytes);
        }
        let theirs = self.theirs();
        if theirs != own {
            let show = |said: &[Vec<u8>; CLIENTS]| {
                let lines = said.iter().enumerate().filter(|(_, said)| !said.is_empty());
                lines
                    .map(|(client, said)| format!("  {client}: {:?}\n", String::from_utf8_lossy(said)))
                    .collect::<String>()
            };
            let recent = &self.history[self.history.len().saturating_sub(30)..];
            panic!("{}\nredis:\n{}mecha:\n{}", recent.join("\n"), show(&theirs), show(&own));
        }
    }
}

// A server forgets those who wait where SORT or ZUNIONSTORE put their result over a key of another type; the store does not.

/// What a client sends; `k` and `n` stand for a key and a number.
const WAITS: &[&str] = &[
    "blpop k 0",
    "blpop k k k 0",
    "brpop k k 0",
    "blmove k k left right 0",
    "blmove k k right left 0",
    "brpoplpush k k 0",
    "blmpop 0 2 k k left",
    "blmpop 0 1 k right count 2",
    "bzpopmin k k 0",
    "bzpopmax k 0",
    "bzmpop 0 2 k k max count 2",
    "bzmpop 0 1 k min",
    "blpop k x",
    "blmove k k up left x",
    "blmpop 0 0 k left",
    "bzmpop -1 1 k min",
];

const FILLS: &[&str] = &[
    "lpush k a",
    "rpush k a b c",
    "lpush k n",
    "zadd k 1 a",
    "zadd k 3 c 2 b",
    "rpush k n n",
    "set k n",
    "sadd k a",
    "del k",
    "del k k",
    "rename k k",
    "lmove k k left left",
    "lpop k",
    "zpopmin k",
    "copy k k replace",
    "linsert k before a n",
    "llen k",
    "multi",
    "exec",
    "discard",
    "flushall",
    "type k",
];

fn compare(proto: &str, seed: u64, count: usize) {
    let Some(mut both) = Both::start(proto) else { return };
    let mut dice = Dice::new(seed);
    for _ in 0..count {
        let free: Vec<usize> = (1..CLIENTS).filter(|client| !both.waits[*client]).collect();
        let may_wait = free.len() > 1 && dice.roll(2) == 0;
        // The first never waits.
        let client = if may_wait { free[dice.roll(free.len())] } else { 0 };
        let template = if may_wait && dice.roll(6) > 0 { dice.pick(WAITS) } else { dice.pick(FILLS) };
        let mut words = Vec::new();
        for word in template.split(' ') {
            words.push(match word {
                "k" => dice.pick(&["k1", "k2", "k3"]).to_owned(),
                "n" => dice.roll(9).to_string(),
                word => word.to_owned(),
            });
        }
        both.step(client, &words.join(" "));
        if both.waits.iter().filter(|waits| **waits).count() == CLIENTS - 1 && dice.roll(4) == 0 {
            // Somebody is let go, so that it goes on.
            let client = 1 + dice.roll(CLIENTS - 1);
            both.let_go(client, dice.roll(2) == 0);
        }
    }
    assert!(both.history.len() >= count);
}

impl Both {
    /// `CLIENT UNBLOCK`.
    fn let_go(&mut self, client: usize, with_error: bool) {
        self.history.push(format!("{client} is let go"));
        // The order in which the server has met them.
        let id = self.server_id(client);
        let how = if with_error { "error" } else { "timeout" };
        let did = self.server.call(0, &frame_of(&split(&format!("client unblock {id} {how}")), false));
        let why = if with_error { GaveUp::Unblocked } else { GaveUp::TimeUp };
        let own = self.ours.store().give_up(client as u64 + 1, why);
        assert_eq!(format!("{did:?}"), format!("Line(':', \"{}\")", u8::from(own)));
        self.compare(Default::default());
    }

    /// Those of the server's own two came first.
    fn server_id(&mut self, client: usize) -> String {
        let port = self.streams[client].local_addr().expect("a socket").port();
        let list = format!("{:?}", self.server.call(0, &frame_of(&split("client list"), false)));
        let line = list.split("\\n").find(|line| line.contains(&format!("addr=127.0.0.1:{port} ")));
        let line = line.unwrap_or_else(|| panic!("{port} in {list}"));
        line.split("id=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number").to_owned()
    }
}

#[test]
fn who_waits_gets_what_a_server_gives_them() {
    (0..6).for_each(|seed| compare(if seed % 2 == 0 { "2" } else { "3" }, seed, 1500));
}

#[test]
fn a_pushed_element_goes_to_who_waits_first_and_what_moves_goes_on() {
    let Some(mut both) = Both::start("2") else { return };
    for (client, line) in [
        (1, "blpop q 0"),
        (2, "brpoplpush q r 0"),
        (3, "blmove r s left left 0"),
        (4, "bzpopmin s 0"),
        (5, "blpop s 0"),
        (0, "rpush q a"),
        (0, "rpush q b"),
        (0, "exists q r s"),
    ] {
        both.step(client, line);
    }
    assert_eq!(both.waits, [false, false, false, false, true, false]);
}

/// What clients that listen send; `c` and `p` stand for a channel and a pattern.
const LISTENS: &[&str] = &[
    "subscribe c",
    "subscribe c c c",
    "psubscribe p",
    "psubscribe p p",
    "ssubscribe c c",
    "unsubscribe c",
    "unsubscribe c c",
    "punsubscribe p",
    "sunsubscribe c",
    "get k",
    "ping",
    "ping hello",
    "ping a b",
    "reset",
    "subscribe",
    "nosuch c",
    "client id x",
    "echo hello",
];

const SPEAKS: &[&str] = &[
    "publish c hello",
    "publish c hello",
    "publish c hello",
    "spublish c hello",
    "pubsub numsub c c",
    "pubsub shardnumsub c",
    "pubsub numpat",
    "pubsub numsub",
    "pubsub nosuch",
    "pubsub channels",
    "pubsub channels one",
    "pubsub shardchannels t*",
    "publish c",
    "multi",
    "multi",
    "set k 1",
    "exec",
    "discard",
];

fn listen(proto: &str, seed: u64, count: usize) {
    let Some(mut both) = Both::start(proto) else { return };
    let mut dice = Dice::new(seed);
    for _ in 0..count {
        // The first never listens, and the others never speak.
        let client = if dice.roll(2) == 0 { 0 } else { 1 + dice.roll(CLIENTS - 1) };
        let template = dice.pick(if client == 0 { SPEAKS } else { LISTENS });
        let mut words = Vec::new();
        for word in template.split(' ') {
            words.push(match word {
                "c" => dice.pick(&["one", "two", "three"]),
                // One for each, since the order of several is a server's own affair.
                "p" => dice.pick(&["o?e", "tw*", "[t]h?ee"]),
                word => word,
            });
        }
        // The order in which channels are told is a server's own affair.
        if matches!(words[..], ["pubsub", "channels"] | ["pubsub", "shardchannels", _]) && both.names() > 1 {
            continue;
        }
        both.step(client, &words.join(" "));
        if words[0] == "reset" {
            both.greet(client, proto);
        }
    }
}

impl Both {
    fn names(&self) -> usize {
        self.ours.channels()
    }
}

#[test]
fn who_listens_hears_what_a_server_lets_them_hear() {
    (0..6).for_each(|seed| listen(if seed % 2 == 0 { "2" } else { "3" }, seed, 1500));
}
