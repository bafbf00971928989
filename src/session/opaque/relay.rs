//! Two sockets, and what one sends the other.
//!
//! Bytes are read into a buffer that all connections of a worker share, and written from it at once. Only what the other
//! side does not take is kept, and nothing more is read until it has been taken: so a connection holds memory only while
//! its reader is slow, and then at most one read's worth in each direction.
//!
//! What comes in large pieces and need not be looked at goes by way of a pipe instead, and is not copied at all ([`Spliced`]).
//!
//! Whoever must look at the bytes stands [`Between`] the two. It says of each read how much goes on as it is, which
//! costs no copy, or writes itself what goes on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use mecha_clusters::{Stream, StreamSeat};
use mecha_telemetry::CloseReason;
use mecha_transport::{Outbox, ReadHalf, WriteHalf};
use tokio::io::{AsyncRead, ReadBuf};

use super::splice::Spliced;

/// Reads in a row in one direction before others get their turn.
const READS_PER_POLL: usize = 4;

/// What stands between the two sockets of a client, and sees what they say.
pub trait Between {
    /// What the client sent. Changed bytes for the server are appended to `out`.
    ///
    /// # Errors
    /// Nobody can go on with this connection; the reason is why it is closed.
    fn up(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason>;

    /// What the server sent. Changed bytes for the client are appended to `out`.
    ///
    /// # Errors
    /// As for [`Between::up`].
    fn down(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason>;

    /// Whether it kept bytes of the client that it can go on with now: it is given none, and takes those.
    fn resumes(&self) -> bool {
        false
    }

    /// Whether anything may be read from the client now. What changes that is an answer of the server, or the end of a pause.
    fn takes_more(&self) -> bool {
        true
    }

    /// Whether a pause has just ended that a client had to make. The task is woken when one ends.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> bool {
        let _ = cx;
        false
    }

    /// Whether what a client has sent is delivered though it is gone, because it may want no answer. Otherwise the server learns that
    /// it was reset.
    fn outlives_client(&self) -> bool {
        false
    }

    /// Bytes to come of the client that it need not see: they may pass by other ways, and then it is told by
    /// [`Between::passed_up`].
    fn unseen_up(&self) -> usize {
        0
    }

    /// So many have passed, of those that it need not see.
    fn passed_up(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// As [`Between::unseen_up`], of the server.
    fn unseen_down(&self) -> usize {
        0
    }

    /// As [`Between::passed_up`], of the server.
    fn passed_down(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// From now on as little as possible is begun.
    fn drain(&mut self) {}

    /// Whether the connection can end without anybody missing anything.
    fn is_over(&self) -> bool {
        false
    }

    /// Requests without an answer.
    fn in_flight(&self) -> usize {
        0
    }
}

/// What goes on of the bytes that were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// The first so many, as they are.
    AsIs(usize),
    /// What was written instead.
    Written,
}

/// Nobody: bytes go on as they are.
#[derive(Debug, Default)]
pub struct Nobody;

impl Between for Nobody {
    fn up(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        Ok(Goes::AsIs(bytes.len()))
    }

    fn down(&mut self, bytes: &[u8], _: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        Ok(Goes::AsIs(bytes.len()))
    }

    fn unseen_up(&self) -> usize {
        usize::MAX
    }

    fn unseen_down(&self) -> usize {
        usize::MAX
    }
}

/// What passes between a client and whoever serves it, until one of them ends.
pub trait Passage {
    /// Passes on what can be passed on now. Ready when everybody has ended, or somebody has failed. `scratch` is what is
    /// read into.
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<CloseReason>;

    /// What was passed on since this was last asked.
    fn take_passed(&mut self) -> Passed;

    /// Bytes that wait for somebody to read them.
    fn unread(&self) -> usize;

    /// Requests without an answer, where there are such.
    fn in_flight(&self) -> usize;

    /// From now on as little as possible is begun.
    fn drain(&mut self);

    /// Everybody learns that this is not an orderly end.
    fn abort(self);
}

/// Two sockets, and what one sends the other.
pub struct Relay<B = Nobody> {
    client: (ReadHalf, WriteHalf),
    server: (ReadHalf, WriteHalf),
    up: Way,
    down: Way,
    passed: Passed,
    /// The client is gone, and what the server says goes nowhere.
    is_gone: bool,
    /// Counts the connection.
    _seat: Option<StreamSeat>,
    pub(in crate::session) between: B,
}

/// Bytes since they were last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// From the client.
    pub up: usize,
    /// To the client.
    pub down: usize,
}

impl Passed {
    /// Whether there were any.
    #[must_use]
    pub fn is_some(self) -> bool {
        self != Self::default()
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What the reader has not taken.
    left: Outbox,
    /// What goes on without being seen.
    spliced: Spliced,
    /// The sender has ended its side.
    is_ended: bool,
    /// The reader knows.
    is_told: bool,
}

/// Which of the two directions.
trait Direction {
    fn cut<B: Between>(between: &mut B, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason>;

    fn resumes<B: Between>(between: &B) -> bool;

    fn takes_more<B: Between>(between: &B) -> bool;

    fn unseen<B: Between>(between: &B) -> usize;

    fn passed<B: Between>(between: &mut B, bytes: usize);
}

struct Down;

impl Direction for Down {
    fn cut<B: Between>(between: &mut B, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        between.down(bytes, out)
    }

