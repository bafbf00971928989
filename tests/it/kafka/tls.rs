//! Kafka over TLS: with a port for each broker, and with a name for each.

use std::process::Command;

use super::{field, kcat};
use crate::support::{Kafka, Mecha, kafka, tool_where};
use crate::tls::Folder;

/// What Java's clients trust.
fn trust(folder: &Folder) -> String {
    let path = folder.file("client.properties");
    let text = "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location=";
    std::fs::write(&path, format!("{text}{}\n", folder.file("ca.pem"))).unwrap();
    path
}

/// A listener with TLS.
fn listener(folder: &Folder, to: &str, brokers: &str) -> String {
    let (cert, key) = (folder.file("server.pem"), folder.file("server.key"));
    let tls = format!("{{ cert: {cert}, key: {key} }}");
    format!(
        "listeners:\n- {{ listen: \"kafkas://127.0.0.1:0\", to: \"{to}\", brokers: {brokers}, tls: {tls} }}\nworkers: 2\n"
    )
}

#[test]
fn each_port_of_a_broker_speaks_tls() {
    let Some(kafka) = kafka() else { return };
    let folder = Folder::new("kafka-ports");
    let mecha = Mecha::configured(&listener(&folder, &kafka.target(), "{ host: localhost }"));
    let ca = format!("ssl.ca.location={}", folder.file("ca.pem"));
    // The authority of the certificate is known; its name is that of the host.
    let words = ["-X", "security.protocol=ssl", "-X", &ca];
    let list = kcat(&mecha, &[&words[..], &["-L"]].concat(), "");
    assert!(
        list.contains("broker 1 at localhost:") && !list.contains(&format!(":{} ", mecha.port)),
        "{list}"
    );
    kcat(&mecha, &[&words[..], &["-P", "-t", "over-tls"]].concat(), "1\n2\n");
    let got =
        kcat(&mecha, &[&words[..], &["-C", "-t", "over-tls", "-o", "beginning", "-e", "-q"]].concat(), "");
    assert_eq!(got.lines().count(), 2, "{got}");
    kafka.assert_hidden();
}

#[test]
fn one_port_leads_to_each_broker_by_its_name() {
    let Some(kafka) = Kafka::start(3) else { return };
    let folder = Folder::new("kafka-names");
    folder.issue("server", "*.kafka.test");
    let mecha =
        Mecha::configured(&listener(&folder, &kafka.target(), "{ ports: sni, host: \"b$(id).kafka.test\" }"));
    let names = ["any.kafka.test", "b1.kafka.test", "b2.kafka.test", "b3.kafka.test"];
    let (servers, trust) = (format!("any.kafka.test:{}", mecha.port), trust(&folder));
    let create = ["--bootstrap-server", &servers, "--create", "--topic", "named", "--partitions", "6"];
    tool_where(&names, "TopicCommand", &[&create[..], &["--command-config", &trust]].concat());
    // The tool does not try again: a broker that is not the leader would cost a record.
    let args = ["--bootstrap-server", &servers, "--topic", "named", "--max-messages", "600", "--acks", "-1"];
    let text =
        tool_where(&names, "VerifiableProducer", &[&args[..], &["--producer.config", &trust]].concat());
    let sent = text.lines().find(|line| line.contains("tool_data")).unwrap();
    assert_eq!(field(sent, "acked"), Some("600"), "{sent}");
    kafka.assert_hidden();
}

#[test]
fn the_example_is_fine_once_its_files_are_there() {
    let folder = Folder::new("kafka-example");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kafka-tls.yaml");
    let mut text = std::fs::read_to_string(example).unwrap();
    for name in ["server.pem", "server.key", "ca.pem"] {
        text = text.replace(&format!(" {name}"), &format!(" {}", folder.file(name)));
    }
    let path = folder.file("example.yaml");
    std::fs::write(&path, text).unwrap();
    let check = |password: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mecha"));
        let output = command.args(["check", &path]).env("KAFKA_PASSWORD", password).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = check("not-to-be-seen");
    assert!(said.starts_with("the configuration is fine") && !said.contains("not-to-be-seen"), "{said}");
    assert!(check("").contains("the password is empty"));
}
