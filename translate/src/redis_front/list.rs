//! Lists. The commands that wait are in [`super::blocking`].

use super::{
    aggregate::{Error, Keys, Run, Spec, spec},
    blocking::concerning,
    hash::content::{
        Items, Shapes as _, at_least, clamp, is, key_count, long, look, look_mut, open, pop_count, positions,
        random_count,
    },
};

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Left,
    Right,
}

// === impl End ===

impl End {
    pub(super) fn parse(argument: &[u8]) -> Result<Self, Error> {
        if is(argument, "left") {
            Ok(Self::Left)
        } else if is(argument, "right") {
            Ok(Self::Right)
        } else {
            Err(Error::Syntax)
        }
    }

    fn push(self, items: &mut Items, item: Vec<u8>) {
        match self {
            Self::Left => items.push_front(item),
            Self::Right => items.push_back(item),
        }
    }

    pub(super) fn pop(self, items: &mut Items) -> Option<Vec<u8>> {
        match self {
            Self::Left => items.pop_front(),
            Self::Right => items.pop_back(),
        }
    }
}

fn push(run: &mut Run<'_>, end: End, must_exist: bool) -> Result<(), Error> {
    let argc = run.argc();
    let slot = run.slots.nth_mut(0);
    if must_exist && look::<Items>(slot)?.is_none() {
        run.reply.int(0);
        return Ok(());
    }
    let items = open::<Items>(slot)?;
    for at in 2..argc {
        end.push(items, run.args.at(at).to_vec());
    }
    let len = items.len();
    slot.settle();
    run.reply.int(len as i64);
    Ok(())
}

fn lpush(run: &mut Run<'_>) -> Result<(), Error> {
    push(run, End::Left, false)
}

fn rpush(run: &mut Run<'_>) -> Result<(), Error> {
    push(run, End::Right, false)
}

fn lpushx(run: &mut Run<'_>) -> Result<(), Error> {
    push(run, End::Left, true)
}

fn rpushx(run: &mut Run<'_>) -> Result<(), Error> {
    push(run, End::Right, true)
}

fn pop(run: &mut Run<'_>, end: End) -> Result<(), Error> {
    let count = match run.argc() {
        2 => None,
        3 => Some(pop_count(run.arg(2))?),
        _ => return Err(Error::Arity),
    };
    let slot = run.slots.nth_mut(0);
    let Some(items) = look_mut::<Items>(slot)? else {
        if count.is_some() {
            run.reply.null_array()
        } else {
            run.reply.null()
        }
        return Ok(());
    };
    match count {
        None => run.reply.maybe_bulk(end.pop(items).as_ref()),
        Some(0) => {
            run.reply.array(0);
            return Ok(());
        }
        Some(count) => {
            let count = count.min(items.len());
            run.reply.array(count);
            for _ in 0..count {
                run.reply.maybe_bulk(end.pop(items).as_ref());
            }
        }
    }
    slot.settle();
    Ok(())
}

fn lpop(run: &mut Run<'_>) -> Result<(), Error> {
    pop(run, End::Left)
}

fn rpop(run: &mut Run<'_>) -> Result<(), Error> {
    pop(run, End::Right)
}

fn lmpop(run: &mut Run<'_>) -> Result<(), Error> {
    mpop(run, 1)
}

/// LMPOP whose number of keys is argument `counts`.
pub(super) fn mpop(run: &mut Run<'_>, counts: usize) -> Result<(), Error> {
    let (argc, keys) = (run.argc(), key_count(run, counts + 1)?);
    let behind = keys.saturating_add(counts + 1);
    if behind >= argc {
        return Err(Error::Syntax);
    }
    let end = End::parse(run.arg(behind))?;
    let mut count = None;
    let mut at = behind + 1;
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
        let Some(items) = concerning(run.again, look_mut::<Items>(slot))? else { continue };
        let count = count.unwrap_or(1).min(items.len());
        run.reply.array(2);
        run.reply.bulk(run.args.at(counts + 1 + key));
        run.reply.array(count);
        for _ in 0..count {
            run.reply.maybe_bulk(end.pop(items).as_ref());
        }
        slot.settle();
        return Ok(());
    }
    run.in_vain = true;
    run.reply.null_array();
    Ok(())
}

