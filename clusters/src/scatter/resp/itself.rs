//! mecha as a cluster of one server, for clients that ask.
//!
//! A cluster-aware client learns the servers and would connect to them, past mecha. So it is told of one server that
//! holds every slot: the address that it has connected to. The real servers' addresses never get out, and commands that
//! would change the cluster are refused.

use std::net::SocketAddr;

use mecha_core::OpId;
use mecha_resp::{args, key_slot, op, reply::Writer};

use crate::scatter::Itself;

pub(super) fn answer(
    op: OpId,
    frame: &[u8],
    local: Option<SocketAddr>,
    proto: u8,
    out: &mut Vec<u8>,
) -> Itself {
    let argument = args(frame).nth(2);
    // Without an address (a Unix socket) the client keeps to the one that it has.
    let (host, port) =
        local.map_or((String::new(), 0), |addr| (addr.ip().to_canonical().to_string(), addr.port()));
    let id = id(&host, port);
    let mut writer = Writer::new(out, proto);
    match (op, argument) {
        (op::ASKING | op::READONLY | op::READWRITE, _) => writer.ok(),
        (op::CLUSTER_COUNTKEYSINSLOT | op::CLUSTER_GETKEYSINSLOT, slot) => {
            let slot = slot.and_then(|slot| std::str::from_utf8(slot).ok()?.parse().ok());
            // What is wrong with the argument, any server says best.
            return Itself::AtSlot(slot.filter(|slot| *slot < 16_384).unwrap_or(0));
        }
        (op::CLUSTER_COUNT_FAILURE_REPORTS, Some(_)) => writer.int(0),
        (op::CLUSTER_INFO, None) => writer.verbatim("txt", info().as_bytes()),
        (op::CLUSTER_KEYSLOT, Some(key)) => writer.int(i64::from(key_slot(key))),
        (op::CLUSTER_LINKS, None) => writer.array(0),
        (op::CLUSTER_MYID | op::CLUSTER_MYSHARDID, None) => writer.bulk(id.as_bytes()),
        (op::CLUSTER_NODES, None) => {
            let bus = u32::from(port) + 10_000;
            let line = format!("{id} {host}:{port}@{bus} myself,master - 0 0 1 connected 0-16383\n");
            writer.verbatim("txt", line.as_bytes());
        }
        (op::CLUSTER_REPLICAS | op::CLUSTER_SLAVES, Some(_)) => writer.array(0),
        (op::CLUSTER_SHARDS, None) => shards(&mut writer, &id, &host, port),
        (op::CLUSTER_SLOTS, None) => {
            writer.array(1);
            writer.array(3);
            writer.int(0);
            writer.int(16_383);
            writer.array(4);
            writer.bulk(host.as_bytes());
            writer.int(i64::from(port));
            writer.bulk(id.as_bytes());
            writer.array(0);
        }
        _ => return Itself::Refused,
    }
    Itself::Answered
}

fn shards(writer: &mut Writer<'_>, id: &str, host: &str, port: u16) {
    writer.array(1);
    writer.map(2);
    writer.bulk(b"slots");
    writer.array(2);
    writer.int(0);
    writer.int(16_383);
    writer.bulk(b"nodes");
    writer.array(1);
    writer.map(7);
    for (name, value) in
        [("id", id), ("ip", host), ("endpoint", host), ("role", "master"), ("health", "online")]
    {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
    for (name, value) in [("port", i64::from(port)), ("replication-offset", 0)] {
        writer.bulk(name.as_bytes());
        writer.int(value);
    }
}

fn info() -> String {
    [
        ("cluster_state", "ok"),
        ("cluster_slots_assigned", "16384"),
        ("cluster_slots_ok", "16384"),
        ("cluster_slots_pfail", "0"),
        ("cluster_slots_fail", "0"),
        ("cluster_known_nodes", "1"),
        ("cluster_size", "1"),
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
        let (mut frame, mut out) = (Vec::new(), Vec::new());
        mecha_resp::write_request(words.iter().map(|word| word.as_bytes()), &mut frame);
        let became = answer(op, &frame, Some("10.1.2.3:6379".parse().unwrap()), 2, &mut out);
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
    fn what_would_change_the_cluster_is_refused() {
        assert_eq!(ask(op::CLUSTER_MEET, &["CLUSTER", "MEET", "a", "1"]).0, Itself::Refused);
        assert_eq!(ask(op::CLUSTER_RESET, &["CLUSTER", "RESET"]).0, Itself::Refused);
    }
}
