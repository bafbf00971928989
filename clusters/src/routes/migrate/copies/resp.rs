//! Copies of Redis keys.
//!
//! Between two servers a key is moved as the server itself writes it (`DUMP`, `RESTORE`), whatever its type. Where one of
//! them is translated its type decides: strings, hashes, lists, sets and sorted sets are read whole and built again. A
//! stream has no such form and is refused.

use mecha_core::{OpClass, OpId};
use mecha_resp::{Request, Resp, Value, op, op_info, write_request};

use super::{Copies, How, Likeness, Step, Told};

/// Words of one request that builds an aggregate.
const CHUNK: usize = 512;

/// Errors of a server's state, which passes.
const PASSING: [&[u8]; 9] = [
    b"-OOM",
    b"-LOADING",
    b"-MISCONF",
    b"-READONLY",
    b"-CLUSTERDOWN",
    b"-TRYAGAIN",
    b"-MASTERDOWN",
    b"-BUSY ",
    b"-NOREPLICAS",
];

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    write_request(words.iter().copied(), &mut out);
    out
}

/// The key is not there, or no longer.
fn gone(key: &[u8], how: How) -> Step {
    Step::Put(if how.is_replacing { vec![Resp::remove(key)] } else { Vec::new() })
}

/// A life in milliseconds, 0 for ever; `None` if the key has just died.
fn life(reply: &[u8]) -> Option<i64> {
    match Value::parse(reply)?.int()? {
        -1 => Some(0),
        -2 => None,
        millis => Some(millis.max(1)),
    }
}

fn exact(key: &[u8], how: How, replies: &[Vec<u8>]) -> Option<Step> {
    let [dump, life_left, ..] = replies else {
        return Some(Step::Ask(vec![request(&[b"DUMP", key]), request(&[b"PTTL", key])]));
    };
    let (dump, life) = match (Value::parse(dump)?, life(life_left)) {
        (Value::Text(dump), Some(life)) => (dump, life.to_string()),
        (Value::Error(_), _) => return None,
        _ => return Some(gone(key, how)),
    };
    let mut words: Vec<&[u8]> = vec![b"RESTORE", key, life.as_bytes(), &dump];
    if how.is_replacing {
        words.push(b"REPLACE");
    }
    Some(Step::Put(vec![request(&words)]))
}

