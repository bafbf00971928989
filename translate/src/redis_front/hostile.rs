//! What outgrows its limits, and what asks for more than anybody has.

use mecha_resp::write_request;

use super::differential::ours::Ours;

fn frame(words: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_request(words.iter().copied(), &mut frame);
    frame
}

fn says(ours: &mut Ours, line: &str) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    String::from_utf8_lossy(&ours.bytes(0, &frame(&words))).into_owned()
}

const TOO_LARGE: &str = "-ERR the value is larger than an item of the embedded backend\r\n";

#[test]
fn a_transaction_that_outgrows_the_limit_leaves_the_old_value() {
    let mut ours = Ours::of_size(1 << 20);
    let item = vec![b'i'; 40_000];
    for _ in 0..12 {
        assert!(ours.bytes(0, &frame(&[b"RPUSH", b"l", &item])).starts_with(b":"));
    }
    for keys in [&[b"l"][..], &[b"l", b"m"]] {
        says(&mut ours, "MULTI");
        for key in keys {
            for _ in 0..14 {
                ours.bytes(0, &frame(&[b"RPUSH", *key, &item]));
            }
        }
        let reply = says(&mut ours, "EXEC");
        assert!(reply.starts_with(&format!("*{}\r\n", 14 * keys.len())), "{reply}");
        assert!(reply.contains(TOO_LARGE));
        let len: usize = says(&mut ours, "LLEN l").trim_matches([':', '\r', '\n']).parse().expect("a number");
        assert!((12..=14).contains(&len), "{len}");
    }
}

#[test]
fn a_command_over_several_keys_that_outgrows_the_limit_leaves_the_old_value() {
    let mut ours = Ours::of_size(1 << 20);
    for member in 0..3000 {
        for key in ["a", "b"] {
            says(&mut ours, &format!("SADD {key} {key}{}{member}", "m".repeat(60)));
        }
    }
    assert_eq!(says(&mut ours, "SADD to old"), ":1\r\n");
    for line in ["SUNIONSTORE to a b", "ZUNIONSTORE to 2 a b"] {
        assert_eq!(says(&mut ours, line), TOO_LARGE);
        assert_eq!(says(&mut ours, "SMEMBERS to"), "*1\r\n$3\r\nold\r\n");
        assert_eq!(says(&mut ours, "SCARD a"), ":3000\r\n");
    }
    let gets = " GET #".repeat(9);
    says(&mut ours, "RPUSH list old");
    for item in 0..3000 {
        says(&mut ours, &format!("RPUSH from {item}"));
    }
    assert!(says(&mut ours, &format!("SORT from BY nosort{gets} STORE list")).starts_with('-'));
    assert_eq!(says(&mut ours, "LRANGE list 0 -1"), "*1\r\n$3\r\nold\r\n");
}

#[test]
fn many_small_members_in_one_request_do_not_lose_what_was_there() {
    let mut ours = Ours::of_size(1 << 20);
    assert_eq!(says(&mut ours, "ZADD z 1 old"), ":1\r\n");
    let more: String = (0..20_000).map(|member| format!(" 1 {member}")).collect();
    assert_eq!(says(&mut ours, &format!("ZADD z{more}")), TOO_LARGE);
    assert_eq!(says(&mut ours, "ZRANGE z 0 -1"), "*1\r\n$3\r\nold\r\n");
}

#[test]
fn what_is_restored_and_outgrows_the_limit_leaves_the_old_value() {
    let mut ours = Ours::of_size(1 << 20);
    says(&mut ours, "SET k old");
    // A megabyte in twelve kilobytes, and a list whose elements weigh more than they are long.
    let copies = b"\xe0\xff\x00".repeat(4000);
    let bomb = [
        &b"\x00\xc3\x80"[..],
        &12_002_u32.to_be_bytes(),
        b"\x80",
        &1_056_001_u32.to_be_bytes(),
        b"\x00a",
        &copies,
    ];
    let heavy = [&b"\x01\x80"[..], &20_000_u32.to_be_bytes(), &b"\x01a".repeat(20_000)];
    for body in [bomb.concat(), heavy.concat()] {
        let mut payload = body;
        crate::rdb::seal(0, &mut payload);
        let request = frame(&[b"RESTORE", b"k", b"0", &payload, b"REPLACE"]);
        let reply = String::from_utf8_lossy(&ours.bytes(0, &request)).into_owned();
        assert_eq!(reply, "-ERR the restored value would be larger than an item of the backend\r\n");
        assert_eq!(says(&mut ours, "GET k"), "$3\r\nold\r\n");
    }
}

