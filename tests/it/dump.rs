//! `DUMP` and `RESTORE` between a real server and mecha's own stores: what one side dumps, the other restores, whatever the
//! encoding, and both hold the same afterwards.

use super::support::{Client, Mecha, frame, memcached, redis_with};

/// Requests that make one key of each encoding that a server of 7.0 has.
const VALUES: &[(&str, &str, &[&str])] = &[
    ("int8", "int", &["SET int8 -128"]),
    ("int16", "int", &["SET int16 32767"]),
    ("int32", "int", &["SET int32 -2147483648"]),
    ("int64", "int", &["SET int64 9223372036854775807"]),
    ("noint", "embstr", &["SET noint 007"]),
    ("empty", "embstr", &["SETRANGE empty 0 x", "SET empty "]),
    ("raw", "raw", &["SET raw R"]),
    ("compressed", "raw", &["SET compressed L"]),
    ("list", "quicklist", &["RPUSH list a -1 300 70000 -9000000 5000000000 S S"]),
    ("longlist", "quicklist", &["RPUSH longlist E"]),
    (
        "plainlist",
        "quicklist",
        &[
            "DEBUG QUICKLIST-PACKED-THRESHOLD 100b",
            "RPUSH plainlist S L S",
            "DEBUG QUICKLIST-PACKED-THRESHOLD 0",
        ],
    ),
    ("intset16", "intset", &["SADD intset16 1 -2 300"]),
    ("intset32", "intset", &["SADD intset32 1 -70000 3"]),
    ("intset64", "intset", &["SADD intset64 1 -5000000000 3"]),
    ("set", "hashtable", &["SADD set a b 3 L"]),
    ("smallhash", "listpack", &["HSET smallhash f v 1 -2 g S"]),
    ("hash", "hashtable", &["HSET hash f L g 12345", "HSET hash E"]),
    ("smallzset", "listpack", &["ZADD smallzset 1.5 a -inf b +inf c 3 d -0 e 1e300 f"]),
    ("zset", "skiplist", &["ZADD zset 0.1 L 2.5 b -inf c", "ZADD zset E"]),
];

/// What tells the content of a key.
const STATE: &[&str] = &["TYPE", "GET", "LRANGE * 0 -1", "SMEMBERS", "HGETALL", "ZRANGE * 0 -1 WITHSCORES"];

