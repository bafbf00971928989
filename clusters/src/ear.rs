//! Listening to servers: connections on which they speak without being asked.

use std::rc::Weak;

use mecha_core::{ConnKey, Framed, OpId, Outcome, Refusal, Ticket};

use crate::{Delivery, ReplySink, Slip};

/// Somebody who wants to know when servers have come or gone.
pub(crate) trait Watches {
    fn members_changed(&self);
}

/// Somebody who has connections on which servers speak without being asked. A key names one of them: its index is the
/// server's position.
pub(crate) trait Hears {
    /// These bytes have come.
    fn heard(&self, link: ConnKey, bytes: &[u8]);

    /// The connection is gone.
    fn lost(&self, link: ConnKey);

    /// All bytes of one read have been heard.
    fn flush(&self, now_micros: u64);
}

/// What such connections talk to. Does not keep who hears alive.
pub(crate) struct Ear<H>(Weak<H>);

impl<H> Ear<H> {
    pub(crate) fn new(hearer: Weak<H>) -> Self {
        Self(hearer)
    }
}

impl<P: Framed, H: Hears> ReplySink<P> for Ear<H> {
    /// Nothing is asked for that would be delivered.
    fn deliver(&self, _conn: ConnKey, _delivery: Delivery<'_, P>) {}

    fn more(&self, _conn: ConnKey, _seq: u32, _bytes: &[u8], _done: Option<(Slip, Outcome, u32)>) {}

    fn answered(&self, _ticket: Ticket, _op: OpId, _bytes: &[u8], _outcome: Outcome, _now_micros: u64) {}

    fn fail(&self, _conn: ConnKey, _first: u32, _slips: &[Slip], _why: Refusal, _broken: bool) {}

    fn push(&self, conn: ConnKey, bytes: &[u8]) {
        if let Some(hearer) = self.0.upgrade() {
            hearer.heard(conn, bytes);
        }
    }

    fn unpinned(&self, conn: ConnKey) {
        if let Some(hearer) = self.0.upgrade() {
            hearer.lost(conn);
        }
    }

    fn resume(&self, _conn: ConnKey) {}

    fn flush(&self, now_micros: u64) -> Option<ConnKey> {
        if let Some(hearer) = self.0.upgrade() {
            hearer.flush(now_micros);
        }
        None
    }

    fn is_choking(&self, _conn: ConnKey, _now_micros: u64) -> bool {
        false
    }
}
