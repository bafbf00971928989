//! One upstream connection and its task.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mecha_core::{
    Batch, Call, ConnKey, Decode, Framed, Limits, Matched, Outcome, Refusal, ReplyCount, Ticket,
};
use mecha_transport::{Intake, Outbox, ReadHalf, WriteHalf};

use crate::endpoint::Endpoint;
use crate::runs::{Failed, Run, Runs};
use crate::{Delivery, ReplySink, Slip};

/// Reads in a row before other tasks get their turn.
const READS_PER_POLL: usize = 4;
/// Unsent bytes at which submissions must wait.
const OUTBOX_HIGH: usize = 256 << 10;
/// How often a connection that waits for a slow client looks again.
const SLOW_CLIENT_POLL: Duration = Duration::from_millis(2);
/// A connection that lived shorter than this counts as a failed attempt.
const SHORT_LIFE_MICROS: u64 = 1_000_000;

/// What all connections of a cluster on one worker share.
pub struct ConnectionOptions {
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// Unanswered calls at which submissions must wait.
    pub max_pending: usize,
    /// Calls given up by their clients at which the connection is closed.
    pub max_abandoned: usize,
    /// For the decoder of replies.
    pub limits: Limits,
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
    /// Replies to the prologue that are still to come.
    swallow: u32,
    state: State,
    is_woken: bool,
    is_closing: bool,
    waker: Option<Waker>,
    waiters: Vec<(Rc<dyn ReplySink<P>>, ConnKey)>,
    owner: Option<(Rc<dyn ReplySink<P>>, ConnKey)>,
    /// Everything that arrives belongs to the owner, without counting.
    is_raw: bool,
    open: Option<OpenReply<P>>,
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
    is_dedicated: bool,
}

// === impl Connection: the submitting side ===

impl<P: Framed> Connection<P> {
    pub(crate) fn new(endpoint: Rc<Endpoint>, profile: u8, is_dedicated: bool) -> Rc<Self> {
        Rc::new(Self {
            inner: RefCell::new(Inner {
                outbox: Outbox::default(),
                runs: Runs::default(),
                swallow: 0,
                state: State::Idle,
                is_woken: false,
                is_closing: false,
                waker: None,
                waiters: Vec::new(),
                owner: None,
                is_raw: false,
                open: None,
            }),
            endpoint,
            profile,
            is_dedicated,
        })
    }

    /// Where the connection is in its life.
    pub fn state(&self) -> State {
        self.inner.borrow().state
    }

    /// Unanswered calls.
    pub fn in_flight(&self) -> usize {
        self.inner.borrow().runs.len()
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
        let heads = batch.heads.get(range).unwrap_or_default();
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let (mut bytes, mut is_plain) = (0, true);
        let slips = inner.runs.slips_mut();
        for call in calls {
            slips.push_back(Slip { op: call.op, replies: call.replies });
            bytes += call.span.len();
            is_plain &= !call.span.is_local() && call.replies == ReplyCount::One;
        }
        let out = inner.outbox.buffer();
        if is_plain && last.span.end() - first.span.start().min(last.span.end()) == bytes {
            out.extend_from_slice(batch.wire.get(first.span.start()..last.span.end()).unwrap_or_default());
        } else {
            for (call, head) in calls.iter().zip(heads) {
                append_frame::<P>(batch, call, head, out);
            }
        }
        inner.push_run(sink, first.ticket, calls.len(), first.timeout_ms, now_micros);
        self.wake_after_submit(inner);
    }

