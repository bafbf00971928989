//! Clients of all kinds. Each knows what its answers must be: values carry their key and their place in the order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::tally::Tally;
use crate::support::{Client, PATIENCE, frame};

/// Between two rounds of a client: there is to be a load, not a race.
const PACE: Duration = Duration::from_millis(10);

/// How long an answer may take on a machine that is busy with other things.
const LONGEST: Duration = Duration::from_secs(100);

/// What all clients share.
#[derive(Default)]
pub(super) struct Weather {
    pub(super) is_over: AtomicBool,
    /// Odd while a fault that loses data or connections is under way; counts them.
    pub(super) faults: AtomicU64,
}

impl Weather {
    /// `None` while a fault is under way.
    fn calm(&self) -> Option<u64> {
        let faults = self.faults.load(Ordering::SeqCst);
        faults.is_multiple_of(2).then_some(faults)
    }
}

/// One client's place in the load.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) port: u16,
    pub(super) name: &'static str,
    pub(super) number: usize,
    pub(super) tally: Arc<Tally>,
    pub(super) weather: Arc<Weather>,
}

/// A connection that is made again when it has ended.
struct Line {
    seat: Seat,
    client: Option<Client>,
}

impl Seat {
    fn goes_on(&self) -> bool {
        std::thread::sleep(PACE);
        !self.weather.is_over.load(Ordering::Relaxed)
    }

    fn line(&self) -> Line {
        Line { seat: self.clone(), client: None }
    }
}

impl Line {
    /// Sends requests of `count` replies, and returns what has come of them: fewer if the connection has ended.
    fn ask(&mut self, request: &[u8], count: usize) -> Vec<String> {
        self.ask_with(request, count, Client::try_reply)
    }

    fn ask_with(
        &mut self,
        request: &[u8],
        count: usize,
        read: impl Fn(&mut Client) -> Option<String>,
    ) -> Vec<String> {
        let client = self.client.get_or_insert_with(|| Client::new(self.seat.port));
        let start = Instant::now();
        let mut replies = Vec::new();
        if std::io::Write::write_all(&mut client.writer, request).is_ok() {
            while replies.len() < count {
                let asked = Instant::now();
                match read(client) {
                    Some(reply) => {
                        self.seat.tally.count(&reply);
                        replies.push(reply);
                    }
                    // Nothing came, but the connection is still there: the machine may be busy.
                    None if asked.elapsed() >= PATIENCE && start.elapsed() < LONGEST => {}
                    None => break,
                }
            }
        }
        if replies.len() < count {
            let Seat { name, number, .. } = self.seat;
            assert!(start.elapsed() < LONGEST, "{name} {number}: no answer after {replies:?}");
            self.seat.tally.ended();
            self.client = None;
        }
        replies
    }

    fn call(&mut self, words: &str) -> Option<String> {
        self.ask(&frame(&words.split(' ').collect::<Vec<_>>()), 1).pop()
    }
}

fn is_error(reply: &str) -> bool {
    reply.starts_with('-')
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Writes and reads values and counts, several calls deep.
pub(super) fn tagged(seat: &Seat) {
    let (mut line, mut round) = (seat.line(), 0usize);
    let mut counts = std::collections::HashMap::<String, (Option<u64>, u64)>::new();
    while seat.goes_on() {
        round += 1;
        let before = seat.weather.calm();
        let keys: Vec<_> = (0..4)
            .map(|place| format!("{}:{}:{}", seat.name, seat.number, (round * 7 + place * 31) % 100))
            .collect();
        let value = |place: usize, key: &str| format!("{key}={round}.{place}{}", ".".repeat(round % 500));
        let mut request = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            request.extend(frame(&["SET", key, &value(place, key)]));
            request.extend(frame(&["GET", key]));
            request.extend(frame(&["INCR", &format!("count:{key}")]));
        }
        let replies = line.ask(&request, keys.len() * 3);
        let is_calm = before.is_some() && before == seat.weather.calm();
        for (place, (key, replies)) in keys.iter().zip(replies.chunks(3)).enumerate() {
            let [set, get, incr] = replies else { continue };
            if !is_error(set) && !is_error(get) && (is_calm || get != "$-1\r\n") {
                assert_eq!(set, "+OK\r\n");
                assert_eq!(
                    *get,
                    bulk(&value(place, key)),
                    "{} {}: another call's answer",
                    seat.name,
                    seat.number
                );
            }
            let count = incr.strip_prefix(':').and_then(|text| text.trim_end().parse::<u64>().ok());
            if let (Some((Some(known), then)), Some(now)) = (counts.get(key), count)
                && is_calm
                && Some(*then) == before
            {
                assert_eq!(now, known + 1, "{key} was counted twice or not at all");
            }
            counts.insert(key.clone(), (count, before.unwrap_or(u64::MAX)));
        }
        if replies.len() < keys.len() * 3 {
            counts.clear();
        }
    }
}

