//! The same bytes sent to a memcached directly and, through mecha, to another one of the same state: every byte that
//! comes back must be the same. And binary clients on the backs that speak no binary.

use std::time::Duration;

use super::support::{Client, Mecha, memcached, redis};

/// How long nothing may come before an answer counts as complete.
const QUIET: Duration = Duration::from_millis(300);

/// Everything that a new client reads for `bytes`, sent in pieces of `size`, and whether the connection was ended.
fn talk(port: u16, bytes: &[u8], size: usize, end: &[u8]) -> (Vec<u8>, bool) {
    let mut client = Client::new(port);
    let mut sender = client.writer.try_clone().unwrap();
    let pieces: Vec<Vec<u8>> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        // A server that has ended the connection takes no more.
        pieces.iter().all(|piece| sender.write_all(piece).is_ok())
    });
    let (mut all, mut is_over) = (Vec::new(), false);
    for _ in 0..20 {
        let (more, over) = client.drain(QUIET);
        (all, is_over) = ([all, more].concat(), over);
        if is_over || all.ends_with(end) {
            break;
        }
    }
    sending.join().unwrap();
    (all, is_over)
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    if text.len() > 2000 {
        format!("{} bytes: {}...", text.len(), text.chars().take(600).collect::<String>())
    } else {
        text
    }
}

#[test]
fn text_that_passes_through_is_answered_byte_for_byte_as_by_the_server() {
    let Some(((_direct, direct), (_behind, behind))) = memcached().zip(memcached()) else { return };
    let mecha = Mecha::start("memcached", &format!("memcached://127.0.0.1:{behind}"));
    let large = "x".repeat(700_000);
    let long_key = "k".repeat(251);
    let too_large = "y".repeat((1 << 20) + 1000);
    let conversations: Vec<String> = vec![
        // noreply, with and without errors, between commands that answer.
        "set a 1 0 1 noreply\r\nx\r\nget a\r\nset a 1 0 1 noreply\r\nxyz\r\nget a\r\nadd a 0 0 1 noreply\r\ny\r\nincr a 1 noreply\r\n\
         append a 0 0 1 noreply\r\n!\r\nget a\r\ndelete a noreply\r\ndelete a noreply\r\nget a\r\ntouch a 5 noreply\r\nbogus noreply\r\n".into(),
        // Quiet meta commands, with misses, errors and opaques.
        "ms q 2 q\r\nhi\r\nms q 2 q MX\r\nhi\r\nms q 2 q ME\r\nhi\r\nmg q v q Oa\r\nmg no v q Ob\r\nmg no q k\r\nmd no q\r\nmd q q\r\n\
         mg q q\r\nms n 1 q\r\n5\r\nma n q\r\nma n q v\r\nma no q\r\nma n q Dx\r\nmg n v q q\r\nmg n q z\r\nms n 1 q\r\nabc\r\nmn\r\nmg n v c k t f s\r\n".into(),
        // Large values in one multi-get, with uniques.
        format!("set l1 1 0 {0}\r\n{large}\r\nset l2 2 0 {0}\r\n{large}\r\nset l3 3 0 1\r\nz\r\ngets l1 no l2 l3 l1\r\nget l3\r\n", large.len()),
        // Lines that end with a line feed only, and bad commands in the middle.
        "set b 0 0 1\nx\r\nget b\nGET b\n\nget\nset b\nget b\r\nset b 0 0 x\r\nset b 0 0 -1\r\nincr b 1\r\nincr b x\r\ndecr no 1\r\n\
         touch b\r\ngat\r\ngat x b\r\ncas b 0 0 1\r\ndelete b 1\r\ndelete b 0\r\nverbosity\r\nverbosity 1\r\nverbosity 1 noreply\r\nflush_all x\r\n".into(),
        // Too large: the value is swallowed, and the old one is gone.
        format!("set t 0 0 1\r\nx\r\nset t 0 0 {0}\r\n{too_large}\r\nget t\r\nset t 0 0 {0} noreply\r\n{too_large}\r\nget t\r\nms t {0} q\r\n{too_large}\r\nmg t v\r\n", too_large.len()),
        // Keys and numbers at their limits.
        format!("get {long_key}\r\nset {long_key} 0 0 1\r\nx\r\nmg {long_key} v\r\nset n 0 0 20\r\n18446744073709551615\r\nincr n 1\r\ndecr n 5\r\n\
                 set n 4294967295 0 1\r\nx\r\nget n\r\nset e 0 -1 1\r\nx\r\nget e\r\nset e 0 2592001 1\r\nx\r\nget e\r\n"),
        // Base64 keys, uniques of writes, stale items.
        "ms Zm9v 3 b c\r\nbar\r\nmg Zm9v b k v c\r\nget foo\r\nmg Z b\r\nms w 1 T90 c\r\nx\r\nmd w I T30\r\nmg w v c\r\nmg w v\r\nms w 1 c C1 I\r\ny\r\n\
         mg v1 N30 v\r\nmg v1 v\r\nms w 1 MA c\r\nz\r\nma num N0 J7 c v\r\nma num C1 c\r\n".into(),
        // Nothing behind `quit` is run.
        "set z 0 0 1\r\n1\r\nquit\r\nset z 0 0 1\r\n2\r\n".into(),
        "get z\r\n".into(),
        // Last, since 1.6.18 hides what was stored within the second of a flush.
        "flush_all noreply\r\nflush_all 0\r\nflush_all -1 noreply\r\nget a\r\n".into(),
    ];
    for conversation in &conversations {
        let bytes = format!("{conversation}mn\r\n").into_bytes();
        for size in [bytes.len(), 1000] {
            let ours = talk(mecha.port, &bytes, size, b"MN\r\n");
            let theirs = talk(direct, &bytes, size, b"MN\r\n");
            assert!(
                ours == theirs,
                "{}\nmecha     {}\nmemcached {}",
                shown(&bytes),
                shown(&ours.0),
                shown(&theirs.0)
            );
        }
    }
    assert!(mecha.metric("mecha_calls_total") >= 100.0, "traffic did not cross mecha");
}

