//! All client connections of one protocol on one worker.

use std::cell::RefCell;
use std::rc::Rc;

use mecha_clusters::ReplySink;
use mecha_core::{
    Affinity, Batch, Call, ConnKey, Decode, Done, Framed, Peer, ProtocolError, Session, Ticket, Verdict,
};
use mecha_telemetry::CloseReason;
use mecha_transport::{Clock, WriteHalf};
use slab::Slab;

use super::Place;
use super::connection::{Client, Listener, MESSAGES_HARD, OpenRequest, Position, Route, Stalled, State};
use super::route::{Processing, Progress};
use crate::mesh::Mesh;

/// Progress that a client must make to be waited for, in microseconds.
const STALL_LIMIT_MICROS: u64 = 50_000;
/// Room for rewritten requests and answers that an engine keeps from batch to batch.
const LOCAL_KEEP: usize = 1 << 20;
/// How long a client that keeps others waiting is waited for in all.
const CHOKE_LIMIT_MICROS: u64 = 1_000_000;

/// One connection, for people.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Unique in this process.
    pub id: u64,
    /// The client.
    pub peer: Peer,
    /// Its listener's name.
    pub listener: String,
    /// Unanswered calls.
    pub in_flight: u32,
    /// Bytes of replies that it has not read.
    pub unread_bytes: usize,
    /// Whether it holds a dedicated upstream connection.
    pub is_pinned: bool,
    /// Microseconds since its last request.
    pub idle_micros: u64,
}

/// All client connections of one protocol on one worker.
pub struct Engine<P: Framed> {
    /// Boxed, so that a crowd that has left leaves no room behind: slots between others are never given back.
    clients: Slab<Box<Client<P>>>,
    /// Epochs of the slab's positions.
    epochs: Vec<u32>,
    /// Clients with bytes to write in this turn.
    dirty: Vec<u32>,
    /// Reused for each batch.
    heads: Vec<P::Request>,
    calls: Vec<Call>,
    local: Vec<u8>,
    pub(super) done: Vec<Done>,
    pub(super) local_replies: Vec<u8>,
    clock: Clock,
    mesh: Mesh,
}

/// The engine as tasks share it.
pub struct EngineCell<P: Framed>(pub(super) RefCell<Engine<P>>);

// === impl EngineCell ===

impl<P: Framed> EngineCell<P> {
    /// An engine without clients.
    pub fn new(clock: Clock) -> Rc<Self> {
        Self::joined(clock, Mesh::default())
    }

