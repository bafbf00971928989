//! One TLS session: records in, plaintext out, and back.
//!
//! No socket here: bytes are given and taken, so that the handshake and the two halves of a stream share it.

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};

use super::CHUNK;
use super::server::take_asked;

/// The largest handshake message that rustls puts together is 64 KiB; with its record's header it must fit.
pub(super) const MAX_HELD: usize = 80 << 10;
/// Room that encryption adds to a chunk: 22 bytes for each record of 16 KiB, and messages of the protocol itself.
const OVERHEAD: usize = 2 << 10;

enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What a session needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes of the peer, to go on with the handshake.
    Blocked,
    /// Nothing: the peer has said goodbye.
    Ended,
    /// Another step at once.
    More,
    /// Nothing: it carries data.
    Ready,
}

/// One TLS session and the bytes that are on their way through it.
pub(super) struct Engine {
    session: Session,
    /// The beginning of a record.
    pub(super) incoming: Vec<u8>,
    /// Plaintext that found no room.
    plain: Vec<u8>,
    plain_at: usize,
    /// Records that the socket has not taken.
    pub(super) outgoing: Vec<u8>,
    sent: usize,
    /// Plaintext in `outgoing` whose writer has not been told yet that it was written.
    promised: usize,
    pub(super) is_ended: bool,
    pub(super) is_failed: bool,
    /// The name that the client has asked for; on the server's side.
    server_name: Option<Box<str>>,
}

// === impl Engine ===

impl Engine {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self::new(Session::Client(UnbufferedClientConnection::new(config, name)?)))
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self::new(Session::Server(UnbufferedServerConnection::new(config)?)))
    }

    fn new(session: Session) -> Self {
        Self {
            session,
            incoming: Vec::new(),
            plain: Vec::new(),
            plain_at: 0,
            outgoing: Vec::new(),
            sent: 0,
            promised: 0,
            is_ended: false,
            is_failed: false,
            server_name: None,
        }
    }

    fn common(&self) -> &CommonState {
        match &self.session {
            Session::Client(client) => client,
            Session::Server(server) => server,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    pub(super) fn version(&self) -> &'static str {
        match self.common().protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            _ => "unknown",
        }
    }

    /// What the two have agreed to speak (RFC 7301).
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The name that the client has asked for (RFC 6066, section 3).
    pub(super) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.common().peer_certificates()?.first()
    }

    /// Works through `records`. Plaintext goes to `plain`, what must be sent to the end of `outgoing`. Returns how many
    /// bytes from the front are done with.
    pub(super) fn digest(
        &mut self,
        records: &mut [u8],
        plain: &mut impl FnMut(&[u8]),
    ) -> Result<(usize, Step), rustls::Error> {
        let mut at = 0;
        loop {
            let rest = records.get_mut(at..).unwrap_or_default();
            let (discard, step) = match &mut self.session {
                Session::Client(client) => {
                    take_step(client.process_tls_records(rest), &mut self.outgoing, plain)
                }
                Session::Server(server) => {
                    let is_handshaking = server.is_handshaking();
                    let step = take_step(server.process_tls_records(rest), &mut self.outgoing, plain);
                    if is_handshaking && let Some(name) = take_asked() {
                        self.server_name = Some(name);
                    }
                    step
                }
            };
            at += discard;
            match step {
                Ok(Step::More) => {}
                Ok(Step::Ended) => {
                    self.is_ended = true;
                    return Ok((records.len(), Step::Ended));
                }
                Ok(step) => return Ok((at, step)),
                Err(error) => {
                    self.fail(records.get_mut(at..).unwrap_or_default());
                    return Err(error);
                }
            }
        }
    }

    /// As [`Engine::digest`], with what is held.
    pub(super) fn digest_held(&mut self) -> Result<Step, rustls::Error> {
        let mut held = std::mem::take(&mut self.incoming);
        let mut plain = std::mem::take(&mut self.plain);
        let result = self.digest(&mut held, &mut |bytes| plain.extend_from_slice(bytes));
        self.plain = plain;
        let (consumed, step) = result?;
        held.drain(..consumed);
        self.incoming = held;
        Ok(step)
    }

    /// Keeps what is left of the records of one read.
    pub(super) fn hold(&mut self, rest: &[u8]) -> io::Result<()> {
        if rest.len() > MAX_HELD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "TLS message too long"));
        }
        if rest.is_empty() {
            self.incoming = Vec::new();
        } else {
            self.incoming.clear();
            self.incoming.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Keeps plaintext that found no room.
    pub(super) fn hold_plain(&mut self, bytes: &[u8]) {
        self.plain.extend_from_slice(bytes);
    }

    /// Takes kept plaintext, at most `max` bytes.
    pub(super) fn take_plain(&mut self, max: usize, give: impl FnOnce(&[u8])) -> bool {
        let end = self.plain.len().min(self.plain_at + max);
        let Some(bytes) = self.plain.get(self.plain_at..end).filter(|bytes| !bytes.is_empty()) else {
            return false;
        };
        give(bytes);
        self.plain_at = end;
        if end == self.plain.len() {
            (self.plain, self.plain_at) = (Vec::new(), 0);
        }
        true
    }

    /// Puts the alert that tells the peer why into `outgoing`; nothing else comes after it. `records` is what was left
    /// when the error occurred: the session remembers places in it, so that it may be given no other bytes, and must
    /// not be asked again once it has failed.
    fn fail(&mut self, records: &mut [u8]) {
        self.is_failed = true;
        let _ = match &mut self.session {
            Session::Client(client) => {
                take_step(client.process_tls_records(records), &mut self.outgoing, &mut |_| {})
            }
            Session::Server(server) => {
                take_step(server.process_tls_records(records), &mut self.outgoing, &mut |_| {})
            }
        };
    }

    /// Gives the socket what waits. `true` when nothing is left.
    pub(super) fn flush(&mut self, write: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        while let Some(rest) = self.outgoing.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        (self.outgoing, self.sent) = (Vec::new(), 0);
        Ok(true)
    }

    /// Whether anything waits for the socket.
    pub(super) fn has_outgoing(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// Encrypts and writes. `sealed` is a buffer to work in.
    ///
    /// Returns how many bytes have left for good. Bytes that are encrypted but stuck are not counted: the caller gives
    /// them again, and the next call that gets them out counts them. So a caller that has been told that everything is
    /// written knows it, and its own buffer is the only one with a limit to watch.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        sealed: &mut Vec<u8>,
        write: &mut impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if !self.flush(write)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut taken = std::mem::take(&mut self.promised).min(bytes.len());
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let chunk = rest.get(..CHUNK).unwrap_or(rest);
            sealed.clear();
            self.seal(Some(chunk), sealed)?;
            let mut sent = 0;
            while sent < sealed.len() {
                match write(sealed.get(sent..).unwrap_or_default()) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => sent += written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if sent < sealed.len() {
                self.outgoing.extend_from_slice(sealed.get(sent..).unwrap_or_default());
                self.promised = chunk.len();
                return if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) };
            }
            taken += chunk.len();
        }
        Ok(taken)
    }

    /// Says goodbye, as far as the socket takes it.
    pub(super) fn close(&mut self, sealed: &mut Vec<u8>, write: &mut impl FnMut(&[u8]) -> io::Result<usize>) {
        // Behind a record of which only a part has left, nothing can be understood.
        if !self.flush(write).unwrap_or(false) || self.is_failed {
            return;
        }
        sealed.clear();
        if self.seal(None, sealed).is_ok() && !sealed.is_empty() {
            // The peer may be gone, or its window full: it finds out without us.
            let _ = write(sealed);
        }
    }

    /// Appends the records for `bytes` to `out`, or a farewell.
    fn seal(&mut self, bytes: Option<&[u8]>, out: &mut Vec<u8>) -> io::Result<()> {
        if self.is_failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut held = std::mem::take(&mut self.incoming);
        let mut plain = std::mem::take(&mut self.plain);
        let mut keep = |bytes: &[u8]| plain.extend_from_slice(bytes);
        let mut at = 0;
        let sealed = loop {
            let rest = held.get_mut(at..).unwrap_or_default();
            let (discard, step) = match &mut self.session {
                Session::Client(client) => seal_step(client.process_tls_records(rest), bytes, out, &mut keep),
                Session::Server(server) => seal_step(server.process_tls_records(rest), bytes, out, &mut keep),
            };
            at += discard;
            match step {
                Ok(Step::More) => {}
                Ok(Step::Ended) => self.is_ended = true,
                Ok(Step::Ready) => break Ok(()),
                Ok(Step::Blocked) => break Err(io::ErrorKind::NotConnected.into()),
                Err(error) => break Err(error),
            }
        };
        held.drain(..at.min(held.len()));
        (self.incoming, self.plain) = (held, plain);
        self.is_failed |= sealed.is_err();
        sealed
    }
}

