//! Keys that move from one cluster to another under the clients' hands.
//!
//! [`Migrating`] is the upstream of a route whose keys are moving. It leads to two sides. One of them is the *truth*: it
//! gets the clients' calls and answers them. The other one follows.
//!
//! | stage | truth | the other side |
//! |---|---|---|
//! | `old` | old | is not used |
//! | `dual_write` | old | gets a copy of every key that was written |
//! | `shadow_read` | old | the same; reads go there too, and answers are compared |
//! | `backfill` | new | as `dual_write`, the other way; before a key is used, the new side gets what the old one has of it, unless it has something |
//! | `new` | new | is not used |
//!
//! **One primitive.** Commands are not repeated on the other side: their effect there may differ (`INCR` of a key that is
//! missing, `SPOP`, scripts, relative expiries). What is copied is the state of a key, after the call that may have
//! changed it was answered ([`copier`], [`Copies`]). Copies of one key never overlap, whichever worker makes them, and a
//! key that is written meanwhile is copied again ([`pending`]); so the sides are equal when the last copy has ended,
//! whatever the commands were and however many clients wrote at once.
//!
//! **A change of the truth** waits, key by key: a call for a key stands still while a copy of that key to the side where
//! the call would go is not finished, or calls that write it are under way on the other side. So no call sees an older
//! state than another one did before it, and no copy overwrites what was written after it. Clients' connections are not
//! touched, but dedicated ones to the side that is no longer the truth are closed.
//!
//! **Before a key is used in `backfill`** it is *settled*: looked for on the new side, and if it is not there fetched from
//! the old one, once. Until then all calls for it wait, so nothing is overwritten, and nothing that was deleted comes back.
//!
//! A call whose keys cannot be told (`FLUSHALL`, scripts without keys) is refused while a side follows.
//!
//! Deliberately absent: order between different keys on the side that follows, and anything that is not a key
//! (scripts, functions, publish and subscribe): it is served by the truth.

mod compare;
mod copier;
mod copies;
mod migration;
mod pending;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

use mecha_core::{
    Affinity, Batch, Call, ConnKey, Cx, Keys, OpClass, Refusal, ReplyCount, Session, Ticket, Verdict,
};

use self::compare::{Comparisons, Shadow};
use self::copies::Likeness;
use self::pending::{Key, Settled, Side};
use self::watch::Watched;
use super::junction::Commission;
use super::leg::Leg;
use super::mirror::spread;
use crate::scatter::Bond;
use crate::{Connection, Lane, ReplySink, SubmitCx, Submitted, Upstream, Wish};

pub use self::copies::Copies;
pub use self::migration::{Migration, MigrationState, Stage};
pub use self::watch::Watch;

/// Calls behind one that waits whose keys are settled meanwhile.
const LOOK_AHEAD: usize = 128;

/// How long a server is given for a call whose reply nobody counts.
const UNCOUNTED: Duration = Duration::from_secs(1);

/// Bytes of a key that is remembered for a call on a dedicated connection while no side follows.
const MAX_LONG_KEY: usize = 4 << 10;

/// Bytes of a read that is compared.
const MAX_COMPARED: usize = 64 << 10;

/// How long a key that could not be fetched is refused without another attempt.
const FAILED_MICROS: u64 = 50_000;

/// How a route's keys move, on one worker.
#[derive(Clone, Debug)]
pub struct MigratingOptions {
    /// How far it has come.
    pub stage: Stage,
    /// Keys that are copied, and reads that are compared, at one time.
    pub window: u32,
    /// Keys that wait for their copy, over all workers.
    pub pending: usize,
    /// Of ten thousand keys, so many have their reads compared.
    pub share: u32,
    /// Whether keys are copied again whose reads differ.
    pub is_repairing: bool,
    /// Keys per second that are visited though nobody uses them.
    pub sweep: Option<u32>,
    /// How long clients of an earlier configuration may still write past this one.
    pub sweep_delay: Duration,
    /// The keys that are swept begin with one of these; any key if there are none.
    pub prefixes: Vec<Vec<u8>>,
    /// And with none of these.
    pub others: Vec<Vec<u8>>,
    /// The number of the configuration: [`Migration::next_turn`].
    pub turn: u64,
}

