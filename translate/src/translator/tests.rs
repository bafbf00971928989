//! The translator against a server that keeps items as memcached does, with replies in any order between endpoints.

use std::collections::{BTreeMap, HashMap, VecDeque};

use mecha_core::{ConnKey, Refusal};
use mecha_memcached::Memcached;
use proptest::prelude::*;

use super::*;
use crate::kv::Encoded;
use crate::kv::Guard;
use crate::memcached_back::tests::head;
use crate::toy::{PEER, Requests, Toy, request, words};

const NOW: u64 = 1_700_000_000_000;
const ENDPOINTS: usize = 3;

/// One memcached server, as far as meta commands go. Time stands still unless a test moves it.
#[derive(Default)]
struct Server {
    items: BTreeMap<Vec<u8>, Item>,
    cas: u64,
}

struct Item {
    flags: String,
    value: Vec<u8>,
    cas: u64,
    expires_s: Option<u64>,
}

impl Server {
    fn execute(&mut self, frame: &[u8], now_ms: u64) -> Vec<u8> {
        let now_s = now_ms / 1000;
        self.items.retain(|_, item| item.expires_s.is_none_or(|at| at > now_s));
        let end = frame.iter().position(|&byte| byte == b'\n').expect("a frame has a line");
        let line = std::str::from_utf8(&frame[..end - 1]).expect("a line is text");
        let words: Vec<&str> = line.split(' ').collect();
        let flag = |name: char| words.iter().skip(2).find_map(|word| word.strip_prefix(name));
        let cas = flag('C').map(|cas| cas.parse::<u64>().unwrap());
        if words[0] == "flush_all" {
            self.items.clear();
            return b"OK\r\n".to_vec();
        }
        let key = words[1].as_bytes().to_vec();
        let held = self.items.get(&key);
        match words[0] {
            "mg" => {
                let Some(item) = held else { return b"EN\r\n".to_vec() };
                let left = item.expires_s.map_or("-1".into(), |at| (at - now_s).to_string());
                let flags = format!("t{left} f{} c{}\r\n", item.flags, item.cas);
                if flag('v').is_none() {
                    return format!("HD {flags}").into_bytes();
                }
                let mut reply = format!("VA {} {flags}", item.value.len()).into_bytes();
                reply.extend_from_slice(&item.value);
                reply.extend_from_slice(b"\r\n");
                reply
            }
            "md" => match (held, cas) {
                (None, _) => b"NF\r\n".to_vec(),
                (Some(item), Some(cas)) if item.cas != cas => b"EX\r\n".to_vec(),
                _ => {
                    self.items.remove(&key);
                    b"HD\r\n".to_vec()
                }
            },
            "ms" => {
                match (held, cas, flag('M')) {
                    (None, Some(_), _) => return b"NF\r\n".to_vec(),
                    (Some(item), Some(cas), _) if item.cas != cas => return b"EX\r\n".to_vec(),
                    (Some(_), _, Some("E")) | (None, _, Some("R")) => return b"NS\r\n".to_vec(),
                    _ => {}
                }
                let value = frame[end + 1..frame.len() - 2].to_vec();
                assert_eq!(value.len().to_string(), words[2]);
                self.cas += 1;
                let expires_s = flag('T').map(|ttl| match ttl.parse::<i64>().unwrap() {
                    ttl if ttl < 0 => 0,
                    ttl if ttl > 60 * 60 * 24 * 30 => ttl as u64,
                    ttl => now_s + ttl as u64,
                });
                let flags = flag('F').unwrap_or("0").into();
                self.items.insert(key, Item { flags, value, cas: self.cas, expires_s });
                b"HD\r\n".to_vec()
            }
            other => panic!("no such command: {other}"),
        }
    }
}

/// Tokens and frames, oldest first.
type Connection = VecDeque<(u32, Vec<u8>)>;

