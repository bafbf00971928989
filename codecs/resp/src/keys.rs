//! Every key of a request, found by the table's key specifications.

use mecha_core::{Keys, OpId};

use crate::args;
use crate::ops::{self, Begin, CommandInfo, Find, KeySpec, flag, op, op_info, touch};

/// Reports the keys of `frame`, in the order of the specifications.
pub(crate) fn each_key<'w>(op: OpId, frame: &'w [u8], each: &mut dyn FnMut(&'w [u8])) -> Keys {
    each_touched(op, frame, &mut |key, _| each(key))
}

/// Reports the keys of a whole request with what is done to them (bits of [`touch`]); among them the channels of the
/// commands that servers route by channel.
pub fn each_touched<'w>(op: OpId, frame: &'w [u8], each: &mut dyn FnMut(&'w [u8], u8)) -> Keys {
    let info = op_info(op);
    if op == OpId::UNKNOWN {
        return Keys::Unknown;
    }
    if info.keys.is_empty() {
        // A server that finds keys by code of its own, and has not told how, leaves us without them.
        return if info.has(flag::MOVABLEKEYS) { Keys::Unknown } else { Keys::Known };
    }
    let words: Vec<_> = args(frame).collect();
    let mut is_known = true;
    let touched = ops::access(op).keys;
    for (at, spec) in info.keys.iter().enumerate() {
        let touched =
            touched_here(op, &words, touched.get(at).copied().unwrap_or(touch::READ | touch::WRITE));
        match spec.begin {
            // A destination may be given several times, and an option's argument may look like one.
            Begin::Keyword(..) if op == op::SORT => {
                sort_destination(&words).iter().for_each(|key| each(key, touched));
            }
            _ => is_known &= keys_of(info, spec, &words, &mut |key| each(key, touched)),
        }
    }
    if is_known { Keys::Known } else { Keys::Unknown }
}

/// Where a `SORT` stores: the last of its destinations counts, as it does for the server.
fn sort_destination<'w>(words: &[&'w [u8]]) -> Option<&'w [u8]> {
    let (mut at, mut destination) = (2, None);
    while let Some(word) = words.get(at) {
        let says = |what: &str| word.eq_ignore_ascii_case(what.as_bytes());
        at += match () {
            () if says("STORE") => {
                destination = words.get(at + 1).copied();
                2
            }
            () if says("LIMIT") => 3,
            () if says("BY") || says("GET") => 2,
            () => 1,
        };
    }
    destination
}

/// Where the arguments decide what a command does to its keys.
fn touched_here(op: OpId, words: &[&[u8]], touched: u8) -> u8 {
    let says = |word: &&[u8], what: &str| word.eq_ignore_ascii_case(what.as_bytes());
    match op {
        op::SET if !words.iter().skip(3).any(|word| says(word, "GET")) => touch::WRITE,
        op::BITFIELD if !words.iter().skip(2).any(|word| says(word, "SET") || says(word, "INCRBY")) => {
            touch::READ
        }
        _ => touched,
    }
}

