//! Bodies that filters change on their way, in either direction.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use mecha_clusters::http::BodyError;
use mecha_core::Refusal;
use mecha_filters::http::Transform;

/// A body behind a transform.
pub(super) struct Changed<B> {
    inner: B,
    transform: Box<dyn Transform>,
    /// Why it was broken off, if a filter did that.
    broken: Rc<Cell<Option<Refusal>>>,
    has_ended: bool,
    trailers: Option<HeaderMap>,
}

/// A filter has broken a body off.
#[derive(Debug)]
struct BrokenOff(Refusal);

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken off: {}", self.0.reason())
    }
}

impl std::error::Error for BrokenOff {}

/// A request's body as its client sends it, or as filters make it.
pub(super) enum Inbound {
    Changed(Box<Changed<Inbound>>),
    Plain(Incoming),
}

// === impl Changed ===

impl<B> Changed<B> {
    pub(super) fn new(inner: B, transform: Box<dyn Transform>, broken: Rc<Cell<Option<Refusal>>>) -> Self {
        Self { inner, transform, broken, has_ended: false, trailers: None }
    }

    fn break_off(&mut self, why: Refusal) -> BodyError {
        self.has_ended = true;
        self.broken.set(Some(why));
        Box::new(BrokenOff(why))
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<Option<Frame<Bytes>>, BodyError> {
        self.has_ended = true;
        let (bytes, trailers) = self.transform.end(trailers).map_err(|why| self.break_off(why))?;
        if bytes.is_empty() {
            return Ok(trailers.map(Frame::trailers));
        }
        self.trailers = trailers;
        Ok(Some(Frame::data(bytes)))
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Changed<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if this.has_ended {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let frame = match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                None => return Poll::Ready(this.end(None).transpose()),
                Some(Err(error)) => {
                    this.has_ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data().map_err(Frame::into_trailers) {
                Ok(bytes) => match this.transform.data(bytes) {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Err(why) => return Poll::Ready(Some(Err(this.break_off(why)))),
                },
                Err(Ok(trailers)) => return Poll::Ready(this.end(Some(trailers)).transpose()),
                Err(Err(_)) => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended && self.trailers.is_none()
    }
}

// === impl Inbound ===

impl Body for Inbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Changed(body) => Pin::new(body).poll_frame(cx),
            Self::Plain(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Changed(body) => body.is_end_stream(),
            Self::Plain(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Changed(_) => SizeHint::default(),
            Self::Plain(body) => body.size_hint(),
        }
    }
}
