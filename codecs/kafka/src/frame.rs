//! Frames: a length of four bytes, a head, a body.
//!
//! ```text
//! request   length:i32  key:i16  version:i16  correlation:i32   body
//! response  length:i32  correlation:i32                         body
//! ```
//!
//! "Body" here is everything behind the correlation id, the rest of what Kafka calls the header included.
//!
//! A [`Scanner`] stands at a place in a stream of bytes. Each call of [`Scanner::next`] is given what was read from
//! there on, and says what it begins with and how many bytes that is; the caller goes on behind them. The caller keeps
//! what was not taken (less than a head, 12 bytes at most) and puts what it reads next behind it. Bodies are handed out
//! in the pieces in which they came, without being copied, so that a frame of 50 MiB needs no more memory than one of
//! 50 bytes; only one that is wanted whole ([`Want::Whole`]) and does not come in one piece is gathered.

use std::marker::PhantomData;

use crate::table::ApiKey;

/// Bytes that a broker takes for the largest request, unless it is configured: `socket.request.max.bytes`.
pub const DEFAULT_MAX_FRAME: u32 = 100 << 20;

/// Head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// What is asked for.
    pub key: ApiKey,
    /// In which version.
    pub version: i16,
    /// What the response will say to belong to it.
    pub correlation: i32,
    /// Bytes behind the head.
    pub body: u32,
}

/// Head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Which request it belongs to.
    pub correlation: i32,
    /// Bytes behind the head.
    pub body: u32,
}

/// A head that a scanner reads.
pub trait Head: Copy + Sized {
    /// Bytes of it, the length included.
    const SIZE: usize;

    /// Reads it. `head` has [`Self::SIZE`] bytes.
    fn read(head: &[u8]) -> Option<Self>;

    /// Bytes that follow.
    fn body(&self) -> u32;
}

/// What is to be done with the body of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Hand it out as it comes.
    Pass,
    /// Hand it out when it is all there.
    Whole,
}

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a, H> {
    /// A frame begins; [`Scanner::want`] may now say what is to be done with its body. At least one piece follows.
    Head(H),
    /// Too few bytes to say, or to hand out: come again with more behind those that were not taken.
    More,
    /// A piece of the body; the bytes themselves are the first ones of what was given.
    Piece {
        /// How many.
        len: usize,
        /// Whether the frame ends with them.
        is_last: bool,
    },
    /// The body that was wanted whole. The frame ends here.
    Whole(&'a [u8]),
}

/// A frame that is none. Nothing behind it can be understood, so the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// A length that is smaller than a head, or negative.
    TooShort {
        /// What it is.
        length: i32,
    },
    /// A length above the limit. Other protocols on the port look like this, TLS and HTTP among them.
    TooLong {
        /// What it is, in bytes.
        length: u32,
        /// What it may be.
        limit: u32,
    },
}

/// Memory that is kept for bodies, in bytes; what a larger one took is given back when the next frame begins.
const KEPT: usize = 4 << 10;

/// Cuts one direction of a connection into frames.
#[derive(Debug)]
pub struct Scanner<H> {
    max_frame: u32,
    /// Bytes of the current body that were not taken.
    left: u32,
    state: State,
    gathered: Vec<u8>,
    head: PhantomData<H>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Between,
    Gathering,
    Passing,
}

// === impl RequestHead ===

impl RequestHead {
    /// Appends it as it is on the wire, with the length of `body` bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.body.saturating_add(8).to_be_bytes());
        out.extend_from_slice(&self.key.0.to_be_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.correlation.to_be_bytes());
    }
}

impl Head for RequestHead {
    const SIZE: usize = 12;

    fn read(head: &[u8]) -> Option<Self> {
        let (length, rest) = head.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        Some(Self {
            key: ApiKey(i16::from_be_bytes(*key)),
            version: i16::from_be_bytes(*version),
            correlation: i32::from_be_bytes(*rest.first_chunk()?),
            body: u32::from_be_bytes(*length).checked_sub(8)?,
        })
    }

    fn body(&self) -> u32 {
        self.body
    }
}

// === impl ResponseHead ===

impl ResponseHead {
    /// Appends it as it is on the wire, with the length of `body` bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.body.saturating_add(4).to_be_bytes());
        out.extend_from_slice(&self.correlation.to_be_bytes());
    }
}

