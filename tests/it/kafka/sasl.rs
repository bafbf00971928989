//! Who clients are to brokers, and who mecha is.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use super::{acknowledged, assert_exact, bootstrap, field, kcat, records, topic};
use crate::support::{Kafka, Mecha, Tool, secured, tool};

/// An unsigned token, which says that it is for `admin` until the year 2100.
const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiIsImlhdCI6MTYwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.";

/// A file that is there as long as the test.
pub(super) struct File(std::path::PathBuf);

impl File {
    pub(super) fn with(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mecha-it-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A mecha that logs in by itself.
fn logging_in(kafka: &Kafka, auth: &str) -> Mecha {
    Mecha::configured(&format!(
        "listeners:\n- {{ listen: \"kafka://127.0.0.1:0\", to: brokers }}\n\
         clusters:\n  brokers: {{ to: \"{}\", refresh: 1h, auth: {{ {auth} }} }}\nworkers: 2\n",
        kafka.target()
    ))
}

/// What a client says about itself.
fn words(mechanism: &str, password: &str) -> Vec<String> {
    let user = ["security.protocol=sasl_plaintext".to_string(), format!("sasl.mechanism={mechanism}")];
    let more = ["sasl.username=alice".to_string(), format!("sasl.password={password}")];
    user.into_iter().chain(more).flat_map(|word| ["-X".to_string(), word]).collect()
}

/// As `kcat`, in the name of `alice`.
fn kcat_as(mecha: &Mecha, mechanism: &str, args: &[&str], input: &str) -> String {
    let words = words(mechanism, "alice-secret");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    kcat(mecha, &[&words[..], args].concat(), input)
}

/// What kcat says when it is not let in. It must fail.
#[track_caller]
pub(super) fn turned_away(mecha: &Mecha, words: &[String]) -> String {
    let mut command = Command::new("kcat");
    command.args(["-b", &bootstrap(mecha), "-L", "-m", "10"]).args(words);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn mecha_logs_in_by_every_mechanism_for_clients_that_do_not() {
    let Some(kafka) = secured() else { return };
    let (token, password) = (File::with("token", TOKEN), File::with("password", "admin-secret\n"));
    for (at, auth) in [
        format!("mechanism: OAUTHBEARER, password_file: {}", token.path()),
        format!("mechanism: PLAIN, username: admin, password_file: {}", password.path()),
        format!("mechanism: SCRAM-SHA-256, username: admin, password_file: {}", password.path()),
        "mechanism: SCRAM-SHA-512, username: admin, password: admin-secret".to_string(),
    ]
    .iter()
    .enumerate()
    {
        let mecha = logging_in(kafka, auth);
        let name = format!("logged-in-{at}");
        kcat(&mecha, &["-P", "-t", &name], "1\n2\n3\n");
        let all: BTreeSet<u64> = records(&mecha, &name).into_values().flatten().collect();
        assert_eq!(all, (1..=3).collect(), "{auth}");
        let pages = ["/config", "/metrics", "/clusters"].map(|page| mecha.get(page)).concat();
        assert!(!pages.contains("admin-secret") && !pages.contains(TOKEN), "{pages}");
    }
    kafka.assert_hidden();
}

#[test]
fn a_login_of_mecha_is_renewed_under_load_on_the_same_connection() {
    let Some(kafka) = secured() else { return };
    let mecha = logging_in(kafka, "mechanism: SCRAM-SHA-256, username: admin, password: admin-secret");
    topic(&mecha, "renewed", 1);
    let servers = bootstrap(&mecha);
    let args = ["--bootstrap-server", &servers, "--topic", "renewed", "--max-messages", "1000"];
    let producing =
        Tool::start("VerifiableProducer", &[&args[..], &["--throughput", "100", "--acks", "-1"]].concat());
    // The tool does not try again: a connection that ends costs a record.
    let acknowledged = acknowledged(&producing.printed());
    assert_eq!(acknowledged.len(), 1000);
    assert_exact(&acknowledged, &records(&mecha, "renewed"));
    kafka.assert_hidden();
}

#[test]
fn brokers_that_do_not_believe_mecha_are_not_reached() {
    let Some(kafka) = secured() else { return };
    for auth in [
        "mechanism: PLAIN, username: admin, password: guessed-secret",
        "mechanism: SCRAM-SHA-512, username: admin, password: guessed-secret",
        "mechanism: OAUTHBEARER, password: guessed-secret",
    ] {
        let mecha = logging_in(kafka, auth);
        turned_away(&mecha, &[]);
        assert!(mecha.metric("mecha_calls_total{listener=\"kafka\",protocol=\"kafka\",command=\"connect\",outcome=\"refused\"}") > 0.0, "{}", mecha.get("/metrics"));
    }
}

#[test]
fn clients_log_in_at_brokers_through_mecha() {
    let Some(kafka) = secured() else { return };
    let mecha = Mecha::start("kafka", &kafka.target());
    // SCRAM of librdkafka 2.0 does not get along with Kafka 4.3, with or without mecha; Java's does, below.
    kcat_as(&mecha, "PLAIN", &["-P", "-t", "through"], "1\n2\n");
    let got = kcat_as(&mecha, "PLAIN", &["-C", "-t", "through", "-o", "beginning", "-e", "-q"], "");
    assert_eq!(got.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["1", "2"]));
    // In the broker's words, and not with a closed connection.
    let said = turned_away(&mecha, &words("PLAIN", "guessed"));
    assert!(said.contains("uthentication failed"), "{said}");
    kafka.assert_hidden();
}

#[test]
fn javas_client_logs_in_anew_through_mecha_while_it_produces() {
    let Some(kafka) = secured() else { return };
    let mecha = Mecha::start("kafka", &kafka.target());
    let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
    let config = File::with(
        "alice.properties",
        &format!(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\n\
             sasl.jaas.config={module} required username=\"alice\" password=\"alice-secret\";\n"
        ),
    );
    let servers = bootstrap(&mecha);
    let create = ["--bootstrap-server", &servers, "--create", "--topic", "anew", "--partitions", "2"];
    tool("TopicCommand", &[&create[..], &["--command-config", config.path()]].concat());
    let args = ["--bootstrap-server", &servers, "--topic", "anew", "--max-messages", "1000"];
    let more = ["--throughput", "100", "--acks", "-1", "--producer.config", config.path()];
    let text = tool("VerifiableProducer", &[&args[..], &more].concat());
    let sent = text.lines().find(|line| line.contains("tool_data")).unwrap();
    assert_eq!(field(sent, "acked"), Some("1000"), "{sent}");
    let renewed =
        "mecha_calls_total{listener=\"kafka\",protocol=\"kafka\",command=\"SaslHandshake\",outcome=\"ok\"}";
    assert!(mecha.metric(renewed) > 4.0, "{}", mecha.get("/metrics"));
    kafka.assert_hidden();
}

/// A mecha that knows `alice` itself, before brokers that know mecha.
fn with_users(kafka: &Kafka, password: &File) -> Mecha {
    with_users_and(kafka, password, "")
}

/// As [`with_users`], with more keys on the listener.
fn with_users_and(kafka: &Kafka, password: &File, more: &str) -> Mecha {
    Mecha::configured(&format!(
        "listeners:\n- {{ listen: \"kafka://127.0.0.1:0\", to: brokers{more} }}\n\
         clusters:\n  brokers:\n    to: \"{}\"\n    \
         auth: {{ mechanism: SCRAM-SHA-256, username: admin, password: admin-secret }}\n\
         users: {{ alice: {{ rules: \"~* +@all\", password_file: {} }} }}\nworkers: 2\n",
        kafka.target(),
        password.path()
    ))
}

#[test]
fn mecha_lets_in_whom_it_knows_and_tells_others_so() {
    let Some(kafka) = secured() else { return };
    let password = File::with("alice", "only-mecha-knows\n");
    let mecha = with_users(kafka, &password);
    let known = words("PLAIN", "only-mecha-knows");
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    kcat(&mecha, &[&known[..], &["-P", "-t", "known"]].concat(), "1\n2\n");
    let got = kcat(&mecha, &[&known[..], &["-C", "-t", "known", "-o", "beginning", "-e", "-q"]].concat(), "");
    assert_eq!(got.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["1", "2"]));
    // What the brokers know is not what mecha knows.
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        let said = turned_away(&mecha, &words(mechanism, "alice-secret"));
        assert!(said.contains("nobody is known by what was shown"), "{said}");
    }
    // Without a login nobody is led anywhere.
    turned_away(&mecha, &[]);
    let logins =
        |result: &str| mecha.metric(&format!("mecha_logins_total{{listener=\"kafka\",result=\"{result}\"}}"));
    assert!(logins("ok") >= 2.0 && logins("failed") >= 2.0, "{}", mecha.get("/metrics"));
    let pages = ["/config", "/metrics", "/clusters", "/connections"].map(|page| mecha.get(page)).concat();
    assert!(!pages.contains("only-mecha-knows") && !pages.contains("admin-secret"), "{pages}");
    kafka.assert_hidden();
}

