//! Answers calls from the embedded store, at once.

use std::ops::Range;
use std::sync::Arc;

use mecha_core::{Asked, Batch, Call, Peer, Span, Verdict};

use super::Store;
use super::space::{Own, View};
use super::waiters::{Post, Waiter};
use crate::exchange::Door;
use crate::kv::{Fast, FastAction, KvError, KvFront, Plan, PlanCx, Recall, RunCx, Started, StepReply};
use crate::translator::{Random, Taken};

use crate::EMBEDDED as BACK;

/// Bytes of answers after which the rest of a batch waits until the client has read them.
const ANSWERS_HIGH: usize = 256 << 10;

/// What a batch is served with besides the store.
#[derive(Clone, Copy)]
pub struct Desk<'a> {
    /// Unix time in milliseconds.
    pub now_ms: u64,
    /// Process start.
    pub started: Started,
    /// Any number, different on every call.
    pub random: u64,
    /// Where answers to calls go that wait.
    pub post: &'a Arc<dyn Post>,
    /// Where clients publish and subscribe, if they can.
    pub door: Option<&'a Door>,
}

/// Answers the calls of `batch` in `range` whose verdict is [`Verdict::Forward`]: sets their verdicts to
/// [`Verdict::Answered`] and says [`Taken::Answered`], or [`Taken::Close`] when a call closes the connection, behind
/// which none is looked at. Stops early once the answers are many bytes; the caller asks again.
///
/// A call that has to wait, with nothing before it in the range, is [`Taken::Pending`]: its answer comes through
/// [`Desk::post`], and the client's next calls are not to be offered before. [`Peer::id`] is how the store knows the client.
pub fn serve<A: KvFront>(
    store: &Store,
    batch: &mut Batch<'_, A>,
    range: Range<usize>,
    peer: &Peer,
    desk: &Desk<'_>,
) -> Taken {
    let Desk { now_ms, started, random, post, door } = desk;
    let (now_ms, started) = (*now_ms, *started);
    store.flush_if_due(now_ms);
    let mut random = Random(*random);
    let mut copy = Vec::new();
    let Batch { wire, local, heads, calls, session } = batch;
    let (mut answered, begin) = (0, local.len());
    for index in range {
        let (Some(head), Some(call)) = (heads.get(index), calls.get_mut(index)) else { break };
        if call.verdict != Verdict::Forward {
            answered += 1;
            continue;
        }
        // The answer goes where a rewritten request may lie.
        let frame = if call.span.is_local() {
            copy.clear();
            copy.extend_from_slice(call.span.of(wire, local));
            copy.as_slice()
        } else {
            call.span.of(wire, &[])
        };
        let cx = PlanCx {
            now_ms,
            back: BACK,
            max_value: store.max_value(),
            random: random.next(),
            key_count: Some(store.len() as u64),
            client_id: peer.id,
            client_addr: peer.addr,
            conn: call.ticket.conn,
            waiting: store.waiting(),
            door: *door,
            started_at: &started,
        };
        let start = local.len();
        let plan = A::plan(head, frame, session, &cx, local);
        let closes = matches!(plan, Plan::Close);
        let run = RunCx { now_ms, random: cx.random, max_value: cx.max_value, token: 0 };
        let result = match plan {
            // Those before it leave first.
            Plan::Block(_) if answered > 0 => break,
            Plan::Block(block) => {
                let waiter = Waiter {
                    block,
                    ticket: call.ticket,
                    asked: call.asked(),
                    request_len: frame.len(),
                    post: Arc::clone(post),
                    write_error: A::error,
                };
                match store.run_or_wait(waiter, peer.id, &run, local) {
                    Ok(false) => return Taken::Pending(1),
                    Ok(true) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            plan => answer::<A>(store, plan, frame, call, &run, local),
        };
        if let Err(error) = result {
            local.truncate(start);
            A::error(call.asked(), error, BACK, local);
        }
        store.serve_ready(&run);
        call.verdict = Verdict::Answered(Span::local(start, local.len() - start));
        answered += 1;
        if closes {
            return Taken::Close(answered);
        }
        if local.len() - begin >= ANSWERS_HIGH {
            break;
        }
    }
    Taken::Answered(answered)
}

fn answer<A: KvFront>(
    store: &Store,
    plan: Plan,
    frame: &[u8],
    call: &Call,
    cx: &RunCx,
    out: &mut Vec<u8>,
) -> Result<(), KvError> {
    match plan {
        // Nothing is ever under way here, and what may wait is seen to by the caller.
        Plan::Answered(_) | Plan::Block(_) | Plan::Close | Plan::Wait => Ok(()),
        Plan::Fast(fast) => answer_fast::<A>(store, &fast, frame, call.asked(), cx.now_ms, out),
        Plan::Txn(mut txn) => store.run(&mut txn, cx, call.class, frame.len(), out).map(drop),
        Plan::Sequence(mut sequence) => {
            let mut own = Own::new(store, sequence.as_ref(), cx.now_ms);
            sequence.run(&mut own, cx, out);
            Ok(())
        }
        Plan::Walk(mut walk) => {
            walk.run(&View { store, now_ms: cx.now_ms }, cx, out);
            Ok(())
        }
    }
}

fn answer_fast<A: KvFront>(
    store: &Store,
    fast: &Fast,
    frame: &[u8],
    asked: Asked,
    now_ms: u64,
    out: &mut Vec<u8>,
) -> Result<(), KvError> {
    let key = fast.key.of(frame, &[]);
    let recall = Recall { asked, memo: fast.memo, kept: fast.keep.of(frame, &[]), now_ms };
    let reply = match fast.action {
        FastAction::Delete => store.delete(key, now_ms),
        FastAction::Flush { delay_s: 0 } => {
            store.flush();
            StepReply::Applied { token: None }
        }
        FastAction::Flush { delay_s } => {
            store.flush_at(now_ms.saturating_add(u64::from(delay_s) * 1000));
            StepReply::Applied { token: None }
        }
        FastAction::Get(_) => {
            store.get(key, now_ms, |reply| A::fast_reply(&recall, reply, out));
            return Ok(());
        }
        FastAction::GetTouch(expire) => {
            let read = |reply: &StepReply<'_>| _ = A::fast_reply(&recall, reply, out);
            store.get_touch(key, expire, now_ms, read);
            return Ok(());
        }
        FastAction::Set { value, flags, expire, guard } => {
            store.set(key, value.of(frame, &[]), flags, expire, guard, now_ms)
        }
        FastAction::Touch(expire) if store.touch(key, expire, now_ms) => StepReply::Applied { token: None },
        FastAction::Touch(_) => StepReply::Missing,
    };
    match reply {
        StepReply::Failed(error) => Err(error),
        reply => {
            A::fast_reply(&recall, &reply, out);
            Ok(())
        }
    }
}
