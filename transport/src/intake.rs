//! Reading with hardly any memory for each connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use crate::ReadHalf;

/// What is left of a connection's last read: the beginning of a frame whose end has not arrived.
///
/// Reads go to a buffer that all connections of a worker share. Only an incomplete frame is copied aside, and the next
/// read is appended to it. A connection between requests holds no buffer at all.
#[derive(Debug, Default)]
pub struct Intake {
    partial: BytesMut,
}

impl Intake {
    /// Bytes kept from earlier reads.
    pub fn held(&self) -> usize {
        self.partial.len()
    }

    /// Gives `process` what is held, without reading. It returns how many bytes from the front are done with.
    pub fn process_held(&mut self, process: impl FnOnce(&[u8]) -> usize) {
        let consumed = process(&self.partial).min(self.partial.len());
        self.consumed(consumed);
    }

    fn consumed(&mut self, count: usize) {
        self.partial.advance(count);
        if self.partial.is_empty() {
            self.partial = BytesMut::new();
        }
    }

    /// Reads once and gives `process` everything that is unprocessed; it returns how many bytes from the front need
    /// not be shown again. `scratch` is the shared buffer.
    ///
    /// Ready with the number of bytes read; 0 is the end of the stream.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_read(
        &mut self,
        stream: &mut ReadHalf,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        process: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        if self.partial.is_empty() {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
            let fresh = buf.filled();
            if fresh.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let consumed = process(fresh).min(fresh.len());
            self.partial.extend_from_slice(fresh.get(consumed..).unwrap_or_default());
            return Poll::Ready(Ok(fresh.len()));
        }
        self.partial.reserve(scratch.len());
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(stream), cx, &mut self.partial))?;
        if read > 0 {
            self.process_held(process);
        }
        Poll::Ready(Ok(read))
    }
}
