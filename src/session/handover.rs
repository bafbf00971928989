//! What becomes of a client when a newer configuration replaces its listener.
//!
//! A client moves at the first moment at which nobody can tell: nothing of it is in flight, and no state of it lives on
//! an upstream connection (a transaction, a subscription, credentials, a database). If the new listener leads to the same
//! upstream, such state does not matter. What has not moved in the time that a drain may take is ended: gracefully if
//! nothing is in flight, at once otherwise.

use std::rc::Rc;

use mecha_core::{ConnKey, Framed, Session};
use mecha_telemetry::CloseReason;

use super::connection::{Client, Listener, OpenRequest, Route};
use super::engine::EngineCell;

impl<P: Framed> Listener<P> {
    /// Sends the clients to `successor`, or ends them if there is none.
    pub fn retire(&self, successor: Option<Rc<Self>>) {
        // Whoever may do less from now on does not keep what it had until it can move.
        if let Some(next) = &successor {
            self.guard.replace(next.guard.borrow().clone());
        }
        self.successor.replace(successor);
        self.is_retired.set(true);
    }

    fn leads_where(&self, other: &Self) -> bool {
        std::ptr::addr_eq(Rc::as_ptr(&self.upstream), Rc::as_ptr(&other.upstream))
    }
}

impl<P: Framed> Client<P> {
    /// Moves to the newest listener if that can be done now. Returns whether the client is where it belongs.
    pub(super) fn follow(&mut self, conn: ConnKey) -> bool {
        while self.state.listener.is_retired.get() {
            let Some(next) = self.state.listener.successor.borrow().clone() else { return false };
            let state = &mut self.state;
            let is_quiet = state.ledger.in_flight() == 0
                && state.stalled.is_none()
                && state.open_request == OpenRequest::None
                && state.closing.is_none();
            let is_free = matches!(state.route, Route::Shared) && self.session.is_portable();
            if !is_quiet || !is_free && !state.listener.leads_where(&next) {
                return false;
            }
            let frames = next.limits.frames;
            let old = std::mem::replace(&mut state.listener, next);
            if state.listener.is_private {
                self.session.keep();
            }
            if !state.place.is_of(&state.listener.places) {
                state.place = state.listener.places.enter();
            }
            if !old.leads_where(&state.listener) {
                old.upstream.forget(conn);
                state.lane = Default::default();
            }
            if !std::sync::Arc::ptr_eq(&old.metrics, &state.listener.metrics) {
                old.metrics.moved_to(&state.listener.metrics);
            }
            // What has arrived of the next request is looked at again from its start.
            self.decoder = P::request_decoder(frames);
        }
        true
    }
}

impl<P: Framed> EngineCell<P> {
    /// Moves the clients of retired listeners. With `is_late`, those that cannot move are ended. Returns how many are
    /// left.
    pub fn hand_over(&self, is_late: bool) -> usize {
        let mut engine = self.0.borrow_mut();
        let (clients, epochs) = engine.clients_and_epochs();
        let mut left = 0;
        for (index, client) in clients.iter_mut() {
            let epoch = epochs.get(index).copied().unwrap_or_default();
            if client.state.listener.is_retired.get() {
                client.state.recognise();
            }
            if client.follow(ConnKey { index: index as u32, epoch }) {
                continue;
            }
            left += 1;
            let state = &mut client.state;
            let is_orphan = state.listener.successor.borrow().is_none();
            if is_late && (state.ledger.in_flight() > 0 || state.waits_for_messages()) {
                state.break_off(CloseReason::Drained);
            } else if is_late || is_orphan {
                state.is_draining = true;
                state.wake();
            }
        }
        left
    }
}