    fn resumes<B: Between>(_: &B) -> bool {
        false
    }

    fn takes_more<B: Between>(_: &B) -> bool {
        true
    }

    fn unseen<B: Between>(between: &B) -> usize {
        between.unseen_down()
    }

    fn passed<B: Between>(between: &mut B, bytes: usize) {
        between.passed_down(bytes);
    }
}

struct Up;

impl Direction for Up {
    fn cut<B: Between>(between: &mut B, bytes: &[u8], out: &mut Vec<u8>) -> Result<Goes, CloseReason> {
        between.up(bytes, out)
    }

    fn resumes<B: Between>(between: &B) -> bool {
        between.resumes()
    }

    fn takes_more<B: Between>(between: &B) -> bool {
        between.takes_more()
    }

    fn unseen<B: Between>(between: &B) -> usize {
        between.unseen_up()
    }

    fn passed<B: Between>(between: &mut B, bytes: usize) {
        between.passed_up(bytes);
    }
}

/// How far one direction has come.
enum Progress {
    /// There may be more at once.
    Again,
    /// Everything was passed on, and its end too.
    Over,
    /// A socket must become ready.
    Waits,
}

impl Relay {
    /// With bytes that were read before: `up` for the server, `down` for the client.
    pub(in crate::session) fn holding(
        client: (ReadHalf, WriteHalf),
        server: (ReadHalf, WriteHalf),
        up: Outbox,
        down: Outbox,
    ) -> Self {
        let (up, down) = (Way { left: up, ..Way::default() }, Way { left: down, ..Way::default() });
        Self {
            client,
            server,
            up,
            down,
            passed: Passed::default(),
            is_gone: false,
            _seat: None,
            between: Nobody,
        }
    }
}

impl<B: Between> Relay<B> {
    /// Nothing has passed yet.
    pub(in crate::session) fn new(client: (ReadHalf, WriteHalf), server: Stream, between: B) -> Self {
        let Stream { read, write, seat } = server;
        let (up, down, passed) = (Way::default(), Way::default(), Passed::default());
        Self { client, server: (read, write), up, down, passed, is_gone: false, _seat: Some(seat), between }
    }
}

impl<B: Between> Passage for Relay<B> {
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<CloseReason> {
        let Self { client, server, up, down, passed, between, is_gone, .. } = self;
        let _ = between.poll_pause(cx);
        // Answers first: they make room for requests.
        let came = if *is_gone {
            down.discard(cx, server, scratch)
        } else {
            down.pass::<B, Down>(cx, server, client, scratch, &mut passed.down, between)
        };
        let sent = up.pass::<B, Up>(cx, client, server, scratch, &mut passed.up, between);
        let is_lost = matches!((&sent, &came), (Err(Failed::Reading), _) | (_, Err(Failed::Writing)));
        if is_lost && between.outlives_client() && !*is_gone {
            (*is_gone, up.is_ended) = (true, true);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if between.is_over() && up.unread() == 0 && down.unread() == 0 {
            return Poll::Ready(CloseReason::Drained);
        }
        if between.poll_pause(cx) {
            cx.waker().wake_by_ref();
        }
        match (sent, came) {
            (Err(Failed::Bytes(why)), _) | (_, Err(Failed::Bytes(why))) => Poll::Ready(why),
            (Err(Failed::Reading), _) => Poll::Ready(CloseReason::ReadFailed),
            (_, Err(Failed::Writing)) => Poll::Ready(CloseReason::WriteFailed),
            (Err(Failed::Writing), _) | (_, Err(Failed::Reading)) => Poll::Ready(CloseReason::UpstreamLost),
            (Ok(Progress::Over), Ok(Progress::Over)) => Poll::Ready(CloseReason::ClientLeft),
            (Ok(Progress::Again), _) | (_, Ok(Progress::Again)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Pending,
        }
    }

    fn take_passed(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    fn unread(&self) -> usize {
        self.up.unread() + self.down.unread()
    }

    fn in_flight(&self) -> usize {
        self.between.in_flight()
    }

    fn drain(&mut self) {
        self.between.drain();
    }

    fn abort(self) {
        self.client.1.abort();
        self.server.1.abort();
    }
}

/// Why a direction cannot go on.
pub(super) enum Failed {
    Reading,
    Writing,
    /// The bytes themselves.
    Bytes(CloseReason),
}

impl Way {
    fn unread(&self) -> usize {
        self.left.len() + self.spliced.held()
    }

    /// Writes what is left. Returns whether that is all.
    fn flush(
        &mut self,
        cx: &mut Context<'_>,
        (ready, to): &(ReadHalf, WriteHalf),
        passed: &mut usize,
    ) -> Result<bool, Failed> {
        while !self.left.is_empty() {
            if ready.poll_write_ready(cx).map_err(|_| Failed::Writing)?.is_pending() {
                return Ok(false);
            }
            *passed += self.left.write_to(to).map_err(|_| Failed::Writing)?;
        }
        Ok(true)
    }

    /// Takes what comes and passes it to nobody.
    fn discard(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (ReadHalf, WriteHalf),
        scratch: &mut [u8],
    ) -> Result<Progress, Failed> {
        self.left.clear();
        self.spliced = Spliced::default();
        for _ in 0..READS_PER_POLL {
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(&mut from.0).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(Progress::Waits),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Ok(Progress::Over),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Failed::Reading),
            }
        }
        Ok(Progress::Again)
    }

    fn pass<B: Between, D: Direction>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (ReadHalf, WriteHalf),
        to: &(ReadHalf, WriteHalf),
        scratch: &mut [u8],
        passed: &mut usize,
        between: &mut B,
    ) -> Result<Progress, Failed> {
        for _ in 0..READS_PER_POLL {
            let is_clear = self.spliced.drain(cx, to, passed)? && self.flush(cx, to, passed)?;
            if !is_clear || !D::takes_more(between) {
                return Ok(Progress::Waits);
            }
            if !self.is_ended && self.spliced.pays(D::unseen(between), &from.0, &to.1) {
                match self.spliced.fill(cx, &from.0, D::unseen(between))? {
                    Some(0) => self.is_ended = true,
                    Some(bytes) => D::passed(between, bytes),
                    None => return Ok(Progress::Waits),
                }
                continue;
            }
            let mut buf = ReadBuf::new(scratch);
            if !D::resumes(between) {
                if self.is_ended {
                    if !self.is_told {
                        self.is_told = true;
                        to.1.finish();
                    }
                    return Ok(Progress::Over);
                }
                match Pin::new(&mut from.0).poll_read(cx, &mut buf) {
                    Poll::Pending => return Ok(Progress::Waits),
                    Poll::Ready(Ok(())) => self.is_ended = buf.filled().is_empty(),
                    Poll::Ready(Err(_)) => return Err(Failed::Reading),
                }
                if self.is_ended {
                    continue;
                }
            }
            let is_full = buf.remaining() == 0;
            let bytes = buf.filled();
            self.spliced.read(is_full);
            let goes = D::cut(between, bytes, self.left.buffer()).map_err(Failed::Bytes)?;
            *passed += match goes {
                Goes::AsIs(0) => Ok(0),
                Goes::AsIs(len) => self.write(&to.1, bytes.get(..len).unwrap_or_default()),
                Goes::Written => self.left.write_to(&to.1),
            }
            .map_err(|_| Failed::Writing)?;
        }
        Ok(Progress::Again)
    }

    /// Writes what the socket takes and keeps the rest. Returns how much was taken.
    fn write(&mut self, to: &WriteHalf, bytes: &[u8]) -> io::Result<usize> {
        let taken = match to.try_write(bytes) {
            Ok(taken) => taken,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.left.extend(bytes.get(taken..).unwrap_or_default());
        Ok(taken)
    }
}
