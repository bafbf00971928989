//! Links: connections on which servers speak without being asked, one for each server that is listened to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use mecha_core::{ConnKey, Decode, Framed, Limits, OpId, Outcome, Refusal, Ticket};
use mecha_resp::{ReplyDecoder, Resp};

use crate::{Cluster, Connection, Delivery, ReplySink, Slip, Upstream};

/// The largest message. A server closes a subscriber for half of it.
const MAX_MESSAGE: usize = 64 << 20;
/// An empty buffer that is larger than this is given back.
const KEPT_BUFFER: usize = 64 << 10;
/// First and longest time before servers that could not be told are tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Somebody who wants to know when servers have come or gone.
pub(crate) trait Watches {
    fn members_changed(&self);
}

/// Somebody who has links. A key names one of them: its index is the server's position.
pub(crate) trait Hears {
    /// These bytes have come.
    fn heard(&self, link: ConnKey, bytes: &[u8]);

    /// The connection is gone.
    fn lost(&self, link: ConnKey);

    /// All bytes of one read have been heard.
    fn flush(&self, now_micros: u64);
}

/// What links talk to. Does not keep who hears alive.
struct Ear<H>(Weak<H>);

/// One connection, and what its owner has noted of it.
struct Link<L> {
    connection: Rc<Connection<Resp>>,
    epoch: u32,
    decoder: ReplyDecoder,
    unread: Vec<u8>,
    own: L,
}

/// The links of one owner, with at most one for each server.
pub(crate) struct Links<L> {
    cluster: Rc<Cluster<Resp>>,
    profile: u8,
    /// By position of the server.
    all: RefCell<HashMap<usize, Link<L>>>,
    epoch: Cell<u32>,
    /// Sinks that have got messages from the present read.
    touched: RefCell<Vec<Rc<dyn ReplySink<Resp>>>>,
}

// === impl Links ===

impl<L> Links<L> {
    /// To servers of `cluster`, on connections of this profile.
    pub(crate) fn new(cluster: Rc<Cluster<Resp>>, profile: u8) -> Self {
        Self { cluster, profile, all: RefCell::default(), epoch: Cell::new(0), touched: RefCell::default() }
    }

