//! What the commands on hashes, lists, sets, sorted sets, places and sketches are made of: a table of [`Spec`]s, each a
//! function over its arguments and the slots of its keys, and the program that runs one.
//!
//! A command's function reads its arguments in the order in which Redis does, so that of several mistakes the same one
//! is reported. It writes its reply only when nothing can go wrong any more, or leaves it to [`Command`] to empty `out`.
//!
//! Atomicity is [`Atomicity::PerKey`] throughout. Commands that store into one key change one slot. SMOVE, LMOVE and
//! RPOPLPUSH change two: a remote back stores additions before deletions, so what is moved may for a moment, or after
//! a lost connection for good, be in both places, but never in none.

use std::collections::HashMap;

use mecha_core::Outcome;
use mecha_resp::reply::Writer;

use super::blocking::{self, Clock};
use super::{bits, dump, geo, hash, hyperloglog, keys, lcs, list, set, sort, strings, zset};
use crate::{
    kv::{Atomicity, Attempt, MOST_PER_BYTE, Plan, Program, RunCx, Txn, Want},
    slot::Slot,
};

/// Why a command fails: its fault, never ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// Wrong number of arguments.
    Arity,
    NoSuchKey,
    NotFloat,
    NotInteger,
    /// With its code word.
    Owned(String),
    Syntax,
    /// With its code word.
    Text(&'static str),
    WrongType,
}

/// Where a command's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// All arguments.
    All,
    /// All arguments but the last.
    AllButLast,
    /// Argument 1 says how many follow.
    Counted,
    /// Argument 2 says how many follow.
    CountedSecond,
    /// The first argument.
    First,
    /// The first two arguments.
    FirstTwo,
    /// All arguments from this one on.
    From(usize),
    /// The first argument, and those behind STORE and STOREDIST from this argument on.
    GeoStore(usize),
    /// Every other argument: keys and values in turn.
    Pairs,
    /// The first argument, and as many as argument 2 says behind it.
    StoreCounted,
}

/// One command.
pub(crate) struct Spec {
    /// In lower case.
    pub(crate) name: &'static str,
    /// Number of arguments with the name; negative is at least.
    arity: i32,
    keys: Keys,
    run: fn(&mut Run<'_>) -> Result<(), Error>,
    want: Want,
    atomicity: Atomicity,
    /// How much memory one byte of its request can come to take.
    most_per_byte: usize,
    /// Where it says how long it waits, if it can.
    pub(crate) clock: Option<Clock>,
    /// Is no use of its keys.
    is_aloof: bool,
    /// How it differs on a remote back; empty if it does not.
    pub(crate) note: &'static str,
}

/// One command at work.
pub(crate) struct Run<'a> {
    pub(crate) args: Args<'a>,
    pub(crate) slots: Slots<'a>,
    pub(crate) reply: Writer<'a>,
    pub(crate) cx: &'a RunCx,
    /// It has waited, and what is of another type does not concern it.
    pub(crate) again: bool,
    /// It has waited, and only this key concerns it.
    pub(crate) only: Option<&'a [u8]>,
    /// It had nothing to answer with; see [`Program::waits`].
    pub(crate) in_vain: bool,
}

/// The arguments, the name first.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a>(&'a [Vec<u8>]);

/// The slots as the command names its keys: a key that is named twice has one slot.
pub(crate) struct Slots<'a> {
    slots: &'a mut [Slot],
    places: &'a [usize],
    /// Stands for keys that the command does not have.
    spare: Slot,
}

/// A parsed command, as a program.
struct Command {
    spec: &'static Spec,
    args: Vec<Vec<u8>>,
    /// For each key in the order of the arguments its slot.
    places: Vec<usize>,
    proto: u8,
    again: bool,
    only: Option<Vec<u8>>,
    in_vain: bool,
}

/// How much heavier an element can become in a value of another type.
const MOST_PER_ELEMENT: usize = 3;

/// From so many keys on, they are hashed to find those that are named twice.
const FEW_KEYS: usize = 16;

