//! Reads from replicas: which server of a shard a call that changes nothing goes to.
//!
//! A replica is read only while it is known to be fit: the control side asks it, and puts down until when what it has
//! heard holds ([`Freshness`](crate::topology::Freshness)). Workers look at that mark for each call, so a replica that
//! nobody has heard of for too long is left alone without any news. Where none is fit, the primary is read.
//!
//! A client reads from the same server of a shard as long as that is fit, so that it never sees an older state after a
//! newer one; clients are spread over servers. What is not promised: that a client reads from a replica what it has just
//! written to the primary.

use mecha_core::Framed;

use crate::cluster::Members;
use crate::topology::{Freshness, Shard, Topology};

/// From where calls that change nothing are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// Every server of the shard, the primary too.
    Any,
    /// Replicas of the own zone, else its primary if it is there too, else as `PreferReplica`.
    Nearest,
    /// Replicas; the primary if none is fit.
    PreferReplica,
    /// The primary alone.
    #[default]
    Primary,
}

/// The rule, and where this process is.
#[derive(Clone, Debug, Default)]
pub struct ReadPolicy {
    /// From where.
    pub from: ReadFrom,
    /// This process's zone.
    pub zone: Option<String>,
}

/// One server that may be read from.
struct Choice {
    position: usize,
    /// Lower ones are taken first.
    tier: u8,
    /// `None` for the primary.
    fresh: Option<Freshness>,
}

/// Servers to read from, by the position of their primary.
pub(crate) struct Reads(Vec<Vec<Choice>>);

// === impl Reads ===

impl Reads {
    /// `None` where the primaries alone are read.
    pub(crate) fn of(topology: &Topology, policy: &ReadPolicy) -> Option<Self> {
        if policy.from == ReadFrom::Primary {
            return None;
        }
        let mut reads = Vec::new();
        reads.resize_with(topology.nodes.len(), Vec::new);
        for shard in &topology.shards {
            if let Some(choices) = reads.get_mut(shard.primary) {
                *choices = choices_of(topology, shard, policy);
            }
        }
        Some(Self(reads))
    }

    /// The replica that the client with this number reads from, of the shard whose primary is in `position`; `None` for
    /// the primary itself.
    pub(crate) fn replica<P: Framed>(
        &self,
        position: usize,
        members: &Members<P>,
        client: u64,
        now_micros: u64,
    ) -> Option<usize> {
        let choices = self.0.get(position)?;
        let is_fit = |choice: &Choice| {
            choice.fresh.as_ref().is_none_or(|fresh| fresh.holds(now_micros))
                && members.at(choice.position).is_ok_and(|server| !server.endpoint.is_down())
        };
        for tier in choices.chunk_by(|one, other| one.tier == other.tier) {
            let count = tier.iter().filter(|choice| is_fit(choice)).count();
            if count > 0 {
                let turn = (client as usize).wrapping_add(position) % count;
                let chosen = tier.iter().filter(|choice| is_fit(choice)).nth(turn)?;
                return chosen.fresh.is_some().then_some(chosen.position);
            }
        }
        None
    }
}

fn choices_of(topology: &Topology, shard: &Shard, policy: &ReadPolicy) -> Vec<Choice> {
    let is_near =
        |at: usize| policy.zone.is_some() && topology.node(at).is_some_and(|node| node.zone == policy.zone);
    let replicas = shard.replicas.iter().filter_map(|at| {
        let node = topology.node(*at).filter(|node| node.is_well)?;
        let tier = if policy.from == ReadFrom::Nearest && !is_near(*at) { 2 } else { 0 };
        Some(Choice { position: *at, tier, fresh: Some(node.fresh.clone()) })
    });
    let mut choices: Vec<_> = replicas.collect();
    let tier = match policy.from {
        ReadFrom::Any => 0,
        ReadFrom::Nearest if is_near(shard.primary) => 1,
        _ => 3,
    };
    choices.push(Choice { position: shard.primary, tier, fresh: None });
    choices.sort_by_key(|choice| choice.tier);
    choices
}