impl MigratingOptions {
    /// Whether a sweep takes `key`.
    fn takes(&self, key: &[u8]) -> bool {
        let begins = |prefixes: &[Vec<u8>]| prefixes.iter().any(|prefix| key.starts_with(prefix));
        (self.prefixes.is_empty() || begins(&self.prefixes)) && !begins(&self.others)
    }
}

/// See the module.
pub struct Migrating<P: Copies> {
    watch: Rc<Watch<P>>,
    old: Rc<Leg<P>>,
    new: Rc<Leg<P>>,
    options: MigratingOptions,
    /// The truth when this was made: the side that lanes belong to.
    home: Side,
    is_exact: bool,
    comparisons: Rc<Comparisons>,
    /// Copies and fetches under way.
    open: Cell<u32>,
    pause: Cell<Duration>,
    paused_until: Cell<u64>,
    /// Keys written in transactions that are not carried out yet.
    noted: RefCell<HashMap<ConnKey, Vec<Key>>>,
    failed: RefCell<Failures>,
    /// Calls that the filters of a side have seen, but that found no room: the first, how many, and where.
    stuck: RefCell<HashMap<ConnKey, (u32, u32, Side)>>,
    pins: RefCell<Vec<Weak<Connection<P>>>>,
    /// The truth when dedicated connections were last looked at.
    seen_truth: Cell<Side>,
    me: Weak<Self>,
}

/// Keys that could not be fetched a moment ago.
#[derive(Default)]
struct Failures(HashMap<Key, (Refusal, u64)>);

impl Failures {
    fn insert(&mut self, key: &[u8], why: Refusal, now_micros: u64) {
        if self.0.len() >= 1024 {
            self.0.retain(|_, (_, until)| *until > now_micros);
        }
        if self.0.len() < 1024 {
            self.0.insert(key.into(), (why, now_micros + FAILED_MICROS));
        }
    }

    fn get(&self, key: &[u8], now_micros: u64) -> Option<Refusal> {
        self.0.get(key).filter(|(_, until)| *until > now_micros).map(|(why, _)| *why)
    }
}

/// Whether a call may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Refused(Refusal),
    Wait,
}

// === impl Migrating ===

impl<P: Copies> Migrating<P> {
    /// Between `old` and `new`, whose replies `watch` takes. Brings the options into force, and works from now on.
    pub fn new(watch: Rc<Watch<P>>, old: Rc<Leg<P>>, new: Rc<Leg<P>>, options: MigratingOptions) -> Rc<Self> {
        watch.migration.enter(options.turn, options.stage, options.pending);
        let options_truth = options.stage.truth();
        let migrating = Rc::new_cyclic(|me| Self {
            home: options_truth,
            is_exact: !old.upstream.is_translated() && !new.upstream.is_translated(),
            watch,
            old,
            new,
            options,
            comparisons: Rc::default(),
            open: Cell::new(0),
            pause: Cell::new(Duration::ZERO),
            paused_until: Cell::new(0),
            noted: RefCell::default(),
            failed: RefCell::default(),
            stuck: RefCell::default(),
            pins: RefCell::default(),
            seen_truth: Cell::new(options_truth),
            me: Weak::clone(me),
        });
        tokio::task::spawn_local(copier::work(Rc::downgrade(&migrating)));
        migrating
    }

    fn leg(&self, side: Side) -> &Rc<Leg<P>> {
        match side {
            Side::New => &self.new,
            Side::Old => &self.old,
        }
    }

    fn stage(&self) -> Stage {
        self.watch.migration.stage()
    }

    /// Whether there is anything to look after.
    fn is_watching(&self, stage: Stage) -> bool {
        stage.is_between() || self.watch.migration.pending.len() > 0
    }

    /// Whether call `at` may go to the truth now. What it has to wait for is begun.
    fn gate(&self, stage: Stage, batch: &Batch<'_, P>, at: usize) -> Gate {
        let (Some(call), Some(head)) = (batch.calls.get(at), batch.heads.get(at)) else { return Gate::Open };
        let mut gate = Gate::Open;
        let mut has_keys = false;
        let keys = P::keys(head, batch.frame(at), &mut |key| {
            has_keys = true;
            // Each is looked at, so that all of them are on their way.
            match self.gate_of_key(stage, key, call.ticket.conn) {
                Gate::Open => {}
                Gate::Wait if gate != Gate::Open => {}
                other => gate = other,
            }
        });
        let is_traceable = keys == Keys::Known && (has_keys || !P::is_boundless(call.op));
        match gate {
            Gate::Open if stage.is_between() && !is_traceable => Gate::Refused(Refusal::Migrating),
            // Once the sides have parted, or before: nothing of the rest of the move may come behind it.
            Gate::Open if !is_traceable && self.watch.migration.pending.len() > 0 => {
                self.watch.wait(call.ticket.conn);
                Gate::Wait
            }
            gate => gate,
        }
    }