fn lrange(run: &mut Run<'_>) -> Result<(), Error> {
    let (start, stop) = (long(run.arg(2))?, long(run.arg(3))?);
    let Some(items) = look::<Items>(run.slots.nth(0))? else {
        run.reply.array(0);
        return Ok(());
    };
    let range = positions(start, stop, items.len());
    run.reply.array(range.len());
    for item in items.range(range) {
        run.reply.bulk(item);
    }
    Ok(())
}

fn llen(run: &mut Run<'_>) -> Result<(), Error> {
    let len = look::<Items>(run.slots.nth(0))?.map_or(0, Items::len);
    run.reply.int(len as i64);
    Ok(())
}

/// A position that may count from the end.
fn index(at: i64, len: usize) -> Option<usize> {
    let at = if at < 0 { at.checked_add(len as i64)? } else { at };
    usize::try_from(at).ok().filter(|at| *at < len)
}

fn lindex(run: &mut Run<'_>) -> Result<(), Error> {
    let Some(items) = look::<Items>(run.slots.nth(0))? else {
        run.reply.null();
        return Ok(());
    };
    let at = long(run.args.at(2))?;
    run.reply.maybe_bulk(index(at, items.len()).and_then(|at| items.get(at)));
    Ok(())
}

fn lset(run: &mut Run<'_>) -> Result<(), Error> {
    let (at, item) = (run.arg(2), run.arg(3));
    let slot = run.slots.nth_mut(0);
    let items = look_mut::<Items>(slot)?.ok_or(Error::NoSuchKey)?;
    let place = index(long(at)?, items.len()).and_then(|at| items.get_mut(at));
    *place.ok_or(Error::Text("ERR index out of range"))? = item.to_vec();
    slot.settle();
    run.reply.ok();
    Ok(())
}

fn linsert(run: &mut Run<'_>) -> Result<(), Error> {
    let (side, pivot, item) = (run.arg(2), run.arg(3), run.arg(4));
    let behind = is(side, "after");
    if !behind && !is(side, "before") {
        return Err(Error::Syntax);
    }
    let slot = run.slots.nth_mut(0);
    let Some(items) = look_mut::<Items>(slot)? else {
        run.reply.int(0);
        return Ok(());
    };
    let Some(at) = items.iter().position(|known| known == pivot) else {
        run.reply.int(-1);
        return Ok(());
    };
    items.insert(at + usize::from(behind), item.to_vec());
    let len = items.len();
    slot.settle();
    run.reply.int(len as i64);
    Ok(())
}

fn lrem(run: &mut Run<'_>) -> Result<(), Error> {
    let (count, item) = (long(run.arg(2))?, run.arg(3));
    let slot = run.slots.nth_mut(0);
    let Some(items) = look_mut::<Items>(slot)? else {
        run.reply.int(0);
        return Ok(());
    };
    let total = items.iter().filter(|known| *known == item).count();
    let limit =
        if count == 0 { total } else { usize::try_from(count.unsigned_abs()).unwrap_or(total).min(total) };
    // From the right, the first matches from the left are the ones that stay.
    let mut spared = if count < 0 { total - limit } else { 0 };
    let mut left = limit;
    items.retain(|known| {
        if known != item {
            return true;
        }
        if spared > 0 {
            spared -= 1;
            return true;
        }
        let keep = left == 0;
        left = left.saturating_sub(1);
        keep
    });
    if limit > 0 {
        slot.settle();
    }
    run.reply.int(limit as i64);
    Ok(())
}

fn ltrim(run: &mut Run<'_>) -> Result<(), Error> {
    let (start, stop) = (long(run.arg(2))?, long(run.arg(3))?);
    let slot = run.slots.nth_mut(0);
    if let Some(items) = look_mut::<Items>(slot)? {
        let keep = positions(start, stop, items.len());
        if keep.len() < items.len() {
            items.truncate(keep.end);
            items.drain(..keep.start);
            slot.settle();
        }
    }
    run.reply.ok();
    Ok(())
}

