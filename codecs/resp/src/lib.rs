//! RESP, the protocol of Redis and Valkey, versions 2 and 3.
//!
//! # Wire format
//!
//! Requests are arrays of bulk strings, `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`, or *inline*: words on a line. A reply starts
//! with a byte that tells its type:
//!
//! | byte | type | | byte | type |
//! |---|---|---|---|---|
//! | `+` | simple string, to CRLF | | `#` | `t` or `f` |
//! | `-` | error, to CRLF | | `(` | big number, to CRLF |
//! | `:` | integer, to CRLF | | `=` | verbatim string, counted |
//! | `$` | bulk string, counted; -1 is null | | `!` | error, counted |
//! | `*` | array; -1 is null | | `~` `>` | set, push |
//! | `_` | null | | `%` `\|` | map, attribute: pairs |
//! | `,` | double, to CRLF | | `?` as count | streamed, ended by `.` or an empty `;` chunk |
//!
//! Replies come in the order of their requests, one each, except pushes, which belong to none. An attribute is part of
//! the reply that follows it.
//!
//! # What is here
//!
//! [`RequestDecoder`] and [`ReplyDecoder`] cut the stream; [`op_info`] has the facts about commands; [`Session`] knows
//! which commands leave state on a connection; [`reply::Writer`] writes replies for whoever answers in the server's
//! place. Nothing here does I/O or holds a copy of a frame.
//!
//! Not supported: the cluster bus and the replication stream (passed on as bytes where `SYNC` is allowed at all).
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

mod args;
mod begins;
mod blocking;
mod bridge;
mod cluster;
pub mod glob;
mod keys;
mod learning;
mod login;
mod ops;
pub mod reply;
mod request;
mod response;
mod scripts;
mod session;
mod slot;
mod topics;
pub mod tracking;
mod value;

use mecha_core::{
    Affinity, Asked, Batch, Bridge, Call, Decode, Framed, Keys, Limits, Login, Matched, OpId, OpInfo,
    Outcome, Protocol, ProtocolError, Redirect, Refusal, ReplyCount, ScriptRole, Span, Ticket, Verdict,
    kind_of,
};

pub use args::{Args, args, inline_to_array, write_request};
pub use cluster::{
    ClusterNode, ClusterShard, Context, cluster_nodes, cluster_shards, cluster_slots, host_and_port, redirect,
};
pub use keys::each_touched;
pub use login::credentials;
pub use ops::{
    Access, Begin, CATEGORIES, COMMANDS, CommandInfo, Find, KeySpec, access, flag, is_learned, op, op_info,
    op_named, ops, sub_named, touch,
};
pub use request::{Request, RequestDecoder};
pub use response::{Reply, ReplyDecoder};
pub use session::{Progress, Session, Transaction, normalise, replace};
pub use slot::key_slot;
pub use topics::{TopicKind, confirm, subscribes};
pub use value::Value;

/// What makes `WAIT`, right behind it on a connection of its own, wait for all that was written before: a server remembers
/// for each connection how much it had written when the connection's last command ran, whatever that was.
pub const CATCH_UP: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub struct Resp;

impl Protocol for Resp {
    const NAME: &'static str = "resp";

    type Request = Request;
    type Reply = Reply;

