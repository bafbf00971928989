//! Upstreams that are not plain clusters: translators in front of one, and the embedded store.

mod embedded;
mod mailbox;
mod translated;

pub use embedded::Embedded;
pub use translated::Translated;

use mecha_clusters::Submitted;
use mecha_translate::Taken;

/// What the engine is told of what the `kv` family took.
fn submitted(taken: Taken) -> Submitted {
    match taken {
        Taken::Answered(count) => Submitted::Answered(count),
        Taken::Close(count) => Submitted::Close(count),
        Taken::Full => Submitted::Full,
        Taken::Pending(count) => Submitted::Pending(count),
    }
}
