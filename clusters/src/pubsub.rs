//! Subscriptions that many clients share.
//!
//! [`PubSub`] stands in front of an upstream and takes the commands that subscribe and unsubscribe. On each worker and
//! server it has at most one connection with subscriptions (a *link*), on which a name is subscribed to once, however many
//! clients listen; what arrives is handed to each of them. The links speak version 2 of the protocol, which every server
//! knows; for a client of version 3 the first byte of a message differs.
//!
//! **Where a name is subscribed to.** Messages of a Redis Cluster reach every server, so one server is enough (the
//! *main* one). Servers that share keys by mecha's rule alone know nothing of each other: `PUBLISH` goes to the first,
//! so that is the main one there. Notifications about keys come from the server that has the key, so channels and
//! patterns that may mean them are subscribed to everywhere; what else arrives at another than the main server of a
//! Redis Cluster is a copy, and dropped. Shard channels belong where their slot is.
//!
//! **When it is answered.** A command that subscribes is answered when every server concerned has confirmed every name,
//! so nothing that is published after the answer is missed.
//!
//! **What is lost.** After a lost connection, a failover or the move of a slot the names are subscribed to again, as
//! long as anybody listens. Messages of the time between are lost, as `PUBLISH` promises nothing else.
//!
//! A client that reads too slowly is closed, as a server would do it; it never keeps a link from being read.

mod board;
mod census;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::rc::{Rc, Weak};

use mecha_core::{Affinity, Batch, ConnKey, OpId, Outcome, Refusal, Ticket, profile_of};
use mecha_resp::{Resp, TopicKind, args, confirm, op, subscribes};

use crate::answers::{Answer, Answers, after_patience, refusal};
use crate::links::{Hears, Links, Watches, retry};
use crate::news::Cause;
use crate::{Cluster, ReplySink, SubmitCx, Submitted, Upstream};
use board::{Board, Home, Pending};
pub use census::Census;
pub(crate) use census::{Asked, Who};
use wire::{Said, is_of_keys, said};

/// The version of the protocol that a connection with this profile speaks.
fn proto_of(profile: u8) -> u8 {
    mecha_resp::version_of(profile)
}

/// Bytes of names that one door's clients of one worker may listen to.
const MAX_BYTES: usize = 64 << 20;
/// A command that was sent on a link.
struct Sent {
    kind: TopicKind,
    is_subscribe: bool,
    name: Rc<[u8]>,
    token: u64,
}

/// What is known of a link.
#[derive(Default)]
struct Link {
    /// Commands that have no answer, the oldest first.
    sent: VecDeque<Sent>,
    /// Names that are subscribed to here.
    names: usize,
}

/// See the module.
pub(crate) struct PubSub {
    inner: Rc<dyn Upstream<Resp>>,
    cluster: Rc<Cluster<Resp>>,
    board: RefCell<Board>,
    links: Links<Link>,
    main: Cell<Option<usize>>,
    token: Cell<u64>,
    answers: Answers<Resp>,
    is_retrying: Cell<bool>,
    me: Weak<Self>,
}

// === impl PubSub ===

impl PubSub {
    /// Stands in front of `inner`, which leads to `cluster`, for clients with this login.
    pub(crate) fn new(inner: Rc<dyn Upstream<Resp>>, cluster: Rc<Cluster<Resp>>, login: u8) -> Rc<Self> {
        let answers = Answers::new(&cluster);
        let links = Links::new(Rc::clone(&cluster), profile_of(0, login));
        let pubsub = Rc::new_cyclic(|me| Self {
            inner,
            cluster,
            board: RefCell::default(),
            links,
            main: Cell::new(None),
            token: Cell::new(0),
            answers,
            is_retrying: Cell::new(false),
            me: Weak::clone(me),
        });
        let watcher: Weak<dyn Watches> = pubsub.me.clone();
        pubsub.cluster.watched_by(watcher);
        pubsub
    }

