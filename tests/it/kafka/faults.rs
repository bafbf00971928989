//! Brokers that are restarted or paused, and clients that vanish, under load.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{PRODUCED, acknowledged, assert_exact, bootstrap, field, producer, produces, records, topic};
use crate::support::{Kafka, Mecha, PATIENCE, Tool, eventually, tool};

/// A client in the group, that tells each record it reads.
fn consumer(mecha: &Mecha) -> Tool {
    let servers = bootstrap(mecha);
    let args = ["--bootstrap-server", &servers, "--topic", "rolled", "--group-id", "rolled", "--verbose"];
    // Whoever has died is missed as soon as brokers let it be.
    let more = ["--reset-policy", "earliest", "--session-timeout", "6000"];
    Tool::start("VerifiableConsumer", &[&args[..], &more].concat())
}

/// Values that a client has read.
fn read(printed: &str) -> BTreeSet<u64> {
    let lines = printed.lines().filter(|line| line.contains("\"name\":\"record_data\""));
    lines.map(|line| field(line, "value").unwrap().parse().unwrap()).collect()
}

/// How often an API was answered.
fn calls(mecha: &Mecha, api: &str) -> f64 {
    mecha.metric(&PRODUCED.replace("Produce", api))
}

#[test]
fn brokers_restarted_in_turn_and_paused_lose_nothing_for_groups_whose_members_die() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let mecha = Mecha::start("kafka", &kafka.target());
    topic(&mecha, "rolled", 6);
    let first = consumer(&mecha);
    let producing = producer(&mecha, "rolled", 1 << 30, 150);
    produces(&mecha, 20.0);
    eventually("nobody reads", || calls(&mecha, "OffsetCommit") > 0.0);

    // A member dies while another one joins, and a third finds a group that is being made anew.
    let joins = calls(&mecha, "JoinGroup");
    let second = consumer(&mecha);
    while calls(&mecha, "JoinGroup") <= joins {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut seen = read(&first.ended_by("KILL"));
    let third = consumer(&mecha);

    for id in 1..=3 {
        kafka.stop(id);
        produces(&mecha, 10.0);
        kafka.restart(id);
        produces(&mecha, 10.0);
    }
    // Shorter than it takes until it counts as dead: leaders stay, and what is under way waits.
    kafka.pause(1);
    std::thread::sleep(Duration::from_secs(3));
    kafka.resume(1);
    // Longer: others take over, and what it says when it comes back is of no account.
    kafka.pause(2);
    std::thread::sleep(Duration::from_secs(8));
    produces(&mecha, 10.0);
    kafka.resume(2);

    let acknowledged = acknowledged(&producing.ended_by("TERM"));
    assert!(acknowledged.len() > 1000, "{}", acknowledged.len());
    assert_exact(&acknowledged, &records(&mecha, "rolled"));
    // What is committed is read by the group's time: nobody has more to read.
    let args = ["--bootstrap-server", &bootstrap(&mecha), "--describe", "--group", "rolled"];
    let start = Instant::now();
    loop {
        let told = tool("consumer.group.ConsumerGroupCommand", &args);
        // Its end, and how far the group is from it; a partition may have got nothing.
        let is_read = |line: &&str| {
            let mut words = line.split_whitespace().skip(4);
            words.next() == Some("0") || words.next() == Some("0")
        };
        if told.lines().filter(is_read).count() == 6 {
            break;
        }
        assert!(start.elapsed() < 12 * PATIENCE, "the group does not come to the end: {told}");
    }
    seen.extend(read(&second.ended_by("TERM")));
    seen.extend(read(&third.ended_by("TERM")));
    let unread: Vec<_> = acknowledged.difference(&seen).collect();
    assert!(unread.is_empty(), "no member has read {unread:?}");
    kafka.assert_hidden();
    mecha.settles();
}