fn words(request: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    for word in request.split(' ') {
        match word {
            "S" => words.push(b"some words of a sentence".repeat(2)),
            "R" => {
                words.push((0..100_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect())
            }
            "L" => words.push([&b"repeat after me: ".repeat(900)[..], &[0, 255, 13, 10]].concat()),
            // Pairs that serve as elements, fields with values, and scores with members.
            "E" => {
                words.extend((0..600).flat_map(|at| [at.to_string().into(), format!("m{}", at * 7).into()]))
            }
            word => words.push(word.as_bytes().to_vec()),
        }
    }
    words
}

/// The reply as bytes.
fn bytes(client: &mut Client, words: &[Vec<u8>]) -> Option<Vec<u8>> {
    client.send(&frame(words));
    let head = client.line();
    let count: i64 = head.strip_prefix('$').unwrap_or_else(|| panic!("{head}")).trim_end().parse().unwrap();
    let count = usize::try_from(count).ok()?;
    let mut bytes = client.exactly(count + 2);
    bytes.truncate(count);
    Some(bytes)
}

fn dump(client: &mut Client, key: &str) -> Vec<u8> {
    bytes(client, &[b"DUMP".to_vec(), key.into()]).expect("the key exists")
}

fn restore(client: &mut Client, key: &str, payload: &[u8], more: &str) -> String {
    let mut request = vec![b"RESTORE".to_vec(), key.into(), b"0".to_vec(), payload.to_vec()];
    request.extend(more.split_whitespace().map(|word| word.as_bytes().to_vec()));
    client.send(&frame(&request));
    client.reply()
}

/// All answers about a key, those without an order sorted.
fn state(client: &mut Client, key: &str) -> Vec<String> {
    let ask = |question: &&str| {
        let request =
            if question.contains('*') { question.replace('*', key) } else { format!("{question} {key}") };
        let reply = client.call(&request);
        if !question.starts_with(['S', 'H']) {
            return reply;
        }
        let mut lines: Vec<_> = reply.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    STATE.iter().map(ask).collect()
}

fn server() -> Option<(super::support::Process, u16)> {
    redis_with(&["--enable-debug-command", "yes", "--sanitize-dump-payload", "yes"])
}

fn travels(to: &str) {
    let Some((_redis, port)) = server() else { return };
    let mecha = Mecha::start("redis", to);
    let (mut theirs, mut ours) = (Client::new(port), mecha.client());
    for (key, encoding, requests) in VALUES {
        for request in *requests {
            theirs.send(&frame(&words(request)));
            let reply = theirs.reply();
            assert!(!reply.starts_with('-'), "{request}: {reply}");
        }
        assert!(theirs.call(&format!("OBJECT ENCODING {key}")).contains(encoding), "{key}");
        let payload = dump(&mut theirs, key);
        let expected = state(&mut theirs, key);
        assert_eq!(restore(&mut ours, key, &payload, ""), "+OK\r\n", "{key}");
        assert_eq!(state(&mut ours, key), expected, "{key}");
        let back = dump(&mut ours, key);
        assert_eq!(restore(&mut theirs, key, &back, ""), "-BUSYKEY Target key name already exists.\r\n");
        assert_eq!(restore(&mut theirs, key, &back, "REPLACE"), "+OK\r\n", "{key}");
        assert_eq!(state(&mut theirs, key), expected, "{key}");
        assert!(theirs.call(&format!("OBJECT ENCODING {key}")).contains(encoding), "{key}");
        // A server's own payload of that, which may be another encoding, once more.
        let again = dump(&mut theirs, key);
        assert_eq!(restore(&mut ours, key, &again, ""), "-BUSYKEY Target key name already exists.\r\n");
        assert_eq!(restore(&mut ours, key, &again, "REPLACE"), "+OK\r\n", "{key}");
        assert_eq!(state(&mut ours, key), expected, "{key}");
    }
    assert!(mecha.metric("mecha_calls_total") > 100.0, "traffic did not cross mecha");
}

#[test]
fn values_travel_between_a_server_and_the_store() {
    travels("embedded://");
}

#[test]
fn values_travel_between_a_server_and_memcached() {
    let Some((_memcached, port)) = memcached() else { return };
    travels(&format!("memcached://127.0.0.1:{port}"));
}

/// Payloads with one wrong or missing byte, sealed again or not, and options of every kind: both sides say the same.
#[test]
fn answers_to_restore_are_those_of_a_server() {
    let Some((_redis, port)) = server() else { return };
    let mecha = Mecha::start("redis", "embedded://");
    let (mut theirs, mut ours) = (Client::new(port), mecha.client());
    theirs.call("SET source value");
    theirs.call("XADD stream * a b");
    let sound = dump(&mut theirs, "source");
    let stream = dump(&mut theirs, "stream");
    let mut both = |request: &str, payload: &[u8]| {
        let words: Vec<Vec<u8>> = request
            .split(' ')
            .map(|word| if word == "P" { payload.to_vec() } else { word.as_bytes().to_vec() })
            .collect();
        let mut answers = [&mut theirs, &mut ours].map(|client| {
            client.send(&frame(&words));
            client.reply()
        });
        for (answer, client) in answers.iter_mut().zip([&mut theirs, &mut ours]) {
            *answer += &client.call("GET k");
            // Both were asked within the same second or two.
            let left: i64 = client.call("TTL k").trim_matches([':', '\r', '\n']).parse().unwrap();
            *answer += &((left + 5) / 10).to_string();
        }
        assert_eq!(answers[1], answers[0], "{request}");
        answers[0].clone()
    };
    let far = "4000000000000";
    for request in [
        "RESTORE k 0 P",
        "RESTORE k 0 P",
        "RESTORE k -1 P",
        "RESTORE k 0 P REPLACE NOSUCH",
        "restore k 100000 P replace",
        "RESTORE k 100000 P REPLACE ABSTTL",
        "RESTORE k -1 P",
        "RESTORE k x P",
        &format!("RESTORE k {far} P ABSTTL"),
        "RESTORE k 0 P IDLETIME 100 REPLACE",
        "RESTORE k 0 P REPLACE IDLETIME -1",
        "RESTORE k 0 P REPLACE IDLETIME x",
        "RESTORE k 0 P REPLACE IDLETIME",
        "RESTORE k 0 P REPLACE FREQ 255",
        "RESTORE k 0 P REPLACE FREQ 256",
        "RESTORE k 0 P REPLACE FREQ 1 IDLETIME 1",
        "RESTORE k 0 P REPLACE IDLETIME 1 FREQ 1",
        "RESTORE k 0",
        "RESTORE k 0 nosuch REPLACE",
        "RESTORE k 0  REPLACE",
        "RESTORE-ASKING k 0 P REPLACE",
        "DUMP nosuchkey",
    ] {
        both(request, &sound);
    }
    for at in 0..sound.len() {
        let mut broken = sound.clone();
        broken[at] ^= 0x10;
        assert!(both("RESTORE k 0 P REPLACE", &broken).starts_with("-ERR DUMP payload"), "{at}");
        both("RESTORE k 0 P REPLACE", &sound[..at]);
    }
    // A server has streams; here they are what they are not.
    let refused = restore(&mut mecha.client(), "s", &stream, "");
    assert_eq!(refused, "-ERR Bad data format\r\n");
}

/// Bytes that a server of 7.0 reads but never writes.
#[test]
fn what_older_servers_wrote_is_restored_as_a_server_does() {
    let Some((_redis, port)) = server() else { return };
    let mecha = Mecha::start("redis", "embedded://");
    let (mut theirs, mut ours) = (Client::new(port), mecha.client());
    let bodies: &[(&str, &[u8])] = &[
        ("list", b"\x01\x02\x01a\xc0\x07"),
        ("zset as text", b"\x03\x03\x01a\x031.5\x01b\xfe\x01c\xff"),
        ("zipmap", b"\x09\x12\x02\x01f\x03\x02vvv##\x01g\x01\x00w\xff"),
        ("ziplist", b"\x0a\x13\x13\x00\x00\x00\x0f\x00\x00\x00\x03\x00\x00\x01a\x03\xf8\x02\xfe\x80\xff"),
        ("zset ziplist", b"\x0c\x14\x14\x00\x00\x00\x0e\x00\x00\x00\x02\x00\x00\x02ab\x04\x03-.5\xff"),
        ("hash ziplist", b"\x0d\x11\x11\x00\x00\x00\x0d\x00\x00\x00\x02\x00\x00\x01f\x03\x02vv\xff"),
        (
            "quicklist",
            b"\x0e\x01\x13\x13\x00\x00\x00\x0f\x00\x00\x00\x03\x00\x00\x01a\x03\xf8\x02\xfe\x80\xff",
        ),
        (
            "broken ziplist",
            b"\x0a\x13\x13\x00\x00\x00\x0f\x00\x00\x00\x03\x00\x00\x01a\x02\xf8\x02\xfe\x80\xff",
        ),
        ("twice", b"\x02\x02\x01a\x01a"),
        ("none", b"\x01\x00"),
        ("cut", b"\x01\x02\x01a"),
        ("unknown", b"\x08\x01\x01a"),
    ];
    for (name, body) in bodies {
        let mut payload = body.to_vec();
        mecha_translate::rdb::seal(0, &mut payload);
        let expected = restore(&mut theirs, "k", &payload, "REPLACE");
        assert_eq!(restore(&mut ours, "k", &payload, "REPLACE"), expected, "{name}");
        assert_eq!(state(&mut ours, "k"), state(&mut theirs, "k"), "{name}");
    }
}
