//! Redis clients of several mecha processes race on the same few keys of one Memcached: nothing is lost, nothing is done
//! twice, and what is answered with an error is not done. Also keys that Memcached cannot hold as they are.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::support::{Client, Mecha, PATIENCE, frame, memcached};

/// Clients of each process.
const CLIENTS: usize = 4;

/// How often each client goes round; longer ones are told by `MECHA_RACE_ROUNDS`.
fn rounds() -> usize {
    std::env::var("MECHA_RACE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60)
}

/// The number that was answered; `None` if the command lost too many races. Anything else is wrong.
#[track_caller]
fn number(reply: &str) -> Option<i64> {
    if reply.starts_with("-TRYAGAIN mecha: too many concurrent writes to the key") {
        return None;
    }
    let number = reply.strip_prefix(':').and_then(|number| number.trim_end().parse().ok());
    Some(number.unwrap_or_else(|| panic!("{reply:?}")))
}

/// Runs `work` for each of so many clients of each process, at the same time.
fn race<T: Send + 'static>(mechas: &[Mecha], work: fn(usize, &mut Client) -> T) -> Vec<T> {
    let ports = mechas.iter().flat_map(|mecha| [mecha.port; CLIENTS]);
    let threads: Vec<_> = ports
        .enumerate()
        .map(|(name, port)| std::thread::spawn(move || work(name, &mut Client::new(port))))
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn two_processes(to: u16) -> [Mecha; 2] {
    two_processes_at(&format!("memcached://127.0.0.1:{to}"))
}

fn two_processes_at(to: &str) -> [Mecha; 2] {
    [(); 2].map(|()| Mecha::start("redis", to))
}

#[derive(Default)]
struct Done {
    incremented: i64,
    field: i64,
    score: i64,
    pushed: BTreeSet<String>,
    added: BTreeSet<String>,
}

#[test]
fn nothing_is_lost_when_processes_race_on_the_same_keys() {
    let Some((_memcached, port)) = memcached() else { return };
    nothing_is_lost_at(&format!("memcached://127.0.0.1:{port}"));
}

/// Races of two processes before `to`.
pub(super) fn nothing_is_lost_at(to: &str) {
    let mechas = two_processes_at(to);
    let all = race(&mechas, |name, client| {
        let mut done = Done::default();
        for round in 0..rounds() {
            let own = format!("{name}-{round}");
            done.incremented += i64::from(number(&client.call("INCR count")).is_some());
            done.field += i64::from(number(&client.call("HINCRBY hash field 1")).is_some());
            client.send(&frame(&["ZINCRBY", "zset", "1", "member"]));
            let reply = client.reply();
            done.score += i64::from(reply.starts_with('$') || number(&reply).is_some());
            if number(&client.call(&format!("RPUSH list {own}"))).is_some() {
                done.pushed.insert(own.clone());
            }
            if number(&client.call(&format!("SADD set {own}"))).is_some_and(|added| added == 1) {
                done.added.insert(own);
            }
        }
        done
    });
    let mut client = mechas[1].client();
    let sum = |part: fn(&Done) -> i64| all.iter().map(part).sum::<i64>();
    assert_eq!(client.call("GET count"), bulk(&sum(|done| done.incremented).to_string()));
    assert_eq!(client.call("HGET hash field"), bulk(&sum(|done| done.field).to_string()));
    assert_eq!(client.call("ZSCORE zset member"), bulk(&sum(|done| done.score).to_string()));
    let listed = texts(&client.call("LRANGE list 0 -1"));
    let pushed: BTreeSet<String> = all.iter().flat_map(|done| done.pushed.clone()).collect();
    assert_eq!(listed.len(), pushed.len(), "an element is lost, or there twice");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), pushed);
    let added: BTreeSet<String> = all.iter().flat_map(|done| done.added.clone()).collect();
    assert_eq!(texts(&client.call("SMEMBERS set")).into_iter().collect::<BTreeSet<_>>(), added);
    assert!(sum(|done| done.incremented) > 0);
    assert!(
        mechas.iter().all(|mecha| mecha.metric("mecha_calls_total") > 100.0),
        "traffic did not cross mecha"
    );
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// The bulk strings of an array.
fn texts(reply: &str) -> Vec<String> {
    reply.split("\r\n").skip(2).step_by(2).map(str::to_owned).collect()
}

