//! Ranges of sorted sets: by position, score or bytes; shown, counted, stored or removed.

use std::ops::Range;

use super::{
    super::{
        aggregate::{Error, Run},
        hash::content::{Shapes as _, is, long, look, look_mut, positions, replace},
    },
    insert,
    number::parse_bound,
};
use crate::zset::{LexBound, ScoreBound, ZSet};

/// What a range's ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Lex,
    Rank,
    Score,
}

/// A parsed range.
#[derive(Clone, Copy, Debug)]
enum Bounds<'a> {
    Lex(LexBound<'a>, LexBound<'a>),
    Rank(i64, i64),
    Score(ScoreBound, ScoreBound),
}

/// Which of the options a command leaves open, and what it fixes.
#[derive(Clone, Copy, Debug)]
struct Form {
    by: Option<By>,
    reverse: Option<bool>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
struct Query<'a> {
    bounds: Bounds<'a>,
    reverse: bool,
    with_scores: bool,
    offset: i64,
    limit: i64,
}

// === impl Bounds ===

impl<'a> Bounds<'a> {
    fn parse(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Self, Error> {
        match by {
            By::Rank => Ok(Self::Rank(long(min)?, long(max)?)),
            By::Score => score_bound(min)
                .zip(score_bound(max))
                .map(|(min, max)| Self::Score(min, max))
                .ok_or(Error::Text("ERR min or max is not a float")),
            By::Lex => lex_bound(min)
                .zip(lex_bound(max))
                .map(|(min, max)| Self::Lex(min, max))
                .ok_or(Error::Text("ERR min or max not valid string range item")),
        }
    }

    /// The positions within these bounds, lowest member first.
    fn positions(self, members: &ZSet, reverse: bool) -> Range<usize> {
        match self {
            Self::Lex(min, max) => members.positions_by_lex(min, max),
            Self::Score(min, max) => members.positions_by_score(min, max),
            Self::Rank(start, stop) => {
                let range = positions(start, stop, members.len());
                if reverse { members.len() - range.end..members.len() - range.start } else { range }
            }
        }
    }
}

/// Redis reads bounds with plain `strtod`, so space before the number, or no number at all, is no error here.
fn score_bound(text: &[u8]) -> Option<ScoreBound> {
    let (exclusive, number) = match text {
        [b'(', number @ ..] => (true, number),
        number => (false, number),
    };
    let number = number.split(|byte| *byte == 0).next().unwrap_or_default();
    if number.is_empty() {
        return Some(ScoreBound { score: 0.0, exclusive });
    }
    let spaces = number.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count();
    parse_bound(number.get(spaces..)?).map(|score| ScoreBound { score, exclusive })
}

fn lex_bound(text: &[u8]) -> Option<LexBound<'_>> {
    match text {
        b"+" => Some(LexBound::Highest),
        b"-" => Some(LexBound::Lowest),
        [b'(', member @ ..] => Some(LexBound::At(member, true)),
        [b'[', member @ ..] => Some(LexBound::At(member, false)),
        _ => None,
    }
}

// === impl Query ===

