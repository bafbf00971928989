//! Sessions of HTTP doors.
//!
//! hyper reads and writes the messages of a client's connection, HTTP/1.1 or HTTP/2, and gives each request to
//! `exchange`, which runs it through the policies, sends it to a server (`clusters/src/http.rs`), and passes the answer
//! back as it comes. Bodies are streamed both ways: nothing is read that the other side does not take. Before hyper sees
//! the bytes of HTTP/1, the `Guarded` stream looks whether two parsers might read them in two ways.
//!
//! What a client may take its time with is bounded by looking at all clients a few times a second (`Link::look`), so that
//! no request starts a timer.

mod affinity;
mod changed;
mod early;
mod exchange;
mod filters;
mod guarded;
mod link;
mod outgoing;
mod route;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mecha_clusters::Stream;
use mecha_clusters::http::{FieldCase, OnThisThread, Upgraded};
use mecha_core::{Peer, Policy};
use mecha_filters::http::HttpFilter;
use mecha_telemetry::{CloseReason, ClusterMetrics, ListenerMetrics};
use mecha_transport::{Clock, Outbox, ReadHalf, WriteHalf};
use slab::Slab;

use super::opaque::{Passage, Relay};
use super::{ConnectionInfo, Place, Places};
pub use filters::Asker;
pub use route::{Action, Forward, HttpRoute, Redirect, Retry, RetryOn, Target};
pub use tunnel::Tunnel;

use guarded::Guarded;
use link::{Leaving, Link, Onward};

/// Bytes of one request's head.
const MAX_HEAD: usize = 64 << 10;
/// Fields of one request's head.
const MAX_FIELDS: usize = 128;
/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Bytes that a client may send on one stream before its server takes them, and on all streams of a connection.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);
/// Streams that a client has reset, or that broke rules, before the connection is ended (CVE-2023-44487, CVE-2025-8671).
const MAX_RESETS: usize = 64;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a head, from its first byte.
    pub head_micros: u64,
    /// For anything to come of a body that is waited for, or to be read of an answer.
    pub body_micros: u64,
    /// Between two requests; 0 is for ever.
    pub idle_micros: u64,
}

/// What the clients of one listener share on one worker.
pub struct HttpListener {
    /// For people.
    pub name: String,
    /// The first that takes a request counts.
    pub routes: Vec<HttpRoute>,
    /// What becomes of requests that no route takes.
    pub forward: Forward,
    /// Where clients may go with `CONNECT`.
    pub tunnels: Vec<Rc<Tunnel>>,
    /// For a request and its answer to their ends, or a tunnel.
    pub max_duration: Option<Duration>,
    /// Whether clients of HTTP/1.1 get answers before the answer.
    pub has_early: bool,
    /// How clients of HTTP/1 get names of fields.
    pub case: FieldCase,
    /// Whether its clients speak TLS.
    pub is_tls: bool,
    /// What each passes first.
    pub policies: RefCell<Vec<Box<dyn Policy>>>,
    /// Filters that look into requests, each with the number of policies that stand before it.
    pub filters: Vec<(usize, Box<dyn HttpFilter>)>,
    /// Who may be here, over all workers.
    pub places: Arc<Places>,
    /// Counters.
    pub metrics: Arc<ListenerMetrics>,
    /// How long clients may take.
    pub patience: Patience,
    /// A newer configuration is in force; `successor` tells where clients go.
    pub is_retired: Cell<bool>,
    /// What takes this listener's clients over.
    pub successor: RefCell<Option<Rc<HttpListener>>>,
}

impl HttpListener {
    /// Sends the clients to `successor`, or ends them if there is none.
    pub fn retire(&self, successor: Option<Rc<Self>>) {
        self.successor.replace(successor);
        self.is_retired.set(true);
    }
}

/// All HTTP clients of one worker.
pub struct HttpEngine {
    links: RefCell<Slab<Rc<Link>>>,
    clock: Clock,
    /// For connections that have become something else; the worker's.
    scratch: Rc<RefCell<Vec<u8>>>,
}

// === impl HttpEngine ===

