//! From a key to a server's position, by whatever rule the cluster has.

use std::cell::Cell;

use mecha_core::Framed;

use crate::Balancer;
use crate::topology::{SLOTS, Topology};

/// A slot that nobody holds.
const NOWHERE: u16 = u16::MAX;

/// The rule.
pub(crate) enum Router {
    /// A list that does not change.
    Balanced(Balancer),
    /// One server takes everything: the primary that a sentinel names.
    Primary(usize),
    /// Keys are hashed to slots.
    Slots(SlotMap),
    /// Not found out so far. With `true`, because nobody could be asked.
    Unknown(bool),
}

/// Slot to position: 32 KiB on each worker, written by redirects as well as by discovery.
pub(crate) struct SlotMap(Box<[Cell<u16>]>);

// === impl Router ===

impl Router {
    pub(crate) fn of(topology: &Topology) -> Self {
        match topology.shards.first() {
            _ if topology.is_slotted => Self::Slots(SlotMap::new(topology)),
            Some(shard) => Self::Primary(shard.primary),
            None => Self::Unknown(true),
        }
    }

    /// Whether the key decides.
    pub(crate) fn is_keyed(&self) -> bool {
        match self {
            Self::Balanced(balancer) => balancer.balance().is_hashed(),
            Self::Slots(_) => true,
            Self::Primary(_) | Self::Unknown(_) => false,
        }
    }

    /// The position for `key`, where the key decides.
    #[inline]
    pub(crate) fn by_key<P: Framed>(&self, key: &[u8]) -> Option<usize> {
        match self {
            Self::Balanced(balancer) => balancer.by_key(key),
            Self::Slots(map) => map.at(P::slot(key)),
            Self::Primary(_) | Self::Unknown(_) => None,
        }
    }
}

// === impl SlotMap ===

impl SlotMap {
    fn new(topology: &Topology) -> Self {
        let map = Self(vec![Cell::new(NOWHERE); SLOTS].into_boxed_slice());
        for shard in &topology.shards {
            for (first, last) in &shard.slots {
                (*first..=*last).for_each(|slot| map.set(slot, shard.primary));
            }
        }
        map
    }

    #[inline]
    pub(crate) fn at(&self, slot: u16) -> Option<usize> {
        let position = self.0.get(usize::from(slot))?.get();
        (position != NOWHERE).then_some(usize::from(position))
    }

    /// Takes note that `slot` has moved.
    pub(crate) fn set(&self, slot: u16, position: usize) {
        if let (Some(cell), Ok(position)) = (self.0.get(usize::from(slot)), u16::try_from(position)) {
            cell.set(position);
        }
    }
}