/// Clients, translators and endpoints. Each endpoint executes and answers in order; between them any order goes.
struct Rig {
    translators: Vec<Translator<Toy, Memcached>>,
    servers: Vec<Server>,
    /// For each endpoint, by translator: what is on its connection.
    connections: Vec<Vec<Connection>>,
    clients: Vec<Client>,
    now_ms: u64,
}

struct Client {
    translator: usize,
    requests: Requests,
    next: usize,
    answers: HashMap<u32, Vec<String>>,
    closed: bool,
}

impl Rig {
    fn new(translators: usize, clients: &[Vec<Vec<u8>>]) -> Self {
        let options =
            Options { endpoints: ENDPOINTS, max_in_flight: 64, max_value: 1000, ..Options::default() };
        Self {
            translators: (0..translators).map(|_| Translator::new(options)).collect(),
            servers: (0..ENDPOINTS).map(|_| Server::default()).collect(),
            connections: (0..ENDPOINTS).map(|_| vec![VecDeque::new(); translators]).collect(),
            clients: clients
                .iter()
                .enumerate()
                .map(|(index, frames)| Client {
                    translator: index % translators,
                    requests: Requests::new(index as u32, frames),
                    next: 0,
                    answers: HashMap::new(),
                    closed: false,
                })
                .collect(),
            now_ms: NOW,
        }
    }

    /// One client on one translator.
    fn of(lines: &[&str]) -> Self {
        let mut rig = Self::new(1, &[lines.iter().map(|line| words(line)).collect()]);
        rig.submit_all();
        rig
    }

    fn transmit(&mut self, translator: usize, out: BackFrames) {
        for frame in out.frames {
            let key = frame.key.of(&out.wire, &[]);
            let hashed = key.iter().fold(0_usize, |hash, &byte| hash.wrapping_mul(31) + byte as usize);
            let endpoint = frame.endpoint.map_or(hashed % ENDPOINTS, usize::from);
            let bytes = frame.span.of(&out.wire, &[]).to_vec();
            self.connections[endpoint][translator].push_back((frame.token, bytes));
        }
    }

    fn submit(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let translator = client.translator;
        let mut out = BackFrames::default();
        while client.next < client.requests.calls.len() && !client.closed {
            let range = client.next..client.requests.calls.len();
            let mut batch = client.requests.batch();
            match self.translators[translator].requests(&mut batch, range, &PEER, self.now_ms, &mut out) {
                Taken::Answered(count) => {
                    for index in client.next..client.next + count {
                        let answer = client.requests.answer(index).expect("an answered call has its answer");
                        client.answers.entry(index as u32).or_default().push(answer);
                    }
                    client.next += count;
                }
                Taken::Close(count) => {
                    for index in client.next..client.next + count {
                        let answer = client.requests.answer(index).expect("an answered call has its answer");
                        client.answers.entry(index as u32).or_default().push(answer);
                    }
                    client.next += count;
                    client.closed = true;
                }
                Taken::Full => break,
                Taken::Pending(count) => client.next += count,
            }
        }
        self.transmit(translator, out);
    }

    fn submit_all(&mut self) {
        (0..self.clients.len()).for_each(|index| self.submit(index));
    }

    fn deliver(&mut self, answers: Answers) {
        for answer in &answers.list {
            let text = String::from_utf8_lossy(answer.span.of(&answers.wire, &[])).into_owned();
            let client = &mut self.clients[answer.ticket.conn.index as usize];
            client.answers.entry(answer.ticket.seq).or_default().push(text);
        }
    }

    /// Executes and answers the oldest frame on a connection, or fails it.
    fn step(&mut self, endpoint: usize, translator: usize, failure: Option<Refusal>) -> bool {
        let Some((token, frame)) = self.connections[endpoint][translator].pop_front() else { return false };
        let (mut out, mut answers) = (BackFrames::default(), Answers::default());
        // A step that fails may or may not have run.
        let reply = self.servers[endpoint].execute(&frame, self.now_ms);
        let machine = &mut self.translators[translator];
        match failure {
            None => machine.reply(token, &head(&reply), &reply, self.now_ms, &mut out, &mut answers),
            Some(why) => {
                machine.fail(token, why, self.now_ms, &mut out, &mut answers);
                // Late replies hit nobody.
                machine.reply(token, &head(&reply), &reply, self.now_ms, &mut out, &mut answers);
            }
        }
        self.transmit(translator, out);
        self.deliver(answers);
        self.submit_all();
        true
    }