    /// As [`EngineCell::new`], on a worker that can ask others.
    pub fn joined(clock: Clock, mesh: Mesh) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Engine {
            clients: Slab::new(),
            epochs: Vec::new(),
            dirty: Vec::new(),
            heads: Vec::new(),
            calls: Vec::new(),
            local: Vec::new(),
            done: Vec::new(),
            local_replies: Vec::new(),
            clock,
            mesh,
        })))
    }

    /// Adds a client, who has this place.
    pub fn open(&self, listener: &Rc<Listener<P>>, place: Place, peer: Peer, socket: WriteHalf) -> ConnKey {
        let mut engine = self.0.borrow_mut();
        let now = engine.clock.micros();
        listener.metrics.opened();
        let mut session = P::Session::default();
        session.on_open(peer.id);
        if listener.is_private {
            session.keep();
        }
        let mut state = State::new(Rc::clone(listener), place, peer, socket, now);
        state.recognise();
        let index = engine.clients.insert(Box::new(Client {
            decoder: P::request_decoder(listener.limits.frames),
            session,
            state,
        }));
        if engine.epochs.len() <= index {
            engine.epochs.resize(index + 1, 0);
        }
        ConnKey { index: index as u32, epoch: engine.epochs.get(index).copied().unwrap_or_default() }
    }

    /// Removes a client. What is in flight for it is dropped when it arrives.
    pub fn close(&self, conn: ConnKey, why: CloseReason) {
        let mut engine = self.0.borrow_mut();
        if engine.client(conn).is_none() {
            return;
        }
        let mut client = engine.clients.remove(conn.index as usize);
        if let Some(epoch) = engine.epochs.get_mut(conn.index as usize) {
            *epoch = epoch.wrapping_add(1);
        }
        drop(engine);
        client.state.drop_pin();
        let listener = &client.state.listener;
        listener.upstream.forget(conn);
        listener.metrics.closed(client.state.closing.unwrap_or(why));
    }

    /// Serves what has arrived from a client, for a driver other than [`super::serve`]: `bytes` is everything unprocessed.
    /// Returns how much of it is done with.
    pub fn receive(&self, conn: ConnKey, bytes: &[u8], sink: &Rc<dyn ReplySink<P>>) -> usize {
        self.0.borrow_mut().received(conn, bytes, sink)
    }

    /// Moves what waits for a client's socket to the end of `out`, for a driver that has no socket.
    pub fn take_output(&self, conn: ConnKey, out: &mut Vec<u8>) {
        if let Some(client) = self.0.borrow_mut().client(conn) {
            out.append(client.state.outbox.buffer());
        }
    }

    /// At most so many clients, for people.
    pub fn describe(&self, limit: usize) -> Vec<ConnectionInfo> {
        let engine = self.0.borrow();
        let now = engine.clock.micros();
        let info = |client: &Client<P>| {
            let state = &client.state;
            ConnectionInfo {
                id: state.peer.id,
                peer: state.peer.clone(),
                listener: state.listener.name.clone(),
                in_flight: state.ledger.in_flight(),
                unread_bytes: state.unread(),
                is_pinned: !matches!(state.route, Route::Shared),
                idle_micros: now.saturating_sub(state.active_micros),
            }
        };
        engine.clients.iter().take(limit).map(|(_, client)| info(client)).collect()
    }

    /// Clients connected now.
    pub fn len(&self) -> usize {
        self.0.borrow().clients.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends every connection as soon as everything that its client has sent is answered.
    pub fn drain(&self) {
        for (_, client) in &mut self.0.borrow_mut().clients {
            client.state.is_draining = true;
            client.state.wake();
        }
    }

    /// Ends connections that have been silent for too long.
    pub fn close_idle(&self, now_micros: u64) {
        for (_, client) in &mut self.0.borrow_mut().clients {
            let limit = client.state.listener.limits.idle_timeout_micros;
            let is_idle = now_micros.saturating_sub(client.state.active_micros) > limit;
            if limit > 0
                && is_idle
                && client.state.ledger.in_flight() == 0
                && !client.state.waits_for_messages()
            {
                client.state.break_off(CloseReason::Idle);
            }
        }
    }
}

// === impl Engine ===

impl<P: Framed> Engine<P> {
    pub(super) fn client(&mut self, conn: ConnKey) -> Option<&mut Client<P>> {
        if self.epochs.get(conn.index as usize) != Some(&conn.epoch) {
            return None;
        }
        self.clients.get_mut(conn.index as usize).map(|client| &mut **client)
    }

