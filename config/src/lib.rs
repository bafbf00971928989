//! Configuration: from YAML or flags to an immutable, validated [`Snapshot`].
//!
//! The text becomes a tree whose every node knows its line and column, the tree is read into the snapshot, and every
//! problem is collected on the way: a user sees all errors at once, each with its place and a hint. The options of a
//! filter stay a subtree ([`Options`]) until the filter itself decodes them, so this crate knows no filter.
//!
//! Deliberately absent: sockets, files and any protocol. What exists is told by the caller ([`Known`]).

// The schema is one literal.
#![recursion_limit = "256"]

mod alike;
mod brokers;
mod detect;
mod error;
mod flags;
mod health;
mod http;
mod node;
mod options;
mod read;
mod reads;
mod repair;
mod routes;
mod schema;
mod sharding;
mod target;
mod tls;
pub mod units;
mod users;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use alike::{AlikeSpec, DnsFamily, DnsSpec, LimitsSpec, ListedSpec, listed_in};
pub use brokers::{BROKER_ID, BrokersSpec};
pub use detect::DetectSpec;
pub use error::{ConfigError, edit_distance};
pub use flags::{Overrides, TlsFlags, demo_snapshot, from_flags};
pub use health::{HealthCheckKind, HealthCheckSpec, OutlierSpec};
pub use http::{
    HashOn, HeaderCase, HttpActionSpec, HttpComplaint, HttpEditSpec, HttpForwardSpec, HttpRedirectSpec,
    HttpRetrySpec, HttpRouteSpec, Reachable, TunnelSpec,
};
pub use options::Options;
pub use read::load;
pub use reads::{Place, ReadFrom, ReadsSpec};
pub use routes::{KnownRoutes, MigrateSpec, MigrateStage, MirrorSpec, RouteClass, RouteSpec};
pub use schema::{FilterOption, Takes, Without, schema};
pub use sharding::{Balance, EjectSpec, HashTag, KeyHash, Member};
pub use target::{Scheme, SchemeServers};
pub use tls::{
    CertificateSpec, ClientTlsSpec, LoginSpec, Secret, SentinelsSpec, ServerTlsSpec, TlsComplaint, TlsSpec,
};
pub use users::{OauthSpec, RuleComplaint, UserSpec};

/// A configuration that is complete and consistent.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Data threads, at least 1.
    pub workers: usize,
    /// Where the admin server listens, if it does.
    pub admin: Option<SocketAddr>,
    /// Logs of the process.
    pub log: LogSpec,
    /// The longest that a stopping process waits for its clients.
    pub drain_timeout: Duration,
    /// Doors, in file order.
    pub listeners: Vec<ListenerSpec>,
    /// What they lead to.
    pub clusters: Vec<ClusterSpec>,
    /// Files with passwords, which are part of the configuration.
    pub secret_files: Vec<PathBuf>,
}