    /// Serves a command about subscriptions.
    fn take(&self, batch: &Batch<'_, Resp>, at: usize, cx: &SubmitCx<'_, Resp>) -> Submitted {
        let Some(call) = batch.calls.get(at) else { return Submitted::Refused(1, Refusal::NoRoute) };
        let (ticket, frame) = (call.ticket, batch.frame(at));
        let Some((kind, is_subscribe)) = subscribes(call.op) else {
            // The only other one is `RESET`.
            self.leave_all(ticket.conn);
            self.answer(cx.sink, ticket, call.op, b"+RESET\r\n".to_vec(), Outcome::Ok);
            return Submitted::Pending(1);
        };
        if is_subscribe && self.board.borrow().bytes + frame.len() > MAX_BYTES {
            return Submitted::Refused(1, Refusal::TooLarge);
        }
        let part = cx.lane.part.map(|(own, _)| own);
        self.board.borrow_mut().listener(ticket.conn, cx.sink, cx.profile, part);
        if is_subscribe {
            self.subscribe(kind, frame, ticket, call.op, cx);
            self.watch_over(ticket, call.timeout_ms);
        } else {
            let answer = self.unsubscribe(kind, frame, ticket.conn, cx.profile);
            self.answer(cx.sink, ticket, call.op, answer, Outcome::Ok);
        }
        Submitted::Pending(1)
    }

    fn subscribe(&self, kind: TopicKind, frame: &[u8], ticket: Ticket, op: OpId, cx: &SubmitCx<'_, Resp>) {
        let mut board = self.board.borrow_mut();
        let mut pending = Pending { ticket, op, kind, answer: Vec::new(), fresh: Vec::new(), waits_for: 0 };
        for name in args(frame).skip(1) {
            if let Some(name) = board.join(ticket.conn, kind, name, self.cluster.census()) {
                self.place(&mut board, kind, &name);
                pending.fresh.push(name);
            }
            if let Some(topic) = board.topic(kind, name)
                && !topic.is_confirmed()
                && !topic.waiting.contains(&ticket.conn)
            {
                topic.waiting.push(ticket.conn);
                pending.waits_for += 1;
            }
            let count = board.listeners.get(&ticket.conn).map_or(0, |listener| listener.count(kind));
            confirm(kind, true, Some(name), count, proto_of(cx.profile), &mut pending.answer);
        }
        if pending.waits_for == 0 {
            drop(board);
            self.answer(cx.sink, ticket, op, pending.answer, Outcome::Ok);
        } else if let Some(listener) = board.listeners.get_mut(&ticket.conn) {
            listener.pending = Some(pending);
        }
    }

    fn unsubscribe(&self, kind: TopicKind, frame: &[u8], conn: ConnKey, profile: u8) -> Vec<u8> {
        let mut names: Vec<Rc<[u8]>> = args(frame).skip(1).map(Rc::from).collect();
        let mut answer = Vec::new();
        let count = |board: &Board| board.listeners.get(&conn).map_or(0, |listener| listener.count(kind));
        if names.is_empty() {
            let board = self.board.borrow();
            let known = board.listeners.get(&conn).and_then(|listener| listener.names.get(kind as usize));
            names.extend(known.into_iter().flatten().cloned());
            if names.is_empty() {
                confirm(kind, false, None, count(&board), proto_of(profile), &mut answer);
            }
        }
        for name in names {
            self.leave(conn, kind, &name);
            confirm(kind, false, Some(&name), count(&self.board.borrow()), proto_of(profile), &mut answer);
        }
        self.board.borrow_mut().tidy(conn);
        answer
    }

    fn leave(&self, conn: ConnKey, kind: TopicKind, name: &Rc<[u8]>) {
        let homes = self.board.borrow_mut().leave(conn, kind, name);
        homes.iter().for_each(|home| self.tell(home.at, kind, false, name, 0));
        self.close_unused();
    }

    fn leave_all(&self, conn: ConnKey) {
        for kind in TopicKind::ALL {
            let names = {
                let board = self.board.borrow();
                let listener = board.listeners.get(&conn);
                listener.and_then(|listener| listener.names.get(kind as usize)).cloned().unwrap_or_default()
            };
            names.iter().for_each(|name| self.leave(conn, kind, name));
        }
        self.board.borrow_mut().listeners.remove(&conn);
    }

    // --- where names belong ---

