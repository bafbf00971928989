//! The thread that accepts clients and gives each to the worker with the fewest.
//!
//! Clients of Redis and Memcached keep few, long, hot connections. Letting the kernel hash them over workers leaves
//! some workers idle, so one thread chooses. Accepting is rare beside serving, and the socket is handed over before a
//! byte is read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mecha_transport::{Bound, Listener};
use tokio::sync::watch;

use crate::worker::{Message, Worker};

/// After an error that waiting may cure (no descriptors left).
const RETRY: Duration = Duration::from_millis(50);

/// Starts the thread. It ends when `stop` becomes true.
///
/// # Errors
/// The system gives no thread.
pub fn start(
    bound: Vec<Bound>,
    workers: Vec<Worker>,
    stop: watch::Receiver<bool>,
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("mecha-acceptor".into()).spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        match runtime {
            Ok(runtime) => runtime.block_on(accept_all(bound, workers, stop)),
            Err(error) => tracing::error!(%error, "acceptor has no runtime"),
        }
    })
}

async fn accept_all(bound: Vec<Bound>, workers: Vec<Worker>, mut stop: watch::Receiver<bool>) {
    let (workers, ids) = (Arc::new(workers), Arc::new(AtomicU64::new(1)));
    for (door, bound) in bound.into_iter().enumerate() {
        match bound.into_listener() {
            Ok(listener) => {
                tokio::task::spawn_local(accept_one(door, listener, Arc::clone(&workers), Arc::clone(&ids)));
            }
            Err(error) => tracing::error!(%error, "listener cannot be used"),
        }
    }
    // Either the word to stop, or the end of whoever could give it.
    let _ = stop.wait_for(|is_stopping| *is_stopping).await;
}

async fn accept_one(door: usize, listener: Listener, workers: Arc<Vec<Worker>>, ids: Arc<AtomicU64>) {
    let mut is_failing = false;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                is_failing = false;
                let id = ids.fetch_add(1, Ordering::Relaxed);
                let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) else { return };
                let seat = worker.seat();
                if worker.inbox.send(Message::Accept { door, stream, id, seat }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "cannot accept clients, trying again");
                }
                is_failing = true;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
