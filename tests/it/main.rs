//! The real process between real clients and real servers, on free ports of this machine. One file per subject.
#![expect(clippy::disallowed_methods, reason = "a test measures by the wall clock")]

mod cli;
mod config;
mod drain;
mod portable;
mod reload;
mod sharded;
mod state;
#[allow(dead_code, unused_imports, reason = "subjects to come use the rest")]
mod support;
mod writes;
