//! One migration as all workers see it: its stage, its pending keys, its sweep.
//!
//! It belongs to a route's name and goes on from one configuration to the next, so that a new stage holds at one moment
//! for every client, whichever configuration its connection still has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use mecha_telemetry::MigrationMetrics;
use mecha_transport::unix_ms;

use super::pending::{Pending, Side};

/// How far a migration has come. See the module above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Only the old side is used.
    Old,
    /// The old side is the truth, and the new one follows.
    DualWrite,
    /// As `DualWrite`, and reads are compared.
    ShadowRead,
    /// The new side is the truth, gets what it lacks from the old one, and the old one follows.
    Backfill,
    /// Only the new side is used.
    New,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Old, Self::DualWrite, Self::ShadowRead, Self::Backfill, Self::New];

    /// The side that answers.
    pub(super) fn truth(self) -> Side {
        match self {
            Self::Old | Self::DualWrite | Self::ShadowRead => Side::Old,
            Self::Backfill | Self::New => Side::New,
        }
    }

    /// Whether the other side follows.
    pub(super) fn is_between(self) -> bool {
        !matches!(self, Self::Old | Self::New)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Migration {
    pub(super) pending: Pending,
    pub(super) metrics: MigrationMetrics,
    stage: AtomicU8,
    /// Configurations are counted; this is the one in force.
    turn: AtomicU64,
    next_turn: AtomicU64,
    /// The configuration whose sweep is under way: one worker of it sweeps.
    sweeper: AtomicU64,
    /// Something was not copied that only a sweep can find.
    is_behind: AtomicBool,
    is_swept: AtomicBool,
    /// Since when a side follows, as the time of day.
    followed_ms: AtomicU64,
}

/// What people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationState {
    /// Keys that wait for their copy, or have calls under way.
    pub pending: usize,
    /// Something was not copied that only a sweep can find.
    pub is_behind: bool,
    /// A sweep has visited every key in this stage.
    pub is_swept: bool,
}

// === impl Migration ===

impl Migration {
    /// One that has not begun.
    pub fn new(metrics: MigrationMetrics) -> Arc<Self> {
        Arc::new(Self {
            pending: Pending::default(),
            metrics,
            stage: AtomicU8::new(0),
            turn: AtomicU64::new(0),
            next_turn: AtomicU64::new(1),
            sweeper: AtomicU64::new(0),
            is_behind: AtomicBool::new(false),
            is_swept: AtomicBool::new(false),
            followed_ms: AtomicU64::new(unix_ms()),
        })
    }

    /// For how long a side has followed.
    pub(super) fn followed_for(&self) -> Duration {
        Duration::from_millis(unix_ms().saturating_sub(self.followed_ms.load(Ordering::Relaxed)))
    }

    /// The number of a further configuration.
    pub fn next_turn(&self) -> u64 {
        self.next_turn.fetch_add(1, Ordering::Relaxed)
    }

    /// What people are told.
    pub fn state(&self) -> MigrationState {
        MigrationState {
            pending: self.pending.len(),
            is_behind: self.is_behind.load(Ordering::Relaxed),
            is_swept: self.is_swept.load(Ordering::Relaxed),
        }
    }

    /// The configuration `turn` comes into force. The first worker that says so changes the stage for all.
    pub(super) fn enter(&self, turn: u64, stage: Stage, capacity: usize) {
        if self.turn.fetch_max(turn, Ordering::SeqCst) >= turn {
            return;
        }
        self.pending.set_capacity(capacity);
        let was = self.stage();
        if was != stage {
            self.set_swept(false);
        }
        if !was.is_between() && stage.is_between() {
            self.followed_ms.store(unix_ms(), Ordering::Relaxed);
        }
        if was.truth() != stage.truth() && stage.truth() == Side::Old {
            self.pending.forget_settled();
        }
        let number = Stage::ALL.iter().position(|known| *known == stage).unwrap_or_default();
        self.stage.store(number as u8, Ordering::SeqCst);
    }

    pub(super) fn stage(&self) -> Stage {
        let number = self.stage.load(Ordering::SeqCst);
        Stage::ALL.get(usize::from(number)).copied().unwrap_or(Stage::Old)
    }

    pub(super) fn is_current(&self, turn: u64) -> bool {
        self.turn.load(Ordering::SeqCst) == turn
    }

    /// A write is not followed, or a key was given up.
    pub(super) fn lose(&self) {
        mecha_telemetry::count(&self.metrics.lost);
        self.is_behind.store(true, Ordering::SeqCst);
        self.set_swept(false);
    }

    /// Whether every key is known to have been visited in this stage.
    pub(super) fn is_swept(&self) -> bool {
        self.is_swept.load(Ordering::SeqCst)
    }

    fn set_swept(&self, is_swept: bool) {
        self.is_swept.store(is_swept, Ordering::SeqCst);
    }

    /// Whether the caller, of configuration `turn`, is the one that sweeps.
    pub(super) fn claim_sweep(&self, turn: u64) -> bool {
        let known = self.sweeper.load(Ordering::SeqCst);
        let (order, claimed) = (Ordering::SeqCst, self.is_current(turn) && known != turn);
        claimed && self.sweeper.compare_exchange(known, turn, order, order).is_ok()
    }

    /// A sweep begins: what is lost from now on, it may have missed.
    pub(super) fn sweep_begins(&self) {
        if self.stage().truth() == Side::Old {
            self.is_behind.store(false, Ordering::SeqCst);
        }
    }

    /// A sweep has visited every key.
    pub(super) fn sweep_ends(&self) {
        if !self.is_behind.load(Ordering::SeqCst) {
            self.set_swept(true);
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn show(&self) {
        let state = self.state();
        for (gauge, value) in [
            (&self.metrics.pending, state.pending as i64),
            (&self.metrics.behind, i64::from(state.is_behind)),
            (&self.metrics.sweep_done, i64::from(state.is_swept)),
        ] {
            gauge.iter().for_each(|gauge| gauge.set(value));
        }
    }
}