    fn gate_of_key(&self, stage: Stage, key: &[u8], conn: ConnKey) -> Gate {
        let pending = &self.watch.migration.pending;
        if pending.len() > 0 && pending.is_behind(key, stage.truth()) {
            self.watch.wait_for(key, conn);
            return Gate::Wait;
        }
        if stage != Stage::Backfill || self.watch.migration.is_swept() {
            return Gate::Open;
        }
        let now_micros = self.watch.junction.now_micros();
        if let Some(why) = self.failed.borrow().get(key, now_micros) {
            return Gate::Refused(why);
        }
        if self.open.get() >= self.options.window {
            self.watch.wait(conn);
            return Gate::Wait;
        }
        match pending.settle(key) {
            Settled::Begun => {
                self.watch.wait_for(key, conn);
                if let Some(me) = self.me.upgrade() {
                    me.fetch(key.into());
                }
                Gate::Wait
            }
            Settled::Wait => {
                self.watch.wait_for(key, conn);
                Gate::Wait
            }
            Settled::Yes => Gate::Open,
        }
    }

    /// Begins to follow what call `at` may change; the keys are kept until it is answered. With `is_long`, it may be answered
    /// in another stage.
    fn begin(&self, stage: Stage, batch: &Batch<'_, P>, at: usize, is_long: bool) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        let (Some(call), Some(head)) = (batch.calls.get(at), batch.heads.get(at)) else { return keys };
        if call.class != OpClass::Write || !stage.is_between() && !is_long {
            return keys;
        }
        let toward = stage.truth().other();
        P::keys(head, batch.frame(at), &mut |key| {
            let begun = match stage.is_between() {
                true => self.watch.migration.pending.begin(key, toward),
                false => Some(Key::from(key)).filter(|key| key.len() <= MAX_LONG_KEY),
            };
            match begun {
                Some(key) => keys.push(key),
                None if stage.is_between() => self.watch.migration.lose(),
                None => {}
            }
        });
        keys
    }

    fn cancel(&self, keys: &[Key]) {
        keys.iter().for_each(|key| self.watch.migration.pending.cancel(key));
    }

    /// A call that may have changed `keys` is under way; or they are changed when the transaction is carried out that it
    /// belongs to.
    fn follow(&self, call: &Call, bond: Bond, is_noted: bool, mut keys: Vec<Key>) {
        let mut noted = self.noted.borrow_mut();
        match bond {
            Bond::Queues => drop(noted.entry(call.ticket.conn).or_default()),
            Bond::Ends | Bond::Resets => keys.extend(noted.remove(&call.ticket.conn).unwrap_or_default()),
            _ if is_noted || noted.contains_key(&call.ticket.conn) => {
                return noted.entry(call.ticket.conn).or_default().append(&mut keys);
            }
            _ => {}
        }
        if !keys.is_empty() {
            self.watch.watch(call.ticket, Watched::Write(keys));
        }
    }

