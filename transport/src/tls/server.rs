//! The server's side: certificates chosen by name, client certificates, and new files while it runs.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::files::{Stamp, certified, end_of, roots, stamp};
use super::{Certificate, Complaint, MinVersion, Reloaded, alpn, provider};

/// Whether clients must have a certificate, where there is an authority to check it by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// They may; one that is shown must be good.
    Optional,
    /// They must.
    #[default]
    Required,
}

/// What a listener says about TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerOptions {
    /// The first is for clients that name no server, or one that none of them is for.
    pub certificates: Vec<Certificate>,
    /// Authorities of client certificates; without it clients are not asked for any.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must have one.
    pub client_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// Protocols that clients may ask for; empty means that nobody is asked.
    pub alpn: Vec<String>,
}

/// One listener's certificates, replaced while it runs.
pub struct ServerTls {
    options: ServerOptions,
    current: Mutex<(Arc<ServerConfig>, Stamp)>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("options", &self.options).finish_non_exhaustive()
    }
}

// === impl ServerOptions ===

impl ServerOptions {
    /// Everything that there is to say about the files, warnings too.
    pub fn check(&self) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        self.build(&mut complaints);
        complaints
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let certificates = self.certificates.iter().flat_map(|files| [files.cert.as_path(), &files.key]);
        certificates.chain(self.client_ca.as_deref())
    }

    fn build(&self, complaints: &mut Vec<Complaint>) -> Option<ServerConfig> {
        let mut keys = Vec::new();
        for (index, files) in self.certificates.iter().enumerate() {
            let at = if index == 0 { String::new() } else { format!("certificates[{}].", index - 1) };
            keys.push(certified(files, &at, complaints).map(Arc::new));
        }
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(self.min_version.versions())
            .map_err(|error| complaints.push(Complaint::error("min_version", error.to_string(), None)))
            .ok()?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let roots = Arc::new(roots(file, "client_ca", complaints)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = match self.client_auth {
                    ClientAuth::Optional => verifier.allow_unauthenticated().build(),
                    ClientAuth::Required => verifier.build(),
                };
                let verifier = verifier
                    .map_err(|error| complaints.push(Complaint::error("client_ca", error.to_string(), None)));
                builder.with_client_cert_verifier(verifier.ok()?)
            }
        };
        let keys = keys.into_iter().collect::<Option<Vec<_>>>()?;
        if keys.is_empty() {
            complaints.push(Complaint::error("cert", "a TLS listener needs a certificate", None));
            return None;
        }
        let mut config = builder.with_cert_resolver(Arc::new(ByName { keys }));
        config.alpn_protocols = alpn(&self.alpn);
        // Tickets are made with keys that rotate and die with this configuration: what a replaced authority had
        // accepted is not resumed.
        config.ticketer = rustls::crypto::ring::Ticketer::new()
            .map_err(|error| {
                complaints.push(Complaint::error("", format!("no random numbers: {error}"), None))
            })
            .ok()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Some(config)
    }
}

// === impl ServerTls ===

impl ServerTls {
    /// Reads the files. Also returns the warnings.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn new(options: ServerOptions) -> Result<(Self, Vec<Complaint>), Vec<Complaint>> {
        let mut complaints = Vec::new();
        // Before the files are read: one that changes meanwhile is read again.
        let stamp = stamp(options.files());
        match options.build(&mut complaints) {
            Some(config) => {
                Ok((Self { options, current: Mutex::new((Arc::new(config), stamp)) }, complaints))
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
                // The same broken files are not complained about twice.
                self.locked().1 = stamp;
                Reloaded::Failed(complaints)
            }
        }
    }

    /// Each certificate's file, and when the certificate ends, in seconds since 1970.
    pub fn ends(&self) -> Vec<(PathBuf, u64)> {
        let files = self.options.certificates.iter();
        files.filter_map(|files| Some((files.cert.clone(), end_of(&files.cert)?))).collect()
    }

    /// What the next handshake uses.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.locked().0)
    }

    /// Held for a copy of a pointer, and by the control side and handshakes only: never by a worker.
    fn locked(&self) -> std::sync::MutexGuard<'_, (Arc<ServerConfig>, Stamp)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// The name that the client has asked for whose hello was read last on this thread. rustls tells it to whoever chooses a
    /// certificate, and of a connection without a buffer to nobody else.
    static ASKED: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// The name that was asked for in the step of a handshake that was just made, if a hello was read in it.
pub(super) fn take_asked() -> Option<Box<str>> {
    ASKED.with(RefCell::take)
}

/// Chooses the first certificate that is for the name that the client asks for, and whose key it understands.
#[derive(Debug)]
struct ByName {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED.with(|asked| asked.replace(hello.server_name().map(Into::into)));
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let is_usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = name.and_then(|name| self.keys.iter().filter(is_usable).find(|key| is_for(key, &name)));
        named.or_else(|| self.keys.iter().find(is_usable)).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Some(leaf) = key.cert.first() else { return false };
    webpki::EndEntityCert::try_from(leaf)
        .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
}
