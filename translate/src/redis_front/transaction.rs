//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! Commands between MULTI and EXEC are kept as they came, and EXEC plans each of them. In this process they are run one
//! after the other while nobody else has the keys ([`local`]). For a remote back they become one program over the slots
//! of every key; such a back can change one key at a time, so a transaction that turns out to change more is given up,
//! with nothing changed and an error that says so.
//!
//! WATCH notes the versions of its keys, and EXEC compares them under the locks under which it runs. A remote back cannot
//! compare one key while it writes another, so WATCH is refused there.
//!
//! Commands that change the session (HELLO, CLIENT SETNAME) are planned on a copy of it, which takes the session's place
//! when EXEC is done. Whether that happens is not known when EXEC is planned: the same EXEC may be planned again, and on
//! a remote back it may fail later. Plan and session therefore share [`mecha_resp::Progress`], and the next command finds
//! out, in [`settle`]; until it is known that command waits.

mod local;

use std::rc::Rc;

use mecha_core::{OpId, Outcome};
use mecha_resp::reply::Writer;
use mecha_resp::{Progress, Session, head_of, op};

use self::local::{LocalExec, Step, Watch};
use super::aggregate::distinct;
use super::support::is_local;
use super::{arguments, pubsub, refuse, unsupported, unsupported_in_transaction, with_article};
use crate::kv::{Atomicity, Attempt, Plan, PlanCx, Program, RunCx, Txn, Want};
use crate::slot::Slot;

/// Replies of one transaction end here, in bytes. Those of single commands may be larger, if what they show is.
const MOST_REPLIES: usize = 64 << 20;
const TOO_MANY_REPLIES: &str = "ERR the replies of the transaction are larger than 64 MiB";
/// What one client can have queued, in bytes.
const MOST_QUEUED: usize = 64 << 20;
/// What a queued request takes besides its bytes.
const QUEUED_REQUEST: usize = 64;

/// Ends the transaction of an EXEC that was taken up. `op` is the command that comes now. Returns whether how EXEC ends
/// is known, so that this command can be planned.
pub(super) fn settle(op: OpId, session: &mut Session) -> bool {
    let Some(transaction) = &session.transaction else { return true };
    let progress = Rc::clone(&transaction.progress);
    if progress.pending.get() {
        return false;
    }
    let is_asked_again = op == op::EXEC && !progress.begun.get();
    if progress.planned.get() && !is_asked_again {
        end(session);
        let after = progress.after.take().filter(|_| progress.begun.get() && !progress.aborted.get());
        if let Some(after) = after {
            *session = *after;
        }
    }
    true
}

/// Forgets what was queued and watched.
pub(super) fn end(session: &mut Session) {
    session.multi = false;
    session.transaction = None;
}

/// Tells an open transaction that a command was refused which is never queued.
pub(super) fn spoil(op: OpId, session: &mut Session) {
    match &mut session.transaction {
        Some(_) if session.multi && op == op::EXEC => end(session),
        Some(transaction) if session.multi => transaction.broken = true,
        _ => {}
    }
}

/// Queues a command of an open transaction, or says why not. `None`: it is not one that can be queued.
pub(super) fn queue(
    op: OpId,
    frame: &[u8],
    session: &mut Session,
    cx: &PlanCx<'_>,
    out: &mut Vec<u8>,
) -> Option<Plan> {
    if !session.multi || matches!(op, op::MULTI | op::EXEC | op::DISCARD | op::WATCH | op::QUIT | op::RESET) {
        return None;
    }
    let transaction = session.transaction.get_or_insert_default();
    let mut writer = Writer::new(out, session.proto);
    let refused = match refuse(op, &arguments(frame), cx.back, &mut writer) {
        Some(outcome) => Some(outcome),
        // It takes one message to each server, which nothing else can be part of.
        None if matches!(op, op::FLUSHALL | op::FLUSHDB) && !is_local(cx.back) || pubsub::is_about(op) => {
            writer.error(&unsupported_in_transaction(op, cx.back));
            Some(Outcome::ClientError)
        }
        None if transaction.bytes.saturating_add(frame.len()) > MOST_QUEUED => {
            writer.error("ERR the transaction is larger than 64 MiB");
            Some(Outcome::ClientError)
        }
        None => None,
    };
    let outcome = refused.unwrap_or(Outcome::Ok);
    match refused {
        Some(_) => transaction.broken = true,
        None => {
            transaction.bytes += frame.len() + QUEUED_REQUEST;
            transaction.frames.push(frame.to_vec());
            writer.simple("QUEUED");
        }
    }
    Some(Plan::Answered(outcome))
}

