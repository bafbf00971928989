//! What the clients of one listener were told.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mecha_core::Refusal;

/// Counts of one listener's clients.
#[derive(Default)]
pub(super) struct Tally {
    answers: AtomicU64,
    ended: AtomicU64,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// Errors in a server's own words, by their first word.
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Takes note of a reply, and returns whether it is an error.
    pub(super) fn count(&self, reply: &str) -> bool {
        self.answers.fetch_add(1, Ordering::Relaxed);
        let is_error = reply.starts_with('-') || reply.starts_with("SERVER_ERROR");
        if !is_error {
            return false;
        }
        match Refusal::ALL.into_iter().find(|why| reply.contains("mecha: ") && reply.contains(why.reason())) {
            Some(why) => *self.refusals.lock().unwrap().entry(why.name()).or_default() += 1,
            None => {
                let word = reply.split([' ', '\r']).next().unwrap_or_default().to_string();
                *self.errors.lock().unwrap().entry(word).or_default() += 1;
            }
        }
        true
    }

    /// A connection was ended by the other side.
    pub(super) fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// By reason.
    pub(super) fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.lock().unwrap().clone()
    }

    /// Everything, for people.
    pub(super) fn report(&self, name: &str) -> String {
        format!(
            "{name}: {} answers, {} connections ended, refusals {:?}, errors of servers {:?}",
            self.answers(),
            self.ended.load(Ordering::Relaxed),
            self.refusals(),
            self.errors.lock().unwrap(),
        )
    }
}