/// Calls whose keys are on all shards.
pub(super) fn spread(seat: &Seat) {
    let (mut line, mut round) = (seat.line(), 0usize);
    while seat.goes_on() {
        round += 1;
        let before = seat.weather.calm();
        let keys: Vec<_> = (0..8).map(|key| format!("spread:{}:{key}", seat.number)).collect();
        let (mut set, mut get) = (vec!["MSET".to_string()], vec!["MGET".to_string()]);
        for key in &keys {
            set.extend([key.clone(), format!("{key}={round}")]);
            get.push(key.clone());
        }
        let replies = line.ask(&[frame(&set), frame(&get)].concat(), 2);
        let is_calm = before.is_some() && before == seat.weather.calm();
        if let [set, get] = &replies[..]
            && is_calm
            && !is_error(set)
            && !is_error(get)
        {
            let values: String = keys.iter().map(|key| bulk(&format!("{key}={round}"))).collect();
            assert_eq!([set.as_str(), get], ["+OK\r\n", &format!("*8\r\n{values}")]);
        }
    }
}

/// Transactions, one call at a time.
pub(super) fn transactions(seat: &Seat) {
    let (mut line, mut round) = (seat.line(), 0usize);
    while seat.goes_on() {
        round += 1;
        let key = format!("{{{}:{}:{}}}", seat.name, seat.number, round % 50);
        let mut calls = vec!["MULTI".to_string(), format!("SET {key}a {round}"), format!("GET {key}a")];
        if round.is_multiple_of(3) {
            calls.insert(0, format!("WATCH {key}a"));
        }
        let mut is_whole = true;
        for call in &calls {
            is_whole &= line.call(call).is_some_and(|reply| !is_error(&reply));
            if line.client.is_none() {
                break;
            }
        }
        if line.client.is_none() {
            continue;
        }
        let last = line.call(if round.is_multiple_of(5) { "DISCARD" } else { "EXEC" });
        match last {
            Some(reply) if is_whole && reply.starts_with('*') => {
                let wanted = format!("*2\r\n+OK\r\n{}", bulk(&round.to_string()));
                assert!(reply == wanted || reply == "*-1\r\n", "{reply}");
            }
            _ => {}
        }
    }
}

/// One end pushes, the other waits; what comes is what was pushed, in order.
pub(super) fn waiting(seat: &Seat) {
    let (mut line, mut last, mut since) = (seat.line(), 0u64, None);
    let (key, is_pushing) =
        (format!("queue:{}:{}", seat.name, seat.number / 2), seat.number.is_multiple_of(2));
    while seat.goes_on() {
        if is_pushing {
            last += 1;
            std::thread::sleep(PACE);
            line.call(&format!("RPUSH {key} {last}"));
        } else if let Some(reply) = line.call(&format!("BLPOP {key} 1"))
            && reply.starts_with("*2")
        {
            let words: Vec<_> = reply.split("\r\n").collect();
            assert_eq!(words[2], key, "another call's answer");
            let number: u64 = words[4].parse().unwrap();
            // A replica that takes over may not have heard that an element was taken.
            let now = seat.weather.calm();
            assert!(number > last || now.is_none() || now != since, "{number} came after {last}");
            (last, since) = (number, now);
        }
    }
}

