use proptest::prelude::*;

use super::records::put_varint;
use super::{BatchError, Batches, Compression, Head, Header, Record, Records, Writer};

const ALL: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

type Owned = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// A batch of records whose headers are all given to the writer as further ones.
fn write(head: &Head, records: &[Owned]) -> Vec<u8> {
    let (mut writer, mut out) = (Writer::new(), Vec::new());
    for (at, (key, value, headers)) in records.iter().enumerate() {
        let headers: Vec<_> =
            headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
        let record = Record {
            offset: head.base_offset + at as i64,
            timestamp: head.base_timestamp - at as i64 * 1000,
            attributes: 0,
            key: key.as_deref(),
            value: value.as_deref(),
            headers: super::Headers::default(),
        };
        writer.push(head, &record, &headers);
    }
    writer.finish(head, &mut out).unwrap();
    out
}

fn read(bytes: &[u8], limit: usize) -> Result<Vec<Owned>, BatchError> {
    let mut all = Vec::new();
    for batch in Batches::new(bytes) {
        let batch = batch?;
        batch.check()?;
        let mut room = Vec::new();
        for record in batch.records(limit, &mut room)? {
            let record = record?;
            let headers = record.headers.map(|one| (one.key.to_vec(), one.value.map(<[u8]>::to_vec)));
            all.push((record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), headers.collect()));
        }
    }
    Ok(all)
}

fn head() -> Head {
    Head { base_offset: 5, base_timestamp: 1_700_000_000_000, producer_id: -1, ..Head::default() }
}

#[test]
fn bytes_that_inflate_beyond_the_bound_are_refused() {
    let records = [(None, Some(vec![b'x'; 1 << 20]), vec![])];
    for compression in ALL.into_iter().skip(1) {
        let bytes = write(&head().with_compression(compression), &records);
        assert!(bytes.len() < 200_000, "{compression:?}: {}", bytes.len());
        assert_eq!(read(&bytes, 1 << 20), Err(BatchError::TooLarge), "{compression:?}");
        assert_eq!(read(&bytes, (1 << 20) + 100).unwrap(), records, "{compression:?}");
    }
}

#[test]
fn what_snappy_claims_is_not_reserved() {
    // A raw block that says it is 4 GiB large, and one that its bytes cannot make.
    for claim in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0x80, 0x80, 0x40]] {
        let mut out = Vec::new();
        let done = super::compression::inflate(Compression::Snappy, claim, usize::MAX, &mut out);
        assert!(done.is_err() && out.capacity() == 0);
    }
}

#[test]
fn the_end_of_a_fetch_may_cut_a_batch() {
    let mut bytes = write(&head(), &[(None, None, vec![])]);
    let second = bytes.clone();
    for cut in 0..second.len() {
        bytes.truncate(second.len());
        bytes.extend_from_slice(&second[..cut]);
        let mut batches = Batches::new(&bytes);
        assert!(batches.next().unwrap().is_ok());
        assert_eq!(batches.next(), None);
        assert_eq!(batches.rest().len(), cut);
    }
}

#[test]
fn old_formats_and_changed_bytes_are_refused() {
    let good = write(&head(), &[(Some(b"k".to_vec()), None, vec![])]);
    let mut old = good.clone();
    old[16] = 1;
    assert_eq!(read(&old, 100), Err(BatchError::Magic { magic: 1 }));
    for at in super::BEFORE_CRC - 4..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 4;
        assert_eq!(read(&changed, 100), Err(BatchError::Crc), "byte {at}");
    }
    let mut short = good;
    short[8..12].copy_from_slice(&3i32.to_be_bytes());
    assert_eq!(read(&short, 100), Err(BatchError::Malformed));
}

#[test]
fn records_that_are_not_what_they_say_are_refused() {
    let record = |fields: &[i64]| {
        let mut record = vec![0];
        fields.iter().for_each(|field| put_varint(*field, &mut record));
        let mut out = Vec::new();
        put_varint(record.len() as i64, &mut out);
        out.extend_from_slice(&record);
        out
    };
    let read = |count: i32, bytes: &[u8]| {
        Records::new(Head { count, ..head() }, bytes).map(|one| one.is_ok()).collect::<Vec<_>>()
    };
    // Time, offset, key, value, headers.
    assert_eq!(read(1, &record(&[0, 0, -1, -1, 0])), [true]);
    assert_eq!(read(2, &record(&[0, 0, -1, -1, 0])), [true, false]);
    assert_eq!(read(0, &record(&[0, 0, -1, -1, 0])), [false]);
    assert_eq!(read(-1, &[]), [false]);
    for fields in [
        [0, 0, -2, -1, 0],
        [0, 0, 5, -1, 0],
        [0, 0, -1, i64::MAX, 0],
        [0, 0, -1, -1, -1],
        [0, 0, -1, -1, 1],
        [0, 0, -1, -1, i64::from(i32::MAX)],
        [0, i64::MAX, -1, -1, 0],
    ] {
        assert_eq!(read(1, &record(&fields)), [false], "{fields:?}");
    }
    // A header without a key, bytes behind the last header, and a varint without an end.
    assert_eq!(read(1, &record(&[0, 0, -1, -1, 1, -1, -1])), [false]);
    assert_eq!(read(1, &record(&[0, 0, -1, -1, 0, 0])), [false]);
    assert_eq!(read(1, &[0xff; 20]), [false]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_are_read_as_they_were_written(
        records in prop::collection::vec((
            prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            prop::option::of(prop::collection::vec(0..4u8, 0..300)),
            prop::collection::vec((
                // Few keys, so that they occur again, and no UTF-8.
                prop::collection::vec(0xfe..=0xffu8, 0..2),
                prop::option::of(prop::collection::vec(any::<u8>(), 0..5)),
            ), 0..4),
        ), 1..20),
        which in 0..5usize,
    ) {
        let head = head().with_compression(ALL[which]);
        let bytes = write(&head, &records);
        prop_assert_eq!(read(&bytes, 1 << 20), Ok(records));
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 61..300), compression in 0..6u8) {
        let length = bytes.len() as i32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        bytes[22] = compression;
        let batch = Batches::new(&bytes).next().unwrap().unwrap();
        let mut room = Vec::new();
        if let Ok(records) = batch.records(1 << 16, &mut room) {
            let headers: usize = records.flatten().map(|record| record.headers.count()).sum();
            prop_assert!(headers < bytes.len() << 16);
        }
        assert!(room.capacity() <= 1 << 18);
    }
}
