//! Kafka: heads in any pieces, bodies of every message, record batches.

#[path = "../../codecs/kafka/tests/support/any.rs"]
mod any;

use any::Any;
use fastrand::Rng;
use mecha_kafka::addresses::{Address, Node, Rewriter, rewrite};
use mecha_kafka::batch::{Batch, Batches, Compression, Header, Record, Writer, compress};
use mecha_kafka::errors::{Code, Reason, codes, refuse};
use mecha_kafka::frame::{Head, Item, RequestHead, ResponseHead, Scanner, Want};
use mecha_kafka::guard;
use mecha_kafka::messages::{
    ApiVersionsRequest, FetchRequest, JoinGroupRequest, MetadataRequest, ProduceRequest,
};
use mecha_kafka::names::{self, Name, Note, is_understood};
use mecha_kafka::pending::{Acks, beginning};
use mecha_kafka::schema::MESSAGES;
use mecha_kafka::table::ApiKey;
use mecha_kafka::tally::{Tally, commits, topics};
use mecha_kafka::throttle::{self, record_bytes};

pub(crate) const FRAMES: &[&str] = &[
    "\0\0\0\u{e}\0\u{12}\0\u{3}\0\0\0\u{1}\0\u{1}c\0ab\0\0\0\u{9}\0\u{3}\0\u{1}\0\0\0\u{2}x",
    "\0\0\0\u{4}\0\0\0\u{1}\0\0\0\u{8}\0\0\0\u{2}\0\0\0\0",
];

/// A message, a version, a seed, and then places with what they are changed to.
pub(crate) const BODIES: &[&str] = &[
    "\0\u{9}1234",
    "\u{1}\u{9}1234",
    "\u{2}\u{c}1234",
    "\u{3}\u{d}12345678",
    "\u{7}\u{9}12\u{10}\u{7f}",
    "\u{d}\u{3}1",
    "\u{f}\u{4}abcd",
    "\u{60}\0ab\u{8}\u{1}",
    "\u{30}\u{2}cc",
];

/// A compression, a count, and records.
pub(crate) const BATCHES: &[&str] = &[
    "\0\u{2}\u{e}\0\0\0\u{1}\u{1}\0\u{e}\0\0\u{2}\u{1}\u{1}\0",
    "\u{1}\u{1}\u{18}\0\0\0\u{2}k\u{4}vv\u{2}\u{2}h\u{1}",
    "\u{2}\u{1}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u{3}\u{1}some text that occurs, some text that occurs",
    "\u{4}\u{1}some text that occurs, some text that occurs",
    "\u{a}\u{1}raw",
    "\u{b}\u{1}\u{4}\"",
    "\u{c}\u{1}raw",
];

/// Heads and bodies of what a scanner tells about bytes in pieces; bodies of every other length are wanted whole.
fn cut<H: Head>(bytes: &[u8], step: usize) -> (Vec<(u32, Vec<u8>)>, bool) {
    let (mut scanner, mut held, mut frames) =
        (Scanner::<H>::new(1 << 20), Vec::new(), Vec::<(u32, Vec<u8>)>::new());
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let Ok((taken, item)) = scanner.next(&held[at..]) else { return (frames, false) };
            let (mut is_more, mut want) = (false, Want::Pass);
            match item {
                Item::Head(head) => {
                    frames.push((head.body(), Vec::new()));
                    want = if head.body() % 2 == 0 { Want::Whole } else { Want::Pass };
                }
                Item::More => is_more = true,
                Item::Piece { len, .. } => {
                    frames.last_mut().expect("a head came first").1.extend_from_slice(&held[at..at + len]);
                }
                Item::Whole(body) => frames.last_mut().expect("a head came first").1.extend_from_slice(body),
            }
            scanner.want(want);
            at += taken;
            if is_more {
                break;
            }
        }
        held.drain(..at);
        assert!(held.len() < H::SIZE);
    }
    // One that is wanted whole is told at its end only.
    frames.retain(|(size, body)| size % 2 == 1 || body.len() == *size as usize);
    (frames, true)
}

