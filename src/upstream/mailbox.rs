//! Messages that clients publish, on their way to the clients of one worker's upstream.
//!
//! Any worker puts them in, and a task of this worker takes them out. What waits is bounded: a worker that does not keep up
//! loses messages, and the clients that lost one are closed, as a server closes a subscriber that reads too slowly.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mecha_clusters::ReplySink;
use mecha_core::{ConnKey, Framed};
use mecha_translate::{Courier, Door, Exchange, Parcel};
use mecha_transport::Clock;
use tokio::sync::Notify;

/// Bytes of messages that may wait for a worker.
const MOST_WAITING: usize = 32 << 20;
/// What one client adds to a message that waits.
const ENTRY: usize = std::mem::size_of::<(ConnKey, u8)>();
/// Bytes for clients after which they are written out.
const AT_ONCE: usize = 256 << 10;

/// See the module.
#[derive(Default)]
pub(super) struct Mailbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    parcels: Vec<Parcel>,
    bytes: usize,
    /// Clients that have lost a message.
    lost: HashSet<ConnKey>,
    is_closed: bool,
}

/// One upstream's end: its door at the exchange, and what empties the mailbox behind it.
pub(super) struct Listening {
    pub(super) door: Door,
    mailbox: Arc<Mailbox>,
    is_emptied: Cell<bool>,
}

// === impl Mailbox ===

impl Mailbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Courier for Mailbox {
    fn carry(&self, parcel: Parcel) {
        let size = parcel.rest.len() + parcel.to.len() * ENTRY;
        let mut waiting = self.waiting();
        if waiting.bytes + size > MOST_WAITING && waiting.bytes > 0 {
            waiting.lost.extend(parcel.to.iter().map(|(conn, _)| *conn));
        } else {
            waiting.bytes += size;
            waiting.parcels.push(parcel);
        }
        drop(waiting);
        self.arrived.notify_one();
    }
}

// === impl Listening ===

impl Listening {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        let mailbox = Arc::<Mailbox>::default();
        let door = Door::new(exchange, Arc::clone(&mailbox) as _);
        Self { door, mailbox, is_emptied: Cell::new(false) }
    }

    /// Sees to it that the mailbox is emptied from now on.
    pub(super) fn start<P: Framed>(&self, clients: &Rc<dyn ReplySink<P>>, clock: Clock) {
        if !self.is_emptied.replace(true) {
            tokio::task::spawn_local(empty(Arc::clone(&self.mailbox), Rc::clone(clients), clock));
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.mailbox.waiting().is_closed = true;
        self.mailbox.arrived.notify_one();
    }
}

async fn empty<P: Framed>(mailbox: Arc<Mailbox>, clients: Rc<dyn ReplySink<P>>, clock: Clock) {
    loop {
        mailbox.arrived.notified().await;
        let Waiting { parcels, lost, is_closed, .. } = {
            let mut waiting = mailbox.waiting();
            let is_closed = waiting.is_closed;
            Waiting {
                is_closed,
                ..std::mem::replace(&mut *waiting, Waiting { is_closed, ..Waiting::default() })
            }
        };
        let mut written = 0;
        for Parcel { to, rest } in parcels {
            for (conn, first) in to {
                clients.message(conn, first, &rest);
                written += rest.len();
                if written >= AT_ONCE {
                    clients.flush(clock.micros());
                    written = 0;
                }
            }
        }
        // As if the connection that their subscriptions are on were lost.
        lost.into_iter().for_each(|conn| clients.unpinned(conn));
        clients.flush(clock.micros());
        if is_closed {
            break;
        }
    }
}
