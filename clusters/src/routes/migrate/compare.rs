//! A read that goes to both sides, and the comparison of its two answers.
//!
//! The client has the answer of the truth and waits for nothing. A comparison counts only if nothing can have changed the
//! read's keys from before the read until both answers are there; otherwise the difference would tell of the copy's
//! delay and not of the data.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mecha_core::Outcome;

use super::copies::{Copies, Likeness};
use super::pending::{Key, Side};
use super::watch::Watch;
use crate::routes::junction::Ended;

/// Bytes of one answer beyond which it is not compared.
const MAX_ANSWER: usize = 1 << 20;

/// Differences that are logged on one worker, per migration and configuration.
const MAX_LOGGED: u32 = 100;

/// What the comparisons of one worker share.
#[derive(Default)]
pub(super) struct Comparisons {
    /// Under way.
    pub(super) open: Cell<u32>,
    logged: Cell<u32>,
}

/// See the module.
pub(super) struct Shadow<P: Copies> {
    watch: Rc<Watch<P>>,
    shared: Rc<Comparisons>,
    likeness: Likeness,
    is_repairing: bool,
    /// With the number of changes before the read.
    keys: Vec<(Key, u32)>,
    own: RefCell<Vec<u8>>,
    is_answered: Cell<bool>,
    other: RefCell<Option<Vec<u8>>>,
}

// === impl Shadow ===

impl<P: Copies> Shadow<P> {
    pub(super) fn new(
        watch: &Rc<Watch<P>>,
        shared: &Rc<Comparisons>,
        likeness: Likeness,
        is_repairing: bool,
        keys: Vec<(Key, u32)>,
    ) -> Rc<Self> {
        shared.open.set(shared.open.get() + 1);
        Rc::new(Self {
            watch: Rc::clone(watch),
            shared: Rc::clone(shared),
            likeness,
            is_repairing,
            keys,
            own: RefCell::default(),
            is_answered: Cell::new(false),
            other: RefCell::default(),
        })
    }

    /// A part of the client's answer.
    pub(super) fn append(&self, bytes: &[u8]) {
        let mut own = self.own.borrow_mut();
        if own.len() <= MAX_ANSWER {
            own.extend_from_slice(bytes);
        }
    }

    /// The client's answer is complete.
    pub(super) fn answered(this: &Rc<Self>) {
        this.is_answered.set(true);
        this.compare();
    }

    /// The other side has answered, or has not.
    pub(super) fn shadowed(&self, ended: Ended) {
        match ended {
            // That the other side could not be asked says nothing about its data.
            Ended::Failed(_) | Ended::Replied(_, Outcome::Refused(_) | Outcome::ServerError, _) => {}
            Ended::Replied(bytes, ..) => {
                self.other.replace(Some(bytes));
                self.compare();
            }
        }
    }

    fn compare(&self) {
        let (own, other) = (self.own.borrow(), self.other.borrow());
        let Some(other) = other.as_ref().filter(|_| self.is_answered.get() && own.len() <= MAX_ANSWER) else {
            return;
        };
        let pending = &self.watch.migration.pending;
        if self.keys.iter().any(|(key, changes)| pending.changes(key) != *changes) {
            return;
        }
        let metrics = &self.watch.migration.metrics;
        mecha_telemetry::count(&metrics.compared);
        if P::is_alike(self.likeness, &own, other) {
            return;
        }
        mecha_telemetry::count(&metrics.mismatches);
        for (key, _) in &self.keys {
            if self.shared.logged.get() < MAX_LOGGED {
                self.shared.logged.set(self.shared.logged.get() + 1);
                // Keys are people's data: what is logged finds them again, and no more.
                let key = digest(key);
                tracing::warn!(key, "answers of the old and the new cluster differ");
            }
            if self.is_repairing && pending.mark(key, Side::New) {
                mecha_telemetry::count(&metrics.repairs);
                self.watch.work.notify_one();
            }
        }
    }
}

impl<P: Copies> Drop for Shadow<P> {
    fn drop(&mut self) {
        self.shared.open.set(self.shared.open.get().saturating_sub(1));
    }
}

/// The CRC-32 of a key, as tools of any language compute it.
pub(super) fn digest(key: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(key))
}
