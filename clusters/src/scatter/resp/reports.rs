//! Reports of several servers about themselves: settings, memory, latency.

use std::collections::BTreeMap;

use mecha_resp::reply::Writer;

use super::{bulk, element, header, integer, line};

/// A named value of a report, both as the server wrote them.
type Row<'r> = (&'r [u8], &'r [u8]);

/// The elements of an aggregate.
fn elements(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let (_, _, mut rest) = header(reply)?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (one, more) = rest.split_at_checked(element(rest)?)?;
        all.push(one);
        rest = more;
    }
    Some(all)
}

/// The rows of a map, or of an array of names and values.
fn rows(reply: &[u8]) -> Option<Vec<Row<'_>>> {
    let all = elements(reply)?;
    let pairs = all.chunks_exact(2).map(|pair| Some((bulk(pair.first()?)?, *pair.get(1)?)));
    pairs.collect()
}

/// The names of all reports in the order in which they appear first, each with its values.
fn by_name<'r>(reports: &[Vec<Row<'r>>]) -> Vec<(&'r [u8], Vec<&'r [u8]>)> {
    let mut all: Vec<(&[u8], Vec<&[u8]>)> = Vec::new();
    for (name, value) in reports.iter().flatten() {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => all.push((name, vec![value])),
        }
    }
    all
}

/// `CONFIG GET`: the settings that all servers have alike. What differs is one server's own (its port, its folder).
pub(super) fn settings(replies: &[Vec<u8>], writer: &mut Writer<'_>) -> Option<()> {
    let reports: Vec<_> = replies.iter().map(|reply| rows(reply)).collect::<Option<_>>()?;
    let alike: Vec<_> = by_name(&reports)
        .into_iter()
        .filter(|(_, values)| {
            values.len() == reports.len() && values.windows(2).all(|pair| pair[0] == pair[1])
        })
        .collect();
    writer.map(alike.len());
    for (name, values) in alike {
        writer.bulk(name);
        writer.out.extend_from_slice(values.first()?);
    }
    Some(())
}

/// `MEMORY STATS`: numbers added up, shares and ratios as the mean of all servers.
pub(super) fn memory(replies: &[Vec<u8>], writer: &mut Writer<'_>) -> Option<()> {
    let reports: Vec<_> = replies.iter().map(|reply| rows(reply)).collect::<Option<_>>()?;
    let all = by_name(&reports);
    let sum = |name: &str| -> Option<i64> {
        let (_, values) = all.iter().find(|(known, _)| *known == name.as_bytes())?;
        values.iter().map(|value| integer(value)).sum()
    };
    writer.map(all.len());
    for (name, values) in &all {
        writer.bulk(name);
        match values.first()?.first()? {
            b':' if *name == b"keys.bytes-per-key" => {
                let used = sum("total.allocated")?.saturating_sub(sum("startup.allocated")?);
                writer.int(used / sum("keys.count")?.max(1));
            }
            b':' => writer.int(values.iter().map(|value| integer(value)).sum::<Option<i64>>()?),
            b'*' | b'%' => {
                // What one database takes.
                let parts: Vec<_> = values.iter().map(|value| rows(value)).collect::<Option<_>>()?;
                let parts = by_name(&parts);
                writer.map(parts.len());
                for (name, numbers) in parts {
                    writer.bulk(name);
                    writer.int(numbers.iter().map(|number| integer(number)).sum::<Option<i64>>()?);
                }
            }
            _ => {
                let shares: Vec<f64> = values.iter().map(|value| double(value)).collect::<Option<_>>()?;
                writer.double(shares.iter().sum::<f64>() / shares.len() as f64);
            }
        }
    }
    Some(())
}

/// `LATENCY LATEST`: of each event, when and how long it last took, and the most that it took anywhere.
pub(super) fn latest(replies: &[Vec<u8>], writer: &mut Writer<'_>) -> Option<()> {
    let mut events: BTreeMap<&[u8], Vec<i64>> = BTreeMap::new();
    for reply in replies {
        for row in elements(reply)? {
            let fields = elements(row)?;
            let name = bulk(fields.first()?)?;
            let numbers: Vec<i64> =
                fields.iter().skip(1).map(|field| integer(field)).collect::<Option<_>>()?;
            let [begun, took, most, ..] = numbers[..] else { return None };
            match events.get_mut(name) {
                None => drop(events.insert(name, numbers)),
                Some(known) => {
                    for (at, number) in numbers.iter().enumerate().skip(3) {
                        // Newer servers count, too.
                        *known.get_mut(at)? += number;
                    }
                    let [known_begun, known_took, known_most, ..] = &mut known[..] else { return None };
                    *known_most = most.max(*known_most);
                    if begun > *known_begun {
                        (*known_begun, *known_took) = (begun, took);
                    }
                }
            }
        }
    }
    writer.array(events.len());
    for (name, numbers) in events {
        writer.array(1 + numbers.len());
        writer.bulk(name);
        numbers.into_iter().for_each(|number| writer.int(number));
    }
    Some(())
}

/// `LATENCY HISTORY`: all, the oldest first.
pub(super) fn history(replies: &[Vec<u8>], writer: &mut Writer<'_>) -> Option<()> {
    let mut all = Vec::new();
    for reply in replies {
        for row in elements(reply)? {
            all.push((integer(elements(row)?.first()?)?, row));
        }
    }
    all.sort_by_key(|(begun, _)| *begun);
    writer.array(all.len());
    all.into_iter().for_each(|(_, row)| writer.out.extend_from_slice(row));
    Some(())
}

