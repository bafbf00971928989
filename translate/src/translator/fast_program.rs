//! A fast plan as a program: for the cases in which it must wait for a machine, or look before it writes.

use std::marker::PhantomData;

use mecha_core::{Asked, Outcome};

use crate::kv::{
    Atomicity, Expire, Fast, FastAction, Guard, KvFront, Program, Recall, RunCx, StepReply, Txn, Want,
};
use crate::slot::{Entry, Slot, Value};

/// Owns copies of everything that `fast` points to in `frame`. Not for [`FastAction::Flush`].
pub(super) fn fast_txn<A: KvFront>(fast: &Fast, frame: &[u8], asked: Asked) -> Txn {
    let (action, want) = match fast.action {
        FastAction::Delete | FastAction::Flush { .. } => (Action::Delete, Want::Header),
        FastAction::Get(want) => (Action::Get, want),
        FastAction::GetTouch(expire) => (Action::GetTouch(expire), Want::Everything),
        FastAction::Touch(expire) => (Action::Touch(expire), Want::Everything),
        FastAction::Set { value, flags, expire, guard } => {
            let expire_at_ms = match expire {
                Expire::AtMs(at) => Some(at),
                Expire::Keep | Expire::Never => None,
            };
            let value = value.of(frame, &[]).to_vec();
            (Action::Set { value, flags, expire_at_ms, guard }, Want::Header)
        }
    };
    let kept = fast.keep.of(frame, &[]).to_vec();
    let keys = vec![fast.key.of(frame, &[]).to_vec()];
    let program = Box::new(FastProgram::<A> { action, asked, memo: fast.memo, kept, _front: PhantomData });
    Txn { keys, program, want, atomicity: Atomicity::PerKey }
}

struct FastProgram<A> {
    action: Action,
    asked: Asked,
    memo: u32,
    kept: Vec<u8>,
    _front: PhantomData<fn(A)>,
}

enum Action {
    Delete,
    Get,
    GetTouch(Expire),
    Set { value: Vec<u8>, flags: u32, expire_at_ms: Option<u64>, guard: Guard },
    Touch(Expire),
}

impl<A: KvFront> Program for FastProgram<A> {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let mut nothing = Slot::default();
        let slot = slots.first_mut().unwrap_or(&mut nothing);
        let holds_string = matches!(&slot.entry, Some(Entry { value: Value::Str(_), .. }));
        let reply = match &self.action {
            Action::Delete if slot.delete() => StepReply::Applied { token: None },
            Action::Delete => StepReply::Missing,
            Action::Get | Action::GetTouch(_) if holds_string => {
                if let Action::GetTouch(expire) = self.action {
                    slot.touch(expire);
                }
                match &slot.entry {
                    Some(Entry { value: Value::Str(value), expire_at_ms, flags, token, .. }) => {
                        let (flags, expire_at_ms, token) = (*flags, *expire_at_ms, *token);
                        StepReply::Str { value, flags, expire_at_ms, token, marks: None }
                    }
                    _ => StepReply::Missing,
                }
            }
            Action::Touch(expire) if slot.touch(*expire) => StepReply::Applied { token: None },
            Action::Touch(_) => StepReply::Missing,
            Action::Get | Action::GetTouch(_) => match slot.entry.take() {
                None => StepReply::Missing,
                Some(entry) => StepReply::Typed(Box::new(entry)),
            },
            Action::Set { value, flags, expire_at_ms, guard } => {
                let holds = match guard {
                    Guard::Absent => slot.entry.is_none(),
                    Guard::Always => true,
                    Guard::Present => slot.entry.is_some(),
                    Guard::Token(token) => slot.entry.as_ref().is_some_and(|entry| entry.token == *token),
                };
                if holds {
                    let (expire_at_ms, flags) = (*expire_at_ms, *flags);
                    slot.put(Entry { expire_at_ms, flags, ..Entry::new(Value::Str(value.clone())) });
                    StepReply::Applied { token: Some(cx.token).filter(|&token| token != 0) }
                } else if matches!(guard, Guard::Token(_)) && slot.entry.is_none() {
                    StepReply::Missing
                } else {
                    StepReply::Guarded
                }
            }
        };
        let recall = Recall { asked: self.asked, memo: self.memo, kept: &self.kept, now_ms: cx.now_ms };
        let outcome = A::fast_reply(&recall, &reply, out);
        // It was only lent to the reply.
        if let StepReply::Typed(entry) = reply {
            slot.entry = Some(*entry);
        }
        outcome
    }
}
