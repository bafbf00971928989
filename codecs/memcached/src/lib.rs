//! Memcached text, meta and binary protocol: frames, command table, session state.
//!
//! ```text
//! set k 0 60 5\r\nhello\r\n     -> STORED\r\n
//! get k l\r\n                   -> VALUE k 0 5\r\nhello\r\n END\r\n      (one line with data for each key found)
//! incr n 1 noreply\r\n          -> (nothing)
//! mg k v t c Oabc\r\n           -> VA 5 t60 c17 Oabc\r\nhello\r\n    or EN Oabc\r\n
//! ms k 5 T60 C17\r\nhello\r\n   -> HD\r\n, NS\r\n, EX\r\n or NF\r\n
//! ```
//!
//! A request is a line of words, and for storage commands a data block whose length the line announces. Replies come
//! in the order of requests. A reply is one line, with data behind `VALUE` and `VA`; `VALUE` and `STAT` lines are parts
//! of a reply that ends with `END` or an error.
//!
//! # Quiet requests
//!
//! `noreply` and `q` make the number of replies unknown, which a connection that many clients share cannot bear. So the
//! copy that is forwarded has these words overwritten with spaces, which memcached skips; it answers always, and
//! [`Framed::silent`] keeps from the client what the original request would have kept: everything for `noreply`; `EN`
//! for `mg`, `HD` for `ms` and `md`, `HD` and `VA` for `ma`. `NF` to `md`, `NS` and `EX` are seen, as memcached has it.
//! One difference to memcached 1.6.18: an `ma` with `q` that creates its number is silent, as it is in 1.6.45.
//!
//! # Errors
//!
//! See [`request`] for faults: requests that are answered natively and never leave. Only a line that does not end is a
//! [`ProtocolError`].
//!
//! The binary protocol, which the first byte of a connection chooses, is told in [`binary`].
//!
//! Deliberately absent: UDP. Logins are judged elsewhere: to this crate a `set` is a `set`.

pub mod base64;
mod begins;
pub mod binary;
pub mod command;
mod expiry;
mod line;
pub mod ops;
pub mod reply;
pub mod request;
mod session;
pub mod write;

use mecha_core::{
    Affinity, Asked, Call, Framed, Keys, Limits, Login, Matched, OpId, OpInfo, Outcome, Protocol,
    ProtocolError, Refusal, ReplyCount, Span, Ticket,
};

pub use command::{Command, parse};
pub use reply::{Reply, ReplyDecoder, ReplyKind};
pub use request::{Fault, MAX_KEY, Request, RequestDecoder};
pub use session::Connection;

use crate::line::{Words, without_end};
use crate::reply::Code;

/// The Memcached protocols: text, meta and binary.
#[derive(Clone, Copy, Debug)]
pub struct Memcached;

impl Protocol for Memcached {
    const NAME: &'static str = "memcached";

    type Request = Request;
    type Reply = Reply;

    fn ops() -> &'static [OpInfo] {
        ops::OPS
    }

    fn call(request: &Request, ticket: Ticket) -> Call {
        Call {
            ticket,
            span: request.span,
            op: request.op,
            class: ops::OPS.get(usize::from(request.op.0)).map(|row| row.class).unwrap_or_default(),
            echo: request.echo,
            // Who has said who it is must be served by a connection that knows.
            affinity: match request.op {
                ops::BIN_SASL_AUTH | ops::BIN_SASL_STEP => Affinity::Pin,
                // A log without end.
                ops::WATCH => Affinity::Raw,
                // Takes long, ends the server, or is answered in words that no other command is answered in.
                op if ops::is_of_one_server(op) => Affinity::Once,
                _ => Affinity::Shared,
            },
            replies: if request.quiet { ReplyCount::Maybe } else { ReplyCount::One },
            ..Call::default()
        }
    }

    fn outcome(reply: &Reply) -> Outcome {
        reply.outcome()
    }

    fn answer_outcome(reply: &[u8]) -> Outcome {
        reply::answer_outcome(reply)
    }

    fn refuse(asked: Asked, why: Refusal, out: &mut Vec<u8>) {
        if ops::is_binary(asked.op) {
            binary::refuse(asked.op, asked.echo, why, out);
        } else if !ops::is_noreply(asked.op) {
            write_refusal(why, out);
        }
    }
}

impl Framed for Memcached {
    type RequestDecoder = RequestDecoder;
    type ReplyDecoder = ReplyDecoder;
    type Session = Connection;

    fn begins(bytes: &[u8]) -> mecha_core::Begins {
        begins::begins(bytes)
    }

    fn request_decoder(limits: Limits) -> RequestDecoder {
        RequestDecoder::new(limits)
    }

