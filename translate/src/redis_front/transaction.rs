//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! Commands between MULTI and EXEC are kept as they came. EXEC plans each of them and makes one program of all: it
//! takes the slots of every key, runs the programs in order, and answers with an array. In this process that is a
//! transaction over any keys. A remote back can change one key at a time, so there a transaction that turns out to
//! change more is given up, with nothing changed and an error that says so.
//!
//! WATCH notes the tokens of its keys, which change with every write; EXEC compares them under the locks under which it
//! runs. A remote back cannot compare one key while it writes another, so WATCH is refused there.
//!
//! Whether a transaction is over is known only when the plan of EXEC is taken up, and that may fail to happen: the same
//! EXEC is then planned again. Plan and session therefore share [`mecha_resp::Progress`], and the next command finds
//! out, in [`settle`]. If the plan failed before it ran (the back was not reached), a second EXEC tries it again.

use std::rc::Rc;

use mecha_core::{OpId, Outcome};
use mecha_resp::reply::Writer;
use mecha_resp::{Progress, Session, Transaction, head_of, op, op_info};

use super::aggregate::distinct;
use super::support::is_local;
use super::{arguments, refuse, spelled, unsupported};
use crate::kv::{Atomicity, Plan, PlanCx, Program, RunCx, Txn, Want};
use crate::slot::Slot;

/// Ends the transaction of an EXEC that was taken up. `op` is the command that comes now.
pub(super) fn settle(op: OpId, session: &mut Session) {
    let Some(transaction) = &session.transaction else { return };
    let progress = &transaction.progress;
    if !progress.planned.get() {
        return;
    }
    let is_asked_again = op == op::EXEC && !progress.ran.get() && Rc::strong_count(progress) == 1;
    if !is_asked_again {
        end(session);
    }
}

