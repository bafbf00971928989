//! Cutting what servers send: every type of RESP2 and RESP3.
//!
//! No tree is built and nothing recurses. An aggregate only adds to the number of elements that are still to come; a
//! stack of such numbers, one for each level, exists because a streamed aggregate ends with a marker instead.

use mecha_core::{Decode, Decoded, Limits, Outcome, ProtocolError, Span};

use crate::args::decimal;

/// Longest header of an aggregate or a counted string.
const MAX_HEADER: usize = 32;

/// The head of one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The frame's bytes.
    pub span: Span,
    /// The first byte of the reply, behind any attributes.
    pub kind: u8,
    /// What the backend said.
    pub outcome: Outcome,
}

/// Elements that one level still expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// So many.
    Counted(u64),
    /// Until the end marker: a streamed aggregate (`true`) or a streamed string's chunks.
    Streamed(bool),
}

/// What the scanner does at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Inside the bytes of a counted string; so many are left, CRLF included.
    Body(usize),
    /// Inside a line whose length is not counted.
    Line,
    /// Before an element.
    Type,
}

/// Cuts replies.
#[derive(Clone, Debug)]
pub struct ReplyDecoder {
    limits: Limits,
    stage: Stage,
    /// Offset in the incomplete frame up to which everything has been looked at.
    at: usize,
    levels: Vec<Level>,
    /// First byte of the reply proper; 0 while only attributes have been seen.
    kind: u8,
    outcome: Outcome,
    is_open: bool,
    given: usize,
}

