//! Who listens to what, and on which servers it has been subscribed to. No I/O.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use mecha_core::{ConnKey, OpId, Ticket};
use mecha_resp::{Resp, TopicKind};

use super::census::{Census, Counted, Who};
use crate::ReplySink;

/// A subscription of ours on one server.
#[derive(Debug)]
pub(super) struct Home {
    /// Position of the server.
    pub(super) at: usize,
    /// Of the command that was sent for it.
    pub(super) token: u64,
    pub(super) is_confirmed: bool,
    pub(super) _counted: Counted,
}

/// One name that somebody listens to.
#[derive(Default)]
pub(super) struct Topic {
    pub(super) listeners: Vec<ConnKey>,
    counted: Vec<(ConnKey, Counted)>,
    pub(super) homes: Vec<Home>,
    /// A server where it belongs could not be told.
    pub(super) is_short: bool,
    /// Clients whose command waits for it.
    pub(super) waiting: Vec<ConnKey>,
}

impl Topic {
    pub(super) fn is_confirmed(&self) -> bool {
        !self.is_short && !self.homes.is_empty() && self.homes.iter().all(|home| home.is_confirmed)
    }
}

/// A command that waits for servers.
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    pub(super) op: OpId,
    pub(super) kind: TopicKind,
    /// What is answered if all goes well.
    pub(super) answer: Vec<u8>,
    /// The names that it has added.
    pub(super) fresh: Vec<Rc<[u8]>>,
    /// Names that are not confirmed.
    pub(super) waits_for: usize,
}

/// One client.
pub(super) struct Listener {
    pub(super) sink: Rc<dyn ReplySink<Resp>>,
    /// 0 for version 2 of the protocol.
    pub(super) profile: u8,
    /// Which of several addresses it has connected to.
    part: Option<u16>,
    pub(super) names: [BTreeSet<Rc<[u8]>>; 3],
    pub(super) pending: Option<Pending>,
}

impl Listener {
    /// What the answer to a command about `kind` counts.
    pub(super) fn count(&self, kind: TopicKind) -> usize {
        let [channels, patterns, shards] = &self.names;
        if kind == TopicKind::Shard { shards.len() } else { channels.len() + patterns.len() }
    }

    fn is_idle(&self) -> bool {
        self.pending.is_none() && self.names.iter().all(BTreeSet::is_empty)
    }
}

/// All topics and clients.
#[derive(Default)]
pub(super) struct Board {
    pub(super) topics: [HashMap<Rc<[u8]>, Topic>; 3],
    pub(super) listeners: HashMap<ConnKey, Listener>,
    /// Bytes of all names, once for each client that listens.
    pub(super) bytes: usize,
}

impl Board {
    pub(super) fn topic(&mut self, kind: TopicKind, name: &[u8]) -> Option<&mut Topic> {
        self.topics.get_mut(kind as usize)?.get_mut(name)
    }

    /// The client, from now on with this version.
    pub(super) fn listener(
        &mut self,
        conn: ConnKey,
        sink: &Rc<dyn ReplySink<Resp>>,
        profile: u8,
        part: Option<u16>,
    ) {
        let listener = self.listeners.entry(conn).or_insert_with(|| Listener {
            sink: Rc::clone(sink),
            profile,
            part,
            names: Default::default(),
            pending: None,
        });
        listener.profile = profile;
    }

    /// The client listens to `name`. Returns the name if it did not before.
    pub(super) fn join(
        &mut self,
        conn: ConnKey,
        kind: TopicKind,
        name: &[u8],
        census: &Census,
    ) -> Option<Rc<[u8]>> {
        let listener = self.listeners.get_mut(&conn)?;
        let part = listener.part;
        let names = listener.names.get_mut(kind as usize)?;
        if names.contains(name) {
            return None;
        }
        let topics = self.topics.get_mut(kind as usize)?;
        let name: Rc<[u8]> =
            topics.get_key_value(name).map_or_else(|| Rc::from(name), |(known, _)| Rc::clone(known));
        let topic = topics.entry(Rc::clone(&name)).or_default();
        topic.listeners.push(conn);
        topic.counted.push((conn, census.count(kind, &name, Who::Client(part))));
        names.insert(Rc::clone(&name));
        self.bytes += name.len();
        Some(name)
    }

