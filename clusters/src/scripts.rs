//! The texts of scripts that clients have shown, so that a server that lost one can be told it again.
//!
//! Servers keep scripts by digest and forget them: with a restart, on a new primary, on a server that joined. A client
//! that then calls one by its digest gets an error, although it did everything right. mecha has seen the text go by and
//! sends it again (`connection/scripts.rs`).
//!
//! The texts of a cluster are shared by all workers, behind a lock that is taken when a text is new or has to be told
//! again, and never for a call that the server understands. What a worker has shown already it recognises by itself.
//! Texts that were loaded have room of their own: programs that make a new text for every call displace each other only.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha1::{Digest as _, Sha1};

/// SHA-1, as servers have it.
pub(crate) type Digest = [u8; 20];

/// Bytes of texts of each kind that are kept for one cluster.
const MAX_BYTES: usize = 4 << 20;
/// A longer text is not kept.
const MAX_TEXT: usize = 256 << 10;
/// Texts that a worker recognises.
const MAX_SEEN: usize = 8192;
/// Bytes that an entry takes beside its text, roughly.
const OVERHEAD: usize = 128;

/// The texts of one cluster's scripts.
#[derive(Clone, Debug, Default)]
pub struct ScriptStore(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Counts the times that a text was forgotten.
    losses: AtomicU64,
    /// Counts the times that servers were told to forget all.
    flushes: AtomicU64,
    texts: Mutex<[Texts; 2]>,
}

/// Texts of one kind, the oldest first.
#[derive(Debug, Default)]
struct Texts {
    by_digest: HashMap<Digest, Arc<[u8]>>,
    order: VecDeque<Digest>,
    bytes: usize,
}

/// One worker's end of a [`ScriptStore`].
#[derive(Debug, Default)]
pub(crate) struct Scripts {
    store: ScriptStore,
    seen: RefCell<(u64, HashSet<u64>)>,
    hasher: RandomState,
}

// === impl Texts ===

impl Texts {
    /// Returns whether another one had to go for it.
    fn insert(&mut self, digest: Digest, text: &[u8]) -> bool {
        if self.by_digest.contains_key(&digest) {
            return false;
        }
        self.by_digest.insert(digest, text.into());
        self.order.push_back(digest);
        self.bytes += text.len() + OVERHEAD;
        let mut is_lossy = false;
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            let length = self.by_digest.remove(&oldest).map_or(0, |text| text.len());
            self.bytes -= length + OVERHEAD;
            is_lossy = true;
        }
        is_lossy
    }
}

// === impl Scripts ===

impl Scripts {
    pub(crate) fn new(store: ScriptStore) -> Self {
        Self { store, ..Self::default() }
    }

    /// Remembers a text. One that was seen before costs a hash.
    pub(crate) fn learn(&self, text: &[u8], is_loaded: bool) {
        if text.len() > MAX_TEXT {
            return;
        }
        let losses = self.store.0.losses.load(Ordering::Acquire);
        let mut seen = self.seen.borrow_mut();
        if seen.0 != losses || seen.1.len() == MAX_SEEN {
            *seen = (losses, HashSet::new());
        }
        if !seen.1.insert(self.hasher.hash_one((text, is_loaded))) {
            return;
        }
        let digest = Sha1::digest(text).into();
        let mut texts = self.store.0.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(texts) = texts.get_mut(usize::from(is_loaded))
            && texts.insert(digest, text)
        {
            self.store.0.losses.fetch_add(1, Ordering::Release);
        }
    }

    /// Forgets all.
    pub(crate) fn flush(&self) {
        let mut texts = self.store.0.texts.lock().unwrap_or_else(PoisonError::into_inner);
        *texts = Default::default();
        self.store.0.losses.fetch_add(1, Ordering::Release);
        self.store.0.flushes.fetch_add(1, Ordering::Release);
    }

    /// How often all was forgotten.
    pub(crate) fn flushes(&self) -> u64 {
        self.store.0.flushes.load(Ordering::Acquire)
    }

    /// The text with this digest.
    pub(crate) fn text(&self, digest: Digest) -> Option<Arc<[u8]>> {
        let texts = self.store.0.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.iter().rev().find_map(|texts| texts.by_digest.get(&digest).cloned())
    }
}

/// The digest that `text` is in hex.
pub(crate) fn from_hex(text: &[u8]) -> Option<Digest> {
    let nibble = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut digest = [0; 20];
    if text.len() != digest.len() * 2 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `return 1`.
    const ONE: &[u8] = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    fn text(scripts: &Scripts, hex: &[u8]) -> Option<Arc<[u8]>> {
        scripts.text(from_hex(hex)?)
    }

    #[test]
    fn all_workers_know_a_text_until_one_of_them_forgets_all() {
        let store = ScriptStore::default();
        let (one, other) = (Scripts::new(store.clone()), Scripts::new(store));
        for _ in 0..2 {
            one.learn(b"return 1", true);
            assert_eq!(text(&other, ONE).as_deref(), Some(b"return 1".as_slice()));
            assert!(text(&other, &ONE.to_ascii_uppercase()).is_some());
            other.flush();
            assert_eq!(text(&one, ONE), None);
        }
    }

    #[test]
    fn texts_made_for_one_call_displace_each_other_and_never_a_loaded_one() {
        let scripts = Scripts::default();
        scripts.learn(b"return 1", true);
        let filler = "-".repeat(100_000);
        for number in 0..200 {
            scripts.learn(format!("return 2 --{number}{filler}").as_bytes(), false);
        }
        let held: usize = scripts.store.0.texts.lock().unwrap().iter().map(|texts| texts.bytes).sum();
        assert!(held <= 2 * MAX_BYTES, "{held}");
        assert!(text(&scripts, ONE).is_some());
        // One that was displaced is learned anew.
        let first = format!("return 2 --0{filler}");
        let digest: String = Sha1::digest(&first).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text(&scripts, digest.as_bytes()).is_none());
        scripts.learn(first.as_bytes(), false);
        assert!(text(&scripts, digest.as_bytes()).is_some());
    }

    #[test]
    fn what_is_no_digest_finds_nothing() {
        let scripts = Scripts::default();
        scripts.learn(b"return 1", false);
        for wrong in [b"".as_slice(), b"e0e1", &[b'g'; 40], &[b'0'; 41], &[0xff; 40]] {
            assert_eq!(text(&scripts, wrong), None);
        }
    }
}
