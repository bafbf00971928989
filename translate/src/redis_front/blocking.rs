//! Commands that wait for lists and sorted sets: BLPOP, BLMOVE, BZPOPMIN and their kind.
//!
//! Each is a program like any other that answers at once, with what its server says when time is up if its keys have
//! nothing, and says so ([`Run::in_vain`]). Who runs it may then wait and run it again; inside a transaction nobody does.
//! The time is read by the program as well, so that of several mistakes the same one is reported as by a server.

use mecha_core::Outcome;
use mecha_resp::reply::Writer;

use super::aggregate::{Error, Keys, Run, Spec, attempt, distinct, spec};
use super::hash::content::{Items, look_mut};
use super::list::{self, End};
use super::zset::{self, number::parse_bound};
use crate::kv::{Attempt, Blocking, GaveUp, Txn};
use crate::zset::ZSet;

/// Which argument says how long a command waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    First,
    Last,
}

// === impl Clock ===

impl Clock {
    /// Its position, of so many.
    fn position(self, argc: usize) -> usize {
        match self {
            Self::First => 1,
            Self::Last => argc.saturating_sub(1),
        }
    }

    /// When the time is up, in Unix milliseconds; `None` is never.
    pub(crate) fn until(self, args: &[Vec<u8>], now_ms: u64) -> Result<Option<u64>, Error> {
        until(args.get(self.position(args.len())).map(Vec::as_slice).unwrap_or_default(), now_ms)
    }
}

/// Reads a time in seconds, as `getTimeoutFromObjectOrReply` does.
fn until(seconds: &[u8], now_ms: u64) -> Result<Option<u64>, Error> {
    const TOO_FAR: Error = Error::Text("ERR timeout is out of range");
    let seconds = parse_bound(seconds).ok_or(Error::Text("ERR timeout is not a float or out of range"))?;
    let millis = seconds * 1000.0;
    if millis >= i64::MAX as f64 {
        // In a server it has become negative by then.
        return Err(Error::Text("ERR timeout is negative"));
    }
    // A part of a millisecond counts as a whole one, also one below zero.
    let millis = millis.ceil() as i64;
    match u64::try_from(millis) {
        Err(_) => Err(Error::Text("ERR timeout is negative")),
        Ok(0) => Ok(None),
        Ok(millis) => match now_ms.checked_add(millis) {
            Some(until) if until <= i64::MAX as u64 => Ok(Some(until)),
            _ => Err(TOO_FAR),
        },
    }
}

/// A command that has its arguments, and may wait.
struct Waiting {
    spec: &'static Spec,
    args: Vec<Vec<u8>>,
    proto: u8,
    until_ms: Option<u64>,
}

/// `spec` with these arguments, the name first, for a client that speaks version `proto`.
pub(crate) fn waiting(
    spec: &'static Spec,
    args: Vec<Vec<u8>>,
    proto: u8,
    until_ms: Option<u64>,
) -> Box<dyn Blocking> {
    Box::new(Waiting { spec, args, proto, until_ms })
}

// === impl Waiting ===

impl Blocking for Waiting {
    fn keys(&self) -> Vec<Vec<u8>> {
        let mut positions = self.spec.key_positions(&self.args);
        if self.spec.moves() {
            // What is moved goes to the second.
            positions.truncate(1);
        }
        distinct(positions.into_iter().filter_map(|at| self.args.get(at)).map(Vec::as_slice)).0
    }

    fn attempt(&self, which: Attempt<'_>) -> Txn {
        attempt(self.spec, self.args.clone(), self.proto, which)
    }

    fn until_ms(&self) -> Option<u64> {
        self.until_ms
    }