    pub(super) fn clients_and_epochs(&mut self) -> (&mut Slab<Box<Client<P>>>, &[u32]) {
        (&mut self.clients, &self.epochs)
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn clock_micros(&self) -> u64 {
        self.clock.micros()
    }

    /// Puts a client on the list of those to write to.
    pub(super) fn dirty(&mut self, conn: ConnKey) {
        if let Some(client) = self.clients.get_mut(conn.index as usize)
            && !client.state.is_dirty
        {
            client.state.is_dirty = true;
            self.dirty.push(conn.index);
        }
    }

    /// Serves everything that has arrived from a client: `bytes` starts with what was left the last time. Returns how
    /// much of it is done with.
    pub(super) fn received(&mut self, conn: ConnKey, bytes: &[u8], sink: &Rc<dyn ReplySink<P>>) -> usize {
        let now_micros = self.clock.micros();
        if self.client(conn).is_none() {
            return bytes.len();
        }
        let Self { clients, heads, calls, local, done, mesh, .. } = self;
        let Some(client) = clients.get_mut(conn.index as usize) else { return bytes.len() };
        if client.state.listener.is_retired.get() {
            client.follow(conn);
        }
        client.state.active_micros = now_micros;
        if client.state.is_left_to_server {
            client.state.pass_on(bytes);
            return bytes.len();
        }
        heads.clear();
        calls.clear();
        local.clear();
        let (decoded, error) = match client.decoder.decode(bytes, heads) {
            Ok(decoded) => (decoded, None),
            Err(error) => (Default::default(), Some(error)),
        };
        if decoded.tail > 0 {
            client.state.forward_tail(bytes.get(..decoded.tail).unwrap_or_default());
            if !(decoded.open && heads.is_empty()) {
                client.state.open_request = OpenRequest::None;
            }
        }
        let mut seq = client.state.ledger.next();
        let Client { session, state, .. } = &mut **client;
        let is_translated = state.listener.upstream.is_translated();
        let mut is_special = false;
        for head in heads.iter() {
            let mut call = P::call(head, Ticket { conn, seq });
            if is_translated {
                // The front plans for itself what a connection of its own would be needed for.
                let is_errand = P::Session::is_errand(call.op);
                call.affinity = if is_errand { Affinity::Errand } else { Affinity::Shared };
            } else {
                is_special |= session.concerns(&call);
            }
            calls.push(call);
            seq = seq.wrapping_add(1);
        }
        if decoded.open
            && !heads.is_empty()
            && let Some(call) = calls.last_mut()
        {
            state.open_request = OpenRequest::Waiting;
            // A shared connection must not wait for the rest of one client's request.
            if call.affinity == Affinity::Shared && !is_translated {
                call.affinity = Affinity::Once;
            }
        }
        if let Some(last) = calls.last() {
            state.last_op = last.op;
        }
        // Where what breaks the protocol begins.
        let sound = decoded.consumed.max(batch_end(calls));
        let mut batch = Batch { wire: bytes, local, heads, calls, session };
        if is_translated {
            P::Session::straighten(&mut batch);
        }
        let mut position = Position { at: 0, seen: 0, is_special, judged: 0 };
        let mut processing = Processing { sink, mesh, now_micros, done, stop_at: usize::MAX };
        if let Progress::Stalled(wait) = state.serve(&mut batch, &mut position, &mut processing) {
            state.stalled = Some(Box::new(Stalled {
                wire: bytes
                    .get(..if error.is_some() { bytes.len() } else { sound })
                    .unwrap_or_default()
                    .to_vec(),
                local: still_needed(batch.local, batch.calls.get(position.at..).unwrap_or_default()).to_vec(),
                heads: batch.heads.to_vec(),
                calls: batch.calls.to_vec(),
                position,
                wait,
                error: error.map(|error| (error, sound)),
            }));
        } else if let Some(error) = error {
            state.protocol_error(error, bytes.get(sound..).unwrap_or_default());
        }
        if local.capacity() > LOCAL_KEEP {
            *local = Vec::new();
        }
        self.dirty(conn);
        if error.is_some() { bytes.len() } else { decoded.consumed }
    }

    /// Goes on with a stalled batch. Returns whether it is still stalled.
    pub(super) fn retry(&mut self, conn: ConnKey, sink: &Rc<dyn ReplySink<P>>) -> bool {
        let now_micros = self.clock.micros();
        if self.client(conn).is_none() {
            return false;
        }
        let Some(client) = self.clients.get_mut(conn.index as usize) else { return false };
        client.state.release_if_due(&mut client.session);
        let Some(mut stalled) = client.state.stalled.take() else { return false };
        let Stalled { wire, local, heads, calls, position, .. } = &mut *stalled;
        let mut batch = Batch { wire, local, heads, calls, session: &mut client.session };
        let mut processing =
            Processing { sink, mesh: &self.mesh, now_micros, done: &mut self.done, stop_at: usize::MAX };
        let progress = client.state.serve(&mut batch, position, &mut processing);
        if let Progress::Stalled(wait) = progress {
            stalled.wait = wait;
            let Stalled { local, calls, position, .. } = &mut *stalled;
            let needed = still_needed(local, calls.get(position.at..).unwrap_or_default()).len();
            local.truncate(needed);
            local.shrink_to(LOCAL_KEEP);
            client.state.stalled = Some(stalled);
        } else if let Some((error, sound)) = stalled.error {
            client.state.protocol_error(error, stalled.wire.get(sound..).unwrap_or_default());
        }
        self.dirty(conn);
        matches!(progress, Progress::Stalled(..))
    }

    /// Writes to every client that has something new. Returns one that does not keep up, if there is any.
    pub(super) fn flush(&mut self, now_micros: u64) -> Option<ConnKey> {
        let mut choking = None;
        for index in self.dirty.drain(..) {
            let Some(client) = self.clients.get_mut(index as usize) else { continue };
            client.state.is_dirty = false;
            client.state.write();
            if client.state.is_choking(now_micros) {
                choking = self.epochs.get(index as usize).map(|epoch| ConnKey { index, epoch: *epoch });
            }
        }
        choking
    }
}

/// Where the last frame of the batch ends in `wire`.
fn batch_end(calls: &[Call]) -> usize {
    calls.iter().rev().find(|call| !call.span.is_local()).map_or(0, |call| call.span.end())
}

/// The part of `local` that `calls` point into. Answers that have left lie behind it, and a stalled batch must not
/// gather them.
fn still_needed<'l>(local: &'l [u8], calls: &[Call]) -> &'l [u8] {
    let end = |call: &Call| {
        let answer = match call.verdict {
            Verdict::Answered(span) if span.is_local() => span.end(),
            _ => 0,
        };
        answer.max(if call.span.is_local() { call.span.end() } else { 0 })
    };
    local.get(..calls.iter().map(end).max().unwrap_or(0)).unwrap_or_default()
}

