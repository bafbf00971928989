//! Encoding and decoding, and every step at a real Redis.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mecha_core::{Decode, Framed, Limits};
use mecha_resp::Resp;

use super::*;
use crate::slot::Entry;

/// A Redis of its own, ended with the test.
struct Server {
    process: Child,
    stream: TcpStream,
}

impl Server {
    /// `None` where Redis is not installed.
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            // No file that another server may have left is read.
            .args(["--dir", "/tmp", "--dbfilename", &format!("mecha-{port}.rdb")])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let mut stream = None;
        for _ in 0..200 {
            stream = TcpStream::connect(("127.0.0.1", port)).ok();
            if stream.is_some() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let stream = stream.expect("Redis accepts connections");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("the option is known");
        Some(Self { process, stream })
    }

    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.stream.write_all(request).expect("Redis reads");
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let read = self.stream.read(&mut piece).expect("Redis answers");
            answer.extend_from_slice(&piece[..read]);
            let mut heads = Vec::new();
            let decoded = Resp::reply_decoder(Limits::default(), 0).decode(&answer, &mut heads);
            if decoded.is_ok_and(|decoded| decoded.consumed == answer.len()) && heads.len() == 1 {
                return answer;
            }
        }
    }

    fn native(&mut self, words: &[&[u8]]) -> Vec<u8> {
        let mut request = Vec::new();
        array(words.len(), &mut request);
        for word in words {
            bulk(word, &mut request);
        }
        self.ask(&request)
    }

    fn step(&mut self, step: &Step<'_>) -> Said {
        let kind = match step {
            Step::Delete { .. } => StepKind::Delete,
            Step::Flush { .. } => StepKind::Flush,
            Step::Get { want, .. } => StepKind::Get(*want),
            Step::GetTouch { .. } => StepKind::Get(Want::Value),
            Step::Put { .. } | Step::PutStr { .. } => StepKind::Put,
            Step::Touch { .. } => StepKind::Touch,
        };
        let mut request = Vec::new();
        let encoded = Resp::encode(step, now_ms(), 1 << 20, &mut request).expect("the step can be encoded");
        if let Step::Get { key, .. } | Step::Delete { key, .. } | Step::PutStr { key, .. } = step {
            assert_eq!(encoded.key.of(&request, &[]), *key);
        }
        let answer = self.ask(&request);
        match Resp::decode(kind, &[], &answer, now_ms()) {
            StepReply::Applied { .. } => Said::Applied,
            StepReply::Failed(error) => Said::Failed(error),
            StepReply::Guarded => Said::Guarded,
            StepReply::Missing => Said::Missing,
            StepReply::Str { value, flags, expire_at_ms, token, .. } => {
                Said::Str { value: value.to_vec(), flags, expire_at_ms, token }
            }
            StepReply::Typed(_) => panic!("no aggregates here"),
        }
    }

    fn put(&mut self, value: &[u8], expire: Expire, guard: Guard) -> Said {
        self.step(&Step::PutStr { key: b"k", value, flags: 7, expire, guard, token: Resp::fresh_token() })
    }

    fn get(&mut self, want: Want) -> Said {
        self.step(&Step::Get { key: b"k", want })
    }

    fn token(&mut self) -> u64 {
        let tokens = [Want::Everything, Want::Header].map(|want| match self.get(want) {
            Said::Str { token, .. } => token,
            other => panic!("{other:?}"),
        });
        assert_eq!(tokens[0], tokens[1]);
        tokens[0]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug, PartialEq)]
