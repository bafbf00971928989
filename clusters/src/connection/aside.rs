//! What mecha itself says on a dedicated connection, beside its client's calls, and the replies that no client gets.
//!
//! Most of those replies say nothing that matters. Two kinds do: the server's number of the connection, by which it can be
//! asked to end a blocking call there, and the answers to questions of this process.

use std::collections::VecDeque;
use std::net::SocketAddr;

use mecha_core::Framed;
use tokio::sync::oneshot;

use super::{Connection, Inner};

/// Replies that are awaited, and what they have told.
#[derive(Default)]
pub(super) struct Asides {
    /// Replies swallowed so far.
    swallowed: u64,
    /// Which of those to be swallowed somebody waits for, counted as `swallowed` does.
    expected: VecDeque<(u64, Aside)>,
    /// The request that asks the server for its number of the connection, if it was sent.
    whoami: &'static [u8],
    /// The server's answer to it.
    identity: Option<u64>,
    /// mecha's end of the connection, by which the server's lists name it.
    pub(super) local: Option<SocketAddr>,
}

/// What a reply is for.
enum Aside {
    /// The server's number of the connection.
    Identity,
    /// A question of this process.
    Question(oneshot::Sender<Vec<u8>>),
}

impl<P: Framed> Connection<P> {
    /// Asks the server for its number of this dedicated connection, with nothing in flight, unless that was done before.
    pub fn identify(&self, whoami: &'static [u8]) {
        let mut inner = self.inner.borrow_mut();
        if inner.asides.whoami.is_empty() && !whoami.is_empty() {
            inner.asides.whoami = whoami;
            inner.expect(Aside::Identity);
            drop(inner);
            self.tell_aside(whoami, 1);
        }
    }

    /// The request of [`Connection::identify`], empty if it was not sent.
    pub fn whoami(&self) -> &'static [u8] {
        self.inner.borrow().asides.whoami
    }

    /// The server's number of this connection, once it has told it.
    pub fn identity(&self) -> Option<u64> {
        self.inner.borrow().asides.identity
    }

    /// The address of mecha's end, once the connection is open.
    pub fn local(&self) -> Option<SocketAddr> {
        self.inner.borrow().asides.local
    }

    /// Sends a request of this process on a dedicated connection with nothing in flight. The reply comes whole, unless
    /// the connection is lost.
    pub fn ask(&self, request: &[u8]) -> oneshot::Receiver<Vec<u8>> {
        let (reply, answer) = oneshot::channel();
        self.inner.borrow_mut().expect(Aside::Question(reply));
        self.tell_aside(request, 1);
        answer
    }
}

impl<P: Framed> Inner<P> {
    /// The next thing that is told aside gets a reply that somebody waits for.
    fn expect(&mut self, aside: Aside) {
        self.asides.expected.push_back((self.asides.swallowed + u64::from(self.swallow), aside));
    }

    /// A whole reply to something that was told aside.
    pub(super) fn swallowed(&mut self, reply: &[u8]) {
        let asides = &mut self.asides;
        if asides.expected.front().is_some_and(|(at, _)| *at == asides.swallowed) {
            match asides.expected.pop_front() {
                Some((_, Aside::Identity)) => asides.identity = P::number(reply),
                // Nobody may be waiting any more.
                Some((_, Aside::Question(asker))) => drop(asker.send(reply.to_vec())),
                None => {}
            }
        }
        asides.swallowed += 1;
        self.swallow -= 1;
    }
}
