//! The two sides of an upstream: what a session gives it, and where its replies go.

use std::ops::Range;
use std::rc::Rc;

use mecha_core::{Asked, Batch, ConnKey, Cx, Framed, OpClass, OpId, Outcome, Peer, Refusal, ReplyCount};

use crate::Connection;

/// What is remembered of a call while its reply is awaited: 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slip {
    /// For metrics and refusals.
    pub op: OpId,
    /// For refusals: [`mecha_core::Call::echo`].
    pub echo: u32,
    /// Whether the client may not see the reply.
    pub replies: ReplyCount,
}

impl Slip {
    /// What a refusal needs to know of the call.
    pub fn asked(&self) -> Asked {
        Asked { op: self.op, echo: self.echo }
    }
}

/// Consecutive replies for one connection, starting with call `first`.
pub struct Delivery<'a, P: Framed> {
    /// Place of the first call in its connection's order.
    pub first: u32,
    /// The bytes read.
    pub wire: &'a [u8],
    /// The reply frames; more than `slips` where a reply has several.
    pub heads: &'a mut [P::Reply],
    /// One for each call that is answered here, in order. If `open`, the last one's reply goes on.
    pub slips: &'a [Slip],
    /// The last frame continues: [`ReplySink::more`] brings the rest.
    pub open: bool,
    /// The last frame is a part of a reply whose end has not arrived; that call has no slip here.
    pub parts_open: Option<Slip>,
    /// Microseconds since these calls were submitted.
    pub micros: u32,
    /// Microseconds since the process started.
    pub now_micros: u64,
}

/// Whoever waits for replies.
pub trait ReplySink<P: Framed> {
    /// Takes replies. Late ones for a connection that is gone are dropped.
    fn deliver(&self, conn: ConnKey, delivery: Delivery<'_, P>);

    /// Takes the next bytes of the reply that was left open. With `done`, it is complete; the number is its
    /// microseconds.
    fn more(&self, conn: ConnKey, seq: u32, bytes: &[u8], done: Option<(Slip, Outcome, u32)>);

    /// Takes the complete reply to one call, made by a translator.
    fn answered(&self, ticket: mecha_core::Ticket, op: OpId, bytes: &[u8], outcome: Outcome, now_micros: u64);

    /// `slips.len()` consecutive calls, starting with `first`, will get no reply. With `broken`, the first of them had
    /// part of its reply delivered already.
    fn fail(&self, conn: ConnKey, first: u32, slips: &[Slip], why: Refusal, broken: bool);

    /// Takes an out-of-band message.
    fn push(&self, conn: ConnKey, bytes: &[u8]);

    /// Takes an out-of-band message that is one whole frame, `first` and what is behind it. It never stands inside a
    /// reply. A client that leaves too many of them unread is closed, and nobody waits for it.
    fn message(&self, conn: ConnKey, first: u8, rest: &[u8]) {
        let _ = (conn, first, rest);
    }

    /// As [`ReplySink::message`], behind the reply to call `seq` if that is still awaited.
    fn message_behind(&self, conn: ConnKey, seq: u32, first: u8, rest: &[u8]) {
        let _ = seq;
        self.message(conn, first, rest);
    }

    /// The dedicated connection of this client is gone.
    fn unpinned(&self, conn: ConnKey);

    /// The client's call was sent away by the server of its dedicated connection, and has this one instead. `false`: there
    /// is no such client.
    fn repinned(&self, conn: ConnKey, connection: &Rc<Connection<P>>) -> bool {
        let _ = (conn, connection);
        false
    }

    /// There is room again for a submission that got [`Submitted::Full`].
    fn resume(&self, conn: ConnKey);

    /// The replies of one read are all delivered: write them out. Returns a client that reads too slowly, if one of
    /// them does.
    fn flush(&self, now_micros: u64) -> Option<ConnKey>;

    /// Whether the client should still be waited for. The sink gives it up after a while.
    fn is_choking(&self, conn: ConnKey, now_micros: u64) -> bool;
}

/// What became of the leading calls of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// This many calls are answered: their verdicts say with what.
    Answered(usize),
    /// As `Answered`, and the client's connection is to be closed behind the last answer.
    Close(usize),
    /// None was taken. The sink's [`ReplySink::resume`] will be called.
    Full,
    /// This many calls are under way.
    Pending(usize),
    /// This many calls cannot be taken.
    Refused(usize, Refusal),
}

