//! mecha as a cluster of its own addresses, for clients that ask.
//!
//! A cluster-aware client learns the servers and would connect to them, past mecha. So it is told of mecha: the address that
//! it has connected to holds every slot, or the addresses that are announced hold them in equal parts. The real servers'
//! addresses never get out, and commands that would change the cluster are refused.

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
    /// First and last.
    slots: (usize, usize),
}

/// What is told of, and which of it is the one that is asked.
fn told(announcement: &Announcement<'_>) -> (Vec<Told>, usize) {
    // Without an address (a Unix socket) the client keeps to the one that it has.
    let local = announcement.local.map(|addr| (addr.ip().to_canonical().to_string(), addr.port()));
    let alone = [local.clone().unwrap_or_default()];
    let nodes = if announcement.nodes.is_empty() { &alone } else { announcement.nodes };
    let share = |at: usize| at * SLOTS / nodes.len();
    let node = |(at, (host, port)): (usize, &(String, u16))| Told {
        id: id(host, *port),
        host: host.clone(),
        port: *port,
        slots: (share(at), share(at + 1) - 1),
    };
    let me = nodes.iter().position(|node| Some(node) == local.as_ref());
    (nodes.iter().enumerate().map(node).collect(), me.unwrap_or(0))
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
    let own_id = nodes.get(me).map(|node| node.id.as_str()).unwrap_or_default();
    let mut writer = Writer::new(out, proto);
    match (op, argument) {
        (op::ASKING | op::READONLY | op::READWRITE, _) => writer.ok(),
        (op::CLUSTER_COUNTKEYSINSLOT | op::CLUSTER_GETKEYSINSLOT, slot) => {
            let slot = slot.and_then(|slot| std::str::from_utf8(slot).ok()?.parse().ok());
            // What is wrong with the argument, any server says best.
            return Itself::AtSlot(slot.filter(|slot| *slot < 16_384).unwrap_or(0));
        }
        (op::CLUSTER_COUNT_FAILURE_REPORTS, Some(_)) => writer.int(0),
        (op::CLUSTER_INFO, None) => writer.verbatim("txt", info(nodes.len()).as_bytes()),
        (op::CLUSTER_KEYSLOT, Some(key)) => writer.int(i64::from(key_slot(key))),
        (op::CLUSTER_LINKS, None) => writer.array(0),
        (op::CLUSTER_MYID | op::CLUSTER_MYSHARDID, None) => writer.bulk(own_id.as_bytes()),
        (op::CLUSTER_NODES, None) => writer.verbatim("txt", lines(&nodes, me).as_bytes()),
        (op::CLUSTER_REPLICAS | op::CLUSTER_SLAVES, Some(of)) => {
            if nodes.iter().any(|node| node.id.as_bytes() == of) {
                writer.array(0);
            } else {
                writer.error_bytes(&[b"ERR Unknown node ", of].concat());
            }
        }
        (op::CLUSTER_SHARDS, None) => {
            writer.array(nodes.len());
            nodes.iter().for_each(|node| shard(&mut writer, node));
        }
        (op::CLUSTER_SLOTS, None) => {
            writer.array(nodes.len());
            for node in &nodes {
                writer.array(3);
                writer.int(node.slots.0 as i64);
                writer.int(node.slots.1 as i64);
                writer.array(4);
                writer.bulk(node.host.as_bytes());
                writer.int(i64::from(node.port));
                writer.bulk(node.id.as_bytes());
                writer.array(0);
            }
        }
        (op::ROLE, _) => {
            writer.array(3);
            writer.bulk(b"master");
            writer.int(0);
            writer.array(0);
        }
        _ => return Itself::Refused,
    }
    Itself::Answered
}

fn lines(nodes: &[Told], me: usize) -> String {
    let mut text = String::new();
    for (at, Told { id, host, port, slots }) in nodes.iter().enumerate() {
        let (bus, myself) = (u32::from(*port) + 10_000, if at == me { "myself," } else { "" });
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{id} {host}:{port}@{bus} {myself}master - 0 0 1 connected {}-{}",
            slots.0, slots.1
        );
    }
    text
}

fn shard(writer: &mut Writer<'_>, node: &Told) {
    writer.map(2);
    writer.bulk(b"slots");
    writer.array(2);
    writer.int(node.slots.0 as i64);
    writer.int(node.slots.1 as i64);
    writer.bulk(b"nodes");
    writer.array(1);
    writer.map(7);
    let host = node.host.as_str();
    for (name, value) in
        [("id", node.id.as_str()), ("ip", host), ("endpoint", host), ("role", "master"), ("health", "online")]
    {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
    for (name, value) in [("port", i64::from(node.port)), ("replication-offset", 0)] {
        writer.bulk(name.as_bytes());
        writer.int(value);
    }
}

fn info(nodes: usize) -> String {
    let nodes = nodes.to_string();
    [
        ("cluster_state", "ok"),
        ("cluster_slots_assigned", "16384"),
        ("cluster_slots_ok", "16384"),
        ("cluster_slots_pfail", "0"),
        ("cluster_slots_fail", "0"),
        ("cluster_known_nodes", &nodes),
        ("cluster_size", &nodes),
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
        ask_of(&[], op, words)
    }

    fn ask_of(nodes: &[(String, u16)], op: OpId, words: &[&str]) -> (Itself, String) {
        let (mut frame, mut out) = (Vec::new(), Vec::new());
        mecha_resp::write_request(words.iter().map(|word| word.as_bytes()), &mut frame);
        let announcement = Announcement { local: Some("10.1.2.3:6379".parse().unwrap()), nodes };
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
            let reply = ask_of(&nodes, op::CLUSTER_SLOTS, &["CLUSTER", "SLOTS"]).1;
            let slots = mecha_resp::cluster_slots(reply.as_bytes(), &asked).unwrap();
            let mut next = 0;
            for shard in &slots {
                assert_eq!(shard.slots[0].0, next, "a gap");
                next = shard.slots[0].1 + 1;
            }
            assert_eq!((slots.len(), next), (usize::from(count), 16_384));
            let reply = ask_of(&nodes, op::CLUSTER_NODES, &["CLUSTER", "NODES"]).1;
            assert_eq!(mecha_resp::cluster_nodes(reply.as_bytes(), &asked).unwrap(), slots);
            let id = ask_of(&nodes, op::CLUSTER_MYID, &["CLUSTER", "MYID"]).1;
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
    fn what_would_change_the_cluster_is_refused() {
        assert_eq!(ask(op::CLUSTER_MEET, &["CLUSTER", "MEET", "a", "1"]).0, Itself::Refused);
        assert_eq!(ask(op::CLUSTER_RESET, &["CLUSTER", "RESET"]).0, Itself::Refused);
    }
}
