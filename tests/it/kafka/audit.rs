//! What is changed and what is refused is written down.

use super::filters::{behind, refused};
use super::{bootstrap, kcat, topic};
use crate::support::{Tool, eventually, kafka, tool};

#[test]
fn who_changes_what_is_written_down_and_who_may_not() {
    let Some(kafka) = kafka() else { return };
    for is_single in [false, true] {
        let log = std::env::temp_dir().join(format!("mecha-it-audit-{}-{is_single}.log", std::process::id()));
        let _ = std::fs::remove_file(&log);
        let filters = format!(
            "  - audit_log: {{ to: \"{}\" }}\n  - deny: {{ apis: [DeleteTopics] }}\n  \
             - rate_limit: {{ permits: 1, per: 1h, burst: 1, commands: [ListGroups] }}\n  \
             - topic_prefix: {{ prefix: audited. }}\n",
            log.display()
        );
        let mecha = behind(kafka, is_single, &filters);
        let name = format!("noted-{is_single}");
        topic(&mecha, &name, 1);
        let again = ["--bootstrap-server", &bootstrap(&mecha), "--create", "--topic", &name];
        Tool::start("TopicCommand", &again).failed();
        kcat(&mecha, &["-P", "-t", &name, "-X", "client.id=shop"], "1\n");
        kcat(&mecha, &["-P", "-t", &name, "-X", "acks=0"], "2\n");
        let delete = ["--bootstrap-server", &bootstrap(&mecha), "--delete", "--topic", &name];
        Tool::start("TopicCommand", &delete).failed();
        let servers = bootstrap(&mecha);
        let args =
            ["--bootstrap-server", &servers, "--topic", &name, "--group-id", "noters", "--max-messages", "2"];
        tool("VerifiableConsumer", &[&args[..], &["--reset-policy", "earliest"]].concat());
        super::filters::list_groups(&mecha, 2);
        // An idempotent producer of Java's, whose requests name topics by identity.
        tool(
            "VerifiableProducer",
            &["--bootstrap-server", &servers, "--topic", &name, "--max-messages", "5"],
        );
        let has = |parts: &[&str]| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let is_it = |line: &&str| parts.iter().all(|part| line.contains(part));
            text.lines().filter(is_it).count()
        };
        let topic = format!("\"topics\":[\"{name}\"]");
        for parts in [
            &["\"api\":\"CreateTopics\"", &topic, "\"outcome\":\"ok\"", "\"peer\":\"127.0.0.1:"][..],
            &["\"api\":\"CreateTopics\"", &topic, "\"outcome\":\"error\"", "[\"TOPIC_ALREADY_EXISTS\"]"],
            &["\"api\":\"Produce\"", &topic, "\"outcome\":\"ok\"", "\"client_id\":\"shop\""],
            &["\"api\":\"Produce\"", &topic, "\"outcome\":\"unanswered\""],
            &["\"api\":\"Produce\"", &topic, "\"outcome\":\"ok\"", "\"client_id\":\"producer-1\""],
            &["\"api\":\"DeleteTopics\"", "\"outcome\":\"refused\"", "a rule of mecha forbids this"],
            &["\"api\":\"OffsetCommit\"", &topic, "\"groups\":[\"noters\"]", "\"outcome\":\"ok\""],
            &["\"api\":\"ListGroups\"", "\"outcome\":\"refused\"", "\"reason\":\"rate_limited\""],
        ] {
            eventually(&format!("there is no line with {parts:?}"), || has(parts) > 0);
        }
        // What only looks is not written down.
        assert_eq!(has(&["\"api\":\"Metadata\""]) + has(&["\"api\":\"Heartbeat\""]), 0);
        std::fs::remove_file(&log).unwrap();
    }
    kafka.assert_hidden();
}

#[test]
fn what_brokers_refuse_is_written_down_too() {
    let Some(kafka) = kafka() else { return };
    let log = std::env::temp_dir().join(format!("mecha-it-audit-{}.log", std::process::id()));
    let _ = std::fs::remove_file(&log);
    let inner = behind(kafka, false, "  - deny: { topics: [\"closed-*\"] }\n");
    // The second one takes the first for its broker.
    let mecha = crate::support::Mecha::configured(&format!(
        "listeners:\n- listen: \"kafka://127.0.0.1:0\"\n  to: \"kafka://127.0.0.1:{}\"\n  brokers: {{ host: 127.0.0.1 }}\n  \
         filters:\n  - audit_log: {{ to: \"{}\" }}\nworkers: 1\n",
        inner.port,
        log.display()
    ));
    refused(&mecha, &["-P", "-t", "closed-1"], "2\n");
    eventually("nobody writes", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().any(|line| {
            line.contains("\"outcome\":\"refused\"")
                && line.contains("TOPIC_AUTHORIZATION_FAILED")
                && line.contains("\"topics\":[\"closed-1\"]")
        })
    });
    std::fs::remove_file(&log).unwrap();
}
