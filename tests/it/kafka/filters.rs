//! Filters that look into requests, by every way to the brokers.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{answer, bootstrap, connect, field, kcat, records, request, topic};
use crate::support::{Fake, Kafka, Mecha, Tool, kafka, tool};

/// A mecha with these filters before `kafka`: a port for each broker, or one for all.
pub(super) fn behind(kafka: &Kafka, is_single: bool, filters: &str) -> Mecha {
    let brokers = if is_single { "{ ports: none }" } else { "{ host: 127.0.0.1 }" };
    Mecha::configured(&format!(
        "listeners:\n- listen: \"kafka://127.0.0.1:0\"\n  to: \"{}\"\n  brokers: {brokers}\n  filters:\n{filters}workers: 2\n",
        kafka.target()
    ))
}

/// What kcat says when it fails, as it must.
#[track_caller]
pub(super) fn refused(mecha: &Mecha, args: &[&str], input: &str) -> String {
    let mut child = Command::new("kcat")
        .args(["-b", &bootstrap(mecha), "-X", "message.timeout.ms=10000"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "kcat {args:?} succeeds: {said}");
    said
}

pub(super) fn topics(mecha: &Mecha) -> Vec<String> {
    let list = kcat(mecha, &["-L"], "");
    let names = list.lines().filter_map(|line| line.trim().strip_prefix("topic \"")?.split('"').next());
    names.map(str::to_string).collect()
}

/// What a tool of groups prints.
pub(super) fn groups(mecha: &Mecha, args: &[&str]) -> String {
    tool(
        "consumer.group.ConsumerGroupCommand",
        &[&["--bootstrap-server", &bootstrap(mecha)][..], args].concat(),
    )
}

#[test]
fn tenants_of_one_cluster_see_their_own_names_and_nobody_elses() {
    let Some(kafka) = kafka() else { return };
    let outside = Mecha::start("kafka", &kafka.target());
    for (is_single, kind) in [(false, "each"), (true, "one")] {
        let tenants = ["a", "b"].map(|tenant| {
            let prefix = format!("{tenant}-{kind}.");
            (behind(kafka, is_single, &format!("  - topic_prefix: {{ prefix: {prefix} }}\n")), prefix)
        });
        // Both call theirs by the same name.
        for ((mecha, _), first) in tenants.iter().zip([0, 1000]) {
            topic(mecha, "orders", 3);
            let lines: String = (first..first + 200).map(|at| format!("key-{at}:{at}\n")).collect();
            kcat(mecha, &["-P", "-t", "orders", "-K", ":", "-X", "acks=all", "-z", "gzip"], &lines);
        }
        for ((mecha, prefix), first) in tenants.iter().zip([0, 1000]) {
            assert_eq!(topics(mecha), ["orders"], "{prefix}");
            let all: Vec<u64> = records(mecha, "orders").into_values().flatten().collect();
            assert_eq!(all.iter().sum::<u64>(), (first..first + 200).sum::<u64>(), "{prefix}");
            // Kafka's newest client, whose requests name topics by their identities, and groups of both kinds.
            let servers = bootstrap(mecha);
            let args = [
                "--bootstrap-server",
                &servers,
                "--topic",
                "orders",
                "--max-messages",
                "300",
                "--acks",
                "-1",
            ];
            tool("VerifiableProducer", &args);
            for protocol in ["classic", "consumer"] {
                let group = format!("readers-{protocol}");
                let args = ["--bootstrap-server", &servers, "--topic", "orders", "--group-id", &group];
                let more =
                    ["--group-protocol", protocol, "--max-messages", "500", "--reset-policy", "earliest"];
                let text = tool("VerifiableConsumer", &[&args[..], &more].concat());
                let lines = text.lines().filter(|line| line.contains("\"name\":\"records_consumed\""));
                let read: u32 = lines.map(|line| field(line, "count").unwrap().parse::<u32>().unwrap()).sum();
                assert_eq!(read, 500, "{prefix} {protocol}: {text}");
                assert!(text.contains("\"topic\":\"orders\"") && !text.contains(prefix.as_str()), "{text}");
            }
            let config = format!("bootstrap.servers={servers}");
            let args =
                ["--topic", "orders", "--num-records", "100", "--record-size", "10", "--throughput", "-1"];
            let more =
                ["--transactional-id", "pay", "--transaction-duration-ms", "50", "--producer-props", &config];
            tool("ProducerPerformance", &[&args[..], &more].concat());
            let mut own: Vec<String> = groups(mecha, &["--list"]).lines().map(str::to_string).collect();
            own.sort_unstable();
            assert_eq!(own, ["readers-classic", "readers-consumer"]);
            let told = groups(mecha, &["--describe", "--group", "readers-classic"]);
            assert!(told.contains("orders") && !told.contains(prefix.as_str()), "{told}");
            let told = tool("TransactionsCommand", &["--bootstrap-server", &servers, "list"]);
            assert!(told.contains("pay") && !told.contains(prefix.as_str()), "{told}");
        }
        // In the cluster they have their prefixes, all of them.
        let seen = topics(&outside);
        let listed = groups(&outside, &["--list"]);
        for (_, prefix) in &tenants {
            assert!(seen.contains(&format!("{prefix}orders")), "{seen:?}");
            assert!(listed.lines().any(|line| line == format!("{prefix}readers-consumer")), "{listed}");
        }
        assert!(
            !seen.iter().any(|name| name == "orders")
                && !listed.lines().any(|line| line == "readers-classic")
        );
        // What nobody has looked through is refused in Kafka's words, and not passed.
        let mut stream = super::connect(&tenants[0].0);
        stream.write_all(&super::request(3, 1, 6, &0i32.to_be_bytes())).unwrap();
        // DescribeAcls version 1: everything about any resource.
        let body = [1, 0xff, 0xff, 3, 0xff, 0xff, 0xff, 0xff, 1, 1];
        stream.write_all(&super::request(29, 1, 7, &body)).unwrap();
        stream.write_all(&super::request(3, 1, 8, &0i32.to_be_bytes())).unwrap();
        for correlation in 6..9i32 {
            let answer = super::answer(&mut stream);
            assert_eq!(answer[..4], correlation.to_be_bytes());
            if correlation == 7 {
                assert_eq!(answer[8..10], 35i16.to_be_bytes(), "{answer:?}");
            }
        }
        drop(stream);
        tenants.iter().for_each(|(mecha, _)| mecha.settles());
    }
    kafka.assert_hidden();
}

#[test]
fn what_is_denied_is_refused_in_kafkas_own_words_and_the_rest_passes() {
    let Some(kafka) = kafka() else { return };
    let outside = Mecha::start("kafka", &kafka.target());
    topic(&outside, "open-1", 1);
    topic(&outside, "secret-1", 1);
    kcat(&outside, &["-P", "-t", "secret-1"], "1\n");
    for is_single in [false, true] {
        let filters = "  - deny: { topics: [\"secret-*\"] }\n  - deny: { apis: [DeleteTopics] }\n";
        let mecha = behind(kafka, is_single, filters);
        kcat(&mecha, &["-P", "-t", "open-1"], "7\n");
        assert!(records(&mecha, "open-1")[&0].contains(&7));
        assert!(!topics(&mecha).iter().any(|name| name.starts_with("secret-")));
        let said = refused(&mecha, &["-P", "-t", "secret-1"], "2\n");
        assert!(said.to_lowercase().contains("authorization"), "{said}");
        let said = refused(&mecha, &["-C", "-t", "secret-1", "-e", "-o", "beginning"], "");
        assert!(said.to_lowercase().contains("authorization"), "{said}");
        let servers = bootstrap(&mecha);
        let args = ["--bootstrap-server", &servers, "--delete", "--topic", "open-1"];
        let said = Tool::start("TopicCommand", &args).failed();
        assert!(said.contains("a rule of mecha forbids this"), "{said}");
        let denied = "mecha_refusals_total{listener=\"kafka\",reason=\"denied\"";
        assert!(mecha.metric(denied) >= 3.0, "{}", mecha.metric(denied));
    }
    assert_eq!(records(&outside, "secret-1")[&0], [1]);
    assert!(topics(&outside).iter().any(|name| name == "open-1"));
    kafka.assert_hidden();
}

#[test]
fn records_are_what_they_must_be_and_carry_what_is_added() {
    let Some(kafka) = kafka() else { return };
    let filters = "  - produce_limit: { max_record: 1KiB, key: true, headers: [kind], value: json }\n  \
                   - headers: { set: [\"source=shop\"], traceparent: true }\n";
    let mecha = behind(kafka, false, filters);
    topic(&mecha, "judged", 1);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        kcat(&mecha, &["-P", "-t", "judged", "-K", ":", "-H", "kind=a", "-z", codec], "k:{\"a\":[1]}\nk:3\n");
    }
    for (args, line) in [
        (&["-H", "kind=a", "-K", ":"][..], "k:{\"a\":\n".to_string()),
        (&["-H", "kind=a"], "1\n".to_string()),
        (&["-K", ":"], "k:1\n".to_string()),
        (&["-H", "kind=a", "-K", ":"], format!("k:\"{}\"\n", "x".repeat(1100))),
    ] {
        let said = refused(&mecha, &[&["-P", "-t", "judged", "-z", "lz4"][..], args].concat(), &line);
        assert!(said.contains("delivery failed") || said.contains("Delivery failed"), "{said}");
    }
    let text = kcat(&mecha, &["-C", "-t", "judged", "-o", "beginning", "-e", "-q", "-f", "%s %h\n"], "");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 10, "{text}");
    for line in lines {
        assert!(line.starts_with("{\"a\":[1]} ") || line.starts_with("3 "), "{line}");
        assert!(line.contains("kind=a,source=shop,traceparent=00-"), "{line}");
    }
    kafka.assert_hidden();
}

