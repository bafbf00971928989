use mecha_core::{Framed, Keys};
use mecha_resp::{Resp, args, head_of, op, op_named, ops, sub_named, write_request};
use proptest::prelude::*;

use crate::scatter::{Entrance, Scan};

use super::{Gathered, Rules, ScanStep, Way, element, merge_of};

fn frame(line: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
    write_request(words.into_iter(), &mut frame);
    frame
}

fn way(line: &str) -> Way {
    Resp::way(&head_of(&frame(line)).unwrap())
}

fn merge(
    line: &str,
    replies: &[&str],
    places: &[u32],
    at: (usize, Option<usize>),
    profile: u8,
) -> Option<String> {
    let frame = frame(line);
    let replies: Vec<_> = replies.iter().map(|reply| reply.replace('~', "\r\n").into_bytes()).collect();
    let head = head_of(&frame).unwrap();
    let scan = Scan { at: at.0, next: at.1, first: 1, ..Scan::default() };
    let gathered = Gathered {
        op: head.op,
        frame: &frame,
        replies: &replies,
        places,
        scan,
        entrance: Entrance::default(),
        census: None,
    };
    let mut out = Vec::new();
    Resp::merge(&gathered, profile, &mut out).then(|| String::from_utf8(out).unwrap().replace("\r\n", "~"))
}

#[test]
fn every_command_without_keys_has_a_way_of_its_own() {
    // What is left to `Keyed` without a key goes to the first server: only what is the same everywhere may.
    for (row, info) in ops().iter().enumerate().skip(1) {
        let op = match info.name.split_once('|') {
            Some((container, own)) => sub_named(op_named(container.as_bytes()), own.as_bytes()),
            None => op_named(info.name.as_bytes()),
        };
        assert_eq!(usize::from(op.0), row);
        if merge_of(op).is_some() {
            let frame = frame(&info.name.replace('|', " "));
            let keys =
                Resp::keys(&head_of(&frame).unwrap(), &frame, &mut |_| panic!("{} has keys", info.name));
            assert_eq!(keys, Keys::Known, "{}", info.name);
        }
    }
}

#[test]
fn requests_with_one_key_are_left_alone() {
    for (line, expected) in [
        ("GET a", Way::Keyed),
        ("MGET a", Way::Keyed),
        ("MGET a b", Way::Spread),
        ("MSET a 1", Way::Keyed),
        ("MSET a 1 b 2", Way::Spread),
        ("MSET a 1 b", Way::Keyed),
        ("DEL a b", Way::Spread),
        ("SUNION a b", Way::Keyed),
        ("SCAN 0", Way::Scan),
        ("DBSIZE", Way::Every),
        ("PUBLISH a b", Way::First),
        ("SHUTDOWN", Way::Refused),
        ("PING", Way::Keyed),
    ] {
        assert_eq!(way(line), expected, "{line}");
    }
}

#[test]
fn replies_become_one() {
    let check = |line: &str, replies: &[&str], expected: &str| {
        assert_eq!(merge(line, replies, &[], (0, None), 0).as_deref(), Some(expected), "{line} {replies:?}");
    };
    check("DEL a b c", &[":1~", ":2~"], ":3~");
    check("MSET a 1 b 2", &["+OK~", "+OK~"], "+OK~");
    check("KEYS *", &["*1~$1~a~", "*0~", "*2~$1~b~$1~c~"], "*3~$1~a~$1~b~$1~c~");
    check("SCRIPT EXISTS a b", &["*2~:1~:1~", "*2~:1~:0~"], "*2~:1~:0~");
    check("SCRIPT KILL", &["-NOTBUSY No scripts~", "+OK~"], "+OK~");
    check("SCRIPT KILL", &["-NOTBUSY No scripts~", "-NOTBUSY No scripts~"], "-NOTBUSY No scripts~");
    check("RANDOMKEY", &["$-1~", "$1~k~", "$-1~"], "$1~k~");
    check("RANDOMKEY", &["$-1~", "$-1~"], "$-1~");
    check("PUBSUB SHARDNUMSUB a", &["*2~$1~a~:1~", "*2~$1~a~:2~"], "*2~$1~a~:3~");
    check("MGET a b", &["-LOADING x~", "*1~$1~a~"], "-LOADING x~");
    check(
        "MSET a 1 b 2",
        &["+OK~", "-OOM command not allowed~"],
        "-OOM command not allowed (mecha: 1 of 2 shards failed, the others have done their part)~",
    );
    check(
        "INFO",
        &[
            "$70~# Stats~keyspace_hits:2~run_id:x~# Keyspace~db0:keys=1,expires=0~~",
            "$70~# Stats~keyspace_hits:3~run_id:y~# Keyspace~db0:keys=4,expires=1~~",
        ],
        "$139~# Stats~keyspace_hits:5~run_id:x~# Keyspace~db0:keys=5,expires=1~~# Mecha~mecha_shards:2~mecha_shard0:keys=1~mecha_shard1:keys=4~~",
    );
}