#[test]
fn sessions_change_inside_a_transaction_as_in_redis() {
    let mut ours = Ours::embedded();
    for line in ["MULTI", "HELLO 3", "CLIENT SETNAME me", "HGETALL h", "CLIENT GETNAME"] {
        says(&mut ours, line);
    }
    let reply = says(&mut ours, "EXEC");
    assert!(reply.starts_with("*4\r\n%7\r\n"), "{reply}");
    assert!(reply.ends_with("+OK\r\n%0\r\n$2\r\nme\r\n"), "{reply}");
    assert_eq!(says(&mut ours, "HGETALL h"), "%0\r\n");
    for line in ["WATCH a", "SET a 1", "MULTI", "HELLO 2"] {
        says(&mut ours, line);
    }
    assert_eq!(says(&mut ours, "EXEC"), "_\r\n");
    assert_eq!(says(&mut ours, "HGETALL h"), "%0\r\n");
}

#[test]
fn a_watched_key_that_came_and_went_has_changed() {
    let mut ours = Ours::embedded();
    for line in ["WATCH a", "SET a 1", "DEL a", "MULTI", "SET b 1"] {
        says(&mut ours, line);
    }
    assert_eq!(says(&mut ours, "EXEC"), "*-1\r\n");
    for line in ["WATCH a", "SET b 1", "DEL b", "DEL a", "MULTI", "SET b 1"] {
        says(&mut ours, line);
    }
    assert_eq!(says(&mut ours, "EXEC"), "*1\r\n+OK\r\n");
}

#[test]
fn the_whole_store_is_seen_and_flushed_inside_a_transaction() {
    let mut ours = Ours::embedded();
    for line in
        ["SET old 1", "MULTI", "SET a 1", "DBSIZE", "FLUSHALL", "DBSIZE", "SET b 1", "KEYS *", "RANDOMKEY"]
    {
        says(&mut ours, line);
    }
    let one = "$1\r\nb\r\n";
    assert_eq!(says(&mut ours, "EXEC"), format!("*7\r\n+OK\r\n:2\r\n+OK\r\n:0\r\n+OK\r\n*1\r\n{one}{one}"));
    assert!(says(&mut ours, "INFO keyspace").contains("keys=1,expires=0"));
}

#[test]
fn a_transaction_cannot_be_queued_without_limit() {
    let mut ours = Ours::of_size(1 << 20);
    says(&mut ours, "MULTI");
    let value = vec![b'v'; 8 << 20];
    let replies: Vec<_> = (0..9).map(|_| ours.bytes(0, &frame(&[b"SET", b"a", &value]))).collect();
    assert_eq!(replies.first().map(Vec::as_slice), Some(&b"+QUEUED\r\n"[..]));
    assert_eq!(
        replies.last().map(Vec::as_slice),
        Some(&b"-ERR the transaction is larger than 64 MiB\r\n"[..])
    );
    assert!(says(&mut ours, "EXEC").starts_with("-EXECABORT"));
}

#[test]
fn requests_for_more_than_there_is_are_answered_at_once() {
    let mut ours = Ours::of_size(1 << 20);
    for line in ["RPUSH l a b c", "SADD s a b c", "ZADD z 1 a 2 b 3 c", "HSET h a 1 b 2", "SET k value"] {
        says(&mut ours, line);
    }
    let (least, most) = ("-9223372036854775808", "9223372036854775807");
    for line in [
        format!("LRANGE l {least} {most}"),
        format!("LRANGE l {most} {least}"),
        format!("GETRANGE k {least} {most}"),
        format!("LTRIM none {least} {least}"),
        format!("LPOS l a RANK {least}"),
        format!("LPOS l a RANK {most} COUNT {most} MAXLEN {most}"),
        format!("SRANDMEMBER s {least}"),
        "SRANDMEMBER s -4611686018427387903".to_owned(),
        format!("HRANDFIELD h {least} WITHVALUES"),
        "HRANDFIELD h -4611686018427387903 WITHVALUES".to_owned(),
        format!("ZRANDMEMBER z {least}"),
        "ZRANDMEMBER z -4611686018427387903 WITHSCORES".to_owned(),
        format!("SPOP none {most}"),
        format!("LPOP none {most}"),
        "SETRANGE k 4294967296 x".to_owned(),
        format!("SETRANGE k {most} x"),
        "SETBIT k 4294967295 1".to_owned(),
        format!("SETBIT k {most} 1"),
        "BITFIELD k SET u8 4294967295 1".to_owned(),
        format!("BITFIELD k SET u8 #{most} 1"),
        format!("BITFIELD k INCRBY i64 4294967290 {least}"),
        format!("BITCOUNT k {least} {most} BIT"),
        format!("BITPOS k 1 {least} {most} BIT"),
        format!("ZUNIONSTORE to {most} z"),
        "ZUNION 4294967296 z".to_owned(),
        format!("SINTERCARD {most} s"),
        format!("LMPOP {most} l LEFT"),
        format!("ZMPOP {most} z MIN COUNT {most}"),
        format!("SCAN 0 COUNT {most}"),
        format!("SCAN 18446744073709551615 COUNT {most}"),
        format!("HSCAN h 0 COUNT {most}"),
        "SSCAN s 18446744073709551615".to_owned(),
        format!("ZRANGE z {least} {most}"),
        format!("ZRANGE z -inf +inf BYSCORE LIMIT {most} {least}"),
        format!("ZRANGE z - + BYLEX LIMIT {least} {most}"),
        format!("EXPIRE k {most}"),
        format!("PEXPIRE k {most}"),
        format!("PEXPIREAT none {least}"),
        format!("SET k v PX {most}"),
        format!("GETEX k EX {most}"),
        format!("DECRBY n {least}"),
        format!("LINDEX l {least}"),
        format!("LSET l {least} x"),
        format!("LREM l {least} x"),
        format!("ZREMRANGEBYRANK none {least} {most}"),
        format!("SORT l ALPHA LIMIT {least} {most}"),
        format!("LCS k k MINMATCHLEN {least}"),
    ] {
        let reply = says(&mut ours, &line);
        assert!(reply.len() < 4096, "{line}: {}", reply.len());
        // And nothing was changed by what was refused.
        assert_eq!(says(&mut ours, "LLEN l"), ":3\r\n", "{line}");
    }
}