    /// As [`Migrating::follow`], where replies are not told apart from messages: the server is given time.
    fn follow_blindly(&self, keys: Vec<Key>) {
        if !keys.is_empty() {
            let watch = Rc::clone(&self.watch);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(UNCOUNTED).await;
                watch.written(&keys);
            });
        }
    }

    /// Compares the answer to call `at` with what the other side says, if it is one to be compared.
    fn shadow(&self, batch: &Batch<'_, P>, at: usize, cx: &SubmitCx<'_, P>) {
        let (Some(call), Some(head)) = (batch.calls.get(at), batch.heads.get(at)) else { return };
        if call.class != OpClass::Read
            || call.replies != ReplyCount::One
            || call.affinity != Affinity::Shared
            || self.comparisons.open.get() >= self.options.window
        {
            return;
        }
        let frame = batch.frame(at);
        let likeness = P::likeness(head, frame);
        if likeness == Likeness::None || frame.len() > MAX_COMPARED {
            return;
        }
        let pending = &self.watch.migration.pending;
        let (mut keys, mut is_chosen) = (Vec::<(Key, u32)>::new(), true);
        P::keys(head, frame, &mut |key| {
            if keys.is_empty() {
                is_chosen = spread(key) % 10_000 < self.options.share;
            }
            // The number comes first: what happens behind it is seen.
            let changes = pending.changes(key);
            is_chosen &= !pending.is_unsettled(key);
            keys.push((key.into(), changes));
        });
        if keys.is_empty() || !is_chosen {
            return;
        }
        let is_repairing = self.options.is_repairing;
        let shadow = Shadow::new(&self.watch, &self.comparisons, likeness, is_repairing, keys);
        self.watch.watch(call.ticket, Watched::Read(Rc::clone(&shadow)));
        let commission =
            Commission { peer: cx.peer.clone(), profile: cx.profile, timeout_ms: 1_000, is_strict: true };
        let then = Box::new(move |ended| shadow.shadowed(ended));
        self.watch.junction.send_copy(&self.new, frame.to_vec(), commission, then);
    }

    /// Sends calls to `side`, behind its filters.
    fn send(
        &self,
        side: Side,
        batch: &mut Batch<'_, P>,
        range: Range<usize>,
        cx: SubmitCx<'_, P>,
    ) -> Submitted {
        let leg = self.leg(side);
        let seen = Cx { now_micros: cx.now_micros, peer: cx.peer };
        let mut end = range.end;
        if leg.chain.is_some() {
            let Some(Ticket { conn, seq }) = batch.calls.get(range.start).map(|call| call.ticket) else {
                return Submitted::Pending(0);
            };
            let mut stuck = self.stuck.borrow_mut();
            let known = stuck
                .get(&conn)
                .copied()
                .filter(|(first, count, at)| *at == side && seq.wrapping_sub(*first) < *count);
            match known {
                Some((first, count, _)) => {
                    end = end.min(range.start + (count - seq.wrapping_sub(first)) as usize);
                }
                None => {
                    stuck.insert(conn, (seq, (end - range.start) as u32, side));
                    leg.filter(batch, range.clone(), &seen);
                }
            }
            let is_stopped =
                |at: &usize| batch.calls.get(*at).is_none_or(|call| call.verdict != Verdict::Forward);
            end = (range.start..end).find(is_stopped).unwrap_or(end);
            if end == range.start {
                return Submitted::Answered(1);
            }
        }
        // Lanes are the home side's; the other one is met while clients move, and has none.
        let mut own = Lane::default();
        if side != self.home && !cx.idle {
            return Submitted::Full;
        }
        let lane = if side == self.home { cx.lane } else { &mut own };
        let watch = Rc::clone(&self.watch) as Rc<dyn ReplySink<P>>;
        let sink = if leg.chain.is_some() { &leg.sink } else { &watch };
        let range = range.start..end;
        let submit = SubmitCx { sink, lane, ..cx };
        let submitted = leg.upstream.submit(batch, range.clone(), submit);
        match submitted {
            Submitted::Pending(count) => leg.metrics.calls(count),
            Submitted::Answered(count) | Submitted::Close(count) => {
                leg.metrics.calls(count);
                leg.show_answers(batch, range.start..range.start + count, &seen);
            }
            Submitted::Refused(count, why) => {
                leg.tell_refused(batch, range.start..range.start + count, why, &seen);
            }
            Submitted::Full => {}
        }
        let taken = match submitted {
            Submitted::Answered(count) | Submitted::Close(count) => count,
            Submitted::Pending(count) | Submitted::Refused(count, _) => count,
            Submitted::Full => 0,
        };
        if leg.chain.is_some()
            && taken == range.len()
            && let Some(call) = batch.calls.get(range.start)
        {
            self.stuck.borrow_mut().remove(&call.ticket.conn);
        }
        submitted
    }

    /// Sends calls to the truth, and follows what they change.
    fn send_watched(
        &self,
        stage: Stage,
        batch: &mut Batch<'_, P>,
        range: Range<usize>,
        cx: SubmitCx<'_, P>,
    ) -> Submitted {
        let begun: Vec<Vec<Key>> = range.clone().map(|at| self.begin(stage, batch, at, false)).collect();
        // The stage may have changed before the keys were seen to be written.
        if self.stage().truth() != stage.truth() {
            begun.iter().for_each(|keys| self.cancel(keys));
            if let Some(call) = batch.calls.get(range.start) {
                self.watch.wait(call.ticket.conn);
            }
            return Submitted::Full;
        }
        if stage == Stage::ShadowRead {
            range.clone().for_each(|at| self.shadow(batch, at, &cx));
        }
        let submitted = self.send(stage.truth(), batch, range.clone(), cx);
        for (at, keys) in range.clone().zip(begun) {
            let index = at - range.start;
            let Some(call) = batch.calls.get(at).copied() else { continue };
            let bond = batch.heads.get(at).map_or(Bond::None, P::bond);
            match submitted {
                Submitted::Pending(count) if index < count => self.follow(&call, bond, false, keys),
                Submitted::Answered(count) | Submitted::Close(count)
                    if index < count && !matches!(call.verdict, Verdict::Refuse(_)) =>
                {
                    self.follow(&call, bond, false, keys);
                    if let Verdict::Answered(span) = call.verdict {
                        self.watch.answered_here(call.ticket, span.of(batch.wire, batch.local));
                    }
                }
                _ => {
                    self.watch.forget(call.ticket);
                    self.cancel(&keys);
                }
            }
        }
        submitted
    }

    /// The side that a dedicated connection leads to.
    fn side_of(&self, connection: &Connection<P>) -> Option<Side> {
        [Side::Old, Side::New].into_iter().find(|side| self.leg(*side).upstream.owns(connection))
    }

    fn owner(&self, connection: &Connection<P>) -> Option<&Rc<Leg<P>>> {
        self.side_of(connection).map(|side| self.leg(side))
    }
}

