//! News of a topology, from the control side to the workers, and their wish for newer ones on the way back.
//!
//! Workers never wait for the control side: a task on each takes over what is published, and asking for a refresh is a
//! flag and a wake-up. How often that leads to a question to a server is the control side's decision.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{Notify, watch};

use crate::moves::Moves;
use crate::topology::Topology;

/// Why a refresh is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A server could not be reached, or was lost.
    Failure,
    /// Time has passed.
    Period,
    /// A server said that a key is elsewhere.
    Redirect,
    /// A sentinel announced a change.
    Switch,
}

impl Cause {
    /// Every variant, for metrics.
    pub const ALL: [Self; 4] = [Self::Failure, Self::Period, Self::Redirect, Self::Switch];

    /// Lower-case name, used as metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Period => "period",
            Self::Redirect => "redirect",
            Self::Switch => "switch",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

#[derive(Default)]
struct Wishes {
    causes: AtomicU8,
    made: Notify,
}

/// The control side's end.
#[derive(Clone)]
pub struct Publisher {
    topology: Arc<watch::Sender<Arc<Topology>>>,
    wishes: Arc<Wishes>,
    moves: Arc<Moves>,
}

/// A worker's end.
#[derive(Clone)]
pub struct Subscription {
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    wishes: Arc<Wishes>,
    moves: Arc<Moves>,
}

/// Both ends. Nothing is published so far.
pub fn news() -> (Publisher, Subscription) {
    let (sender, topology) = watch::channel(Arc::default());
    let wishes = Arc::<Wishes>::default();
    let moves = Arc::<Moves>::default();
    let publisher =
        Publisher { topology: Arc::new(sender), wishes: Arc::clone(&wishes), moves: Arc::clone(&moves) };
    (publisher, Subscription { topology, wishes, moves })
}

// === impl Publisher ===

impl Publisher {
    /// Replaces the topology. Publishing the empty one tells those who wait for the first that nobody could be asked.
    pub fn publish(&self, topology: Topology) {
        self.moves.compare(&self.current(), &topology);
        self.topology.send_replace(Arc::new(topology));
    }

    /// What was published last.
    pub fn current(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// Whether anybody listens, or may yet.
    pub fn has_listeners(&self) -> bool {
        self.topology.receiver_count() > 0
    }

    /// Wishes for a refresh. For whoever hears of changes on the control side.
    pub fn want(&self, cause: Cause) {
        self.wishes.want(cause);
    }

    /// Waits for wishes that have not been taken yet, and takes them.
    pub async fn wanted(&self) -> Vec<Cause> {
        loop {
            let causes = self.wishes.causes.swap(0, Ordering::AcqRel);
            if causes != 0 {
                return Cause::ALL.into_iter().filter(|cause| causes & cause.bit() != 0).collect();
            }
            self.wishes.made.notified().await;
        }
    }
}

// === impl Subscription ===

impl Subscription {
    /// Wishes for a refresh.
    pub fn want(&self, cause: Cause) {
        self.wishes.want(cause);
    }

    /// What was published last.
    pub fn current(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// Which slots have moved.
    pub fn moves(&self) -> &Moves {
        &self.moves
    }
}

impl Wishes {
    fn want(&self, cause: Cause) {
        // A thousand redirects in a row cost one wake-up.
        if self.causes.fetch_or(cause.bit(), Ordering::AcqRel) & cause.bit() == 0 {
            self.made.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wishes_are_taken_once_and_together() {
        let (publisher, subscription) = news();
        subscription.want(Cause::Redirect);
        subscription.want(Cause::Redirect);
        publisher.want(Cause::Failure);
        assert_eq!(publisher.wanted().await, [Cause::Failure, Cause::Redirect]);
        let none = tokio::time::timeout(std::time::Duration::from_millis(10), publisher.wanted()).await;
        assert!(none.is_err());
    }
}