    /// Runs until nothing is in flight, in an order that `choices` picks.
    fn run(&mut self, mut choices: impl FnMut() -> usize) {
        self.submit_all();
        for _ in 0..1_000_000 {
            let busy: Vec<(usize, usize)> = (0..ENDPOINTS)
                .flat_map(|endpoint| {
                    (0..self.translators.len()).map(move |translator| (endpoint, translator))
                })
                .filter(|&(endpoint, translator)| !self.connections[endpoint][translator].is_empty())
                .collect();
            if busy.is_empty() {
                return;
            }
            let (endpoint, translator) = busy[choices() % busy.len()];
            self.step(endpoint, translator, None);
        }
        panic!("still busy");
    }

    fn answers(&self, client: usize) -> Vec<String> {
        let client = &self.clients[client];
        (0..client.requests.calls.len() as u32)
            .map(|seq| match client.answers.get(&seq).map(Vec::as_slice) {
                Some([answer]) => answer.clone(),
                Some(several) => panic!("answers to {seq}: {several:?}"),
                None => panic!("no answer to {seq}"),
            })
            .collect()
    }

    fn in_flight(&self) -> usize {
        self.translators
            .iter()
            .map(|translator| {
                assert!(translator.pending.len() > 0 || translator.machines.is_empty());
                assert!(
                    translator.pending.len() > 0 || (translator.reserved == 0 && translator.locks.is_empty())
                );
                assert!(translator.pending.len() > 0 || translator.flushes.is_empty());
                translator.in_flight()
            })
            .sum()
    }
}

/// Answers to the lines of one client, sent in one pipeline.
fn says(lines: &[&str]) -> Vec<String> {
    let mut rig = Rig::of(lines);
    rig.run(|| 0);
    assert_eq!(rig.in_flight(), 0);
    rig.answers(0)
}

#[test]
fn a_run_of_calls_is_all_in_flight_or_all_answered() {
    let frames = ["get a", "get b", "ping", "ping", "get a", "quit"].map(words);
    let mut requests = Requests::new(0, &frames);
    let mut translator = Translator::<Toy, Memcached>::new(Options::default());
    let mut out = BackFrames::default();
    let mut take = |from| translator.requests(&mut requests.batch(), from..6, &PEER, NOW, &mut out);
    assert_eq!(
        (take(0), take(2), take(4), take(5)),
        (Taken::Pending(2), Taken::Answered(2), Taken::Pending(1), Taken::Close(1))
    );
    assert_eq!(out.frames.len(), 3);
    assert_eq!(out.frames[1].key.of(&out.wire, &[]), b"b");
}

#[test]
fn pipelined_commands_on_one_key_take_effect_in_order() {
    assert_eq!(
        says(&[
            "push k a",
            "push k b",
            "get k",
            "del k",
            "get k",
            "set k 1",
            "incr k",
            "get k",
            "incr k",
            "set k 7 nx"
        ]),
        ["int:1", "int:2", "list", "ok", "nil", "ok", "int:2", "str:2", "int:3", "guarded"]
    );
}

#[test]
fn a_fast_step_behind_a_machine_on_another_key_does_not_wait() {
    let mut rig = Rig::of(&["push slow a", "get zz", "get slow"]);
    // The machine's load is first on its connection; answer the other endpoint alone.
    let slow = (0..ENDPOINTS)
        .find(|&at| rig.connections[at][0].iter().any(|(_, f)| f.starts_with(b"mg slow")))
        .unwrap();
    let other = (0..ENDPOINTS).find(|&at| at != slow && rig.step(at, 0, None));
    assert!(other.is_some(), "the two keys should be on different endpoints");
    assert_eq!(rig.clients[0].answers.get(&1), Some(&vec!["nil".to_string()]));
    assert_eq!(rig.clients[0].answers.get(&2), None);
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["int:1", "nil", "list"]);
}

