//! Batches that Kafka's own client library wrote (`vectors/Batches.java`), and batches that it is to read.

use std::fmt::Write as _;

use mecha_kafka::batch::{Batches, Compression, Header, Writer};

const LIMIT: usize = 1 << 20;

fn vectors() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    include_str!("vectors/batches.txt").lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, hex) = line.split_once(' ').unwrap();
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (name, (0..hex.len()).step_by(2).map(digit).collect())
    })
}

#[test]
fn what_java_wrote_is_read() {
    let mut seen = Vec::new();
    for (name, bytes) in vectors().filter(|(name, _)| *name != "control") {
        let mut batches = Batches::new(&bytes);
        let batch = batches.next().unwrap().unwrap();
        assert!(batches.next().is_none() && batches.rest().is_empty());
        batch.check().unwrap();
        let head = batch.head;
        assert_eq!((head.base_offset, head.leader_epoch, head.count), (1000, 5, 40));
        assert_eq!((head.producer_id, head.producer_epoch, head.base_sequence), (77, 3, 42));
        assert!(head.is_transactional() && !head.is_control() && !head.has_append_time());
        let mut room = Vec::new();
        for (at, record) in batch.records(LIMIT, &mut room).unwrap().enumerate() {
            let record = record.unwrap();
            let at = at as i64;
            let back = if at == 5 { 9000 } else { 0 };
            assert_eq!(record.offset, 1000 + at);
            assert_eq!(record.timestamp, 1_700_000_000_000 + at * 1000 - back);
            let key = (at % 3 != 0).then(|| format!("key-{at}").into_bytes());
            let value = (at % 7 != 0).then(|| "value ".repeat(at as usize * 10).into_bytes());
            assert_eq!((record.key, record.value), (key.as_deref(), value.as_deref()));
            let headers: Vec<_> = record.headers.collect();
            let expected = [
                Header { key: b"same", value: Some(b"first") },
                Header { key: b"same", value: Some(&[0xff, 0]) },
                Header { key: b"none", value: None },
            ];
            assert_eq!(headers, if at % 2 == 0 { &expected[..0] } else { &expected[..] }, "{name} {at}");
        }
        seen.push(head.compression().unwrap());
    }
    assert_eq!(seen, [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]);
}

#[test]
fn how_a_transaction_ended_is_no_record_of_anybody() {
    let (_, bytes) = vectors().find(|(name, _)| *name == "control").unwrap();
    let batch = Batches::new(&bytes).next().unwrap().unwrap();
    batch.check().unwrap();
    assert!(batch.head.is_control() && batch.head.is_transactional());
    assert_eq!(batch.head.compression(), Some(Compression::None));
    let mut room = Vec::new();
    let record = batch.records(LIMIT, &mut room).unwrap().next().unwrap().unwrap();
    // Version 0, and 1 for a commit.
    assert_eq!(record.key, Some(&[0, 0, 0, 1][..]));
}

#[test]
fn records_with_a_header_more_are_otherwise_the_same() {
    let (mut writer, mut text) = (Writer::new(), String::new());
    let more = [Header { key: b"traceparent", value: Some(b"00-1") }];
    for (name, bytes) in vectors().filter(|(name, _)| *name != "control") {
        let batch = Batches::new(&bytes).next().unwrap().unwrap();
        let mut compressions = vec![batch.head.compression().unwrap()];
        compressions.extend((name == "gzip").then_some(Compression::None));
        for compression in compressions {
            let (mut room, mut out) = (Vec::new(), Vec::new());
            for record in batch.records(LIMIT, &mut room).unwrap() {
                writer.push(&batch.head, &record.unwrap(), &more);
            }
            let head = batch.head.with_compression(compression);
            writer.finish(&head, &mut out).unwrap();
            let again = Batches::new(&out).next().unwrap().unwrap();
            again.check().unwrap();
            assert_eq!(again.head, head);
            let mut rest = Vec::new();
            for (old, new) in
                batch.records(LIMIT, &mut room).unwrap().zip(again.records(LIMIT, &mut rest).unwrap())
            {
                let (old, new) = (old.unwrap(), new.unwrap());
                assert_eq!((old.offset, old.timestamp), (new.offset, new.timestamp));
                assert_eq!((old.key, old.value), (new.key, new.value));
                assert_eq!(new.headers.collect::<Vec<_>>(), old.headers.chain(more).collect::<Vec<_>>());
            }
            let _ = write!(text, "{compression:?} ");
            for byte in &out {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
    }
    // For Java to read.
    if let Ok(path) = std::env::var("MECHA_BATCHES") {
        std::fs::write(path, text).unwrap();
    }
}
