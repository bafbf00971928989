//! Frames: where they lie in a buffer, and the contract of the decoders that cut them.

/// Offset and length, in bytes, of a piece of a batch: in the bytes read from the socket (`wire`), or in the bytes
/// that a filter wrote (`local`). Buffers stay below 2 GiB, so the offset's top bit is free to tell which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    start: u32,
    len: u32,
}

const LOCAL: u32 = 1 << 31;

impl Span {
    /// A piece of `wire`. Offsets of 2 GiB and more cannot occur: buffers are far smaller.
    pub fn wire(start: usize, len: usize) -> Self {
        Self { start: start as u32 & !LOCAL, len: len as u32 }
    }

    /// A piece of `local`.
    pub fn local(start: usize, len: usize) -> Self {
        Self { start: start as u32 | LOCAL, len: len as u32 }
    }

    /// Whether the bytes lie in `local`.
    pub fn is_local(self) -> bool {
        self.start & LOCAL != 0
    }

    /// First byte's offset in its buffer.
    pub fn start(self) -> usize {
        (self.start & !LOCAL) as usize
    }

    /// Offset just past the last byte.
    pub fn end(self) -> usize {
        self.start() + self.len as usize
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The bytes; empty when the span lies outside the buffer, which no caller of ours causes.
    pub fn of<'b>(self, wire: &'b [u8], local: &'b [u8]) -> &'b [u8] {
        let buffer = if self.is_local() { local } else { wire };
        buffer.get(self.start()..self.end()).unwrap_or_default()
    }
}

/// Bounds that a decoder enforces. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A frame that outgrows this is handed on in pieces ([`Decoded::open`]) instead of being collected whole.
    /// Set it to `max_frame` when frames must be seen whole (translation, rewriting filters).
    pub stream_above: usize,
    /// The largest frame; a larger one is a [`ProtocolError::FrameTooLarge`].
    pub max_frame: usize,
    /// The most arguments (RESP multibulk elements, keys of a memcached line) of one request.
    pub max_args: usize,
    /// The longest line: inline commands, memcached command lines, RESP headers and simple strings in requests.
    pub max_line: usize,
    /// The deepest nesting of aggregates in a reply.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_above: 64 << 10,
            max_frame: 512 << 20,
            max_args: 1 << 20,
            max_line: 64 << 10,
            // Deeper than the tables that a server's scripts can return.
            max_depth: 16 << 10,
        }
    }
}

/// Bytes that break the protocol. The offset is relative to the buffer given to the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// An unexpected byte.
    Byte {
        /// Where.
        at: usize,
        /// Which.
        got: u8,
    },
    /// A number of elements that is no number, or over a limit.
    Count {
        /// Where.
        at: usize,
    },
    /// The frame is larger than [`Limits::max_frame`].
    FrameTooLarge {
        /// Where the frame starts.
        at: usize,
    },
    /// A length that is no number, negative, or over a limit.
    Length {
        /// Where.
        at: usize,
    },
    /// A line longer than [`Limits::max_line`].
    LineTooLong {
        /// Where the line starts.
        at: usize,
    },
    /// A quoted argument that does not end, or is not followed by a space.
    Quotes {
        /// Where the line starts.
        at: usize,
    },
    /// Aggregates nested deeper than [`Limits::max_depth`].
    TooDeep {
        /// Where.
        at: usize,
    },
}

/// What a decoder made of a buffer.
///
/// The buffer given to one call is cut in three: `[0, tail)` continues the frame that an earlier call left open,
/// `[tail, consumed)` holds new frames, and `[consumed, len)` is an incomplete frame that the caller must give again,
/// at offset 0, with more bytes behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes at the front that belong to the frame that was open before this call.
    pub tail: usize,
    /// Bytes that need not be given again.
    pub consumed: usize,
    /// The last frame (the last head, or the one open before this call when `tail == consumed`) goes on in the next
    /// call's `tail`. Its head's span covers the bytes seen so far.
    pub open: bool,
}

/// Cuts a byte stream into frames. Sans-IO and resumable: an implementation remembers how far into the incomplete
/// frame it has looked, so that each byte is examined once however the stream is chopped.
pub trait Decode {
    /// What is known about one frame; spans in it are relative to the buffer of the call that pushed it.
    type Head;

    /// Appends a head for every frame of `buf` that is complete, or open (see [`Decoded`]). Allocates nothing per
    /// frame beyond the growth of `heads`. May return early with fewer frames than `buf` holds only on error.
    ///
    /// # Errors
    /// [`ProtocolError`] at the first byte that breaks the protocol. Heads before it are valid and must be served;
    /// the decoder must not be used again.
    fn decode(&mut self, buf: &[u8], heads: &mut Vec<Self::Head>) -> Result<Decoded, ProtocolError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_remembers_which_buffer_it_points_into() {
        let (wire, local) = (b"0123456789".as_slice(), b"abcdef".as_slice());
        assert_eq!(Span::wire(2, 3).of(wire, local), b"234");
        assert_eq!(Span::local(2, 3).of(wire, local), b"cde");
        assert_eq!(Span::local(2, 3).start(), 2);
        assert_eq!(Span::wire(8, 9).of(wire, local), b"");
    }
}
