//! Addresses in responses that pass in pieces.

#[path = "support/any.rs"]
mod any;

use any::Any;
use fastrand::Rng;
use mecha_kafka::addresses::{Address, Node, ROOM, Rewriter, rewrite};
use mecha_kafka::frame::ResponseHead;
use mecha_kafka::guard;
use mecha_kafka::table::{ApiKey, apis};

/// What comes out for a body that is given in pieces of `size`.
fn pass(key: ApiKey, version: i16, body: &[u8], size: usize, host: &str) -> Vec<u8> {
    let came = ResponseHead { correlation: 1, body: body.len() as u32 };
    let (mut rewriter, head) = Rewriter::new(key, version, came).unwrap();
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        assert!(!rewriter.is_whole());
        let passed = rewriter.push(piece).unwrap();
        out.extend_from_slice(&piece[..passed]);
    }
    assert!(rewriter.is_whole());
    rewriter.finish(&mut |_| Address { host: host.into(), port: 7 }, &mut out).unwrap();
    assert_eq!(out.len(), head.body as usize, "{} {version}", key.name());
    assert_eq!(head.body, came.body + ROOM);
    out
}

/// Names and numbers of brokers that a body tells about.
fn nodes(key: ApiKey, version: i16, body: &[u8]) -> Vec<(i32, String)> {
    let (mut found, mut out) = (Vec::new(), Vec::new());
    let mut note = |node: Node<'_>| {
        found.push((node.id, String::from_utf8(node.host.to_vec()).unwrap()));
        Address { host: "x".into(), port: 1 }
    };
    rewrite(key, version, body, &mut note, &mut out).unwrap();
    found
}

fn each(mut check: impl FnMut(ApiKey, i16, Vec<u8>)) {
    let mut seen = 0;
    for api in apis() {
        let versions = api.key.versions();
        for version in (versions.first..=versions.last).filter(|version| Rewriter::can(api.key, *version)) {
            for is_full in [true, false, false, false] {
                seen += 1;
                let mut any = Any { random: Rng::with_seed(seen), text: "broker", is_full };
                check(api.key, version, any.body(api.key.response().unwrap(), version));
            }
        }
    }
    assert!(seen > 40);
}

#[test]
fn pieces_of_any_size_give_the_same_response() {
    each(|key, version, body| {
        let whole = pass(key, version, &body, body.len(), "mecha.example");
        guard::check(key.response().unwrap(), version, &whole).unwrap();
        let before = nodes(key, version, &body);
        let after = nodes(key, version, &whole);
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.0, "mecha.example"), (after.0, after.1.as_str()));
        }
        for size in 1..40 {
            assert_eq!(pass(key, version, &body, size, "mecha.example"), whole, "pieces of {size}");
        }
    });
}

#[test]
fn addresses_that_are_too_long_are_left_out() {
    let long = "x".repeat(600);
    each(|key, version, body| {
        let out = pass(key, version, &body, 11, &long);
        guard::check(key.response().unwrap(), version, &out).unwrap();
        let after = nodes(key, version, &out);
        let fits = nodes(key, version, &body).len() < 2;
        assert!(after.is_empty() || fits, "{after:?}");
        assert!(after.iter().all(|(_, host)| *host == long));
    });
}

#[test]
fn room_of_any_size_is_filled() {
    // Hosts of all lengths, so that what is left is of all lengths too.
    let api = ApiKey::FETCH;
    let mut any = Any { random: Rng::with_seed(3), text: "broker", is_full: true };
    let body = any.body(api.response().unwrap(), 18);
    for length in 1..1200 {
        let host = "h".repeat(length);
        let out = pass(api, 18, &body, 1000, &host);
        guard::check(api.response().unwrap(), 18, &out).unwrap_or_else(|error| panic!("{length}: {error}"));
    }
}

#[test]
fn records_pass_and_are_not_held() {
    // A body with a megabyte of records before the addresses, made from one without.
    let mut any = Any { random: Rng::with_seed(9), text: "broker", is_full: true };
    let (key, version) = (ApiKey::FETCH, 17);
    let body = any.body(key.response().unwrap(), version);
    let mut seen = 0;
    let mut large = Vec::new();
    let mut walk = mecha_kafka::walk::Walk::new(key.response().unwrap(), version, body.len() as u32).unwrap();
    while seen < body.len() {
        let step = walk.step(&body[seen..]).unwrap();
        let end = seen + step.head() + step.body();
        match step {
            mecha_kafka::walk::Step::Value { field: Some(field), .. } if field.name == "Records" => {
                mecha_kafka::wire::put_uvarint((1 << 20) + 1, &mut large);
                large.resize(large.len() + (1 << 20), 0x55);
            }
            _ => large.extend_from_slice(&body[seen..end]),
        }
        seen = end;
    }
    let (mut rewriter, _) =
        Rewriter::new(key, version, ResponseHead { correlation: 1, body: large.len() as u32 }).unwrap();
    let (mut passed, mut held) = (0, 0);
    for piece in large.chunks(16 << 10) {
        let here = rewriter.push(piece).unwrap();
        passed += here;
        held += piece.len() - here;
    }
    assert!(held < 200, "{held} bytes were held, {passed} passed");
    assert_eq!(passed + held, large.len());
}
