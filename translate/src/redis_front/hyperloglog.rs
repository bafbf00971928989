//! HyperLogLogs: strings in Redis' own two formats, so that what is stored can be moved to a server and back.
//!
//! Unlike a server, PFCOUNT does not write the count that it found into the string: reading stays reading. And runs of
//! equal registers are always joined, so GET can show other bytes than a server's for the same registers.

pub(crate) mod sketch;

use self::sketch::{NoSketch, Sketch, add_in_place, cached_count};
use super::aggregate::{Error, Keys, Run, Spec, spec};
use crate::slot::{Entry, Slot, Value};

fn error(why: NoSketch) -> Error {
    match why {
        NoSketch::Corrupt => Error::Text("INVALIDOBJ Corrupted HLL object detected"),
        NoSketch::Foreign => Error::Text("WRONGTYPE Key is not a valid HyperLogLog string value."),
    }
}

fn text(slot: &Slot) -> Result<Option<&[u8]>, Error> {
    match slot.entry.as_ref().map(|entry| &entry.value) {
        None => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text)),
        Some(_) => Err(Error::WrongType),
    }
}

fn read(slot: &Slot) -> Result<Option<Sketch>, Error> {
    text(slot)?.map(|text| Sketch::read(text).map_err(error)).transpose()
}

/// Keeps the expiry, as a change in place does.
fn write(slot: &mut Slot, sketch: &Sketch) {
    let text = Value::Str(sketch.write());
    match slot.entry.as_mut() {
        Some(entry) => entry.value = text,
        None => slot.entry = Some(Entry::new(text)),
    }
    slot.settle();
}

fn pfadd(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let slot = run.slots.nth_mut(0);
    let mut changed = text(slot)?.is_none();
    let mut at = 2;
    if let Some(Value::Str(text)) = slot.entry.as_mut().map(|entry| &mut entry.value) {
        cached_count(text).map_err(error)?;
        while at < argc {
            let Some(grown) = add_in_place(text, run.args.at(at)).map_err(error)? else { break };
            changed |= grown;
            at += 1;
        }
    }
    if at < argc || slot.entry.is_none() {
        let mut sketch = read(slot)?.unwrap_or_else(Sketch::new);
        let mut grown = slot.entry.is_none();
        for at in at..argc {
            grown |= sketch.add(run.args.at(at));
        }
        if grown {
            write(slot, &sketch);
        }
        changed |= grown;
    }
    if changed {
        slot.settle();
    }
    run.reply.int(i64::from(changed));
    Ok(())
}

fn pfcount(run: &mut Run<'_>) -> Result<(), Error> {
    if run.argc() == 2 {
        let Some(text) = text(run.slots.nth(0))? else {
            run.reply.int(0);
            return Ok(());
        };
        let count = match cached_count(text).map_err(error)? {
            Some(count) => count,
            None => Sketch::read(text).map_err(error)?.count(),
        };
        run.reply.int(count as i64);
        return Ok(());
    }
    let mut union = Sketch::new();
    for key in 0..run.slots.len() {
        if let Some(sketch) = read(run.slots.nth(key))? {
            union.merge(&sketch);
        }
    }
    run.reply.int(union.count() as i64);
    Ok(())
}

fn pfmerge(run: &mut Run<'_>) -> Result<(), Error> {
    let mut union = Sketch::new();
    for key in 0..run.slots.len() {
        if let Some(sketch) = read(run.slots.nth(key))? {
            union.merge(&sketch);
        }
    }
    write(run.slots.nth_mut(0), &union);
    run.reply.ok();
    Ok(())
}

// === table ===

/// What the front registers.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("pfadd", -2, Keys::First, pfadd),
    spec("pfcount", -2, Keys::All, pfcount),
    spec("pfmerge", -2, Keys::All, pfmerge),
];
