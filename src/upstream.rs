//! Upstreams that are not plain clusters: translators in front of one, and the embedded store.

mod embedded;
mod translated;

pub use embedded::Embedded;
pub use translated::Translated;