#[test]
fn clients_of_one_translator_do_not_race_each_other() {
    let clients: Vec<Vec<Vec<u8>>> = (0..20).map(|_| vec![words("incr n")]).collect();
    let mut rig = Rig::new(1, &clients);
    let mut steps = 0;
    rig.run(|| {
        steps += 1;
        0
    });
    // They share one load and one store.
    assert_eq!(steps, 2);
    let mut counts: Vec<String> = (0..20).flat_map(|client| rig.answers(client)).collect();
    counts.sort_by_key(|count| count.len() * 1000 + count.as_bytes()[count.len() - 1] as usize);
    assert_eq!(counts.len(), 20);
    assert!(counts.contains(&"int:20".to_string()));
}

#[test]
fn programs_that_only_read_do_not_wait_for_each_other() {
    let mut rig = Rig::new(
        1,
        &[vec![words("push l x"), words("head l")], vec![words("head l")], vec![words("head l")]],
    );
    for client in &mut rig.clients {
        client.requests.calls.last_mut().unwrap().class = OpClass::Read;
    }
    rig.submit_all();
    // The loads of the push and of the two other clients; the pusher's own read comes behind its push.
    assert_eq!(rig.in_flight(), 3);
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["int:1", "list None"]);
    assert_eq!((rig.answers(1), rig.answers(2)), (vec!["nil".into()], vec!["nil".into()]));
}

#[test]
fn a_lost_race_starts_over_from_fresh_slots() {
    let clients: Vec<Vec<Vec<u8>>> = (0..2).map(|_| vec![words("incr n"); 50]).collect();
    let mut rig = Rig::new(2, &clients);
    let mut random = Random(3);
    rig.run(|| random.next() as usize);
    let mut seen: Vec<String> = [rig.answers(0), rig.answers(1)].concat();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 100, "each increment has its own result");
}

#[test]
fn a_race_that_is_always_lost_ends_as_contended() {
    let mut rig = Rig::of(&["incr n"]);
    let mut writes = 0;
    while rig.in_flight() > 0 {
        let at = (0..ENDPOINTS).find(|&at| !rig.connections[at][0].is_empty()).unwrap();
        if rig.connections[at][0][0].1.starts_with(b"ms") {
            let number = format!("ms n 1\r\n{}\r\n", writes % 10);
            rig.servers[at].execute(number.as_bytes(), NOW);
            writes += 1;
        }
        rig.step(at, 0, None);
    }
    assert_eq!(rig.answers(0), ["error:Contended"]);
    assert_eq!(writes, 65, "one try and 64 more");
}

#[test]
fn a_deletion_that_lost_its_race_counts_every_key_once() {
    let mut rig = Rig::of(&["mset a 1 b 2 c 3", "dels a b c", "get b"]);
    let mut raced = false;
    while rig.in_flight() > 0 {
        let at = (0..ENDPOINTS).find(|&at| !rig.connections[at][0].is_empty()).unwrap();
        if rig.connections[at][0][0].1.starts_with(b"md b") && !raced {
            rig.servers[at].execute(b"ms b 1\r\n9\r\n", NOW);
            raced = true;
        }
        rig.step(at, 0, None);
    }
    assert!(raced);
    assert_eq!(rig.answers(0), ["ok", "int:3", "nil"]);
}

#[test]
fn all_or_nothing_over_two_keys_is_refused_with_nothing_written() {
    assert_eq!(
        says(&["set a 1", "move a b", "get a", "get b", "move x y"]),
        ["ok", "error:Unsupported", "str:1", "nil", "nil"]
    );
}

