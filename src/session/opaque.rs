//! Sessions of doors whose bytes nobody looks at.
//!
//! Each client gets a connection to a server of its own, and what one sends is passed to the other. There is one call
//! for each client, `connect`: policies see it before a server is chosen, and its end when the server is reached, so a
//! rate limit bounds new connections, a timeout the time to connect, and a breaker counts servers that cannot be
//! reached. A refused client is closed: there is no protocol to tell it why in.
//!
//! Where connections go, and what passes between their ends, is a [`Destination`]: the servers of a cluster and
//! bytes as they are where no one looks at them, [`kafka`](super::kafka)'s brokers and conversations for Kafka.

mod original;
mod relay;
mod splice;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use mecha_clusters::{Stream, Streams};
use mecha_core::{
    Call, ConnKey, Cx, Done, OpClass, OpId, OpInfo, Outcome, Peer, Policy, Refusal, Ticket, Verdict,
};
use mecha_telemetry::{CloseReason, ClusterMetrics, ListenerMetrics};
use mecha_transport::{Clock, ReadHalf, WriteHalf};
use slab::Slab;

use super::{ConnectionInfo, Place, Places};
pub use original::Original;
pub use relay::{Between, Goes, Nobody, Passage, Passed, Relay};

/// What clients of such a door do.
pub static OPS: [OpInfo; 2] = [
    OpInfo { name: "other", class: OpClass::Session, idempotent: false },
    OpInfo { name: "connect", class: OpClass::Session, idempotent: true },
];
const CONNECT: OpId = OpId(1);

/// Who a client is.
#[derive(Debug, Default)]
pub struct Greeted {
    /// The name of its user, if it has one.
    pub user: Option<Arc<str>>,
    /// When what it has shown ends, by the process' clock; the connection then ends as soon as nobody misses anything.
    pub until_micros: Option<u64>,
}

/// The policies of one listener, on one worker.
pub type Judges = Rc<RefCell<Vec<Box<dyn Policy>>>>;

/// Where the connections of a listener's clients go.
#[expect(async_fn_in_trait, reason = "it is awaited by the engine of this crate, on the worker's own thread")]
pub trait Destination: 'static {
    /// What connecting for a client comes to.
    type Opened;
    /// What passes between a client and whoever serves it.
    type Passage: Passage;

    /// Finds out who a client is before it is led anywhere, where there are users.
    ///
    /// # Errors
    /// Nobody who may be here. The client was told, where it can be told.
    async fn greet(&self, client: &Peer, halves: &mut (ReadHalf, WriteHalf)) -> Result<Greeted, CloseReason> {
        let _ = (client, halves);
        Ok(Greeted::default())
    }

    /// Tells a client why it is led nowhere.
    async fn refuse(&self, why: Refusal, halves: (ReadHalf, WriteHalf)) {
        let _ = why;
        // An orderly end would look like an empty answer.
        halves.1.abort();
    }

    /// Connects for a client that has `asked` for this name in its TLS handshake, within so long if that is said.
    ///
    /// # Errors
    /// As [`Streams::open`].
    async fn open(
        &self,
        client: &Peer,
        asked: Option<&str>,
        within: Option<Duration>,
    ) -> Result<Self::Opened, Refusal>;

    /// Begins to pass on what this client says.
    fn pass(
        self: &Rc<Self>,
        client: &Peer,
        halves: (ReadHalf, WriteHalf),
        opened: Self::Opened,
    ) -> Self::Passage;

    /// Tells the figures of `listener` what has passed.
    fn report(passage: &mut Self::Passage, listener: &OpaqueListener<Self>)
    where
        Self: Sized,
    {
        let _ = (passage, listener);
    }

    /// Policies are asked about connections by others; whoever sees more may ask them about that. Told once.
    fn judged_by(&self, judges: &Judges) {
        let _ = judges;
    }

    /// Whether the clients of the one may go on as clients of the other.
    fn is_same(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        Rc::ptr_eq(self, other)
    }

    /// Figures of the servers.
    fn metrics(&self) -> &ClusterMetrics;
}

impl Destination for Streams {
    type Opened = Stream;
    type Passage = Relay;

    async fn open(
        &self,
        client: &Peer,
        _: Option<&str>,
        within: Option<Duration>,
    ) -> Result<Stream, Refusal> {
        Self::open(self, client, within).await
    }

    fn pass(self: &Rc<Self>, _: &Peer, halves: (ReadHalf, WriteHalf), server: Stream) -> Relay {
        Relay::new(halves, server, Nobody)
    }

    fn metrics(&self) -> &ClusterMetrics {
        Self::metrics(self)
    }
}

/// What the clients of one listener share on one worker.
pub struct OpaqueListener<D = Streams> {
    /// For people.
    pub name: String,
    /// Where connections go.
    pub upstream: Rc<D>,
    /// What each passes first.
    pub policies: Judges,
    /// Who may be here, over all workers.
    pub places: Arc<Places>,
    /// Counters.
    pub metrics: Arc<ListenerMetrics>,
    /// A client over which nothing has come or gone for so long, in microseconds, is closed. 0 is never.
    pub idle_timeout_micros: u64,
    /// A newer configuration is in force; `successor` tells where clients go.
    pub is_retired: Cell<bool>,
    /// What takes this listener's clients over.
    pub successor: RefCell<Option<Rc<OpaqueListener<D>>>>,
}