    /// Appends one frame that a translator made.
    #[expect(clippy::too_many_arguments, reason = "a frame without a batch has no struct to travel in")]
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
        inner.outbox.extend(frame);
        inner.runs.slips_mut().push_back(slip);
        if !inner.extend_last_run(sink, ticket, timeout_ms, now_micros) {
            inner.push_run(sink, ticket, 1, timeout_ms, now_micros);
        }
        self.wake_after_submit(inner);
    }

    /// Appends bytes that continue the last frame, or that nobody counts replies for.
    pub fn submit_bytes(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        inner.outbox.extend(bytes);
        self.wake_after_submit(&mut inner);
    }

    /// Gives out-of-band messages an address. With `is_raw`, every further byte is one.
    pub fn set_owner(&self, owner: Option<(Rc<dyn ReplySink<P>>, ConnKey)>, is_raw: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.owner = owner;
        inner.is_raw = is_raw;
    }

    /// Ends the connection. Calls in flight fail.
    pub fn close(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_closing = true;
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

fn append_frame<P: Framed>(batch: &Batch<'_, P>, call: &Call, head: &P::Request, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(call.span.of(batch.wire, batch.local));
    if call.replies == ReplyCount::Maybe {
        P::unquiet(head, out.get_mut(start..).unwrap_or_default());
    }
}

// === impl Inner ===

impl<P: Framed> Inner<P> {
    fn is_full(&self, options: &ConnectionOptions) -> bool {
        self.outbox.len() >= OUTBOX_HIGH || self.runs.len() >= options.max_pending
    }

    fn has_room(&self, options: &ConnectionOptions) -> bool {
        self.outbox.len() < OUTBOX_HIGH / 2 && self.runs.len() < options.max_pending - options.max_pending / 4
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
        let is_next = run.conn == ticket.conn
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

fn deadline(timeout_ms: u32, now_micros: u64) -> u64 {
    if timeout_ms == 0 { u64::MAX } else { now_micros + u64::from(timeout_ms) * 1000 }
}

// === impl Connection: the task ===

/// Why a socket ended.
enum End {
    Closed,
    Io(io::Error),
    Protocol,
}

/// Says farewell when it is dropped.
struct Ending<P: Framed>(Rc<Connection<P>>);

impl<P: Framed> Drop for Ending<P> {
    fn drop(&mut self) {
        self.0.inner.borrow_mut().state = State::Closed;
        self.0.lost(Refusal::UpstreamGone);
    }
}

/// What the task keeps between reads.
struct Reading<P: Framed> {
    decoder: P::ReplyDecoder,
    heads: Vec<P::Reply>,
    slips: Vec<Slip>,
    /// Sinks that got something from this read.
    touched: Vec<Rc<dyn ReplySink<P>>>,
    /// Clients that do not keep up with what they get from here.
    choking: Vec<(Rc<dyn ReplySink<P>>, ConnKey)>,
}

impl<P: Framed> Connection<P> {
    /// The connection's task. Ends when it is closed, or, if dedicated, with its first socket.
    pub(crate) async fn run(self: Rc<Self>) {
        // However the task ends, even by a panic, nobody waits for it in vain.
        let task = Ending(self);
        task.0.live().await;
    }

    async fn live(&self) {
        let clock = self.endpoint.clock;
        loop {
            if !self.wanted().await {
                break;
            }
            self.inner.borrow_mut().state = State::Connecting;
            let wait = self.endpoint.book(clock.micros());
            if !wait.is_zero() {
                self.endpoint.metrics.connect_delayed();
                tokio::time::sleep(wait).await;
            }
            let (why, is_failure) = match self.connect().await {
                Ok((read, write)) => {
                    let opened = clock.micros();
                    self.opened();
                    let end = self.serve(read, write).await;
                    self.endpoint.metrics.connection_closed();
                    self.report(&end);
                    (Refusal::UpstreamGone, clock.micros().saturating_sub(opened) < SHORT_LIFE_MICROS)
                }
                Err(error) => {
                    self.endpoint.metrics.connect_failed();
                    self.report(&End::Io(error));
                    (Refusal::UpstreamUnreachable, true)
                }
            };
            let is_over = {
                let mut inner = self.inner.borrow_mut();
                inner.state = State::BackingOff;
                inner.is_closing = false;
                self.is_dedicated
            };
            // A server that closes a connection after a while (its idle timeout, a restart) is tried again at once.
            let wait = if is_failure { self.endpoint.failed() } else { self.endpoint.succeeded() };
            self.lost(why);
            if is_over {
                break;
            }
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            self.inner.borrow_mut().state = State::Idle;
        }
    }

    /// Waits for something to send. `false`: never again.
    async fn wanted(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            inner.register(cx);
            if inner.is_closing {
                return Poll::Ready(false);
            }
            if inner.outbox.is_empty() { Poll::Pending } else { Poll::Ready(true) }
        })
        .await
    }

    async fn connect(&self) -> io::Result<(ReadHalf, WriteHalf)> {
        mecha_transport::connect(&self.endpoint.address, self.endpoint.options.connect_timeout).await
    }

    fn opened(&self) {
        self.endpoint.metrics.connection_opened();
        let mut inner = self.inner.borrow_mut();
        inner.state = State::Open;
        let mut first = Vec::new();
        inner.swallow = P::prologue(self.profile, &mut first);
        if !first.is_empty() {
            let queued = std::mem::take(inner.outbox.buffer());
            first.extend_from_slice(&queued);
            *inner.outbox.buffer() = first;
        }
    }

    async fn serve(&self, mut read: ReadHalf, write: WriteHalf) -> End {
        let mut intake = Intake::default();
        let mut reading = Reading::<P> {
            decoder: P::reply_decoder(self.endpoint.options.limits, self.profile),
            heads: Vec::new(),
            slips: Vec::new(),
            touched: Vec::new(),
            choking: Vec::new(),
        };
        loop {
            let step =
                std::future::poll_fn(|cx| self.poll_serve(cx, &mut read, &write, &mut intake, &mut reading));
            match step.await {
                Some(end) => return end,
                // A client reads too slowly: nothing is read until it has caught up or its engine gave it up.
                None => loop {
                    tokio::time::sleep(SLOW_CLIENT_POLL).await;
                    let now = self.endpoint.clock.micros();
                    reading.choking.retain(|(sink, conn)| sink.is_choking(*conn, now));
                    if reading.choking.is_empty() || self.inner.borrow().is_closing {
                        break;
                    }
                },
            }
        }
    }

    /// One turn: read what is there, hand it out, then write everything that was submitted in this turn. Ready with
    /// `None` when a client must be waited for.
    fn poll_serve(
        &self,
        cx: &mut Context<'_>,
        read: &mut ReadHalf,
        write: &WriteHalf,
        intake: &mut Intake,
        reading: &mut Reading<P>,
    ) -> Poll<Option<End>> {
        self.inner.borrow_mut().register(cx);
        let mut is_choked = false;
        for round in 0.. {
            if round == READS_PER_POLL {
                cx.waker().wake_by_ref();
                break;
            }
            let mut scratch = self.endpoint.scratch.borrow_mut();
            let mut is_broken = false;
            let now = self.endpoint.clock.micros();
            let polled = intake.poll_read(read, cx, &mut scratch, |bytes| {
                let (consumed, is_ok) = self.received(bytes, reading, now);
                is_broken = !is_ok;
                consumed
            });
            drop(scratch);
            match polled {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Some(End::Closed)),
                Poll::Ready(Ok(bytes)) => self.endpoint.metrics.received_bytes(bytes),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(End::Io(error))),
            }
            let choking =
                reading.touched.drain(..).filter_map(|sink| sink.flush(now).map(|conn| (sink, conn)));
            reading.choking.extend(choking);
            if is_broken {
                return Poll::Ready(Some(End::Protocol));
            }
            if !reading.choking.is_empty() {
                is_choked = true;
                break;
            }
        }
        if let Err(error) = self.write_out(cx, read, write) {
            return Poll::Ready(Some(End::Io(error)));
        }
        self.release_waiters();
        if self.inner.borrow().is_closing {
            return Poll::Ready(Some(End::Closed));
        }
        if is_choked { Poll::Ready(None) } else { Poll::Pending }
    }

    fn write_out(&self, cx: &mut Context<'_>, read: &ReadHalf, write: &WriteHalf) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        while !inner.outbox.is_empty() {
            let written = inner.outbox.write_to(write)?;
            self.endpoint.metrics.sent_bytes(written);
            if !inner.outbox.is_empty() && read.poll_write_ready(cx)?.is_pending() {
                break;
            }
        }
        Ok(())
    }

    fn release_waiters(&self) {
        let waiters = {
            let mut inner = self.inner.borrow_mut();
            if inner.waiters.is_empty() || !inner.has_room(&self.endpoint.options) {
                return;
            }
            std::mem::take(&mut inner.waiters)
        };
        for (sink, conn) in waiters {
            sink.resume(conn);
        }
    }

    /// The socket is gone: everybody who waits is told.
    fn lost(&self, why: Refusal) {
        let (failed, open, owner, waiters) = {
            let mut inner = self.inner.borrow_mut();
            inner.outbox.clear();
            inner.swallow = 0;
            (inner.runs.fail_all(), inner.open.take(), inner.owner.take(), std::mem::take(&mut inner.waiters))
        };
        let now = self.endpoint.clock.micros();
        if let Some(open) = open
            && let Some((sink, conn, seq)) = open.client
        {
            sink.fail(conn, seq, &[open.slip], why, true);
            sink.flush(now);
        }
        self.tell(failed, why, now);
        if let Some((sink, conn)) = owner {
            sink.unpinned(conn);
        }
        for (sink, conn) in waiters {
            sink.resume(conn);
        }
    }

    fn report(&self, end: &End) {
        let (address, cluster) = (&self.endpoint.address, &self.endpoint.cluster);
        match end {
            End::Closed => tracing::debug!(%cluster, %address, "upstream connection closed"),
            End::Io(error) => tracing::warn!(%cluster, %address, %error, "upstream connection failed"),
            End::Protocol => tracing::warn!(%cluster, %address, "upstream broke its protocol"),
        }
    }
}

