//! Bytes that wait to be written to one socket.

use std::io;

use crate::WriteHalf;

/// Memory that an emptied outbox keeps for the next batch, unless it was made to keep more.
const KEEP: usize = 32 << 10;

/// A growing buffer with a cursor. Whoever fills it watches its length; it sets no limit itself.
#[derive(Debug)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// A larger buffer is given back when it is empty, so that a burst does not stay with an idle connection.
    keep: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::keeping(KEEP)
    }
}

impl Outbox {
    /// An outbox that keeps a buffer of up to `bytes` when it is empty: for the few connections that many clients
    /// share, which need it again in the next turn.
    pub fn keeping(bytes: usize) -> Self {
        Self { bytes: Vec::new(), sent: 0, keep: bytes }
    }

    /// Bytes that are not written yet.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer to append to. Only its end may change.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::keeping(self.keep);
    }

    /// Writes as much as `socket` takes and returns how many bytes that was. What is left waits for the socket to
    /// become writable.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn write_to(&mut self, socket: &WriteHalf) -> io::Result<usize> {
        let before = self.sent;
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match socket.try_write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.sent += written;
                    // A short write means that the socket is full: asking again would only cost a system call.
                    if written < rest.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let written = self.sent - before;
        self.compact();
        Ok(written)
    }

    fn compact(&mut self) {
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
            if self.bytes.capacity() > self.keep {
                self.bytes = Vec::new();
            }
        } else if self.sent >= self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}
