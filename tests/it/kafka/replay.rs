//! A conversation of Kafka's clients, sent again to the broker and to mecha: the answers are alike but for addresses.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;

use super::{answer, bootstrap, kcat, topic};
use crate::support::{Kafka, Mecha, PATIENCE, tool};

/// APIs that change something, answer with something new each time, or wait.
const LEFT_OUT: [i16; 13] = [0, 8, 11, 12, 13, 14, 19, 22, 26, 55, 68, 71, 72];

/// The requests in what somebody sent.
fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some(length) = bytes.first_chunk().map(|length| u32::from_be_bytes(*length) as usize + 4) {
        let Some((frame, rest)) = bytes.split_at_checked(length) else { break };
        frames.push(frame);
        bytes = rest;
    }
    frames
}

fn number(frame: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([frame[at], frame[at + 1]])
}

/// An answer without what says where brokers are, and what is new each time.
fn plain(frame: &[u8], key: i16, version: i16) -> Vec<u8> {
    const HOST: &[u8] = b"127.0.0.1";
    let mut frame = frame.to_vec();
    let mut at = 0;
    while let Some(found) = frame[at..].windows(HOST.len()).position(|part| part == HOST) {
        at += found + HOST.len();
        if let Some(port) = frame.get_mut(at..at + 4) {
            port.fill(0);
        }
    }
    if key == 1 && version >= 7 {
        // Correlation, tags of the head, throttle time, error.
        let session = 4 + usize::from(version >= 12) + 6;
        frame[session..session + 4].fill(0);
    }
    if key == 18 && version >= 3 {
        // The second tag: how old what the cluster has agreed upon is, which it rewrites all the time.
        const EPOCH: &[u8] = &[1, 8, 0, 0];
        let at = frame.windows(EPOCH.len()).rposition(|part| part == EPOCH).unwrap() + 2;
        frame[at..at + 8].fill(0);
    }
    frame
}

/// Sends these one after another, and returns the answers.
fn answers(port: u16, requests: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = |request: &&[u8]| {
        stream.write_all(request).unwrap();
        answer(&mut stream)
    };
    requests.iter().map(ask).collect()
}

#[test]
fn what_clients_said_is_answered_alike_direct_and_through_mecha() {
    let Some(kafka) = Kafka::start(1) else { return };
    let mecha = Mecha::start("kafka", &kafka.target());
    topic(&mecha, "said", 3);
    let lines: String = (0..300).map(|at| format!("key-{at}:{at}\n")).collect();
    kcat(&mecha, &["-P", "-t", "said", "-K", ":", "-z", "lz4"], &lines);
    let servers = bootstrap(&mecha);
    let at = ["--bootstrap-server", &servers];
    let read = ["--topic", "said", "--group-id", "sayers", "--max-messages", "300"];
    tool("VerifiableConsumer", &[&at[..], &read, &["--reset-policy", "earliest"]].concat());

    kafka.record();
    kcat(&mecha, &["-C", "-t", "said", "-o", "beginning", "-e", "-q"], "");
    kcat(&mecha, &["-L"], "");
    tool("TopicCommand", &[&at[..], &["--describe"]].concat());
    tool("GetOffsetShell", &[&at[..], &["--topic", "said"]].concat());
    tool("consumer.group.ConsumerGroupCommand", &[&at[..], &["--describe", "--group", "sayers"]].concat());
    tool(
        "MetadataQuorumCommand",
        &[&["--bootstrap-server", &servers][..], &["describe", "--status"]].concat(),
    );
    let recorded = kafka.recorded();

    let (mut compared, mut unlike) = (BTreeMap::<i16, usize>::new(), Vec::new());
    for said in &recorded {
        let mut requests = frames(said);
        requests.retain(|frame| !LEFT_OUT.contains(&number(frame, 4)));
        let (direct, through) = (answers(kafka.ports()[0], &requests), answers(mecha.port, &requests));
        for ((request, direct), through) in requests.iter().zip(&direct).zip(&through) {
            let (key, version) = (number(request, 4), number(request, 6));
            *compared.entry(key).or_default() += 1;
            if plain(direct, key, version) != plain(through, key, version) {
                unlike.push(format!("API {key} version {version}:\n{direct:02x?}\n{through:02x?}"));
            }
        }
    }
    // Fetch, ListOffsets, Metadata, OffsetFetch, FindCoordinator, ApiVersions and DescribeCluster at least.
    let keys: Vec<_> = compared.keys().copied().collect();
    for key in [1, 2, 3, 9, 10, 18, 60] {
        assert!(compared.contains_key(&key), "nobody has said API {key}: {keys:?}");
    }
    assert!(unlike.is_empty(), "{} of {compared:?} differ:\n{}", unlike.len(), unlike.join("\n"));
    kafka.assert_hidden();
}
