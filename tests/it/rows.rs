//! The support table, row by row, against real servers.
//!
//! Every row that `mecha check` prints has a case. What a row calls exact or emulated is answered as a real server of the
//! clients' protocol answers it, byte for byte, in both versions of the protocol, with too few and too many arguments, on
//! keys of every type, and with numbers that are none; and the keys hold the same afterwards. What a row calls refused is
//! refused in the documented words. A row without a case, a case without a row, and a row that says more or less than
//! what happens, fail.

mod cases;
mod memcached;
mod reply;

use std::collections::BTreeSet;

use mecha_resp::{COMMANDS, CommandInfo};
use mecha_translate::{Row, Support, supported};

use self::cases::{Case, How, Line, matches, named, parse};
use super::support::{Client, Mecha, Process, frame, memcached as memcached_server, redis_with};

/// What a key may hold before a command meets it.
const KINDS: &[&[&str]] = &[
    &[],
    &["SET", "10"],
    &["SET", "text"],
    &["SET", "10", "EX", "1000"],
    &["RPUSH", "a", "b"],
    &["HSET", "f", "1", "a", "2"],
    &["SADD", "a"],
    &["ZADD", "1", "a", "2", "b"],
];

/// What tells the state of a key.
const STATE: &[(&str, &[&str], How)] = &[
    ("TYPE", &[], How::Bytes),
    ("GET", &[], How::Bytes),
    ("LRANGE", &["0", "-1"], How::Bytes),
    ("HGETALL", &[], How::Elements),
    ("SMEMBERS", &[], How::Elements),
    ("ZRANGE", &["0", "-1", "WITHSCORES"], How::Bytes),
    ("TTL", &[], How::Bytes),
];

/// A server, mecha, and what is tried on both.
struct Walk<'a> {
    direct: u16,
    mecha: &'a Mecha,
    back: &'a str,
    prefixes: usize,
    wrong: Vec<String>,
}

/// Two clients, one of each.
struct Pair {
    ours: Client,
    theirs: Client,
    asked: Vec<(Vec<Vec<u8>>, How)>,
}

// === impl Pair ===

impl Pair {
    fn new(walk: &Walk<'_>, version: &str) -> Self {
        let mut pair =
            Self { ours: walk.mecha.client(), theirs: Client::new(walk.direct), asked: Vec::new() };
        pair.ours.call(&format!("HELLO {version}"));
        pair.theirs.call(&format!("HELLO {version}"));
        pair
    }

    fn ask(&mut self, words: Vec<Vec<u8>>, how: How) {
        self.asked.push((words, how));
    }

    /// Sends everything that was asked to both, and returns each request with both answers.
    fn answers(&mut self) -> Vec<(Vec<Vec<u8>>, How, [String; 2])> {
        let asked = std::mem::take(&mut self.asked);
        let mut answers = Vec::new();
        // So many that neither side waits for the other to read.
        for some in asked.chunks(64) {
            let bytes: Vec<u8> = some.iter().flat_map(|(words, _)| frame(words)).collect();
            self.ours.send(&bytes);
            self.theirs.send(&bytes);
            for (words, how) in some {
                answers.push((words.clone(), *how, [self.ours.reply(), self.theirs.reply()]));
            }
        }
        answers
    }
}

// === impl Walk ===

