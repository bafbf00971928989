//! Who listens to what on all workers, so that servers' counts of subscriptions can be told as clients expect them.
//!
//! To a server each worker's link is one subscriber, however many clients listen behind it. What `PUBSUB NUMSUB` and its
//! kind tell is the server's count without those links, and with the clients. Counted when a subscription comes or goes, and
//! read when somebody asks; never for a message.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mecha_resp::TopicKind;

/// See the module. One for each cluster of the process.
#[derive(Clone, Debug, Default)]
pub struct Census(Arc<Mutex<Names>>);

type Names = [HashMap<Box<[u8]>, Entry>; 3];

#[derive(Debug, Default)]
struct Entry {
    counts: BTreeMap<Who, usize>,
}

/// A subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A client, and which of several addresses it has connected to.
    Client(Option<u16>),
    /// A link to the server in this position.
    Link(usize),
}

/// One subscriber of one name, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    census: Census,
    kind: TopicKind,
    name: Box<[u8]>,
    who: Who,
}

/// Whom a question is about: the servers that are asked, and the clients of one address (or of all).
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    census: &'a Census,
    positions: &'a [usize],
    part: Option<u16>,
}

// === impl Census ===

impl Census {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a subscriber.
    pub(crate) fn count(&self, kind: TopicKind, name: &[u8], who: Who) -> Counted {
        let counted = Counted { census: self.clone(), kind, name: name.into(), who };
        if let Some(names) = self.names().get_mut(kind as usize) {
            *names.entry(name.into()).or_default().counts.entry(who).or_default() += 1;
        }
        counted
    }

    /// Asks about these servers, and about clients of this address.
    pub(crate) fn asked<'a>(&'a self, positions: &'a [usize], part: Option<u16>) -> Asked<'a> {
        Asked { census: self, positions, part }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.census.names();
        let Some(names) = all.get_mut(self.kind as usize) else { return };
        let Some(entry) = names.get_mut(&self.name) else { return };
        if let Some(count) = entry.counts.get_mut(&self.who) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                entry.counts.remove(&self.who);
            }
        }
        if entry.counts.is_empty() {
            names.remove(&self.name);
        }
    }
}

// === impl Entry ===

impl Entry {
    fn clients(&self, part: Option<u16>) -> usize {
        let is_meant = |who: &Who| matches!(who, Who::Client(own) if part.is_none() || *own == part);
        self.counts.iter().filter(|(who, _)| is_meant(who)).map(|(_, count)| count).sum()
    }

    fn links(&self, position: usize) -> usize {
        self.counts.get(&Who::Link(position)).copied().unwrap_or(0)
    }
}

// === impl Asked ===

impl Asked<'_> {
    /// What `count`, the sum over all servers that are asked, is of clients and not of links.
    pub(crate) fn corrected(&self, kind: TopicKind, name: &[u8], count: i64) -> i64 {
        let all = self.census.names();
        let Some(entry) = all.get(kind as usize).and_then(|names| names.get(name)) else { return count };
        let links: usize = self.positions.iter().map(|position| entry.links(*position)).sum();
        (count - links as i64).max(0) + entry.clients(self.part) as i64
    }

    /// Whether a link to the server that was asked as number `part` listens to `name`.
    pub(crate) fn is_linked(&self, kind: TopicKind, name: &[u8], part: usize) -> bool {
        let Some(position) = self.positions.get(part).copied() else { return false };
        let all = self.census.names();
        all.get(kind as usize)
            .and_then(|names| names.get(name))
            .is_some_and(|entry| entry.links(position) > 0)
    }

    /// How many names links to the server that was asked as number `part` listen to.
    pub(crate) fn linked(&self, kind: TopicKind, part: usize) -> usize {
        let Some(position) = self.positions.get(part).copied() else { return 0 };
        let all = self.census.names();
        all.get(kind as usize).into_iter().flatten().filter(|(_, entry)| entry.links(position) > 0).count()
    }

    /// The names that clients listen to.
    pub(crate) fn listened(&self, kind: TopicKind) -> Vec<Box<[u8]>> {
        let all = self.census.names();
        let names = all.get(kind as usize).into_iter().flatten();
        names.filter(|(_, entry)| entry.clients(self.part) > 0).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_taken_for_the_clients_behind_them() {
        let census = Census::default();
        let kind = TopicKind::Channel;
        let links = [census.count(kind, b"c", Who::Link(4)), census.count(kind, b"c", Who::Link(4))];
        let clients: Vec<_> = [Some(0), Some(0), Some(1)]
            .into_iter()
            .map(|part| census.count(kind, b"c", Who::Client(part)))
            .collect();
        // The server counts two links and somebody else.
        let all = census.asked(&[1, 4], None);
        assert_eq!(all.corrected(kind, b"c", 3), 4);
        assert_eq!(census.asked(&[4], Some(0)).corrected(kind, b"c", 3), 3);
        assert_eq!(census.asked(&[1], Some(1)).corrected(kind, b"c", 0), 1);
        assert_eq!(all.corrected(kind, b"other", 2), 2);
        assert_eq!((all.linked(kind, 1), all.linked(kind, 0)), (1, 0));
        assert!(all.is_linked(kind, b"c", 1) && !all.is_linked(TopicKind::Pattern, b"c", 1));
        assert_eq!(census.asked(&[], Some(2)).listened(kind), Vec::<Box<[u8]>>::new());
        drop((links, clients));
        assert!(census.names().iter().all(HashMap::is_empty));
    }
}
