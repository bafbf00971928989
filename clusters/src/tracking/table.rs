//! Who must hear of which keys. No I/O.

use std::collections::HashMap;
use std::rc::Rc;

use mecha_core::{ConnKey, OpId, Ticket, kind_of};
use mecha_resp::Resp;
use mecha_resp::tracking::Tracking;

use crate::ReplySink;

/// What a key takes besides its bytes, and what a client that has read it takes.
const KEY: usize = 64;
const READER: usize = std::mem::size_of::<ConnKey>();
/// Keys that are forgotten at once.
const AT_ONCE: usize = 64;

/// One client.
pub(super) struct Tracker {
    pub(super) sink: Rc<dyn ReplySink<Resp>>,
    /// 0 for version 2 of the protocol, in which nothing can be told.
    pub(super) profile: u8,
    pub(super) tracking: Tracking,
    /// The client has said something of its next reads.
    pub(super) is_chosen: bool,
    /// What it reads is carried out later.
    pub(super) is_queuing: bool,
    /// Its last call that may have read something it keeps.
    pub(super) last_read: Option<u32>,
    /// The command that waits for servers.
    pub(super) pending: Option<(Ticket, OpId)>,
}

/// All clients, and the keys that they have read.
#[derive(Default)]
pub(super) struct Table {
    pub(super) trackers: HashMap<ConnKey, Tracker>,
    /// Those of them in broadcast mode, who are looked at for every key that changes.
    broadcasts: Vec<ConnKey>,
    readers: HashMap<Box<[u8]>, Vec<ConnKey>>,
    bytes: usize,
}

/// Message for one client: behind which call, if any.
pub(super) struct Notice {
    pub(super) conn: ConnKey,
    pub(super) behind: Option<u32>,
    pub(super) sink: Rc<dyn ReplySink<Resp>>,
}

// === impl Tracker ===

impl Tracker {
    fn notice(&self, conn: ConnKey) -> Option<Notice> {
        let may_hear = kind_of(self.profile) > 0 && self.pending.is_none();
        may_hear.then(|| Notice { conn, behind: self.last_read, sink: Rc::clone(&self.sink) })
    }
}

// === impl Table ===

impl Table {
    /// A client wants to hear of keys.
    pub(super) fn enter(&mut self, conn: ConnKey, tracker: Tracker) {
        if tracker.tracking.is_broadcast {
            self.broadcasts.push(conn);
        }
        self.trackers.insert(conn, tracker);
    }

    /// The client `conn` has read `key`.
    pub(super) fn note(&mut self, conn: ConnKey, key: &[u8]) {
        if let Some(readers) = self.readers.get_mut(key) {
            if !readers.contains(&conn) {
                readers.push(conn);
                self.bytes += READER;
            }
            return;
        }
        self.bytes += key.len() + KEY + READER;
        self.readers.insert(key.into(), vec![conn]);
    }

    /// What is remembered takes so much.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Some keys that are remembered.
    pub(super) fn some_keys(&self) -> Vec<Box<[u8]>> {
        self.readers.keys().take(AT_ONCE).cloned().collect()
    }

    /// Clients whose reads are carried out later.
    pub(super) fn queuing(&self) -> Vec<(ConnKey, Rc<dyn ReplySink<Resp>>)> {
        let queuing = self.trackers.iter().filter(|(_, tracker)| tracker.is_queuing);
        queuing.map(|(conn, tracker)| (*conn, Rc::clone(&tracker.sink))).collect()
    }

    /// `key` has changed: who must be told. It is forgotten, except for those who may be about to read it.
    pub(super) fn changed(&mut self, key: &[u8], out: &mut Vec<Notice>) {
        if let Some(readers) = self.readers.remove(key) {
            self.bytes = self.bytes.saturating_sub(key.len() + KEY + READER * readers.len());
            for conn in readers {
                let Some(tracker) = self.trackers.get(&conn) else { continue };
                let (is_queuing, is_broadcast) = (tracker.is_queuing, tracker.tracking.is_broadcast);
                if !is_broadcast {
                    out.extend(tracker.notice(conn));
                }
                if is_queuing {
                    self.note(conn, key);
                }
            }
        }
        for conn in &self.broadcasts {
            let tracker = self.trackers.get(conn).filter(|tracker| tracker.tracking.covers(key));
            out.extend(tracker.and_then(|tracker| tracker.notice(*conn)));
        }
    }

    /// Anything may have changed: all who must be told. Every key is forgotten.
    pub(super) fn all_changed(&mut self) -> Vec<Notice> {
        if !self.trackers.values().any(|tracker| tracker.is_queuing) {
            self.readers = HashMap::new();
            self.bytes = 0;
        }
        self.trackers.iter().filter_map(|(conn, tracker)| tracker.notice(*conn)).collect()
    }

    /// The client hears nothing any more.
    pub(super) fn leave(&mut self, conn: ConnKey) -> Option<Tracker> {
        let tracker = self.trackers.remove(&conn);
        if tracker.as_ref().is_some_and(|tracker| tracker.tracking.is_broadcast) {
            self.broadcasts.retain(|known| *known != conn);
        }
        if self.trackers.is_empty() {
            // Of clients that have left, keys are forgotten as they change.
            self.readers = HashMap::new();
            self.bytes = 0;
        }
        tracker
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Deaf;

    fn tracker(tracking: Tracking) -> Tracker {
        Tracker {
            sink: Rc::new(Deaf),
            profile: 1,
            tracking,
            is_chosen: false,
            is_queuing: false,
            last_read: None,
            pending: None,
        }
    }

    fn told(table: &mut Table, key: &[u8]) -> Vec<u32> {
        let mut out = Vec::new();
        table.changed(key, &mut out);
        let mut told: Vec<_> = out.into_iter().map(|notice| notice.conn.index).collect();
        told.sort_unstable();
        told
    }

    #[test]
    fn readers_hear_of_a_key_once_and_others_of_their_prefixes() {
        let mut table = Table::default();
        let conn = |index| ConnKey { index, epoch: 0 };
        table.enter(conn(1), tracker(Tracking::default()));
        table.enter(conn(2), tracker(Tracking::default()));
        let prefixes = vec![b"a".as_slice().into()];
        table.enter(conn(3), tracker(Tracking { is_broadcast: true, prefixes, ..Tracking::default() }));
        for _ in 0..2 {
            table.note(conn(1), b"ab");
            table.note(conn(2), b"ab");
        }
        assert_eq!(told(&mut table, b"ab"), [1, 2, 3]);
        assert_eq!(told(&mut table, b"ab"), [3]);
        assert!(told(&mut table, b"b").is_empty());
        assert_eq!(table.bytes, 0);
        // What is queued is read later, so that it is remembered beyond the change.
        table.trackers.get_mut(&conn(1)).unwrap().is_queuing = true;
        table.note(conn(1), b"b");
        assert_eq!((told(&mut table, b"b"), told(&mut table, b"b")), (vec![1], vec![1]));
        table.trackers.get_mut(&conn(2)).unwrap().profile = 0;
        table.note(conn(2), b"c");
        assert!(told(&mut table, b"c").is_empty());
        for index in 1..4 {
            assert!(table.leave(conn(index)).is_some());
        }
        assert!(table.readers.is_empty() && table.bytes == 0 && table.broadcasts.is_empty());
    }
}
