//! Replies of the binary protocol.

use mecha_core::{Outcome, Span};

use super::HEADER;
use crate::reply::{Code, Reply, ReplyKind};

/// What a reply's status says.
pub mod status {
    /// Done.
    pub const OK: u16 = 0x00;
    /// No such key.
    pub const NOT_FOUND: u16 = 0x01;
    /// The key exists, with another cas unique or at all.
    pub const EXISTS: u16 = 0x02;
    /// The value is larger than an item.
    pub const TOO_LARGE: u16 = 0x03;
    /// The request's parts are wrong.
    pub const INVALID: u16 = 0x04;
    /// The condition for storing did not hold.
    pub const NOT_STORED: u16 = 0x05;
    /// The value is no number.
    pub const NON_NUMERIC: u16 = 0x06;
    /// Not authenticated.
    pub const AUTH: u16 = 0x20;
    /// SASL goes on.
    pub const AUTH_CONTINUE: u16 = 0x21;
    /// No such opcode.
    pub const UNKNOWN_COMMAND: u16 = 0x81;
    /// The server is out of memory.
    pub const OUT_OF_MEMORY: u16 = 0x82;
    /// Known, but not here.
    pub const NOT_SUPPORTED: u16 = 0x83;
    /// The server's own fault.
    pub const INTERNAL: u16 = 0x84;
    /// Try again later: too much to do.
    pub const BUSY: u16 = 0x85;
    /// Try again later.
    pub const TEMPORARY_FAILURE: u16 = 0x86;

    /// What memcached 1.6.18 writes behind it.
    pub fn text(status: u16) -> &'static [u8] {
        match status {
            NOT_FOUND => b"Not found",
            EXISTS => b"Data exists for key.",
            TOO_LARGE => b"Too large.",
            INVALID => b"Invalid arguments",
            NOT_STORED => b"Not stored.",
            NON_NUMERIC => b"Non-numeric server-side value for incr or decr",
            AUTH => b"Auth failure.",
            UNKNOWN_COMMAND => b"Unknown command",
            OUT_OF_MEMORY => b"Out of memory",
            _ => b"",
        }
    }
}

/// What the first bytes of a frame say.
pub(crate) enum Frame {
    /// They are too few.
    Incomplete,
    /// No reply of memcached.
    Wrong,
    /// Its head, and its length.
    Whole(Reply, usize),
}

/// Reads the start of `rest`.
pub(crate) fn read(rest: &[u8]) -> Frame {
    match rest.first() {
        Some(&super::REPLY) => {}
        Some(_) => return Frame::Wrong,
        None => return Frame::Incomplete,
    }
    let Some(header) = rest.first_chunk::<HEADER>() else { return Frame::Incomplete };
    let [_, opcode, k0, k1, extras, _, s0, s1, b0, b1, b2, b3, ..] = *header;
    let key = usize::from(u16::from_be_bytes([k0, k1]));
    let body = u32::from_be_bytes([b0, b1, b2, b3]) as usize;
    let parts = usize::from(extras) + key;
    if parts > body {
        return Frame::Wrong;
    }
    let code = u16::from_be_bytes([s0, s1]);
    // The list of a STAT ends with a reply that has no key.
    let goes_on = opcode == super::opcode(crate::ops::BIN_STAT) && code == status::OK && key > 0;
    let kind = match code {
        status::OK if goes_on => ReplyKind::Stat,
        status::OK | status::AUTH_CONTINUE => ReplyKind::Ok,
        status::NOT_FOUND => ReplyKind::Missing,
        status::EXISTS | status::NOT_STORED => ReplyKind::Refused,
        status::TOO_LARGE => ReplyKind::TooLarge,
        status::INVALID
        | status::NON_NUMERIC
        | status::AUTH
        | status::UNKNOWN_COMMAND
        | status::NOT_SUPPORTED => ReplyKind::ClientError,
        _ => ReplyKind::ServerError,
    };
    let reply = Reply {
        span: Span::default(),
        value: Span::wire(HEADER + parts, body - parts),
        kind,
        code: match code {
            status::OK => Code::Hd,
            status::NOT_FOUND => Code::En,
            _ => Code::Other,
        },
    };
    Frame::Whole(reply, HEADER + body)
}

/// How an answer that was made in this process ended.
pub(crate) fn outcome(answer: &[u8]) -> Outcome {
    match read(answer) {
        Frame::Whole(reply, _) => reply.outcome(),
        _ => Outcome::Ok,
    }
}
