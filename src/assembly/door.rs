//! What a worker needs to know of a listener, whatever its protocol.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use mecha_core::{Found, Peer};
use mecha_transport::{Accepted, Address};

use super::Scope;
use crate::mesh::Order;
use crate::session::ConnectionInfo;
use crate::worker::Seat;

/// One listener on the control side.
pub trait DoorPlan: Any + Send + Sync {
    /// Makes the calling worker's door.
    fn open(&self, scope: &mut Scope) -> Rc<dyn Door>;

    /// Its sockets are bound, in the order of [`ListenerSpec::sockets`](mecha_config::ListenerSpec::sockets). What has
    /// to run beside the workers starts now.
    ///
    /// # Errors
    /// The system does not give what that needs.
    fn bound(&self, addresses: &[Address]) -> std::io::Result<()> {
        let _ = addresses;
        Ok(())
    }

    /// What a client that speaks without TLS is told, in its own protocol.
    fn needs_tls(&self) -> Vec<u8>;
}

/// One listener on one worker.
pub trait Door: Any {
    /// Starts serving a client, who keeps `seat` to the end.
    ///
    /// # Errors
    /// The socket cannot be used.
    fn accept(&self, stream: Accepted, peer: Peer, seat: Seat) -> std::io::Result<()>;

    /// Sends its clients to `successor`, where that speaks the same protocol; ends them otherwise.
    fn retire(&self, successor: Option<&dyn Door>);
}

/// All connections of one protocol on one worker.
pub trait EngineView {
    /// What its clients speak; empty where that is not known, so that no errand is about them.
    fn protocol(&self) -> &'static str {
        ""
    }
    /// Starts doing something with its clients; what was found is sent to `reply`.
    fn carry_out(self: Rc<Self>, order: Arc<Order>, reply: tokio::sync::oneshot::Sender<Found>) {
        let _ = order;
        // Nobody may be waiting any more.
        let _ = reply.send(Found::default());
    }
    /// For people.
    fn describe(&self, limit: usize) -> Vec<ConnectionInfo>;
    /// Connections now.
    fn connections(&self) -> usize;
    /// Ends every connection as soon as it has nothing in flight.
    fn drain(&self);
    /// Moves the clients of retired doors; with `is_late`, ends those that cannot move. Returns how many are left.
    fn hand_over(&self, is_late: bool) -> usize;
    /// Ends connections that have been silent for too long.
    fn close_idle(&self, now_micros: u64);
}
