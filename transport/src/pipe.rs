//! Bytes that go from one socket to another without being copied: `splice(2)` by way of a pipe.
//!
//! For bytes that nobody looks at, and of which there are many: what costs most about those is that the kernel copies them
//! to us and from us. A splice into a pipe and one out of it take as many system calls as a read and a write, and move
//! pages. For small pieces that is no gain, so whoever has the choice watches how much comes at once.
//!
//! A pipe is the worker's between two uses: whoever took one gives it back empty, and one that is dropped with bytes in it is
//! closed.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;

use crate::{ReadHalf, WriteHalf};

/// Bytes that a pipe holds, if the system lets it; 64 KiB otherwise.
pub const PIPE_SIZE: usize = 256 << 10;

/// Pipes that a worker keeps for the next one who needs one.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    from: OwnedFd,
    to: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty one.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn take() -> io::Result<Self> {
        if let Some(pipe) = FREE.with(|free| free.borrow_mut().pop()) {
            return Ok(pipe);
        }
        let (from, to) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Users have a limit for all their pipes; a smaller one works too.
        let _ = fcntl_setpipe_size(&to, PIPE_SIZE);
        Ok(Self { from, to, held: 0 })
    }

    /// Keeps it for the next one, if it is empty.
    pub fn give_back(self) {
        if self.held == 0 {
            FREE.with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < KEPT {
                    free.push(self);
                }
            });
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether these two can be joined by one: both are plain TCP.
    #[must_use]
    pub fn joins(from: &ReadHalf, to: &WriteHalf) -> bool {
        matches!((from, to), (ReadHalf::Tcp(_), WriteHalf::Tcp(_)))
    }

    /// Takes up to `limit` bytes of what has come, into an empty pipe. 0 is the end of the stream.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &ReadHalf,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let ReadHalf::Tcp(half) = from else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
        let stream = half.as_ref();
        loop {
            // With bytes in the pipe it could be that which takes no more, and the socket would be waited for in vain.
            debug_assert_eq!(self.held, 0);
            let filled = stream.try_io(Interest::READABLE, || moved(stream.as_fd(), self.to.as_fd(), limit));
            match filled {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match stream.poll_read_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                },
                filled => {
                    self.held += *filled.as_ref().unwrap_or(&0);
                    return Poll::Ready(filled);
                }
            }
        }
    }

    /// Writes what it holds, as much as the socket takes. How many bytes that was.
    ///
    /// # Errors
    /// The connection is broken. `WouldBlock` when it takes nothing.
    pub fn drain(&mut self, to: &WriteHalf) -> io::Result<usize> {
        let WriteHalf::Tcp(half) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        let stream = half.as_ref();
        let sent =
            stream.try_io(Interest::WRITABLE, || moved(self.from.as_fd(), stream.as_fd(), self.held))?;
        self.held -= sent.min(self.held);
        Ok(sent)
    }
}

fn moved(from: impl AsFd, to: impl AsFd, limit: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match splice(&from, None, &to, None, limit, flags) {
            Err(rustix::io::Errno::INTR) => {}
            moved => return moved.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn what_goes_into_a_pipe_comes_out_of_it_and_so_does_the_end() {
        let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
        let (read, _kept) = near.into_split();
        let (_other, write) = far.into_split();
        let (read, write) = (ReadHalf::Tcp(read), WriteHalf::Tcp(write));
        assert!(Pipe::joins(&read, &write));
        let bytes: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
        let expected = bytes.clone();
        let sending = tokio::spawn(async move {
            client.write_all(&bytes).await.unwrap();
        });
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut pipe = Pipe::take().unwrap();
        let mut passed = 0;
        loop {
            let filled = std::future::poll_fn(|cx| pipe.poll_fill(cx, &read, 100_000)).await.unwrap();
            assert!(filled <= 100_000);
            if filled == 0 {
                break;
            }
            while pipe.held() > 0 {
                match pipe.drain(&write) {
                    Ok(sent) => passed += sent,
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        let WriteHalf::Tcp(half) = &write else { unreachable!() };
                        half.writable().await.unwrap();
                    }
                }
            }
        }
        pipe.give_back();
        assert_eq!(passed, expected.len());
        drop(write);
        sending.await.unwrap();
        assert!(reading.await.unwrap() == expected);
        assert_eq!(Pipe::take().unwrap().held(), 0);
    }
}
