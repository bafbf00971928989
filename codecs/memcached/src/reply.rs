//! Replies: lines, and the data blocks behind `VALUE` and `VA`.
//!
//! The first word tells everything: whether data follows, whether more lines belong to the same request, and how the
//! request ended. A first word that no memcached sends is an error, because a connection whose bytes are not understood
//! must not be used further.

use mecha_core::{Decode, Decoded, Limits, Matched, Outcome, ProtocolError, Span};
use memchr::memchr;

use crate::binary;
use crate::line::{Words, number, without_end};

/// What a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyKind {
    /// `CLIENT_ERROR`, `ERROR`: the request was wrong.
    ClientError,
    /// `END`.
    End,
    /// `EN`, `NF`, `NOT_FOUND`: no such key.
    Missing,
    /// A number.
    Number,
    /// `STORED`, `DELETED`, `TOUCHED`, `HD`, `OK` and the like; why one server's memory is not changed.
    Ok,
    /// `NS`, `EX`, `NOT_STORED`, `EXISTS`: the condition did not hold.
    Refused,
    /// `SERVER_ERROR`.
    ServerError,
    /// `STAT` and other lines of a list that `END`, or `EN` for some, closes.
    Stat,
    /// `SERVER_ERROR object too large for cache`: the request was wrong.
    TooLarge,
    /// `VA`, with data.
    Va,
    /// `VALUE`, with data; more follows.
    Value,
    /// `VERSION`, `ME`, `MN`: a line of its own.
    Word,
}

/// The head of one reply frame: one line with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub(crate) span: Span,
    pub(crate) value: Span,
    pub(crate) kind: ReplyKind,
    /// `EN`, `HD`: how a quiet meta command hides it.
    pub(crate) code: Code,
}

/// Which of the replies that quiet forms hide it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    En,
    Hd,
    Other,
}

impl Reply {
    /// What it says.
    pub fn kind(&self) -> ReplyKind {
        self.kind
    }

    /// The data block without its end, relative to the frame.
    pub fn value_span(&self) -> Span {
        self.value
    }

    /// Which request it belongs to.
    pub fn matched(&self) -> Matched {
        match self.kind {
            ReplyKind::Stat | ReplyKind::Value => Matched::Part,
            _ => Matched::Last,
        }
    }

    /// How the request ended.
    pub fn outcome(&self) -> Outcome {
        match self.kind {
            ReplyKind::ClientError | ReplyKind::TooLarge => Outcome::ClientError,
            ReplyKind::ServerError => Outcome::ServerError,
            _ => Outcome::Ok,
        }
    }
}

/// Cuts what servers send.
#[derive(Debug)]
pub struct ReplyDecoder {
    limits: Limits,
    /// Bytes of the incomplete line that have no newline.
    scanned: usize,
    /// The line that waits for its data, and the length of the whole frame.
    waiting: Option<(Reply, usize)>,
    /// Bytes that are missing from the open frame.
    open: usize,
    is_binary: bool,
}

impl ReplyDecoder {
    /// A decoder for one connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, scanned: 0, waiting: None, open: 0, is_binary: false }
    }

    /// The same for a connection that speaks the binary protocol.
    pub fn binary(limits: Limits) -> Self {
        Self { is_binary: true, ..Self::new(limits) }
    }

    fn decode_binary(&mut self, buf: &[u8], heads: &mut Vec<Reply>) -> Result<Decoded, ProtocolError> {
        let tail = self.open.min(buf.len());
        self.open -= tail;
        let mut at = tail;
        while self.open == 0 && at < buf.len() {
            let rest = buf.get(at..).unwrap_or_default();
            let (mut head, total) = match binary::read_reply(rest) {
                binary::ReplyFrame::Incomplete => break,
                binary::ReplyFrame::Wrong => {
                    return Err(ProtocolError::Byte { at, got: rest.first().copied().unwrap_or_default() });
                }
                binary::ReplyFrame::Whole(head, total) => (head, total),
            };
            if total > self.limits.max_frame {
                return Err(ProtocolError::FrameTooLarge { at });
            }
            if rest.len() < total && total <= self.limits.stream_above {
                break;
            }
            let seen = total.min(rest.len());
            head.span = Span::wire(at, seen);
            heads.push(head);
            at += seen;
            self.open = total - seen;
        }
        Ok(Decoded { tail, consumed: at, open: self.open > 0 })
    }

    fn line_len(&mut self, rest: &[u8], at: usize) -> Result<Option<usize>, ProtocolError> {
        let unseen = rest.get(self.scanned..).unwrap_or_default();
        let len = memchr(b'\n', unseen).map(|found| self.scanned + found + 1);
        if len.unwrap_or(rest.len()) > self.limits.max_line {
            return Err(ProtocolError::LineTooLong { at });
        }
        self.scanned = if len.is_some() { 0 } else { rest.len() };
        Ok(len)
    }

    /// Takes the next bytes of the open frame.
    fn resume(&mut self, buf: &[u8]) -> Result<usize, ProtocolError> {
        let tail = self.open.min(buf.len());
        for (missing, expected) in [(2, b'\r'), (1, b'\n')] {
            let place = self.open.checked_sub(missing).filter(|&at| self.open > 0 && at < tail);
            if let Some(at) = place
                && buf.get(at) != Some(&expected)
            {
                return Err(ProtocolError::Byte { at, got: buf.get(at).copied().unwrap_or_default() });
            }
        }
        self.open -= tail;
        Ok(tail)
    }
}

impl Decode for ReplyDecoder {
    type Head = Reply;

