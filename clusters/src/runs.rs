//! Who waits for which reply of one connection, oldest first.

use std::collections::VecDeque;
use std::rc::Rc;

use mecha_core::{ConnKey, Framed};

use crate::detour::Detour;
use crate::{ReplySink, Slip};

/// Consecutive calls of one client.
pub(crate) struct Run<P: Framed> {
    pub(crate) sink: Rc<dyn ReplySink<P>>,
    pub(crate) conn: ConnKey,
    /// Place of the oldest unanswered call in the client's order.
    pub(crate) first: u32,
    /// Unanswered calls.
    pub(crate) count: u32,
    pub(crate) sent_micros: u64,
    /// `u64::MAX` is never.
    pub(crate) deadline_micros: u64,
    /// The client has been told that there is no answer; what still comes is dropped.
    pub(crate) is_abandoned: bool,
    /// Part of the oldest call's reply has been delivered.
    pub(crate) is_begun: bool,
    /// Servers that have sent these calls away.
    pub(crate) hops: u8,
}

/// The queue. Replies arrive in its order.
pub(crate) struct Runs<P: Framed> {
    runs: VecDeque<Run<P>>,
    slips: VecDeque<Slip>,
    abandoned: usize,
    deadlines: usize,
    /// Counts calls that were answered; wraps.
    answered: u64,
}

impl<P: Framed> Default for Runs<P> {
    fn default() -> Self {
        Self { runs: VecDeque::new(), slips: VecDeque::new(), abandoned: 0, deadlines: 0, answered: 0 }
    }
}

impl<P: Framed> Runs<P> {
    /// Unanswered calls.
    pub(crate) fn len(&self) -> usize {
        self.slips.len()
    }

    /// Calls whose client has given up.
    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// How many calls have been answered; wraps.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Whether any call has a deadline.
    pub(crate) fn has_deadlines(&self) -> bool {
        self.deadlines > 0
    }

    /// Adds a run whose slips are already in [`Runs::slips_mut`].
    pub(crate) fn push(&mut self, run: Run<P>) {
        self.deadlines += usize::from(run.deadline_micros != u64::MAX && !run.is_abandoned);
        self.abandoned += if run.is_abandoned { run.count as usize } else { 0 };
        self.runs.push_back(run);
    }

    pub(crate) fn slips_mut(&mut self) -> &mut VecDeque<Slip> {
        &mut self.slips
    }

    pub(crate) fn front(&self) -> Option<&Run<P>> {
        self.runs.front()
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut Run<P>> {
        self.runs.front_mut()
    }

    pub(crate) fn back_mut(&mut self) -> Option<&mut Run<P>> {
        self.runs.back_mut()
    }

    /// Unanswered runs, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run<P>> {
        self.runs.iter()
    }

    /// What is remembered of the call that is `index` calls behind the oldest.
    pub(crate) fn slip_at(&self, index: usize) -> Option<Slip> {
        self.slips.get(index).copied()
    }

    /// Removes the `count` oldest calls of the front run, moving their slips to `slips`.
    pub(crate) fn answer(&mut self, count: u32, slips: &mut Vec<Slip>) {
        let Some(run) = self.runs.front_mut() else { return };
        let count = count.min(run.count);
        run.first = run.first.wrapping_add(count);
        run.count -= count;
        self.answered = self.answered.wrapping_add(u64::from(count));
        run.is_begun = false;
        if run.is_abandoned {
            self.abandoned = self.abandoned.saturating_sub(count as usize);
        }
        slips.extend(self.slips.drain(..(count as usize).min(self.slips.len())));
        if run.count == 0 {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(run) = self.runs.pop_front() {
            self.deadlines -= usize::from(run.deadline_micros != u64::MAX && !run.is_abandoned);
        }
    }

    /// Marks every run whose deadline has passed as abandoned, and returns what their clients must be told.
    pub(crate) fn expire(&mut self, now_micros: u64) -> Vec<Failed<P>> {
        let (mut failed, mut at) = (Vec::new(), 0);
        for run in &mut self.runs {
            let next = at + run.count as usize;
            if run.deadline_micros <= now_micros && !run.is_abandoned {
                run.is_abandoned = true;
                self.deadlines -= 1;
                self.abandoned += run.count as usize;
                let slips = self.slips.range(at..next.min(self.slips.len())).copied().collect();
                failed.push(Failed::of(run, slips));
            }
            at = next;
        }
        failed
    }

    /// Removes the `count` youngest calls, and returns those that somebody waits for as calls of their own, the oldest
    /// first. `frames` are theirs, in order.
    pub(crate) fn take_last(
        &mut self,
        count: usize,
        mut frames: impl Iterator<Item = Vec<u8>>,
    ) -> Vec<Detour<P>> {
        let from = self.slips.len() - count.min(self.slips.len());
        let (mut taken, mut at) = (Vec::new(), 0);
        let slips: Vec<_> = self.slips.drain(from..).collect();
        let mut slips = slips.into_iter();
        for run in &mut self.runs {
            let first = from.saturating_sub(at).min(run.count as usize) as u32;
            at += run.count as usize;
            for offset in first..run.count {
                let (Some(slip), Some(frame)) = (slips.next(), frames.next()) else { break };
                if !run.is_abandoned {
                    taken.push(Detour {
                        sink: Rc::clone(&run.sink),
                        conn: run.conn,
                        seq: run.first.wrapping_add(offset),
                        slip,
                        frame,
                        behind: Vec::new(),
                        hops: run.hops,
                        sent_micros: run.sent_micros,
                        deadline_micros: run.deadline_micros,
                    });
                }
            }
            if run.is_abandoned {
                self.abandoned = self.abandoned.saturating_sub((run.count - first) as usize);
            }
            run.count = first;
        }
        while self.runs.back().is_some_and(|run| run.count == 0) {
            if let Some(run) = self.runs.pop_back() {
                self.deadlines -= usize::from(run.deadline_micros != u64::MAX && !run.is_abandoned);
            }
        }
        taken
    }

    /// Empties the queue and returns what the clients must be told.
    pub(crate) fn fail_all(&mut self) -> Vec<Failed<P>> {
        let mut failed = Vec::new();
        for run in self.runs.drain(..) {
            let count = (run.count as usize).min(self.slips.len());
            let slips = self.slips.drain(..count).collect();
            if !run.is_abandoned {
                failed.push(Failed::of(&run, slips));
            }
        }
        *self = Self { answered: self.answered, ..Self::default() };
        failed
    }
}

/// Calls of one client that get no reply.
pub(crate) struct Failed<P: Framed> {
    pub(crate) sink: Rc<dyn ReplySink<P>>,
    pub(crate) conn: ConnKey,
    pub(crate) first: u32,
    pub(crate) slips: Vec<Slip>,
    pub(crate) is_begun: bool,
}

impl<P: Framed> Failed<P> {
    fn of(run: &Run<P>, slips: Vec<Slip>) -> Self {
        Self { sink: Rc::clone(&run.sink), conn: run.conn, first: run.first, slips, is_begun: run.is_begun }
    }
}
