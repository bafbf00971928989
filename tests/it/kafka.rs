//! Kafka's own clients and brokers, and mecha between them.

mod audit;
mod faults;
mod figures;
mod filters;
mod idle;
mod large;
mod oauth;
mod quota;
mod rename;
mod replay;
mod sasl;
mod shares;
mod single;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::{Kafka, Mecha, PATIENCE, Tool, eventually, free_port, kafka, tool};

/// Answered requests to produce.
const PRODUCED: &str =
    "mecha_calls_total{listener=\"kafka\",protocol=\"kafka\",command=\"Produce\",outcome=\"ok\"}";

/// mecha before the broker that tests share.
fn door() -> Option<(&'static Kafka, Mecha)> {
    let kafka = kafka()?;
    Some((kafka, Mecha::start("kafka", &kafka.target())))
}

fn bootstrap(mecha: &Mecha) -> String {
    format!("127.0.0.1:{}", mecha.port)
}

/// What kcat prints; it must succeed.
#[track_caller]
fn kcat(mecha: &Mecha, args: &[&str], input: &str) -> String {
    let mut child = Command::new("kcat")
        .args(["-b", &bootstrap(mecha), "-X", "socket.timeout.ms=20000"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "kcat {args:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A topic that no other test has, made through mecha.
fn topic(mecha: &Mecha, name: &str, partitions: usize) {
    let (servers, partitions) = (bootstrap(mecha), partitions.to_string());
    let args = ["--bootstrap-server", &servers, "--create", "--topic", name, "--partitions", &partitions];
    tool("TopicCommand", &args);
}

/// A field of a line of JSON as Kafka's tools print it.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
    rest.trim_start_matches('"').split(['"', ',', '}']).next()
}

/// The numbers that a producer knows to be written.
fn acknowledged(printed: &str) -> BTreeSet<u64> {
    let lines = printed.lines().filter(|line| line.contains("producer_send_success"));
    lines.map(|line| field(line, "value").unwrap().parse().unwrap()).collect()
}

/// What is in a topic: for each partition its records in order.
fn records(mecha: &Mecha, topic: &str) -> BTreeMap<u32, Vec<u64>> {
    let text = kcat(mecha, &["-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%p %s\n"], "");
    let mut partitions = BTreeMap::<u32, Vec<u64>>::new();
    for line in text.lines() {
        let (partition, value) = line.split_once(' ').unwrap();
        partitions.entry(partition.parse().unwrap()).or_default().push(value.parse().unwrap());
    }
    partitions
}

/// Everything that was acknowledged is there, once, and in order.
#[track_caller]
fn assert_exact(acknowledged: &BTreeSet<u64>, records: &BTreeMap<u32, Vec<u64>>) {
    let all: Vec<u64> = records.values().flatten().copied().collect();
    let distinct: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(all.len(), distinct.len(), "something is there twice");
    let lost: Vec<_> = acknowledged.difference(&distinct).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    for (partition, records) in records {
        assert!(records.is_sorted(), "partition {partition} is out of order: {records:?}");
    }
}

/// An idempotent producer with acks=all that tries again, so many records long at so many a second.
fn producer(mecha: &Mecha, topic: &str, count: u32, per_second: u32) -> Tool {
    let path = std::env::temp_dir().join(format!("mecha-it-{}-{topic}.properties", std::process::id()));
    // The tool's own default is not to try again.
    std::fs::write(&path, "enable.idempotence=true\nretries=2147483647\n").unwrap();
    let (servers, count, per_second) = (bootstrap(mecha), count.to_string(), per_second.to_string());
    let args = ["--bootstrap-server", &servers, "--topic", topic, "--max-messages", &count];
    let more = ["--throughput", &per_second, "--acks", "-1", "--producer.config", path.to_str().unwrap()];
    Tool::start("VerifiableProducer", &[&args[..], &more].concat())
}

/// Waits until so many more requests to produce were answered: the producer is a JVM that starts on a busy machine.
#[track_caller]
fn produces(mecha: &Mecha, count: f64) {
    let (start, before) = (Instant::now(), mecha.metric(PRODUCED));
    while mecha.metric(PRODUCED) < before + count {
        assert!(start.elapsed() < 6 * PATIENCE, "nothing is produced");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn kcat_is_told_nothing_but_ports_of_mecha() {
    let Some((kafka, mecha)) = door() else { return };
    let list = kcat(&mecha, &["-L"], "");
    for port in kafka.advertised() {
        assert!(!list.contains(&format!(":{port}")), "{list}");
    }
    assert!(list.contains("broker 1 at 127.0.0.1:"), "{list}");
    kafka.assert_hidden();
}

#[test]
fn what_kcat_produces_it_consumes_whatever_the_compression() {
    let Some((kafka, mecha)) = door() else { return };
    topic(&mecha, "kcat", 1);
    let mut expected = String::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: String = (0..200).map(|at| format!("key-{at}:{codec} {at}\n")).collect();
        // A name that comes twice, as some tracers write it.
        kcat(&mecha, &["-P", "-t", "kcat", "-K", ":", "-z", codec, "-H", "h=1", "-H", "h=2"], &lines);
        expected += &lines.replace('\n', " h=1,h=2\n");
    }
    // Deletions: a key without a value.
    kcat(&mecha, &["-P", "-t", "kcat", "-K", ":", "-Z"], "gone:\n");
    expected += "gone: \n";
    let args = ["-C", "-t", "kcat", "-o", "beginning", "-e", "-q", "-f", "%k:%s %h\n"];
    let got = kcat(&mecha, &args, "");
    assert!(got == expected, "{got}");
    let lengths = kcat(&mecha, &["-C", "-t", "kcat", "-o", "-1", "-e", "-q", "-f", "%K %S\n"], "");
    assert_eq!(lengths, "4 -1\n");
    kafka.assert_hidden();
    let produced =
        "mecha_calls_total{listener=\"kafka\",protocol=\"kafka\",command=\"Produce\",outcome=\"ok\"}";
    assert!(mecha.metric(produced) >= 6.0, "{}", mecha.get("/metrics"));
    mecha.settles();
    eventually("a broker's connection is leaked", || mecha.metric("mecha_upstream_connections{") == 0.0);
}

#[test]
fn what_is_produced_without_acknowledgement_arrives_in_order() {
    let Some((kafka, mecha)) = door() else { return };
    topic(&mecha, "acks-0", 2);
    let lines: String = (0..500).map(|at| format!("{at}\n")).collect();
    let args = ["-P", "-t", "acks-0", "-X", "acks=0", "-X", "linger.ms=1", "-X", "batch.num.messages=7"];
    kcat(&mecha, &args, &lines);
    let is_there = || records(&mecha, "acks-0").values().map(Vec::len).sum::<usize>() == 500;
    eventually("records are lost", is_there);
    assert_exact(&(0..500).collect(), &records(&mecha, "acks-0"));
    kafka.assert_hidden();
}

#[test]
fn a_request_without_an_answer_leaves_other_answers_in_order() {
    let Some((_, mecha)) = door() else { return };
    let mut stream = connect(&mecha);
    // Nobody's transaction, no acknowledgement, a second's time, no topics.
    let produce = [&(-1i16).to_be_bytes()[..], &[0, 0], &1000i32.to_be_bytes(), &[0; 4]].concat();
    for at in 0..20 {
        let pair = [request(0, 3, at, &produce), request(3, 1, at + 100, &[0; 4])].concat();
        stream.write_all(&pair).unwrap();
    }
    for at in 0..20i32 {
        assert_eq!(answer(&mut stream)[..4], (at + 100).to_be_bytes());
    }
}

#[test]
fn groups_of_both_kinds_read_what_an_idempotent_producer_wrote() {
    let Some((kafka, mecha)) = door() else { return };
    topic(&mecha, "groups", 3);
    let acknowledged = acknowledged(&producer(&mecha, "groups", 1000, 100_000).printed());
    assert_eq!(acknowledged.len(), 1000);
    assert_exact(&acknowledged, &records(&mecha, "groups"));
    for protocol in ["classic", "consumer"] {
        let (servers, group) = (bootstrap(&mecha), format!("group-{protocol}"));
        let args = ["--bootstrap-server", &servers, "--topic", "groups", "--group-id", &group];
        let more = ["--group-protocol", protocol, "--max-messages", "1000", "--reset-policy", "earliest"];
        let text = tool("VerifiableConsumer", &[&args[..], &more].concat());
        let consumed = text.lines().filter(|line| line.contains("\"name\":\"records_consumed\""));
        let counts = consumed.map(|line| field(line, "count").unwrap().parse::<u32>().unwrap());
        assert_eq!(counts.sum::<u32>(), 1000, "{protocol}: {text}");
        assert!(text.contains("\"name\":\"offsets_committed\""), "{text}");
    }
    kafka.assert_hidden();
}

#[test]
fn a_transaction_is_read_when_it_is_committed() {
    let Some((kafka, mecha)) = door() else { return };
    topic(&mecha, "tx", 2);
    let config = format!("bootstrap.servers={}", bootstrap(&mecha));
    let args = ["--topic", "tx", "--num-records", "2000", "--record-size", "100", "--throughput", "-1"];
    let more = ["--transactional-id", "tx-1", "--transaction-duration-ms", "50", "--producer-props", &config];
    tool("ProducerPerformance", &[&args[..], &more].concat());
    let args = ["-C", "-t", "tx", "-o", "beginning", "-e", "-q", "-X", "isolation.level=read_committed"];
    let text = kcat(&mecha, &[&args[..], &["-f", "%S\n"]].concat(), "");
    assert_eq!(text.lines().filter(|line| *line == "100").count(), 2000);
    kafka.assert_hidden();
}

/// A request as it is on the wire.
fn request(key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from((body.len() as i32 + 10).to_be_bytes());
    bytes.extend([key.to_be_bytes(), version.to_be_bytes()].concat());
    bytes.extend(correlation.to_be_bytes());
    // A client without a name.
    bytes.extend((-1i16).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// The next frame, without its length.
fn answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}

fn connect(mecha: &Mecha) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", mecha.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

#[test]
fn requests_in_pieces_and_in_heaps_are_answered_in_order() {
    let Some((kafka, mecha)) = door() else { return };
    let brokers_alone = 0i32.to_be_bytes();
    let mut stream = connect(&mecha);
    for byte in request(3, 1, 7, &brokers_alone) {
        stream.write_all(&[byte]).unwrap();
    }
    let whole = answer(&mut stream);
    assert_eq!(whole[..8], [0, 0, 0, 7, 0, 0, 0, 1]);
    assert!(whole.windows(9).any(|part| part == b"127.0.0.1"));
    for port in kafka.advertised() {
        assert!(!whole.windows(2).any(|part| part == port.to_be_bytes()), "{whole:?}");
    }
    // More than may wait, at once.
    let mut heap = Vec::new();
    (0..3000).for_each(|at| heap.extend(request(3, 1, at, &brokers_alone)));
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&heap).unwrap());
    for at in 0..3000i32 {
        let frame = answer(&mut stream);
        assert_eq!(frame[..4], at.to_be_bytes());
        assert_eq!(frame[4..], whole[4..]);
    }
    writing.join().unwrap();
}

#[test]
fn what_is_no_kafka_ends_the_connection() {
    let Some((_, mecha)) = door() else { return };
    // TLS, HTTP, a negative length, a Metadata newer than anybody has.
    let newer = request(3, 99, 1, &[]);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/1.1\r\n",
        b"\xff\xff\xff\xff",
        &newer,
    ] {
        let mut stream = connect(&mecha);
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // A reset says the same.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{bytes:?}: {rest:?}");
    }
    mecha.settles();
}

#[test]
fn a_client_that_is_led_nowhere_is_told_why_in_its_own_answers() {
    let nobody = free_port();
    let ask = |mecha: &Mecha| {
        let of_group = request(10, 1, 8, b"\x00\x01g\x00");
        let of_topic = request(3, 1, 9, b"\x00\x00\x00\x01\x00\x01t");
        [of_group, of_topic].map(|request_of| {
            let mut stream = connect(mecha);
            stream.write_all(&request(18, 0, 5, &[])).unwrap();
            assert_eq!(answer(&mut stream)[..6], [0, 0, 0, 5, 0, 0]);
            stream.write_all(&request_of).unwrap();
            let told = answer(&mut stream);
            // It may come again, and then there may be somebody.
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            told
        })
    };
    let mecha = Mecha::start("kafka", &format!("kafka://127.0.0.1:{nobody}"));
    let [group, topic] = ask(&mecha);
    // Correlation, no throttling, COORDINATOR_NOT_AVAILABLE.
    assert_eq!(group[..10], [0, 0, 0, 8, 0, 0, 0, 0, 0, 15]);
    // Correlation, no brokers, no controller; one topic has LEADER_NOT_AVAILABLE.
    assert_eq!(topic[..8], [0, 0, 0, 9, 0, 0, 0, 0]);
    assert_eq!(topic[12..21], [0, 0, 0, 1, 0, 5, 0, 1, b't']);
    // A request to produce that wants no answer has none.
    let mut stream = connect(&mecha);
    let produce = [&(-1i16).to_be_bytes()[..], &[0, 0], &1000i32.to_be_bytes(), &[0; 4]].concat();
    stream.write_all(&request(0, 3, 1, &produce)).unwrap();
    assert!(!stream.read(&mut [0]).is_ok_and(|len| len > 0));

    let limited = Mecha::configured(&format!(
        "listeners:\n- listen: \"kafka://127.0.0.1:0\"\n  to: \"kafka://127.0.0.1:{nobody}\"\n  \
         filters: [ {{ rate_limit: {{ permits: 1, per: 1h }} }} ]\nworkers: 1\n"
    ));
    let _ = ask(&limited);
    let [group, topic] = ask(&limited);
    // THROTTLING_QUOTA_EXCEEDED.
    assert_eq!((group[8..10].to_vec(), topic[16..18].to_vec()), (vec![0, 89], vec![0, 89]));
}

#[test]
fn api_versions_are_no_newer_than_what_is_understood() {
    let Some((_, mecha)) = door() else { return };
    let mut stream = connect(&mecha);
    stream.write_all(&request(18, 0, 5, &[])).unwrap();
    let frame = answer(&mut stream);
    // Correlation, no error, rows of six bytes.
    assert_eq!(frame[..6], [0, 0, 0, 5, 0, 0]);
    let rows: Vec<&[u8]> = frame[10..].chunks(6).collect();
    assert_eq!(rows.len(), i32::from_be_bytes(frame[6..10].try_into().unwrap()) as usize);
    let newest = |key: i16| {
        let row = rows.iter().find(|row| row[..2] == key.to_be_bytes())?;
        Some(i16::from_be_bytes([row[4], row[5]]))
    };
    // A version of the request that nobody has is answered in version 0, with the error.
    // Its header is a flexible one.
    stream.write_all(&request(18, 99, 6, &[0])).unwrap();
    assert_eq!(answer(&mut stream)[..6], [0, 0, 0, 6, 0, 35]);
    assert!(newest(3).is_some_and(|version| version >= 12), "{rows:?}");
    assert!(rows.iter().all(|row| {
        let key = mecha_kafka::table::ApiKey(i16::from_be_bytes([row[0], row[1]]));
        key.versions().has(i16::from_be_bytes([row[4], row[5]]))
    }));
}

#[test]
fn several_virtual_clusters_live_in_one_process() {
    let Some(kafka) = kafka() else { return };
    let to = kafka.target();
    let mecha = Mecha::configured(&format!(
        "listeners:\n\
         - {{ name: one, listen: \"kafka://127.0.0.1:0\", to: \"{to}\" }}\n\
         - {{ name: two, listen: \"kafka://127.0.0.1:0\", to: \"{to}\", brokers: {{ host: localhost }} }}\n\
         workers: 2\n"
    ));
    let list = |port: u16| {
        let servers = format!("127.0.0.1:{port}");
        let output = Command::new("kcat").args(["-b", &servers, "-L"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.contains("broker 1 at")).unwrap_or_else(|| panic!("{text}"));
        line.split_whitespace().nth(3).unwrap().to_string()
    };
    let (one, two) = (list(mecha.ports[0]), list(mecha.ports[1]));
    assert!(one.starts_with("127.0.0.1:") && two.starts_with("localhost:"), "{one} {two}");
    assert_ne!(one.rsplit(':').next(), two.rsplit(':').next());
    kafka.assert_hidden();
}

/// A file for a mecha on this very port; brokers are at the next ones.
fn on(port: u16, to: &str) -> String {
    format!(
        "listeners:\n- {{ listen: \"kafka://127.0.0.1:{port}\", to: \"{to}\", brokers: {{ ports: {}-{} }} }}\n\
         workers: 2\n",
        port + 1,
        port + 3
    )
}

/// A port that is free, and three behind it.
fn free_ports() -> u16 {
    loop {
        let port = free_port();
        if (1..=3).all(|at| std::net::TcpListener::bind(("127.0.0.1", port + at)).is_ok()) {
            return port;
        }
    }
}

#[test]
fn a_port_of_brokers_that_is_taken_is_told_with_what_to_do() {
    let port = free_ports();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port + 2)).unwrap();
    let listen = format!("kafka://127.0.0.1:{port}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mecha"));
    let output =
        command.args(["--listen", &listen, "--to", "kafka://127.0.0.1:1", "--admin", "127.0.0.1:0"]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("brokers: { ports: 9093-9099 }"), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{}, one of the 16 ports", port + 2)), "{said}");
}