#[test]
fn a_user_that_has_logged_in_has_names_of_its_own() {
    let Some(kafka) = secured() else { return };
    let password = File::with("alice-names", "only-mecha-knows\n");
    let outside = logging_in(kafka, "mechanism: PLAIN, username: admin, password: admin-secret");
    let known = words("PLAIN", "only-mecha-knows");
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    for brokers in ["{ host: 127.0.0.1 }", "{ ports: none }"] {
        let more = format!(", brokers: {brokers}, filters: [ topic_prefix: {{ prefix: '$(user).' }} ]");
        let mecha = with_users_and(kafka, &password, &more);
        kcat(&mecha, &[&known[..], &["-P", "-t", "mine"]].concat(), "1\n");
        let list = kcat(&mecha, &[&known[..], &["-L"]].concat(), "");
        assert!(list.contains("topic \"mine\"") && !list.contains("alice"), "{list}");
    }
    let list = kcat(&outside, &["-L"], "");
    assert!(list.contains("topic \"alice.mine\"") && !list.contains("topic \"mine\""), "{list}");
    let got = kcat(&outside, &["-C", "-t", "alice.mine", "-o", "beginning", "-e", "-q"], "");
    assert_eq!(got, "1\n1\n");
    kafka.assert_hidden();
}

#[test]
fn javas_client_logs_in_at_mecha_and_produces() {
    let Some(kafka) = secured() else { return };
    let password = File::with("alice-java", "only-mecha-knows\n");
    let mecha = with_users(kafka, &password);
    let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
    let words = format!("{module} required username=\"alice\" password=\"only-mecha-knows\"");
    let config = File::with(
        "at-mecha.properties",
        &format!(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config={words};\n"
        ),
    );
    let servers = bootstrap(&mecha);
    let create = ["--bootstrap-server", &servers, "--create", "--topic", "at-mecha", "--partitions", "2"];
    tool("TopicCommand", &[&create[..], &["--command-config", config.path()]].concat());
    let args = ["--bootstrap-server", &servers, "--topic", "at-mecha", "--max-messages", "300"];
    let more = ["--acks", "-1", "--producer.config", config.path()];
    let text = tool("VerifiableProducer", &[&args[..], &more].concat());
    let sent = text.lines().find(|line| line.contains("tool_data")).unwrap();
    assert_eq!(field(sent, "acked"), Some("300"), "{sent}");
    kafka.assert_hidden();
}