/// Logs of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSpec {
    /// How a line looks.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// One door.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSpec {
    /// Unique; metric label.
    pub name: String,
    /// What its clients speak.
    pub protocol: String,
    /// Where it listens.
    pub address: Address,
    /// Index into [`Snapshot::clusters`].
    pub cluster: usize,
    /// Calls that go elsewhere.
    pub routes: Vec<RouteSpec>,
    /// Requests that do not just go on, on an HTTP listener; the first one counts.
    pub http_routes: Vec<HttpRouteSpec>,
    /// Where copies go of calls that no route takes.
    pub mirror: Option<MirrorSpec>,
    /// Where the keys move to that no route takes.
    pub migrate: Option<MigrateSpec>,
    /// What calls pass, in order.
    pub filters: Vec<FilterSpec>,
    /// Clients at one time.
    pub max_connections: u32,
    /// Unanswered calls of one client.
    pub max_in_flight: u32,
    /// Bytes of unread replies of one client.
    pub max_output: u64,
    /// Bytes of one request.
    pub max_frame: u64,
    /// Clients that are silent for longer are closed.
    pub idle_timeout: Option<Duration>,
    /// How long a client may take for the head of a request, where requests have heads.
    pub header_timeout: Duration,
    /// For a request and its answer to their ends, or a tunnel, where requests have bodies.
    pub max_duration: Option<Duration>,
    /// Whether clients of HTTP/1.1 get what servers answer before their answers.
    pub has_early_hints: bool,
    /// How clients get names of fields.
    pub header_case: HeaderCase,
    /// Where clients may go with `CONNECT`; the first that allows it counts.
    pub tunnels: Vec<TunnelSpec>,
    /// How long nothing may come of a body that is waited for, or be read of an answer, where requests have bodies.
    pub body_timeout: Duration,
    /// Whether clients are told that they talk to a cluster, and of which hosts and ports; none: where they have connected.
    pub announce: Option<Vec<(String, u16)>>,
    /// Certificates; `None` without TLS.
    pub tls: Option<ServerTlsSpec>,
    /// Who may come; `None`: mecha asks nobody who they are.
    pub users: Option<Vec<UserSpec>>,
    /// Whether each connection begins with a header of the PROXY protocol that tells who the client is.
    pub proxy_protocol: bool,
    /// To which other listeners its clients are led; `None`: they are its own.
    pub detect: Option<DetectSpec>,
    /// How connections come here that were made to other addresses.
    pub transparent: Transparent,
    /// Whose tokens say who its clients are, where the protocol has tokens.
    pub oauth: Option<OauthSpec>,
    /// By which ports clients of Kafka reach single brokers; `None` on other listeners.
    pub brokers: Option<BrokersSpec>,
}

/// How connections come to a listener that were made to other addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transparent {
    /// They do not.
    #[default]
    None,
    /// With a changed address (`REDIRECT`); the system remembers which one it was.
    Redirect,
    /// As they are (`TPROXY`).
    Tproxy,
}

/// How the PROXY protocol is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// As text.
    V1,
    /// Binary.
    V2,
}

/// How the servers of a cluster are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// The endpoints are servers of a cluster that share the keys by slots and know each other.
    Cluster,
    /// The endpoints are host names; each of their addresses is a server.
    Dns,
    /// A file lists them, which is read again when it changes. There are no endpoints.
    File {
        /// Where it is.
        path: PathBuf,
        /// The port of addresses without one; 0: they need one.
        port: u16,
    },
    /// The endpoints are the servers.
    #[default]
    Listed,
    /// The endpoints are sentinels that watch a primary of this name.
    Sentinel(String),
    /// The endpoints are names of services (their ports mean nothing), whose SRV records (RFC 2782) tell of the servers.
    Srv,
}

/// Where a door listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

/// Whether clients that subscribe share connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subscriptions {
    /// Where there are several servers; with one, each client has its own, and servers count clients.
    #[default]
    Auto,
    /// Each has its own.
    Dedicated,
    /// They do.
    Shared,
}

