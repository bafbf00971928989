use mecha_core::Bridge as _;
use proptest::prelude::*;

use super::*;

fn request(line: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    write_request(line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter(), &mut frame);
    frame
}

/// What the client gets for `reply`, which comes in pieces of `size`.
fn check(version: u8, lines: &[&str], reply: &str, size: usize) -> (String, String) {
    let mut bridge = VersionBridge::new(version);
    let (mut sent, mut seen) = (Vec::new(), Vec::new());
    let requests: Vec<u8> = lines.iter().flat_map(|line| request(line)).collect();
    requests.chunks(size).for_each(|piece| bridge.sent(piece, &mut sent));
    let reply = reply.replace(' ', "\r\n");
    reply.as_bytes().chunks(size).for_each(|piece| bridge.received(piece, &mut seen));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace("\r\n", " ");
    (text(sent), text(seen))
}

#[test]
fn replies_become_what_version_three_has_in_whatever_pieces_they_come() {
    for size in 1..40 {
        for (line, two, three) in [
            ("HGETALL h", "*4 $1 a $1 1 $1 b $1 2 ", "%2 $1 a $1 1 $1 b $1 2 "),
            ("HGETALL h", "*0 ", "%0 "),
            ("GET k", "$-1 ", "_ "),
            ("SMEMBERS s", "*1 $1 a ", "~1 $1 a "),
            ("ZSCORE z m", "$3 1.5 ", ",1.5 "),
            ("ZRANGE z 0 -1 WITHSCORES", "*4 $1 a $1 1 $1 b $3 inf ", "*2 *2 $1 a ,1 *2 $1 b ,inf "),
            ("ZPOPMIN z", "*2 $1 a $1 1 ", "*2 $1 a ,1 "),
            (
                "XREAD STREAMS s 0",
                "*1 *2 $1 s *1 *2 $3 1-1 *2 $1 f $1 v ",
                "%1 $1 s *1 *2 $3 1-1 *2 $1 f $1 v ",
            ),
            ("BLPOP l 1", "*-1 ", "_ "),
            ("INFO", "$5 a:b\tc ", "=9 txt:a:b\tc "),
            ("HGETALL h", "-WRONGTYPE x ", "-WRONGTYPE x "),
            ("LRANGE l 0 -1", "*2 $1 a $-1 ", "*2 $1 a _ "),
        ] {
            assert_eq!(check(3, &[line], two, size), (text_of(line), three.to_string()), "{line} by {size}");
            assert_eq!(check(2, &[line], two, size).1, two, "{line} by {size}");
        }
    }
}

fn text_of(line: &str) -> String {
    String::from_utf8(request(line)).unwrap().replace("\r\n", " ")
}

#[test]
fn transactions_and_messages_keep_their_order() {
    let lines =
        ["MULTI", "HGETALL h", "ZSCORE z m", "EXEC", "SMEMBERS s", "MULTI", "GET", "EXEC", "SMEMBERS s"];
    let two = "+OK +QUEUED +QUEUED *2 *2 $1 a $1 1 $1 3 *0 +OK -ERR x -EXECABORT y *1 $1 a "
        .replace("-ERR x", "-ERR")
        .replace("-EXECABORT y", "-EXECABORT");
    let three = "+OK +QUEUED +QUEUED *2 %1 $1 a $1 1 ,3 ~0 +OK -ERR -EXECABORT ~1 $1 a ";
    let lines_two = ["SUBSCRIBE a", "PING", "UNSUBSCRIBE", "HGETALL h", "LRANGE l 0 -1"];
    let talk_two = "*3 $9 subscribe $1 a :1 *3 $7 message $1 a $2 hi *2 $4 pong $0  *3 $11 unsubscribe $1 a :0 *0 *2 $7 message $1 a ";
    let talk_three = ">3 $9 subscribe $1 a :1 >3 $7 message $1 a $2 hi +PONG >3 $11 unsubscribe $1 a :0 %0 *2 $7 message $1 a ";
    for size in 1..60 {
        assert_eq!(check(3, &lines, &two, size).1, three, "by {size}");
        assert_eq!(check(3, &lines_two, talk_two, size).1, talk_three, "by {size}");
    }
}

#[test]
fn hello_is_answered_with_what_the_server_says_of_itself() {
    let info = "$41 redis_version:5.0.14\nrole:slave\nx:yyyyyyyyyyy ";
    let info = info.replace("$41", &format!("${}", info.len() - 5));
    let (sent, seen) = check(3, &["HELLO 3 AUTH default pw SETNAME me"], &format!("+OK +OK {info}"), 7);
    assert_eq!(sent, format!("{}{}{}", text_of("AUTH pw"), text_of("CLIENT SETNAME me"), text_of("INFO")));
    assert_eq!(
        seen,
        "%7 $6 server $5 redis $7 version $6 5.0.14 $5 proto :3 $2 id :0 $4 mode $10 standalone $4 role $7 replica \
         $7 modules *0 "
    );
    let (_, seen) = check(3, &["HELLO 3 AUTH u pw", "GET k"], &format!("-WRONGPASS {info}$-1 "), 9);
    assert_eq!(seen, "-WRONGPASS _ ");
    let (_, seen) = check(3, &["HELLO 2", "GET k", "HELLO 3", "GET k"], &format!("{info}$-1 {info}$-1 "), 5);
    assert!(seen.starts_with("*14 ") && seen.contains("*0 $-1 %7 ") && seen.ends_with(" _ "), "{seen}");
    let (sent, seen) = check(3, &["HELLO 4"], "+PONG ", 3);
    assert_eq!(
        (sent, seen.replace(' ', "_")),
        (text_of("PING"), "-NOPROTO_unsupported_protocol_version_".into())
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(requests in prop::collection::vec(any::<u8>(), 0..60), replies in prop::collection::vec(
        prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'2'), Just(b'-'), any::<u8>()], 0..80))
    {
        let mut bridge = VersionBridge::new(3);
        let mut out = Vec::new();
        for line in ["SUBSCRIBE a", "HGETALL h", "ZRANGE z 0 -1 WITHSCORES", "MULTI", "GET k", "EXEC", "HELLO 3"] {
            bridge.sent(&request(line), &mut out);
        }
        bridge.sent(&requests, &mut out);
        bridge.received(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", &mut out);
        bridge.received(&replies, &mut out);
    }
}
