use mecha_core::{Decode, Limits, Peer, Ticket};
use mecha_memcached::{Connection, RequestDecoder};
use mecha_telemetry::Registry;

use super::*;
use crate::guard::Guard;
use crate::rules::Rules;
use crate::secret::Secret;
use crate::user::{Definition, Users};

fn gate(rules: &str) -> Gate {
    let words: Vec<String> = rules.split(' ').map(Into::into).collect();
    let rules = Rules::new(&words).unwrap();
    let definition = Definition { name: "app".into(), rules, secret: Some(Secret::of(b"pass word")) };
    Gate::new(Users::new::<Memcached>(&[definition]), Registry::new().logins("test"), None)
}

/// What the client reads of each request; `pass` for those that go on.
fn fates(gate: &Gate, who: &mut Who, wire: &[u8]) -> Vec<Vec<u8>> {
    let mut heads = Vec::new();
    RequestDecoder::new(Limits::default()).decode(wire, &mut heads).unwrap();
    let mut calls: Vec<_> = heads.iter().map(|head| Memcached::call(head, Ticket::default())).collect();
    let (mut local, mut session, end) = (Vec::new(), Connection::default(), calls.len());
    let mut batch =
        Batch { wire, local: &mut local, heads: &mut heads, calls: &mut calls, session: &mut session };
    let peer = Peer { id: 1, addr: None, local: None, identity: None, user: None };
    let mut at = 0;
    while at < end {
        at = Guard::<Memcached>::admit(gate, &mut batch, at..end, who, &Cx { now_micros: 1, peer: &peer });
    }
    let fate = |call: &Call| match call.verdict {
        Verdict::Answered(span) => span.of(wire, &local).to_vec(),
        Verdict::Forward => b"pass".to_vec(),
        Verdict::Refuse(why) => {
            let mut out = Vec::new();
            Memcached::refuse(call.asked(), why, &mut out);
            out
        }
    };
    calls.iter().map(fate).collect()
}

fn text(gate: &Gate, who: &mut Who, wire: &str) -> Vec<String> {
    let fates = fates(gate, who, wire.as_bytes());
    fates.into_iter().map(|fate| String::from_utf8(fate).unwrap()).collect()
}

fn binary(opcode: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, opcode, 0, key.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(&((key.len() + value.len()) as u32).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(key);
    frame.extend_from_slice(value);
    frame
}

#[test]
fn a_first_set_logs_in_and_the_next_one_stores() {
    let gate = gate("~app:* +@all -flush_all");
    let mut who = gate.enter();
    let wire = "get a\r\nset x 0 0 8\r\napp word\r\nset x 0 0 3\r\napp\r\nset x 0 0 13\r\napp pass word\r\n";
    assert_eq!(
        text(&gate, &mut who, wire),
        [
            "CLIENT_ERROR unauthenticated\r\n",
            "CLIENT_ERROR authentication failure\r\n",
            "CLIENT_ERROR unauthenticated\r\n",
            "STORED\r\n",
        ]
    );
    let wire = "set app:x 0 0 1\r\na\r\nset x 0 0 1\r\na\r\nget app:1 app:2\r\nget app:1 x\r\nflush_all\r\nversion\r\nmn\r\n";
    let fates = text(&gate, &mut who, wire);
    let passed: Vec<_> = fates.iter().map(|fate| fate == "pass").collect();
    assert_eq!(passed, [true, false, true, false, false, true, true], "{fates:?}");
    assert!(fates[1].starts_with("CLIENT_ERROR mecha: user has no permission for one of the keys"));
}

#[test]
fn sasl_plain_logs_in() {
    let gate = gate("~* +@all");
    let mut who = gate.enter();
    let wire = [
        binary(0x00, b"a", b""),
        binary(0x20, b"", b""),
        binary(0x21, b"CRAM-MD5", b"x"),
        binary(0x21, b"PLAIN", b"\0app\0wrong"),
        binary(0x21, b"PLAIN", b"root\0app\0pass word"),
        binary(0x21, b"PLAIN", b"\0app\0pass word"),
        binary(0x00, b"a", b""),
    ];
    let fates = fates(&gate, &mut who, &wire.concat());
    let status: Vec<_> = fates.iter().map(|fate| fate.get(7).copied()).collect();
    assert_eq!(status, [Some(0x20), Some(0), Some(0x20), Some(0x20), Some(0x20), Some(0), None]);
    assert!(fates[1].ends_with(b"PLAIN") && fates[5].ends_with(b"Authenticated"));
    assert!(fates.iter().take(6).all(|fate| fate[12..16] == [0, 0, 0, 7]), "the opaque is repeated");
}

#[test]
fn the_key_in_base64_is_judged_not_its_letters() {
    let gate = gate("~YXBw* +@all");
    let mut who = gate.enter();
    assert_eq!(text(&gate, &mut who, "set x 0 0 13\r\napp pass word\r\n"), ["STORED\r\n"]);
    // `YXBw` is `app`.
    let fates = text(&gate, &mut who, "mg YXBw v\r\nmg YXBw v b\r\nmg YXBw b v\r\nmg WVhCdw== b v\r\n");
    let passed: Vec<_> = fates.iter().map(|fate| fate == "pass").collect();
    assert_eq!(passed, [true, false, false, true], "{fates:?}");
}

#[test]
fn reading_and_writing_are_told_apart() {
    let gate = gate("%R~* %W~w +@read +@write -delete");
    let mut who = gate.enter();
    assert_eq!(text(&gate, &mut who, "set x 0 0 13\r\napp pass word\r\n"), ["STORED\r\n"]);
    let wire = "get a\r\nset a 0 0 1\r\nx\r\nset w 0 0 1\r\nx\r\ngat 0 w\r\ntouch w 0\r\ndelete w\r\nstats\r\nmg a v\r\nmg a T0 v\r\n";
    let fates = text(&gate, &mut who, wire);
    let passed: Vec<_> = fates.iter().map(|fate| fate == "pass").collect();
    assert_eq!(passed, [true, false, true, false, true, false, false, true, false], "{fates:?}");
}
