//! Servers that share the keys and know nothing of each other: one that fails again and again is left out for a while.
//!
//! As twemproxy's `auto_eject_hosts`: after so many failures in a row (a connection that fails, or calls that get no answer
//! in time) the server is *ejected*, and the tables are built of the others alone, so that its keys are where twemproxy
//! puts them then. With a *gutter*, as mcrouter has it, the others keep their keys, and only those of ejected servers go
//! elsewhere: to servers that hold nothing else, and where nothing lives for longer than a short time, so that little is
//! stale when the ejected server is back.
//!
//! After `retry_after` a connection is tried; the server returns when one is made, without a client's call being risked for
//! it. A change is a new set of [`Members`], and starts an epoch like any other. The last server is never ejected
//! unless there is a gutter. Each worker decides for itself.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use mecha_core::Framed;
use mecha_transport::Address;

use super::{Cluster, Members};
use crate::endpoint::{Eject, Endpoint};
use crate::router::Router;
use crate::server::Server;
use crate::{Balancer, Node, Sharding};

/// When servers are ejected.
#[derive(Clone, Debug)]
pub struct EjectOptions {
    /// Failures in a row.
    pub failures: u32,
    /// How long an ejected server is left alone.
    pub retry_after: Duration,
    /// Who takes the keys of ejected servers; the others if there is none.
    pub gutter: Option<Gutter>,
}

/// Servers that stand in for ejected ones.
#[derive(Clone, Debug)]
pub struct Gutter {
    /// Where they are.
    pub addresses: Vec<Address>,
    /// Their names and weights, in the order of the addresses.
    pub nodes: Vec<Node>,
    /// The longest life of what is stored there, in seconds.
    pub ttl_secs: u32,
}

/// Who is ejected.
pub(super) struct Ejection {
    options: EjectOptions,
    sharding: Sharding,
    nodes: Vec<Node>,
    /// By position.
    is_out: RefCell<Vec<bool>>,
}

// === impl Ejection ===

impl Ejection {
    pub(super) fn new(options: EjectOptions, sharding: Sharding, nodes: Vec<Node>) -> Self {
        let is_out = RefCell::new(vec![false; nodes.len()]);
        Self { options, sharding, nodes, is_out }
    }

    /// Where keys go now.
    fn balancer(&self) -> Balancer {
        let is_out = self.is_out.borrow();
        let is_in = |node: &&Node| is_out.get(usize::from(node.index)) != Some(&true);
        match &self.options.gutter {
            None => {
                let nodes: Vec<_> = self.nodes.iter().filter(is_in).cloned().collect();
                Balancer::new(self.sharding, &nodes)
            }
            Some(gutter) => {
                let first = self.nodes.len() as u16;
                let nodes =
                    gutter.nodes.iter().map(|node| Node { index: node.index + first, ..node.clone() });
                let stand_ins = Balancer::new(self.sharding, &nodes.collect::<Vec<_>>());
                Balancer::new(self.sharding, &self.nodes).with_stand_ins(is_out.clone(), stand_ins)
            }
        }
    }

    /// Whether the server in `position` is ejected.
    pub(super) fn is_out(&self, position: usize) -> bool {
        self.is_out.borrow().get(position) == Some(&true)
    }

    /// Takes note that the server in `position` is ejected, if it is not and may be.
    fn eject(&self, position: usize) -> bool {
        let mut is_out = self.is_out.borrow_mut();
        let left = is_out.iter().filter(|is_out| !**is_out).count();
        let may_be = self.options.gutter.is_some() || left > 1;
        match is_out.get_mut(position) {
            Some(is_out) if !*is_out && may_be => {
                *is_out = true;
                true
            }
            _ => false,
        }
    }
}

// === impl Cluster ===

impl<P: Framed> Cluster<P> {
    /// Makes every server tell of its failures.
    pub(super) fn watch_failures(&self) {
        let Some(ejection) = &self.ejection else { return };
        let me: Weak<dyn Eject> = self.me.clone();
        let (count, ttl) =
            (ejection.nodes.len(), ejection.options.gutter.as_ref().map_or(0, |gutter| gutter.ttl_secs));
        for (position, server) in self.members().servers.iter().flatten().enumerate() {
            if position < count {
                server.endpoint.tell_failures(ejection.options.failures, Weak::clone(&me));
            } else {
                server.endpoint.max_ttl_secs.set(ttl);
            }
        }
    }

    fn rebuild(&self) {
        let Some(ejection) = &self.ejection else { return };
        let old = self.members();
        let first = (0..ejection.nodes.len()).find(|position| !ejection.is_out(*position));
        let members = Members {
            // The servers of a list have no replicas.
            reads: None,
            servers: old.servers.clone(),
            router: Router::Balanced(ejection.balancer()),
            shards: old.shards.clone(),
            any: first.unwrap_or(old.any),
            slices: Vec::new(),
        };
        self.members.replace(Rc::new(members));
        self.start_epoch();
    }

    /// Tries a connection to an ejected server until one is made.
    async fn readmit(me: Weak<Self>, position: usize, retry_after: Duration) {
        loop {
            tokio::time::sleep(retry_after).await;
            let Some(server) = me.upgrade().and_then(|me| me.members().at(position).ok().cloned()) else {
                break;
            };
            let endpoint = Rc::clone(&server.endpoint);
            drop(server);
            tokio::time::sleep(endpoint.book(endpoint.clock.micros())).await;
            let options = &endpoint.options;
            let connected =
                mecha_transport::connect(&endpoint.address, options.connect_timeout, options.tls.as_deref());
            if connected.await.is_err() {
                endpoint.metrics.connect_failed();
                continue;
            }
            let Some(me) = me.upgrade() else { break };
            let Some(ejection) = &me.ejection else { break };
            if let Some(is_out) = ejection.is_out.borrow_mut().get_mut(position) {
                *is_out = false;
            }
            endpoint.reached();
            me.rebuild();
            me.metrics().readmitted();
            tracing::info!(cluster = %endpoint.cluster, address = %endpoint.address, "server is back");
            break;
        }
    }
}

impl<P: Framed> Eject for Cluster<P> {
    fn eject(&self, endpoint: &Endpoint) {
        let Some(ejection) = &self.ejection else { return };
        let is_it = |server: &Option<Rc<Server<P>>>| {
            server.as_ref().is_some_and(|server| std::ptr::eq(&*server.endpoint, endpoint))
        };
        let Some(position) = self.members().servers.iter().position(is_it) else { return };
        if !ejection.eject(position) {
            return;
        }
        tracing::warn!(cluster = %endpoint.cluster, address = %endpoint.address, "server is ejected");
        self.metrics().ejected();
        self.rebuild();
        let retry_after = ejection.options.retry_after;
        tokio::task::spawn_local(Self::readmit(Weak::clone(&self.me), position, retry_after));
    }
}
