//! TLS of listeners and clusters, and what mecha says to servers that ask who it is.
//!
//! Names of files only: they are read by whoever makes the connections, and what is wrong with them is told through
//! [`crate::Known::check_tls`], so that it comes with its line like every other error.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateSpec {
    /// PEM file of the certificate and those that lead to its root.
    pub cert: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
}

/// TLS of one listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTlsSpec {
    /// The first is for clients that name no server.
    pub certificates: Vec<CertificateSpec>,
    /// Authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must have a certificate, if there is an authority.
    pub is_client_required: bool,
    /// Whether clients may also speak without TLS.
    pub is_optional: bool,
    /// Nothing older than TLS 1.3.
    pub is_1_3_only: bool,
    /// Protocols that clients may ask for.
    pub alpn: Vec<String>,
    /// Time for a handshake.
    pub handshake_timeout: Duration,
}

/// TLS of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientTlsSpec {
    /// Authorities of the servers' certificates; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The name that certificates must be for; `None`: the endpoint's host.
    pub server_name: Option<String>,
    /// What mecha shows.
    pub certificate: Option<CertificateSpec>,
    /// Whoever answers is trusted.
    pub insecure_skip_verify: bool,
    /// Nothing older than TLS 1.3.
    pub is_1_3_only: bool,
    /// Protocols to ask for.
    pub alpn: Vec<String>,
}

/// Either, for a check of its files.
#[derive(Clone, Copy, Debug)]
pub enum TlsSpec<'a> {
    /// Of a cluster.
    Client(&'a ClientTlsSpec),
    /// Of a listener.
    Server(&'a ServerTlsSpec),
}

/// Something wrong with one key of a `tls` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsComplaint {
    /// The key, as in `cert` or `certificates[1].key`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Who mecha is to a cluster's servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoginSpec {
    /// `None`: the server's default user.
    pub username: Option<String>,
    /// `None`: no login. A token, where the mechanism wants one.
    pub password: Option<Secret>,
    /// How it is proved: SASL's name of it. Of clusters of Kafka alone.
    pub mechanism: Option<String>,
}

/// Ways to prove who mecha is to brokers of Kafka, by SASL's names.
pub(crate) const MECHANISMS: [&str; 4] = ["OAUTHBEARER", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// How sentinels want to be talked to. They have users of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentinelsSpec {
    /// Who mecha is to them.
    pub login: LoginSpec,
    /// Whether they speak TLS, as the servers do.
    pub is_tls: bool,
}

/// Text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

// === impl ServerTlsSpec ===

impl Default for ServerTlsSpec {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            client_ca: None,
            is_client_required: true,
            is_optional: false,
            is_1_3_only: false,
            alpn: Vec::new(),
            handshake_timeout: Duration::from_secs(5),
        }
    }
}