/// Reports the keys that one specification finds. `false` if the arguments do not fit it.
fn keys_of<'w>(
    info: &CommandInfo,
    spec: &KeySpec,
    words: &[&'w [u8]],
    each: &mut dyn FnMut(&'w [u8]),
) -> bool {
    let begin = match spec.begin {
        Begin::Index(index) => usize::try_from(index).ok(),
        Begin::Keyword(word, from) => match keyword(words, word, from) {
            Some(at) => Some(at + 1),
            // The option is not used.
            None => return true,
        },
    };
    let Some(begin) = begin.filter(|begin| *begin > 0) else { return false };
    match spec.find {
        Find::Range { last, step, limit } => {
            let step = usize::try_from(step).unwrap_or(1).max(1);
            let count = words.len();
            let last = match last {
                0.. => begin + last as usize,
                _ if limit > 1 => begin + (count.saturating_sub(begin) / limit as usize).saturating_sub(1),
                _ => count.saturating_sub(last.unsigned_abs() as usize),
            };
            if begin >= count {
                return info.arity < 0;
            }
            words.iter().take(last + 1).skip(begin).step_by(step).for_each(|key| each(key));
            last < count
        }
        Find::Number { at, first, step } => {
            let number = words.get(begin + at.unsigned_abs() as usize).and_then(|word| args_number(word));
            let Some(number) = number else { return false };
            let first = begin + first.unsigned_abs() as usize;
            let step = usize::try_from(step).unwrap_or(1).max(1);
            let mut keys = words.iter().skip(first).step_by(step);
            (0..number).all(|_| keys.next().map(|key| each(key)).is_some())
        }
    }
}

fn args_number(word: &[u8]) -> Option<usize> {
    crate::args::decimal(word).and_then(|number| usize::try_from(number).ok())
}

/// Where `word` is, looked for from argument `from` on; a negative `from` looks from the end backwards.
fn keyword(words: &[&[u8]], word: &str, from: i16) -> Option<usize> {
    let is_it = |at: &usize| words.get(*at).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    let start = usize::from(from.unsigned_abs());
    if from >= 0 {
        (start..words.len()).find(is_it)
    } else {
        (0..(words.len() + 1).saturating_sub(start)).rev().find(is_it)
    }
}

#[cfg(test)]
mod tests {
    use mecha_core::{Framed, Keys};

    use crate::{Resp, head_of, write_request};

    fn check(line: &str, expected: &[&str]) {
        let mut frame = Vec::new();
        let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        write_request(words.into_iter(), &mut frame);
        let head = head_of(&frame).unwrap();
        let mut keys = Vec::new();
        assert_eq!(Resp::keys(&head, &frame, &mut |key| keys.push(key)), Keys::Known, "{line}");
        let keys: Vec<_> = keys.into_iter().map(|key| std::str::from_utf8(key).unwrap()).collect();
        assert_eq!(keys, expected, "{line}");
        let first = Resp::key(&head, &frame).map(|key| std::str::from_utf8(key).unwrap());
        assert_eq!(first, expected.first().copied(), "{line}");
    }

    #[test]
    fn keys_are_found_wherever_a_command_has_them() {
        check("GET a", &["a"]);
        check("mget a b c", &["a", "b", "c"]);
        check("MSET a 1 b 2", &["a", "b"]);
        check("PING", &[]);
        check("OBJECT ENCODING a", &["a"]);
        check("EVAL return 2 a b x", &["a", "b"]);
        check("EVAL return 0", &[]);
        check("XREAD COUNT 2 STREAMS s1 s2 0 0", &["s1", "s2"]);
        check("XREADGROUP GROUP g c STREAMS s1 >", &["s1"]);
        check("ZUNIONSTORE dest 2 a b WEIGHTS 1 2", &["dest", "a", "b"]);
        check("BLPOP a b 0", &["a", "b"]);
        check("BITOP AND d a b", &["d", "a", "b"]);
        check("LMPOP 2 a b LEFT", &["a", "b"]);
        check("COPY a b", &["a", "b"]);
        check("XGROUP CREATE s g 0", &["s"]);
        check("HEXPIRE h 10 FIELDS 1 f", &["h"]);
    }

    #[test]
    fn what_is_done_to_keys_is_known() {
        use crate::ops::touch::{CHANNEL, READ, WRITE};
        let check = |line: &str, expected: &[(&str, u8)]| {
            let mut frame = Vec::new();
            write_request(line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter(), &mut frame);
            let head = head_of(&frame).unwrap();
            let mut found = Vec::new();
            let known = super::each_touched(head.op, &frame, &mut |key, touched| {
                found.push((std::str::from_utf8(key).unwrap(), touched));
            });
            assert_eq!((known, found.as_slice()), (Keys::Known, expected), "{line}");
        };
        check("GET a", &[("a", READ)]);
        check("SET a 1", &[("a", WRITE)]);
        check("SET a 1 GET", &[("a", READ | WRITE)]);
        check("BITFIELD a GET u4 0", &[("a", READ)]);
        check("BITFIELD a SET u4 0 1", &[("a", READ | WRITE)]);
        check("COPY a b", &[("a", READ), ("b", WRITE)]);
        check("SUNIONSTORE d a b", &[("d", WRITE), ("a", READ), ("b", READ)]);
        check("SORT a STORE x STORE y STORE d", &[("a", READ), ("d", WRITE)]);
        check("SORT a BY STORE GET STORE ALPHA STORE d", &[("a", READ), ("d", WRITE)]);
        check("SORT a BY STORE LIMIT 0 STORE", &[("a", READ)]);
        check("SORT a STORE d", &[("a", READ), ("d", WRITE)]);
        check("EXISTS a", &[("a", 0)]);
        check("SPUBLISH c m", &[("c", CHANNEL)]);
    }

    #[test]
    fn commands_that_the_table_lacks_have_unknown_keys() {
        let mut frame = Vec::new();
        write_request([b"JSON.GET".as_slice(), b"doc"].into_iter(), &mut frame);
        let head = head_of(&frame).unwrap();
        assert_eq!(Resp::keys(&head, &frame, &mut |_| ()), Keys::Unknown);
    }
}
