//! Scripts that a server may have lost: it gets the text, and the client gets the answer.
//!
//! Before a script is first recalled by its digest on a connection, the server is made to load the text there. From then on
//! such calls go out as they are, and their frames are remembered. If the server lacks the script all the same (somebody
//! had it forget all of them), nothing has run, and the call is sent again with the text in place of the digest. Its
//! answer takes the call's place among the client's answers. Among its *effects* it would come too late if the client had
//! sent others behind it, so where others stand behind it in the same batch, the text is loaded first in any case. Where
//! that could not be known (the client wrote again before the answer came), the call is sent again only if what is behind
//! it recalls scripts too, and so fares alike; nothing more is taken until that is over. Otherwise the client gets the
//! server's error, and knows as well as the server that nothing has run.
//!
//! Inside a transaction, whose answers are all one, the text takes the digest's place from the beginning.
//!
//! A script can answer in the very words of a server that lacks one. So a call is not sent again if those words are
//! in its text or among its arguments.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use mecha_core::{Batch, Call, Framed, OpId, ScriptRole};

use super::kept::Kept;
use super::{Connection, Inner, append_frame};
use crate::runs::Run;
use crate::scripts::{Digest, from_hex};
use crate::{ReplySink, Slip};

/// What a text or an argument must not have in it if its call is to be sent again.
const WORD: &[u8] = b"NOSCRIPT";

/// Frames of calls that recall scripts, where not every frame is kept anyway.
#[derive(Default)]
pub(super) struct Recalls {
    /// The number of each call, counted as answers are.
    numbers: VecDeque<u64>,
    frames: Kept,
    /// Scripts that the server was made to load, and when it was last to forget all.
    loaded: (u64, HashSet<Digest>),
    /// The number of the last call that may yet be sent again before others are sent.
    fence: Option<u64>,
    /// The connection's user may be another one, with other rights.
    is_personal: bool,
}

/// Scripts of one connection that are remembered as loaded.
const MAX_LOADED: usize = 4096;

impl Recalls {
    fn push(&mut self, number: u64, frame: &[u8]) {
        self.numbers.push_back(number);
        self.frames.push(frame, std::iter::once(frame.len()));
    }

    /// Forgets what is answered by now; what is left starts with the call that has this number, if it is one.
    fn advance(&mut self, number: u64) {
        while self.numbers.front().is_some_and(|own| (own.wrapping_sub(number) as i64) < 0) {
            self.numbers.pop_front();
            self.frames.answered(1);
        }
    }

    /// Whether nothing may be sent when `answered` calls have been.
    pub(super) fn is_full(&self, answered: u64) -> bool {
        self.frames.is_full() || self.fence.is_some_and(|fence| (fence.wrapping_sub(answered) as i64) > 0)
    }

    /// The socket is gone, and all calls with it.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

// === impl Connection ===

impl<P: Framed> Connection<P> {
    /// Whether any of `calls` has to do with scripts.
    #[inline]
    pub(super) fn has_scripts(calls: &[Call]) -> bool {
        calls.iter().any(|call| P::script_role(call.op) != ScriptRole::None)
    }

    /// As [`Connection::submit`], for calls some of which have to do with scripts.
    pub(super) fn submit_scripts(
        &self,
        inner: &mut Inner<P>,
        batch: &Batch<'_, P>,
        range: std::ops::Range<usize>,
        sink: &Rc<dyn ReplySink<P>>,
        now_micros: u64,
    ) {
        let Some(first) = batch.calls.get(range.start) else { return };
        let is_noted = self.is_dedicated && mecha_core::Session::is_noted(&*batch.session);
        let recalls = |call: &Call| P::script_role(call.op) == ScriptRole::Recalls;
        let mut ahead = Vec::new();
        let last_other = batch.calls.iter().rposition(|call| !recalls(call));
        for index in range.clone() {
            let Some(call) = batch.calls.get(index) else { break };
            self.note_script(inner, call.op, batch.frame(index));
            if recalls(call) && !is_noted {
                let is_followed = last_other.is_some_and(|other| other > index);
                let load = self.load_ahead(inner, call.op, batch.frame(index), is_followed, &mut ahead);
                if let Some(load) = load {
                    inner.push_unasked(&load, sink, call.ticket, now_micros, self.follower.is_some());
                }
            }
        }
        let max_ttl_secs = self.endpoint.max_ttl_secs.get();
        let number = inner.runs.answered().wrapping_add(inner.runs.len() as u64);
        inner.recalls.advance(inner.runs.answered());
        for (offset, index) in range.clone().enumerate() {
            let (Some(call), Some(head)) = (batch.calls.get(index), batch.heads.get(index)) else { break };
            let frame = batch.frame(index);
            let is_recall = P::script_role(call.op) == ScriptRole::Recalls;
            let text =
                (is_recall && is_noted && !inner.recalls.is_personal).then(|| self.text_of(call.op, frame));
            let out = inner.outbox.buffer();
            let start = out.len();
            match text.flatten() {
                Some(text) => P::spell_out(call.op, frame, &text, out),
                None => append_frame::<P>(batch, call, head, max_ttl_secs, out),
            }
            let sent = out.get(start..).unwrap_or_default();
            if self.follower.is_some() {
                inner.kept.push(sent, std::iter::once(sent.len()));
            } else if is_recall {
                inner.recalls.push(number.wrapping_add(offset as u64), sent);
            }
            let slips = inner.runs.slips_mut();
            slips.push_back(Slip { op: call.op, echo: call.echo, replies: call.replies });
        }
        inner.push_run(sink, first.ticket, range.len(), first.timeout_ms, now_micros);
    }

