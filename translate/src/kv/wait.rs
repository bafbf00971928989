//! Commands that wait until their keys have something for them.
//!
//! Such a command is one that answers at once, and can say that it had nothing to answer with
//! ([`crate::kv::Program::waits`]). Whoever runs it tries again when one of its keys may have got something, and gives it
//! up when its time is over. Inside a transaction it never waits, and its answer stands.

use mecha_core::Outcome;

use super::Txn;

/// A command that waits. It goes to whatever thread has something for it.
pub trait Blocking: Send {
    /// The keys whose coming it waits for, each once.
    fn keys(&self) -> Vec<Vec<u8>>;

    /// The command as one that does not wait.
    fn attempt(&self, which: Attempt<'_>) -> Txn;

    /// When it gives up, in Unix milliseconds; `None` is never.
    fn until_ms(&self) -> Option<u64>;

    /// Appends the native reply of one that has waited in vain.
    fn give_up(&self, why: GaveUp, out: &mut Vec<u8>) -> Outcome;
}

/// Which attempt of a command it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt<'k> {
    /// It has waited already: a key that holds something of another type by now is left alone, where it would have been an
    /// error at first.
    Again,
    /// As [`Attempt::Again`], and it takes nothing but from this key.
    At(&'k [u8]),
    /// The first.
    First,
}

/// Why nobody waits any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// What it waits for comes elsewhere from now on.
    Moved,
    /// Its time is over, or somebody wants it to look so.
    TimeUp,
    /// Somebody wants it to end with an error.
    Unblocked,
}
