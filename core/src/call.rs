//! Calls, tickets and what becomes of them: the neutral view that every policy shares.

use crate::Span;

/// A client connection on this worker: slab index, and an epoch so that a late reply never reaches the slot's next
/// tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// Position in the worker's connection slab.
    pub index: u32,
    /// Counts the tenants of that position; wraps.
    pub epoch: u32,
}

/// One exchange: which connection, and its place in that connection's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The connection that waits for the answer.
    pub conn: ConnKey,
    /// Place in the connection's order. Wraps at `u32::MAX`; compared by distance.
    pub seq: u32,
}

/// Index into [`crate::Protocol::ops`]. Zero is always "not in the table".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u16);

impl OpId {
    /// The entry for operations that the protocol's table lacks.
    pub const UNKNOWN: Self = Self(0);
}

/// What an operation does to the backend, as far as policies care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OpClass {
    /// Server management: `CONFIG`, `FLUSHALL`, `stats`.
    Admin,
    /// Leaves the data as it is.
    #[default]
    Read,
    /// Concerns the connection only: `AUTH`, `HELLO`, `quit`.
    Session,
    /// May change data.
    Write,
}

impl OpClass {
    /// Lower-case name, used as metric label and in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Read => "read",
            Self::Session => "session",
            Self::Write => "write",
        }
    }
}

/// One row of a protocol's operation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpInfo {
    /// Lower-case name as metrics and configuration show it (`get`, `client|setname`).
    pub name: &'static str,
    /// What the operation does.
    pub class: OpClass,
    /// Whether sending it twice has the effect of sending it once.
    pub idempotent: bool,
}

/// Which upstream connection a call needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// No connection of the client's: the upstream sees to it by itself. Alone, as with `Barrier`, whether or not there is
    /// a dedicated connection (`SUBSCRIBE` where subscriptions are shared).
    Aside,
    /// A dedicated connection from this call on, alone as with `Barrier`: by its outcome the protocol's state tells whether
    /// the connection is kept (`SELECT`, `AUTH`).
    Attempt,
    /// Shared connection, but alone: waits for everything before it, and everything after it waits for its reply.
    Barrier,
    /// None: this process does it itself, with the clients that it has (`CLIENT LIST`), alone as with `Barrier`.
    Errand,
    /// A dedicated connection for this call only (blocking commands).
    Once,
    /// A dedicated connection from this call on (`MULTI`, `WATCH`).
    Pin,
    /// A dedicated connection from this call to the client's end; replies are no longer counted (`SUBSCRIBE`).
    Raw,
    /// Gives the dedicated connection back after this call's reply (`EXEC`).
    Release,
    /// Any connection that other clients use too.
    #[default]
    Shared,
    /// The dedicated connection that there is already; the answer may take as long as it likes (blocking commands).
    Waits,
}

/// How many replies the client gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyCount {
    /// The upstream answers, and [`crate::Framed::silent`] decides whether the client sees it (memcached quiet forms).
    Maybe,
    /// The client has said that it wants none.
    None,
    /// The client gets exactly one reply.
    #[default]
    One,
}

/// Why mecha answered in the backend's place. The codec turns it into the protocol's own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The circuit breaker is open.
    CircuitOpen,
    /// The keys of the command belong to different routes, or to another one than the client is bound to.
    CrossRoute,
    /// The keys of the command are on different shards.
    CrossSlot,
    /// A rule forbids the command.
    Denied,
    /// A filter cannot treat this command honestly, so it may not pass.
    Filtered,
    /// Nobody has this name and this password.
    LoginFailed,
    /// The client must first say who it is.
    LoginNeeded,
    /// What the client says cannot be understood.
    Malformed,
    /// While keys move to another cluster, nobody could tell what this call changes.
    Migrating,
    /// The data is on its way to another server, and the call could not be sent after it.
    Moved,
    /// The client speaks without TLS where that is not allowed.
    NeedsTls,
    /// The user may not use one of the channels.
    NoChannel,
    /// The user may not run the command.
    NoCommand,
    /// The user may not use one of the keys in this way.
    NoKey,
    /// No endpoint can take this call: none is healthy, or the command has no key to choose one by.
    NoRoute,
    /// The cluster has as much to do as it may have; the call was not sent.
    Overloaded,
    /// More calls than the limit allows.
    RateLimited,
    /// The upstream did not answer in time.
    TimedOut,
    /// What several shards have answered is more than mecha holds, or a body is longer than it may be.
    TooLarge,
    /// The listener has as many clients as it may have.
    TooManyClients,
    /// Too many logins from this address have failed lately.
    TooManyLogins,
    /// Too many dedicated upstream connections.
    TooManyPins,
    /// mecha or the backend cannot do this.
    Unsupported,
    /// What several shards have answered does not fit together.
    UpstreamConfused,
    /// The upstream does not accept who mecha says that it is; the call was not sent.
    UpstreamDenied,
    /// The upstream connection failed with this call unanswered; it may or may not have run.
    UpstreamGone,
    /// The upstream cannot be reached; the call was not sent.
    UpstreamUnreachable,
}

