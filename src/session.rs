//! Sessions: the client side of the data plane.
//!
//! The [`Engine`] of a worker and protocol owns every client connection's state and does no I/O of its own accord: it
//! is given bytes, and told when to write. [`serve`] is the task of one client: it reads, submits, and waits.
//! Replies do not pass through that task. The upstream's task hands them to the engine, which puts them in request
//! order (the [`ledger`](Ledger)) and writes them to the client's socket at once. The client's task is woken only when
//! it has something to do: a full socket, a batch that had to wait, an end.
//!
//! A batch that cannot go on (no room upstream, a dedicated connection that must be waited for) is *stalled*: copied
//! aside with the verdicts it has, and nothing more is read from that client until it has moved. That is the whole of
//! backpressure: windows all the way from the upstream's socket to the client's.

mod client;
mod connection;
mod engine;
mod errand;
mod handover;
pub mod http;
pub mod kafka;
mod ledger;
mod located;
mod messages;
pub mod opaque;
mod places;
mod replies;
mod route;

pub use client::{ClientTask, serve, turn_away};
pub use connection::{Listener, ListenerLimits};
pub use engine::{ConnectionInfo, Engine, EngineCell};
pub use ledger::Ledger;
pub use places::{Place, Places};
