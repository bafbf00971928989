//! One client's connection, as others see it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};

use mecha_clusters::Stream;
use mecha_clusters::http::Lease;
use mecha_core::Peer;
use mecha_http::Phase;
use mecha_telemetry::CloseReason;
use mecha_transport::WriteHalf;

use super::{HttpEngine, HttpListener, Patience, Tunnel};
use crate::session::{ConnectionInfo, Place};

/// How long a client that asks nothing keeps a connection that is to end.
const GRACE_MICROS: u64 = 500_000;

/// What others may know and want of one client's connection.
pub(super) struct Link {
    pub(super) peer: Peer,
    pub(super) listener: RefCell<Rc<HttpListener>>,
    place: RefCell<Place>,
    /// Its place in the engine.
    pub(super) number: Cell<usize>,
    /// Requests so far.
    pub(super) requests: Cell<u32>,
    /// Those that are not answered to the end.
    pub(super) in_flight: Cell<usize>,
    /// Bytes have come or gone since it was last looked at.
    pub(super) is_active: Cell<bool>,
    active_micros: Cell<u64>,
    /// Where its HTTP/1 requests stand; `Idle` in HTTP/2.
    pub(super) phase: Cell<Phase>,
    /// Heads that have come to their end, and how many there were when it was last looked at, and when that was first so.
    pub(super) heads: Cell<u32>,
    looked: Cell<(u32, u64)>,
    /// It was tried to read, and nothing had come.
    pub(super) is_waited_for: Cell<bool>,
    /// It takes nothing of what is written.
    pub(super) is_not_reading: Cell<bool>,
    pub(super) is_draining: Cell<bool>,
    /// When that was first seen.
    draining_micros: Cell<u64>,
    /// It is draining, and its client has had time to learn it from an answer: it ends unless it has something under way.
    pub(super) is_over: Cell<bool>,
    pub(super) closing: Cell<Option<CloseReason>>,
    waker: RefCell<Option<Waker>>,
    /// The server's side of a connection that becomes something else.
    pub(super) onward: Cell<Option<Onward>>,
    /// Where answers before the answer are written.
    pub(super) writer: RefCell<Weak<WriteHalf>>,
    /// Everything that the engine had to say has been written.
    pub(super) is_flushed: Cell<bool>,
    /// What is left of an answer before the answer.
    pub(super) early: RefCell<Vec<u8>>,
}

/// What a client's connection leads to when HTTP has ended on it.
pub(super) enum Onward {
    /// A server that has agreed to speak something else.
    Lease(Lease),
    /// A server that the client may reach, and whose figures it counts in.
    Tunnel(Stream, Rc<Tunnel>),
}

impl Link {
    pub(super) fn new(peer: Peer, listener: Rc<HttpListener>, place: Place, now_micros: u64) -> Rc<Self> {
        Rc::new(Self {
            peer,
            listener: RefCell::new(listener),
            place: RefCell::new(place),
            number: Cell::default(),
            requests: Cell::default(),
            in_flight: Cell::default(),
            is_active: Cell::default(),
            active_micros: Cell::new(now_micros),
            phase: Cell::new(Phase::Idle),
            heads: Cell::default(),
            looked: Cell::default(),
            is_waited_for: Cell::default(),
            is_not_reading: Cell::default(),
            is_draining: Cell::default(),
            draining_micros: Cell::default(),
            is_over: Cell::default(),
            closing: Cell::default(),
            waker: RefCell::default(),
            onward: Cell::default(),
            writer: RefCell::default(),
            is_flushed: Cell::new(true),
            early: RefCell::default(),
        })
    }