impl ReplyDecoder {
    /// A decoder for a fresh connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::Type,
            at: 0,
            levels: Vec::new(),
            kind: 0,
            outcome: Outcome::Ok,
            is_open: false,
            given: 0,
        }
    }

    fn reset(&mut self) {
        (self.stage, self.at, self.kind, self.outcome) = (Stage::Type, 0, 0, Outcome::Ok);
        (self.is_open, self.given) = (false, 0);
        self.levels.clear();
    }

    /// An element has ended. Whether the frame has, too.
    fn ended(&mut self) -> bool {
        while let Some(level) = self.levels.last_mut() {
            match level {
                Level::Counted(left) if *left > 1 => {
                    *left -= 1;
                    return false;
                }
                Level::Streamed(_) => return false,
                Level::Counted(_) => {
                    self.levels.pop();
                }
            }
        }
        true
    }

    fn nest(&mut self, level: Level, at: usize) -> Result<(), ProtocolError> {
        if self.levels.len() >= self.limits.max_depth {
            return Err(ProtocolError::TooDeep { at });
        }
        self.levels.push(level);
        Ok(())
    }

    /// Looks at `frame` until it ends. `Ok(Some(length))` if it does.
    fn scan(&mut self, frame: &[u8], base: usize) -> Result<Option<usize>, ProtocolError> {
        loop {
            let rest = frame.get(self.at..).unwrap_or_default();
            match self.stage {
                Stage::Type => {
                    let Some(kind) = rest.first().copied() else { return Ok(None) };
                    match self.element(kind, rest, base + self.at)? {
                        Element::Ended(next) => {
                            self.at += next;
                            if self.ended() {
                                return Ok(Some(self.at));
                            }
                        }
                        Element::Goes(next) => self.at += next,
                        Element::Incomplete => return Ok(None),
                    }
                }
                Stage::Body(left) => {
                    if rest.len() < left {
                        // Only the CRLF needs a look, so the bytes before it are done with.
                        let skip = rest.len().min(left - 2);
                        (self.at, self.stage) = (self.at + skip, Stage::Body(left - skip));
                        return Ok(None);
                    }
                    match rest.get(left - 2..left) {
                        Some(b"\r\n") => {}
                        _ => return Err(wrong_byte(rest, left - 2, base + self.at)),
                    }
                    (self.at, self.stage) = (self.at + left, Stage::Type);
                    if self.ended() {
                        return Ok(Some(self.at));
                    }
                }
                Stage::Line => {
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        // A CR at the end may be the CRLF's first half.
                        self.at = frame.len() - usize::from(rest.last() == Some(&b'\r'));
                        return self.check_size(base).map(|()| None);
                    };
                    if rest.get(end.wrapping_sub(1)) != Some(&b'\r')
                        && !(end == 0 && self.ends_with_cr(frame))
                    {
                        return Err(ProtocolError::Byte { at: base + self.at + end, got: b'\n' });
                    }
                    (self.at, self.stage) = (self.at + end + 1, Stage::Type);
                    if self.ended() {
                        return Ok(Some(self.at));
                    }
                }
            }
            self.check_size(base)?;
        }
    }

    fn ends_with_cr(&self, frame: &[u8]) -> bool {
        self.at > 0 && frame.get(self.at - 1) == Some(&b'\r')
    }

    fn check_size(&self, base: usize) -> Result<(), ProtocolError> {
        if self.given + self.at > self.limits.max_frame {
            return Err(ProtocolError::FrameTooLarge { at: base });
        }
        Ok(())
    }

    /// The element that starts `rest`.
    fn element(&mut self, kind: u8, rest: &[u8], at: usize) -> Result<Element, ProtocolError> {
        let is_top = self.levels.iter().all(|level| matches!(level, Level::Counted(1)));
        if self.levels.last() == Some(&Level::Streamed(false)) && kind != b';' {
            return Err(ProtocolError::Byte { at, got: kind });
        }
        match kind {
            b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => {
                if is_top && self.kind == 0 {
                    if kind == b'-' {
                        // The code word decides the outcome: it must be here, or the line must have ended.
                        if rest.len() < MAX_HEADER && !rest.contains(&b'\n') {
                            return Ok(Element::Incomplete);
                        }
                        self.outcome = error_outcome(rest.get(1..).unwrap_or_default());
                    }
                    self.kind = kind;
                }
                self.stage = Stage::Line;
                Ok(Element::Goes(1))
            }
            b'$' | b'=' | b'!' => {
                let Some((length, next)) = length(rest, at)? else { return Ok(Element::Incomplete) };
                if is_top && self.kind == 0 {
                    if kind == b'!' {
                        let text = rest.get(next..).unwrap_or_default();
                        if text.len() < MAX_HEADER.min(length.max(0) as usize) {
                            return Ok(Element::Incomplete);
                        }
                        self.outcome = error_outcome(text);
                    }
                    self.kind = kind;
                }
                match length {
                    STREAMED => {
                        self.nest(Level::Streamed(false), at)?;
                        Ok(Element::Goes(next))
                    }
                    -1 => Ok(Element::Ended(next)),
                    _ => self.body(length, next, at),
                }
            }
            b';' => {
                let Some((length, next)) = length(rest, at)? else { return Ok(Element::Incomplete) };
                match (self.levels.last(), length) {
                    (Some(Level::Streamed(false)), 0) => {
                        self.levels.pop();
                        Ok(Element::Ended(next))
                    }
                    (Some(Level::Streamed(false)), 1..) => self.body(length, next, at),
                    _ => Err(ProtocolError::Byte { at, got: kind }),
                }
            }
            b'.' => match (self.levels.last(), rest) {
                (Some(Level::Streamed(true)), [b'.', b'\r', b'\n', ..]) => {
                    self.levels.pop();
                    Ok(Element::Ended(3))
                }
                (Some(Level::Streamed(true)), [b'.'] | [b'.', b'\r']) => Ok(Element::Incomplete),
                _ => Err(ProtocolError::Byte { at, got: kind }),
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let Some((count, next)) = length(rest, at)? else { return Ok(Element::Incomplete) };
                let per = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
                // An attribute stands before the element that it belongs to, which is still to come.
                let is_attribute = kind == b'|';
                if is_top && self.kind == 0 && !is_attribute {
                    self.kind = kind;
                }
                match count {
                    STREAMED => self.nest(Level::Streamed(true), at)?,
                    -1 if kind == b'*' => return Ok(Element::Ended(next)),
                    _ if count < 0 => return Err(ProtocolError::Count { at }),
                    _ => {
                        let elements = (count as u64).saturating_mul(per) + u64::from(is_attribute);
                        if elements == 0 {
                            return Ok(Element::Ended(next));
                        }
                        self.nest(Level::Counted(elements), at)?;
                    }
                }
                Ok(Element::Goes(next))
            }
            got => Err(ProtocolError::Byte { at, got }),
        }
    }

    fn body(&mut self, length: i64, next: usize, at: usize) -> Result<Element, ProtocolError> {
        let length = usize::try_from(length).map_err(|_| ProtocolError::Length { at })?;
        if length > self.limits.max_frame {
            return Err(ProtocolError::FrameTooLarge { at });
        }
        self.stage = Stage::Body(length + 2);
        Ok(Element::Goes(next))
    }

    /// The whole of a small reply in one go: what nearly all replies are.
    #[inline]
    fn whole(frame: &[u8]) -> Option<usize> {
        match frame {
            [b'$', one @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => counted(rest, usize::from(one - b'0'), 4),
            [b'$', ten @ b'1'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => {
                counted(rest, usize::from(ten - b'0') * 10 + usize::from(one - b'0'), 5)
            }
            [b'+', b'O', b'K', b'\r', b'\n', ..] => Some(5),
            [b'$', b'-', b'1', b'\r', b'\n', ..] => Some(5),
            [b':', one, b'\r', b'\n', ..] if one.is_ascii_digit() => Some(4),
            _ => None,
        }
    }
}

fn counted(rest: &[u8], length: usize, header: usize) -> Option<usize> {
    (rest.get(length..length + 2)? == b"\r\n").then_some(header + length + 2)
}

/// What one step found.
enum Element {
    /// An element that is complete; its length.
    Ended(usize),
    /// The beginning of one; its length.
    Goes(usize),
    /// Not enough bytes to tell.
    Incomplete,
}

/// Stands for `?`, a length that is not known beforehand.
const STREAMED: i64 = i64::MIN;

/// The number in a header, and the offset behind it.
fn length(line: &[u8], at: usize) -> Result<Option<(i64, usize)>, ProtocolError> {
    let window = line.get(..line.len().min(MAX_HEADER)).unwrap_or_default();
    let Some(end) = window.iter().position(|byte| *byte == b'\r') else {
        return if window.len() == MAX_HEADER { Err(ProtocolError::Length { at }) } else { Ok(None) };
    };
    let number = match window.get(1..end) {
        Some(b"?") => STREAMED,
        Some(digits) => {
            // No server has more elements; who announces more would keep the connection waiting for ever.
            let is_size = matches!(window.first(), Some(b'$' | b'=' | b'!' | b';'));
            let most = if is_size { i64::MAX } else { i64::from(i32::MAX) };
            decimal(digits)
                .filter(|number| (-1..=most).contains(number))
                .ok_or(ProtocolError::Length { at })?
        }
        None => return Err(ProtocolError::Length { at }),
    };
    match line.get(end + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((number, end + 2))),
        Some(got) => Err(ProtocolError::Byte { at: at + end + 1, got: *got }),
    }
}

