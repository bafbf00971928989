//! `SCAN` of several servers: one after another, and then what has moved meanwhile.
//!
//! | bits of a cursor | |
//! |---|---|
//! | 0 to 11 | the server's position |
//! | 12, 13 | the [`Stage`] |
//! | 14 to 21 | where slots move: the generation ([`crate::moves`]) in which the scan began |
//! | 22 to 63 | the server's own cursor |
//!
//! Slots may move while a scan goes from server to server. When the last one has been visited, every server is asked for
//! its slots and for those that are on their way. If none has moved since the scan began, it has seen everything. Else all
//! servers are visited again for the keys of those slots alone, twice, since a key may move from a server of the first
//! round to one that was visited before. Slots that begin to move later were whole where they were visited.

use mecha_resp::reply::Writer;
use mecha_resp::{args, key_slot, write_request};

use super::{bulk, element, header, line};
use crate::moves::{Moves, SlotSet};
use crate::scatter::{Gathered, Scan, ScanStep};

const POSITION_BITS: u32 = 12;
const STAGE_BITS: u32 = 2;
const GENERATION_BITS: u32 = 8;
/// What a server's own cursor is shifted by.
const INNER: u32 = POSITION_BITS + STAGE_BITS + GENERATION_BITS;
/// Keys that a server looks at for one call that wants few of them.
const COUNT: u64 = 1000;
/// What every server is asked when the last one has been visited.
const WHO_HOLDS: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n";

/// How far a scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Every server is visited.
    All,
    /// What has moved?
    Check,
    /// Every server is visited for what has moved.
    Again,
    /// Once more.
    Last,
}

/// Where a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    position: usize,
    stage: Stage,
    generation: u8,
    inner: u64,
}

// === impl Cursor ===

impl Cursor {
    fn of(number: u64) -> Self {
        let bits = |from: u32, count: u32| number >> from & ((1 << count) - 1);
        let stage = match bits(POSITION_BITS, STAGE_BITS) {
            0 => Stage::All,
            1 => Stage::Check,
            2 => Stage::Again,
            _ => Stage::Last,
        };
        let generation = bits(POSITION_BITS + STAGE_BITS, GENERATION_BITS) as u8;
        Self { position: bits(0, POSITION_BITS) as usize, stage, generation, inner: number >> INNER }
    }

    /// `None` if there is no room for the server's cursor, without which the scan would go astray.
    fn number(self) -> Option<u64> {
        let stage = (self.stage as u64) << POSITION_BITS;
        let generation = u64::from(self.generation) << (POSITION_BITS + STAGE_BITS);
        let inner = self.inner.checked_shl(INNER).filter(|shifted| shifted >> INNER == self.inner)?;
        Some(inner | generation | stage | self.position as u64)
    }

    /// Where the scan goes on once it is known what has moved: 0 if nothing has.
    fn after_check(self, first: usize, moves: &Moves) -> Option<u64> {
        if moves.since(self.generation).is_empty() {
            return Some(0);
        }
        Cursor { stage: Stage::Again, position: first, inner: 0, ..self }.number()
    }

    /// The cursor in a request; `None` if there is none. 0 begins at the first server.
    fn asked(frame: &[u8], shards: &[usize], moves: Option<&Moves>) -> Option<Self> {
        let number: u64 = std::str::from_utf8(args(frame).nth(1)?).ok()?.parse().ok()?;
        if number == 0 {
            let generation = moves.map_or(0, Moves::generation);
            let position = shards.iter().copied().min()?;
            return Some(Self { position, stage: Stage::All, generation, inner: 0 });
        }
        let mut cursor = Self::of(number);
        if !shards.contains(&cursor.position) {
            // That server has left; its keys are elsewhere, and the next one starts at its beginning.
            let later = shards.iter().copied().filter(|shard| *shard > cursor.position);
            cursor.position = later.min().or_else(|| shards.iter().copied().max())?;
            cursor.inner = 0;
        }
        Some(cursor)
    }
}

