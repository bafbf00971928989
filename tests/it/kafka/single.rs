//! One address for all brokers, before a cluster of three.

use std::collections::BTreeSet;

use super::{
    acknowledged, answer, assert_exact, bootstrap, connect, field, kcat, producer, produces, records,
    request, topic,
};
use crate::support::{Kafka, Mecha, eventually, tool};

/// A mecha that has one port, and a name for each broker: Linux answers to all of 127.0.0.0/8.
fn single(to: &str) -> Mecha {
    let brokers = "{ ports: none, host: 127.0.0.$(id) }";
    let listener = format!("{{ listen: \"kafka://0.0.0.0:0\", to: \"{to}\", brokers: {brokers} }}");
    Mecha::configured(&format!("listeners:\n- {listener}\nworkers: 2\n"))
}

/// Everything that a group reads until it has so many records, by either protocol.
#[track_caller]
fn consumed(mecha: &Mecha, topic: &str, protocol: &str, count: u32) {
    let (servers, group, max) = (bootstrap(mecha), format!("{topic}-{protocol}"), count.to_string());
    let args = ["--bootstrap-server", &servers, "--topic", topic, "--group-id", &group];
    let more = ["--group-protocol", protocol, "--max-messages", &max, "--reset-policy", "earliest"];
    let text = tool("VerifiableConsumer", &[&args[..], &more].concat());
    let lines = text.lines().filter(|line| line.contains("\"name\":\"records_consumed\""));
    let counts = lines.map(|line| field(line, "count").unwrap().parse::<u32>().unwrap());
    assert_eq!(counts.sum::<u32>(), count, "{protocol}: {text}");
    assert!(text.contains("\"name\":\"offsets_committed\""), "{text}");
}

#[test]
fn one_port_leads_to_every_broker_and_loses_none_of_its_records() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let mecha = single(&kafka.target());
    topic(&mecha, "one", 6);
    // All have the port of mecha, and their own numbers and names.
    let list = kcat(&mecha, &["-L"], "");
    for id in 1..=3 {
        assert!(list.contains(&format!("broker {id} at 127.0.0.{id}:{}", mecha.port)), "{list}");
    }
    let leaders: BTreeSet<_> =
        list.lines().filter_map(|line| line.split("leader ").nth(1)?.split(',').next()).collect();
    assert!(leaders.len() == 3, "a cluster without three leaders proves nothing: {list}");

    // Produced with and without acknowledgement, and read by groups of both kinds, whose coordinator is one of three.
    let lines: String = (0..2000).map(|at| format!("key-{at}:{at}\n")).collect();
    kcat(&mecha, &["-P", "-t", "one", "-K", ":", "-X", "acks=all"], &lines);
    assert_exact(&(0..2000).collect(), &records(&mecha, "one"));
    ["classic", "consumer"].iter().for_each(|protocol| consumed(&mecha, "one", protocol, 2000));
    topic(&mecha, "unheard", 6);
    // A leader that does not know yet that it is one loses what it need not answer, with or without mecha.
    for partition in 0..6 {
        let (partition, line) = (partition.to_string(), format!("{}\n", 500 + partition));
        kcat(&mecha, &["-P", "-t", "unheard", "-p", &partition], &line);
    }
    let servers = bootstrap(&mecha);
    let args = ["--bootstrap-server", &servers, "--topic", "unheard", "--acks", "0"];
    tool("VerifiableProducer", &[&args[..], &["--max-messages", "500", "--throughput", "500"]].concat());
    let is_there = || records(&mecha, "unheard").values().map(Vec::len).sum::<usize>() == 506;
    eventually("records are lost", is_there);

    // A transaction, whose coordinator is another one.
    topic(&mecha, "whole", 6);
    let config = format!("bootstrap.servers={}", bootstrap(&mecha));
    let args = ["--topic", "whole", "--num-records", "2000", "--record-size", "100", "--throughput", "-1"];
    let more =
        ["--transactional-id", "whole-1", "--transaction-duration-ms", "50", "--producer-props", &config];
    tool("ProducerPerformance", &[&args[..], &more].concat());
    let args = ["-C", "-t", "whole", "-o", "beginning", "-e", "-q", "-X", "isolation.level=read_committed"];
    let text = kcat(&mecha, &[&args[..], &["-f", "%S\n"]].concat(), "");
    assert_eq!(text.lines().filter(|line| *line == "100").count(), 2000);

    // What is about several brokers: all groups, what is known of two, the ends of all partitions.
    let groups = |args: &[&str]| {
        tool("consumer.group.ConsumerGroupCommand", &[&["--bootstrap-server", &servers][..], args].concat())
    };
    let listed: Vec<String> = groups(&["--list"]).lines().map(str::to_string).collect();
    for group in ["one-classic", "one-consumer"] {
        assert_eq!(listed.iter().filter(|line| *line == group).count(), 1, "{listed:?}");
    }
    let told = groups(&["--describe", "--group", "one-classic", "--group", "one-consumer"]);
    // Nobody waits for anything: 6 partitions of either are read to their ends.
    assert_eq!(told.lines().filter(|line| line.split_whitespace().nth(5) == Some("0")).count(), 12, "{told}");
    let ends = tool("GetOffsetShell", &["--bootstrap-server", &servers, "--topic", "one"]);
    let total: u64 = ends.lines().map(|line| line.rsplit(':').next().unwrap().parse::<u64>().unwrap()).sum();
    // Some of what is there marks nothing but transactions, and there are none here.
    assert_eq!(total, 2000, "{ends}");

    // A leader dies under load, and another takes over.
    topic(&mecha, "moved", 6);
    let producing = producer(&mecha, "moved", 3000, 200);
    produces(&mecha, 20.0);
    kafka.kill(2);
    produces(&mecha, 20.0);
    kafka.restart(2);
    let written = acknowledged(&producing.printed());
    assert_eq!(written.len(), 3000);
    assert_exact(&written, &records(&mecha, "moved"));
    kafka.assert_hidden();
    mecha.settles();
    eventually("a broker's connection is leaked", || mecha.metric("mecha_upstream_connections{") == 0.0);
}

#[test]
fn one_address_answers_in_order_and_refuses_what_it_cannot_serve() {
    let Some(kafka) = super::kafka() else { return };
    let mecha = single(&kafka.target());
    let mut stream = connect(&mecha);
    // Who it is among all, what any broker knows, and what is on the disks of one that nobody named.
    let brokers_alone = 0i32.to_be_bytes();
    let mut heap = Vec::new();
    for at in 0..600 {
        heap.extend(request(16, 0, 3 * at, &[]));
        heap.extend(request(3, 1, 3 * at + 1, &brokers_alone));
        heap.extend(request(35, 3, 3 * at + 2, &[0, 0, 0]));
    }
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &heap).unwrap());
    for at in 0..600i32 {
        for correlation in 3 * at..3 * at + 3 {
            assert_eq!(answer(&mut stream)[..4], correlation.to_be_bytes());
        }
    }
    writing.join().unwrap();
    // Nobody is led to ask for it.
    std::io::Write::write_all(&mut stream, &request(18, 0, 5, &[])).unwrap();
    let frame = answer(&mut stream);
    let keys: Vec<i16> = frame[10..].chunks(6).map(|row| i16::from_be_bytes([row[0], row[1]])).collect();
    assert!(keys.contains(&16) && keys.contains(&1), "{keys:?}");
    assert!(!keys.contains(&35) && !keys.contains(&17), "{keys:?}");
    kafka.assert_hidden();
}
