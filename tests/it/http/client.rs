//! Clients and servers of both versions, on hyper, for tests that need more than bytes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Which version a test speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

impl Version {
    pub(crate) const BOTH: [Self; 2] = [Self::One, Self::Two];
}

/// A body in pieces, maybe with trailers.
#[derive(Default)]
pub(crate) struct Pieces {
    frames: VecDeque<Frame<Bytes>>,
    is_endless: bool,
}

impl Pieces {
    pub(crate) fn of(pieces: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        let frames = pieces.into_iter().map(|piece| Frame::data(piece.into())).collect();
        Self { frames, is_endless: false }
    }

    pub(crate) fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.frames.push_back(Frame::trailers(trailers));
        self
    }

    /// Nothing comes behind them, not even an end.
    pub(crate) fn without_end(mut self) -> Self {
        self.is_endless = true;
        self
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.frames.pop_front() {
            None if self.is_endless => Poll::Pending,
            frame => Poll::Ready(frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && !self.is_endless
    }
}

/// A message, read to its end.
#[derive(Debug)]
pub(crate) struct Whole<H> {
    pub(crate) head: H,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

pub(crate) type Answer = Whole<hyper::http::response::Parts>;

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn whole<H>(head: H, body: Incoming) -> hyper::Result<Whole<H>> {
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(Whole { head, body: collected.to_bytes(), trailers })
}

/// Runs what HTTP/2 wants to run, on this thread.
#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Runs a test's own tasks.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(crate::support::PATIENCE, test).await.expect("it hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, limited)
}

/// A client's connection.
pub(crate) enum Client {
    One(hyper::client::conn::http1::SendRequest<Pieces>),
    Two(hyper::client::conn::http2::SendRequest<Pieces>),
}

impl Client {
    pub(crate) async fn new(port: u16, version: Version) -> Self {
        Self::at(("127.0.0.1", port), version).await
    }

    /// As [`Client::new`], to this address.
    pub(crate) async fn at(address: (&str, u16), version: Version) -> Self {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        match version {
            Version::One => {
                let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::task::spawn_local(connection);
                Self::One(sender)
            }
            Version::Two => {
                let (sender, connection) = hyper::client::conn::http2::handshake(Local, io).await.unwrap();
                tokio::task::spawn_local(connection);
                Self::Two(sender)
            }
        }
    }

    /// Sends a request for `path` of the host `example.com`, and reads the answer to its end.
    pub(crate) async fn send(&mut self, mut request: Request<Pieces>) -> hyper::Result<Answer> {
        let path = request.uri().path_and_query().unwrap().to_string();
        let response = match self {
            Self::One(sender) => {
                request.headers_mut().insert("host", "example.com".parse().unwrap());
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Two(sender) => {
                *request.uri_mut() = format!("http://example.com{path}").parse().unwrap();
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        whole(head, body).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> hyper::Result<Answer> {
        self.send(Request::get(path).body(Pieces::default()).unwrap()).await
    }
}

/// Serves requests, read to their end, with `answer`, until the runtime ends. Returns the port.
pub(crate) async fn serve<A>(version: Version, answer: A) -> u16
where
    A: Fn(Whole<hyper::http::request::Parts>) -> Response<Pieces> + 'static,
{
    serve_at(("127.0.0.1", 0), version, answer).await
}

/// As [`serve`], there.
pub(crate) async fn serve_at<A>(address: (&str, u16), version: Version, answer: A) -> u16
where
    A: Fn(Whole<hyper::http::request::Parts>) -> Response<Pieces> + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Rc::new(answer);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Rc::clone(&answer);
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = Rc::clone(&answer);
                async move {
                    let (head, body) = request.into_parts();
                    Ok::<_, hyper::Error>(answer(whole(head, body).await?))
                }
            });
            let io = TokioIo::new(stream);
            tokio::task::spawn_local(async move {
                // A client that leaves is no fault.
                let _ = match version {
                    Version::One => {
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                    }
                    Version::Two => {
                        hyper::server::conn::http2::Builder::new(Local).serve_connection(io, service).await
                    }
                };
            });
        }
    });
    port
}
