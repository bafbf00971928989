use mecha_core::{Decode, Limits, Outcome, ProtocolError};
use proptest::prelude::*;

use super::{Reply, ReplyDecoder};

fn small() -> Limits {
    Limits { stream_above: 64, max_frame: 1 << 20, max_depth: 16, ..Limits::default() }
}

fn pieces(bytes: &[u8], cuts: &[usize], limits: Limits) -> Result<Vec<(Vec<u8>, Reply)>, ProtocolError> {
    let mut decoder = ReplyDecoder::new(limits);
    let (mut held, mut frames, mut at) = (Vec::new(), Vec::<(Vec<u8>, Reply)>::new(), 0);
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    for cut in cuts {
        held.extend_from_slice(&bytes[at..cut]);
        at = cut;
        let mut heads = Vec::new();
        let decoded = decoder.decode(&held, &mut heads)?;
        if decoded.tail > 0 {
            frames.last_mut().unwrap().0.extend_from_slice(&held[..decoded.tail]);
        }
        for head in heads {
            frames.push((head.span.of(&held, &[]).to_vec(), head));
        }
        held.drain(..decoded.consumed);
    }
    Ok(frames)
}

/// One reply of each kind and form.
const REPLIES: &[&str] = &[
    "+OK\r\n",
    "-ERR no\r\n",
    ":-12\r\n",
    "$5\r\nhe\r\no\r\n",
    "$0\r\n\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "*0\r\n",
    "*3\r\n:1\r\n*2\r\n+a\r\n$-1\r\n*0\r\n",
    "_\r\n",
    "#t\r\n",
    ",3.25\r\n",
    "(3492890328409238509324850943850943825024385\r\n",
    "=7\r\ntxt:abc\r\n",
    "!9\r\nSYNTAX no\r\n",
    "%2\r\n+a\r\n:1\r\n+b\r\n~2\r\n:1\r\n:2\r\n",
    "~0\r\n",
    ">2\r\n+message\r\n$1\r\nx\r\n",
    "|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
    "|1\r\n+a\r\n*1\r\n:1\r\n|1\r\n+b\r\n:2\r\n*2\r\n:1\r\n:2\r\n",
    "*2\r\n|1\r\n+k\r\n:1\r\n:9\r\n:8\r\n",
    "$?\r\n;4\r\nHell\r\n;1\r\no\r\n;0\r\n",
    "*?\r\n:1\r\n*?\r\n.\r\n:2\r\n.\r\n",
    "%?\r\n+a\r\n:1\r\n.\r\n",
];

#[test]
fn every_type_is_one_frame() {
    for reply in REPLIES {
        let frames = pieces(reply.as_bytes(), &[], small()).unwrap();
        assert_eq!(frames.len(), 1, "{reply:?}");
        assert_eq!(frames[0].0, reply.as_bytes());
    }
}

#[test]
fn an_attribute_does_not_hide_the_kind() {
    let kind = |bytes: &str| pieces(bytes.as_bytes(), &[], small()).unwrap()[0].1.kind;
    assert_eq!(kind("|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n"), b'$');
    assert_eq!(kind(">1\r\n+x\r\n"), b'>');
    assert_eq!(kind("*1\r\n>1\r\n+x\r\n"), b'*');
}

#[test]
fn errors_of_the_servers_state_are_told_from_the_clients() {
    let outcome = |bytes: &str| pieces(bytes.as_bytes(), &[], small()).unwrap()[0].1.outcome;
    for state in ["LOADING Redis is loading", "CLUSTERDOWN x", "MASTERDOWN x", "OOM command", "READONLY You"]
    {
        assert_eq!(outcome(&format!("-{state}\r\n")), Outcome::ServerError);
    }
    assert_eq!(outcome("-ERR LOADING\r\n"), Outcome::ClientError);
    assert_eq!(outcome("-WRONGTYPE x\r\n"), Outcome::ClientError);
    assert_eq!(outcome("!21\r\nLOADING please wait a\r\n"), Outcome::ServerError);
    assert_eq!(outcome("*1\r\n-ERR x\r\n"), Outcome::Ok);
}

