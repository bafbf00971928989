//! Connected streams, cut in two halves.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mecha_core::Identity;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::Address;
use crate::mark::{dial, dial_host};
use crate::proxy::read_proxy_header;
use crate::tls::{self, ClientTls, Established, TlsReadHalf, TlsWriteHalf};

/// A peer that vanished without a word is noticed after about two minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The congestion control of connections inside this machine, where nothing can be congested. Controls that pace
/// (BBR) arm a timer for every write, and hold large ones back; this one only counts.
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// A client's stream on its way from the accepting thread to its worker: detached from any runtime.
#[derive(Debug)]
pub enum Accepted {
    /// TCP, with the client's address.
    Tcp(std::net::TcpStream, SocketAddr),
    /// TCP, with the TLS handshake done.
    Tls(Established),
    /// Unix, with the address of whom a proxy speaks for.
    Unix(std::os::unix::net::UnixStream, Option<SocketAddr>),
}

impl Accepted {
    pub(crate) fn from_tcp(stream: TcpStream, addr: SocketAddr) -> io::Result<Self> {
        tune(&stream);
        Ok(Self::Tcp(stream.into_std()?, addr))
    }

    pub(crate) fn from_unix(stream: UnixStream) -> io::Result<Self> {
        Ok(Self::Unix(stream.into_std()?, None))
    }

    /// Reads the header of the PROXY protocol that comes first, and takes its word for who the client is.
    ///
    /// # Errors
    /// `InvalidData` where there is no header, or a broken one; whatever the stream says.
    pub async fn proxied(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream, addr) => {
                let mut stream = TcpStream::from_std(stream)?;
                let source = read_proxy_header(&mut stream).await?;
                Self::Tcp(stream.into_std()?, source.unwrap_or(addr))
            }
            Self::Unix(stream, addr) => {
                let mut stream = UnixStream::from_std(stream)?;
                let source = read_proxy_header(&mut stream).await?;
                Self::Unix(stream.into_std()?, source.or(addr))
            }
            // The header stands before the handshake.
            Self::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    /// The client's address; `None` for Unix sockets.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, addr) => Some(*addr),
            Self::Tls(stream) => Some(stream.addr()),
            Self::Unix(_, addr) => *addr,
        }
    }

    /// The address that the client has connected to; `None` for Unix sockets.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream, _) => stream.local_addr().ok(),
            Self::Tls(stream) => stream.local(),
            Self::Unix(..) => None,
        }
    }

    /// The address that the client has dialled, if a rule of the packet filter has changed it (`REDIRECT`: the
    /// `SO_ORIGINAL_DST` of Linux's netfilter).
    pub fn redirected_from(&self) -> Option<SocketAddr> {
        let of = |socket: SockRef<'_>, is_ipv4: bool| {
            let original = if is_ipv4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
            original.ok()?.as_socket()
        };
        let local = self.local()?;
        // A socket of both families says so of an IPv4 client.
        let is_ipv4 = local.ip().to_canonical().is_ipv4();
        let original = match self {
            Self::Tcp(stream, _) => of(SockRef::from(stream), is_ipv4),
            Self::Tls(stream) => of(stream.socket(), is_ipv4),
            Self::Unix(..) => None,
        }?;
        let is_changed = original.port() != local.port() || original.ip() != local.ip().to_canonical();
        is_changed.then_some(original)
    }

    /// Who the client has proved to be.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Tls(stream) => stream.identity(),
            Self::Tcp(..) | Self::Unix(..) => None,
        }
    }

    /// Hands the stream to the runtime of the calling thread.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn into_halves(self) -> io::Result<(ReadHalf, WriteHalf)> {
        Ok(match self {
            Self::Tcp(stream, _) => halves(TcpStream::from_std(stream)?),
            Self::Tls(stream) => {
                let (read, write) = stream.into_halves()?;
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
            Self::Unix(stream, _) => unix_halves(UnixStream::from_std(stream)?),
        })
    }
}

