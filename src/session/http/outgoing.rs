//! Bodies of answers on their way to a client.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use mecha_clusters::http::{BodyError, Lease};
use mecha_core::{Cx, Done, OpId, Outcome, Refusal, Ticket};
use mecha_http::answer;
use mecha_transport::Clock;
use tokio::time::Sleep;

use super::changed::Changed;
use super::link::Link;
use super::route::Target;
use super::{HttpListener, Tunnel};

/// The body of an answer.
pub(super) enum Outgoing {
    /// As filters make it.
    Changed(Box<Changed<Outgoing>>),
    /// Ours.
    Own(Bytes),
    /// A server's, as it comes.
    Passed(Passed),
}

/// A server's body on its way to the client.
pub(super) struct Passed {
    pub(super) body: Incoming,
    pub(super) lease: Lease,
    pub(super) call: Open,
    /// When it is broken off, if ever.
    pub(super) end: Option<Box<End>>,
}

/// The longest that an answer may take.
pub(super) struct End {
    pub(super) sleep: Pin<Box<Sleep>>,
    /// It is told to a client of gRPC in its own way.
    pub(super) is_grpc: bool,
}

/// An answer has taken as long as it may.
#[derive(Debug)]
struct TookTooLong;

impl std::fmt::Display for TookTooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer has taken as long as it may")
    }
}

impl std::error::Error for TookTooLong {}

/// A call that has not ended.
pub(super) struct Open {
    pub(super) link: Rc<Link>,
    pub(super) listener: Rc<HttpListener>,
    /// Where it has gone.
    pub(super) target: Option<Rc<Target>>,
    pub(super) tunnel: Option<Rc<Tunnel>>,
    pub(super) clock: Clock,
    pub(super) ticket: Ticket,
    pub(super) op: OpId,
    pub(super) started_micros: u64,
    /// How it ends unless something else happens.
    pub(super) outcome: Outcome,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.link.in_flight.set(self.link.in_flight.get().saturating_sub(1));
        let now_micros = self.clock.micros();
        let micros = u32::try_from(now_micros.saturating_sub(self.started_micros)).unwrap_or(u32::MAX);
        let done = [Done { ticket: self.ticket, op: self.op, outcome: self.outcome, micros }];
        self.listener.metrics.done(&done);
        let cx = Cx { now_micros, peer: &self.link.peer };
        let of_target = self.target.iter().map(|target| &target.policies);
        let of_target = of_target.chain(self.tunnel.iter().map(|tunnel| &tunnel.policies));
        for policies in of_target.chain([&self.listener.policies]) {
            policies.borrow_mut().iter_mut().rev().for_each(|policy| policy.on_done(&done, &cx));
        }
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        // A body whose length is known is not asked for its end.
        if self.body.is_end_stream() {
            self.lease.finished();
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Changed(body) => Pin::new(body).poll_frame(cx),
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Passed(passed) => {
                if let Some(end) = &mut passed.end
                    && end.sleep.as_mut().poll(cx).is_ready()
                {
                    passed.call.outcome = Outcome::Refused(Refusal::TimedOut);
                    let is_grpc = end.is_grpc;
                    // The server's stream ends with this body.
                    *this = Self::Own(Bytes::new());
                    return Poll::Ready(Some(if is_grpc {
                        Ok(Frame::trailers(answer::grpc_trailers(Refusal::TimedOut)))
                    } else {
                        Err(TookTooLong.into())
                    }));
                }
                let polled = Pin::new(&mut passed.body).poll_frame(cx);
                match &polled {
                    Poll::Ready(None) => passed.lease.finished(),
                    Poll::Ready(Some(Ok(frame))) => {
                        let status = frame.trailers_ref().and_then(mecha_http::ops::grpc_outcome);
                        if let Some(outcome) = status {
                            passed.call.outcome = outcome;
                        }
                    }
                    Poll::Ready(Some(Err(_))) => {
                        passed.call.outcome = Outcome::Refused(Refusal::UpstreamGone);
                    }
                    Poll::Pending => {}
                }
                polled.map_err(BodyError::from)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Changed(body) => body.is_end_stream(),
            Self::Own(bytes) => bytes.is_empty(),
            Self::Passed(passed) => passed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Changed(_) => SizeHint::default(),
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Passed(passed) => passed.body.size_hint(),
        }
    }
}
