//! `LCS`: the longest common subsequence of two strings.

use super::aggregate::{Error, Keys, Run, Spec, spec};
use super::hash::content::{clamp, is, long};
use super::strings::text;

/// What the front registers.
pub(crate) const COMMANDS: &[Spec] = &[spec("lcs", -3, Keys::FirstTwo, lcs)];

/// Cells of the table, four bytes each: it is filled in while others wait.
const MOST_CELLS: usize = 16 << 20;

/// Lengths of the longest common subsequences of all prefixes.
struct Table {
    width: usize,
    cells: Vec<u32>,
}

impl Table {
    fn new(a: &[u8], b: &[u8]) -> Self {
        let width = b.len() + 1;
        let mut table = Self { width, cells: vec![0; (a.len() + 1) * width] };
        for (i, one) in a.iter().enumerate() {
            for (j, other) in b.iter().enumerate() {
                let length = if one == other {
                    table.at(i, j) + 1
                } else {
                    table.at(i, j + 1).max(table.at(i + 1, j))
                };
                if let Some(cell) = table.cells.get_mut((i + 1) * width + j + 1) {
                    *cell = length;
                }
            }
        }
        table
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells.get(i * self.width + j).copied().unwrap_or(0)
    }
}

/// Bytes in a row that both strings have: where they start in each, and how many they are.
#[derive(Clone, Copy)]
struct Match {
    a: usize,
    b: usize,
    length: usize,
}

/// The matches from the last to the first, and the subsequence.
fn trace(table: &Table, a: &[u8], b: &[u8]) -> (Vec<Match>, Vec<u8>) {
    let (mut matches, mut common, mut open) = (Vec::new(), Vec::new(), None::<Match>);
    let (mut i, mut j) = (a.len(), b.len());
    while let (Some(one), Some(other)) =
        (i.checked_sub(1).and_then(|i| a.get(i)), j.checked_sub(1).and_then(|j| b.get(j)))
    {
        if one == other {
            (i, j) = (i - 1, j - 1);
            common.push(*one);
            let length = open.map_or(1, |open| open.length + 1);
            open = Some(Match { a: i, b: j, length });
        } else {
            matches.extend(open.take());
            if table.at(i - 1, j) > table.at(i, j - 1) { i -= 1 } else { j -= 1 }
        }
    }
    matches.extend(open);
    common.reverse();
    (matches, common)
}

fn lcs(run: &mut Run<'_>) -> Result<(), Error> {
    let string = |key: usize| text(run.slots.nth(key)).map(Option::unwrap_or_default);
    let (Ok(a), Ok(b)) = (string(0), string(1)) else {
        return Err(Error::Text("ERR The specified keys must contain string values"));
    };
    let (mut only_length, mut indexes, mut with_length, mut least, mut at) = (false, false, false, 0, 3);
    while at < run.argc() {
        match run.args.at(at) {
            word if is(word, "idx") => indexes = true,
            word if is(word, "len") => only_length = true,
            word if is(word, "withmatchlen") => with_length = true,
            word if is(word, "minmatchlen") && at + 1 < run.argc() => {
                least = clamp(long(run.args.at(at + 1))?);
                at += 1;
            }
            _ => return Err(Error::Syntax),
        }
        at += 1;
    }
    if only_length && indexes {
        return Err(Error::Text("ERR If you want both the length and indexes, please just use IDX."));
    }
    if (a.len() + 1).saturating_mul(b.len() + 1) > MOST_CELLS {
        return Err(Error::Text(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let table = Table::new(a, b);
    let length = i64::from(table.at(a.len(), b.len()));
    if only_length {
        run.reply.int(length);
        return Ok(());
    }
    let (matches, common) = trace(&table, a, b);
    if !indexes {
        run.reply.bulk(&common);
        return Ok(());
    }
    let shown: Vec<_> = matches.into_iter().filter(|found| found.length >= least).collect();
    run.reply.map(2);
    run.reply.bulk(b"matches");
    run.reply.array(shown.len());
    for Match { a, b, length } in shown {
        run.reply.array(2 + usize::from(with_length));
        for start in [a, b] {
            run.reply.array(2);
            run.reply.int(start as i64);
            run.reply.int((start + length - 1) as i64);
        }
        if with_length {
            run.reply.int(length as i64);
        }
    }
    run.reply.bulk(b"len");
    run.reply.int(length);
    Ok(())
}