#[test]
fn aggregates_that_processes_create_and_empty_at_the_same_time_are_right() {
    let Some((_memcached, port)) = memcached() else { return };
    let mechas = two_processes(port);
    // What each client has put in less what it has taken out, and what it has popped.
    let all = race(&mechas, |name, client| {
        let (mut sets, mut hashes, mut zsets, mut pushed) = (0, 0, 0, BTreeSet::new());
        let mut popped = Vec::new();
        for round in 0..rounds() {
            let member = round % 2;
            sets += number(&client.call(&format!("SADD s {member}"))).unwrap_or(0);
            sets -= number(&client.call(&format!("SREM s {member}"))).unwrap_or(0);
            hashes += number(&client.call(&format!("HSET h {member} v"))).unwrap_or(0);
            hashes -= number(&client.call(&format!("HDEL h {member}"))).unwrap_or(0);
            zsets += number(&client.call(&format!("ZADD z 1 {member}"))).unwrap_or(0);
            zsets -= number(&client.call(&format!("ZREM z {member}"))).unwrap_or(0);
            let own = format!("{name}-{round}");
            if number(&client.call(&format!("RPUSH l {own}"))).is_some() {
                pushed.insert(own);
            }
            let reply = client.call("LPOP l");
            match texts(&format!("*1\r\n{reply}")).pop() {
                Some(element) if reply.starts_with('$') && !reply.starts_with("$-1") => popped.push(element),
                _ => assert!(reply.starts_with("$-1") || number(&reply).is_none(), "{reply}"),
            }
        }
        (sets, hashes, zsets, pushed, popped)
    });
    let mut client = mechas[0].client();
    assert_eq!(number(&client.call("SCARD s")), Some(all.iter().map(|one| one.0).sum()));
    assert_eq!(number(&client.call("HLEN h")), Some(all.iter().map(|one| one.1).sum()));
    assert_eq!(number(&client.call("ZCARD z")), Some(all.iter().map(|one| one.2).sum()));
    let pushed: BTreeSet<String> = all.iter().flat_map(|one| one.3.clone()).collect();
    let mut out: Vec<String> = all.iter().flat_map(|one| one.4.clone()).collect();
    out.extend(texts(&client.call("LRANGE l 0 -1")));
    assert_eq!(out.len(), pushed.len(), "an element is lost, or came out twice");
    assert_eq!(out.into_iter().collect::<BTreeSet<_>>(), pushed);
    for (key, command) in
        [("s", "SREM s 0 1"), ("h", "HDEL h 0 1"), ("z", "ZREM z 0 1"), ("l", "LTRIM l 1 0")]
    {
        client.call(command);
        assert_eq!(client.call(&format!("EXISTS {key}")), ":0\r\n", "an empty {key} is left");
    }
}

#[test]
fn a_command_that_loses_every_race_says_so_and_is_not_done() {
    let Some((_memcached, port)) = memcached() else { return };
    let mecha = Mecha::start("redis", &format!("memcached://127.0.0.1:{port}"));
    let mut client = mecha.client();
    assert_eq!(client.call("SET count 1000000000"), "+OK\r\n");
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    // Memcached programs that change the key all the time.
    let floods: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(move || {
                let (mut flood, mut sent) = (Client::new(port), 0);
                while !IS_OVER.load(Ordering::Relaxed) {
                    flood.send("incr count 1 noreply\r\n".repeat(500).as_bytes());
                    flood.send(b"mn\r\n");
                    assert_eq!(flood.line(), "MN\r\n");
                    sent += 500;
                }
                sent
            })
        })
        .collect();
    let (mut done, mut given_up) = (0, 0);
    let start = Instant::now();
    while given_up == 0 && start.elapsed() < PATIENCE {
        match number(&client.call("INCR count")) {
            Some(_) => done += 1,
            None => given_up += 1,
        }
    }
    IS_OVER.store(true, Ordering::Relaxed);
    let flooded: i64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    assert_eq!(client.call("GET count"), bulk(&(1_000_000_000 + flooded + done).to_string()));
    assert!(given_up > 0, "{done} commands, {flooded} changes, and none lost too often");
    assert!(number(&client.call("INCR count")).is_some(), "the race is over");
}

/// Keys of every form: as they are, in base64, and as a digest.
fn keys() -> Vec<Vec<u8>> {
    let (long, binary): (Vec<u8>, Vec<u8>) = (vec![b'k'; 10_000], (0..=255).cycle().take(20_000).collect());
    let of = |bytes: &[u8], len: usize| bytes[..len].to_vec();
    let mut keys = vec![
        Vec::new(),
        b"with space".to_vec(),
        b"\0".to_vec(),
        b"\r\nget x\r\n".to_vec(),
        b"\0mecha:x".to_vec(),
    ];
    keys.extend([249, 250, 251, 252, 10_000].map(|len| of(&long, len)));
    keys.extend([186, 187, 188, 250, 251, 20_000].map(|len| of(&binary, len)));
    // Those that differ in the last byte alone.
    keys.extend([b"a", b"b"].map(|end| [of(&long, 300).as_slice(), end].concat()));
    keys
}

fn call(client: &mut Client, words: &[&[u8]]) -> String {
    client.send(&frame(words));
    client.reply()
}

