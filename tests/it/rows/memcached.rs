//! Every row of Memcached clients: a conversation in text or binary, and what only some backs do in full.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use mecha_translate::{Row, Support, supported};

use super::super::memcached::{request, without_text_uniques, without_uniques};
use super::super::support::{Client, Mecha, memcached as server};
use super::redis;

/// Text that tries a row, what only exact rows answer as a server does, and what the others say to that.
struct Text(&'static str, &'static str, &'static str, &'static str);

const TEXTS: &[Text] = &[
    Text("quit", "mn\r\nquit\r\nmn\r\n", "", ""),
    Text("mn", "mn x\r\n", "", ""),
    Text("get", "set K 7 0 1\r\nx\r\nget K\r\nget K no K\r\nget\r\nget no\r\n", "", ""),
    Text("gets", "set K 7 0 1\r\nx\r\ngets K no\r\ngets\r\n", "", ""),
    Text(
        "gat",
        "set K 7 0 1\r\nx\r\ngat 100 K no\r\nmg K t\r\ngat x K\r\ngat -1 K\r\nget K\r\ngat\r\n",
        "",
        "",
    ),
    Text("gats", "set K 7 0 1\r\nx\r\ngats 100 K no\r\nmg K t\r\ngats 0 K\r\nmg K t\r\n", "", ""),
    Text(
        "set",
        "set K 7 0 1\r\nx\r\nset K 8 100 2 noreply\r\nyy\r\nmg K t f v\r\nset K 0 -1 1\r\nx\r\nget K\r\nset K 0 0 1\r\nabc\r\nset K x 0 1\r\nset K\r\nset K 0 0 -1\r\n",
        "",
        "",
    ),
    Text("add", "add K 7 0 1\r\nx\r\nadd K 7 0 1\r\ny\r\nget K\r\nadd K\r\n", "", ""),
    Text("replace", "replace K 7 0 1\r\nx\r\nset K 7 0 1\r\nx\r\nreplace K 8 0 1\r\ny\r\nget K\r\n", "", ""),
    Text(
        "append",
        "append K 7 0 1\r\nx\r\nset K 7 50 1\r\nx\r\nappend K 8 0 1\r\ny\r\nmg K f t v\r\n",
        "",
        "",
    ),
    Text("prepend", "prepend K 7 0 1\r\nx\r\nset K 7 0 1\r\nx\r\nprepend K 8 0 1\r\ny\r\nget K\r\n", "", ""),
    Text(
        "cas",
        "cas K 0 0 1 1\r\nx\r\nset K 0 0 1\r\nx\r\ncas K 0 0 1 999999999\r\ny\r\ncas K 0 0 1 x\r\ny\r\nget K\r\ncas K 0 0 1\r\n",
        "",
        "",
    ),
    Text(
        "incr",
        "incr K 1\r\nset K 5 0 2\r\n10\r\nincr K 5\r\nincr K 18446744073709551615\r\nincr K x\r\nincr K\r\nset K 0 0 1\r\nx\r\nincr K 1\r\n",
        "",
        "",
    ),
    Text(
        "decr",
        "decr K 1\r\nset K 0 0 2\r\n10\r\ndecr K 1\r\nget K\r\ndecr K 50\r\nget K\r\ndecr K -1\r\n",
        "",
        "",
    ),
    Text("delete", "delete K\r\nset K 0 0 1\r\nx\r\ndelete K 0\r\nget K\r\ndelete K 5\r\ndelete\r\n", "", ""),
    Text(
        "touch",
        "touch K 5\r\nset K 0 0 1\r\nx\r\ntouch K 100\r\nmg K t\r\ntouch K 0\r\nmg K t\r\ntouch K -1\r\nget K\r\ntouch K\r\n",
        "",
        "",
    ),
    Text(
        "flush_all",
        "set K 0 0 1\r\nx\r\nflush_all\r\nget K\r\nflush_all noreply\r\nflush_all x\r\n",
        "flush_all 1000\r\n",
        "CLIENT_ERROR mecha: ",
    ),
    Text("verbosity", "verbosity 1\r\nverbosity 1 noreply\r\nverbosity\r\n", "", ""),
    Text("stats", "stats reset\r\n", "stats\r\n", "STAT pid "),
    Text("version", "mn\r\n", "version\r\n", "VERSION 1.6.18-mecha-"),
    Text("me", "me K\r\nme\r\n", "set K 0 0 1\r\nx\r\nme K\r\n", "ME row:me "),
    Text(
        "mg",
        "ms K 2 F7 T90\r\nhi\r\nmg K v f s t k Ox\r\nmg K\r\nmg no v\r\nmg no v q\r\nmg K T200 t\r\nmg K c q k\r\nmg\r\nmg K 1\r\n",
        "mg K h v\r\nmg K h\r\nmg viv K\r\nmg K2 N30 v t\r\nmg K2 v\r\nmg K R500 t\r\n",
        "CLIENT_ERROR mecha: ",
    ),
    Text(
        "ms",
        "ms K 2 F7 T90 c\r\nhi\r\nms K 1 ME\r\nx\r\nms K 1 MA\r\n!\r\nms K 1 MP k\r\n?\r\nmg K v f\r\nms no 1 MR O1\r\nx\r\nms K 1 C9999999\r\nx\r\nms K 1 MZ\r\nx\r\nms K x\r\nms K 1 q\r\nx\r\nms K 1\r\nabc\r\n",
        "ms K 1 c\r\nx\r\nms K 1 I C1\r\ny\r\nmg K v\r\n",
        "CLIENT_ERROR mecha: ",
    ),
    Text(
        "md",
        "md K\r\nset K 0 0 1\r\nx\r\nmd K C999999\r\nmd K k O5\r\nmd K q\r\nmd\r\n",
        "set K 0 0 1\r\nx\r\nmd K I T30\r\nmg K v\r\nmg K v\r\n",
        "CLIENT_ERROR mecha: ",
    ),
    Text(
        "ma",
        "ma K\r\nma K N0 J5 v\r\nma K D3 v t\r\nma K MD D100 v\r\nma K MX\r\nma K Dx\r\nset K 0 0 1\r\nx\r\nma K v\r\nma\r\n",
        "",
        "",
    ),
    Text("shutdown", "shutdown\r\n", "", ""),
    Text("watch", "watch\r\n", "", ""),
    Text("lru", "lru mode flat\r\n", "", ""),
    Text("lru_crawler", "lru_crawler metadump all\r\n", "", ""),
    Text("slabs", "slabs automove 1\r\n", "", ""),
    Text("cache_memlimit", "cache_memlimit 100\r\n", "", ""),
    Text("extstore", "extstore x 1\r\n", "", ""),
    Text("refresh_certs", "refresh_certs\r\n", "", ""),
];

