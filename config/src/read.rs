//! From the tree to the snapshot, collecting every problem on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::suggestion;
use crate::node::{Kind, Node, Place};
use crate::options::{Origin, join};
use crate::target::{self, Complaint};
use crate::units::{parse_period, parse_size};
use crate::{
    Address, Backoff, Balance, ClusterSpec, ConfigError, FilterSpec, Known, ListenerSpec, LogFormat, LogSpec,
    Options, Snapshot,
};

/// Reads a configuration file's text. `file` is its name, for errors.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(text: &str, file: &str, known: &Known<'_>) -> Result<Snapshot, Vec<ConfigError>> {
    let origin = Origin::new(file, text);
    let root = Node::parse(text).map_err(|error| vec![origin.locate(error)])?;
    let mut reader = Reader { known, origin, errors: Vec::new() };
    let snapshot = reader.snapshot(&root);
    let Reader { origin, mut errors, .. } = reader;
    if errors.is_empty() {
        return Ok(snapshot);
    }
    errors.sort_by_key(|error| (error.line, error.column));
    Err(errors.into_iter().map(|error| origin.locate(error)).collect())
}

/// Defaults that flags share.
pub(crate) fn default_cluster(name: String, protocol: &str, endpoints: Vec<crate::Endpoint>) -> ClusterSpec {
    let balance = if endpoints.len() > 1 { Balance::Ketama } else { Balance::RoundRobin };
    ClusterSpec {
        name,
        protocol: protocol.into(),
        endpoints,
        balance,
        connections: 1,
        connect_timeout: Duration::from_secs(1),
        backoff: Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(5) },
        connect_rate: 100,
        max_pins: 1024,
        max_pending: 16_384,
        max_memory: 256 << 20,
        max_value: (1 << 20) - 512,
        filters: Vec::new(),
    }
}

pub(crate) fn default_listener(
    name: String,
    protocol: &str,
    address: Address,
    cluster: usize,
) -> ListenerSpec {
    ListenerSpec {
        name,
        protocol: protocol.into(),
        address,
        cluster,
        filters: Vec::new(),
        max_connections: 65_536,
        max_in_flight: 1024,
        max_output: 8 << 20,
        max_frame: 512 << 20,
        idle_timeout: None,
    }
}

pub(crate) fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

struct Reader<'a> {
    known: &'a Known<'a>,
    origin: Arc<Origin>,
    errors: Vec<ConfigError>,
}

/// One map being read: its keys are taken one by one, and what is left is unknown.
struct Fields<'n> {
    pairs: Vec<(&'n str, Place, &'n Node)>,
    path: String,
    place: Place,
    names: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    fn take(&mut self, name: &'static str) -> Option<(&'n Node, String)> {
        self.names.push(name);
        let at = self.pairs.iter().position(|(key, ..)| *key == name)?;
        let (_, _, node) = self.pairs.remove(at);
        Some((node, join(&self.path, name)))
    }
}

