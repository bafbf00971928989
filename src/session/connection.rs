//! The state of one client connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use mecha_clusters::{Connection, Lane, Upstream};
use mecha_core::{Call, Chain, Framed, Limits, OpId, Peer, ProtocolError};
use mecha_telemetry::{CloseReason, ListenerMetrics};
use mecha_transport::{Clock, Outbox, WriteHalf};

use mecha_users::{Guard, Standing, Who};

use super::{Ledger, Place, Places};

/// Unread bytes of replies at which a client's further requests wait.
pub(super) const OUTPUT_HIGH: usize = 256 << 10;

/// Unread bytes at which a client that gets messages is closed: at once; and after this many microseconds. What Redis has
/// for its subscribers unless told otherwise.
pub(super) const MESSAGES_HARD: usize = 32 << 20;
const MESSAGES_SOFT: usize = 8 << 20;
const MESSAGES_PATIENCE_MICROS: u64 = 60_000_000;

/// Bounds on one client connection.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// For the decoder of requests.
    pub frames: Limits,
    /// Calls that one client may have in flight; more wait in its socket.
    pub max_in_flight: u32,
    /// Bytes of replies that a client may leave unread; beyond, it is waited for shortly and then closed.
    pub max_output: usize,
    /// A client that is silent for so long, in microseconds, with nothing in flight is closed. 0 is never.
    pub idle_timeout_micros: u64,
}

/// What the connections of one listener share on one worker.
pub struct Listener<P: Framed> {
    /// For people.
    pub name: String,
    /// Where calls go.
    pub upstream: Rc<dyn Upstream<P>>,
    /// What they pass on the way.
    pub chain: RefCell<Chain<P>>,
    /// Who sees every batch first, where clients must be somebody. A retired listener has its successor's.
    pub guard: RefCell<Option<Arc<dyn Guard<P>>>>,
    /// Whether each client has a dedicated connection from its first call on.
    pub is_private: bool,
    /// Whether a filter rewrites replies, so that even answers made in this process must be shown to it as frames.
    pub rewrites_replies: bool,
    /// Whether a filter must see messages, and what comes where replies are not counted.
    pub rewrites_messages: bool,
    /// Who may be here, over all workers.
    pub places: Arc<Places>,
    /// Counters.
    pub metrics: Arc<ListenerMetrics>,
    /// Bounds.
    pub limits: ListenerLimits,
    /// A newer configuration is in force; `successor` tells where clients go.
    pub is_retired: Cell<bool>,
    /// What takes this listener's clients over; without one they are closed.
    pub successor: RefCell<Option<Rc<Listener<P>>>>,
}

/// Which upstream connection a client's calls go to.
pub(super) enum Route<P: Framed> {
    /// A dedicated one. With `is_releasing`, it goes back when the last reply has arrived.
    Pinned { connection: Rc<Connection<P>>, is_releasing: bool, is_raw: bool },
    /// Those that all clients share.
    Shared,
}

/// What a stalled batch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Every call in flight to be answered.
    Drained,
    /// What other clients' workers have to tell.
    Errand,
    /// Room, here or upstream. Any answer is a reason to try again.
    Room,
}

/// The rest of a batch that could not go on.
pub(super) struct Stalled<P: Framed> {
    pub(super) wire: Vec<u8>,
    pub(super) local: Vec<u8>,
    pub(super) heads: Vec<P::Request>,
    pub(super) calls: Vec<Call>,
    pub(super) position: Position,
    pub(super) wait: Wait,
    /// What is wrong behind the batch, to be answered when it is through, and where in `wire` that begins.
    pub(super) error: Option<(ProtocolError, usize)>,
}

/// How far a batch has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// The next call to be acted on.
    pub(super) at: usize,
    /// Calls before this one have been shown to the protocol's state and to the chain.
    pub(super) seen: usize,
    /// The protocol's state must see the calls.
    pub(super) is_special: bool,
    /// Calls before this one have been judged by the guard, if there is one.
    pub(super) judged: usize,
}

/// A request so large that it is passed on in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenRequest {
    /// Its pieces go to the dedicated connection.
    Forwarding,
    /// None is under way.
    None,
    /// It was refused: its pieces are dropped.
    Swallowing,
    /// Its head is in the stalled batch.
    Waiting,
}

/// One client.
pub(super) struct Client<P: Framed> {
    pub(super) decoder: P::RequestDecoder,
    pub(super) session: P::Session,
    pub(super) state: State<P>,
}