impl HttpEngine {
    /// An engine without clients.
    pub fn new(clock: Clock, scratch: Rc<RefCell<Vec<u8>>>) -> Rc<Self> {
        Rc::new(Self { links: RefCell::default(), clock, scratch })
    }

    /// Serves one client to its end.
    pub async fn serve(
        self: Rc<Self>,
        listener: Rc<HttpListener>,
        place: Place,
        peer: Peer,
        (read, write): (ReadHalf, WriteHalf),
    ) {
        listener.metrics.opened();
        let agreed = read.alpn();
        let link = Link::new(peer, listener, place, self.clock.micros());
        let at = self.links.borrow_mut().insert(Rc::clone(&link));
        link.number.set(at);
        let mut leaving = Leaving { engine: Rc::clone(&self), link: Rc::clone(&link), why: CloseReason::Bug };
        let mut stream = Guarded::new(read, write, Rc::clone(&link));
        let is_http2 = match agreed.as_deref() {
            Some(b"h2") => true,
            Some(_) => false,
            None => match link.unless_closing(stream.begins_as_http2()).await {
                Some(Ok(is_http2)) => is_http2,
                // It has left, or been ended, without a word.
                Some(Err(_)) => {
                    leaving.why = CloseReason::ReadFailed;
                    return;
                }
                None => return,
            },
        };
        leaving.why = if is_http2 {
            stream.is_http2();
            self.serve_http2(&link, stream).await
        } else {
            self.serve_http1(&link, stream).await
        };
    }

