//! Against a real server, over a blocking connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use mecha_core::{Decode, Decoded, Framed, Limits};
use mecha_memcached::Reply;

use super::*;
use crate::kv::{Answers, BackFrames};
use crate::toy::{PEER, Requests, Toy, words};
use crate::translator::{Options, Taken, Translator};

/// The head of a reply, which must be one frame.
pub(crate) fn head(reply: &[u8]) -> Reply {
    let mut heads = Vec::new();
    let decoded = Memcached::reply_decoder(Limits::default(), 0).decode(reply, &mut heads);
    assert_eq!(decoded, Ok(Decoded { tail: 0, consumed: reply.len(), open: false }));
    match heads.as_slice() {
        [head] => *head,
        heads => panic!("{} frames", heads.len()),
    }
}

/// A memcached on a free port, gone with the value.
struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `None`, with a note, where memcached is not installed and nothing asks for it.
fn server() -> Option<Server> {
    for _ in 0..20 {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).unwrap().port();
        let args = ["-p", &port.to_string(), "-U", "0", "-u", "root", "-m", "64", "-l", "127.0.0.1"]
            .map(String::from);
        let process = Command::new("memcached").args(args).stderr(Stdio::null()).spawn();
        let Ok(process) = process else {
            assert!(std::env::var_os("MECHA_REQUIRE_SERVERS").is_none(), "memcached is required");
            println!("skipped: memcached is not on PATH");
            return None;
        };
        let mut server = Server { process, port };
        // Until it listens, or has found the port taken in between.
        while server.process.try_wait().unwrap().is_none() {
            if is_process(port, server.process.id()) {
                return Some(server);
            }
            std::thread::yield_now();
        }
    }
    panic!("memcached does not start");
}

/// Whether it is this process that listens there, and not somebody who has the port for a moment.
pub(crate) fn is_process(port: u16, id: u32) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let asked = stream
        .set_read_timeout(Some(std::time::Duration::from_secs(2)))
        .and_then(|()| stream.write_all(b"stats\r\n"));
    let mut line = String::new();
    // The first line tells the process.
    asked.is_ok()
        && BufReader::new(stream).read_line(&mut line).is_ok()
        && line.trim_end() == format!("STAT pid {id}")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

struct Connection {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Connection {
    fn to(server: &Server) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { replies: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).unwrap();
    }

    /// One meta reply.
    fn receive(&mut self) -> Vec<u8> {
        let mut reply = Vec::new();
        self.replies.read_until(b'\n', &mut reply).unwrap();
        if let Some(rest) = reply.strip_prefix(b"VA ") {
            let size = next_number(rest).0.unwrap() as usize;
            let start = reply.len();
            reply.resize(start + size + 2, 0);
            self.replies.read_exact(&mut reply[start..]).unwrap();
        }
        reply
    }

    /// What a native client gets for these bytes.
    fn native(&mut self, bytes: &[u8]) -> String {
        self.send(bytes);
        String::from_utf8_lossy(&self.receive()).into_owned()
    }

    /// Runs one step and shows its reply.
    fn step(&mut self, step: Step<'_>, now_ms: u64) -> String {
        let (key, kind) = match step {
            Step::Delete { key, .. } => (key, StepKind::Delete),
            Step::Flush { .. } => (&b""[..], StepKind::Flush),
            Step::Get { key, want } => (key, StepKind::Get(want)),
            Step::GetTouch { key, .. } => (key, StepKind::Get(Want::Value)),
            Step::Touch { key, .. } => (key, StepKind::Touch),
            Step::Put { key, .. } | Step::PutStr { key, .. } => (key, StepKind::Put),
        };
        let mut frame = Vec::new();
        if let Err(error) = encode(&step, now_ms, 2 << 20, &mut frame) {
            assert!(frame.is_empty());
            return format!("{error:?}");
        }
        self.send(&frame);
        let reply = self.receive();
        match decode(kind, key, &reply, now_ms) {
            StepReply::Applied { .. } => "applied".into(),
            StepReply::Failed(error) => format!("{error:?}"),
            StepReply::Guarded => "guarded".into(),
            StepReply::Missing => "missing".into(),
            StepReply::Str { value, flags, expire_at_ms, .. } => {
                format!("{} {flags} {expire_at_ms:?}", String::from_utf8_lossy(value))
            }
            StepReply::Typed(entry) => format!("{:?} {} {:?}", entry.value, entry.flags, entry.expire_at_ms),
        }
    }

    fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        flags: u32,
        expire: Expire,
        guard: Guard,
        now_ms: u64,
    ) -> String {
        self.step(Step::PutStr { key, value, flags, expire, guard, token: 0 }, now_ms)
    }

    fn get(&mut self, key: &[u8], now_ms: u64) -> String {
        self.step(Step::Get { key, want: Want::Everything }, now_ms)
    }

    fn token(&mut self, key: &[u8]) -> u64 {
        let mut frame = Vec::new();
        encode(&Step::Get { key, want: Want::Header }, 0, 0, &mut frame).unwrap();
        self.send(&frame);
        let reply = self.receive();
        match decode(StepKind::Get(Want::Header), key, &reply, 0) {
            StepReply::Str { token, .. } => token,
            other => panic!("no string: {other:?}"),
        }
    }
}

/// A toy client behind a translator, in front of a real server.
struct Client {
    translator: Translator<Toy, Memcached>,
    connection: Connection,
}

impl Client {
    fn to(server: &Server) -> Self {
        let options = Options { max_retries: 1000, random_seed: 5, ..Options::default() };
        Self { translator: Translator::new(options), connection: Connection::to(server) }
    }

    /// The answers to one pipeline.
    fn says(&mut self, frames: &[Vec<u8>], now_ms: u64) -> Vec<String> {
        let mut requests = Requests::new(0, frames);
        let mut answered: Vec<Option<String>> = vec![None; frames.len()];
        let (mut sent, mut next) = (std::collections::VecDeque::new(), 0);
        loop {
            let mut out = BackFrames::default();
            while next < frames.len() {
                let mut batch = requests.batch();
                match self.translator.requests(&mut batch, next..frames.len(), &PEER, now_ms, &mut out) {
                    Taken::Answered(count) | Taken::Close(count) => {
                        (next..next + count).for_each(|index| answered[index] = requests.answer(index));
                        next += count;
                    }
                    Taken::Full => break,
                    Taken::Pending(count) => next += count,
                }
            }
            self.transmit(&out, &mut sent);
            let Some(token) = sent.pop_front() else { break };
            let reply = self.connection.receive();
            let (mut out, mut answers) = (BackFrames::default(), Answers::default());
            self.translator.reply(token, &head(&reply), &reply, now_ms, &mut out, &mut answers);
            self.transmit(&out, &mut sent);
            for answer in &answers.list {
                let text = String::from_utf8_lossy(answer.span.of(&answers.wire, &[])).into_owned();
                answered[answer.ticket.seq as usize] = Some(text);
            }
        }
        answered.into_iter().map(|answer| answer.expect("every call is answered")).collect()
    }

    fn transmit(&mut self, out: &BackFrames, sent: &mut std::collections::VecDeque<u32>) {
        self.connection.send(&out.wire);
        sent.extend(out.frames.iter().map(|frame| frame.token));
    }

    fn lines(&mut self, lines: &[&str], now_ms: u64) -> Vec<String> {
        self.says(&lines.iter().map(|line| words(line)).collect::<Vec<_>>(), now_ms)
    }
}

#[test]
fn every_step_has_its_effect_and_its_reply() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    let never = Expire::Never;
    assert_eq!(at.get(b"k", now), "missing");
    assert_eq!(at.put(b"k", b"1", 0, never, Guard::Present, now), "guarded");
    assert_eq!(at.put(b"k", b"1", 0, never, Guard::Absent, now), "applied");
    assert_eq!(at.put(b"k", b"2", 0, never, Guard::Absent, now), "guarded");
    assert_eq!(at.put(b"k", b"2", 0, never, Guard::Present, now), "applied");
    let token = at.token(b"k");
    assert_eq!(at.put(b"k", b"3", 0, never, Guard::Token(token + 1), now), "guarded");
    assert_eq!(at.put(b"k", b"3", 0, never, Guard::Token(token), now), "applied");
    assert_eq!(at.put(b"k", b"4", 0, never, Guard::Token(token), now), "guarded");
    assert_eq!(at.put(b"other", b"4", 0, never, Guard::Token(token), now), "missing");
    assert_eq!(at.get(b"k", now), "3 0 None");
    assert_eq!(at.step(Step::Get { key: b"k", want: Want::Header }, now), " 0 None");
    assert_eq!(at.step(Step::Delete { key: b"k", guard: Guard::Token(token) }, now), "guarded");
    assert_eq!(at.step(Step::Delete { key: b"k", guard: Guard::Absent }, now), "guarded");
    let token = at.token(b"k");
    assert_eq!(at.step(Step::Delete { key: b"k", guard: Guard::Token(token) }, now), "applied");
    assert_eq!(at.step(Step::Delete { key: b"k", guard: Guard::Always }, now), "missing");
    assert_eq!(at.put(b"k", b"", 0, never, Guard::Always, now), "applied");
    assert_eq!(at.get(b"k", now), " 0 None");
    assert_eq!(at.step(Step::Flush { delay_s: 0 }, now), "applied");
    assert_eq!(at.get(b"k", now), "missing");
    assert_eq!(at.step(Step::Flush { delay_s: 100 }, now), "applied");
    assert_eq!(at.put(b"k", b"1", 0, Expire::Keep, Guard::Always, now), "Unsupported");
}