    pub(super) fn set_waker(&self, waker: &Waker) {
        match &mut *self.waker.borrow_mut() {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Says something between two messages, if nothing else is being said; nobody depends on it.
    pub(super) fn interject(&self, bytes: &[u8]) {
        let mut early = self.early.borrow_mut();
        if !self.is_flushed.get() || !early.is_empty() {
            return;
        }
        let Some(writer) = self.writer.borrow().upgrade() else { return };
        // A part of it must be followed by the rest.
        if let Ok(count) = writer.try_write(bytes) {
            self.listener.borrow().metrics.wrote_bytes(count);
            early.extend_from_slice(bytes.get(count..).unwrap_or_default());
        }
    }

    /// Ends it now.
    pub(super) fn close(&self, why: CloseReason) {
        if self.closing.get().is_none() {
            self.closing.set(Some(why));
        }
        self.wake();
    }

    /// Ends it behind what is under way. An HTTP/1 client learns that from its next answer, so that it does not send a
    /// request just when the connection is closed; one that asks nothing any more is closed a little later.
    pub(super) fn drain(&self) {
        if !self.is_draining.replace(true) {
            self.wake();
        }
    }

    /// What `future` brings, unless the connection is to end first; one that has not begun to speak has nothing under way.
    pub(super) async fn unless_closing<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            self.set_waker(cx.waker());
            if self.closing.get().is_some() || self.is_draining.get() {
                self.close(CloseReason::Drained);
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// The newest listener. The next request is for it.
    pub(super) fn current(&self) -> Rc<HttpListener> {
        self.follow();
        Rc::clone(&self.listener.borrow())
    }

    /// Goes on under the newest listener. Returns whether there is one.
    pub(super) fn follow(&self) -> bool {
        loop {
            let current = Rc::clone(&self.listener.borrow());
            if !current.is_retired.get() {
                return true;
            }
            let Some(next) = current.successor.borrow().clone() else { return false };
            let mut place = self.place.borrow_mut();
            if !place.is_of(&next.places) {
                *place = next.places.enter();
            }
            if !Arc::ptr_eq(&current.metrics, &next.metrics) {
                current.metrics.moved_to(&next.metrics);
            }
            self.listener.replace(next);
        }
    }

    /// Ends the connection if its client takes longer than it may. Called a few times a second.
    pub(super) fn look(&self, now_micros: u64) {
        let Patience { head_micros, body_micros, idle_micros } = self.listener.borrow().patience;
        if self.is_active.take() {
            self.active_micros.set(now_micros);
        }
        let silent_micros = now_micros.saturating_sub(self.active_micros.get());
        match self.phase.get() {
            Phase::Head => {
                let (heads, since) = self.looked.get();
                if heads != self.heads.get() {
                    self.looked.set((self.heads.get(), now_micros));
                } else if now_micros.saturating_sub(since) > head_micros {
                    self.close(CloseReason::Idle);
                }
            }
            Phase::Body if self.is_waited_for.get() && silent_micros > body_micros => {
                self.close(CloseReason::Idle)
            }
            Phase::Body | Phase::Idle => {}
        }
        if self.is_not_reading.get() && silent_micros > body_micros {
            self.close(CloseReason::SlowReader);
        }
        if self.is_draining.get() {
            if self.draining_micros.get() == 0 {
                self.draining_micros.set(now_micros);
            }
            let since = self.draining_micros.get().max(self.active_micros.get());
            if self.in_flight.get() == 0 && now_micros.saturating_sub(since) >= GRACE_MICROS {
                self.is_over.set(true);
                self.wake();
            }
        }
        if idle_micros > 0 && self.in_flight.get() == 0 && silent_micros > idle_micros {
            self.drain();
            self.is_over.set(true);
            self.wake();
        }
    }

    pub(super) fn describe(&self, now_micros: u64) -> ConnectionInfo {
        ConnectionInfo {
            id: self.peer.id,
            peer: self.peer.clone(),
            listener: self.listener.borrow().name.clone(),
            in_flight: self.in_flight.get() as u32,
            unread_bytes: 0,
            is_pinned: false,
            idle_micros: now_micros.saturating_sub(self.active_micros.get()),
        }
    }
}

/// Forgets a client however its task ends.
pub(super) struct Leaving {
    pub(super) engine: Rc<HttpEngine>,
    pub(super) link: Rc<Link>,
    pub(super) why: CloseReason,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.engine.links.borrow_mut().try_remove(self.link.number.get());
        let why = self.link.closing.get().unwrap_or(self.why);
        self.link.listener.borrow().metrics.closed(why);
    }
}
