//! The filter chain: batches go down it, replies come back up.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::{Call, Done, Framed};

/// Everything one read of a client socket produced. `heads[i]` and `calls[i]` describe the same request.
pub struct Batch<'a, P: Framed> {
    /// The bytes read. Never changed: a rewritten request lies in `local`.
    pub wire: &'a [u8],
    /// Bytes that filters and sessions write: rewritten requests, answers.
    pub local: &'a mut Vec<u8>,
    /// The requests. Offsets in a head are relative to its own frame, so a filter that rewrites a frame replaces the
    /// head too (by decoding the new frame).
    pub heads: &'a mut [P::Request],
    /// The calls.
    pub calls: &'a mut [Call],
    /// The client connection's protocol state.
    pub session: &'a mut P::Session,
}

impl<P: Framed> Batch<'_, P> {
    /// The bytes of request `index`, wherever they lie.
    pub fn frame(&self, index: usize) -> &[u8] {
        self.calls.get(index).map_or(&[], |call| call.span.of(self.wire, self.local))
    }
}

/// Consecutive replies to calls of one connection, oldest first. `done` has one entry for each call that is complete;
/// in protocols whose replies are always one frame, `heads[i]` is the reply to `done[i]`.
pub struct Replies<'a, P: Framed> {
    /// The bytes read from the upstream.
    pub wire: &'a [u8],
    /// Bytes that filters write.
    pub local: &'a mut Vec<u8>,
    /// The replies; a filter rewrites one by appending to `local` and setting its span.
    pub heads: &'a mut [P::Reply],
    /// How each call ended.
    pub done: &'a [Done],
}

/// The client end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Unique in this process.
    pub id: u64,
    /// `None` for Unix sockets.
    pub addr: Option<SocketAddr>,
    /// The address that it has connected to; `None` for Unix sockets, or where that is not known.
    pub local: Option<SocketAddr>,
    /// Who the client has proved to be; `None` without a certificate.
    pub identity: Option<Arc<Identity>>,
    /// The name of the user that it has logged in as; `None` where mecha knows no users, and before a login.
    pub user: Option<Arc<str>>,
}

/// What a verified client certificate says. Plain text, so that filters and logs need to know nothing of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The subject's distinguished name, as RFC 4514 writes it; may be empty.
    pub subject: String,
    /// Its alternative names: DNS names, URIs (SPIFFE), mail and IP addresses, in the certificate's order.
    pub names: Vec<String>,
    /// SHA-256 of the certificate, in lower-case hexadecimal.
    pub fingerprint: String,
}

impl Identity {
    /// What to show where there is room for one name: the subject, else the first name, else the fingerprint.
    pub fn label(&self) -> &str {
        let named = [Some(&self.subject), self.names.first()];
        named.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or(&self.fingerprint)
    }
}

/// What a filter may use besides the batch. Time is read once per event-loop turn, never per call.
#[derive(Clone, Copy, Debug)]
pub struct Cx<'a> {
    /// Microseconds since the process started; never goes back.
    pub now_micros: u64,
    /// The client.
    pub peer: &'a Peer,
}

/// Typed: sees and may rewrite one protocol's requests and replies. One instance per worker and listener.
pub trait Filter<P: Framed> {
    /// Sees each batch on its way to the upstream.
    fn on_requests(&mut self, batch: &mut Batch<'_, P>, cx: &Cx<'_>);

    /// Sees replies on their way to the client. Not called for calls that never reached an upstream: see
    /// [`Filter::on_done`].
    fn on_replies(&mut self, replies: &mut Replies<'_, P>, cx: &Cx<'_>) {
        self.on_done(replies.done, cx);
    }

    /// Sees the end of calls that mecha answered itself (refusals, local answers, failures).
    fn on_done(&mut self, done: &[Done], cx: &Cx<'_>) {
        let _ = (done, cx);
    }

    /// Sees a whole frame that is no counted reply on its way to the client: a message that it has subscribed to, the
    /// confirmation of that, and everything else where replies are not counted. May append another frame to `out`, for
    /// [`Passage::Rewritten`]. Called only if a filter of the chain says [`Filter::rewrites_messages`].
    fn on_message(&mut self, frame: &[u8], out: &mut Vec<u8>, cx: &Cx<'_>) -> Passage {
        let _ = (frame, out, cx);
        Passage::Kept
    }