/// Binary rows and their opcodes.
const BINARY: &[(&str, u8)] = &[
    ("get|bin_get", 0x00),
    ("set|bin_set", 0x01),
    ("add|bin_add", 0x02),
    ("replace|bin_replace", 0x03),
    ("delete|bin_delete", 0x04),
    ("incr|bin_increment", 0x05),
    ("decr|bin_decrement", 0x06),
    ("quit|bin_quit", 0x07),
    ("flush_all|bin_flush", 0x08),
    ("get|bin_getq", 0x09),
    ("mn|bin_noop", 0x0a),
    ("version|bin_version", 0x0b),
    ("get|bin_getk", 0x0c),
    ("get|bin_getkq", 0x0d),
    ("append|bin_append", 0x0e),
    ("prepend|bin_prepend", 0x0f),
    ("stats|bin_stat", 0x10),
    ("set|bin_setq", 0x11),
    ("add|bin_addq", 0x12),
    ("replace|bin_replaceq", 0x13),
    ("delete|bin_deleteq", 0x14),
    ("incr|bin_incrementq", 0x15),
    ("decr|bin_decrementq", 0x16),
    ("quit|bin_quitq", 0x17),
    ("flush_all|bin_flushq", 0x18),
    ("append|bin_appendq", 0x19),
    ("prepend|bin_prependq", 0x1a),
    ("verbosity|bin_verbosity", 0x1b),
    ("touch|bin_touch", 0x1c),
    ("gat|bin_gat", 0x1d),
    ("gat|bin_gatq", 0x1e),
    ("bin_sasl_list", 0x20),
    ("bin_sasl_auth", 0x21),
    ("bin_sasl_step", 0x22),
    ("gat|bin_gatk", 0x23),
    ("gat|bin_gatkq", 0x24),
];

