use std::collections::HashMap;

use super::aggregate::test_run;

/// Runs lines on a fresh world and returns the last reply.
fn last(lines: &[&str]) -> String {
    let mut world = HashMap::new();
    let mut reply = Vec::new();
    for line in lines {
        let args: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        reply = test_run(&mut world, &args, 2, 1);
    }
    String::from_utf8(reply).unwrap()
}

#[test]
fn strings_and_numbers_follow_redis() {
    for (lines, expected) in [
        (&["SET a 10", "INCRBY a -3"][..], ":7\r\n"),
        (&["SET a 010", "INCR a"], "-ERR value is not an integer or out of range\r\n"),
        (&["SET a 9223372036854775807", "INCR a"], "-ERR increment or decrement would overflow\r\n"),
        (&["SET a 10.50", "INCRBYFLOAT a 0.1"], "$4\r\n10.6\r\n"),
        (&["SET a hello", "GETRANGE a -3 -1"], "$3\r\nllo\r\n"),
        (&["SET a hello", "SETRANGE a 6 x", "GET a"], "$7\r\nhello\0x\r\n"),
        (&["SET a 1", "SET a 2 NX"], "$-1\r\n"),
        (&["SET a 1", "SET a 2 XX GET"], "$1\r\n1\r\n"),
        (&["SET a 1 EX 0"], "-ERR invalid expire time in 'set' command\r\n"),
        (&["SET a 1 NX XX"], "-ERR syntax error\r\n"),
        (&["MSET a 1 b 2", "MGET a b c"], "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n"),
        (&["MSET a 1 b"], "-ERR wrong number of arguments for 'mset' command\r\n"),
        (&["RPUSH l x", "GET l"], "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
        (&["GET"], "-ERR wrong number of arguments for 'get' command\r\n"),
    ] {
        assert_eq!(last(lines), expected, "{lines:?}");
    }
}

#[test]
fn keys_live_and_end_as_in_redis() {
    for (lines, expected) in [
        (&["SET a 1 PX 1500", "PTTL a"][..], ":1500\r\n"),
        (&["SET a 1", "EXPIRE a 10 XX"], ":0\r\n"),
        (&["SET a 1", "EXPIRE a 10 GT"], ":0\r\n"),
        (&["SET a 1", "EXPIRE a -1", "EXISTS a"], ":0\r\n"),
        (&["SET a 1 EX 5", "PERSIST a", "TTL a"], ":-1\r\n"),
        (&["TTL a"], ":-2\r\n"),
        (&["SET a 1", "EXISTS a a b"], ":2\r\n"),
        (&["SET a 1", "DEL a a b"], ":1\r\n"),
        (&["SET a 1", "RENAME a b", "GET b"], "$1\r\n1\r\n"),
        (&["RENAME a b"], "-ERR no such key\r\n"),
        (&["RPUSH l x", "TYPE l"], "+list\r\n"),
    ] {
        assert_eq!(last(lines), expected, "{lines:?}");
    }
}
