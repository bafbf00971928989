//! What a listener with routes remembers of each client.

use mecha_core::{ConnKey, Peer};

use crate::Lane;

/// One client.
pub(super) struct Guest {
    epoch: u32,
    pub(super) peer: Peer,
    /// Where its shared calls go, on each route.
    pub(super) lanes: Box<[Lane]>,
    /// The route of its last call.
    pub(super) last: usize,
    /// The route of its dedicated connection, while it has one.
    pub(super) pinned: usize,
    /// Calls whose route is settled, and which the route's filters have seen, but that found no room.
    stuck: Option<Stuck>,
    pub(super) bond: Bond,
    /// Calls under way that nothing of this client may overtake, and that may overtake nothing.
    pub(super) barriers: u32,
}

/// What binds the calls of a client that no dedicated connection binds: translated transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bond {
    pub(super) is_queueing: bool,
    pub(super) is_watching: bool,
    /// Set by the first key.
    pub(super) route: Option<usize>,
}

impl Bond {
    pub(super) fn is_there(&self) -> bool {
        self.is_queueing || self.is_watching
    }
}

#[derive(Clone, Copy)]
struct Stuck {
    first: u32,
    count: u32,
    route: usize,
}

impl Guest {
    /// The route of call `seq`, if that is settled, and of how many more behind it.
    pub(super) fn stuck_at(&self, seq: u32) -> Option<(usize, usize)> {
        let stuck = self.stuck.as_ref()?;
        let passed = seq.wrapping_sub(stuck.first);
        (passed < stuck.count).then(|| (stuck.route, (stuck.count - passed) as usize))
    }

    /// The route of `count` calls from `seq` on is settled.
    pub(super) fn settle(&mut self, seq: u32, count: usize, route: usize) {
        self.stuck = Some(Stuck { first: seq, count: count as u32, route });
    }
}

/// All of them, where the engine has them.
#[derive(Default)]
pub(super) struct Guests(Vec<Option<Guest>>);

impl Guests {
    pub(super) fn get(&mut self, conn: ConnKey) -> Option<&mut Guest> {
        self.0.get_mut(conn.index as usize)?.as_mut().filter(|guest| guest.epoch == conn.epoch)
    }

    /// The client, made on its first call.
    pub(super) fn of(&mut self, conn: ConnKey, routes: usize, peer: &Peer) -> &mut Guest {
        let index = conn.index as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        let place = &mut self.0[index];
        if place.as_ref().is_some_and(|guest| guest.epoch != conn.epoch) {
            *place = None;
        }
        let guest = place.get_or_insert_with(|| Guest {
            epoch: conn.epoch,
            peer: peer.clone(),
            lanes: vec![Lane::default(); routes].into(),
            last: 0,
            pinned: routes.saturating_sub(1),
            stuck: None,
            bond: Bond::default(),
            barriers: 0,
        });
        if guest.peer.user != peer.user {
            // It has logged in since.
            guest.peer.clone_from(peer);
        }
        guest
    }

    pub(super) fn forget(&mut self, conn: ConnKey) {
        if self.get(conn).is_some()
            && let Some(place) = self.0.get_mut(conn.index as usize)
        {
            *place = None;
        }
    }
}
