//! A second cluster that gets copies of calls. Nobody waits for it.
//!
//! What is copied is chosen by key, so that a share of the keys is mirrored whole, its reads and its writes; calls
//! without keys are chosen evenly. At most so many copies are unanswered at one time; when there is no room they are not
//! made, and counted. Nothing of a mirror ever makes a client wait: a copy is appended to an outbox or dropped.
//!
//! Deliberately absent: copies of what goes to dedicated connections (transactions, blocking commands, subscriptions).

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use mecha_core::{Batch, Call, ConnKey, Cx, OpClass, Outcome, Peer, Session, Ticket, Verdict};

use super::junction::Junction;
use super::leg::Leg;
use crate::scatter::Rules;
use crate::{Lane, ReplySink, SubmitCx, Submitted};

/// What is copied.
#[derive(Clone, Copy, Debug)]
pub struct MirrorOptions {
    /// Of ten thousand keys, so many.
    pub share: u32,
    /// Only calls of this class; without it reads, writes and administration.
    pub class: Option<OpClass>,
    /// Unanswered copies at one time.
    pub window: u32,
}

/// See the module.
pub struct Mirror<P: Rules> {
    leg: Rc<Leg<P>>,
    options: MirrorOptions,
    sink: Rc<dyn ReplySink<P>>,
    conn: Cell<ConnKey>,
    peer: RefCell<Peer>,
    lane: Cell<Lane>,
    next: Cell<u32>,
    in_flight: Cell<u32>,
    /// For calls without keys: how far the share has come.
    owed: Cell<u32>,
    copies: RefCell<Vec<Call>>,
}

// === impl Mirror ===

impl<P: Rules> Mirror<P> {
    /// Copies to `leg`.
    pub fn new(junction: &Rc<Junction<P>>, leg: Rc<Leg<P>>, options: MirrorOptions) -> Rc<Self> {
        let sink = if leg.chain.is_some() {
            Rc::clone(&leg.sink)
        } else {
            Rc::clone(junction) as Rc<dyn ReplySink<P>>
        };
        let peer = Peer { id: 0, addr: None, local: None, identity: None, user: None };
        let mirror = Rc::new(Self {
            leg,
            options,
            sink,
            conn: Cell::default(),
            peer: RefCell::new(peer),
            lane: Cell::default(),
            next: Cell::new(0),
            in_flight: Cell::new(0),
            owed: Cell::new(0),
            copies: RefCell::default(),
        });
        mirror.conn.set(junction.place_of(&mirror));
        mirror
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer.borrow().clone()
    }

    /// Copies those of `range` that are to be copied. The calls are under way, or answered.
    pub(super) fn copy(&self, batch: &mut Batch<'_, P>, range: Range<usize>, profile: u8, cx: &Cx<'_>) {
        let Ok(mut copies) = self.copies.try_borrow_mut() else { return };
        copies.clear();
        copies.extend_from_slice(batch.calls.get(range.clone()).unwrap_or_default());
        let mut at = 0;
        while at < copies.len() {
            let is_chosen = |index: usize| self.is_chosen(batch, range.start + index);
            if !is_chosen(at) {
                at += 1;
                continue;
            }
            let room = self.options.window.saturating_sub(self.in_flight.get()) as usize;
            let mut end = at + 1;
            while end < copies.len() && end - at < room && is_chosen(end) {
                end += 1;
            }
            if room == 0 {
                self.leg.metrics.mirror_lost(end - at);
            } else {
                let heads = range.start + at..range.start + end;
                let calls = copies.get_mut(at..end).unwrap_or_default();
                self.submit(batch, heads, calls, profile, cx);
            }
            at = end;
        }
    }

