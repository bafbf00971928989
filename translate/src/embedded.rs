//! The embedded store.

/// The embedded store.
#[derive(Debug, Default)]
pub struct Store {}

/// Answers calls from the embedded store.
pub fn serve() {}
