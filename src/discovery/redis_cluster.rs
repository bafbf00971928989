//! Asking any server of a cluster for all of them.

use std::time::Duration;

use mecha_clusters::topology::{FoundShard, Freshness, Node, Topology};
use mecha_resp::{ClusterNode, ClusterShard, Context, cluster_nodes, cluster_shards, cluster_slots};
use mecha_transport::Address;

use super::query::{Manners, Query};
use super::{Asked, are_too_many, host_of, named};

/// Understands one form of the answer.
type Reader = fn(&[u8], &Context<'_>) -> Option<Vec<ClusterShard>>;

/// The questions, the one that tells most first; servers before 7.0 do not know it.
const QUESTIONS: [(&str, Reader); 3] =
    [("SHARDS", cluster_shards), ("SLOTS", cluster_slots), ("NODES", cluster_nodes)];

/// A server that does not answer so fast is asked again only when no other knows better.
const IMPATIENCE: Duration = Duration::from_millis(250);

pub(super) async fn find(
    asked: &mut Asked,
    seeds: &[Address],
    known: &Topology,
    timeout: Duration,
    manners: &Manners,
) -> Result<Vec<FoundShard>, &'static str> {
    let candidates = asked.candidates(seeds.to_vec(), known);
    for patience in [IMPATIENCE.min(timeout), timeout] {
        for address in &candidates {
            if let Some(shards) = ask(address, patience, manners).await
                && !are_too_many(&shards)
            {
                asked.first = Some(address.clone());
                return Ok(shards);
            }
        }
    }
    asked.first = None;
    Err("no server that was asked told of a cluster")
}

async fn ask(address: &Address, timeout: Duration, manners: &Manners) -> Option<Vec<FoundShard>> {
    let mut query = Query::to(address, timeout, manners).await.ok()?;
    let context = Context { host: &host_of(address), is_tls: manners.tls.is_some() };
    for (question, read) in QUESTIONS {
        let reply = query.ask(&["CLUSTER", question], timeout).await.ok()?;
        if let Some(shards) = read(&reply, &context).filter(|shards| !shards.is_empty()) {
            return Some(shards.into_iter().map(found).collect());
        }
    }
    None
}

fn found(shard: ClusterShard) -> FoundShard {
    let node = |node: ClusterNode| Node {
        address: named(&node.host, node.port),
        is_replica: node.is_replica,
        is_well: node.is_well,
        zone: node.zone,
        fresh: Freshness::default(),
    };
    FoundShard {
        primary: node(shard.primary),
        replicas: shard.replicas.into_iter().map(node).collect(),
        slots: shard.slots,
    }
}
