//! Strings and the numbers in them.

use super::aggregate::{Error, Keys, Run, Spec, spec};
use super::hash::content::{MAX_REPEATED, TOO_REPETITIVE, clamp, integer, is, long};
use super::hash::long_double::{self, LongDouble, Number};
use super::keys::{Unit, expiry};
use crate::slot::{Entry, Slot, Value};

/// In alphabetical order.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("append", 3, Keys::First, append),
    spec("decr", 2, Keys::First, decr),
    spec("decrby", 3, Keys::First, decrby),
    spec("get", 2, Keys::First, get),
    spec("getdel", 2, Keys::First, getdel),
    spec("getex", -2, Keys::First, getex),
    spec("getrange", 4, Keys::First, getrange),
    spec("getset", 3, Keys::First, getset),
    spec("incr", 2, Keys::First, incr),
    spec("incrby", 3, Keys::First, incrby),
    spec("incrbyfloat", 3, Keys::First, incrbyfloat),
    spec("mget", -2, Keys::All, mget),
    spec("mset", -3, Keys::Pairs, mset).note("each key on its own on a remote back"),
    spec("msetnx", -3, Keys::Pairs, msetnx).all_or_nothing().note("several keys only on the embedded store"),
    spec("psetex", 4, Keys::First, psetex),
    spec("set", -3, Keys::First, set),
    spec("setex", 4, Keys::First, setex),
    spec("setnx", 3, Keys::First, setnx),
    spec("setrange", 4, Keys::First, setrange),
    spec("strlen", 2, Keys::First, strlen),
    spec("substr", 4, Keys::First, getrange),
];

/// The string of a slot; `None` if there is no key.
pub(crate) fn text(slot: &Slot) -> Result<Option<&[u8]>, Error> {
    match slot.entry.as_ref().map(|entry| &entry.value) {
        None => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text)),
        Some(_) => Err(Error::WrongType),
    }
}

/// Changes the string in place, keeping expiry and flags.
fn store(slot: &mut Slot, text: Vec<u8>) {
    match &mut slot.entry {
        Some(entry) => entry.value = Value::Str(text),
        none => *none = Some(Entry::new(Value::Str(text))),
    }
    slot.settle();
}

/// Puts a fresh string with an expiry; one in the past leaves no key.
fn put(slot: &mut Slot, text: &[u8], expire_at_ms: Option<u64>, now_ms: u64) {
    if expire_at_ms.is_some_and(|at| at <= now_ms) {
        slot.delete();
        return;
    }
    slot.put(Entry { expire_at_ms, ..Entry::new(Value::Str(text.to_vec())) });
}

