//! Workers: one thread, one single-threaded runtime, one part of everything.
//!
//! A client, its filters, its upstream connections and their replies live on one worker for the client's whole life,
//! so nothing on the data path is locked or sent between threads. Workers are told what to do through a channel, by
//! the acceptor (new clients) and by the control side (drain, questions).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mecha_clusters::Timers;
use mecha_core::{Found, Peer};
use mecha_transport::{Accepted, Clock};
use tokio::sync::mpsc;

use crate::assembly::{Door, EndpointRows, Environment, Plan, Scope};
use crate::mesh::{Order, Wiring};
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
        /// The listener's number, as in [`crate::assembly::PlannedDoor::id`].
        door: u64,
        /// The client.
        stream: Accepted,
        /// The connection's number.
        id: u64,
        /// Counts the client until it leaves.
        seat: Seat,
    },
    /// Do this with your clients, and tell what you have found.
    Errand(Arc<Order>, tokio::sync::oneshot::Sender<Found>),
    /// Tell what you are doing, and of at most so many clients.
    Describe(std::sync::mpsc::SyncSender<Description>, usize),
    /// End every connection as soon as it has nothing in flight, then end.
    Drain,
    /// Open the doors of a newer plan beside those that are open, and say so.
    Open(Arc<Plan>, tokio::sync::oneshot::Sender<()>),
    /// No client comes through the doors of older plans any more: hand those who are there over.
    Retire(Arc<Plan>),
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
    /// How many clients it has.
    pub clients: usize,
    /// Some of them.
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

/// Starts worker number `index` on its own thread, without doors. The thread ends after [`Message::Drain`].
///
/// # Errors
/// The system gives no thread.
pub fn start(
    index: usize,
    clock: Clock,
    wiring: Wiring,
) -> std::io::Result<(Worker, std::thread::JoinHandle<()>)> {
    let (inbox, messages) = mpsc::channel(INBOX);
    let clients = Arc::new(AtomicUsize::new(0));
    let worker = Worker { inbox, clients };
    let main = move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        match runtime {
            Ok(runtime) => runtime.block_on(run(messages, clock, wiring)),
            Err(error) => tracing::error!(%error, worker = index, "worker has no runtime"),
        }
    };
    let thread = std::thread::Builder::new().name(format!("mecha-worker-{index}")).spawn(main)?;
    Ok((worker, thread))
}

async fn run(mut messages: mpsc::Receiver<Message>, clock: Clock, wiring: Wiring) {
    let timers = Rc::new(Timers::default());
    let environment = Environment {
        clock,
        timers: Rc::clone(&timers),
        scratch: Rc::new(RefCell::new(vec![0; UPSTREAM_READ])),
    };
    tokio::task::spawn_local(timers.run(clock));
    let mut scope = Scope::new(environment, wiring.mesh());
    let mut doors = Doors::default();
    let mut is_ticking = false;
    // Until when clients of older plans may stay, while there are any.
    let mut handover: Option<u64> = None;
    let mut tick = tokio::time::interval(TICK);
    let mut is_draining = false;
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            _ = tick.tick(), if is_ticking || handover.is_some() => {
                let now = clock.micros();
                scope.chains.retain(|chain| chain(now));
                if let Some(until) = handover {
                    let left: usize = scope.engines.iter().map(|engine| engine.hand_over(now > until)).sum();
                    handover = (left > 0).then_some(until);
                }
                scope.engines.iter().for_each(|engine| engine.close_idle(now));
                None
            }
            // Connections end on their own while the worker drains.
            () = tokio::time::sleep(Duration::from_millis(5)), if is_draining => None,
        };
        match message {
            Some(Message::Accept { door, stream, id, seat }) => accept(&doors, door, stream, id, seat),
            Some(Message::Errand(order, reply)) => {
                if let Some(engine) = scope.engines.iter().find(|engine| engine.protocol() == order.protocol)
                {
                    Rc::clone(engine).carry_out(order, reply);
                } else {
                    let _ = reply.send(Found::default());
                }
            }
            Some(Message::Describe(reply, limit)) => {
                // Nobody may be waiting any more.
                let _ = reply.try_send(describe(&scope, limit));
            }
            Some(Message::Drain) => {
                is_draining = true;
                scope.engines.iter().for_each(|engine| engine.drain());
            }
            Some(Message::Open(plan, done)) => {
                doors.open(&plan, &mut scope);
                // The control side may have given up.
                let _ = done.send(());
            }
            Some(Message::Retire(plan)) => {
                doors.retire(&plan);
                scope.keep(&plan.snapshot.clusters);
                is_ticking = needs_ticks(&plan, &scope);
                handover = Some(clock.micros() + plan.snapshot.drain_timeout.as_micros() as u64);
                scope.engines.iter().for_each(|engine| {
                    engine.hand_over(false);
                });
            }
            None => {}
        }
        let connections: usize = scope.engines.iter().map(|engine| engine.connections()).sum();
        if is_draining && connections == 0 || messages.is_closed() && messages.is_empty() {
            return;
        }
    }
}

