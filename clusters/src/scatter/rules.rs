//! What a protocol knows about calls that concern several shards, and what it is told about them.

use std::rc::Rc;

use mecha_core::{Framed, OpId, Refusal, Span};

use super::Announcement;
use crate::moves::{Moves, SlotSet};
use crate::pubsub::Asked;
use crate::{Cluster, Upstream};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To every shard.
    Every,
    /// To every shard, past the calls that its connections are busy with.
    EveryAside,
    /// To one certain shard, always the same: what has to meet in one place (publish and subscribe).
    First,
    /// It is about the cluster itself, and the answer must not tell of its servers: see [`Rules::itself`].
    Itself,
    /// Where its keys are, which must be one shard. Without keys, anywhere.
    Keyed,
    /// It has no honest answer here.
    Refused,
    /// To one shard after another; a number in the request tells where it is.
    Scan,
    /// Each key where it belongs.
    Spread,
}

/// A call taken apart.
#[derive(Debug, Default)]
pub struct Plan {
    /// The frames of all parts.
    pub wire: Vec<u8>,
    /// One for each part: where it goes and its frame in `wire`.
    pub parts: Vec<(usize, Span)>,
    /// The part of each key, in the order of the request's keys.
    pub places: Vec<u32>,
    /// Servers are asked what they hold.
    pub asks_all: bool,
}

/// What [`Rules::merge`] is given.
#[derive(Clone, Copy)]
pub struct Gathered<'a> {
    /// The request's operation.
    pub op: OpId,
    /// The request.
    pub frame: &'a [u8],
    /// The complete reply of each part.
    pub replies: &'a [Vec<u8>],
    /// See [`Plan::places`].
    pub places: &'a [u32],
    /// For [`Way::Scan`].
    pub scan: Scan<'a>,
    /// Who listens to what, where that is asked.
    pub census: Option<Asked<'a>>,
    /// Where the client has connected to.
    pub entrance: Entrance,
}

/// The address of mecha that a client has connected to, as far as reports tell of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entrance {
    /// Its port; 0 if there is none.
    pub port: u16,
    /// It is called a replica.
    pub is_beside: bool,
}

/// How far a scan is.
#[derive(Clone, Copy, Default)]
pub struct Scan<'a> {
    /// Position of the only part's server.
    pub at: usize,
    /// Position of the server behind it.
    pub next: Option<usize>,
    /// Position of the first server of all.
    pub first: usize,
    /// Which slots have moved, where servers hold slots.
    pub moves: Option<&'a Moves>,
    /// For [`ScanStep::Every`], what each part's server is known to hold.
    pub held: &'a [SlotSet],
}

/// Where a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanStep {
    /// With the server in this position, of those that the client's address stands for.
    At(usize),
    /// With the server in this position, of all.
    Again(usize),
    /// As `At`, with the first so many bytes of what was appended, and with the rest as a question to all.
    AtAndEvery(usize, usize),
    /// With a question to all.
    Every,
}

/// What becomes of a request about the cluster itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Itself {
    /// The answer was appended.
    Answered,
    /// The server that holds this slot knows.
    AtSlot(u16),
    /// It would change the cluster, which is not a client's business.
    Refused,
}

/// What a request does to what binds its client's requests to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// Ends a transaction, and the watching of keys with it.
    Ends,
    /// Nothing.
    None,
    /// Begins a transaction.
    Queues,
    /// Brings the client back to where it began.
    Resets,
    /// Ends the watching of keys, outside a transaction.
    Unwatches,
    /// Begins the watching of keys.
    Watches,
}

/// What a protocol knows about calls that concern several shards, or several routes. A protocol without any such calls
/// needs none of it.
pub trait Rules: Framed {
    /// Where `request` goes. Told by its head alone, as every request is asked about.
    fn way(request: &Self::Request) -> Way {
        let _ = request;
        Way::Keyed
    }

    /// Appends the request for the keys `keys` (places in the order of all keys) of `frame`.
    fn part(request: &Self::Request, frame: &[u8], keys: &[u32], out: &mut Vec<u8>) {
        let _ = (request, frame, keys, out);
    }

    /// Appends the request with which a scan goes on, and returns to whom: `shards` are the positions of those that the
    /// client's address stands for, and of all, and `moves` is there where servers hold slots. `None` if the request tells
    /// nothing of the kind; any shard has the right words for it.
    fn scan(
        frame: &[u8],
        shards: (&[usize], &[usize]),
        moves: Option<&Moves>,
        out: &mut Vec<u8>,
    ) -> Option<ScanStep> {
        let _ = (frame, shards, moves, out);
        None
    }

    /// Puts what this protocol keeps for clients as a whole between a door and `upstream`, which leads to `cluster`: what they
    /// listen to, if they share that, and who they are, if there are several servers (`is_sharded`).
    fn in_front(
        upstream: Rc<dyn Upstream<Self>>,
        cluster: Rc<Cluster<Self>>,
        shares_subscriptions: bool,
        is_sharded: bool,
    ) -> Rc<dyn Upstream<Self>> {
        let _ = (cluster, shares_subscriptions, is_sharded);
        upstream
    }

    /// Whether `request` is about the cluster or the server's place in it, so that its answer would tell of servers.
    fn asks_of_cluster(request: &Self::Request) -> bool {
        Self::way(request) == Way::Itself
    }

    /// Answers a request about the cluster itself, as if mecha's own addresses were all of it.
    fn itself(
        request: &Self::Request,
        frame: &[u8],
        announcement: &Announcement<'_>,
        profile: u8,
        out: &mut Vec<u8>,
    ) -> Itself {
        let _ = (request, frame, announcement, profile, out);
        Itself::Refused
    }

    /// The request that must stand before `op` on a dedicated connection; it gets one reply, which is nobody's.
    fn ahead(op: OpId) -> &'static [u8] {
        let _ = op;
        &[]
    }

    /// Whether the answers to `op` count subscribers, so that links must be told from clients.
    fn counts_listeners(op: OpId) -> bool {
        let _ = op;
        false
    }

    /// Appends the one reply to a client whose connections have this `profile`. `false` if the replies make no sense.
    fn merge(gathered: &Gathered<'_>, profile: u8, out: &mut Vec<u8>) -> bool {
        let _ = (gathered, profile, out);
        false
    }

    /// The database that `request` selects; `None` if it selects none. Only where a listener gives databases a meaning.
    fn database(request: &Self::Request, frame: &[u8]) -> Option<u32> {
        let _ = (request, frame);
        None
    }

    /// Appends the answer to a request that selects a database, which `is_there` or not.
    fn selected(is_there: bool, out: &mut Vec<u8>) {
        let _ = (is_there, out);
    }

    /// What `request` does to what binds the client's requests to each other.
    fn bond(request: &Self::Request) -> Bond {
        let _ = request;
        Bond::None
    }

    /// Appends the error for a call of which `failed` of `total` parts got no reply.
    fn broken(asked: mecha_core::Asked, why: Refusal, failed: usize, total: usize, out: &mut Vec<u8>) {
        let _ = (failed, total);
        Self::refuse(asked, why, out);
    }
}
