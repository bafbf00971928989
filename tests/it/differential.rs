//! Generated conversations: several clients, requests in arrays and inline, cut at any place, answered by a redis-server
//! and by mecha on every back. Every answer must be the same byte for byte. The seed is in the report.

use std::io::Write;

use super::support::{Client, Mecha, PATIENCE, frame, memcached, redis};

/// Numbers that look random and are the same every time.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// Commands whose answers are the same on every back: no order of members, no time.
const PORTABLE: &[&str] = &[
    "SET K V",
    "SET K V NX",
    "SET K V XX GET",
    "SET K N KEEPTTL",
    "GET K",
    "GETDEL K",
    "GETSET K V",
    "SETNX K V",
    "APPEND K V",
    "STRLEN K",
    "GETRANGE K 1 -2",
    "SETRANGE K 3 V",
    "INCR K",
    "DECRBY K N",
    "INCRBY K N",
    "INCRBYFLOAT K 0.5",
    "MGET K K K",
    "DEL K K",
    "EXISTS K K",
    "TYPE K",
    "EXPIRE K 1000",
    "PERSIST K",
    "TTL nosuch",
    "SETBIT K N 1",
    "GETBIT K N",
    "BITCOUNT K",
    "HSET K F V",
    "HSETNX K F V",
    "HGET K F",
    "HDEL K F F",
    "HLEN K",
    "HEXISTS K F",
    "HINCRBY K F N",
    "HMGET K F F",
    "HSTRLEN K F",
    "RPUSH K V V",
    "LPUSH K V",
    "LPUSHX K V",
    "LLEN K",
    "LRANGE K 0 -1",
    "LPOP K",
    "RPOP K 2",
    "LINDEX K N",
    "LSET K 0 V",
    "LREM K 0 V",
    "LTRIM K 0 3",
    "LINSERT K BEFORE V V",
    "LMOVE K K LEFT RIGHT",
    "LPOS K V",
    "SADD K F F",
    "SREM K F",
    "SCARD K",
    "SISMEMBER K F",
    "SMISMEMBER K F F",
    "SINTERCARD 2 K K",
    "ZADD K N F",
    "ZADD K GT CH N F N F",
    "ZINCRBY K N F",
    "ZSCORE K F",
    "ZCARD K",
    "ZRANK K F",
    "ZREVRANK K F",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZRANGEBYSCORE K -inf N",
    "ZCOUNT K 0 N",
    "ZREM K F",
    "ZPOPMIN K",
    "ZRANGE K 0 -1 REV",
    "ECHO V",
    "PING",
    "PING V",
    "GET",
    "SET K",
    "NOSUCH K V",
    "HSET K F",
    "LSET K x V",
    "INCRBY K x",
    "EXPIRE K x",
    "ZADD K x F",
    "SETRANGE K -1 V",
    "SET K V EX 0",
    "GETEX K PERSIST",
];

/// Those that only a Redis answers, and those that concern the connection.
const FULL: &[&str] = &[
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH K",
    "UNWATCH",
    "SELECT 0",
    "SELECT 1",
    "SELECT x",
    "MULTI x",
    "EXEC x",
    "CONFIG GET maxmemory",
    "SDIFFSTORE K K K",
    "ZUNIONSTORE K 2 K K",
    "RENAME K K",
    "COPY K K",
    "SORT K ALPHA",
    "OBJECT ENCODING K",
    "XADD K 1-N F V",
    "XLEN K",
    "XRANGE K - +",
    "XDEL K 1-N",
    "PFADD K F F",
    "PFCOUNT K",
    "GEOADD K 1 2 F",
    "GEOPOS K F",
    "EVAL return{KEYS[1],ARGV[1],1,false} 1 K V",
    "EVAL return{err=ARGV[1]} 0 V",
    "BLPOP K 0.001",
    "BRPOPLPUSH K K 0.001",
    "BLMOVE K K LEFT LEFT 0.001",
    "BZPOPMIN K 0.001",
    "XREAD BLOCK 1 STREAMS K 99-9",
    "PUBLISH F V",
    "UNSUBSCRIBE F",
    "CLIENT GETNAME",
    "CLIENT GETNAME",
    "CLIENT SETNAME F",
    "CLIENT SETNAME x\ty",
    "CLIENT NOSUCH",
    "RESET",
    "DBSIZE",
    "EXISTS",
    "DUMP nosuch",
    "LCS K K LEN",
    "BITFIELD K SET u8 0 N GET u4 1",
    "MSETNX K V K V",
    "COMMAND COUNT",
    "WAIT x",
    "AUTH",
    "SUBSCRIBE",
    "HELLO 9",
    "FLUSHDB",
];