impl Head for ResponseHead {
    const SIZE: usize = 8;

    fn read(head: &[u8]) -> Option<Self> {
        let (length, rest) = head.split_first_chunk()?;
        Some(Self {
            correlation: i32::from_be_bytes(*rest.first_chunk()?),
            body: u32::from_be_bytes(*length).checked_sub(4)?,
        })
    }

    fn body(&self) -> u32 {
        self.body
    }
}

// === impl Scanner ===

impl<H: Head> Scanner<H> {
    /// At the beginning of a connection. `max_frame` is the largest length that is taken, in bytes.
    #[must_use]
    pub fn new(max_frame: u32) -> Self {
        Self {
            max_frame: max_frame.min(i32::MAX as u32),
            left: 0,
            state: State::Between,
            gathered: Vec::new(),
            head: PhantomData,
        }
    }

    /// Says what `input`, the bytes from here on, begins with, and how many bytes of it that is.
    ///
    /// # Errors
    /// See [`FrameError`]; every further call says the same if given the same bytes.
    pub fn next<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Item<'a, H>), FrameError> {
        match self.state {
            State::Between => {
                self.gathered.clear();
                self.gathered.shrink_to(KEPT);
                self.head(input)
            }
            State::Gathering => Ok(self.gather(input)),
            State::Passing => {
                if input.is_empty() && self.left > 0 {
                    return Ok((0, Item::More));
                }
                let len = input.len().min(self.left as usize);
                self.left -= len as u32;
                let is_last = self.left == 0;
                if is_last {
                    self.state = State::Between;
                }
                Ok((len, Item::Piece { len, is_last }))
            }
        }
    }

    /// Says what is to be done with the body of the frame whose head came last. Only before its first piece; without
    /// it, the body passes. A body that is wanted whole takes as much memory as its head says that it is long: look
    /// at that first.
    pub fn want(&mut self, want: Want) {
        self.state = match (self.state, want) {
            (State::Passing, Want::Whole) => State::Gathering,
            (state, _) => state,
        };
    }

    /// Bytes of the body that is handed out as it comes which did not come yet, but for the last one: so many may pass without
    /// being shown here, if [`Scanner::passed`] is told.
    #[must_use]
    pub fn unseen(&self) -> usize {
        if self.state == State::Passing { (self.left as usize).saturating_sub(1) } else { 0 }
    }

    /// So many bytes of the body have passed, of those that [`Scanner::unseen`] lets.
    pub fn passed(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u32).max(1);
    }

    /// Whether the bytes so far end with a frame's end.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.state == State::Between
    }

    /// Bytes of memory that it holds for bodies that are wanted whole.
    #[must_use]
    pub fn held(&self) -> usize {
        self.gathered.capacity()
    }

    fn head<'a>(&mut self, input: &[u8]) -> Result<(usize, Item<'a, H>), FrameError> {
        let Some(length) = input.first_chunk() else { return Ok((0, Item::More)) };
        let length = i32::from_be_bytes(*length);
        // Hostile lengths are refused before another byte is waited for.
        if length < H::SIZE as i32 - 4 {
            return Err(FrameError::TooShort { length });
        }
        if length as u32 > self.max_frame {
            return Err(FrameError::TooLong { length: length as u32, limit: self.max_frame });
        }
        let Some(head) = input.get(..H::SIZE).and_then(H::read) else { return Ok((0, Item::More)) };
        self.left = head.body();
        self.state = State::Passing;
        Ok((H::SIZE, Item::Head(head)))
    }

    fn gather<'a>(&'a mut self, input: &'a [u8]) -> (usize, Item<'a, H>) {
        let left = self.left as usize;
        if self.gathered.is_empty()
            && let Some(whole) = input.get(..left)
        {
            self.state = State::Between;
            return (left, Item::Whole(whole));
        }
        // No more is reserved than what came: a head is only a claim.
        let piece = input.get(..left).unwrap_or(input);
        self.gathered.extend_from_slice(piece);
        self.left -= piece.len() as u32;
        if self.left > 0 {
            return (piece.len(), Item::More);
        }
        self.state = State::Between;
        (piece.len(), Item::Whole(&self.gathered))
    }
}

#[cfg(test)]
mod tests;
