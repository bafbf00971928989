//! Clients that log in at servers which share the keys (`AUTH`, `HELLO … AUTH` over several servers).
//!
//! A connection has one login, and a client's keys are on all servers. So mecha does for the client what it does for
//! itself: a server is asked whether the login is right, and from then on the client's calls go over connections to every
//! server that have said it, which all clients with the same login share. A call goes to a connection of its client's login
//! because that is part of what a client's connections must be like ([`mecha_core::Session::profile`]).
//!
//! What is kept for clients as a whole (subscriptions, keys that they have read) is kept for each login apart: servers
//! have rules about channels too.
//!
//! When the last client of a login has left, its connections are closed.

mod guests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::{Rc, Weak};

use mecha_core::{Affinity, Batch, ConnKey, Login, OpId, Outcome, Refusal, Session, Ticket, login_of};
use mecha_resp::{Resp, args, credentials, op};

use crate::answers::{Answer, Answers, patience, refusal};
use crate::{Cluster, Connection, ReplySink, SubmitCx, Submitted, Upstream};
pub(crate) use guests::Guests;

/// A client that logs in, while a server is asked.
struct Attempt {
    sink: Rc<dyn ReplySink<Resp>>,
    ticket: Ticket,
    op: OpId,
    guest: u8,
}

/// See the module.
pub(crate) struct Logins {
    /// For those who have not logged in.
    base: Rc<dyn Upstream<Resp>>,
    /// Makes the same for the login with this number.
    make: Box<dyn Fn(u8) -> Rc<dyn Upstream<Resp>>>,
    stacks: RefCell<HashMap<u8, Rc<dyn Upstream<Resp>>>>,
    clients: RefCell<HashMap<ConnKey, u8>>,
    attempts: RefCell<HashMap<ConnKey, Attempt>>,
    cluster: Rc<Cluster<Resp>>,
    answers: Answers<Resp>,
    me: Weak<Self>,
}

// === impl Logins ===

