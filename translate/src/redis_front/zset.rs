//! Sorted sets: single elements, pops, random picks and scans. Ranges and combinations have files of their own.

use self::{
    algebra::{zdiff, zdiffstore, zinter, zintercard, zinterstore, zunion, zunionstore},
    range::{
        zcount, zlexcount, zrange, zrangebylex, zrangebyscore, zrangestore, zremrangebylex, zremrangebyrank,
        zremrangebyscore, zrevrange, zrevrangebylex, zrevrangebyscore,
    },
};
mod algebra;
pub(crate) mod number;
mod range;

use self::number::parse_score;
use super::{
    aggregate::{Error, Keys, Run, Spec, spec},
    blocking::concerning,
    hash::content::{
        Random, Shapes as _, at_least, clamp, is, key_count, look, look_mut, open, pop_count, random_options,
        scan_cursor, scan_options,
    },
};
use crate::zset::ZSet;
use mecha_resp::reply::write_double;

/// Redis' refusal of `inf - inf`.
const NAN: Error = Error::Text("ERR resulting score is not a number (NaN)");

/// Conditions and reply of ZADD.
#[derive(Clone, Copy, Debug, Default)]
struct Add {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    ch: bool,
    incr: bool,
}

/// What became of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Added {
    New(f64),
    Nothing,
    Same(f64),
    Updated(f64),
}

// === impl Add ===

impl Add {
    /// Reads options from argument `at` on; returns where the scores start.
    fn parse(run: &Run<'_>, mut at: usize) -> (Self, usize) {
        let mut add = Self::default();
        while at < run.argc() {
            let flag = match run.arg(at) {
                option if is(option, "nx") => &mut add.nx,
                option if is(option, "xx") => &mut add.xx,
                option if is(option, "ch") => &mut add.ch,
                option if is(option, "incr") => &mut add.incr,
                option if is(option, "gt") => &mut add.gt,
                option if is(option, "lt") => &mut add.lt,
                _ => break,
            };
            *flag = true;
            at += 1;
        }
        (add, at)
    }