    /// Takes note of a script that a call brings, or of its end.
    pub(super) fn note_script(&self, inner: &mut Inner<P>, op: OpId, frame: &[u8]) {
        let scripts = &self.endpoint.options.scripts;
        match P::script_role(op) {
            ScriptRole::Flushes => scripts.flush(),
            role @ (ScriptRole::Loads | ScriptRole::Spells) => {
                // Of an open frame the text may not be all there, and is not found then.
                if let Some(text) = P::script(op, frame) {
                    scripts.learn(text, role == ScriptRole::Loads);
                }
            }
            ScriptRole::LogsIn => inner.recalls.is_personal |= self.is_dedicated,
            ScriptRole::None | ScriptRole::Recalls => {}
        }
    }

    /// The text of the script that a frame recalls, if it may be sent in the place of the digest.
    fn text_of(&self, op: OpId, frame: &[u8]) -> Option<Arc<[u8]>> {
        self.endpoint.options.scripts.text(from_hex(P::script(op, frame)?)?)
    }

    /// The request that has the server load a script before the client's call recalls it, if it may lack it; with
    /// `is_followed`, in any case, but once for all of `ahead`.
    fn load_ahead(
        &self,
        inner: &mut Inner<P>,
        op: OpId,
        frame: &[u8],
        is_followed: bool,
        ahead: &mut Vec<Digest>,
    ) -> Option<Vec<u8>> {
        // On its own connection the client may have no right to, and the first call may yet move elsewhere.
        let may_move = self.is_dedicated && self.follower.is_some() && !inner.is_bound();
        if inner.recalls.is_personal || may_move {
            return None;
        }
        let digest = from_hex(P::script(op, frame)?)?;
        let scripts = &self.endpoint.options.scripts;
        let (loaded, flushes) = (&mut inner.recalls.loaded, scripts.flushes());
        if loaded.0 != flushes || loaded.1.len() == MAX_LOADED {
            *loaded = (flushes, HashSet::new());
        }
        if ahead.contains(&digest) || loaded.1.contains(&digest) && !is_followed {
            return None;
        }
        let text = scripts.text(digest)?;
        loaded.1.insert(digest);
        ahead.push(digest);
        let mut load = Vec::new();
        P::load_script(&text, &mut load);
        Some(load)
    }

    /// Whether the call that is `index` calls behind the oldest, with this reply, is to be sent again with its script's text.
    /// Asked for errors only.
    pub(super) fn is_to_be_spelled(&self, inner: &Inner<P>, index: usize, reply: &[u8]) -> bool {
        let is_recall = |index| {
            let slip: Option<Slip> = inner.runs.slip_at(index);
            slip.is_some_and(|slip| P::script_role(slip.op) == ScriptRole::Recalls)
        };
        if !is_recall(index) || !P::lacks_script(reply) {
            return false;
        }
        let Some(front) = inner.runs.front().filter(|run| !run.is_abandoned) else { return false };
        let mut at = 0;
        for run in inner.runs.iter() {
            let end = at + run.count as usize;
            let is_same = run.conn == front.conn && Rc::ptr_eq(&run.sink, &front.sink);
            if is_same && !(at.max(index)..end).all(is_recall) {
                return false;
            }
            at = end;
        }
        true
    }

    /// Sends the oldest call again, with its script's text. `false`: it cannot be, and nothing has changed.
    pub(super) fn spell(&self, inner: &mut Inner<P>, slips: &mut Vec<Slip>) -> bool {
        let Some(slip) = inner.runs.slip_at(0) else { return false };
        let number = inner.runs.answered();
        inner.recalls.advance(number);
        let frame = match () {
            () if self.follower.is_some() => inner.kept.front(),
            () if inner.recalls.numbers.front() == Some(&number) => inner.recalls.frames.front(),
            () => return false,
        };
        let Some(text) = self.text_of(slip.op, frame) else { return false };
        let mut spelled = Vec::new();
        P::spell_out(slip.op, frame, &text, &mut spelled);
        if memchr::memmem::find(&spelled, WORD).is_some() {
            return false;
        }
        let Some(front) = inner.runs.front() else { return false };
        let run = Run {
            sink: Rc::clone(&front.sink),
            conn: front.conn,
            first: front.first,
            count: 1,
            sent_micros: front.sent_micros,
            deadline_micros: front.deadline_micros,
            is_abandoned: false,
            is_begun: false,
            hops: front.hops,
        };
        inner.runs.answer(1, slips);
        if inner.runs.iter().any(|other| other.conn == run.conn && Rc::ptr_eq(&other.sink, &run.sink)) {
            inner.recalls.fence = Some(inner.runs.answered().wrapping_add(inner.runs.len() as u64));
        }
        inner.outbox.extend(&spelled);
        if self.follower.is_some() {
            inner.kept.answered(1);
            inner.kept.push(&spelled, std::iter::once(spelled.len()));
        }
        inner.runs.slips_mut().push_back(slip);
        inner.runs.push(run);
        self.endpoint.metrics.script_told();
        true
    }
}
