//! Version 3 for clients of servers that know version 2 alone (Redis before 6, or `HELLO` taken away).
//!
//! The bridge reads along what is sent, and so knows what each reply answers: [`shapes`] tells how it differs in version 3. The
//! rest is done byte by byte as replies arrive ([`convert`]); nothing is held back but the beginning of a value that may
//! have to be written otherwise. `HELLO` itself is answered here, with what the server says of itself in `INFO`.
//!
//! What version 2 has no words for is not made up: while a connection is subscribed, such a server takes no other commands
//! on it.

mod convert;
mod shapes;

use mecha_core::{Bridge, Decode, Limits};

use self::convert::{Converter, Expected};
use crate::ops::op;
use crate::{Request, RequestDecoder, args, write_request};

/// Stands in for a version of the protocol that the server lacks.
pub(crate) struct VersionBridge {
    decoder: RequestDecoder,
    /// The beginning of a request.
    pending: Vec<u8>,
    heads: Vec<Request>,
    converter: Converter,
    /// The server has been told not to answer, or was sent what is no request: replies are counted no longer.
    is_blind: bool,
}

/// Whether a server answers so when it is asked for a version that it lacks.
pub(crate) fn lacks_version(reply: &[u8]) -> bool {
    lacks_hello(reply) || reply.starts_with(b"-NOPROTO")
}

/// Whether a server answers so when it has no `HELLO`.
pub(crate) fn lacks_hello(reply: &[u8]) -> bool {
    [b"-ERR unknown command".as_slice(), b"-ERR Unknown command"].iter().any(|start| reply.starts_with(start))
}

// === impl VersionBridge ===

impl VersionBridge {
    /// For a connection that begins in this version.
    pub(crate) fn new(version: u8) -> Self {
        Self {
            decoder: RequestDecoder::new(Limits { max_frame: usize::MAX, ..Limits::default() }),
            pending: Vec::new(),
            heads: Vec::new(),
            converter: Converter::new(version),
            is_blind: false,
        }
    }

    /// Notes what the reply to a request will be, and appends what is sent in its place.
    fn note(&mut self, head: &Request, at: std::ops::Range<usize>, out: &mut Vec<u8>) {
        let frame = self.pending.get(at).unwrap_or_default();
        let says = |index: usize, word: &str| {
            args(frame).nth(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
        };
        let is_named = |words: usize| args(frame).count() > words;
        let expected = match head.op {
            op::HELLO => return hello(frame, &mut self.converter, out),
            op::CLIENT_REPLY if !says(2, "ON") => {
                self.is_blind = true;
                Expected::Value(shapes::keep())
            }
            op::MULTI => Expected::Multi,
            op::EXEC => Expected::Exec,
            op::DISCARD | op::RESET => Expected::Discard,
            op::SUBSCRIBE | op::PSUBSCRIBE | op::SSUBSCRIBE if is_named(1) => Expected::subscription(),
            op::UNSUBSCRIBE | op::PUNSUBSCRIBE | op::SUNSUBSCRIBE => Expected::subscription(),
            op => Expected::Value(shapes::of(op, frame)),
        };
        if !self.is_blind {
            self.converter.expect(expected);
        }
        out.extend_from_slice(frame);
    }
}

impl Bridge for VersionBridge {
    fn sent(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.is_blind && self.pending.is_empty() {
            out.extend_from_slice(bytes);
            return;
        }
        self.pending.extend_from_slice(bytes);
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        let Ok(decoded) = self.decoder.decode(&self.pending, &mut heads) else {
            self.is_blind = true;
            self.converter.forget();
            out.append(&mut self.pending);
            return;
        };
        let mut done = 0;
        for head in &heads {
            let at = head.span.start()..head.span.end();
            out.extend_from_slice(self.pending.get(done..at.start).unwrap_or_default());
            done = at.end;
            self.note(head, at, out);
        }
        out.extend_from_slice(self.pending.get(done..decoded.consumed).unwrap_or_default());
        self.pending.drain(..decoded.consumed.min(self.pending.len()));
        self.heads = heads;
    }

    fn received(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.converter.take(bytes, out);
    }
}

/// Has the server do what a `HELLO` asks for besides the version, and tell of itself.
fn hello(frame: &[u8], converter: &mut Converter, out: &mut Vec<u8>) {
    let mut words = args(frame).skip(1);
    let mut refuse = |text: String, out: &mut Vec<u8>| {
        converter.expect(Expected::Fixed(format!("-{text}\r\n").into_bytes()));
        write_request([b"PING".as_slice()].into_iter(), out);
    };
    let version = match words.next().map(crate::args::decimal) {
        None => None,
        Some(Some(version @ (2 | 3))) => Some(version as u8),
        Some(Some(_)) => return refuse("NOPROTO unsupported protocol version".into(), out),
        Some(None) => return refuse("ERR Protocol version is not an integer or out of range".into(), out),
    };
    let (mut login, mut name) = (None, None);
    while let Some(word) = words.next() {
        let option = (word.to_ascii_uppercase(), words.next());
        match (option.0.as_slice(), option.1) {
            (b"AUTH", Some(user)) if words.clone().next().is_some() => {
                login = words.next().map(|password| (user, password));
            }
            (b"SETNAME", Some(own)) => name = Some(own),
            _ => {
                let word = String::from_utf8_lossy(word).into_owned();
                return refuse(format!("ERR Syntax error in HELLO option '{word}'"), out);
            }
        }
    }
    if let Some((user, password)) = login {
        converter.expect(Expected::Login);
        // Servers before Redis 6 know no users.
        match user {
            b"default" => write_request([b"AUTH".as_slice(), password].into_iter(), out),
            _ => write_request([b"AUTH".as_slice(), user, password].into_iter(), out),
        }
    }
    if let Some(name) = name {
        converter.expect(Expected::Nothing);
        write_request([b"CLIENT".as_slice(), b"SETNAME", name].into_iter(), out);
    }
    converter.expect(Expected::Greeting(version));
    write_request([b"INFO".as_slice()].into_iter(), out);
}

#[cfg(test)]
mod tests;