impl<'a> Query<'a> {
    /// Reads `min max [options]` from argument `at` on.
    fn parse(run: &Run<'a>, at: usize, form: Form, is_store: bool) -> Result<Self, Error> {
        let Form { mut by, mut reverse } = form;
        let (mut with_scores, mut offset, mut limit) = (false, 0, -1);
        let mut option = at + 2;
        while option < run.argc() {
            let name = run.arg(option);
            if !is_store && is(name, "withscores") {
                with_scores = true;
            } else if is(name, "limit") && option + 2 < run.argc() {
                offset = long(run.arg(option + 1))?;
                limit = long(run.arg(option + 2))?;
                option += 2;
            } else if reverse.is_none() && is(name, "rev") {
                reverse = Some(true);
            } else if by.is_none() && is(name, "bylex") {
                by = Some(By::Lex);
            } else if by.is_none() && is(name, "byscore") {
                by = Some(By::Score);
            } else {
                return Err(Error::Syntax);
            }
            option += 1;
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        if limit != -1 && by == By::Rank {
            return Err(Error::Text(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if with_scores && by == By::Lex {
            return Err(Error::Text("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        let (mut min, mut max) = (run.arg(at), run.arg(at + 1));
        if reverse && by != By::Rank {
            (min, max) = (max, min);
        }
        Ok(Self { bounds: Bounds::parse(by, min, max)?, reverse, with_scores, offset, limit })
    }

    /// The positions asked for, lowest member first.
    fn positions(&self, members: &ZSet) -> Range<usize> {
        let range = self.bounds.positions(members, self.reverse);
        if matches!(self.bounds, Bounds::Rank(..)) {
            return range;
        }
        // A negative offset skips everything, a negative limit is none.
        let skip = usize::try_from(self.offset).unwrap_or(usize::MAX).min(range.len());
        let take = usize::try_from(self.limit).unwrap_or(usize::MAX).min(range.len() - skip);
        if self.reverse {
            let end = range.end - skip;
            end - take..end
        } else {
            let start = range.start + skip;
            start..start + take
        }
    }
}

fn show(run: &mut Run<'_>, by: Option<By>, reverse: Option<bool>) -> Result<(), Error> {
    let query = Query::parse(run, 2, Form { by, reverse }, false)?;
    let Some(members) = look::<ZSet>(run.slots.nth(0))? else {
        run.reply.array(0);
        return Ok(());
    };
    let range = query.positions(members);
    run.reply.pairs(range.len(), query.with_scores);
    let mut each = |(member, score): (&[u8], f64)| {
        run.reply.pair(query.with_scores);
        run.reply.bulk(member);
        if query.with_scores {
            run.reply.double(score);
        }
    };
    if query.reverse {
        members.range(range).rev().for_each(&mut each)
    } else {
        members.range(range).for_each(&mut each)
    }
    Ok(())
}

pub(super) fn zrange(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, None, None)
}

pub(super) fn zrevrange(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Some(By::Rank), Some(true))
}

pub(super) fn zrangebyscore(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Some(By::Score), Some(false))
}

pub(super) fn zrevrangebyscore(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Some(By::Score), Some(true))
}

pub(super) fn zrangebylex(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Some(By::Lex), Some(false))
}

pub(super) fn zrevrangebylex(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Some(By::Lex), Some(true))
}

pub(super) fn zrangestore(run: &mut Run<'_>) -> Result<(), Error> {
    let query = Query::parse(run, 3, Form { by: None, reverse: None }, true)?;
    let mut result = ZSet::default();
    if let Some(members) = look::<ZSet>(run.slots.nth(1))? {
        for (member, score) in members.range(query.positions(members)) {
            insert(&mut result, member, score)?;
        }
    }
    run.reply.int(result.len() as i64);
    replace(run.slots.nth_mut(0), result);
    Ok(())
}

fn count(run: &mut Run<'_>, by: By) -> Result<(), Error> {
    let bounds = Bounds::parse(by, run.arg(2), run.arg(3))?;
    let members = look::<ZSet>(run.slots.nth(0))?;
    run.reply.int(members.map_or(0, |members| bounds.positions(members, false).len()) as i64);
    Ok(())
}

pub(super) fn zcount(run: &mut Run<'_>) -> Result<(), Error> {
    count(run, By::Score)
}

pub(super) fn zlexcount(run: &mut Run<'_>) -> Result<(), Error> {
    count(run, By::Lex)
}

fn remove(run: &mut Run<'_>, by: By) -> Result<(), Error> {
    let bounds = Bounds::parse(by, run.arg(2), run.arg(3))?;
    let slot = run.slots.nth_mut(0);
    let removed = match look_mut::<ZSet>(slot)? {
        Some(members) => members.remove_range(bounds.positions(members, false)),
        None => 0,
    };
    if removed > 0 {
        slot.settle();
    }
    run.reply.int(removed as i64);
    Ok(())
}

pub(super) fn zremrangebyrank(run: &mut Run<'_>) -> Result<(), Error> {
    remove(run, By::Rank)
}

pub(super) fn zremrangebyscore(run: &mut Run<'_>) -> Result<(), Error> {
    remove(run, By::Score)
}

pub(super) fn zremrangebylex(run: &mut Run<'_>) -> Result<(), Error> {
    remove(run, By::Lex)
}