fn needs_ticks(plan: &Plan, scope: &Scope) -> bool {
    !scope.chains.is_empty()
        || plan
            .snapshot
            .listeners
            .iter()
            .any(|listener| listener.idle_timeout.is_some() || listener.oauth.is_some())
}

/// The doors of the plan in force, and of its predecessor while that is being replaced.
#[derive(Default)]
struct Doors(HashMap<u64, Opened>);

struct Opened {
    door: Rc<dyn Door>,
    name: String,
    address: mecha_config::Address,
    /// Its clients have dialled other addresses.
    is_redirected: bool,
}

impl Doors {
    fn open(&mut self, plan: &Plan, scope: &mut Scope) {
        for planned in &plan.doors {
            self.0.entry(planned.id).or_insert_with(|| {
                let listener = planned.listener();
                let (name, address) = (listener.name.clone(), listener.address.clone());
                let is_redirected = plan.is_redirected(listener);
                Opened { door: planned.plan.open(scope), name, address, is_redirected }
            });
        }
    }

    /// Closes every door that `plan` lacks. Clients follow the listener's name, or else its address.
    fn retire(&mut self, plan: &Plan) {
        let is_wanted = |id: &u64| plan.doors.iter().any(|planned| planned.id == *id);
        for (_, old) in self.0.iter().filter(|(id, _)| !is_wanted(id)) {
            let heirs = || plan.doors.iter();
            let heir = heirs()
                .find(|heir| heir.listener().name == old.name)
                .or_else(|| heirs().find(|heir| heir.listener().address == old.address));
            let heir = heir.and_then(|heir| self.0.get(&heir.id));
            old.door.retire(heir.map(|heir| &*heir.door));
        }
        self.0.retain(|id, _| is_wanted(id));
    }
}

fn accept(doors: &Doors, door: u64, stream: Accepted, id: u64, seat: Seat) {
    let Some(opened) = doors.0.get(&door) else { return };
    let dialled = if opened.is_redirected { stream.redirected_from() } else { None };
    let peer = Peer {
        id,
        addr: stream.peer(),
        local: dialled.or_else(|| stream.local()),
        identity: stream.identity().cloned(),
        user: None,
    };
    if let Err(error) = opened.door.accept(stream, peer, seat) {
        tracing::warn!(%error, "client could not be served");
    }
}

fn describe(scope: &Scope, limit: usize) -> Description {
    let mut connections = Vec::new();
    for engine in &scope.engines {
        let room = limit - connections.len();
        connections.extend(engine.describe(room));
    }
    Description {
        clients: scope.engines.iter().map(|engine| engine.connections()).sum(),
        connections,
        clusters: scope.clusters.iter().filter_map(|(name, rows)| Some((name.clone(), rows()?))).collect(),
    }
}