/// The errors that a client gets which asks for the list of groups so often.
pub(super) fn list_groups(mecha: &Mecha, times: i32) -> Vec<i16> {
    let mut stream = connect(mecha);
    let ask = |correlation| {
        stream.write_all(&request(16, 0, correlation, &[])).unwrap();
        let answer = answer(&mut stream);
        assert_eq!(answer[..4], correlation.to_be_bytes());
        i16::from_be_bytes([answer[4], answer[5]])
    };
    (0..times).map(ask).collect()
}

#[test]
fn policies_see_each_request_and_are_heard_in_kafkas_words() {
    let Some(kafka) = kafka() else { return };
    let log = std::env::temp_dir().join(format!("mecha-it-kafka-{}.log", std::process::id()));
    for is_single in [false, true] {
        let filters = format!(
            "  - access_log: {{ to: \"{}\" }}\n  - rate_limit: {{ permits: 5, per: 1h, burst: 5, commands: [ListGroups] }}\n",
            log.display()
        );
        let mecha = behind(kafka, is_single, &filters);
        let errors = list_groups(&mecha, 8);
        assert_eq!(errors, [0, 0, 0, 0, 0, 89, 89, 89], "{is_single}");
        let refused = "mecha_kafka_requests_total{listener=\"kafka\",api=\"ListGroups\",version=\"0\",error=\"THROTTLING_QUOTA_EXCEEDED\"}";
        assert_eq!(mecha.metric(refused), 3.0, "{is_single}");
        // What is not limited goes on, and is written down.
        assert!(kcat(&mecha, &["-L"], "").contains("broker 1 at"));
        let seen = |word: &str| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().filter(|line| line.contains(word)).count()
        };
        crate::support::eventually("nobody writes", || seen("ListGroups") >= 8 && seen("Metadata") >= 1);
        assert!(seen("rate_limited") >= 3);
        std::fs::remove_file(&log).unwrap();
    }
    kafka.assert_hidden();
}

