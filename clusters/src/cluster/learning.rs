//! Operations that the protocol's table lacks: a server of the cluster is asked what they are, once.
//!
//! A client's batch with such an operation waits for the answer, and goes on as if the table had it: with its keys, its
//! class, and a connection of its own if it may block. What no server knows goes on as it is. Nothing is asked as long as
//! all operations are in the table.
//!
//! What a server has said holds for a while: modules are loaded, and servers exchanged for others.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use mecha_core::{Batch, ConnKey, Framed, OpId};

use super::Cluster;
use crate::router::Router;
use crate::{ReplySink, Upstream};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an operation is known, and how long it is known that there is none, in microseconds.
const KNOWN_FOR_MICROS: u64 = 60_000_000;
const UNKNOWN_FOR_MICROS: u64 = 5_000_000;
/// Names that are remembered; and that are asked about at once, so that the answer is small.
const MAX_NAMES: usize = 4096;
const AT_ONCE: usize = 8;

/// What a name means.
struct Meaning {
    /// Nothing, if no server knows it.
    op: Option<OpId>,
    until_micros: u64,
}

/// A client whose batch waits.
struct Waiter<P: Framed> {
    sink: Rc<dyn ReplySink<P>>,
    conn: ConnKey,
}

/// What one worker has learned from the servers of one cluster.
pub(super) struct Learning<P: Framed> {
    names: RefCell<HashMap<Box<[u8]>, Meaning>>,
    /// To be asked about.
    wanted: RefCell<Vec<Box<[u8]>>>,
    waiters: RefCell<Vec<Waiter<P>>>,
    is_asking: Cell<bool>,
    /// Reused.
    name: RefCell<Vec<u8>>,
}

impl<P: Framed> Default for Learning<P> {
    fn default() -> Self {
        Self {
            names: RefCell::default(),
            wanted: RefCell::default(),
            waiters: RefCell::default(),
            is_asking: Cell::new(false),
            name: RefCell::default(),
        }
    }
}

impl<P: Framed> Learning<P> {
    fn note(&self, name: Box<[u8]>, op: Option<OpId>, now_micros: u64) {
        let mut names = self.names.borrow_mut();
        if names.len() >= MAX_NAMES {
            names.retain(|_, meaning| meaning.op.is_some() && meaning.until_micros > now_micros);
            if names.len() >= MAX_NAMES {
                names.clear();
            }
        }
        let lasts = if op.is_some() { KNOWN_FOR_MICROS } else { UNKNOWN_FOR_MICROS };
        names.insert(name, Meaning { op, until_micros: now_micros + lasts });
    }
}

impl<P: Framed> Cluster<P> {
    /// As [`Upstream::recognise`].
    pub(super) fn recognise_all(
        &self,
        batch: &mut Batch<'_, P>,
        from: usize,
        sink: &Rc<dyn ReplySink<P>>,
    ) -> bool {
        let learning = &self.learning;
        let (mut name, now_micros) = (learning.name.borrow_mut(), self.now_micros());
        let mut is_known = true;
        for index in from..batch.calls.len() {
            if !P::unknown(batch, index, &mut name) {
                continue;
            }
            match learning.names.borrow().get(name.as_slice()) {
                Some(meaning) if meaning.until_micros > now_micros => {
                    if let Some(op) = meaning.op {
                        P::recognise(batch, index, op);
                    }
                    continue;
                }
                _ => {}
            }
            let mut wanted = learning.wanted.borrow_mut();
            if wanted.iter().any(|known| **known == **name) {
                is_known = false;
            } else if wanted.len() < MAX_NAMES {
                wanted.push(name.as_slice().into());
                is_known = false;
            }
        }
        let Some(call) = batch.calls.get(from).filter(|_| !is_known) else { return true };
        if let Router::Unknown(false) = self.members().router {
            self.wait_for_news(sink, call.ticket.conn, now_micros);
            return false;
        }
        learning.waiters.borrow_mut().push(Waiter { sink: Rc::clone(sink), conn: call.ticket.conn });
        if !learning.is_asking.replace(true)
            && let Some(me) = self.me.upgrade()
        {
            tokio::task::spawn_local(async move { me.ask_about_all().await });
        }
        false
    }

    /// Asks about everything that is wanted, and tells who waits.
    async fn ask_about_all(&self) {
        let learning = &self.learning;
        loop {
            // They stay among the wanted, so that nobody asks again meanwhile.
            let names: Vec<_> = learning.wanted.borrow().iter().take(AT_ONCE).cloned().collect();
            if names.is_empty() {
                break;
            }
            let learned = self.ask_a_server(&names).await;
            let now_micros = self.now_micros();
            learning.wanted.borrow_mut().drain(..names.len());
            for (name, op) in names.into_iter().zip(learned) {
                learning.note(name, op, now_micros);
            }
            if learning.wanted.borrow().is_empty() {
                // Each of them looks for itself whether it knows all that it needs.
                learning.waiters.take().into_iter().for_each(|waiter| waiter.sink.resume(waiter.conn));
            }
        }
        learning.is_asking.set(false);
    }

    async fn ask_a_server(&self, names: &[Box<[u8]>]) -> Vec<Option<OpId>> {
        let nothing = vec![None; names.len()];
        let mut request = Vec::new();
        P::ask_about(names, &mut request);
        let members = self.members();
        let mut servers = members.shards.iter().filter_map(|position| members.at(*position).ok());
        let Some(server) = servers.find(|server| !server.endpoint.is_down()) else { return nothing };
        let connection = self.open_pin(server, 0);
        let answer = tokio::time::timeout(PATIENCE, connection.ask(&request)).await;
        self.unpin(connection, matches!(answer, Ok(Ok(_))));
        match answer {
            Ok(Ok(answer)) => P::learn(names, &answer),
            _ => nothing,
        }
    }
}
