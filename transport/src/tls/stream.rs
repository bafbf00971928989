//! The two halves of an encrypted stream, and the stream on its way from the handshake to its worker.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mecha_core::Identity;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, tcp};

use super::CHUNK;
use super::engine::{Engine, MAX_HELD};

/// Ciphertext that one read takes at most: four records.
const READ: usize = CHUNK + 1024;

thread_local! {
    /// Records that are read, behind room for the beginning of the first of them.
    static OPENED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Records that are written.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An encrypted stream whose handshake is done, detached from any runtime: it may be sent to another thread.
pub struct Established {
    pub(super) stream: std::net::TcpStream,
    pub(super) addr: SocketAddr,
    pub(super) engine: Box<Engine>,
    pub(super) identity: Option<Arc<Identity>>,
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Established {
    /// The peer's address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address that the peer has connected to.
    pub fn local(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.stream)
    }

    /// Who the peer has proved to be.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    pub(crate) fn into_halves(self) -> io::Result<(TlsReadHalf, TlsWriteHalf)> {
        Ok(halves(TcpStream::from_std(self.stream)?, self.engine))
    }
}

pub(super) fn halves(stream: TcpStream, engine: Box<Engine>) -> (TlsReadHalf, TlsWriteHalf) {
    let (read, write) = stream.into_split();
    let engine = Rc::new(RefCell::new(*engine));
    (
        TlsReadHalf { half: read, engine: Rc::clone(&engine) },
        TlsWriteHalf { half: write, is_aborted: Cell::new(false), engine },
    )
}

/// The half that one task polls.
pub struct TlsReadHalf {
    half: tcp::OwnedReadHalf,
    engine: Rc<RefCell<Engine>>,
}

/// The half that anybody on the thread may write through.
pub struct TlsWriteHalf {
    half: tcp::OwnedWriteHalf,
    is_aborted: Cell<bool>,
    engine: Rc<RefCell<Engine>>,
}

impl fmt::Debug for TlsReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsReadHalf").field("half", &self.half).finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsWriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsWriteHalf").field("half", &self.half).finish_non_exhaustive()
    }
}

// === impl TlsReadHalf ===

impl TlsReadHalf {
    pub(crate) fn socket(&self) -> &TcpStream {
        self.half.as_ref()
    }

    pub(crate) fn alpn(&self) -> Option<Vec<u8>> {
        self.engine.borrow().alpn().map(<[u8]>::to_vec)
    }

    pub(crate) fn server_name(&self) -> Option<Box<str>> {
        self.engine.borrow().server_name().map(Into::into)
    }

    /// Reads plaintext. The end of the stream is the peer's farewell or, as many clients leave, the end of its TCP
    /// stream: what is carried has frames of its own, so a cut-off one is noticed.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut engine = self.engine.borrow_mut();
            if engine.take_plain(buf.remaining(), |bytes| buf.put_slice(bytes)) || engine.is_ended {
                return Poll::Ready(Ok(()));
            }
            if engine.is_failed {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            // Only messages of the protocol itself wait without a writer who comes back for them.
            if engine.has_outgoing() && !engine.flush(&mut |bytes| self.half.as_ref().try_write(bytes))? {
                let _ = self.half.as_ref().poll_write_ready(cx)?;
            }
            let filled = OPENED.with_borrow_mut(|opened| {
                if opened.is_empty() {
                    opened.resize(MAX_HELD + READ, 0);
                }
                let limit = MAX_HELD + READ.min(buf.remaining().max(1024) + 512);
                let mut fresh = ReadBuf::new(opened.get_mut(MAX_HELD..limit).unwrap_or_default());
                ready!(Pin::new(&mut self.half).poll_read(cx, &mut fresh))?;
                let count = fresh.filled().len();
                if count == 0 {
                    engine.is_ended = true;
                    return Poll::Ready(Ok(true));
                }
                let start = MAX_HELD - engine.incoming.len();
                opened.get_mut(start..MAX_HELD).unwrap_or_default().copy_from_slice(&engine.incoming);
                let records = opened.get_mut(start..MAX_HELD + count).unwrap_or_default();
                Self::open(&mut engine, records, buf)
            });
            let is_done = ready!(filled);
            if engine.has_outgoing() {
                // An alert, or the answer to a change of keys. What the socket does not take waits for the next turn.
                let _ = engine.flush(&mut |bytes| self.half.as_ref().try_write(bytes));
            }
            if is_done? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether anything has come of it.
    fn open(engine: &mut Engine, records: &mut [u8], buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let mut spilled = Vec::new();
        let before = buf.filled().len();
        let result = engine.digest(records, &mut |bytes| {
            let (fits, rest) = bytes.split_at(bytes.len().min(buf.remaining()));
            buf.put_slice(fits);
            spilled.extend_from_slice(rest);
        });
        engine.hold_plain(&spilled);
        Poll::Ready(match result {
            Ok((consumed, _)) => {
                engine.hold(records.get(consumed..).unwrap_or_default())?;
                Ok(buf.filled().len() > before || engine.is_ended)
            }
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        })
    }
}

impl AsyncRead for TlsReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Self::poll_read(self.get_mut(), cx, buf)
    }
}

// === impl TlsWriteHalf ===

impl TlsWriteHalf {
    /// Ends the stream without a farewell, which tells the peer that something is missing (RFC 8446, section 6.1).
    pub(crate) fn abort(self) {
        self.is_aborted.set(true);
        let _ = socket2::SockRef::from(self.half.as_ref()).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Encrypts and writes what the socket takes; see [`Engine::write`] for what the count means.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut engine = self.engine.borrow_mut();
        SEALED.with_borrow_mut(|sealed| engine.write(bytes, sealed, &mut |bytes| self.half.try_write(bytes)))
    }

    /// Says goodbye and ends the TCP stream towards the peer.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.close();
        socket2::SockRef::from(self.half.as_ref()).shutdown(std::net::Shutdown::Write)
    }

    fn close(&self) {
        if self.is_aborted.get() {
            return;
        }
        // The engine is only ever borrowed for the length of a call, and none of them drops this half.
        let Ok(mut engine) = self.engine.try_borrow_mut() else { return };
        SEALED.with_borrow_mut(|sealed| engine.close(sealed, &mut |bytes| self.half.try_write(bytes)));
    }
}

impl Drop for TlsWriteHalf {
    fn drop(&mut self) {
        self.close();
    }
}
