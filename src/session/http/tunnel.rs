//! `CONNECT` (RFC 9110, section 9.3.6): a request whose connection, or stream, leads to a server from then on.
//!
//! A client names a host and a port, and the first of the listener's tunnels that allows it says where it is led: to them, or
//! to a cluster. It passes the listener's filters and policies like every request, and the cluster's policies; bytes pass as
//! on `tcp://` doors. The call has ended when the server is reached.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use mecha_clusters::http::{Meter, Wire};
use mecha_clusters::{Stream, Streams};
use mecha_config::Reachable;
use mecha_core::{Peer, Policy, Refusal};
use mecha_telemetry::ClusterMetrics;
use mecha_transport::Address;

/// Where clients may go.
pub struct Tunnel {
    /// Whom they may name.
    pub allow: Vec<Reachable>,
    /// How they get there.
    pub streams: Rc<Streams>,
    /// Whether they get to whomever they name, and not to the cluster's servers.
    pub is_original: bool,
    /// The cluster's policies.
    pub policies: RefCell<Vec<Box<dyn Policy>>>,
}

/// Whom the request with this head names: a host without brackets, and a port.
pub(super) fn named(head: &Parts) -> Option<(String, u16)> {
    let authority = head.uri.authority()?;
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some((host.to_string(), authority.port_u16()?))
}

/// The first of `tunnels` that leads there.
pub(super) fn find<'t>(tunnels: &'t [Rc<Tunnel>], host: &str, port: u16) -> Option<&'t Rc<Tunnel>> {
    tunnels.iter().find(|tunnel| tunnel.allow.iter().any(|allowed| allowed.has(host, port)))
}

impl Tunnel {
    /// Connects.
    ///
    /// # Errors
    /// As [`Streams::open`].
    pub(super) async fn open(
        &self,
        (host, port): (String, u16),
        client: &Peer,
        within: Option<Duration>,
    ) -> Result<Stream, Refusal> {
        if !self.is_original {
            return self.streams.open(client, within).await;
        }
        let address = match host.parse() {
            Ok(ip) => Address::Tcp(SocketAddr::new(ip, port)),
            Err(_) => Address::Host(host, port),
        };
        self.streams.open_at(&address, client, within).await
    }

    /// Passes on what comes over a stream of HTTP/2 (RFC 9113, section 8.5), to its end or for as long as it may.
    pub(super) async fn pass(self: Rc<Self>, client: OnUpgrade, server: Stream, limit: Option<Duration>) {
        let Ok(client) = client.await else { return };
        let mut client = TokioIo::new(client);
        let Stream { read, write, seat } = server;
        let meter = ServerMeter(Arc::clone(self.streams.shared_metrics()));
        let mut server = Wire::new(read, write, meter);
        let passing = tokio::io::copy_bidirectional(&mut client, &mut server);
        let is_whole = match limit {
            None => passing.await.is_ok(),
            Some(limit) => tokio::time::timeout(limit, passing).await.is_ok_and(|passed| passed.is_ok()),
        };
        if !is_whole {
            // Half of what was said must not look like all of it.
            server.into_halves().1.abort();
        }
        drop(seat);
    }
}

/// Counts the bytes of servers.
struct ServerMeter(Arc<ClusterMetrics>);

impl Meter for ServerMeter {
    fn read(&mut self, count: usize) {
        self.0.received_bytes(count);
    }

    fn wrote(&mut self, count: usize) {
        self.0.sent_bytes(count);
    }
}
