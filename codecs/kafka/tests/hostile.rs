//! Bodies that somebody made wrong: refused before anything is reserved for them, or decoded.

#[path = "support/any.rs"]
mod any;

use any::Any;
use bytes::Bytes;
use fastrand::Rng;
use kafka_protocol::messages::{ApiKey as Theirs, MetadataRequest, RequestKind, ResponseKind};
use mecha_kafka::addresses::{Address, Rewriter, rewrite};
use mecha_kafka::frame::ResponseHead;
use mecha_kafka::guard;
use mecha_kafka::schema::MESSAGES;
use mecha_kafka::table::ApiKey;
use mecha_kafka::tally::{Tally, commits, topics};
use mecha_kafka::wire::Malformed;

#[test]
fn counts_that_the_bytes_do_not_bear_out_are_refused() {
    // kafka-protocol alone aborts the process on the first of these.
    for count in [[0x7f, 0xff, 0xff, 0xff], [0x03, 0x3c, 0x0c, 0x00], [0, 0, 0, 2]] {
        let body = [&[0xff, 0xff][..], &count, &[0xb6]].concat();
        let decoded = guard::request::<MetadataRequest>(0, Bytes::from(body));
        assert_eq!(decoded.map(|_| ()), Err(Malformed::Count));
    }
    // The same as varints.
    let body = [&[0xff, 0xff, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0; 20]].concat();
    let decoded = guard::request::<MetadataRequest>(12, Bytes::from(body));
    assert_eq!(decoded.map(|_| ()), Err(Malformed::Count));
}

#[test]
fn versions_that_the_codecs_lack_are_refused() {
    for version in [-1, 14, i16::MIN, i16::MAX] {
        let decoded = guard::request::<MetadataRequest>(version, Bytes::from_static(b"\xff\xff"));
        assert_eq!(decoded.map(|_| ()), Err(Malformed::Unknown));
    }
}

/// Changes a few bytes, or cuts the end off.
fn spoil(body: &mut Vec<u8>, random: &mut Rng) {
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..body.len().max(1));
        match random.u8(..6) {
            0 => body.truncate(at),
            1 => body.extend_from_slice(&[0xff; 3]),
            2 => body.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0x7f),
            3 => body.iter_mut().skip(at).take(5).for_each(|byte| *byte = 0xff),
            _ => body.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.u8(..)),
        }
    }
}

#[test]
fn spoiled_bodies_are_refused_or_decoded() {
    let rounds: u64 = std::env::var("MECHA_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let (mut sound, mut refused) = (0, 0);
    let mut random = Rng::with_seed(1);
    for seed in 0..rounds {
        for message in &MESSAGES {
            for version in message.versions.first..=message.versions.last {
                let mut any = Any { random: random.fork(), text: "name", is_full: seed % 2 == 0 };
                let mut body = any.body(message, version);
                spoil(&mut body, &mut random);
                let key = ApiKey(message.key);
                let mut out = Vec::new();
                let mut map = |_: mecha_kafka::addresses::Node<'_>| Address { host: "a".into(), port: 1 };
                let verdict = guard::check(message, version, &body);
                if message.is_response {
                    let done = rewrite(key, version, &body, &mut map, &mut out);
                    assert!(done.is_ok() || verdict.is_err());
                    if let Ok(mut tally) = Tally::new(key, version, body.len() as u32) {
                        body.chunks(7).for_each(|piece| tally.push(piece, &mut |_| {}));
                    }
                    let _ = topics(version, &body, &mut |_, _| {});
                    let head = ResponseHead { correlation: 0, body: body.len() as u32 };
                    if let Ok((mut rewriter, head)) = Rewriter::new(key, version, head) {
                        let mut passed = 0;
                        let all = body
                            .chunks(7)
                            .try_for_each(|piece| rewriter.push(piece).map(|taken| passed += taken));
                        out.clear();
                        if all.is_ok() && rewriter.is_whole() && rewriter.finish(&mut map, &mut out).is_ok() {
                            assert_eq!(passed + out.len(), head.body as usize);
                        }
                    }
                }
                let _ = commits(version, &body, &mut |_| {});
                match verdict {
                    Ok(()) => sound += 1,
                    Err(_) => {
                        refused += 1;
                        continue;
                    }
                }
                let Some(theirs) = Theirs::iter().find(|theirs| *theirs as i16 == message.key) else {
                    continue;
                };
                let header = usize::from(message.is_flexible(version) && key != ApiKey::API_VERSIONS);
                let at = if message.is_response {
                    header
                } else {
                    guard::header(&body, message.is_flexible(version)).unwrap().1
                };
                // Whatever it says, it says it.
                let mut rest = Bytes::copy_from_slice(&body[at..]);
                if message.is_response {
                    let _ = ResponseKind::decode(theirs, &mut rest, version);
                } else {
                    let _ = RequestKind::decode(theirs, &mut rest, version);
                }
            }
        }
    }
    assert!(sound > 100 && refused > 100, "{sound} sound, {refused} refused");
}
