//! Mixed load with faults, for as long as one likes: `MECHA_SOAK_SECONDS=3600 cargo test --release --test it soak -- --nocapture`
//! (30 seconds without it; `MECHA_BINARY` names another executable).
//!
//! One process has listeners that lead to a Redis, a Redis Cluster of 3+3 servers, a Memcached by its own protocol and by
//! translation, and an embedded store. Servers are killed, paused and moved in turn. Meanwhile no answer may be wrong;
//! afterwards memory is where it was after the first faults, no connection, dedicated connection or descriptor is left, and
//! every refusal that a client has read is in the metrics and the other way round. Clients that vanish have a listener
//! of their own, as nobody knows what they have read.

mod faults;
mod load;
mod tally;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::faults::{KINDS, Servers};
use self::load::{Seat, Weather};
use self::tally::Tally;
use crate::support::{Mecha, RedisCluster, eventually, memcached, redis};

/// Without `MECHA_SOAK_SECONDS`.
const SECONDS: u64 = 30;
/// Between two faults of a long run.
const BETWEEN: Duration = Duration::from_secs(10);
/// What memory may grow by between the end of the warm-up and the end: buffers of connections that are kept.
const SLACK_MIB: f64 = 8.0;

type Work = fn(&Seat);

/// Each listener's clients.
const LOADS: [(&str, &[(Work, usize)]); 6] = [
    (
        "plain",
        &[
            (load::tagged, 4),
            (load::transactions, 2),
            (load::waiting, 4),
            (load::messages, 4),
            (load::passing, 2),
        ],
    ),
    (
        "shards",
        &[
            (load::tagged, 4),
            (load::spread, 2),
            (load::transactions, 2),
            (load::waiting, 4),
            (load::messages, 2),
            (load::caching, 4),
            (load::passing, 2),
        ],
    ),
    ("cache", &[(load::memcached, 4)]),
    ("translated", &[(load::tagged, 2), (load::passing, 1)]),
    ("embedded", &[(load::tagged, 2), (load::passing, 1)]),
    ("rude", &[(load::rude, 3)]),
];

fn configuration(servers: &Servers) -> String {
    let back = "backoff: { initial: 10ms, max: 200ms }";
    let filters = "filters: [ { timeout: { after: 2s } } ]";
    format!(
        "workers: 2
clusters:
  plain: {{ to: \"redis://127.0.0.1:{}\", {back} }}
  shards: {{ to: \"{}\", {back} }}
  cache: {{ to: \"memcached://127.0.0.1:{}\", {back} }}
  embedded: {{ to: \"embedded://\", max_memory: 16MiB }}
listeners:
  - {{ name: plain, listen: \"redis://127.0.0.1:0\", to: plain, {filters} }}
  - {{ name: shards, listen: \"redis://127.0.0.1:0\", to: shards, {filters} }}
  - {{ name: cache, listen: \"memcached://127.0.0.1:0\", to: cache, {filters} }}
  - {{ name: translated, listen: \"redis://127.0.0.1:0\", to: cache, {filters} }}
  - {{ name: embedded, listen: \"redis://127.0.0.1:0\", to: embedded }}
  - {{ name: rude, listen: \"redis://127.0.0.1:0\", to: plain, max_output: 1MiB }}
",
        servers.plain.1,
        servers.shards.to(),
        servers.cache.1,
    )
}

/// Descriptors that are not upstream connections.
fn descriptors(mecha: &Mecha) -> f64 {
    let all = std::fs::read_dir(format!("/proc/{}/fd", mecha.process.id())).unwrap().count();
    all as f64 - mecha.metric("mecha_upstream_connections{")
}

#[test]
fn an_hour_or_less_of_load_and_faults_leaves_nothing_behind() {
    let seconds =
        std::env::var("MECHA_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let (Some(plain), Some(cache), Some(shards)) = (redis(), memcached(), RedisCluster::start()) else {
        return;
    };
    let mut servers = Servers { plain, cache, shards };
    let mecha = Mecha::configured(&configuration(&servers));
    let at_start = descriptors(&mecha);
    let weather = Arc::new(Weather::default());
    let (mut threads, mut tallies) = (Vec::new(), Vec::new());
    for ((name, works), port) in LOADS.into_iter().zip(&mecha.ports) {
        let tally = Arc::new(Tally::default());
        for (work, count) in works {
            for number in 0..*count {
                let seat = Seat {
                    port: *port,
                    name,
                    number,
                    tally: Arc::clone(&tally),
                    weather: Arc::clone(&weather),
                };
                let work = *work;
                threads.push(std::thread::spawn(move || work(&seat)));
            }
        }
        tallies.push((name, tally));
    }

    let (start, length) = (Instant::now(), Duration::from_secs(seconds));
    let (mut turn, mut warm) = (0, None);
    let between = BETWEEN.min(length / (KINDS as u32 * 6));
    while start.elapsed() < length || turn < KINDS {
        std::thread::sleep(between);
        let name = servers.fail(turn, &weather);
        turn += 1;
        let (resident, after) = (mecha.resident_mib(), start.elapsed());
        eprintln!("soak: {:>6.1} s, {resident:.1} MiB: {name}", after.as_secs_f64());
        if threads.iter().any(std::thread::JoinHandle::is_finished) {
            panic!("a client has given up: {}", mecha.get("/connections"));
        }
        // Every kind of fault once, and a tenth of the time: buffers have their size.
        if turn >= KINDS && after > length / 10 {
            warm.get_or_insert(resident);
        }
    }
    std::thread::sleep(between);
    weather.is_over.store(true, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());

    mecha.settles();
    for (name, tally) in &tallies {
        eprintln!("soak: {}", tally.report(name));
        assert!(tally.answers() > 100 || *name == "rude", "{name} was hardly served");
        if *name == "rude" {
            continue;
        }
        for why in mecha_core::Refusal::ALL {
            let series = format!("mecha_refusals_total{{listener=\"{name}\",reason=\"{}\"}}", why.name());
            let read = tally.refusals().get(why.name()).copied().unwrap_or_default();
            assert_eq!(read as f64, mecha.metric(&series), "{series}");
        }
    }
    let (warm, end) = (warm.unwrap_or_default(), mecha.resident_mib());
    eprintln!("soak: {turn} faults in {seconds} s; {warm:.1} MiB after the warm-up, {end:.1} MiB at the end");
    assert!(end < warm * 1.1 + SLACK_MIB, "memory has grown");
    eventually("a descriptor is leaked", || descriptors(&mecha) <= at_start + 2.0);
}
