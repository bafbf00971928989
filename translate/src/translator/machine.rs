//! One program on its way: load, run, store, and over again after a lost race.
//!
//! A machine only decides; the translator sends. Steps of one phase are in flight together. Writes go out in two
//! phases, puts before deletions. A key that was stored stays stored: when another key of the same
//! [`Atomicity::PerKey`] program lost its race, only that one is loaded again, and the program sees the stored keys as
//! they were loaded first, so that its reply counts each change once.
//!
//! Machines that wait behind one that has the same single key *follow* it: when it has loaded, their programs run on its
//! slot too, one after the other, and all are stored together. However many clients count on one key, they take one
//! load and one store.

use mecha_core::{Asked, Outcome, Ticket};

use crate::kv::{Atomicity, Guard, KvError, Program, RunCx, Step, StepKind, StepReply, Txn, Want};
use crate::slot::{Entry, Slot, Value};

/// What a machine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Answer with the reply.
    Done,
    /// Answer with an error.
    Fail(KvError),
    /// Send what [`Machine::to_load`] says.
    Load,
    /// Call [`Machine::run`].
    Run,
    /// Send what [`Machine::to_store`] says.
    Store,
    /// Nothing; more replies are to come.
    Wait,
}

pub(super) struct Machine {
    pub(super) serial: u32,
    pub(super) ticket: Ticket,
    pub(super) asked: Asked,
    /// In how many queues others are first.
    pub(super) waits_for: usize,
    /// The queues that it is in.
    pub(super) locks: Vec<u64>,
    pub(super) reply: Vec<u8>,
    pub(super) outcome: Outcome,
    /// Those behind it in its queue whose programs ran on its slot.
    pub(super) followers: Vec<usize>,
    /// Takes no followers: with them, the value did not fit.
    pub(super) is_alone: bool,
    /// The turn of the client that waits for its keys, if one does.
    pub(super) turn: Option<u64>,
    deadline_ms: Option<u64>,
    txn: Txn,
    slots: Vec<Slot>,
    cells: Vec<Cell>,
    phase: Phase,
    outstanding: usize,
    raced: bool,
    failed: Option<KvError>,
    retries: u32,
    loaded_bytes: usize,
}

/// What is known about one key besides its slot.
#[derive(Default)]
struct Cell {
    /// As loaded; kept only where a later run may need it.
    loaded: Option<Slot>,
    /// The token of what the back holds, expired or not.
    token: Option<u64>,
    /// Whether what the back holds had expired.
    expired: bool,
    stored: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Delete,
    Load,
    Put,
}

/// What one program may load, in bytes on the wire.
const MOST_LOADED: usize = 256 << 20;

struct NoProgram;

impl Program for NoProgram {
    fn run(&mut self, _: &mut [Slot], _: &RunCx, _: &mut Vec<u8>) -> Outcome {
        Outcome::ServerError
    }
}

// === impl Machine ===

impl Machine {
    pub(super) fn new(serial: u32, ticket: Ticket, asked: Asked, deadline_ms: Option<u64>, txn: Txn) -> Self {
        let count = txn.keys.len();
        Self {
            serial,
            ticket,
            asked,
            waits_for: 0,
            locks: Vec::new(),
            reply: Vec::new(),
            outcome: Outcome::ServerError,
            followers: Vec::new(),
            is_alone: false,
            turn: None,
            deadline_ms,
            txn,
            slots: std::iter::repeat_with(Slot::default).take(count).collect(),
            cells: std::iter::repeat_with(Cell::default).take(count).collect(),
            phase: Phase::Load,
            outstanding: 0,
            raced: false,
            failed: None,
            retries: 0,
            loaded_bytes: 0,
        }
    }

    /// Keeps a place while the machine itself is taken out of it. Allocates nothing.
    pub(super) fn absent() -> Self {
        let txn = Txn {
            keys: Vec::new(),
            program: Box::new(NoProgram),
            want: Want::Header,
            atomicity: Atomicity::PerKey,
        };
        Self::new(0, Ticket::default(), Asked::default(), None, txn)
    }

    pub(super) fn keys(&self) -> &[Vec<u8>] {
        &self.txn.keys
    }

    pub(super) fn key(&self, slot: usize) -> &[u8] {
        self.txn.keys.get(slot).map_or(&[], Vec::as_slice)
    }

