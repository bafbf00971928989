//! Share groups (KIP-932): records of one partition are given to several members, each to one at a time.

use std::collections::BTreeSet;

use super::filters::behind;
use super::{bootstrap, field, kcat, topic};
use crate::support::{Mecha, Tool, eventually, kafka, tool};

/// What a tool of share groups prints.
fn shares(mecha: &Mecha, args: &[&str]) -> String {
    let servers = bootstrap(mecha);
    tool("consumer.group.ShareGroupCommand", &[&["--bootstrap-server", &servers][..], args].concat())
}

/// Numbers from here on that nobody has, in small portions.
fn produce(mecha: &Mecha, topic: &str, from: u64) {
    for portion in 0..10 {
        let first = from + portion * 20;
        let lines: String = (first..first + 20).map(|at| format!("{at}\n")).collect();
        kcat(mecha, &["-P", "-t", topic], &lines);
    }
}

/// A member of a share group that goes on until it is ended, and prints what it reads.
fn member(mecha: &Mecha, topic: &str, group: &str, mode: &str) -> Tool {
    let servers = bootstrap(mecha);
    let args = ["--bootstrap-server", &servers, "--topic", topic, "--group-id", group, "--verbose"];
    let more = ["--acknowledgement-mode", mode, "--offset-reset-strategy", "earliest"];
    Tool::start("VerifiableShareConsumer", &[&args[..], &more].concat())
}

fn read(printed: &str) -> Vec<u64> {
    let lines = printed.lines().filter(|line| line.contains("\"name\":\"record_data\""));
    lines.map(|line| field(line, "value").unwrap().parse().unwrap()).collect()
}

#[test]
fn members_of_a_share_group_share_what_is_in_a_topic() {
    let Some(kafka) = kafka() else { return };
    let prefix = "  - topic_prefix: { prefix: shared. }\n";
    let rename = "  - topic_rename: { topics: [\"work=work-v2\"] }\n";
    for (is_single, filters) in [(false, ""), (true, ""), (false, prefix), (true, prefix), (false, rename)] {
        let mecha = if filters.is_empty() {
            let brokers = if is_single { "{ ports: none }" } else { "{ host: 127.0.0.1 }" };
            Mecha::configured(&format!(
                "listeners:\n- listen: \"kafka://127.0.0.1:0\"\n  to: \"{}\"\n  brokers: {brokers}\nworkers: 2\n",
                kafka.target()
            ))
        } else {
            behind(kafka, is_single, filters)
        };
        let group = format!("workers-{is_single}");
        topic(&mecha, "work", 1);
        produce(&mecha, "work", 0);
        let members = [member(&mecha, "work", &group, "auto"), member(&mecha, "work", &group, "sync")];
        produce(&mecha, "work", 200);
        eventually("not everything is read", || {
            let told = shares(&mecha, &["--describe", "--group", &group, "--offsets"]);
            assert!(!told.contains("shared.") && !told.contains("work-v2"), "{told}");
            // Group, topic, partition, start, lag.
            told.lines().any(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                words.first() == Some(&group.as_str())
                    && words.get(1) == Some(&"work")
                    && words.last() == Some(&"0")
            })
        });
        let printed = members.map(|member| member.ended_by("TERM"));
        // What is not acknowledged in time is given to another: on a busy machine something may have come twice.
        let all: BTreeSet<u64> = printed.iter().flat_map(|text| read(text)).collect();
        assert_eq!(all, (0..400).collect(), "{printed:?}");
        assert!(shares(&mecha, &["--list"]).lines().any(|line| line == group));
        let servers = bootstrap(&mecha);
        let args = ["--bootstrap-server", &servers, "--topic", "work", "--group", &group];
        produce(&mecha, "work", 400);
        let more = ["--max-messages", "200", "--timeout-ms", "60000"];
        let text = tool("consumer.ConsoleShareConsumer", &[&args[..], &more].concat());
        assert_eq!(
            text.lines().filter(|line| line.parse::<u64>().is_ok_and(|at| at >= 400)).count(),
            200,
            "{text}"
        );
        shares(&mecha, &["--delete", "--group", &group]);
        tool("TopicCommand", &["--bootstrap-server", &servers, "--delete", "--topic", "work"]);
        mecha.settles();
    }
    kafka.assert_hidden();
}
