//! Errands of clients ([`mecha_core::Errand`]): sent out for one client, carried out on others.
//!
//! The client that asks is stalled until every worker has answered. Those it asks about are looked at a few at a time, so
//! that a list of ten thousand clients delays nobody's batch by more than a moment.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mecha_clusters::{Connection, Upstream, Wish};
use mecha_core::{
    Act, Affinity, Asked, Batch, Call, ClientFacts, ConnKey, Errand, Found, Framed, Line, Outcome, Refusal,
    Session,
};
use mecha_telemetry::CloseReason;
use tokio::sync::oneshot;

use super::connection::{Client, Route, State, Wait};
use super::engine::{Engine, EngineCell};
use super::route::{Processing, misfit, refusal};
use crate::mesh::{Mesh, Order};

/// Clients that are looked at between two turns of others.
const AT_ONCE: usize = 256;
/// How long a server may take to end a blocking call.
const PATIENCE: Duration = Duration::from_secs(3);

/// An errand under way, and where its result will be.
pub(super) struct UnderWay {
    errand: Errand,
    found: Rc<RefCell<Option<Found>>>,
}

impl UnderWay {
    pub(super) fn is_done(&self) -> bool {
        self.found.borrow().is_some()
    }
}

/// A question to a server, for its sense of who may do what.
struct Probe<P: Framed> {
    request: Vec<u8>,
    connection: Rc<Connection<P>>,
    /// What is asked instead where more is to be learned.
    census: &'static [u8],
    /// Who gets the connection back, if it is not the client's.
    lender: Option<Rc<dyn Upstream<P>>>,
    /// An answer has not come in time.
    is_bad: Cell<bool>,
}

impl<P: Framed> Drop for Probe<P> {
    fn drop(&mut self) {
        if let Some(lender) = &self.lender {
            lender.unpin(Rc::clone(&self.connection), !self.is_bad.get());
        }
    }
}

impl<P: Framed> Probe<P> {
    /// The answer, or the words in which the server denies it, or mecha, if the server does not answer.
    async fn answer(&self, request: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        match self.ask(request).await {
            Ok(words) if P::is_denial(&words) => Err(words),
            Ok(words) => Ok(words),
            Err(why) => Err(refusal::<P>(Asked::default(), why)),
        }
    }

    /// Carries `order` out if the server lets the client ask such a thing, at most once. What the server is asked may tell
    /// more of its connections: then what mecha knows is gathered first, which changes nothing.
    async fn run(&self, order: Order, mesh: &Mesh) -> Found {
        let denied = |denial| Found { denial: Some(denial), ..Found::default() };
        if order.errand.act != Act::List {
            return match self.answer(&self.request).await {
                Ok(_) => mesh.run(order).await,
                Err(denial) => denied(denial),
            };
        }
        let mut all = mesh.run(order).await;
        let has_own = !self.census.is_empty() && all.lines.iter().any(|line| line.own.is_some());
        match self.answer(if has_own { self.census } else { &self.request }).await {
            Ok(answer) => all.census = if has_own { answer } else { Vec::new() },
            Err(denial) => return denied(denial),
        }
        all
    }

    async fn ask(&self, request: &[u8]) -> Result<Vec<u8>, Refusal> {
        match tokio::time::timeout(PATIENCE, self.connection.ask(request)).await {
            Ok(Ok(words)) => Ok(words),
            Ok(Err(_)) => Err(Refusal::UpstreamUnreachable),
            Err(_) => {
                self.is_bad.set(true);
                Err(Refusal::TimedOut)
            }
        }
    }
}

/// A client that is to be unblocked.
struct Blocked<P: Framed> {
    conn: ConnKey,
    upstream: Rc<dyn Upstream<P>>,
    /// Its connection at a server, and the server's number of that, if it waits there.
    own: Option<(Rc<Connection<P>>, u64)>,
}

// === impl State: the client that asks ===

