//! The thread that accepts clients and gives each to the worker with the fewest.
//!
//! Clients of Redis and Memcached keep few, long, hot connections. Letting the kernel hash them over workers leaves
//! some workers idle, so one thread chooses. Accepting is rare beside serving, and the socket is handed over before a
//! byte is read.
//!
//! A socket outlives the configuration that it was bound for: when a newer one comes into force, the socket goes on and
//! only the door behind it changes, so that no client is turned away in between.

mod detect;
mod handshakes;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mecha_transport::{Accepted, Bound, Listener};
use tokio::sync::{Notify, mpsc, oneshot};

pub use self::detect::{DetectDoor, Lead, Speaks};
use self::handshakes::Handshakes;
pub use self::handshakes::{Prelude, ProxyDoor, TlsDoor};
use crate::worker::{Message, Worker};

/// After an error that waiting may cure (no descriptors left).
const RETRY: Duration = Duration::from_millis(50);

/// One door of the configuration that is to come into force.
pub struct Entrance {
    /// Which socket: the same from one configuration to the next if the address is.
    pub socket: String,
    /// The door's number.
    pub door: u64,
    /// The socket, unless the acceptor has it.
    pub bound: Option<Bound>,
    /// What comes before its protocol.
    pub prelude: Prelude,
}

/// Changes what is accepted. The acceptor ends, and its sockets close, when the sender is dropped.
pub type Orders = mpsc::Sender<(Vec<Entrance>, oneshot::Sender<()>)>;

/// Starts the thread, which accepts nothing yet.
///
/// # Errors
/// The system gives no thread.
pub fn start(workers: Vec<Worker>) -> io::Result<(Orders, std::thread::JoinHandle<()>)> {
    let (orders, received) = mpsc::channel(1);
    let thread = std::thread::Builder::new().name("mecha-acceptor".into()).spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        match runtime {
            Ok(runtime) => runtime.block_on(obey(workers, received)),
            Err(error) => tracing::error!(%error, "acceptor has no runtime"),
        }
    })?;
    Ok((orders, thread))
}

/// Where a socket's clients go: the door's number, and what comes before its protocol.
type Leads = (u64, Prelude);

/// A socket that is being accepted from.
struct Post {
    door: Rc<RefCell<Leads>>,
    over: Rc<Notify>,
}

async fn obey(workers: Vec<Worker>, mut orders: mpsc::Receiver<(Vec<Entrance>, oneshot::Sender<()>)>) {
    let handshakes = match Handshakes::start(workers.clone()) {
        Ok(handshakes) => Rc::new(handshakes),
        Err(error) => return tracing::error!(%error, "no thread for handshakes"),
    };
    let (workers, ids) = (Arc::new(workers), Arc::new(AtomicU64::new(1)));
    let mut posts = HashMap::<String, Post>::new();
    while let Some((entrances, done)) = orders.recv().await {
        posts.retain(|socket, post| {
            let is_kept = entrances.iter().any(|entrance| entrance.socket == *socket);
            if !is_kept {
                post.over.notify_one();
            }
            is_kept
        });
        for Entrance { socket, door, bound, prelude } in entrances {
            if let Some(post) = posts.get(&socket) {
                *post.door.borrow_mut() = (door, prelude);
                continue;
            }
            match bound.map(Bound::into_listener) {
                Some(Ok(listener)) => {
                    let post = Post { door: Rc::new(RefCell::new((door, prelude))), over: Rc::default() };
                    let (door, over) = (Rc::clone(&post.door), Rc::clone(&post.over));
                    let (workers, ids) = (Arc::clone(&workers), Arc::clone(&ids));
                    let handshakes = Rc::clone(&handshakes);
                    tokio::task::spawn_local(async move {
                        tokio::select! {
                            () = accept_all(&door, listener, &workers, &ids, &handshakes) => {}
                            () = over.notified() => {}
                        }
                    });
                    posts.insert(socket, post);
                }
                Some(Err(error)) => tracing::error!(%error, socket, "listener cannot be used"),
                None => tracing::error!(socket, "listener has no socket"),
            }
        }
        // The control side may have given up.
        let _ = done.send(());
    }
}

/// Gives a client to the worker with the fewest. A worker that is gone serves nobody.
async fn give(workers: &[Worker], door: u64, stream: Accepted, id: u64) {
    let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) else { return };
    let seat = worker.seat();
    let _ = worker.inbox.send(Message::Accept { door, stream, id, seat }).await;
}

async fn accept_all(
    door: &RefCell<Leads>,
    listener: Listener,
    workers: &[Worker],
    ids: &AtomicU64,
    handshakes: &Handshakes,
) {
    let mut is_failing = false;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                is_failing = false;
                let id = ids.fetch_add(1, Ordering::Relaxed);
                let (door, prelude) = door.borrow().clone();
                if prelude.is_empty() {
                    give(workers, door, stream, id).await;
                } else {
                    handshakes.take(door, prelude, stream, id).await;
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
