//! One address for all brokers: each request goes to the broker that it is for.
//!
//! ```text
//!                    ┌─ link: conversation ──► broker 1
//! client ──► router ─┼─ link: conversation ──► broker 2     one for each broker that it has asked for something
//!        ◄── order ◄─┴─ link: conversation ──► any broker
//! ```
//!
//! Numbers of brokers stay as they are, so a client still has a connection for each, and sends each request on the right one.
//! But here they all look alike, and what tells where a request goes is what it names ([`mecha_kafka::route`]). What is for
//! nobody in particular goes to the broker that was reached first. A connection of a client so has one broker in the end, or
//! two; with each it speaks through a [`Conversation`](super::Conversation), as where every broker has a port.
//!
//! Answers leave in the order of their requests, as a broker would send them. An answer whose turn has not come stays in its
//! socket, unless it is a part of one. Fetches that wait for records wait at the broker.
//!
//! What a client believes of leaders is older than what mecha knows, or newer. Where they do not agree, the broker that is
//! asked tells the client so, and it finds out anew. Nothing is asked twice.

mod answers;
mod dispatch;
mod link;
mod router;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mecha_core::{Peer, Refusal};
use mecha_kafka::route::{Serves, serves};
use mecha_kafka::schema::Versions;
use mecha_kafka::table::ApiKey;
use mecha_telemetry::{CloseReason, ClusterMetrics};
use mecha_transport::{ReadHalf, WriteHalf};

use self::router::Router;
use super::placement::Placement;
use super::{Opened, VirtualCluster};
use crate::session::opaque::{Destination, Greeted, Judges, OpaqueListener};

/// The brokers of one listener that has one address for all, on one worker.
pub struct SingleAddress {
    /// Who they are, and how they are reached.
    pub cluster: VirtualCluster,
    /// Who leads, and who keeps groups; for all workers.
    pub placement: Arc<Placement>,
}

impl SingleAddress {
    /// Connects to this broker; to any if it has no number, or one that nobody knows.
    async fn reach(&self, broker: Option<i32>, client: &Peer) -> Result<(Opened, Option<i32>), Refusal> {
        let cluster = &self.cluster;
        let named = |id: i32| cluster.brokers.all().into_iter().find(|(broker, _)| broker.id == id);
        let Some((broker, _)) = broker.and_then(named) else {
            return Ok((cluster.reach(None, client, None).await?, None));
        };
        let opened = cluster.reach(Some(&broker.address), client, None).await;
        if opened.is_err() {
            // It may have moved.
            cluster.brokers.refresh();
        }
        Ok((opened?, Some(broker.id)))
    }

    /// A broker for what any broker answers: another one for each client.
    fn anyone(&self) -> Option<i32> {
        let all = self.cluster.brokers.all();
        all.get(fastrand::usize(..all.len().max(1))).map(|(broker, _)| broker.id)
    }
}

/// What one address for all can serve.
fn offered(key: ApiKey, versions: Versions) -> Versions {
    if serves(key) == Serves::Nobody { Versions::NONE } else { versions }
}

impl Destination for SingleAddress {
    type Opened = (Opened, Option<i32>);
    type Passage = Router;

    async fn open(
        &self,
        client: &Peer,
        _: Option<&str>,
        within: Option<Duration>,
    ) -> Result<Self::Opened, Refusal> {
        let opening = async {
            match self.reach(self.anyone(), client).await {
                Ok(opened) => Ok(opened),
                // This one is gone; others may be there.
                Err(_) => self.reach(None, client).await,
            }
        };
        match within {
            None => opening.await,
            Some(within) => tokio::time::timeout(within, opening).await.map_err(|_| Refusal::TimedOut)?,
        }
    }

    fn pass(
        self: &Rc<Self>,
        client: &Peer,
        halves: (ReadHalf, WriteHalf),
        (opened, broker): Self::Opened,
    ) -> Router {
        let stage = self.cluster.stage(client);
        let mut router = Router::new(Rc::clone(self), client.clone(), halves, stage);
        router.opened(opened, broker);
        router
    }

    async fn greet(&self, client: &Peer, halves: &mut (ReadHalf, WriteHalf)) -> Result<Greeted, CloseReason> {
        self.cluster.receive(client, halves, offered).await
    }

    async fn refuse(&self, why: Refusal, halves: (ReadHalf, WriteHalf)) {
        super::turn_away(why, halves).await;
    }

    fn report(router: &mut Router, listener: &OpaqueListener<Self>) {
        router.take_done(|done| listener.metrics.done(done));
    }

    fn judged_by(&self, judges: &Judges) {
        self.cluster.judged_by(judges);
    }

    fn is_same(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        self.cluster.is_like(&other.cluster) && Arc::ptr_eq(&self.placement, &other.placement)
    }

    fn metrics(&self) -> &ClusterMetrics {
        self.cluster.streams.metrics()
    }
}