impl<P: Framed> State<P> {
    /// Sends call `at` out as an errand, or answers it when the errand is done.
    pub(super) fn run_errand(
        &mut self,
        batch: &mut Batch<'_, P>,
        at: usize,
        call: &Call,
        cx: &mut Processing<'_, P>,
    ) -> Result<usize, Wait> {
        if self.ledger.in_flight() > 0 {
            return Err(Wait::Drained);
        }
        let Some(UnderWay { errand, found }) = self.errand.take() else {
            return match batch.session.errand(call.op, batch.frame(at)) {
                Some(Ok(errand)) => match self.probe(batch, at, call) {
                    Ok(probe) => {
                        self.send_out(errand, probe, cx);
                        Err(Wait::Errand)
                    }
                    Err(why) => Ok(misfit(batch, at, why)),
                },
                Some(Err(answer)) => {
                    self.answer_here(call, &answer, Outcome::ClientError, cx);
                    Ok(at + 1)
                }
                None => {
                    if let Some(call) = batch.calls.get_mut(at) {
                        call.affinity = Affinity::Shared;
                    }
                    Ok(at)
                }
            };
        };
        let Some(result) = found.take() else {
            self.errand = Some(UnderWay { errand, found });
            return Err(Wait::Errand);
        };
        if errand.act == Act::Locate {
            P::Session::on_located(batch, at, result.located);
            return Ok(at);
        }
        let mut answer = Vec::new();
        batch.session.report(batch.frame(at), &errand, &result, &mut answer);
        self.answer_here(call, &answer, P::answer_outcome(&answer), cx);
        if errand.act == Act::End && result.is_self {
            self.close(CloseReason::Killed);
            cx.stop_at = at + 1;
        }
        Ok(at + 1)
    }

    /// How the server is asked whether the client may send such a call: on the connection that it has for itself, or
    /// on one with the rights of those that it shares. `None` where there is nothing to ask.
    fn probe(&self, batch: &Batch<'_, P>, at: usize, call: &Call) -> Result<Option<Probe<P>>, Refusal> {
        let upstream = Rc::clone(&self.listener.upstream);
        let request = P::permission(call.op, batch.frame(at));
        if request.is_empty() || upstream.is_translated() {
            return Ok(None);
        }
        if let Route::Pinned { connection, .. } = &self.route {
            return Ok(Some(Probe {
                request,
                connection: Rc::clone(connection),
                census: P::census(call.op),
                lender: None,
                is_bad: Cell::new(false),
            }));
        }
        let session = &*batch.session;
        let wish = Wish {
            op: call.op,
            class: call.class,
            // Wherever that leads: all servers of a cluster have the same users.
            key: Some(&[]),
            profile: session.profile(),
            lane: &self.lane,
            conn: call.ticket.conn,
            peer: &self.peer,
            database: session.database(),
        };
        let connection = upstream.pin(&wish)?;
        Ok(Some(Probe {
            request,
            connection,
            census: P::census(call.op),
            lender: Some(upstream),
            is_bad: Cell::new(false),
        }))
    }

