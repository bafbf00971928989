//! Single steps without a machine: fast plans, and flushes, which go to every endpoint and are answered once.

use mecha_core::{Call, Refusal};

use super::fast_program::fast_txn;
use super::{Begun, Failure, Flush, Kept, LARGEST_SPARE, MOST_SPARE, Owner, Translator, push_answer};
use crate::kv::{
    Answers, BackFrames, Fast, FastAction, Guard, KvBack, KvFront, Recall, Step, StepKind, StepReply, Want,
};

impl<A: KvFront, B: KvBack> Translator<A, B> {
    pub(super) fn begin_fast(
        &mut self,
        fast: &Fast,
        frame: &[u8],
        call: &Call,
        now_ms: u64,
        out: &mut BackFrames,
    ) -> Begun {
        let key = fast.key.of(frame, &[]);
        let looks_first = match fast.action {
            FastAction::Delete => B::OUTLIVES_EXPIRY,
            FastAction::Flush { delay_s } => return self.begin_flush(fast.memo, delay_s, call, now_ms, out),
            FastAction::Get(_) | FastAction::GetTouch(_) | FastAction::Touch(_) => false,
            FastAction::Set { guard, .. } => B::OUTLIVES_EXPIRY && guard != Guard::Always,
        };
        if looks_first || (!self.locks.is_empty() && self.locks.has(key, call.ticket.conn)) {
            return self.begin_txn(fast_txn::<A>(fast, frame, call.asked()), call, now_ms, out);
        }
        let mut token = 0;
        let (step, kind) = match fast.action {
            FastAction::Get(want) => (Step::Get { key, want }, StepKind::Get(want)),
            FastAction::GetTouch(expire) => (Step::GetTouch { key, expire }, StepKind::Get(Want::Value)),
            FastAction::Set { value, flags, expire, guard } => {
                let value = value.of(frame, &[]);
                token = B::fresh_token();
                (Step::PutStr { key, value, flags, expire, guard, token }, StepKind::Put)
            }
            FastAction::Touch(expire) => (Step::Touch { key, expire }, StepKind::Touch),
            FastAction::Delete | FastAction::Flush { .. } => {
                (Step::Delete { key, guard: Guard::Always }, StepKind::Delete)
            }
        };
        let shown = fast.keep.of(frame, &[]);
        let checked = if matches!(kind, StepKind::Get(_)) && B::needs_key(key) { key } else { &[] };
        let kept = self.keep(shown, checked);
        let owner = Owner::Fast { ticket: call.ticket, asked: call.asked(), memo: fast.memo, token, kept };
        match self.send(&step, kind, owner, None, call.timeout_ms, now_ms, out) {
            Ok(()) => Begun::InFlight,
            Err(error) => self.answer_error(call.asked(), error),
        }
    }

    pub(super) fn keep(&mut self, shown: &[u8], key: &[u8]) -> Option<Kept> {
        if shown.is_empty() && key.is_empty() {
            return None;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(shown);
        bytes.extend_from_slice(key);
        Some(Kept { bytes, key_at: shown.len() })
    }

    pub(super) fn spare(&mut self, kept: Option<Kept>) {
        if let Some(Kept { mut bytes, .. }) = kept
            && self.spare.len() < MOST_SPARE
            && bytes.capacity() <= LARGEST_SPARE
        {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    pub(super) fn begin_flush(
        &mut self,
        memo: u32,
        delay_s: u32,
        call: &Call,
        now_ms: u64,
        out: &mut BackFrames,
    ) -> Begun {
        if self.has_machines(call.ticket.conn) {
            return Begun::Stalled;
        }
        let left = self.options.endpoints;
        let flush = Flush { ticket: call.ticket, asked: call.asked(), memo, left, failed: None };
        let group = self.flushes.insert(flush);
        for endpoint in 0..left {
            let (step, owner) = (Step::Flush { delay_s }, Owner::Flush { group });
            let endpoint = Some(endpoint.min(u16::MAX as usize) as u16);
            if let Err(error) =
                self.send(&step, StepKind::Flush, owner, endpoint, call.timeout_ms, now_ms, out)
            {
                // The back has no flush; that shows at the first endpoint, before anything is in flight.
                self.flushes.try_remove(group);
                return self.answer_error(call.asked(), error);
            }
        }
        if left == 0 {
            self.flushes.try_remove(group);
            self.scratch.clear();
            A::refuse(call.asked(), Refusal::NoRoute, &mut self.scratch);
            return Begun::Answered;
        }
        Begun::InFlight
    }

    pub(super) fn flush_step(
        &mut self,
        group: usize,
        failure: Option<Failure>,
        now_ms: u64,
        answers: &mut Answers,
    ) {
        let Some(flush) = self.flushes.get_mut(group) else { return };
        flush.left = flush.left.saturating_sub(1);
        flush.failed = flush.failed.or(failure);
        if flush.left > 0 {
            return;
        }
        let Some(flush) = self.flushes.try_remove(group) else { return };
        match flush.failed {
            Some(failure) => self.answer_failure(failure, flush.ticket, flush.asked, answers),
            None => {
                let start = answers.wire.len();
                let recall = Recall { asked: flush.asked, memo: flush.memo, kept: &[], now_ms };
                let outcome = A::fast_reply(&recall, &StepReply::Applied { token: None }, &mut answers.wire);
                push_answer(answers, start, flush.ticket, flush.asked.op, outcome);
            }
        }
    }
}
