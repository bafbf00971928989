//! A fast plan as a program: for the cases in which it must wait for a machine, or look before it writes.

use std::marker::PhantomData;

use mecha_core::Outcome;

use crate::kv::{Atomicity, Expire, Fast, FastAction, Guard, KvFront, Program, RunCx, StepReply, Txn, Want};
use crate::slot::{Entry, Slot, Value};

/// Owns copies of everything that `fast` points to in `frame`. Not for [`FastAction::Flush`].
pub(super) fn fast_txn<A: KvFront>(fast: &Fast, frame: &[u8]) -> Txn {
    let (action, want) = match fast.action {
        FastAction::Delete | FastAction::Flush { .. } => (Action::Delete, Want::Header),
        FastAction::Get(want) => (Action::Get, want),
        FastAction::Set { value, flags, expire, guard } => {
            let expire_at_ms = match expire {
                Expire::AtMs(at) => Some(at),
                Expire::Keep | Expire::Never => None,
            };
            let value = value.of(frame, &[]).to_vec();
            (Action::Set { value, flags, expire_at_ms, guard }, Want::Header)
        }
    };
    let keys = vec![fast.key.of(frame, &[]).to_vec()];
    let program = Box::new(FastProgram::<A> { action, memo: fast.memo, _front: PhantomData });
    Txn { keys, program, want, atomicity: Atomicity::PerKey }
}

struct FastProgram<A> {
    action: Action,
    memo: u32,
    _front: PhantomData<fn(A)>,
}

enum Action {
    Delete,
    Get,
    Set { value: Vec<u8>, flags: u32, expire_at_ms: Option<u64>, guard: Guard },
}

impl<A: KvFront> Program for FastProgram<A> {
    fn run(&mut self, slots: &mut [Slot], _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let mut nothing = Slot::default();
        let slot = slots.first_mut().unwrap_or(&mut nothing);
        let holds_string = matches!(&slot.entry, Some(Entry { value: Value::Str(_), .. }));
        let reply = match &self.action {
            Action::Delete if slot.delete() => StepReply::Applied { token: None },
            Action::Delete => StepReply::Missing,
            Action::Get if holds_string => match &slot.entry {
                Some(Entry { value: Value::Str(value), expire_at_ms, flags, token }) => {
                    StepReply::Str { value, flags: *flags, expire_at_ms: *expire_at_ms, token: *token }
                }
                _ => StepReply::Missing,
            },
            Action::Get => match slot.entry.take() {
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
                    slot.put(Entry {
                        value: Value::Str(value.clone()),
                        expire_at_ms: *expire_at_ms,
                        flags: *flags,
                        token: 0,
                    });
                    StepReply::Applied { token: None }
                } else {
                    StepReply::Guarded
                }
            }
        };
        let outcome = A::fast_reply(self.memo, &reply, out);
        // It was only lent to the reply.
        if let StepReply::Typed(entry) = reply {
            slot.entry = Some(*entry);
        }
        outcome
    }
}