impl Reader<'_> {
    fn error(&mut self, place: Place, path: &str, message: impl Into<String>, hint: Option<String>) {
        self.errors.push(ConfigError {
            line: place.line,
            column: place.column,
            hint,
            ..ConfigError::new(path, message)
        });
    }

    fn complain(&mut self, node: &Node, path: &str, complaint: Complaint) {
        self.error(node.place, path, complaint.0, complaint.1);
    }

    fn fields<'n>(&mut self, node: &'n Node, path: &str) -> Fields<'n> {
        let pairs = match &node.kind {
            Kind::Map(pairs) => pairs.iter().map(|(key, place, node)| (key.as_str(), *place, node)).collect(),
            Kind::Null => Vec::new(),
            _ => {
                self.error(node.place, path, format!("expected a map, got {}", node.describe()), None);
                Vec::new()
            }
        };
        Fields { pairs, path: path.into(), place: node.place, names: Vec::new() }
    }

    fn finish(&mut self, fields: Fields<'_>) {
        for (key, place, _) in fields.pairs {
            let path = join(&fields.path, key);
            self.error(
                place,
                &path,
                format!("there is no key `{key}` here"),
                Some(suggestion(key, &fields.names)),
            );
        }
    }

    fn items<'n>(&mut self, found: Option<(&'n Node, String)>) -> Vec<(&'n Node, String)> {
        match found {
            None => Vec::new(),
            Some((node, path)) => match &node.kind {
                Kind::List(items) => {
                    items.iter().enumerate().map(|(index, item)| (item, format!("{path}[{index}]"))).collect()
                }
                Kind::Null => Vec::new(),
                _ => {
                    let hint = Some("start each entry with `- `".to_string());
                    self.error(node.place, &path, format!("expected a list, got {}", node.describe()), hint);
                    Vec::new()
                }
            },
        }
    }

    fn text(&mut self, found: Option<(&Node, String)>) -> Option<String> {
        let (node, path) = found?;
        match &node.kind {
            Kind::Scalar(text, _) => Some(text.clone()),
            _ => {
                self.error(node.place, &path, format!("expected text, got {}", node.describe()), None);
                None
            }
        }
    }

    fn parsed<T>(
        &mut self,
        found: Option<(&Node, String)>,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let (node, path) = found?;
        let text = self.text(Some((node, path.clone())))?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.complain(node, &path, complaint);
                None
            }
        }
    }

    fn period(&mut self, found: Option<(&Node, String)>, least: Duration) -> Option<Duration> {
        self.parsed(found, |text| {
            let period: Duration =
                parse_period(text).map_err(|help| (format!("`{text}` is no duration"), Some(help)))?.into();
            if period < least { Err((format!("must be at least {least:?}"), None)) } else { Ok(period) }
        })
    }

    fn size(&mut self, found: Option<(&Node, String)>, least: u64) -> Option<u64> {
        self.parsed(found, |text| {
            let size: u64 =
                parse_size(text).map_err(|help| (format!("`{text}` is no size"), Some(help)))?.into();
            if size < least { Err((format!("must be at least {least} bytes"), None)) } else { Ok(size) }
        })
    }

    fn count(&mut self, found: Option<(&Node, String)>, max: u32) -> Option<u32> {
        self.parsed(found, |text| match text.replace('_', "").parse::<u32>() {
            Ok(count) if (1..=max).contains(&count) => Ok(count),
            _ => Err((format!("`{text}` is not a number from 1 to {max}"), None)),
        })
    }

    fn word<T: Copy>(&mut self, found: Option<(&Node, String)>, words: &[(&'static str, T)]) -> Option<T> {
        self.parsed(found, |text| {
            let value = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            value.ok_or_else(|| {
                (format!("`{text}` is not one of {}", names.join(", ")), Some(suggestion(text, &names)))
            })
        })
    }

    fn snapshot(&mut self, root: &Node) -> Snapshot {
        let mut fields = self.fields(root, "");
        let mut clusters = self.clusters(fields.take("clusters"));
        let listeners = self.listeners(fields.take("listeners"), &mut clusters);
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
            self.error(fields.place, "listeners", "there is no listener", Some(hint.into()));
        }
        self.finish(fields);
        Snapshot {
            workers: workers.map_or_else(default_workers, |workers| workers as usize),
            admin,
            log,
            drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(10)),
            listeners,
            clusters: clusters.into_iter().map(|(cluster, _)| cluster).collect(),
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

    /// Clusters with whether any listener leads to them.
    fn clusters(&mut self, found: Option<(&Node, String)>) -> Vec<(ClusterSpec, bool)> {
        let Some((node, path)) = found else { return Vec::new() };
        let fields = self.fields(node, &path);
        let mut clusters = Vec::new();
        for (name, _, node) in fields.pairs {
            if let Some(cluster) = self.cluster(name, node, &join(&path, name)) {
                clusters.push((cluster, false));
            }
        }
        clusters
    }

    fn cluster(&mut self, name: &str, node: &Node, path: &str) -> Option<ClusterSpec> {
        // `cache: redis://...` is short for `cache: { to: redis://... }`.
        if let Kind::Scalar(..) = node.kind {
            let (protocol, endpoints) =
                self.parsed(Some((node, path.into())), |text| target::back(text, self.known.backs))?;
            return Some(default_cluster(name.into(), protocol, endpoints));
        }
        let backs = self.known.backs;
        let mut fields = self.fields(node, path);
        let to = fields.take("to");
        if to.is_none() {
            self.error(
                node.place,
                path,
                "`to` is missing",
                Some("as in `to: redis://127.0.0.1:6379`".into()),
            );
        }
        let target = self.parsed(to, |text| target::back(text, backs));
        let (protocol, endpoints) = target.clone().unwrap_or_default();
        let mut cluster = default_cluster(name.into(), protocol, endpoints);
        if let Some(balance) = self.word(fields.take("balance"), &Balance::ALL) {
            cluster.balance = balance;
        }
        set(&mut cluster.connections, self.count(fields.take("connections"), 1024));
        set(
            &mut cluster.connect_timeout,
            self.period(fields.take("connect_timeout"), Duration::from_millis(1)),
        );
        if let Some((node, path)) = fields.take("backoff") {
            let mut fields = self.fields(node, &path);
            let least = Duration::from_millis(1);
            set(&mut cluster.backoff.initial, self.period(fields.take("initial"), least));
            set(&mut cluster.backoff.max, self.period(fields.take("max"), least));
            self.finish(fields);
            if cluster.backoff.max < cluster.backoff.initial {
                self.error(node.place, &path, "`max` must not be shorter than `initial`", None);
            }
        }
        set(&mut cluster.connect_rate, self.count(fields.take("connect_rate"), 1_000_000));
        set(&mut cluster.max_pins, self.count(fields.take("max_pins"), 1_000_000));
        set(&mut cluster.max_pending, self.count(fields.take("max_pending"), 10_000_000));
        set(&mut cluster.max_memory, self.size(fields.take("max_memory"), 1 << 20));
        set(&mut cluster.max_value, self.size(fields.take("max_value"), 1024));
        cluster.filters = self.filters(fields.take("filters"), None);
        self.finish(fields);
        target.map(|_| cluster)
    }

    fn listeners(
        &mut self,
        found: Option<(&Node, String)>,
        clusters: &mut Vec<(ClusterSpec, bool)>,
    ) -> Vec<ListenerSpec> {
        let mut listeners = Vec::<ListenerSpec>::new();
        for (node, path) in self.items(found) {
            let Some(listener) = self.listener(node, &path, clusters, listeners.len()) else { continue };
            if listeners.iter().any(|other| other.name == listener.name) {
                self.error(
                    node.place,
                    &path,
                    format!("there are two listeners `{}`", listener.name),
                    Some("give one a `name`".into()),
                );
            }
            let is_fixed = !matches!(&listener.address, Address::Tcp(addr) if addr.port() == 0);
            if is_fixed && listeners.iter().any(|other| other.address == listener.address) {
                self.error(node.place, &path, "another listener has this address", None);
            }
            listeners.push(listener);
        }
        listeners
    }

    fn listener(
        &mut self,
        node: &Node,
        path: &str,
        clusters: &mut Vec<(ClusterSpec, bool)>,
        index: usize,
    ) -> Option<ListenerSpec> {
        let mut fields = self.fields(node, path);
        let doors = self.known.doors;
        let listen = fields.take("listen");
        if listen.is_none() {
            self.error(
                node.place,
                path,
                "`listen` is missing",
                Some("as in `listen: redis://127.0.0.1:6379`".into()),
            );
        }
        let door = self.parsed(listen, |text| target::door(text, doors));
        let protocol = door.as_ref().map_or("", |(protocol, _)| *protocol);
        let to = fields.take("to");
        if to.is_none() {
            let hint =
                "a cluster's name or a target, as in `to: redis://127.0.0.1:6380` or `to: embedded://`";
            self.error(node.place, path, "`to` is missing", Some(hint.into()));
        }
        let name = self.text(fields.take("name"));
        let name = name.unwrap_or_else(|| {
            if index == 0 { protocol.to_string() } else { format!("{protocol}-{}", index + 1) }
        });
        let cluster = to.and_then(|to| self.target(to, &name, clusters, protocol));
        let filters = self.filters(fields.take("filters"), door.as_ref().map(|(protocol, _)| *protocol));
        let address = door.as_ref().map(|(_, address)| address.clone());
        let unknown = Address::Unix(std::path::PathBuf::new());
        let mut listener = default_listener(name, protocol, address.unwrap_or(unknown), cluster.unwrap_or(0));
        listener.filters = filters;
        set(&mut listener.max_connections, self.count(fields.take("max_connections"), 10_000_000));
        set(&mut listener.max_in_flight, self.count(fields.take("max_in_flight"), 1_000_000));
        set(&mut listener.max_output, self.size(fields.take("max_output"), 64 << 10));
        set(&mut listener.max_frame, self.size(fields.take("max_frame"), 1 << 10));
        listener.idle_timeout = self.period(fields.take("idle_timeout"), Duration::from_secs(1));
        self.finish(fields);
        (door.is_some() && cluster.is_some()).then_some(listener)
    }

    /// The index of the cluster that `to` names, or of a new one that it describes.
    fn target(
        &mut self,
        to: (&Node, String),
        listener: &str,
        clusters: &mut Vec<(ClusterSpec, bool)>,
        door: &str,
    ) -> Option<usize> {
        let (node, path) = (to.0, to.1.clone());
        let text = self.text(Some(to))?;
        let index = if text.contains("://") {
            let backs = self.known.backs;
            let (protocol, endpoints) =
                self.parsed(Some((node, path.clone())), |text| target::back(text, backs))?;
            // Listeners that lead to the same target share it, as two doors of one embedded store must.
            let same = clusters.iter().position(|(cluster, is_inline)| {
                *is_inline && cluster.protocol == protocol && cluster.endpoints == endpoints
            });
            same.unwrap_or_else(|| {
                let base =
                    if endpoints.is_empty() { protocol.to_string() } else { format!("{listener}-upstream") };
                let is_taken = |name: &str| clusters.iter().any(|(cluster, _)| cluster.name == name);
                let name = (2..).map(|n| format!("{base}-{n}")).find(|name| !is_taken(name));
                let name = if is_taken(&base) { name.unwrap_or_default() } else { base };
                clusters.push((default_cluster(name, protocol, endpoints), true));
                clusters.len() - 1
            })
        } else {
            let names: Vec<_> = clusters.iter().map(|(cluster, _)| cluster.name.as_str()).collect();
            match names.iter().position(|name| *name == text) {
                Some(index) => index,
                None => {
                    let hint = suggestion(&text, &names);
                    self.error(node.place, &path, format!("there is no cluster `{text}`"), Some(hint));
                    return None;
                }
            }
        };
        let back = clusters.get(index).map_or("", |(cluster, _)| cluster.protocol.as_str());
        if !door.is_empty() && !(self.known.pairs)(door, back) {
            self.error(node.place, &path, format!("a {door} listener cannot lead to {back}"), None);
        }
        Some(index)
    }

    fn filters(&mut self, found: Option<(&Node, String)>, protocol: Option<&str>) -> Vec<FilterSpec> {
        let mut filters = Vec::new();
        for (node, path) in self.items(found) {
            let (name, options) = match &node.kind {
                Kind::Scalar(name, _) => (name.clone(), Node { place: node.place, kind: Kind::Null }),
                Kind::Map(pairs) => match pairs.as_slice() {
                    [(name, _, options)] => (name.clone(), options.clone()),
                    _ => {
                        let hint = "one `- ` for each filter, as in `- timeout: { after: 1s }`";
                        self.error(node.place, &path, "each entry names one filter", Some(hint.into()));
                        continue;
                    }
                },
                _ => {
                    self.error(
                        node.place,
                        &path,
                        format!("expected a filter, got {}", node.describe()),
                        None,
                    );
                    continue;
                }
            };
            let path = join(&path, &name);
            if !self.known.filters.contains(&name.as_str()) {
                let hint = suggestion(&name, &self.known.filters);
                self.error(node.place, &path, format!("there is no filter `{name}`"), Some(hint));
                continue;
            }
            let mut options = Options { node: options, path, origin: Arc::clone(&self.origin) };
            if options.node.place == Place::default() {
                options.node.place = node.place;
            }
            let spec = FilterSpec { name, options };
            self.errors.extend((self.known.check_filter)(&spec, protocol));
            filters.push(spec);
        }
        filters
    }
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

#[cfg(test)]
mod tests;
