//! Figures that need to know what Kafka's answers say.

use super::{bootstrap, connect, field, kcat, producer, records, request, topic};
use crate::support::{Kafka, Mecha, eventually, kafka, tool};

fn started(kafka: &Kafka, is_single: bool) -> Mecha {
    let brokers = if is_single { "{ ports: none }" } else { "{ host: 127.0.0.1 }" };
    Mecha::configured(&format!(
        "listeners:\n- listen: \"kafka://127.0.0.1:0\"\n  to: \"{}\"\n  brokers: {brokers}\nworkers: 2\n",
        kafka.target()
    ))
}

#[test]
fn requests_are_counted_by_version_and_error_and_connections_by_broker() {
    let Some(kafka) = kafka() else { return };
    for is_single in [false, true] {
        let mecha = started(kafka, is_single);
        let name = format!("figures-{is_single}");
        topic(&mecha, &name, 1);
        let count = |api: &str, error: &str| {
            let text = mecha.get("/metrics");
            let rows = text.lines().filter(|line| line.starts_with("mecha_kafka_requests_total{"));
            let rows = rows.filter(|line| {
                line.contains(&format!("api=\"{api}\"")) && line.contains(&format!("error=\"{error}\""))
            });
            rows.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
        };
        producer(&mecha, &name, 400, 100_000).printed();
        let of = |broker: &str| {
            mecha.metric(&format!("mecha_kafka_broker_connections{{listener=\"kafka\",broker=\"{broker}\"}}"))
        };
        let list = kcat(&mecha, &["-L"], "");
        let (_, port) = list.split_once("broker 1 at 127.0.0.1:").unwrap();
        let port = port.split(|char: char| !char.is_ascii_digit()).next().unwrap();
        let held = std::net::TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
        eventually("a connection is not counted", || of("1") >= 1.0);
        drop(held);
        assert_eq!(records(&mecha, &name)[&0].len(), 400);
        assert!(count("Produce", "NONE") >= 1.0 && count("Fetch", "NONE") >= 1.0);
        // A member of a classic group gets its name by an error (KIP-394).
        let servers = bootstrap(&mecha);
        let args = ["--bootstrap-server", &servers, "--topic", &name, "--group-id", &name];
        let more = ["--group-protocol", "classic", "--max-messages", "1", "--reset-policy", "earliest"];
        tool("VerifiableConsumer", &[&args[..], &more].concat());
        assert!(count("JoinGroup", "MEMBER_ID_REQUIRED") >= 1.0);
        let failed = "mecha_calls_total{listener=\"kafka\",protocol=\"kafka\",command=\"JoinGroup\",outcome=\"client_error\"}";
        assert!(mecha.metric(failed) >= 1.0);
        // Nobody's offsets, in the oldest version that there is.
        let mut stream = connect(&mecha);
        let unknown = [
            &(-1i32).to_be_bytes()[..],
            &[0, 0, 0, 1, 0, 7],
            b"nowhere",
            &[0, 0, 0, 1, 0, 0, 0, 9],
            &[0xff; 8],
        ];
        std::io::Write::write_all(&mut stream, &request(2, 1, 7, &unknown.concat())).unwrap();
        super::answer(&mut stream);
        let line = "mecha_kafka_requests_total{listener=\"kafka\",api=\"ListOffsets\",version=\"1\",error=\"UNKNOWN_TOPIC_OR_PARTITION\"}";
        eventually("it is not counted", || mecha.metric(line) == 1.0);
        drop(stream);
        mecha.settles();
        eventually("a broker's connection is counted on", || of("1") + of("any") == 0.0);
    }
    kafka.assert_hidden();
}

#[test]
fn how_far_groups_are_behind_is_known_from_what_they_commit() {
    let Some(kafka) = kafka() else { return };
    for (is_single, protocol) in
        [(false, "classic"), (false, "consumer"), (true, "classic"), (true, "consumer")]
    {
        let mecha = started(kafka, is_single);
        let name = format!("lag-{protocol}-{is_single}");
        topic(&mecha, &name, 1);
        let lines: String = (0..1000).map(|at| format!("{at}\n")).collect();
        kcat(&mecha, &["-P", "-t", &name], &lines);
        let servers = bootstrap(&mecha);
        let args = ["--bootstrap-server", &servers, "--topic", &name, "--group-id", &name];
        let more = ["--group-protocol", protocol, "--max-messages", "400", "--reset-policy", "earliest"];
        let text = tool("VerifiableConsumer", &[&args[..], &more].concat());
        let committed = text.lines().rfind(|line| line.contains("\"name\":\"offsets_committed\"")).unwrap();
        let offset: f64 = field(committed, "offset").unwrap().parse().unwrap();
        assert_eq!(offset, 400.0, "{text}");
        let line = format!("mecha_kafka_group_lag{{listener=\"kafka\",group=\"{name}\",topic=\"{name}\"}}");
        eventually("the group is somewhere else", || mecha.metric(&line) == 600.0);
        // Whoever reads on tells how long the topic has become.
        kcat(&mecha, &["-P", "-t", &name], &lines);
        records(&mecha, &name);
        eventually("the topic has another length", || mecha.metric(&line) == 1600.0);
    }
    kafka.assert_hidden();
}