const TABLES: [&[Spec]; 13] = [
    bits::COMMANDS,
    blocking::COMMANDS,
    dump::COMMANDS,
    geo::COMMANDS,
    hash::COMMANDS,
    hyperloglog::COMMANDS,
    keys::COMMANDS,
    lcs::COMMANDS,
    list::COMMANDS,
    set::COMMANDS,
    sort::COMMANDS,
    strings::COMMANDS,
    zset::COMMANDS,
];

/// The command of this name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Spec> {
    TABLES.into_iter().find_map(|table| {
        let found =
            table.binary_search_by(|spec| spec.name.bytes().cmp(name.iter().map(u8::to_ascii_lowercase)));
        found.ok().and_then(|at| table.get(at))
    })
}

/// All commands.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = &'static Spec> {
    TABLES.into_iter().flatten()
}

/// Plans `spec` with its arguments (the name first) for a client that speaks version `proto`.
pub(crate) fn plan(
    spec: &'static Spec,
    args: Vec<Vec<u8>>,
    proto: u8,
    cx: &RunCx,
    out: &mut Vec<u8>,
) -> Plan {
    let wanted = spec.arity.unsigned_abs() as usize;
    if args.len() < wanted || (spec.arity > 0 && args.len() > wanted) {
        return Plan::Answered(spec.refuse(&Error::Arity, &mut Writer::new(out, proto)));
    }
    let (keys, mut command) = command(spec, args, proto);
    // Only a count that is wrong leaves no key, and the command says so.
    if keys.is_empty() {
        return Plan::Answered(command.run(&mut [], cx, out));
    }
    // A time that is wrong is the command's to report, in its turn.
    if let Some(until_ms) = spec.clock.and_then(|clock| clock.until(&command.args, cx.now_ms).ok()) {
        return Plan::Block(blocking::waiting(spec, command.args, proto, until_ms));
    }
    Plan::Txn(Txn { keys, program: Box::new(command), want: spec.want, atomicity: spec.atomicity })
}

/// The keys and the program of `spec` with its arguments, of which there are enough.
fn command(spec: &'static Spec, args: Vec<Vec<u8>>, proto: u8) -> (Vec<Vec<u8>>, Command) {
    let (keys, places) =
        distinct(spec.keys.positions(&args).into_iter().filter_map(|at| args.get(at)).map(Vec::as_slice));
    (keys, Command { spec, args, places, proto, again: false, only: None, in_vain: false })
}

/// One attempt of a command that waits; see [`crate::kv::Blocking::attempt`].
pub(crate) fn attempt(spec: &'static Spec, args: Vec<Vec<u8>>, proto: u8, which: Attempt<'_>) -> Txn {
    let (keys, mut command) = command(spec, args, proto);
    command.again = which != Attempt::First;
    if let Attempt::At(key) = which {
        command.only = Some(key.to_vec());
    }
    Txn { keys, program: Box::new(command), want: spec.want, atomicity: spec.atomicity }
}

/// The keys without repetitions, and for each one given its place among them.
pub(crate) fn distinct<'k>(given: impl Iterator<Item = &'k [u8]>) -> (Vec<Vec<u8>>, Vec<usize>) {
    let (mut keys, mut places) = (Vec::<Vec<u8>>::new(), Vec::new());
    // Looking through a few is faster than hashing; through many it would take for ever.
    let mut index = HashMap::new();
    for key in given {
        let next = keys.len();
        if next == FEW_KEYS && index.is_empty() {
            index.extend(keys.iter().cloned().zip(0..));
        }
        let place = if next < FEW_KEYS {
            keys.iter().position(|known| known == key).unwrap_or(next)
        } else {
            *index.entry(key.to_vec()).or_insert(next)
        };
        places.push(place);
        if place == next {
            keys.push(key.to_vec());
        }
    }
    (keys, places)
}