/// Where a client's shared calls go. Kept by the session for the upstream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lane {
    /// The endpoint in use while calls are in flight.
    pub endpoint: Option<usize>,
    /// Which state of the cluster that was: see [`crate::Cluster`].
    pub epoch: u32,
    /// No replica answers the client.
    pub only_primaries: bool,
    /// The client has connected to this one of so many addresses that are announced as a cluster.
    pub part: Option<(u16, u16)>,
}

/// What belongs to a submission besides its calls.
pub struct SubmitCx<'a, P: Framed> {
    /// Who waits for the replies.
    pub sink: &'a Rc<dyn ReplySink<P>>,
    /// The client's lane.
    pub lane: &'a mut Lane,
    /// Whether the client has nothing in flight, so that it may change lanes.
    pub idle: bool,
    /// The client.
    pub peer: &'a Peer,
    /// Microseconds since the process started.
    pub now_micros: u64,
    /// Which kind of connection the client needs: [`mecha_core::Session::profile`].
    pub profile: u8,
}

/// What a client that needs a connection of its own tells about the call that wants it.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// The operation.
    pub op: OpId,
    /// What it does.
    pub class: OpClass,
    /// Its first key, if it has one; empty where any server will do.
    pub key: Option<&'a [u8]>,
    /// Which kind of connection: [`mecha_core::Session::profile`].
    pub profile: u8,
    /// Where the client's shared calls go.
    pub lane: &'a Lane,
    /// The client's connection.
    pub conn: ConnKey,
    /// The client.
    pub peer: &'a Peer,
    /// [`mecha_core::Session::database`].
    pub database: u32,
}

/// Something that answers calls: a cluster, a translator in front of one, a store in this process.
///
/// One that stands before another ([`Upstream::inner`]) says only what it does otherwise: everything else is asked of the
/// one behind it, also what this trait will have one day.
pub trait Upstream<P: Framed> {
    /// The upstream behind this one.
    fn inner(&self) -> Option<&dyn Upstream<P>> {
        None
    }

    /// Takes leading calls of `batch.calls[range]`, all of whose verdicts are `Forward`. Never blocks.
    fn submit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: SubmitCx<'_, P>) -> Submitted;

    /// Finds out what the calls from `from` on are whose operations the table lacks. `false`: that is not known so far, and
    /// [`ReplySink::resume`] of `sink` will be called. Idempotent.
    fn recognise(&self, batch: &mut Batch<'_, P>, from: usize, sink: &Rc<dyn ReplySink<P>>) -> bool {
        self.inner().is_none_or(|inner| inner.recognise(batch, from, sink))
    }

    /// Whether `wish` can be granted or refused. If not, its server is not known yet, or about to be replaced, and
    /// [`ReplySink::resume`] of `sink` will be called when that may have changed.
    fn is_ready(&self, sink: &Rc<dyn ReplySink<P>>, wish: &Wish<'_>) -> bool {
        self.inner().is_none_or(|inner| inner.is_ready(sink, wish))
    }

    /// Opens, or takes from the idle ones, a connection for one client alone. Only upstreams that pass requests on have
    /// any.
    ///
    /// # Errors
    /// The reason for which there is none.
    fn pin(&self, wish: &Wish<'_>) -> Result<Rc<Connection<P>>, Refusal> {
        self.inner().ok_or(Refusal::Unsupported)?.pin(wish)
    }

    /// Whether `connection` came from [`Upstream::pin`] of this upstream.
    fn owns(&self, connection: &Connection<P>) -> bool {
        self.inner().is_some_and(|inner| inner.owns(connection))
    }

    /// Call `at` is about to be sent on the dedicated `connection`: what stands between (the filters of a route) sees it
    /// now, once, and may rewrite it or change its verdict.
    fn shape(&self, connection: &Connection<P>, batch: &mut Batch<'_, P>, at: usize, cx: &Cx<'_>) {
        if let Some(inner) = self.inner() {
            inner.shape(connection, batch, at, cx);
        }
    }