/// All such clients of one worker.
pub struct OpaqueEngine<D = Streams> {
    links: RefCell<Slab<Rc<Link<D>>>>,
    is_draining: Cell<bool>,
    clock: Clock,
    /// Everything is read into this buffer, one piece at a time; the worker's.
    scratch: Rc<RefCell<Vec<u8>>>,
}

/// What others may know and want of one client's task.
struct Link<D> {
    peer: Peer,
    listener: RefCell<Rc<OpaqueListener<D>>>,
    place: RefCell<Place>,
    active_micros: Cell<u64>,
    until_micros: Option<u64>,
    /// Bytes that wait for one of the two to read them.
    unread: Cell<usize>,
    /// Requests without an answer, where there are such.
    in_flight: Cell<u32>,
    /// It is to end as soon as nobody misses anything.
    is_leaving: Cell<bool>,
    closing: Cell<Option<CloseReason>>,
    waker: RefCell<Option<Waker>>,
}

impl<D: Destination> Link<D> {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Ends it as soon as nobody misses anything, where that can be told.
    fn leave(&self) {
        self.is_leaving.set(true);
        self.wake();
    }

    fn close(&self, why: CloseReason) {
        if self.closing.get().is_none() {
            self.closing.set(Some(why));
        }
        self.wake();
    }

    /// Goes on under the newest listener, if that leads to the same servers. Returns whether it is where it belongs.
    fn follow(&self) -> bool {
        loop {
            let current = Rc::clone(&self.listener.borrow());
            if !current.is_retired.get() {
                return true;
            }
            let next = current.successor.borrow().clone();
            let Some(next) = next.filter(|next| next.upstream.is_same(&current.upstream)) else {
                return false;
            };
            let mut place = self.place.borrow_mut();
            if !place.is_of(&next.places) {
                *place = next.places.enter();
            }
            if !Arc::ptr_eq(&current.metrics, &next.metrics) {
                current.metrics.moved_to(&next.metrics);
            }
            self.listener.replace(next);
        }
    }
}

/// Forgets a client however its task ends.
struct Leaving<D: Destination> {
    engine: Rc<OpaqueEngine<D>>,
    link: Rc<Link<D>>,
    at: usize,
    why: CloseReason,
}

impl<D: Destination> Drop for Leaving<D> {
    fn drop(&mut self) {
        self.engine.links.borrow_mut().try_remove(self.at);
        let why = self.link.closing.get().unwrap_or(self.why);
        self.link.listener.borrow().metrics.closed(why);
    }
}

// === impl OpaqueListener ===

impl<D: Destination> OpaqueListener<D> {
    /// Asks the policies about a new client. Returns how long connecting may take, if they say so.
    fn admit(&self, ticket: Ticket, cx: &Cx<'_>) -> Result<Option<Duration>, Refusal> {
        let mut calls = [Call { ticket, op: CONNECT, class: OpClass::Session, ..Call::default() }];
        for policy in &mut *self.policies.borrow_mut() {
            policy.on_calls(&mut calls, cx);
        }
        let [call] = calls;
        match call.verdict {
            Verdict::Refuse(why) => Err(why),
            Verdict::Answered(_) | Verdict::Forward => {
                Ok((call.timeout_ms > 0).then(|| Duration::from_millis(call.timeout_ms.into())))
            }
        }
    }

    fn done(&self, ticket: Ticket, outcome: Outcome, micros: u64, cx: &Cx<'_>) {
        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
        let done = [Done { ticket, op: CONNECT, outcome, micros }];
        self.metrics.done(&done);
        for policy in self.policies.borrow_mut().iter_mut().rev() {
            policy.on_done(&done, cx);
        }
    }

    /// Sends the clients to `successor`, or ends them if there is none.
    pub fn retire(&self, successor: Option<Rc<Self>>) {
        self.successor.replace(successor);
        self.is_retired.set(true);
    }
}

// === impl OpaqueEngine ===

impl<D: Destination> OpaqueEngine<D> {
    /// An engine without clients.
    pub fn new(clock: Clock, scratch: Rc<RefCell<Vec<u8>>>) -> Rc<Self> {
        let (links, is_draining) = (RefCell::default(), Cell::new(false));
        Rc::new(Self { links, is_draining, clock, scratch })
    }

