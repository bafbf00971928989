//! Servers that are alike, as a list names them, and how a newer list comes to the workers.
//!
//! Whoever finds servers (in DNS, in a file) publishes whole lists; workers take over the newest and never wait for it
//! once there has been one. A list never becomes unknown again.

use std::sync::Arc;

use mecha_transport::Address;
use tokio::sync::watch;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it is.
    pub address: Address,
    /// Decides its positions on rings.
    pub name: String,
    /// Its share, in proportion to the others'; from 1.
    pub weight: u32,
    /// Where it stands, if that is known.
    pub zone: Option<String>,
    /// Its priority: a server is asked while too few of those with smaller numbers are well.
    pub priority: u32,
}

/// Where the servers of a cluster come from.
#[derive(Clone)]
pub enum Listing {
    /// The configuration.
    Fixed(Vec<Listed>),
    /// Whoever looks for them.
    Found(Finding),
}

/// A worker's end: the newest list, once there is one.
#[derive(Clone, Debug)]
pub struct Finding(pub(crate) watch::Receiver<Option<Arc<[Listed]>>>);

/// The end of whoever looks for servers.
#[derive(Clone, Debug)]
pub struct Finder(Arc<watch::Sender<Option<Arc<[Listed]>>>>);

impl Listed {
    /// A server of which nothing is known but its address.
    pub fn at(address: Address) -> Self {
        Self { name: address.to_string(), address, weight: 1, zone: None, priority: 0 }
    }
}

impl Finder {
    /// Both ends. Nothing is found so far.
    pub fn new() -> (Self, Finding) {
        let (sender, receiver) = watch::channel(None);
        (Self(Arc::new(sender)), Finding(receiver))
    }

    /// Replaces the list. Returns whether it is another one.
    pub fn publish(&self, list: &[Listed]) -> bool {
        self.0.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(list);
            if is_new {
                *known = Some(list.into());
            }
            is_new
        })
    }

    /// Tells those who wait for the first list that there is none so far.
    pub fn nobody(&self) {
        self.0.send_if_modified(|known| {
            let is_unknown = known.is_none();
            known.get_or_insert_with(|| Arc::new([]));
            is_unknown
        });
    }

    /// Waits until nobody listens any more.
    pub async fn unheard(&self) {
        self.0.closed().await;
    }

    /// Whether anybody listens, or may yet.
    pub fn has_listeners(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

impl Finding {
    /// The newest list.
    pub fn current(&self) -> Option<Arc<[Listed]>> {
        self.0.borrow().clone()
    }

    /// Waits for a newer list than the last one that this end has taken, and takes it. `None` when nobody looks any more.
    pub async fn changed(&mut self) -> Option<Arc<[Listed]>> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(list) = self.0.borrow_and_update().clone() {
                return Some(list);
            }
        }
    }
}
