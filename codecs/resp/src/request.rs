//! Cutting what clients send: arrays of bulk strings, and inline commands.

use mecha_core::{Decode, Decoded, Limits, OpId, ProtocolError, Span};

use crate::args::{decimal, split_inline};
use crate::ops::{facts, op_named, sub_named};

/// Longest header (`*` or `$`, a number, CRLF) that can be right.
const MAX_HEADER: usize = 32;
/// The server's own limit on one argument (`proto-max-bulk-len`).
const MAX_BULK: i64 = 512 << 20;

/// The head of one request. Offsets are relative to the frame's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The frame's bytes.
    pub span: Span,
    /// The command, or its subcommand.
    pub op: OpId,
    /// Number of arguments, the name included.
    pub argc: u32,
    /// Where the first key is; its length is 0 and offset 0 if there is none or it takes more than the table to find.
    pub key_at: u32,
    /// See `key_at`.
    pub key_len: u32,
    /// A line instead of an array.
    pub is_inline: bool,
    /// Only the beginning of the frame is here.
    pub is_open: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Inside an argument's bytes; `body` are left, CRLF included.
    Body,
    /// Before an argument's header.
    Header,
    /// Inside an inline command.
    Inline,
    /// Before a frame.
    #[default]
    Start,
}

/// Cuts requests. Remembers how far into the incomplete frame it has looked.
#[derive(Clone, Debug)]
pub struct RequestDecoder {
    limits: Limits,
    stage: Stage,
    /// Offset in the incomplete frame up to which everything has been looked at.
    at: usize,
    /// Bytes left of the argument at `at`.
    body: usize,
    /// Arguments left.
    left: u32,
    head: Request,
    /// Index of the argument that is the first key; 0 if there is none.
    key_index: u32,
    /// The frame's head has been handed out; `given` of its bytes too.
    is_open: bool,
    given: usize,
}

impl RequestDecoder {
    /// A decoder for a fresh connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::Start,
            at: 0,
            body: 0,
            left: 0,
            head: Request::default(),
            key_index: 0,
            is_open: false,
            given: 0,
        }
    }

    /// Ends the frame.
    fn reset(&mut self) {
        (self.stage, self.at, self.key_index) = (Stage::Start, 0, 0);
        (self.is_open, self.given) = (false, 0);
        self.head = Request::default();
    }

    /// What an argument of `frame` tells: the command, the subcommand, the key.
    #[inline]
    fn argument(&mut self, frame: &[u8], start: usize, len: usize) {
        let index = self.head.argc - self.left;
        if index == 0 {
            let op = op_named(frame.get(start..start + len).unwrap_or_default());
            let facts = facts(op);
            self.head.op = op;
            self.key_index = u32::from(facts.first_key);
        } else if index == 1 && facts(self.head.op).is_container {
            self.head.op = sub_named(self.head.op, frame.get(start..start + len).unwrap_or_default());
            self.key_index = u32::from(facts(self.head.op).first_key);
        }
        if index == self.key_index && index > 0 {
            (self.head.key_at, self.head.key_len) = (start as u32, len as u32);
        }
    }

    /// Looks at `frame` (everything of the incomplete frame from its first byte on, or from `given` on if it is open)
    /// until it ends. `Ok(Some(length))` if it does.
    #[inline]
    fn scan(&mut self, frame: &[u8], base: usize) -> Result<Option<usize>, ProtocolError> {
        loop {
            match self.stage {
                Stage::Start => match frame.first() {
                    None => return Ok(None),
                    Some(b'*') => {
                        let Some((count, next)) =
                            header(frame, 1).map_err(|at| ProtocolError::Count { at: base + at })?
                        else {
                            return Ok(None);
                        };
                        if count > self.limits.max_args as i64 {
                            return Err(ProtocolError::Count { at: base });
                        }
                        if count <= 0 {
                            // The server ignores it, and so do we: it is no frame.
                            return Ok(Some(next));
                        }
                        (self.head.argc, self.left) = (count as u32, count as u32);
                        (self.stage, self.at) = (Stage::Header, next);
                    }
                    Some(_) => self.stage = Stage::Inline,
                },
                Stage::Header => {
                    let Some(rest) = frame.get(self.at..).filter(|rest| !rest.is_empty()) else {
                        return Ok(None);
                    };
                    if let Some(got) = rest.first().copied().filter(|byte| *byte != b'$') {
                        return Err(ProtocolError::Byte { at: base + self.at, got });
                    }
                    let parsed =
                        header(rest, 1).map_err(|at| ProtocolError::Length { at: base + self.at + at })?;
                    let Some((length, next)) = parsed else { return Ok(None) };
                    if !(0..=MAX_BULK).contains(&length) {
                        return Err(ProtocolError::Length { at: base + self.at });
                    }
                    self.at += next;
                    self.body = length as usize + 2;
                    if self.given + self.at + self.body > self.limits.max_frame {
                        return Err(ProtocolError::FrameTooLarge { at: base });
                    }
                    self.stage = Stage::Body;
                }
                Stage::Body => {
                    let here = frame.len().saturating_sub(self.at);
                    if here < self.body {
                        // Bytes of an argument are only counted; what the head needs is looked at when it is whole.
                        if self.is_open && self.body > 2 {
                            let skip = here.min(self.body - 2);
                            (self.at, self.body) = (self.at + skip, self.body - skip);
                        }
                        return Ok(None);
                    }
                    let (start, len) = (self.at, self.body - 2);
                    self.at += self.body;
                    match frame.get(self.at - 2..self.at) {
                        Some(b"\r\n") => {}
                        Some([b'\r', got]) => {
                            return Err(ProtocolError::Byte { at: base + self.at - 1, got: *got });
                        }
                        Some([got, ..]) => {
                            return Err(ProtocolError::Byte { at: base + self.at - 2, got: *got });
                        }
                        _ => return Ok(None),
                    }
                    if !self.is_open {
                        self.argument(frame, start, len);
                    }
                    self.left -= 1;
                    if self.left == 0 {
                        return Ok(Some(self.at));
                    }
                    self.stage = Stage::Header;
                }
                Stage::Inline => {
                    let fresh = frame.get(self.at..).unwrap_or_default();
                    let Some(end) = memchr::memchr(b'\n', fresh) else {
                        self.at = frame.len();
                        if self.at > self.limits.max_line {
                            return Err(ProtocolError::LineTooLong { at: base });
                        }
                        return Ok(None);
                    };
                    let end = self.at + end + 1;
                    if end > self.limits.max_line + 2 {
                        return Err(ProtocolError::LineTooLong { at: base });
                    }
                    let line = frame.get(..end).unwrap_or_default();
                    let args = split_inline(line).ok_or(ProtocolError::Quotes { at: base })?;
                    self.head.argc = args.len() as u32;
                    self.head.is_inline = true;
                    if let Some(name) = args.first() {
                        self.head.op = op_named(name);
                        if let Some(sub) = args.get(1).filter(|_| facts(self.head.op).is_container) {
                            self.head.op = sub_named(self.head.op, sub);
                        }
                    }
                    return Ok(Some(end));
                }
            }
        }
    }

    /// The whole of a small frame in one go, without a thought for resuming: what nearly all requests are.
    #[inline]
    fn whole(&mut self, frame: &[u8]) -> Option<usize> {
        let [b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] = frame else { return None };
        let argc = u32::from(count - b'0');
        (self.head.argc, self.left) = (argc, argc);
        let mut at = 4;
        while self.left > 0 {
            let (len, start) = match frame.get(at..at + 6)? {
                [b'$', one @ b'0'..=b'9', b'\r', b'\n', ..] => (usize::from(one - b'0'), at + 4),
                [b'$', ten @ b'1'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..] => {
                    (usize::from(ten - b'0') * 10 + usize::from(one - b'0'), at + 5)
                }
                _ => return None,
            };
            if frame.get(start + len..start + len + 2)? != b"\r\n" {
                return None;
            }
            self.argument(frame, start, len);
            self.left -= 1;
            at = start + len + 2;
        }
        Some(at)
    }
}