/// As [`crate::Rules::scan`].
pub(super) fn ask(
    frame: &[u8],
    (own, all): (&[usize], &[usize]),
    moves: Option<&Moves>,
    out: &mut Vec<u8>,
) -> Option<ScanStep> {
    let mut cursor = Cursor::asked(frame, own, moves)?;
    if cursor.stage != Stage::All {
        // What has moved may be on servers that the client's address does not stand for.
        cursor = Cursor::asked(frame, all, moves)?;
    }
    if cursor.stage == Stage::Check && moves.is_some() {
        out.extend_from_slice(WHO_HOLDS);
        return Some(ScanStep::Every);
    }
    let mut words: Vec<_> = args(frame).collect();
    let (inner, count) = (cursor.inner.to_string(), COUNT.to_string());
    *words.get_mut(1)? = inner.as_bytes();
    if cursor.stage != Stage::All {
        let at = words.iter().skip(2).position(|word| word.eq_ignore_ascii_case(b"COUNT"));
        let is_less = |word: &[u8]| {
            std::str::from_utf8(word)
                .ok()
                .and_then(|word| word.parse().ok())
                .is_some_and(|asked: u64| asked < COUNT)
        };
        match at.and_then(|at| words.get_mut(at + 3)) {
            Some(word) if is_less(word) => *word = count.as_bytes(),
            Some(_) => {}
            None => words.extend([b"COUNT".as_slice(), count.as_bytes()]),
        }
    }
    write_request(words.into_iter(), out);
    let length = out.len();
    let is_last = own.iter().all(|position| *position <= cursor.position);
    if cursor.stage == Stage::All && moves.is_some() && is_last && cursor.inner == 0 {
        // Perhaps the server tells all of its keys at once, and nothing is left but to ask what has moved.
        out.extend_from_slice(WHO_HOLDS);
        return Some(ScanStep::AtAndEvery(cursor.position, length));
    }
    Some(match cursor.stage {
        Stage::All => ScanStep::At(cursor.position),
        _ => ScanStep::Again(cursor.position),
    })
}

/// The keys of one server, and where to go on.
pub(super) fn answer(gathered: &Gathered<'_>, writer: &mut Writer<'_>) -> Option<()> {
    let Gathered { frame, replies, scan: Scan { at: position, next, first, moves, held }, .. } = *gathered;
    let mut cursor = Cursor::asked(frame, &[position], moves)?;
    if let (Stage::Check, Some(moves)) = (cursor.stage, moves) {
        note_unsteady(replies, held, moves)?;
        return write(cursor.after_check(first, moves)?, b"*0\r\n", writer);
    }
    let (scanned, more) = replies.split_first()?;
    let (_, _, rest) = header(scanned)?;
    let (told, keys) = rest.split_at_checked(element(rest)?)?;
    let (stage, generation) = (cursor.stage, cursor.generation);
    cursor.inner = std::str::from_utf8(bulk(told)?).ok()?.parse().ok()?;
    if cursor.inner == 0 {
        cursor.position = next.unwrap_or(first);
        cursor.stage = match (cursor.stage, next) {
            (stage, Some(_)) => stage,
            (Stage::All, None) => Stage::Check,
            (Stage::Again, None) => Stage::Last,
            (stage @ (Stage::Check | Stage::Last), None) => stage,
        };
    }
    if let (Stage::Check, Some(moves)) = (cursor.stage, moves)
        && note_unsteady(more, held, moves).is_some_and(|asked| asked > 0)
    {
        return write(cursor.after_check(first, moves)?, keys, writer);
    }
    let is_over = cursor.inner == 0
        && next.is_none()
        && (moves.is_none() || matches!(stage, Stage::Last | Stage::Check));
    let number = if is_over { 0 } else { cursor.number()? };
    match (stage, moves) {
        (Stage::Again | Stage::Last, Some(moves)) => {
            write(number, &only(keys, &moves.since(generation))?, writer)
        }
        _ => write(number, keys, writer),
    }
}

/// Notes what servers say is on its way. Returns how many have said something; `None` if one of them makes no sense.
fn note_unsteady(replies: &[Vec<u8>], held: &[SlotSet], moves: &Moves) -> Option<usize> {
    for (reply, held) in replies.iter().zip(held) {
        // A server that does not let mecha ask has nothing to add to what is known.
        if !is_denied(reply) {
            moves.note(&unsteady(reply, held)?);
        }
    }
    Some(replies.len())
}