pub(crate) fn frames(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else { return };
    let step = usize::from(step).max(1);
    assert_eq!(cut::<RequestHead>(bytes, usize::MAX), cut::<RequestHead>(bytes, step));
    assert_eq!(cut::<ResponseHead>(bytes, usize::MAX), cut::<ResponseHead>(bytes, step));
}

pub(crate) fn body(data: &[u8]) {
    let [step, which, version, seed, changes @ ..] = data else { return };
    let message = &MESSAGES[usize::from(*which) % MESSAGES.len()];
    let versions = message.versions;
    let version = versions.first + i16::from(*version) % (versions.last - versions.first + 1);
    let (random, is_full) = (Rng::with_seed((*seed).into()), seed % 2 == 0);
    let mut body = Any { random, text: "broker", is_full }.body(message, version);
    for change in changes.chunks_exact(2) {
        let at = usize::from(change[0]) % (body.len() + 1);
        if at == body.len() {
            body.truncate(usize::from(change[1]));
        } else {
            body[at] = change[1];
        }
    }
    let key = ApiKey(message.key);
    let is_sound = guard::check(message, version, &body).is_ok();
    let mut map = |_: Node<'_>| Address { host: "mecha.example".into(), port: 7 };
    let mut out = Vec::new();
    let step = usize::from(*step).max(1);
    if is_understood(key, version) {
        // A name that is taken and a name that is not, to be left out.
        let mut rename = |name: Name, text: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(b"t.");
            out.extend_from_slice(text);
            name != Name::Group || text.len().is_multiple_of(2)
        };
        let turn = if message.is_response { names::response } else { names::request };
        if turn(key, version, &body, &mut Note::default(), &mut rename, &mut out).is_ok() {
            guard::check(message, version, &out).expect("other names make it no less sound");
        }
        out.clear();
    }
    if !message.is_response {
        let why = Reason { code: Code::POLICY_VIOLATION, message: Some("no"), throttle_millis: 1 };
        let told = refuse(key, version, &body, why, &mut out);
        assert_eq!(told.is_ok(), is_sound || matches!(told, Ok(false)));
        if let (Ok(true), Some(response)) = (told, key.response()) {
            guard::check(response, version, &out).expect("an answer of our own is sound");
        }
        if key == ApiKey::PRODUCE
            && let Ok(mut acks) = Acks::new(version, body.len() as u32)
        {
            let _ = body.chunks(step).try_for_each(|piece| acks.push(piece).map(|_| ()));
            begins(version, &body, acks);
        }
        let _ = commits(version, &body, &mut |_| {});
        assert!(names::mentioned(key, version, &body, &mut |_| {}).is_ok() || !is_sound);
        let _ = record_bytes(key, version, &body, &mut |_, bytes| assert!(bytes <= body.len()));
        let body = bytes::Bytes::from(body);
        let _ = guard::request::<ProduceRequest>(version, body.clone());
        let _ = guard::request::<MetadataRequest>(version, body.clone());
        let _ = guard::request::<JoinGroupRequest>(version, body);
        return;
    }
    assert!(codes(key, version, &body, &mut |_| {}).is_ok() || !is_sound);
    assert!(rewrite(key, version, &body, &mut map, &mut out).is_ok() || !is_sound);
    tallies(key, version, &body, step);
    let head = ResponseHead { correlation: 0, body: body.len() as u32 };
    if let Ok((mut rewriter, head)) = Rewriter::new(key, version, head) {
        out.clear();
        let pushed = body
            .chunks(step)
            .try_for_each(|piece| rewriter.push(piece).map(|passed| out.extend_from_slice(&piece[..passed])));
        if pushed.is_ok() && rewriter.is_whole() && rewriter.finish(&mut map, &mut out).is_ok() {
            assert_eq!(out.len(), head.body as usize);
            if is_sound {
                guard::check(message, version, &out).expect("it was sound before");
            }
        } else {
            assert!(!is_sound);
        }
    }
    let mut held = body.clone();
    if throttle::set(key, version, &mut held, 7).is_ok() && is_sound {
        guard::check(message, version, &held).expect("waiting makes it no less sound");
    }
    let body = bytes::Bytes::from(body);
    let _ = guard::response::<MetadataRequest>(version, body.clone());
    let _ = guard::response::<FetchRequest>(version, body.clone());
    let _ = guard::response::<ApiVersionsRequest>(version, body);
}

