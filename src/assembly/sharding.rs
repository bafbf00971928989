//! How keys are spread, from the configuration's words to the clusters'.

use mecha_clusters::{Balance, Choice, EjectOptions, Gutter, HashTag, KeyHash, Listed, Node, Sharding};
use mecha_config::{ClusterSpec, EjectSpec};

use super::address_of;

/// What `spec` says; `tag` is what the protocol's users expect where it says nothing.
pub(super) fn of(spec: &ClusterSpec, tag: Option<HashTag>) -> Sharding {
    Sharding { balance: balance(spec.balance), hash: hash(spec.hash), tag: hash_tag(spec.hash_tag, tag) }
}

/// The servers of `spec` that it names itself, in its order.
pub(crate) fn listed(spec: &ClusterSpec) -> Vec<Listed> {
    let all = spec.endpoints.iter().zip(&spec.members);
    all.map(|(endpoint, member)| Listed {
        address: address_of(endpoint),
        name: member.name.clone(),
        weight: member.weight,
        zone: member.zone.clone(),
        priority: member.priority,
    })
    .collect()
}

/// How the servers of `spec`, which are alike, are chosen.
pub(super) fn choice(spec: &ClusterSpec) -> Choice {
    Choice {
        sharding: of(spec, None),
        zone: spec.reads.zone.clone().filter(|_| spec.alike.prefers_zone),
        spill_below: spec.alike.spill_below,
        slow_start: spec.alike.slow_start,
    }
}

/// The servers of `spec` as rings see them.
pub(super) fn nodes(spec: &ClusterSpec) -> Vec<Node> {
    nodes_of(&spec.members)
}

/// When servers are left out.
pub(super) fn eject(spec: &EjectSpec) -> EjectOptions {
    let gutter = (!spec.gutter.is_empty()).then(|| Gutter {
        addresses: spec.gutter.iter().map(address_of).collect(),
        nodes: nodes_of(&spec.gutter_members),
        ttl_secs: spec.gutter_ttl_secs,
    });
    EjectOptions { failures: spec.failures, retry_after: spec.retry_after, gutter }
}

fn nodes_of(members: &[mecha_config::Member]) -> Vec<Node> {
    let node = |(index, member): (u16, &mecha_config::Member)| Node {
        index,
        name: member.name.clone(),
        weight: member.weight,
    };
    (0..).zip(members).map(node).collect()
}

fn hash_tag(tag: mecha_config::HashTag, usual: Option<HashTag>) -> Option<HashTag> {
    match tag {
        mecha_config::HashTag::Between(open, close) => Some(HashTag { open, close }),
        mecha_config::HashTag::Default => usual,
        mecha_config::HashTag::None => None,
    }
}

fn balance(balance: mecha_config::Balance) -> Balance {
    match balance {
        mecha_config::Balance::Ketama => Balance::Ketama,
        mecha_config::Balance::KetamaNginx => Balance::KetamaNginx,
        mecha_config::Balance::KetamaUnweighted => Balance::KetamaUnweighted,
        mecha_config::Balance::LeastRequest => Balance::LeastRequest,
        mecha_config::Balance::Maglev => Balance::Maglev,
        mecha_config::Balance::Modulo => Balance::Modulo,
        mecha_config::Balance::Random => Balance::Random,
        mecha_config::Balance::RoundRobin => Balance::RoundRobin,
    }
}

fn hash(hash: mecha_config::KeyHash) -> KeyHash {
    match hash {
        mecha_config::KeyHash::Crc16 => KeyHash::Crc16,
        mecha_config::KeyHash::Crc32 => KeyHash::Crc32,
        mecha_config::KeyHash::Crc32a => KeyHash::Crc32a,
        mecha_config::KeyHash::Fnv132 => KeyHash::Fnv132,
        mecha_config::KeyHash::Fnv164 => KeyHash::Fnv164,
        mecha_config::KeyHash::Fnv1a32 => KeyHash::Fnv1a32,
        mecha_config::KeyHash::Fnv1a64 => KeyHash::Fnv1a64,
        mecha_config::KeyHash::Hsieh => KeyHash::Hsieh,
        mecha_config::KeyHash::Jenkins => KeyHash::Jenkins,
        mecha_config::KeyHash::Md5 => KeyHash::Md5,
        mecha_config::KeyHash::Murmur => KeyHash::Murmur,
        mecha_config::KeyHash::OneAtATime => KeyHash::OneAtATime,
    }
}
