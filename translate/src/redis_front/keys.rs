//! Commands on keys of any type: existence, expiry, renaming.

use super::aggregate::{Error, Keys, Run, Spec, spec};
use super::hash::content::{is, long};
use crate::slot::Value;

/// In alphabetical order.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("copy", -3, Keys::FirstTwo, copy),
    spec("del", -2, Keys::All, del).header(),
    spec("exists", -2, Keys::All, exists).header().aloof(),
    spec("expire", -3, Keys::First, expire),
    spec("expireat", -3, Keys::First, expireat),
    spec("expiretime", 2, Keys::First, expiretime).header().aloof(),
    spec("persist", 2, Keys::First, persist),
    spec("pexpire", -3, Keys::First, pexpire),
    spec("pexpireat", -3, Keys::First, pexpireat),
    spec("pexpiretime", 2, Keys::First, pexpiretime).header().aloof(),
    spec("pttl", 2, Keys::First, pttl).header().aloof(),
    spec("rename", 3, Keys::FirstTwo, rename).all_or_nothing(),
    spec("renamenx", 3, Keys::FirstTwo, renamenx).all_or_nothing(),
    spec("touch", -2, Keys::All, exists).header(),
    spec("ttl", 2, Keys::First, ttl).header().aloof(),
    spec("type", 2, Keys::First, kind).header().aloof(),
    spec("unlink", -2, Keys::All, del).header(),
];

/// How a time is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Millis,
    Seconds,
    UnixMillis,
    UnixSeconds,
}

impl Unit {
    /// The unit of `EX`, `PX`, `EXAT` or `PXAT`.
    pub(crate) fn of(word: &[u8]) -> Option<Self> {
        let words = [
            ("ex", Self::Seconds),
            ("px", Self::Millis),
            ("exat", Self::UnixSeconds),
            ("pxat", Self::UnixMillis),
        ];
        words.into_iter().find(|(name, _)| is(word, name)).map(|(_, unit)| unit)
    }

    /// Unix milliseconds; `None` if they overflow.
    pub(crate) fn at(self, value: i64, now_ms: u64) -> Option<i64> {
        let millis = match self {
            Self::Seconds | Self::UnixSeconds => value.checked_mul(1000)?,
            Self::Millis | Self::UnixMillis => value,
        };
        match self {
            Self::Millis | Self::Seconds => millis.checked_add(i64::try_from(now_ms).ok()?),
            Self::UnixMillis | Self::UnixSeconds => Some(millis),
        }
    }
}

/// An expiry that must be positive, as SET and GETEX want it.
pub(crate) fn expiry(value: &[u8], unit: Unit, now_ms: u64, command: &str) -> Result<u64, Error> {
    let value = long(value)?;
    let at = unit.at(value, now_ms).filter(|_| value > 0).and_then(|at| u64::try_from(at).ok());
    at.ok_or_else(|| Error::Owned(format!("ERR invalid expire time in '{command}' command")))
}

fn del(run: &mut Run<'_>) -> Result<(), Error> {
    // A key that is named twice has one slot, and is deleted once.
    let deleted = (0..run.slots.len()).filter(|key| run.slots.nth_mut(*key).delete()).count();
    run.reply.int(deleted as i64);
    Ok(())
}

fn exists(run: &mut Run<'_>) -> Result<(), Error> {
    let there = (0..run.slots.len()).filter(|key| run.slots.nth(*key).entry.is_some()).count();
    run.reply.int(there as i64);
    Ok(())
}

/// What `TYPE` says.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Hash(_) => "hash",
        Value::List(_) => "list",
        Value::Set(_) => "set",
        Value::Str(_) => "string",
        Value::ZSet(_) => "zset",
    }
}

fn kind(run: &mut Run<'_>) -> Result<(), Error> {
    let name = run.slots.nth(0).entry.as_ref().map_or("none", |entry| type_name(&entry.value));
    run.reply.simple(name);
    Ok(())
}

/// Reports the expiry: -2 without key, -1 without expiry.
fn report(run: &mut Run<'_>, shown: impl Fn(u64) -> u64) -> Result<(), Error> {
    let number = match &run.slots.nth(0).entry {
        None => -2,
        Some(entry) => entry.expire_at_ms.map_or(-1, |at| i64::try_from(shown(at)).unwrap_or(i64::MAX)),
    };
    run.reply.int(number);
    Ok(())
}

fn ttl(run: &mut Run<'_>) -> Result<(), Error> {
    let now_ms = run.cx.now_ms;
    report(run, |at| shown_seconds(at.saturating_sub(now_ms)))
}

fn pttl(run: &mut Run<'_>) -> Result<(), Error> {
    let now_ms = run.cx.now_ms;
    report(run, |at| at.saturating_sub(now_ms))
}

/// Milliseconds as whole seconds.
pub(crate) fn shown_seconds(millis: u64) -> u64 {
    millis.saturating_add(500) / 1000
}