fn generated(dice: &mut Dice, is_full: bool) -> String {
    let template = if is_full && dice.below(3) == 0 { dice.pick(FULL) } else { dice.pick(PORTABLE) };
    let words = template.split(' ').map(|word| match word {
        "K" => ["k1", "k2", "k3", "k4", "k5", "k6"][dice.below(6)].to_string(),
        "F" => ["f1", "f2", "f3"][dice.below(3)].to_string(),
        "V" => match dice.below(4) {
            0 => "value".to_string(),
            1 => "7".to_string(),
            2 => "x".repeat(1 + dice.below(300)),
            _ => "-3.25".to_string(),
        },
        "1-N" => format!("1-{}", 1 + dice.below(9)),
        "N" => dice.below(9).to_string(),
        other => other.to_string(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Sends all of `bytes` in pieces.
fn chopped(client: &mut Client, bytes: &[u8], dice: &mut Dice) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = match dice.below(3) {
            0 => rest.len(),
            1 => 1 + dice.below(rest.len()),
            _ => 1 + dice.below(rest.len().min(9)),
        };
        // A connection that has ended is told by the missing reply.
        let _ = client.writer.write_all(&rest[..size]);
        rest = &rest[size..];
    }
}

pub(super) fn conversation(
    seed: u64,
    rounds: usize,
    version: &str,
    is_full: bool,
    direct: u16,
    mecha: &Mecha,
    name: &str,
) {
    let mut dice = Dice(seed);
    let mut pairs: Vec<_> = (0..3).map(|_| (Client::new(direct), mecha.client())).collect();
    assert_eq!(pairs[0].0.call("FLUSHALL"), "+OK\r\n");
    assert_eq!(pairs[0].1.call("FLUSHALL"), "+OK\r\n");
    for (one, other) in &mut pairs {
        // The greetings differ in the number of the connection.
        assert_eq!(one.call(version).is_empty(), other.call(version).is_empty());
    }
    let mut last = Vec::new();
    for round in 0..rounds {
        let at = dice.below(pairs.len());
        let (one, other) = &mut pairs[at];
        let lines: Vec<_> = (0..1 + dice.below(6)).map(|_| generated(&mut dice, is_full)).collect();
        let mut bytes = Vec::new();
        for line in &lines {
            match dice.below(4) {
                0 => bytes.extend_from_slice(format!("{line}\r\n").as_bytes()),
                _ => bytes.extend_from_slice(&frame(&line.split(' ').collect::<Vec<_>>())),
            }
        }
        chopped(one, &bytes, &mut dice);
        chopped(other, &bytes, &mut dice);
        for line in &lines {
            last.push(format!("{at}: {line}"));
            let (expected, seen) = (one.reply(), other.reply());
            assert_eq!(
                seen,
                expected,
                "{name}, {version}, seed {seed}, round {round}: mecha (left) and redis-server (right) after\n{}",
                last[last.len().saturating_sub(25)..].join("\n")
            );
        }
    }
    if is_full {
        pairs.iter_mut().for_each(|(one, other)| farewell(one, other, &mut dice, name));
    }
}

/// The last words break the protocol, in whatever state the client is: both ends say the same to the end.
fn farewell(one: &mut Client, other: &mut Client, dice: &mut Dice, name: &str) {
    let first = dice.pick(&[
        "",
        "CLIENT REPLY SKIP\r\nGET k1\r\nGET k2\r\n",
        "MULTI\r\nUNSUBSCRIBE f1\r\nEXEC\r\n",
        "PSUBSCRIBE f*\r\nPING\r\n",
        "SUBSCRIBE f1 f2\r\n",
    ]);
    let wrong = dice.pick(&["*1\r\n!\r\n", "*2\r\n$3\r\nGET\r\n$x\r\n", "*x\r\n", "GET \"k1\r\n"]);
    let bytes = format!("{first}ECHO last\r\n{wrong}PING\r\n");
    let seen = [other, one].map(|client| {
        chopped(client, bytes.as_bytes(), dice);
        let (bytes, is_over) = client.drain(PATIENCE);
        (String::from_utf8_lossy(&bytes).into_owned(), is_over)
    });
    assert!(seen[1].0.contains("Protocol error") && seen[1].1, "{name}: {seen:?}");
    assert_eq!(seen[0], seen[1], "{name}: mecha (left) and redis-server (right) after {bytes}");
}

#[test]
fn generated_conversations_are_equal_on_redis() {
    let Some(((_one, direct), (_other, behind))) = redis().zip(redis()) else { return };
    let mecha = Mecha::start("redis", &format!("redis://127.0.0.1:{behind}"));
    for seed in 1..=6 {
        let version = if seed % 2 == 0 { "HELLO 3" } else { "HELLO 2" };
        conversation(seed * 7919, 400, version, true, direct, &mecha, "redis");
    }
    assert!(mecha.metric("mecha_calls_total") > 5000.0, "traffic did not cross mecha");
    mecha.settles();
}

#[test]
fn generated_conversations_are_equal_on_memcached_and_on_the_store() {
    let Some(((_one, direct), (_memcached, memcached))) = redis().zip(memcached()) else { return };
    for to in [format!("memcached://127.0.0.1:{memcached}"), "embedded://".into()] {
        let mecha = Mecha::start("redis", &to);
        for seed in 1..=4 {
            let version = if seed % 2 == 0 { "HELLO 3" } else { "HELLO 2" };
            conversation(seed * 104_729, 300, version, false, direct, &mecha, &to);
        }
        assert!(mecha.metric("mecha_calls_total") > 2000.0, "traffic did not cross mecha");
    }
}