    /// Positions of the servers that must be told of `name`.
    fn places(&self, kind: TopicKind, name: &[u8]) -> Vec<usize> {
        let shards = self.cluster.shards();
        let has_rule = self.cluster.is_slotted() || self.cluster.is_balanced();
        match kind {
            TopicKind::Shard if has_rule => self.cluster.place(name).map(|(_, at)| at).into_iter().collect(),
            // Without a rule, whoever publishes may do so anywhere.
            _ if !has_rule || is_of_keys(kind, name) => shards,
            _ => self.main.get().into_iter().collect(),
        }
    }

    /// Chooses the server where all messages arrive. It is kept as long as it can be.
    fn choose_main(&self) {
        let shards = self.cluster.shards();
        if !self.cluster.is_slotted() {
            self.main.set(shards.first().copied());
            return;
        }
        let is_well = |at: &usize| !self.cluster.is_down(*at);
        let kept = self.main.get().filter(|at| shards.contains(at) && is_well(at));
        let main = kept.or_else(|| shards.iter().copied().find(is_well)).or(shards.first().copied());
        self.main.set(main);
    }

    /// Makes the places of one topic what they ought to be.
    fn place(&self, board: &mut Board, kind: TopicKind, name: &Rc<[u8]>) {
        if self.main.get().is_none() {
            self.choose_main();
        }
        let places = self.places(kind, name);
        let Some(topic) = board.topic(kind, name) else { return };
        let (kept, gone): (Vec<Home>, Vec<Home>) =
            std::mem::take(&mut topic.homes).into_iter().partition(|home| places.contains(&home.at));
        topic.homes = kept;
        topic.is_short = places.is_empty();
        for at in places {
            if topic.homes.iter().any(|home| home.at == at) {
                continue;
            }
            if self.has_link(at) {
                let token = self.token.get() + 1;
                self.token.set(token);
                self.tell(at, kind, true, name, token);
                let counted = self.cluster.census().count(kind, name, Who::Link(at));
                topic.homes.push(Home { at, token, is_confirmed: false, _counted: counted });
            } else {
                topic.is_short = true;
            }
        }
        if topic.is_short {
            self.retry_later();
        }
        gone.iter().for_each(|home| self.tell(home.at, kind, false, name, 0));
    }

    /// Makes the places of all topics what they ought to be.
    fn place_all(&self) {
        self.choose_main();
        let mut board = self.board.borrow_mut();
        for kind in TopicKind::ALL {
            let names: Vec<_> = board
                .topics
                .get(kind as usize)
                .into_iter()
                .flatten()
                .map(|(name, _)| Rc::clone(name))
                .collect();
            for name in names {
                self.place(&mut board, kind, &name);
                let done = board.confirmed(kind, &name);
                self.all_well(done);
            }
        }
        drop(board);
        self.close_unused();
    }

    /// What could not be placed is tried again.
    fn retry_later(&self) {
        if self.is_retrying.replace(true) {
            return;
        }
        retry(self.me.clone(), |me| {
            me.place_all();
            let is_short = me.board.borrow().topics.iter().flatten().any(|(_, topic)| topic.is_short);
            me.is_retrying.set(is_short);
            !is_short
        });
    }

    // --- links ---

    /// Whether there is a link to the server at `at`, which is opened if need be.
    fn has_link(&self, at: usize) -> bool {
        self.links.has(at, &self.me, |_| Link::default())
    }

    /// Says on the link to `at` that we listen to `name`, or do not any more.
    fn tell(&self, at: usize, kind: TopicKind, is_subscribe: bool, name: &Rc<[u8]>, token: u64) {
        let mut frame = Vec::with_capacity(name.len() + 40);
        mecha_resp::write_request([kind.command(is_subscribe), name].into_iter(), &mut frame);
        self.links.with(at, |connection, link| {
            connection.submit_bytes(&frame);
            link.sent.push_back(Sent { kind, is_subscribe, name: Rc::clone(name), token });
            link.names = if is_subscribe { link.names + 1 } else { link.names.saturating_sub(1) };
        });
    }

    /// Closes links that nothing is subscribed to on.
    fn close_unused(&self) {
        self.links.close_if(|link| link.names == 0);
    }