/// Servers that hold the same or together the whole data.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSpec {
    /// Unique; metric label.
    pub name: String,
    /// What its servers speak; `embedded` for the store in this process.
    pub protocol: String,
    /// Its servers, or whom to ask for them.
    pub endpoints: Vec<Endpoint>,
    /// How its servers are found.
    pub discovery: Discovery,
    /// How often the servers are looked for, whether or not anything points to a change.
    pub refresh: Duration,
    /// How long calls that were not sent wait for a server that is lost, where servers are found.
    pub park: Duration,
    /// How a call's server is chosen.
    pub balance: Balance,
    /// How a key becomes a number.
    pub hash: KeyHash,
    /// Which part of a key is hashed.
    pub hash_tag: HashTag,
    /// What is hashed of requests of HTTP.
    pub hash_on: HashOn,
    /// Names and weights of the servers, in the order of `endpoints`.
    pub members: Vec<Member>,
    /// When servers are left out; never if there is nothing here.
    pub eject: Option<EjectSpec>,
    /// How servers are checked, if they are.
    pub health_check: Option<HealthCheckSpec>,
    /// When servers that are alike are left out; never if there is nothing here.
    pub outlier: Option<OutlierSpec>,
    /// How servers of HTTP/1 get names of fields.
    pub header_case: HeaderCase,
    /// How servers that are alike are chosen and loaded.
    pub alike: AlikeSpec,
    /// Shared connections per endpoint and worker.
    pub connections: u32,
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// Waits after failed attempts.
    pub backoff: Backoff,
    /// Connection attempts per second, endpoint and worker.
    pub connect_rate: u32,
    /// Whether each client has a connection of its own from its first call on.
    pub is_private: bool,
    /// Whether clients that subscribe share connections.
    pub subscriptions: Subscriptions,
    /// Dedicated connections per worker.
    pub max_pins: u32,
    /// Unanswered calls per connection.
    pub max_pending: u32,
    /// Bytes that an embedded store may hold.
    pub max_memory: u64,
    /// Bytes of one value where requests are translated.
    pub max_value: u64,
    /// Policies for every door that leads here, in order.
    pub filters: Vec<FilterSpec>,
    /// Whom to trust; `None` without TLS.
    pub tls: Option<ClientTlsSpec>,
    /// Whether servers are told who the client is, where each client has a connection of its own.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether servers see the client's address, where each client has a connection of its own.
    pub keeps_source: bool,
    /// Who mecha is to its servers.
    pub login: LoginSpec,
    /// From where it is read.
    pub reads: ReadsSpec,
    /// How its sentinels want to be talked to.
    pub sentinels: SentinelsSpec,
    /// The database that every connection selects.
    pub database: u32,
}

impl ClusterSpec {
    /// Whether its servers, or what they are fit for, must be found out.
    pub fn is_found(&self) -> bool {
        matches!(self.discovery, Discovery::Cluster | Discovery::Sentinel(_))
            || !self.reads.replicas.is_empty()
    }

    /// Whether its servers, which are alike, are looked up: in DNS, or in a file.
    pub fn is_looked_up(&self) -> bool {
        matches!(self.discovery, Discovery::Dns | Discovery::File { .. } | Discovery::Srv)
    }

    /// Where its servers are, for people: addresses, or where they are looked up.
    pub fn places(&self) -> Vec<String> {
        match &self.discovery {
            Discovery::File { path, .. } => vec![path.display().to_string()],
            _ => self.endpoints.iter().map(ToString::to_string).collect(),
        }
    }

    /// Whether connections for the one can go on for the other: what is not the same is at most who mecha says that it is
    /// when it makes new ones. Where servers are found, those who look for them must know too.
    pub fn is_same_but_login(&self, other: &Self) -> bool {
        self == other || !self.is_found() && Self { login: other.login.clone(), ..self.clone() } == *other
    }
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port: 0 } => f.write_str(host),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Waits after failed connection attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first.
    pub initial: Duration,
    /// The longest.
    pub max: Duration,
}

/// One filter with its options.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterSpec {
    /// Its name.
    pub name: String,
    /// Its options.
    pub options: Options,
}

/// What exists, told by whoever assembles the process.
pub struct Known<'a> {
    /// Schemes that listeners can have.
    pub doors: &'a [Scheme],
    /// Schemes that clusters can have.
    pub backs: &'a [Scheme],
    /// Names of all filters.
    pub filters: Vec<&'a str>,
    /// What a filter says about its options, on a listener of this protocol, or on a cluster.
    pub check_filter: &'a dyn Fn(&FilterSpec, Option<&str>) -> Vec<ConfigError>,
    /// What is wrong with the files that a `tls` block names.
    pub check_tls: &'a dyn Fn(TlsSpec<'_>) -> Vec<TlsComplaint>,
    /// What is wrong with the rules of a user.
    pub check_rules: &'a dyn Fn(&[String]) -> Vec<RuleComplaint>,
    /// What is wrong with the conditions and changes of a route of an HTTP listener.
    pub check_http_route: &'a dyn Fn(&HttpRouteSpec) -> Vec<HttpComplaint>,
    /// What a route of a listener of this protocol can ask for; `None`: it has no routes.
    pub routes: &'a dyn Fn(&str) -> Option<KnownRoutes>,
    /// Whether a door of the first protocol can lead to a back of the second.
    pub pairs: &'a dyn Fn(&str, &str) -> bool,
}
