//! Sends what machines ask for, and starts the next in line when one is done.

use mecha_core::Refusal;

use super::machine::{Machine, Next};
use super::{Failure, Owner, Translator, push_answer};
use crate::kv::{Answers, BackFrames, KvBack, KvError, KvFront, Step, StepKind};

/// Bounds how long one reply can keep the worker busy.
const MOST_FOLLOWERS: usize = 1024;

impl<A: KvFront, B: KvBack> Translator<A, B> {
    /// Does what a machine asked for, until it waits or is done.
    pub(super) fn advance(
        &mut self,
        index: usize,
        next: Next,
        now_ms: u64,
        out: &mut BackFrames,
        answers: &mut Answers,
    ) {
        let mut next = next;
        let failure = loop {
            let result = match next {
                Next::Done => break None,
                Next::Fail(error) => Err(Failure::Kv(error)),
                Next::Load => self.load(index, now_ms, out),
                Next::Run => {
                    next = self.run(index, now_ms);
                    continue;
                }
                Next::Store => self.store(index, now_ms, out),
                Next::Wait => return,
            };
            match result {
                Ok(()) => return,
                // Not every follower's fault, so none of them shall hear of it.
                Err(Failure::Kv(KvError::ValueTooLarge)) if self.leaves_followers(index) => next = Next::Load,
                Err(failure) => break Some(failure),
            }
        };
        self.finish(index, failure, answers);
    }

    /// Runs a machine's program, and those of its followers.
    fn run(&mut self, index: usize, now_ms: u64) -> Next {
        let Some(place) = self.machines.get_mut(index) else { return Next::Wait };
        let mut leader = std::mem::replace(place, Machine::absent());
        leader.run(&self.run_cx(now_ms));
        if let (true, Some(&lock)) = (leader.can_lead(), leader.locks.first()) {
            let behind = self.locks.behind_first(lock).take(MOST_FOLLOWERS);
            let follows =
                |&index: &usize| self.machines.get(index).is_some_and(|machine| leader.leads(machine));
            let followers: Vec<usize> = behind.take_while(follows).collect();
            for &follower in &followers {
                let cx = self.run_cx(now_ms);
                if let Some(follower) = self.machines.get_mut(follower) {
                    leader.run_follower(follower, &cx);
                }
            }
            leader.followers = followers;
        }
        let next = leader.after_run();
        if let Some(place) = self.machines.get_mut(index) {
            *place = leader;
        }
        next
    }

    /// Makes a machine that has followers one that has none.
    fn leaves_followers(&mut self, index: usize) -> bool {
        match self.machines.get_mut(index) {
            Some(machine) if !machine.followers.is_empty() => {
                machine.go_alone();
                true
            }
            _ => false,
        }
    }

    pub(super) fn load(&mut self, index: usize, now_ms: u64, out: &mut BackFrames) -> Result<(), Failure> {
        self.step_machine(index, now_ms, out, |machine, slot| {
            let want = machine.want();
            machine.to_load(slot).then(|| (Step::Get { key: machine.key(slot), want }, StepKind::Get(want)))
        })
    }

    fn store(&mut self, index: usize, now_ms: u64, out: &mut BackFrames) -> Result<(), Failure> {
        self.step_machine(index, now_ms, out, Machine::to_store)
    }

    /// Sends a step for every slot that `choose` has one for: all of them, or none with an error.
    fn step_machine(
        &mut self,
        index: usize,
        now_ms: u64,
        out: &mut BackFrames,
        choose: impl for<'m> Fn(&'m Machine, usize) -> Option<(Step<'m>, StepKind)>,
    ) -> Result<(), Failure> {
        let (wire, frames) = (out.wire.len(), out.frames.len());
        // Taken out, since sending borrows the whole translator. Its slot in the slab stays its own.
        let Some(place) = self.machines.get_mut(index) else { return Ok(()) };
        let mut machine = std::mem::replace(place, Machine::absent());
        let mut result = Ok(());
        match machine.millis_left(now_ms) {
            Some(timeout_ms) => {
                for slot in 0..machine.keys().len() {
                    let Some((step, kind)) = choose(&machine, slot) else { continue };
                    let owner = Owner::Machine { index, serial: machine.serial, slot };
                    if let Err(error) = self.send(&step, kind, owner, None, timeout_ms, now_ms, out) {
                        result = Err(Failure::Kv(error));
                        break;
                    }
                    machine.sent();
                }
            }
            None => result = Err(Failure::Refused(Refusal::TimedOut)),
        }
        if result.is_err() {
            for frame in out.frames.drain(frames..) {
                self.pending.remove(frame.token);
            }
            out.wire.truncate(wire);
        }
        if let Some(place) = self.machines.get_mut(index) {
            *place = machine;
        }
        result
    }

    pub(super) fn finish(&mut self, index: usize, failure: Option<Failure>, answers: &mut Answers) {
        let followers = self.machines.get_mut(index).map(|machine| std::mem::take(&mut machine.followers));
        // Before their leader, so that none of them becomes first in the queue and starts.
        for follower in followers.into_iter().flatten() {
            self.answer(follower, failure, answers);
        }
        self.answer(index, failure, answers);
    }

    fn answer(&mut self, index: usize, failure: Option<Failure>, answers: &mut Answers) {
        let Some(mut machine) = self.remove(index) else { return };
        if failure.is_none() && !self.waiting.is_empty() {
            self.waiting.wake(&machine);
        }
        if let Some(turn) = machine.turn
            && !self.end_attempt(turn, failure.is_none() && machine.found_nothing(), answers)
        {
            return;
        }
        match failure {
            None => {
                machine.done();
                let start = answers.wire.len();
                answers.wire.extend_from_slice(&machine.reply);
                push_answer(answers, start, machine.ticket, machine.asked.op, machine.outcome);
            }
            Some(failure) => self.answer_failure(failure, machine.ticket, machine.asked, answers),
        }
    }

    /// Takes a machine out and lets those behind it know.
    pub(super) fn remove(&mut self, index: usize) -> Option<Machine> {
        let machine = self.machines.try_remove(index)?;
        self.reserved = self.reserved.saturating_sub(machine.keys().len());
        for &lock in &machine.locks {
            let Some(first) = self.locks.dequeue(lock, index) else { continue };
            if let Some(waiting) = self.machines.get_mut(first) {
                waiting.waits_for = waiting.waits_for.saturating_sub(1);
                if waiting.waits_for == 0 {
                    self.ready.push_back(first);
                }
            }
        }
        Some(machine)
    }

    pub(super) fn start_ready(&mut self, now_ms: u64, out: &mut BackFrames, answers: &mut Answers) {
        loop {
            while let Some(index) = self.ready.pop_front() {
                self.advance(index, Next::Load, now_ms, out, answers);
            }
            if !self.try_woken(now_ms, out, answers) {
                break;
            }
        }
    }
}
