//! What happens to some clients or servers must not be felt by others. Bounds are wide, because a test runs beside others; run
//! alone on a release build, the figures that are printed are meant (`MECHA_BINARY`, `--nocapture`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Client, Mecha, RedisCluster, frame, redis, signal};

/// Between two calls of a client that is watched.
const PACE: Duration = Duration::from_millis(1);

/// Latencies of one call after another for `time`, sorted.
fn watch(client: &mut Client, call: &[&str], wanted: &str, time: Duration) -> Vec<Duration> {
    let (start, mut seen, request) = (Instant::now(), Vec::new(), frame(call));
    while start.elapsed() < time {
        let sent = Instant::now();
        client.send(&request);
        assert_eq!(client.reply(), wanted);
        seen.push(sent.elapsed());
        std::thread::sleep(PACE);
    }
    seen.sort_unstable();
    seen
}

fn at(latencies: &[Duration], percent: usize) -> Duration {
    latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)]
}

#[test]
fn a_paused_shard_leaves_the_latency_of_the_others_alone() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    // foo is on the third server, bar on the first.
    let mut client = mecha.client();
    assert_eq!([client.call("SET foo 1"), client.call("SET bar 1")], ["+OK\r\n", "+OK\r\n"]);
    let is_over = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..16)
        .map(|number| {
            let (is_over, mut client) = (Arc::clone(&is_over), mecha.client());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let key = if number < 8 { "foo" } else { "bar" };
                    assert_eq!(client.call(&format!("GET {key}")), "$1\r\n1\r\n");
                    std::thread::sleep(PACE);
                }
            })
        })
        .collect();
    let wanted = "$1\r\n1\r\n";
    let time = Duration::from_millis(1500);
    let before = watch(&mut client, &["GET", "bar"], wanted, time);
    signal(cluster.nodes[2].0.id(), "STOP");
    let during = watch(&mut client, &["GET", "bar"], wanted, time);
    signal(cluster.nodes[2].0.id(), "CONT");
    is_over.store(true, Ordering::Relaxed);
    others.into_iter().for_each(|client| client.join().unwrap());
    let (p99, paused) = (at(&before, 99), at(&during, 99));
    eprintln!(
        "p50 {:?} and {:?}, p99 {p99:?} and {paused:?} with a paused shard",
        at(&before, 50),
        at(&during, 50)
    );
    assert!(
        paused < p99.mul_f64(1.5) + Duration::from_millis(50),
        "{p99:?} before, {paused:?} during the pause"
    );
}

#[test]
fn clients_that_all_come_back_at_once_do_not_disturb_those_that_are_there() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limit: usize = files.split_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap_or(1024);
    let count = 10_000.min(limit.saturating_sub(limit / 4));
    let Some((_redis, port)) = redis() else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{port}"));
    let is_over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let established: Vec<_> = (0..8)
        .map(|number| {
            let (is_over, served, mut client) = (Arc::clone(&is_over), Arc::clone(&served), mecha.client());
            std::thread::spawn(move || {
                let (mut round, mut longest) = (0, Duration::ZERO);
                while !is_over.load(Ordering::Relaxed) {
                    round += 1;
                    let (word, sent) = (format!("{number}-{round}"), Instant::now());
                    assert_eq!(
                        client.call(&format!("ECHO {word}")),
                        format!("${}\r\n{word}\r\n", word.len())
                    );
                    longest = longest.max(sent.elapsed());
                    served.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PACE);
                }
                longest
            })
        })
        .collect();
    for _ in 0..2 {
        let start = Instant::now();
        let before = served.load(Ordering::Relaxed);
        let request = frame(&["PING"]);
        let mut storm: Vec<_> = (0..count)
            .map(|_| {
                let mut stream = std::net::TcpStream::connect(("127.0.0.1", mecha.port)).unwrap();
                std::io::Write::write_all(&mut stream, &request).unwrap();
                stream
            })
            .collect();
        for stream in &mut storm {
            let mut answer = [0; 7];
            std::io::Read::read_exact(stream, &mut answer).unwrap();
            assert_eq!(&answer, b"+PONG\r\n");
        }
        let meanwhile = served.load(Ordering::Relaxed) - before;
        eprintln!(
            "{count} clients came in {:?}; those that were there made {meanwhile} calls",
            start.elapsed()
        );
        assert!(meanwhile > 0, "nobody was served meanwhile");
    }
    is_over.store(true, Ordering::Relaxed);
    let longest = established.into_iter().map(|client| client.join().unwrap()).max().unwrap();
    eprintln!("the longest call took {longest:?}");
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    assert_eq!(mecha.metric("mecha_refusals_total"), 0.0);
    mecha.settles();
}