/// Lines in which every unique is the same number.
pub(super) fn without_text_uniques(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let masked = |line: &str| {
        let is_value = line.starts_with("VALUE ");
        let words = line.split(' ').enumerate().map(|(place, word)| match word.strip_prefix('c') {
            _ if is_value && place == 4 => "<unique>",
            Some(unique) if place > 0 && unique.parse::<u64>().is_ok_and(|unique| unique > 0) => "<unique>",
            _ => word,
        });
        words.collect::<Vec<_>>().join(" ")
    };
    text.split("\r\n").map(masked).collect::<Vec<_>>().join("\r\n")
}

#[test]
fn text_is_answered_on_redis_and_on_the_store_as_by_the_server() {
    let Some((_redis, redis)) = redis() else { return };
    for to in ["embedded://".to_owned(), format!("redis://127.0.0.1:{redis}")] {
        // A new one for each, as it remembers its keys.
        let Some((_direct, direct)) = memcached() else { return };
        let mecha = Mecha::start("memcached", &to);
        let conversation = "set a 1 0 1 noreply\r\nx\r\nget a\r\ngets a no a\r\nadd a 0 0 1\r\ny\r\nreplace a 9 0 2\r\nyy\r\nget a\r\n\
            append a 3 0 1\r\n!\r\nprepend a 0 0 1 noreply\r\n?\r\ngets a\r\ncas a 0 0 1 1\r\nz\r\ncas no 0 0 1 1\r\nz\r\ntouch a 100\r\nmg a t\r\n\
            touch a 0\r\nmg a t v f s k Oq\r\ngat 200 a\r\nmg a t\r\ngats 0 a no\r\nmg a t\r\ntouch no 0\r\ngat 5 no\r\ngat -1 a\r\nget a\r\n\
            set n 0 0 2\r\n10\r\nincr n 5\r\ndecr n 100\r\nincr n x\r\nincr no 1\r\nset b 0 0 1\r\nx\r\nincr b 1\r\nincr n 18446744073709551615\r\nincr n 2\r\n\
            ms m 2 c T90 F7 k Ox\r\nhi\r\nmg m v c f t k\r\nmg m k q\r\nmg no q\r\nmg no k Oz\r\nms m 1 ME c\r\nx\r\nms m 1 MA c q\r\n!\r\nms m 1 C1 c\r\nx\r\n\
            ms no 1 MR k\r\nx\r\nms no 1 C5\r\nx\r\nmg m v T50\r\nmg m t T0 v\r\nmg m t\r\nms Zm9v 1 b c k\r\nx\r\nmg Zm9v b k v\r\nmd Zm9v b q\r\nmg Zm9v b\r\n\
            ma c N0 J5 v c\r\nma c D3 v t\r\nma c MD D100 v q\r\nma c MD D100 v\r\nma no q\r\nma m q\r\nmd m q\r\nmd m q\r\nmd m k O1\r\nset e 0 -1 1\r\nx\r\nget e\r\n\
            delete n\r\ndelete n\r\ndelete n noreply\r\nget\r\nbogus\r\nmg\r\nset x 0 0 1\r\nabc\r\nget n b c\r\n";
        let bytes = format!("{conversation}mn\r\n").into_bytes();
        for size in [bytes.len(), 13] {
            let (ours, theirs) =
                (talk(mecha.port, &bytes, size, b"MN\r\n"), talk(direct, &bytes, size, b"MN\r\n"));
            assert_eq!(
                (without_text_uniques(&ours.0), ours.1),
                (without_text_uniques(&theirs.0), theirs.1),
                "{to}"
            );
        }
    }
}

