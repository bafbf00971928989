//! Frames that no counted call waits for, on their way to clients: messages, and everything on a dedicated connection whose
//! replies are not counted. Filters that rewrite frames see each of them whole; where there are none, bytes pass as they
//! come.

use mecha_clusters::Uncounted;
use mecha_core::{ConnKey, Cx, Framed, Passage};
use mecha_telemetry::CloseReason;

use super::connection::{Client, State};
use super::engine::Engine;

impl<P: Framed> Engine<P> {
    /// Takes bytes that belong to no counted call.
    pub(super) fn push(&mut self, conn: ConnKey, bytes: &[u8]) {
        let now_micros = self.clock_micros();
        let Some(Client { session, state, .. }) = self.client(conn) else { return };
        if state.listener.rewrites_messages && state.is_raw() {
            let profile = mecha_core::Session::profile(session);
            state.take_uncounted(bytes, profile, now_micros);
        } else {
            state.outbox.extend(bytes);
        }
        self.dirty(conn);
    }

    /// Takes a message; with `behind`, one that must not leave before the answer to that call.
    pub(super) fn message(&mut self, conn: ConnKey, behind: Option<u32>, first: u8, rest: &[u8]) {
        let clock = self.clock();
        let Some(client) = self.client(conn) else { return };
        let state = &mut client.state;
        let mut out = Vec::new();
        let (mut first, mut rest) = (first, rest);
        if state.listener.rewrites_messages {
            let frame = [&[first][..], rest].concat();
            match state.show(&frame, &mut out, clock.micros()) {
                Passage::Dropped => return,
                Passage::Kept => {}
                Passage::Rewritten => match out.split_first() {
                    Some((head, tail)) => (first, rest) = (*head, tail),
                    None => return,
                },
            }
        }
        match behind.filter(|seq| state.ledger.awaits(*seq)) {
            Some(seq) => state.take_message_behind(seq, first, rest, clock),
            None => state.take_message(first, rest, clock),
        }
        self.dirty(conn);
    }
}

impl<P: Framed> State<P> {
    /// Shows the filters one frame.
    fn show(&self, frame: &[u8], out: &mut Vec<u8>, now_micros: u64) -> Passage {
        let cx = Cx { now_micros, peer: &self.peer };
        self.listener.chain.borrow_mut().message(frame, out, &cx)
    }

    fn take_uncounted(&mut self, bytes: &[u8], profile: u8, now_micros: u64) {
        let mut stream = self.uncounted.take().unwrap_or_else(|| Box::new(Uncounted::new(profile)));
        let mut out = Vec::new();
        let show = |frame: &[u8], out: &mut Vec<u8>| self.show(frame, out, now_micros);
        if stream.take(bytes, show, &mut out).is_err() {
            self.break_off(CloseReason::Protocol);
            return;
        }
        self.outbox.extend(&out);
        self.uncounted = Some(stream);
    }
}