impl Walk<'_> {
    fn prefix(&mut self, row: &str) -> String {
        self.prefixes += 1;
        format!("{}:{}:", self.prefixes, row.replace('|', "-"))
    }

    fn complain(&mut self, row: &str, words: &[Vec<u8>], ours: &str, theirs: &str) {
        self.wrong.push(format!(
            "{row} on {}: {}\n    mecha {ours:?}\n    expected {theirs:?}",
            self.back,
            shown(words)
        ));
    }

    fn compare(&mut self, row: &str, answers: Vec<(Vec<Vec<u8>>, How, [String; 2])>) {
        for (words, how, [ours, theirs]) in answers {
            if !is_same(how, &words, &ours, &theirs) {
                self.complain(row, &words, &ours, &theirs);
            }
        }
    }

    fn row(&mut self, row: &Row, info: &CommandInfo, case: &Case) {
        match row.support {
            Support::Refused => self.refused(row, info, case),
            Support::Exact | Support::Emulated => {
                for version in ["2", "3"] {
                    self.script(row, info, case, version);
                }
                self.counts(row.command, info);
                if self.back != "redis" {
                    self.kinds(row.command, info, case);
                    self.numbers(row.command, info, case);
                }
            }
        }
    }

    /// The case as it is written.
    fn script(&mut self, row: &Row, info: &CommandInfo, case: &Case, version: &str) {
        let prefix = self.prefix(row.command);
        let mut pair = Pair::new(self, version);
        let (mut concerned, mut well) = (0, 0);
        for line in &case.lines {
            let words = line.request(row.command, info.arity, &prefix);
            pair.ask(words.clone(), line.how);
            let [ours, theirs] = pair.answers().remove(0).2;
            match line.told(self.back) {
                Some(pattern) => {
                    if !matches(pattern, &ours) {
                        self.complain(row.command, &words, &ours, pattern);
                    }
                    if line.concerns(row.command) && row.support == Support::Exact {
                        self.wrong.push(format!(
                            "{} on {} is not exact: {}",
                            row.command,
                            self.back,
                            shown(&words)
                        ));
                    }
                }
                None if is_same(line.how, &words, &ours, &theirs) => {}
                None => self.complain(row.command, &words, &ours, &theirs),
            }
            if line.concerns(row.command) {
                concerned += 1;
                well += usize::from(!ours.starts_with('-'));
            }
        }
        // A container's own row is about its mistakes alone, and so are names that the server does not know.
        let may_fail =
            case.only_errors || info.is_container || case.lines.iter().any(|line| line.words == ["."]);
        if concerned == 0 || (well == 0 && !may_fail && self.back != "redis") {
            self.wrong.push(format!("{} on {}: its case tries nothing", row.command, self.back));
        }
    }

    /// Too few and too many arguments.
    fn counts(&mut self, row: &str, info: &CommandInfo) {
        let own = row.split('|').count();
        let least = usize::from(info.arity.unsigned_abs());
        let mut pair = Pair::new(self, "2");
        for count in (own..least).chain((info.arity > 0).then_some(least + 1)) {
            pair.ask(named(row, count), How::Bytes);
        }
        let answers = pair.answers();
        // A name that the server does not know has no number of arguments there.
        let known = |(.., [_, theirs]): &(_, _, [String; 2])| !theirs.contains("unknown");
        let answers = answers.into_iter().filter(|answer| self.back == "redis" || known(answer)).collect();
        self.compare(row, answers);
    }

    /// Each request on keys of every type, and what the keys hold behind it.
    fn kinds(&mut self, row: &str, info: &CommandInfo, case: &Case) {
        let mut pair = Pair::new(self, "2");
        let lines = case.lines.iter().filter(|line| line.concerns(row) && line.told(self.back).is_none());
        for line in lines.filter(|line| !line.as_it_stands) {
            for key in line.keys() {
                for kind in KINDS {
                    let prefix = self.prefix(row);
                    self.prepare(&mut pair, row, &prefix);
                    if let Some((command, rest)) = kind.split_first() {
                        pair.ask(words(command, &format!("{prefix}{key}"), rest), How::Bytes);
                    }
                    pair.ask(line.request(row, info.arity, &prefix), line.how);
                    state(&mut pair, line, &prefix);
                }
            }
        }
        let answers = pair.answers();
        self.compare(row, answers);
    }

    /// The case once more, with wrong numbers behind every request that has some.
    fn numbers(&mut self, row: &str, info: &CommandInfo, case: &Case) {
        let prefix = self.prefix(row);
        let mut pair = Pair::new(self, "2");
        for line in case.lines.iter().filter(|line| line.told(self.back).is_none()) {
            pair.ask(line.request(row, info.arity, &prefix), line.how);
            if !line.concerns(row) || line.as_it_stands {
                continue;
            }
            for mistaken in line.mistaken() {
                self.prepare(&mut pair, row, &prefix);
                pair.ask(mistaken.request(row, info.arity, &prefix), line.how);
            }
            state(&mut pair, line, &prefix);
        }
        let answers = pair.answers();
        self.compare(row, answers);
    }

    /// SORT of a server looks at an `errno` that an earlier command left; these leave zero.
    fn prepare(&self, pair: &mut Pair, row: &str, prefix: &str) {
        if row.starts_with("sort") {
            pair.ask(words("INCRBYFLOAT", &format!("{prefix}errno"), &["1"]), How::Bytes);
        }
    }

    /// Every request of the row gets the documented refusal, or the one for its number of arguments.
    fn refused(&mut self, row: &Row, info: &CommandInfo, case: &Case) {
        let name = row.command.replace('|', " ").to_uppercase();
        let refusal = format!("-ERR {name} is not supported on {} backend\r\n", article(self.back));
        let arity = format!("-ERR wrong number of arguments for '{}' command\r\n", row.command);
        let prefix = self.prefix(row.command);
        let mut client = self.mecha.client();
        let mut concerned = 0;
        for line in case.lines.iter().filter(|line| line.concerns(row.command)) {
            let words = line.request(row.command, info.arity, &prefix);
            concerned += 1;
            let unknown = format!(
                "-ERR unknown subcommand '{}'. Try {name} HELP.\r\n",
                String::from_utf8_lossy(words.get(1).map(Vec::as_slice).unwrap_or_default())
            );
            let expected = match () {
                () if info.is_container && words.len() > 1 => &unknown,
                () if !info.accepts(words.len()) => &arity,
                () => &refusal,
            };
            client.send(&frame(&words));
            let ours = client.reply();
            if ours != *expected {
                self.complain(row.command, &words, &ours, expected);
            }
        }
        if info.arity.unsigned_abs() > 1 && !info.is_container {
            let words = named(row.command, usize::from(info.arity.unsigned_abs()) - 1);
            if words.len() < usize::from(info.arity.unsigned_abs()) {
                client.send(&frame(&words));
                let ours = client.reply();
                if ours != arity {
                    self.complain(row.command, &words, &ours, &arity);
                }
            }
        }
        if concerned == 0 {
            self.wrong.push(format!("{} on {}: its case tries nothing", row.command, self.back));
        }
    }
}