    fn reply_decoder(limits: Limits, profile: u8) -> ReplyDecoder {
        if profile == session::BINARY { ReplyDecoder::binary(limits) } else { ReplyDecoder::new(limits) }
    }

    fn answer_decoder(limits: Limits, answer: &[u8]) -> ReplyDecoder {
        let is_binary = answer.first() == Some(&binary::REPLY);
        Self::reply_decoder(limits, if is_binary { session::BINARY } else { 0 })
    }

    fn reply_span(reply: &Reply) -> Span {
        reply.span
    }

    fn set_reply_span(reply: &mut Reply, span: Span) {
        reply.span = span;
    }

    fn matched(reply: &Reply) -> Matched {
        reply.matched()
    }

    fn key<'w>(request: &Request, frame: &'w [u8]) -> Option<&'w [u8]> {
        let key = request.key.of(frame, &[]);
        (!key.is_empty()).then_some(key)
    }

    fn keys<'w>(request: &Request, frame: &'w [u8], each: &mut dyn FnMut(&'w [u8])) -> Keys {
        if request.key.is_empty() {
            return Keys::Known;
        }
        if !(ops::GET.0..=ops::GATS.0).contains(&request.op.0) {
            each(request.key.of(frame, &[]));
            return Keys::Known;
        }
        let line = without_end(frame.get(..request.line_len()).unwrap_or_default());
        for word in Words::new(line.get(request.key.start()..).unwrap_or_default()) {
            each(word.bytes);
        }
        Keys::Known
    }

    fn silent(op: OpId, reply: &Reply) -> bool {
        match op {
            ops::MG_QUIET | ops::MG_UPDATE_QUIET => reply.code == Code::En,
            ops::MS_QUIET | ops::MD_QUIET | ops::MA_QUIET => reply.code == Code::Hd,
            op if binary::hides_misses(op) => reply.code == Code::En,
            op if ops::is_binary(op) => reply.code == Code::Hd,
            op => ops::is_noreply(op),
        }
    }

    fn reply_start(op: OpId) -> &'static [u8] {
        binary::start(op)
    }

    fn unquiet(request: &Request, frame: &mut [u8]) {
        request::unquiet(request, frame);
    }

    fn shorten(request: &Request, frame: &[u8], ttl_secs: u32, now_unix_secs: u64, out: &mut Vec<u8>) {
        expiry::shorten(request, frame, ttl_secs, now_unix_secs, out);
    }

    fn prologue(profile: u8, login: &Login, out: &mut Vec<u8>) -> u32 {
        let (Some(user), Some(password)) = (&login.username, &login.password) else { return 0 };
        if profile == session::BINARY {
            binary::write_login(user, password, out);
        } else {
            // As a server with `-Y` has it: the first set is the login.
            let said = format!("set mecha 0 0 {}\r\n{user} {password}\r\n", user.len() + 1 + password.len());
            out.extend_from_slice(said.as_bytes());
        }
        1
    }

    fn protocol_error(error: ProtocolError, out: &mut Vec<u8>) {
        let message: &[u8] = match error {
            ProtocolError::LineTooLong { .. } => b"CLIENT_ERROR line too long\r\n",
            ProtocolError::FrameTooLarge { .. } => b"SERVER_ERROR object too large for cache\r\n",
            // A binary request that does not start as one; memcached says nothing.
            ProtocolError::Byte { .. } => b"",
            _ => b"ERROR\r\n",
        };
        out.extend_from_slice(message);
    }
}

/// A refusal in Memcached's words; it is the client's fault if asking again cannot help.
fn write_refusal(why: Refusal, out: &mut Vec<u8>) {
    if why == Refusal::TooManyClients {
        // Word for word the server's; before the first byte nobody knows whether it will be the binary protocol.
        out.extend_from_slice(b"SERVER_ERROR too many open connections\r\n");
        return;
    }
    // Word for word the server's.
    match why {
        Refusal::LoginNeeded => return out.extend_from_slice(b"CLIENT_ERROR unauthenticated\r\n"),
        Refusal::LoginFailed => return out.extend_from_slice(b"CLIENT_ERROR authentication failure\r\n"),
        _ => {}
    }
    out.extend_from_slice(match why {
        Refusal::CrossRoute
        | Refusal::Denied
        | Refusal::Filtered
        | Refusal::NeedsTls
        | Refusal::NoChannel
        | Refusal::NoCommand
        | Refusal::NoKey
        | Refusal::Unsupported => b"CLIENT_ERROR mecha: ",
        _ => b"SERVER_ERROR mecha: ",
    });
    out.extend_from_slice(why.reason().as_bytes());
    out.extend_from_slice(b"\r\n");
}
