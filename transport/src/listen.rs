//! Listening sockets.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use crate::Address;
use crate::stream::Accepted;

/// Connections that may wait for `accept`. A burst of reconnecting clients must not be dropped by the kernel.
const BACKLOG: i32 = 4096;

/// A bound, listening, non-blocking socket that is not tied to a runtime yet.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix.
    Unix(std::os::unix::net::UnixListener),
}

/// Binds and listens. A stale Unix socket file that nobody listens on is replaced.
///
/// # Errors
/// Whatever the system says; `AddrInUse` most often. Host names are resolved and the first address is taken.
pub fn bind(address: &Address) -> io::Result<Bound> {
    match address {
        Address::Host(host, port) => {
            let addr = std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), *port))?.next();
            bind_tcp(addr.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?)
        }
        Address::Found(_, addr) | Address::Tcp(addr) => bind_tcp(*addr),
        Address::Unix(path) => {
            let listener = match std::os::unix::net::UnixListener::bind(path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    if std::os::unix::net::UnixStream::connect(path).is_ok() {
                        return Err(error);
                    }
                    std::fs::remove_file(path)?;
                    std::os::unix::net::UnixListener::bind(path)?
                }
                other => other?,
            };
            listener.set_nonblocking(true)?;
            Ok(Bound::Unix(listener))
        }
    }
}

/// As [`bind`], for connections that are led here though they are made to other addresses (`TPROXY`, Linux's
/// Documentation/networking/tproxy.rst).
///
/// # Errors
/// As [`bind`]; `PermissionDenied` without the privilege, `Unsupported` for Unix sockets.
pub fn bind_transparent(address: &Address) -> io::Result<Bound> {
    match address {
        Address::Tcp(addr) => bind_socket(*addr, true),
        Address::Found(..) | Address::Host(..) | Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<Bound> {
    bind_socket(addr, false)
}

fn bind_socket(addr: SocketAddr, is_transparent: bool) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if is_transparent && addr.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
        // A socket of both families takes what is led to it in both.
        let _ = socket.set_ip_transparent_v4(true);
    } else if is_transparent {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(Bound::Tcp(socket.into()))
}

impl Bound {
    /// The address in force, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn local_address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Self::Unix(listener) => {
                Address::Unix(listener.local_addr()?.as_pathname().map(Into::into).unwrap_or_default())
            }
        })
    }

    /// Hands the socket to the runtime of the calling task.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn into_listener(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(listener) => Listener::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Self::Unix(listener) => Listener::Unix(tokio::net::UnixListener::from_std(listener)?),
        })
    }
}

/// A listening socket inside a runtime.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(tokio::net::TcpListener),
    /// Unix.
    Unix(tokio::net::UnixListener),
}

impl Listener {
    /// Waits for one client.
    ///
    /// # Errors
    /// Whatever the system says; `EMFILE` when descriptors run out, which the caller must wait out.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                Accepted::from_tcp(stream, addr)
            }
            Self::Unix(listener) => Accepted::from_unix(listener.accept().await?.0),
        }
    }
}