fn by_type(key: &[u8], how: How, replies: &[Vec<u8>]) -> Option<Step> {
    let [kind, life_left, rest @ ..] = replies else {
        return Some(Step::Ask(vec![request(&[b"TYPE", key]), request(&[b"PTTL", key])]));
    };
    let Some(life) = life(life_left).map(|life| life.to_string()) else {
        return matches!(Value::parse(life_left)?, Value::Int(_)).then(|| gone(key, how));
    };
    let kind = Value::parse(kind)?;
    let kind = kind.text()?;
    let (read, build, width): (&[&[u8]], &[u8], usize) = match kind {
        "none" => return Some(gone(key, how)),
        "string" => (&[b"GET", key], b"SET", 1),
        "hash" => (&[b"HGETALL", key], b"HSET", 2),
        "list" => (&[b"LRANGE", key, b"0", b"-1"], b"RPUSH", 1),
        "set" => (&[b"SMEMBERS", key], b"SADD", 1),
        "zset" => (&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"], b"ZADD", 2),
        _ => return None,
    };
    let Some(value) = rest.first() else { return Some(Step::Ask(vec![request(read)])) };
    let value = Value::parse(value)?;
    if kind == "string" {
        let Value::Text(text) = value else {
            return (value == Value::Null).then(|| gone(key, how));
        };
        let mut words: Vec<&[u8]> = vec![build, key, &text];
        if life != "0" {
            words.extend([b"PX".as_slice(), life.as_bytes()]);
        }
        return Some(Step::Put(vec![request(&words)]));
    }
    let Value::Array(items) = value else { return None };
    if items.is_empty() {
        return Some(gone(key, how));
    }
    let mut words = Vec::with_capacity(items.len());
    for item in items {
        let Value::Text(text) = item else { return None };
        words.push(text);
    }
    if kind == "zset" {
        // Read with the score behind, built with the score before.
        words.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
    }
    let mut puts = Vec::new();
    if how.is_replacing {
        puts.push(request(&[b"DEL", key]));
    }
    for chunk in words.chunks(CHUNK / width * width) {
        let mut all: Vec<&[u8]> = vec![build, key];
        all.extend(chunk.iter().map(Vec::as_slice));
        puts.push(request(&all));
    }
    if life != "0" {
        puts.push(request(&[b"PEXPIRE", key, life.as_bytes()]));
    }
    Some(Step::Put(puts))
}

/// The elements of a flat array, of `width` values each, in an order of their own.
fn sorted(reply: &[u8], width: usize) -> Option<Vec<Vec<Value>>> {
    let Value::Array(items) = Value::parse(reply)? else { return None };
    let mut all: Vec<Vec<Value>> = items.chunks(width).map(<[Value]>::to_vec).collect();
    all.sort_by_cached_key(|element| format!("{element:?}"));
    Some(all)
}

impl Copies for Resp {
    fn copy(key: &[u8], how: How, replies: &[Vec<u8>]) -> Step {
        let step = if how.is_exact { exact(key, how, replies) } else { by_type(key, how, replies) };
        step.unwrap_or(Step::Refused)
    }

    fn told(reply: &[u8]) -> Told {
        match reply.first() {
            Some(b'-') if PASSING.iter().any(|error| reply.starts_with(error)) => Told::Later,
            // Somebody was faster, with something newer.
            Some(b'-') if reply.starts_with(b"-BUSYKEY") => Told::Done,
            Some(b'-') | None => Told::Never,
            Some(_) => Told::Done,
        }
    }

    fn remove(key: &[u8]) -> Vec<u8> {
        request(&[b"DEL", key])
    }

    fn whether(key: &[u8]) -> Vec<u8> {
        request(&[b"EXISTS", key])
    }

    fn is_there(reply: &[u8]) -> Option<bool> {
        match Value::parse(reply)? {
            Value::Int(count) => Some(count > 0),
            _ => None,
        }
    }

    fn list(cursor: &[u8]) -> Option<Vec<u8>> {
        let cursor = if cursor.is_empty() { b"0" } else { cursor };
        Some(request(&[b"SCAN", cursor, b"COUNT", b"100"]))
    }

    fn listed(reply: &[u8], keys: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
        let Value::Array(parts) = Value::parse(reply)? else { return None };
        let mut parts = parts.into_iter();
        let (Some(Value::Text(cursor)), Some(Value::Array(names))) = (parts.next(), parts.next()) else {
            return None;
        };
        keys.extend(names.into_iter().filter_map(|name| match name {
            Value::Text(name) => Some(name),
            _ => None,
        }));
        Some(if cursor == b"0" { Vec::new() } else { cursor })
    }

    fn is_boundless(op: OpId) -> bool {
        match op {
            OpId::UNKNOWN | op::CLUSTER_FLUSHSLOT => true,
            _ if op_info(op).class != OpClass::Write => false,
            // Code that a server keeps is not data, and has to be brought to the new servers by whoever wrote it.
            _ => !["function|", "script|"].iter().any(|start| op_info(op).name.starts_with(start)),
        }
    }

    fn likeness(request: &Request, _frame: &[u8]) -> Likeness {
        let info = op_info(request.op);
        match request.op {
            op::HRANDFIELD
            | op::SRANDMEMBER
            | op::ZRANDMEMBER
            | op::HSCAN
            | op::SSCAN
            | op::ZSCAN
            | op::DUMP
            | op::SORT_RO
            | op::XPENDING => Likeness::None,
            op::HGETALL => Likeness::UnorderedPairs,
            op::HKEYS | op::HVALS | op::SDIFF | op::SINTER | op::SMEMBERS | op::SUNION => Likeness::Unordered,
            _ if info.keys.is_empty() => Likeness::None,
            // What changes with time, and what tells of the server rather than of the data.
            _ if ["ttl", "expiretime", "object|", "memory|", "xinfo|", "touch"]
                .iter()
                .any(|part| info.name.contains(part)) =>
            {
                Likeness::None
            }
            _ => Likeness::Bytes,
        }
    }

    fn is_alike(likeness: Likeness, one: &[u8], other: &[u8]) -> bool {
        let width = match likeness {
            Likeness::None => return true,
            _ if one == other => return true,
            // Products and versions phrase errors differently.
            _ if one.starts_with(b"-") && other.starts_with(b"-") => return true,
            Likeness::Bytes => return false,
            Likeness::Unordered => 1,
            Likeness::UnorderedPairs => 2,
        };
        matches!((sorted(one, width), sorted(other, width)), (Some(one), Some(other)) if one == other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: How = How { is_exact: false, is_replacing: true, now_unix_secs: 0 };

    fn shown(frames: &[Vec<u8>]) -> Vec<String> {
        let words = |frame: &Vec<u8>| {
            mecha_resp::args(frame).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
        };
        frames.iter().map(words).collect()
    }

    fn replies(all: &[&str]) -> Vec<Vec<u8>> {
        all.iter().map(|reply| reply.as_bytes().to_vec()).collect()
    }

    fn put(how: How, all: &[&str]) -> Vec<String> {
        match Resp::copy(b"k", how, &replies(all)) {
            Step::Put(frames) => shown(&frames),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_type_is_read_whole_and_built_again_with_its_life() {
        let ask = |all: &[&str]| match Resp::copy(b"k", COPY, &replies(all)) {
            Step::Ask(frames) => shown(&frames),
            other => panic!("{other:?}"),
        };
        assert_eq!(ask(&[]), ["TYPE k", "PTTL k"]);
        assert_eq!(ask(&["+string\r\n", ":-1\r\n"]), ["GET k"]);
        assert_eq!(put(COPY, &["+string\r\n", ":-1\r\n", "$1\r\nv\r\n"]), ["SET k v"]);
        assert_eq!(put(COPY, &["+string\r\n", ":0\r\n", "$1\r\nv\r\n"]), ["SET k v PX 1"]);
        assert_eq!(ask(&["+zset\r\n", ":7\r\n"]), ["ZRANGE k 0 -1 WITHSCORES"]);
        assert_eq!(
            put(COPY, &["+zset\r\n", ":7\r\n", "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n"]),
            ["DEL k", "ZADD k 1 a 2 b", "PEXPIRE k 7"]
        );
        let new = How { is_replacing: false, ..COPY };
        assert_eq!(put(new, &["+list\r\n", ":-1\r\n", "*1\r\n$1\r\na\r\n"]), ["RPUSH k a"]);
        assert_eq!(Resp::copy(b"k", COPY, &replies(&["+stream\r\n", ":-1\r\n"])), Step::Refused);
        assert_eq!(Resp::copy(b"k", COPY, &replies(&["-ERR x\r\n", ":-1\r\n"])), Step::Refused);
    }

    #[test]
    fn what_has_gone_is_removed_only_where_copies_replace() {
        for all in [
            &["+none\r\n", ":-2\r\n"][..],
            &["+string\r\n", ":-2\r\n"],
            &["+string\r\n", ":5\r\n", "$-1\r\n"],
            &["+set\r\n", ":5\r\n", "*0\r\n"],
        ] {
            assert_eq!(put(COPY, all), ["DEL k"]);
            assert_eq!(put(How { is_replacing: false, ..COPY }, all), [""; 0]);
        }
        let exact = How { is_exact: true, ..COPY };
        assert_eq!(put(exact, &["$-1\r\n", ":-2\r\n"]), ["DEL k"]);
        assert_eq!(put(exact, &["$2\r\nxy\r\n", ":-1\r\n"]), ["RESTORE k 0 xy REPLACE"]);
        let new = How { is_replacing: false, ..exact };
        assert_eq!(put(new, &["$2\r\nxy\r\n", ":99\r\n"]), ["RESTORE k 99 xy"]);
    }

    #[test]
    fn a_large_aggregate_is_built_in_pieces_that_keep_pairs_together() {
        let mut hash = format!("*{}\r\n", 2 * 1000);
        for number in 0..1000 {
            hash += &format!("$4\r\n{number:04}\r\n$1\r\nv\r\n");
        }
        let puts = put(COPY, &["+hash\r\n", ":-1\r\n", &hash]);
        assert_eq!(puts.len(), 1 + 4);
        assert!(puts.iter().skip(1).all(|line| line.starts_with("HSET k 0") && line.ends_with(" v")));
    }

    #[test]
    fn answers_are_alike_where_only_the_order_differs_that_nobody_has_promised() {
        let (one, other) = (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"*2\r\n$1\r\nb\r\n$1\r\na\r\n");
        assert!(Resp::is_alike(Likeness::Unordered, one, other));
        assert!(!Resp::is_alike(Likeness::Bytes, one, other));
        assert!(!Resp::is_alike(Likeness::UnorderedPairs, one, other));
        assert!(Resp::is_alike(Likeness::Bytes, b"-ERR a\r\n", b"-ERR b\r\n"));
        assert!(!Resp::is_alike(Likeness::Bytes, b"-ERR a\r\n", b"$-1\r\n"));
    }

    #[test]
    fn a_list_of_keys_goes_on_until_its_cursor_is_zero() {
        let mut keys = Vec::new();
        let cursor = Resp::listed(b"*2\r\n$2\r\n17\r\n*1\r\n$1\r\na\r\n", &mut keys).unwrap();
        assert_eq!(shown(&[Resp::list(&cursor).unwrap()]), ["SCAN 17 COUNT 100"]);
        assert_eq!(Resp::listed(b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nb\r\n", &mut keys), Some(Vec::new()));
        assert_eq!(keys, [b"a", b"b"]);
        assert_eq!(Resp::listed(b"-ERR no\r\n", &mut keys), None);
    }

    #[test]
    fn what_changes_data_without_naming_it_is_known() {
        for op in [op::FLUSHALL, op::SWAPDB, op::EVAL, op::FCALL, OpId::UNKNOWN] {
            assert!(Resp::is_boundless(op), "{}", op_info(op).name);
        }
        for op in [op::PING, op::SCRIPT_LOAD, op::FUNCTION_LOAD, op::DBSIZE, op::PUBLISH, op::CONFIG_SET] {
            assert!(!Resp::is_boundless(op), "{}", op_info(op).name);
        }
    }
}
