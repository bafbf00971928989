//! What a protocol knows about copying keys.
//!
//! A copy is made of the client's own protocol, so it passes the same upstreams as a client's calls do, translated or
//! not: the state of a key is read with requests, and put with requests. [`Copies::copy`] is a machine without I/O that
//! says what comes next, given all replies so far.

mod memcached;
mod resp;

use mecha_core::OpId;

use crate::Rules;

/// How a key is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// Both sides are servers of this protocol, so that a form which only they understand may be used.
    pub is_exact: bool,
    /// Whatever the target has is replaced, and removed if the source has nothing. Otherwise the target has nothing.
    pub is_replacing: bool,
    /// Time of day in seconds, for protocols that tell expiries by it.
    pub now_unix_secs: u64,
}

/// What comes next in a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the source, all at once.
    Ask(Vec<Vec<u8>>),
    /// Tell the target, one after the other.
    Put(Vec<Vec<u8>>),
    /// The source's replies make no sense, or the key cannot be copied.
    Refused,
}

/// What the target says to a request of [`Step::Put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Done,
    /// Not now.
    Later,
    /// Never in this form.
    Never,
}

/// How the answers of two servers to the same read are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// Byte by byte.
    Bytes,
    /// Not at all: they depend on more than the data.
    None,
    /// Elements in any order.
    Unordered,
    /// Pairs in any order.
    UnorderedPairs,
}

/// What a protocol knows about copying keys.
pub trait Copies: Rules {
    /// What comes next, given all replies so far.
    fn copy(key: &[u8], how: How, replies: &[Vec<u8>]) -> Step {
        let _ = (key, how, replies);
        Step::Refused
    }

    /// What the reply to a request of `Step::Put` means.
    fn told(reply: &[u8]) -> Told {
        let _ = reply;
        Told::Never
    }

    /// The request that removes a key.
    fn remove(key: &[u8]) -> Vec<u8>;

    /// The request that asks whether there is such a key.
    fn whether(key: &[u8]) -> Vec<u8>;

    /// What the reply to [`Copies::whether`] says.
    fn is_there(reply: &[u8]) -> Option<bool>;

    /// The request for the names of some keys. `cursor` is empty at first. `None`: there is none.
    fn list(cursor: &[u8]) -> Option<Vec<u8>> {
        let _ = cursor;
        None
    }

    /// Takes names from the reply to [`Copies::list`]; returns the next cursor, empty at the end. `None`: it makes no
    /// sense.
    fn listed(reply: &[u8], keys: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
        let _ = (reply, keys);
        None
    }

    /// Whether `op`, in a request without keys, changes data all the same, so that nobody can tell what is to be copied.
    fn is_boundless(op: OpId) -> bool;

    /// How answers to `request` are compared.
    fn likeness(request: &Self::Request, frame: &[u8]) -> Likeness;

    /// Whether two answers say the same.
    fn is_alike(likeness: Likeness, one: &[u8], other: &[u8]) -> bool {
        likeness == Likeness::None || one == other
    }
}