fn expiretime(run: &mut Run<'_>) -> Result<(), Error> {
    report(run, shown_seconds)
}

fn pexpiretime(run: &mut Run<'_>) -> Result<(), Error> {
    report(run, |at| at)
}

fn persist(run: &mut Run<'_>) -> Result<(), Error> {
    let slot = run.slots.nth_mut(0);
    let had = slot.entry.as_mut().is_some_and(|entry| entry.expire_at_ms.take().is_some());
    if had {
        slot.settle();
    }
    run.reply.int(i64::from(had));
    Ok(())
}

fn expire_with(run: &mut Run<'_>, unit: Unit, command: &str) -> Result<(), Error> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for at in 3..run.argc() {
        let word = run.arg(at);
        match () {
            () if is(word, "nx") => nx = true,
            () if is(word, "xx") => xx = true,
            () if is(word, "gt") => gt = true,
            () if is(word, "lt") => lt = true,
            () => {
                return Err(Error::Owned(format!(
                    "ERR Unsupported option {}",
                    String::from_utf8_lossy(word)
                )));
            }
        }
    }
    if nx && (xx || gt || lt) {
        return Err(Error::Text("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if gt && lt {
        return Err(Error::Text("ERR GT and LT options at the same time are not compatible"));
    }
    let now_ms = run.cx.now_ms;
    let value = long(run.arg(2))?;
    let at = unit
        .at(value, now_ms)
        .ok_or_else(|| Error::Owned(format!("ERR invalid expire time in '{command}' command")))?;
    let slot = run.slots.nth_mut(0);
    let Some(entry) = &mut slot.entry else {
        run.reply.int(0);
        return Ok(());
    };
    let before = entry.expire_at_ms.map_or(i64::MAX, |at| i64::try_from(at).unwrap_or(i64::MAX));
    let is_volatile = entry.expire_at_ms.is_some();
    // No expiry counts as one that never comes.
    if nx && is_volatile
        || xx && !is_volatile
        || gt && (!is_volatile || at <= before)
        || lt && is_volatile && at >= before
    {
        run.reply.int(0);
        return Ok(());
    }
    match u64::try_from(at) {
        Ok(at) if at > now_ms => {
            entry.expire_at_ms = Some(at);
            slot.settle();
        }
        _ => drop(slot.delete()),
    }
    run.reply.int(1);
    Ok(())
}

fn expire(run: &mut Run<'_>) -> Result<(), Error> {
    expire_with(run, Unit::Seconds, "expire")
}

fn expireat(run: &mut Run<'_>) -> Result<(), Error> {
    expire_with(run, Unit::UnixSeconds, "expireat")
}

fn pexpire(run: &mut Run<'_>) -> Result<(), Error> {
    expire_with(run, Unit::Millis, "pexpire")
}

fn pexpireat(run: &mut Run<'_>) -> Result<(), Error> {
    expire_with(run, Unit::UnixMillis, "pexpireat")
}

fn rename_with(run: &mut Run<'_>, only_new: bool) -> Result<(), Error> {
    if run.slots.nth(0).entry.is_none() {
        return Err(Error::NoSuchKey);
    }
    if only_new && run.slots.nth(1).entry.is_some() {
        run.reply.int(0);
        return Ok(());
    }
    if !run.slots.same(0, 1) {
        let entry = run.slots.nth(0).entry.clone();
        run.slots.nth_mut(0).delete();
        if let Some(entry) = entry {
            run.slots.nth_mut(1).put(entry);
        }
    }
    if only_new {
        run.reply.int(1)
    } else {
        run.reply.ok()
    }
    Ok(())
}

fn rename(run: &mut Run<'_>) -> Result<(), Error> {
    rename_with(run, false)
}

fn renamenx(run: &mut Run<'_>) -> Result<(), Error> {
    rename_with(run, true)
}

/// The index of a database: there is one.
pub(crate) fn database(index: &[u8]) -> Result<(), Error> {
    match i32::try_from(long(index)?) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::Text("ERR DB index is out of range")),
        Err(_) => {
            Err(Error::Text("ERR value is out of range, value must between -2147483648 and 2147483647"))
        }
    }
}

fn copy(run: &mut Run<'_>) -> Result<(), Error> {
    let (mut replaces, mut at) = (false, 3);
    while at < run.argc() {
        if is(run.arg(at), "replace") {
            replaces = true;
        } else if is(run.arg(at), "db") && at + 1 < run.argc() {
            database(run.arg(at + 1))?;
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    if run.slots.same(0, 1) {
        return Err(Error::Text("ERR source and destination objects are the same"));
    }
    let entry = run.slots.nth(0).entry.clone();
    let is_copied = entry.is_some() && (replaces || run.slots.nth(1).entry.is_none());
    if let Some(entry) = entry.filter(|_| is_copied) {
        run.slots.nth_mut(1).put(entry);
    }
    run.reply.int(i64::from(is_copied));
    Ok(())
}
