//! Bodies of requests on their way to a server.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// What breaks a body off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body.
pub enum Outbound {
    /// What somebody makes of it as it comes.
    Changed(Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>),
    /// None.
    Empty,
    /// What the client sends, as it comes.
    Streamed(Incoming),
    /// Bytes that are there.
    Whole(Bytes),
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Changed(body) => body.as_mut().poll_frame(cx),
            Self::Empty => Poll::Ready(None),
            Self::Streamed(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            whole @ Self::Whole(_) => match std::mem::replace(whole, Self::Empty) {
                Self::Whole(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Changed(body) => body.is_end_stream(),
            Self::Empty => true,
            Self::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Changed(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(body) => body.size_hint(),
        }
    }
}
