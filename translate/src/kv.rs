//! The `kv` family's contract: what a front (the protocol that clients speak) and a back (the store behind) agree on.
//!
//! A front turns each request into a [`Plan`]. The general plan is a [`Program`]: a set of keys and a pure function
//! over their [`Slot`]s. A back that lives in this process runs it under locks. A remote back loads the slots, runs the
//! program, and stores what changed with compare-and-swap, starting over (a bounded number of times) when it lost a
//! race. The plans that dominate real traffic are single [`Step`]s and need no loading at all: [`Plan::Fast`].

mod frames;
mod space;
mod step;
mod wait;

use mecha_core::{Asked, ConnKey, Framed, Outcome, Span};

pub use self::frames::{Answer, Answers, BackFrame, BackFrames};
pub use self::space::{KeySpace, Sequence, Space, Walk};
pub use self::step::{Encoded, Expire, Guard, KvError, Step, StepKind, StepReply, Want};
pub use self::wait::{Attempt, Blocking, GaveUp};
use crate::exchange::Door;
use crate::slot::Slot;

/// What a program may use besides its slots.
#[derive(Clone, Copy, Debug)]
pub struct RunCx {
    /// Unix time in milliseconds; the same for all of one command.
    pub now_ms: u64,
    /// Different on every run; for SPOP, SRANDMEMBER and the like.
    pub random: u64,
    /// Largest value in bytes that the back can hold.
    pub max_value: usize,
    /// The token that the slot gets if this command changes it, so that a reply can tell it. 0 if that is not known
    /// yet: a program of several keys, or a back that makes the tokens itself.
    pub token: u64,
}

/// A command over the slots of its keys. Owns copies of its arguments, since it may run long after its request's bytes
/// are gone.
pub trait Program {
    /// Appends the complete native reply to `out` and changes `slots` (in the order of [`Txn::keys`]).
    ///
    /// A slot that is not marked as changed must be left as it was: it may be the back's own entry, or the next
    /// program's.
    ///
    /// May be run again from freshly loaded slots after a lost race, with `out` emptied in between: it must not keep
    /// state from one run to the next.
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome;

    /// Called when the plan is taken up: it will be run, or fail, and not be asked for again.
    fn begin(&mut self) {}

    /// Whether it counts as a use of its keys, for their idle times.
    fn uses_keys(&self) -> bool {
        false
    }

    /// Whether the last run found nothing to answer with: the command would rather wait than have its reply. Such a run
    /// changes nothing.
    fn waits(&self) -> bool {
        false
    }

    /// Called when it has been run for the last time and everything that it changed is stored.
    fn done(&mut self) {}

    /// An upper bound for what any one of its keys can weigh after a run, in bytes of memory, when all of them weigh
    /// `held` before and the request has `request_len` bytes. Strings need not be counted: their programs look at
    /// [`RunCx::max_value`] themselves. The embedded store keeps copies of what could outgrow it.
    fn outgrows(&self, held: usize, request_len: usize) -> usize {
        held.saturating_add(request_len.saturating_mul(MOST_PER_BYTE))
    }
}

/// How much memory one byte of a request can come to take: a sorted set's member of one byte is the extreme.
pub const MOST_PER_BYTE: usize = 16;

/// The general plan.
pub struct Txn {
    /// The keys, distinct, in the order in which the program wants their slots.
    pub keys: Vec<Vec<u8>>,
    /// What to do with them.
    pub program: Box<dyn Program>,
    /// How much of an entry the program looks at.
    pub want: Want,
    /// How it can fail half way on a back without transactions.
    pub atomicity: Atomicity,
}

/// What a remote back has to know about a program's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomicity {
    /// Must be all or nothing over several keys: a back without transactions refuses it if more than one slot changed.
    AllOrNothing,
    /// Each key's change stands for itself; stored in key order, deletions last.
    PerKey,
}

/// What a front makes of one request.
pub enum Plan {
    /// The reply is in `out`.
    Answered(Outcome),
    /// May wait for its keys.
    Block(Box<dyn Blocking>),
    /// The reply is in `out`, and the connection is to be closed behind it.
    Close,
    /// One step whose reply the front formats by `memo`; the spans are relative to the request's frame.
    Fast(Fast),
    /// Everything else over known keys.
    Txn(Txn),
    /// Several programs in one transaction. Only backs in this process can: a remote one answers
    /// [`KvError::Unsupported`].
    Sequence(Box<dyn Sequence>),
    /// Nothing yet: what this client has under way at a remote back decides what the request means.
    Wait,
    /// Goes over all keys. Only backs in this process can: a remote one answers [`KvError::Unsupported`].
    Walk(Box<dyn Walk>),
}

/// A single-step plan, free of allocation.
#[derive(Clone, Copy, Debug)]
pub struct Fast {
    /// The key.
    pub key: Span,
    /// What to do.
    pub action: FastAction,
    /// What the front wants to see again with the reply; empty is nothing.
    pub keep: Span,
    /// What the front must remember to format the reply.
    pub memo: u32,
}