    fn ops() -> &'static [OpInfo] {
        ops::ops()
    }

    fn op_name(op: OpId) -> &'static str {
        op_info(op).name
    }

    #[inline]
    fn call(request: &Request, ticket: Ticket) -> Call {
        let facts = ops::facts(request.op);
        Call {
            ticket,
            span: request.span,
            timeout_ms: 0,
            op: request.op,
            echo: 0,
            class: facts.class,
            // Only a mark that the session must look: it decides.
            affinity: if facts.is_special || request.is_inline { Affinity::Pin } else { Affinity::Shared },
            replies: ReplyCount::One,
            verdict: Verdict::Forward,
        }
    }

    fn outcome(reply: &Reply) -> Outcome {
        reply.outcome
    }

    fn answer_outcome(reply: &[u8]) -> Outcome {
        match reply.split_first() {
            Some((b'-', text)) => response::error_outcome(text),
            _ => Outcome::Ok,
        }
    }

    fn refuse(asked: Asked, why: Refusal, out: &mut Vec<u8>) {
        if why == Refusal::CrossSlot {
            // Word for word the server's, as clients look for it.
            out.extend_from_slice(b"-CROSSSLOT Keys in request don't hash to the same slot\r\n");
            return;
        }
        if why == Refusal::TooManyClients {
            out.extend_from_slice(b"-ERR max number of clients reached\r\n");
            return;
        }
        // Those about users too: libraries tell errors by their first word.
        let known: &[&str] = match why {
            Refusal::LoginFailed => &["WRONGPASS invalid username-password pair or user is disabled."],
            Refusal::LoginNeeded if asked.op == ops::op::HELLO => &[
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH ",
                "<user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
                 same time",
            ],
            Refusal::LoginNeeded => &["NOAUTH Authentication required."],
            Refusal::NoChannel => {
                &["NOPERM this user has no permissions to access one of the channels used as arguments"]
            }
            Refusal::NoCommand => {
                &["NOPERM this user has no permissions to run the '", op_info(asked.op).name, "' command"]
            }
            Refusal::NoKey => {
                &["NOPERM this user has no permissions to access one of the keys used as arguments"]
            }
            _ => &[],
        };
        if !known.is_empty() {
            out.push(b'-');
            known.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
            out.extend_from_slice(b"\r\n");
            return;
        }
        let code = match why {
            Refusal::CrossRoute => "CROSSSLOT",
            Refusal::Moved => "TRYAGAIN",
            Refusal::Denied => "NOPERM",
            _ => "ERR",
        };
        // Before TLS there is no command to name.
        let (open, name, close) =
            if why == Refusal::NeedsTls { ("", "", "\r\n") } else { (" (", op_info(asked.op).name, ")\r\n") };
        for part in ["-", code, " mecha: ", why.reason(), open, name, close] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

impl Framed for Resp {
    type RequestDecoder = RequestDecoder;
    type ReplyDecoder = ReplyDecoder;
    type Session = Session;

    fn begins(bytes: &[u8]) -> mecha_core::Begins {
        begins::begins(bytes)
    }

    fn request_decoder(limits: Limits) -> RequestDecoder {
        RequestDecoder::new(limits)
    }

    fn reply_decoder(limits: Limits, _profile: u8) -> ReplyDecoder {
        ReplyDecoder::new(limits)
    }

    fn reply_span(reply: &Reply) -> Span {
        reply.span
    }

    fn set_reply_span(reply: &mut Reply, span: Span) {
        reply.span = span;
    }

    #[inline]
    fn matched(reply: &Reply) -> Matched {
        if reply.kind == b'>' { Matched::Push } else { Matched::Last }
    }

    fn key<'w>(request: &Request, frame: &'w [u8]) -> Option<&'w [u8]> {
        if request.key_at > 0 {
            let start = request.key_at as usize;
            return frame.get(start..start + request.key_len as usize);
        }
        let mut first = None;
        keys::each_key(request.op, frame, &mut |key| {
            first.get_or_insert(key);
        });
        first
    }

    fn keys<'w>(request: &Request, frame: &'w [u8], each: &mut dyn FnMut(&'w [u8])) -> Keys {
        if request.key_at > 0 && ops::facts(request.op).is_single_key && !request.is_open {
            let start = request.key_at as usize;
            if let Some(key) = frame.get(start..start + request.key_len as usize) {
                each(key);
                return Keys::Known;
            }
        }
        keys::each_key(request.op, frame, each)
    }

    fn meets(op: mecha_core::OpId) -> bool {
        matches!(
            op,
            op::PSUBSCRIBE
                | op::PUBLISH
                | op::PUBSUB_CHANNELS
                | op::PUBSUB_NUMPAT
                | op::PUBSUB_NUMSUB
                | op::PUNSUBSCRIBE
                | op::SUBSCRIBE
                | op::UNSUBSCRIBE
        )
    }

    #[inline]
    fn slot(key: &[u8]) -> u16 {
        key_slot(key)
    }

    fn redirect<'w>(reply: &Reply, wire: &'w [u8]) -> Option<Redirect<'w>> {
        if reply.kind == b'-' { cluster::redirect(reply.span.of(wire, &[])) } else { None }
    }

    fn asking(out: &mut Vec<u8>) {
        out.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
    }

    fn shorten_wait(op: OpId, frame: &mut Vec<u8>, elapsed_micros: u64) -> bool {
        blocking::shorten(op, frame, elapsed_micros)
    }

    fn is_reading(op: OpId) -> bool {
        ops::facts(op).is_reading
    }

    fn reading(out: &mut Vec<u8>) -> u32 {
        out.extend_from_slice(b"*1\r\n$8\r\nREADONLY\r\n");
        1
    }

    fn permission(op: OpId, frame: &[u8]) -> Vec<u8> {
        session::permission(op, frame)
    }

    fn is_denial(reply: &[u8]) -> bool {
        [b"-NOPERM".as_slice(), b"-NOAUTH", b"-ERR No such user"].iter().any(|start| reply.starts_with(start))
    }

    fn whoami() -> &'static [u8] {
        b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n"
    }

    fn census(op: OpId) -> &'static [u8] {
        match op {
            op::CLIENT_INFO => b"*2\r\n$6\r\nCLIENT\r\n$4\r\nINFO\r\n",
            op::CLIENT_LIST => b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n",
            _ => &[],
        }
    }

    fn is_sought(op: OpId) -> bool {
        op_info(op).has(flag::BLOCKING) || matches!(op, op::PSUBSCRIBE | op::SSUBSCRIBE | op::SUBSCRIBE)
    }

    fn number(reply: &[u8]) -> Option<u64> {
        let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
        u64::try_from(args::decimal(digits)?).ok()
    }

    fn unblock(id: u64, with_error: bool, out: &mut Vec<u8>) {
        let (id, how) = (id.to_string(), if with_error { "ERROR" } else { "TIMEOUT" });
        write_request(["CLIENT", "UNBLOCK", &id, how].into_iter().map(str::as_bytes), out);
    }

    #[inline]
    fn script_role(op: OpId) -> ScriptRole {
        scripts::role(op)
    }

    fn script(op: OpId, frame: &[u8]) -> Option<&[u8]> {
        scripts::script(op, frame)
    }

    fn lacks_script(reply: &[u8]) -> bool {
        reply.starts_with(scripts::LACKING)
    }

    fn spell_out(op: OpId, frame: &[u8], text: &[u8], out: &mut Vec<u8>) {
        scripts::spell_out(op, frame, text, out);
    }

    fn load_script(text: &[u8], out: &mut Vec<u8>) {
        write_request([b"SCRIPT".as_slice(), b"LOAD", text].into_iter(), out);
    }

    fn unknown(batch: &mut Batch<'_, Self>, index: usize, name: &mut Vec<u8>) -> bool {
        learning::unknown(batch, index, name)
    }

    fn ask_about(names: &[Box<[u8]>], out: &mut Vec<u8>) {
        learning::ask_about(names, out);
    }

    fn learn(names: &[Box<[u8]>], answer: &[u8]) -> Vec<Option<OpId>> {
        learning::learn(names, answer)
    }

    fn recognise(batch: &mut Batch<'_, Self>, index: usize, op: OpId) {
        learning::recognise(batch, index, op);
    }

    fn lacks_version(reply: &[u8]) -> bool {
        bridge::lacks_version(reply)
    }

    fn knows_no_versions(op: OpId, reply: &[u8]) -> bool {
        // A server that knows versions may lack the one that was asked for.
        op == op::HELLO && bridge::lacks_hello(reply)
    }

    fn bridge(profile: u8) -> Option<Box<dyn Bridge>> {
        Some(Box::new(bridge::VersionBridge::new(version_of(profile))))
    }

    fn deferral(op: OpId) -> Option<&'static [u8]> {
        (op == ops::op::MULTI).then_some(b"+OK\r\n")
    }

    fn prologue(profile: u8, login: &Login, out: &mut Vec<u8>) -> u32 {
        let mut replies = 0;
        let mut say = |words: &[&str]| {
            let mut frame = format!("*{}\r\n", words.len());
            words.iter().for_each(|word| frame.push_str(&format!("${}\r\n{word}\r\n", word.len())));
            out.extend_from_slice(frame.as_bytes());
            replies += 1;
        };
        let user = login.username.as_deref();
        match (kind_of(profile), login.password.as_deref()) {
            (0, None) => {}
            // Servers before Redis 6 know no users.
            (0, Some(password)) => match user {
                Some(user) => say(&["AUTH", user, password]),
                None => say(&["AUTH", password]),
            },
            (_, None) => say(&["HELLO", "3"]),
            (_, Some(password)) => say(&["HELLO", "3", "AUTH", user.unwrap_or("default"), password]),
        }
        if login.database > 0 {
            say(&["SELECT", &login.database.to_string()]);
        }
        replies
    }

    fn protocol_error(error: ProtocolError, out: &mut Vec<u8>) {
        out.extend_from_slice(b"-ERR Protocol error: ");
        match error {
            ProtocolError::Byte { got, .. } if got != b'\r' && got != b'\n' => {
                out.extend_from_slice(b"expected '$', got '");
                out.push(got);
                out.push(b'\'');
            }
            ProtocolError::Byte { .. } => out.extend_from_slice(b"invalid bulk length"),
            ProtocolError::Count { .. } => out.extend_from_slice(b"invalid multibulk length"),
            ProtocolError::FrameTooLarge { .. } => out.extend_from_slice(b"request too large"),
            ProtocolError::Length { .. } => out.extend_from_slice(b"invalid bulk length"),
            ProtocolError::LineTooLong { .. } => out.extend_from_slice(b"too big inline request"),
            ProtocolError::Quotes { .. } => out.extend_from_slice(b"unbalanced quotes in request"),
            ProtocolError::TooDeep { .. } => out.extend_from_slice(b"nested too deeply"),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The version of the protocol that connections of this profile speak.
#[must_use]
pub fn version_of(profile: u8) -> u8 {
    2 + kind_of(profile)
}

/// Decodes the one request that `frame` holds; `None` if it holds anything else.
pub fn head_of(frame: &[u8]) -> Option<Request> {
    let whole = Limits { stream_above: usize::MAX, max_frame: usize::MAX, ..Limits::default() };
    let mut heads = Vec::with_capacity(1);
    let decoded = RequestDecoder::new(whole).decode(frame, &mut heads).ok()?;
    (decoded.consumed == frame.len() && heads.len() == 1).then(|| heads.pop()).flatten()
}
