//! How a session looks at a batch: call by call, each seen as its words, up to the first one that changes a state.

use mecha_core::{Affinity, Batch, Looked, OpId, ReplyCount, Span, Verdict};

use crate::ops::{self, flag, op_info};
use crate::{Resp, args, inline_to_array};

/// What to do with one call.
pub(super) enum Step {
    /// It is answered with what was appended to `local`.
    Answered,
    /// It goes this way.
    Go(Affinity),
    /// As `Answered`, and then the connection ends.
    Quit,
    /// What was appended to `local` goes in its place.
    Rewritten(Affinity),
}

/// One call, as [`Session::step`] sees it.
pub(super) struct Seen<'a> {
    pub(super) op: OpId,
    pub(super) argc: usize,
    /// Only the beginning of `frame` is here.
    pub(super) is_open: bool,
    pub(super) frame: &'a [u8],
}

impl Seen<'_> {
    pub(super) fn word(&self, index: usize) -> &[u8] {
        args(self.frame).nth(index).unwrap_or_default()
    }

    pub(super) fn says(&self, index: usize, word: &str) -> bool {
        self.word(index).eq_ignore_ascii_case(word.as_bytes())
    }
}

/// As [`mecha_core::Session::on_requests`].
pub(super) fn look(batch: &mut Batch<'_, Resp>, from: usize) -> Looked {
    for index in from..batch.calls.len() {
        normalise(batch, index);
        let (Some(call), Some(head)) = (batch.calls.get(index).copied(), batch.heads.get(index)) else {
            break;
        };
        let is_fence = is_fence(call.op);
        if is_fence && index > from {
            return Looked { next: index, is_over: false };
        }
        if call.verdict != Verdict::Forward {
            // It is answered already, and changes nothing here.
            if is_fence {
                batch.session.note_before();
                return Looked { next: index + 1, is_over: false };
            }
            continue;
        }
        let frame = call.span.of(batch.wire, batch.local);
        // Only commands that change the state need their arguments; a copy keeps `local` free for the answer.
        let frame = if call.span.is_local() { &frame.to_vec() } else { call.span.of(batch.wire, &[]) };
        let seen = Seen { op: call.op, argc: head.argc as usize, is_open: head.is_open, frame };
        if is_fence {
            batch.session.note_before();
        }
        let is_deaf = batch.session.is_deaf_to(call.op);
        let start = batch.local.len();
        let step = batch.session.step(&seen, batch.local);
        let written = Span::local(start, batch.local.len() - start);
        let Some(call) = batch.calls.get_mut(index) else { break };
        if is_deaf {
            call.replies = ReplyCount::None;
        }
        match step {
            Step::Answered => call.verdict = Verdict::Answered(written),
            Step::Go(affinity) => call.affinity = affinity,
            Step::Quit => {
                call.verdict = Verdict::Answered(written);
                return Looked { next: index + 1, is_over: true };
            }
            Step::Rewritten(affinity) => {
                call.affinity = affinity;
                replace(batch, index, written);
            }
        }
        if is_fence {
            return Looked { next: index + 1, is_over: false };
        }
    }
    Looked { next: batch.calls.len(), is_over: false }
}

/// Whether the command may change what a session remembers.
pub(super) fn is_fence(op: OpId) -> bool {
    let info = op_info(op);
    op != OpId::UNKNOWN && ops::is_special(op) && !info.has(flag::BLOCKING)
}

/// Puts the frame at `written` in the place of request `index`.
pub fn replace(batch: &mut Batch<'_, Resp>, index: usize, written: Span) {
    let (Some(head), Some(call)) = (batch.heads.get_mut(index), batch.calls.get_mut(index)) else { return };
    if let Some(mut fresh) = crate::head_of(written.of(&[], batch.local)) {
        fresh.span = written;
        call.span = written;
        *head = fresh;
    }
}

/// Puts the frame that `write` appends in the place of request `index`.
pub(super) fn rewrite(batch: &mut Batch<'_, Resp>, index: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let start = batch.local.len();
    write(batch.local);
    let written = Span::local(start, batch.local.len() - start);
    replace(batch, index, written);
}

/// Turns an inline command into an array, so that everything behind sees one form only.
pub fn normalise(batch: &mut Batch<'_, Resp>, index: usize) {
    let (Some(head), Some(call)) = (batch.heads.get(index), batch.calls.get(index)) else { return };
    if !head.is_inline {
        return;
    }
    let start = batch.local.len();
    if inline_to_array(call.span.of(batch.wire, &[]), batch.local).is_err() {
        return;
    }
    let written = Span::local(start, batch.local.len() - start);
    replace(batch, index, written);
}
