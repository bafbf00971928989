//! Servers that speak HTTP: connections that are kept for the next request, and the choice among servers.
//!
//! A request goes to one server, over a connection that is idle (`pool`) or, in HTTP/2, shared. What is kept is one
//! worker's own, so nothing is locked. When a server cannot be reached, the next is tried. A request that has been sent
//! is sent again in one case only: it leaves everything as it is however often it comes (RFC 9110, section 9.2.2), has
//! a body that is at hand, or none, and went over a connection that was kept, which its server has closed meanwhile.
//!
//! Deliberately absent: anything about clients, routes and filters; see `session/http.rs`.

mod link;
mod outbound;
mod pool;
mod wire;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri, Version};
use mecha_core::Refusal;
use mecha_telemetry::ClusterMetrics;
use mecha_transport::Clock;

use self::link::Single;
use self::pool::Seat;
use crate::quotas::{Quota, Share};
use crate::streams::Server;
use crate::{Stream, Streams};

pub use self::link::{Counted, OnThisThread, Upgraded};
pub(crate) use self::pool::Pool;

pub use self::outbound::{BodyError, Outbound};
pub use self::wire::{Meter, Wire};

/// What servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, from the first byte.
    Http2,
    /// What the TLS handshake says.
    Negotiated,
}

/// What the configuration says about such a cluster.
pub struct HttpOptions {
    /// What its servers speak.
    pub version: HttpVersion,
    /// Connections of one worker.
    pub max_connections: usize,
    /// Connections to one server that carry many requests at a time.
    pub shared: usize,
    /// How long a connection is kept without a request, in microseconds.
    pub idle_micros: u64,
    /// How names of fields of HTTP/1 are written.
    pub case: FieldCase,
}

/// How names of fields of HTTP/1 are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldCase {
    /// In lower case.
    #[default]
    Lower,
    /// As they came, which messages remember.
    Preserve,
    /// With a capital at the beginning of each word.
    Title,
}

/// The servers of one cluster, on one worker.
pub struct HttpServers {
    streams: Rc<Streams>,
    options: HttpOptions,
    open: Rc<Cell<usize>>,
    metrics: Arc<ClusterMetrics>,
    clock: Clock,
}

/// An answer whose head is there.
pub struct Answer {
    /// It.
    pub response: Response<Incoming>,
    /// What it comes on.
    pub lease: Lease,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client did not send what it had begun.
    Request,
    /// The servers.
    Server(Refusal),
}

/// A connection that is in use for one request.
pub struct Lease {
    servers: Rc<HttpServers>,
    server: Rc<Server>,
    single: Option<Single>,
    /// Its place among the requests of the cluster.
    _share: Rc<Share>,
}

/// What carries one request.
enum Carrier {
    Shared(http2::SendRequest<Outbound>),
    /// And whether it was kept.
    Single(Single, bool),
}

// === impl Lease ===

impl Lease {
    /// Whose it is.
    pub fn servers(&self) -> &Rc<HttpServers> {
        &self.servers
    }

    /// The answer has ended as it should: the connection may carry the next request.
    pub fn finished(&mut self) {
        if let Some(single) = self.single.take() {
            self.servers.pool(&self.server).keep(single, self.servers.clock.micros());
        }
    }

    /// The stream, which does not speak HTTP from here on. `None` if it is lost.
    pub async fn upgraded(mut self) -> Option<Upgraded> {
        let single = self.single.take()?;
        single.end.await.ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let pool = self.servers.pool(&self.server);
        pool.active.set(pool.active.get().saturating_sub(1));
    }
}

// === impl HttpServers ===

impl HttpServers {
    /// Connects to nothing yet.
    pub fn new(
        streams: Rc<Streams>,
        options: HttpOptions,
        metrics: Arc<ClusterMetrics>,
        clock: Clock,
    ) -> Rc<Self> {
        Rc::new(Self { streams, options, open: Rc::default(), metrics, clock })
    }