/// The names of statistics without their numbers, each once.
fn names(answer: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let mut names: Vec<String> = text
        .lines()
        .map(|line| {
            line.split(' ')
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
                .replace(|letter: char| letter.is_ascii_digit(), "")
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn every_form_of_stats_ends_where_it_ends_at_the_server() {
    let Some(((_direct, direct), (_behind, behind))) = memcached().zip(memcached()) else { return };
    let mecha = Mecha::start("memcached", &format!("memcached://127.0.0.1:{behind}"));
    for form in [
        "",
        " items",
        " slabs",
        " sizes",
        " conns",
        " settings",
        " reset",
        " detail on",
        " detail dump",
        " detail off",
        " nosuch",
        " cachedump 1 1",
    ] {
        let bytes = format!("set s:a 0 0 1\r\nx\r\nstats{form}\r\nget s:a\r\nmn\r\n").into_bytes();
        let ours = talk(mecha.port, &bytes, bytes.len(), b"MN\r\n");
        let theirs = talk(direct, &bytes, bytes.len(), b"MN\r\n");
        assert_eq!((names(&ours.0), ours.1), (names(&theirs.0), theirs.1), "stats{form}");
        assert!(ours.0.ends_with(b"END\r\nMN\r\n"), "stats{form}: {}", shown(&ours.0));
    }
}

#[test]
fn commands_for_one_server_alone_reach_it_and_several_servers_refuse_them() {
    let Some(((_one, one), (_other, other))) = memcached().zip(memcached()) else { return };
    let mecha = Mecha::start("memcached", &format!("memcached://127.0.0.1:{one}"));
    let mut client = mecha.client();
    client.send(b"set a 0 0 1\r\nx\r\nlru_crawler metadump all\r\nmn\r\n");
    assert_eq!(client.line(), "STORED\r\n");
    assert!(client.line().starts_with("key=a exp=-1 "));
    assert_eq!((client.line(), client.line()), ("END\r\n".into(), "MN\r\n".into()));
    for (command, answer) in [
        ("cache_memlimit 100", "OK\r\n"),
        ("cache_memlimit 100 noreply", ""),
        ("cache_memlimit 1", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n"),
        ("slabs automove 1 noreply", ""),
        ("slabs reassign 1 1", "SAME src and dst class are identical\r\n"),
        ("lru_crawler crawl 99", "BADCLASS invalid class id\r\n"),
        ("shutdown", "ERROR: shutdown not enabled\r\n"),
    ] {
        client.send(format!("{command}\r\nmn\r\n").as_bytes());
        if !answer.is_empty() {
            assert_eq!(client.line(), answer, "{command}");
        }
        assert_eq!(client.line(), "MN\r\n", "{command}");
    }
    let sharded = Mecha::start("memcached", &format!("memcached://127.0.0.1:{one},127.0.0.1:{other}"));
    let mut client = sharded.client();
    for command in ["lru_crawler metadump all", "shutdown", "cache_memlimit 100", "slabs automove 1", "watch"]
    {
        client.send(format!("{command}\r\nmn\r\n").as_bytes());
        let line = client.line();
        assert!(line.contains("_ERROR mecha: "), "{command}: {line}");
        // Who wanted a log has nothing to go on with.
        assert_eq!(client.line(), if command == "watch" { "" } else { "MN\r\n" }, "{command}");
    }
}

#[test]
fn a_client_that_watches_a_server_reads_its_log_and_nobody_else_does() {
    let Some((_server, server)) = memcached() else { return };
    let mecha = Mecha::start("memcached", &format!("memcached://127.0.0.1:{server}"));
    let (mut watching, mut client) = (mecha.client(), mecha.client());
    watching.send(b"watch mutations\r\n");
    assert_eq!(watching.line(), "OK\r\n");
    for turn in 0..3 {
        client.send(format!("set key{turn} 0 0 1\r\nx\r\n").as_bytes());
        assert_eq!(client.line(), "STORED\r\n");
        let line = watching.line();
        assert!(line.contains(" type=item_store ") && line.contains(&format!(" key=key{turn} ")), "{line}");
    }
    client.send(b"mn\r\n");
    assert_eq!(client.line(), "MN\r\n");
}

/// One binary request; the opaque is the opcode.
pub(super) fn request(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend_from_slice(&(key.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&[extras.len() as u8, 0, 0, 0]);
    bytes.extend_from_slice(&((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
    bytes.extend_from_slice(&(0xabcd_0000 | u32::from(opcode)).to_be_bytes());
    bytes.extend_from_slice(&cas.to_be_bytes());
    [bytes.as_slice(), extras, key, value].concat()
}

/// Every opcode, its quiet form, and what can go wrong with each.
fn binary_conversations() -> Vec<Vec<u8>> {
    let item = |flags: u32, exptime: u32| [flags.to_be_bytes(), exptime.to_be_bytes()].concat();
    let count = |delta: u64, initial: u64, exptime: u32| {
        [delta.to_be_bytes().as_slice(), &initial.to_be_bytes(), &exptime.to_be_bytes()].concat()
    };
    let (plain, never) = (item(7, 0), 0_u32.to_be_bytes());
    let large = vec![b'x'; 600_000];
    let mut all = Vec::new();
    // Audible and quiet forms of everything, on a key that is there and on one that is not, with a wrong unique and with none.
    let mut forms = Vec::new();
    for key in [b"k".as_slice(), b"no"] {
        for cas in [0, 999_999_999] {
            for opcode in [0x00, 0x09, 0x0c, 0x0d] {
                forms.push(request(opcode, b"", key, b"", 0));
            }
            for opcode in [0x01, 0x11, 0x02, 0x12, 0x03, 0x13] {
                forms.push(request(0x01, &plain, b"k", b"value", 0));
                forms.push(request(0x04, b"", b"no", b"", 0));
                forms.push(request(opcode, &plain, key, b"new", cas));
                forms.push(request(0x0c, b"", key, b"", 0));
            }
            forms.push(request(0x04, b"", b"no", b"", 0));
            for opcode in [0x0e, 0x19, 0x0f, 0x1a] {
                forms.push(request(opcode, b"", key, b"+", cas));
            }
            for opcode in [0x1c, 0x1d, 0x1e, 0x23, 0x24] {
                forms.push(request(opcode, &never, key, b"", 0));
            }
            for opcode in [0x05, 0x15, 0x06, 0x16] {
                forms.push(request(opcode, &count(3, 0, u32::MAX), b"none", b"", 0));
                forms.push(request(opcode, &count(3, 10, 0), b"n", b"", 0));
                forms.push(request(opcode, &count(3, 10, 0), b"n", b"", cas));
                forms.push(request(opcode, &count(3, 10, 0), b"k", b"", 0));
            }
            forms.push(request(0x00, b"", b"n", b"", 0));
            for opcode in [0x04, 0x14] {
                forms.push(request(opcode, b"", key, b"", cas));
            }
        }
    }
    all.push(forms.concat());
    all.push(
        [
            request(0x01, &plain, b"big", &large, 0),
            request(0x0d, b"", b"big", b"", 0),
            request(0x09, b"", b"no", b"", 0),
        ]
        .concat(),
    );
    all.push([request(0x20, b"", b"", b"", 0), request(0x10, b"", b"nosuch", b"", 0)].concat());
    // These end the connection.
    all.push(request(0x01, b"", b"k", b"v", 0));
    all.push(request(0x00, b"", &[b'k'; 251], b"", 0));
    all.push([request(0x07, b"", b"", b"", 0), request(0x01, &plain, b"quit", b"v", 0)].concat());
    all.push([request(0x17, b"", b"", b"", 0), request(0x01, &plain, b"quit", b"v", 0)].concat());
    all.push(request(0x00, b"", b"quit", b"", 0));
    all.push([request(0x18, b"", b"", b"", 0), request(0x08, b"", b"", b"", 0)].concat());
    all
}

/// Binary replies in which every unique is 1: stores count them each in their own way.
pub(super) fn without_uniques(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some((header, body)) = rest.split_first_chunk::<24>() {
        let len = u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize;
        let has_unique = header[16..] != [0; 8];
        out.extend_from_slice(&header[..16]);
        out.extend_from_slice(&u64::from(has_unique).to_be_bytes());
        let (body, more) = body.split_at(len.min(body.len()));
        out.extend_from_slice(body);
        rest = more;
    }
    [out.as_slice(), rest].concat()
}

#[test]
fn binary_requests_are_answered_on_every_back_as_by_the_server() {
    let Some(((_direct, direct), (_behind, behind))) = memcached().zip(memcached()) else { return };
    let Some((_redis, redis)) = redis() else { return };
    let noop = request(0x0a, b"", b"", b"", 0);
    let end = {
        let mut reply = noop.clone();
        reply[0] = 0x81;
        reply
    };
    let conversations = binary_conversations();
    let ask = |port, size: Option<usize>| -> Vec<(Vec<u8>, bool)> {
        conversations
            .iter()
            .map(|conversation| {
                let bytes = [conversation.as_slice(), &noop].concat();
                talk(port, &bytes, size.unwrap_or(bytes.len()), &end)
            })
            .collect()
    };
    let expected = ask(direct, None);
    for (to, is_native) in [
        (format!("memcached://127.0.0.1:{behind}"), true),
        ("embedded://".to_owned(), false),
        (format!("redis://127.0.0.1:{redis}"), false),
    ] {
        let mecha = Mecha::start("memcached", &to);
        for (index, (ours, theirs)) in ask(mecha.port, None).iter().zip(&expected).enumerate() {
            let same = if is_native {
                ours == theirs
            } else {
                (without_uniques(&ours.0), ours.1) == (without_uniques(&theirs.0), theirs.1)
            };
            assert!(
                same,
                "{to}, conversation {index}\nmecha     {:?}\nmemcached {:?}",
                shown(&ours.0),
                shown(&theirs.0)
            );
        }
        // Text and binary clients side by side.
        let mut client = mecha.client();
        client.send(b"set side 5 0 1\r\nx\r\n");
        assert_eq!(client.line(), "STORED\r\n");
        let (answer, _) =
            talk(mecha.port, &[request(0x0d, b"", b"side", b"", 0), noop.clone()].concat(), 10, &end);
        assert_eq!(&answer[24..33], b"\0\0\0\x05sidex");
        assert!(mecha.metric("mecha_calls_total") >= 100.0, "traffic did not cross mecha");
    }
}

#[test]
fn a_denied_command_is_denied_in_every_form_and_only_noreply_does_not_hear_of_it() {
    let Some((_server, server)) = memcached() else { return };
    for to in [format!("memcached://127.0.0.1:{server}"), "embedded://".to_owned()] {
        let mecha = Mecha::configured(&format!(
            "listeners:\n  - listen: memcached://127.0.0.1:0\n    to: {to}\n    filters:\n      - deny_commands: {{ commands: [flush_all, ms, delete] }}\n"
        ));
        let mut client = mecha.client();
        client.send(b"set k 0 0 1\r\nx\r\nflush_all noreply\r\ndelete k noreply\r\nms k 1 q\r\ny\r\nflush_all\r\nget k\r\n");
        assert_eq!(client.line(), "STORED\r\n", "{to}");
        let denied = "CLIENT_ERROR mecha: command is denied by configuration\r\n";
        assert_eq!([client.line(), client.line()], [denied, denied], "{to}");
        assert_eq!(
            [client.line(), client.line(), client.line()],
            ["VALUE k 0 1\r\n", "x\r\n", "END\r\n"],
            "{to}"
        );
        for opcode in [0x08, 0x18] {
            let noop = request(0x0a, b"", b"", b"", 0);
            let mut end = noop.clone();
            end[0] = 0x81;
            let (answer, _) =
                talk(mecha.port, &[request(opcode, b"", b"", b"", 0), noop].concat(), 100, &end);
            assert_eq!(answer[..2], [0x81, opcode], "{to}");
            assert_eq!(answer[6..8], 0x83_u16.to_be_bytes(), "{to}");
            assert_eq!(answer[12..16], (0xabcd_0000 | u32::from(opcode)).to_be_bytes(), "{to}");
        }
    }
}
