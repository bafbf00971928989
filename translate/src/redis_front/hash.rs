//! Hashes.

pub(crate) mod content;
#[cfg(test)]
mod differential;
pub(crate) mod long_double;
#[cfg(test)]
mod tests;

use self::{
    content::{
        Fields, MAX_REPEATED, Random, Shapes as _, TOO_REPETITIVE, integer, is, long, look, look_mut, open,
        random_options, remove_field, scan_cursor, scan_options,
    },
    long_double::{LongDouble, Number},
};
use super::aggregate::{Error, Keys, Run, Spec, spec};

fn hset(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    if argc % 2 == 1 {
        return Err(Error::Arity);
    }
    let slot = run.slots.nth_mut(0);
    let fields = open::<Fields>(slot)?;
    let mut created = 0;
    for at in (2..argc).step_by(2) {
        created += i64::from(fields.insert(run.args.at(at).to_vec(), run.args.at(at + 1).to_vec()).is_none());
    }
    slot.settle();
    if is(run.arg(0), "hmset") {
        run.reply.ok()
    } else {
        run.reply.int(created)
    }
    Ok(())
}

fn hsetnx(run: &mut Run<'_>) -> Result<(), Error> {
    let (field, value) = (run.arg(2), run.arg(3));
    let slot = run.slots.nth_mut(0);
    let is_new = look::<Fields>(slot)?.is_none_or(|fields| !fields.contains_key(field));
    if is_new {
        open::<Fields>(slot)?.insert(field.to_vec(), value.to_vec());
        slot.settle();
    }
    run.reply.int(i64::from(is_new));
    Ok(())
}

fn hget(run: &mut Run<'_>) -> Result<(), Error> {
    let fields = look::<Fields>(run.slots.nth(0))?;
    run.reply.maybe_bulk(fields.and_then(|fields| fields.get(run.args.at(2))));
    Ok(())
}

fn hmget(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let fields = look::<Fields>(run.slots.nth(0))?;
    let all = |bytes: usize, at| {
        bytes.saturating_add(fields.and_then(|fields| fields.get(run.args.at(at))).map_or(0, Vec::len))
    };
    let bytes = (2..argc).fold(0, all);
    // Each field once is as much as the hash holds, and fine.
    if bytes > MAX_REPEATED
        && bytes - MAX_REPEATED > fields.map_or(0, |fields| fields.values().map(Vec::len).sum())
    {
        return Err(TOO_REPETITIVE);
    }
    run.reply.array(argc - 2);
    for at in 2..argc {
        run.reply.maybe_bulk(fields.and_then(|fields| fields.get(run.args.at(at))));
    }
    Ok(())
}

fn hgetall(run: &mut Run<'_>) -> Result<(), Error> {
    let fields = look::<Fields>(run.slots.nth(0))?;
    run.reply.map(fields.map_or(0, Fields::len));
    for (field, value) in fields.into_iter().flatten() {
        run.reply.bulk(field);
        run.reply.bulk(value);
    }
    Ok(())
}

fn hkeys(run: &mut Run<'_>) -> Result<(), Error> {
    let fields = look::<Fields>(run.slots.nth(0))?;
    run.reply.array(fields.map_or(0, Fields::len));
    for field in fields.into_iter().flat_map(Fields::keys) {
        run.reply.bulk(field);
    }
    Ok(())
}

fn hvals(run: &mut Run<'_>) -> Result<(), Error> {
    let fields = look::<Fields>(run.slots.nth(0))?;
    run.reply.array(fields.map_or(0, Fields::len));
    for value in fields.into_iter().flat_map(Fields::values) {
        run.reply.bulk(value);
    }
    Ok(())
}

fn hlen(run: &mut Run<'_>) -> Result<(), Error> {
    let len = look::<Fields>(run.slots.nth(0))?.map_or(0, Fields::len);
    run.reply.int(len as i64);
    Ok(())
}

fn hstrlen(run: &mut Run<'_>) -> Result<(), Error> {
    let fields = look::<Fields>(run.slots.nth(0))?;
    let len = fields.and_then(|fields| fields.get(run.args.at(2))).map_or(0, Vec::len);
    run.reply.int(len as i64);
    Ok(())
}

fn hexists(run: &mut Run<'_>) -> Result<(), Error> {
    let fields = look::<Fields>(run.slots.nth(0))?;
    let exists = fields.is_some_and(|fields| fields.contains_key(run.args.at(2)));
    run.reply.int(i64::from(exists));
    Ok(())
}

fn hdel(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let slot = run.slots.nth_mut(0);
    let mut removed = 0;
    if let Some(fields) = look_mut::<Fields>(slot)? {
        for at in 2..argc {
            removed += i64::from(remove_field(fields, run.args.at(at)).is_some());
        }
    }
    if removed > 0 {
        slot.settle();
    }
    run.reply.int(removed);
    Ok(())
}

