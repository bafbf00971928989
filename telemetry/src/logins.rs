//! Logins of clients. They are rare beside commands, so ordinary counters do.

use prometheus::{IntCounterVec, Opts};

/// What is counted of one listener.
#[derive(Clone)]
pub struct LoginMetrics {
    listener: String,
    family: Option<IntCounterVec>,
}

pub(crate) fn family(registry: &prometheus::Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Logins of clients as users that are defined in mecha, by result.";
    let family = IntCounterVec::new(Opts::new("mecha_logins_total", help), &["listener", "result"])?;
    registry.register(Box::new(family.clone())).map(|()| family)
}

impl LoginMetrics {
    pub(crate) fn new(listener: &str, family: Option<IntCounterVec>) -> Self {
        Self { listener: listener.into(), family }
    }

    /// A login ended: `ok`, `failed`, or `throttled`, because too many have failed.
    pub fn ended(&self, result: &'static str) {
        if let Some(family) = &self.family {
            family.with_label_values(&[self.listener.as_str(), result]).inc();
        }
    }
}
