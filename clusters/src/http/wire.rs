//! A stream's two halves as one thing that HTTP's engine reads and writes.

use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use mecha_transport::{ReadHalf, WriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Who counts bytes, and wants to know what a stream waits for.
pub trait Meter: Unpin {
    /// So many bytes have come; 0 is the end.
    fn read(&mut self, count: usize);
    /// Nothing has come yet that could be read.
    fn read_waits(&mut self) {}
    /// So many bytes have gone.
    fn wrote(&mut self, count: usize);
    /// The peer takes nothing at the moment.
    fn write_waits(&mut self) {}
}

/// A stream with both its halves.
pub struct Wire<M> {
    read: ReadHalf,
    write: Rc<WriteHalf>,
    /// Its meter.
    pub meter: M,
}

impl<M: Meter> Wire<M> {
    /// Joins two halves.
    pub fn new(read: ReadHalf, write: WriteHalf, meter: M) -> Self {
        Self { read, write: Rc::new(write), meter }
    }

    /// Its writing half, for who has something to say between messages. Nobody may hold it for longer than that.
    pub fn writer(&self) -> Weak<WriteHalf> {
        Rc::downgrade(&self.write)
    }

    /// The halves again.
    ///
    /// # Panics
    /// If somebody holds its writing half.
    pub fn into_halves(self) -> (ReadHalf, WriteHalf) {
        (self.read, Rc::into_inner(self.write).expect("writers are held for one call only"))
    }
}

impl<M: Meter> AsyncRead for Wire<M> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.read).poll_read(cx, buf) {
            Poll::Pending => {
                this.meter.read_waits();
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                this.meter.read(buf.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            failed => failed,
        }
    }
}

impl<M: Meter> AsyncWrite for Wire<M> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match this.write.try_write(bytes) {
                Ok(count) => {
                    this.meter.wrote(count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = this.read.poll_write_ready(cx);
                    if ready.is_pending() {
                        this.meter.write_waits();
                    }
                    ready!(ready)?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is held back: what was taken has been written.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write.finish();
        Poll::Ready(Ok(()))
    }
}
