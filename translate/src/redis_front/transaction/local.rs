//! WATCH and EXEC in this process: one command after the other, while the stripes of their keys are locked.
//!
//! Each command takes effect on its own and answers for itself, as in Redis: one that fails leaves its keys as they were
//! and the others alone.

use std::rc::Rc;

use mecha_core::{OpId, Outcome};
use mecha_resp::reply::Writer;
use mecha_resp::{Progress, Resp};

use super::super::pubsub::Publish;
use super::{MOST_REPLIES, TOO_MANY_REPLIES, nth};
use crate::kv::{KvFront, RunCx, Sequence, Space, Txn, Walk};

/// `WATCH`.
pub(super) struct Watch {
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) progress: Rc<Progress>,
}

impl Sequence for Watch {
    fn keys(&self) -> Option<&[Vec<u8>]> {
        Some(&self.keys)
    }

    fn run(&mut self, space: &mut dyn Space, _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let mut watched = self.progress.watched.borrow_mut();
        for key in &self.keys {
            if !watched.iter().any(|(known, _)| known == key) {
                watched.push((key.clone(), space.version(key)));
            }
        }
        Writer::new(out, 2).ok();
        Outcome::Ok
    }
}

/// One command of a transaction.
pub(super) enum Step {
    /// All keys go; this is the reply.
    Flush(Vec<u8>),
    Publish(Publish),
    /// Answered when it was planned.
    Reply(Vec<u8>),
    Run {
        op: OpId,
        txn: Txn,
        request_len: usize,
    },
    Sequence(Box<dyn Sequence>),
    Walk(Box<dyn Walk>),
}

/// `EXEC`.
pub(super) struct LocalExec {
    steps: Vec<Step>,
    /// Of the steps and those that are watched; `None` if a step goes over all.
    keys: Option<Vec<Vec<u8>>>,
    watched: Vec<(Vec<u8>, u64)>,
    proto: u8,
    back: &'static str,
    progress: Rc<Progress>,
}

// === impl LocalExec ===

impl LocalExec {
    pub(super) fn new(
        steps: Vec<Step>,
        watched: Vec<(Vec<u8>, u64)>,
        proto: u8,
        back: &'static str,
        progress: Rc<Progress>,
    ) -> Self {
        let mut keys = Some(watched.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
        for step in &steps {
            let more = match step {
                Step::Publish(_) | Step::Reply(_) => continue,
                Step::Run { txn, .. } => Some(txn.keys.as_slice()),
                Step::Sequence(sequence) => sequence.keys(),
                Step::Flush(_) | Step::Walk(_) => None,
            };
            match (more, &mut keys) {
                (Some(more), Some(keys)) => keys.extend_from_slice(more),
                _ => keys = None,
            }
        }
        Self { steps, keys, watched, proto, back, progress }
    }
}

impl Sequence for LocalExec {
    fn keys(&self) -> Option<&[Vec<u8>]> {
        self.keys.as_deref()
    }

    fn run(&mut self, space: &mut dyn Space, cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        self.progress.begun.set(true);
        if self.watched.iter().any(|(key, version)| space.version(key) != *version) {
            self.progress.aborted.set(true);
            Writer::new(out, self.proto).null_array();
            return Outcome::Ok;
        }
        let start = out.len();
        Writer::new(out, self.proto).array(self.steps.len());
        for (index, step) in self.steps.iter_mut().enumerate() {
            let (cx, before) = (nth(cx, index), out.len());
            match step {
                Step::Flush(reply) => {
                    space.flush();
                    out.extend_from_slice(reply);
                }
                Step::Publish(publish) => publish.send(out),
                Step::Reply(reply) => out.extend_from_slice(reply),
                Step::Run { op, txn, request_len } => {
                    if let Err(error) = space.run(txn, *request_len, &cx, out) {
                        out.truncate(before);
                        Resp::error(mecha_core::Asked { op: *op, echo: 0 }, error, self.back, out);
                    }
                }
                Step::Sequence(sequence) => drop(sequence.run(space, &cx, out)),
                Step::Walk(walk) => drop(walk.run(space.key_space(), &cx, out)),
            }
            if out.len() - start > MOST_REPLIES {
                out.truncate(before);
                Writer::new(out, self.proto).error(TOO_MANY_REPLIES);
            }
        }
        Outcome::Ok
    }
}
