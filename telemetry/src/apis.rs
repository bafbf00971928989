//! Figures of requests by API, version and error, on one worker; and of connections to numbered servers.
//!
//! For protocols whose answers have an error's number in them. Every label has a bound: what there is are tables of the
//! protocol, and versions and servers beyond a number share a series.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mecha_core::{OpId, OpInfo};

use crate::Counter;

/// Versions that have series of their own.
pub(crate) const VERSIONS: usize = 32;

/// Servers that have series of their own.
const MAX_SERVERS: usize = 1000;

/// Counts for each error, and for those that nobody knows.
type Errors = Box<[Counter]>;

/// Figures of requests by API, version and error, on one worker.
#[derive(Debug)]
pub struct ApiMetrics {
    pub(crate) listener: String,
    pub(crate) ops: &'static [OpInfo],
    pub(crate) errors: &'static [&'static str],
    pub(crate) rows: Vec<OnceLock<Box<[OnceLock<Errors>; VERSIONS + 1]>>>,
    servers: Mutex<BTreeMap<i32, Arc<Counter>>>,
}

/// One connection to a server, for as long as it lasts.
#[derive(Debug)]
pub struct Seated(Arc<Counter>);

impl Drop for Seated {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

impl ApiMetrics {
    pub(crate) fn new(listener: &str, ops: &'static [OpInfo], errors: &'static [&'static str]) -> Self {
        let rows = (0..ops.len().max(1)).map(|_| OnceLock::new()).collect();
        Self { listener: listener.into(), ops, errors, rows, servers: Mutex::default() }
    }

    /// A request was answered, with the error that has this place in the table.
    pub fn answered(&self, op: OpId, version: i16, error: usize) {
        let row = self.rows.get(usize::from(op.0)).or_else(|| self.rows.first());
        let versions = row.map(|row| row.get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::new()))));
        let at = usize::try_from(version).map_or(VERSIONS, |at| at.min(VERSIONS));
        let Some(errors) = versions.and_then(|versions| versions.get(at)) else { return };
        let errors = errors.get_or_init(|| (0..=self.errors.len()).map(|_| Counter::default()).collect());
        if let Some(count) = errors.get(error).or_else(|| errors.last()) {
            count.add(1);
        }
    }

    /// There is a connection to the server with this number; `None` where it is not known which one that is. Only on the worker
    /// whose figures these are.
    pub fn connected(&self, server: Option<i32>) -> Seated {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let number = server.filter(|number| *number >= 0).unwrap_or(ANY);
        let number =
            if servers.len() < MAX_SERVERS || servers.contains_key(&number) { number } else { OTHER };
        let count = Arc::clone(servers.entry(number).or_default());
        count.add(1);
        Seated(count)
    }

    /// Connections to each server: its label, and how many there are.
    pub(crate) fn servers(&self) -> Vec<(String, u64)> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let label = |number: i32| match number {
            ANY => "any".into(),
            OTHER => "other".into(),
            number => number.to_string(),
        };
        servers.iter().map(|(number, count)| (label(*number), count.get())).collect()
    }
}

const ANY: i32 = -1;
const OTHER: i32 = -2;

#[cfg(test)]
mod tests {
    use mecha_core::OpClass;

    use super::*;

    static OPS: [OpInfo; 2] = [
        OpInfo { name: "other", class: OpClass::Session, idempotent: false },
        OpInfo { name: "Fetch", class: OpClass::Read, idempotent: false },
    ];

    #[test]
    fn whatever_is_counted_the_series_are_bounded() {
        let registry = crate::Registry::new();
        let metrics = registry.apis("front", &OPS, &["FAILED", "NONE"]);
        for (op, version, error) in [(1, 12, 1), (1, 12, 1), (1, 12, 0), (9, -1, 77), (1, i16::MAX, 1)] {
            metrics.answered(OpId(op), version, error);
        }
        let seats: Vec<_> = (0..2000).map(|number| metrics.connected(Some(number))).collect();
        drop(metrics.connected(Some(1)));
        drop(metrics.connected(None));
        let text = registry.render();
        for line in [
            r#"mecha_kafka_requests_total{listener="front",api="Fetch",version="12",error="NONE"} 2"#,
            r#"mecha_kafka_requests_total{listener="front",api="Fetch",version="12",error="FAILED"} 1"#,
            r#"mecha_kafka_requests_total{listener="front",api="Fetch",version="other",error="NONE"} 1"#,
            r#"mecha_kafka_requests_total{listener="front",api="other",version="other",error="UNKNOWN"} 1"#,
            r#"mecha_kafka_broker_connections{listener="front",broker="1"} 1"#,
            r#"mecha_kafka_broker_connections{listener="front",broker="other"} 1000"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains(r#"broker="1000""#));
        drop(seats);
        assert!(
            registry.render().contains(r#"mecha_kafka_broker_connections{listener="front",broker="1"} 0"#)
        );
    }
}
