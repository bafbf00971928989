//! Publish and subscribe among RESP clients, where no server does it for them: on the embedded store, and on Memcached.
//!
//! One [`Exchange`] belongs to one cluster of this process. Clients of all its workers and listeners meet there, each behind
//! the [`Door`] of its worker's upstream. What is published is written once for everybody and carried to each worker that
//! has somebody who listens ([`Courier`]), with the list of who that is. All of that happens under one lock, so everybody
//! gets messages in the same order, and `PUBLISH` can say how many will.
//!
//! Deliberately absent: other processes. Names are bounded ([`MAX_BYTES`]); what is under way is for couriers to bound.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mecha_core::ConnKey;
use mecha_resp::reply::Writer;
use mecha_resp::{TopicKind, glob};

/// Bytes of names that all clients of one exchange may listen to, each counted for each client.
const MAX_BYTES: usize = 64 << 20;
/// What a name takes besides its bytes.
const NAME: usize = 64;

/// The way to the clients of one worker's upstream.
pub trait Courier: Send + Sync {
    /// Takes a message. Never waits: what is too much is lost, and whoever lost it must be closed.
    fn carry(&self, parcel: Parcel);
}

/// A message and who gets it.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The clients, and the first byte of the frame for each.
    pub to: Vec<(ConnKey, u8)>,
    /// The rest of the frame.
    pub rest: Arc<[u8]>,
}

/// A heap of them, for whoever has one thread.
impl Courier for Mutex<Vec<Parcel>> {
    fn carry(&self, parcel: Parcel) {
        self.lock().unwrap_or_else(PoisonError::into_inner).push(parcel);
    }
}

/// See the module.
#[derive(Default)]
pub struct Exchange {
    board: Mutex<Board>,
    /// Clients that listen to something.
    listeners: AtomicUsize,
    doors: AtomicU64,
}

#[derive(Default)]
struct Board {
    topics: [HashMap<Arc<[u8]>, Topic>; 3],
    clients: HashMap<(u64, ConnKey), Client>,
    bytes: usize,
}

/// Who listens to one name, by door.
#[derive(Default)]
struct Topic(HashMap<u64, Crowd>);

struct Crowd {
    courier: Arc<dyn Courier>,
    members: Vec<Member>,
}

struct Member {
    conn: ConnKey,
    proto: Arc<AtomicU8>,
}

struct Client {
    /// The version of the protocol that it speaks.
    proto: Arc<AtomicU8>,
    names: [BTreeSet<Arc<[u8]>>; 3],
}

/// One worker's upstream at an [`Exchange`].
#[derive(Clone)]
pub struct Door {
    exchange: Arc<Exchange>,
    number: u64,
    courier: Arc<dyn Courier>,
}

/// How many names one client listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) common: usize,
    pub(crate) shard: usize,
}

// === impl Board ===

impl Topic {
    fn len(&self) -> usize {
        self.0.values().map(|crowd| crowd.members.len()).sum()
    }

    /// Sends everybody the frame whose first byte stands for `*` or `>`. Returns how many that are.
    fn send(&self, rest: &Arc<[u8]>) -> usize {
        for crowd in self.0.values() {
            let first = |member: &Member| if member.proto.load(Ordering::Relaxed) > 2 { b'>' } else { b'*' };
            let to = crowd.members.iter().map(|member| (member.conn, first(member))).collect();
            crowd.courier.carry(Parcel { to, rest: Arc::clone(rest) });
        }
        self.len()
    }
}

impl Client {
    fn counts(&self) -> Counts {
        let [channels, patterns, shards] = &self.names;
        Counts { common: channels.len() + patterns.len(), shard: shards.len() }
    }
}

impl Board {
    fn leave(&mut self, who: (u64, ConnKey), kind: TopicKind, name: &[u8]) {
        let names = self.clients.get_mut(&who).and_then(|client| client.names.get_mut(kind as usize));
        if !names.is_some_and(|names| names.remove(name)) {
            return;
        }
        self.bytes = self.bytes.saturating_sub(name.len() + NAME);
        let Some(topics) = self.topics.get_mut(kind as usize) else { return };
        let Some(topic) = topics.get_mut(name) else { return };
        let (door, conn) = who;
        if let Some(crowd) = topic.0.get_mut(&door) {
            if let Some(at) = crowd.members.iter().position(|member| member.conn == conn) {
                crowd.members.swap_remove(at);
            }
            if crowd.members.is_empty() {
                topic.0.remove(&door);
            }
        }
        if topic.0.is_empty() {
            topics.remove(name);
        }
    }

    fn topics(&self, kind: TopicKind) -> impl Iterator<Item = (&Arc<[u8]>, &Topic)> {
        self.topics.get(kind as usize).into_iter().flatten()
    }

    fn topic(&self, kind: TopicKind, name: &[u8]) -> Option<&Topic> {
        self.topics.get(kind as usize)?.get(name)
    }
}

/// A frame without its first byte.
fn frame(words: &[&[u8]]) -> Arc<[u8]> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, 2);
    writer.array(words.len());
    words.iter().for_each(|word| writer.bulk(word));
    Arc::from(bytes.get(1..).unwrap_or_default())
}

// === impl Exchange ===

impl Exchange {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_deserted(&self) -> bool {
        self.listeners.load(Ordering::Acquire) == 0
    }

