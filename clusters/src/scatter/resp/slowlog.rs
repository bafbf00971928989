//! `SLOWLOG GET` of several servers: the newest entries of all, as many as were asked for.

use mecha_resp::{args, reply::Writer};

use super::{element, header, integer};

/// What a server returns that is not told how many.
const USUAL: usize = 10;

/// One entry: when it began (seconds since 1970), its server's number of it, and the whole.
type Entry<'r> = (i64, i64, &'r [u8]);

pub(super) fn merge(frame: &[u8], replies: &[Vec<u8>], writer: &mut Writer<'_>) -> Option<()> {
    let wanted = match args(frame).nth(2) {
        None => USUAL,
        // -1 is all; the servers have refused what is no number.
        Some(count) => std::str::from_utf8(count).ok()?.parse().unwrap_or(usize::MAX),
    };
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for reply in replies {
        let (_, _, mut rest) = header(reply)?;
        while !rest.is_empty() {
            let (whole, more) = rest.split_at_checked(element(rest)?)?;
            let (_, _, fields) = header(whole)?;
            let (number, behind) = fields.split_at_checked(element(fields)?)?;
            entries.push((integer(behind)?, integer(number)?, whole));
            rest = more;
        }
    }
    // Seconds are coarse: entries of one server keep their order, the newest first.
    entries.sort_by_key(|(begun, number, _)| (std::cmp::Reverse(*begun), std::cmp::Reverse(*number)));
    entries.truncate(wanted);
    writer.array(entries.len());
    entries.into_iter().for_each(|(_, _, whole)| writer.out.extend_from_slice(whole));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: i64, begun: i64) -> String {
        format!("*4\r\n:{number}\r\n:{begun}\r\n:7\r\n*1\r\n$4\r\nPING\r\n")
    }

    fn log(entries: &[(i64, i64)]) -> Vec<u8> {
        let entries: Vec<_> = entries.iter().map(|(number, begun)| entry(*number, *begun)).collect();
        format!("*{}\r\n{}", entries.len(), entries.concat()).into_bytes()
    }

    fn merged(request: &str, replies: &[Vec<u8>]) -> Option<String> {
        let mut out = Vec::new();
        merge(request.as_bytes(), replies, &mut Writer::new(&mut out, 2))?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_newest_entries_of_all_servers_come_first() {
        let replies = [log(&[(5, 300), (4, 100)]), log(&[]), log(&[(9, 200), (8, 100)])];
        let all = log(&[(5, 300), (9, 200), (8, 100), (4, 100)]);
        let all = String::from_utf8(all).unwrap();
        assert_eq!(merged("*2\r\n$7\r\nSLOWLOG\r\n$3\r\nGET\r\n", &replies).unwrap(), all);
        assert_eq!(merged("*3\r\n$7\r\nSLOWLOG\r\n$3\r\nGET\r\n$2\r\n-1\r\n", &replies).unwrap(), all);
        let two = String::from_utf8(log(&[(5, 300), (9, 200)])).unwrap();
        assert_eq!(merged("*3\r\n$7\r\nSLOWLOG\r\n$3\r\nGET\r\n$1\r\n2\r\n", &replies).unwrap(), two);
        let many: Vec<_> = (0..8).map(|number| (number, 100)).collect();
        let usual = merged("*2\r\n$7\r\nSLOWLOG\r\n$3\r\nGET\r\n", &[log(&many), log(&many)]).unwrap();
        assert!(usual.starts_with("*10\r\n"), "{usual}");
        assert_eq!(merged("*2\r\n$7\r\nSLOWLOG\r\n$3\r\nGET\r\n", &[b"+OK\r\n".to_vec()]), None);
    }
}