    fn pool<'s>(&self, server: &'s Server) -> &'s Pool {
        server.pool.get_or_init(|| Pool::new(self.options.shared))
    }

    /// Sends `request`, whose `Host` says whom it is for, and waits for the head of the answer. `key` is what a hash is made
    /// of, where a hash decides. With `is_safe`, it may be sent twice.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send(
        self: &Rc<Self>,
        request: Request<Outbound>,
        key: &[u8],
        is_safe: bool,
    ) -> Result<Answer, Failure> {
        let overloaded = Failure::Server(Refusal::Overloaded);
        let share = Rc::new(self.streams.quotas().take(Quota::Requests).ok_or(overloaded)?);
        let servers = self.streams.found().await;
        let load = |server: &Server| self.pool(server).active.get();
        let first = self.streams.first(&servers, key, load).ok_or(Failure::Server(Refusal::NoRoute))?;
        let mut request = Some(request);
        let mut others = None;
        let (mut next, mut failure) = (Some(first), Refusal::UpstreamUnreachable);
        while let Some(server) = next.and_then(|at| servers.get(at)) {
            match self.send_to(server, &mut request, is_safe, &share).await {
                Ok(answer) => return Ok(answer),
                // What is over a limit here is so at every server.
                Err(Failure::Server(Refusal::Overloaded)) => return Err(overloaded),
                Err(Failure::Server(why)) if request.is_some() => failure = why,
                Err(failed) => return Err(failed),
            }
            let others = others.get_or_insert_with(|| self.streams.others(&servers, first).into_iter());
            next = others.next();
        }
        Err(Failure::Server(failure))
    }

    /// A place among the requests that are being sent again, if there is one.
    pub fn take_retry(&self) -> Option<Share> {
        self.streams.quotas().take(Quota::Retries)
    }

    /// Leaves `request` in its place if it was not sent.
    async fn send_to(
        self: &Rc<Self>,
        server: &Rc<Server>,
        request: &mut Option<Request<Outbound>>,
        is_safe: bool,
        share: &Rc<Share>,
    ) -> Result<Answer, Failure> {
        let gone = Failure::Server(Refusal::UpstreamGone);
        // Whoever closes new connections at once is not asked for ever.
        let mut fresh = 0;
        while fresh < 2 {
            let carrier = self.carrier(server).await.map_err(Failure::Server)?;
            let pool = self.pool(server);
            let Some(mut wanted) = request.take() else { return Err(gone) };
            if !wanted.headers().contains_key(HOST) {
                let host = HeaderValue::try_from(server.name());
                wanted.headers_mut().insert(HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
            }
            pool.active.set(pool.active.get() + 1);
            let (servers, server) = (Rc::clone(self), Rc::clone(server));
            let mut lease = Lease { servers, server, single: None, _share: Rc::clone(share) };
            let (result, spare) = match carrier {
                Carrier::Shared(mut sender) => {
                    fresh += 1;
                    as_http2(&mut wanted);
                    (sender.try_send_request(wanted).await, None)
                }
                Carrier::Single(mut single, was_kept) => {
                    fresh += usize::from(!was_kept);
                    as_http1(&mut wanted);
                    let spare = (was_kept && is_safe).then(|| copy(&wanted));
                    let result = single.sender.try_send_request(wanted).await;
                    lease.single = Some(single);
                    (result, spare)
                }
            };
            match result {
                Ok(response) => {
                    self.streams.note(&lease.server, response.status().is_server_error());
                    self.metrics.replied(1);
                    return Ok(Answer { response, lease });
                }
                Err(mut error) => match error.take_message() {
                    // It was closed while it was idle: the next one may be new.
                    Some(unsent) => *request = Some(unsent),
                    None if error.error().is_user() => return Err(Failure::Request),
                    None => match spare {
                        Some(spare) => *request = Some(spare),
                        None => {
                            self.streams.note(&lease.server, true);
                            return Err(gone);
                        }
                    },
                },
            }
        }
        Err(Failure::Server(Refusal::UpstreamUnreachable))
    }

    async fn carrier(self: &Rc<Self>, server: &Rc<Server>) -> Result<Carrier, Refusal> {
        let pool = self.pool(server);
        let is_shared = match self.options.version {
            HttpVersion::Http1 => false,
            HttpVersion::Http2 => true,
            HttpVersion::Negotiated => !pool.is_http1.get(),
        };
        if !is_shared {
            while let Some(mut single) = pool.idle() {
                if single.sender.ready().await.is_ok() {
                    return Ok(Carrier::Single(single, true));
                }
            }
            let _pending = self.streams.quotas().take(Quota::Pending).ok_or(Refusal::Overloaded)?;
            let (stream, seat) = self.connect(server).await?;
            return self.single(stream, seat).await;
        }
        let _pending = self.streams.quotas().take(Quota::Pending).ok_or(Refusal::Overloaded)?;
        let mut shared = pool.shared().ok_or(Refusal::NoRoute)?.lock().await;
        if let Some(sender) = shared.as_mut()
            && !sender.is_closed()
            && sender.ready().await.is_ok()
        {
            return Ok(Carrier::Shared(sender.clone()));
        }
        *shared = None;
        let (stream, seat) = self.connect(server).await?;
        if self.options.version == HttpVersion::Negotiated && stream.read.alpn().as_deref() != Some(b"h2") {
            pool.is_http1.set(true);
            drop(shared);
            return self.single(stream, seat).await;
        }
        let made = link::multiplexed(stream, seat, Arc::clone(&self.metrics)).await;
        let sender = made.map_err(|_| Refusal::UpstreamUnreachable)?;
        *shared = Some(sender.clone());
        Ok(Carrier::Shared(sender))
    }

    async fn single(&self, stream: Stream, seat: Seat) -> Result<Carrier, Refusal> {
        let made = link::single(stream, seat, Arc::clone(&self.metrics), self.options.case).await;
        made.map(|single| Carrier::Single(single, false)).map_err(|_| Refusal::UpstreamUnreachable)
    }

    async fn connect(&self, server: &Server) -> Result<(Stream, Seat), Refusal> {
        let Some(seat) = Seat::take(&self.open, self.options.max_connections) else {
            self.metrics.pin_refused();
            return Err(Refusal::TooManyPins);
        };
        Ok((self.streams.reach(server).await?, seat))
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self, now_micros: u64) {
        let before = now_micros.saturating_sub(self.options.idle_micros);
        let servers = self.streams.servers();
        servers.iter().filter_map(|server| server.pool.get()).for_each(|pool| pool.sweep(before));
    }

    /// Its figures.
    pub fn metrics(&self) -> &ClusterMetrics {
        &self.metrics
    }
}