    fn send_out(&mut self, errand: Errand, probe: Option<Probe<P>>, cx: &Processing<'_, P>) {
        let found = Rc::new(RefCell::new(None));
        let (result, waker, mesh) = (Rc::clone(&found), self.waker.clone(), cx.mesh.clone());
        let order = Order { protocol: P::NAME, listener: self.listener.name.clone(), errand: errand.clone() };
        tokio::task::spawn_local(async move {
            let all = match probe {
                Some(probe) => probe.run(order, &mesh).await,
                None => mesh.run(order).await,
            };
            result.replace(Some(all));
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        self.errand = Some(UnderWay { errand, found });
    }

    fn facts(&self, now_micros: u64) -> ClientFacts<'_> {
        let seconds_since = |then: u64| now_micros.saturating_sub(then) / 1_000_000;
        ClientFacts {
            peer: &self.peer,
            age_secs: seconds_since(self.opened_micros),
            idle_secs: seconds_since(self.active_micros),
            waiting_bytes: self.stalled.as_ref().map_or(0, |stalled| stalled.wire.len()),
            unread_bytes: self.unread(),
            is_blocked: self.is_blocked(),
            last: self.last_op,
        }
    }

    /// Whether the client waits for a blocking call.
    pub(super) fn is_blocked(&self) -> bool {
        let in_flight = self.ledger.in_flight();
        self.blocked.is_some_and(|seq| seq.wrapping_sub(self.ledger.first()) < in_flight)
    }

    /// The client's own upstream connection, and the server's number of it.
    pub(super) fn own_connection(&self) -> Option<(&Rc<Connection<P>>, u64)> {
        let Route::Pinned { connection, .. } = &self.route else { return None };
        Some((connection, connection.identity()?))
    }
}

// === impl EngineCell: the clients that are asked about ===

impl<P: Framed> EngineCell<P> {
    /// Carries an errand out on this worker's clients.
    pub(crate) async fn carry_out(self: Rc<Self>, order: Arc<Order>, reply: oneshot::Sender<Found>) {
        let (mut found, mut blocked, mut from) = (Found::default(), Vec::new(), 0);
        let mut sought = None;
        loop {
            let next = self.0.borrow_mut().carry_out(&order, from, &mut found, &mut blocked, &mut sought);
            let Some(next) = next else { break };
            from = next;
            tokio::task::yield_now().await;
        }
        if let Some(conn) = sought {
            found.located = self.locate(conn).await;
        }
        let Act::Unblock { with_error } = order.errand.act else {
            // Nobody may be waiting any more.
            let _ = reply.send(found);
            return;
        };
        for Blocked { conn, upstream, own } in blocked {
            let did = match own {
                Some((connection, id)) => unblock(&*upstream, &connection, id, with_error).await,
                None => upstream.unblock(conn, with_error),
            };
            found.count += u64::from(did);
        }
        let _ = reply.send(found);
    }
}

/// Ends a blocking call at its server. Returns whether it did: the call may have been answered before.
async fn unblock<P: Framed>(
    upstream: &dyn Upstream<P>,
    connection: &Connection<P>,
    id: u64,
    with_error: bool,
) -> bool {
    let Some(aside) = upstream.beside(connection) else { return false };
    let mut request = Vec::new();
    P::unblock(id, with_error, &mut request);
    let answer = tokio::time::timeout(PATIENCE, aside.ask(&request)).await;
    upstream.unpin(aside, matches!(answer, Ok(Ok(_))));
    matches!(answer, Ok(Ok(answer)) if P::number(&answer) == Some(1))
}

// === impl Engine ===

impl<P: Framed> Engine<P> {
    /// Looks at some clients, from position `from` on. Returns where to go on, if there are more.
    fn carry_out(
        &mut self,
        order: &Order,
        from: usize,
        found: &mut Found,
        blocked: &mut Vec<Blocked<P>>,
        sought: &mut Option<ConnKey>,
    ) -> Option<usize> {
        let now = self.clock_micros();
        let (clients, epochs) = self.clients_and_epochs();
        let end = (from + AT_ONCE).min(epochs.len());
        for index in from..end {
            let Some(client) = clients.get_mut(index) else { continue };
            let epoch = epochs.get(index).copied().unwrap_or_default();
            let conn = ConnKey { index: index as u32, epoch };
            if client.state.listener.name != order.listener || !client.is_meant(&order.errand, now) {
                continue;
            }
            if order.errand.act == Act::Locate {
                *sought = Some(conn);
            } else {
                client.carry_out(conn, &order.errand, now, found, blocked);
            }
        }
        (end < epochs.len()).then_some(end)
    }
}

impl<P: Framed> Client<P> {
    fn is_meant(&self, errand: &Errand, now_micros: u64) -> bool {
        let whom = &errand.whom;
        whom.admits(&self.state.facts(now_micros))
            && whom.kind.is_none_or(|kind| kind == self.session.kind())
            && whom.user.as_deref().is_none_or(|user| user == self.shown_user())
    }

    /// The user that mecha knows the client as, or else its server.
    fn shown_user(&self) -> &str {
        self.state.peer.user.as_deref().unwrap_or(self.session.shown_user())
    }

    fn carry_out(
        &mut self,
        conn: ConnKey,
        errand: &Errand,
        now_micros: u64,
        found: &mut Found,
        blocked: &mut Vec<Blocked<P>>,
    ) {
        let state = &mut self.state;
        match errand.act {
            Act::End => {
                found.count += 1;
                if state.peer.id == errand.from {
                    // It has an answer to get first.
                    found.is_self = true;
                } else {
                    state.break_off(CloseReason::Killed);
                }
            }
            Act::List => {
                found.count += 1;
                let mut line = Vec::new();
                self.session.describe(&state.facts(now_micros), &mut line);
                let own = match &state.route {
                    Route::Pinned { connection, .. } => connection.local(),
                    Route::Shared => None,
                };
                found.lines.push(Line { id: state.peer.id, text: line, own });
            }
            Act::Unblock { .. } if state.is_blocked() => {
                let upstream = Rc::clone(&state.listener.upstream);
                let own = state.own_connection().map(|(connection, id)| (Rc::clone(connection), id));
                if own.is_some() || upstream.is_waiting(conn) {
                    blocked.push(Blocked { conn, upstream, own });
                }
            }
            // Seen to by whoever looks for the client.
            Act::Locate | Act::Unblock { .. } => {}
        }
    }
}