    /// Whether [`Filter::on_message`] does anything.
    fn rewrites_messages(&self) -> bool {
        false
    }

    /// Called a few times a second, traffic or not.
    fn on_tick(&mut self, now_micros: u64) {
        let _ = now_micros;
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// The client must not get it.
    Dropped,
    /// The client gets it as it is.
    Kept,
    /// The client gets what was written instead.
    Rewritten,
}

/// Protocol-agnostic: rate limit, circuit breaker, timeout, log. Never sees bytes.
pub trait Policy {
    /// Sees each batch of calls on its way to the upstream.
    fn on_calls(&mut self, calls: &mut [Call], cx: &Cx<'_>);

    /// Sees the end of calls, each once.
    fn on_done(&mut self, done: &[Done], cx: &Cx<'_>) {
        let _ = (done, cx);
    }

    /// Called a few times a second, traffic or not.
    fn on_tick(&mut self, now_micros: u64) {
        let _ = now_micros;
    }
}

impl Policy for Box<dyn Policy> {
    fn on_calls(&mut self, calls: &mut [Call], cx: &Cx<'_>) {
        (**self).on_calls(calls, cx);
    }

    fn on_done(&mut self, done: &[Done], cx: &Cx<'_>) {
        (**self).on_done(done, cx);
    }

    fn on_tick(&mut self, now_micros: u64) {
        (**self).on_tick(now_micros);
    }
}

impl<P: Framed, F: Policy> Filter<P> for F {
    fn on_requests(&mut self, batch: &mut Batch<'_, P>, cx: &Cx<'_>) {
        self.on_calls(batch.calls, cx);
    }

    fn on_done(&mut self, done: &[Done], cx: &Cx<'_>) {
        Policy::on_done(self, done, cx);
    }

    fn on_tick(&mut self, now_micros: u64) {
        Policy::on_tick(self, now_micros);
    }
}

/// The filters of one listener on one worker, in configuration order.
pub struct Chain<P: Framed> {
    filters: Vec<Box<dyn Filter<P>>>,
}

impl<P: Framed> Chain<P> {
    /// The first filter sees requests first and replies last.
    pub fn new(filters: Vec<Box<dyn Filter<P>>>) -> Self {
        Self { filters }
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Runs a batch down the chain.
    pub fn requests(&mut self, batch: &mut Batch<'_, P>, cx: &Cx<'_>) {
        for filter in &mut self.filters {
            filter.on_requests(batch, cx);
        }
    }

    /// Runs replies up the chain.
    pub fn replies(&mut self, replies: &mut Replies<'_, P>, cx: &Cx<'_>) {
        for filter in self.filters.iter_mut().rev() {
            filter.on_replies(replies, cx);
        }
    }

    /// Whether messages must be shown to it.
    pub fn rewrites_messages(&self) -> bool {
        self.filters.iter().any(|filter| filter.rewrites_messages())
    }

    /// Runs a message up the chain; see [`Filter::on_message`].
    pub fn message(&mut self, frame: &[u8], out: &mut Vec<u8>, cx: &Cx<'_>) -> Passage {
        let start = out.len();
        let mut passage = Passage::Kept;
        for filter in self.filters.iter_mut().rev() {
            let mut fresh = Vec::new();
            let seen = match passage {
                Passage::Rewritten => out.get(start..).unwrap_or_default(),
                _ => frame,
            };
            match filter.on_message(seen, &mut fresh, cx) {
                Passage::Dropped => {
                    out.truncate(start);
                    return Passage::Dropped;
                }
                Passage::Kept => {}
                Passage::Rewritten => {
                    out.truncate(start);
                    out.append(&mut fresh);
                    passage = Passage::Rewritten;
                }
            }
        }
        passage
    }

    /// Lets filters do what is due whether or not there is traffic.
    pub fn tick(&mut self, now_micros: u64) {
        for filter in &mut self.filters {
            filter.on_tick(now_micros);
        }
    }

    /// Tells the chain about calls that ended without an upstream's reply.
    pub fn done(&mut self, done: &[Done], cx: &Cx<'_>) {
        for filter in self.filters.iter_mut().rev() {
            filter.on_done(done, cx);
        }
    }
}

impl<P: Framed> Default for Chain<P> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}
