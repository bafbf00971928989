//! Clients that are held to bytes per second.

use std::io::Write;
use std::time::{Duration, Instant};

use super::filters::behind;
use super::sasl::File;
use super::{answer, bootstrap, connect, kcat, request, topic};
use crate::support::{Mecha, kafka, tool};

/// A figure of a client of Java's, as its tools print it.
fn printed(text: &str, name: &str) -> f64 {
    let line =
        text.lines().find(|line| line.contains(&format!(":{name}:"))).unwrap_or_else(|| panic!("{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// So many kilobytes of records, as fast as may be: what the producer prints, and its time.
fn produce(mecha: &Mecha, topic: &str, count: u32) -> (String, Duration) {
    let config = format!("bootstrap.servers={}", bootstrap(mecha));
    let count = count.to_string();
    let args = ["--topic", topic, "--num-records", &count, "--record-size", "1000", "--throughput", "-1"];
    let more = ["--print-metrics", "--producer-props", &config, "acks=all"];
    let start = Instant::now();
    (tool("ProducerPerformance", &[&args[..], &more].concat()), start.elapsed())
}

#[test]
fn a_producer_is_held_at_its_rate_and_told_so() {
    let Some(kafka) = kafka() else { return };
    for (is_single, by) in [(false, "listener"), (true, "topic"), (false, "user")] {
        let name = format!("held-{by}");
        let filters = format!("  - quota: {{ produce: 100kB, by: {by} }}\n");
        let mecha = behind(kafka, is_single, &filters);
        topic(&mecha, &name, 1);
        let (text, took) = produce(&mecha, &name, 700);
        // 700 kB, of which 100 kB may come at once.
        assert!(took > Duration::from_millis(5500), "{took:?}: {text}");
        assert!(printed(&text, "produce-throttle-time-max") > 10.0, "{text}");
        assert!(mecha.metric("mecha_quota_throttles_total{") > 0.0);
        // Nothing was refused, and nothing is lost.
        let read = kcat(&mecha, &["-C", "-t", &name, "-o", "beginning", "-e", "-q", "-f", "%S\n"], "");
        assert_eq!(read.lines().count(), 700);
        mecha.settles();
    }
    kafka.assert_hidden();
}

#[test]
fn a_consumer_is_held_at_its_rate_and_told_so() {
    let Some(kafka) = kafka() else { return };
    let outside = Mecha::start("kafka", &kafka.target());
    topic(&outside, "drunk", 1);
    produce(&outside, "drunk", 700);
    for (is_single, by) in [(false, "listener"), (true, "listener"), (false, "topic")] {
        let mecha = behind(kafka, is_single, &format!("  - quota: {{ fetch: 100kB, by: {by} }}\n"));
        let servers = bootstrap(&mecha);
        let args = ["--bootstrap-server", &servers, "--topic", "drunk", "--num-records", "700"];
        // In portions, since the first one is always given.
        let config =
            File::with("quota.properties", "max.partition.fetch.bytes=50000\nauto.offset.reset=earliest\n");
        let more = ["--print-metrics", "--timeout", "60000", "--command-config", config.path()];
        let start = Instant::now();
        let text = tool("ConsumerPerformance", &[&args[..], &more].concat());
        let took = start.elapsed();
        // Nobody waits for the last portion.
        assert!(took > Duration::from_millis(5000), "{took:?}: {text}");
        assert!(printed(&text, "fetch-throttle-time-max") > 10.0, "{text}");
    }
    kafka.assert_hidden();
}

#[test]
fn whoever_does_not_wait_is_not_read_from() {
    let Some(kafka) = kafka() else { return };
    let outside = Mecha::start("kafka", &kafka.target());
    topic(&outside, "mute", 1);
    produce(&outside, "mute", 100);
    for is_single in [false, true] {
        let mecha = behind(kafka, is_single, "  - quota: { fetch: 50kB, by: listener, burst: 1ms }\n");
        let mut stream = connect(&mecha);
        // Version 4: up to 100 kB of the one partition, and behind it something that nobody counts.
        let head = [
            &(-1i32).to_be_bytes()[..],
            &1000i32.to_be_bytes(),
            &1i32.to_be_bytes(),
            &(1i32 << 20).to_be_bytes(),
            &[0],
        ];
        let topic = [&[0, 0, 0, 1, 0, 4][..], b"mute", &[0, 0, 0, 1], &[0; 12], &100_000i32.to_be_bytes()];
        let fetch = [head.concat(), topic.concat()].concat();
        let start = Instant::now();
        for at in [0, 2] {
            stream.write_all(&[request(1, 4, at, &fetch), request(3, 1, at + 1, &[0; 4])].concat()).unwrap();
        }
        let mut bytes = 0;
        for at in [0, 1, 2, 3i32] {
            let answer = answer(&mut stream);
            assert_eq!(answer[..4], at.to_be_bytes());
            if at % 2 == 0 {
                bytes += answer.len() - 4;
                let millis = i32::from_be_bytes(answer[4..8].try_into().unwrap());
                assert!(answer.len() > 70_000 && (1000..3000).contains(&millis), "{} {millis}", answer.len());
            } else {
                // What came behind it has waited until it was paid for.
                let least = Duration::from_secs_f64(bytes as f64 / 50e3 - 0.01);
                assert!(start.elapsed() >= least, "{at}: {:?} instead of {least:?}", start.elapsed());
            }
        }
        drop(stream);
        mecha.settles();
    }
    kafka.assert_hidden();
}
