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
}

impl TlsFamilies {
    pub(crate) fn new(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let counter = |name, help, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone())).map(|()| family)
        };
        let under_way = IntGaugeVec::new(
            Opts::new("mecha_tls_handshakes_under_way", "Handshakes with clients that have not ended."),
            &["listener"],
        )?;
        registry.register(Box::new(under_way.clone()))?;
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
            under_way,
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

    fn result(&self, result: &str) {
        if let Some(families) = &self.families {
            families.handshakes.with_label_values(&[self.name.as_str(), result]).inc();
        }
    }
}
