//! From the tree to the snapshot, collecting every problem on the way.
//!
//! One file per thing that is read: this one the top of the file, [`cluster`] and [`listener`] one entry of their
//! lists, [`routes`] where a listener's calls go, [`sharding`] how a cluster spreads its keys, [`filters`] a chain, and [`fields`] the ways of reading one value.
//!
//! # Adding a key
//! 1. A field with its documentation in `ClusterSpec` or `ListenerSpec` (`lib.rs`), and its default beside the others in
//!    `default_cluster` or `default_listener`; flags get the default too.
//! 2. One line in `cluster_keys` or `listener_keys`: `set(&mut spec.key, self.count(fields.take("key"), max))`. Taking a
//!    key makes it known; a nested map (`tls: { … }`) is read by a function of its own, in a file of its own if it
//!    is long, that starts with `self.fields` and ends with `self.finish` (`backoff` is the model).
//! 3. One line in `schema.rs`, with the default in parentheses.
//! 4. `MECHA_BLESS=1 cargo test --test it docs` writes `docs/configuration.md` anew.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::node::{Kind, Node};
use crate::options::Origin;
use crate::{ConfigError, Known, LogFormat, LogSpec, Snapshot};

mod alike;
mod cluster;
mod detect;
mod fields;
mod filters;
mod health;
mod http;
mod listener;
mod reads;
mod routes;
mod sharding;
mod tls;
mod users;

pub(crate) use cluster::default_cluster;
pub(crate) use listener::default_listener;

/// Reads a configuration file's text. `file` is its name, for errors.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(text: &str, file: &str, known: &Known<'_>) -> Result<Snapshot, Vec<ConfigError>> {
    let origin = Origin::new(file, text);
    let mut errors = Vec::new();
    let root = Node::parse(text, &mut errors).map_err(|error| vec![origin.locate(error)])?;
    let mut reader = Reader::new(known, origin, errors);
    let snapshot = reader.snapshot(&root);
    reader.errors().map(|()| snapshot)
}

pub(crate) fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) struct Reader<'a> {
    known: &'a Known<'a>,
    origin: Arc<Origin>,
    errors: Vec<ConfigError>,
    /// Where this process is.
    zone: Option<String>,
    /// Whether the cluster that is being read speaks TLS.
    is_tls: bool,
    /// Clusters with errors of their own: that somebody leads to them is no further error.
    broken: Vec<String>,
    /// Files with passwords.
    secret_files: Vec<PathBuf>,
}

impl<'a> Reader<'a> {
    /// Has read nothing yet, and knows of these `errors`.
    pub(crate) fn new(known: &'a Known<'a>, origin: Arc<Origin>, errors: Vec<ConfigError>) -> Self {
        let (broken, secret_files) = (Vec::new(), Vec::new());
        Self { known, origin, errors, zone: None, is_tls: false, broken, secret_files }
    }

    /// Everything that was wrong, in the order of the text.
    pub(crate) fn errors(self) -> Result<(), Vec<ConfigError>> {
        let Self { origin, mut errors, .. } = self;
        if errors.is_empty() {
            return Ok(());
        }
        errors.sort_by_key(|error| (error.line, error.column));
        Err(errors.into_iter().map(|error| origin.locate(error)).collect())
    }

    fn snapshot(&mut self, root: &Node) -> Snapshot {
        let mut fields = self.fields(root, "");
        self.zone = self.text(fields.take("zone"));
        let mut clusters = self.clusters(fields.take("clusters"));
        let users = self.users(fields.take("users"));
        let listeners = self.listeners(fields.take("listeners"), &mut clusters, users.as_deref());
        let admin = self.parsed(fields.take("admin"), |text| {
            text.parse::<SocketAddr>().map_err(|_| {
                (format!("`{text}` is no address and port"), Some("as in 127.0.0.1:9900".to_string()))
            })
        });
        let workers = self.count(fields.take("workers"), 1024);
        let log = fields.take("log").map(|(node, path)| self.log(node, &path)).unwrap_or_default();
        let drain_timeout = self.period(fields.take("drain_timeout"), Duration::ZERO);
        if listeners.is_empty() && self.errors.is_empty() {
            let hint = "as in `listeners: [ { listen: \"redis://127.0.0.1:6379\", to: \"embedded://\" } ]`";
            self.error(
                fields.place,
                "listeners",
                if root.kind == Kind::Null { "the file is empty" } else { "there is no listener" },
                Some(hint.into()),
            );
        }
        self.finish(fields);
        Snapshot {
            workers: workers.map_or_else(default_workers, |workers| workers as usize),
            admin,
            log,
            drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(10)),
            listeners,
            clusters: clusters.into_iter().map(|(cluster, _)| cluster).collect(),
            secret_files: std::mem::take(&mut self.secret_files),
        }
    }

    fn log(&mut self, node: &Node, path: &str) -> LogSpec {
        let mut fields = self.fields(node, path);
        let format =
            self.word(fields.take("format"), &[("json", LogFormat::Json), ("text", LogFormat::Text)]);
        let levels = ["debug", "error", "info", "trace", "warn"].map(|level| (level, level));
        let level = self.word(fields.take("level"), &levels);
        self.finish(fields);
        LogSpec { format: format.unwrap_or_default(), level: level.unwrap_or("info").into() }
    }
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

#[cfg(test)]
mod tests;
