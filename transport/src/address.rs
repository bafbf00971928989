//! Where a socket listens or connects to.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A socket address. Host names are kept as text and resolved at each connect, so that a changed record is followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address that a host name was found to stand for. TLS is about the name, everything else about the address.
    Found(String, SocketAddr),
    /// Host name and port.
    Host(String, u16),
    /// IPv4 or IPv6 address and port.
    Tcp(SocketAddr),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(_, addr) => write!(f, "{addr}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
