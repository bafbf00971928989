//! A client that another one names to the server (`CLIENT TRACKING REDIRECT`): it gets a connection of its own, since the
//! server has a number for connections only, and keeps it.
//!
//! The client may be in the middle of anything. What it has in flight is waited for, and what it sends meanwhile waits,
//! so that its calls stay in order. This is looked at every few milliseconds: it happens once or twice in a client's life.

use std::rc::Rc;
use std::time::Duration;

use mecha_clusters::{ReplySink, Wish};
use mecha_core::{ConnKey, Framed, OpClass, OpId, Session};

use super::connection::{Client, OpenRequest, Route};
use super::engine::EngineCell;

/// How long a client's calls in flight, and its server, are waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long nobody looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Whether a client is where the server can find it.
enum Search {
    /// Its connection has this number.
    Found(u64),
    /// It cannot be found there.
    Lost,
    /// Not yet.
    Pending,
}

// === impl EngineCell ===

impl<P: Framed> EngineCell<P> {
    /// The server's number of a client's own connection; one is opened if there is none.
    pub(super) async fn locate(self: &Rc<Self>, conn: ConnKey) -> Option<u64> {
        let sink: Rc<dyn ReplySink<P>> = Rc::clone(self) as _;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let located = loop {
            let search = match self.0.borrow_mut().client(conn) {
                Some(client) => client.search(conn, &sink),
                None => Search::Lost,
            };
            match search {
                Search::Found(id) => break Some(id),
                Search::Pending if tokio::time::Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                Search::Lost | Search::Pending => break None,
            }
        };
        if let Some(client) = self.0.borrow_mut().client(conn) {
            client.state.is_sought = false;
            client.state.wake();
        }
        located
    }
}

// === impl Client ===

impl<P: Framed> Client<P> {
    fn search(&mut self, conn: ConnKey, sink: &Rc<dyn ReplySink<P>>) -> Search {
        let Self { session, state, .. } = self;
        state.release_if_due(session);
        let is_busy = state.ledger.in_flight() > 0
            || state.open_request != OpenRequest::None
            || !state.deferred.is_empty();
        if let Route::Pinned { connection, is_releasing, is_raw } = &mut state.route {
            // Given back, it would be another client's, under the same number.
            session.keep();
            *is_releasing = false;
            if let Some(id) = connection.identity() {
                return Search::Found(id);
            }
            let is_asked = !connection.whoami().is_empty();
            if *is_raw && !is_asked {
                return Search::Lost;
            }
            state.is_sought = true;
            if !is_asked && !is_busy {
                connection.identify(P::whoami());
            }
            return Search::Pending;
        }
        state.is_sought = true;
        if is_busy {
            return Search::Pending;
        }
        let upstream = Rc::clone(&state.listener.upstream);
        let wish = Wish {
            op: OpId::UNKNOWN,
            class: OpClass::Session,
            // Wherever that leads.
            key: Some(&[]),
            profile: session.profile(),
            lane: &state.lane,
            conn,
            peer: &state.peer,
            database: session.database(),
        };
        if upstream.is_translated() || !upstream.is_ready(sink, &wish) {
            return if upstream.is_translated() { Search::Lost } else { Search::Pending };
        }
        let Ok(connection) = upstream.pin(&wish) else { return Search::Lost };
        let taker = upstream.taker(&connection, conn).unwrap_or_else(|| Rc::clone(sink));
        connection.set_owner(Some((taker, conn)), false);
        session.keep();
        let mut first = Vec::new();
        let replies = session.introduction(&mut first);
        connection.submit_preamble(&first, replies, 0);
        connection.identify(P::whoami());
        state.route = Route::Pinned { connection, is_releasing: false, is_raw: false };
        Search::Pending
    }
}
