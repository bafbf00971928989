//! The ring that libmemcached made and twemproxy took over.
//!
//! A server owns points on a ring of 32-bit numbers; a key belongs to the owner of the first point at or above its
//! hash. *Weighted*, a server has about 160 points, four from each MD5 digest of `name-0`, `name-1` and so on, more or
//! fewer by its share of the weights. *Unweighted*, it has 100, each the key hash of such a text. A name is `host:port`,
//! or only `host` where the port is 11211, Memcached's own.

use super::Node;
use super::hash::{KeyHash, md5_words};

/// Points of a weighted server, before its share of the weights is looked at.
const WEIGHTED_POINTS: f32 = 160.0;
/// Points of an unweighted server.
const PLAIN_POINTS: u32 = 100;

/// The points in order, each with its owner.
pub(super) struct Ring {
    points: Vec<(u32, u16)>,
}

impl Ring {
    /// Four points from each digest, as many as the weights say.
    pub(super) fn weighted(nodes: &[Node]) -> Self {
        let total: u64 = nodes.iter().map(|node| u64::from(node.weight)).sum();
        let mut points = Vec::new();
        for node in nodes {
            for turn in 0..digests(node.weight, total, nodes.len()) {
                let words = md5_words(format!("{}-{turn}", node.name).as_bytes());
                points.extend(words.map(|word| (word, node.index)));
            }
        }
        Self::sorted(points)
    }

    /// The same number of points for each, by the hash that keys have.
    pub(super) fn plain(nodes: &[Node], hash: KeyHash) -> Self {
        let mut points = Vec::new();
        for node in nodes {
            let point = |turn| (hash.of(format!("{}-{turn}", node.name).as_bytes()), node.index);
            points.extend((0..PLAIN_POINTS).map(point));
        }
        Self::sorted(points)
    }

    /// Equal points keep the order of their servers, as glibc's sort has it.
    fn sorted(mut points: Vec<(u32, u16)>) -> Self {
        points.sort_by_key(|(point, _)| *point);
        Self { points }
    }

    /// The owner of `hash`.
    pub(super) fn owner(&self, hash: u32) -> Option<usize> {
        let at = self.points.partition_point(|(point, _)| *point < hash);
        self.points.get(at).or_else(|| self.points.first()).map(|(_, index)| usize::from(*index))
    }
}

/// How many digests a server gets. In single precision, because the C libraries compute it so and a digest more or less
/// moves keys.
fn digests(weight: u32, total: u64, count: usize) -> u32 {
    let share = weight as f32 / total as f32;
    let exact = f64::from(share * WEIGHTED_POINTS / 4.0 * count as f32) + 0.000_000_000_1;
    (exact as f32).floor() as u32
}
