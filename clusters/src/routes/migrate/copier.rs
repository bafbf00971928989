//! The work of a migration on one worker: keys that wait are copied, keys that nobody uses are found.
//!
//! One task looks for work; each copy is a task of its own, at most `window` of them. While a server cannot be reached,
//! nothing is copied for a moment that grows, and keys wait; nothing is dropped for it.

use std::rc::{Rc, Weak};
use std::time::Duration;

use mecha_core::{Outcome, Peer, Refusal};
use mecha_transport::unix_ms;
use tokio::sync::oneshot;

use super::Migrating;
use super::compare::digest;
use super::copies::{Copies, How, Step, Told};
use super::migration::Stage;
use super::pending::{Copied, Key, Next, Settled, Side};
use crate::routes::junction::{Commission, Ended};

/// How often whoever waits looks again, though nobody has called.
const SOON: Duration = Duration::from_millis(5);
/// How often it is looked whether there is anything to do.
const LATER: Duration = Duration::from_millis(100);
/// The first and the longest pause after a server could not be reached.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long a server may take for one request of a copy.
const PATIENCE_MS: u32 = 5_000;

/// Runs as long as there is a migration here.
pub(super) async fn work<P: Copies>(migrating: Weak<Migrating<P>>) {
    let mut is_tick = true;
    loop {
        let (watch, nap) = {
            let Some(this) = migrating.upgrade() else { return };
            this.look_after(is_tick);
            this.start_copies();
            if this.claims_sweep() {
                tokio::task::spawn_local(sweep(Weak::clone(&migrating)));
            }
            let is_busy = this.watch.has_waiting() || this.watch.migration.pending.len() > 0;
            (Rc::clone(&this.watch), if is_busy { SOON } else { LATER })
        };
        is_tick = tokio::time::timeout(nap, watch.work.notified()).await.is_err();
    }
}

/// Visits every key of the old side, slowly.
async fn sweep<P: Copies>(migrating: Weak<Migrating<P>>) {
    // Calls that were under way when nobody followed yet, and clients of the configuration before.
    while migrating
        .upgrade()
        .is_some_and(|this| this.watch.migration.followed_for() < this.options.sweep_delay)
    {
        tokio::time::sleep(LATER).await;
    }
    loop {
        // What is lost later takes another round.
        while migrating.upgrade().is_some_and(|this| this.watch.migration.is_swept()) {
            tokio::time::sleep(LATER).await;
        }
        match round(&migrating).await {
            Some(true) => {}
            Some(false) => tokio::time::sleep(PAUSES.1).await,
            None => return,
        }
    }
}

/// One sweep. `None`: there is nothing to sweep any more.
async fn round<P: Copies>(migrating: &Weak<Migrating<P>>) -> Option<bool> {
    let (mut cursor, mut keys) = (Vec::new(), Vec::new());
    migrating.upgrade()?.watch.migration.sweep_begins();
    loop {
        let this = migrating.upgrade()?;
        if !this.is_sweeping() {
            return None;
        }
        let request = P::list(&cursor)?;
        let reply = this.ask(Side::Old, request).await.ok();
        let next = reply.and_then(|reply| P::listed(&reply, &mut keys));
        let Some(next) = next else {
            mecha_telemetry::count(&this.watch.migration.metrics.failures);
            return Some(false);
        };
        let rate = this.options.sweep.unwrap_or(1).max(1);
        let wanted = keys.drain(..).filter(|key| this.options.takes(key));
        let wanted: Vec<_> = wanted.collect();
        drop(this);
        // So many keys at a time that a batch takes about a tenth of a second.
        for batch in wanted.chunks((rate as usize / 10).max(1)) {
            for key in batch {
                loop {
                    match migrating.upgrade()?.visit(key).await {
                        Some(true) => break,
                        Some(false) => tokio::time::sleep(SOON).await,
                        None => return Some(false),
                    }
                }
            }
            tokio::time::sleep(Duration::from_secs(1) * batch.len() as u32 / rate).await;
        }
        if next.is_empty() {
            break;
        }
        cursor = next;
    }
    // Keys that it has found may still wait for their copy. Nobody uses them before that.
    let this = migrating.upgrade()?;
    this.watch.migration.sweep_ends();
    Some(this.watch.migration.is_swept())
}