    fn frame(&self, at: usize, frame: &[u8]) {
        match said(frame) {
            Some(Said::Message { kind, topic, channel }) => self.message(at, kind, topic, channel, frame),
            Some(Said::Confirmed { kind, is_subscribe, name }) => {
                let is_it = |sent: &Sent| {
                    sent.kind == kind && sent.is_subscribe == is_subscribe && *sent.name == *name
                };
                let sent = self.links.with(at, |_, link| {
                    if link.sent.front().is_some_and(is_it) { link.sent.pop_front() } else { None }
                });
                let Some(sent) = sent else { return };
                match sent {
                    Some(sent) if is_subscribe => self.confirmed(at, &sent),
                    Some(_) => {}
                    // The slot has left this server.
                    None if !is_subscribe => self.misplaced(at, kind, name),
                    None => {}
                }
            }
            None => {
                let sent = self.links.with(at, |_, link| link.sent.pop_front()).flatten();
                if let Some(sent) = sent.filter(|sent| sent.is_subscribe) {
                    self.refused(at, &sent, frame);
                }
            }
        }
    }

    fn confirmed(&self, at: usize, sent: &Sent) {
        let mut board = self.board.borrow_mut();
        let Some(topic) = board.topic(sent.kind, &sent.name) else { return };
        for home in topic.homes.iter_mut().filter(|home| home.at == at && home.token == sent.token) {
            home.is_confirmed = true;
        }
        let done = board.confirmed(sent.kind, &sent.name);
        self.all_well(done);
    }

    /// The server at `at` does not have `name` any more.
    fn misplaced(&self, at: usize, kind: TopicKind, name: &[u8]) {
        self.links.with(at, |_, link| link.names = link.names.saturating_sub(1));
        if let Some(topic) = self.board.borrow_mut().topic(kind, name) {
            topic.homes.retain(|home| home.at != at);
            topic.is_short = true;
        }
        self.cluster.want(Cause::Redirect);
        self.retry_later();
    }

    /// The server at `at` has answered a subscription with an error.
    fn refused(&self, at: usize, sent: &Sent, error: &[u8]) {
        let is_current = {
            let mut board = self.board.borrow_mut();
            let homes = board.topic(sent.kind, &sent.name).map(|topic| &topic.homes);
            homes.is_some_and(|homes| homes.iter().any(|home| home.at == at && home.token == sent.token))
        };
        if !is_current {
            return;
        }
        // Its words would name a server, which is none of the client's business.
        if mecha_resp::redirect(error).is_some() {
            self.misplaced(at, sent.kind, &sent.name);
            return;
        }
        self.misplaced(at, sent.kind, &sent.name);
        let waiting = self.board.borrow_mut().topic(sent.kind, &sent.name).map(|topic| topic.waiting.clone());
        for conn in waiting.unwrap_or_default() {
            self.undo(conn, error.to_vec(), Outcome::ClientError);
        }
    }

    /// Answers the client's command with an error, and takes back what it has added.
    fn undo(&self, conn: ConnKey, error: Vec<u8>, outcome: Outcome) {
        let taken = {
            let mut board = self.board.borrow_mut();
            let listener = board.listeners.get_mut(&conn);
            listener.and_then(|listener| Some((Rc::clone(&listener.sink), listener.pending.take()?)))
        };
        let Some((sink, pending)) = taken else { return };
        {
            let mut board = self.board.borrow_mut();
            for topic in board.topics.get_mut(pending.kind as usize).into_iter().flat_map(HashMap::values_mut)
            {
                topic.waiting.retain(|known| *known != conn);
            }
        }
        pending.fresh.iter().for_each(|name| self.leave(conn, pending.kind, name));
        self.board.borrow_mut().tidy(conn);
        self.answer(&sink, pending.ticket, pending.op, error, outcome);
    }

    /// The command `ticket` is not waited for without end.
    fn watch_over(&self, ticket: Ticket, timeout_ms: u32) {
        let is_pending = move |me: &Self| {
            let board = me.board.borrow();
            let pending = board.listeners.get(&ticket.conn).and_then(|listener| listener.pending.as_ref());
            pending.filter(|pending| pending.ticket == ticket).map(|pending| pending.op)
        };
        if is_pending(self).is_none() {
            return;
        }
        after_patience(self.me.clone(), timeout_ms, move |me, why| {
            if let Some(op) = is_pending(me) {
                me.undo(ticket.conn, refusal::<Resp>(op, why), Outcome::Refused(why));
            }
        });
    }

