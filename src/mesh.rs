//! Errands on their way: a worker asks all workers, itself among them, about the clients of one listener.
//!
//! Workers share nothing that a lock would guard, so an errand is a message like any other, taken up between two batches.
//! Each worker has at most one errand of its own clients under way (others wait for it), and what it finds is limited by
//! how many clients there are.

use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mecha_core::{Errand, Found};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::worker::{Message, Worker};

/// How long a worker may take. One that is slower is overloaded, and its clients are not listed.
const PATIENCE: Duration = Duration::from_secs(5);

/// An errand, and where it goes.
#[derive(Clone, Debug)]
pub struct Order {
    /// The protocol of the clients, as in [`mecha_core::Protocol::NAME`].
    pub protocol: &'static str,
    /// Their listener's name.
    pub listener: String,
    /// What is to be done.
    pub errand: Errand,
}

/// Every worker's way to every worker.
#[derive(Clone)]
pub struct Mesh {
    // Weak: a worker ends when the control side lets go of it.
    workers: Arc<OnceLock<Vec<mpsc::WeakSender<Message>>>>,
    /// One errand at a time.
    turn: Rc<Semaphore>,
}

/// The part of a [`Mesh`] that goes to every worker's thread.
#[derive(Clone, Debug, Default)]
pub struct Wiring(Arc<OnceLock<Vec<mpsc::WeakSender<Message>>>>);

// === impl Wiring ===

impl Wiring {
    /// Tells who the workers are; later calls change nothing.
    pub fn join(&self, workers: &[Worker]) {
        // Only whoever starts the workers calls this.
        let _ = self.0.set(workers.iter().map(|worker| worker.inbox.downgrade()).collect());
    }

    /// One worker's end.
    pub fn mesh(&self) -> Mesh {
        Mesh { workers: Arc::clone(&self.0), turn: Rc::new(Semaphore::new(1)) }
    }
}

// === impl Mesh ===

impl Default for Mesh {
    fn default() -> Self {
        Wiring::default().mesh()
    }
}

impl Mesh {
    /// What all workers have found.
    pub async fn run(&self, order: Order) -> Found {
        let mut all = Found::default();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let Ok(Ok(_turn)) = tokio::time::timeout_at(deadline, self.turn.acquire()).await else {
            all.is_partial = true;
            return all;
        };
        let order = Arc::new(order);
        let workers = self.workers.get().map(Vec::as_slice).unwrap_or_default();
        all.is_partial = workers.is_empty();
        let mut answers = Vec::with_capacity(workers.len());
        for worker in workers.iter().filter_map(mpsc::WeakSender::upgrade) {
            let (reply, answer) = oneshot::channel();
            let sent = worker.send(Message::Errand(Arc::clone(&order), reply));
            all.is_partial |= !matches!(tokio::time::timeout_at(deadline, sent).await, Ok(Ok(())));
            answers.push(answer);
        }
        for answer in answers {
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(found)) => all.add(found),
                _ => all.is_partial = true,
            }
        }
        all
    }
}
