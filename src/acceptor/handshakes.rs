//! The thread that does with a client what comes before its protocol: a header of the PROXY protocol, finding out which protocol it
//! is, TLS.
//!
//! A handshake costs a thousand times what a command costs (see `docs/tls.md`), and clients that
//! reconnect come in storms. On a worker each would delay everybody whom it serves, so handshakes have a thread of
//! their own: established clients compete with it for the machine, never for a worker's turn. How many are under way
//! is bounded; who comes on top waits in the listening socket. Each has a time limit, so that one that never ends
//! holds its place for so long only.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mecha_telemetry::prometheus;
use mecha_transport::Accepted;
use mecha_transport::tls::{self, HandshakeError, ServerTls};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{DetectDoor, give};
use crate::worker::Worker;

/// Handshakes under way at one time. Each holds a few kilobytes.
const MAX_UNDER_WAY: usize = 1024;

/// TLS of one door.
pub struct TlsDoor {
    /// For logs and metrics.
    pub name: String,
    /// Certificates.
    pub tls: ServerTls,
    /// Whether clients may also speak without TLS.
    pub is_optional: bool,
    /// Time for a handshake.
    pub timeout: Duration,
    /// What a client that speaks without TLS is told, in its own protocol.
    pub hint: Vec<u8>,
    /// Counters.
    pub metrics: mecha_telemetry::TlsMetrics,
}

/// Time for the header of the PROXY protocol, which a proxy sends at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The PROXY protocol of one door.
pub struct ProxyDoor {
    /// For logs.
    pub name: String,
    /// Counts connections without a header; `None` where it cannot be registered.
    pub failures: Option<prometheus::IntCounter>,
}

/// What comes before a door's protocol, in this order.
#[derive(Clone, Default)]
pub struct Prelude {
    /// A header that tells who the client is.
    pub proxy: Option<Arc<ProxyDoor>>,
    /// Finding out whose client it is. What comes before the protocol of that door then comes next.
    pub detect: Option<Arc<DetectDoor>>,
    /// A handshake.
    pub tls: Option<Arc<TlsDoor>>,
}

impl Prelude {
    /// Whether nothing does.
    pub fn is_empty(&self) -> bool {
        self.proxy.is_none() && self.detect.is_none() && self.tls.is_none()
    }
}

/// A client on its way to the thread.
struct Candidate {
    door: u64,
    prelude: Prelude,
    stream: Accepted,
    id: u64,
    _place: OwnedSemaphorePermit,
}

/// The acceptor's end of the thread.
pub(super) struct Handshakes {
    candidates: mpsc::UnboundedSender<Candidate>,
    places: Arc<Semaphore>,
}

impl Handshakes {
    /// Starts the thread. It ends with the last sender.
    pub(super) fn start(workers: Vec<Worker>) -> io::Result<Self> {
        // Not without bound: everybody in it holds a place.
        let (candidates, mut received) = mpsc::unbounded_channel::<Candidate>();
        std::thread::Builder::new().name("mecha-handshake".into()).spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    let workers: Arc<[Worker]> = workers.into();
                    while let Some(candidate) = received.recv().await {
                        tokio::task::spawn_local(serve(candidate, Arc::clone(&workers)));
                    }
                }),
                Err(error) => tracing::error!(%error, "handshake thread has no runtime"),
            }
        })?;
        Ok(Self { candidates, places: Arc::new(Semaphore::new(MAX_UNDER_WAY)) })
    }

    /// Takes a client, when there is a place for it.
    pub(super) async fn take(&self, door: u64, prelude: Prelude, stream: Accepted, id: u64) {
        // The semaphore is never closed, and the thread lives as long as this end.
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        let _ = self.candidates.send(Candidate { door, prelude, stream, id, _place: place });
    }
}

async fn serve(candidate: Candidate, workers: Arc<[Worker]>) {
    let Candidate { door, prelude, stream, id, _place } = candidate;
    let stream = match &prelude.proxy {
        Some(proxy) => match introduced(proxy, stream).await {
            Some(stream) => stream,
            None => return,
        },
        None => stream,
    };
    let (door, tls, stream) = match &prelude.detect {
        None => (door, prelude.tls, stream),
        Some(detect) => match detect.lead(stream).await {
            Ok((stream, Some(lead))) => (lead.door, lead.prelude.tls.clone(), stream),
            Ok((stream, None)) => (door, prelude.tls, stream),
            // It is gone.
            Err(_) => return,
        },
    };
    let Some(tls) = tls else { return give(&workers, door, stream, id).await };
    let result = {
        let _under_way = UnderWay::new(&tls);
        match stream {
            Accepted::Tcp(stream, addr) => shake(&tls, stream, addr).await,
            other => Ok(Some(other)),
        }
    };
    match result {
        Ok(Some(stream)) => give(&workers, door, stream, id).await,
        Ok(None) => {}
        Err(error) => {
            tls.metrics.failed(error.name());
            tracing::debug!(listener = tls.name, %error, "TLS handshake failed");
        }
    }
}

/// The client with the address that a proxy gives it. Without a header nobody can tell whose client it is: `None`.
async fn introduced(door: &ProxyDoor, stream: Accepted) -> Option<Accepted> {
    let error = match tokio::time::timeout(HEADER_TIMEOUT, stream.proxied()).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    if let Some(failures) = &door.failures {
        failures.inc();
    }
    tracing::debug!(listener = door.name, %error, "connection without a header of the PROXY protocol");
    None
}

/// Counted down however the handshake ends.
struct UnderWay<'a>(&'a TlsDoor);

impl<'a> UnderWay<'a> {
    fn new(door: &'a TlsDoor) -> Self {
        door.metrics.began();
        Self(door)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.metrics.ended();
    }
}

/// `None`: the client was sent away.
async fn shake(
    door: &TlsDoor,
    stream: std::net::TcpStream,
    addr: std::net::SocketAddr,
) -> Result<Option<Accepted>, HandshakeError> {
    let stream = TcpStream::from_std(stream)?;
    let is_tls = match tokio::time::timeout(door.timeout, tls::is_tls(&stream)).await {
        Ok(is_tls) => is_tls?.ok_or(HandshakeError::Closed)?,
        // Clients of TLS speak first and at once. One that is silent may be a pool's spare connection.
        Err(_) if door.is_optional => false,
        Err(_) => {
            door.metrics.failed("timed_out");
            return Ok(None);
        }
    };
    if !is_tls {
        if door.is_optional {
            door.metrics.plain();
            return Ok(Some(Accepted::Tcp(stream.into_std()?, addr)));
        }
        door.metrics.failed("not_tls");
        // A client that is gone needs no hint. What it has sent is read, or the hint would be lost with a reset.
        let _ = stream.try_read(&mut [0; 4096]);
        let _ = stream.try_write(&door.hint);
        return Ok(None);
    }
    match tokio::time::timeout(door.timeout, tls::accept(stream, addr, &door.tls)).await {
        Ok(shaken) => {
            let shaken = shaken?;
            door.metrics.shaken(shaken.version, shaken.is_resumed);
            Ok(Some(Accepted::Tls(shaken.stream)))
        }
        Err(_) => {
            door.metrics.failed("timed_out");
            Ok(None)
        }
    }
}
