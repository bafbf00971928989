//! The embedded store as an upstream: every call is answered before `submit` returns.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use mecha_clusters::{Connection, Lane, SubmitCx, Submitted, Upstream};
use mecha_core::{Batch, Refusal};
use mecha_translate::kv::Started;
use mecha_translate::{KvFront, Store, Taken};
use mecha_transport::unix_ms;

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
        match mecha_translate::serve(&self.store, batch, range, cx.peer, unix_ms(), self.started, random) {
            Taken::Answered(count) => Submitted::Answered(count),
            Taken::Close(count) => Submitted::Close(count),
            Taken::Full => Submitted::Full,
            Taken::Pending(count) => Submitted::Pending(count),
        }
    }

    fn pin(&self, _key: Option<&[u8]>, _profile: u8, _lane: &Lane) -> Result<Rc<Connection<A>>, Refusal> {
        Err(Refusal::Unsupported)
    }

    fn unpin(&self, _connection: Rc<Connection<A>>, _clean: bool) {}

    fn is_translated(&self) -> bool {
        true
    }
}