    fn note_listeners(&self, board: &Board) {
        self.listeners.store(board.clients.len(), Ordering::Release);
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Exchange").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

// === impl Door ===

impl fmt::Debug for Door {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Door").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Door {
    /// A new door. Its clients are reached by `courier`.
    pub fn new(exchange: Arc<Exchange>, courier: Arc<dyn Courier>) -> Self {
        let number = exchange.doors.fetch_add(1, Ordering::Relaxed);
        Self { exchange, number, courier }
    }

    /// This client is gone, or moves away, and listens to nothing any more.
    pub fn forget(&self, conn: ConnKey) {
        if self.exchange.is_deserted() {
            return;
        }
        let (mut board, who) = (self.exchange.board(), (self.number, conn));
        let Some(client) = board.clients.get(&who) else { return };
        let names = client.names.clone();
        for (kind, names) in TopicKind::ALL.into_iter().zip(names) {
            names.iter().for_each(|name| board.leave(who, kind, name));
        }
        board.clients.remove(&who);
        self.exchange.note_listeners(&board);
    }

    /// The client listens to `name` from now on, in version `proto`. `None`: that is too much.
    pub(crate) fn join(&self, conn: ConnKey, proto: u8, kind: TopicKind, name: &[u8]) -> Option<Counts> {
        let (mut guard, who) = (self.exchange.board(), (self.number, conn));
        let board = &mut *guard;
        if board.bytes.saturating_add(name.len()) > MAX_BYTES {
            return None;
        }
        let client = board
            .clients
            .entry(who)
            .or_insert_with(|| Client { proto: Arc::new(AtomicU8::new(proto)), names: Default::default() });
        client.proto.store(proto, Ordering::Relaxed);
        let names = client.names.get_mut(kind as usize)?;
        if !names.contains(name) {
            let topics = board.topics.get_mut(kind as usize)?;
            let known = topics.get_key_value(name).map(|(known, _)| Arc::clone(known));
            let name = known.unwrap_or_else(|| Arc::from(name));
            names.insert(Arc::clone(&name));
            board.bytes += name.len() + NAME;
            let crowd = topics.entry(name).or_default().0.entry(self.number);
            let crowd =
                crowd.or_insert_with(|| Crowd { courier: Arc::clone(&self.courier), members: Vec::new() });
            crowd.members.push(Member { conn, proto: Arc::clone(&client.proto) });
        }
        let counts = client.counts();
        self.exchange.note_listeners(board);
        Some(counts)
    }

    /// The client listens to `name` no more.
    pub(crate) fn leave(&self, conn: ConnKey, kind: TopicKind, name: &[u8]) -> Counts {
        let (mut board, who) = (self.exchange.board(), (self.number, conn));
        board.leave(who, kind, name);
        let counts = board.clients.get(&who).map(Client::counts).unwrap_or_default();
        if counts == Counts::default() {
            board.clients.remove(&who);
        }
        self.exchange.note_listeners(&board);
        counts
    }

    /// What the client listens to.
    pub(crate) fn names(&self, conn: ConnKey, kind: TopicKind) -> Vec<Arc<[u8]>> {
        let board = self.exchange.board();
        let client = board.clients.get(&(self.number, conn));
        client.and_then(|client| client.names.get(kind as usize)).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn counts(&self, conn: ConnKey) -> Counts {
        let board = self.exchange.board();
        board.clients.get(&(self.number, conn)).map(Client::counts).unwrap_or_default()
    }

    /// The client speaks version `proto` from now on.
    pub(crate) fn speaks(&self, conn: ConnKey, proto: u8) {
        if let Some(client) = self.exchange.board().clients.get(&(self.number, conn)) {
            client.proto.store(proto, Ordering::Relaxed);
        }
    }

    /// Sends a message to a channel, or a shard channel. Returns how many get it.
    pub(crate) fn publish(&self, is_shard: bool, channel: &[u8], message: &[u8]) -> usize {
        if self.exchange.is_deserted() {
            return 0;
        }
        let board = self.exchange.board();
        let (kind, word): (_, &[u8]) =
            if is_shard { (TopicKind::Shard, b"smessage") } else { (TopicKind::Channel, b"message") };
        let mut count =
            board.topic(kind, channel).map_or(0, |topic| topic.send(&frame(&[word, channel, message])));
        if !is_shard {
            for (pattern, topic) in board.topics(TopicKind::Pattern) {
                if glob::matches(pattern, channel) {
                    count += topic.send(&frame(&[b"pmessage", pattern, channel, message]));
                }
            }
        }
        count
    }

    /// How many would get a message to this channel.
    pub(crate) fn receivers(&self, is_shard: bool, channel: &[u8]) -> usize {
        let board = self.exchange.board();
        let kind = if is_shard { TopicKind::Shard } else { TopicKind::Channel };
        let own = board.topic(kind, channel).map_or(0, Topic::len);
        let patterns =
            board.topics(TopicKind::Pattern).filter(|(pattern, _)| glob::matches(pattern, channel));
        own + if is_shard { 0 } else { patterns.map(|(_, topic)| topic.len()).sum() }
    }

    /// Names that somebody listens to, those that match a pattern.
    pub(crate) fn heard(&self, kind: TopicKind, pattern: Option<&[u8]>) -> Vec<Arc<[u8]>> {
        let board = self.exchange.board();
        let is_meant = |name: &[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        board.topics(kind).map(|(name, _)| name).filter(|name| is_meant(name)).cloned().collect()
    }

    /// How many channels, and how many patterns, somebody listens to.
    pub(crate) fn heard_names(&self) -> (usize, usize) {
        let board = self.exchange.board();
        let [channels, patterns, _] = &board.topics;
        (channels.len(), patterns.len())
    }

    /// How many listen to this name.
    pub(crate) fn audience(&self, kind: TopicKind, name: &[u8]) -> usize {
        self.exchange.board().topic(kind, name).map_or(0, Topic::len)
    }
}