fn hincrby(run: &mut Run<'_>) -> Result<(), Error> {
    let (field, increment) = (run.arg(2), long(run.arg(3))?);
    let slot = run.slots.nth_mut(0);
    let before = match look::<Fields>(slot)?.and_then(|fields| fields.get(field)) {
        Some(text) => integer(text).ok_or(Error::Text("ERR hash value is not an integer"))?,
        None => 0,
    };
    let sum = before.checked_add(increment);
    let sum = sum.ok_or(Error::Text("ERR increment or decrement would overflow"))?;
    open::<Fields>(slot)?.insert(field.to_vec(), sum.to_string().into_bytes());
    slot.settle();
    run.reply.int(sum);
    Ok(())
}

fn hincrbyfloat(run: &mut Run<'_>) -> Result<(), Error> {
    let field = run.arg(2);
    let increment = match long_double::parse(run.arg(3)) {
        Some(Number::Finite(increment)) => increment,
        Some(Number::Infinite) => return Err(Error::Text("ERR value is NaN or Infinity")),
        None => return Err(Error::NotFloat),
    };
    let out_of_range = Error::Text("ERR increment would produce NaN or Infinity");
    let slot = run.slots.nth_mut(0);
    let before = match look::<Fields>(slot)?.and_then(|fields| fields.get(field)) {
        Some(text) => match long_double::parse(text) {
            Some(Number::Finite(before)) => before,
            Some(Number::Infinite) => return Err(out_of_range),
            None => return Err(Error::Text("ERR hash value is not a float")),
        },
        None => LongDouble::from(0.0),
    };
    let sum = before.plus(increment).ok_or(out_of_range)?;
    let mut text = Vec::new();
    sum.write(&mut text);
    run.reply.bulk(&text);
    open::<Fields>(slot)?.insert(field.to_vec(), text);
    slot.settle();
    Ok(())
}

fn hrandfield(run: &mut Run<'_>) -> Result<(), Error> {
    let options = random_options(run, "withvalues")?;
    let mut random = Random::new(run);
    let Some(fields) = look::<Fields>(run.slots.nth(0))? else {
        if options.is_some() {
            run.reply.array(0)
        } else {
            run.reply.null()
        }
        return Ok(());
    };
    let Some((count, with_values)) = options else {
        run.reply.maybe_bulk(fields.get_index(random.below(fields.len())).map(|(field, _)| field));
        return Ok(());
    };
    let bytes = |index| fields.get_index(index).map_or(0, |(field, value)| field.len() + value.len());
    let chosen = random.choose(count, fields.len(), bytes)?;
    run.reply.pairs(chosen.len(), with_values);
    for (field, value) in chosen.into_iter().filter_map(|index| fields.get_index(index)) {
        run.reply.pair(with_values);
        run.reply.bulk(field);
        if with_values {
            run.reply.bulk(value);
        }
    }
    Ok(())
}

fn hscan(run: &mut Run<'_>) -> Result<(), Error> {
    let cursor = scan_cursor(run)?;
    let Some(fields) = look::<Fields>(run.slots.nth(0))? else {
        run.reply.scan(0, 0);
        return Ok(());
    };
    let scan = scan_options(run, cursor)?;
    let (window, next) = scan.window(fields.len());
    let found: Vec<_> =
        fields.get_range(window).into_iter().flatten().filter(|(field, _)| scan.matches(field)).collect();
    run.reply.scan(next, 2 * found.len());
    for (field, value) in found {
        run.reply.bulk(field);
        run.reply.bulk(value);
    }
    Ok(())
}

// === table ===

/// What the front registers.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("hdel", -3, Keys::First, hdel),
    spec("hexists", 3, Keys::First, hexists),
    spec("hget", 3, Keys::First, hget),
    spec("hgetall", 2, Keys::First, hgetall),
    spec("hincrby", 4, Keys::First, hincrby),
    spec("hincrbyfloat", 4, Keys::First, hincrbyfloat),
    spec("hkeys", 2, Keys::First, hkeys),
    spec("hlen", 2, Keys::First, hlen),
    spec("hmget", -3, Keys::First, hmget),
    spec("hmset", -4, Keys::First, hset),
    spec("hrandfield", -2, Keys::First, hrandfield),
    spec("hscan", -3, Keys::First, hscan),
    spec("hset", -4, Keys::First, hset),
    spec("hsetnx", 4, Keys::First, hsetnx),
    spec("hstrlen", 3, Keys::First, hstrlen),
    spec("hvals", 2, Keys::First, hvals),
];
