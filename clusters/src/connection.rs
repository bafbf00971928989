//! One upstream connection: what is submitted to it, and what it remembers. [`task`] drives its socket, [`replies`]
//! hands out what comes back.

mod aside;
mod bridged;
mod dedicated;
mod kept;
mod replies;
mod scripts;
mod task;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use mecha_core::{
    Batch, Call, ConnKey, Decode, Framed, Limits, Login, Outcome, Refusal, ReplyCount, Ticket, login_of,
};
use mecha_transport::Outbox;
use mecha_transport::tls::ClientTls;

use self::kept::Kept;
pub(crate) use self::task::Reading;
use crate::CurrentLogin;
use crate::detour::{Detour, Follow};
use crate::endpoint::Endpoint;
use crate::logins::Guests;
use crate::runs::{Failed, Run, Runs};
use crate::scripts::Scripts;
use crate::{ReplySink, Slip};

/// Unsent bytes at which submissions must wait.
const OUTBOX_HIGH: usize = 256 << 10;

/// What all connections of a cluster on one worker share.
pub struct ConnectionOptions {
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// Unanswered calls at which submissions must wait.
    pub max_pending: usize,
    /// Calls given up by their clients at which the connection is closed.
    pub max_abandoned: usize,
    /// How long a call is tried again because servers are in the middle of a change.
    pub patience_micros: u64,
    /// For the decoder of replies.
    pub limits: Limits,
    /// Whom to trust; `None` without TLS.
    pub tls: Option<Arc<ClientTls>>,
    /// What new connections say first.
    pub login: CurrentLogin,
    /// Clients' logins.
    pub(crate) guests: Guests,
    /// Texts that servers may have to be told again.
    pub(crate) scripts: Scripts,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One client at a time.
    Dedicated,
    /// Reads from a replica. With `is_told`, the server must be told that this is meant.
    Reading {
        /// See there.
        is_told: bool,
    },
    /// Calls of many clients.
    Shared,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Backing off after a failure; calls are refused.
    BackingOff,
    /// Ended; never comes back.
    Closed,
    /// An attempt is under way; calls wait for it.
    Connecting,
    /// Not needed so far.
    Idle,
    /// Carries calls.
    Open,
}

struct Inner<P: Framed> {
    outbox: Outbox,
    runs: Runs<P>,
    /// What must be said before anything else.
    greeting: Outbox,
    /// Replies to it that are still to come.
    unwelcomed: u32,
    /// Those of them that say nothing about a login.
    forgiven: u32,
    /// Only where the server lacks the version that the connection is for.
    bridged: Option<bridged::Bridged>,
    /// Why the server refused the login.
    denied: Option<String>,
    /// Replies to a dedicated connection's introduction that are still to come.
    swallow: u32,
    state: State,
    is_woken: bool,
    /// Is to be opened though nothing is to be sent: calls wait elsewhere to learn whether it can.
    is_wanted: bool,
    is_closing: bool,
    /// Ends when everything is answered.
    is_retired: bool,
    waker: Option<Waker>,
    waiters: Vec<(Rc<dyn ReplySink<P>>, ConnKey)>,
    owner: Option<(Rc<dyn ReplySink<P>>, ConnKey)>,
    /// Everything that arrives belongs to the owner, without counting.
    is_raw: bool,
    open: Option<OpenReply<P>>,
    /// Only where redirects are followed.
    kept: Kept,
    /// Only where they are not.
    recalls: scripts::Recalls,
    /// Clients one of whose calls waits while others are in flight behind it, and the number of answers at which those have
    /// theirs.
    held: Vec<(Rc<dyn ReplySink<P>>, ConnKey, u64)>,
    /// Only of a dedicated connection.
    tenancy: dedicated::Tenancy,
    asides: aside::Asides,
}

/// A reply of which only the beginning has arrived.
struct OpenReply<P: Framed> {
    /// `None`: nobody waits for the rest.
    client: Option<(Rc<dyn ReplySink<P>>, ConnKey, u32)>,
    slip: Slip,
    outcome: Outcome,
    /// More frames follow before the call is answered.
    is_part: bool,
    sent_micros: u64,
    deadline_micros: u64,
}

/// One upstream connection. Shared ones reconnect when they are needed; dedicated ones end with their socket.
pub struct Connection<P: Framed> {
    inner: RefCell<Inner<P>>,
    pub(crate) endpoint: Rc<Endpoint>,
    pub(crate) profile: u8,
    /// Its client's login was refused the last time.
    is_denied: Cell<bool>,
    /// Which of its server's shared connections of this profile it is.
    pub(crate) turn: usize,
    kind: Kind,
    is_dedicated: bool,
    follower: Option<Weak<dyn Follow<P>>>,
}