    /// Serves one client to its end.
    pub async fn serve(
        self: Rc<Self>,
        listener: Rc<OpaqueListener<D>>,
        place: Place,
        mut peer: Peer,
        mut client: (ReadHalf, WriteHalf),
    ) {
        let started = self.clock.micros();
        listener.metrics.opened();
        let until_micros = match listener.upstream.greet(&peer, &mut client).await {
            Ok(Greeted { user, until_micros }) => {
                peer.user = user.or(peer.user);
                until_micros
            }
            Err(why) => return listener.metrics.closed(why),
        };
        let link = Rc::new(Link {
            peer,
            listener: RefCell::new(Rc::clone(&listener)),
            place: RefCell::new(place),
            active_micros: Cell::new(started),
            until_micros,
            unread: Cell::new(0),
            in_flight: Cell::new(0),
            is_leaving: Cell::new(self.is_draining.get()),
            closing: Cell::new(None),
            waker: RefCell::default(),
        });
        let at = self.links.borrow_mut().insert(Rc::clone(&link));
        let mut leaving =
            Leaving { engine: Rc::clone(&self), link: Rc::clone(&link), at, why: CloseReason::Bug };
        let ticket = Ticket { conn: ConnKey { index: at as u32, epoch: 0 }, seq: 0 };
        let opened = match listener.admit(ticket, &Cx { now_micros: started, peer: &link.peer }) {
            Ok(within) => {
                let asked = client.0.server_name();
                listener.upstream.open(&link.peer, asked.as_deref(), within).await
            }
            Err(why) => Err(why),
        };
        let now = self.clock.micros();
        let cx = Cx { now_micros: now, peer: &link.peer };
        match opened {
            Ok(opened) => {
                listener.done(ticket, Outcome::Ok, now.saturating_sub(started), &cx);
                // Its client may follow a newer listener, and then nothing may keep the old one.
                drop(listener);
                leaving.why = self.pass(&link, client, opened).await;
            }
            Err(why) => {
                listener.done(ticket, Outcome::Refused(why), now.saturating_sub(started), &cx);
                leaving.why = CloseReason::Refused;
                listener.upstream.refuse(why, client).await;
            }
        }
    }

    async fn pass(&self, link: &Link<D>, client: (ReadHalf, WriteHalf), opened: D::Opened) -> CloseReason {
        let upstream = Rc::clone(&link.listener.borrow().upstream);
        let mut passage = upstream.pass(&link.peer, client, opened);
        let why = std::future::poll_fn(|cx| {
            match &mut *link.waker.borrow_mut() {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            if let Some(why) = link.closing.get() {
                return std::task::Poll::Ready(why);
            }
            if link.is_leaving.get() {
                passage.drain();
            }
            let mut scratch = self.scratch.borrow_mut();
            let polled = passage.poll(cx, &mut scratch);
            drop(scratch);
            let passed = passage.take_passed();
            if passed.is_some() {
                link.active_micros.set(self.clock.micros());
                let listener = link.listener.borrow();
                listener.metrics.read_bytes(passed.up);
                listener.metrics.wrote_bytes(passed.down);
                listener.upstream.metrics().sent_bytes(passed.up);
                listener.upstream.metrics().received_bytes(passed.down);
                D::report(&mut passage, &listener);
            }
            link.in_flight.set(passage.in_flight() as u32);
            link.unread.set(passage.unread());
            polled
        })
        .await;
        let is_orderly = matches!(why, CloseReason::ClientLeft | CloseReason::Drained);
        if !is_orderly || link.closing.get().is_some() {
            // Whoever is left must not take what it has got for everything.
            passage.abort();
        }
        why
    }

    /// At most so many clients, for people.
    pub fn describe(&self, limit: usize) -> Vec<ConnectionInfo> {
        let now = self.clock.micros();
        let info = |link: &Rc<Link<D>>| ConnectionInfo {
            id: link.peer.id,
            peer: link.peer.clone(),
            listener: link.listener.borrow().name.clone(),
            in_flight: link.in_flight.get(),
            unread_bytes: link.unread.get(),
            is_pinned: true,
            idle_micros: now.saturating_sub(link.active_micros.get()),
        };
        self.links.borrow().iter().take(limit).map(|(_, link)| info(link)).collect()
    }

    /// Clients connected now.
    pub fn len(&self) -> usize {
        self.links.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends connections that have nothing in flight, where that can be told, and from now on as soon as they have not.
    /// Where it cannot, they may take all the time that a drain may take.
    pub fn drain(&self) {
        self.is_draining.set(true);
        self.links.borrow().iter().for_each(|(_, link)| link.leave());
    }

    /// Moves the clients of retired listeners; with `is_late`, ends those that cannot move. Returns how many are left.
    pub fn hand_over(&self, is_late: bool) -> usize {
        let mut left = 0;
        for (_, link) in self.links.borrow().iter().filter(|(_, link)| !link.follow()) {
            left += 1;
            if is_late {
                link.close(CloseReason::Drained);
            } else {
                link.leave();
            }
        }
        left
    }

    /// Ends connections over which nothing has come or gone for too long, and those of clients that have shown what does not hold
    /// any more.
    pub fn close_idle(&self, now_micros: u64) {
        for (_, link) in self.links.borrow().iter() {
            if link.until_micros.is_some_and(|until| now_micros >= until) {
                link.leave();
            }
            let limit = link.listener.borrow().idle_timeout_micros;
            if limit > 0 && now_micros.saturating_sub(link.active_micros.get()) > limit {
                link.close(CloseReason::Idle);
            }
        }
    }
}