/// Plans the commands of this module; `None` for all others.
pub(super) fn plan(
    op: OpId,
    words: &[Vec<u8>],
    session: &mut Session,
    cx: &PlanCx<'_>,
    out: &mut Vec<u8>,
) -> Option<Plan> {
    let mut writer = Writer::new(out, session.proto);
    let error = |writer: &mut Writer<'_>, text| {
        writer.error(text);
        Some(Plan::Answered(Outcome::ClientError))
    };
    match op {
        op::MULTI if session.multi => return error(&mut writer, "ERR MULTI calls can not be nested"),
        op::MULTI => {
            session.multi = true;
            session.transaction.get_or_insert_default();
        }
        op::DISCARD if !session.multi => return error(&mut writer, "ERR DISCARD without MULTI"),
        op::DISCARD => end(session),
        op::UNWATCH => {
            if let Some(transaction) = &session.transaction {
                transaction.progress.watched.borrow_mut().clear();
            }
        }
        op::WATCH if session.multi => return error(&mut writer, "ERR WATCH inside MULTI is not allowed"),
        op::WATCH if !is_local(cx.back) => return error(&mut writer, &unsupported(op, cx.back)),
        op::WATCH => return Some(watch(words, session)),
        op::EXEC if !session.multi => return error(&mut writer, "ERR EXEC without MULTI"),
        op::EXEC => return Some(exec(session, cx, out)),
        _ => return None,
    }
    writer.ok();
    Some(Plan::Answered(Outcome::Ok))
}

fn watch(words: &[Vec<u8>], session: &mut Session) -> Plan {
    // An empty transaction means nothing, so making it twice does no harm.
    let progress = Rc::clone(&session.transaction.get_or_insert_default().progress);
    let (keys, _) = distinct(words.iter().skip(1).map(Vec::as_slice));
    Plan::Sequence(Box::new(Watch { keys, progress }))
}

// === EXEC ===

fn exec(session: &mut Session, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let transaction = session.transaction.take().unwrap_or_default();
    let mut after = session.clone();
    after.multi = false;
    let transaction = &**session.transaction.insert(transaction);
    if transaction.broken {
        Writer::new(out, session.proto).error("EXECABORT Transaction discarded because of previous errors.");
        end(session);
        return Plan::Answered(Outcome::ClientError);
    }
    let progress = Rc::clone(&transaction.progress);
    // All keys are counted when it is their turn.
    let cx = &PlanCx { key_count: cx.key_count.filter(|_| !is_local(cx.back)), ..*cx };
    let mut steps = Vec::with_capacity(transaction.frames.len());
    for frame in &transaction.frames {
        let mut reply = Vec::new();
        let op = head_of(frame).map_or(OpId::UNKNOWN, |head| head.op);
        let words = arguments(frame);
        if let Some(publish) = pubsub::published(op, &words, cx) {
            steps.push(Step::Publish(publish));
            continue;
        }
        let step = match super::plan_general(op, words, &mut after, cx, &mut reply) {
            Plan::Answered(_) => Step::Reply(reply),
            // Nobody waits in a transaction.
            Plan::Block(block) => {
                Step::Run { op, txn: block.attempt(Attempt::First), request_len: frame.len() }
            }
            // FLUSHALL is the only one of these that is not a fast form of something else.
            Plan::Fast(_) => {
                Writer::new(&mut reply, after.proto).ok();
                Step::Flush(reply)
            }
            Plan::Close | Plan::Wait => {
                reply.clear();
                Writer::new(&mut reply, after.proto).error(&unsupported(op, cx.back));
                Step::Reply(reply)
            }
            Plan::Sequence(sequence) => Step::Sequence(sequence),
            Plan::Txn(txn) => Step::Run { op, txn, request_len: frame.len() },
            Plan::Walk(walk) => Step::Walk(walk),
        };
        steps.push(step);
    }
    let proto = session.proto;
    progress.planned.set(true);
    progress.after.replace(Some(Box::new(after)));
    if is_local(cx.back) {
        let watched = progress.watched.borrow().clone();
        return Plan::Sequence(Box::new(LocalExec::new(steps, watched, proto, cx.back, progress)));
    }
    let (items, keys) = remote_items(steps, cx.back);
    let mut program = RemoteExec {
        items,
        proto,
        back: cx.back,
        progress: Rc::clone(&progress),
        begun: false,
        holds: false,
    };
    if keys.is_empty() {
        let run_cx = RunCx { now_ms: cx.now_ms, random: cx.random, max_value: cx.max_value, token: 0 };
        let outcome = program.run(&mut [], &run_cx, out);
        program.publish();
        progress.begun.set(true);
        settle(op::EXEC, session);
        return Plan::Answered(outcome);
    }
    let (program, atomicity) = (Box::new(program), Atomicity::AllOrNothing);
    Plan::Txn(Txn { keys, program, want: Want::Everything, atomicity })
}

