//! The form without a file: pairs of `--listen` and `--to`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::read::{default_cluster, default_listener, default_workers};
use crate::target::{self, Target};
use crate::{
    Address, CertificateSpec, ClientTlsSpec, ConfigError, DetectSpec, Known, LogSpec, ServerTlsSpec,
    Snapshot, TlsComplaint, TlsSpec, Transparent,
};

/// Flags that also apply to a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Where the admin server listens.
    pub admin: Option<SocketAddr>,
    /// Data threads.
    pub workers: Option<usize>,
    /// Logs.
    pub log: Option<LogSpec>,
}

impl Overrides {
    /// Changes `snapshot` where a flag was given.
    pub fn apply(self, snapshot: &mut Snapshot) {
        snapshot.admin = self.admin.or(snapshot.admin);
        snapshot.workers = self.workers.unwrap_or(snapshot.workers);
        if let Some(log) = self.log {
            snapshot.log = log;
        }
    }
}

fn empty() -> Snapshot {
    Snapshot {
        workers: default_workers(),
        admin: None,
        log: LogSpec::default(),
        drain_timeout: Duration::from_secs(10),
        listeners: Vec::new(),
        clusters: Vec::new(),
        secret_files: Vec::new(),
    }
}

/// Files for the addresses that mean TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFlags {
    /// Certificate of every listener.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Authorities of client certificates, which clients then must have.
    pub client_ca: Option<PathBuf>,
    /// Authorities of the servers' certificates.
    pub ca: Option<PathBuf>,
}

impl TlsFlags {
    fn server(
        &self,
        listen: &str,
        known: &Known<'_>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<ServerTlsSpec> {
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            let error = ConfigError::new("--listen", format!("`{listen}` needs a certificate"));
            errors.push(error.hint("--tls-cert FILE and --tls-key FILE, both PEM"));
            return None;
        };
        let certificates = vec![CertificateSpec { cert: cert.clone(), key: key.clone() }];
        let tls =
            ServerTlsSpec { certificates, client_ca: self.client_ca.clone(), ..ServerTlsSpec::default() };
        errors.extend((known.check_tls)(TlsSpec::Server(&tls)).into_iter().map(flag_error));
        Some(tls)
    }
}

fn flag_error(complaint: TlsComplaint) -> ConfigError {
    let flag = format!("--tls-{}", complaint.key.replace('_', "-"));
    ConfigError { hint: complaint.hint, ..ConfigError::new(flag, complaint.message) }
}

/// Pairs the listeners with their targets, in order.
///
/// # Errors
/// Everything that is wrong with them.
pub fn from_flags(
    listen: &[String],
    to: &[String],
    tls: &TlsFlags,
    known: &Known<'_>,
) -> Result<Snapshot, Vec<ConfigError>> {
    let mut errors = Vec::new();
    if listen.len() != to.len() {
        let message = format!("{} `--listen` and {} `--to`", listen.len(), to.len());
        errors.push(
            ConfigError::new("", message)
                .hint("they belong together in order: one `--to` for each `--listen`"),
        );
    }
    let mut snapshot = empty();
    for (index, (listen, to)) in listen.iter().zip(to).enumerate() {
        let cut = target::transparent(listen);
        let door = cut.and_then(|(listen, mode)| Ok((target::door(listen, known.doors)?, mode)));
        let back = target::back(to, known.backs);
        for (flag, complaint) in [("--listen", door.as_ref().err()), ("--to", back.as_ref().err())] {
            if let Some((message, hint)) = complaint {
                let error = ConfigError::new(flag, message.clone());
                errors.push(ConfigError { hint: hint.clone(), ..error });
            }
        }
        let (Ok(((protocol, address), transparent)), Ok(target)) = (door, back) else { continue };
        let back = target.protocol;
        if !(known.pairs)(protocol, back) {
            errors.push(ConfigError::new("--to", format!("a {protocol} listener cannot lead to {back}")));
        }
        let is_fixed = !matches!(&address, Address::Tcp(addr) if addr.port() == 0);
        if is_fixed && snapshot.listeners.iter().any(|other| other.address == address) {
            errors.push(ConfigError::new("--listen", format!("`{listen}` is given twice")));
        }
        let same = snapshot.clusters.iter().position(|cluster| target.is_of(cluster));
        let cluster = same.unwrap_or_else(|| {
            let base = if target.endpoints.is_empty() {
                back.to_string()
            } else {
                format!("upstream-{}", index + 1)
            };
            let is_tls = target.is_tls;
            let mut cluster = default_cluster(base, target);
            if is_tls {
                let tls = ClientTlsSpec { ca: tls.ca.clone(), ..ClientTlsSpec::default() };
                errors.extend((known.check_tls)(TlsSpec::Client(&tls)).into_iter().map(flag_error));
                cluster.tls = Some(tls);
            }
            snapshot.clusters.push(cluster);
            snapshot.clusters.len() - 1
        });
        let name = if index == 0 { protocol.to_string() } else { format!("{protocol}-{}", index + 1) };
        let mut listener = default_listener(name, protocol, address, cluster);
        listener.transparent = transparent;
        listener.detect = listen.starts_with(target::AUTO).then(DetectSpec::default);
        if back == target::ORIGINAL && transparent == Transparent::None {
            let (message, hint) = target::not_transparent();
            errors.push(ConfigError { hint, ..ConfigError::new("--listen", message) });
        }
        if target::is_tls(listen, known.doors) {
            listener.tls = tls.server(listen, known, &mut errors);
        }
        snapshot.listeners.push(listener);
    }
    if errors.is_empty() { Ok(snapshot) } else { Err(errors) }
}

/// What `mecha` runs when it is told nothing: RESP and Memcached over one embedded store.
pub fn demo_snapshot() -> Snapshot {
    let mut snapshot = empty();
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    snapshot.admin = Some(local(9900));
    let target = Target { protocol: "embedded", ..Target::default() };
    snapshot.clusters.push(default_cluster("embedded".into(), target));
    snapshot.listeners.push(default_listener("resp".into(), "resp", Address::Tcp(local(6379)), 0));
    snapshot.listeners.push(default_listener("memcached".into(), "memcached", Address::Tcp(local(11211)), 0));
    snapshot
}