    fn decode(&mut self, buf: &[u8], heads: &mut Vec<Reply>) -> Result<Decoded, ProtocolError> {
        if self.is_binary {
            return self.decode_binary(buf, heads);
        }
        let tail = self.resume(buf)?;
        let mut at = tail;
        if self.open > 0 {
            return Ok(Decoded { tail, consumed: tail, open: true });
        }
        while at < buf.len() {
            let rest = buf.get(at..).unwrap_or_default();
            let (mut head, total) = match self.waiting.take() {
                Some(waiting) => waiting,
                None => {
                    let Some(len) = self.line_len(rest, at)? else { break };
                    parse(rest.get(..len).unwrap_or_default(), at, &self.limits)?
                }
            };
            if rest.len() < total && total <= self.limits.stream_above {
                self.waiting = Some((head, total));
                break;
            }
            let seen = total.min(rest.len());
            head.span = Span::wire(at, seen);
            if head.value.start() > 0 {
                let end = head.value.end();
                for (place, expected) in [(end, b'\r'), (end + 1, b'\n')] {
                    match rest.get(place) {
                        Some(&got) if got != expected => {
                            return Err(ProtocolError::Byte { at: at + place, got });
                        }
                        _ => {}
                    }
                }
            }
            heads.push(head);
            at += seen;
            self.open = total - seen;
        }
        Ok(Decoded { tail, consumed: at, open: self.open > 0 })
    }
}

/// Reads a line that is complete, with its end. Returns the head and the length of the whole frame.
#[inline]
fn parse(full: &[u8], at: usize, limits: &Limits) -> Result<(Reply, usize), ProtocolError> {
    let line = without_end(full);
    let mut words = Words::new(line);
    let first = words.next().map_or(&[][..], |word| word.bytes);
    let kind =
        kind(first, line).ok_or(ProtocolError::Byte { at, got: full.first().copied().unwrap_or(0) })?;
    let code = match first {
        b"EN" => Code::En,
        b"HD" | b"VA" => Code::Hd,
        _ => Code::Other,
    };
    let mut head = Reply { span: Span::default(), value: Span::default(), kind, code };
    let size = match kind {
        ReplyKind::Va => words.next(),
        ReplyKind::Value => words.nth(2),
        _ => return Ok((head, full.len())),
    };
    let size = size.and_then(|word| number(word.bytes)).ok_or(ProtocolError::Length { at })?;
    let total = usize::try_from(size).ok().and_then(|size| size.checked_add(full.len() + 2));
    match total.filter(|&total| total <= limits.max_frame) {
        Some(total) => {
            head.value = Span::wire(full.len(), total - full.len() - 2);
            Ok((head, total))
        }
        None => Err(ProtocolError::FrameTooLarge { at }),
    }
}

fn kind(first: &[u8], line: &[u8]) -> Option<ReplyKind> {
    Some(match first {
        b"END" => ReplyKind::End,
        b"VALUE" => ReplyKind::Value,
        b"VA" => ReplyKind::Va,
        b"STORED" | b"HD" | b"DELETED" | b"TOUCHED" | b"OK" | b"RESET" => ReplyKind::Ok,
        b"EN" | b"NF" | b"NOT_FOUND" => ReplyKind::Missing,
        b"NS" | b"EX" | b"NOT_STORED" | b"EXISTS" => ReplyKind::Refused,
        b"STAT" | b"ITEM" | b"PREFIX" => ReplyKind::Stat,
        b"VERSION" | b"ME" | b"MN" => ReplyKind::Word,
        b"SERVER_ERROR" if line.starts_with(b"SERVER_ERROR object too large") => ReplyKind::TooLarge,
        b"SERVER_ERROR" => ReplyKind::ServerError,
        // Some lines say more behind a colon; `refresh_certs` says `Error`.
        b"CLIENT_ERROR" | b"ERROR" | b"ERROR:" | b"Error" => ReplyKind::ClientError,
        // Lists of what a server has.
        b"mg" => ReplyKind::Stat,
        _ if first.starts_with(b"key=") => ReplyKind::Stat,
        // To what is said to one server about its memory.
        b"BADCLASS"
        | b"BUSY"
        | b"MEMLIMIT_ADJUST_FAILED"
        | b"MEMLIMIT_TOO_SMALL"
        | b"NOSPARE"
        | b"NOTFULL"
        | b"NOTSTARTED"
        | b"SAME"
        | b"UNSAFE"
        | b"WATCHER_FAILED"
        | b"WATCHER_TOO_MANY" => ReplyKind::Ok,
        // A number that a decrement made shorter is followed by nothing in the reply.
        _ if number(first).is_some() => ReplyKind::Number,
        _ => return None,
    })
}

/// How a complete answer that was made in this process ended.
pub(crate) fn answer_outcome(reply: &[u8]) -> Outcome {
    if reply.first() == Some(&binary::REPLY) {
        return binary::outcome(reply);
    }
    // The last line tells; data lines cannot be mistaken for it as the answer ends behind it.
    let line = without_end(reply);
    let start = memchr::memrchr(b'\n', line).map_or(0, |at| at + 1);
    let last = line.get(start..).unwrap_or_default();
    let is_va = reply.starts_with(b"VA ");
    if !is_va && (last.starts_with(b"CLIENT_ERROR") || last.starts_with(b"ERROR")) {
        Outcome::ClientError
    } else if !is_va && last.starts_with(b"SERVER_ERROR") {
        Outcome::ServerError
    } else {
        Outcome::Ok
    }
}
