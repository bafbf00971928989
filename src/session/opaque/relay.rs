//! Two sockets, and what one sends the other.
//!
//! Bytes are read into a buffer that all connections of a worker share, and written from it at once. Only what the other
//! side does not take is kept, and nothing more is read until it has been taken: so a connection holds memory only while
//! its reader is slow, and then at most one read's worth in each direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use mecha_telemetry::CloseReason;
use mecha_transport::{Outbox, ReadHalf, WriteHalf};
use tokio::io::{AsyncRead, ReadBuf};

/// Reads in a row in one direction before others get their turn.
const READS_PER_POLL: usize = 4;

/// Two sockets, and what one sends the other.
pub(in crate::session) struct Relay {
    client: (ReadHalf, WriteHalf),
    server: (ReadHalf, WriteHalf),
    up: Way,
    down: Way,
    passed: Passed,
}

/// Bytes since they were last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct Passed {
    /// From the client.
    pub(in crate::session) up: usize,
    /// To the client.
    pub(in crate::session) down: usize,
}

impl Passed {
    pub(in crate::session) fn is_some(self) -> bool {
        self != Self::default()
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What the reader has not taken.
    left: Outbox,
    /// The sender has ended its side.
    is_ended: bool,
    /// The reader knows.
    is_told: bool,
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
    pub(in crate::session) fn new(client: (ReadHalf, WriteHalf), server: (ReadHalf, WriteHalf)) -> Self {
        Self::holding(client, server, Outbox::default(), Outbox::default())
    }

    /// As [`Relay::new`], with bytes that were read before: `up` for the server, `down` for the client.
    pub(in crate::session) fn holding(
        client: (ReadHalf, WriteHalf),
        server: (ReadHalf, WriteHalf),
        up: Outbox,
        down: Outbox,
    ) -> Self {
        let way = |left| Way { left, ..Way::default() };
        Self { client, server, up: way(up), down: way(down), passed: Passed::default() }
    }

    /// Passes on what can be passed on now. Ready when both sides have ended, or one has failed.
    pub(in crate::session) fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<CloseReason> {
        let (client, server) = (&mut self.client, &mut self.server);
        let up = self.up.pass(cx, &mut client.0, (&server.0, &server.1), scratch, &mut self.passed.up);
        let down = self.down.pass(cx, &mut server.0, (&client.0, &client.1), scratch, &mut self.passed.down);
        match (up, down) {
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

    /// What was passed on since this was last asked.
    pub(in crate::session) fn take_passed(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    /// Bytes that wait for one of the two to read them.
    pub(in crate::session) fn unread(&self) -> usize {
        self.up.left.len() + self.down.left.len()
    }

    /// Both sides learn that this is not an orderly end.
    pub(in crate::session) fn abort(self) {
        self.client.1.abort();
        self.server.1.abort();
    }
}

/// Which socket failed.
enum Failed {
    Reading,
    Writing,
}

impl Way {
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf,
        (ready, to): (&ReadHalf, &WriteHalf),
        scratch: &mut [u8],
        passed: &mut usize,
    ) -> Result<Progress, Failed> {
        for _ in 0..READS_PER_POLL {
            while !self.left.is_empty() {
                if ready.poll_write_ready(cx).map_err(|_| Failed::Writing)?.is_pending() {
                    return Ok(Progress::Waits);
                }
                *passed += self.left.write_to(to).map_err(|_| Failed::Writing)?;
            }
            if self.is_ended {
                if !self.is_told {
                    self.is_told = true;
                    to.finish();
                }
                return Ok(Progress::Over);
            }
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(Progress::Waits),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => self.is_ended = true,
                Poll::Ready(Ok(())) => {
                    *passed += self.write(to, buf.filled()).map_err(|_| Failed::Writing)?
                }
                Poll::Ready(Err(_)) => return Err(Failed::Reading),
            }
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
