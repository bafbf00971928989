//! Watching over replicas: which of them may be read from, and until when.
//!
//! Once in a while the primary of each shard is asked how far its history goes, and then its replicas how far theirs do. A
//! replica that has got as far as the primary had when it was asked was at that time not behind; so it may be read from
//! until `max_staleness` later, and is asked again long before. Nothing has to be guessed from clocks of other machines, and
//! when nobody asks any more the permission runs out by itself.
//!
//! It is withdrawn at once from a replica that does not answer, is loading, has lost its primary while that is there, or is
//! none any more. Where the primary itself does not answer, what was permitted stays so: that is what `max_staleness` is for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use mecha_clusters::news::{Cause, Publisher};
use mecha_clusters::topology::{Freshness, Node, Topology};
use mecha_resp::Value;
use mecha_transport::{Address, Clock};
use tokio::task::JoinSet;

use super::query::{Manners, Query};

/// The longest and the shortest time between two rounds.
const ROUNDS: (Duration, Duration) = (Duration::from_millis(30), Duration::from_secs(1));
/// A server that does not answer so fast is not fit to be read from.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// What is known of one replica.
#[derive(Clone, Default)]
struct Watched {
    fresh: Freshness,
    /// `None`: it was not asked so far.
    is_well: Option<bool>,
}

/// Who watches.
pub(super) struct Vigil {
    publisher: Publisher,
    manners: Manners,
    max_staleness: Duration,
    timeout: Duration,
    clock: Clock,
    replicas: RefCell<HashMap<Address, Watched>>,
    /// Connections between rounds.
    queries: RefCell<HashMap<Address, Query>>,
}

/// What a server tells of its replication.
struct Told {
    is_primary: bool,
    is_linked: bool,
    history: String,
    offset: u64,
}

impl Told {
    /// Reads the answer to `INFO replication`.
    fn parse(reply: &[u8]) -> Option<Self> {
        let value = Value::parse(reply)?;
        let text = value.text()?;
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let is_primary = field("role")? == "master";
        let offset = if is_primary { "master_repl_offset" } else { "slave_repl_offset" };
        Some(Self {
            is_primary,
            is_linked: field("master_link_status") == Some("up")
                && field("master_sync_in_progress") != Some("1"),
            history: field("master_replid").unwrap_or_default().into(),
            offset: field(offset)?.parse().ok()?,
        })
    }
}

impl Vigil {
    pub(super) fn new(
        publisher: Publisher,
        manners: Manners,
        (max_staleness, timeout): (Duration, Duration),
        clock: Clock,
    ) -> Rc<Self> {
        let (replicas, queries) = Default::default();
        Rc::new(Self { publisher, manners, max_staleness, timeout, clock, replicas, queries })
    }

    /// Never ends while anybody listens.
    pub(super) async fn keep(self: Rc<Self>) {
        let pause = (self.max_staleness / 4).clamp(ROUNDS.0, ROUNDS.1);
        while self.publisher.has_listeners() {
            let known = self.publisher.current();
            let mut round = JoinSet::new();
            for shard in &known.shards {
                let Some(primary) = known.node(shard.primary) else { continue };
                let replicas = shard.replicas.iter().filter_map(|at| known.node(*at)).cloned().collect();
                round.spawn_local(Rc::clone(&self).look(primary.address.clone(), replicas));
            }
            while round.join_next().await.is_some() {}
            // Others may have published in the meantime.
            let known = self.publisher.current();
            self.forget(&known);
            let next = self.judged((*known).clone());
            if next != *known {
                self.publisher.publish(next);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Puts what is known of replicas into a topology.
    pub(super) fn judged(&self, mut topology: Topology) -> Topology {
        let mut replicas = self.replicas.borrow_mut();
        for node in topology.nodes.iter_mut().flatten().filter(|node| node.is_replica) {
            let watched = replicas.entry(node.address.clone()).or_default();
            node.fresh = watched.fresh.clone();
            node.is_well = watched.is_well.unwrap_or(node.is_well);
        }
        topology
    }

    fn forget(&self, known: &Topology) {
        let is_known = |address: &Address| known.nodes.iter().flatten().any(|node| node.address == *address);
        self.replicas.borrow_mut().retain(|address, _| is_known(address));
        self.queries.borrow_mut().retain(|address, _| is_known(address));
    }

    /// Looks after the replicas of one primary.
    async fn look(self: Rc<Self>, primary: Address, replicas: Vec<Node>) {
        if replicas.is_empty() {
            return;
        }
        let asked_micros = self.clock.micros();
        let primary = self.ask(&primary).await.filter(|told| told.is_primary).map(Rc::new);
        let mut round = JoinSet::new();
        for replica in replicas {
            let (me, primary) = (Rc::clone(&self), primary.clone());
            round.spawn_local(async move {
                let told = me.ask(&replica.address).await;
                me.judge(&replica.address, told, primary.as_deref(), asked_micros);
            });
        }
        while round.join_next().await.is_some() {}
    }

    fn judge(&self, address: &Address, told: Option<Told>, primary: Option<&Told>, asked_micros: u64) {
        let mut replicas = self.replicas.borrow_mut();
        let watched = replicas.entry(address.clone()).or_default();
        let told = told.filter(|told| told.is_linked || primary.is_none());
        if told.as_ref().is_some_and(|told| told.is_primary) {
            self.publisher.want(Cause::Failure);
        }
        let told = told.filter(|told| !told.is_primary);
        watched.is_well = Some(told.is_some());
        match (told, primary) {
            (None, _) => watched.fresh.set(0),
            (Some(told), Some(primary))
                if told.history == primary.history && told.offset >= primary.offset =>
            {
                watched.fresh.set(asked_micros + self.max_staleness.as_micros() as u64);
            }
            // It is behind, or nobody can tell: what it was permitted runs out.
            (Some(_), _) => {}
        }
    }

    async fn ask(&self, address: &Address) -> Option<Told> {
        let timeout = self.timeout.min(IMPATIENCE);
        let known = self.queries.borrow_mut().remove(address);
        // A connection may have ended since: a fresh one tells the truth.
        if let Some(mut query) = known
            && let Ok(reply) = query.ask(&["INFO", "replication"], timeout).await
        {
            self.queries.borrow_mut().insert(address.clone(), query);
            return Told::parse(&reply);
        }
        let mut query = Query::to(address, timeout, &self.manners).await.ok()?;
        let reply = query.ask(&["INFO", "replication"], timeout).await.ok()?;
        self.queries.borrow_mut().insert(address.clone(), query);
        Told::parse(&reply)
    }
}