/// Refuses a string that the back could not hold, before it is made.
pub(crate) fn fits(length: usize, run: &Run<'_>) -> Result<(), Error> {
    if length > run.cx.max_value.min(512 << 20) {
        return Err(Error::Text("ERR string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    Ok(())
}

fn get(run: &mut Run<'_>) -> Result<(), Error> {
    let text = text(run.slots.nth(0))?;
    run.reply.bulk_or_null(text);
    Ok(())
}

fn strlen(run: &mut Run<'_>) -> Result<(), Error> {
    let length = text(run.slots.nth(0))?.map_or(0, <[u8]>::len);
    run.reply.int(length as i64);
    Ok(())
}

fn mget(run: &mut Run<'_>) -> Result<(), Error> {
    let again = run.slots.repeated().map(|slot| text(slot).ok().flatten().map_or(0, |text| text.len()));
    if again.sum::<usize>() > MAX_REPEATED {
        return Err(TOO_REPETITIVE);
    }
    run.reply.array(run.slots.len());
    for key in 0..run.slots.len() {
        run.reply.bulk_or_null(text(run.slots.nth(key)).ok().flatten());
    }
    Ok(())
}

/// What SET and GETEX can be asked for.
#[derive(Default)]
struct Options {
    nx: bool,
    xx: bool,
    gets: bool,
    keeps: bool,
    persists: bool,
    /// Which argument is the time.
    expire: Option<(Unit, usize)>,
}

fn options(run: &Run<'_>, from: usize, is_set: bool) -> Result<Options, Error> {
    let (mut options, mut at) = (Options::default(), from);
    while at < run.argc() {
        let word = run.arg(at);
        let is_open = options.expire.is_none();
        match Unit::of(word) {
            // A unit may be named again, but not another one.
            Some(unit)
                if at + 1 < run.argc()
                    && !options.keeps
                    && !options.persists
                    && options.expire.is_none_or(|(known, _)| known == unit) =>
            {
                options.expire = Some((unit, at + 1));
                at += 1;
            }
            None if is_set && is(word, "nx") && !options.xx => options.nx = true,
            None if is_set && is(word, "xx") && !options.nx => options.xx = true,
            None if is_set && is(word, "get") => options.gets = true,
            None if is_set && is(word, "keepttl") && is_open => options.keeps = true,
            None if !is_set && is(word, "persist") && is_open => options.persists = true,
            _ => return Err(Error::Syntax),
        }
        at += 1;
    }
    Ok(options)
}

fn set(run: &mut Run<'_>) -> Result<(), Error> {
    let Options { nx, xx, gets, keeps, expire, .. } = options(run, 3, true)?;
    let now_ms = run.cx.now_ms;
    let expire = expire.map(|(unit, at)| expiry(run.arg(at), unit, now_ms, "set")).transpose()?;
    fits(run.arg(2).len(), run)?;
    let value = run.arg(2);
    let slot = run.slots.nth_mut(0);
    let exists = slot.entry.is_some();
    if gets {
        run.reply.bulk_or_null(text(slot)?);
    }
    if nx && exists || xx && !exists {
        if !gets {
            run.reply.null();
        }
        return Ok(());
    }
    let kept = slot.entry.as_ref().and_then(|entry| entry.expire_at_ms).filter(|_| keeps);
    put(slot, value, expire.or(kept), now_ms);
    if !gets {
        run.reply.ok();
    }
    Ok(())
}

fn set_with(run: &mut Run<'_>, unit: Unit, name: &'static str) -> Result<(), Error> {
    let now_ms = run.cx.now_ms;
    let expire = expiry(run.arg(2), unit, now_ms, name)?;
    fits(run.arg(3).len(), run)?;
    let value = run.arg(3);
    put(run.slots.nth_mut(0), value, Some(expire), now_ms);
    run.reply.ok();
    Ok(())
}

fn setex(run: &mut Run<'_>) -> Result<(), Error> {
    set_with(run, Unit::Seconds, "setex")
}

fn psetex(run: &mut Run<'_>) -> Result<(), Error> {
    set_with(run, Unit::Millis, "psetex")
}

fn setnx(run: &mut Run<'_>) -> Result<(), Error> {
    fits(run.arg(2).len(), run)?;
    let value = run.arg(2);
    let slot = run.slots.nth_mut(0);
    let is_new = slot.entry.is_none();
    if is_new {
        slot.put(Entry::new(Value::Str(value.to_vec())));
    }
    run.reply.int(i64::from(is_new));
    Ok(())
}

fn getset(run: &mut Run<'_>) -> Result<(), Error> {
    fits(run.arg(2).len(), run)?;
    let value = run.arg(2);
    let slot = run.slots.nth_mut(0);
    run.reply.bulk_or_null(text(slot)?);
    slot.put(Entry::new(Value::Str(value.to_vec())));
    Ok(())
}

fn getdel(run: &mut Run<'_>) -> Result<(), Error> {
    let slot = run.slots.nth_mut(0);
    run.reply.bulk_or_null(text(slot)?);
    slot.delete();
    Ok(())
}

fn getex(run: &mut Run<'_>) -> Result<(), Error> {
    let Options { persists, expire, .. } = options(run, 2, false)?;
    let now_ms = run.cx.now_ms;
    let Some(text) = text(run.slots.nth(0))? else {
        run.reply.null();
        return Ok(());
    };
    run.reply.bulk(text);
    let expire = expire.map(|(unit, at)| expiry(run.args.at(at), unit, now_ms, "getex")).transpose()?;
    let slot = run.slots.nth_mut(0);
    if expire.is_some_and(|at| at <= now_ms) {
        slot.delete();
    } else if let Some(entry) = &mut slot.entry
        && (persists || expire.is_some())
        && entry.expire_at_ms != expire
    {
        entry.expire_at_ms = expire;
        slot.settle();
    }
    Ok(())
}

fn pairs(run: &mut Run<'_>) -> Result<(), Error> {
    if run.argc().is_multiple_of(2) {
        return Err(Error::Arity);
    }
    (0..run.slots.len()).try_for_each(|key| fits(run.arg(2 * key + 2).len(), run))
}

fn put_pairs(run: &mut Run<'_>) {
    for key in 0..run.slots.len() {
        let value = run.arg(2 * key + 2);
        run.slots.nth_mut(key).put(Entry::new(Value::Str(value.to_vec())));
    }
}

fn mset(run: &mut Run<'_>) -> Result<(), Error> {
    pairs(run)?;
    put_pairs(run);
    run.reply.ok();
    Ok(())
}

fn msetnx(run: &mut Run<'_>) -> Result<(), Error> {
    pairs(run)?;
    let is_free = (0..run.slots.len()).all(|key| run.slots.nth(key).entry.is_none());
    if is_free {
        put_pairs(run);
    }
    run.reply.int(i64::from(is_free));
    Ok(())
}

fn append(run: &mut Run<'_>) -> Result<(), Error> {
    let before = text(run.slots.nth(0))?.map_or(0, <[u8]>::len);
    fits(before + run.arg(2).len(), run)?;
    let more = run.arg(2);
    let slot = run.slots.nth_mut(0);
    match slot.entry.as_mut().map(|entry| &mut entry.value) {
        Some(Value::Str(text)) => text.extend_from_slice(more),
        _ => slot.entry = Some(Entry::new(Value::Str(more.to_vec()))),
    }
    slot.settle();
    run.reply.int((before + more.len()) as i64);
    Ok(())
}

fn getrange(run: &mut Run<'_>) -> Result<(), Error> {
    let (start, end) = (long(run.arg(2))?, long(run.arg(3))?);
    let text = text(run.slots.nth(0))?.unwrap_or_default();
    let length = text.len() as i64;
    let from_end = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let is_empty = start < 0 && end < 0 && start > end;
    let (start, end) = (from_end(start), from_end(end).min(length - 1));
    let range = if is_empty || start > end || length == 0 { 0..0 } else { clamp(start)..clamp(end) + 1 };
    run.reply.bulk(text.get(range).unwrap_or_default());
    Ok(())
}

fn setrange(run: &mut Run<'_>) -> Result<(), Error> {
    let offset = long(run.arg(2))?;
    if offset < 0 {
        return Err(Error::Text("ERR offset is out of range"));
    }
    let (offset, patch) = (clamp(offset), run.arg(3));
    let before = text(run.slots.nth(0))?.map_or(0, <[u8]>::len);
    if patch.is_empty() {
        run.reply.int(before as i64);
        return Ok(());
    }
    fits(offset.saturating_add(patch.len()), run)?;
    let slot = run.slots.nth_mut(0);
    let mut bytes = text(slot)?.unwrap_or_default().to_vec();
    let end = offset + patch.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(offset..end) {
        place.copy_from_slice(patch);
    }
    let length = bytes.len();
    store(slot, bytes);
    run.reply.int(length as i64);
    Ok(())
}

fn add(run: &mut Run<'_>, delta: i64) -> Result<(), Error> {
    let slot = run.slots.nth_mut(0);
    let before = match text(slot)? {
        Some(text) => integer(text).ok_or(Error::NotInteger)?,
        None => 0,
    };
    let sum = before.checked_add(delta).ok_or(Error::Text("ERR increment or decrement would overflow"))?;
    store(slot, sum.to_string().into_bytes());
    run.reply.int(sum);
    Ok(())
}

fn incr(run: &mut Run<'_>) -> Result<(), Error> {
    add(run, 1)
}

fn decr(run: &mut Run<'_>) -> Result<(), Error> {
    add(run, -1)
}

fn incrby(run: &mut Run<'_>) -> Result<(), Error> {
    let delta = long(run.arg(2))?;
    add(run, delta)
}

fn decrby(run: &mut Run<'_>) -> Result<(), Error> {
    let delta = long(run.arg(2))?.checked_neg().ok_or(Error::Text("ERR decrement would overflow"))?;
    add(run, delta)
}

fn incrbyfloat(run: &mut Run<'_>) -> Result<(), Error> {
    let out_of_range = || Error::Text("ERR increment would produce NaN or Infinity");
    let slot = run.slots.nth_mut(0);
    let before = match text(slot)? {
        Some(text) => long_double::parse(text).ok_or(Error::NotFloat)?,
        None => Number::Finite(LongDouble::from(0.0)),
    };
    let increment = long_double::parse(run.args.at(2)).ok_or(Error::NotFloat)?;
    let (Number::Finite(before), Number::Finite(increment)) = (before, increment) else {
        return Err(out_of_range());
    };
    let sum = before.plus(increment).ok_or_else(out_of_range)?;
    let mut digits = Vec::new();
    sum.write(&mut digits);
    run.reply.bulk(&digits);
    store(slot, digits);
    Ok(())
}
