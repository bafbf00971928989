//! Ports by which clients of Kafka reach single brokers.

use std::net::SocketAddr;

use crate::{Address, ListenerSpec};

/// Ports of a listener that does not say how many.
const DEFAULT_COUNT: u16 = 16;

/// The most ports that there may be; each is a socket.
pub(crate) const MAX_COUNT: u16 = 1000;

/// What stands for a broker's number in the host that clients are told.
pub const BROKER_ID: &str = "$(id)";

/// How single brokers are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokersSpec {
    /// The first port; 0 lets the system choose all of them. `None`: that behind the listener's own.
    pub first: Option<u16>,
    /// How many ports there are. 0: that of the listener is all brokers'.
    pub count: u16,
    /// They are told apart by the names that clients ask for in the TLS handshake.
    pub is_by_name: bool,
    /// The host that clients are told, in which [`BROKER_ID`] may stand once; `None`: the address to which they have
    /// connected.
    pub host: Option<String>,
}

impl Default for BrokersSpec {
    fn default() -> Self {
        Self { first: None, count: DEFAULT_COUNT, is_by_name: false, host: None }
    }
}

impl BrokersSpec {
    /// Where brokers are reached, for a listener at `own`.
    fn addresses(&self, own: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let first = self.first.unwrap_or(if own.port() == 0 { 0 } else { own.port().saturating_add(1) });
        let port = move |at: u16| if first == 0 { 0 } else { first.saturating_add(at) };
        (0..self.count).map(move |at| SocketAddr::new(own.ip(), port(at)))
    }

    /// Whether all brokers have one address, that of the listener.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.count == 0 && !self.is_by_name
    }

    /// Whether there are so many ports behind the first.
    pub(crate) fn fits(&self, own: SocketAddr) -> bool {
        let first = self.first.unwrap_or(own.port().saturating_add(1));
        let is_any = first == 0 || own.port() == 0 && self.first.is_none();
        is_any || self.count == 0 || first.checked_add(self.count - 1).is_some()
    }
}

impl ListenerSpec {
    /// Everywhere it listens: its address first, and then those of single brokers.
    pub fn sockets(&self) -> Vec<Address> {
        let mut all = vec![self.address.clone()];
        if let (Some(brokers), Address::Tcp(own)) = (&self.brokers, &self.address) {
            all.extend(brokers.addresses(*own).map(Address::Tcp));
        }
        all
    }
}
