//! Calls whose parts are under way.

use std::rc::Rc;

use mecha_core::{ConnKey, Framed, Refusal, Ticket};

use super::{Entrance, Gathered, Scan};
use crate::moves::{Moves, SlotSet};
use crate::pubsub::Census;
use crate::{Connection, Slip};

/// One call and the replies that its parts have got so far.
pub(super) struct Gather<P: Framed> {
    /// Who waits, and for which answer.
    pub(super) ticket: Ticket,
    pub(super) slip: Slip,
    pub(super) profile: u8,
    pub(super) frame: Vec<u8>,
    pub(super) replies: Vec<Vec<u8>>,
    pub(super) places: Vec<u32>,
    pub(super) at: usize,
    pub(super) next: Option<usize>,
    pub(super) first: usize,
    pub(super) entrance: Entrance,
    /// The servers that are asked who listens to what, and the client's address.
    pub(super) listened: Option<(Vec<usize>, Option<u16>)>,
    /// What servers are known to hold, where that is asked.
    pub(super) held: Vec<SlotSet>,
    /// Dedicated connections, to be given back.
    pub(super) pins: Vec<Rc<Connection<P>>>,
    /// Parts that are not over.
    pub(super) missing: usize,
    /// Why parts got no reply, and how many.
    pub(super) failed: Option<(Refusal, usize)>,
    pub(super) is_too_large: bool,
    pub(super) sent_micros: u64,
}

impl<P: Framed> Gather<P> {
    pub(super) fn gathered<'a>(&'a self, moves: Option<&'a Moves>, census: &'a Census) -> Gathered<'a> {
        Gathered {
            op: self.slip.op,
            frame: &self.frame,
            replies: &self.replies,
            places: &self.places,
            entrance: self.entrance,
            census: self.listened.as_ref().map(|(positions, part)| census.asked(positions, *part)),
            scan: Scan { at: self.at, next: self.next, first: self.first, moves, held: &self.held },
        }
    }

    /// Drops the bytes that were collected, and returns how many.
    pub(super) fn clear(&mut self) -> usize {
        self.replies.iter_mut().map(|reply| std::mem::take(reply).len()).sum()
    }
}

/// All of them, by a key whose epoch tells a reply that is late from one that is expected.
pub(super) struct Gathers<P: Framed> {
    slots: Vec<(u32, Option<Gather<P>>)>,
    free: Vec<u32>,
}

impl<P: Framed> Default for Gathers<P> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<P: Framed> Gathers<P> {
    pub(super) fn open(&mut self, gather: Gather<P>) -> ConnKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let mut epoch = 0;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.1 = Some(gather);
            epoch = slot.0;
        }
        ConnKey { index, epoch }
    }

    pub(super) fn get(&mut self, conn: ConnKey) -> Option<&mut Gather<P>> {
        let (epoch, gather) = self.slots.get_mut(conn.index as usize)?;
        gather.as_mut().filter(|_| *epoch == conn.epoch)
    }

    pub(super) fn close(&mut self, conn: ConnKey) -> Option<Gather<P>> {
        let (epoch, gather) = self.slots.get_mut(conn.index as usize).filter(|slot| slot.0 == conn.epoch)?;
        let gather = gather.take()?;
        *epoch = epoch.wrapping_add(1);
        self.free.push(conn.index);
        Some(gather)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reply_finds_nobody_when_the_slot_has_a_new_tenant() {
        let gather = || Gather::<mecha_resp::Resp> {
            ticket: Ticket::default(),
            slip: Slip::of(mecha_core::OpId(1)),
            profile: 0,
            frame: Vec::new(),
            replies: vec![b"abc".to_vec(), b"de".to_vec()],
            places: Vec::new(),
            at: 0,
            next: None,
            first: 0,
            entrance: Entrance::default(),
            listened: None,
            held: Vec::new(),
            pins: Vec::new(),
            missing: 2,
            failed: None,
            is_too_large: false,
            sent_micros: 0,
        };
        let mut gathers = Gathers::default();
        let old = gathers.open(gather());
        assert_eq!(gathers.close(old).unwrap().clear(), 5);
        let new = gathers.open(gather());
        assert_eq!(
            (new.index, gathers.get(old).is_none(), gathers.close(old).is_none()),
            (old.index, true, true)
        );
        assert!(gathers.get(new).is_some());
    }
}