#[test]
fn broken_bytes_are_named() {
    let check = |bytes: &str, expected: ProtocolError| {
        assert_eq!(
            pieces(bytes.as_bytes(), &[], small()).map(|frames| frames.len()),
            Err(expected),
            "{bytes:?}"
        );
    };
    check("x", ProtocolError::Byte { at: 0, got: b'x' });
    check("$3\r\nabcxx", ProtocolError::Byte { at: 7, got: b'x' });
    check("$-2\r\n", ProtocolError::Length { at: 0 });
    check("*:\r\n", ProtocolError::Length { at: 0 });
    check("%-1\r\n", ProtocolError::Count { at: 0 });
    check("+a\nb", ProtocolError::Byte { at: 2, got: b'\n' });
    check(".\r\n", ProtocolError::Byte { at: 0, got: b'.' });
    check(&"*1\r\n".repeat(20), ProtocolError::TooDeep { at: 64 });
}

#[test]
fn a_hundred_thousand_levels_are_an_error_and_not_a_stack_overflow() {
    let bytes = "*1\r\n".repeat(100_000);
    assert!(matches!(pieces(bytes.as_bytes(), &[], Limits::default()), Err(ProtocolError::TooDeep { .. })));
}

#[test]
fn a_slow_sender_costs_no_rescans() {
    let mut bytes = b"*20000\r\n".to_vec();
    (0..20_000).for_each(|element| bytes.extend_from_slice(format!("$6\r\n{element:06}\r\n").as_bytes()));
    let mut decoder = ReplyDecoder::new(Limits { stream_above: usize::MAX, ..Limits::default() });
    let mut heads = Vec::new();
    for end in 1..=bytes.len() {
        decoder.decode(&bytes[..end], &mut heads).unwrap();
    }
    assert_eq!(heads.len(), 1);
}

#[test]
fn well_formed_replies_are_cut_as_an_independent_decoder_cuts_them() {
    use redis_protocol::resp3::decode::complete::decode;
    for reply in REPLIES {
        // Forms that the other decoder does not know: RESP2 nulls and nested attributes.
        if reply.contains("-1\r\n")
            || reply.matches('|').count() > 1
            || reply.starts_with("*2\r\n|")
            || reply.contains('?')
        {
            continue;
        }
        if let Ok(Some((_, length))) = decode(reply.as_bytes()) {
            assert_eq!(length, pieces(reply.as_bytes(), &[], small()).unwrap()[0].0.len(), "{reply:?}");
        }
    }
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let large =
        (65usize..300).prop_map(|length| format!("${length}\r\n{}\r\n", "v".repeat(length)).into_bytes());
    let known = prop::sample::select(REPLIES).prop_map(|reply| reply.as_bytes().to_vec());
    let nested = prop::collection::vec(prop::sample::select(REPLIES), 0..9).prop_map(|replies| {
        let replies: Vec<_> = replies.into_iter().filter(|reply| !reply.starts_with('>')).collect();
        format!("*{}\r\n{}", replies.len(), replies.concat()).into_bytes()
    });
    prop::collection::vec(prop_oneof![known, large, nested], 1..8).prop_map(|replies| replies.concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_frames(bytes in stream(), cuts in prop::collection::vec(any::<usize>(), 0..20)) {
        let unlimited = Limits { stream_above: usize::MAX, ..small() };
        let whole = pieces(&bytes, &[], unlimited).unwrap();
        prop_assert_eq!(whole.iter().flat_map(|frame| frame.0.clone()).collect::<Vec<_>>(), bytes.clone());
        for limits in [unlimited, small()] {
            let pieced = pieces(&bytes, &cuts, limits).unwrap();
            prop_assert_eq!(whole.len(), pieced.len());
            for (one, two) in whole.iter().zip(&pieced) {
                prop_assert_eq!(&one.0, &two.0);
                prop_assert_eq!((one.1.kind, one.1.outcome), (two.1.kind, two.1.outcome));
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(any::<usize>(), 0..10)) {
        let _ = pieces(&bytes, &cuts, small());
    }

    #[test]
    fn no_damaged_replies_panic(
        mut bytes in stream(),
        damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = pieces(&bytes, &cuts, small());
    }
}
