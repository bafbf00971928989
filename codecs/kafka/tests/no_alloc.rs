//! What happens to every frame reserves no memory.

#[path = "support/any.rs"]
mod any;

use std::alloc::System;

use any::Any;
use fastrand::Rng;
use mecha_kafka::addresses::{Address, rewrite};
use mecha_kafka::frame::{Item, RequestHead, Scanner};
use mecha_kafka::pending::{Acks, InFlight, Pending};
use mecha_kafka::table::{ApiKey, Judgement, judge};
use mecha_kafka::tally::Tally;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests come, responses with addresses go back.
fn turn(
    bytes: &[u8],
    response: &[u8],
    (pending, tally): (&mut Pending<u32>, &mut Tally),
    out: &mut Vec<u8>,
) -> (usize, usize) {
    let mut scanner = Scanner::<RequestHead>::new(1 << 20);
    let (mut at, mut acked, mut asked) = (0, 0, 0);
    let mut probe = None;
    loop {
        let (taken, item) = scanner.next(&bytes[at..]).unwrap();
        match item {
            Item::Head(head) => {
                assert_eq!(judge(head.key, head.version), Judgement::Known);
                let RequestHead { key, version, correlation, .. } = head;
                pending.sent(InFlight { key, version, correlation, note: 0 }).unwrap();
                probe = (key == ApiKey::PRODUCE).then(|| Acks::new(version, head.body).unwrap());
            }
            Item::Piece { len, .. } => {
                if let Some(probe) = &mut probe {
                    acked += usize::from(probe.push(&bytes[at..at + len]).unwrap().is_some());
                }
            }
            Item::More => break,
            Item::Whole(_) => unreachable!("none is wanted"),
        }
        at += taken;
    }
    while let Some(oldest) = pending.oldest() {
        let answered = pending.answered(oldest.correlation).unwrap();
        out.clear();
        rewrite(
            answered.key,
            answered.version,
            response,
            &mut |_| Address { host: "mecha".into(), port: 1 },
            out,
        )
        .unwrap();
        tally.restart(answered.key, answered.version, response.len() as u32).unwrap();
        tally.push(response, &mut |_| {});
        asked += 1;
    }
    (acked, asked)
}

#[test]
fn frames_pass_without_memory_being_reserved() {
    let mut any = Any { random: Rng::with_seed(1), text: "broker", is_full: true };
    let body = any.body(ApiKey::PRODUCE.request().unwrap(), 11);
    let response = any.body(ApiKey::PRODUCE.response().unwrap(), 11);
    let mut bytes = Vec::new();
    for correlation in 0..50 {
        RequestHead { key: ApiKey::PRODUCE, version: 11, correlation, body: body.len() as u32 }
            .write(&mut bytes);
        bytes.extend_from_slice(&body);
    }
    let (mut pending, mut out) = (Pending::new(100), Vec::new());
    let mut tally = Tally::new(ApiKey::PRODUCE, 11, response.len() as u32).unwrap();
    assert_eq!(turn(&bytes, &response, (&mut pending, &mut tally), &mut out), (50, 50));
    let region = Region::new(ALLOCATOR);
    assert_eq!(turn(&bytes, &response, (&mut pending, &mut tally), &mut out), (50, 50));
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0), "{change:?}");
    // Addresses were replaced, all the same.
    assert!(
        out.windows(5).any(|bytes| bytes == b"mecha") && !out.windows(6).any(|bytes| bytes == b"sentinel")
    );
}