impl<P: Copies> Upstream<P> for Migrating<P> {
    fn submit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: SubmitCx<'_, P>) -> Submitted {
        let stage = self.stage();
        if !self.is_watching(stage) {
            return self.send(stage.truth(), batch, range, cx);
        }
        let mut end = range.start;
        for at in range.clone().take(LOOK_AHEAD) {
            match self.gate(stage, batch, at) {
                Gate::Open if at == end => end += 1,
                // Behind one that waits: its key is on its way meanwhile.
                Gate::Open | Gate::Wait => {}
                Gate::Refused(why) if at == range.start => {
                    if let Some(call) = batch.calls.get_mut(at) {
                        call.verdict = Verdict::Refuse(why);
                    }
                    return Submitted::Answered(1);
                }
                Gate::Refused(_) => break,
            }
        }
        if end == range.start {
            return Submitted::Full;
        }
        self.send_watched(stage, batch, range.start..end, cx)
    }

    /// The side that answers tells what an operation is; the other one may be of another kind, or gone.
    fn recognise(&self, batch: &mut Batch<'_, P>, from: usize, sink: &Rc<dyn ReplySink<P>>) -> bool {
        self.leg(self.stage().truth()).upstream.recognise(batch, from, sink)
    }

    fn is_ready(&self, sink: &Rc<dyn ReplySink<P>>, wish: &Wish<'_>) -> bool {
        let stage = self.stage();
        if let Some(key) = wish.key.filter(|key| !key.is_empty())
            && self.is_watching(stage)
            && self.gate_of_key(stage, key, wish.conn) == Gate::Wait
        {
            return false;
        }
        self.leg(stage.truth()).upstream.is_ready(sink, wish)
    }

    fn pin(&self, wish: &Wish<'_>) -> Result<Rc<Connection<P>>, Refusal> {
        let side = self.stage().truth();
        let own = Lane::default();
        let lane = if side == self.home { wish.lane } else { &own };
        let connection = self.leg(side).upstream.pin(&Wish { lane, ..*wish })?;
        let mut pins = self.pins.borrow_mut();
        if pins.len() >= 64 && pins.len().is_power_of_two() {
            pins.retain(|pin| pin.strong_count() > 0);
        }
        pins.push(Rc::downgrade(&connection));
        Ok(connection)
    }

    fn owns(&self, connection: &Connection<P>) -> bool {
        self.side_of(connection).is_some()
    }

    fn shape(&self, connection: &Connection<P>, batch: &mut Batch<'_, P>, at: usize, cx: &Cx<'_>) {
        let Some(leg) = self.owner(connection) else { return };
        leg.metrics.calls(1);
        let stage = self.stage();
        let keys = self.begin(stage, batch, at, true);
        leg.filter(batch, at..at + 1, cx);
        let Some(call) = batch.calls.get(at).copied() else { return };
        if call.verdict != Verdict::Forward {
            return self.cancel(&keys);
        }
        if call.affinity == Affinity::Raw || batch.session.is_listening() {
            return self.follow_blindly(keys);
        }
        let bond = batch.heads.get(at).map_or(Bond::None, P::bond);
        self.follow(&call, bond, batch.session.is_noted(), keys);
    }

    fn taker(&self, connection: &Connection<P>, _conn: ConnKey) -> Option<Rc<dyn ReplySink<P>>> {
        let leg = self.owner(connection)?;
        Some(if leg.chain.is_some() { Rc::clone(&leg.sink) } else { Rc::clone(&self.watch) as _ })
    }

    fn may_go(&self, connection: &Connection<P>, batch: &Batch<'_, P>, at: usize) -> bool {
        let stage = self.stage();
        let is_waiting = self.is_watching(stage) && self.gate(stage, batch, at) == Gate::Wait;
        !is_waiting && self.owner(connection).is_none_or(|leg| leg.upstream.may_go(connection, batch, at))
    }

    fn sees_to(&self, batch: &Batch<'_, P>, at: usize) -> bool {
        self.leg(self.stage().truth()).upstream.sees_to(batch, at)
    }

    fn fits(&self, connection: &Connection<P>, batch: &Batch<'_, P>, at: usize) -> Result<(), Refusal> {
        let stage = self.stage();
        let Some(side) = self.side_of(connection) else { return Ok(()) };
        if side != stage.truth() {
            return Err(Refusal::Moved);
        }
        // What is copied is the database that the cluster's connections have.
        let database = batch.heads.get(at).and_then(|head| P::database(head, batch.frame(at)));
        if database.is_some_and(|database| database != 0) {
            return Err(Refusal::Migrating);
        }
        if self.is_watching(stage)
            && let Gate::Refused(why) = self.gate(stage, batch, at)
        {
            return Err(why);
        }
        self.leg(side).upstream.fits(connection, batch, at)
    }

    fn settle(
        &self,
        connection: &Rc<Connection<P>>,
        owner: (Rc<dyn ReplySink<P>>, ConnKey),
        key: &[u8],
    ) -> Result<Option<Rc<Connection<P>>>, Refusal> {
        self.owner(connection).map_or(Ok(None), |leg| leg.upstream.settle(connection, owner, key))
    }

    fn waits_for_key(&self) -> bool {
        self.old.upstream.waits_for_key() || self.new.upstream.waits_for_key()
    }

    fn beside(&self, connection: &Connection<P>) -> Option<Rc<Connection<P>>> {
        self.owner(connection)?.upstream.beside(connection)
    }

    fn unpin(&self, connection: Rc<Connection<P>>, clean: bool) {
        match self.owner(&connection) {
            Some(leg) => leg.upstream.unpin(connection, clean),
            None => connection.close(),
        }
    }

    fn is_translated(&self) -> bool {
        self.old.upstream.is_translated() && self.new.upstream.is_translated()
    }

    fn is_timed_by_session(&self) -> bool {
        self.old.upstream.is_timed_by_session() || self.new.upstream.is_timed_by_session()
    }

    fn is_waiting(&self, conn: ConnKey) -> bool {
        self.old.upstream.is_waiting(conn) || self.new.upstream.is_waiting(conn)
    }

    fn unblock(&self, conn: ConnKey, with_error: bool) -> bool {
        self.old.upstream.unblock(conn, with_error) || self.new.upstream.unblock(conn, with_error)
    }

    fn forget(&self, conn: ConnKey) {
        // A transaction that was never carried out may have been, as far as anybody here knows.
        let noted = self.noted.borrow_mut().remove(&conn);
        self.watch.written(&noted.unwrap_or_default());
        self.stuck.borrow_mut().remove(&conn);
        self.old.upstream.forget(conn);
        self.new.upstream.forget(conn);
    }
}
