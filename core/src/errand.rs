//! Errands: what one client asks about, or does to, the clients of its listener (`CLIENT LIST`, `CLIENT KILL`).
//!
//! Clients are spread over workers that share nothing, so an errand is a message: it goes to every worker, each looks at
//! its own clients, and what they have [`Found`] is added up. The protocol says what a request means and phrases the
//! answer; whether the client may ask is for the server to say, with the rights of the connection that its calls go to;
//! who is meant is decided here, by what every protocol's clients have.

use crate::{OpId, Peer};

/// What is to be done with the clients that are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Their connections end.
    End,
    /// Each is described by a line.
    List,
    /// The number of the upstream connection that the client has for itself is told.
    Locate,
    /// A blocking call ends as if its time were up, or with an error.
    Unblock {
        /// With an error.
        with_error: bool,
    },
}

/// What kind of connection a client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientKind {
    /// It sends commands.
    #[default]
    Normal,
    /// It is the server's own primary: no client of mecha is.
    Primary,
    /// It has subscribed to something.
    PubSub,
    /// It reads the replication stream.
    Replica,
}

/// Which clients are meant: those for whom every condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// One of these numbers; empty means any.
    pub ids: Vec<u64>,
    /// This address of the client, `host:port`.
    pub addr: Option<String>,
    /// This address of mecha.
    pub local: Option<String>,
    /// This user.
    pub user: Option<String>,
    /// This kind.
    pub kind: Option<ClientKind>,
    /// Connected for at least so many seconds.
    pub min_age_secs: Option<u64>,
    /// Not this client.
    pub but: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    /// The client that asks.
    pub from: u64,
    /// What is done.
    pub act: Act,
    /// To whom.
    pub whom: Selection,
}

/// What mecha knows of a client, whatever its protocol.
#[derive(Clone, Copy, Debug)]
pub struct ClientFacts<'a> {
    /// Who it is.
    pub peer: &'a Peer,
    /// Seconds since it has connected.
    pub age_secs: u64,
    /// Seconds since its last request.
    pub idle_secs: u64,
    /// Bytes of requests that are not under way yet.
    pub waiting_bytes: usize,
    /// Bytes of replies that it has not read.
    pub unread_bytes: usize,
    /// It waits for a blocking call.
    pub is_blocked: bool,
    /// Its last request.
    pub last: OpId,
}

/// What is told of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The client's number.
    pub id: u64,
    /// As its protocol has it.
    pub text: Vec<u8>,
    /// mecha's end of its own upstream connection, of which the server knows more.
    pub own: Option<std::net::SocketAddr>,
}

/// What an errand has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many clients it has met, or has done something to.
    pub count: u64,
    /// What it tells of them.
    pub lines: Vec<Line>,
    /// What the server tells of its connections, if it was asked.
    pub census: Vec<u8>,
    /// The server's number of a client's own upstream connection.
    pub located: Option<u64>,
    /// The client that asked is one of them.
    pub is_self: bool,
    /// The server does not let the client ask such a thing, in these words.
    pub denial: Option<Vec<u8>>,
    /// A worker has not answered in time.
    pub is_partial: bool,
}

// === impl Selection ===

impl Selection {
    /// Whether a client is meant, as far as that does not depend on its protocol.
    pub fn admits(&self, facts: &ClientFacts<'_>) -> bool {
        let is_at = |wanted: &Option<String>, address: Option<std::net::SocketAddr>| {
            wanted.as_ref().is_none_or(|wanted| *wanted == shown(address))
        };
        (self.ids.is_empty() || self.ids.contains(&facts.peer.id))
            && self.but != Some(facts.peer.id)
            && self.min_age_secs.is_none_or(|least| facts.age_secs >= least)
            && is_at(&self.addr, facts.peer.addr)
            && is_at(&self.local, facts.peer.local)
    }
}

// === impl Found ===

impl Found {
    /// Adds what another worker has found.
    pub fn add(&mut self, other: Self) {
        self.count += other.count;
        self.lines.extend(other.lines);
        self.located = self.located.or(other.located);
        self.is_self |= other.is_self;
        self.is_partial |= other.is_partial;
    }
}

/// An address as lists of clients show it. A Unix socket has none.
pub fn shown(address: Option<std::net::SocketAddr>) -> String {
    address.map_or_else(|| "unix:0".to_owned(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_must_hold() {
        let peer = Peer {
            id: 7,
            addr: "127.0.0.1:1000".parse().ok(),
            local: "[::1]:6379".parse().ok(),
            identity: None,
            user: None,
        };
        let facts = ClientFacts {
            peer: &peer,
            age_secs: 10,
            idle_secs: 0,
            waiting_bytes: 0,
            unread_bytes: 0,
            is_blocked: false,
            last: OpId::UNKNOWN,
        };
        let everybody = Selection::default();
        assert!(everybody.admits(&facts));
        assert!(Selection { ids: vec![1, 7], ..everybody.clone() }.admits(&facts));
        assert!(!Selection { ids: vec![1], ..everybody.clone() }.admits(&facts));
        assert!(!Selection { but: Some(7), ..everybody.clone() }.admits(&facts));
        assert!(!Selection { min_age_secs: Some(11), ..everybody.clone() }.admits(&facts));
        assert!(Selection { addr: Some("127.0.0.1:1000".into()), ..everybody.clone() }.admits(&facts));
        assert!(!Selection { addr: Some("127.0.0.1:1".into()), ..everybody.clone() }.admits(&facts));
        assert!(Selection { local: Some("[::1]:6379".into()), ..everybody.clone() }.admits(&facts));
        let both = Selection { ids: vec![7], local: Some("[::1]:1".into()), ..everybody };
        assert!(!both.admits(&facts));
    }
}