#[test]
fn of_those_that_share_a_store_only_the_one_that_does_not_fit_is_refused() {
    let (fits, large) = (format!("push l {}", "s".repeat(300)), format!("push l {}", "m".repeat(600)));
    // The first makes the rest wait behind it; the second and the fourth leave no room for the other.
    assert_eq!(
        says(&["push l a", &large, &fits, &large, "push l b", "read x"]),
        ["int:1", "int:2", "int:3", "error:ValueTooLarge", "int:4", "None"]
    );
}

#[test]
fn a_failure_of_a_shared_store_is_told_to_all_that_share_it() {
    let mut rig = Rig::of(&["incr n", "incr n", "incr n"]);
    let at = (0..ENDPOINTS).find(|&at| !rig.connections[at][0].is_empty()).unwrap();
    rig.step(at, 0, None);
    assert!(
        rig.connections[at][0][0].1.starts_with(b"ms n 1 C")
            || rig.connections[at][0][0].1.starts_with(b"ms n 1 ME")
    );
    rig.step(at, 0, Some(Refusal::UpstreamGone));
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["refused:upstream_gone"; 3]);
    assert_eq!(rig.in_flight(), 0);
}

#[test]
fn a_failed_load_is_told_to_the_first_in_line_alone() {
    let mut rig = Rig::of(&["incr n", "incr n", "incr n"]);
    let at = (0..ENDPOINTS).find(|&at| !rig.connections[at][0].is_empty()).unwrap();
    rig.step(at, 0, Some(Refusal::TimedOut));
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["refused:timed_out", "int:1", "int:2"]);
}

#[test]
fn a_value_over_the_limit_is_refused_before_anything_is_sent() {
    let long = "v".repeat(1001);
    let set = format!("set a {long}");
    let push = format!("push l {long}");
    let mset = format!("mset b 1 c {long}");
    assert_eq!(
        says(&["set a 1", &set, "get a", &push, "get l", &mset, "get b", "ping"]),
        [
            "ok",
            "error:ValueTooLarge",
            "str:1",
            "error:ValueTooLarge",
            "nil",
            "error:ValueTooLarge",
            "nil",
            "pong"
        ]
    );
}

#[test]
fn writes_and_deletions_see_an_expired_item_as_missing() {
    let expired = NOW + 300;
    let mut rig = Rig::of(&[
        &format!("set a 1 - {expired}"),
        &format!("set b 1 - {expired}"),
        &format!("set c 1 - {expired}"),
        &format!("set d 1 - {expired}"),
        &format!("set e 1 - {}", expired + 1),
    ]);
    rig.run(|| 0);
    assert!(rig.servers.iter().map(|server| server.items.len()).sum::<usize>() == 5);
    rig.now_ms = expired;
    let lines =
        ["del a", "set b 2 nx", "get b", "set c 2 xx", "get c", "incr d", "get d", "dels a c e", "type c"];
    rig.clients = vec![Client {
        translator: 0,
        requests: Requests::new(0, &lines.map(words)),
        next: 0,
        answers: HashMap::new(),
        closed: false,
    }];
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["nil", "ok", "str:2", "guarded", "nil", "int:1", "str:1", "int:1", "nil"]);
}

#[test]
fn a_failed_step_is_told_natively_and_lets_the_next_in_line_go_on() {
    let mut rig = Rig::of(&["push k a", "push k b", "mset x 1 y 2 z 3", "get k"]);
    let at = (0..ENDPOINTS)
        .find(|&at| rig.connections[at][0].iter().any(|(_, f)| f.starts_with(b"mg k")))
        .unwrap();
    while !rig.connections[at][0][0].1.starts_with(b"mg k") {
        rig.step(at, 0, None);
    }
    rig.step(at, 0, Some(Refusal::TimedOut));
    let x = (0..ENDPOINTS)
        .find(|&at| rig.connections[at][0].iter().any(|(_, f)| f.starts_with(b"mg x")))
        .unwrap();
    while !rig.connections[x][0][0].1.starts_with(b"mg x") {
        rig.step(x, 0, None);
    }
    rig.step(x, 0, Some(Refusal::UpstreamGone));
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["refused:timed_out", "int:1", "refused:upstream_gone", "list"]);
    assert_eq!(rig.in_flight(), 0);
}