/// The opcode on a key that is there, on one that is not, and with a wrong unique; then what the key holds.
fn binary(opcode: u8, key: &[u8]) -> Vec<u8> {
    let store = [7_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    let missing = [key, b":no"].concat();
    let number: &[u8] = b"10";
    let extras: Vec<u8> = match opcode {
        0x01..=0x03 | 0x11..=0x13 => store.clone(),
        0x05 | 0x06 | 0x15 | 0x16 => {
            [3_u64.to_be_bytes().as_slice(), &20_u64.to_be_bytes(), &0_u32.to_be_bytes()].concat()
        }
        0x1b..=0x1e | 0x23 | 0x24 => 100_u32.to_be_bytes().to_vec(),
        _ => Vec::new(),
    };
    let takes_value = matches!(opcode, 0x01..=0x03 | 0x11..=0x13 | 0x0e | 0x0f | 0x19 | 0x1a);
    let takes_key = !matches!(opcode, 0x07 | 0x08 | 0x0a | 0x0b | 0x10 | 0x17 | 0x18 | 0x1b | 0x20);
    let value: &[u8] = if takes_value { b"7" } else { b"" };
    let mut bytes = request(0x01, &store, key, number, 0);
    let keys: &[&[u8]] = if takes_key { &[key, &missing] } else { &[b""] };
    for key in keys {
        for cas in [0, 999_999_999] {
            if cas == 0
                || (takes_key && !matches!(opcode, 0x00 | 0x09 | 0x0c | 0x0d | 0x1d | 0x1e | 0x23 | 0x24))
            {
                bytes.extend(request(opcode, &extras, key, value, cas));
            }
        }
    }
    for key in [key, &missing] {
        bytes.extend(request(0x0c, b"", key, b"", 0));
    }
    bytes
}

/// What a new client reads for `bytes` until it has said goodbye.
fn talk(port: u16, bytes: &[u8], is_binary: bool) -> Vec<u8> {
    let mut client = Client::new(port);
    let goodbye = if is_binary { request(0x07, b"", b"", b"", 0) } else { b"quit\r\n".to_vec() };
    // A server that has ended the connection takes no more.
    let _ = client.writer.write_all(&[bytes, &goodbye].concat());
    let mut all = Vec::new();
    let _ = client.writer.read_to_end(&mut all);
    all
}

/// Without the uniques, which stores count each in their own way.
fn masked(bytes: &[u8], is_binary: bool) -> String {
    if is_binary {
        return String::from_utf8_lossy(&without_uniques(bytes)).into_owned();
    }
    without_text_uniques(bytes)
}

/// What tries a row: what all backs answer alike, and what only exact rows answer as a server does.
fn conversation(row: &str) -> Option<(Vec<u8>, Vec<u8>, &'static str)> {
    let key = format!("row:{}", row.replace('|', ":"));
    if let Some((_, opcode)) = BINARY.iter().find(|(name, _)| *name == row) {
        return Some(match opcode {
            0x0b => (Vec::new(), request(0x0b, b"", b"", b"", 0), "1.6.18-mecha-"),
            0x10 => (Vec::new(), request(0x10, b"", b"", b"", 0), "pid"),
            0x08 | 0x18 => {
                let later = request(*opcode, &1000_u32.to_be_bytes(), b"", b"", 0);
                (binary(*opcode, key.as_bytes()), later, "mecha: ")
            }
            _ => (binary(*opcode, key.as_bytes()), Vec::new(), ""),
        });
    }
    let Text(_, all, exact, told) = TEXTS.iter().find(|Text(name, ..)| *name == row)?;
    let bytes = |text: &str| text.replace('K', &key).into_bytes();
    Some((bytes(all), bytes(exact), told))
}

fn walk(back: &str, to: &str) {
    let Some((_direct, direct)) = server() else { return };
    let mut rows = supported("memcached", back);
    let known: BTreeSet<_> = rows.iter().map(|row| row.command).collect();
    let tried: BTreeSet<_> =
        TEXTS.iter().map(|Text(name, ..)| *name).chain(BINARY.iter().map(|(name, _)| *name)).collect();
    assert_eq!(tried.symmetric_difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "rows and cases");
    // 1.6.18 hides what was stored within the second of a flush.
    rows.sort_by_key(|row| row.command.starts_with("flush_all"));
    let mecha = Mecha::start("memcached", to);
    let mut wrong = Vec::new();
    for Row { command, support, .. } in rows {
        let is_binary = command.contains("bin_");
        let (all, exact, told) = conversation(command).expect("each row has one");
        let ask = |port, bytes: &[u8]| masked(&talk(port, bytes, is_binary), is_binary);
        let mut complain = |ours: &str, theirs: &str| {
            wrong.push(format!(
                "{command} on {back}, {support:?}\n    mecha    {ours:?}\n    expected {theirs:?}"
            ));
        };
        if support == Support::Refused {
            let ours = talk(mecha.port, &all, is_binary);
            let is_refused = match is_binary {
                // The status of the reply behind that of what was stored first.
                true => ours.get(24..).is_some_and(|reply| reply.get(6..8) != Some(&[0, 0])),
                false => ours.starts_with(b"CLIENT_ERROR mecha: "),
            };
            if !is_refused {
                complain(&String::from_utf8_lossy(&ours), "a refusal");
            }
            continue;
        }
        let (ours, theirs) = (ask(mecha.port, &all), ask(direct, &all));
        if ours != theirs {
            complain(&ours, &theirs);
        }
        if exact.is_empty() {
            continue;
        }
        let (ours, theirs) = (ask(mecha.port, &exact), ask(direct, &exact));
        match support {
            // What a server says of itself changes from moment to moment.
            Support::Exact if back == "memcached" && told.contains("pid") => {}
            Support::Exact if back == "memcached" && command == "me" => {}
            Support::Exact if ours != theirs => complain(&ours, &theirs),
            Support::Emulated if ours == theirs || !ours.contains(told) => complain(&ours, told),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
    assert!(mecha.metric("mecha_calls_total") > 300.0, "traffic did not cross mecha");
}

#[test]
fn every_row_of_memcached_clients_holds_on_the_store() {
    walk("embedded", "embedded://");
}

#[test]
fn every_row_of_memcached_clients_holds_on_redis() {
    let Some((_redis, port)) = redis() else { return };
    walk("resp", &format!("redis://127.0.0.1:{port}"));
}

#[test]
fn every_row_of_memcached_clients_holds_on_memcached() {
    let Some((_memcached, port)) = server() else { return };
    walk("memcached", &format!("memcached://127.0.0.1:{port}"));
}
