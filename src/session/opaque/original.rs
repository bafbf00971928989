//! Connections that go where they were going before they were led here.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mecha_clusters::{Stream, Streams};
use mecha_core::{Peer, Refusal};
use mecha_telemetry::ClusterMetrics;
use mecha_transport::{Address, ReadHalf, WriteHalf};

use super::{Destination, Nobody, Relay};

/// Wherever a client was going.
pub struct Original {
    /// Connections to all those servers.
    pub streams: Rc<Streams>,
    /// Where the listener is: who was going there was led nowhere, and would be led in a circle.
    pub own: Option<SocketAddr>,
}

impl Original {
    fn is_own(&self, addr: SocketAddr) -> bool {
        let of = |own: SocketAddr| {
            // Rules lead nobody here who dials this very port, so it does not matter whose address it is.
            own.port() == addr.port() && (own.ip().is_unspecified() || own.ip() == addr.ip().to_canonical())
        };
        self.own.is_some_and(of)
    }
}

impl Destination for Original {
    type Opened = Stream;
    type Passage = Relay;

    async fn open(
        &self,
        client: &Peer,
        _: Option<&str>,
        within: Option<Duration>,
    ) -> Result<Stream, Refusal> {
        let Some(to) = client.local.filter(|to| !self.is_own(*to)) else {
            tracing::warn!(client = ?client.addr, "a connection was led here by no rule, and goes nowhere");
            return Err(Refusal::NoRoute);
        };
        self.streams.open_at(&Address::Tcp(to), client, within).await
    }

    fn pass(self: &Rc<Self>, _: &Peer, halves: (ReadHalf, WriteHalf), server: Stream) -> Relay {
        Relay::new(halves, server, Nobody)
    }

    fn is_same(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        Rc::ptr_eq(&self.streams, &other.streams)
    }

    fn metrics(&self) -> &ClusterMetrics {
        self.streams.metrics()
    }
}