/// One command of a transaction on a remote back.
enum Item {
    Publish(pubsub::Publish),
    Reply(Vec<u8>),
    /// A program, and where the slots of its keys are.
    Run(Box<dyn Program>, Vec<usize>),
}

/// The commands, and the keys of all.
fn remote_items(steps: Vec<Step>, back: &str) -> (Vec<Item>, Vec<Vec<u8>>) {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut planned = Vec::with_capacity(steps.len());
    for step in steps {
        planned.push(match step {
            Step::Publish(publish) => (Item::Publish(publish), 0..0),
            Step::Reply(reply) => (Item::Reply(reply), 0..0),
            Step::Run { txn, .. } => {
                let start = all.len();
                all.extend(txn.keys);
                (Item::Run(txn.program, Vec::new()), start..all.len())
            }
            // Was refused before it was queued.
            Step::Flush(_) | Step::Sequence(_) | Step::Walk(_) => {
                let mut reply = Vec::new();
                Writer::new(&mut reply, 2)
                    .error(&format!("ERR this is not supported on {} backend", with_article(back)));
                (Item::Reply(reply), 0..0)
            }
        });
    }
    let (keys, places) = distinct(all.iter().map(Vec::as_slice));
    let items = planned.into_iter().map(|(item, range)| match item {
        Item::Run(program, _) => Item::Run(program, places.get(range).unwrap_or_default().to_vec()),
        item => item,
    });
    (items.collect(), keys)
}

/// All commands as one program.
struct RemoteExec {
    items: Vec<Item>,
    proto: u8,
    back: &'static str,
    progress: Rc<Progress>,
    begun: bool,
    /// The last run changed what the transaction says.
    holds: bool,
}

impl RemoteExec {
    fn publish(&self) {
        for item in &self.items {
            if let Item::Publish(publish) = item {
                publish.send(&mut Vec::new());
            }
        }
    }

    fn end(&mut self, is_done: bool) {
        if std::mem::take(&mut self.begun) {
            self.progress.aborted.set(!is_done);
            self.progress.pending.set(false);
        }
    }
}

/// Without [`Program::done`], it failed.
impl Drop for RemoteExec {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl Program for RemoteExec {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let start = out.len();
        self.holds = false;
        let can_fail = slots.len() > 1;
        let before = if can_fail { slots.to_vec() } else { Vec::new() };
        Writer::new(out, self.proto).array(self.items.len());
        for (index, item) in self.items.iter_mut().enumerate() {
            let before = out.len();
            match item {
                // What is published is published when everything is stored.
                Item::Publish(publish) => publish.promise(out),
                Item::Reply(reply) => out.extend_from_slice(reply),
                Item::Run(program, places) => {
                    run_one(program.as_mut(), places, slots, &nth(cx, index), out);
                }
            }
            if out.len() - start > MOST_REPLIES {
                out.truncate(before);
                Writer::new(out, self.proto).error(TOO_MANY_REPLIES);
            }
        }
        let writes = |(slot, before): &(&Slot, &Slot)| {
            slot.changed && (slot.entry.is_some() || before.entry.is_some())
        };
        if can_fail && slots.iter().zip(&before).filter(writes).count() > 1 {
            slots.clone_from_slice(&before);
            out.truncate(start);
            Writer::new(out, self.proto).error(&format!(
                "EXECABORT Transaction discarded because it changes several keys, and {} backend changes one at a time",
                with_article(self.back)
            ));
            return Outcome::ClientError;
        }
        self.holds = true;
        Outcome::Ok
    }

    fn begin(&mut self) {
        self.begun = true;
        self.progress.begun.set(true);
        self.progress.pending.set(true);
    }

    fn done(&mut self) {
        if self.holds {
            self.publish();
        }
        self.end(self.holds);
    }
}

/// For the nth command of a transaction.
fn nth(cx: &RunCx, index: usize) -> RunCx {
    RunCx { random: cx.random.rotate_left(index as u32).wrapping_add(index as u64), ..*cx }
}

/// Runs one program on its slots among all.
fn run_one(program: &mut dyn Program, places: &[usize], slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) {
    let mut own: Vec<Slot> =
        places.iter().map(|place| slots.get_mut(*place).map(std::mem::take).unwrap_or_default()).collect();
    let changed: Vec<bool> = own.iter_mut().map(|slot| std::mem::take(&mut slot.changed)).collect();
    program.run(&mut own, cx, out);
    for ((place, mut slot), changed) in places.iter().zip(own).zip(changed) {
        slot.changed |= changed;
        if let Some(home) = slots.get_mut(*place) {
            *home = slot;
        }
    }
}