#[test]
fn a_drain_and_a_restart_under_load_lose_and_repeat_nothing() {
    let Some(kafka) = kafka() else { return };
    let yaml = on(free_ports(), &kafka.target());
    let mut mecha = Mecha::configured(&yaml);
    topic(&mecha, "drained", 3);
    let producing = producer(&mecha, "drained", 6000, 300);
    for _ in 0..2 {
        produces(&mecha, 10.0);
        let start = Instant::now();
        assert!(mecha.stop());
        // Connections end when they have nothing in flight, and not when the time for it is over.
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        mecha = Mecha::configured(&yaml);
    }
    let acknowledged = acknowledged(&producing.printed());
    assert_eq!(acknowledged.len(), 6000);
    assert_exact(&acknowledged, &records(&mecha, "drained"));
    kafka.assert_hidden();
}

#[test]
fn brokers_that_die_and_come_back_under_load_cost_nothing_acknowledged() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let mecha = Mecha::start("kafka", &kafka.target());
    topic(&mecha, "killed", 6);
    let list = kcat(&mecha, &["-L"], "");
    for id in 1..=3 {
        assert!(list.contains(&format!("broker {id} at 127.0.0.1:")), "{list}");
    }
    let producing = producer(&mecha, "killed", 3000, 200);
    produces(&mecha, 20.0);
    kafka.kill(2);
    produces(&mecha, 20.0);
    kafka.restart(2);
    let acknowledged = acknowledged(&producing.printed());
    assert_eq!(acknowledged.len(), 3000);
    assert_exact(&acknowledged, &records(&mecha, "killed"));
    assert!(kafka.passed() > 3, "{}", kafka.passed());
    kafka.assert_hidden();
}