/// A number between `from` and CRLF, and the offset behind it; `None` if the line has not ended. The error is where it
/// is wrong.
#[inline]
fn header(line: &[u8], from: usize) -> Result<Option<(i64, usize)>, usize> {
    let window = line.get(..line.len().min(MAX_HEADER)).unwrap_or_default();
    let Some(end) = window.iter().position(|byte| *byte == b'\r') else {
        return if window.len() == MAX_HEADER { Err(from) } else { Ok(None) };
    };
    let number = window.get(from..end).and_then(decimal).ok_or(from)?;
    match line.get(end + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((number, end + 2))),
        Some(_) => Err(end + 1),
    }
}

impl Decode for RequestDecoder {
    type Head = Request;

    fn decode(&mut self, buf: &[u8], heads: &mut Vec<Request>) -> Result<Decoded, ProtocolError> {
        let mut decoded = Decoded::default();
        if self.is_open {
            let end = self.scan(buf, 0)?;
            decoded.tail = end.unwrap_or(self.at).min(buf.len());
            decoded.consumed = decoded.tail;
            if end.is_none() {
                decoded.open = true;
                self.given += decoded.tail;
                self.at -= decoded.tail;
                return Ok(decoded);
            }
            self.reset();
        }
        while let Some(frame) = buf.get(decoded.consumed..).filter(|frame| !frame.is_empty()) {
            let start = decoded.consumed;
            let length = if self.stage == Stage::Start
                && let Some(length) = self.whole(frame)
            {
                length
            } else {
                if self.stage == Stage::Start {
                    self.reset();
                }
                match self.scan(frame, start)? {
                    Some(length) => length,
                    None => {
                        self.open(frame, start, &mut decoded, heads);
                        break;
                    }
                }
            };
            if length > self.limits.max_frame {
                return Err(ProtocolError::FrameTooLarge { at: start });
            }
            if self.head.argc > 0 {
                self.head.span = Span::wire(start, length);
                heads.push(self.head);
            }
            decoded.consumed += length;
            self.reset();
        }
        Ok(decoded)
    }
}

impl RequestDecoder {
    /// Hands out the beginning of a frame that has outgrown the threshold.
    fn open(&mut self, frame: &[u8], start: usize, decoded: &mut Decoded, heads: &mut Vec<Request>) {
        let is_known = matches!(self.stage, Stage::Body | Stage::Header);
        if frame.len() <= self.limits.stream_above || self.is_open || !is_known {
            return;
        }
        // Up to the part of an argument that can be passed on without looking: its end is still to be checked.
        let skip = if self.stage == Stage::Body { (frame.len() - self.at).min(self.body - 2) } else { 0 };
        (self.at, self.body) = (self.at + skip, self.body.saturating_sub(skip));
        let length = self.at;
        self.head.span = Span::wire(start, length);
        self.head.is_open = true;
        heads.push(self.head);
        (self.is_open, self.given, self.at) = (true, length, 0);
        decoded.consumed += length;
        decoded.open = true;
    }
}

#[cfg(test)]
mod tests;