    /// Whether there is a link to the server at `at`. If not, one is opened, if that can be: `hearer` hears it, and `begin`
    /// says the first on it and makes the note.
    pub(crate) fn has<H: Hears + 'static>(
        &self,
        at: usize,
        hearer: &Weak<H>,
        begin: impl FnOnce(&Connection<Resp>) -> L,
    ) -> bool {
        if self.all.borrow().contains_key(&at) {
            return true;
        }
        let Ok(connection) = self.cluster.pin_at(at, self.profile) else { return false };
        let epoch = self.epoch.get().wrapping_add(1);
        self.epoch.set(epoch);
        let ear: Rc<dyn ReplySink<Resp>> = Rc::new(Ear(Weak::clone(hearer)));
        connection.set_owner(Some((ear, ConnKey { index: at as u32, epoch })), true);
        let limits = Limits { stream_above: usize::MAX, max_frame: MAX_MESSAGE, ..Limits::default() };
        let decoder = Resp::reply_decoder(limits, self.profile);
        let own = begin(&connection);
        self.all.borrow_mut().insert(at, Link { connection, epoch, decoder, unread: Vec::new(), own });
        true
    }

    /// Looks at the link to the server at `at`, if there is one.
    pub(crate) fn with<R>(&self, at: usize, look: impl FnOnce(&Connection<Resp>, &mut L) -> R) -> Option<R> {
        self.all.borrow_mut().get_mut(&at).map(|link| look(&link.connection, &mut link.own))
    }

    /// Closes the link to the server at `at`.
    pub(crate) fn close(&self, at: usize) {
        let link = self.all.borrow_mut().remove(&at);
        link.into_iter().for_each(|link| self.cluster.unpin(link.connection, false));
    }

    /// Closes those links of whose note `is_unused` says so.
    pub(crate) fn close_if(&self, is_unused: impl Fn(&L) -> bool) {
        let unused: Vec<_> = self.all.borrow_mut().extract_if(|_, link| is_unused(&link.own)).collect();
        unused.into_iter().for_each(|(_, link)| self.cluster.unpin(link.connection, false));
    }

    /// The connection of a link is gone. Returns whether the link was still there.
    pub(crate) fn lost(&self, key: ConnKey) -> bool {
        let at = key.index as usize;
        let is_current = self.all.borrow().get(&at).is_some_and(|link| link.epoch == key.epoch);
        if is_current {
            self.close(at);
        }
        is_current
    }

    /// Links to servers that have left, or whose position stands for another one now.
    pub(crate) fn strays(&self) -> Vec<ConnKey> {
        let shards = self.cluster.shards();
        let all = self.all.borrow();
        let is_stray = |at: usize, link: &Link<L>| {
            !shards.contains(&at) || self.cluster.position(&link.connection) != Some(at)
        };
        let strays = all.iter().filter(|(at, link)| is_stray(**at, link));
        strays.map(|(at, link)| ConnKey { index: *at as u32, epoch: link.epoch }).collect()
    }

    /// Shows every whole frame that `bytes` complete, with the server's position.
    pub(crate) fn hear(&self, key: ConnKey, bytes: &[u8], each: impl Fn(usize, &[u8])) {
        let at = key.index as usize;
        let (unread, heads, consumed) = {
            let mut all = self.all.borrow_mut();
            let Some(link) = all.get_mut(&at).filter(|link| link.epoch == key.epoch) else { return };
            link.unread.extend_from_slice(bytes);
            let mut heads = Vec::new();
            match link.decoder.decode(&link.unread, &mut heads) {
                Ok(decoded) => (std::mem::take(&mut link.unread), heads, decoded.consumed),
                Err(_) => {
                    link.connection.close();
                    return;
                }
            }
        };
        heads.iter().for_each(|head| each(at, Resp::reply_span(head).of(&unread, &[])));
        if let Some(link) = self.all.borrow_mut().get_mut(&at).filter(|link| link.epoch == key.epoch) {
            link.unread = unread;
            link.unread.drain(..consumed);
            if link.unread.is_empty() && link.unread.capacity() > KEPT_BUFFER {
                link.unread = Vec::new();
            }
        }
    }

    /// A client of `sink` has got a message, which is written out at the next [`Links::flush`].
    pub(crate) fn touched(&self, sink: &Rc<dyn ReplySink<Resp>>) {
        let mut touched = self.touched.borrow_mut();
        if !touched.iter().any(|known| Rc::ptr_eq(known, sink)) {
            touched.push(Rc::clone(sink));
        }
    }

    /// Writes messages out.
    pub(crate) fn flush(&self, now_micros: u64) {
        let touched = std::mem::take(&mut *self.touched.borrow_mut());
        for sink in touched {
            // Whoever is slow is closed by its engine; nobody is waited for here.
            sink.flush(now_micros);
        }
    }
}

impl<L> Drop for Links<L> {
    fn drop(&mut self) {
        for (_, link) in self.all.get_mut().drain() {
            self.cluster.unpin(link.connection, false);
        }
    }
}

/// Tries again, with growing waits, until `try_again` says that it is done.
pub(crate) fn retry<H: 'static>(hearer: Weak<H>, try_again: impl Fn(&H) -> bool + 'static) {
    tokio::task::spawn_local(async move {
        let mut wait = RETRY.0;
        loop {
            tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
            let Some(hearer) = hearer.upgrade() else { return };
            if try_again(&hearer) {
                return;
            }
            wait = (wait * 2).min(RETRY.1);
        }
    });
}

impl<H: Hears> ReplySink<Resp> for Ear<H> {
    /// Nothing is asked for that would be delivered.
    fn deliver(&self, _conn: ConnKey, _delivery: Delivery<'_, Resp>) {}

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
