//! The task of one connection: connects when it is needed, reads, writes, and says farewell.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use mecha_core::{ConnKey, Framed, Refusal, kind_of, login_of};
use mecha_transport::{Intake, ReadHalf, WriteHalf};

use super::{Connection, State};
use crate::{ReplySink, Slip};

/// Reads in a row before other tasks get their turn.
const READS_PER_POLL: usize = 4;
/// How often a connection that waits for a slow client looks again.
const SLOW_CLIENT_POLL: Duration = Duration::from_millis(2);
/// A connection that lived shorter than this counts as a failed attempt.
const SHORT_LIFE_MICROS: u64 = 1_000_000;
/// The longest wait between attempts while calls wait for their outcome.
const AWAITED_WAIT: Duration = Duration::from_millis(500);
/// The wait before a client's login that the server has refused, or soon ended, is tried again.
const DENIED_WAIT: Duration = Duration::from_millis(500);

/// Why a socket ended.
enum End {
    Closed,
    /// The server refused the login, in these words.
    Denied(String),
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
pub(crate) struct Reading<P: Framed> {
    pub(super) decoder: P::ReplyDecoder,
    pub(super) heads: Vec<P::Reply>,
    pub(super) slips: Vec<Slip>,
    /// Sinks that got something from this read.
    pub(crate) touched: Vec<Rc<dyn ReplySink<P>>>,
    /// Clients that do not keep up with what they get from here.
    choking: Vec<(Rc<dyn ReplySink<P>>, ConnKey)>,
}

impl<P: Framed> Reading<P> {
    pub(crate) fn new(decoder: P::ReplyDecoder) -> Self {
        Self { decoder, heads: Vec::new(), slips: Vec::new(), touched: Vec::new(), choking: Vec::new() }
    }
}

impl<P: Framed> Connection<P> {
    /// The connection's task. Ends when it is closed, or, if dedicated, with its first socket.
    pub(crate) async fn run(self: Rc<Self>) {
        // However the task ends, even by a panic, nobody waits for it in vain.
        let task = Ending(self);
        task.0.live().await;
    }

    async fn live(self: &Rc<Self>) {
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
            let is_guest = login_of(self.profile) > 0;
            let mut is_brief = false;
            let (why, is_failure) = match self.connect().await {
                Ok((read, write)) => {
                    let opened = clock.micros();
                    self.opened();
                    if self.is_dedicated {
                        self.inner.borrow_mut().asides.local = read.local();
                    }
                    let end = self.serve(read, write).await;
                    self.endpoint.metrics.connection_closed();
                    self.report(&end);
                    is_brief = clock.micros().saturating_sub(opened) < SHORT_LIFE_MICROS;
                    // A dedicated connection ends as its client wants it to, and one with a client's login as that is allowed
                    // to: that says nothing about the server.
                    let is_failure =
                        is_brief && !self.is_dedicated && !is_guest && !self.inner.borrow().is_closing;
                    match end {
                        End::Denied(_) if is_guest => (Refusal::UpstreamDenied, false),
                        End::Denied(_) => (Refusal::UpstreamDenied, true),
                        _ => (Refusal::UpstreamGone, is_failure),
                    }
                }
                Err(error) => {
                    self.endpoint.metrics.connect_failed();
                    self.report(&End::Io(error));
                    (Refusal::UpstreamUnreachable, true)
                }
            };
            let is_denied = why == Refusal::UpstreamDenied;
            if is_guest {
                self.is_denied.set(is_denied);
            } else {
                self.endpoint.is_denied.set(is_denied);
            }
            let is_over = {
                let mut inner = self.inner.borrow_mut();
                inner.state = State::BackingOff;
                inner.is_closing = false;
                self.is_dedicated || inner.is_retired
            };
            if !is_failure && !self.is_dedicated && !is_guest && self.in_flight() > 0 {
                self.endpoint.count_failure();
            }
            // A server that closes a connection after a while (its idle timeout, a restart) is tried again at once.
            let wait = if is_failure {
                self.endpoint.failed()
            } else if self.is_dedicated {
                Duration::ZERO
            } else {
                self.endpoint.succeeded()
            };
            self.lost(why);
            if is_over {
                break;
            }
            let wait = if is_guest && (is_denied || is_brief) { wait.max(DENIED_WAIT) } else { wait };
            let is_awaited = self.follower().is_some_and(|follower| follower.is_awaited());
            let wait = if is_awaited { wait.min(AWAITED_WAIT) } else { wait };
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let is_wanted = is_failure && self.follower().is_some_and(|follower| follower.is_awaited());
            let mut inner = self.inner.borrow_mut();
            (inner.state, inner.is_wanted) = (State::Idle, is_wanted);
        }
    }