#[test]
fn keys_of_any_length_and_any_bytes_are_keys_of_their_own_in_every_process() {
    let Some((_memcached, port)) = memcached() else { return };
    let mechas = two_processes(port);
    let (mut one, mut other) = (mechas[0].client(), mechas[1].client());
    for (index, key) in keys().iter().enumerate() {
        assert_eq!(call(&mut one, &[b"SET", key, index.to_string().as_bytes(), b"EX", b"1000"]), "+OK\r\n");
    }
    for (index, key) in keys().iter().enumerate() {
        let shown = key.iter().take(20).collect::<Vec<_>>();
        assert_eq!(call(&mut other, &[b"GET", key]), bulk(&index.to_string()), "{} of {shown:?}", key.len());
        let ttl = number(&call(&mut other, &[b"TTL", key])).unwrap();
        assert!((900..=1000).contains(&ttl), "{ttl}");
        assert_eq!(call(&mut other, &[b"TYPE", key]), "+string\r\n");
        assert_eq!(
            call(&mut other, &[b"RPUSH", key, b"x"]),
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        );
        assert_eq!(call(&mut other, &[b"DEL", key]), ":1\r\n");
        assert_eq!(call(&mut one, &[b"HSET", key, b"f", key]), ":1\r\n");
        assert_eq!(call(&mut other, &[b"HSTRLEN", key, b"f"]), format!(":{}\r\n", key.len()));
    }
    let all = keys();
    let words: Vec<&[u8]> = [b"DEL".as_slice()].into_iter().chain(all.iter().map(Vec::as_slice)).collect();
    assert_eq!(call(&mut one, &words), format!(":{}\r\n", all.len()));
}

#[test]
fn two_keys_with_one_digest_are_told_apart() {
    let Some((_memcached, port)) = memcached() else { return };
    let mecha = Mecha::start("redis", &format!("memcached://127.0.0.1:{port}"));
    let mut client = mecha.client();
    let key = vec![b'k'; 300];
    assert_eq!(call(&mut client, &[b"SET", &key, b"value"]), "+OK\r\n");
    // Nobody has two keys with one SHA-256, so the item gets the name of another key, as if such a key had been stored.
    let mut raw = Client::new(port);
    raw.send(b"lru_crawler metadump all\r\n");
    let line = raw.line();
    let name = line.strip_prefix("key=").and_then(|rest| rest.split(' ').next()).expect(&line).to_owned();
    while raw.line() != "END\r\n" {}
    let item = base64(&percent_decoded(&name));
    raw.send(format!("mg {item} v f b\r\n").as_bytes());
    let (answer, _) = raw.drain(std::time::Duration::from_millis(300));
    let end = answer.iter().position(|byte| *byte == b'\n').unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut words = head.trim_end().split(' ').skip(1);
    let (size, flags) = (words.next().unwrap().to_owned(), words.next().unwrap().to_uppercase());
    let mut value = answer[end + 1..].to_vec();
    let at = value.windows(300).position(|part| part == key).expect("the item does not tell its key");
    value[at + 299] = b'x';
    raw.send(format!("ms {item} {size} {flags} b\r\n").as_bytes());
    raw.writer.write_all(&value).unwrap();
    assert_eq!(raw.line(), "HD\r\n");
    for words in [
        &[b"GET", key.as_slice()][..],
        &[b"APPEND", &key, b"x"],
        &[b"EXISTS", &key],
        &[b"SET", &key, b"x", b"GET"],
    ] {
        assert_eq!(call(&mut client, words), "-ERR mecha: two keys share a digest\r\n");
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, more @ ..] = rest {
        match (first, more.split_at_checked(2)) {
            (b'%', Some((digits, more))) => {
                out.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
                rest = more;
            }
            _ => {
                out.push(*first);
                rest = more;
            }
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    mecha_memcached::base64::encode(bytes, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn what_a_transaction_makes_of_the_session_is_kept_only_if_it_is_done() {
    let Some((memcached, port)) = memcached() else { return };
    let mecha = Mecha::start("redis", &format!("memcached://127.0.0.1:{port}"));
    let mut client = mecha.client();
    // All at once: what comes behind waits until it is known how the transaction ends.
    let piped = |client: &mut Client, lines: &[&str]| -> Vec<String> {
        client.send(
            &lines.iter().flat_map(|line| frame(&line.split(' ').collect::<Vec<_>>())).collect::<Vec<_>>(),
        );
        lines.iter().map(|_| client.reply()).collect()
    };
    let lines = ["MULTI", "CLIENT SETNAME first", "SET k v", "EXEC", "CLIENT GETNAME", "GET k"];
    assert_eq!(piped(&mut client, &lines)[3..], ["*2\r\n+OK\r\n+OK\r\n", "$5\r\nfirst\r\n", "$1\r\nv\r\n"]);
    let several = ["MULTI", "CLIENT SETNAME several", "SET k v", "SET k2 v", "EXEC", "CLIENT GETNAME"];
    let replies = piped(&mut client, &several);
    assert!(replies[4].starts_with("-EXECABORT"), "{replies:?}");
    assert_eq!(replies[5], "$5\r\nfirst\r\n");
    drop(memcached);
    let lost = ["MULTI", "CLIENT SETNAME second", "HELLO 3", "GET k", "EXEC", "CLIENT GETNAME", "HGETALL k"];
    let replies = piped(&mut client, &lost);
    assert!(replies[4].starts_with("-ERR mecha: backend"), "{replies:?}");
    assert_eq!(replies[5], "$5\r\nfirst\r\n");
    assert_eq!(client.call("CLIENT GETNAME"), "$5\r\nfirst\r\n");
    assert_eq!(client.call("MULTI"), "+OK\r\n");
    assert_eq!(client.call("EXEC"), "*0\r\n");
}