#[test]
fn a_machine_stops_at_its_calls_deadline() {
    let mut rig = Rig::new(1, &[vec![words("incr n"), words("incr n")]]);
    rig.clients[0].requests.calls.iter_mut().for_each(|call| call.timeout_ms = 50);
    rig.submit_all();
    rig.now_ms += 50;
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["refused:timed_out", "refused:timed_out"]);
    assert!(rig.servers.iter().all(|server| server.items.is_empty()));
}

#[test]
fn a_flush_reaches_every_endpoint_and_is_answered_once() {
    assert_eq!(
        says(&[
            "mset a 1 b 2 c 3 d 4",
            "flush 0",
            "get a",
            "get b",
            "get c",
            "get d",
            "push l x",
            "flush 0",
            "get l"
        ]),
        ["ok", "ok", "nil", "nil", "nil", "nil", "int:1", "ok", "nil"]
    );
}

#[test]
fn one_failed_endpoint_fails_the_flush() {
    let mut rig = Rig::of(&["flush 0"]);
    rig.step(1, 0, Some(Refusal::UpstreamUnreachable));
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["refused:upstream_unreachable"]);
}

#[test]
fn walks_are_refused_and_programs_without_keys_run() {
    assert_eq!(says(&["keys", "nokeys"]), ["error:Unsupported", "slots:0"]);
}

#[test]
fn no_more_than_the_limit_is_in_flight() {
    let frames: Vec<Vec<u8>> = (0..500).map(|index| words(&format!("get k{index}"))).collect();
    let mut rig = Rig::new(1, &[frames]);
    rig.submit_all();
    assert_eq!(rig.in_flight(), 64);
    rig.run(|| 0);
    assert_eq!(rig.answers(0).len(), 500);
}

#[test]
fn keys_of_any_bytes_are_kept_apart() {
    let long = [b'k'; 300];
    let keys: [&[u8]; 6] = [b"plain", b"with space", b"\r\n", b"", &long, &[0xff; 250]];
    let mut frames = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        frames.push(request(&[b"set", key, index.to_string().as_bytes()]));
    }
    frames.extend(keys.iter().map(|key| request(&[b"incr", key])));
    frames.extend(keys.iter().map(|key| request(&[b"get", key])));
    let mut rig = Rig::new(1, &[frames]);
    rig.run(|| 0);
    let expected: Vec<String> = (1..=6).map(|number| format!("str:{number}")).collect();
    assert_eq!(rig.answers(0)[12..], expected);
}

#[test]
fn two_keys_with_one_digest_are_told_apart() {
    let mut rig = Rig::of(&["ping"]);
    let mut out = BackFrames::default();
    // Stores another key's envelope where this key's digest is.
    let (key, other) = ([b'k'; 300], [b'o'; 300]);
    let put = |key: &[u8], out: &mut Vec<u8>| {
        let step = Step::PutStr {
            key,
            value: b"v",
            flags: 0,
            expire: crate::kv::Expire::Never,
            guard: Guard::Always,
            token: 0,
        };
        Memcached::encode(&step, NOW, 10_000, out).unwrap()
    };
    let encoded: Encoded = put(&key, &mut out.wire);
    let place = encoded.key.of(&out.wire, &[]).to_vec();
    let mut wrong = Vec::new();
    put(&other, &mut wrong);
    let end = wrong.iter().position(|&byte| byte == b' ').unwrap() + 1;
    wrong[end..end + place.len()].copy_from_slice(&place);
    for server in &mut rig.servers {
        server.execute(&wrong, NOW);
    }
    rig.clients[0].requests =
        Requests::new(0, &[request(&[b"get", &key]), request(&[b"incr", &key]), request(&[b"head", &key])]);
    rig.clients[0].next = 0;
    rig.clients[0].answers.clear();
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["error:KeyCollision"; 3]);
}

