//! What a server tells of its connections (`CLIENT LIST`), put into mecha's lines of the clients to whom they belong.
//!
//! A client with a connection of its own has buffers at both ends of it: what waits in them is added up. What only the
//! server has (its file, its events, its buffers' rooms) is the server's.

use std::collections::HashMap;

/// Fields that mecha has nothing for.
const THEIRS: [&str; 2] = ["events", "fd"];
/// Numbers that are added up.
const SUMS: [&str; 13] = [
    "argv-mem",
    "multi-mem",
    "obl",
    "oll",
    "omem",
    "psub",
    "qbuf",
    "qbuf-free",
    "rbp",
    "rbs",
    "ssub",
    "sub",
    "tot-mem",
];

/// The lines of the server's reply, by the address of the client that each is about: mecha's end.
pub(super) fn by_address(reply: &[u8]) -> HashMap<&[u8], &[u8]> {
    let lines = reply.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    // Version 3 tells what kind of text it is.
    let lines = lines.map(|line| line.strip_prefix(b"txt:").unwrap_or(line));
    lines.filter_map(|line| Some((field(line, "addr")?, line))).collect()
}

/// Appends `ours` with what `theirs`, the server's line of the same client, adds to it, in the server's order: newer servers
/// have fields that older ones lack. The client `is_asking`: what is in its buffer at the server is the question.
pub(super) fn complete(ours: &[u8], theirs: &[u8], is_asking: bool, out: &mut Vec<u8>) {
    let start = out.len();
    let mut push = |pair: &[u8]| {
        if out.len() > start {
            out.push(b' ');
        }
        out.extend_from_slice(pair);
    };
    for pair in theirs.split(|byte| *byte == b' ') {
        let Some(name) = name_of(pair) else { continue };
        match ours.trim_ascii_end().split(|byte| *byte == b' ').find(|own| name_of(own) == Some(name)) {
            Some(own) if is_asking && name == "qbuf" => push(own),
            Some(own) => push(merged(own, theirs).as_deref().unwrap_or(own)),
            None => push(pair),
        }
    }
    for pair in ours.trim_ascii_end().split(|byte| *byte == b' ') {
        if name_of(pair).is_none_or(|name| field(theirs, name).is_none()) {
            push(pair);
        }
    }
    out.push(b'\n');
}

fn name_of(pair: &[u8]) -> Option<&str> {
    let end = pair.iter().position(|byte| *byte == b'=')?;
    std::str::from_utf8(pair.get(..end)?).ok()
}

/// What a field becomes; `None`: it stays.
fn merged(pair: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    let name = name_of(pair)?;
    let value = field(theirs, name)?;
    if THEIRS.contains(&name) {
        return Some([name.as_bytes(), b"=", value].concat());
    }
    let number = |text: &[u8]| crate::args::decimal(text);
    let sum = number(field(pair, name)?)?.saturating_add(number(value)?);
    SUMS.contains(&name).then(|| format!("{name}={sum}").into_bytes())
}

/// The value of a field of a line. Names and the like have no spaces in them.
fn field<'l>(line: &'l [u8], name: &str) -> Option<&'l [u8]> {
    let mut pairs = line.split(|byte| *byte == b' ');
    pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_completed_with_what_the_server_has() {
        let reply = b"$99\r\nid=5 addr=1.1.1.1:7 fd=8 name=x sub=1 qbuf=3 qbuf-free=20 omem=1 events=rw cmd=client|list\n\
                      id=6 addr=[::1]:9 fd=9 qbuf=0 qbuf-free=0 omem=0 events=r cmd=get\n\r\n";
        let known = by_address(reply);
        assert_eq!(known.len(), 2);
        let verbatim = [b"=103\r\ntxt:".as_slice(), reply.strip_prefix(b"$99\r\n").unwrap()].concat();
        assert_eq!(by_address(&verbatim), known);
        let ours =
            b"id=70 addr=9.9.9.9:1 fd=-1 name=me sub=0 qbuf=4 qbuf-free=0 omem=2 events=r cmd=get user=default\n";
        let mut out = Vec::new();
        complete(ours, known[&b"1.1.1.1:7"[..]], false, &mut out);
        let expected = "id=70 addr=9.9.9.9:1 fd=8 name=me sub=1 qbuf=7 qbuf-free=20 omem=3 events=rw cmd=get user=default\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        // Newer servers have more, and what mecha adds stands at the end.
        let mut out = Vec::new();
        complete(
            b"id=70 multi=-1 qbuf=4 lib-name=x\n",
            b"id=5 multi=2 watch=1 qbuf=9 tot-cmds=9",
            true,
            &mut out,
        );
        assert_eq!(out, b"id=70 multi=-1 watch=1 qbuf=4 tot-cmds=9 lib-name=x\n");
        assert!(by_address(b"-ERR no\r\n").is_empty() && by_address(b"").is_empty());
        // The server's line may be any bytes.
        let mut out = Vec::new();
        complete(b"id=1 qbuf=1\n", b"qbuf=99999999999999999999 fd \xff=\xff", false, &mut out);
        assert_eq!(out, b"qbuf=1 id=1\n");
    }
}