/// All of a client that submitting and answering need; apart from [`Client`] so that a batch may borrow the session.
pub(super) struct State<P: Framed> {
    pub(super) listener: Rc<Listener<P>>,
    pub(super) place: Place,
    pub(super) peer: Peer,
    /// Who the client is, where mecha asks.
    pub(super) who: Option<Who>,
    pub(super) socket: WriteHalf,
    pub(super) ledger: Ledger,
    pub(super) outbox: Outbox,
    pub(super) lane: Lane,
    pub(super) route: Route<P>,
    pub(super) stalled: Option<Box<Stalled<P>>>,
    /// A request (`MULTI`) that is answered and not sent: the next one chooses the dedicated connection for both.
    pub(super) deferred: Vec<u8>,
    pub(super) open_request: OpenRequest,
    /// A [`mecha_core::Affinity::Attempt`] or `Barrier` call is in flight.
    pub(super) is_barred: bool,
    /// Messages may come at any time.
    pub(super) is_listening: bool,
    /// Messages that wait for the end of a reply that has begun to leave.
    pub(super) messages: Vec<u8>,
    /// Messages that wait for the reply to a call, and which call that is.
    pub(super) messages_behind: std::collections::VecDeque<(u32, Vec<u8>)>,
    /// Where replies are not counted and filters must see them whole: what has come of the next one.
    pub(super) uncounted: Option<Box<mecha_clusters::Uncounted<P>>>,
    /// Since when too many messages wait.
    pub(super) behind_since_micros: Option<u64>,
    pub(super) waker: Option<Waker>,
    /// What was last asked about clients, while the answer is awaited.
    pub(super) errand: Option<super::errand::UnderWay>,
    /// Calls in flight whose answers the client does not want.
    pub(super) muted: std::collections::VecDeque<u32>,
    /// Another client waits for this one to get a connection of its own, which nothing else may delay.
    pub(super) is_sought: bool,
    /// The last call that may block.
    pub(super) blocked: Option<u32>,
    /// The last call.
    pub(super) last_op: OpId,
    pub(super) opened_micros: u64,
    /// The task has stopped reading until answers have left.
    pub(super) is_paused: bool,
    /// In the engine's list of connections to write to.
    pub(super) is_dirty: bool,
    /// The socket was full: the client's task writes on when it is writable.
    pub(super) wants_write: bool,
    /// No more requests; the connection ends when the answers have left.
    pub(super) closing: Option<CloseReason>,
    /// The client has broken the protocol where replies are not counted: the server gets its bytes as they are, answers
    /// and ends the connection.
    pub(super) is_left_to_server: bool,
    /// The connection ends as soon as everything that the client has sent is answered.
    pub(super) is_draining: bool,
    /// The connection ends now, whatever is unwritten.
    pub(super) is_broken: bool,
    /// Since when more than `max_output` bytes wait, and how many there were when that was last looked at.
    pub(super) choked: Option<Choked>,
    pub(super) active_micros: u64,
    /// For translated calls, whose upstream times are not the client's: end of each batch in flight and its start.
    pub(super) batches: std::collections::VecDeque<(u32, u64)>,
}

/// A client that does not keep up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choked {
    pub(super) since_micros: u64,
    pub(super) progress_micros: u64,
    pub(super) unsent: usize,
}

impl<P: Framed> State<P> {
    pub(super) fn new(
        listener: Rc<Listener<P>>,
        place: Place,
        peer: Peer,
        socket: WriteHalf,
        now_micros: u64,
    ) -> Self {
        Self {
            listener,
            place,
            peer,
            who: None,
            socket,
            ledger: Ledger::default(),
            outbox: Outbox::default(),
            lane: Lane::default(),
            route: Route::Shared,
            stalled: None,
            deferred: Vec::new(),
            open_request: OpenRequest::None,
            is_barred: false,
            is_listening: false,
            messages: Vec::new(),
            messages_behind: std::collections::VecDeque::new(),
            uncounted: None,
            behind_since_micros: None,
            waker: None,
            errand: None,
            muted: std::collections::VecDeque::new(),
            is_sought: false,
            blocked: None,
            last_op: OpId::UNKNOWN,
            opened_micros: now_micros,
            is_paused: false,
            is_dirty: false,
            wants_write: false,
            closing: None,
            is_left_to_server: false,
            is_draining: false,
            is_broken: false,
            choked: None,
            active_micros: now_micros,
            batches: std::collections::VecDeque::new(),
        }
    }

