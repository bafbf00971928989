//! A client's stream, with somebody who looks at it first.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mecha_clusters::http::{Meter, Wire};
use mecha_http::{Guard, Phase, Violation};
use mecha_transport::{ReadHalf, WriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::link::Link;

/// What an HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A byte that is nowhere allowed in a message, so that whoever meets it answers 400; and the end of a head, or a parser that
/// has seen the beginning of one would wait for it.
const POISON: &[u8] = b"\0\r\n\r\n";

/// How long, and how much, is read of a client whose connection has ended on this side.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;

/// A client's stream.
pub(super) struct Guarded {
    wire: Wire<ClientMeter>,
    /// Bytes that were read to know what the client speaks.
    first: Vec<u8>,
    /// `None` for HTTP/2, whose frames leave nothing to guess.
    guard: Option<Guard>,
    /// What is read in place of what the guard did not like.
    poison: &'static [u8],
}

/// Tells the link what its stream does.
struct ClientMeter(Rc<Link>);

impl Meter for ClientMeter {
    fn read(&mut self, count: usize) {
        self.0.is_active.set(true);
        self.0.is_waited_for.set(false);
        self.0.listener.borrow().metrics.read_bytes(count);
    }

    fn read_waits(&mut self) {
        self.0.is_waited_for.set(true);
    }

    fn wrote(&mut self, count: usize) {
        self.0.is_active.set(true);
        self.0.is_not_reading.set(false);
        self.0.listener.borrow().metrics.wrote_bytes(count);
    }

    fn write_waits(&mut self) {
        self.0.is_not_reading.set(true);
    }
}

impl Guarded {
    pub(super) fn new(read: ReadHalf, write: WriteHalf, link: Rc<Link>) -> Self {
        let mut guard = Guard::default();
        if !link.listener.borrow().tunnels.is_empty() {
            guard.let_tunnels();
        }
        let wire = Wire::new(read, write, ClientMeter(Rc::clone(&link)));
        link.writer.replace(wire.writer());
        Self { wire, first: Vec::new(), guard: Some(guard), poison: &[] }
    }

    /// Whether the first bytes are those of HTTP/2. They are read again afterwards.
    pub(super) async fn begins_as_http2(&mut self) -> io::Result<bool> {
        let mut bytes = [0; PREFACE.len()];
        loop {
            let len = self.first.len();
            if PREFACE.get(..len) != Some(&self.first[..]) {
                return Ok(false);
            }
            if len == PREFACE.len() {
                return Ok(true);
            }
            let room = bytes.get_mut(len..).unwrap_or_default();
            let count = self.wire.read(room).await?;
            if count == 0 {
                return if len == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(false) };
            }
            // A client that says nothing more than this has begun a head.
            self.wire.meter.0.phase.set(Phase::Head);
            self.first.extend_from_slice(room.get(..count).unwrap_or_default());
        }
    }

    /// Nobody needs to look any more.
    pub(super) fn is_http2(&mut self) {
        self.guard = None;
        self.wire.meter.0.phase.set(Phase::Idle);
    }

    /// What the client has done wrong.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.guard.as_ref().and_then(Guard::violation)
    }

    /// Ends the stream behind what was written. What the client still sends is read for a while, or its system would throw
    /// away what it has not read yet (RFC 9112, section 9.6).
    pub(super) async fn end(self) {
        let (mut read, write) = self.wire.into_halves();
        write.finish();
        let mut rest = [0; 1024];
        let reading = async {
            let mut left = LINGER_BYTES;
            while let Ok(count @ 1..) = read.read(&mut rest).await
                && left > count
            {
                left -= count;
            }
        };
        // Whoever goes on for longer has been told.
        let _ = tokio::time::timeout(LINGER, reading).await;
    }

    pub(super) fn into_halves(self) -> (ReadHalf, WriteHalf) {
        self.wire.into_halves()
    }

    /// Lets only what the guard likes stand in `buf`, from `start` on.
    fn look(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let Some(guard) = &mut self.guard else { return };
        let fresh = buf.filled().get(start..).unwrap_or_default();
        if fresh.is_empty() {
            return;
        }
        if let Err(count) = guard.look(fresh) {
            buf.set_filled(start + count);
            self.poison = POISON;
        }
        let link = &self.wire.meter.0;
        link.heads.set(guard.heads());
        link.phase.set(guard.phase());
    }
}

impl Guarded {
    /// Writes what is left of an answer before the answer.
    fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = Rc::clone(&self.wire.meter.0);
        let mut early = link.early.borrow_mut();
        while !early.is_empty() {
            let count = ready!(Pin::new(&mut self.wire).poll_write(cx, &early))?;
            early.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    fn take_poison(&mut self, buf: &mut ReadBuf<'_>) {
        let (now, later) = self.poison.split_at(self.poison.len().min(buf.remaining()));
        buf.put_slice(now);
        self.poison = later;
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buf.filled().len();
        if this.violation().is_some() {
            this.take_poison(buf);
            return Poll::Ready(Ok(()));
        }
        if this.first.is_empty() {
            ready!(Pin::new(&mut this.wire).poll_read(cx, buf))?;
        } else {
            let count = this.first.len().min(buf.remaining());
            buf.put_slice(this.first.get(..count).unwrap_or_default());
            this.first.drain(..count);
        }
        this.look(buf, start);
        this.take_poison(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_early(cx))?;
        this.wire.meter.0.is_flushed.set(false);
        Pin::new(&mut this.wire).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_early(cx))?;
        ready!(Pin::new(&mut this.wire).poll_flush(cx))?;
        this.wire.meter.0.is_flushed.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(cx)
    }
}