    pub(super) fn want(&self) -> Want {
        self.txn.want
    }

    /// For the next step: 0 is no limit, `None` is too late.
    pub(super) fn millis_left(&self, now_ms: u64) -> Option<u32> {
        match self.deadline_ms {
            None => Some(0),
            Some(deadline) => match deadline.saturating_sub(now_ms) {
                0 => None,
                left => Some(u32::try_from(left).unwrap_or(u32::MAX)),
            },
        }
    }

    /// A step went out.
    pub(super) fn sent(&mut self) {
        self.outstanding += 1;
    }

    pub(super) fn to_load(&self, slot: usize) -> bool {
        self.cells.get(slot).is_some_and(|cell| !cell.stored)
    }

    /// The write that the current phase has for this slot.
    pub(super) fn to_store(&self, slot: usize) -> Option<(Step<'_>, StepKind)> {
        let (key, cell) = (self.key(slot), self.cells.get(slot)?);
        let entry = self
            .slots
            .get(slot)
            .filter(|slot| (slot.changed || slot.touched) && !cell.stored)?
            .entry
            .as_ref();
        match (self.phase, entry) {
            (Phase::Put, Some(entry)) => {
                let guard = cell.token.map_or(Guard::Absent, Guard::Token);
                Some((Step::Put { key, entry, guard }, StepKind::Put))
            }
            (Phase::Delete, None) if !cell.expired => {
                let guard = Guard::Token(cell.token?);
                Some((Step::Delete { key, guard }, StepKind::Delete))
            }
            _ => None,
        }
    }

    /// Takes the reply to this slot's step.
    pub(super) fn reply(
        &mut self,
        slot: usize,
        reply: StepReply<'_>,
        wire_len: usize,
        now_ms: u64,
        max_retries: u32,
    ) -> Next {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.loaded_bytes = self.loaded_bytes.saturating_add(wire_len);
        if self.loaded_bytes > MOST_LOADED && self.phase == Phase::Load && self.cells.len() > 1 {
            // Nothing is kept that is of no use any more, while the rest comes in.
            self.slots.iter_mut().for_each(|slot| slot.entry = None);
            self.failed = self.failed.or(Some(KvError::TooMuch));
        } else if let StepReply::Failed(error) = reply {
            self.failed = self.failed.or(Some(error));
        } else if self.phase == Phase::Load {
            self.loaded(slot, reply, now_ms);
        } else {
            let applied = matches!(reply, StepReply::Applied { .. });
            self.raced |= !applied;
            if let Some(cell) = self.cells.get_mut(slot) {
                cell.stored |= applied;
            }
        }
        if self.outstanding > 0 {
            return Next::Wait;
        }
        if let Some(error) = self.failed {
            return Next::Fail(error);
        }
        match self.phase {
            Phase::Load => Next::Run,
            _ if self.raced => self.start_over(max_retries),
            Phase::Put => self.enter(Phase::Delete),
            Phase::Delete => Next::Done,
        }
    }

    fn loaded(&mut self, slot: usize, reply: StepReply<'_>, now_ms: u64) {
        let entry = match reply {
            StepReply::Str { value, flags, expire_at_ms, token, .. } => {
                Some(Entry { expire_at_ms, flags, token, ..Entry::new(Value::Str(value.to_vec())) })
            }
            StepReply::Typed(entry) => Some(*entry),
            StepReply::Missing => None,
            StepReply::Applied { .. } | StepReply::Failed(_) | StepReply::Guarded => {
                self.failed = self.failed.or(Some(KvError::BackFailed));
                None
            }
        };
        let (Some(cell), Some(slot)) = (self.cells.get_mut(slot), self.slots.get_mut(slot)) else { return };
        cell.token = entry.as_ref().map(|entry| entry.token);
        let entry = entry.filter(|entry| entry.expire_at_ms.is_none_or(|at| at > now_ms));
        cell.expired = entry.is_none() && cell.token.is_some();
        *slot = Slot { entry, ..Slot::default() };
    }

    /// Runs the program on the loaded slots.
    pub(super) fn run(&mut self, cx: &RunCx) {
        // Only a program of several independent keys is ever run again with some of its keys stored.
        let remembers = self.txn.atomicity == Atomicity::PerKey && self.cells.len() > 1;
        if remembers {
            for (cell, slot) in self.cells.iter_mut().zip(&mut self.slots) {
                match &cell.loaded {
                    Some(loaded) if cell.stored => *slot = loaded.clone(),
                    _ => cell.loaded = Some(slot.clone()),
                }
            }
        }
        self.reply.clear();
        self.outcome = self.txn.program.run(&mut self.slots, cx, &mut self.reply);
        self.slots.iter_mut().for_each(|slot| renew(slot, cx));
    }

