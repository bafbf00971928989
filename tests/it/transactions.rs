//! Transactions and blocked calls on a cluster that changes under them: all of it or nothing, and who is told that it
//! failed is told the truth.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Client, Mecha, PATIENCE, RedisCluster, eventually, frame, signal};

fn slot_of(client: &mut Client, key: &str) -> u16 {
    client.call(&format!("CLUSTER KEYSLOT {key}"))[1..].trim_end().parse().unwrap()
}

fn number(reply: &str) -> u64 {
    match reply.strip_prefix("$-1") {
        Some(_) => 0,
        None => {
            reply.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{reply:?}"))
        }
    }
}

/// What came of one client's transactions.
#[derive(Debug, Default)]
struct Outcome {
    done: u64,
    /// The watched key had changed, or was moved.
    conflicts: u64,
    /// An error that says that nothing was done.
    refused: u64,
    /// An error that says that it may have been.
    doubtful: u64,
}

/// Counts two keys of one slot up together, by optimistic locking.
fn check_and_set(port: u16, stop: &AtomicBool) -> Outcome {
    let (mut client, mut seen) = (Client::new(port), Outcome::default());
    while !stop.load(Ordering::Relaxed) {
        let watched = client.call("WATCH {cas}a");
        if watched != "+OK\r\n" {
            assert!(watched.starts_with("-TRYAGAIN") || watched.starts_with("-ERR mecha"), "{watched}");
            seen.refused += 1;
            client.call("UNWATCH");
            continue;
        }
        let read = client.call("GET {cas}a");
        if read.starts_with('-') {
            seen.refused += 1;
            client.call("UNWATCH");
            continue;
        }
        let next = number(&read) + 1;
        assert_eq!(client.call("MULTI"), "+OK\r\n");
        let queued = [client.call(&format!("SET {{cas}}a {next}")), client.call("INCR {cas}b")];
        let reply = client.call("EXEC");
        match &*reply {
            "*-1\r\n" => seen.conflicts += 1,
            reply if reply.starts_with("*2\r\n+OK\r\n:") => {
                assert!(queued.iter().all(|reply| reply == "+QUEUED\r\n"), "{queued:?}, and yet {reply}");
                seen.done += 1;
            }
            reply if reply.contains("may have run") => seen.doubtful += 1,
            reply if reply.starts_with("-EXECABORT") || reply.starts_with("-TRYAGAIN") => seen.refused += 1,
            reply => panic!("EXEC: {reply} after {queued:?}"),
        }
    }
    seen
}

#[test]
fn a_watched_transaction_whose_slot_moves_is_done_as_a_whole_or_not_at_all() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mechas = [(); 2].map(|()| Mecha::start("redis", &cluster.to()));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|number: usize| {
            let (port, stop) = (mechas[number % 2].port, Arc::clone(&stop));
            std::thread::spawn(move || check_and_set(port, &stop))
        })
        .collect();
    let mut client = mechas[0].client();
    let slot = slot_of(&mut client, "{cas}");
    for round in 0..16 {
        std::thread::sleep(Duration::from_millis(60));
        let from = (0..3).find(|at| cluster.slots_of(*at).contains(&slot)).unwrap();
        cluster.move_slot(slot, from, (from + 1 + round % 2) % 3);
        assert!(clients.iter().all(|client| !client.is_finished()), "a client has seen half a transaction");
    }
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    let all: Vec<Outcome> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let sum = |part: fn(&Outcome) -> u64| all.iter().map(part).sum::<u64>();
    let (first, second) = (number(&client.call("GET {cas}a")), number(&client.call("GET {cas}b")));
    assert_eq!(first, second, "half of a transaction was done: {all:?}");
    let done = sum(|seen| seen.done);
    assert!((done..=done + sum(|seen| seen.doubtful)).contains(&first), "{first} times, {all:?}");
    assert!(done > 20 && sum(|seen| seen.conflicts) + sum(|seen| seen.refused) > 0, "{all:?}");
    drop(client);
    mechas.iter().for_each(Mecha::settles);
}

