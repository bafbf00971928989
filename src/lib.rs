//! The mecha process.