    fn give_up(&self, why: GaveUp, out: &mut Vec<u8>) -> Outcome {
        let mut writer = Writer::new(out, self.proto);
        match why {
            GaveUp::Moved => writer.error(
                "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            ),
            GaveUp::TimeUp => {
                writer.null_array();
                return Outcome::Ok;
            }
            GaveUp::Unblocked => writer.error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
        }
        Outcome::ClientError
    }
}

// === programs ===

fn timed(run: &Run<'_>, clock: Clock) -> Result<(), Error> {
    until(run.arg(clock.position(run.argc())), run.cx.now_ms).map(drop)
}

/// What a key holds, as far as it concerns a command: `again` if that has waited, and then what is of another type does not.
pub(super) fn concerning<T>(again: bool, held: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    if again { Ok(held.ok().flatten()) } else { held }
}

/// Pops from the first list that there is.
fn pop(run: &mut Run<'_>, end: End) -> Result<(), Error> {
    timed(run, Clock::Last)?;
    for key in 0..run.slots.len() {
        if run.passes_by(1 + key) {
            continue;
        }
        let slot = run.slots.nth_mut(key);
        let items = concerning(run.again, look_mut::<Items>(slot))?;
        let Some(item) = items.and_then(|items| end.pop(items)) else { continue };
        slot.settle();
        run.reply.array(2);
        run.reply.bulk(run.args.at(1 + key));
        run.reply.bulk(&item);
        return Ok(());
    }
    run.in_vain = true;
    run.reply.null_array();
    Ok(())
}

fn blpop(run: &mut Run<'_>) -> Result<(), Error> {
    pop(run, End::Left)
}

fn brpop(run: &mut Run<'_>) -> Result<(), Error> {
    pop(run, End::Right)
}

/// Pops from the first sorted set that there is.
fn zpop(run: &mut Run<'_>, highest: bool) -> Result<(), Error> {
    timed(run, Clock::Last)?;
    for key in 0..run.slots.len() {
        if run.passes_by(1 + key) {
            continue;
        }
        let slot = run.slots.nth_mut(key);
        let members = concerning(run.again, look_mut::<ZSet>(slot))?;
        let Some((member, score)) = members.and_then(|members| zset::take(members, 1, highest).pop()) else {
            continue;
        };
        slot.settle();
        run.reply.array(3);
        run.reply.bulk(run.args.at(1 + key));
        run.reply.bulk(&member);
        run.reply.double(score);
        return Ok(());
    }
    run.in_vain = true;
    run.reply.null_array();
    Ok(())
}

fn bzpopmin(run: &mut Run<'_>) -> Result<(), Error> {
    zpop(run, false)
}

fn bzpopmax(run: &mut Run<'_>) -> Result<(), Error> {
    zpop(run, true)
}

fn blmpop(run: &mut Run<'_>) -> Result<(), Error> {
    timed(run, Clock::First)?;
    list::mpop(run, 2)
}

fn bzmpop(run: &mut Run<'_>) -> Result<(), Error> {
    timed(run, Clock::First)?;
    zset::mpop(run, 2)
}

fn blmove(run: &mut Run<'_>) -> Result<(), Error> {
    let (from, to) = (End::parse(run.arg(3))?, End::parse(run.arg(4))?);
    timed(run, Clock::Last)?;
    list::shift(run, from, to)
}

fn brpoplpush(run: &mut Run<'_>) -> Result<(), Error> {
    timed(run, Clock::Last)?;
    list::shift(run, End::Right, End::Left)
}

// === table ===

/// What to know about them on a remote back.
const POLLS: &str =
    "a remote back is asked again, at most 100 ms later; clients of the same worker wake each other";

/// What the front registers.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("blmove", 6, Keys::FirstTwo, blmove).waits(Clock::Last).note(POLLS),
    spec("blmpop", -5, Keys::CountedSecond, blmpop).waits(Clock::First).note(POLLS),
    spec("blpop", -3, Keys::AllButLast, blpop).waits(Clock::Last).note(POLLS),
    spec("brpop", -3, Keys::AllButLast, brpop).waits(Clock::Last).note(POLLS),
    spec("brpoplpush", 4, Keys::FirstTwo, brpoplpush).waits(Clock::Last).note(POLLS),
    spec("bzmpop", -5, Keys::CountedSecond, bzmpop).waits(Clock::First).note(POLLS),
    spec("bzpopmax", -3, Keys::AllButLast, bzpopmax).waits(Clock::Last).note(POLLS),
    spec("bzpopmin", -3, Keys::AllButLast, bzpopmin).waits(Clock::Last).note(POLLS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_what_a_server_reads() {
        let read = |text: &str| until(text.as_bytes(), 1000);
        assert_eq!(read("0"), Ok(None));
        assert_eq!(read("1.5"), Ok(Some(2500)));
        assert_eq!(read("0.0001"), Ok(Some(1001)));
        assert_eq!(read("-0.0001"), Ok(None));
        assert_eq!(read("-1"), Err(Error::Text("ERR timeout is negative")));
        assert_eq!(read("-inf"), Err(Error::Text("ERR timeout is negative")));
        for far in ["inf", "1e300", "9223372036854775808"] {
            assert_eq!(read(far), Err(Error::Text("ERR timeout is negative")), "{far}");
        }
        // What a number of eight bytes cannot tell from that.
        assert_eq!(read("9223372036854775"), Err(Error::Text("ERR timeout is negative")));
        for none in ["", "x", "1 ", "nan"] {
            assert_eq!(read(none), Err(Error::Text("ERR timeout is not a float or out of range")), "{none}");
        }
    }
}
