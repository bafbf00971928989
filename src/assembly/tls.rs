//! TLS between the configuration and the sockets: options are translated, files are checked and read.

use std::sync::Arc;

use mecha_config::{
    CertificateSpec, ClientTlsSpec, ClusterSpec, ConfigError, ListenerSpec, ServerTlsSpec, TlsComplaint,
    TlsSpec,
};
use mecha_telemetry::Registry;
use mecha_transport::tls::{
    Certificate, ClientAuth, ClientOptions, ClientTls, Complaint, MinVersion, Reloaded, ServerHandshake,
    ServerOptions, ServerTls,
};

use crate::acceptor::TlsDoor;
use crate::catalog;

/// What is wrong with the files of a `tls` block; what is only worth a warning is logged when they are used.
pub fn check_tls(spec: TlsSpec<'_>) -> Vec<TlsComplaint> {
    let complaints = match spec {
        TlsSpec::Client(spec) => client_options(spec, "").check(),
        TlsSpec::Server(spec) => server_options(spec, "").check(),
    };
    let told = |complaint: Complaint| TlsComplaint {
        key: complaint.field,
        message: complaint.message,
        hint: complaint.hint,
    };
    complaints.into_iter().filter(|complaint| !complaint.is_warning).map(told).collect()
}

/// A listener's certificates, read.
///
/// # Errors
/// Everything that is wrong with the files.
pub(super) fn door(
    listener: &ListenerSpec,
    spec: &ServerTlsSpec,
    hint: Vec<u8>,
    registry: &Registry,
) -> Result<TlsDoor, Vec<ConfigError>> {
    let (tls, warnings) = ServerTls::new(server_options(spec, &listener.protocol)).map_err(errors)?;
    warn(&listener.name, &warnings);
    note_ends(&listener.name, registry, &tls.ends());
    Ok(TlsDoor {
        name: listener.name.clone(),
        tls,
        is_optional: spec.is_optional,
        timeout: spec.handshake_timeout,
        hint,
        metrics: registry.tls(&listener.name),
    })
}

/// A cluster's trust, read.
///
/// # Errors
/// Everything that is wrong with the files.
pub(super) fn client(
    cluster: &ClusterSpec,
    spec: &ClientTlsSpec,
    registry: &Registry,
) -> Result<ClientTls, Vec<ConfigError>> {
    let (tls, warnings) = ClientTls::new(client_options(spec, &cluster.protocol)).map_err(errors)?;
    let cluster = &*cluster.name;
    warn(cluster, &warnings);
    if spec.insecure_skip_verify {
        tracing::warn!(cluster, "certificates of servers are NOT verified (insecure_skip_verify)");
    }
    note_ends(cluster, registry, &tls.ends());
    let metrics = registry.tls(cluster);
    Ok(tls.observed(move |ended| match ended {
        ServerHandshake::Failed(why) => metrics.failed_upstream(why),
        ServerHandshake::Shaken { version, is_resumed, ends } => {
            metrics.shaken_upstream(version, is_resumed, ends);
        }
    }))
}

/// Shows when certificates end.
fn note_ends(name: &str, registry: &Registry, ends: &[(std::path::PathBuf, u64)]) {
    let metrics = registry.tls(name);
    ends.iter().for_each(|(file, at)| metrics.ends(&file.display().to_string(), *at));
}

/// Says and counts what became of changed files.
pub(super) fn report(
    name: &str,
    registry: &Registry,
    reloaded: Reloaded,
    ends: impl FnOnce() -> Vec<(std::path::PathBuf, u64)>,
) {
    match reloaded {
        Reloaded::Changed => {
            registry.tls(name).reloaded(true);
            note_ends(name, registry, &ends());
            tracing::info!(name, "new certificates are in use");
        }
        Reloaded::Failed(complaints) => {
            registry.tls(name).reloaded(false);
            for complaint in complaints.iter().filter(|complaint| !complaint.is_warning) {
                tracing::error!(name, "the old certificates stay in use: {}", complaint.message);
            }
        }
        Reloaded::Unchanged => {}
    }
}

fn warn(name: &str, warnings: &[Complaint]) {
    for warning in warnings {
        tracing::warn!(name, "{}", warning.message);
    }
}

fn errors(complaints: Vec<Complaint>) -> Vec<ConfigError> {
    let error = |complaint: Complaint| {
        let error = ConfigError::new(format!("tls.{}", complaint.field), complaint.message);
        ConfigError { hint: complaint.hint, ..error }
    };
    complaints.into_iter().filter(|complaint| !complaint.is_warning).map(error).collect()
}

/// What is offered in the handshake: what the configuration says, else what the protocol is known to need.
fn alpn(named: &[String], protocol: &str) -> Vec<String> {
    if !named.is_empty() {
        return named.to_vec();
    }
    catalog::alpn(protocol).iter().map(ToString::to_string).collect()
}

fn server_options(spec: &ServerTlsSpec, protocol: &str) -> ServerOptions {
    ServerOptions {
        certificates: spec.certificates.iter().map(certificate).collect(),
        client_ca: spec.client_ca.clone(),
        client_auth: if spec.is_client_required { ClientAuth::Required } else { ClientAuth::Optional },
        min_version: version(spec.is_1_3_only),
        alpn: alpn(&spec.alpn, protocol),
    }
}

fn client_options(spec: &ClientTlsSpec, protocol: &str) -> ClientOptions {
    ClientOptions {
        ca: spec.ca.clone(),
        server_name: spec.server_name.clone(),
        certificate: spec.certificate.as_ref().map(certificate),
        insecure_skip_verify: spec.insecure_skip_verify,
        min_version: version(spec.is_1_3_only),
        alpn: alpn(&spec.alpn, protocol),
    }
}

fn certificate(spec: &CertificateSpec) -> Certificate {
    Certificate { cert: spec.cert.clone(), key: spec.key.clone() }
}

fn version(is_1_3_only: bool) -> MinVersion {
    if is_1_3_only { MinVersion::V1_3 } else { MinVersion::V1_2 }
}

/// The trust of every cluster that speaks TLS, by name, with what it was read for.
pub(crate) type Trusts = std::collections::HashMap<String, (ClientTlsSpec, Arc<ClientTls>)>;