    async fn serve_http1(self: &Rc<Self>, link: &Rc<Link>, stream: Guarded) -> CloseReason {
        let service = {
            let (engine, link) = (Rc::clone(self), Rc::clone(link));
            // Boxed, or the connection could not be taken apart when it becomes something else.
            service_fn(move |request| {
                Box::pin(exchange::exchange(Rc::clone(&engine), Rc::clone(&link), request, false))
            })
        };
        let case = link.listener.borrow().case;
        let mut connection = http1::Builder::new()
            .preserve_header_case(case == FieldCase::Preserve)
            .title_case_headers(case == FieldCase::Title)
            .max_headers(MAX_FIELDS)
            .max_header_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let mut is_told = false;
        let ended = std::future::poll_fn(|cx| {
            link.set_waker(cx.waker());
            if link.closing.get().is_some() {
                return Poll::Ready(None);
            }
            if link.is_over.get() && !is_told {
                is_told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            connection.poll_without_shutdown(cx).map(Some)
        })
        .await;
        let violation = |stream: &Guarded| stream.violation().is_some();
        match ended {
            None => CloseReason::Idle,
            Some(Err(error)) => {
                let stream = connection.into_parts().io.into_inner();
                if error.is_parse() || violation(&stream) {
                    link.unless_closing(stream.end()).await;
                    CloseReason::Protocol
                } else {
                    CloseReason::ReadFailed
                }
            }
            Some(Ok(())) => {
                let parts = connection.into_parts();
                let stream = parts.io.into_inner();
                match link.onward.take() {
                    Some(Onward::Lease(lease)) => {
                        let servers = Rc::clone(lease.servers());
                        let Some(server) = lease.upgraded().await else { return CloseReason::UpstreamLost };
                        let Upgraded { halves, read, seat } = server;
                        let relay = Relay::holding(
                            stream.into_halves(),
                            halves,
                            holding(&parts.read_buf),
                            holding(&read),
                        );
                        let why = self.pass(link, relay, servers.metrics()).await;
                        drop(seat);
                        return why;
                    }
                    Some(Onward::Tunnel(server, tunnel)) => {
                        let Stream { read, write, seat } = server;
                        let client = stream.into_halves();
                        let relay = Relay::holding(
                            client,
                            (read, write),
                            holding(&parts.read_buf),
                            Outbox::default(),
                        );
                        let why = self.pass(link, relay, tunnel.streams.metrics()).await;
                        drop(seat);
                        return why;
                    }
                    None => {}
                }
                let is_violated = violation(&stream);
                link.unless_closing(stream.end()).await;
                if is_violated { CloseReason::Protocol } else { CloseReason::ClientLeft }
            }
        }
    }

    async fn serve_http2(self: &Rc<Self>, link: &Rc<Link>, stream: Guarded) -> CloseReason {
        let service = {
            let (engine, link) = (Rc::clone(self), Rc::clone(link));
            // Boxed, or all of it would be moved about on its way into a task of its own.
            service_fn(move |request| {
                Box::pin(exchange::exchange(Rc::clone(&engine), Rc::clone(&link), request, true))
            })
        };
        let mut connection = pin!(
            http2::Builder::new(OnThisThread)
                .max_concurrent_streams(MAX_STREAMS)
                .initial_stream_window_size(WINDOWS.0)
                .initial_connection_window_size(WINDOWS.1)
                .max_header_list_size(MAX_HEAD as u32)
                .max_send_buf_size(WINDOWS.0 as usize)
                .max_pending_accept_reset_streams(MAX_RESETS)
                .max_local_error_reset_streams(MAX_RESETS)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut is_told = false;
        let ended = std::future::poll_fn(|cx| {
            link.set_waker(cx.waker());
            if link.closing.get().is_some() {
                return Poll::Ready(None);
            }
            if link.is_draining.get() && !is_told {
                is_told = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx).map(Some)
        })
        .await;
        match ended {
            None => CloseReason::Idle,
            Some(Ok(())) => CloseReason::ClientLeft,
            Some(Err(error)) if error.is_user() || is_io(&error) => CloseReason::ReadFailed,
            Some(Err(_)) => CloseReason::Protocol,
        }
    }

    /// Passes on what the two send each other from here on, for as long as that may take.
    async fn pass(&self, link: &Link, mut relay: Relay, metrics: &ClusterMetrics) -> CloseReason {
        let limit = link.listener.borrow().max_duration;
        let passing = std::future::poll_fn(|cx| {
            link.set_waker(cx.waker());
            if let Some(why) = link.closing.get() {
                return Poll::Ready(why);
            }
            let mut scratch = self.scratch.borrow_mut();
            let polled = relay.poll(cx, &mut scratch);
            drop(scratch);
            let passed = relay.take_passed();
            if passed.is_some() {
                link.is_active.set(true);
                let listener = link.listener.borrow();
                listener.metrics.read_bytes(passed.up);
                listener.metrics.wrote_bytes(passed.down);
                metrics.sent_bytes(passed.up);
                metrics.received_bytes(passed.down);
            }
            polled
        });
        let why = match limit {
            None => passing.await,
            Some(limit) => tokio::time::timeout(limit, passing).await.unwrap_or(CloseReason::Idle),
        };
        if why != CloseReason::ClientLeft {
            relay.abort();
        }
        why
    }

    /// At most so many clients, for people.
    pub fn describe(&self, limit: usize) -> Vec<ConnectionInfo> {
        let now = self.clock.micros();
        self.links.borrow().iter().take(limit).map(|(_, link)| link.describe(now)).collect()
    }

    /// Clients connected now.
    pub fn len(&self) -> usize {
        self.links.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends every connection when what is under way is answered, and says so in HTTP's own way.
    pub fn drain(&self) {
        self.links.borrow().iter().for_each(|(_, link)| link.drain());
    }

    /// Moves the clients of retired listeners, which need not notice; ends those whose door is gone. Returns how many are
    /// left.
    pub fn hand_over(&self, is_late: bool) -> usize {
        let mut left = 0;
        for (_, link) in self.links.borrow().iter().filter(|(_, link)| !link.follow()) {
            left += 1;
            link.drain();
            if is_late {
                link.close(CloseReason::Drained);
            }
        }
        left
    }

    /// Ends connections whose clients take too long.
    pub fn close_idle(&self, now_micros: u64) {
        self.links.borrow().iter().for_each(|(_, link)| link.look(now_micros));
    }
}

fn holding(bytes: &[u8]) -> Outbox {
    let mut outbox = Outbox::default();
    outbox.extend(bytes);
    outbox
}

fn is_io(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    let mut source = error.source();
    while let Some(inner) = source {
        if inner.is::<std::io::Error>() {
            return true;
        }
        source = inner.source();
    }
    false
}

/// A request that hyper has read.
type Asked = hyper::Request<Incoming>;