fn article(back: &str) -> String {
    let an = back.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {back}", if an { "an" } else { "a" })
}

fn words(command: &str, key: &str, rest: &[&str]) -> Vec<Vec<u8>> {
    [command, key].iter().chain(rest).map(|word| word.as_bytes().to_vec()).collect()
}

fn state(pair: &mut Pair, line: &Line, prefix: &str) {
    for key in line.keys() {
        for (command, rest, how) in STATE {
            pair.ask(words(command, &format!("{prefix}{key}"), rest), *how);
        }
    }
}

fn shown(words: &[Vec<u8>]) -> String {
    words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ")
}

/// Times to live may differ by what lies between the two answers.
fn is_same(how: How, words: &[Vec<u8>], ours: &str, theirs: &str) -> bool {
    let command = String::from_utf8_lossy(&words[0]).to_lowercase();
    let slack = match command.as_str() {
        "ttl" | "expiretime" => 20,
        "pttl" | "pexpiretime" => 20_000,
        _ => 0,
    };
    let number = |text: &str| text.strip_prefix(':').and_then(|number| number.trim_end().parse::<i64>().ok());
    match (how, number(ours), number(theirs)) {
        (_, Some(one), Some(other)) if slack > 0 && one > 0 && other > 0 => one.abs_diff(other) <= slack,
        (How::Bytes, ..) => ours == theirs,
        (How::Elements, ..) => reply::sorted(ours) == reply::sorted(theirs),
        (How::Shape, ..) => reply::shape(ours) == reply::shape(theirs),
    }
}

/// A server that keeps its files where they harm nobody.
fn redis() -> Option<(Process, u16)> {
    let folder = std::env::temp_dir().join("mecha-rows");
    std::fs::create_dir_all(&folder).unwrap();
    redis_with(&["--dir", folder.to_str().unwrap()])
}

/// Tries every row of RESP clients on `back`.
fn walk(back: &str, to: &str) {
    let Some((_direct, direct)) = redis() else { return };
    let cases = parse(include_str!("rows/resp.txt"));
    let rows = supported("resp", if back == "redis" { "resp" } else { back });
    let (tried, known): (BTreeSet<_>, BTreeSet<_>) = (
        cases.iter().flat_map(|case| &case.rows).map(String::as_str).collect(),
        rows.iter().map(|row| row.command).collect(),
    );
    assert_eq!(tried.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "cases without a row");
    assert_eq!(known.difference(&tried).collect::<Vec<_>>(), Vec::<&&str>::new(), "rows without a case");
    let mecha = Mecha::start("redis", to);
    let mut walk = Walk { direct, mecha: &mecha, back, prefixes: 0, wrong: Vec::new() };
    for row in &rows {
        let info = COMMANDS.iter().find(|info| info.name == row.command).expect("a row is a command");
        let case = cases.iter().find(|case| case.rows.iter().any(|name| name == row.command));
        walk.row(row, info, case.expect("each row has one"));
    }
    assert!(walk.wrong.is_empty(), "{} differences\n{}", walk.wrong.len(), walk.wrong.join("\n"));
    assert!(mecha.metric("mecha_calls_total") > 1000.0, "traffic did not cross mecha");
}

#[test]
fn every_row_of_redis_clients_holds_on_the_store() {
    walk("embedded", "embedded://");
}

#[test]
fn every_row_of_redis_clients_holds_on_memcached() {
    let Some((_memcached, port)) = memcached_server() else { return };
    walk("memcached", &format!("memcached://127.0.0.1:{port}"));
}

#[test]
fn every_row_of_redis_clients_holds_on_redis() {
    let Some((_redis, port)) = redis() else { return };
    walk("redis", &format!("redis://127.0.0.1:{port}"));
}