#[test]
fn expiry_is_exact_to_the_millisecond_at_any_distance() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    let day = 24 * 60 * 60 * 1000;
    for left in
        [1, 499, 999, 1000, 1001, 59_999, 3_600_500, 30 * day - 1, 30 * day, 30 * day + 1, 400 * day + 123]
    {
        let at_ms = now + left;
        assert_eq!(at.put(b"k", b"v", 0, Expire::AtMs(at_ms), Guard::Always, now), "applied");
        assert_eq!(at.get(b"k", now), format!("v 0 Some({at_ms})"), "{left} ms away");
        assert_eq!(at.step(Step::Get { key: b"k", want: Want::Header }, now), format!(" 0 Some({at_ms})"));
    }
    assert_eq!(at.put(b"k", b"v", 0, Expire::AtMs(now), Guard::Always, now), "applied");
    assert_eq!(at.get(b"k", now), "missing", "what has expired is not stored");
}

#[test]
fn expiry_that_memcached_cannot_count_to_is_exact_too() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    let in_2600 = 19_880_899_200_000;
    for at_ms in
        [2_147_483_400_001, 2_147_483_519_999, 2_147_483_647_123, 4_102_444_800_007, 19_000_000_000_000]
    {
        for flags in [0, 7] {
            assert_eq!(at.put(b"k", b"v", flags, Expire::AtMs(at_ms), Guard::Always, now), "applied");
            // Alone, client flags mean that a Memcached program is to read them: then Memcached's own time is kept.
            if flags == 0 || at_ms > 2_147_483_640_000 {
                assert_eq!(at.get(b"k", now), format!("v {flags} Some({at_ms})"));
            }
        }
        assert_eq!(at.put(b"k", b"v", 0, Expire::AtMs(at_ms), Guard::Always, now), "applied");
        assert_eq!(at.step(Step::Get { key: b"k", want: Want::Header }, now), format!(" 0 Some({at_ms})"));
    }
    assert_eq!(at.put(b"k", b"v", 0, Expire::AtMs(in_2600), Guard::Always, now), "ExpiryTooFar");
}

#[test]
fn an_expired_item_is_missing_and_can_be_replaced() {
    let Some(server) = server() else { return };
    let (mut client, now) = (Client::to(&server), now_ms());
    let (soon, later) = (now + 700, now + 900);
    assert_eq!(
        client.lines(&[&format!("set a 1 - {soon}"), &format!("set b 1 - {later}")], now),
        ["ok", "ok"]
    );
    assert_eq!(client.lines(&["get a", "get b"], soon - 1), ["str:1", "str:1"]);
    assert_eq!(
        client.lines(&["get a", "get b", "del a", "set a 2 xx", "get b"], soon),
        ["nil", "str:1", "nil", "guarded", "str:1"]
    );
    assert_eq!(
        client.lines(&["set a 2 nx", "get a", "incr b", "read b"], later),
        ["ok", "str:2", "int:1", "Some((Str([49]), None))"]
    );
}

#[test]
fn aggregates_expire_to_the_millisecond_too() {
    let Some(server) = server() else { return };
    let (mut client, now) = (Client::to(&server), now_ms());
    let soon = now + 1234;
    assert_eq!(
        client.lines(&["push l x", &format!("expire l {soon}"), "head l"], now)[1..],
        ["ok".to_string(), format!("list Some({soon})")]
    );
    assert_eq!(client.lines(&["type l"], soon - 1), ["list"]);
    assert_eq!(client.lines(&["type l", "push l y"], soon), ["nil", "int:1"]);
    assert_eq!(client.lines(&["expire l 0", "read l"], soon), ["ok", "Some((List([[121]]), None))"]);
}