// === impl State: writing and ending ===

impl<P: Framed> State<P> {
    /// Writes what the socket takes.
    pub(super) fn write(&mut self) {
        self.release_messages();
        if self.outbox.is_empty() {
            self.choked = None;
        } else if !self.wants_write {
            match self.outbox.write_to(&self.socket) {
                Ok(written) => self.listener.metrics.wrote_bytes(written),
                Err(_) => self.break_off(CloseReason::WriteFailed),
            }
            if !self.outbox.is_empty() {
                self.wants_write = true;
                self.wake();
            }
            if self.unread() <= self.output_limit() {
                // It has caught up: when it falls behind again, its time begins anew.
                self.choked = None;
            }
        }
        if self.is_due() {
            self.wake();
        }
    }

    /// Unread bytes at which a client falls behind.
    fn output_limit(&self) -> usize {
        let max_output = self.listener.limits.max_output;
        // Messages that many get are no reason to wait for one of them.
        if self.is_listening { max_output.max(MESSAGES_HARD) } else { max_output }
    }

    /// Whether this client's unread replies keep an upstream from being read. A client that takes nothing for a
    /// moment, or too little for long, is closed.
    pub(super) fn is_choking(&mut self, now_micros: u64) -> bool {
        if self.is_broken || self.unread() <= self.output_limit() {
            self.choked = None;
            return false;
        }
        let unsent = self.outbox.len();
        let choked = self.choked.get_or_insert(super::connection::Choked {
            since_micros: now_micros,
            progress_micros: now_micros,
            unsent,
        });
        if unsent < choked.unsent {
            (choked.unsent, choked.progress_micros) = (unsent, now_micros);
        }
        let is_stuck = now_micros.saturating_sub(choked.progress_micros) > STALL_LIMIT_MICROS;
        let is_slow = now_micros.saturating_sub(choked.since_micros) > CHOKE_LIMIT_MICROS;
        if is_stuck || is_slow {
            self.break_off(CloseReason::SlowReader);
            return false;
        }
        true
    }

    /// Answers `bytes`, which break the protocol, behind everything that is in flight, and ends the connection.
    fn protocol_error(&mut self, error: ProtocolError, bytes: &[u8]) {
        if let Route::Pinned { connection, is_raw: true, .. } = &self.route
            && self.closing.is_none()
            && !matches!(error, ProtocolError::FrameTooLarge { .. })
            // Bytes that cannot be judged do not pass a guard.
            && self.listener.guard.borrow().is_none()
        {
            // Nobody knows what is in flight here. The server answers in its turn, and ends the connection.
            connection.submit_bytes(bytes);
            self.is_left_to_server = true;
            return;
        }
        let mut answer = Vec::new();
        P::protocol_error(error, &mut answer);
        let seq = self.ledger.next();
        self.ledger.take(1);
        self.ledger.answer(seq, &answer, true, self.outbox.buffer());
        self.close(CloseReason::Protocol);
    }

    /// Passes on what follows bytes that broke the protocol: the server may need more to see that they did.
    fn pass_on(&mut self, bytes: &[u8]) {
        match &self.route {
            Route::Pinned { connection, .. } if !connection.is_full() => connection.submit_bytes(bytes),
            _ => self.break_off(CloseReason::Protocol),
        }
    }

    /// Passes on a piece of a large request.
    fn forward_tail(&mut self, bytes: &[u8]) {
        if let (OpenRequest::Forwarding, Route::Pinned { connection, .. }) = (self.open_request, &self.route)
        {
            connection.submit_bytes(bytes);
        }
    }

    /// Whether the connection's end has come.
    pub(super) fn is_over(&self) -> bool {
        let is_quiet = self.ledger.in_flight() == 0 && self.outbox.is_empty() && self.stalled.is_none();
        self.is_broken || self.closing.is_some() && is_quiet
    }
}