/// One end publishes, the other has subscribed.
pub(super) fn messages(seat: &Seat) {
    let (mut line, mut last) = (seat.line(), 0u64);
    let (channel, is_publishing) =
        (format!("news:{}:{}", seat.name, seat.number / 2), seat.number.is_multiple_of(2));
    while seat.goes_on() {
        if is_publishing {
            last += 1;
            std::thread::sleep(PACE);
            line.call(&format!("PUBLISH {channel} {last}"));
            continue;
        }
        if line.client.is_none()
            && line.call(&format!("SUBSCRIBE {channel}")).is_none_or(|reply| is_error(&reply))
        {
            line.client = None;
            continue;
        }
        let Some(client) = &mut line.client else { continue };
        client.writer.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let start = Instant::now();
        match client.try_reply() {
            Some(reply) if reply.starts_with("*3\r\n$7\r\nmessage") => {
                let words: Vec<_> = reply.split("\r\n").collect();
                assert_eq!(words[4], channel, "another subscription's message");
                let number: u64 = words[6].parse().unwrap();
                // Servers of a cluster tell each other what is published, each in its own time.
                assert!(number > last || seat.name == "shards", "{number} came after {last}");
                last = number;
            }
            Some(reply) => {
                seat.tally.count(&reply);
            }
            // Silence, or the end.
            None if start.elapsed() < Duration::from_millis(250) => {
                seat.tally.ended();
                line.client = None;
            }
            None => {}
        }
    }
}

