//! What the tests of this crate share.

use mecha_core::{ConnKey, OpId, Outcome, Refusal, Ticket};
use mecha_resp::Resp;

use crate::{Delivery, ReplySink, Slip};

/// Takes everything and does nothing.
pub(crate) struct Deaf;

impl ReplySink<Resp> for Deaf {
    fn deliver(&self, _: ConnKey, _: Delivery<'_, Resp>) {}
    fn more(&self, _: ConnKey, _: u32, _: &[u8], _: Option<(Slip, Outcome, u32)>) {}
    fn answered(&self, _: Ticket, _: OpId, _: &[u8], _: Outcome, _: u64) {}
    fn fail(&self, _: ConnKey, _: u32, _: &[Slip], _: Refusal, _: bool) {}
    fn push(&self, _: ConnKey, _: &[u8]) {}
    fn unpinned(&self, _: ConnKey) {}
    fn resume(&self, _: ConnKey) {}
    fn flush(&self, _: u64) -> Option<ConnKey> {
        None
    }
    fn is_choking(&self, _: ConnKey, _: u64) -> bool {
        false
    }
}
