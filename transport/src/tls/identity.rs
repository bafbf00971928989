//! What a certificate says, as plain text.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use mecha_core::Identity;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Names of one certificate that are kept; a log line has to hold them.
const MAX_NAMES: usize = 32;

/// Who the owner of a verified certificate is. One that cannot be read still has its fingerprint.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Identity {
    let mut identity = Identity { fingerprint: fingerprint(certificate), ..Identity::default() };
    if let Ok(parsed) = Certificate::from_der(certificate) {
        identity.subject = parsed.tbs_certificate().subject().to_string();
        identity.names = names(&parsed);
    }
    identity
}

/// SHA-256 in lower-case hexadecimal.
fn fingerprint(certificate: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(certificate) {
        // Writing to memory does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn names(certificate: &Certificate) -> Vec<String> {
    let Ok(Some((_, names))) = certificate.tbs_certificate().get_extension::<SubjectAltName>() else {
        return Vec::new();
    };
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        GeneralName::Rfc822Name(mail) => Some(mail.to_string()),
        GeneralName::IpAddress(bytes) => address(bytes.as_bytes()).map(|address| address.to_string()),
        _ => None,
    };
    names.0.iter().filter_map(text).take(MAX_NAMES).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// From when to when a certificate is valid, since 1970; `None` if it cannot be read.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(Duration, Duration)> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let validity = parsed.tbs_certificate().validity();
    Some((validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration()))
}
