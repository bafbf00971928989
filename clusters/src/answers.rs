//! Answers of upstreams that take a call themselves, given when nothing is borrowed.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use mecha_core::{Asked, Framed, OpId, Outcome, Refusal, Ticket};

use crate::{Cluster, ReplySink};

/// How long a command waits for servers, if it has no limit of its own.
const PATIENCE: Duration = Duration::from_secs(5);

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

/// How long a command with this timeout waits for servers, and what it is told then.
pub(crate) fn patience(timeout_ms: u32) -> (Duration, Refusal) {
    match timeout_ms {
        0 => (PATIENCE, Refusal::UpstreamUnreachable),
        millis => (Duration::from_millis(u64::from(millis)), Refusal::TimedOut),
    }
}

/// Once a command with this timeout has waited long enough, `give_up` is called, unless `waiter` is gone.
pub(crate) fn after_patience<W: 'static>(
    waiter: Weak<W>,
    timeout_ms: u32,
    give_up: impl FnOnce(&W, Refusal) + 'static,
) {
    let (limit, why) = patience(timeout_ms);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(limit).await;
        if let Some(waiter) = waiter.upgrade() {
            give_up(&waiter, why);
        }
    });
}

/// The native error.
pub(crate) fn refusal<P: Framed>(op: OpId, why: Refusal) -> Vec<u8> {
    let mut error = Vec::new();
    P::refuse(Asked { op, echo: 0 }, why, &mut error);
    error
}
