//! One server's connections on one worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hyper::client::conn::http2;
use tokio::sync::Mutex;

use super::Outbound;
use super::link::Single;

/// One server's connections.
#[derive(Default)]
pub(crate) struct Pool {
    /// Those that carry one request at a time and have none, oldest first.
    idle: RefCell<Vec<(Single, u64)>>,
    /// Those that carry many. Locked while one is made, so that those who come meanwhile wait for it and make none.
    pub(super) shared: Vec<Mutex<Option<http2::SendRequest<Outbound>>>>,
    /// Which of the shared ones comes next.
    turn: Cell<usize>,
    /// Requests that are not yet answered to the end.
    pub(super) active: Rc<Cell<usize>>,
    /// The server has said in a handshake that it speaks HTTP/1 only.
    pub(super) is_http1: Cell<bool>,
}

/// Counts one connection against a limit.
pub(super) struct Seat(Rc<Cell<usize>>);

impl Seat {
    /// A seat, unless `limit` are taken.
    pub(super) fn take(taken: &Rc<Cell<usize>>, limit: usize) -> Option<Self> {
        if taken.get() >= limit {
            return None;
        }
        taken.set(taken.get() + 1);
        Some(Self(Rc::clone(taken)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Pool {
    pub(super) fn new(shared: usize) -> Self {
        Self { shared: (0..shared).map(|_| Mutex::default()).collect(), ..Self::default() }
    }

    /// The connection that was used last: it is the least likely to be closed at the other end.
    pub(super) fn idle(&self) -> Option<Single> {
        let mut idle = self.idle.borrow_mut();
        while let Some((single, _)) = idle.pop() {
            if !single.sender.is_closed() {
                return Some(single);
            }
        }
        None
    }

    pub(super) fn keep(&self, single: Single, now_micros: u64) {
        if !single.sender.is_closed() {
            self.idle.borrow_mut().push((single, now_micros));
        }
    }

    /// Closes what has been idle since `before_micros`.
    pub(super) fn sweep(&self, before_micros: u64) {
        self.idle
            .borrow_mut()
            .retain(|(single, since)| *since >= before_micros && !single.sender.is_closed());
    }

    /// The next of the shared connections.
    pub(super) fn shared(&self) -> Option<&Mutex<Option<http2::SendRequest<Outbound>>>> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        self.shared.get(turn % self.shared.len().max(1))
    }
}