/// Every other one writes; the others keep what they have read until they are told that it has changed.
pub(super) fn caching(seat: &Seat) {
    let (mut line, mut fresh, mut round) = (seat.line(), seat.line(), 0usize);
    let key = format!("cached:{}:{}", seat.name, seat.number / 2);
    let mut cache = None;
    while seat.goes_on() {
        round += 1;
        if seat.number.is_multiple_of(2) {
            line.call(&format!("INCR {key}"));
            std::thread::sleep(5 * PACE);
            continue;
        }
        if line.client.is_none() {
            cache = None;
            let greeting =
                line.ask(&[frame(&["HELLO", "3"]), frame(&["CLIENT", "TRACKING", "ON"])].concat(), 2);
            if greeting.len() < 2 || greeting.iter().any(|reply| is_error(reply)) {
                line.client = None;
            }
            continue;
        }
        if cache.is_none() {
            // What comes before the reply is about older values.
            let reply = line.ask_with(&frame(&["GET", &key]), 1, |client| {
                loop {
                    let reply = client.try_reply()?;
                    if !reply.starts_with('>') {
                        return Some(reply);
                    }
                }
            });
            cache = reply.into_iter().next().filter(|reply| !is_error(reply));
        }
        let before = seat.weather.calm();
        let now = if round.is_multiple_of(20) { fresh.call(&format!("GET {key}")) } else { None };
        // News takes its time.
        let until = Instant::now() + if now.is_some() { 50 * PACE } else { PACE };
        while let Some(client) = &mut line.client
            && Instant::now() < until
        {
            client.writer.set_read_timeout(Some(PACE)).unwrap();
            let start = Instant::now();
            match client.try_reply() {
                Some(reply) if reply.starts_with('>') => cache = None,
                Some(reply) => assert!(seat.weather.calm().is_none(), "{reply} is no answer to anything"),
                None if start.elapsed() < PACE / 2 => {
                    seat.tally.ended();
                    line.client = None;
                }
                None => {}
            }
        }
        if let Some(client) = &mut line.client {
            client.writer.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let is_calm = before.is_some() && before == seat.weather.calm() && line.client.is_some();
        if let (true, Some(now), Some(kept)) = (is_calm, now, &cache) {
            assert!(
                is_error(&now) || now == *kept,
                "{} {}: {kept} is stale, it is {now}",
                seat.name,
                seat.number
            );
        }
    }
}

/// Comes, asks once, and goes.
pub(super) fn passing(seat: &Seat) {
    let mut round = 0usize;
    while seat.goes_on() {
        round += 1;
        let (mut line, word) = (seat.line(), format!("{}:{}:{round}", seat.name, seat.number));
        let reply = line.call(&format!("ECHO {word}"));
        if let Some(reply) = reply.filter(|reply| !is_error(reply)) {
            assert_eq!(reply, bulk(&word));
        }
        if round.is_multiple_of(2) {
            line.call("QUIT");
        }
    }
}

/// Memcached, text and several keys.
pub(super) fn memcached(seat: &Seat) {
    let (mut line, mut round) = (seat.line(), 0usize);
    let lines = |client: &mut Client| {
        let mut text = client.line();
        while text.ends_with("\r\n")
            && text[text.trim_end().rfind("\r\n").map_or(0, |at| at + 2)..].starts_with("VALUE")
        {
            text += &(client.line() + &client.line());
        }
        text.ends_with("\r\n").then_some(text)
    };
    while seat.goes_on() {
        round += 1;
        let before = seat.weather.calm();
        let keys: Vec<_> =
            (0..3).map(|at| format!("{}:{}:{}", seat.name, seat.number, (round + at * 13) % 60)).collect();
        let mut request = Vec::new();
        for key in &keys {
            let value = format!("{key}={round}");
            request
                .extend(format!("set {key} {} 0 {}\r\n{value}\r\n", seat.number, value.len()).into_bytes());
        }
        request.extend(format!("get {}\r\n", keys.join(" ")).into_bytes());
        let replies = line.ask_with(&request, keys.len() + 1, lines);
        let is_calm = before.is_some() && before == seat.weather.calm();
        if replies.len() == keys.len() + 1 && is_calm && replies.iter().all(|reply| !reply.contains("ERROR"))
        {
            assert!(replies[..keys.len()].iter().all(|reply| reply == "STORED\r\n"), "{replies:?}");
            let value = |key: &String| {
                let value = format!("{key}={round}");
                format!("VALUE {key} {} {}\r\n{value}\r\n", seat.number, value.len())
            };
            assert_eq!(replies[keys.len()], keys.iter().map(value).collect::<String>() + "END\r\n");
        }
    }
}

/// Vanishes in the middle of everything, or reads as slowly as it can.
pub(super) fn rude(seat: &Seat) {
    let mut round = 0usize;
    while seat.goes_on() {
        round += 1;
        let Some(mut client) = Client::try_new(seat.port) else { continue };
        let half = frame(&["SET", "rude:half", &"y".repeat(200_000)]);
        let request = match round % 8 {
            0 => b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\nabc".to_vec(),
            1 => half[..150_000].to_vec(),
            2 => frame(&["BLPOP", "rude:nothing", "0"]),
            3 => [frame(&["MULTI"]), frame(&["SET", "rude:k", "1"])].concat(),
            4 => frame(&["SUBSCRIBE", "rude:ch"]),
            5 => [frame(&["WATCH", "rude:k"]), frame(&["MULTI"]), frame(&["EXEC"])].concat(),
            6 => frame(&["SET", "rude:large", &"x".repeat(100_000)]),
            _ => frame(&["GET", "rude:large"]).repeat(100),
        };
        let _ = std::io::Write::write_all(&mut client.writer, &request);
        if round % 8 == 7 {
            // A little at a time, for as long as mecha bears it.
            let start = Instant::now();
            let mut piece = [0; 1024];
            client.writer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            while start.elapsed() < Duration::from_secs(2)
                && std::io::Read::read(&mut client.writer, &mut piece).is_ok_and(|count| count > 0)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        std::thread::sleep(PACE * 3);
    }
}
