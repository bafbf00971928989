//! Workers: one thread, one single-threaded runtime, one part of everything.
//!
//! A client, its filters, its upstream connections and their replies live on one worker for the client's whole life,
//! so nothing on the data path is locked or sent between threads. Workers are told what to do through a channel, by
//! the acceptor (new clients) and by the control side (drain, questions).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mecha_clusters::Timers;
use mecha_core::Peer;
use mecha_transport::{Accepted, Clock};
use tokio::sync::mpsc;

use crate::assembly::{Door, EndpointRows, Environment, Plan, Scope};
use crate::session::ConnectionInfo;

/// Reads from upstreams: larger than those from clients, as replies of many clients come together.
const UPSTREAM_READ: usize = 64 << 10;
/// Messages that may wait for a worker; the acceptor waits when there are more.
const INBOX: usize = 1024;
/// How often filters are ticked and silent clients are looked for, where there are any.
const TICK: Duration = Duration::from_millis(250);

/// What a worker is told.
pub enum Message {
    /// Serve this client of listener number `door`.
    Accept {
        /// The listener's place in the configuration.
        door: usize,
        /// The client.
        stream: Accepted,
        /// The connection's number.
        id: u64,
        /// Counts the client until it leaves.
        seat: Seat,
    },
    /// Tell what you are doing.
    Describe(std::sync::mpsc::SyncSender<Description>),
    /// End every connection as soon as it has nothing in flight, then end.
    Drain,
}

/// One client's share of its worker's load, counted from the acceptor's choice to the client's end.
pub struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a worker is doing, for people.
#[derive(Debug, Default)]
pub struct Description {
    /// Its clients.
    pub connections: Vec<ConnectionInfo>,
    /// Its clusters: name, and of each endpoint the address, whether it is down, and its unanswered calls.
    pub clusters: Vec<(String, EndpointRows)>,
}

/// The control side's end of a worker.
#[derive(Clone)]
pub struct Worker {
    /// Where it takes messages.
    pub inbox: mpsc::Sender<Message>,
    clients: Arc<AtomicUsize>,
}

impl Worker {
    /// Clients that it has, or that are on their way to it.
    pub fn load(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Reserves a place for one client.
    pub fn seat(&self) -> Seat {
        self.clients.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::clone(&self.clients))
    }
}

/// Starts worker number `index` on its own thread. The thread ends after [`Message::Drain`].
///
/// # Errors
/// The system gives no thread.
pub fn start(
    index: usize,
    plan: Arc<Plan>,
    clock: Clock,
) -> std::io::Result<(Worker, std::thread::JoinHandle<()>)> {
    let (inbox, messages) = mpsc::channel(INBOX);
    let clients = Arc::new(AtomicUsize::new(0));
    let worker = Worker { inbox, clients };
    let main = move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        match runtime {
            Ok(runtime) => runtime.block_on(run(plan, messages, clock)),
            Err(error) => tracing::error!(%error, worker = index, "worker has no runtime"),
        }
    };
    let thread = std::thread::Builder::new().name(format!("mecha-worker-{index}")).spawn(main)?;
    Ok((worker, thread))
}

async fn run(plan: Arc<Plan>, mut messages: mpsc::Receiver<Message>, clock: Clock) {
    let timers = Rc::new(Timers::default());
    let environment = Environment {
        clock,
        timers: Rc::clone(&timers),
        scratch: Rc::new(RefCell::new(vec![0; UPSTREAM_READ])),
    };
    tokio::task::spawn_local(timers.run(clock));
    let mut scope = Scope::new(environment);
    let doors = plan.open(&mut scope);
    let has_idle_timeouts = plan.snapshot.listeners.iter().any(|listener| listener.idle_timeout.is_some());
    let is_ticking = has_idle_timeouts || !scope.chains.is_empty();
    let mut tick = tokio::time::interval(TICK);
    let mut is_draining = false;
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            _ = tick.tick(), if is_ticking => {
                let now = clock.micros();
                scope.chains.iter().for_each(|chain| chain(now));
                scope.engines.iter().for_each(|engine| engine.close_idle(now));
                None
            }
            // Connections end on their own while the worker drains.
            () = tokio::time::sleep(Duration::from_millis(5)), if is_draining => None,
        };
        match message {
            Some(Message::Accept { door, stream, id, seat }) => accept(&doors, door, stream, id, seat),
            Some(Message::Describe(reply)) => {
                // Nobody may be waiting any more.
                let _ = reply.try_send(describe(&scope));
            }
            Some(Message::Drain) => {
                is_draining = true;
                scope.engines.iter().for_each(|engine| engine.drain());
            }
            None => {}
        }
        let connections: usize = scope.engines.iter().map(|engine| engine.connections()).sum();
        if is_draining && connections == 0 || messages.is_closed() && messages.is_empty() {
            return;
        }
    }
}

fn accept(doors: &[Rc<dyn Door>], door: usize, stream: Accepted, id: u64, seat: Seat) {
    let peer = Peer { id, addr: stream.peer(), identity: None };
    if let Some(door) = doors.get(door)
        && let Err(error) = door.accept(stream, peer, seat)
    {
        tracing::warn!(%error, "client could not be served");
    }
}

fn describe(scope: &Scope) -> Description {
    Description {
        connections: scope.engines.iter().flat_map(|engine| engine.describe()).collect(),
        clusters: scope.clusters.iter().map(|(name, rows)| (name.clone(), rows())).collect(),
    }
}