    /// Looks up who the client is now that the users may be others. One that may not do any more what it does is ended.
    pub(super) fn recognise(&mut self) {
        let guard = self.listener.guard.borrow().clone();
        let (who, standing) = match &guard {
            None => (None, Standing::Same),
            Some(guard) => {
                let (who, standing) = guard.gate().follow(self.who.as_ref());
                (Some(who), standing)
            }
        };
        self.peer.user = who.as_ref().and_then(Who::name).cloned();
        self.who = who;
        // Messages come to a subscriber without anybody asking for them.
        if standing == Standing::Gone || standing == Standing::Changed && self.is_raw() {
            self.break_off(CloseReason::LoggedOut);
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Bytes of replies that the client has not read.
    pub(super) fn unread(&self) -> usize {
        self.outbox.len() + self.ledger.held_bytes() + self.messages.len()
    }

    /// Takes one message, which leaves as soon as no reply is under way.
    pub(super) fn take_message(&mut self, first: u8, rest: &[u8], clock: Clock) {
        if self.is_broken {
            return;
        }
        let out = if self.ledger.is_begun() { &mut self.messages } else { self.outbox.buffer() };
        out.push(first);
        out.extend_from_slice(rest);
        self.judge_messages(clock);
    }

    /// As [`State::take_message`], behind the answer to call `seq`.
    pub(super) fn take_message_behind(&mut self, seq: u32, first: u8, rest: &[u8], clock: Clock) {
        if self.is_broken {
            return;
        }
        let mut frame = Vec::with_capacity(1 + rest.len());
        frame.push(first);
        frame.extend_from_slice(rest);
        self.messages_behind.push_back((seq, frame));
        self.judge_messages(clock);
    }

    /// Gives a client up that leaves too many messages unread.
    fn judge_messages(&mut self, clock: Clock) {
        let waiting: usize = self.messages_behind.iter().map(|(_, frame)| frame.len()).sum();
        let unread = self.unread() + waiting;
        if unread <= MESSAGES_SOFT {
            self.behind_since_micros = None;
            return;
        }
        let now_micros = clock.micros();
        let since = *self.behind_since_micros.get_or_insert(now_micros);
        if unread > MESSAGES_HARD || now_micros.saturating_sub(since) > MESSAGES_PATIENCE_MICROS {
            self.break_off(CloseReason::SlowReader);
        }
    }

    /// Lets messages leave that waited for the end of a reply.
    pub(super) fn release_messages(&mut self) {
        while let Some((seq, _)) = self.messages_behind.front()
            && !self.ledger.awaits(*seq)
        {
            let message = self.messages_behind.pop_front();
            self.messages.extend(message.into_iter().flat_map(|(_, frame)| frame));
        }
        if !self.messages.is_empty() && !self.ledger.is_begun() {
            let messages = std::mem::take(&mut self.messages);
            self.outbox.extend(&messages);
        }
    }

    /// Whether the client's end is no reason to expect an answer: it waits for messages.
    pub(super) fn waits_for_messages(&self) -> bool {
        self.is_listening || self.is_raw()
    }

    /// Whether the client's task has something to do now that an answer has left.
    pub(super) fn is_due(&self) -> bool {
        let is_drained = self.ledger.in_flight() == 0;
        match &self.stalled {
            Some(stalled) if stalled.wait == Wait::Errand => {
                self.errand.as_ref().is_none_or(super::errand::UnderWay::is_done)
            }
            Some(stalled) => stalled.wait == Wait::Room || is_drained,
            None if self.is_paused => self.may_read(),
            None => is_drained && (self.closing.is_some() || self.is_draining || self.is_releasing()),
        }
    }

    /// Whether the client is far enough behind its limits to send more.
    pub(super) fn may_read(&self) -> bool {
        self.ledger.in_flight() < self.listener.limits.max_in_flight && self.unread() < OUTPUT_HIGH
    }

    pub(super) fn is_releasing(&self) -> bool {
        matches!(self.route, Route::Pinned { is_releasing: true, .. })
    }

    pub(super) fn is_raw(&self) -> bool {
        matches!(self.route, Route::Pinned { is_raw: true, .. })
    }

    /// Starts the end: no more requests are read.
    pub(super) fn close(&mut self, why: CloseReason) {
        self.closing.get_or_insert(why);
    }

    /// Ends at once.
    pub(super) fn break_off(&mut self, why: CloseReason) {
        self.close(why);
        self.is_broken = true;
        self.wake();
    }
}
