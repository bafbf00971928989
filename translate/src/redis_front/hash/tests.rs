//! What a comparison with a server does not show: scans under change, expiry, sizes of replies.

use std::collections::{HashMap, HashSet};

use super::super::aggregate::test_run;
use crate::slot::Entry;

type World = HashMap<Vec<u8>, Entry>;

fn run(world: &mut World, command: &str) -> String {
    let args: Vec<_> = command.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    String::from_utf8(test_run(world, &args, 2, 42)).expect("text")
}

/// Bulk strings of a reply, in order.
fn bulks(reply: &str) -> Vec<&str> {
    let mut lines = reply.split("\r\n");
    std::iter::from_fn(|| lines.find(|line| line.starts_with('$')).and_then(|_| lines.next())).collect()
}

fn scan_while_half_of_it_goes(add: &str, scan: &str, remove: &str, step: usize) {
    let mut world = World::new();
    for i in 0..3000 {
        run(&mut world, &add.replace("NAME", &format!("n{i}")));
    }
    let (mut seen, mut cursor, mut gone) = (HashSet::new(), "0".to_owned(), 0);
    loop {
        let reply = run(&mut world, &scan.replace("CURSOR", &cursor));
        let mut found = bulks(&reply).into_iter();
        cursor = found.next().expect("a cursor").to_owned();
        seen.extend(found.step_by(step).map(str::to_owned));
        if cursor == "0" {
            break;
        }
        for _ in 0..40 {
            run(&mut world, &remove.replace("NAME", &format!("n{}", 2 * gone)));
            run(&mut world, &add.replace("NAME", &format!("new{gone}")));
            gone = (gone + 7) % 1500;
        }
    }
    let missed = (0..1500).map(|i| format!("n{}", 2 * i + 1)).find(|name| !seen.contains(name));
    assert_eq!(missed, None);
}

#[test]
fn a_scan_of_a_hash_sees_every_field_that_stays() {
    scan_while_half_of_it_goes("hset k NAME v", "hscan k CURSOR count 50", "hdel k NAME", 2);
}

#[test]
fn a_scan_of_a_set_sees_every_member_that_stays() {
    scan_while_half_of_it_goes("sadd k NAME", "sscan k CURSOR count 50", "srem k NAME", 1);
}

#[test]
fn a_scan_of_a_sorted_set_sees_every_member_that_stays() {
    scan_while_half_of_it_goes("zadd k 1 NAME", "zscan k CURSOR count 50", "zrem k NAME", 2);
}

#[test]
fn changes_keep_the_expiry_and_replacements_drop_it() {
    let mut world = World::new();
    for command in ["hset h a 1", "rpush l a b", "sadd s a b", "zadd z 1 a 2 b", "pfadd p a"] {
        run(&mut world, command);
    }
    world.values_mut().for_each(|entry| entry.expire_at_ms = Some(99));
    for command in
        ["hset h b 1", "lpop l", "srem s a", "zincrby z 1 a", "pfadd p b c d", "zpopmin z", "hincrby h a 2"]
    {
        run(&mut world, command);
    }
    assert!(world.values().all(|entry| entry.expire_at_ms == Some(99)));
    run(&mut world, "sunionstore s s");
    run(&mut world, "zunionstore z 1 z");
    assert_eq!(world.values().filter(|entry| entry.expire_at_ms.is_none()).count(), 2);
}

#[test]
fn repeats_without_end_are_refused() {
    let mut world = World::new();
    run(&mut world, "sadd s a b");
    let reply = run(&mut world, "srandmember s -9223372036854775807");
    assert_eq!(reply, "-ERR the reply would repeat more than 64 MiB\r\n");
}

#[test]
fn random_members_are_about_equally_likely() {
    let mut world = World::new();
    run(&mut world, "sadd s a b c d e f g h");
    let reply = run(&mut world, "srandmember s -8000");
    let mut counts = HashMap::new();
    bulks(&reply).into_iter().for_each(|member| *counts.entry(member).or_insert(0) += 1);
    assert!(counts.len() == 8 && counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}
