//! The binary protocol: 24 bytes of header, then extras, key and value.
//!
//! ```text
//! 80 opcode key(2) extras(1) type(1) vbucket(2) body(4) opaque(4) cas(8)     request
//! 81 opcode key(2) extras(1) type(1)  status(2) body(4) opaque(4) cas(8)     reply
//! ```
//!
//! All numbers are big endian; `body` counts extras, key and value. A connection speaks it if its first byte is 80, and
//! then to its end. Every request has one reply, but `STAT`, whose replies end with one that has no key, and quiet
//! requests, which keep what is usual from the client: retrievals a miss, all others success. The server answers in the
//! order of requests, so that replies need not be told apart by their opaque, which is only repeated.
//!
//! As with text, the copy of a quiet request that goes upstream is made audible: its opcode is replaced by that of the
//! audible form, and the reply gets the quiet opcode back (`start`). The opcode is the only difference.
//!
//! A request whose lengths are not what its opcode has is answered with "invalid arguments" and ends the connection, as
//! memcached has it. One with an opcode that memcached does not know is answered here, because 1.6.18 loses its place in
//! the stream behind such a request if it has a body; for the same reason `VERBOSITY`, which it does not know either,
//! never leaves.

mod reply;
mod request;

use mecha_core::{OpId, Refusal};

pub use self::reply::status;
pub(crate) use self::reply::{Frame as ReplyFrame, outcome, read as read_reply};
pub(crate) use self::request::{Frame as RequestFrame, read as read_request};

use crate::ops;

/// First byte of a request.
pub const REQUEST: u8 = 0x80;
/// First byte of a reply.
pub const REPLY: u8 = 0x81;
/// Length of a header in bytes.
pub const HEADER: usize = 24;

/// A row of the table of operations, and its opcode.
const OPCODES: &[(OpId, u8)] = &[
    (ops::BIN_GET, 0x00),
    (ops::BIN_SET, 0x01),
    (ops::BIN_ADD, 0x02),
    (ops::BIN_REPLACE, 0x03),
    (ops::BIN_DELETE, 0x04),
    (ops::BIN_INCREMENT, 0x05),
    (ops::BIN_DECREMENT, 0x06),
    (ops::BIN_QUIT, 0x07),
    (ops::BIN_FLUSH, 0x08),
    (ops::BIN_GETQ, 0x09),
    (ops::BIN_NOOP, 0x0a),
    (ops::BIN_VERSION, 0x0b),
    (ops::BIN_GETK, 0x0c),
    (ops::BIN_GETKQ, 0x0d),
    (ops::BIN_APPEND, 0x0e),
    (ops::BIN_PREPEND, 0x0f),
    (ops::BIN_STAT, 0x10),
    (ops::BIN_SETQ, 0x11),
    (ops::BIN_ADDQ, 0x12),
    (ops::BIN_REPLACEQ, 0x13),
    (ops::BIN_DELETEQ, 0x14),
    (ops::BIN_INCREMENTQ, 0x15),
    (ops::BIN_DECREMENTQ, 0x16),
    (ops::BIN_QUITQ, 0x17),
    (ops::BIN_FLUSHQ, 0x18),
    (ops::BIN_APPENDQ, 0x19),
    (ops::BIN_PREPENDQ, 0x1a),
    (ops::BIN_VERBOSITY, 0x1b),
    (ops::BIN_TOUCH, 0x1c),
    (ops::BIN_GAT, 0x1d),
    (ops::BIN_GATQ, 0x1e),
    (ops::BIN_SASL_LIST, 0x20),
    (ops::BIN_SASL_AUTH, 0x21),
    (ops::BIN_SASL_STEP, 0x22),
    (ops::BIN_GATK, 0x23),
    (ops::BIN_GATKQ, 0x24),
];

/// The operation of an opcode.
fn op(opcode: u8) -> Option<OpId> {
    // The codes are without a gap but for 1f.
    let at = usize::from(opcode) - usize::from(opcode > 0x1f);
    OPCODES.get(at).filter(|row| row.1 == opcode).map(|row| row.0)
}

/// The opcode of an operation; for others that of the malformed, which is kept in the echo's place.
pub fn opcode(op: OpId) -> u8 {
    OPCODES.iter().find(|row| row.0 == op).map_or(0, |row| row.1)
}

/// The opcode that does the same and is always answered.
pub(crate) fn audible(opcode: u8) -> u8 {
    match opcode {
        0x09 => 0x00,
        0x0d => 0x0c,
        0x11..=0x16 => opcode - 0x10,
        0x17 => 0x07,
        0x18 => 0x08,
        0x19 => 0x0e,
        0x1a => 0x0f,
        0x1e => 0x1d,
        0x24 => 0x23,
        other => other,
    }
}

/// Whether an operation is quiet about misses.
pub(crate) fn hides_misses(op: OpId) -> bool {
    matches!(op, ops::BIN_GETQ | ops::BIN_GETKQ | ops::BIN_GATQ | ops::BIN_GATKQ)
}

