//! Requests to mecha: planned, run, answered, by the embedded store or a real memcached.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use mecha_core::{Batch, ConnKey, Decode, Framed, Limits, Peer, Protocol, Ticket, Verdict};
use mecha_memcached::Memcached;
use mecha_resp::{Resp, Session, TopicKind};

use super::reply::Reply;
use crate::embedded::{Desk, Late, Post, Store, serve};
use crate::exchange::{Door, Parcel};
use crate::kv::{Answers, BackFrames, Started};
use crate::memcached_back::tests::is_process;
use crate::translator::{Options, Taken, Translator};

/// Clients, and what is behind them.
pub(crate) struct Ours {
    back: Back,
    pub(crate) sessions: [Session; CLIENTS],
    random: u64,
    /// Answers to calls that waited.
    letters: Arc<Mutex<Vec<Late>>>,
    post: Arc<dyn Post>,
    /// Messages, and the way to them.
    parcels: Arc<Mutex<Vec<Parcel>>>,
    door: Door,
}

pub(crate) const CLIENTS: usize = 6;

enum Back {
    Embedded(Store),
    Memcached(Box<Remote>),
}

struct Remote {
    process: Child,
    stream: TcpStream,
    translator: Translator<Resp, Memcached>,
}

// === impl Ours ===

impl Ours {
    pub(crate) fn embedded() -> Self {
        Self::of_size(256 << 20)
    }

    /// A store of so many bytes.
    pub(crate) fn of_size(bytes: usize) -> Self {
        Self::over(Back::Embedded(Store::new(bytes)))
    }

    /// `None` if none is installed and that is allowed.
    pub(crate) fn memcached() -> Option<Self> {
        let remote = Box::new(Remote::start()?);
        Some(Self::over(Back::Memcached(remote)))
    }

    fn over(back: Back) -> Self {
        let letters = Arc::<Mutex<Vec<Late>>>::default();
        let parcels = Arc::<Mutex<Vec<Parcel>>>::default();
        let door = Door::new(Arc::default(), Arc::clone(&parcels) as _);
        let post = Arc::clone(&letters) as _;
        Self { back, sessions: Default::default(), random: 1, post, letters, parcels, door }
    }

    /// What has come for clients that waited: whose it is, and the bytes.
    pub(super) fn late(&mut self) -> Vec<(usize, Vec<u8>)> {
        let letters = std::mem::take(&mut *self.letters.lock().expect("sound"));
        letters.into_iter().map(|late| (late.ticket.conn.index as usize, late.bytes)).collect()
    }

    /// What has been published since: for whom, and the bytes.
    pub(super) fn messages(&mut self) -> Vec<(usize, Vec<u8>)> {
        let parcels = std::mem::take(&mut *self.parcels.lock().expect("sound"));
        let each = |Parcel { to, rest }: Parcel| {
            to.into_iter().map(move |(conn, first)| (conn.index as usize, [&[first][..], &rest].concat()))
        };
        parcels.into_iter().flat_map(each).collect()
    }

    /// How many channels somebody listens to.
    pub(super) fn channels(&self) -> usize {
        [TopicKind::Channel, TopicKind::Shard]
            .map(|kind| self.door.heard(kind, None).len())
            .into_iter()
            .max()
            .unwrap_or(0)
    }

    pub(super) fn store(&self) -> &Store {
        match &self.back {
            Back::Embedded(store) => store,
            Back::Memcached(_) => panic!("that is a memcached"),
        }
    }

    /// Whether this is not what a remote back is asked for here: what it refuses, and what changes several keys.
    pub(super) fn refuses(&self, words: &[Vec<u8>]) -> bool {
        const REFUSED: [&str; 12] = [
            "dbsize",
            "exec",
            "flushall",
            "flushdb",
            "keys",
            "msetnx",
            "multi",
            "randomkey",
            "rename",
            "renamenx",
            "scan",
            "watch",
        ];
        let name = words.first().map(|name| String::from_utf8_lossy(name).to_lowercase()).unwrap_or_default();
        // Times after the year 2594.
        let is_far = (name.contains("ex") || name == "set") && words.iter().any(|word| word.len() > 10);
        // Patterns that stand for keys.
        let is_pattern = name.starts_with("sort") && words.iter().any(|word| word.contains(&b'*'));
        matches!(self.back, Back::Memcached(_)) && (is_far || is_pattern || REFUSED.contains(&name.as_str()))
    }