/// HTTP/1 has the path in its target, and the host beside it.
fn as_http1(request: &mut Request<Outbound>) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
}

/// HTTP/2 has the host in its target (RFC 9113, section 8.3.1).
fn as_http2(request: &mut Request<Outbound>) {
    *request.version_mut() = Version::HTTP_2;
    if request.uri().authority().is_some() {
        return;
    }
    let host = request.headers_mut().remove(HOST).unwrap_or(HeaderValue::from_static(""));
    let mut parts = request.uri().clone().into_parts();
    let Ok(authority) = hyper::http::uri::Authority::try_from(host.as_bytes()) else { return };
    parts.authority = Some(authority);
    parts.scheme = Some(hyper::http::uri::Scheme::HTTP);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// The same request, whose body does not stream.
fn copy(request: &Request<Outbound>) -> Request<Outbound> {
    let mut same = Request::new(match request.body() {
        Outbound::Whole(bytes) => Outbound::Whole(bytes.clone()),
        Outbound::Changed(_) | Outbound::Empty | Outbound::Streamed(_) => Outbound::Empty,
    });
    *same.method_mut() = request.method().clone();
    *same.uri_mut() = request.uri().clone();
    *same.version_mut() = request.version();
    *same.headers_mut() = request.headers().clone();
    *same.extensions_mut() = request.extensions().clone();
    same
}