/// The first two bytes of the reply to a quiet operation; empty for others.
pub(crate) fn start(op: OpId) -> &'static [u8] {
    macro_rules! starts {
        ($($op:ident),*) => {
            match op {
                $(ops::$op => const { &[REPLY, code(ops::$op)] },)*
                _ => &[],
            }
        };
    }
    starts!(
        BIN_GETQ,
        BIN_GETKQ,
        BIN_SETQ,
        BIN_ADDQ,
        BIN_REPLACEQ,
        BIN_DELETEQ,
        BIN_INCREMENTQ,
        BIN_DECREMENTQ,
        BIN_FLUSHQ,
        BIN_APPENDQ,
        BIN_PREPENDQ,
        BIN_GATQ,
        BIN_GATKQ
    )
}

/// As [`opcode`], at compile time.
const fn code(op: OpId) -> u8 {
    let mut at = 0;
    while at < OPCODES.len() {
        if OPCODES[at].0.0 == op.0 {
            return OPCODES[at].1;
        }
        at += 1;
    }
    0
}

/// One reply, to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Response<'a> {
    /// That of the request.
    pub opcode: u8,
    /// See [`status`].
    pub status: u16,
    /// The client's, as it came.
    pub opaque: u32,
    /// Cas unique; 0 is none.
    pub cas: u64,
    /// Client flags, where the reply has them.
    pub flags: Option<u32>,
    /// The key, where the reply repeats it.
    pub key: &'a [u8],
    /// The value, or what there is to say about an error.
    pub value: &'a [u8],
}

impl Response<'_> {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let extras: u8 = if self.flags.is_some() { 4 } else { 0 };
        let body = usize::from(extras) + self.key.len() + self.value.len();
        out.extend_from_slice(&[REPLY, self.opcode]);
        out.extend_from_slice(&(self.key.len() as u16).to_be_bytes());
        out.extend_from_slice(&[extras, 0]);
        out.extend_from_slice(&self.status.to_be_bytes());
        out.extend_from_slice(&(body as u32).to_be_bytes());
        out.extend_from_slice(&self.opaque.to_be_bytes());
        out.extend_from_slice(&self.cas.to_be_bytes());
        if let Some(flags) = self.flags {
            out.extend_from_slice(&flags.to_be_bytes());
        }
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
    }

    /// Appends an error with memcached's own words.
    pub fn error(opcode: u8, opaque: u32, status: u16, out: &mut Vec<u8>) {
        let value = status::text(status);
        Response { opcode, status, opaque, value, ..Response::default() }.write(out);
    }
}

/// Appends a login with SASL PLAIN.
pub(crate) fn write_login(user: &str, password: &str, out: &mut Vec<u8>) {
    const MECHANISM: &[u8] = b"PLAIN";
    let body = MECHANISM.len() + user.len() + password.len() + 2;
    out.extend_from_slice(&[REQUEST, code(ops::BIN_SASL_AUTH), 0, MECHANISM.len() as u8, 0, 0, 0, 0]);
    out.extend_from_slice(&(body as u32).to_be_bytes());
    out.extend_from_slice(&[0; 12]);
    for part in [MECHANISM, b"\0", user.as_bytes(), b"\0", password.as_bytes()] {
        out.extend_from_slice(part);
    }
}

/// Appends a refusal.
pub(crate) fn refuse(op: OpId, opaque: u32, why: Refusal, out: &mut Vec<u8>) {
    let status = match why {
        Refusal::CrossRoute | Refusal::Denied | Refusal::Filtered | Refusal::Unsupported => {
            status::NOT_SUPPORTED
        }
        Refusal::LoginFailed | Refusal::LoginNeeded => {
            return Response::error(opcode(op), opaque, status::AUTH, out);
        }
        Refusal::NoChannel | Refusal::NoCommand | Refusal::NoKey => status::AUTH,
        Refusal::TooManyLogins => status::BUSY,
        Refusal::CircuitOpen | Refusal::RateLimited | Refusal::TooManyPins => status::BUSY,
        _ => status::TEMPORARY_FAILURE,
    };
    let text = why.reason().as_bytes();
    let mut message = [0; 128];
    let prefix = b"mecha: ";
    let len = (prefix.len() + text.len()).min(message.len());
    for (place, byte) in message.iter_mut().zip(prefix.iter().chain(text)) {
        *place = *byte;
    }
    let value = message.get(..len).unwrap_or_default();
    Response { opcode: opcode(op), status, opaque, value, ..Response::default() }.write(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_and_operations_are_each_others_inverse() {
        for code in 0..=255 {
            if let Some(op) = op(code) {
                assert_eq!(opcode(op), code);
                let is_quiet = audible(code) != code;
                let is_marked = crate::ops::OPS[usize::from(op.0)].name.ends_with('q');
                assert_eq!(is_quiet, is_marked, "{code:x}");
                if is_quiet && op != ops::BIN_QUITQ {
                    assert_eq!(start(op), [REPLY, code]);
                }
            }
        }
        assert_eq!(OPCODES.len(), (0..=255).filter(|&code| op(code).is_some()).count());
    }
}
