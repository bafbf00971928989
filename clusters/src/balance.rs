//! Which endpoint takes a call.
//!
//! Hashing policies look at the key, so the same key always meets the same endpoint; the others assume that all
//! endpoints hold the same data, and a client keeps its endpoint while it has calls in flight.
//!
//! Tables are made of names, weights and hashes that are defined outside of this program, so a key stays where it is
//! across versions of mecha, and where twemproxy, libmemcached or nginx put it.

mod hash;
mod ketama;
mod maglev;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use pingora_ketama::{Bucket, Continuum};

pub use hash::KeyHash;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Consistent hashing on the ring of twemproxy's `ketama` and of libmemcached's weighted one.
    Ketama,
    /// Consistent hashing on the ring of nginx (`hash … consistent`), which has a key hash of its own.
    KetamaNginx,
    /// Consistent hashing on the ring of libmemcached's ketama without weights.
    KetamaUnweighted,
    /// The endpoint with the fewest unanswered calls.
    LeastRequest,
    /// Consistent hashing through a lookup table.
    Maglev,
    /// The hash modulo the number of endpoints, in the order in which they are configured; weights repeat them. As
    /// `modula` of libmemcached and of twemproxy, which sorts its servers by length and then text of their names first.
    Modulo,
    /// Any.
    Random,
    /// Each in turn.
    #[default]
    RoundRobin,
}

impl Balance {
    /// Whether the key decides.
    pub fn is_hashed(self) -> bool {
        !matches!(self, Self::LeastRequest | Self::Random | Self::RoundRobin)
    }

    /// An endpoint for any key among `count`, for the other policies. `turn` counts choices; `load` tells how many
    /// calls an endpoint has unanswered, `None` if it is down. A policy that points at a down endpoint moves on to the
    /// next; if all are down, one is returned all the same so that it can be tried.
    pub fn any(self, count: usize, turn: usize, load: impl Fn(usize) -> Option<usize>) -> Option<usize> {
        if count == 0 {
            return None;
        }
        let start = match self {
            Self::Random => fastrand::usize(..count),
            _ => turn % count,
        };
        let from_start = (0..count).map(|step| (start + step) % count);
        match self {
            Self::LeastRequest => from_start
                .filter_map(|index| Some((load(index)?, index)))
                .min_by_key(|pair| pair.0)
                .map(|pair| pair.1),
            _ => from_start.into_iter().find(|index| load(*index).is_some()),
        }
        .or(Some(start))
    }
}

/// Only the bytes between these two are hashed, if a key has them with something between: `{user1}.name` and
/// `{user1}.age` stay together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashTag {
    /// Opens the tag.
    pub open: u8,
    /// Closes it.
    pub close: u8,
}

impl HashTag {
    /// What is hashed of `key`: between the first opening byte and the first closing byte behind it.
    pub fn of(self, key: &[u8]) -> &[u8] {
        let tag = memchr::memchr(self.open, key).and_then(|open| {
            let rest = key.get(open + 1..)?;
            rest.get(..memchr::memchr(self.close, rest)?)
        });
        tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
    }
}

/// How keys are spread over endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharding {
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// How a key becomes a number.
    pub hash: KeyHash,
    /// Which part of a key is hashed; all of it if there is none.
    pub tag: Option<HashTag>,
}

/// One endpoint as the tables see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What [`Balancer::by_key`] returns for it.
    pub index: u16,
    /// Decides its positions on rings, so that it keeps its keys when others come and go.
    pub name: String,
    /// Its share of the keys, in proportion to the others'.
    pub weight: u32,
}

/// A policy with its tables built.
pub struct Balancer {
    sharding: Sharding,
    tables: Tables,
    /// Who is out, by index, and who takes their keys.
    stand_ins: Option<Box<(Vec<bool>, Balancer)>>,
}

enum Tables {
    /// With the sorted addresses of the ring's nodes and their endpoints' indexes.
    Nginx(Box<Continuum>, Vec<(SocketAddr, u16)>),
    Maglev(maglev::Table),
    Modulo(Vec<u16>),
    None,
    Ring(ketama::Ring),
}

/// Longest table of a modulo policy.
const MODULO_SLOTS: usize = 1 << 20;

impl Balancer {
    /// Builds the tables.
    pub fn new(sharding: Sharding, nodes: &[Node]) -> Self {
        let tables = match sharding.balance {
            Balance::Ketama => Tables::Ring(ketama::Ring::weighted(nodes)),
            Balance::KetamaNginx => nginx(nodes),
            Balance::KetamaUnweighted => Tables::Ring(ketama::Ring::plain(nodes, sharding.hash)),
            Balance::Maglev => Tables::Maglev(maglev::Table::new(nodes)),
            Balance::Modulo => {
                let slots =
                    nodes.iter().flat_map(|node| std::iter::repeat_n(node.index, node.weight as usize));
                Tables::Modulo(slots.take(MODULO_SLOTS).collect())
            }
            Balance::LeastRequest | Balance::Random | Balance::RoundRobin => Tables::None,
        };
        Self { sharding, tables, stand_ins: None }
    }

    /// Keys of endpoints that are out, by index, go to the endpoints of `stand_ins`.
    pub(crate) fn with_stand_ins(mut self, is_out: Vec<bool>, stand_ins: Self) -> Self {
        self.stand_ins = is_out.contains(&true).then(|| Box::new((is_out, stand_ins)));
        self
    }

    /// The policy.
    pub fn balance(&self) -> Balance {
        self.sharding.balance
    }

    /// The endpoint of `key`, for hashing policies.
    pub fn by_key(&self, key: &[u8]) -> Option<usize> {
        let index = self.home_of(key)?;
        match &self.stand_ins {
            Some(known) if known.0.get(index) == Some(&true) => known.1.by_key(key),
            _ => Some(index),
        }
    }

    /// The endpoint of `key` when all are well.
    fn home_of(&self, key: &[u8]) -> Option<usize> {
        let key = self.sharding.tag.map_or(key, |tag| tag.of(key));
        let hash = || self.sharding.hash.of(key);
        match &self.tables {
            Tables::Nginx(ring, nodes) => {
                let addr = ring.node(key)?;
                let at = nodes.binary_search_by_key(&addr, |(addr, _)| *addr).ok()?;
                nodes.get(at).map(|(_, index)| usize::from(*index))
            }
            Tables::Maglev(table) => table.owner(hash()),
            Tables::Modulo(slots) => {
                slots.get(hash() as usize % slots.len().max(1)).map(|index| usize::from(*index))
            }
            Tables::None => None,
            Tables::Ring(ring) => ring.owner(hash()),
        }
    }
}

/// The crate's ring takes socket addresses; a host name stands in by its digest.
fn nginx(nodes: &[Node]) -> Tables {
    let address = |node: &Node| node.name.parse().unwrap_or_else(|_| stand_in(&node.name));
    let buckets: Vec<_> = nodes.iter().map(|node| Bucket::new(address(node), node.weight)).collect();
    let mut addresses: Vec<_> = nodes.iter().map(|node| (address(node), node.index)).collect();
    addresses.sort_unstable();
    Tables::Nginx(Box::new(Continuum::new(&buckets)), addresses)
}

fn stand_in(name: &str) -> SocketAddr {
    let digest = hash::md5_words(name.as_bytes());
    let bits = digest.iter().fold(0, |bits: u128, word| (bits << 32) | u128::from(*word));
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bits)), 1)
}

#[cfg(test)]
mod tests;
