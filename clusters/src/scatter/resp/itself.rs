//! mecha as a cluster of its own addresses, for clients that ask.
//!
//! A cluster-aware client learns the servers and would connect to them, past mecha. So it is told of mecha: the address that
//! it has connected to holds every slot, or the addresses that are announced share them: by whole shards where keys are
//! hashed to slots (addresses that are left over are called replicas), in equal parts elsewhere. The real servers' addresses never get out, and
//! commands that would change the cluster are refused.

use std::fmt::Write as _;

use mecha_core::OpId;
use mecha_resp::{args, key_slot, op, reply::Writer};

use crate::scatter::{Announcement, Itself};
use crate::topology::SLOTS;

/// One address that is told of.
struct Told {
    id: String,
    host: String,
    port: u16,
    /// First and last of each range.
    slots: Vec<(u16, u16)>,
    /// Which of the others it stands beside, as a replica would.
    of: Option<usize>,
}

/// What is told of, and which of it is the one that is asked.
fn told(announcement: &Announcement<'_>) -> (Vec<Told>, usize) {
    // Without an address (a Unix socket) the client keeps to the one that it has.
    let local = announcement.local.map(|addr| (addr.ip().to_canonical().to_string(), addr.port()));
    let alone = [local.unwrap_or_default()];
    let nodes = if announcement.nodes.is_empty() { &alone } else { announcement.nodes };
    let slices = &announcement.slices;
    let node = |(at, (host, port)): (usize, &(String, u16))| {
        // Whole shards, so that what each address tells of its servers adds up.
        let (slots, of) = match slices.len() {
            0 => (vec![share(at, nodes.len())], None),
            shards if at >= shards => (Vec::new(), Some(at % shards)),
            shards => {
                let own = slices.iter().skip(at).step_by(nodes.len().min(shards));
                let mut slots: Vec<_> = own.flatten().copied().collect();
                slots.sort_unstable();
                (joined(&slots), None)
            }
        };
        Told { id: id(host, *port), host: host.clone(), port: *port, slots, of }
    };
    (nodes.iter().enumerate().map(node).collect(), announcement.own().unwrap_or(0))
}

/// One of so many equal parts of all slots.
fn share(at: usize, of: usize) -> (u16, u16) {
    let start = |at: usize| at * SLOTS / of.max(1);
    (start(at) as u16, (start(at + 1) - 1) as u16)
}

/// Ranges that follow one another are one.
fn joined(slots: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut all: Vec<(u16, u16)> = Vec::new();
    for (first, last) in slots {
        match all.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(*first) => *end = *last,
            _ => all.push((*first, *last)),
        }
    }
    all
}

/// Those that stand beside `nodes[at]`.
fn replicas(nodes: &[Told], at: usize) -> impl Iterator<Item = &Told> {
    nodes.iter().filter(move |node| node.of == Some(at))
}

/// The shards: their first address and its place.
fn primaries(nodes: &[Told]) -> impl Iterator<Item = (usize, &Told)> {
    nodes.iter().enumerate().filter(|(_, node)| node.of.is_none())
}

