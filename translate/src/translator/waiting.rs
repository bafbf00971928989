//! Clients that wait for keys of a remote back.
//!
//! Such a back has other writers, and tells nobody what they write. So each waiting command is tried again and again, with
//! pauses that grow up to [`LONGEST_PAUSE_MS`]; and at once when a machine of this translator has left something at one of
//! its keys. Those that are woken together join the queues of their keys in the order in which they came, so among the
//! clients of one worker the first that waits is the first that is served.
//!
//! Time is an argument: [`Translator::wakes_at`] says when [`Translator::wake`] has something to do.

use std::collections::{BTreeMap, HashMap};

use mecha_core::{Call, ConnKey};

use super::machine::Machine;
use super::{Begun, Origin, Translator, push_answer};
use crate::kv::{Answers, Attempt, BackFrames, Blocking, GaveUp, KvBack, KvFront};

const FIRST_PAUSE_MS: u64 = 10;
const LONGEST_PAUSE_MS: u64 = 100;

/// Everybody who waits.
#[derive(Default)]
pub(super) struct Waiting {
    /// By turn: who came first has the lowest.
    waiters: BTreeMap<u64, Waiter>,
    turns: HashMap<ConnKey, u64>,
    next_turn: u64,
    /// Whether somebody was woken and has not been tried.
    has_woken: bool,
}

struct Waiter {
    block: Box<dyn Blocking>,
    keys: Vec<Vec<u8>>,
    origin: Origin,
    pause_ms: u64,
    /// When it is tried again; `None` while it is being tried.
    again_at: Option<u64>,
    /// Something came to one of its keys while it was being tried.
    is_woken: bool,
    /// It ends with this instead of being tried again.
    gave_up: Option<GaveUp>,
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether this client waits.
    pub(super) fn has(&self, conn: ConnKey) -> bool {
        !self.turns.is_empty() && self.turns.contains_key(&conn)
    }

    /// Wakes those that wait for what `machine` has left.
    pub(super) fn wake(&mut self, machine: &Machine) {
        for key in machine.filled() {
            let concerned = |waiter: &&mut Waiter| waiter.keys.iter().any(|known| known == key);
            for waiter in self.waiters.values_mut().filter(concerned) {
                waiter.is_woken = true;
                self.has_woken = true;
            }
        }
    }

    fn remove(&mut self, turn: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&turn)?;
        self.turns.remove(&waiter.origin.ticket.conn);
        Some(waiter)
    }
}

// === impl Translator ===

impl<A: KvFront, B: KvBack> Translator<A, B> {
    /// Whether this client waits for its keys, so that its next calls are not taken.
    pub fn is_waiting(&self, conn: ConnKey) -> bool {
        self.waiting.has(conn)
    }

    /// Every client that waits for its keys.
    pub fn who_waits(&self) -> impl Iterator<Item = ConnKey> {
        self.waiting.turns.keys().copied()
    }

    /// When [`Translator::wake`] should be called next, in Unix milliseconds.
    pub fn wakes_at(&self) -> Option<u64> {
        let times = self.waiting.waiters.values().filter_map(|waiter| {
            let again = waiter.again_at?;
            Some(waiter.block.until_ms().map_or(again, |until| until.min(again)))
        });
        times.min()
    }

    /// Tries those again whose pause is over, and ends those whose time is up.
    pub fn wake(&mut self, now_ms: u64, out: &mut BackFrames, answers: &mut Answers) {
        for waiter in self.waiting.waiters.values_mut() {
            let is_over = waiter.block.until_ms().is_some_and(|until| until <= now_ms);
            if is_over {
                // Somebody who is being tried may yet have luck.
                waiter.gave_up = waiter.gave_up.or(Some(GaveUp::TimeUp));
            }
            if waiter.again_at.is_some_and(|at| is_over || at <= now_ms) {
                waiter.is_woken = true;
                self.waiting.has_woken = true;
            }
        }
        self.start_ready(now_ms, out, answers);
    }

    /// Ends what this client waits for. Returns whether it did wait.
    pub fn give_up(&mut self, conn: ConnKey, why: GaveUp, answers: &mut Answers) -> bool {
        let Some(&turn) = self.waiting.turns.get(&conn) else { return false };
        let Some(waiter) = self.waiting.waiters.get_mut(&turn) else { return false };
        waiter.gave_up = Some(why);
        if waiter.again_at.is_some() {
            self.end_in_vain(turn, answers);
        }
        true
    }

