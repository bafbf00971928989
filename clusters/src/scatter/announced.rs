//! mecha as a cluster, for clients that insist on one, whatever is behind.
//!
//! [`Announced`] stands in front of any upstream and answers what is asked about the cluster with mecha's own addresses:
//! one, or several that share the slots between them. Every one of them serves every key, so it does not matter which
//! one a client picks, or whether they are of one process; clients merely spread their connections.

use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;

use mecha_core::{Affinity, Batch, Refusal, Span, Verdict};

use super::{Itself, Rules};
use crate::{Connection, SubmitCx, Submitted, Upstream};

/// What clients are told of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Announcement<'a> {
    /// The address that the client has connected to, if it is known.
    pub local: Option<SocketAddr>,
    /// Hosts and ports that are announced; if there are none, `local` alone is.
    pub nodes: &'a [(String, u16)],
    /// The slots of each shard behind them (first and last of each range); empty where keys are not hashed to slots.
    pub slices: Vec<Vec<(u16, u16)>>,
}

impl Announcement<'_> {
    /// Which of the announced addresses the client has connected to.
    pub fn own(&self) -> Option<usize> {
        let local = self.local?;
        let (ip, port) = (local.ip().to_canonical(), local.port());
        // For each batch of a client whose address is none of these: nothing is written to be compared.
        let is_own = |(known, announced): &(String, u16)| *announced == port && known.parse() == Ok(ip);
        // Names, and addresses that are translated on the way, are told apart by their ports, if they can be.
        let has_port = |(_, announced): &&(String, u16)| *announced == port;
        let of_port = || {
            let is_only_one = self.nodes.iter().filter(has_port).count() == 1;
            self.nodes.iter().position(|node| has_port(&node)).filter(|_| is_only_one)
        };
        self.nodes.iter().position(is_own).or_else(of_port)
    }
}

/// An upstream that is announced as a cluster.
pub struct Announced<P: Rules> {
    inner: Rc<dyn Upstream<P>>,
    nodes: Vec<(String, u16)>,
}

impl<P: Rules> Announced<P> {
    /// Stands in front of `inner`. Without `nodes`, each client is told of the address that it has connected to.
    pub fn new(inner: Rc<dyn Upstream<P>>, nodes: Vec<(String, u16)>) -> Rc<Self> {
        Rc::new(Self { inner, nodes })
    }

    fn announcement(&self, cx: &SubmitCx<'_, P>) -> Announcement<'_> {
        Announcement { local: cx.peer.local, nodes: &self.nodes, slices: self.inner.slices() }
    }

    /// Which of several addresses the client has connected to.
    fn part(&self, cx: &SubmitCx<'_, P>) -> Option<(u16, u16)> {
        if self.nodes.len() < 2 {
            return None;
        }
        let known = Announcement { local: cx.peer.local, nodes: &self.nodes, slices: Vec::new() };
        Some((u16::try_from(known.own()?).ok()?, u16::try_from(self.nodes.len()).ok()?))
    }

    fn is_asked(batch: &Batch<'_, P>, at: usize) -> bool {
        batch.heads.get(at).is_some_and(P::asks_of_cluster)
    }

    /// The answer to one call about the cluster; `None` if what is behind must give it.
    fn answer(&self, batch: &mut Batch<'_, P>, at: usize, cx: &SubmitCx<'_, P>) -> Option<Submitted> {
        let (head, call) = (batch.heads.get(at)?, batch.calls.get_mut(at)?);
        let frame = call.span.of(batch.wire, batch.local);
        let announcement = self.announcement(cx);
        let mut answer = Vec::new();
        match P::itself(head, frame, &announcement, cx.profile, &mut answer) {
            Itself::Answered => {
                call.verdict = Verdict::Answered(Span::local(batch.local.len(), answer.len()));
                batch.local.extend_from_slice(&answer);
                Some(Submitted::Answered(1))
            }
            Itself::AtSlot(_) => None,
            Itself::Refused => Some(Submitted::Refused(1, Refusal::Unsupported)),
        }
    }
}

impl<P: Rules> Upstream<P> for Announced<P> {
    fn inner(&self) -> Option<&dyn Upstream<P>> {
        Some(&*self.inner)
    }

    fn submit(&self, batch: &mut Batch<'_, P>, range: Range<usize>, cx: SubmitCx<'_, P>) -> Submitted {
        if cx.lane.part.is_none() {
            cx.lane.part = self.part(&cx);
        }
        if Self::is_asked(batch, range.start) {
            let only = range.start..range.start + 1;
            return match self.answer(batch, range.start, &cx) {
                Some(submitted) => submitted,
                None => self.inner.submit(batch, only, cx),
            };
        }
        let next = (range.start + 1..range.end).find(|at| Self::is_asked(batch, *at));
        self.inner.submit(batch, range.start..next.unwrap_or(range.end), cx)
    }

    fn sees_to(&self, batch: &Batch<'_, P>, at: usize) -> bool {
        Self::is_asked(batch, at) || self.inner.sees_to(batch, at)
    }

    fn fits(&self, connection: &Connection<P>, batch: &Batch<'_, P>, at: usize) -> Result<(), Refusal> {
        // On its own connection the server would tell of itself.
        let is_shared = batch.calls.get(at).is_some_and(|call| call.affinity == Affinity::Shared);
        if is_shared && Self::is_asked(batch, at) {
            return Err(Refusal::Unsupported);
        }
        self.inner.fits(connection, batch, at)
    }
}
