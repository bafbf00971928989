//! Handshakes and certificates. They are rare beside commands, so ordinary counters do.

use prometheus::{IntCounterVec, IntGaugeVec, Opts};

/// What is counted of one name, a listener's or a cluster's.
#[derive(Clone)]
pub struct TlsMetrics {
    name: String,
    families: Option<TlsFamilies>,
}

/// The families of the process.
#[derive(Clone)]
pub(crate) struct TlsFamilies {
    handshakes: IntCounterVec,
    sessions: IntCounterVec,
    under_way: IntGaugeVec,
    reloads: IntCounterVec,
    ends: IntGaugeVec,
    upstream_ends: IntGaugeVec,
    upstream_handshakes: IntCounterVec,
    upstream_sessions: IntCounterVec,
}

impl TlsFamilies {
    pub(crate) fn new(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let counter = |name, help, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone())).map(|()| family)
        };
        let gauge = |name, help, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone())).map(|()| family)
        };
        Ok(Self {
            handshakes: counter(
                "mecha_tls_handshakes_total",
                "Handshakes with clients by result; `plain` spoke without TLS where that is allowed.",
                &["listener", "result"],
            )?,
            sessions: counter(
                "mecha_tls_sessions_total",
                "TLS sessions with clients by version, and whether an earlier one was resumed.",
                &["listener", "version", "resumed"],
            )?,
            under_way: gauge(
                "mecha_tls_handshakes_under_way",
                "Handshakes with clients that have not ended.",
                &["listener"],
            )?,
            ends: gauge(
                "mecha_tls_certificate_expiry_timestamp_seconds",
                "When a certificate that mecha shows ends, by listener or cluster and file.",
                &["name", "file"],
            )?,
            upstream_ends: gauge(
                "mecha_tls_upstream_certificate_expiry_timestamp_seconds",
                "When the certificate ends that a server of the cluster has shown last.",
                &["cluster"],
            )?,
            upstream_handshakes: counter(
                "mecha_tls_upstream_handshakes_total",
                "Handshakes with servers by result.",
                &["cluster", "result"],
            )?,
            upstream_sessions: counter(
                "mecha_tls_upstream_sessions_total",
                "TLS sessions with servers by version, and whether an earlier one was resumed.",
                &["cluster", "version", "resumed"],
            )?,
            reloads: counter(
                "mecha_tls_reloads_total",
                "Changed certificate files by result; after a failure the old ones stay in use.",
                &["name", "result"],
            )?,
        })
    }
}

impl TlsMetrics {
    pub(crate) fn new(name: &str, families: Option<TlsFamilies>) -> Self {
        Self { name: name.into(), families }
    }

    /// A handshake has begun.
    pub fn began(&self) {
        if let Some(families) = &self.families {
            families.under_way.with_label_values(&[&self.name]).inc();
        }
    }

    /// A handshake has ended, well or not.
    pub fn ended(&self) {
        if let Some(families) = &self.families {
            families.under_way.with_label_values(&[&self.name]).dec();
        }
    }

    /// It ended well. `version` is `1.2` or `1.3`.
    pub fn shaken(&self, version: &str, is_resumed: bool) {
        self.result("ok");
        let resumed = if is_resumed { "true" } else { "false" };
        if let Some(families) = &self.families {
            families.sessions.with_label_values(&[self.name.as_str(), version, resumed]).inc();
        }
    }

    /// It failed. `why` is one of a few fixed words.
    pub fn failed(&self, why: &'static str) {
        self.result(why);
    }

    /// A client spoke without TLS, as it may.
    pub fn plain(&self) {
        self.result("plain");
    }

    /// Files have changed.
    pub fn reloaded(&self, is_fine: bool) {
        let result = if is_fine { "ok" } else { "failed" };
        if let Some(families) = &self.families {
            families.reloads.with_label_values(&[self.name.as_str(), result]).inc();
        }
    }

    /// The certificate of `file`, which mecha shows, ends then, in seconds since 1970.
    pub fn ends(&self, file: &str, at: u64) {
        if let Some(families) = &self.families {
            families.ends.with_label_values(&[self.name.as_str(), file]).set(at as i64);
        }
    }

    /// A handshake with a server ended well. `ends` is when its certificate ends.
    pub fn shaken_upstream(&self, version: &str, is_resumed: bool, ends: Option<u64>) {
        self.failed_upstream("ok");
        let resumed = if is_resumed { "true" } else { "false" };
        if let Some(families) = &self.families {
            families.upstream_sessions.with_label_values(&[self.name.as_str(), version, resumed]).inc();
            if let Some(at) = ends {
                families.upstream_ends.with_label_values(&[&self.name]).set(at as i64);
            }
        }
    }

    /// It ended so. `result` is one of a few fixed words.
    pub fn failed_upstream(&self, result: &'static str) {
        if let Some(families) = &self.families {
            families.upstream_handshakes.with_label_values(&[self.name.as_str(), result]).inc();
        }
    }

    fn result(&self, result: &str) {
        if let Some(families) = &self.families {
            families.handshakes.with_label_values(&[self.name.as_str(), result]).inc();
        }
    }
}