/// Whether the server does not let mecha ask.
fn is_denied(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOPERM")
}

/// The error that the whole call ends with, if one of the replies to it is one.
pub(super) fn error<'r>(gathered: &Gathered<'r>) -> Option<&'r [u8]> {
    let is_error = |reply: &&Vec<u8>| matches!(reply.first(), Some(b'-' | b'!'));
    let error = if gathered.replies.len() > gathered.scan.held.len() {
        // Of what was asked beside the scan itself: it is asked again.
        gathered.replies.first().filter(is_error)
    } else {
        gathered.replies.iter().filter(is_error).find(|reply| !is_denied(reply))
    };
    error.map(Vec::as_slice)
}

fn write(cursor: u64, keys: &[u8], writer: &mut Writer<'_>) -> Option<()> {
    writer.array(2);
    writer.bulk(cursor.to_string().as_bytes());
    writer.out.extend_from_slice(keys);
    Some(())
}

/// The keys of these slots.
fn only(keys: &[u8], slots: &SlotSet) -> Option<Vec<u8>> {
    let (_, _, mut rest) = header(keys)?;
    let (mut count, mut body) = (0, Vec::new());
    while !rest.is_empty() {
        let (key, more) = rest.split_at_checked(element(rest)?)?;
        if slots.has(key_slot(bulk(key)?)) {
            body.extend_from_slice(key);
            count += 1;
        }
        rest = more;
    }
    let mut out = Vec::with_capacity(body.len() + 16);
    Writer::new(&mut out, 2).array(count);
    out.extend_from_slice(&body);
    Some(out)
}

/// The slots that a server (`CLUSTER NODES`) holds and was not known to, or the other way round, and those on their way.
/// None if it does not want to say; `None` if that makes no sense.
fn unsteady(reply: &[u8], known: &SlotSet) -> Option<SlotSet> {
    let (kind, length, rest) = line(reply)?;
    let text = rest.get(..usize::try_from(length).ok()?).and_then(|text| std::str::from_utf8(text).ok())?;
    let text = if kind == b'=' { text.get(4..)? } else { text };
    let own =
        text.lines().find(|line| line.split(' ').nth(2).is_some_and(|flags| flags.contains("myself")))?;
    let (mut held, mut moving) = (SlotSet::default(), Vec::new());
    for word in own.split(' ').skip(8) {
        if let Some(slot) = word.strip_prefix('[') {
            moving.push(slot.split('-').next()?.parse().ok()?);
            continue;
        }
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        (first.parse().ok()?..=last.parse().ok()?).for_each(|slot| held.add(slot));
    }
    let mut all = held.differing(known);
    moving.into_iter().for_each(|slot| all.add(slot));
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_what_it_was() {
        for stage in [Stage::All, Stage::Check, Stage::Again, Stage::Last] {
            let cursor = Cursor { position: 4095, stage, generation: 255, inner: (1 << 42) - 1 };
            assert_eq!(Cursor::of(cursor.number().unwrap()), cursor);
        }
        let large = Cursor { position: 0, stage: Stage::All, generation: 0, inner: 1 << 42 };
        assert_eq!(large.number(), None);
    }

    #[test]
    fn what_a_server_says_is_held_against_what_is_known() {
        let text = "id1 127.0.0.1:1@1 master - 0 0 1 connected 0-99\n\
                    id2 127.0.0.1:2@2 myself,master - 0 0 2 connected 100-102 105 [107->-id1] [3-<-id1]\n";
        let reply = format!("${}\r\n{text}\r\n", text.len());
        let mut known = SlotSet::default();
        [100, 101, 102, 104].into_iter().for_each(|slot| known.add(slot));
        let set = unsteady(reply.as_bytes(), &known).unwrap();
        let slots: Vec<u16> = (0..16_384).filter(|slot| set.has(*slot)).collect();
        assert_eq!(slots, [3, 104, 105, 107]);
        let verbatim = format!("={}\r\ntxt:{text}\r\n", text.len() + 4);
        assert!(unsteady(verbatim.as_bytes(), &known) == Some(set));
        assert!(unsteady(b"+OK\r\n", &known).is_none());
    }
}
