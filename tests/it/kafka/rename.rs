//! Topics that have other names for clients than in the cluster.

use super::filters::{behind, groups, refused, topics};
use super::{bootstrap, field, kcat, records, topic};
use crate::support::{Mecha, eventually, kafka, tool};

#[test]
fn a_renamed_topic_has_one_name_for_clients_in_everything_they_do() {
    let Some(kafka) = kafka() else { return };
    let outside = Mecha::start("kafka", &kafka.target());
    for (is_single, kind) in [(false, "each"), (true, "one")] {
        let (inner, outer) = (format!("sales-{kind}"), format!("sales-{kind}-v2"));
        let mecha =
            behind(kafka, is_single, &format!("  - topic_rename: {{ topics: [\"{inner}={outer}\"] }}\n"));
        // The cluster has another topic by the name that clients use.
        topic(&outside, &inner, 1);
        kcat(&outside, &["-P", "-t", &inner], "999\n");
        topic(&mecha, &inner, 2);
        topic(&mecha, &format!("plain-{kind}"), 1);
        let lines: String = (0..300).map(|at| format!("key-{at}:{at}\n")).collect();
        kcat(&mecha, &["-P", "-t", &inner, "-K", ":", "-X", "acks=all", "-z", "lz4"], &lines);
        kcat(&mecha, &["-P", "-t", &format!("plain-{kind}")], "5\n");
        let servers = bootstrap(&mecha);
        let args =
            ["--bootstrap-server", &servers, "--topic", &inner, "--max-messages", "200", "--acks", "-1"];
        tool("VerifiableProducer", &args);
        // Both see the same records, by different names.
        let sorted = |mecha: &Mecha, topic: &str| {
            let mut all: Vec<u64> = records(mecha, topic).into_values().flatten().collect();
            all.sort_unstable();
            all
        };
        let seen = sorted(&mecha, &inner);
        assert_eq!((seen.len(), seen.iter().max()), (500, Some(&299)));
        assert_eq!(sorted(&outside, &outer), seen);
        assert_eq!(sorted(&outside, &inner), [999]);
        let names = topics(&mecha);
        let count = |name: &String| names.iter().filter(|other| *other == name).count();
        assert_eq!((count(&inner), count(&outer), count(&format!("plain-{kind}"))), (1, 0, 1), "{names:?}");
        for protocol in ["classic", "consumer"] {
            let group = format!("sellers-{kind}-{protocol}");
            let args = ["--bootstrap-server", &servers, "--topic", &inner, "--group-id", &group];
            let more = ["--group-protocol", protocol, "--max-messages", "500", "--reset-policy", "earliest"];
            let text = tool("VerifiableConsumer", &[&args[..], &more].concat());
            let lines = text.lines().filter(|line| line.contains("\"name\":\"records_consumed\""));
            let read: u32 = lines.map(|line| field(line, "count").unwrap().parse::<u32>().unwrap()).sum();
            assert_eq!(read, 500, "{protocol}: {text}");
            assert!(text.contains(&format!("\"topic\":\"{inner}\"")) && !text.contains(&outer), "{text}");
            // Each is told where the group is by the name that it knows.
            for (at, name, other) in [(&mecha, &inner, &outer), (&outside, &outer, &"\u{0}".to_string())] {
                let told = groups(at, &["--describe", "--group", &group]);
                let is_there = told.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
                assert!(is_there && !told.contains(other.as_str()), "{protocol}: {told}");
            }
        }
        // Administrators too.
        let args = ["--bootstrap-server", &servers, "--alter", "--topic", &inner, "--partitions", "3"];
        tool("TopicCommand", &args);
        let told = tool("TopicCommand", &["--bootstrap-server", &servers, "--describe", "--topic", &inner]);
        assert!(told.contains("PartitionCount: 3") && !told.contains(&outer), "{told}");
        let entity = ["--entity-type", "topics", "--entity-name", &inner];
        let alter = ["--bootstrap-server", &servers, "--alter", "--add-config", "retention.ms=77777777"];
        tool("kafka.admin.ConfigCommand", &[&alter[..], &entity].concat());
        let told = tool(
            "kafka.admin.ConfigCommand",
            &[&["--bootstrap-server", &servers, "--describe"][..], &entity].concat(),
        );
        assert!(told.contains("retention.ms=77777777") && !told.contains(&outer), "{told}");
        // The cluster's name is nobody's here.
        refused(&mecha, &["-C", "-t", &outer, "-e", "-o", "beginning"], "");
        tool("TopicCommand", &["--bootstrap-server", &servers, "--delete", "--topic", &inner]);
        eventually("the wrong topic is deleted", || {
            let left = topics(&outside);
            left.contains(&inner) && !left.contains(&outer)
        });
        mecha.settles();
    }
    kafka.assert_hidden();
}
