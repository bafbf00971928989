//! The embedded store as an upstream: every call is answered before `submit` returns.

use std::ops::Range;
use std::sync::Arc;

use mecha_clusters::{SubmitCx, Submitted, Upstream};
use mecha_core::Batch;
use mecha_translate::kv::Started;
use mecha_translate::{KvFront, Store};
use mecha_transport::unix_ms;

use super::submitted;

/// Front protocol `A` over the store that all workers share.
pub struct Embedded {
    store: Arc<Store>,
    started: Started,
}

impl Embedded {
    /// A door to `store`.
    pub fn new(store: Arc<Store>, started: Started) -> Self {
        Self { store, started }
    }
}

impl<A: KvFront> Upstream<A> for Embedded {
    fn submit(&self, batch: &mut Batch<'_, A>, range: Range<usize>, cx: SubmitCx<'_, A>) -> Submitted {
        let random = fastrand::u64(..);
        let taken =
            mecha_translate::serve(&self.store, batch, range, cx.peer, unix_ms(), self.started, random);
        submitted(taken)
    }

    fn is_translated(&self) -> bool {
        true
    }
}