/// `LATENCY HISTOGRAM`: calls of each command, and how many of them took up to so many microseconds.
pub(super) fn histogram(replies: &[Vec<u8>], writer: &mut Writer<'_>) -> Option<()> {
    let reports: Vec<_> = replies.iter().map(|reply| rows(reply)).collect::<Option<_>>()?;
    let commands = by_name(&reports);
    writer.map(commands.len());
    for (name, values) in commands {
        // By the end of each bucket, how many more calls are in it than in the one before.
        let (mut calls, mut buckets) = (0i64, BTreeMap::<i64, i64>::new());
        for value in values {
            for (name, value) in rows(value)? {
                if name == b"calls" {
                    calls = calls.saturating_add(integer(value)?);
                    continue;
                }
                let mut before = 0;
                for pair in elements(value)?.chunks_exact(2) {
                    let (end, count) = (integer(pair.first()?)?, integer(pair.get(1)?)?);
                    *buckets.entry(end).or_default() += count - before;
                    before = count;
                }
            }
        }
        writer.bulk(name);
        writer.map(2);
        writer.bulk(b"calls");
        writer.int(calls);
        writer.bulk(b"histogram_usec");
        writer.map(buckets.len());
        let mut count = 0;
        for (end, more) in buckets {
            count += more;
            writer.int(end);
            writer.int(count);
        }
    }
    Some(())
}

/// Texts, each under a line that numbers its server.
pub(super) fn texts(replies: &[Vec<u8>], writer: &mut Writer<'_>) -> Option<()> {
    let mut out = Vec::new();
    for (number, reply) in replies.iter().enumerate() {
        let (kind, length, rest) = line(reply)?;
        let body = match kind {
            b'$' => rest.get(..usize::try_from(length).ok()?)?,
            b'=' => rest.get(4..usize::try_from(length).ok()?)?,
            _ => return None,
        };
        out.extend_from_slice(format!("# shard {number}\n").as_bytes());
        out.extend_from_slice(body);
        out.extend_from_slice(if body.ends_with(b"\n") { b"" } else { b"\n" });
    }
    writer.verbatim("txt", &out);
    Some(())
}

fn double(element: &[u8]) -> Option<f64> {
    let text = match element.strip_prefix(b",") {
        Some(text) => text.strip_suffix(b"\r\n")?,
        None => bulk(element)?,
    };
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Merge = fn(&[Vec<u8>], &mut Writer<'_>) -> Option<()>;

    fn merged(merge: Merge, replies: &[&str], proto: u8) -> Option<String> {
        let replies: Vec<_> = replies.iter().map(|reply| reply.replace('~', "\r\n").into_bytes()).collect();
        let mut out = Vec::new();
        merge(&replies, &mut Writer::new(&mut out, proto))?;
        Some(String::from_utf8(out).unwrap().replace("\r\n", "~"))
    }

    #[test]
    fn settings_that_differ_are_nobodys() {
        let one = "%2~$4~port~$1~1~$3~abc~$1~x~";
        let other = "%2~$4~port~$1~2~$3~abc~$1~x~";
        assert_eq!(merged(settings, &[one, other], 3).unwrap(), "%1~$3~abc~$1~x~");
        assert_eq!(merged(settings, &["*0~", "*0~"], 2).unwrap(), "*0~");
        assert_eq!(merged(settings, &["*2~$1~a~$1~b~", "+OK~"], 2), None);
    }

    #[test]
    fn memory_is_added_up() {
        let report = |keys: u8, share: &str| {
            format!(
                "*10~$15~total.allocated~:100~$17~startup.allocated~:60~$4~db.0~*2~$1~m~:7~$10~keys.count~:{keys}~\
                 $13~fragmentation~$3~{share}~"
            )
        };
        let all = merged(memory, &[&report(1, "1.5"), &report(3, "2.5")], 2).unwrap();
        assert_eq!(
            all,
            "*10~$15~total.allocated~:200~$17~startup.allocated~:120~$4~db.0~*2~$1~m~:14~$10~keys.count~:4~$13~\
             fragmentation~$1~2~"
        );
    }

    #[test]
    fn latencies_of_all_servers_are_one_report() {
        let (one, other) = ("*1~*4~$3~cmd~:100~:5~:9~", "*2~*4~$3~cmd~:200~:3~:4~*4~$4~fork~:1~:1~:1~");
        assert_eq!(merged(latest, &[one, other], 2).unwrap(), "*2~*4~$3~cmd~:200~:3~:9~*4~$4~fork~:1~:1~:1~");
        assert_eq!(
            merged(history, &["*2~*2~:5~:1~*2~:9~:1~", "*1~*2~:7~:2~"], 2).unwrap(),
            "*3~*2~:5~:1~*2~:7~:2~*2~:9~:1~"
        );
        let of = |buckets: &str| format!("%1~$3~get~%2~$5~calls~:3~$14~histogram_usec~{buckets}");
        let all = merged(histogram, &[&of("%2~:1~:1~:4~:3~"), &of("%2~:2~:2~:4~:3~")], 3).unwrap();
        assert_eq!(all, of("%3~:1~:1~:2~:3~:4~:6~").replace("calls~:3", "calls~:6"));
    }

    #[test]
    fn texts_stand_one_behind_the_other() {
        let all = merged(texts, &["$2~ab~", "=6~txt:c\n~"], 2).unwrap();
        assert_eq!(all, "$25~# shard 0\nab\n# shard 1\nc\n~");
    }
}