#[test]
fn a_transaction_whose_primary_dies_is_never_done_by_half() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    // foo's server, with clients in every stage of a transaction: key by key, and with and without WATCH.
    let mut clients: Vec<Client> = (0..12).map(|_| mecha.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        let words = |text: String| frame(&text.split(' ').collect::<Vec<_>>());
        let mut calls = Vec::new();
        if at % 2 == 1 {
            calls.push(format!("WATCH {{foo}}{at}:a"));
        }
        calls.push("MULTI".into());
        if at % 4 > 1 {
            calls.push(format!("SET {{foo}}{at}:a 1"));
        }
        for call in calls {
            client.send(&words(call));
            assert!(client.reply().starts_with('+'));
        }
    }
    signal(cluster.nodes[2].0.id(), "KILL");
    let _ = cluster.nodes[2].0.wait(Duration::from_secs(10));
    let outcomes: Vec<(Vec<String>, String)> = clients
        .into_iter()
        .enumerate()
        .map(|(at, mut client)| {
            std::thread::spawn(move || {
                // What was built up on the lost server may have ended the client's own connection: it is told so too.
                let start = Instant::now();
                let mut say = |call: &str| {
                    let sent = client.writer.write_all(&frame(&call.split(' ').collect::<Vec<_>>()));
                    let reply = sent.map_or_else(|_| String::new(), |()| client.reply());
                    assert!(start.elapsed() < PATIENCE, "{call} is neither answered nor ended");
                    reply
                };
                let first = (at % 4 < 2).then(|| say(&format!("SET {{foo}}{at}:a 1")));
                let second = say(&format!("SET {{foo}}{at}:b 1"));
                (first.into_iter().chain([second]).collect(), say("EXEC"))
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let mut client = mecha.client();
    eventually("the replica does not take over", || client.call("SET foo 1") == "+OK\r\n");
    let mut done = 0;
    for (at, (queued, exec)) in outcomes.iter().enumerate() {
        let found = client.call(&format!("EXISTS {{foo}}{at}:a {{foo}}{at}:b"));
        assert_ne!(found, ":1\r\n", "half of transaction {at} was done: {queued:?} {exec}");
        let is_done = found == ":2\r\n";
        done += usize::from(is_done);
        if exec == "*2\r\n+OK\r\n+OK\r\n" {
            assert!(is_done, "transaction {at} was not done: {queued:?} {exec}");
        } else {
            assert!(exec.is_empty() || exec.starts_with('-') && !exec.contains("MOVED"), "{exec}");
            // A closed connection tells nothing of an EXEC that was sent, as a server's own death does not.
            let is_doubtful =
                exec.contains("may have run") || exec.is_empty() && !queued.concat().contains('-');
            assert!(!is_done || is_doubtful, "transaction {at} was done: {queued:?} {exec}");
        }
    }
    eprintln!("{done} of {} transactions were done: {outcomes:?}", outcomes.len());
    cluster.nodes.remove(2);
    drop(client);
    mecha.settles();
}

/// Waits until so many clients of server `at` are blocked.
fn blocked(cluster: &RedisCluster, at: usize, count: usize) {
    eventually("nobody is blocked", || {
        Client::new(cluster.port(at)).call("INFO clients").contains(&format!("blocked_clients:{count}\r\n"))
    });
}

#[test]
fn a_blocked_call_whose_slot_moves_goes_on_at_the_other_server() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let calls = [
        "BLPOP {foo}list 0",
        "BRPOP {foo}list 0",
        "BLMOVE {foo}list {foo}to LEFT RIGHT 0",
        "BZPOPMIN {foo}zset 0",
        "BLMPOP 0 1 {foo}list LEFT",
        "XREAD BLOCK 0 STREAMS {foo}stream $",
    ];
    let mut waiting: Vec<Client> = calls.iter().map(|_| mecha.client()).collect();
    for (client, call) in waiting.iter_mut().zip(calls) {
        client.send(&frame(&call.split(' ').collect::<Vec<_>>()));
    }
    blocked(&cluster, 2, calls.len());
    cluster.move_slot(12182, 2, 0);
    blocked(&cluster, 0, calls.len());
    let mut other = mecha.client();
    assert!(other.call("RPUSH {foo}list a b c d").starts_with(':'));
    assert_eq!(other.call("ZADD {foo}zset 1 m"), ":1\r\n");
    assert!(other.call("XADD {foo}stream 1-1 f v").starts_with('$'));
    for (client, call) in waiting.iter_mut().zip(calls) {
        let reply = client.reply();
        assert!(!reply.is_empty() && !reply.starts_with('-'), "{call}: {reply}");
        assert_eq!(client.call("PING"), "+PONG\r\n", "{call}");
    }
    drop((waiting, other));
    mecha.settles();
}

#[test]
fn a_blocked_call_whose_slot_moves_ends_at_its_own_time() {
    let Some(cluster) = RedisCluster::start() else { return };
    let mecha = Mecha::start("redis", &cluster.to());
    let mut client = mecha.client();
    let start = Instant::now();
    client.send(&frame(&["BLPOP", "{foo}list", "3"]));
    blocked(&cluster, 2, 1);
    std::thread::sleep(Duration::from_millis(1500).saturating_sub(start.elapsed()));
    cluster.move_slot(12182, 2, 0);
    assert_eq!(client.reply(), "*-1\r\n");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(2900) && took < Duration::from_millis(4200), "{took:?}");
}
