//! The `kv` family: RESP and Memcached clients over Redis, Memcached and the embedded store.
//!
//! A *front* ([`KvFront`]) turns requests of the protocol that clients speak into plans over neutral [`Slot`]s, and
//! formats native replies. A *back* is either remote ([`KvBack`], driven by the [`Translator`]) or the embedded
//! [`Store`] (driven by [`serve`]). Neither knows the other: every front works on every back.
//!
//! Deliberately absent: sockets, tasks and clocks. Time is an argument, bytes go in and come out.

mod embedded;
mod exchange;
pub mod kv;
mod memcached_back;
mod memcached_front;
pub mod rdb;
mod redis_back;
mod redis_front;
pub mod slot;
#[cfg(test)]
mod toy;
mod translator;
pub mod zset;

/// The name of the back in this process.
pub(crate) const EMBEDDED: &str = "embedded";

pub use embedded::{Desk, Late, Post, Store, serve};
pub use exchange::{Courier, Door, Exchange, Parcel};
pub use kv::{KvBack, KvError, KvFront};
pub use redis_front::{Row, Support, supported};
pub use slot::{Entry, Slot, Value};
pub use translator::{Options, Taken, Translator};
