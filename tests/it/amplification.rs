//! Small requests for much memory: values named many times, and strings that start far out. Each gets a clear error, or what it asked for, and mecha stays small.

use super::support::{Client, Mecha, frame, memcached, redis};

const VALUE: usize = 1_000_000;

fn call(client: &mut Client, words: &[&str]) -> String {
    client.send(&frame(words));
    client.reply()
}

/// Asks, and keeps no answer: its length, or the error.
fn size(client: &mut Client, words: &[&str]) -> Result<usize, String> {
    let reply = call(client, words);
    if reply.starts_with('-') { Err(reply) } else { Ok(reply.len()) }
}

fn repeated<'w>(start: &[&'w str], word: &'w str, count: usize) -> Vec<&'w str> {
    start.iter().copied().chain(std::iter::repeat_n(word, count)).collect()
}

#[test]
fn a_large_value_that_is_named_often_is_refused_and_takes_no_memory() {
    let Some((_memcached, port)) = memcached() else { return };
    for to in ["embedded://".to_owned(), format!("memcached://127.0.0.1:{port}")] {
        let mecha = Mecha::start("redis", &to);
        let mut client = mecha.client();
        let value = "x".repeat(VALUE);
        assert_eq!(call(&mut client, &["SET", "big", &value]), "+OK\r\n");
        assert_eq!(call(&mut client, &["HSET", "hash", "big", &value]), ":1\r\n");
        assert_eq!(call(&mut client, &["RPUSH", "list", &value[1..]]), ":1\r\n");
        // As often as makes no harm.
        assert!(size(&mut client, &repeated(&["MGET"], "big", 7)).is_ok_and(|size| size > 7 * VALUE));
        assert!(size(&mut client, &repeated(&["HMGET", "hash"], "big", 7)).is_ok());
        let before = mecha.resident_mib();
        let refusal = "-ERR the reply would repeat more than 64 MiB\r\n".to_owned();
        for words in [
            repeated(&["MGET"], "big", 5000),
            repeated(&["HMGET", "hash"], "big", 5000),
            vec!["HRANDFIELD", "hash", "-5000", "WITHVALUES"],
            [vec!["SORT", "list", "BY", "nosort"], ["GET", "#"].repeat(2000)].concat(),
        ] {
            assert_eq!(size(&mut client, &words), Err(refusal.clone()), "{to}: {} {}", words[0], words.len());
        }
        assert!(mecha.resident_mib() < before + 100.0, "{to}: {before} then {} MiB", mecha.resident_mib());
        assert_eq!(call(&mut client, &["STRLEN", "big"]), format!(":{VALUE}\r\n"));
    }
}

#[test]
fn a_large_item_that_a_memcached_client_names_often_is_refused() {
    let Some((_redis, port)) = redis() else { return };
    for to in ["embedded://".to_owned(), format!("redis://127.0.0.1:{port}")] {
        let mecha = Mecha::start("memcached", &to);
        let mut client = mecha.client();
        client.send(format!("set big 0 0 {VALUE}\r\n{}\r\n", "x".repeat(VALUE)).as_bytes());
        assert_eq!(client.line(), "STORED\r\n");
        client.send(format!("get{}\r\nmn\r\n", " big".repeat(400)).as_bytes());
        assert_eq!(client.line(), "SERVER_ERROR out of memory writing get response\r\n", "{to}");
        assert_eq!(client.line(), "MN\r\n");
    }
}

#[test]
fn strings_that_start_far_out_are_refused_before_they_take_memory() {
    let Some((_memcached, port)) = memcached() else { return };
    for to in ["embedded://".to_owned(), format!("memcached://127.0.0.1:{port}")] {
        let mecha = Mecha::start("redis", &to);
        let mut client = mecha.client();
        let value = "x".repeat(VALUE);
        assert_eq!(call(&mut client, &["SET", "big", &value]), "+OK\r\n");
        let before = mecha.resident_mib();
        for words in [
            ["SETRANGE", "far", "536870911", "x"].as_slice(),
            &["SETBIT", "far", "4294967295", "1"],
            &["BITFIELD", "far", "SET", "u8", "4294967280", "1"],
        ] {
            let reply = call(&mut client, words);
            assert!(reply.starts_with("-ERR "), "{to}: {words:?} {reply}");
            assert_eq!(call(&mut client, &["EXISTS", "far"]), ":0\r\n", "{to}: {words:?}");
        }
        // What grows by its own size each time ends at the limit of a value, and is what it was.
        let mut reply = String::new();
        for _ in 0..2000 {
            reply = call(&mut client, &["APPEND", "grown", &value]);
            if reply.starts_with('-') {
                break;
            }
        }
        assert!(reply.starts_with("-ERR "), "{to}: {reply}");
        let kept = call(&mut client, &["STRLEN", "grown"]);
        assert!(kept.len() > 6 && kept.starts_with(':'), "{to}: {kept}");
        assert!(call(&mut client, &["BITOP", "NOT", "other", "big"]) == format!(":{VALUE}\r\n"), "{to}");
        drop((reply, value));
        // What the store holds is no harm.
        assert!(mecha.resident_mib() < before + 400.0, "{to}: {before} then {}", mecha.resident_mib());
    }
}