pub(super) fn answer(
    op: OpId,
    frame: &[u8],
    announcement: &Announcement<'_>,
    proto: u8,
    out: &mut Vec<u8>,
) -> Itself {
    let argument = args(frame).nth(2);
    let (nodes, me) = told(announcement);
    let own = nodes.get(me);
    let own_id = own.map(|node| node.id.as_str()).unwrap_or_default();
    let own_primary = own.and_then(|node| nodes.get(node.of?));
    let mut writer = Writer::new(out, proto);
    match (op, argument) {
        (op::ASKING | op::READONLY | op::READWRITE, _) => writer.ok(),
        (op::CLUSTER_COUNTKEYSINSLOT | op::CLUSTER_GETKEYSINSLOT, slot) => {
            let slot = slot.and_then(|slot| std::str::from_utf8(slot).ok()?.parse().ok());
            // What is wrong with the argument, any server says best.
            return Itself::AtSlot(slot.filter(|slot| *slot < 16_384).unwrap_or(0));
        }
        (op::CLUSTER_COUNT_FAILURE_REPORTS, Some(_)) => writer.int(0),
        (op::CLUSTER_INFO, None) => writer.verbatim("txt", info(&nodes).as_bytes()),
        (op::CLUSTER_KEYSLOT, Some(key)) => writer.int(i64::from(key_slot(key))),
        (op::CLUSTER_LINKS, None) => writer.array(0),
        (op::CLUSTER_MYID, None) => writer.bulk(own_id.as_bytes()),
        (op::CLUSTER_MYSHARDID, None) => {
            writer.bulk(own_primary.map_or(own_id, |primary| primary.id.as_str()).as_bytes());
        }
        (op::CLUSTER_NODES, None) => {
            writer.verbatim("txt", lines(&nodes, me, 0..nodes.len()).concat().as_bytes())
        }
        (op::CLUSTER_REPLICAS | op::CLUSTER_SLAVES, Some(of)) => {
            match nodes.iter().position(|node| node.id.as_bytes() == of) {
                Some(at) => {
                    let beside = (0..nodes.len())
                        .filter(|other| nodes.get(*other).is_some_and(|node| node.of == Some(at)));
                    let lines = lines(&nodes, me, beside);
                    writer.array(lines.len());
                    lines.iter().for_each(|line| writer.bulk(line.trim_end().as_bytes()));
                }
                None => writer.error_bytes(&[b"ERR Unknown node ", of].concat()),
            }
        }
        (op::CLUSTER_SHARDS, None) => {
            writer.array(primaries(&nodes).count());
            primaries(&nodes).for_each(|(at, node)| shard(&mut writer, node, replicas(&nodes, at)));
        }
        (op::CLUSTER_SLOTS, None) => {
            writer.array(nodes.iter().map(|node| node.slots.len()).sum());
            for (at, node) in primaries(&nodes) {
                for (first, last) in &node.slots {
                    writer.array(3 + replicas(&nodes, at).count());
                    writer.int(i64::from(*first));
                    writer.int(i64::from(*last));
                    for node in [node].into_iter().chain(replicas(&nodes, at)) {
                        writer.array(4);
                        writer.bulk(node.host.as_bytes());
                        writer.int(i64::from(node.port));
                        writer.bulk(node.id.as_bytes());
                        writer.array(0);
                    }
                }
            }
        }
        (op::ROLE, _) => match own_primary {
            Some(primary) => {
                writer.array(5);
                writer.bulk(b"slave");
                writer.bulk(primary.host.as_bytes());
                writer.int(i64::from(primary.port));
                writer.bulk(b"connected");
                writer.int(0);
            }
            None => {
                writer.array(3);
                writer.bulk(b"master");
                writer.int(0);
                writer.array(0);
            }
        },
        _ => return Itself::Refused,
    }
    Itself::Answered
}

/// Lines of `CLUSTER NODES` for `which`.
fn lines(nodes: &[Told], me: usize, which: impl Iterator<Item = usize>) -> Vec<String> {
    which
        .filter_map(|at| {
            let Told { id, host, port, slots, of } = nodes.get(at)?;
            let (bus, myself) = (u32::from(*port) + 10_000, if at == me { "myself," } else { "" });
            let role = match of.and_then(|of| nodes.get(of)) {
                Some(primary) => format!("slave {}", primary.id),
                None => "master -".into(),
            };
            let mut line = format!("{id} {host}:{port}@{bus} {myself}{role} 0 0 1 connected");
            for (first, last) in slots {
                // Writing to a string cannot fail.
                let _ =
                    if first == last { write!(line, " {first}") } else { write!(line, " {first}-{last}") };
            }
            Some(line + "\n")
        })
        .collect()
}

fn shard<'t>(writer: &mut Writer<'_>, primary: &'t Told, replicas: impl Iterator<Item = &'t Told>) {
    writer.map(2);
    writer.bulk(b"slots");
    writer.array(2 * primary.slots.len());
    for (first, last) in &primary.slots {
        writer.int(i64::from(*first));
        writer.int(i64::from(*last));
    }
    writer.bulk(b"nodes");
    let nodes: Vec<_> = [primary].into_iter().chain(replicas).collect();
    writer.array(nodes.len());
    for node in nodes {
        let (host, role) = (node.host.as_str(), if node.of.is_some() { "replica" } else { "master" });
        writer.map(7);
        for (name, value) in
            [("id", node.id.as_str()), ("ip", host), ("endpoint", host), ("role", role), ("health", "online")]
        {
            writer.bulk(name.as_bytes());
            writer.bulk(value.as_bytes());
        }
        for (name, value) in [("port", i64::from(node.port)), ("replication-offset", 0)] {
            writer.bulk(name.as_bytes());
            writer.int(value);
        }
    }
}

