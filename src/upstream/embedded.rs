//! The embedded store as an upstream: every call is answered before `submit` returns, but those that wait for keys.
//!
//! What somebody waits for may come from any worker. Its answer is sent to the worker of the client that waits, where a
//! task hands it to the engine. That way is not bounded by itself, but each client that waits is sent one answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mecha_clusters::{ReplySink, SubmitCx, Submitted, Upstream};
use mecha_core::{Batch, ConnKey};
use mecha_translate::kv::{GaveUp, Started};
use mecha_translate::{Desk, Exchange, KvFront, Late, Post, Store, Taken};
use mecha_transport::{Clock, unix_ms};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use super::mailbox::Listening;
use super::submitted;

/// Front protocol `A` over the store that all workers share.
pub struct Embedded<A: KvFront> {
    store: Arc<Store>,
    started: Started,
    clock: Clock,
    clients: Rc<dyn ReplySink<A>>,
    post: Arc<dyn Post>,
    /// Until somebody waits for the first time.
    letters: RefCell<Option<UnboundedReceiver<Late>>>,
    waiting: Rc<RefCell<HashMap<ConnKey, Waiting>>>,
    listening: Listening,
}

/// A client that waits.
struct Waiting {
    /// As the store knows it.
    client: u64,
    /// Ends it when its time is up.
    timer: Option<AbortHandle>,
}

struct Letters(UnboundedSender<Late>);

impl Post for Letters {
    fn post(&self, late: Late) {
        // If nobody reads them, the worker has ended, and the client with it.
        let _ = self.0.send(late);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

impl<A: KvFront> Embedded<A> {
    /// A door to `store` for the clients of `clients`.
    pub fn new(
        store: Arc<Store>,
        started: Started,
        exchange: Arc<Exchange>,
        clock: Clock,
        clients: Rc<dyn ReplySink<A>>,
    ) -> Self {
        let (sender, letters) = unbounded_channel();
        let post: Arc<dyn Post> = Arc::new(Letters(sender));
        let letters = RefCell::new(Some(letters));
        Self {
            store,
            started,
            clock,
            clients,
            post,
            letters,
            waiting: Rc::default(),
            listening: Listening::new(exchange),
        }
    }

    /// The store has put this client on its list.
    fn waits(&self, conn: ConnKey, client: u64) {
        if let Some(letters) = self.letters.take() {
            // It ends when nobody can send any more: this door is gone, and so is everybody who waited behind it.
            let (waiting, clients, clock) = (Rc::clone(&self.waiting), Rc::clone(&self.clients), self.clock);
            tokio::task::spawn_local(hand_over(letters, waiting, clients, clock));
        }
        let until = self.store.waits_until(client).flatten();
        let timer = until.map(|until| {
            let store = Arc::clone(&self.store);
            let task = tokio::task::spawn_local(async move {
                // The clock of the world may have been set in the meantime.
                while let Some(left) = until.checked_sub(unix_ms()).filter(|left| *left > 0) {
                    tokio::time::sleep(Duration::from_millis(left)).await;
                }
                store.give_up(client, GaveUp::TimeUp);
            });
            task.abort_handle()
        });
        self.waiting.borrow_mut().insert(conn, Waiting { client, timer });
    }

    fn client(&self, conn: ConnKey) -> Option<u64> {
        self.waiting.borrow().get(&conn).map(|waiting| waiting.client)
    }
}

/// Hands answers to the engine as they come.
async fn hand_over<A: KvFront>(
    mut letters: UnboundedReceiver<Late>,
    waiting: Rc<RefCell<HashMap<ConnKey, Waiting>>>,
    clients: Rc<dyn ReplySink<A>>,
    clock: Clock,
) {
    while let Some(mut late) = letters.recv().await {
        let now_micros = clock.micros();
        loop {
            let conn = late.ticket.conn;
            waiting.borrow_mut().remove(&conn);
            clients.answered(late.ticket, late.op, &late.bytes, late.outcome, now_micros);
            clients.resume(conn);
            late = match letters.try_recv() {
                Ok(next) => next,
                Err(_) => break,
            };
        }
        clients.flush(now_micros);
    }
}

impl<A: KvFront> Upstream<A> for Embedded<A> {
    fn submit(&self, batch: &mut Batch<'_, A>, range: Range<usize>, cx: SubmitCx<'_, A>) -> Submitted {
        let conn = batch.calls.get(range.start).map(|call| call.ticket.conn);
        if let Some(conn) = conn
            && self.is_waiting(conn)
        {
            return Submitted::Full;
        }
        let desk = Desk {
            now_ms: unix_ms(),
            started: self.started,
            random: fastrand::u64(..),
            post: &self.post,
            door: Some(&self.listening.door),
        };
        self.listening.start(&self.clients, self.clock);
        let taken = mecha_translate::serve(&self.store, batch, range, cx.peer, &desk);
        if let (Taken::Pending(_), Some(conn)) = (taken, conn) {
            self.waits(conn, cx.peer.id);
        }
        submitted(taken)
    }

    fn is_translated(&self) -> bool {
        true
    }

    fn is_waiting(&self, conn: ConnKey) -> bool {
        let waiting = self.waiting.borrow();
        !waiting.is_empty() && waiting.contains_key(&conn)
    }

    fn unblock(&self, conn: ConnKey, with_error: bool) -> bool {
        let why = if with_error { GaveUp::Unblocked } else { GaveUp::TimeUp };
        self.client(conn).is_some_and(|client| self.store.give_up(client, why))
    }

    fn release(&self) {
        let waiting: Vec<_> = self.waiting.borrow().values().map(|waiting| waiting.client).collect();
        for client in waiting {
            self.store.give_up(client, GaveUp::Moved);
        }
    }

    fn forget(&self, conn: ConnKey) {
        if let Some(waiting) = self.waiting.borrow_mut().remove(&conn) {
            self.store.forget(waiting.client);
        }
        self.listening.door.forget(conn);
    }
}