impl<P: Copies> Migrating<P> {
    /// Whoever waits looks again; dedicated connections to the side that is no longer the truth are closed.
    fn look_after(&self, is_tick: bool) {
        self.watch.migration.show();
        let truth = self.watch.migration.stage().truth();
        if self.seen_truth.replace(truth) != truth {
            let pins: Vec<_> = self.pins.borrow().iter().filter_map(Weak::upgrade).collect();
            let lost = pins.iter().filter(|connection| self.side_of(connection) != Some(truth));
            lost.for_each(|connection| connection.close());
            let other = if truth == Side::Old { Side::New } else { Side::Old };
            self.leg(other).upstream.release();
        }
        if is_tick {
            self.watch.wake_all();
        }
    }

    fn start_copies(self: &Rc<Self>) {
        if self.watch.junction.now_micros() < self.paused_until.get() {
            return;
        }
        while self.open.get() < self.options.window {
            let Some((key, toward)) = self.watch.migration.pending.claim() else { break };
            self.open.set(self.open.get() + 1);
            let this = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let copied = this.copy(&key, toward, true).await;
                this.copied(&key, copied);
            });
        }
    }

    fn copied(&self, key: &Key, copied: Copied) {
        self.open.set(self.open.get() - 1);
        let (migration, metrics) = (&self.watch.migration, &self.watch.migration.metrics);
        match copied {
            Copied::Absent | Copied::Done => {
                self.pause.set(Duration::ZERO);
                mecha_telemetry::count(&metrics.copies);
            }
            Copied::Refused => mecha_telemetry::count(&metrics.failures),
            Copied::Unreachable => {
                self.back_off();
                mecha_telemetry::count(&metrics.failures);
            }
        }
        if migration.pending.copied(key, copied) == Next::GivenUp {
            mecha_telemetry::count(&metrics.refused);
            tracing::warn!(key = digest(key), "a key cannot be copied");
        }
        self.watch.wake(key);
        self.watch.work.notify_one();
    }

    /// Leaves keys where they are for a while. Copies that fail together count once.
    fn back_off(&self) {
        let now_micros = self.watch.junction.now_micros();
        if now_micros >= self.paused_until.get() {
            let pause = (self.pause.get() * 2).clamp(PAUSES.0, PAUSES.1);
            self.pause.set(pause);
            self.paused_until.set(now_micros + pause.as_micros() as u64);
        }
    }

    /// Brings a key to the new side that may lack it. The caller has begun to settle it.
    pub(super) fn fetch(self: &Rc<Self>, key: Key) {
        self.open.set(self.open.get() + 1);
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            // Whoever waits for it is told by what is remembered.
            let _ = this.fetch_now(&key).await;
            this.open.set(this.open.get() - 1);
            this.watch.work.notify_one();
        });
    }

    async fn fetch_now(&self, key: &[u8]) -> Result<(), Refusal> {
        let fetched = self.fetched(key).await;
        self.watch.migration.pending.settled(key, fetched.is_ok());
        if let Err(why) = fetched {
            if why == Refusal::Unsupported {
                mecha_telemetry::count(&self.watch.migration.metrics.refused);
            }
            self.failed.borrow_mut().insert(key, why, self.watch.junction.now_micros());
            mecha_telemetry::count(&self.watch.migration.metrics.failures);
        }
        self.watch.wake(key);
        fetched
    }

    /// Sees to it that the new side has the key if the old one has.
    async fn fetched(&self, key: &[u8]) -> Result<(), Refusal> {
        let there = self.ask(Side::New, P::whether(key)).await.map_err(why)?;
        if P::is_there(&there).ok_or(Refusal::UpstreamConfused)? {
            return Ok(());
        }
        match self.copy(key, Side::New, false).await {
            Copied::Absent => Ok(()),
            Copied::Done => {
                mecha_telemetry::count(&self.watch.migration.metrics.backfills);
                Ok(())
            }
            copied => Err(why(copied)),
        }
    }

    /// A sweep has come to `key`. `false`: not now; `None`: it cannot go on.
    async fn visit(&self, key: &[u8]) -> Option<bool> {
        let migration = &self.watch.migration;
        let is_taken = match migration.stage() {
            Stage::Backfill => match migration.pending.settle(key) {
                Settled::Begun => match self.fetch_now(key).await {
                    // One that cannot move stays behind, and is counted.
                    Ok(()) | Err(Refusal::Unsupported) => true,
                    Err(_) => return None,
                },
                Settled::Wait => false,
                Settled::Yes => true,
            },
            // Clients' writes come first: they must not be lost for want of room.
            Stage::DualWrite | Stage::ShadowRead => {
                migration.pending.len() < self.options.pending / 2 && migration.pending.mark(key, Side::New)
            }
            Stage::New | Stage::Old => true,
        };
        if is_taken {
            mecha_telemetry::count(&migration.metrics.swept);
            self.watch.work.notify_one();
        }
        Some(is_taken)
    }

    fn claims_sweep(&self) -> bool {
        self.is_sweeping() && self.watch.migration.claim_sweep(self.options.turn)
    }

    fn is_sweeping(&self) -> bool {
        let migration = &self.watch.migration;
        self.options.sweep.is_some()
            && migration.stage().is_between()
            && migration.is_current(self.options.turn)
    }

    /// Copies a key to `toward`: as the other side has it now, or not at all.
    async fn copy(&self, key: &[u8], toward: Side, is_replacing: bool) -> Copied {
        if self.is_exact {
            let copied = self.copy_as(key, toward, is_replacing, true).await;
            // A server that is older does not understand what a newer one has written: build it from its parts.
            if copied != Copied::Refused {
                return copied;
            }
        }
        let copied = self.copy_as(key, toward, is_replacing, false).await;
        if copied == Copied::Refused && is_replacing {
            // Better nothing than something old: what is missing is seen.
            let _ = self.ask(toward, P::remove(key)).await;
        }
        copied
    }

    async fn copy_as(&self, key: &[u8], toward: Side, is_replacing: bool, is_exact: bool) -> Copied {
        let how = How { is_exact, is_replacing, now_unix_secs: unix_ms() / 1000 };
        let mut replies = Vec::new();
        loop {
            match P::copy(key, how, &replies) {
                Step::Ask(frames) => {
                    for frame in frames {
                        match self.ask(toward.other(), frame).await {
                            Ok(reply) => replies.push(reply),
                            Err(copied) => return copied,
                        }
                    }
                }
                Step::Put(frames) if frames.is_empty() => return Copied::Absent,
                Step::Put(frames) => {
                    for frame in frames {
                        match self.ask(toward, frame).await.map(|reply| P::told(&reply)) {
                            Ok(Told::Done) => {}
                            Ok(Told::Later) => return Copied::Unreachable,
                            Ok(Told::Never) => return Copied::Refused,
                            Err(copied) => return copied,
                        }
                    }
                    return Copied::Done;
                }
                Step::Refused => return Copied::Refused,
            }
        }
    }

    /// Sends one request of a copy.
    ///
    /// # Errors
    /// What its not being answered means for the copy.
    async fn ask(&self, side: Side, frame: Vec<u8>) -> Result<Vec<u8>, Copied> {
        let (tell, told) = oneshot::channel();
        let nobody = Peer { id: 0, addr: None, local: None, identity: None, user: None };
        let commission = Commission { peer: nobody, profile: 0, timeout_ms: PATIENCE_MS, is_strict: true };
        let then = Box::new(move |ended| drop(tell.send(ended)));
        self.watch.junction.send_copy(self.leg(side), frame, commission, then);
        let patience = Duration::from_millis(u64::from(PATIENCE_MS) * 2);
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(Ended::Failed(why) | Ended::Replied(_, Outcome::Refused(why), _))) => Err(match why {
                Refusal::Denied | Refusal::Filtered | Refusal::TooLarge | Refusal::Unsupported => {
                    Copied::Refused
                }
                _ => Copied::Unreachable,
            }),
            Ok(Ok(Ended::Replied(_, Outcome::ServerError, _))) => Err(Copied::Unreachable),
            Ok(Ok(Ended::Replied(reply, ..))) => Ok(reply),
            Err(_) | Ok(Err(_)) => Err(Copied::Unreachable),
        }
    }
}

/// What a client is told whose key could not be fetched.
fn why(copied: Copied) -> Refusal {
    if copied == Copied::Refused { Refusal::Unsupported } else { Refusal::UpstreamUnreachable }
}