    /// This client is gone, and takes nothing any more.
    pub fn forget(&mut self, conn: ConnKey, now_ms: u64, out: &mut BackFrames, answers: &mut Answers) {
        let Some(&turn) = self.waiting.turns.get(&conn) else { return };
        self.waiting.remove(turn);
        let attempt = self.machines.iter().find(|(_, machine)| machine.turn == Some(turn));
        let Some((index, machine)) = attempt else { return };
        // One that runs on another's slot is stored with it.
        let follows = || self.machines.iter().any(|(_, machine)| machine.followers.contains(&index));
        if machine.can_be_dropped() && !follows() {
            self.remove(index);
            self.start_ready(now_ms, out, answers);
        }
    }

    pub(super) fn begin_waiting(
        &mut self,
        block: Box<dyn Blocking>,
        call: &Call,
        now_ms: u64,
        out: &mut BackFrames,
    ) -> Begun {
        let origin = Origin { ticket: call.ticket, asked: call.asked(), timeout_ms: call.timeout_ms };
        let turn = self.waiting.next_turn;
        let begun =
            self.begin_machine(block.attempt(Attempt::First), &origin, false, Some(turn), now_ms, out);
        if matches!(begun, Begun::InFlight) {
            self.waiting.next_turn += 1;
            self.waiting.turns.insert(call.ticket.conn, turn);
            let (keys, pause_ms) = (block.keys(), FIRST_PAUSE_MS);
            let (again_at, is_woken, gave_up) = (None, false, None);
            let waiter = Waiter { block, keys, origin, pause_ms, again_at, is_woken, gave_up };
            self.waiting.waiters.insert(turn, waiter);
        }
        begun
    }

    /// An attempt is over. Returns whether the machine's reply is the answer.
    pub(super) fn end_attempt(&mut self, turn: u64, in_vain: bool, answers: &mut Answers) -> bool {
        if !in_vain {
            self.waiting.remove(turn);
            return true;
        }
        let Some(waiter) = self.waiting.waiters.get_mut(&turn) else { return false };
        if waiter.gave_up.is_some() {
            self.end_in_vain(turn, answers);
            return false;
        }
        // The pause is counted from the next look at the clock, which `try_woken` has.
        waiter.again_at = Some(0);
        self.waiting.has_woken = true;
        false
    }

    fn end_in_vain(&mut self, turn: u64, answers: &mut Answers) {
        let Some(waiter) = self.waiting.remove(turn) else { return };
        let start = answers.wire.len();
        let outcome = waiter.block.give_up(waiter.gave_up.unwrap_or(GaveUp::TimeUp), &mut answers.wire);
        push_answer(answers, start, waiter.origin.ticket, waiter.origin.asked.op, outcome);
    }

    /// Tries those that are woken, in the order of their turns. Returns whether any machine may have become ready.
    pub(super) fn try_woken(&mut self, now_ms: u64, out: &mut BackFrames, answers: &mut Answers) -> bool {
        if !std::mem::take(&mut self.waiting.has_woken) {
            return false;
        }
        let mut woken = Vec::new();
        for (turn, waiter) in &mut self.waiting.waiters {
            let Some(again_at) = &mut waiter.again_at else { continue };
            if waiter.is_woken {
                woken.push(*turn);
            } else if *again_at == 0 {
                *again_at = now_ms + waiter.pause_ms;
                waiter.pause_ms = (2 * waiter.pause_ms).min(LONGEST_PAUSE_MS);
            }
        }
        let mut begun_any = false;
        for turn in woken {
            let Some(waiter) = self.waiting.waiters.get_mut(&turn) else { continue };
            waiter.is_woken = false;
            if waiter.gave_up.is_some() {
                self.end_in_vain(turn, answers);
                continue;
            }
            if self.is_full() {
                // Those in flight are many, and each of their replies comes here.
                if let Some(waiter) = self.waiting.waiters.get_mut(&turn) {
                    waiter.again_at = Some(now_ms + waiter.pause_ms);
                }
                continue;
            }
            let Some(waiter) = self.waiting.waiters.get_mut(&turn) else { continue };
            waiter.again_at = None;
            let (txn, origin) = (waiter.block.attempt(Attempt::Again), waiter.origin);
            match self.begin_machine(txn, &origin, false, Some(turn), now_ms, out) {
                Begun::InFlight => begun_any = true,
                Begun::Answered | Begun::Close | Begun::Stalled => {
                    self.waiting.remove(turn);
                    let start = answers.wire.len();
                    answers.wire.extend_from_slice(&self.scratch);
                    let outcome = A::answer_outcome(&self.scratch);
                    push_answer(answers, start, origin.ticket, origin.asked.op, outcome);
                }
            }
        }
        begun_any && !self.ready.is_empty()
    }
}