// === impl Connection: the submitting side ===

impl<P: Framed> Connection<P> {
    pub(crate) fn new(
        endpoint: Rc<Endpoint>,
        profile: u8,
        turn: Option<usize>,
        kind: Kind,
        follower: Option<Weak<dyn Follow<P>>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            inner: RefCell::new(Inner {
                outbox: if turn.is_none() { Outbox::default() } else { Outbox::keeping(OUTBOX_HIGH) },
                runs: Runs::default(),
                greeting: Outbox::default(),
                unwelcomed: 0,
                forgiven: 0,
                bridged: None,
                denied: None,
                swallow: 0,
                state: State::Idle,
                is_woken: false,
                is_wanted: false,
                is_closing: false,
                is_retired: false,
                waker: None,
                waiters: Vec::new(),
                owner: None,
                is_raw: false,
                open: None,
                kept: Kept::default(),
                recalls: scripts::Recalls::default(),
                held: Vec::new(),
                tenancy: dedicated::Tenancy::default(),
                asides: aside::Asides::default(),
            }),
            endpoint,
            profile,
            is_denied: Cell::new(false),
            turn: turn.unwrap_or_default(),
            kind,
            is_dedicated: kind == Kind::Dedicated,
            follower,
        })
    }

    /// Lets `read` see who the connection's clients are to the server.
    fn login<R>(&self, read: impl FnOnce(&Login) -> R) -> R {
        let options = &self.endpoint.options;
        match login_of(self.profile) {
            0 => options.login.with(read),
            guest => options.guests.with(guest, read),
        }
    }

    /// Why calls are refused while nothing can be sent.
    pub(crate) fn refusal(&self) -> Refusal {
        if self.is_denied.get() { Refusal::UpstreamDenied } else { self.endpoint.refusal() }
    }

    /// Where the connection is in its life.
    pub fn state(&self) -> State {
        self.inner.borrow().state
    }

    /// Unanswered calls.
    pub fn in_flight(&self) -> usize {
        self.inner.borrow().runs.len()
    }

    /// Whether it reads from a replica, so that any other server of the shard may answer as well.
    pub(crate) fn is_reading(&self) -> bool {
        matches!(self.kind, Kind::Reading { .. })
    }

    /// Whether a submission must wait for room.
    pub fn is_full(&self) -> bool {
        self.inner.borrow().is_full(&self.endpoint.options)
    }

    /// Asks that `sink` be told when there is room.
    pub fn wait_for_room(&self, sink: &Rc<dyn ReplySink<P>>, conn: ConnKey) {
        self.inner.borrow_mut().waiters.push((Rc::clone(sink), conn));
        self.endpoint.metrics.stalled();
    }

    /// Appends the frames of consecutive calls of one client, and wakes the task.
    pub fn submit(
        &self,
        batch: &Batch<'_, P>,
        range: std::ops::Range<usize>,
        sink: &Rc<dyn ReplySink<P>>,
        now_micros: u64,
    ) {
        let calls = batch.calls.get(range.clone()).unwrap_or_default();
        let (Some(first), Some(last)) = (calls.first(), calls.last()) else { return };
        let heads = batch.heads.get(range.clone()).unwrap_or_default();
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if self.is_reading() {
            self.endpoint.metrics.replica_read(calls.len());
        }
        if Self::has_scripts(calls) {
            self.submit_scripts(inner, batch, range, sink, now_micros);
            self.wake_after_submit(inner);
            return;
        }
        let (mut bytes, mut is_plain) = (0, true);
        let slips = inner.runs.slips_mut();
        for call in calls {
            slips.push_back(Slip { op: call.op, echo: call.echo, replies: call.replies });
            bytes += call.span.len();
            is_plain &= !call.span.is_local() && call.replies == ReplyCount::One;
        }
        let out = inner.outbox.buffer();
        let start = out.len();
        let max_ttl_secs = self.endpoint.max_ttl_secs.get();
        if max_ttl_secs == 0 && is_plain && last.span.end() - first.span.start().min(last.span.end()) == bytes
        {
            out.extend_from_slice(batch.wire.get(first.span.start()..last.span.end()).unwrap_or_default());
        } else {
            for (call, head) in calls.iter().zip(heads) {
                append_frame::<P>(batch, call, head, max_ttl_secs, out);
            }
        }
        if self.follower.is_some() {
            let lengths = calls.iter().map(|call| call.span.len());
            inner.kept.push(out.get(start..).unwrap_or_default(), lengths);
        }
        inner.push_run(sink, first.ticket, calls.len(), first.timeout_ms, now_micros);
        self.wake_after_submit(inner);
    }

    /// Appends one frame that a translator made.
    pub fn submit_frame(
        &self,
        frame: &[u8],
        slip: Slip,
        sink: &Rc<dyn ReplySink<P>>,
        ticket: Ticket,
        timeout_ms: u32,
        now_micros: u64,
    ) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        match self.endpoint.max_ttl_secs.get() {
            0 => inner.outbox.extend(frame),
            max_ttl_secs => append_shortened::<P>(frame, max_ttl_secs, inner.outbox.buffer()),
        }
        if self.follower.is_some() {
            inner.kept.push(frame, std::iter::once(frame.len()));
        }
        if self.is_reading() {
            self.endpoint.metrics.replica_read(1);
        }
        self.note_script(inner, slip.op, frame);
        inner.runs.slips_mut().push_back(slip);
        if !inner.extend_last_run(sink, ticket, timeout_ms, now_micros) {
            inner.push_run(sink, ticket, 1, timeout_ms, now_micros);
        }
        self.wake_after_submit(inner);
    }

    /// Appends a call that another server has sent away, and what its client has sent behind it. With `is_ask`, the server is
    /// told that it was.
    pub(crate) fn submit_detour(&self, call: Detour<P>, is_ask: bool) {
        let mut inner = self.inner.borrow_mut();
        if is_ask {
            let mut asking = Vec::new();
            P::asking(&mut asking);
            inner.push_detour(&call, &asking, true);
        }
        inner.push_detour(&call, &call.frame, false);
        call.behind.iter().for_each(|call| inner.push_detour(call, &call.frame, false));
        self.wake_after_submit(&mut inner);
    }

    /// Appends a request of the client `ticket` that nobody waits for.
    pub fn submit_unasked(&self, frame: &[u8], sink: &Rc<dyn ReplySink<P>>, ticket: Ticket, now_micros: u64) {
        let mut inner = self.inner.borrow_mut();
        inner.push_unasked(frame, sink, ticket, now_micros, self.follower.is_some());
        self.wake_after_submit(&mut inner);
    }

    /// Moves what waits for the server to the end of `out`, for whoever carries it by hand.
    pub(crate) fn take_output(&self, out: &mut Vec<u8>) {
        out.append(self.inner.borrow_mut().outbox.buffer());
    }

    /// Appends bytes that continue the last frame, or that nobody counts replies for.
    pub fn submit_bytes(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        inner.outbox.extend(bytes);
        inner.kept.cut();
        self.wake_after_submit(&mut inner);
    }

    /// Gives out-of-band messages an address. With `is_raw`, every further byte is one, and frames are
    /// cut no longer.
    pub fn set_owner(&self, owner: Option<(Rc<dyn ReplySink<P>>, ConnKey)>, is_raw: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.owner = owner;
        inner.is_raw = is_raw;
    }

    /// Appends what a dedicated connection with nothing in flight is told between two clients, or before the first call
    /// of one; its `replies` answers are dropped.
    pub fn tell_aside(&self, bytes: &[u8], replies: u32) {
        let mut inner = self.inner.borrow_mut();
        inner.outbox.extend(bytes);
        inner.swallow += replies;
        self.wake(&mut inner);
    }

    /// Opens the connection, if nobody does so, although nothing is to be sent. Returns whether nobody did.
    pub(crate) fn try_to_open(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let is_first = inner.state == State::Idle && !inner.is_wanted;
        if is_first {
            inner.is_wanted = true;
            self.wake(&mut inner);
        }
        is_first
    }

    /// Whether an answer is still to come that was awaited when [`Connection::fence`] returned `fence`.
    pub(crate) fn is_before(&self, fence: u64) -> bool {
        let inner = self.inner.borrow();
        inner.runs.len() > 0 && (fence.wrapping_sub(inner.runs.answered()) as i64) > 0
    }

    /// The number of answers at which all calls in flight have theirs.
    pub(crate) fn fence(&self) -> u64 {
        let inner = self.inner.borrow();
        inner.runs.answered().wrapping_add(inner.runs.len() as u64)
    }

    /// Ends the connection. Calls in flight fail.
    pub fn close(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_closing = true;
        self.wake(&mut inner);
    }

    /// Ends the connection as soon as everything that was submitted is answered. Nothing more may be submitted.
    pub(crate) fn retire(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_retired = true;
        self.wake(&mut inner);
    }

    fn wake_after_submit(&self, inner: &mut Inner<P>) {
        if inner.runs.has_deadlines() {
            self.endpoint.timers.arm();
        }
        self.wake(inner);
    }

    /// At most once per turn: the task clears the flag when it runs.
    fn wake(&self, inner: &mut Inner<P>) {
        if !inner.is_woken {
            inner.is_woken = true;
            if let Some(waker) = &inner.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Fails what has waited too long. Returns whether deadlines are left.
    pub(crate) fn tick(&self, now_micros: u64) -> bool {
        let (failed, open) = {
            let mut inner = self.inner.borrow_mut();
            let failed = inner.runs.expire(now_micros);
            let late = inner.open.as_mut().filter(|open| open.deadline_micros <= now_micros);
            let open = late.and_then(|open| open.client.take().map(|client| (client, open.slip)));
            if inner.runs.abandoned() > self.endpoint.options.max_abandoned {
                inner.is_closing = true;
                self.wake(&mut inner);
            }
            (failed, open)
        };
        if let Some(((sink, conn, seq), slip)) = open {
            sink.fail(conn, seq, &[slip], Refusal::TimedOut, true);
            sink.flush(now_micros);
        }
        if !failed.is_empty() {
            self.endpoint.count_failure();
        }
        self.tell(failed, Refusal::TimedOut, now_micros);
        let inner = self.inner.borrow();
        inner.runs.has_deadlines() || inner.open.as_ref().is_some_and(|open| open.deadline_micros != u64::MAX)
    }

    fn tell(&self, failed: Vec<Failed<P>>, why: Refusal, now_micros: u64) {
        for failed in failed {
            if why == Refusal::TimedOut {
                self.endpoint.metrics.abandoned(failed.slips.len());
            }
            failed.sink.fail(failed.conn, failed.first, &failed.slips, why, failed.is_begun);
            failed.sink.flush(now_micros);
        }
    }
}

/// As [`append_frame`], for the one request in `frame`.
fn append_shortened<P: Framed>(frame: &[u8], max_ttl_secs: u32, out: &mut Vec<u8>) {
    let limits = Limits { stream_above: usize::MAX, max_frame: usize::MAX, ..Limits::default() };
    let mut heads = Vec::new();
    let decoded = P::request_decoder(limits).decode(frame, &mut heads);
    match heads.first() {
        Some(head) if decoded.is_ok() => P::shorten(head, frame, max_ttl_secs, unix_secs(), out),
        _ => out.extend_from_slice(frame),
    }
}

/// Only for servers that stand in for others: nobody else needs to know what time it is.
fn unix_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn append_frame<P: Framed>(
    batch: &Batch<'_, P>,
    call: &Call,
    head: &P::Request,
    max_ttl_secs: u32,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let frame = call.span.of(batch.wire, batch.local);
    if max_ttl_secs > 0 {
        let mut frame = frame.to_vec();
        if call.replies == ReplyCount::Maybe {
            P::unquiet(head, &mut frame);
        }
        P::shorten(head, &frame, max_ttl_secs, unix_secs(), out);
        return;
    }
    out.extend_from_slice(frame);
    if call.replies == ReplyCount::Maybe {
        P::unquiet(head, out.get_mut(start..).unwrap_or_default());
    }
}

// === impl Inner ===

impl<P: Framed> Inner<P> {
    fn register(&mut self, cx: &Context<'_>) {
        self.is_woken = false;
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Whether a call of this client waits that has others behind it in flight.
    fn is_held(&mut self, sink: &Rc<dyn ReplySink<P>>, conn: ConnKey) -> bool {
        let answered = self.runs.answered();
        self.held.retain(|(.., until)| (until.wrapping_sub(answered) as i64) > 0);
        self.held.iter().any(|held| held.1 == conn && Rc::ptr_eq(&held.0, sink))
    }

    /// A call of this client, which is no longer here, is going to wait.
    fn hold(&mut self, sink: &Rc<dyn ReplySink<P>>, conn: ConnKey) {
        if self.runs.iter().any(|run| run.conn == conn && Rc::ptr_eq(&run.sink, sink)) {
            let until = self.runs.answered().wrapping_add(self.runs.len() as u64);
            self.held.push((Rc::clone(sink), conn, until));
        }
    }

    /// Removes all calls, the oldest first, unless a part of one cannot be sent again.
    fn take_all(&mut self) -> Vec<Detour<P>> {
        if !self.kept.is_whole() || self.runs.front().is_some_and(|run| run.is_begun) {
            return Vec::new();
        }
        let frames = self.kept.frames().map(<[u8]>::to_vec);
        self.runs.take_last(self.runs.len(), frames)
    }

    /// Removes the calls of which nothing was sent, the oldest first.
    fn take_unsent(&mut self) -> Vec<Detour<P>> {
        let count = self.kept.unsent(self.outbox.len()).min(self.runs.len());
        let frames = self.kept.frames().skip(self.runs.len() - count).map(<[u8]>::to_vec);
        self.runs.take_last(count, frames)
    }

    /// Whether its end has come.
    fn is_over(&self) -> bool {
        let is_idle = self.outbox.is_empty() && self.runs.len() == 0 && self.open.is_none();
        self.is_closing || self.is_retired && is_idle
    }

    fn is_full(&self, options: &ConnectionOptions) -> bool {
        self.outbox.len() >= OUTBOX_HIGH
            || self.runs.len() >= options.max_pending
            || self.kept.is_full()
            || self.recalls.is_full(self.runs.answered())
    }

    fn has_room(&self, options: &ConnectionOptions) -> bool {
        self.outbox.len() < OUTBOX_HIGH / 2
            && self.runs.len() < options.max_pending - options.max_pending / 4
            && !self.recalls.is_full(self.runs.answered())
    }

    /// Appends `frame` in the place of `call`. With `is_unasked`, nobody waits for the reply.
    fn push_detour(&mut self, call: &Detour<P>, frame: &[u8], is_unasked: bool) {
        self.outbox.extend(frame);
        self.kept.push(frame, std::iter::once(frame.len()));
        self.runs.slips_mut().push_back(call.slip);
        self.runs.push(Run {
            sink: Rc::clone(&call.sink),
            conn: call.conn,
            first: call.seq,
            count: 1,
            sent_micros: call.sent_micros,
            deadline_micros: call.deadline_micros,
            is_abandoned: is_unasked,
            is_begun: false,
            hops: call.hops,
        });
    }

    /// Appends a request that nobody waits for.
    fn push_unasked(
        &mut self,
        frame: &[u8],
        sink: &Rc<dyn ReplySink<P>>,
        ticket: Ticket,
        now_micros: u64,
        is_kept: bool,
    ) {
        self.outbox.extend(frame);
        if is_kept {
            self.kept.push(frame, std::iter::once(frame.len()));
        }
        self.runs.slips_mut().push_back(Slip::of(mecha_core::OpId::UNKNOWN));
        self.runs.push(Run {
            sink: Rc::clone(sink),
            conn: ticket.conn,
            first: ticket.seq,
            count: 1,
            sent_micros: now_micros,
            deadline_micros: u64::MAX,
            is_abandoned: true,
            is_begun: false,
            hops: 0,
        });
    }

    fn push_run(
        &mut self,
        sink: &Rc<dyn ReplySink<P>>,
        ticket: Ticket,
        count: usize,
        timeout_ms: u32,
        now: u64,
    ) {
        self.runs.push(Run {
            sink: Rc::clone(sink),
            conn: ticket.conn,
            first: ticket.seq,
            count: count as u32,
            sent_micros: now,
            deadline_micros: deadline(timeout_ms, now),
            is_abandoned: false,
            is_begun: false,
            hops: 0,
        });
    }

    /// Translators submit frame by frame; those of one batch belong to one run.
    fn extend_last_run(
        &mut self,
        sink: &Rc<dyn ReplySink<P>>,
        ticket: Ticket,
        timeout_ms: u32,
        now: u64,
    ) -> bool {
        let Some(run) = self.runs.back_mut() else { return false };
        let is_next = run.hops == 0
            && run.conn == ticket.conn
            && run.first.wrapping_add(run.count) == ticket.seq
            && run.sent_micros == now
            && run.deadline_micros == deadline(timeout_ms, now)
            && !run.is_abandoned
            && Rc::ptr_eq(&run.sink, sink);
        if is_next {
            run.count += 1;
        }
        is_next
    }
}

pub(crate) fn deadline(timeout_ms: u32, now_micros: u64) -> u64 {
    if timeout_ms == 0 { u64::MAX } else { now_micros + u64::from(timeout_ms) * 1000 }
}
