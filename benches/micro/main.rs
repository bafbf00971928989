//! The parts of the data plane, each alone: `cargo bench -p mecha-benches`.
#![allow(missing_docs, reason = "the macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mecha::session::Ledger;
use mecha_benches::{
    DEPTH, Pump, Translation, calls, five_policies, heads, memcached_requests, resp_requests,
};
use mecha_core::{Batch, Cx, Decode, Done, Framed, Limits, Outcome, Peer, Replies};
use mecha_memcached::Memcached;
use mecha_resp::Resp;

fn decode<P: Framed>(criterion: &mut Criterion, name: &str, wire: &[u8]) {
    let (mut decoder, mut heads) = (P::request_decoder(Limits::default()), Vec::new());
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(DEPTH as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            heads.clear();
            decoder.decode(black_box(wire), &mut heads).is_ok_and(|decoded| decoded.consumed == wire.len())
        });
    });
}

fn decoders(criterion: &mut Criterion) {
    decode::<Resp>(criterion, "resp_decode", &resp_requests());
    decode::<Memcached>(criterion, "memcached_decode", &memcached_requests());
}

fn chain(criterion: &mut Criterion) {
    let mut chain = five_policies::<Resp>();
    let wire = resp_requests();
    let (mut heads, mut calls_made) = (heads::<Resp>(&wire), Vec::new());
    let peer = Peer { id: 1, addr: None, local: None, identity: None, user: None };
    let (mut local, mut session) = (Vec::new(), Default::default());
    let mut now_micros = 0;
    let mut group = criterion.benchmark_group("chain");
    group.throughput(Throughput::Elements(DEPTH as u64));
    group.bench_function("chain_5_policies", |bencher| {
        bencher.iter(|| {
            now_micros += 100;
            let cx = Cx { now_micros, peer: &peer };
            calls::<Resp>(&heads, 0, &mut calls_made);
            let (heads, calls) = (&mut heads[..], &mut calls_made[..]);
            chain.requests(
                &mut Batch { wire: &wire, local: &mut local, heads, calls, session: &mut session },
                &cx,
            );
            let done: [Done; DEPTH] = std::array::from_fn(|at| {
                let call = &calls_made[at];
                Done { ticket: call.ticket, op: call.op, outcome: Outcome::Ok, micros: 90 }
            });
            chain.replies(&mut Replies { wire: &[], local: &mut local, heads: &mut [], done: &done }, &cx);
        });
    });
}

fn runs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("run");
    group.throughput(Throughput::Elements(DEPTH as u64));
    let mut pump = Pump::new(1, true);
    group.bench_function("straight_run_16", |bencher| bencher.iter(|| pump.round().len()));
    let mut pump = Pump::new(4, true);
    group.bench_function("sharded_run_16", |bencher| bencher.iter(|| pump.round().len()));
    let mut translation = Translation::default();
    group.bench_function("translate_get_set", |bencher| bencher.iter(|| translation.round().len()));
}

fn ledger(criterion: &mut Criterion) {
    let (mut ledger, mut out) = (Ledger::default(), Vec::new());
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(DEPTH as u64));
    group.bench_function("ledger_out_of_order", |bencher| {
        bencher.iter(|| {
            out.clear();
            let first = ledger.next();
            ledger.take(DEPTH as u32);
            for place in (0..DEPTH as u32).rev() {
                ledger.answer(first.wrapping_add(place), b"$1\r\nx\r\n", true, &mut out);
            }
            out.len()
        });
    });
}

criterion_group!(benches, decoders, chain, runs, ledger);
criterion_main!(benches);