/// Appends the reply of a command that failed.
pub(crate) fn write_error(error: &Error, command: &str, reply: &mut Writer<'_>) -> Outcome {
    match error {
        Error::Arity => {
            reply.error(&format!("ERR wrong number of arguments for '{}' command", command));
        }
        Error::NoSuchKey => reply.error("ERR no such key"),
        Error::NotFloat => reply.error("ERR value is not a valid float"),
        Error::NotInteger => reply.error("ERR value is not an integer or out of range"),
        Error::Owned(text) => reply.error(text),
        Error::Syntax => reply.error("ERR syntax error"),
        Error::Text(text) => reply.error(text),
        Error::WrongType => reply.error("WRONGTYPE Operation against a key holding the wrong kind of value"),
    }
    Outcome::ClientError
}

/// A row of a table.
pub(crate) const fn spec(
    name: &'static str,
    arity: i32,
    keys: Keys,
    run: fn(&mut Run<'_>) -> Result<(), Error>,
) -> Spec {
    let (want, atomicity) = (Want::Everything, Atomicity::PerKey);
    Spec {
        name,
        arity,
        keys,
        run,
        want,
        atomicity,
        most_per_byte: MOST_PER_BYTE,
        clock: None,
        is_aloof: false,
        note: "",
    }
}

// === impl Spec, Keys ===

impl Spec {
    /// Looks at no value's content.
    pub(crate) const fn header(mut self) -> Self {
        self.want = Want::Header;
        self
    }

    /// Must change all of its keys or none.
    pub(crate) const fn all_or_nothing(mut self) -> Self {
        self.atomicity = Atomicity::AllOrNothing;
        self
    }

    /// Makes more of a byte than others do.
    pub(crate) const fn swells(mut self, most_per_byte: usize) -> Self {
        self.most_per_byte = most_per_byte;
        self
    }

    /// Is no use of its keys, for their idle times.
    pub(crate) const fn aloof(mut self) -> Self {
        self.is_aloof = true;
        self
    }

    /// Waits for its keys.
    pub(crate) const fn waits(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Adds a note.
    pub(crate) const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// Whether the second of its two keys is where it puts what it takes from the first.
    pub(crate) fn moves(&self) -> bool {
        self.keys == Keys::FirstTwo
    }

    /// Positions of its keys among the arguments.
    pub(crate) fn key_positions(&self, args: &[Vec<u8>]) -> Vec<usize> {
        self.keys.positions(args)
    }

    fn refuse(&self, error: &Error, reply: &mut Writer<'_>) -> Outcome {
        write_error(error, self.name, reply)
    }
}

impl Keys {
    /// Positions among the arguments; of a count that is wrong, what there is.
    fn positions(self, args: &[Vec<u8>]) -> Vec<usize> {
        let counted = |at: usize| {
            let count =
                args.get(at).and_then(|text| hash::content::integer(text)).map_or(0, hash::content::clamp);
            at + 1..(at + 1).saturating_add(count).min(args.len())
        };
        match self {
            Self::All => (1..args.len()).collect(),
            Self::AllButLast => (1..args.len().saturating_sub(1)).collect(),
            Self::Counted => counted(1).collect(),
            Self::CountedSecond => counted(2).collect(),
            Self::First => vec![1],
            Self::FirstTwo => vec![1, 2],
            Self::From(from) => (from..args.len()).collect(),
            Self::GeoStore(from) => {
                let (mut positions, mut at) = (vec![1], from);
                while at + 1 < args.len() {
                    let is = |word| args.get(at).is_some_and(|arg| hash::content::is(arg, word));
                    if is("store") || is("storedist") {
                        positions.push(at + 1);
                        at += 1;
                    }
                    at += 1;
                }
                positions
            }
            Self::Pairs => (1..args.len()).step_by(2).collect(),
            Self::StoreCounted => std::iter::once(1).chain(counted(2)).collect(),
        }
    }
}

// === impl Run, Args, Slots ===

impl<'a> Run<'a> {
    /// Number of arguments with the name.
    pub(crate) fn argc(&self) -> usize {
        self.args.0.len()
    }

    /// An argument; 0 is the name.
    pub(crate) fn arg(&self, at: usize) -> &'a [u8] {
        self.args.at(at)
    }

    /// Whether the key that is argument `at` does not concern it.
    pub(crate) fn passes_by(&self, at: usize) -> bool {
        self.only.is_some_and(|only| only != self.arg(at))
    }
}

impl<'a> Args<'a> {
    /// Of a request, the name first.
    pub(crate) fn new(words: &'a [Vec<u8>]) -> Self {
        Self(words)
    }

    /// Number of arguments with the name.
    pub(crate) fn count(self) -> usize {
        self.0.len()
    }

    /// An argument; empty behind the last one, where no command looks.
    pub(crate) fn at(self, at: usize) -> &'a [u8] {
        self.0.get(at).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Slots<'_> {
    /// Number of keys.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The slot of a key, in the order of the arguments.
    pub(crate) fn nth(&self, key: usize) -> &Slot {
        self.places.get(key).and_then(|place| self.slots.get(*place)).unwrap_or(&self.spare)
    }

    /// The slot of a key, to change.
    pub(crate) fn nth_mut(&mut self, key: usize) -> &mut Slot {
        self.places.get(key).and_then(|place| self.slots.get_mut(*place)).unwrap_or(&mut self.spare)
    }

    /// The slots of keys that were named before, once for each time.
    pub(crate) fn repeated(&self) -> impl Iterator<Item = &Slot> {
        // Slots are in the order in which their keys are named first.
        let mut new = 0;
        self.places.iter().filter_map(move |&place| {
            let is_new = place == new;
            new += usize::from(is_new);
            self.slots.get(place).filter(|_| !is_new)
        })
    }

    /// Whether two keys are the same.
    pub(crate) fn same(&self, one: usize, other: usize) -> bool {
        self.places.get(one) == self.places.get(other)
    }
}

// === impl Command ===

impl Program for Command {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let start = out.len();
        let slots = Slots { slots, places: &self.places, spare: Slot::default() };
        let reply = Writer::new(out, self.proto);
        let (again, in_vain) = (self.again, false);
        let mut run =
            Run { args: Args(&self.args), slots, reply, cx, again, only: self.only.as_deref(), in_vain };
        let result = (self.spec.run)(&mut run);
        self.in_vain = run.in_vain;
        let Err(error) = result else { return Outcome::Ok };
        out.truncate(start);
        self.spec.refuse(&error, &mut Writer::new(out, self.proto))
    }

    fn uses_keys(&self) -> bool {
        !self.spec.is_aloof
    }

    fn waits(&self) -> bool {
        self.in_vain
    }

    fn outgrows(&self, held: usize, request_len: usize) -> usize {
        // What a command over several keys makes of them can be a sorted set that was a plain one.
        let factor = if self.places.len() > 1 { MOST_PER_ELEMENT } else { 1 };
        held.saturating_mul(factor).saturating_add(request_len.saturating_mul(self.spec.most_per_byte))
    }
}

