//! Who holds which keys, in a cluster that changes while it runs.
//!
//! A topology is found out on the control side, once for the process, and handed to the workers as a whole: they never
//! see half of a change. A server keeps its *position* for as long as it belongs to the cluster, so that a number that
//! was given away (a lane, the cursor of a scan) still means the same server after others have come and gone.
//!
//! Deliberately absent: how it is found out (that is the protocol's business), and connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mecha_transport::Address;

/// Slots that keys are hashed to, where servers share the keys in this way.
pub const SLOTS: usize = 16_384;

/// Positions that are left empty before one is used again.
const MAX_HOLES: usize = 64;

/// Servers that a topology may have. What a server tells beyond is a mistake or malice.
pub const MAX_NODES: usize = 4096;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it is.
    pub address: Address,
    /// Whether it follows another one.
    pub is_replica: bool,
    /// Whether it is well and, if a replica, connected to its primary.
    pub is_well: bool,
    /// Where it stands, if that is known.
    pub zone: Option<String>,
    /// Until when it may be read from, if a replica.
    pub fresh: Freshness,
}

/// Until when a replica may be read from, in the process's time. Shared by the control side, which puts it forward as long as
/// the replica is well, and the workers; all marks are equal, as a moved one is no new topology.
#[derive(Clone, Debug, Default)]
pub struct Freshness(Arc<AtomicU64>);

/// Servers that hold the same keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shard {
    /// Position of the one that takes writes.
    pub primary: usize,
    /// Positions of those that follow it.
    pub replicas: Vec<usize>,
    /// First and last of each range of slots; empty where keys are not hashed.
    pub slots: Vec<(u16, u16)>,
}

/// Servers that hold the same keys, as they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundShard {
    /// The one that takes writes.
    pub primary: Node,
    /// Those that follow it.
    pub replicas: Vec<Node>,
    /// See [`Shard::slots`].
    pub slots: Vec<(u16, u16)>,
}

/// Who holds which keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Servers by position; a position is empty when its server has left.
    pub nodes: Vec<Option<Node>>,
    /// Together they hold everything.
    pub shards: Vec<Shard>,
    /// Whether keys are hashed to slots. If not, there is one shard.
    pub is_slotted: bool,
}

// === impl Freshness ===

impl Freshness {
    /// The replica may be read from until then; 0 for no longer.
    pub fn set(&self, until_micros: u64) {
        self.0.store(until_micros, Ordering::Relaxed);
    }

    /// Whether the replica may be read from.
    #[inline]
    pub fn holds(&self, now_micros: u64) -> bool {
        now_micros < self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for Freshness {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Freshness {}

// === impl Topology ===

impl Topology {
    /// What was found, with every server that was known before in its old position.
    pub fn next(&self, found: Vec<FoundShard>, is_slotted: bool) -> Self {
        let mut next = Self { nodes: Vec::new(), shards: Vec::new(), is_slotted };
        next.nodes.resize_with(self.nodes.len(), || None);
        let is_found = |address: &Address| {
            let mut all = found.iter().flat_map(|shard| shard.replicas.iter().chain([&shard.primary]));
            all.any(|node| node.address == *address)
        };
        // Positions that stay taken, before anybody new gets one.
        let mut free: Vec<_> = (0..self.nodes.len())
            .filter(|at| self.node(*at).is_none_or(|node| !is_found(&node.address)))
            .collect();
        for shard in found {
            let primary = self.place(&mut next, &mut free, shard.primary);
            let replicas = shard.replicas.into_iter().map(|node| self.place(&mut next, &mut free, node));
            let replicas: Vec<_> = replicas.filter(|at| *at != primary).collect();
            next.shards.push(Shard { primary, replicas, slots: shard.slots });
        }
        next
    }

    fn place(&self, next: &mut Self, free: &mut Vec<usize>, node: Node) -> usize {
        let of = |topology: &Self| {
            let is_it =
                |known: &Option<Node>| known.as_ref().is_some_and(|known| known.address == node.address);
            topology.nodes.iter().position(is_it)
        };
        let at = of(next)
            .or_else(|| of(self))
            .unwrap_or_else(|| if free.len() > MAX_HOLES { free.remove(0) } else { next.nodes.len() });
        if next.nodes.len() <= at {
            next.nodes.resize_with(at + 1, || None);
        }
        if let Some(slot) = next.nodes.get_mut(at) {
            slot.get_or_insert(node);
        }
        at
    }

    /// The server in a position.
    pub fn node(&self, at: usize) -> Option<&Node> {
        self.nodes.get(at)?.as_ref()
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// Whether there is no server.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many slots somebody holds.
    pub fn slots_covered(&self) -> usize {
        let length = |(first, last): &(u16, u16)| usize::from(last.saturating_sub(*first)) + 1;
        self.shards.iter().flat_map(|shard| &shard.slots).map(length).sum()
    }

    /// Whether every slot is held and every server is well. Otherwise a change is likely to be under way.
    pub fn is_settled(&self) -> bool {
        let is_whole = !self.is_slotted || self.slots_covered() == SLOTS;
        is_whole && !self.shards.is_empty() && self.nodes.iter().flatten().all(|node| node.is_well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Node {
        let address = Address::Tcp(([127, 0, 0, 1], port).into());
        Node { address, is_replica: false, is_well: true, zone: None, fresh: Freshness::default() }
    }

    fn shard(primary: u16, replicas: &[u16], slots: (u16, u16)) -> FoundShard {
        let replicas = replicas.iter().map(|port| node(*port)).collect();
        FoundShard { primary: node(primary), replicas, slots: vec![slots] }
    }

    #[test]
    fn a_server_keeps_its_position_while_others_come_and_go() {
        let first = Topology::default().next(vec![shard(1, &[2], (0, 9)), shard(3, &[], (10, 16_383))], true);
        assert_eq!(
            (first.shards[0].primary, first.shards[0].replicas[0], first.shards[1].primary),
            (0, 1, 2)
        );
        assert!(first.is_settled());
        // 1 has died, 2 was promoted, 4 is new.
        let second = first.next(vec![shard(3, &[4], (10, 16_383)), shard(2, &[], (0, 9))], true);
        assert_eq!((second.shards[0].primary, second.shards[1].primary), (2, 1));
        assert_eq!(second.shards[0].replicas, [3]);
        assert_eq!((second.node(0), second.len()), (None, 3));
    }

    #[test]
    fn empty_positions_are_used_again_only_after_many() {
        let mut topology = Topology::default();
        for port in 1..1000 {
            topology = topology.next(vec![shard(port, &[], (0, 16_383))], true);
        }
        assert!(topology.nodes.len() <= MAX_HOLES + 2, "{}", topology.nodes.len());
        assert_eq!(topology.len(), 1);
    }

    #[test]
    fn a_gap_in_the_slots_or_an_ill_server_is_not_settled() {
        assert!(!Topology::default().is_settled());
        assert!(!Topology::default().next(vec![shard(1, &[], (1, 16_383))], true).is_settled());
        let mut ill = shard(1, &[], (0, 16_383));
        ill.primary.is_well = false;
        assert!(!Topology::default().next(vec![ill], true).is_settled());
    }
}
