//! How keys are spread over the servers of a cluster.

use crate::Endpoint;

/// How a call's server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By key, on the ring of twemproxy and of libmemcached's weighted ketama.
    Ketama,
    /// By key, on the ring of nginx.
    KetamaNginx,
    /// By key, on the ring of libmemcached's ketama without weights.
    KetamaUnweighted,
    /// The one with the fewest unanswered calls.
    LeastRequest,
    /// By key, through a table.
    Maglev,
    /// By key, its hash modulo the number of servers.
    Modulo,
    /// Any.
    Random,
    /// Each in turn.
    RoundRobin,
}

impl Balance {
    /// Every policy with its name.
    pub const ALL: [(&'static str, Self); 8] = [
        ("ketama", Self::Ketama),
        ("ketama_nginx", Self::KetamaNginx),
        ("ketama_unweighted", Self::KetamaUnweighted),
        ("least_request", Self::LeastRequest),
        ("maglev", Self::Maglev),
        ("modulo", Self::Modulo),
        ("random", Self::Random),
        ("round_robin", Self::RoundRobin),
    ];

    /// Whether keys are hashed by [`KeyHash`].
    pub(crate) fn has_key_hash(self) -> bool {
        matches!(self, Self::Ketama | Self::KetamaUnweighted | Self::Maglev | Self::Modulo)
    }
}

/// How a key becomes a number; the names are twemproxy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are twemproxy's")]
pub enum KeyHash {
    Crc16,
    Crc32,
    Crc32a,
    Fnv132,
    Fnv164,
    Fnv1a32,
    #[default]
    Fnv1a64,
    Hsieh,
    Jenkins,
    Md5,
    Murmur,
    OneAtATime,
}

impl KeyHash {
    /// Every hash with its name.
    pub const ALL: [(&'static str, Self); 12] = [
        ("crc16", Self::Crc16),
        ("crc32", Self::Crc32),
        ("crc32a", Self::Crc32a),
        ("fnv1_32", Self::Fnv132),
        ("fnv1_64", Self::Fnv164),
        ("fnv1a_32", Self::Fnv1a32),
        ("fnv1a_64", Self::Fnv1a64),
        ("hsieh", Self::Hsieh),
        ("jenkins", Self::Jenkins),
        ("md5", Self::Md5),
        ("murmur", Self::Murmur),
        ("one_at_a_time", Self::OneAtATime),
    ];
}

/// Which part of a key is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashTag {
    /// What lies between these two bytes.
    Between(u8, u8),
    /// What the protocol's users expect.
    #[default]
    Default,
    /// All of it.
    None,
}

/// What the file says about one server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name on the ring.
    pub name: String,
    /// Its share of the keys, or clients, in proportion to the others'.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<String>,
    /// Where servers are alike, one is asked while too few of those with smaller numbers are well.
    pub priority: u32,
}

/// Where Memcached usually listens. libmemcached and twemproxy leave that port out of a server's name, so that its keys
/// do not depend on whether it was written down.
const UNNAMED_PORT: u16 = 11_211;

impl Member {
    /// What a server is unless the file says otherwise.
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let name = match endpoint {
            Endpoint::Tcp { host, port: UNNAMED_PORT } => host.clone(),
            Endpoint::Tcp { .. } => endpoint.to_string(),
            Endpoint::Unix(path) => path.display().to_string(),
        };
        Self { name, weight: 1, zone: None, priority: 0 }
    }
}

/// When servers of a list are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectSpec {
    /// Failures in a row.
    pub failures: u32,
    /// How long a server is left alone.
    pub retry_after: std::time::Duration,
    /// Servers that take the keys of those that are left out.
    pub gutter: Vec<Endpoint>,
    /// Their names and weights.
    pub gutter_members: Vec<Member>,
    /// The longest life of what is stored in the gutter, in seconds.
    pub gutter_ttl_secs: u32,
}
