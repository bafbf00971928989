//! A mark on everything that this process sends, where it stands among the connections that it intercepts.
//!
//! A rule of the packet filter that leads an application's connections here would lead mecha's own here too, for ever. So
//! they carry a mark (`SO_MARK`, socket(7)) that rules leave alone.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

static MARK: AtomicU32 = AtomicU32::new(0);

/// From now on connections carry this mark.
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN`, and then they carry none: rules have to leave this process' user alone.
pub fn mark_outgoing(mark: u32) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, None)?.set_mark(mark)?;
    MARK.store(mark, Ordering::Relaxed);
    Ok(())
}

/// Whether this process may speak from addresses that are not this machine's (`IP_TRANSPARENT`, ip(7)).
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN` or `CAP_NET_RAW`.
pub fn may_keep_source() -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, None)?.set_ip_transparent_v4(true)
}

/// Connects, with the mark if there is one, and from `source` if that is given.
pub(crate) async fn dial(addr: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let mark = MARK.load(Ordering::Relaxed);
    if mark == 0 && source.is_none() {
        return TcpStream::connect(addr).await;
    }
    // An IPv4 address may be dressed as one of IPv6, on sockets of both families.
    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if mark != 0 {
        SockRef::from(&socket).set_mark(mark)?;
    }
    if let Some(source) = source {
        speak_as(&socket, source.to_canonical(), addr)?;
    }
    socket.connect(addr).await
}

/// Speaks from this address, whoever's it is.
fn speak_as(socket: &TcpSocket, source: IpAddr, to: SocketAddr) -> io::Result<()> {
    if source.is_ipv4() != to.is_ipv4() {
        let message = "the client's address is of the other family, and cannot be kept";
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message));
    }
    let own = SockRef::from(socket);
    if source.is_ipv4() {
        own.set_ip_transparent_v4(true)?;
    } else {
        own.set_ip_transparent_v6(true)?;
    }
    socket.bind(SocketAddr::new(source, 0))
}

/// Connects to the first of a host's addresses that answers.
pub(crate) async fn dial_host(host: &str, port: u16, source: Option<IpAddr>) -> io::Result<TcpStream> {
    if MARK.load(Ordering::Relaxed) == 0 && source.is_none() {
        return TcpStream::connect((host, port)).await;
    }
    let mut why = io::Error::from(io::ErrorKind::NotFound);
    for addr in tokio::net::lookup_host((host, port)).await? {
        match dial(addr, source).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error,
        }
    }
    Err(why)
}