fn lpos(run: &mut Run<'_>) -> Result<(), Error> {
    let (argc, item) = (run.argc(), run.arg(2));
    let (mut rank, mut count, mut max_len, mut at) = (1_i64, None, 0, 3);
    while at < argc {
        let option = run.arg(at);
        if at + 1 == argc {
            return Err(Error::Syntax);
        }
        let value = run.arg(at + 1);
        if is(option, "rank") {
            // 7.0 lets the smallest number overflow; later versions refuse it, and so do we.
            rank = random_count(value)?;
            if rank == 0 {
                return Err(Error::Text(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... \
                     or use negative to start from the end of the list",
                ));
            }
        } else if is(option, "count") {
            count = Some(at_least(0, value, "ERR COUNT can't be negative").map(clamp)?);
        } else if is(option, "maxlen") {
            max_len = at_least(0, value, "ERR MAXLEN can't be negative").map(clamp)?;
        } else {
            return Err(Error::Syntax);
        }
        at += 2;
    }
    let Some(items) = look::<Items>(run.slots.nth(0))? else {
        if count.is_some() {
            run.reply.array(0)
        } else {
            run.reply.null()
        }
        return Ok(());
    };
    let (len, skip) = (items.len(), usize::try_from(rank.unsigned_abs() - 1).unwrap_or(usize::MAX));
    let horizon = if max_len == 0 { len } else { max_len };
    let limit = match count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let hits: Vec<usize> = if rank > 0 {
        let hits = items.iter().enumerate().take(horizon);
        hits.filter(|(_, known)| *known == item).map(|(at, _)| at).skip(skip).take(limit).collect()
    } else {
        let hits = items.iter().enumerate().rev().take(horizon);
        hits.filter(|(_, known)| *known == item).map(|(at, _)| at).skip(skip).take(limit).collect()
    };
    if count.is_some() {
        run.reply.array(hits.len());
        hits.into_iter().for_each(|at| run.reply.int(at as i64));
    } else {
        match hits.first() {
            Some(at) => run.reply.int(*at as i64),
            None => run.reply.null(),
        }
    }
    Ok(())
}

pub(super) fn shift(run: &mut Run<'_>, from: End, to: End) -> Result<(), Error> {
    if concerning(run.again, look::<Items>(run.slots.nth(0)))?.is_none() {
        run.in_vain = true;
        run.reply.null();
        return Ok(());
    }
    look::<Items>(run.slots.nth(1))?;
    let is_one_list = run.slots.same(0, 1);
    let source = run.slots.nth_mut(0);
    let Some(item) = look_mut::<Items>(source)?.and_then(|items| from.pop(items)) else {
        run.reply.null();
        return Ok(());
    };
    run.reply.bulk(&item);
    // The same list must not vanish in between.
    if is_one_list {
        to.push(open(source)?, item);
        source.settle();
        return Ok(());
    }
    source.settle();
    let destination = run.slots.nth_mut(1);
    to.push(open(destination)?, item);
    destination.settle();
    Ok(())
}

fn lmove(run: &mut Run<'_>) -> Result<(), Error> {
    let (from, to) = (End::parse(run.arg(3))?, End::parse(run.arg(4))?);
    shift(run, from, to)
}

fn rpoplpush(run: &mut Run<'_>) -> Result<(), Error> {
    shift(run, End::Right, End::Left)
}

// === table ===

/// What the front registers.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("lindex", 3, Keys::First, lindex),
    spec("linsert", 5, Keys::First, linsert),
    spec("llen", 2, Keys::First, llen),
    spec("lmove", 5, Keys::FirstTwo, lmove)
        .note("On a remote back the destination is stored before the source"),
    spec("lmpop", -4, Keys::Counted, lmpop),
    spec("lpop", -2, Keys::First, lpop),
    spec("lpos", -3, Keys::First, lpos),
    spec("lpush", -3, Keys::First, lpush),
    spec("lpushx", -3, Keys::First, lpushx),
    spec("lrange", 4, Keys::First, lrange),
    spec("lrem", 4, Keys::First, lrem),
    spec("lset", 4, Keys::First, lset),
    spec("ltrim", 4, Keys::First, ltrim),
    spec("rpop", -2, Keys::First, rpop),
    spec("rpoplpush", 3, Keys::FirstTwo, rpoplpush)
        .note("On a remote back the destination is stored before the source"),
    spec("rpush", -3, Keys::First, rpush),
    spec("rpushx", -3, Keys::First, rpushx),
];
