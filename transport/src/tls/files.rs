//! Certificates and keys as they lie in files, and everything that can be wrong with them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::identity::validity;
use super::provider;

/// A certificate that ends sooner is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// The largest file that is read: a system's whole list of roots has a quarter of a megabyte.
const MAX_FILE: u64 = 4 << 20;

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The certificate, then those that lead to its root.
    pub cert: PathBuf,
    /// The key, not encrypted: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Something wrong with one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The option, as in `cert` or `certificates[1].key`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// It works, but somebody should know.
    pub is_warning: bool,
}

/// What a look at the files came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// They are new and good: the next handshake uses them.
    Changed,
    /// They are new and cannot be used: the old ones stay.
    Failed(Vec<Complaint>),
    /// They are as they were.
    Unchanged,
}

impl Complaint {
    pub(super) fn error(field: impl Into<String>, message: impl Into<String>, hint: Option<&str>) -> Self {
        let hint = hint.map(Into::into);
        Self { field: field.into(), message: message.into(), hint, is_warning: false }
    }

    fn warning(field: impl Into<String>, message: impl Into<String>, hint: &str) -> Self {
        Self { is_warning: true, ..Self::error(field, message, Some(hint)) }
    }
}

/// Reads a chain and its key. What is wrong goes to `complaints`; `None` if it cannot be used.
pub(super) fn certified(
    files: &Certificate,
    at: &str,
    complaints: &mut Vec<Complaint>,
) -> Option<CertifiedKey> {
    let (cert_field, key_field) = (format!("{at}cert"), format!("{at}key"));
    let chain = chain(&files.cert, &cert_field, complaints);
    let key = key(&files.key, &key_field, complaints);
    let (chain, key) = (chain?, key?);
    let leaf = chain.first()?.clone();
    let signing = match provider().key_provider.load_private_key(key) {
        Ok(signing) => signing,
        Err(error) => {
            let message = format!("the key in `{}` cannot be used: {error}", files.key.display());
            let hint = "ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits and more";
            complaints.push(Complaint::error(key_field, message, Some(hint)));
            return None;
        }
    };
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let message = format!("the key does not belong to the certificate in `{}`", files.cert.display());
            let hint = "the server's own certificate must come first in the file";
            complaints.push(Complaint::error(key_field, message, Some(hint)));
            return None;
        }
        Err(error) => {
            let message = format!("`{}` holds no usable certificate: {error}", files.cert.display());
            complaints.push(Complaint::error(cert_field, message, None));
            return None;
        }
    }
    is_valid_now(&leaf, &files.cert, &cert_field, complaints).then_some(certified)
}

fn is_valid_now(
    leaf: &CertificateDer<'_>,
    file: &Path,
    field: &str,
    complaints: &mut Vec<Complaint>,
) -> bool {
    let Some((from, to)) = validity(leaf) else { return true };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let days = |span: Duration| span.as_secs() / 86_400;
    if now > to {
        let message = format!("the certificate in `{}` expired {} days ago", file.display(), days(now - to));
        complaints.push(Complaint::error(field, message, Some("renew it")));
        return false;
    }
    if now < from {
        let message = format!("the certificate in `{}` is not valid yet", file.display());
        complaints.push(Complaint::error(field, message, Some("is this machine's clock right?")));
        return false;
    }
    if to - now < SOON {
        let message = format!("the certificate in `{}` expires in {} days", file.display(), days(to - now));
        complaints.push(Complaint::warning(field, message, "a renewed file is noticed by itself"));
    }
    true
}

/// When the certificate in `file` ends, in seconds since 1970; `None` if it cannot be read.
pub(super) fn end_of(file: &Path) -> Option<u64> {
    let chain = chain(file, "", &mut Vec::new())?;
    validity(chain.first()?).map(|(_, to)| to.as_secs())
}

/// The certificates of a file.
fn chain(file: &Path, field: &str, complaints: &mut Vec<Complaint>) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = read(file, field, complaints)?;
    match CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if !chain.is_empty() => return Some(chain),
        Ok(_) => {
            let hint = if bytes.first() == Some(&0x30) {
                "it looks like DER; `openssl x509 -inform der -in FILE -out FILE.pem` makes it PEM"
            } else {
                "a PEM file has lines `-----BEGIN CERTIFICATE-----`"
            };
            let message = format!("`{}` holds no certificate", file.display());
            complaints.push(Complaint::error(field, message, Some(hint)));
        }
        Err(error) => {
            let message = format!("`{}` is no sound PEM file: {error}", file.display());
            complaints.push(Complaint::error(field, message, None));
        }
    }
    None
}

/// The key of a file. No complaint ever quotes from it.
fn key(file: &Path, field: &str, complaints: &mut Vec<Complaint>) -> Option<PrivateKeyDer<'static>> {
    let bytes = read(file, field, complaints)?;
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        let message = format!("the key in `{}` is encrypted", file.display());
        let hint = "`openssl pkey -in FILE -out FILE.plain` asks for its password and writes it without";
        complaints.push(Complaint::error(field, message, Some(hint)));
        return None;
    }
    let Ok(key) = PrivateKeyDer::from_pem_slice(&bytes) else {
        let message = format!("`{}` holds no private key", file.display());
        let hint = if has(b"BEGIN CERTIFICATE") {
            "it holds a certificate: are `cert` and `key` exchanged?"
        } else {
            "a PEM file has a line `-----BEGIN PRIVATE KEY-----`"
        };
        complaints.push(Complaint::error(field, message, Some(hint)));
        return None;
    };
    let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 {
        let message = format!("everybody on this machine can read the key in `{}`", file.display());
        complaints.push(Complaint::warning(field, message, "`chmod 600` it"));
    }
    Some(key)
}

/// The authorities of a file.
pub(super) fn roots(file: &Path, field: &str, complaints: &mut Vec<Complaint>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(file, field, complaints)? {
        if let Err(error) = roots.add(certificate) {
            let message = format!("`{}` holds a certificate that cannot be used: {error}", file.display());
            complaints.push(Complaint::error(field, message, None));
            return None;
        }
    }
    Some(roots)
}

fn read(file: &Path, field: &str, complaints: &mut Vec<Complaint>) -> Option<Vec<u8>> {
    let read = match std::fs::metadata(file) {
        Ok(metadata) if metadata.len() > MAX_FILE => Err(std::io::Error::other("it is far too large")),
        Ok(_) => std::fs::read(file),
        Err(error) => Err(error),
    };
    match read {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let message = format!("cannot read `{}`: {error}", file.display());
            let hint = (!file.is_absolute()).then_some("a relative path starts where mecha was started");
            complaints.push(Complaint::error(field, message, hint));
            None
        }
    }
}

/// What tells a changed file: time, size and inode of each. A link that points elsewhere counts as changed.
pub(super) type Stamp = Vec<Option<(i64, i64, u64, u64)>>;

pub(super) fn stamp<'p>(files: impl IntoIterator<Item = &'p Path>) -> Stamp {
    let of = |file: &Path| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.mtime(), metadata.mtime_nsec(), metadata.size(), metadata.ino()))
    };
    files.into_iter().map(of).collect()
}
