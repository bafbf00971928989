//! The mecha process: it puts the crates together and runs them.
//!
//! Threads: one per worker (all of the data path), one that accepts clients, one for the admin server, one that
//! finds servers where they are not listed, and the main thread, which waits for signals. Workers share nothing but filter state (atomics), counters and embedded stores.
//!
//! Reading order: [`catalog`] (what exists), [`assembly`] (how configuration becomes doors), [`session`] (what happens
//! to a client's bytes), [`upstream`] and the `clusters` crate (where they go).

pub mod acceptor;
pub mod admin;
pub mod assembly;
pub mod catalog;
pub mod cli;
pub mod discovery;
pub mod health;
pub mod intercept;
pub mod mesh;
mod process;
pub mod session;
pub mod upstream;
pub mod worker;

pub use process::main;
