//! Sets.

use super::{
    aggregate::{Error, Keys, Run, Spec, spec},
    hash::content::{
        Members, Random, Shapes as _, at_least, clamp, is, key_count, look, look_mut, open, pop_count,
        random_count, remove_member, replace, scan_cursor, scan_options,
    },
};

/// What to make of several sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algebra {
    Diff,
    Inter,
    Union,
}

fn sadd(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let slot = run.slots.nth_mut(0);
    let members = open::<Members>(slot)?;
    let mut added = 0;
    for at in 2..argc {
        let member = run.args.at(at);
        if !members.contains(member) {
            members.insert(member.to_vec());
            added += 1;
        }
    }
    if added > 0 {
        slot.settle();
    }
    run.reply.int(added);
    Ok(())
}

fn srem(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let slot = run.slots.nth_mut(0);
    let mut removed = 0;
    if let Some(members) = look_mut::<Members>(slot)? {
        for at in 2..argc {
            removed += i64::from(remove_member(members, run.args.at(at)));
        }
    }
    if removed > 0 {
        slot.settle();
    }
    run.reply.int(removed);
    Ok(())
}

fn smembers(run: &mut Run<'_>) -> Result<(), Error> {
    let members = look::<Members>(run.slots.nth(0))?;
    run.reply.set(members.map_or(0, Members::len));
    for member in members.into_iter().flatten() {
        run.reply.bulk(member);
    }
    Ok(())
}

fn sismember(run: &mut Run<'_>) -> Result<(), Error> {
    let members = look::<Members>(run.slots.nth(0))?;
    let is_member = members.is_some_and(|members| members.contains(run.args.at(2)));
    run.reply.int(i64::from(is_member));
    Ok(())
}

fn smismember(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let members = look::<Members>(run.slots.nth(0))?;
    run.reply.array(argc - 2);
    for at in 2..argc {
        let is_member = members.is_some_and(|members| members.contains(run.args.at(at)));
        run.reply.int(i64::from(is_member));
    }
    Ok(())
}

fn scard(run: &mut Run<'_>) -> Result<(), Error> {
    let len = look::<Members>(run.slots.nth(0))?.map_or(0, Members::len);
    run.reply.int(len as i64);
    Ok(())
}

fn spop(run: &mut Run<'_>) -> Result<(), Error> {
    let count = match run.argc() {
        2 => None,
        3 => Some(pop_count(run.arg(2))?),
        _ => return Err(Error::Syntax),
    };
    let mut random = Random::new(run);
    let slot = run.slots.nth_mut(0);
    let Some(members) = look_mut::<Members>(slot)? else {
        if count.is_some() {
            run.reply.set(0)
        } else {
            run.reply.null()
        }
        return Ok(());
    };
    let Some(count) = count else {
        run.reply.maybe_bulk(members.swap_remove_index(random.below(members.len())).as_ref());
        slot.settle();
        return Ok(());
    };
    let count = count.min(members.len());
    run.reply.set(count);
    if count == members.len() {
        members.drain(..).for_each(|member| run.reply.bulk(&member));
    }
    for _ in 0..count.min(members.len()) {
        run.reply.maybe_bulk(members.swap_remove_index(random.below(members.len())).as_ref());
    }
    if count > 0 {
        slot.settle();
    }
    Ok(())
}

fn srandmember(run: &mut Run<'_>) -> Result<(), Error> {
    let count = match run.argc() {
        2 => None,
        3 => Some(random_count(run.arg(2))?),
        _ => return Err(Error::Syntax),
    };
    let mut random = Random::new(run);
    let Some(members) = look::<Members>(run.slots.nth(0))? else {
        if count.is_some() {
            run.reply.array(0)
        } else {
            run.reply.null()
        }
        return Ok(());
    };
    let Some(count) = count else {
        run.reply.maybe_bulk(members.get_index(random.below(members.len())));
        return Ok(());
    };
    let bytes = |index| members.get_index(index).map_or(0, Vec::len);
    let chosen = random.choose(count, members.len(), bytes)?;
    run.reply.array(chosen.len());
    for index in chosen {
        run.reply.maybe_bulk(members.get_index(index));
    }
    Ok(())
}

fn smove(run: &mut Run<'_>) -> Result<(), Error> {
    let member = run.arg(3);
    if run.slots.nth(0).entry.is_none() {
        run.reply.int(0);
        return Ok(());
    }
    let is_member = look::<Members>(run.slots.nth(0))?.is_some_and(|members| members.contains(member));
    look::<Members>(run.slots.nth(1))?;
    if is_member && !run.slots.same(0, 1) {
        let source = run.slots.nth_mut(0);
        if let Some(members) = look_mut::<Members>(source)? {
            remove_member(members, member);
        }
        source.settle();
        let destination = run.slots.nth_mut(1);
        let members = open::<Members>(destination)?;
        if members.insert(member.to_vec()) {
            destination.settle();
        }
    }
    run.reply.int(i64::from(is_member));
    Ok(())
}