/// See [`Step`].
#[derive(Clone, Copy, Debug)]
pub enum FastAction {
    /// [`Step::Delete`] without guard.
    Delete,
    /// [`Step::Flush`] at every endpoint; the key is not used. Answered once: `Applied`, or the first failure.
    Flush {
        /// Seconds from now; 0 is at once.
        delay_s: u32,
    },
    /// [`Step::Get`].
    Get(Want),
    /// [`Step::GetTouch`]. Only for backs that have it.
    GetTouch(Expire),
    /// [`Step::PutStr`].
    Set {
        /// The string.
        value: Span,
        /// Memcached client flags.
        flags: u32,
        /// Its expiry, never `Keep`.
        expire: Expire,
        /// Only if.
        guard: Guard,
    },
    /// [`Step::Touch`]. Only for backs that have it.
    Touch(Expire),
}

/// A fast plan that is done, as far as its reply depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Recall<'a> {
    /// The request.
    pub asked: Asked,
    /// [`Fast::memo`].
    pub memo: u32,
    /// What [`Fast::keep`] pointed to.
    pub kept: &'a [u8],
    /// Unix time in milliseconds.
    pub now_ms: u64,
}

/// Facts that a front needs to plan.
#[derive(Clone, Copy, Debug)]
pub struct PlanCx<'a> {
    /// Unix time in milliseconds.
    pub now_ms: u64,
    /// Name of the back (`embedded`, `memcached`, `redis`), for refusals and the support table.
    pub back: &'static str,
    /// Largest value in bytes that the back can hold.
    pub max_value: usize,
    /// Different on every call.
    pub random: u64,
    /// Number of keys, if the back can tell without asking.
    pub key_count: Option<u64>,
    /// The client's connection number.
    pub client_id: u64,
    /// The client's address, for CLIENT INFO and the like.
    pub client_addr: Option<std::net::SocketAddr>,
    /// The client's connection.
    pub conn: ConnKey,
    /// How many clients wait for keys, as far as the back knows.
    pub waiting: usize,
    /// Where clients publish and subscribe, if they can.
    pub door: Option<&'a Door>,
    /// Process start, Unix seconds, for INFO and stats.
    pub started_at: &'a Started,
}

/// When the process started.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Unix seconds.
    pub unix_seconds: u64,
}

/// A protocol that clients of the `kv` family speak.
pub trait KvFront: Framed {
    /// Plans one request. `frame` is its bytes. Appends to `out` only for [`Plan::Answered`] and [`Plan::Close`].
    ///
    /// May be called again for the same request when its plan could not start yet. So it changes `session` only when
    /// it returns [`Plan::Answered`], which is never asked for twice.
    fn plan(
        request: &Self::Request,
        frame: &[u8],
        session: &mut Self::Session,
        cx: &PlanCx<'_>,
        out: &mut Vec<u8>,
    ) -> Plan;

    /// Formats the reply to a [`Plan::Fast`]; never called with [`StepReply::Failed`], which goes to
    /// [`KvFront::error`]. A write or delete whose guard does not hold is `Guarded` or `Missing`, as the back says.
    fn fast_reply(recall: &Recall<'_>, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome;

    /// Appends the native error.
    fn error(asked: Asked, error: KvError, back: &'static str, out: &mut Vec<u8>) -> Outcome;
}

/// A protocol that stores of the `kv` family speak.
pub trait KvBack: Framed {
    /// `memcached` or `redis`.
    const BACK: &'static str;

    /// Whether the back may hold entries for a while after they have expired, and guards and deletes count them as
    /// present. The translator then looks before it makes such a step.
    const OUTLIVES_EXPIRY: bool = false;

    /// Appends the request for `step`, exactly one frame that is answered by exactly one reply frame. `now_ms` is the
    /// Unix time.
    ///
    /// # Errors
    /// [`KvError::ValueTooLarge`] or [`KvError::Unsupported`], with `out` unchanged.
    fn encode(step: &Step<'_>, now_ms: u64, max_value: usize, out: &mut Vec<u8>) -> Result<Encoded, KvError>;

    /// A token for something that is about to be written, at a back that leaves that to the writer. 0 at others.
    fn fresh_token() -> u64 {
        0
    }

    /// Whether [`KvBack::decode`] has to see this key: a reply to [`Step::Get`] must be checked against it.
    fn needs_key(key: &[u8]) -> bool {
        let _ = key;
        false
    }

    /// Reads the reply to a step. `key` is empty unless [`KvBack::needs_key`] asked for it. An entry that has expired
    /// at `now_ms` is [`StepReply::Missing`], or, so that it can be replaced by its token, given as it is.
    fn decode<'w>(kind: StepKind, key: &[u8], frame: &'w [u8], now_ms: u64) -> StepReply<'w>;
}
