//! Memcached over several servers: multi-key retrieval, and what is said to all of them.

use mecha_memcached::{Memcached, Request, ops};

use super::{Gathered, Rules, Way};

impl Rules for Memcached {
    fn way(request: &Request) -> Way {
        match ops::spoken(request.op()) {
            // Behind a single key there is only the line's end.
            ops::GET | ops::GETS | ops::GAT | ops::GATS => {
                if request.line_len() > request.key_span().end() + 2 { Way::Spread } else { Way::Keyed }
            }
            ops::FLUSH_ALL | ops::STATS | ops::VERBOSITY => Way::Every,
            ops::VERSION => Way::First,
            op if ops::is_of_one_server(op) => Way::Refused,
            _ => Way::Keyed,
        }
    }

    fn part(request: &Request, frame: &[u8], keys: &[u32], out: &mut Vec<u8>) {
        // The command, and for `gat` the expiry, with the space before the first key.
        out.extend_from_slice(frame.get(..request.key_span().start()).unwrap_or_default());
        let mut keys = keys.iter().copied().peekable();
        let mut at = 0;
        let mut is_first = true;
        <Self as mecha_core::Framed>::keys(request, frame, &mut |key| {
            if keys.next_if_eq(&at).is_some() {
                if !is_first {
                    out.push(b' ');
                }
                is_first = false;
                out.extend_from_slice(key);
            }
            at += 1;
        });
        out.extend_from_slice(b"\r\n");
    }

    fn merge(gathered: &Gathered<'_>, _profile: u8, out: &mut Vec<u8>) -> bool {
        let is_error = |reply: &&Vec<u8>| {
            [&b"SERVER_ERROR"[..], b"CLIENT_ERROR", b"ERROR"].iter().any(|error| reply.starts_with(error))
        };
        if let Some(error) = gathered.replies.iter().find(is_error) {
            out.extend_from_slice(error);
            return true;
        }
        match ops::spoken(gathered.op) {
            ops::GET | ops::GETS | ops::GAT | ops::GATS => values(gathered, out).is_some(),
            ops::STATS => stats(gathered, out),
            // Everybody says the same.
            _ => gathered.replies.first().map(|reply| out.extend_from_slice(reply)).is_some(),
        }
    }
}

/// The found values in the order of the request's keys, and one end. A server leaves out what it has not got, so the
/// next value that it sent is looked at for each key of its own.
fn values(gathered: &Gathered<'_>, out: &mut Vec<u8>) -> Option<()> {
    let mut rests: Vec<&[u8]> = gathered.replies.iter().map(Vec::as_slice).collect();
    let line = gathered.frame.get(..memchr::memchr(b'\n', gathered.frame)?)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let skipped = if matches!(gathered.op, ops::GAT | ops::GATS) { 2 } else { 1 };
    for (key, place) in words.skip(skipped).zip(gathered.places) {
        let rest = rests.get_mut(*place as usize)?;
        let Some((found, block)) = value(rest) else { continue };
        if found == key {
            out.extend_from_slice(rest.get(..block)?);
            *rest = rest.get(block..)?;
        }
    }
    out.extend_from_slice(b"END\r\n");
    rests.iter().all(|rest| *rest == b"END\r\n").then_some(())
}

/// The key of the `VALUE` that `reply` starts with, and the length of the whole block.
fn value(reply: &[u8]) -> Option<(&[u8], usize)> {
    let line = reply.get(..memchr::memchr(b'\n', reply)? + 1)?;
    let mut words = line.strip_prefix(b"VALUE ")?.trim_ascii_end().split(|byte| *byte == b' ');
    let key = words.next()?;
    let size: usize = std::str::from_utf8(words.nth(1)?).ok()?.parse().ok()?;
    Some((key, line.len().checked_add(size)?.checked_add(2)?))
}

/// Statistics that are one server's alone, or the same on all.
const NOT_SUMMED: [&[u8]; 12] = [
    b"pid",
    b"uptime",
    b"time",
    b"pointer_size",
    b"threads",
    b"hash_power_level",
    b"chunk_size",
    b"chunks_per_page",
    b"age",
    b"verbosity",
    b"maxconns",
    b"item_size_max",
];

/// Numbers added up, everything else as the first server has it.
fn stats(gathered: &Gathered<'_>, out: &mut Vec<u8>) -> bool {
    let Some(first) = gathered.replies.first() else { return false };
    if !first.starts_with(b"STAT ") || gathered.frame.starts_with(b"stats settings") {
        out.extend_from_slice(first);
        return true;
    }
    let mut rows: Vec<(&[u8], &[u8], Option<u64>)> = Vec::new();
    for reply in gathered.replies {
        for line in reply.split(|byte| *byte == b'\n') {
            let Some(line) = line.trim_ascii_end().strip_prefix(b"STAT ") else { continue };
            let end = memchr::memchr(b' ', line).unwrap_or(line.len());
            let (name, value) =
                (line.get(..end).unwrap_or_default(), line.get(end + 1..).unwrap_or_default());
            let own = name.rsplit(|byte| *byte == b':').next().unwrap_or_default();
            let number = std::str::from_utf8(value).ok().and_then(|value| value.parse::<u64>().ok());
            let number = number.filter(|_| !NOT_SUMMED.contains(&own));
            match rows.iter_mut().find(|row| row.0 == name) {
                Some((_, _, Some(sum))) => *sum = sum.saturating_add(number.unwrap_or(0)),
                Some(_) => {}
                None => rows.push((name, value, number)),
            }
        }
    }
    for (name, value, sum) in rows {
        out.extend_from_slice(b"STAT ");
        out.extend_from_slice(name);
        out.push(b' ');
        match sum {
            Some(sum) => out.extend_from_slice(sum.to_string().as_bytes()),
            None => out.extend_from_slice(value),
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"END\r\n");
    true
}