impl Logins {
    /// Stands in front of what `make` makes, which leads to `cluster`.
    pub(crate) fn new(
        make: Box<dyn Fn(u8) -> Rc<dyn Upstream<Resp>>>,
        cluster: Rc<Cluster<Resp>>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            base: make(0),
            make,
            stacks: RefCell::default(),
            clients: RefCell::default(),
            attempts: RefCell::default(),
            answers: Answers::new(&cluster),
            cluster,
            me: Weak::clone(me),
        })
    }

    /// What serves the clients of a login.
    fn stack(&self, login: u8) -> Rc<dyn Upstream<Resp>> {
        if login == 0 {
            return Rc::clone(&self.base);
        }
        let mut stacks = self.stacks.borrow_mut();
        Rc::clone(stacks.entry(login).or_insert_with(|| (self.make)(login)))
    }

    fn stack_of(&self, batch: &Batch<'_, Resp>) -> Rc<dyn Upstream<Resp>> {
        self.stack(login_of(batch.session.profile()))
    }

    /// Whether call `at` is a login that can be said again.
    fn is_login(batch: &Batch<'_, Resp>, at: usize) -> bool {
        let (Some(call), Some(head)) = (batch.calls.get(at), batch.heads.get(at)) else { return false };
        matches!(call.op, op::AUTH | op::HELLO)
            && call.affinity == Affinity::Attempt
            && !head.is_open
            && credentials(call.op, batch.frame(at)).is_some()
    }

    /// Asks a server whether the login of call `at` is right.
    fn take(&self, batch: &mut Batch<'_, Resp>, at: usize, cx: &SubmitCx<'_, Resp>) -> Submitted {
        let Some(call) = batch.calls.get(at).copied() else { return Submitted::Pending(0) };
        let frame = batch.frame(at).to_vec();
        let refuse = |why| Submitted::Refused(1, why);
        if batch.session.is_listening() {
            // Its subscriptions are those of another login.
            return refuse(Refusal::Unsupported);
        }
        let Some((user, password)) = credentials(call.op, &frame) else { return refuse(Refusal::NoRoute) };
        let login =
            Login { username: user.map(Into::into), password: Some(password.into()), ..Login::default() };
        if self.cluster.waits_for_news(cx.sink, call.ticket.conn, cx.now_micros) {
            return Submitted::Full;
        }
        // The one that the client has connected to, for all that it knows.
        let shards = self.cluster.shards_of(cx.lane.part);
        let Some(server) = shards.iter().find(|at| !self.cluster.is_down(**at)).or(shards.first()) else {
            return refuse(Refusal::UpstreamUnreachable);
        };
        let connection = match self.cluster.pin_at(*server, 0) {
            Ok(connection) => connection,
            Err(why) => return refuse(why),
        };
        let Some(guest) = self.cluster.guests().enter(&login, self.cluster.now_micros()) else {
            self.cluster.unpin(connection, true);
            return refuse(Refusal::TooManyPins);
        };
        batch.session.on_login(guest);
        let attempt = Attempt { sink: Rc::clone(cx.sink), ticket: call.ticket, op: call.op, guest };
        self.attempts.borrow_mut().insert(call.ticket.conn, attempt);
        let (limit, _) = patience(call.timeout_ms);
        let (me, answer) = (self.me.clone(), connection.ask(&frame));
        tokio::task::spawn_local(async move {
            let answer = tokio::time::timeout(limit, answer).await;
            let Some(me) = me.upgrade() else { return };
            // It has another login than it was opened with.
            me.cluster.unpin(connection, false);
            match answer {
                Ok(Ok(words)) => me.answered(call.ticket, Ok(&words)),
                Ok(Err(_)) => me.answered(call.ticket, Err(Refusal::UpstreamUnreachable)),
                Err(_) => me.answered(call.ticket, Err(Refusal::TimedOut)),
            }
        });
        Submitted::Pending(1)
    }

    /// The server has said what it thinks of a login, or nothing.
    fn answered(&self, ticket: Ticket, words: Result<&[u8], Refusal>) {
        let Some(attempt) = self.attempts.borrow_mut().remove(&ticket.conn) else { return };
        let Attempt { sink, ticket, op, guest } = attempt;
        let error;
        let (words, outcome) = match words {
            Ok(words) if words.starts_with(b"-") => (words, Outcome::ClientError),
            Ok(words) => (words, Outcome::Ok),
            Err(why) => {
                error = refusal::<Resp>(op, why);
                (error.as_slice(), Outcome::Refused(why))
            }
        };
        if outcome == Outcome::Ok {
            let old = self.clients.borrow_mut().insert(ticket.conn, guest);
            self.left(ticket.conn, old);
        } else {
            self.left(ticket.conn, Some(guest));
        }
        let now_micros = self.cluster.now_micros();
        sink.answered(ticket, op, words, outcome, now_micros);
        sink.flush(now_micros);
    }

    /// The client has this login no more.
    fn left(&self, conn: ConnKey, guest: Option<u8>) {
        let Some(guest) = guest else { return };
        let stack = self.stacks.borrow().get(&guest).cloned();
        stack.into_iter().for_each(|stack| stack.forget(conn));
        if self.cluster.guests().leave(guest, self.cluster.now_micros()) {
            self.stacks.borrow_mut().remove(&guest);
            self.cluster.dismiss(guest);
        }
    }

    fn leave(&self, conn: ConnKey) {
        let attempt = self.attempts.borrow_mut().remove(&conn);
        self.left(conn, attempt.map(|attempt| attempt.guest));
        let guest = self.clients.borrow_mut().remove(&conn);
        self.left(conn, guest);
    }
}

impl Upstream<Resp> for Logins {
    fn inner(&self) -> Option<&dyn Upstream<Resp>> {
        Some(&*self.base)
    }

    fn submit(&self, batch: &mut Batch<'_, Resp>, range: Range<usize>, cx: SubmitCx<'_, Resp>) -> Submitted {
        let at = range.start;
        if Self::is_login(batch, at) {
            return self.take(batch, at, &cx);
        }
        let login = login_of(cx.profile);
        if login == 0 {
            return self.base.submit(batch, range, cx);
        }
        if let Some(call) =
            batch.calls.get(at).filter(|call| call.op == op::RESET && call.affinity == Affinity::Aside)
        {
            let (sink, ticket, op) = (Rc::clone(cx.sink), call.ticket, call.op);
            self.leave(ticket.conn);
            let bytes = b"+RESET\r\n".to_vec();
            self.answers.give(Answer { sink, ticket, op, bytes, outcome: Outcome::Ok });
            return Submitted::Pending(1);
        }
        self.stack(login).submit(batch, range, cx)
    }

    fn sees_to(&self, batch: &Batch<'_, Resp>, at: usize) -> bool {
        Self::is_login(batch, at) || self.stack_of(batch).sees_to(batch, at)
    }

    fn fits(&self, connection: &Connection<Resp>, batch: &Batch<'_, Resp>, at: usize) -> Result<(), Refusal> {
        self.stack_of(batch).fits(connection, batch, at)?;
        let reset =
            batch.calls.get(at).filter(|call| call.op == op::RESET && args(batch.frame(at)).count() == 1);
        if let Some(call) = reset {
            self.leave(call.ticket.conn);
        }
        Ok(())
    }

    fn forget(&self, conn: ConnKey) {
        self.leave(conn);
        self.base.forget(conn);
    }
}