impl<P: Framed> Inner<P> {
    fn register(&mut self, cx: &Context<'_>) {
        self.is_woken = false;
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

// === impl Connection: replies ===

impl<P: Framed> Connection<P> {
    /// Hands out what one read returned. Returns how much of it is done with, and whether the peer kept its protocol.
    fn received(&self, bytes: &[u8], reading: &mut Reading<P>, now: u64) -> (usize, bool) {
        reading.heads.clear();
        let (decoded, is_sound) = match reading.decoder.decode(bytes, &mut reading.heads) {
            Ok(decoded) => (decoded, true),
            Err(_) => Default::default(),
        };
        if decoded.tail > 0 {
            let is_done = !(decoded.open && reading.heads.is_empty());
            self.continue_open(
                bytes.get(..decoded.tail).unwrap_or_default(),
                is_done,
                now,
                &mut reading.touched,
            );
        }
        let mut heads = std::mem::take(&mut reading.heads);
        let mut at = 0;
        let mut is_expected = true;
        while at < heads.len() {
            let is_open_last = decoded.open;
            match self.hand_out(bytes, &mut heads, at, is_open_last, now, reading) {
                Some(next) => at = next,
                None => {
                    is_expected = false;
                    break;
                }
            }
        }
        reading.heads = heads;
        (decoded.consumed, is_sound && is_expected)
    }

    fn continue_open(&self, bytes: &[u8], is_done: bool, now: u64, touched: &mut Vec<Rc<dyn ReplySink<P>>>) {
        let mut inner = self.inner.borrow_mut();
        if inner.is_raw || inner.open.is_none() {
            let owner = inner.owner.clone();
            drop(inner);
            if let Some((sink, conn)) = owner {
                sink.push(conn, bytes);
                touch(touched, &sink);
            }
            return;
        }
        let Some(open) = &inner.open else { return };
        let (client, is_part) = (open.client.clone(), open.is_part);
        let done = (open.slip, open.outcome, elapsed(open.sent_micros, now));
        if is_done {
            inner.open = None;
        }
        drop(inner);
        if let Some((sink, conn, seq)) = client {
            sink.more(conn, seq, bytes, (is_done && !is_part).then_some(done));
            touch(touched, &sink);
        }
    }

    /// Gives `heads[at..]` to whoever waits for the first of them, as many as belong to it. Returns the next position,
    /// `None` if nobody asked for this reply.
    fn hand_out(
        &self,
        wire: &[u8],
        heads: &mut [P::Reply],
        at: usize,
        is_open_last: bool,
        now: u64,
        reading: &mut Reading<P>,
    ) -> Option<usize> {
        let mut inner = self.inner.borrow_mut();
        let first = heads.get(at)?;
        if inner.is_raw || P::matched(first) == Matched::Push {
            let owner = inner.owner.clone();
            drop(inner);
            if let Some((sink, conn)) = owner {
                sink.push(conn, P::reply_span(first).of(wire, &[]));
                touch(&mut reading.touched, &sink);
            }
            return Some(at + 1);
        }
        if inner.swallow > 0 {
            inner.swallow -= u32::from(P::matched(first) == Matched::Last);
            return Some(at + 1);
        }
        let run = inner.runs.front()?;
        let (sink, conn, first_seq) = (Rc::clone(&run.sink), run.conn, run.first);
        let (is_abandoned, sent, deadline, count) =
            (run.is_abandoned, run.sent_micros, run.deadline_micros, run.count as usize);
        let (mut end, mut complete, mut parts_open) = (at, 0, false);
        while complete < count
            && let Some(head) = heads.get(end)
        {
            match P::matched(head) {
                Matched::Last => (complete, parts_open) = (complete + 1, false),
                Matched::Part => parts_open = true,
                Matched::Push => break,
            }
            end += 1;
        }
        let is_open = is_open_last && end == heads.len();
        reading.slips.clear();
        let parts_slip = parts_open.then(|| inner.runs.slip_at(complete)).flatten();
        inner.runs.answer(complete as u32, &mut reading.slips);
        if parts_open && let Some(run) = inner.runs.front_mut() {
            run.is_begun = true;
        }
        // A part that goes on (a large memcached VALUE) belongs to the call that is still unanswered.
        if is_open {
            let slip = parts_slip.or_else(|| reading.slips.last().copied())?;
            let seq =
                first_seq.wrapping_add(if parts_open { complete } else { complete.saturating_sub(1) } as u32);
            let outcome = heads.get(end.wrapping_sub(1)).map_or(Outcome::Ok, P::outcome);
            inner.open = Some(OpenReply {
                client: (!is_abandoned).then(|| (Rc::clone(&sink), conn, seq)),
                slip,
                outcome,
                is_part: parts_open,
                sent_micros: sent,
                deadline_micros: if is_abandoned || parts_open { u64::MAX } else { deadline },
            });
        }
        drop(inner);
        self.endpoint.metrics.replied(complete);
        if !is_abandoned {
            let heads = heads.get_mut(at..end).unwrap_or_default();
            let slips = &reading.slips[..];
            let micros = elapsed(sent, now);
            let delivery = Delivery {
                first: first_seq,
                wire,
                heads,
                slips,
                open: is_open && !parts_open,
                parts_open: parts_slip,
                micros,
                now_micros: now,
            };
            sink.deliver(conn, delivery);
            touch(&mut reading.touched, &sink);
        }
        Some(end)
    }
}

fn touch<P: Framed>(touched: &mut Vec<Rc<dyn ReplySink<P>>>, sink: &Rc<dyn ReplySink<P>>) {
    if !touched.iter().any(|known| Rc::ptr_eq(known, sink)) {
        touched.push(Rc::clone(sink));
    }
}

fn elapsed(sent_micros: u64, now_micros: u64) -> u32 {
    u32::try_from(now_micros.saturating_sub(sent_micros)).unwrap_or(u32::MAX)
}
