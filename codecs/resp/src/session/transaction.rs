//! Transactions: which connection `MULTI`, `WATCH` and their ends need, and what a front that plans commands itself
//! remembers of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mecha_core::Affinity;

use super::Session;
use super::look::{Seen, Step};
use crate::ops::op;

/// What a front that plans commands itself knows of a client's `WATCH` and `MULTI`.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// The queued requests.
    pub frames: Vec<Vec<u8>>,
    /// What they take, in bytes.
    pub bytes: usize,
    /// A command could not be queued: `EXEC` will refuse.
    pub broken: bool,
    /// Shared with the plans of `WATCH` and `EXEC`, which run later than they are made.
    pub progress: Rc<Progress>,
}

/// See [`Transaction::progress`].
#[derive(Debug, Default)]
pub struct Progress {
    /// `EXEC` has a plan, which may yet have to be made again.
    pub planned: Cell<bool>,
    /// The plan of `EXEC` has been taken up: it will not be made again.
    pub begun: Cell<bool>,
    /// `EXEC` did nothing: a watched key had changed, or its keys could not be read or stored.
    pub aborted: Cell<bool>,
    /// The plan of `EXEC` is under way, and how it ends is not known yet.
    pub pending: Cell<bool>,
    /// Watched keys and the versions that they had.
    pub watched: RefCell<Vec<(Vec<u8>, u64)>>,
    /// What the queued commands make of the session.
    pub after: RefCell<Option<Box<Session>>>,
}

// === impl Session ===

impl Session {
    pub(super) fn transaction(&mut self, seen: &Seen<'_>) -> Step {
        match (seen.op, self.multi) {
            (op::MULTI, false) => {
                (self.multi, self.doomed, self.queued) = (true, false, 0);
                Step::Go(Affinity::Pin)
            }
            (op::EXEC, true) if self.doomed => {
                (self.multi, self.watching, self.doomed) = (false, false, false);
                self.is_spoiling = true;
                Step::Go(self.released())
            }
            (op::EXEC | op::DISCARD, true) => {
                (self.multi, self.watching) = (false, false);
                Step::Go(self.released())
            }
            (op::WATCH, false) => {
                self.watching = true;
                Step::Go(Affinity::Pin)
            }
            (op::UNWATCH, false) if self.watching => {
                self.watching = false;
                Step::Go(self.released())
            }
            _ => self.plain(seen),
        }
    }
}
