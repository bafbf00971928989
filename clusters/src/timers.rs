//! One coarse timer for all deadlines of a worker.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

/// Resolution of call timeouts.
const TICK: Duration = Duration::from_millis(10);

/// Something with deadlines.
pub(crate) trait Ticks {
    /// Acts on deadlines that have passed, and returns whether any are left.
    fn tick(&self, now_micros: u64) -> bool;
}

/// Sleeps while nothing has a deadline; a worker without timeouts never wakes up for it.
#[derive(Default)]
pub struct Timers {
    is_armed: Cell<bool>,
    armed: Notify,
    members: RefCell<Vec<Weak<dyn Ticks>>>,
}

impl Timers {
    /// To be told about a deadline.
    pub(crate) fn arm(&self) {
        if !self.is_armed.replace(true) {
            self.armed.notify_one();
        }
    }

    pub(crate) fn join(&self, member: Weak<dyn Ticks>) {
        let mut members = self.members.borrow_mut();
        members.retain(|member| member.strong_count() > 0);
        members.push(member);
    }

    /// The worker's timer task. Never ends.
    pub async fn run(self: Rc<Self>, clock: mecha_transport::Clock) {
        // Kept from tick to tick, so that deadlines cost no allocation.
        let mut members = Vec::new();
        loop {
            self.armed.notified().await;
            loop {
                tokio::time::sleep(TICK).await;
                members.extend(self.members.borrow().iter().filter_map(Weak::upgrade));
                let now = clock.micros();
                // Every member must be asked, so no short-circuit.
                let is_left = members.drain(..).fold(false, |left, member| member.tick(now) | left);
                if !is_left {
                    self.is_armed.set(false);
                    break;
                }
            }
        }
    }
}
