//! What only a back in this process can do: go over all keys, and run several programs that nothing comes between.

use mecha_core::Outcome;

use super::{KvError, RunCx, Txn};
use crate::slot::Entry;

/// A command over all keys: SCAN, KEYS, RANDOMKEY.
pub trait Walk {
    /// Appends the complete native reply to `out`.
    fn run(&mut self, keys: &dyn KeySpace, cx: &RunCx, out: &mut Vec<u8>) -> Outcome;
}

/// Several programs that nothing comes between, and that need not know their keys in advance.
pub trait Sequence {
    /// The only keys that it may ask for; `None` if that cannot be told, or it goes over all keys.
    fn keys(&self) -> Option<&[Vec<u8>]>;

    /// Appends the complete native reply to `out`.
    fn run(&mut self, space: &mut dyn Space, cx: &RunCx, out: &mut Vec<u8>) -> Outcome;
}

/// A back in this process while a [`Sequence`] has it for itself.
pub trait Space {
    /// Runs a program on the slots of its keys; after an error they are as before.
    ///
    /// # Errors
    /// As for a program on its own. `out` is as before.
    fn run(
        &mut self,
        txn: &mut Txn,
        request_len: usize,
        cx: &RunCx,
        out: &mut Vec<u8>,
    ) -> Result<(), KvError>;

    /// All keys, for a sequence that names none.
    fn key_space(&self) -> &dyn KeySpace;

    /// Removes all keys, for a sequence that names none.
    fn flush(&mut self);

    /// A number that changes whenever the key is written, removed, evicted or expires, and is also new after it came
    /// and went.
    fn version(&mut self, key: &[u8]) -> u64;
}

/// All keys of a back in this process. Expired ones are left out.
pub trait KeySpace {
    /// Number of keys; may count some that have expired.
    fn count(&self) -> u64;

    /// How many of them will expire.
    fn expiring(&self) -> u64;

    /// What they take, in bytes.
    fn bytes(&self) -> u64;

    /// How many had to make room for others so far.
    fn evictions(&self) -> u64;

    /// Reports about `count` keys from `cursor` on (0 starts) and returns the next cursor, 0 at the end. A key that
    /// exists from the first call to the last is reported at least once. The entry may be looked at, not kept.
    fn scan(&self, cursor: u64, count: usize, each: &mut dyn FnMut(&[u8], &Entry)) -> u64;

    /// Any key; `random` chooses.
    fn random(&self, random: u64) -> Option<Vec<u8>>;
}