pub(crate) fn batch(data: &[u8]) {
    /// More than any input inflates to honestly, and less than a bomb.
    const LIMIT: usize = 1 << 20;
    let [_, compression, count, payload @ ..] = data else { return };
    let all =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let compression_of = all[usize::from(compression % 8) % all.len()];
    let mut packed = Vec::new();
    if compression & 8 == 0 {
        compress(compression_of, payload, &mut packed).expect("there is memory");
        // Now and then with a byte that is not what it was.
        if compression & 16 != 0
            && let Some(byte) = packed.get_mut(usize::from(*count))
        {
            *byte ^= compression;
        }
    } else {
        packed.extend_from_slice(payload);
    }
    let mut bytes = vec![0; 61];
    bytes[8..12].copy_from_slice(&(49 + packed.len() as i32).to_be_bytes());
    bytes[16] = 2;
    bytes[22] = compression_of as u8;
    bytes[60] = *count % 8;
    bytes.extend_from_slice(&packed);
    let batch = Batches::new(&bytes).next().expect("it is whole").expect("its head is sound");
    let (mut room, mut again_room) = (Vec::new(), Vec::new());
    let Ok(records) = records(&batch, LIMIT, &mut room) else { return };
    let (mut writer, mut out) = (Writer::new(), Vec::new());
    records.iter().for_each(|record| writer.push(&batch.head, record, &[]));
    writer.finish(&batch.head, &mut out).expect("it was read");
    let again = Batches::new(&out).next().expect("it is whole").expect("its head is sound");
    again.check().expect("the checksum was made");
    let again = self::records(&again, 2 * LIMIT, &mut again_room).expect("it was written");
    let headers = |record: &Record<'_>| {
        record.headers.map(|one| (one.key.to_vec(), one.value.map(<[u8]>::to_vec))).collect::<Vec<_>>()
    };
    assert_eq!(records.len(), again.len());
    for (one, other) in records.iter().zip(&again) {
        assert_eq!(
            (one.offset, one.timestamp, one.key, one.value),
            (other.offset, other.timestamp, other.key, other.value)
        );
        assert_eq!(headers(one), headers(other));
        let _: Option<Header<'_>> = one.headers.last();
    }
}

fn records<'r>(
    batch: &Batch<'r>,
    limit: usize,
    room: &'r mut Vec<u8>,
) -> Result<Vec<Record<'r>>, mecha_kafka::batch::BatchError> {
    batch.records(limit, room)?.collect()
}

/// The beginning of a request to produce says what its acknowledgements do that are read in pieces, whole or cut.
fn begins(version: i16, body: &[u8], mut acks: Acks) {
    let begun = beginning(version, body.len() as u32, body);
    if let Ok(Some((size, wanted))) = begun {
        assert_eq!(acks.push(body), Ok(Some(wanted)));
        let bytes = body.get(..size).expect("it is there");
        assert_eq!(beginning(version, body.len() as u32, bytes), begun);
        let mut anew = Vec::new();
        let mut same = |_: Name, text: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(text);
            true
        };
        // A length may have been longer than it has to be.
        if names::beginning(version, bytes, &mut same, &mut anew).is_ok() {
            assert!(anew.len() <= bytes.len());
        }
    }
}

/// Figures come to the same in any pieces, and never to more than the bytes are.
fn tallies(key: ApiKey, version: i16, body: &[u8], step: usize) {
    let _ = topics(version, body, &mut |name, _| assert!(name.len() <= body.len()));
    let read = |size: usize| {
        let mut tally = Tally::new(key, version, body.len() as u32).ok()?;
        let mut marks = 0;
        body.chunks(size.max(1)).for_each(|piece| tally.push(piece, &mut |_| marks += 1));
        Some((tally.code(), marks))
    };
    assert_eq!(read(step), read(body.len()));
}