fn wrong_byte(bytes: &[u8], at: usize, base: usize) -> ProtocolError {
    let is_second = bytes.get(at) == Some(&b'\r');
    let at = at + usize::from(is_second);
    ProtocolError::Byte { at: base + at, got: bytes.get(at).copied().unwrap_or_default() }
}

/// Errors that tell of the server's state and not of the request.
const SERVER_STATES: [&[u8]; 9] = [
    b"BUSY",
    b"CLUSTERDOWN",
    b"LOADING",
    b"MASTERDOWN",
    b"MISCONF",
    b"NOREPLICAS",
    b"OOM",
    b"READONLY",
    b"TRYAGAIN",
];

/// What an error reply's text (without its type byte) says.
pub(crate) fn error_outcome(text: &[u8]) -> Outcome {
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'\r')).unwrap_or(text.len());
    let code = text.get(..end).unwrap_or_default();
    if SERVER_STATES.contains(&code) { Outcome::ServerError } else { Outcome::ClientError }
}

impl Decode for ReplyDecoder {
    type Head = Reply;

    fn decode(&mut self, buf: &[u8], heads: &mut Vec<Reply>) -> Result<Decoded, ProtocolError> {
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
            let is_fresh = self.at == 0 && self.stage == Stage::Type;
            if is_fresh && let Some(length) = Self::whole(frame) {
                let kind = frame.first().copied().unwrap_or_default();
                heads.push(Reply { span: Span::wire(start, length), kind, outcome: Outcome::Ok });
                decoded.consumed += length;
                continue;
            }
            match self.scan(frame, start)? {
                Some(length) => {
                    heads.push(Reply {
                        span: Span::wire(start, length),
                        kind: self.kind,
                        outcome: self.outcome,
                    });
                    decoded.consumed += length;
                    self.reset();
                }
                None => {
                    // Its kind must be known, or the reply cannot be told from a push.
                    if frame.len() > self.limits.stream_above && self.kind != 0 && self.at > 0 {
                        let span = Span::wire(start, self.at);
                        heads.push(Reply { span, kind: self.kind, outcome: self.outcome });
                        decoded.consumed += self.at;
                        decoded.open = true;
                        (self.is_open, self.given, self.at) = (true, self.at, 0);
                    }
                    break;
                }
            }
        }
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests;
