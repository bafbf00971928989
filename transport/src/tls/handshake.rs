//! Handshakes of both sides, and why they fail.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::engine::{Engine, MAX_HELD, Step};
use super::identity::{identity, validity};
use super::stream::{Established, TlsReadHalf, TlsWriteHalf, halves};
use super::{ClientTls, ServerHandshake, ServerTls};
use crate::Address;

/// The first byte of every TLS connection: the type of a handshake record.
const HANDSHAKE: u8 = 0x16;
/// Bytes read at a time. A client's hello has a few hundred.
const READ: usize = 4 << 10;

/// Why a handshake came to nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer refused, with this alert.
    Alert(String),
    /// The client's certificate is missing, or not one that we trust.
    ClientCertificate(String),
    /// The peer left in the middle.
    Closed,
    /// No version, cipher or key that both understand.
    Incompatible(String),
    /// The peer broke the protocol.
    Invalid(String),
    /// The socket failed.
    Io(io::Error),
    /// The server's certificate is not one that we trust.
    ServerCertificate(String),
}

impl HandshakeError {
    /// Snake-case name, used as metric label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Alert(_) => "alert",
            Self::ClientCertificate(_) => "client_certificate",
            Self::Closed => "closed",
            Self::Incompatible(_) => "incompatible",
            Self::Invalid(_) => "invalid",
            Self::Io(_) => "io",
            Self::ServerCertificate(_) => "server_certificate",
        }
    }

    fn of(error: &Error, is_server: bool) -> Self {
        let text = error.to_string();
        match error {
            Error::AlertReceived(_) => Self::Alert(text),
            Error::InvalidCertificate(_) if !is_server => Self::ServerCertificate(text),
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Self::ClientCertificate(text),
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible(text),
            _ => Self::Invalid(text),
        }
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alert(text)
            | Self::ClientCertificate(text)
            | Self::Incompatible(text)
            | Self::Invalid(text)
            | Self::ServerCertificate(text) => f.write_str(text),
            Self::Closed => f.write_str("the peer left during the TLS handshake"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What both sides agreed on.
#[derive(Debug)]
pub struct Handshaken {
    /// The stream.
    pub stream: Established,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// An earlier session goes on: no key was proved again.
    pub is_resumed: bool,
}

/// Whether the client's first byte starts TLS. The byte stays where it is. `None`: the client has left.
///
/// # Errors
/// The socket failed.
pub async fn is_tls(stream: &TcpStream) -> io::Result<Option<bool>> {
    let mut first = [0];
    Ok(match stream.peek(&mut first).await? {
        0 => None,
        _ => Some(first == [HANDSHAKE]),
    })
}

/// Shakes hands as the server. Sets no time limit.
///
/// # Errors
/// Why it came to nothing. The peer has been told if it can be told.
pub async fn accept(
    mut stream: TcpStream,
    addr: SocketAddr,
    tls: &ServerTls,
) -> Result<Handshaken, HandshakeError> {
    let engine = Engine::server(tls.config()).map_err(|error| HandshakeError::of(&error, true))?;
    let mut engine = Box::new(engine);
    shake(&mut stream, &mut engine, true).await?;
    let identity = engine.peer_certificate().map(|certificate| Arc::new(identity(certificate)));
    let (version, is_resumed) = (engine.version(), engine.is_resumed());
    let stream = Established { stream: stream.into_std()?, addr, engine, identity };
    Ok(Handshaken { stream, version, is_resumed })
}

/// Shakes hands as the client of the server at `address`. Sets no time limit.
///
/// # Errors
/// Why it came to nothing.
pub(crate) async fn connect(
    mut stream: TcpStream,
    address: &Address,
    tls: &ClientTls,
) -> Result<(TlsReadHalf, TlsWriteHalf), HandshakeError> {
    // Whoever gives up, because the time is over, drops this.
    let mut untold = Untold { tls, ended: ServerHandshake::Failed("timed_out") };
    let shaken = shake_with(&mut stream, address, tls).await;
    untold.ended = match &shaken {
        Ok(engine) => ServerHandshake::Shaken {
            version: engine.version(),
            is_resumed: engine.is_resumed(),
            ends: engine.peer_certificate().and_then(validity).map(|(_, to)| to.as_secs()),
        },
        Err(error) => ServerHandshake::Failed(error.name()),
    };
    Ok(halves(stream, shaken?))
}

/// Tells how a handshake has ended when it is dropped.
struct Untold<'t> {
    tls: &'t ClientTls,
    ended: ServerHandshake,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.tls.tell(self.ended);
    }
}

async fn shake_with(
    stream: &mut TcpStream,
    address: &Address,
    tls: &ClientTls,
) -> Result<Box<Engine>, HandshakeError> {
    let name = tls.name_of(address);
    let name =
        name.ok_or_else(|| HandshakeError::ServerCertificate(format!("`{address}` is no server name")))?;
    let engine = Engine::client(tls.config(), name).map_err(|error| HandshakeError::of(&error, false))?;
    let mut engine = Box::new(engine);
    shake(stream, &mut engine, false).await?;
    Ok(engine)
}

async fn shake(stream: &mut TcpStream, engine: &mut Engine, is_server: bool) -> Result<(), HandshakeError> {
    loop {
        let step = engine.digest_held();
        // Also the alert that tells the peer what went wrong.
        let outgoing = std::mem::take(&mut engine.outgoing);
        let sent = if outgoing.is_empty() { Ok(()) } else { stream.write_all(&outgoing).await };
        match step {
            Err(error) => return Err(HandshakeError::of(&error, is_server)),
            Ok(Step::Ended) => return Err(HandshakeError::Closed),
            Ok(Step::Ready) if !engine.is_handshaking() => return Ok(sent?),
            Ok(_) => sent?,
        }
        if engine.incoming.len() > MAX_HELD {
            return Err(HandshakeError::Invalid("TLS handshake too long".into()));
        }
        stream.readable().await?;
        let held = engine.incoming.len();
        engine.incoming.resize(held + READ, 0);
        let read = stream.try_read(engine.incoming.get_mut(held..).unwrap_or_default());
        engine.incoming.truncate(held + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}