#[test]
fn replies_that_do_not_fit_are_not_guessed() {
    for (line, replies) in [
        ("MGET a b", ["*1~$1~a~", "*2~$1~b~$1~c~"]),
        ("MGET a b", ["*1~$1~a~", ":1~"]),
        ("DEL a b", [":1~", "+OK~"]),
        ("KEYS *", ["*0~", "$1~a~"]),
    ] {
        assert_eq!(merge(line, &replies, &[0, 1], (0, None), 0), None, "{line}");
    }
}

#[test]
fn a_cursor_names_its_server_and_ends_with_the_last() {
    let next = |cursor: &str, shards: &[usize]| {
        let mut out = Vec::new();
        let step = Resp::scan(&frame(&format!("SCAN {cursor} COUNT 5")), (shards, shards), None, &mut out)?;
        let ScanStep::At(position) = step else { return None };
        let inner = args(&out).nth(1).map(|cursor| String::from_utf8(cursor.to_vec()).unwrap());
        Some((position, inner.unwrap()))
    };
    let reply = |asked: &str, inner: &str, at| {
        let reply = format!("*2~${}~{inner}~*0~", inner.len());
        let merged = merge(&format!("SCAN {asked}"), &[&reply], &[], at, 0)?;
        merged.split('~').nth(2).map(str::to_string)
    };
    assert_eq!(next("0", &[4, 1, 9]), Some((1, "0".into())));
    let second = reply("0", "7", (1, Some(4))).unwrap();
    assert_eq!(next(&second, &[4, 1, 9]), Some((1, "7".into())));
    let third = reply(&second, "0", (1, Some(4))).unwrap();
    assert_eq!(next(&third, &[4, 1, 9]), Some((4, "0".into())));
    let fourth = reply(&third, "5", (4, Some(9))).unwrap();
    // Server 4 has left: the next one starts at its beginning.
    assert_eq!(next(&fourth, &[1, 9]), Some((9, "0".into())));
    assert_eq!(reply(&third, "0", (9, None)).unwrap(), "0");
    assert_eq!(next("x", &[1, 9]), None);
    assert_eq!(reply("0", "18446744073709551615", (1, None)), None);
}

proptest! {
    #[test]
    fn values_come_back_in_the_order_of_the_keys(owners in proptest::collection::vec(0..4u32, 1..60)) {
        // Key i has value i, or none where it is divisible by 5; parts hold their keys in order.
        let value = |key: usize| if key.is_multiple_of(5) { "$-1~".to_string() } else { format!("${}~{key}~", key.to_string().len()) };
        let replies: Vec<String> = (0..4).map(|owner| {
            let own: Vec<_> = (0..owners.len()).filter(|key| owners[*key] == owner).map(value).collect();
            format!("*{}~{}", own.len(), own.concat())
        }).collect();
        let line = (0..owners.len()).fold("MGET".to_string(), |line, key| format!("{line} {key}"));
        let replies: Vec<_> = replies.iter().map(String::as_str).collect();
        let expected = format!("*{}~{}", owners.len(), (0..owners.len()).map(value).collect::<String>());
        prop_assert_eq!(merge(&line, &replies, &owners, (0, None), 0), Some(expected));
    }

    #[test]
    fn a_part_has_the_keys_and_values_that_belong_to_it(count in 1..40usize, chosen in proptest::collection::vec(any::<bool>(), 40)) {
        let line = (0..count).fold("mset".to_string(), |line, key| format!("{line} k{key} v{key}"));
        let whole = frame(&line);
        let keys: Vec<u32> = (0..count as u32).filter(|key| chosen[*key as usize]).collect();
        let mut out = Vec::new();
        let head = head_of(&whole).unwrap();
        Resp::part(&head, &whole, &keys, &mut out);
        let expected = keys.iter().fold("mset".to_string(), |line, key| format!("{line} k{key} v{key}"));
        prop_assert_eq!(out, frame(&expected));
        prop_assert_eq!(head.op, op::MSET);
    }

    #[test]
    fn no_reply_makes_the_merge_panic(replies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..4), row in 1..400u16) {
        let whole = frame("x");
        for op in [op::MGET, op::SCAN, op::INFO, op::KEYS, op::PUBSUB_SHARDNUMSUB, op::SCRIPT_EXISTS, mecha_core::OpId(row)] {
            let gathered = Gathered { op, frame: &whole, replies: &replies, places: &[0, 1, 0], scan: Scan::default(), entrance: Entrance::default(), census: None };
            Resp::merge(&gathered, 1, &mut Vec::new());
        }
        replies.iter().for_each(|reply| assert!(element(reply).is_none_or(|length| length <= reply.len())));
    }
}
