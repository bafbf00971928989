//! Sends generated requests to the embedded store, or to a memcached, through everything that a client's request goes
//! through, and to a real server, and compares every reply. Two clients each, so that WATCH has something to see.

mod dice;
pub(super) mod ours;
mod reply;
mod waiting;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use mecha_resp::write_request;

use self::dice::{ALONE, Dice, SETUP, TEMPLATES};
use self::ours::Ours;
use self::reply::Reply;

type Words = Vec<Vec<u8>>;

struct Server {
    child: Child,
    port: u16,
    clients: [BufReader<TcpStream>; 2],
}

impl Server {
    /// `None` if none is installed and that is allowed.
    fn start() -> Option<Self> {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--slowlog-log-slower-than", "-1"])
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            let required = std::env::var("MECHA_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
            assert!(!required, "redis-server is not installed");
            eprintln!("skipped: redis-server is not installed");
            return None;
        };
        let log = BufReader::new(child.stdout.take().expect("piped"));
        let ready =
            log.lines().map_while(Result::ok).any(|line| line.contains("Ready to accept connections"));
        assert!(ready, "redis-server ended at once");
        let client = || BufReader::new(TcpStream::connect(("127.0.0.1", port)).expect("it listens"));
        Some(Self { child, port, clients: [client(), client()] })
    }

    fn call(&mut self, client: usize, frame: &[u8]) -> Reply {
        self.clients[client].get_mut().write_all(frame).expect("the server reads");
        Reply::read(&mut self.clients[client])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn split(line: &str) -> Words {
    line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

fn frame_of(words: &Words, is_inline: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let is_plain = |word: &Vec<u8>| !word.is_empty() && word.iter().all(u8::is_ascii_alphanumeric);
    if is_inline && words.iter().all(is_plain) {
        frame.extend_from_slice(&words.join(&b' '));
        frame.extend_from_slice(b"\r\n");
    } else {
        write_request(words.iter().map(Vec::as_slice), &mut frame);
    }
    frame
}

fn show(words: &Words) -> String {
    words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ")
}

/// Runs `count` commands in version `proto` of the protocol.
fn compare(mut ours: Ours, seed: u64, proto: &str, count: usize) {
    let Some(mut server) = Server::start() else { return };
    let mut dice = Dice::new(seed);
    let (mut queued, mut history): ([Option<Vec<Words>>; 2], Vec<String>) = Default::default();
    let hello = frame_of(&split(&format!("hello {proto}")), false);
    for client in 0..2 {
        server.call(client, &hello);
        ours.call(client, &hello);
    }
    for round in 0..count {
        let client = usize::from(dice.roll(8) == 0);
        let template = match dice.roll(40) {
            0..=2 => dice.pick(SETUP),
            3..=5 => dice.pick(ALONE),
            6 => dice.pick(&["multi", "watch w0|w1|w2|k0", "unwatch", "discard", "multi"]),
            7..=9 if queued[client].is_some() => "exec",
            10 if queued[client].is_none() => "exec",
            _ => dice.pick(TEMPLATES),
        };
        let words: Words = dice.fill(template).into_iter().map(String::into_bytes).collect();
        if ours.refuses(&words) {
            continue;
        }
        let frame = frame_of(&words, dice.roll(6) == 0);
        if words.first().is_some_and(|name| name.to_ascii_lowercase().starts_with(b"sort"))
            && queued[client].is_none()
        {
            // SORT of 7.0 looks at an `errno` that an earlier command left; this one sets it to zero.
            server.call(client, &frame_of(&split("incrbyfloat errno 1"), false));
            server.call(client, &frame_of(&split("del errno"), false));
        }
        let theirs = server.call(client, &frame);
        let own = ours.call(client, &frame);
        history.push(format!("{client}: {}", show(&words)));
        let recent = || history[history.len().saturating_sub(40)..].join("\n");
        let name = String::from_utf8_lossy(&words[0]).to_lowercase();
        let (a, b) = match (name.as_str(), queued[client].as_ref(), &theirs, &own) {
            ("exec", Some(commands), Reply::Many('*', theirs), Reply::Many('*', own)) => {
                assert_eq!((theirs.len(), own.len()), (commands.len(), commands.len()), "{}", recent());
                let normal = |replies: &[Reply]| {
                    let pairs = replies.iter().zip(commands);
                    pairs.map(|(reply, words)| reply.clone().normal(words)).collect::<Vec<_>>()
                };
                (Reply::Many('*', normal(theirs)), Reply::Many('*', normal(own)))
            }
            _ => (theirs.clone().normal(&words), own.normal(&words)),
        };
        if !a.is_like(&b) {
            let dump = |key: &Vec<u8>| {
                let frame = frame_of(&vec![b"dump".to_vec(), key.clone()], false);
                format!("{}: {:?}", String::from_utf8_lossy(key), server.call(client, &frame))
            };
            let keys: Vec<String> = words.iter().skip(1).map(dump).collect();
            panic!(
                "seed {seed}, round {round}\n{}\nredis: {a:?}\nmecha: {b:?}\n{}",
                recent(),
                keys.join("\n")
            );
        }
        match (name.as_str(), &theirs) {
            ("multi", Reply::Line('+', _)) => queued[client] = Some(Vec::new()),
            ("exec" | "discard" | "reset", _) => queued[client] = None,
            (_, Reply::Line('+', text)) if text == "QUEUED" => {
                queued[client].as_mut().expect("open").push(words);
            }
            _ => {}
        }
        if name == "reset" && !theirs.is_error() {
            server.call(client, &hello);
            ours.call(client, &hello);
        }
    }
}

#[test]
fn resp2_replies_about_strings_and_keys_are_those_of_a_server() {
    (1..3).for_each(|seed| compare(Ours::embedded(), seed, "2", 12_000));
}

#[test]
fn resp3_replies_about_strings_and_keys_are_those_of_a_server() {
    (5..7).for_each(|seed| compare(Ours::embedded(), seed, "3", 12_000));
}

/// `MECHA_SEEDS=100..200 cargo test -p mecha-translate many_seeds -- --ignored`
#[test]
#[ignore = "takes as long as it is told to"]
fn many_seeds_find_no_difference() {
    let range = std::env::var("MECHA_SEEDS").unwrap_or_else(|_| "100..110".into());
    let (from, to) = range.split_once("..").expect("a range");
    for seed in from.parse().expect("a number")..to.parse::<u64>().expect("a number") {
        let proto = if seed % 2 == 0 { "2" } else { "3" };
        compare(Ours::embedded(), seed, proto, 12_000);
        if let Some(ours) = Ours::memcached() {
            compare(ours, seed, proto, 3000);
        }
    }
}

#[test]
fn replies_from_memcached_are_those_of_a_server() {
    for (seed, proto) in [(21, "2"), (22, "3")] {
        let Some(ours) = Ours::memcached() else { return };
        compare(ours, seed, proto, 5000);
    }
}
