//! One message to a back, and what it says to it.

use std::cell::Cell;

use mecha_core::{OpId, Span};

use crate::slot::{Entry, Marks};

/// How much of an entry a command looks at, so that a remote back need not move large values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Value, type, expiry, flags, token.
    Everything,
    /// Everything but the value's content; the type is right. The program may delete the entry or put another one,
    /// never change it in place.
    Header,
    /// Value, type, flags, token; the expiry is not told. For programs and steps that only read.
    Value,
}

impl Want {
    /// Whether an entry that was loaded for this has everything in it that a program with `other` looks at and keeps.
    pub(crate) fn serves(self, other: Self) -> bool {
        self == other || self == Self::Everything
    }
}

/// When a key ceases to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expire {
    /// At this Unix time in milliseconds.
    AtMs(u64),
    /// As before.
    Keep,
    /// Never.
    Never,
}

/// Under which condition a write takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent,
    /// None.
    Always,
    /// The key exists.
    Present,
    /// The key exists with this token.
    Token(u64),
}

/// One message to a back, answered by one reply frame.
#[derive(Clone, Copy, Debug)]
pub enum Step<'w> {
    /// Removes the key.
    Delete {
        /// The key.
        key: &'w [u8],
        /// Only if.
        guard: Guard,
    },
    /// Removes every key of the back.
    Flush {
        /// Seconds from now; 0 is at once.
        delay_s: u32,
    },
    /// Reads the key.
    Get {
        /// The key.
        key: &'w [u8],
        /// How much of it.
        want: Want,
    },
    /// Reads a string, as with [`Want::Value`], and sets its expiry. A back may have nothing like it.
    GetTouch {
        /// The key.
        key: &'w [u8],
        /// The new expiry, never `Keep`.
        expire: Expire,
    },
    /// Writes a whole entry of any type.
    Put {
        /// The key.
        key: &'w [u8],
        /// What to write. Its token is the one that it has from now on, at a back that leaves that to the writer.
        entry: &'w Entry,
        /// Only if.
        guard: Guard,
    },
    /// Writes a string without building an [`Entry`].
    PutStr {
        /// The key.
        key: &'w [u8],
        /// The string.
        value: &'w [u8],
        /// Memcached client flags.
        flags: u32,
        /// Its expiry; `Keep` is not for backs that cannot.
        expire: Expire,
        /// Only if.
        guard: Guard,
        /// The new token, at a back that leaves that to the writer: [`super::KvBack::fresh_token`].
        token: u64,
    },
    /// Sets the expiry of a key of any type; the token stays. A back may have nothing like it.
    Touch {
        /// The key.
        key: &'w [u8],
        /// The new expiry, never `Keep`.
        expire: Expire,
    },
}

/// What a back said to a [`Step`].
#[derive(Clone, Debug)]
pub enum StepReply<'w> {
    /// Written, touched, removed, flushed.
    Applied {
        /// The new token, if it is known.
        token: Option<u64>,
    },
    /// The back cannot hold or decode this, or answered with an error of its own.
    Failed(KvError),
    /// The guard did not hold.
    Guarded,
    /// No such key.
    Missing,
    /// The key holds a string.
    Str {
        /// The string; empty with [`Want::Header`].
        value: &'w [u8],
        /// Memcached client flags.
        flags: u32,
        /// Expiry.
        expire_at_ms: Option<u64>,
        /// Token for compare-and-swap.
        token: u64,
        /// For the front to read and change, if the back keeps any.
        marks: Option<&'w Cell<Marks>>,
    },
    /// The key holds something else. Boxed: decoding an aggregate allocates anyway.
    Typed(Box<Entry>),
}

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvError {
    /// The back answered with an error of its own state: out of memory, loading.
    BackFailed,
    /// Lost the compare-and-swap race too often.
    Contended,
    /// The stored bytes are not what mecha writes.
    Corrupt,
    /// The back cannot count so far.
    ExpiryTooFar,
    /// Two keys share a digest.
    KeyCollision,
    /// The back has nothing like it.
    Unsupported,
    /// What the command needs of the back does not fit into memory.
    TooMuch,
    /// The value is larger than an item of the back.
    ValueTooLarge,
}

/// Where [`super::KvBack::encode`] put the frame's key, and what the frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The key as the frame has it, from the start of `out`; empty for [`Step::Flush`].
    pub key: Span,
    /// The back's operation.
    pub op: OpId,
}

/// Which step a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// [`Step::Delete`].
    Delete,
    /// [`Step::Flush`].
    Flush,
    /// [`Step::Get`]; [`Step::GetTouch`] is one with [`Want::Value`].
    Get(Want),
    /// [`Step::Put`] and [`Step::PutStr`].
    Put,
    /// [`Step::Touch`].
    Touch,
}