    /// Who takes the replies of the dedicated `connection` of the client `conn` in the session's place, and hands them on
    /// to it.
    fn taker(&self, connection: &Connection<P>, conn: ConnKey) -> Option<Rc<dyn ReplySink<P>>> {
        self.inner()?.taker(connection, conn)
    }

    /// Whether call `at`, which must not share a connection with others, is seen to by [`Upstream::submit`] all the same.
    fn sees_to(&self, batch: &Batch<'_, P>, at: usize) -> bool {
        self.inner().is_some_and(|inner| inner.sees_to(batch, at))
    }

    /// Whether call `at` may go to the dedicated `connection` that its client holds.
    ///
    /// # Errors
    /// The reason for which it may not: its keys are elsewhere.
    fn fits(&self, connection: &Connection<P>, batch: &Batch<'_, P>, at: usize) -> Result<(), Refusal> {
        self.inner().map_or(Ok(()), |inner| inner.fits(connection, batch, at))
    }

    /// Whether call `at` may go to the dedicated `connection` now. If not, [`ReplySink::resume`] of whoever takes its
    /// replies will be called.
    fn may_go(&self, connection: &Connection<P>, batch: &Batch<'_, P>, at: usize) -> bool {
        self.inner().is_none_or(|inner| inner.may_go(connection, batch, at))
    }

    /// The transaction on the dedicated `connection`, on which nothing is in flight, has got its first key: returns the
    /// connection to the server of that key, if it is another one.
    ///
    /// # Errors
    /// The reason for which there is none.
    fn settle(
        &self,
        connection: &Rc<Connection<P>>,
        owner: (Rc<dyn ReplySink<P>>, ConnKey),
        key: &[u8],
    ) -> Result<Option<Rc<Connection<P>>>, Refusal> {
        self.inner().map_or(Ok(None), |inner| inner.settle(connection, owner, key))
    }

    /// The slots of each shard (first and last of each range), by their lowest one. Empty where keys are not hashed to slots.
    fn slices(&self) -> Vec<Vec<(u16, u16)>> {
        self.inner().map(|inner| inner.slices()).unwrap_or_default()
    }

    /// Whether a dedicated connection is better not chosen before a key is known: servers share the keys.
    fn waits_for_key(&self) -> bool {
        self.inner().is_some_and(|inner| inner.waits_for_key())
    }

    /// Another dedicated connection to the server of `connection`, for a request of this process; to be given back with
    /// [`Upstream::unpin`].
    fn beside(&self, connection: &Connection<P>) -> Option<Rc<Connection<P>>> {
        self.inner()?.beside(connection)
    }

    /// Takes a dedicated connection back. One that is not `clean` is closed.
    fn unpin(&self, connection: Rc<Connection<P>>, clean: bool) {
        if let Some(inner) = self.inner() {
            inner.unpin(connection, clean);
        }
    }

    /// Whether protocol state of the client (transactions, names) is the upstream's business, because requests are
    /// translated and not forwarded.
    fn is_translated(&self) -> bool {
        self.inner().is_some_and(|inner| inner.is_translated())
    }

    /// Whether answers may come through [`ReplySink::answered`], so that the session has to note when calls were submitted.
    fn is_timed_by_session(&self) -> bool {
        self.inner().map_or_else(|| self.is_translated(), |inner| inner.is_timed_by_session())
    }

    /// Whether the client's last call may wait here for something that never comes. Only upstreams that do not pass
    /// requests on make clients wait.
    fn is_waiting(&self, conn: ConnKey) -> bool {
        self.inner().is_some_and(|inner| inner.is_waiting(conn))
    }

    /// Ends what [`Upstream::is_waiting`] is about, as if its time were up or with an error. Returns whether it did.
    fn unblock(&self, conn: ConnKey, with_error: bool) -> bool {
        self.inner().is_some_and(|inner| inner.unblock(conn, with_error))
    }

    /// Ends every call that [`Upstream::is_waiting`] is about with an error: what they wait for comes elsewhere from now on.
    fn release(&self) {
        if let Some(inner) = self.inner() {
            inner.release();
        }
    }

    /// The client is gone.
    fn forget(&self, conn: ConnKey) {
        if let Some(inner) = self.inner() {
            inner.forget(conn);
        }
    }
}