    /// Whether its program has found nothing to answer with, and would wait.
    pub(super) fn found_nothing(&self) -> bool {
        self.txn.program.waits()
    }

    /// Whether it can be dropped without a trace: nothing of it is stored, or on its way to be.
    pub(super) fn can_be_dropped(&self) -> bool {
        self.phase == Phase::Load && self.cells.iter().all(|cell| !cell.stored)
    }

    /// The keys at which it has left something.
    pub(super) fn filled(&self) -> impl Iterator<Item = &[u8]> {
        let slots = self.txn.keys.iter().zip(&self.slots);
        slots.filter(|(_, slot)| slot.changed && slot.entry.is_some()).map(|(key, _)| key.as_slice())
    }

    /// Its answer is on its way.
    pub(super) fn done(&mut self) {
        self.txn.program.done();
    }

    /// Whether `follower`, which waits behind this machine, can run on its slot.
    pub(super) fn leads(&self, follower: &Self) -> bool {
        follower.txn.keys == self.txn.keys
            && follower.waits_for == 1
            && self.txn.want.serves(follower.txn.want)
    }

    /// Whether another machine could run on its slot.
    pub(super) fn can_lead(&self) -> bool {
        !self.is_alone && self.txn.keys.len() == 1 && self.locks.len() == 1
    }

    /// Runs a follower's program on what this machine's program left.
    pub(super) fn run_follower(&mut self, follower: &mut Self, cx: &RunCx) {
        let Some(slot) = self.slots.first_mut() else { return };
        // A follower that sees the slot must see the token too that it will have by then.
        let changed = std::mem::take(&mut slot.changed);
        follower.reply.clear();
        follower.outcome = follower.txn.program.run(std::slice::from_mut(slot), cx, &mut follower.reply);
        renew(slot, cx);
        slot.changed |= changed;
    }

    /// What is to be stored after the run.
    pub(super) fn after_run(&mut self) -> Next {
        if self.txn.atomicity == Atomicity::AllOrNothing && self.writes() > 1 {
            return Next::Fail(KvError::Unsupported);
        }
        self.enter(Phase::Put)
    }

    /// Enters `phase`, or what comes behind it if there is nothing to do in it.
    fn enter(&mut self, phase: Phase) -> Next {
        self.phase = phase;
        if (0..self.cells.len()).any(|slot| self.to_store(slot).is_some()) {
            return Next::Store;
        }
        match phase {
            Phase::Put => self.enter(Phase::Delete),
            Phase::Delete | Phase::Load => Next::Done,
        }
    }

    /// How many keys would change at the back.
    fn writes(&mut self) -> usize {
        let mut writes = 0;
        for phase in [Phase::Delete, Phase::Put] {
            self.phase = phase;
            writes += (0..self.cells.len()).filter(|&slot| self.to_store(slot).is_some()).count();
        }
        writes
    }

    fn start_over(&mut self, max_retries: u32) -> Next {
        self.raced = false;
        self.followers.clear();
        if self.retries >= max_retries {
            return Next::Fail(KvError::Contended);
        }
        self.retries += 1;
        self.loaded_bytes = 0;
        self.phase = Phase::Load;
        Next::Load
    }

    /// Starts over without followers.
    pub(super) fn go_alone(&mut self) {
        self.is_alone = true;
        self.followers.clear();
        (self.failed, self.raced, self.outstanding) = (None, false, 0);
        self.phase = Phase::Load;
    }
}

/// Gives what the program has changed its new token. What it lets expire at once is gone for the next program too.
fn renew(slot: &mut Slot, cx: &RunCx) {
    let is_over = |entry: &Entry| entry.expire_at_ms.is_some_and(|at| at <= cx.now_ms);
    if (slot.changed || slot.touched) && slot.entry.as_ref().is_some_and(is_over) {
        (slot.entry, slot.changed) = (None, true);
    }
    if let (true, Some(entry)) = (slot.changed, &mut slot.entry) {
        entry.token = cx.token;
    }
}