    /// Waits for something to send. `false`: never again.
    async fn wanted(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            inner.register(cx);
            if inner.is_over() {
                return Poll::Ready(false);
            }
            let is_wanted = std::mem::take(&mut inner.is_wanted);
            if inner.outbox.is_empty() && !is_wanted { Poll::Pending } else { Poll::Ready(true) }
        })
        .await
    }

    async fn connect(&self) -> io::Result<(ReadHalf, WriteHalf)> {
        let options = &self.endpoint.options;
        mecha_transport::connect(&self.endpoint.address, options.connect_timeout, options.tls.as_deref())
            .await
    }

    fn follower(&self) -> Option<Rc<dyn crate::detour::Follow<P>>> {
        self.follower.as_ref().and_then(std::rc::Weak::upgrade)
    }

    fn opened(&self) {
        self.endpoint.metrics.connection_opened();
        let is_back = self.endpoint.reached();
        self.open_up();
        if is_back && let Some(follower) = self.follower() {
            follower.recovered();
        }
    }

    fn open_up(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.state = State::Open;
        // Calls wait for its answers: before a login they would run as somebody else, or in another database.
        let inner = &mut *inner;
        let profile = self.profile;
        inner.unwelcomed = self.login(|login| P::prologue(profile, login, inner.greeting.buffer()));
        inner.bridged = None;
        if kind_of(profile) == 0 && self.is_dedicated && self.endpoint.lacks_version.get() {
            // Its client may want another version later.
            inner.bridged = super::bridged::Bridged::of::<P>(profile);
        }
        if self.kind == (super::Kind::Reading { is_told: true }) {
            inner.unwelcomed += P::reading(inner.greeting.buffer());
        }
    }

    async fn serve(self: &Rc<Self>, mut read: ReadHalf, write: WriteHalf) -> End {
        let mut intake = Intake::default();
        let decoder = P::reply_decoder(self.endpoint.options.limits, self.profile);
        let mut reading = Reading::<P>::new(decoder);
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
        self: &Rc<Self>,
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
                let (consumed, is_ok) = self.arrived(bytes, reading, now);
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
            if let Some(why) = self.inner.borrow_mut().denied.take() {
                return Poll::Ready(Some(End::Denied(why)));
            }
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
        if self.inner.borrow().is_over() {
            return Poll::Ready(Some(End::Closed));
        }
        if is_choked { Poll::Ready(None) } else { Poll::Pending }
    }

    fn write_out(&self, cx: &mut Context<'_>, read: &ReadHalf, write: &WriteHalf) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        while !inner.greeting.is_empty() {
            let written = inner.greeting.write_to(write)?;
            self.endpoint.metrics.sent_bytes(written);
            if !inner.greeting.is_empty() && read.poll_write_ready(cx)?.is_pending() {
                return Ok(());
            }
        }
        if inner.unwelcomed > 0 {
            return Ok(());
        }
        loop {
            let outgoing = inner.outgoing();
            if outgoing.is_empty() {
                break;
            }
            let written = outgoing.write_to(write)?;
            self.endpoint.metrics.sent_bytes(written);
            if !outgoing.is_empty() && read.poll_write_ready(cx)?.is_pending() {
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
        let (unsent, failed, open, owner, waiters) = {
            let mut inner = self.inner.borrow_mut();
            let unsent = if self.is_reading() {
                inner.take_all()
            } else if why == Refusal::UpstreamDenied || self.is_dedicated || self.follower.is_none() {
                Vec::new()
            } else {
                inner.take_unsent()
            };
            inner.outbox.clear();
            inner.greeting.clear();
            (inner.swallow, inner.unwelcomed, inner.denied) = (0, 0, None);
            (inner.forgiven, inner.bridged) = (0, None);
            inner.asides = super::aside::Asides::default();
            inner.kept = super::kept::Kept::default();
            inner.recalls.clear();
            (
                unsent,
                inner.runs.fail_all(),
                inner.open.take(),
                inner.owner.take(),
                std::mem::take(&mut inner.waiters),
            )
        };
        let now = self.endpoint.clock.micros();
        if let Some(open) = open
            && let Some((sink, conn, seq)) = open.client
        {
            sink.fail(conn, seq, &[open.slip], why, true);
            sink.flush(now);
        }
        self.tell(failed, why, now);
        if !unsent.is_empty() {
            match self.follower() {
                Some(follower) if self.is_reading() => follower.reread(unsent, self.profile, self.turn),
                Some(follower) => follower.keep(unsent, self.profile, self.turn),
                None => unsent.into_iter().for_each(|call| call.fail(Refusal::UpstreamUnreachable, now)),
            }
        }
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
            End::Denied(why) => tracing::warn!(%cluster, %address, "upstream refused the login: {why}"),
            End::Io(error) => tracing::warn!(%cluster, %address, %error, "upstream connection failed"),
            End::Protocol => tracing::warn!(%cluster, %address, "upstream broke its protocol"),
        }
    }
}