/// Connects and, with `tls`, shakes hands, both within `timeout`.
///
/// # Errors
/// Whatever the system says; `TimedOut` after `timeout`; `InvalidData` with the reason when the handshake fails.
pub async fn connect(
    address: &Address,
    timeout: Duration,
    tls: Option<&ClientTls>,
) -> io::Result<(ReadHalf, WriteHalf)> {
    connect_with(address, None, timeout, tls, &[]).await
}

/// As [`connect`], from `source`, which need not be this machine's, and with bytes that are sent before anything else, TLS
/// included.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(
    address: &Address,
    source: Option<IpAddr>,
    timeout: Duration,
    tls: Option<&ClientTls>,
    preface: &[u8],
) -> io::Result<(ReadHalf, WriteHalf)> {
    let connecting = async {
        let mut stream = match address {
            Address::Host(host, port) => dial_host(host, *port, source).await?,
            Address::Found(_, addr) | Address::Tcp(addr) => dial(*addr, source).await?,
            Address::Unix(path) => {
                let mut stream = UnixStream::connect(path).await?;
                stream.write_all(preface).await?;
                return Ok(unix_halves(stream));
            }
        };
        tune(&stream);
        if !preface.is_empty() {
            stream.write_all(preface).await?;
        }
        let Some(tls) = tls else { return Ok(halves(stream)) };
        let (read, write) = tls::connect(stream, address, tls).await.map_err(|error| match error {
            tls::HandshakeError::Io(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}")),
        })?;
        Ok((ReadHalf::Tls(read), WriteHalf::Tls(write)))
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Best effort: a socket that refuses an option still carries bytes.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    if stream.peer_addr().is_ok_and(|addr| addr.ip().is_loopback()) {
        let _ = SockRef::from(stream).set_tcp_congestion(LOOPBACK_CONGESTION);
    }
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4).with_retries(4);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

fn halves(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
}

fn unix_halves(stream: UnixStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (ReadHalf::Unix(read), WriteHalf::Unix(write))
}

/// The half that one task polls.
#[derive(Debug)]
pub enum ReadHalf {
    /// TCP.
    Tcp(tcp::OwnedReadHalf),
    /// TLS over TCP.
    Tls(TlsReadHalf),
    /// Unix.
    Unix(unix::OwnedReadHalf),
}

impl ReadHalf {
    /// What both ends have agreed to speak in the TLS handshake (RFC 7301), if they have.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tls(half) => half.alpn(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// The name of a server that the client has asked for in the TLS handshake (RFC 6066, section 3), if it has.
    pub fn server_name(&self) -> Option<Box<str>> {
        match self {
            Self::Tls(half) => half.server_name(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// The address of this end; `None` for Unix sockets.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(half) => half.local_addr().ok(),
            Self::Tls(half) => half.socket().local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Ready when the socket takes bytes again, or has failed.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_write_ready(cx),
            Self::Tls(half) => half.socket().poll_write_ready(cx),
            Self::Unix(half) => half.as_ref().poll_write_ready(cx),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Self::Tls(half) => TlsReadHalf::poll_read(half, cx, buf),
            Self::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

/// The half that anybody on the thread may write through. Dropping it ends the stream towards the peer.
#[derive(Debug)]
pub enum WriteHalf {
    /// TCP.
    Tcp(tcp::OwnedWriteHalf),
    /// TLS over TCP.
    Tls(TlsWriteHalf),
    /// Unix.
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    /// Writes what the socket takes now.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; otherwise the connection is broken.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Tls(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
        }
    }

    /// Ends the stream so that the peer does not take what it has got for everything: by a reset (RFC 9293, section
    /// 3.5.3) once the other half is dropped too, without TLS's farewell where there is TLS. Unix sockets know no
    /// such thing.
    pub fn abort(self) {
        match self {
            Self::Tcp(half) => {
                // A socket that refuses is gone already.
                let _ = SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO));
                // Dropped, it would end the stream in an orderly way first.
                half.forget();
            }
            Self::Tls(half) => half.abort(),
            Self::Unix(_) => {}
        }
    }

    /// Ends the stream towards the peer, behind everything that was written. The peer may still send.
    pub fn finish(&self) {
        // An error means that the stream has ended already.
        let _ = match self {
            Self::Tcp(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
            Self::Tls(half) => half.finish(),
            Self::Unix(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
        };
    }
}
