//! `DUMP` and `RESTORE`: values as bytes that any server understands. What those are is said in [`crate::rdb`].

use std::cell::Cell;

use super::aggregate::{Error, Keys, Run, Spec, spec};
use super::hash::content::{is, long};
use crate::rdb::{self, RdbError};
use crate::slot::{Entry, Marks};

/// In alphabetical order.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("dump", 2, Keys::First, dump),
    spec("restore", -4, Keys::First, restore).header().aloof().swells(MOST_PER_BYTE),
    spec("restore-asking", -4, Keys::First, restore).header().aloof().swells(MOST_PER_BYTE),
];

/// How much memory one byte of a payload can come to take: three bytes can expand to 264, of which two are a member.
const MOST_PER_BYTE: usize = 88 * 128;

/// What `RESTORE` was told besides key, expiry and payload.
#[derive(Default)]
struct Options {
    replaces: bool,
    is_absolute: bool,
    idle_s: Option<i64>,
    frequency: Option<i64>,
}

fn dump(run: &mut Run<'_>) -> Result<(), Error> {
    match &run.slots.nth(0).entry {
        None => run.reply.null(),
        Some(entry) => {
            let mut payload = Vec::new();
            rdb::dump(&entry.value, &mut payload);
            run.reply.bulk(&payload);
        }
    }
    Ok(())
}

fn restore(run: &mut Run<'_>) -> Result<(), Error> {
    let options = Options::parse(run)?;
    let slot = run.slots.nth(0);
    if slot.entry.is_some() && !options.replaces {
        return Err(Error::Text("BUSYKEY Target key name already exists."));
    }
    let now_ms = run.cx.now_ms;
    let expire_at_ms = match long(run.arg(2))? {
        0 => None,
        ttl => {
            let ttl = u64::try_from(ttl).map_err(|_| Error::Text("ERR Invalid TTL value, must be >= 0"))?;
            Some(if options.is_absolute { ttl } else { ttl.saturating_add(now_ms) })
        }
    };
    let value = rdb::restore(run.arg(3), run.cx.max_value).map_err(|error| {
        Error::Text(match error {
            RdbError::BadFormat => "ERR Bad data format",
            RdbError::TooLarge => "ERR the restored value would be larger than an item of the backend",
            RdbError::WrongFooter => "ERR DUMP payload version or checksum are wrong",
        })
    })?;
    let slot = run.slots.nth_mut(0);
    if expire_at_ms.is_some_and(|at| at <= now_ms) {
        slot.delete();
    } else {
        let idle_s = options.idle_s.map_or(0, i64::unsigned_abs);
        let marks = Marks::written(now_ms.saturating_sub(idle_s.saturating_mul(1000)));
        slot.put(Entry { expire_at_ms, marks: Cell::new(marks), ..Entry::new(value) });
    }
    run.reply.ok();
    Ok(())
}

// === impl Options ===

impl Options {
    fn parse(run: &Run<'_>) -> Result<Self, Error> {
        let (mut options, mut at) = (Self::default(), 4);
        while at < run.argc() {
            let has_value = at + 1 < run.argc();
            let word = run.arg(at);
            if is(word, "replace") {
                options.replaces = true;
            } else if is(word, "absttl") {
                options.is_absolute = true;
            } else if is(word, "idletime") && has_value && options.frequency.is_none() {
                at += 1;
                options.idle_s = Some(long(run.arg(at))?);
                if options.idle_s < Some(0) {
                    return Err(Error::Text("ERR Invalid IDLETIME value, must be >= 0"));
                }
            } else if is(word, "freq") && has_value && options.idle_s.is_none() {
                at += 1;
                let frequency = long(run.arg(at))?;
                if !(0..=255).contains(&frequency) {
                    return Err(Error::Text("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
                options.frequency = Some(frequency);
            } else {
                return Err(Error::Syntax);
            }
            at += 1;
        }
        Ok(options)
    }
}
