//! Reads from replicas, and where servers stand.

use std::net::IpAddr;
use std::time::Duration;

use crate::Endpoint;

/// From where calls that change nothing are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// Every server, the primary too.
    Any,
    /// Replicas of the own zone, else its primary, else replicas elsewhere.
    Nearest,
    /// Replicas; the primary if none is fit.
    PreferReplica,
    /// The primary alone.
    #[default]
    Primary,
}

/// What a cluster reads from its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadsSpec {
    /// From where.
    pub from: ReadFrom,
    /// A replica is read only if it is known to have had, this long ago, everything that its primary had.
    pub max_staleness: Duration,
    /// Where this process is.
    pub zone: Option<String>,
    /// Where servers are; the first that fits counts.
    pub zones: Vec<(Place, String)>,
    /// Replicas of the one server, where nobody tells of them.
    pub replicas: Vec<Endpoint>,
}

/// A server, or some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// All of this host.
    Host(String),
    /// This one.
    HostPort(String, u16),
    /// All of a network: an address of it, and the bits that its addresses have in common.
    Network(IpAddr, u8),
}

// === impl ReadFrom ===

impl ReadFrom {
    /// As the configuration spells them.
    pub const ALL: [(&'static str, Self); 4] = [
        ("any", Self::Any),
        ("nearest", Self::Nearest),
        ("prefer-replica", Self::PreferReplica),
        ("primary", Self::Primary),
    ];
}

impl Default for ReadsSpec {
    fn default() -> Self {
        Self {
            from: ReadFrom::Primary,
            max_staleness: Duration::from_secs(10),
            zone: None,
            zones: Vec::new(),
            replicas: Vec::new(),
        }
    }
}

// === impl Place ===

impl Place {
    /// Reads `host`, `host:port` or `network/bits`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some((address, bits)) = text.split_once('/') {
            let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
            let most = if address.is_ipv4() { 32 } else { 128 };
            return (bits <= most).then_some(Self::Network(address, bits));
        }
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return Some(Self::HostPort(address.ip().to_string(), address.port()));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Some(Self::Host(text.into()));
        }
        let is_host = |host: &str| {
            let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.chars().all(is_fine)
        };
        match text.split_once(':') {
            Some((host, port)) if is_host(host) => Some(Self::HostPort(host.into(), port.parse().ok()?)),
            None if is_host(text) => Some(Self::Host(text.into())),
            _ => None,
        }
    }

    /// Whether a server at `host` and `port` is meant.
    pub fn has(&self, host: &str, port: u16) -> bool {
        match self {
            Self::Host(own) => own == host,
            Self::HostPort(own, own_port) => own == host && *own_port == port,
            Self::Network(network, bits) => match (network, host.parse()) {
                (IpAddr::V4(network), Ok(IpAddr::V4(ip))) => {
                    let shift = 32 - u32::from(*bits);
                    let prefix = |ip: u32| ip.checked_shr(shift).unwrap_or(0);
                    prefix(network.to_bits()) == prefix(ip.to_bits())
                }
                (IpAddr::V6(network), Ok(IpAddr::V6(ip))) => {
                    let shift = 128 - u32::from(*bits);
                    let prefix = |ip: u128| ip.checked_shr(shift).unwrap_or(0);
                    prefix(network.to_bits()) == prefix(ip.to_bits())
                }
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_a_server_or_a_network() {
        for (text, host, port, is_in) in [
            ("a.example", "a.example", 1, true),
            ("a.example", "b.example", 1, false),
            ("a:6379", "a", 6379, true),
            ("a:6379", "a", 6380, false),
            ("10.1.0.0/16", "10.1.255.3", 1, true),
            ("10.1.0.0/16", "10.2.0.3", 1, false),
            ("0.0.0.0/0", "1.2.3.4", 1, true),
            ("0.0.0.0/0", "::1", 1, false),
            ("10.0.0.1/32", "10.0.0.1", 1, true),
            ("fd00::/8", "fd12::1", 1, true),
            ("fd00::/8", "fe80::1", 1, false),
            ("::1", "::1", 9, true),
            ("[::1]:9", "::1", 9, true),
        ] {
            assert_eq!(Place::parse(text).unwrap().has(host, port), is_in, "{text} {host}:{port}");
        }
        for text in ["", "10.0.0.0/33", "a/8", "a:b", "a b", "a:1:2"] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }
}
