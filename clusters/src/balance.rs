//! Which endpoint takes a call.
//!
//! Hashing policies look at the key, so the same key always meets the same endpoint; the others assume that all
//! endpoints hold the same data, and a client keeps its endpoint while it has calls in flight.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use pingora_ketama::{Bucket, Continuum};

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Consistent hashing on a ring (nginx-compatible ketama).
    Ketama,
    /// The endpoint with the fewest unanswered calls.
    LeastRequest,
    /// Consistent hashing through a lookup table (Maglev, NSDI 2016, section 3.4).
    Maglev,
    /// Any.
    Random,
    /// Each in turn.
    #[default]
    RoundRobin,
}

impl Balance {
    /// Whether the key decides.
    pub fn is_hashed(self) -> bool {
        matches!(self, Self::Ketama | Self::Maglev)
    }
}

/// A policy with its tables built.
pub enum Balancer {
    /// See [`Balance::Ketama`].
    Ketama {
        /// The ring.
        ring: Box<Continuum>,
        /// Sorted addresses of the ring's nodes with their endpoint's index.
        nodes: Vec<(SocketAddr, usize)>,
    },
    /// See [`Balance::LeastRequest`].
    LeastRequest,
    /// Slot to endpoint.
    Maglev(Vec<u16>),
    /// See [`Balance::Random`].
    Random,
    /// See [`Balance::RoundRobin`].
    RoundRobin,
}

/// Slots of the Maglev table: a prime well above 100 times the endpoints that anybody configures by hand.
const MAGLEV_SLOTS: usize = 65_537;

impl Balancer {
    /// Builds the tables for endpoints with these names. Names decide positions on rings, so that an endpoint keeps
    /// its keys when others come and go.
    pub fn new(balance: Balance, names: &[String]) -> Self {
        match balance {
            Balance::Ketama => {
                // The crate's ring takes socket addresses; a host name stands in by its digest.
                let addresses: Vec<_> =
                    names.iter().map(|name| name.parse().unwrap_or_else(|_| stand_in(name))).collect();
                let buckets: Vec<_> = addresses.iter().map(|addr| Bucket::new(*addr, 1)).collect();
                let mut nodes: Vec<_> = addresses.into_iter().zip(0..).collect();
                nodes.sort_unstable();
                Self::Ketama { ring: Box::new(Continuum::new(&buckets)), nodes }
            }
            Balance::LeastRequest => Self::LeastRequest,
            Balance::Maglev => Self::Maglev(maglev_table(names)),
            Balance::Random => Self::Random,
            Balance::RoundRobin => Self::RoundRobin,
        }
    }

    /// The endpoint of `key`, for hashing policies.
    pub fn by_key(&self, key: &[u8]) -> Option<usize> {
        match self {
            Self::Ketama { ring, nodes } => {
                let addr = ring.node(key)?;
                let at = nodes.binary_search_by_key(&addr, |(addr, _)| *addr).ok()?;
                nodes.get(at).map(|(_, index)| *index)
            }
            Self::Maglev(table) => {
                let slot = hash(key, 2) % table.len().max(1) as u64;
                table.get(slot as usize).map(|index| usize::from(*index))
            }
            Self::LeastRequest | Self::Random | Self::RoundRobin => None,
        }
    }

    /// An endpoint for any key among `count`, for the other policies. `turn` counts choices; `load` tells how many
    /// calls an endpoint has unanswered, `None` if it is down. A policy that points at a down endpoint moves on to the
    /// next; if all are down, one is returned all the same so that it can be tried.
    pub fn any(&self, count: usize, turn: usize, load: impl Fn(usize) -> Option<usize>) -> Option<usize> {
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

fn stand_in(name: &str) -> SocketAddr {
    let (high, low) = (hash(name.as_bytes(), 0), hash(name.as_bytes(), 1));
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from((u128::from(high) << 64) | u128::from(low))), 1)
}

/// SipHash with fixed keys: stable within this build of mecha, which is what tables that never leave it need.
fn hash(bytes: &[u8], salt: u8) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((salt, bytes))
}

/// Fills the lookup table from each endpoint's permutation, in turns.
fn maglev_table(names: &[String]) -> Vec<u16> {
    if names.is_empty() {
        return Vec::new();
    }
    let slots = MAGLEV_SLOTS as u64;
    let steps: Vec<_> = names
        .iter()
        .map(|name| (hash(name.as_bytes(), 0) % slots, hash(name.as_bytes(), 1) % (slots - 1) + 1))
        .collect();
    let (mut table, mut next, mut filled) = (vec![u16::MAX; MAGLEV_SLOTS], vec![0u64; names.len()], 0);
    loop {
        for (index, (offset, skip)) in steps.iter().enumerate() {
            let Some(position) = next.get_mut(index) else { return table };
            loop {
                let slot = (offset + *position * skip) % slots;
                *position += 1;
                if let Some(free) = table.get_mut(slot as usize).filter(|taken| **taken == u16::MAX) {
                    *free = index as u16;
                    break;
                }
            }
            filled += 1;
            if filled == MAGLEV_SLOTS {
                return table;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("10.0.0.{index}:6379")).collect()
    }

    fn moved(balance: Balance, host_names: bool) -> (f64, f64) {
        let mut names = names(10);
        if host_names {
            names
                .iter_mut()
                .enumerate()
                .for_each(|(index, name)| *name = format!("cache-{index}.internal:6379"));
        }
        let (before, after) = (Balancer::new(balance, &names), Balancer::new(balance, &names[..9]));
        let keys: Vec<_> = (0..20_000).map(|key| format!("key:{key}")).collect();
        let mut share = [0; 10];
        let mut moved = 0;
        for key in &keys {
            let (old, new) = (before.by_key(key.as_bytes()).unwrap(), after.by_key(key.as_bytes()).unwrap());
            share[old] += 1;
            moved += usize::from(old != new && old != 9);
        }
        let largest = *share.iter().max().unwrap() as f64 / (keys.len() as f64 / 10.0);
        (moved as f64 / keys.len() as f64, largest)
    }

    #[test]
    fn hashing_policies_spread_keys_and_move_few_when_an_endpoint_leaves() {
        for host_names in [false, true] {
            let (moved_by_ketama, largest) = moved(Balance::Ketama, host_names);
            assert!(moved_by_ketama < 0.001 && largest < 1.6, "ketama {moved_by_ketama} {largest}");
            let (moved_by_maglev, largest) = moved(Balance::Maglev, host_names);
            assert!(moved_by_maglev < 0.05 && largest < 1.2, "maglev {moved_by_maglev} {largest}");
        }
    }

    #[test]
    fn other_policies_pass_over_endpoints_that_are_down() {
        let load = |index: usize| [None, Some(7), Some(3)][index];
        assert_eq!(Balancer::RoundRobin.any(3, 0, load), Some(1));
        assert_eq!(Balancer::RoundRobin.any(3, 2, load), Some(2));
        assert_eq!(Balancer::LeastRequest.any(3, 0, load), Some(2));
        assert_ne!(Balancer::Random.any(3, 0, load), Some(0));
    }

    #[test]
    fn an_endpoint_is_tried_even_if_all_are_down() {
        assert!(Balancer::LeastRequest.any(2, 1, |_| None).is_some());
        assert_eq!(Balancer::RoundRobin.any(0, 0, |_| None), None);
    }
}