    // --- to clients ---

    fn message(&self, at: usize, kind: TopicKind, topic: &[u8], channel: &[u8], frame: &[u8]) {
        // Every server of a Redis Cluster has a copy of what was published anywhere.
        let is_copy = self.cluster.is_slotted()
            && kind != TopicKind::Shard
            && self.main.get() != Some(at)
            && !is_of_keys(TopicKind::Channel, channel);
        if is_copy {
            return;
        }
        let board = self.board.borrow();
        let Some(topic) = board.topics.get(kind as usize).and_then(|topics| topics.get(topic)) else {
            return;
        };
        for conn in &topic.listeners {
            let Some(listener) = board.listeners.get(conn) else { continue };
            let lead = if proto_of(listener.profile) > 2 { b'>' } else { b'*' };
            listener.sink.message(*conn, lead, frame.get(1..).unwrap_or_default());
            self.links.touched(&listener.sink);
        }
    }

    fn all_well(&self, done: Vec<(Rc<dyn ReplySink<Resp>>, Pending)>) {
        for (sink, pending) in done {
            self.answer(&sink, pending.ticket, pending.op, pending.answer, Outcome::Ok);
        }
    }

    fn answer(
        &self,
        sink: &Rc<dyn ReplySink<Resp>>,
        ticket: Ticket,
        op: OpId,
        bytes: Vec<u8>,
        outcome: Outcome,
    ) {
        self.answers.give(Answer { sink: Rc::clone(sink), ticket, op, bytes, outcome });
    }
}

impl Hears for PubSub {
    fn heard(&self, key: ConnKey, bytes: &[u8]) {
        self.links.hear(key, bytes, |at, frame| self.frame(at, frame));
    }

    /// The link is gone: what was subscribed to on it must be subscribed to again.
    fn lost(&self, key: ConnKey) {
        if !self.links.lost(key) {
            return;
        }
        let at = key.index as usize;
        let mut board = self.board.borrow_mut();
        for topic in board.topics.iter_mut().flat_map(HashMap::values_mut) {
            let before = topic.homes.len();
            topic.homes.retain(|home| home.at != at);
            topic.is_short |= topic.homes.len() < before;
        }
        drop(board);
        self.cluster.want(Cause::Failure);
        self.retry_later();
    }

    fn flush(&self, now_micros: u64) {
        self.links.flush(now_micros);
    }
}

impl Watches for PubSub {
    fn members_changed(&self) {
        self.links.strays().into_iter().for_each(|key| self.lost(key));
        self.place_all();
    }
}

impl Upstream<Resp> for PubSub {
    fn inner(&self) -> Option<&dyn Upstream<Resp>> {
        Some(&*self.inner)
    }

    fn submit(&self, batch: &mut Batch<'_, Resp>, range: Range<usize>, cx: SubmitCx<'_, Resp>) -> Submitted {
        let call = batch.calls.get(range.start).filter(|_| range.len() == 1);
        let Some(call) = call.filter(|call| matches!(call.affinity, Affinity::Aside | Affinity::Raw)) else {
            return self.inner.submit(batch, range, cx);
        };
        if call.op == op::HELLO {
            if let Some(listener) = self.board.borrow_mut().listeners.get_mut(&call.ticket.conn) {
                listener.profile = cx.profile;
            }
            return self.inner.submit(batch, range, cx);
        }
        if self.cluster.is_empty() {
            return self.inner.submit(batch, range, cx);
        }
        self.take(batch, range.start, &cx)
    }

    fn sees_to(&self, batch: &Batch<'_, Resp>, at: usize) -> bool {
        let is_open = batch.heads.get(at).is_some_and(|head| head.is_open);
        let op = batch.calls.get(at).map(|call| call.op).unwrap_or_default();
        subscribes(op).is_some() && !is_open || self.inner.sees_to(batch, at)
    }

    fn forget(&self, conn: ConnKey) {
        self.leave_all(conn);
        self.inner.forget(conn);
    }
}