/// Runs one command on a plain map.
#[cfg(test)]
pub(crate) fn test_run(
    world: &mut std::collections::HashMap<Vec<u8>, crate::slot::Entry>,
    args: &[Vec<u8>],
    proto: u8,
    random: u64,
) -> Vec<u8> {
    let spec = args.first().and_then(|name| find(name)).expect("a known command");
    let cx = RunCx { now_ms: 0, random, max_value: 1 << 20, token: 0 };
    let mut out = Vec::new();
    let Plan::Txn(mut txn) = plan(spec, args.to_vec(), proto, &cx, &mut out) else { return out };
    let mut slots: Vec<_> =
        txn.keys.iter().map(|key| Slot { entry: world.get(key).cloned(), ..Slot::default() }).collect();
    txn.program.run(&mut slots, &cx, &mut out);
    for (key, slot) in txn.keys.into_iter().zip(slots) {
        if !slot.changed {
            assert_eq!(world.get(&key), slot.entry.as_ref(), "changed in silence: {args:?}");
        } else if let Some(entry) = slot.entry {
            assert!(!entry.value.is_vacant(), "a vacant value is left: {args:?}");
            world.insert(key, entry);
        } else {
            world.remove(&key);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name() {
        for spec in all() {
            assert_eq!(find(spec.name.to_uppercase().as_bytes()).map(|found| found.name), Some(spec.name));
        }
        assert!(find(b"nosuch").is_none());
        assert!(find(b"").is_none());
    }
}