#[test]
fn whatever_is_written_the_store_stays_in_its_bound() {
    let mut ours = Ours::of_size(32 << 20);
    let value = vec![b'v'; 200_000];
    for round in 0..400_u32 {
        let key = format!("k{}", round % 300);
        let key = key.as_bytes();
        match round % 5 {
            0 => drop(ours.bytes(0, &frame(&[b"SET", key, &value]))),
            1 => drop(ours.bytes(0, &frame(&[b"SETRANGE", key, b"7000000", b"x"]))),
            2 => drop(ours.bytes(0, &frame(&[b"HSET", key, &value, &value]))),
            3 => drop(ours.bytes(0, &frame(&[b"COPY", b"k1", key, b"REPLACE"]))),
            _ => drop(ours.bytes(0, &frame(&[b"APPEND", b"k1", &value]))),
        }
        assert!(ours.stored_bytes() <= 32 << 20, "{} in round {round}", ours.stored_bytes());
    }
}

#[test]
fn encodings_are_those_that_a_server_would_choose() {
    let mut ours = Ours::embedded();
    let long = "x".repeat(65);
    for (line, expected) in [
        ("SET k 123", "int"),
        ("SET k 0123", "embstr"),
        (&format!("SET k {}", "x".repeat(44)), "embstr"),
        (&format!("SET k {}", "x".repeat(45)), "raw"),
        ("DEL k", ""),
        ("RPUSH k a", "quicklist"),
        ("DEL k", ""),
        ("SADD k 1 2", "intset"),
        ("SADD k a", "hashtable"),
        ("DEL k", ""),
        ("HSET k a 1", "listpack"),
        (&format!("HSET k a {long}"), "hashtable"),
        ("DEL k", ""),
        ("ZADD k 1 a", "listpack"),
        (&format!("ZADD k 1 {long}"), "skiplist"),
    ] {
        says(&mut ours, line);
        let reply = says(&mut ours, "OBJECT ENCODING k");
        let shown = if expected.is_empty() {
            "$-1\r\n".into()
        } else {
            format!("${}\r\n{expected}\r\n", expected.len())
        };
        assert_eq!(reply, shown, "after {line}");
    }
    let usage = says(&mut ours, "MEMORY USAGE k");
    let usage: usize = usage.trim_matches([':', '\r', '\n']).parse().expect("a number");
    assert!((300..1000).contains(&usage), "{usage}");
}

#[test]
fn commands_are_described_with_where_their_keys_are() {
    let mut ours = Ours::embedded();
    let sort = says(&mut ours, "COMMAND INFO sort");
    assert_eq!(sort.matches("STORE").count(), 1, "{sort}");
    assert!(sort.contains("$5\r\nindex\r\n:1\r\n"), "{sort}");
    let eval = says(&mut ours, "COMMAND INFO zunionstore");
    assert!(eval.contains("$9\r\nkeynumidx\r\n:0\r\n$8\r\nfirstkey\r\n:1\r\n"), "{eval}");
}

#[test]
fn weights_end_at_a_zero_byte_as_strings_of_c_do() {
    let mut ours = Ours::embedded();
    for element in [&b"2\0x"[..], b"1", b"\x005.5"] {
        assert!(ours.bytes(0, &frame(&[b"RPUSH", b"l", element])).starts_with(b":"));
    }
    assert_eq!(says(&mut ours, "SORT l"), "*3\r\n$4\r\n\x005.5\r\n$1\r\n1\r\n$3\r\n2\0x\r\n");
}
