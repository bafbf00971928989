//! How many clients a listener may have, over all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The places of one listener, which every worker shares.
#[derive(Debug, Default)]
pub struct Places(AtomicUsize);

/// One client's place; free again when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// A place, unless `limit` clients have one.
    pub fn take(self: &Arc<Self>, limit: usize) -> Option<Place> {
        let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
        let is_free = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        is_free.then(|| Place(Arc::clone(self)))
    }

    /// How many have one.
    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A place for a client who is here already, whatever the limit is.
    pub fn enter(self: &Arc<Self>) -> Place {
        self.0.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }
}

impl Place {
    /// Whether it is one of these.
    pub fn is_of(&self, places: &Arc<Places>) -> bool {
        Arc::ptr_eq(&self.0, places)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_client_is_gone() {
        let places = Arc::new(Places::default());
        let one = places.take(2);
        let moved = places.enter();
        assert!(one.is_some() && places.take(2).is_none());
        drop(moved);
        assert!(places.take(2).is_some_and(|place| place.is_of(&places)));
    }
}