    /// The client no longer listens to `name`. Returns where it was subscribed to if nobody does.
    pub(super) fn leave(&mut self, conn: ConnKey, kind: TopicKind, name: &[u8]) -> Vec<Home> {
        let names = self.listeners.get_mut(&conn).and_then(|listener| listener.names.get_mut(kind as usize));
        if !names.is_some_and(|names| names.remove(name)) {
            return Vec::new();
        }
        self.bytes = self.bytes.saturating_sub(name.len());
        let Some(topics) = self.topics.get_mut(kind as usize) else { return Vec::new() };
        let Some(topic) = topics.get_mut(name) else { return Vec::new() };
        if let Some(at) = topic.listeners.iter().position(|known| *known == conn) {
            topic.listeners.swap_remove(at);
            topic.counted.retain(|(known, _)| *known != conn);
        }
        topic.waiting.retain(|known| *known != conn);
        if !topic.listeners.is_empty() {
            return Vec::new();
        }
        topics.remove(name).map(|topic| topic.homes).unwrap_or_default()
    }

    /// Forgets a client that listens to nothing.
    pub(super) fn tidy(&mut self, conn: ConnKey) {
        if self.listeners.get(&conn).is_some_and(Listener::is_idle) {
            self.listeners.remove(&conn);
        }
    }

    /// The topic may be confirmed now: returns the commands that need not wait any longer.
    pub(super) fn confirmed(
        &mut self,
        kind: TopicKind,
        name: &[u8],
    ) -> Vec<(Rc<dyn ReplySink<Resp>>, Pending)> {
        let Some(topic) = self.topic(kind, name).filter(|topic| topic.is_confirmed()) else {
            return Vec::new();
        };
        let waiting = std::mem::take(&mut topic.waiting);
        let mut done = Vec::new();
        for conn in waiting {
            let Some(listener) = self.listeners.get_mut(&conn) else { continue };
            let Some(pending) = &mut listener.pending else { continue };
            pending.waits_for -= 1;
            if pending.waits_for == 0 {
                done.extend(listener.pending.take().map(|pending| (Rc::clone(&listener.sink), pending)));
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Deaf;

    #[test]
    fn a_topic_lives_as_long_as_its_last_listener() {
        let sink: Rc<dyn ReplySink<Resp>> = Rc::new(Deaf);
        let (mut board, census) = (Board::default(), Census::default());
        let (one, two) = (ConnKey { index: 1, epoch: 0 }, ConnKey { index: 2, epoch: 0 });
        for conn in [one, two] {
            board.listener(conn, &sink, 0, None);
            assert!(board.join(conn, TopicKind::Channel, b"c", &census).is_some());
            assert!(board.join(conn, TopicKind::Channel, b"c", &census).is_none(), "once is enough");
        }
        let counted = census.count(TopicKind::Channel, b"c", Who::Link(3));
        let home = Home { at: 3, token: 1, is_confirmed: true, _counted: counted };
        board.topic(TopicKind::Channel, b"c").unwrap().homes.push(home);
        assert!(board.leave(one, TopicKind::Channel, b"c").is_empty());
        assert!(board.leave(one, TopicKind::Channel, b"c").is_empty());
        assert_eq!(board.leave(two, TopicKind::Channel, b"c").len(), 1);
        board.tidy(one);
        board.tidy(two);
        assert!(board.listeners.is_empty() && board.bytes == 0 && board.topics.iter().all(HashMap::is_empty));
    }

    #[test]
    fn a_command_is_answered_when_every_server_has_confirmed_every_name() {
        let sink: Rc<dyn ReplySink<Resp>> = Rc::new(Deaf);
        let (mut board, conn, census) = (Board::default(), ConnKey::default(), Census::default());
        board.listener(conn, &sink, 0, None);
        let home = |at, is_confirmed| {
            let counted = census.count(TopicKind::Pattern, b"x", Who::Link(at));
            Home { at, token: at as u64 + 1, is_confirmed, _counted: counted }
        };
        for name in [b"a", b"b"] {
            board.join(conn, TopicKind::Pattern, name, &census);
            let topic = board.topic(TopicKind::Pattern, name).unwrap();
            topic.homes = vec![home(0, true), home(1, false)];
            topic.waiting.push(conn);
        }
        board.listeners.get_mut(&conn).unwrap().pending = Some(Pending {
            ticket: Ticket::default(),
            op: OpId(1),
            kind: TopicKind::Pattern,
            answer: Vec::new(),
            fresh: Vec::new(),
            waits_for: 2,
        });
        assert!(board.confirmed(TopicKind::Pattern, b"a").is_empty());
        for name in [b"a", b"b"] {
            board.topic(TopicKind::Pattern, name).unwrap().homes[1].is_confirmed = true;
        }
        assert!(board.confirmed(TopicKind::Pattern, b"a").is_empty());
        assert_eq!(board.confirmed(TopicKind::Pattern, b"b").len(), 1);
    }
}
