//! Slots that move under every kind of call that needs them whole: commands of several keys, scripts, transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Client, Mecha, RedisCluster, frame};

/// Keys of one slot that calls use together, so that many are on their way at once when it moves.
const KEYS: usize = 24;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(Into::into).collect()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Sends `calls` in one piece, or one after another, and checks every reply.
fn check(client: &mut Client, is_deep: bool, calls: &[(Vec<String>, String)]) {
    if is_deep {
        client.send(&calls.iter().flat_map(|(call, _)| frame(call)).collect::<Vec<_>>());
    }
    for (call, wanted) in calls {
        if !is_deep {
            client.send(&frame(call));
        }
        let reply = client.reply();
        assert_eq!(
            reply,
            *wanted,
            "{call:?} in {:?}",
            calls.iter().map(|call| &call.0[0]).collect::<Vec<_>>()
        );
    }
}

/// A client that uses keys of one slot in every way, and knows each answer.
fn whole(port: u16, tag: &str, is_deep: bool, stop: &AtomicBool) -> usize {
    let (mut client, mut round) = (Client::new(port), 0);
    let key = |number: usize| format!("{tag}{number}");
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let (mut set, mut get, mut values) = (words("MSET"), words("MGET"), String::new());
        for number in 0..KEYS {
            let value = format!("{round}.{number}");
            set.extend([key(number), value.clone()]);
            get.push(key(number));
            values += &bulk(&value);
        }
        let all = format!("*{KEYS}\r\n{values}");
        check(&mut client, is_deep, &[(set, "+OK\r\n".into()), (get.clone(), all.clone())]);
        let mut script = words("EVAL");
        script.push("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('MGET', unpack(KEYS))".into());
        script.push(KEYS.to_string());
        script.extend((0..KEYS).map(key));
        script.push(format!("{round}.0"));
        check(&mut client, is_deep, &[(script, all.clone()), (get.clone(), all.clone())]);
        let transaction = [
            (words("MULTI"), "+OK\r\n".into()),
            (words(&format!("SET {} {round}.t", key(1))), "+QUEUED\r\n".into()),
            (words(&format!("INCR {tag}count")), "+QUEUED\r\n".into()),
            (words(&format!("GET {}", key(KEYS - 1))), "+QUEUED\r\n".into()),
            (words("EXEC"), format!("*3\r\n+OK\r\n:{round}\r\n{}", bulk(&format!("{round}.{}", KEYS - 1)))),
            (words(&format!("GET {}", key(1))), bulk(&format!("{round}.t"))),
        ];
        check(&mut client, is_deep, &transaction);
    }
    round
}

#[test]
fn calls_that_need_a_slot_whole_do_not_fail_while_it_moves() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let stop = Arc::new(AtomicBool::new(false));
    let tags: Vec<_> = (0..6).map(|number| format!("{{whole:{number}}}")).collect();
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let (tag, port, stop) = (tags[number].clone(), mecha.port, Arc::clone(&stop));
            std::thread::spawn(move || whole(port, &tag, number % 2 == 0, &stop))
        })
        .collect();
    let mut client = mecha.client();
    let slots: Vec<u16> = tags
        .iter()
        .map(|tag| client.call(&format!("CLUSTER KEYSLOT {tag}"))[1..].trim_end().parse().unwrap())
        .collect();
    for round in 0..8 {
        for slot in &slots {
            std::thread::sleep(Duration::from_millis(20));
            let from = (0..3).find(|at| cluster.slots_of(*at).contains(slot)).unwrap();
            cluster.move_slot(*slot, from, (from + 1 + round % 2) % 3);
        }
        assert!(clients.iter().all(|client| !client.is_finished()), "a command has failed");
    }
    stop.store(true, Ordering::Relaxed);
    let rounds: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(rounds > 100, "{rounds}");
    let metrics = mecha.get("/metrics");
    for kind in ["ask", "later", "moved"] {
        let kind = format!("kind=\"{kind}\"}}");
        let count = metrics.lines().find_map(|line| line.split_once(&kind)?.1.trim().parse::<f64>().ok());
        assert!(count > Some(10.0), "{kind} {count:?}: hardly anything was on its way");
    }
    drop(client);
    mecha.settles();
}

/// A scan in pieces.
struct Scan {
    client: Client,
    cursor: String,
    count: u32,
    keys: Vec<String>,
}

impl Scan {
    fn begin(port: u16) -> Self {
        Self { client: Client::new(port), cursor: "0".into(), count: 20, keys: Vec::new() }
    }

    /// One call. `false` once it is over.
    fn step(&mut self) -> bool {
        let reply = self.client.call(&format!("SCAN {} COUNT {}", self.cursor, self.count));
        let mut lines = reply.split("\r\n").skip(2);
        self.cursor = lines.next().unwrap_or_default().into();
        self.keys
            .extend(lines.skip(1).filter(|line| !line.is_empty() && !line.starts_with('$')).map(Into::into));
        self.cursor != "0"
    }

    fn run(mut self) -> Vec<String> {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 10_000, "the scan does not end");
        }
        self.keys.sort();
        self.keys
    }
}

#[test]
fn a_scan_sees_what_moves_behind_its_back() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let mut client = mecha.client();
    let mut all: Vec<_> = (0..1500).map(|number| format!("key-{number}")).collect();
    all.iter().for_each(|key| assert_eq!(client.call(&format!("SET {key} v")), "+OK\r\n"));
    all.sort();
    // In peace, each key once, and no call more than servers need.
    let mut whole = Scan::begin(mecha.port);
    whole.count = 10_000;
    assert!(whole.step() && whole.step() && !whole.step(), "{}", whole.cursor);
    whole.keys.sort();
    assert_eq!(whole.keys, all);
    assert_eq!(Scan::begin(mecha.port).run(), all);
    // Slots of keys of every server go round, while scans are at different places.
    let mut scans: Vec<_> = (0..4).map(|_| Scan::begin(mecha.port)).collect();
    let slot_of = |number: usize| -> u16 {
        let reply = Client::new(cluster.port(0)).call(&format!("CLUSTER KEYSLOT key-{number}"));
        reply.trim_start_matches(':').trim_end().parse().unwrap()
    };
    for (turn, slot) in (0..24).map(slot_of).enumerate() {
        let from = (0..3).find(|at| cluster.slots_of(*at).contains(&slot)).unwrap();
        cluster.move_slot(slot, from, (from + 1 + turn % 2) % 3);
        cluster.agrees();
        for scan in scans.iter_mut().skip(turn % 2) {
            (0..4).for_each(|_| {
                scan.step();
            });
        }
    }
    // One stays under way: its first keys have left, and nobody holds it otherwise than before.
    let slot = slot_of(77);
    let from = (0..3).find(|at| cluster.slots_of(*at).contains(&slot)).unwrap();
    let late = Scan::begin(mecha.port);
    cluster.begin_move(slot, from, (from + 2) % 3);
    for (number, scan) in scans.into_iter().chain([late]).enumerate() {
        let mut seen = scan.run();
        seen.dedup();
        let missing: Vec<_> = all.iter().filter(|key| !seen.contains(key)).collect();
        assert!(missing.is_empty(), "scan {number} has missed {missing:?}");
        assert_eq!(seen, all);
    }
}