#[test]
fn replies_to_unknown_tokens_hit_nobody() {
    let mut rig = Rig::of(&["get a"]);
    let (mut out, mut answers) = (BackFrames::default(), Answers::default());
    for token in [1, 64, u32::MAX, 1 << 24] {
        rig.translators[0].reply(token, &head(b"EN\r\n"), b"EN\r\n", NOW, &mut out, &mut answers);
        rig.translators[0].fail(token, Refusal::TimedOut, NOW, &mut out, &mut answers);
    }
    assert!(answers.list.is_empty());
    rig.run(|| 0);
    assert_eq!(rig.answers(0), ["nil"]);
}

fn commands() -> impl Strategy<Value = String> {
    let key = || prop::sample::select(vec!["a", "b", "c", "d"]);
    prop_oneof![
        4 => key().prop_map(|key| format!("get {key}")),
        2 => (key(), 0..9_u8).prop_map(|(key, value)| format!("set {key} {value}")),
        1 => (key(), 0..9_u8).prop_map(|(key, value)| format!("set {key} {value} nx")),
        2 => key().prop_map(|key| format!("del {key}")),
        1 => key().prop_map(|key| format!("head {key}")),
        2 => key().prop_map(|key| format!("incr {key}")),
        2 => key().prop_map(|key| format!("push {key} x")),
        1 => key().prop_map(|key| format!("pop {key}")),
        1 => key().prop_map(|key| format!("read {key}")),
        2 => (key(), key()).prop_map(|(one, two)| if one == two { "ping".into() } else { format!("dels {one} {two}") }),
        2 => (key(), key()).prop_map(|(one, two)| if one == two { "nokeys".into() } else { format!("mset {one} 1 {two} 2") }),
        1 => (key(), key()).prop_map(|(one, two)| if one == two { "keys".into() } else { format!("move {one} {two}") }),
        1 => Just("flush 0".to_string()),
        1 => Just("ping".to_string()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_call_is_answered_once_in_any_order_with_any_failures(
        clients in prop::collection::vec(prop::collection::vec(commands(), 0..25), 1..5),
        translators in 1..3_usize,
        seed in any::<u64>(),
        failing in 0..4_u64,
    ) {
        let frames: Vec<Vec<Vec<u8>>> =
            clients.iter().map(|lines| lines.iter().map(|line| words(line)).collect()).collect();
        let mut rig = Rig::new(translators, &frames);
        let mut random = Random(seed);
        rig.submit_all();
        while rig.in_flight() > 0 {
            let (endpoint, translator) = (random.next() as usize % ENDPOINTS, random.next() as usize % translators);
            let failure = (random.next() % 16 < failing).then_some(Refusal::TimedOut);
            rig.step(endpoint, translator, failure);
        }
        for (client, lines) in clients.iter().enumerate() {
            prop_assert_eq!(rig.answers(client).len(), lines.len());
        }
    }

    #[test]
    fn one_clients_pipeline_gives_what_one_command_at_a_time_gives(
        lines in prop::collection::vec(commands(), 1..40),
        seed in any::<u64>(),
    ) {
        let mut one_by_one = Rig::new(1, &[vec![]]);
        let mut expected = Vec::new();
        for line in &lines {
            one_by_one.clients = vec![Client {
                translator: 0,
                requests: Requests::new(0, &[words(line)]),
                next: 0,
                answers: HashMap::new(),
                closed: false,
            }];
            one_by_one.run(|| 0);
            expected.extend(one_by_one.answers(0));
        }
        let mut rig = Rig::new(1, &[lines.iter().map(|line| words(line)).collect()]);
        let mut random = Random(seed);
        rig.run(|| random.next() as usize);
        prop_assert_eq!(rig.answers(0), expected);
    }
}

/// Commands that every back can do, at a moment: milliseconds since [`NOW`].
fn moments() -> impl Strategy<Value = Vec<(u64, String)>> {
    let key = || prop::sample::select(vec!["a", "b", "c"]);
    let guard = prop::sample::select(vec!["-", "nx", "xx"]);
    let command = prop_oneof![
        3 => commands(),
        2 => (key(), guard, 1..4_000_u64)
            .prop_map(|(key, guard, left)| format!("set {key} 5 {guard} {}", NOW + left)),
        1 => (key(), 1..6_000_u64).prop_map(|(key, left)| format!("expire {key} {}", NOW + left)),
        1 => key().prop_map(|key| format!("type {key}")),
    ];
    let anywhere =
        command.prop_filter("not on every back", |line| line != "keys" && !line.starts_with("move"));
    prop::collection::vec((prop_oneof![2 => Just(0), 1 => 0..900_u64], anywhere), 1..60).prop_map(|steps| {
        let mut at = 0;
        steps
            .into_iter()
            .map(|(passed, line)| {
                at += passed;
                (at, line)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_emulation_on_memcached_and_the_embedded_store_agree(steps in moments(), seed in any::<u64>()) {
        let store = crate::Store::new(1 << 20);
        let post: std::sync::Arc<dyn crate::Post> = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut rig = Rig::new(1, &[vec![]]);
        let mut random = Random(seed);
        for (at, line) in &steps {
            rig.now_ms = NOW + at;
            let mut requests = Requests::new(0, &[words(line)]);
            let started = Started { unix_seconds: 0 };
            let desk = crate::Desk { now_ms: rig.now_ms, started, random: 1, post: &post, door: None };
            crate::serve(&store, &mut requests.batch(), 0..1, &PEER, &desk);
            rig.clients = vec![Client {
                translator: 0,
                requests: Requests::new(0, &[words(line)]),
                next: 0,
                answers: HashMap::new(),
                closed: false,
            }];
            rig.run(|| random.next() as usize);
            let expected = requests.answer(0).unwrap_or_default();
            prop_assert_eq!(&rig.answers(0)[0], &expected, "{} at {}", line, at);
        }
    }
}

#[test]
fn a_late_reply_to_a_failed_step_is_no_other_clients_answer() {
    let conn = ConnKey { index: 3, epoch: 1 };
    assert_ne!(conn, ConnKey { index: 3, epoch: 2 });
    let mut rig = Rig::of(&["get a"]);
    let late = rig.connections.iter_mut().find_map(|by| by[0].pop_front()).unwrap();
    let (mut out, mut answers) = (BackFrames::default(), Answers::default());
    rig.translators[0].fail(late.0, Refusal::TimedOut, NOW, &mut out, &mut answers);
    rig.deliver(std::mem::take(&mut answers));
    rig.clients.push(Client {
        translator: 0,
        requests: Requests::new(1, &[words("get b")]),
        next: 0,
        answers: HashMap::new(),
        closed: false,
    });
    rig.submit_all();
    // The second call has the first one's place; the late reply of the first must not be its answer.
    rig.translators[0].reply(
        late.0,
        &head(b"EN\r\n"),
        b"VA 1 t-1 f0 c1\r\nx\r\n",
        NOW,
        &mut out,
        &mut answers,
    );
    assert!(answers.list.is_empty());
    rig.run(|| 0);
    assert_eq!((rig.answers(0), rig.answers(1)), (vec!["refused:timed_out".into()], vec!["nil".into()]));
}

#[test]
fn a_header_is_loaded_without_the_value() {
    let mut rig = Rig::of(&["push l x", "head l", "type l"]);
    let mut gets = Vec::new();
    while rig.in_flight() > 0 {
        let at = (0..ENDPOINTS).find(|&at| !rig.connections[at][0].is_empty()).unwrap();
        gets.push(String::from_utf8_lossy(&rig.connections[at][0][0].1).into_owned());
        rig.step(at, 0, None);
    }
    assert_eq!(gets.iter().filter(|frame| frame.contains(" v ")).count(), 1, "{gets:?}");
    assert_eq!(rig.answers(0), ["int:1", "list None", "list"]);
}