/// One step of a session.
fn take_step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
    plain: &mut impl FnMut(&[u8]),
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::More),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = out.len();
            let mut room = 512;
            loop {
                out.resize(start + room, 0);
                match data.encode(out.get_mut(start..).unwrap_or_default()) {
                    Ok(written) => {
                        out.truncate(start + written);
                        break Ok(Step::More);
                    }
                    Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
                    Err(EncodeError::AlreadyEncoded) => {
                        out.truncate(start);
                        break Ok(Step::More);
                    }
                }
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // What was encoded is on its way in `out`, in order.
            data.done();
            Ok(Step::More)
        }
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Ended),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Ready),
        // Early data is never offered; what rustls may add later is no reason to go on.
        Ok(_) => Ok(Step::Blocked),
        Err(error) => Err(error),
    };
    (discard, step)
}

/// As [`take_step`], and encrypts `bytes` (or says goodbye) when the session is ready for it.
fn seal_step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    bytes: Option<&[u8]>,
    out: &mut Vec<u8>,
    plain: &mut impl FnMut(&[u8]),
) -> (usize, io::Result<Step>) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state {
        let start = out.len();
        let mut room = bytes.map_or(0, <[u8]>::len) + OVERHEAD;
        let sealed = loop {
            out.resize(start + room, 0);
            let rest = out.get_mut(start..).unwrap_or_default();
            let sealed = match bytes {
                Some(bytes) => traffic.encrypt(bytes, rest),
                None => traffic.queue_close_notify(rest),
            };
            match sealed {
                Ok(written) => break Ok(written),
                Err(EncryptError::InsufficientSize(size)) => room = size.required_size,
                Err(EncryptError::EncryptExhausted) => break Err(io::Error::other("TLS keys are used up")),
            }
        };
        out.truncate(start + sealed.as_ref().map_or(0, |written| *written));
        return (status.discard, sealed.map(|_| Step::Ready));
    }
    if let Ok(ConnectionState::Closed) = status.state {
        return (status.discard, Err(io::ErrorKind::BrokenPipe.into()));
    }
    let (discard, step) = take_step(status, out, plain);
    (discard, step.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))
}
