//! A mark on everything that this process sends, where it stands among the connections that it intercepts.
//!
//! A rule of the packet filter that leads an application's connections here would lead mecha's own here too, for ever. So
//! they carry a mark (`SO_MARK`, socket(7)) that rules leave alone.

use std::io;
use std::net::SocketAddr;
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

/// Connects, with the mark if there is one.
pub(crate) async fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let mark = MARK.load(Ordering::Relaxed);
    if mark == 0 {
        return TcpStream::connect(addr).await;
    }
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    SockRef::from(&socket).set_mark(mark)?;
    socket.connect(addr).await
}

/// Connects to the first of a host's addresses that answers.
pub(crate) async fn dial_host(host: &str, port: u16) -> io::Result<TcpStream> {
    if MARK.load(Ordering::Relaxed) == 0 {
        return TcpStream::connect((host, port)).await;
    }
    let mut why = io::Error::from(io::ErrorKind::NotFound);
    for addr in tokio::net::lookup_host((host, port)).await? {
        match dial(addr).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error,
        }
    }
    Err(why)
}