/// Forgets what was queued and watched.
pub(super) fn end(session: &mut Session) {
    session.multi = false;
    session.transaction = None;
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
        // These would change what the rest of the transaction is planned by, or look at all keys.
        None if matches!(op_info(op).name, "auth" | "client|setinfo" | "client|setname" | "hello")
            || matches!(
                op,
                op::FLUSHALL | op::FLUSHDB | op::DBSIZE | op::KEYS | op::RANDOMKEY | op::SCAN
            ) =>
        {
            writer.error(&format!(
                "ERR {} is not supported inside a transaction on a {} backend",
                spelled(op),
                cx.back
            ));
            Some(Outcome::ClientError)
        }
        None => None,
    };
    let outcome = refused.unwrap_or(Outcome::Ok);
    match refused {
        Some(_) => transaction.broken = true,
        None => {
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

// === WATCH ===

struct Watch {
    keys: Vec<Vec<u8>>,
    progress: Rc<Progress>,
}

fn watch(words: &[Vec<u8>], session: &mut Session) -> Plan {
    // An empty transaction means nothing, so making it twice does no harm.
    let progress = Rc::clone(&session.transaction.get_or_insert_default().progress);
    let (keys, _) = distinct(words.iter().skip(1).map(Vec::as_slice));
    let program = Box::new(Watch { keys: keys.clone(), progress });
    Plan::Txn(Txn { keys, program, want: Want::Header, atomicity: Atomicity::PerKey })
}

impl Program for Watch {
    fn run(&mut self, slots: &mut [Slot], _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let mut watched = self.progress.watched.borrow_mut();
        for (key, slot) in self.keys.iter().zip(slots) {
            if !watched.iter().any(|(known, _)| known == key) {
                watched.push((key.clone(), token(slot)));
            }
        }
        Writer::new(out, 2).ok();
        Outcome::Ok
    }
}

fn token(slot: &Slot) -> u64 {
    slot.entry.as_ref().map_or(0, |entry| entry.token)
}

// === EXEC ===

struct Exec {
    items: Vec<Item>,
    /// Where the watched keys' slots are, and the tokens that they must have.
    watched: Vec<(usize, u64)>,
    proto: u8,
    back: &'static str,
    progress: Rc<Progress>,
}

/// One command of a transaction.
enum Item {
    Reply(Vec<u8>),
    /// A program, and where the slots of its keys are.
    Run(Box<dyn Program>, Vec<usize>),
}

fn exec(session: &mut Session, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
    let Transaction { frames, broken, progress } = *session.transaction.clone().unwrap_or_default();
    if broken {
        Writer::new(out, session.proto).error("EXECABORT Transaction discarded because of previous errors.");
        end(session);
        return Plan::Answered(Outcome::ClientError);
    }
    // The commands that can be queued change nothing in it.
    let mut scratch = session.clone();
    end(&mut scratch);
    let mut planned = Vec::with_capacity(frames.len());
    let mut all = Vec::new();
    for frame in &frames {
        let (mut reply, start) = (Vec::new(), all.len());
        let op = head_of(frame).map_or(OpId::UNKNOWN, |head| head.op);
        let program = match super::plan_general(op, arguments(frame), &mut scratch, cx, &mut reply) {
            Plan::Txn(txn) => {
                all.extend(txn.keys);
                Some(txn.program)
            }
            Plan::Answered(_) => None,
            Plan::Close | Plan::Fast(_) | Plan::Walk(_) => {
                reply.clear();
                Writer::new(&mut reply, session.proto).error(&unsupported(op, cx.back));
                None
            }
        };
        planned.push((program, reply, start..all.len()));
    }
    let watches = progress.watched.borrow().clone();
    let given = all.iter().chain(watches.iter().map(|(key, _)| key));
    let (keys, places) = distinct(given.map(Vec::as_slice));
    let places_of = |range: std::ops::Range<usize>| places.get(range).unwrap_or_default().to_vec();
    let items = planned
        .into_iter()
        .map(|(program, reply, range)| match program {
            Some(program) => Item::Run(program, places_of(range)),
            None => Item::Reply(reply),
        })
        .collect();
    let watched =
        places.iter().skip(all.len()).copied().zip(watches.iter().map(|(_, token)| *token)).collect();
    let mut program =
        Exec { items, watched, proto: session.proto, back: cx.back, progress: Rc::clone(&progress) };
    if keys.is_empty() {
        let run_cx = RunCx { now_ms: cx.now_ms, random: cx.random, max_value: cx.max_value };
        let outcome = program.run(&mut [], &run_cx, out);
        end(session);
        return Plan::Answered(outcome);
    }
    progress.planned.set(true);
    Plan::Txn(Txn {
        keys,
        program: Box::new(program),
        want: Want::Everything,
        atomicity: Atomicity::AllOrNothing,
    })
}

impl Program for Exec {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        self.progress.ran.set(true);
        let start = out.len();
        let changed = |(place, before): &(usize, u64)| slots.get(*place).map_or(0, token) != *before;
        if self.watched.iter().any(changed) {
            Writer::new(out, self.proto).null_array();
            return Outcome::Ok;
        }
        let can_fail = !is_local(self.back) && slots.len() > 1;
        let before = if can_fail { slots.to_vec() } else { Vec::new() };
        Writer::new(out, self.proto).array(self.items.len());
        for (index, item) in self.items.iter_mut().enumerate() {
            match item {
                Item::Reply(reply) => out.extend_from_slice(reply),
                Item::Run(program, places) => {
                    let random = cx.random.rotate_left(index as u32).wrapping_add(index as u64);
                    run_one(program.as_mut(), places, slots, &RunCx { random, ..*cx }, out);
                }
            }
        }
        let writes = |(slot, before): &(&Slot, &Slot)| {
            slot.changed && (slot.entry.is_some() || before.entry.is_some())
        };
        if can_fail && slots.iter().zip(&before).filter(writes).count() > 1 {
            slots.clone_from_slice(&before);
            out.truncate(start);
            Writer::new(out, self.proto).error(&format!(
                "EXECABORT Transaction discarded because it changes several keys, and a {} backend changes one at a time",
                self.back
            ));
            return Outcome::ClientError;
        }
        Outcome::Ok
    }
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
