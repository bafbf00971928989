//! Bytes that pass from socket to socket without being seen, where there are many of them.
//!
//! A direction is *wide* when a read has filled its buffer; then what follows is spliced as long as it comes in pieces for
//! which that pays. What comes in small pieces is read and written, so a door with short messages knows nothing of this.

use std::io;
use std::task::{Context, Poll};

use mecha_transport::{PIPE_SIZE, Pipe, ReadHalf, WriteHalf};

use super::relay::Failed;

/// Bytes of which at least so many have to be unseen for a splice to pay, and which at least it has to move.
const WORTH: usize = 32 << 10;

/// What one direction has on its way.
#[derive(Default)]
pub(super) struct Spliced {
    pipe: Option<Pipe>,
    is_wide: bool,
}

impl Spliced {
    pub(super) fn held(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// A read came; whether it has filled its buffer.
    pub(super) fn read(&mut self, is_full: bool) {
        self.is_wide = is_full;
    }

    /// Whether to splice what comes next.
    pub(super) fn pays(&self, unseen: usize, from: &ReadHalf, to: &WriteHalf) -> bool {
        self.is_wide && unseen >= WORTH && Pipe::joins(from, to)
    }

    /// Writes what it holds. Whether that is all.
    pub(super) fn drain(
        &mut self,
        cx: &mut Context<'_>,
        (ready, to): &(ReadHalf, WriteHalf),
        passed: &mut usize,
    ) -> Result<bool, Failed> {
        let Some(pipe) = &mut self.pipe else { return Ok(true) };
        while pipe.held() > 0 {
            match pipe.drain(to) {
                Ok(sent) => *passed += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready.poll_write_ready(cx).map_err(|_| Failed::Writing)?.is_pending() {
                        return Ok(false);
                    }
                }
                Err(_) => return Err(Failed::Writing),
            }
        }
        Ok(true)
    }

    /// Takes what has come, of so many bytes that need not be seen. `None` if nothing has.
    pub(super) fn fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &ReadHalf,
        unseen: usize,
    ) -> Result<Option<usize>, Failed> {
        let mut pipe = match self.pipe.take().map_or_else(Pipe::take, Ok) {
            Ok(pipe) => pipe,
            Err(_) => {
                // Without descriptors it goes on as it did.
                self.is_wide = false;
                cx.waker().wake_by_ref();
                return Ok(None);
            }
        };
        match pipe.poll_fill(cx, from, unseen.min(PIPE_SIZE)) {
            Poll::Pending => {
                pipe.give_back();
                Ok(None)
            }
            Poll::Ready(Err(_)) => Err(Failed::Reading),
            Poll::Ready(Ok(bytes)) => {
                self.is_wide = bytes >= WORTH;
                self.pipe = Some(pipe);
                Ok(Some(bytes))
            }
        }
    }
}

impl Drop for Spliced {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}
