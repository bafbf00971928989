//! `cargo run --release -p mecha-benches`: nanoseconds per command of the data plane in memory, depth 16.
//!
//! The least of many short spells is printed beside the median: other programs only ever make a spell longer.
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::hint::black_box;
use std::time::Instant;

use mecha_benches::{DEPTH, Pump, Translation};

const SPELLS: usize = 200;
const ROUNDS: u32 = 500;

fn main() {
    let mut straight = Pump::new(1, true);
    let mut bare = Pump::new(1, false);
    let mut sharded = Pump::new(4, true);
    let mut translation = Translation::default();
    println!("nanoseconds per command, depth {DEPTH}            least  median");
    figure("round trip, no policy", || _ = black_box(bare.round()));
    figure("round trip, five policies", || _ = black_box(straight.round()));
    figure("round trip, five policies, four shards", || _ = black_box(sharded.round()));
    figure("translation of SET and GET to memcached", || _ = black_box(translation.round()));
}

fn figure(name: &str, mut round: impl FnMut()) {
    let mut spells: Vec<f64> = Vec::with_capacity(SPELLS);
    for _ in 0..SPELLS {
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| round());
        spells.push(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS) / DEPTH as f64);
    }
    spells.sort_by(f64::total_cmp);
    println!("{name:<44} {:>6.1} {:>7.1}", spells[0], spells[SPELLS / 2]);
}
