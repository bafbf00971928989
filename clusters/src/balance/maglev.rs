//! Consistent hashing through a lookup table (Maglev, NSDI 2016, section 3.4).

use super::Node;
use super::hash::md5_words;

/// Slots of the table: a prime well above 100 times the endpoints that anybody configures by hand.
const SLOTS: usize = 65_537;

/// Slot to endpoint; empty without endpoints.
pub(super) struct Table(Vec<u16>);

impl Table {
    /// Fills the table from each endpoint's permutation, in turns that heavier endpoints get more often.
    pub(super) fn new(nodes: &[Node]) -> Self {
        let heaviest = nodes.iter().map(|node| u64::from(node.weight)).max().unwrap_or(0);
        if heaviest == 0 {
            return Self(Vec::new());
        }
        let slots = SLOTS as u64;
        let mut fillers: Vec<_> = nodes.iter().map(Filler::new).collect();
        let (mut table, mut free) = (vec![u16::MAX; SLOTS], SLOTS);
        for turn in 1.. {
            for filler in &mut fillers {
                // An endpoint of half the greatest weight is passed over every other turn.
                if turn * filler.weight < (filler.taken + 1) * heaviest {
                    continue;
                }
                filler.taken += 1;
                loop {
                    let slot = (filler.offset + filler.position * filler.skip) % slots;
                    filler.position += 1;
                    if let Some(empty) = table.get_mut(slot as usize).filter(|slot| **slot == u16::MAX) {
                        *empty = filler.index;
                        break;
                    }
                }
                free -= 1;
                if free == 0 {
                    return Self(table);
                }
            }
        }
        Self(table)
    }

    /// The endpoint of `hash`.
    pub(super) fn owner(&self, hash: u32) -> Option<usize> {
        // Some key hashes leave neighbours together; the table wants them apart.
        let mut mixed = hash;
        for factor in [0x85eb_ca6b, 0xc2b2_ae35] {
            mixed = (mixed ^ (mixed >> 15)).wrapping_mul(factor);
        }
        let slot = (mixed ^ (mixed >> 16)) as usize % self.0.len().max(1);
        self.0.get(slot).map(|index| usize::from(*index))
    }
}

/// One endpoint on its way through the slots.
struct Filler {
    index: u16,
    weight: u64,
    offset: u64,
    skip: u64,
    position: u64,
    taken: u64,
}

impl Filler {
    fn new(node: &Node) -> Self {
        let [a, b, c, d] = md5_words(node.name.as_bytes()).map(u64::from);
        Self {
            index: node.index,
            weight: node.weight.into(),
            offset: ((a << 32) | b) % SLOTS as u64,
            skip: ((c << 32) | d) % (SLOTS as u64 - 1) + 1,
            position: 0,
            taken: 0,
        }
    }
}