#[test]
fn brokers_that_say_they_are_not_well_open_the_circuit() {
    // Every group is loaded somewhere else.
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&asked);
    let broker = Fake::start(move |mut stream, _| {
        let mut head = [0; 12];
        while std::io::Read::read_exact(&mut stream, &mut head).is_ok() {
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let mut rest = vec![0; length - 8];
            if std::io::Read::read_exact(&mut stream, &mut rest).is_err() {
                return;
            }
            let error: i16 = match i16::from_be_bytes([head[4], head[5]]) {
                16 => {
                    count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    14
                }
                18 => 0,
                _ => return,
            };
            let body = [&head[8..12], &error.to_be_bytes()[..], &0i32.to_be_bytes()[..]].concat();
            let frame = [&(body.len() as u32).to_be_bytes()[..], &body].concat();
            if stream.write_all(&frame).is_err() {
                return;
            }
        }
    });
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n- listen: \"kafka://127.0.0.1:0\"\n  to: \"kafka://127.0.0.1:{}\"\n  filters:\n  \
         - circuit_breaker: {{ failures: 3, open_for: 1h }}\n",
        broker.port
    ));
    let errors = list_groups(&mecha, 6);
    assert_eq!(errors, [14, 14, 14, 15, 15, 15]);
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 3);
}
