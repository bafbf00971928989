//! What a dedicated connection knows of its one client: enough to be exchanged for one to another server.
//!
//! Until the client has got an answer, nothing has been built up on the connection, so another one serves as well: what
//! stood before the first call (the *preamble*) is said there too, and the call follows.
//!
//! A transaction is built up, but its commands are only *noted* by the server before the last one. As long as that is so,
//! each noted command becomes part of the preamble, and the whole transaction can be moved: nothing of it has run. Its
//! client may send without waiting, since what it has sent behind a command that must go elsewhere goes there too; the
//! server that was left fails the transaction, if it gets as far.

use std::rc::Rc;

use mecha_core::{ConnKey, Framed};

use super::{Connection, Inner};
use crate::ReplySink;
use crate::detour::Detour;

/// Bytes of a transaction that can still be moved.
const MAX_PREAMBLE: usize = 1 << 20;

/// The state of one client's tenancy.
#[derive(Clone, Default)]
pub(super) struct Tenancy {
    /// The client has got an answer that binds it to this connection.
    has_answered: bool,
    /// What was said before the calls in flight, and the number of replies to it.
    preamble: (Vec<u8>, u32),
    /// Where in the preamble the transaction starts, if calls are only noted.
    noted_from: Option<usize>,
    /// The call in flight ends that.
    is_committing: bool,
    /// The slot of the client's first key.
    slot: Option<u16>,
    /// Another connection is about to take this one's place.
    is_moving: bool,
    /// The server has sent a part of the preamble away.
    pub(super) is_spoiled: bool,
}

// === impl Connection: the one client of a dedicated one ===

impl<P: Framed> Connection<P> {
    pub(crate) fn is_dedicated(&self) -> bool {
        self.is_dedicated
    }

    /// A client gets this dedicated connection, with a key in this slot.
    pub(crate) fn begin_pin(&self, slot: Option<u16>) {
        self.inner.borrow_mut().tenancy = Tenancy { slot, ..Tenancy::default() };
    }

    /// Appends what stands before the client's first call; its `replies` answers are dropped. With `noted`, that many of
    /// its last bytes start a transaction. If the connection is exchanged for another one, that one is told too.
    pub fn submit_preamble(&self, bytes: &[u8], replies: u32, noted: usize) {
        if !bytes.is_empty() {
            let mut inner = self.inner.borrow_mut();
            inner.tenancy.preamble = (bytes.to_vec(), replies);
            inner.tenancy.noted_from = (noted > 0).then(|| bytes.len().saturating_sub(noted));
            drop(inner);
            self.tell_aside(bytes, replies);
        }
    }

    /// The client's next call is the last that the server does not carry out before it has seen it.
    pub fn commit(&self) {
        self.inner.borrow_mut().tenancy.is_committing = true;
    }

    /// Whether this dedicated connection may still be exchanged for one to another server, but only while one call is in
    /// flight.
    pub fn may_move(&self) -> bool {
        let inner = self.inner.borrow();
        self.follower.is_some() && !inner.tenancy.has_answered && inner.tenancy.noted_from.is_none()
    }

    /// Whether another connection is about to take this one's place, so that nothing may be submitted here.
    pub fn is_moving(&self) -> bool {
        self.inner.borrow().tenancy.is_moving
    }

    /// Whether a transaction is being noted whose commands have had no key so far.
    pub fn is_unsettled(&self) -> bool {
        let inner = self.inner.borrow();
        self.follower.is_some() && inner.tenancy.noted_from.is_some() && inner.tenancy.slot.is_none()
    }

    /// The slot that the client's keys must be in, while a transaction is being noted.
    pub(crate) fn noted_slot(&self) -> Option<u16> {
        let inner = self.inner.borrow();
        inner.tenancy.noted_from.and(inner.tenancy.slot)
    }

    pub(crate) fn pinned_slot(&self) -> Option<u16> {
        self.inner.borrow().tenancy.slot
    }

    pub(crate) fn settle(&self, slot: u16) {
        self.inner.borrow_mut().tenancy.slot = Some(slot);
    }

    /// Whether the client of this dedicated connection has got an answer on it, so that it is bound to it.
    pub fn has_answered(&self) -> bool {
        self.inner.borrow().tenancy.has_answered
    }

    /// Nothing more may be submitted: another connection takes this one's place.
    pub(crate) fn begin_move(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.tenancy.is_moving = true;
        inner.owner = None;
    }

    /// Takes the place of `from`, another dedicated connection. With `is_ask`, the server is told that the transaction
    /// was sent to it. Returns whether it was, or need not be.
    pub(crate) fn take_over(
        &self,
        from: &Self,
        owner: (Rc<dyn ReplySink<P>>, ConnKey),
        is_ask: bool,
    ) -> bool {
        from.begin_move();
        self.identify(from.whoami());
        let mut tenancy = from.inner.borrow().tenancy.clone();
        (tenancy.is_moving, tenancy.is_spoiled) = (false, false);
        let (bytes, replies) = &tenancy.preamble;
        let (before, noted) = bytes.split_at(tenancy.noted_from.unwrap_or(bytes.len()).min(bytes.len()));
        let mut said = before.to_vec();
        let is_asked = is_ask && tenancy.noted_from.is_some();
        if is_asked {
            P::asking(&mut said);
        }
        said.extend_from_slice(noted);
        if !said.is_empty() {
            self.tell_aside(&said, replies + u32::from(is_asked));
        }
        let mut inner = self.inner.borrow_mut();
        (inner.tenancy, inner.owner) = (tenancy, Some(owner));
        is_asked || !is_ask
    }
}

impl<P: Framed> Inner<P> {
    /// `count` calls of the client were answered, whose frames are still kept; with `is_unasked`, ones that it does not know
    /// of.
    pub(super) fn note(&mut self, count: usize, is_unasked: bool) {
        if count == 0 || self.tenancy.has_answered || is_unasked && self.tenancy.noted_from.is_none() {
            return;
        }
        let is_over = self.tenancy.is_committing && self.runs.len() == 0;
        if self.tenancy.noted_from.is_none() || is_over {
            (self.tenancy.has_answered, self.tenancy.noted_from) = (true, None);
            return;
        }
        let (bytes, replies) = &mut self.tenancy.preamble;
        self.kept.frames().take(count).for_each(|frame| bytes.extend_from_slice(frame));
        *replies += count as u32;
        if bytes.len() > MAX_PREAMBLE {
            (self.tenancy.has_answered, self.tenancy.noted_from) = (true, None);
        }
    }

    /// Whether the client is bound to this connection.
    pub(super) fn is_bound(&self) -> bool {
        self.tenancy.has_answered
    }

    /// Takes what the client has sent behind a call that must go elsewhere; `None` if that cannot be done.
    pub(super) fn take_behind(&mut self) -> Option<Vec<Detour<P>>> {
        let count = self.runs.len();
        if count == 0 {
            return Some(Vec::new());
        }
        // A request that makes the server fail the transaction is nobody's call, and must not get lost.
        let is_plain = self.runs.iter().all(|run| !run.is_abandoned) && self.kept.is_whole();
        if self.tenancy.noted_from.is_none() || !is_plain {
            return None;
        }
        let frames: Vec<_> = self.kept.frames().map(<[u8]>::to_vec).collect();
        self.kept.answered(count);
        Some(self.runs.take_last(count, frames.into_iter()))
    }
}