#[test]
fn a_touch_by_a_native_client_wins_over_the_exact_moment() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    at.put(b"k", b"v", 0, Expire::AtMs(now + 60_000), Guard::Always, now);
    assert_eq!(at.native(b"touch k 1000\r\n"), "TOUCHED\r\n");
    let seen = at.get(b"k", now);
    let expire_at_ms: u64 = seen.trim_start_matches("v 0 Some(").trim_end_matches(')').parse().unwrap();
    assert!((999_000..=1_001_000).contains(&(expire_at_ms - now)), "{seen}");
    assert_eq!(at.native(b"touch k 0\r\n"), "TOUCHED\r\n");
    assert_eq!(at.get(b"k", now), "v 0 None");
}

#[test]
fn native_clients_see_strings_as_they_are_and_keep_their_flags() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    at.put(b"k", b"plain", 0, Expire::Never, Guard::Always, now);
    assert_eq!(at.native(b"mg k v f t\r\n"), "VA 5 f0 t-1\r\nplain\r\n");
    at.put(b"k", b"plain", 0, Expire::AtMs(now + 5000), Guard::Always, now);
    assert_eq!(at.native(b"mg k v\r\n"), "VA 5\r\nplain\r\n");
    assert_eq!(at.native(b"set theirs 77 0 3\r\nabc\r\n"), "STORED\r\n");
    assert_eq!(at.get(b"theirs", now), "abc 77 None");
    // Flags of a native client and an expiry: the flags stay, the expiry has seconds, and is never early.
    at.put(b"theirs", b"abd", 77, Expire::AtMs(now + 5500), Guard::Always, now);
    assert_eq!(at.native(b"mg theirs f v\r\n"), "VA 3 f77\r\nabd\r\n");
    let seen = at.get(b"theirs", now);
    let expire_at_ms: u64 = seen.trim_start_matches("abd 77 Some(").trim_end_matches(')').parse().unwrap();
    assert!((now + 5500..=now + 8000).contains(&expire_at_ms), "{seen}");
}

#[test]
fn client_flags_that_look_like_the_tag_survive() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    for flags in [0xd000_0000, 0xdfff_ffff, u32::MAX, 1] {
        assert_eq!(at.put(b"k", b"v", flags, Expire::Never, Guard::Always, now), "applied");
        assert_eq!(at.get(b"k", now), format!("v {flags} None"));
    }
    let expire = Expire::AtMs(now + 12_345);
    assert_eq!(at.put(b"k", b"v", 0xd000_0001, expire, Guard::Always, now), "applied");
    assert_eq!(at.get(b"k", now), format!("v {} Some({})", 0xd000_0001_u32, now + 12_345));
}

#[test]
fn keys_of_any_bytes_and_length_hold_their_own_values() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    let all: Vec<u8> = (0..=255).collect();
    let mut near = all.clone();
    near[255] = 0;
    let keys: Vec<Vec<u8>> = vec![
        b"k".to_vec(),
        b"a b".to_vec(),
        b"\r\n".to_vec(),
        vec![0],
        vec![],
        "\u{e9}".into(),
        vec![b'p'; 250],
        vec![b'p'; 251],
        vec![b' '; 186],
        vec![b' '; 187],
        all,
        near,
        vec![7; 100_000],
    ];
    for (index, key) in keys.iter().enumerate() {
        let expire = if index % 2 == 0 { Expire::Never } else { Expire::AtMs(now + 9999) };
        assert_eq!(
            at.put(key, index.to_string().as_bytes(), 0, expire, Guard::Absent, now),
            "applied",
            "{index}"
        );
    }
    for (index, key) in keys.iter().enumerate() {
        let expire = if index % 2 == 0 { "None".into() } else { format!("Some({})", now + 9999) };
        assert_eq!(at.get(key, now), format!("{index} 0 {expire}"));
        assert_eq!(at.step(Step::Get { key, want: Want::Header }, now), format!(" 0 {expire}"));
        let token = at.token(key);
        assert_eq!(at.step(Step::Delete { key, guard: Guard::Token(token) }, now), "applied");
        assert_eq!(at.get(key, now), "missing");
    }
}