impl Refusal {
    /// Every variant, for metrics and tests.
    pub const ALL: [Self; 27] = [
        Self::CircuitOpen,
        Self::CrossRoute,
        Self::CrossSlot,
        Self::Denied,
        Self::Filtered,
        Self::LoginFailed,
        Self::LoginNeeded,
        Self::Malformed,
        Self::Migrating,
        Self::Moved,
        Self::NeedsTls,
        Self::NoChannel,
        Self::NoCommand,
        Self::NoKey,
        Self::NoRoute,
        Self::Overloaded,
        Self::RateLimited,
        Self::TimedOut,
        Self::TooLarge,
        Self::TooManyClients,
        Self::TooManyLogins,
        Self::TooManyPins,
        Self::Unsupported,
        Self::UpstreamConfused,
        Self::UpstreamDenied,
        Self::UpstreamGone,
        Self::UpstreamUnreachable,
    ];

    /// Snake-case name, used as metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::CrossRoute => "cross_route",
            Self::CrossSlot => "cross_slot",
            Self::Denied => "denied",
            Self::Filtered => "filtered",
            Self::LoginFailed => "login_failed",
            Self::LoginNeeded => "login_needed",
            Self::Malformed => "malformed",
            Self::Migrating => "migrating",
            Self::Moved => "moved",
            Self::NeedsTls => "needs_tls",
            Self::NoChannel => "no_channel",
            Self::NoCommand => "no_command",
            Self::NoKey => "no_key",
            Self::NoRoute => "no_route",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
            Self::TooManyClients => "too_many_clients",
            Self::TooManyLogins => "too_many_logins",
            Self::TooManyPins => "too_many_pins",
            Self::Unsupported => "unsupported",
            Self::UpstreamConfused => "upstream_confused",
            Self::UpstreamDenied => "upstream_denied",
            Self::UpstreamGone => "upstream_gone",
            Self::UpstreamUnreachable => "upstream_unreachable",
        }
    }

    /// The sentence that the client reads inside the protocol's error.
    pub fn reason(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit breaker is open, the backend is failing",
            Self::CrossRoute => "keys of the command belong to different routes",
            Self::CrossSlot => "keys of the command are on different shards",
            Self::Denied => "command is denied by configuration",
            Self::Filtered => "command cannot pass a filter of this listener",
            Self::LoginFailed => "user name or password is wrong",
            Self::LoginNeeded => "authentication is required",
            Self::Malformed => "it cannot be understood",
            Self::Migrating => "command cannot be followed while its keys move to another cluster",
            Self::Moved => "data is moving to another server, try again",
            Self::NeedsTls => "this port speaks TLS only",
            Self::NoChannel => "user has no permission for one of the channels",
            Self::NoCommand => "user has no permission for this command",
            Self::NoKey => "user has no permission for one of the keys",
            Self::NoRoute => "no endpoint can take this command",
            Self::Overloaded => "backend has as much to do as it may have, it was not sent",
            Self::RateLimited => "rate limit exceeded",
            Self::TimedOut => "backend did not answer in time",
            Self::TooLarge => "it is too large",
            Self::TooManyClients => "max number of clients reached",
            Self::TooManyLogins => "too many failed logins from your address, try again later",
            Self::TooManyPins => "too many dedicated upstream connections",
            Self::Unsupported => "command is not supported on this backend",
            Self::UpstreamConfused => "the answers of the shards do not fit together",
            Self::UpstreamDenied => "backend refused mecha's login, the command was not sent",
            Self::UpstreamGone => "backend connection was lost, the command may have run",
            Self::UpstreamUnreachable => "backend is unreachable, the command was not sent",
        }
    }
}

/// What becomes of a call. Filters change it; the session acts on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// The reply is ready: a span of the batch's `local` bytes.
    Answered(Span),
    /// Goes to the upstream.
    #[default]
    Forward,
    /// Gets the protocol's error for this reason.
    Refuse(Refusal),
}

/// One request as policies see it: `Copy`, with no protocol type in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Who waits, and for which answer.
    pub ticket: Ticket,
    /// The frame's bytes, in the batch's `wire` or (rewritten) `local`.
    pub span: Span,
    /// How long the upstream may take, in milliseconds. 0 means no limit.
    pub timeout_ms: u32,
    /// Row of the protocol's table.
    pub op: OpId,
    /// What an answer must repeat of the request, in protocols that have such a thing (an opaque, a correlation id).
    pub echo: u32,
    /// What it does.
    pub class: OpClass,
    /// Which upstream connection it needs.
    pub affinity: Affinity,
    /// How many replies the client gets.
    pub replies: ReplyCount,
    /// What becomes of it.
    pub verdict: Verdict,
}

impl Call {
    /// What an answer needs to know of this call.
    pub fn asked(&self) -> Asked {
        Asked { op: self.op, echo: self.echo }
    }
}

/// What an answer that is made in this process needs to know of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Row of the protocol's table.
    pub op: OpId,
    /// [`Call::echo`].
    pub echo: u32,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered with an error that the request caused.
    ClientError,
    /// The backend answered.
    Ok,
    /// mecha answered in the backend's place.
    Refused(Refusal),
    /// The backend answered with an error of its own state (`-LOADING`, `SERVER_ERROR`).
    ServerError,
}

impl Outcome {
    /// Lower-case name, used as metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientError => "client_error",
            Self::Ok => "ok",
            Self::Refused(_) => "refused",
            Self::ServerError => "server_error",
        }
    }
}

/// The end of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which call.
    pub ticket: Ticket,
    /// Row of the protocol's table.
    pub op: OpId,
    /// How it ended.
    pub outcome: Outcome,
    /// Microseconds from submission to answer, with the resolution of an event-loop turn. 0 for local answers.
    pub micros: u32,
}
