//! One connection to a server, with the task that drives it.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use mecha_telemetry::ClusterMetrics;
use mecha_transport::{ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use super::{FieldCase, Meter, Outbound, Wire};
use crate::Stream;

/// Bytes of one answer's head, and of a list of HTTP/2 fields.
const MAX_HEAD: usize = 256 << 10;
/// Bytes that a server may send on one stream before they are read.
const STREAM_WINDOW: u32 = 256 << 10;
/// As `STREAM_WINDOW`, on one connection.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// A connection that speaks something else from now on, with what was read of it already.
pub struct Upgraded {
    /// The stream.
    pub halves: (ReadHalf, WriteHalf),
    /// What came behind the answer's head.
    pub read: Bytes,
    /// Counts the connection until it is dropped.
    pub seat: Counted,
}

/// Counts one connection, in its server's count and in the pool's.
pub struct Counted {
    pub(super) _stream: crate::StreamSeat,
    pub(super) _pool: super::pool::Seat,
}

/// Counts the bytes of servers.
pub(super) struct ServerMeter(pub(super) Arc<ClusterMetrics>);

impl Meter for ServerMeter {
    fn read(&mut self, count: usize) {
        self.0.received_bytes(count);
    }

    fn wrote(&mut self, count: usize) {
        self.0.sent_bytes(count);
    }
}

/// Runs what HTTP/2's engine wants to run beside a connection, on the connection's own thread.
#[derive(Clone)]
pub struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A connection that carries one request at a time.
pub(super) struct Single {
    pub(super) sender: http1::SendRequest<Outbound>,
    /// The stream, when HTTP has ended on it.
    pub(super) end: oneshot::Receiver<Upgraded>,
}

pub(super) async fn single(
    stream: Stream,
    pool: super::pool::Seat,
    metrics: Arc<ClusterMetrics>,
    case: FieldCase,
) -> hyper::Result<Single> {
    let Stream { read, write, seat } = stream;
    let seat = Counted { _stream: seat, _pool: pool };
    let io = TokioIo::new(Wire::new(read, write, ServerMeter(metrics)));
    let (sender, mut connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .preserve_header_case(case == FieldCase::Preserve)
        .title_case_headers(case == FieldCase::Title)
        .handshake(io)
        .await?;
    let (tell, end) = oneshot::channel();
    tokio::task::spawn_local(async move {
        let ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        if ended.is_ok() {
            let parts = connection.into_parts();
            // Nobody waits for it unless it was upgraded.
            let _ = tell.send(Upgraded {
                halves: parts.io.into_inner().into_halves(),
                read: parts.read_buf,
                seat,
            });
        }
    });
    Ok(Single { sender, end })
}

/// A connection that carries many.
pub(super) async fn multiplexed(
    stream: Stream,
    pool: super::pool::Seat,
    metrics: Arc<ClusterMetrics>,
) -> hyper::Result<http2::SendRequest<Outbound>> {
    let Stream { read, write, seat } = stream;
    let seat = Counted { _stream: seat, _pool: pool };
    let io = TokioIo::new(Wire::new(read, write, ServerMeter(metrics)));
    let (sender, connection) = http2::Builder::new(OnThisThread)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .handshake(io)
        .await?;
    tokio::task::spawn_local(async move {
        let _seat = seat;
        // Those who wait for answers learn of its end themselves.
        let _ = connection.await;
    });
    Ok(sender)
}