/// Combines the sets of the keys from the `first` on.
fn combine(run: &Run<'_>, first: usize, algebra: Algebra) -> Result<Members, Error> {
    let mut sets = Vec::new();
    for key in first..run.slots.len() {
        sets.push(look::<Members>(run.slots.nth(key))?);
    }
    Ok(match algebra {
        Algebra::Union => sets.into_iter().flatten().flatten().cloned().collect(),
        Algebra::Diff => {
            let Some((Some(minuend), rest)) = sets.split_first() else { return Ok(Members::default()) };
            let stays = |member: &&Vec<u8>| !rest.iter().flatten().any(|other| other.contains(*member));
            minuend.iter().filter(stays).cloned().collect()
        }
        Algebra::Inter => common(sets).cloned().collect(),
    })
}

/// The members that all sets have; none if one of them does not exist.
fn common(sets: Vec<Option<&Members>>) -> impl Iterator<Item = &Vec<u8>> {
    let mut sets = sets.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default();
    sets.sort_by_key(|set| set.len());
    let smallest = sets.first().copied();
    let in_all = move |member: &&Vec<u8>| sets.iter().skip(1).all(|other| other.contains(*member));
    smallest.into_iter().flatten().filter(in_all)
}

fn show(run: &mut Run<'_>, algebra: Algebra) -> Result<(), Error> {
    let members = combine(run, 0, algebra)?;
    run.reply.set(members.len());
    members.iter().for_each(|member| run.reply.bulk(member));
    Ok(())
}

fn store(run: &mut Run<'_>, algebra: Algebra) -> Result<(), Error> {
    let members = combine(run, 1, algebra)?;
    run.reply.int(members.len() as i64);
    replace(run.slots.nth_mut(0), members);
    Ok(())
}

fn sdiff(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Algebra::Diff)
}

fn sdiffstore(run: &mut Run<'_>) -> Result<(), Error> {
    store(run, Algebra::Diff)
}

fn sinter(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Algebra::Inter)
}

fn sinterstore(run: &mut Run<'_>) -> Result<(), Error> {
    store(run, Algebra::Inter)
}

fn sunion(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Algebra::Union)
}

fn sunionstore(run: &mut Run<'_>) -> Result<(), Error> {
    store(run, Algebra::Union)
}

fn sintercard(run: &mut Run<'_>) -> Result<(), Error> {
    let (argc, keys) = (run.argc(), key_count(run, 2)?);
    if keys > argc - 2 {
        return Err(Error::Text("ERR Number of keys can't be greater than number of args"));
    }
    let (mut limit, mut at) = (0, 2 + keys);
    while at < argc {
        if !is(run.arg(at), "limit") || at + 1 == argc {
            return Err(Error::Syntax);
        }
        limit = at_least(0, run.arg(at + 1), "ERR LIMIT can't be negative").map(clamp)?;
        at += 2;
    }
    let mut sets = Vec::new();
    for key in 0..keys {
        sets.push(look::<Members>(run.slots.nth(key))?);
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    run.reply.int(common(sets).take(limit).count() as i64);
    Ok(())
}

fn sscan(run: &mut Run<'_>) -> Result<(), Error> {
    let cursor = scan_cursor(run)?;
    let Some(members) = look::<Members>(run.slots.nth(0))? else {
        run.reply.scan(0, 0);
        return Ok(());
    };
    let scan = scan_options(run, cursor)?;
    let (window, next) = scan.window(members.len());
    let found: Vec<_> =
        members.get_range(window).into_iter().flatten().filter(|member| scan.matches(member)).collect();
    run.reply.scan(next, found.len());
    found.into_iter().for_each(|member| run.reply.bulk(member));
    Ok(())
}

// === table ===

/// What the front registers.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("sadd", -3, Keys::First, sadd),
    spec("scard", 2, Keys::First, scard),
    spec("sdiff", -2, Keys::All, sdiff),
    spec("sdiffstore", -3, Keys::All, sdiffstore),
    spec("sinter", -2, Keys::All, sinter),
    spec("sintercard", -3, Keys::Counted, sintercard),
    spec("sinterstore", -3, Keys::All, sinterstore),
    spec("sismember", 3, Keys::First, sismember),
    spec("smembers", 2, Keys::First, smembers),
    spec("smismember", -3, Keys::First, smismember),
    spec("smove", 4, Keys::FirstTwo, smove)
        .note("On a remote back the destination is stored before the source"),
    spec("spop", -2, Keys::First, spop),
    spec("srandmember", -2, Keys::First, srandmember),
    spec("srem", -3, Keys::First, srem),
    spec("sscan", -3, Keys::First, sscan),
    spec("sunion", -2, Keys::All, sunion),
    spec("sunionstore", -3, Keys::All, sunionstore),
];
