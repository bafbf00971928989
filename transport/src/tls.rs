//! TLS on both sides: rustls with ring, driven without a buffer of its own.
//!
//! A stream is encrypted below [`crate::ReadHalf`] and [`crate::WriteHalf`]; nobody above notices. Records are read into
//! a buffer that all connections of a thread share, decrypted there, and given on; what is written is encrypted in
//! another shared buffer and leaves in one system call. A connection between two requests therefore holds no buffer,
//! and one that is stuck holds what the socket did not take (at most [`CHUNK`] bytes) or half a record.
//!
//! Handshakes are apart ([`accept`], `connect`): they cost a thousand times what a record costs, so a server makes
//! them on a thread that serves nobody. The result can be sent to another thread.
//!
//! Deliberately absent: early data (it can be replayed), renegotiation, versions before 1.2, any crypto provider but
//! ring, and the process-wide default provider, which somebody else in the process may have set.

mod client;
mod engine;
mod files;
mod handshake;
mod hello;
mod identity;
mod server;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;

pub use client::{ClientOptions, ClientTls, ServerHandshake};
pub use files::{Certificate, Complaint, Reloaded};
pub use handshake::{HandshakeError, Handshaken, accept, is_tls};
pub use hello::{Hello, hello};
pub use server::{ClientAuth, ServerOptions, ServerTls};
pub use stream::Established;

pub(crate) use handshake::connect;
pub(crate) use stream::{TlsReadHalf, TlsWriteHalf};

/// The most plaintext that is encrypted before the socket is asked to take it.
pub const CHUNK: usize = 64 << 10;

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MinVersion {
    /// TLS 1.2.
    #[default]
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const ONLY_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::V1_2 => rustls::DEFAULT_VERSIONS,
            Self::V1_3 => ONLY_1_3,
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn alpn(names: &[String]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}