    fn check(self, elements: usize) -> Result<(), Error> {
        if self.nx && self.xx {
            return Err(Error::Text("ERR XX and NX options at the same time are not compatible"));
        }
        if (self.nx && (self.gt || self.lt)) || (self.gt && self.lt) {
            return Err(Error::Text("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if self.incr && elements > 1 {
            return Err(Error::Text("ERR INCR option supports a single increment-element pair"));
        }
        Ok(())
    }

    fn apply(self, members: &mut ZSet, member: &[u8], score: f64) -> Result<Added, Error> {
        let Some(before) = members.score(member) else {
            if self.xx {
                return Ok(Added::Nothing);
            }
            insert(members, member, score)?;
            return Ok(Added::New(score));
        };
        if self.nx {
            return Ok(Added::Nothing);
        }
        let score = if self.incr { before + score } else { score };
        if score.is_nan() {
            return Err(NAN);
        }
        if (self.lt && score >= before) || (self.gt && score <= before) {
            return Ok(Added::Nothing);
        }
        if score == before {
            return Ok(Added::Same(score));
        }
        insert(members, member, score)?;
        Ok(Added::Updated(score))
    }
}

/// Redis keeps whole scores of small sets as integers, which have no minus zero.
pub(super) fn insert(members: &mut ZSet, member: &[u8], score: f64) -> Result<(), Error> {
    let score = if score == 0.0 { 0.0 } else { score };
    members.insert(member, score).map(drop).map_err(|_| NAN)
}

/// The shared body of ZADD and its like: score and member in turns from argument `at` on.
fn add(run: &mut Run<'_>, add: Add, at: usize) -> Result<(), Error> {
    let elements = run.argc() - at;
    if elements == 0 || elements % 2 == 1 {
        return Err(Error::Syntax);
    }
    add.check(elements / 2)?;
    let mut scores = Vec::with_capacity(elements / 2);
    for at in (at..run.argc()).step_by(2) {
        scores.push(parse_score(run.arg(at)).ok_or(Error::NotFloat)?);
    }
    add_scores(run, add, at + 1, 2, &scores)
}

/// Adds the members at argument `at` and every `step` from there on, with these scores.
fn add_scores(run: &mut Run<'_>, add: Add, at: usize, step: usize, scores: &[f64]) -> Result<(), Error> {
    let slot = run.slots.nth_mut(0);
    let (mut created, mut updated, mut last) = (0, 0, Added::Nothing);
    if look::<ZSet>(slot)?.is_some() || !add.xx {
        let members = open::<ZSet>(slot)?;
        for (nth, score) in scores.iter().enumerate() {
            last = add.apply(members, run.args.at(at + nth * step), *score)?;
            created += i64::from(matches!(last, Added::New(_)));
            updated += i64::from(matches!(last, Added::Updated(_)));
        }
        if created + updated > 0 {
            slot.settle();
        }
    }
    match (add.incr, last) {
        (false, _) => run.reply.int(created + if add.ch { updated } else { 0 }),
        (true, Added::Nothing) => run.reply.null(),
        (true, Added::New(score) | Added::Same(score) | Added::Updated(score)) => run.reply.double(score),
    }
    Ok(())
}

fn zadd(run: &mut Run<'_>) -> Result<(), Error> {
    let (options, at) = Add::parse(run, 2);
    add(run, options, at)
}

fn zincrby(run: &mut Run<'_>) -> Result<(), Error> {
    add(run, Add { incr: true, ..Add::default() }, 2)
}

/// Adds places under the conditions of GEOADD.
pub(super) fn add_places(
    run: &mut Run<'_>,
    nx: bool,
    xx: bool,
    ch: bool,
    at: usize,
    scores: &[f64],
) -> Result<(), Error> {
    add_scores(run, Add { nx, xx, ch, ..Add::default() }, at, 3, scores)
}

fn zrem(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let slot = run.slots.nth_mut(0);
    let mut removed = 0;
    if let Some(members) = look_mut::<ZSet>(slot)? {
        for at in 2..argc {
            removed += i64::from(members.remove(run.args.at(at)).is_some());
        }
    }
    if removed > 0 {
        slot.settle();
    }
    run.reply.int(removed);
    Ok(())
}

fn zscore(run: &mut Run<'_>) -> Result<(), Error> {
    let members = look::<ZSet>(run.slots.nth(0))?;
    run.reply.maybe_double(members.and_then(|members| members.score(run.args.at(2))));
    Ok(())
}

fn zmscore(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let members = look::<ZSet>(run.slots.nth(0))?;
    run.reply.array(argc - 2);
    for at in 2..argc {
        run.reply.maybe_double(members.and_then(|members| members.score(run.args.at(at))));
    }
    Ok(())
}

fn zcard(run: &mut Run<'_>) -> Result<(), Error> {
    let len = look::<ZSet>(run.slots.nth(0))?.map_or(0, ZSet::len);
    run.reply.int(len as i64);
    Ok(())
}

fn rank(run: &mut Run<'_>, reverse: bool) -> Result<(), Error> {
    let members = look::<ZSet>(run.slots.nth(0))?;
    let found = members.and_then(|members| {
        let rank = members.rank(run.args.at(2))?;
        Some(if reverse { members.len() - 1 - rank } else { rank })
    });
    match found {
        Some(rank) => run.reply.int(rank as i64),
        None => run.reply.null(),
    }
    Ok(())
}

fn zrank(run: &mut Run<'_>) -> Result<(), Error> {
    rank(run, false)
}

fn zrevrank(run: &mut Run<'_>) -> Result<(), Error> {
    rank(run, true)
}

/// Takes `count` members from the low or the high end.
pub(super) fn take(members: &mut ZSet, count: usize, highest: bool) -> Vec<(Vec<u8>, f64)> {
    let len = members.len();
    let range = if highest { len.saturating_sub(count)..len } else { 0..count.min(len) };
    let mut taken: Vec<_> =
        members.range(range.clone()).map(|(member, score)| (member.to_vec(), score)).collect();
    members.remove_range(range);
    if highest {
        taken.reverse();
    }
    taken
}

fn pop(run: &mut Run<'_>, highest: bool) -> Result<(), Error> {
    let count = match run.argc() {
        2 => None,
        3 => Some(pop_count(run.arg(2))?),
        _ => return Err(Error::Syntax),
    };
    let slot = run.slots.nth_mut(0);
    let taken = match look_mut::<ZSet>(slot)? {
        Some(members) => take(members, count.unwrap_or(1), highest),
        None => Vec::new(),
    };
    if !taken.is_empty() {
        slot.settle();
    }
    // Without a count, RESP3 clients get a flat array too.
    if count.is_some() {
        run.reply.pairs(taken.len(), true);
    } else {
        run.reply.array(2 * taken.len());
    }
    for (member, score) in taken {
        if count.is_some() {
            run.reply.pair(true);
        }
        run.reply.bulk(&member);
        run.reply.double(score);
    }
    Ok(())
}

fn zpopmin(run: &mut Run<'_>) -> Result<(), Error> {
    pop(run, false)
}

fn zpopmax(run: &mut Run<'_>) -> Result<(), Error> {
    pop(run, true)
}

fn zmpop(run: &mut Run<'_>) -> Result<(), Error> {
    mpop(run, 1)
}

/// ZMPOP whose number of keys is argument `counts`.
pub(super) fn mpop(run: &mut Run<'_>, counts: usize) -> Result<(), Error> {
    let (argc, keys) = (run.argc(), key_count(run, counts + 1)?);
    let behind = keys.saturating_add(counts + 1);
    if behind >= argc {
        return Err(Error::Syntax);
    }
    let highest = is(run.arg(behind), "max");
    if !highest && !is(run.arg(behind), "min") {
        return Err(Error::Syntax);
    }
    let (mut count, mut at) = (None, behind + 1);
    while at < argc {
        if count.is_some() || !is(run.arg(at), "count") || at + 1 == argc {
            return Err(Error::Syntax);
        }
        count = Some(at_least(1, run.arg(at + 1), "ERR count should be greater than 0").map(clamp)?);
        at += 2;
    }
    for key in 0..keys {
        if run.passes_by(counts + 1 + key) {
            continue;
        }
        let slot = run.slots.nth_mut(key);
        let Some(members) = concerning(run.again, look_mut::<ZSet>(slot))? else { continue };
        let taken = take(members, count.unwrap_or(1), highest);
        slot.settle();
        run.reply.array(2);
        run.reply.bulk(run.args.at(counts + 1 + key));
        run.reply.array(taken.len());
        for (member, score) in taken {
            run.reply.array(2);
            run.reply.bulk(&member);
            run.reply.double(score);
        }
        return Ok(());
    }
    run.in_vain = true;
    run.reply.null_array();
    Ok(())
}

fn zrandmember(run: &mut Run<'_>) -> Result<(), Error> {
    let options = random_options(run, "withscores")?;
    let mut random = Random::new(run);
    let Some(members) = look::<ZSet>(run.slots.nth(0))? else {
        if options.is_some() {
            run.reply.array(0)
        } else {
            run.reply.null()
        }
        return Ok(());
    };
    let Some((count, with_scores)) = options else {
        run.reply.maybe_bulk(members.get(random.below(members.len())).map(|(member, _)| member));
        return Ok(());
    };
    let bytes = |index| members.get(index).map_or(0, |(member, _)| member.len());
    let chosen = random.choose(count, members.len(), bytes)?;
    run.reply.pairs(chosen.len(), with_scores);
    for (member, score) in chosen.into_iter().filter_map(|index| members.get(index)) {
        run.reply.pair(with_scores);
        run.reply.bulk(member);
        if with_scores {
            run.reply.double(score);
        }
    }
    Ok(())
}

fn zscan(run: &mut Run<'_>) -> Result<(), Error> {
    let cursor = scan_cursor(run)?;
    let Some(members) = look::<ZSet>(run.slots.nth(0))? else {
        run.reply.scan(0, 0);
        return Ok(());
    };
    let scan = scan_options(run, cursor)?;
    let (window, next) = scan.window(members.len());
    // In an order that changes of scores leave alone: positions by score would let members slip past the cursor.
    let found: Vec<_> = members.unordered(window).filter(|(member, _)| scan.matches(member)).collect();
    run.reply.scan(next, 2 * found.len());
    let mut text = Vec::new();
    for (member, score) in found {
        run.reply.bulk(member);
        text.clear();
        // Here Redis shows whole scores of small sets as the integers that it keeps.
        if members.len() <= 128 && score.fract() == 0.0 && score.abs() < 4e18 {
            text.extend_from_slice((score as i64).to_string().as_bytes());
        } else {
            write_double(score, &mut text);
        }
        run.reply.bulk(&text);
    }
    Ok(())
}

// === table ===

/// What the front registers.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("zadd", -4, Keys::First, zadd),
    spec("zcard", 2, Keys::First, zcard),
    spec("zcount", 4, Keys::First, zcount),
    spec("zdiff", -3, Keys::Counted, zdiff),
    spec("zdiffstore", -4, Keys::StoreCounted, zdiffstore),
    spec("zincrby", 4, Keys::First, zincrby),
    spec("zinter", -3, Keys::Counted, zinter),
    spec("zintercard", -3, Keys::Counted, zintercard),
    spec("zinterstore", -4, Keys::StoreCounted, zinterstore),
    spec("zlexcount", 4, Keys::First, zlexcount),
    spec("zmpop", -4, Keys::Counted, zmpop),
    spec("zmscore", -3, Keys::First, zmscore),
    spec("zpopmax", -2, Keys::First, zpopmax),
    spec("zpopmin", -2, Keys::First, zpopmin),
    spec("zrandmember", -2, Keys::First, zrandmember),
    spec("zrange", -4, Keys::First, zrange),
    spec("zrangebylex", -4, Keys::First, zrangebylex),
    spec("zrangebyscore", -4, Keys::First, zrangebyscore),
    spec("zrangestore", -5, Keys::FirstTwo, zrangestore),
    spec("zrank", 3, Keys::First, zrank),
    spec("zrem", -3, Keys::First, zrem),
    spec("zremrangebylex", 4, Keys::First, zremrangebylex),
    spec("zremrangebyrank", 4, Keys::First, zremrangebyrank),
    spec("zremrangebyscore", 4, Keys::First, zremrangebyscore),
    spec("zrevrange", -4, Keys::First, zrevrange),
    spec("zrevrangebylex", -4, Keys::First, zrevrangebylex),
    spec("zrevrangebyscore", -4, Keys::First, zrevrangebyscore),
    spec("zrevrank", 3, Keys::First, zrevrank),
    spec("zscan", -3, Keys::First, zscan),
    spec("zscore", 3, Keys::First, zscore),
    spec("zunion", -3, Keys::Counted, zunion),
    spec("zunionstore", -4, Keys::StoreCounted, zunionstore),
];
