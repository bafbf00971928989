//! The client's side: who is trusted, and who mecha says that it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::files::{Stamp, certified, end_of, roots, stamp};
use super::{Certificate, Complaint, MinVersion, Reloaded, alpn, provider};
use crate::Address;

/// What a cluster says about TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientOptions {
    /// Authorities of the servers' certificates; without it those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The name that the servers' certificates must be for, in place of the endpoint's host.
    pub server_name: Option<String>,
    /// What mecha shows to servers that ask.
    pub certificate: Option<Certificate>,
    /// Whoever answers is trusted: no protection from an attacker on the way.
    pub insecure_skip_verify: bool,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// Protocols to ask for.
    pub alpn: Vec<String>,
}

/// How a handshake with a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerHandshake {
    /// It came to nothing, for one of a few fixed reasons.
    Failed(&'static str),
    /// It went well.
    Shaken {
        /// `1.2` or `1.3`.
        version: &'static str,
        /// An earlier session goes on.
        is_resumed: bool,
        /// When the server's certificate ends, in seconds since 1970, if it can be read.
        ends: Option<u64>,
    },
}

/// Who is told of handshakes, on the thread that has them.
type Observer = Box<dyn Fn(ServerHandshake) + Send + Sync>;

/// One cluster's trust, replaced while it runs.
pub struct ClientTls {
    options: ClientOptions,
    observer: Option<Observer>,
    current: Mutex<(Arc<ClientConfig>, Stamp)>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("options", &self.options).finish_non_exhaustive()
    }
}

// === impl ClientOptions ===

impl ClientOptions {
    /// Everything that there is to say about the files, warnings too.
    pub fn check(&self) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        self.build(&mut complaints);
        complaints
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let certificate = self.certificate.iter().flat_map(|files| [files.cert.as_path(), &files.key]);
        certificate.chain(self.ca.as_deref())
    }

    fn build(&self, complaints: &mut Vec<Complaint>) -> Option<ClientConfig> {
        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            complaints.push(Complaint::error(
                "server_name",
                format!("`{name}` is no name of a server"),
                None,
            ));
        }
        let own = self.certificate.as_ref().map(|files| certified(files, "", complaints));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(self.min_version.versions())
            .map_err(|error| complaints.push(Complaint::error("min_version", error.to_string(), None)))
            .ok()?;
        let builder = if self.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
        } else {
            builder.with_root_certificates(match &self.ca {
                Some(file) => roots(file, "ca", complaints)?,
                None => system_roots(complaints)?,
            })
        };
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own?)))
            }
        };
        config.alpn_protocols = alpn(&self.alpn);
        complaints.iter().all(|complaint| complaint.is_warning).then_some(config)
    }
}

fn system_roots(complaints: &mut Vec<Complaint>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let hint = "name a file with the servers' authority as `ca`, or install `ca-certificates`";
        complaints.push(Complaint::error("", "this system trusts no authorities", Some(hint)));
        return None;
    }
    Some(roots)
}

// === impl ClientTls ===

impl ClientTls {
    /// Reads the files. Also returns the warnings.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn new(options: ClientOptions) -> Result<(Self, Vec<Complaint>), Vec<Complaint>> {
        let mut complaints = Vec::new();
        let stamp = stamp(options.files());
        match options.build(&mut complaints) {
            Some(config) => {
                let current = Mutex::new((Arc::new(config), stamp));
                Ok((Self { options, observer: None, current }, complaints))
            }
            None => Err(complaints),
        }
    }

    /// Reads the files again if they have changed. Connections keep what they were made with.
    pub fn reload(&self) -> Reloaded {
        let stamp = stamp(self.options.files());
        let mut complaints = Vec::new();
        if self.locked().1 == stamp {
            return Reloaded::Unchanged;
        }
        match self.options.build(&mut complaints) {
            Some(config) => {
                *self.locked() = (Arc::new(config), stamp);
                Reloaded::Changed
            }
            None => {
                self.locked().1 = stamp;
                Reloaded::Failed(complaints)
            }
        }
    }

    /// Tells `observer` how each handshake ends.
    pub fn observed(self, observer: impl Fn(ServerHandshake) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Box::new(observer)), ..self }
    }

    pub(super) fn tell(&self, ended: ServerHandshake) {
        if let Some(observer) = &self.observer {
            observer(ended);
        }
    }

    /// The file of the certificate that mecha shows, and when it ends, in seconds since 1970.
    pub fn ends(&self) -> Vec<(PathBuf, u64)> {
        let files = self.options.certificate.iter();
        files.filter_map(|files| Some((files.cert.clone(), end_of(&files.cert)?))).collect()
    }

    /// What the next handshake uses.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.locked().0)
    }

    /// Whom the server at `address` must prove to be.
    pub(super) fn name_of(&self, address: &Address) -> Option<ServerName<'static>> {
        if let Some(name) = &self.options.server_name {
            return ServerName::try_from(name.clone()).ok();
        }
        match address {
            Address::Found(host, _) | Address::Host(host, _) => ServerName::try_from(host.clone()).ok(),
            Address::Tcp(addr) => Some(ServerName::from(addr.ip())),
            Address::Unix(_) => None,
        }
    }

    /// Held for a copy of a pointer, once per connection.
    fn locked(&self) -> std::sync::MutexGuard<'_, (Arc<ClientConfig>, Stamp)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Trusts whoever holds the key of the certificate that it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