    pub(super) fn call(&mut self, client: usize, frame: &[u8]) -> Reply {
        Reply::whole(&self.bytes(client, frame))
    }

    /// What the store says that it holds, in bytes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match &self.back {
            Back::Embedded(store) => store.bytes(),
            Back::Memcached(_) => 0,
        }
    }

    /// The bytes of the reply to one request.
    pub(crate) fn bytes(&mut self, client: usize, frame: &[u8]) -> Vec<u8> {
        let mut heads = Vec::new();
        Resp::request_decoder(Limits::default()).decode(frame, &mut heads).expect("well formed");
        assert_eq!(heads.len(), 1);
        let conn = ConnKey { index: client as u32, epoch: 0 };
        let mut calls: Vec<_> = heads.iter().map(|head| Resp::call(head, Ticket { conn, seq: 0 })).collect();
        let (mut local, peer) =
            (Vec::new(), Peer { id: client as u64 + 1, addr: None, local: None, identity: None, user: None });
        let mut batch: Batch<'_, Resp> = Batch {
            wire: frame,
            local: &mut local,
            heads: &mut heads,
            calls: &mut calls,
            session: &mut self.sessions[client],
        };
        self.random += 1;
        match &mut self.back {
            Back::Embedded(store) => {
                let started = Started { unix_seconds: 0 };
                let desk = Desk {
                    now_ms: now_ms(),
                    started,
                    random: self.random,
                    post: &self.post,
                    door: Some(&self.door),
                };
                if serve(store, &mut batch, 0..1, &peer, &desk) == Taken::Pending(1) {
                    return Vec::new();
                }
            }
            Back::Memcached(remote) => {
                let mut out = BackFrames::default();
                let taken = remote.translator.requests(&mut batch, 0..1, &peer, now_ms(), &mut out);
                if taken == Taken::Pending(1) {
                    return remote.finish(out);
                }
            }
        }
        let Verdict::Answered(span) = calls[0].verdict else { panic!("not answered") };
        span.of(frame, &local).to_vec()
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

// === impl Remote ===

impl Remote {
    fn start() -> Option<Self> {
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
            let port = port.expect("a free port").port();
            let args = ["-p", &port.to_string(), "-U", "0", "-u", "root", "-m", "64", "-l", "127.0.0.1"]
                .map(String::from);
            let Ok(mut process) = Command::new("memcached").args(args).stderr(Stdio::null()).spawn() else {
                let required = std::env::var("MECHA_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
                assert!(!required, "memcached is not installed");
                eprintln!("skipped: memcached is not installed");
                return None;
            };
            // Until it listens, or has found the port taken in between.
            while process.try_wait().expect("a child").is_none() {
                if is_process(port, process.id())
                    && let Ok(stream) = TcpStream::connect(("127.0.0.1", port))
                {
                    return Some(Self { process, stream, translator: Translator::new(Options::default()) });
                }
                std::thread::yield_now();
            }
        }
        panic!("no port is free")
    }

    /// Plays the engine until the call is answered.
    fn finish(&mut self, mut out: BackFrames) -> Vec<u8> {
        let mut answers = Answers::default();
        while answers.list.is_empty() {
            let sent = std::mem::take(&mut out);
            assert!(!sent.frames.is_empty(), "nothing to wait for");
            for frame in sent.frames {
                self.stream.write_all(frame.span.of(&sent.wire, &[])).expect("memcached reads");
                let (head, reply) = self.reply();
                self.translator.reply(frame.token, &head, &reply, now_ms(), &mut out, &mut answers);
            }
        }
        answers.wire
    }

    fn reply(&mut self) -> (mecha_memcached::Reply, Vec<u8>) {
        let mut bytes = Vec::new();
        loop {
            let mut heads = Vec::new();
            let decoded = Memcached::reply_decoder(Limits::default(), 0).decode(&bytes, &mut heads);
            assert!(decoded.is_ok(), "{:?}", String::from_utf8_lossy(&bytes));
            if let Some(head) = heads.pop().filter(|_| decoded.is_ok_and(|decoded| !decoded.open)) {
                return (head, bytes);
            }
            let mut more = [0; 1 << 16];
            let count = self.stream.read(&mut more).expect("memcached answers");
            assert!(count > 0, "memcached closed the connection");
            bytes.extend_from_slice(&more[..count]);
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