fn info(nodes: &[Told]) -> String {
    let held: u32 =
        nodes.iter().flat_map(|node| &node.slots).map(|(first, last)| u32::from(last - first) + 1).sum();
    let (held, known, size) =
        (held.to_string(), nodes.len().to_string(), primaries(nodes).count().to_string());
    [
        ("cluster_state", "ok"),
        ("cluster_slots_assigned", &held),
        ("cluster_slots_ok", &held),
        ("cluster_slots_pfail", "0"),
        ("cluster_slots_fail", "0"),
        ("cluster_known_nodes", &known),
        ("cluster_size", &size),
        ("cluster_current_epoch", "1"),
        ("cluster_my_epoch", "1"),
        ("cluster_stats_messages_sent", "0"),
        ("cluster_stats_messages_received", "0"),
    ]
    .map(|(name, value)| format!("{name}:{value}\r\n"))
    .concat()
}

/// Forty hexadecimal digits that stand for an address: the same on every worker and after a restart.
fn id(host: &str, port: u16) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut id = String::new();
    for round in 0..3u8 {
        for byte in host.bytes().chain(port.to_be_bytes()).chain([round]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        id.push_str(&format!("{hash:016x}"));
    }
    id.truncate(40);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(op: OpId, words: &[&str]) -> (Itself, String) {
        ask_of((&[], &[]), op, words)
    }

    type Row = (String, Vec<(u16, u16)>, usize);
    type Slices<'s> = &'s [Vec<(u16, u16)>];

    fn ask_of((nodes, slices): (&[(String, u16)], Slices<'_>), op: OpId, words: &[&str]) -> (Itself, String) {
        let (mut frame, mut out) = (Vec::new(), Vec::new());
        mecha_resp::write_request(words.iter().map(|word| word.as_bytes()), &mut frame);
        let announcement =
            Announcement { local: Some("10.1.2.3:6379".parse().unwrap()), nodes, slices: slices.to_vec() };
        let became = answer(op, &frame, &announcement, 2, &mut out);
        (became, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_clients_are_told_is_what_discovery_would_understand() {
        let (_, shards) = ask(op::CLUSTER_SHARDS, &["CLUSTER", "SHARDS"]);
        let (_, slots) = ask(op::CLUSTER_SLOTS, &["CLUSTER", "SLOTS"]);
        let (_, nodes) = ask(op::CLUSTER_NODES, &["CLUSTER", "NODES"]);
        let asked = mecha_resp::Context { host: "x", is_tls: false };
        let all = [
            mecha_resp::cluster_shards(shards.as_bytes(), &asked).unwrap(),
            mecha_resp::cluster_slots(slots.as_bytes(), &asked).unwrap(),
            mecha_resp::cluster_nodes(nodes.as_bytes(), &asked).unwrap(),
        ];
        for found in &all {
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].primary.host.as_str(), found[0].primary.port), ("10.1.2.3", 6379));
            assert_eq!(found[0].slots, [(0, 16_383)]);
        }
        assert_eq!(ask(op::CLUSTER_KEYSLOT, &["CLUSTER", "KEYSLOT", "foo"]).1, ":12182\r\n");
    }

    #[test]
    fn announced_addresses_share_all_slots_between_them() {
        let asked = mecha_resp::Context { host: "x", is_tls: false };
        for count in 1..9u16 {
            let nodes: Vec<_> = (0..count).map(|at| (format!("10.1.2.{at}"), 6379)).collect();
            let reply = ask_of((&nodes, &[]), op::CLUSTER_SLOTS, &["CLUSTER", "SLOTS"]).1;
            let slots = mecha_resp::cluster_slots(reply.as_bytes(), &asked).unwrap();
            let mut next = 0;
            for shard in &slots {
                assert_eq!(shard.slots[0].0, next, "a gap");
                next = shard.slots[0].1 + 1;
            }
            assert_eq!((slots.len(), next), (usize::from(count), 16_384));
            let reply = ask_of((&nodes, &[]), op::CLUSTER_NODES, &["CLUSTER", "NODES"]).1;
            assert_eq!(mecha_resp::cluster_nodes(reply.as_bytes(), &asked).unwrap(), slots);
            let id = ask_of((&nodes, &[]), op::CLUSTER_MYID, &["CLUSTER", "MYID"]).1;
            let myself = reply.lines().find(|line| line.contains("myself")).unwrap();
            assert!(id.contains(myself.split(' ').next().unwrap()));
            assert_eq!(
                myself.contains("10.1.2.3:6379"),
                count > 3,
                "the one that is asked, if it is announced"
            );
        }
    }

    #[test]
    fn addresses_stand_for_whole_shards_and_those_that_are_left_over_beside_others() {
        let asked = mecha_resp::Context { host: "x", is_tls: false };
        let slices = [vec![(0, 99), (200, 5000)], vec![(100, 199)], vec![(5001, 16_383)]];
        let of = |count: u16, op, words: &[&str]| {
            let nodes: Vec<_> = (1..=count).map(|at| (format!("10.1.2.{at}"), 6379)).collect();
            ask_of((&nodes, &slices), op, words).1
        };
        // Address, slots and replicas of each shard.
        let map = |count: u16| -> Vec<Row> {
            let slots = of(count, op::CLUSTER_SLOTS, &["CLUSTER", "SLOTS"]);
            let nodes = of(count, op::CLUSTER_NODES, &["CLUSTER", "NODES"]);
            let shards = of(count, op::CLUSTER_SHARDS, &["CLUSTER", "SHARDS"]);
            let all = [
                mecha_resp::cluster_slots(slots.as_bytes(), &asked).unwrap(),
                mecha_resp::cluster_nodes(nodes.as_bytes(), &asked).unwrap(),
                mecha_resp::cluster_shards(shards.as_bytes(), &asked).unwrap(),
            ];
            let row = |shard: &mecha_resp::ClusterShard| {
                (shard.primary.host.clone(), shard.slots.clone(), shard.replicas.len())
            };
            let maps: Vec<Vec<_>> = all.iter().map(|map| map.iter().map(row).collect()).collect();
            assert!(maps.windows(2).all(|pair| pair[0] == pair[1]), "{maps:?}");
            maps[0].clone()
        };
        let row =
            |at: u16, slots: &[(u16, u16)], replicas| (format!("10.1.2.{at}"), slots.to_vec(), replicas);
        assert_eq!(map(2), [row(1, &[(0, 99), (200, 16_383)], 0), row(2, &[(100, 199)], 0)]);
        assert_eq!(
            map(5),
            [row(1, &[(0, 99), (200, 5000)], 1), row(2, &[(100, 199)], 1), row(3, &[(5001, 16_383)], 0)]
        );
        // The fourth address is asked, which stands beside the first.
        let nodes: Vec<_> = (0..6).map(|at| (format!("10.1.2.{at}"), 6379)).collect();
        let ask = |op, words: &[&str]| ask_of((&nodes, &slices), op, words).1;
        let role = ask(op::ROLE, &["ROLE"]);
        assert!(role.contains("slave") && role.contains("10.1.2.0"), "{role}");
        let first = id("10.1.2.0", 6379);
        assert!(ask(op::CLUSTER_MYSHARDID, &["CLUSTER", "MYSHARDID"]).contains(&first));
        let beside = ask(op::CLUSTER_REPLICAS, &["CLUSTER", "REPLICAS", &first]);
        assert!(beside.starts_with("*1\r\n") && beside.contains("10.1.2.3:6379"), "{beside}");
        assert!(ask(op::CLUSTER_INFO, &["CLUSTER", "INFO"]).contains("cluster_size:3"));
    }

    #[test]
    fn what_would_change_the_cluster_is_refused() {
        assert_eq!(ask(op::CLUSTER_MEET, &["CLUSTER", "MEET", "a", "1"]).0, Itself::Refused);
        assert_eq!(ask(op::CLUSTER_RESET, &["CLUSTER", "RESET"]).0, Itself::Refused);
    }
}
