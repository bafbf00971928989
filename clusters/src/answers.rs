//! Answers of upstreams that take a call themselves, given when nothing is borrowed.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use mecha_core::{Framed, OpId, Outcome, Ticket};

use crate::{Cluster, ReplySink};

/// One answer, and who gets it.
pub(crate) struct Answer<P: Framed> {
    pub(crate) sink: Rc<dyn ReplySink<P>>,
    pub(crate) ticket: Ticket,
    pub(crate) op: OpId,
    pub(crate) bytes: Vec<u8>,
    pub(crate) outcome: Outcome,
}

/// Those that are due at the end of this turn.
pub(crate) struct Answers<P: Framed> {
    due: Rc<RefCell<Vec<Answer<P>>>>,
    clock: Weak<Cluster<P>>,
}

// === impl Answers ===

impl<P: Framed> Answers<P> {
    /// Whose time is that of `cluster`.
    pub(crate) fn new(cluster: &Rc<Cluster<P>>) -> Self {
        Self { due: Rc::default(), clock: Rc::downgrade(cluster) }
    }

    /// Answers in a task of its own: whoever calls may be in the middle of taking a batch.
    pub(crate) fn give(&self, answer: Answer<P>) {
        let mut due = self.due.borrow_mut();
        due.push(answer);
        if due.len() > 1 {
            return;
        }
        let (due, clock) = (Rc::clone(&self.due), Weak::clone(&self.clock));
        tokio::task::spawn_local(async move {
            let Some(now) = clock.upgrade().map(|cluster| cluster.now_micros()) else { return };
            let due = std::mem::take(&mut *due.borrow_mut());
            for Answer { sink, ticket, op, bytes, outcome } in due {
                sink.answered(ticket, op, &bytes, outcome, now);
                sink.flush(now);
            }
        });
    }
}