#[test]
fn aggregates_keep_content_and_order_and_type() {
    let Some(server) = server() else { return };
    let (mut client, now) = (Client::to(&server), now_ms());
    let long = "x".repeat(300);
    let answers = client.lines(
        &[
            "push l one",
            "push l two",
            "hset h f 1",
            "hset h e 2",
            "hset h f 3",
            "sadd s b",
            "sadd s a",
            "zadd z 5 m",
            "zadd z 2 n",
            "incr l",
            "push h x",
            "type l",
            "type h",
            "type s",
            "type z",
            &format!("push {long} one"),
            &format!("type {long}"),
            &format!("read {long}"),
            "pop l",
            "pop l",
            "get l",
        ],
        now,
    );
    let expected = [
        "int:1",
        "int:2",
        "int:1",
        "int:2",
        "int:2",
        "int:1",
        "int:2",
        "int:1",
        "int:2",
        "wrongtype",
        "wrongtype",
        "list",
        "hash",
        "set",
        "zset",
        "int:1",
        "list",
        "Some((List([[111, 110, 101]]), None))",
        "one",
        "two",
        "nil",
    ];
    assert_eq!(answers, expected);
    let read = client.lines(&["read h", "read s"], now);
    assert_eq!(read[0], "Some((Hash({[102]: [51], [101]: [50]}), None))");
    assert_eq!(read[1], "Some((Set({[98], [97]}), None))");
}

#[test]
fn what_is_not_of_our_making_is_corrupt_and_not_guessed() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    for (flags, value) in
        [(0xd200_0000_u32, "not a list"), (0xd600_0000, "no such type"), (0xd800_0000, "no envelope")]
    {
        at.native(format!("ms k {} F{flags}\r\n{value}\r\n", value.len()).as_bytes());
        assert_eq!(at.get(b"k", now), "Corrupt", "{flags:x}");
    }
    // An item under a long key's digest that has no envelope.
    let (mut put, key) = (Vec::new(), [b'k'; 300]);
    encode(&Step::Get { key: &key, want: Want::Everything }, now, 0, &mut put).unwrap();
    let place = String::from_utf8(put).unwrap().split(' ').nth(1).unwrap().to_string();
    at.native(format!("ms {place} 1 b\r\nx\r\n").as_bytes());
    assert_eq!(at.get(&key, now), "Corrupt");
}

#[test]
fn an_item_that_the_server_finds_too_large_is_told_as_such() {
    let Some(server) = server() else { return };
    let (mut at, now) = (Connection::to(&server), now_ms());
    let value = vec![b'v'; (1 << 20) + 1];
    assert_eq!(at.put(b"k", &value, 0, Expire::Never, Guard::Always, now), "ValueTooLarge");
    assert_eq!(at.get(b"k", now), "missing");
    assert_eq!(at.put(b"k", &value[..1_000_000], 0, Expire::Never, Guard::Always, now), "applied");
    let value = vec![b'v'; (2 << 20) + 1];
    assert_eq!(at.put(b"k", &value, 0, Expire::Never, Guard::Always, now), "ValueTooLarge");
}

#[test]
fn increments_of_two_translators_on_one_key_all_count() {
    let Some(server) = server() else { return };
    let now = now_ms();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = Client::to(&server);
                for _ in 0..100 {
                    let answers = client.says(&vec![words("incr n"); 10], now);
                    assert!(answers.iter().all(|answer| answer.starts_with("int:")), "{answers:?}");
                }
            });
        }
    });
    assert_eq!(Client::to(&server).lines(&["get n"], now), ["str:2000"]);
}

#[test]
fn errors_of_the_server_are_failures_of_the_step() {
    let get = StepKind::Get(Want::Everything);
    for (frame, expected) in [
        (&b"SERVER_ERROR out of memory storing object\r\n"[..], KvError::BackFailed),
        (b"SERVER_ERROR object too large for cache\r\n", KvError::ValueTooLarge),
        (b"CLIENT_ERROR bad data chunk\r\n", KvError::BackFailed),
        (b"ERROR\r\n", KvError::Unsupported),
        (b"HD\r\n", KvError::BackFailed),
        (b"VA 10 t-1\r\nshort\r\n", KvError::BackFailed),
        (b"VA 99999999999999999999 t-1\r\n", KvError::BackFailed),
        (b"no line", KvError::BackFailed),
        (b"", KvError::BackFailed),
    ] {
        let reply = decode(get, b"", frame, 1);
        assert!(matches!(reply, StepReply::Failed(error) if error == expected), "{reply:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_reply_makes_the_decoder_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), now: u64) {
        for kind in [StepKind::Get(Want::Everything), StepKind::Get(Want::Header), StepKind::Put, StepKind::Flush] {
            let _ = decode(kind, b"", &bytes, now);
            let frame = [&b"VA 3 t9 c1 f3724541952 "[..], &bytes].concat();
            let _ = decode(kind, &[b'k'; 300], &frame, now);
        }
    }
}