    /// Submits copies of neighbours. All of them, or what the upstream takes of them: the rest is lost.
    fn submit(
        &self,
        batch: &mut Batch<'_, P>,
        range: Range<usize>,
        calls: &mut [Call],
        profile: u8,
        cx: &Cx<'_>,
    ) {
        let first = self.next.get();
        for (seq, call) in (first..=u32::MAX).chain(0..).zip(calls.iter_mut()) {
            call.ticket = Ticket { conn: self.conn.get(), seq };
            call.verdict = Verdict::Forward;
        }
        let length = batch.local.len();
        let mut session = P::Session::of_profile(profile);
        let mut lane = self.lane.get();
        let total = calls.len();
        let heads = batch.heads.get_mut(range).unwrap_or_default();
        // The filters of the mirror's cluster may rewrite heads; the batch's own must stay.
        let mut own;
        let heads = if self.leg.chain.is_some() {
            own = heads.to_vec();
            own.as_mut_slice()
        } else {
            heads
        };
        let mut piece = Batch { wire: batch.wire, local: batch.local, heads, calls, session: &mut session };
        self.leg.filter(&mut piece, 0..total, cx);
        let (mut at, mut sent) = (0, 0);
        while at < total {
            if piece.calls.get(at).is_none_or(|call| call.verdict != Verdict::Forward) {
                at += 1;
                continue;
            }
            let is_open = |call: &Call| call.verdict == Verdict::Forward;
            let rest = piece.calls.get(at..).unwrap_or_default();
            let end = at + rest.iter().position(|call| !is_open(call)).unwrap_or(rest.len());
            let submit = SubmitCx {
                sink: &self.sink,
                lane: &mut lane,
                idle: self.in_flight.get() == 0,
                peer: cx.peer,
                now_micros: cx.now_micros,
                profile,
            };
            match self.leg.upstream.submit(&mut piece, at..end, submit) {
                Submitted::Pending(count) => {
                    self.in_flight.set(self.in_flight.get() + count as u32);
                    sent += count;
                    at += count.max(1);
                }
                Submitted::Answered(count) | Submitted::Close(count) => {
                    sent += count;
                    at += count.max(1);
                }
                Submitted::Refused(count, _) => at += count.max(1),
                // Nobody waits: what would have to is lost.
                Submitted::Full => break,
            }
        }
        self.lane.set(lane);
        self.next.set(first.wrapping_add(total as u32));
        batch.local.truncate(length);
        self.leg.metrics.calls(sent);
        self.leg.metrics.mirror_lost(total - sent);
    }

    fn is_chosen(&self, batch: &Batch<'_, P>, at: usize) -> bool {
        let (Some(call), Some(head)) = (batch.calls.get(at), batch.heads.get(at)) else { return false };
        let is_wanted = match self.options.class {
            Some(class) => call.class == class,
            None => call.class != OpClass::Session,
        };
        if !is_wanted {
            return false;
        }
        match P::key(head, batch.frame(at)) {
            Some(key) => spread(key) % 10_000 < self.options.share,
            None => {
                let owed = self.owed.get() + self.options.share;
                self.owed.set(owed % 10_000);
                owed >= 10_000
            }
        }
    }

    /// Copies were answered, or will never be.
    pub(super) fn ended(&self, outcomes: impl Iterator<Item = Outcome>) {
        let (mut count, mut lost, mut failed) = (0, 0, 0);
        for outcome in outcomes {
            count += 1;
            match outcome {
                Outcome::Refused(_) => lost += 1,
                Outcome::ServerError => failed += 1,
                Outcome::ClientError | Outcome::Ok => {}
            }
        }
        self.in_flight.set(self.in_flight.get().saturating_sub(count));
        self.leg.metrics.mirror_lost(lost);
        self.leg.metrics.mirror_failed(failed);
    }
}

/// FNV-1a with the bits mixed, so that keys that differ at their end only are spread too.
pub(super) fn spread(key: &[u8]) -> u32 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(17) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_keys_is_chosen_and_always_the_same() {
        let chosen =
            (0..10_000).filter(|number| spread(format!("user:{number}").as_bytes()) % 10_000 < 2_500);
        let count = chosen.count();
        assert!((2_300..2_700).contains(&count), "{count}");
    }
}