enum Said {
    Applied,
    Failed(KvError),
    Guarded,
    Missing,
    Str { value: Vec<u8>, flags: u32, expire_at_ms: Option<u64>, token: u64 },
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

#[test]
fn a_real_redis_keeps_flags_tokens_and_expiry() {
    let Some(mut server) = Server::start() else { return };
    assert_eq!(server.get(Want::Everything), Said::Missing);
    assert_eq!(server.get(Want::Header), Said::Missing);
    assert_eq!(server.put(b"a\r\n\0", Expire::Never, Guard::Present), Said::Guarded);
    assert_eq!(server.put(b"a\r\n\0", Expire::Never, Guard::Absent), Said::Applied);
    assert_eq!(server.put(b"b", Expire::Never, Guard::Absent), Said::Guarded);
    let token = server.token();
    let value = b"a\r\n\0".to_vec();
    assert_eq!(server.get(Want::Everything), Said::Str { value, flags: 7, expire_at_ms: None, token });
    assert_eq!(server.get(Want::Header), Said::Str { value: vec![], flags: 7, expire_at_ms: None, token });

    // The same value again has another token.
    assert_eq!(server.put(b"a\r\n\0", Expire::Never, Guard::Always), Said::Applied);
    assert_eq!(server.put(b"c", Expire::Never, Guard::Token(token)), Said::Guarded);
    let token = server.token();
    let at = now_ms() + 60_000;
    assert_eq!(server.put(b"c", Expire::AtMs(at), Guard::Token(token)), Said::Applied);
    let token = server.token();
    let found =
        |value: &[u8], token, at| Said::Str { value: value.to_vec(), flags: 7, expire_at_ms: at, token };
    assert_eq!(server.get(Want::Everything), found(b"c", token, Some(at)));
    assert_eq!(server.put(b"d", Expire::Keep, Guard::Token(token)), Said::Applied);
    assert_eq!(server.put(b"e", Expire::Keep, Guard::Present), Said::Applied);
    let token = server.token();
    assert_eq!(server.get(Want::Everything), found(b"e", token, Some(at)));
    let entry = Entry { flags: 7, token: Resp::fresh_token(), ..Entry::new(Value::Str(b"f".to_vec())) };
    assert_eq!(
        server.step(&Step::Put { key: b"k", entry: &entry, guard: Guard::Token(token) }),
        Said::Applied
    );
    let token = server.token();
    assert_eq!(server.get(Want::Everything), found(b"f", token, None));

    assert_eq!(server.step(&Step::Delete { key: b"k", guard: Guard::Token(1) }), Said::Guarded);
    assert_eq!(server.step(&Step::Delete { key: b"k", guard: Guard::Absent }), Said::Guarded);
    assert_eq!(server.step(&Step::Delete { key: b"k", guard: Guard::Token(token) }), Said::Applied);
    assert_eq!(server.step(&Step::Delete { key: b"k", guard: Guard::Token(token) }), Said::Missing);
    assert_eq!(server.put(b"x", Expire::Never, Guard::Token(token)), Said::Missing);
    assert_eq!(server.step(&Step::Delete { key: b"k", guard: Guard::Always }), Said::Missing);

    for (guard, put) in [(Guard::Always, Said::Applied), (Guard::Absent, Said::Applied)] {
        assert_eq!(server.put(b"gone", Expire::AtMs(1), guard), put);
        assert_eq!(server.get(Want::Everything), Said::Missing);
    }
    assert_eq!(server.put(b"x", Expire::Never, Guard::Always), Said::Applied);
    assert_eq!(server.step(&Step::Flush { delay_s: 0 }), Said::Applied);
    assert_eq!(server.get(Want::Header), Said::Missing);
}

#[test]
fn strings_of_redis_programs_have_a_token_by_content() {
    let Some(mut server) = Server::start() else { return };
    server.native(&[b"SET", b"k", b"native", b"PX", b"60000"]);
    let Said::Str { value, flags, expire_at_ms, token } = server.get(Want::Everything) else {
        panic!("it is there")
    };
    assert_eq!((value.as_slice(), flags), (b"native".as_slice(), 0));
    assert!(expire_at_ms.is_some_and(|at| at > now_ms() + 50_000));
    assert_eq!(server.token(), token);
    server.native(&[b"APPEND", b"k", b"!"]);
    assert_eq!(server.put(b"x", Expire::Never, Guard::Token(token)), Said::Guarded);
    let token = server.token();
    assert_eq!(server.put(b"x", Expire::Never, Guard::Token(token)), Said::Applied);
    server.native(&[b"SET", b"k", b""]);
    let token = server.token();
    assert_eq!(server.step(&Step::Delete { key: b"k", guard: Guard::Token(token) }), Said::Applied);
}

#[test]
fn aggregates_of_redis_programs_are_reported() {
    let Some(mut server) = Server::start() else { return };
    server.native(&[b"HSET", b"k", b"f", b"v"]);
    for want in [Want::Everything, Want::Header] {
        assert_eq!(server.get(want), Said::Failed(KvError::Unsupported));
    }
    assert_eq!(server.put(b"x", Expire::Never, Guard::Token(5)), Said::Failed(KvError::Unsupported));
    assert_eq!(server.put(b"x", Expire::Never, Guard::Always), Said::Applied);
}

#[test]
fn what_redis_cannot_hold_leaves_no_bytes() {
    let mut out = Vec::new();
    let hash = Entry::new(Value::Hash([(vec![1], vec![2])].into_iter().collect()));
    let large = Step::PutStr {
        key: b"k",
        value: &[0; 9],
        flags: 0,
        expire: Expire::Never,
        guard: Guard::Always,
        token: 1,
    };
    for (step, error) in [
        (Step::Put { key: b"k", entry: &hash, guard: Guard::Always }, KvError::Unsupported),
        (Step::Flush { delay_s: 5 }, KvError::Unsupported),
        (large, KvError::ValueTooLarge),
    ] {
        assert_eq!(Resp::encode(&step, 0, 8, &mut out), Err(error));
        assert!(out.is_empty());
    }
}

#[test]
fn garbage_replies_are_failures_of_the_back() {
    for frame in [
        b"".as_slice(),
        b"*2\r\n",
        b"*2\r\n$5\r\nab",
        b"$-7\r\n",
        b":x\r\n",
        b"*3\r\n$0\r\n\r\n:-1\r\n$1\r\nz\r\n",
        b"%1\r\n",
    ] {
        for kind in [StepKind::Get(Want::Header), StepKind::Put, StepKind::Delete, StepKind::Flush] {
            let said = Resp::decode(kind, &[], frame, 0);
            assert!(matches!(said, StepReply::Failed(KvError::BackFailed)), "{frame:?} {said:?}");
        }
    }
    let said = Resp::decode(StepKind::Put, &[], b"-OOM command not allowed\r\n", 0);
    assert!(matches!(said, StepReply::Failed(KvError::BackFailed)));
}

#[test]
fn tokens_differ_between_writes_and_threads() {
    let here: Vec<_> = (0..1000).map(|_| new_token()).collect();
    let there = std::thread::spawn(new_token).join().expect("the thread ends");
    let distinct: std::collections::HashSet<_> = here.iter().chain([&there]).collect();
    assert_eq!(distinct.len(), 1001);
    assert!(here.iter().all(|&token| token != 0 && i64::try_from(token).is_ok()));
}

#[test]
fn plain_reads_and_touches_are_single_commands_that_keep_flags_token_and_type() {
    let Some(mut server) = Server::start() else { return };
    let far = now_ms() + 1_000_000;
    assert_eq!(server.step(&Step::Touch { key: b"k", expire: Expire::Never }), Said::Missing);
    assert_eq!(server.step(&Step::Touch { key: b"k", expire: Expire::AtMs(far) }), Said::Missing);
    assert_eq!(server.get(Want::Value), Said::Missing);
    assert_eq!(server.put(b"v", Expire::Never, Guard::Always), Said::Applied);
    let token = server.token();
    let plain = Said::Str { value: b"v".to_vec(), flags: 7, expire_at_ms: None, token };
    assert_eq!(server.get(Want::Value), plain);
    assert_eq!(server.step(&Step::Touch { key: b"k", expire: Expire::AtMs(far) }), Said::Applied);
    let timed = |expire_at_ms| Said::Str { value: b"v".to_vec(), flags: 7, expire_at_ms, token };
    assert_eq!(server.get(Want::Everything), timed(Some(far)));
    assert_eq!(server.step(&Step::GetTouch { key: b"k", expire: Expire::AtMs(far + 5) }), plain);
    assert_eq!(server.get(Want::Everything), timed(Some(far + 5)));
    assert_eq!(server.step(&Step::GetTouch { key: b"k", expire: Expire::Never }), plain);
    assert_eq!(server.get(Want::Everything), timed(None));
    assert_eq!(server.step(&Step::Touch { key: b"k", expire: Expire::Never }), Said::Applied);
    assert_eq!(server.step(&Step::GetTouch { key: b"k", expire: Expire::AtMs(1) }), plain);
    assert_eq!(server.get(Want::Value), Said::Missing);
    // What a Redis program wrote.
    server.native(&[b"SET", b"k", b"theirs"]);
    let token = server.token();
    let theirs = Said::Str { value: b"theirs".to_vec(), flags: 0, expire_at_ms: None, token };
    assert_eq!(server.get(Want::Value), theirs);
    server.native(&[b"DEL", b"k"]);
    server.native(&[b"LPUSH", b"k", b"x"]);
    assert_eq!(server.get(Want::Value), Said::Failed(KvError::Unsupported));
}
