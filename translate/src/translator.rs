//! Drives a remote back: plans become steps, replies become answers.
//!
//! One translator belongs to one worker and one pair of listener and cluster. It is free of I/O: the engine sends the
//! frames that it is given and brings the replies back by token, in any order.
//!
//! Three kinds of work are in flight:
//! - *fast* steps: one frame, one reply, formatted by the front. Nothing is allocated for them.
//! - *machines*: a program over slots. Its keys are loaded, it runs, what changed is stored with guards by token. When
//!   a guard fails somebody else was faster, and the machine starts over from the load, a bounded number of times.
//! - *flushes*: one frame to each endpoint, answered when all have replied.
//!
//! Order. A client's commands on one key take effect in the order in which they were sent: fast steps on a key go down
//! one connection one after the other; machines on a key queue behind each other ([`locks`]); a machine's load goes
//! down the same connection as the fast steps before it; and a fast step of a client that has a machine in flight on
//! that key becomes a machine itself and queues behind it. A program that only reads queues behind its own client's
//! commands alone. Commands on different keys do not wait for each other. A
//! flush waits for its client's machines. The queue also keeps the clients of one worker from racing each other; and
//! those in it for the same single key share a load and a store ([`machine`]).
//!
//! Waiting ([`waiting`]). A command that waits for its keys is a machine that runs again: after a pause, and when a machine
//! of this translator has stored something at one of them. Its client's next commands wait for its answer.
//!
//! Interruption. A connection that fails in the middle of a machine can leave: of a program over one changed key,
//! that key as it was before or after it; of a [`crate::kv::Atomicity::PerKey`] program, any part of the keys that it
//! puts and none of those that it deletes, or all that it puts and any part of those that it deletes. The client gets
//! the refusal that says so.
//!
//! Deliberately absent: a snapshot over several keys. A program that reads `a` and writes `b` is only sure that `b` did
//! not change in between.

mod drive;
mod fast;
mod fast_program;
mod locks;
mod machine;
mod ring;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Range;

use mecha_core::{Asked, Batch, Call, ConnKey, OpClass, OpId, Outcome, Peer, Refusal, Ticket, Verdict};
use slab::Slab;

use self::locks::Locks;
use self::machine::Machine;
use self::ring::Ring;
use self::waiting::Waiting;
use crate::exchange::Door;
use crate::kv::{
    Answer, Answers, BackFrame, BackFrames, KvBack, KvError, KvFront, Plan, PlanCx, Recall, RunCx, Started,
    Step, StepKind, StepReply, Txn,
};

/// What became of the leading calls of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The verdicts of this many calls are [`Verdict::Answered`].
    Answered(usize),
    /// As [`Taken::Answered`], and the connection is to be closed behind the last of them.
    Close(usize),
    /// Nothing was taken. Offer the calls again after the next [`Translator::reply`] or [`Translator::fail`].
    Full,
    /// This many calls are in flight; their answers come through [`Answers`].
    Pending(usize),
}

/// Facts and limits of one translator.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many endpoints a flush has to reach.
    pub endpoints: usize,
    /// The most steps in flight; more calls are [`Taken::Full`]. At most 2^22.
    pub max_in_flight: usize,
    /// How often a program starts over after a lost race before the client is told [`KvError::Contended`].
    pub max_retries: u32,
    /// Largest value in bytes that the back can hold. Memcached counts key and header too: its item size less 512.
    pub max_value: usize,
    /// Any number, different for each translator.
    pub random_seed: u64,
    /// Process start.
    pub started: Started,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: 1,
            max_in_flight: 1 << 16,
            max_retries: 64,
            max_value: (1 << 20) - 512,
            random_seed: 0,
            started: Started { unix_seconds: 0 },
        }
    }
}

/// Drives a remote back `B` for clients that speak `A`.
pub struct Translator<A: KvFront, B: KvBack> {
    options: Options,
    random: Random,
    pending: Ring<Pending>,
    machines: Slab<Machine>,
    serial: u32,
    /// Steps that the machines may yet have in flight at once.
    reserved: usize,
    locks: Locks,
    ready: VecDeque<usize>,
    flushes: Slab<Flush>,
    waiting: Waiting,
    door: Option<Door>,
    scratch: Vec<u8>,
    /// Memory for [`Kept`].
    spare: Vec<Vec<u8>>,
    _protocols: PhantomData<fn(A, B)>,
}

struct Pending {
    kind: StepKind,
    owner: Owner,
}

enum Owner {
    Fast { ticket: Ticket, asked: Asked, memo: u32, token: u64, kept: Option<Kept> },
    Flush { group: usize },
    Machine { index: usize, serial: u32, slot: usize },
}

/// Copies of what a reply cannot be read or written without. The memory is used again.
struct Kept {
    /// What the front wants to see, and behind it the key, if the back does.
    bytes: Vec<u8>,
    /// Where the key starts.
    key_at: usize,
}

struct Flush {
    ticket: Ticket,
    asked: Asked,
    memo: u32,
    left: usize,
    failed: Option<Failure>,
}

/// Why a call ends without the reply that it was made for.
#[derive(Clone, Copy)]
enum Failure {
    Kv(KvError),
    Refused(Refusal),
}

/// Where a machine comes from.
#[derive(Clone, Copy)]
struct Origin {
    ticket: Ticket,
    asked: Asked,
    /// Of each step; 0 is no limit.
    timeout_ms: u32,
}

/// What became of one call.
enum Begun {
    /// The reply is in `scratch`.
    Answered,
    Close,
    InFlight,
    Stalled,
}

const MAX_IN_FLIGHT: usize = 1 << 22;
/// How much memory is kept for use again: so many pieces of at most so many bytes.
const MOST_SPARE: usize = 1024;
const LARGEST_SPARE: usize = 512;

// === impl Translator ===

impl<A: KvFront, B: KvBack> Translator<A, B> {
    /// A translator with nothing in flight.
    pub fn new(options: Options) -> Self {
        Self {
            random: Random(options.random_seed),
            options: Options { max_in_flight: options.max_in_flight.clamp(1, MAX_IN_FLIGHT), ..options },
            pending: Ring::new(),
            machines: Slab::new(),
            serial: 0,
            reserved: 0,
            locks: Locks::default(),
            ready: VecDeque::new(),
            flushes: Slab::new(),
            waiting: Waiting::default(),
            door: None,
            scratch: Vec::new(),
            spare: Vec::new(),
            _protocols: PhantomData,
        }
    }

    /// Lets clients publish and subscribe.
    pub fn open_door(&mut self, door: Door) {
        self.door = Some(door);
    }

    /// Steps in flight.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Takes note of how many endpoints there are now.
    pub fn set_endpoints(&mut self, count: usize) {
        self.options.endpoints = count;
    }

    /// Takes leading calls of `batch` in `range`, as many as share one fate. Their verdicts must be
    /// [`Verdict::Forward`]; only behind a [`Taken::Pending`] may the next call be answered already, and is then
    /// counted by the next [`Taken::Answered`].
    pub fn requests(
        &mut self,
        batch: &mut Batch<'_, A>,
        range: Range<usize>,
        peer: &Peer,
        now_ms: u64,
        out: &mut BackFrames,
    ) -> Taken {
        let Batch { wire, local, heads, calls, session } = batch;
        let (mut answered, mut in_flight) = (0, 0);
        for index in range {
            let (Some(head), Some(call)) = (heads.get(index), calls.get_mut(index)) else { break };
            if matches!(call.verdict, Verdict::Answered(_)) && in_flight == 0 {
                answered += 1;
                continue;
            }
            if call.verdict != Verdict::Forward || self.is_full() || self.waiting.has(call.ticket.conn) {
                break;
            }
            let cx = PlanCx {
                now_ms,
                back: B::BACK,
                max_value: self.options.max_value,
                random: self.random.next(),
                key_count: None,
                client_id: peer.id,
                client_addr: peer.addr,
                conn: call.ticket.conn,
                waiting: self.waiting.len(),
                door: self.door.as_ref(),
                started_at: &self.options.started,
            };
            let frame = call.span.of(wire, local);
            self.scratch.clear();
            let plan = A::plan(head, frame, session, &cx, &mut self.scratch);
            let sends = matches!(plan, Plan::Block(_) | Plan::Fast(_) | Plan::Txn(_));
            // A plan other than an answer may be asked for again: this call starts the next run.
            if (sends && answered > 0) || (matches!(plan, Plan::Close) && in_flight > 0) {
                break;
            }
            match self.begin(plan, frame, call, now_ms, out) {
                Begun::Answered => {
                    call.verdict = self.answer_locally(local);
                    if in_flight > 0 {
                        break;
                    }
                    answered += 1;
                }
                Begun::Close => {
                    call.verdict = self.answer_locally(local);
                    return Taken::Close(answered + 1);
                }
                Begun::InFlight => in_flight += 1,
                Begun::Stalled => break,
            }
        }
        match (answered, in_flight) {
            (0, 0) => Taken::Full,
            (0, in_flight) => Taken::Pending(in_flight),
            (answered, _) => Taken::Answered(answered),
        }
    }

    /// Takes the reply to the step that was sent with `token`.
    pub fn reply(
        &mut self,
        token: u32,
        _reply: &B::Reply,
        frame: &[u8],
        now_ms: u64,
        out: &mut BackFrames,
        answers: &mut Answers,
    ) {
        let Some(pending) = self.pending.remove(token) else { return };
        match pending.owner {
            Owner::Fast { ticket, asked, memo, token, kept } => {
                let (shown, key) = kept.as_ref().map_or((&[][..], &[][..]), |kept| {
                    kept.bytes.split_at_checked(kept.key_at).unwrap_or_default()
                });
                let reply = B::decode(pending.kind, key, frame, now_ms);
                let start = answers.wire.len();
                let recall = Recall { asked, memo, kept: shown, now_ms };
                let outcome = match alive(reply, now_ms) {
                    StepReply::Failed(error) => A::error(asked, error, B::BACK, &mut answers.wire),
                    StepReply::Applied { token: None } if token != 0 => {
                        let reply = StepReply::Applied { token: Some(token) };
                        A::fast_reply(&recall, &reply, &mut answers.wire)
                    }
                    reply => A::fast_reply(&recall, &reply, &mut answers.wire),
                };
                push_answer(answers, start, ticket, asked.op, outcome);
                self.spare(kept);
            }
            Owner::Flush { group } => {
                let failure = match B::decode(pending.kind, &[], frame, now_ms) {
                    StepReply::Applied { .. } => None,
                    StepReply::Failed(error) => Some(Failure::Kv(error)),
                    _ => Some(Failure::Kv(KvError::BackFailed)),
                };
                self.flush_step(group, failure, now_ms, answers);
            }
            Owner::Machine { index, serial, slot } => {
                let Some(machine) = self.machines.get_mut(index).filter(|machine| machine.serial == serial)
                else {
                    return;
                };
                let key = machine.key(slot);
                let reply = B::decode(pending.kind, key, frame, now_ms);
                let next = machine.reply(slot, reply, frame.len(), now_ms, self.options.max_retries);
                self.advance(index, next, now_ms, out, answers);
                self.start_ready(now_ms, out, answers);
            }
        }
    }

    /// Ends the step that was sent with `token`: it timed out, its connection was lost, or it found no endpoint. The
    /// client is told natively, and the rest of its command is dropped.
    pub fn fail(
        &mut self,
        token: u32,
        why: Refusal,
        now_ms: u64,
        out: &mut BackFrames,
        answers: &mut Answers,
    ) {
        let Some(pending) = self.pending.remove(token) else { return };
        match pending.owner {
            Owner::Fast { ticket, asked, kept, .. } => {
                self.spare(kept);
                self.answer_failure(Failure::Refused(why), ticket, asked, answers);
            }
            Owner::Flush { group } => self.flush_step(group, Some(Failure::Refused(why)), now_ms, answers),
            Owner::Machine { index, serial, .. } => {
                if self.machines.get(index).is_some_and(|machine| machine.serial == serial) {
                    self.finish(index, Some(Failure::Refused(why)), answers);
                    self.start_ready(now_ms, out, answers);
                }
            }
        }
    }

    fn run_cx(&mut self, now_ms: u64) -> RunCx {
        RunCx {
            now_ms,
            random: self.random.next(),
            max_value: self.options.max_value,
            token: B::fresh_token(),
        }
    }

    fn is_full(&self) -> bool {
        self.pending.len() + self.reserved >= self.options.max_in_flight
    }

    fn answer_locally(&self, local: &mut Vec<u8>) -> Verdict {
        let start = local.len();
        local.extend_from_slice(&self.scratch);
        Verdict::Answered(mecha_core::Span::local(start, self.scratch.len()))
    }

    fn begin(&mut self, plan: Plan, frame: &[u8], call: &Call, now_ms: u64, out: &mut BackFrames) -> Begun {
        match plan {
            Plan::Block(block) => self.begin_waiting(block, call, now_ms, out),
            Plan::Fast(fast) => self.begin_fast(&fast, frame, call, now_ms, out),
            Plan::Answered(_) => Begun::Answered,
            Plan::Close => Begun::Close,
            Plan::Wait => Begun::Stalled,
            Plan::Txn(txn) => self.begin_txn(txn, call, now_ms, out),
            Plan::Sequence(_) | Plan::Walk(_) => self.answer_error(call.asked(), KvError::Unsupported),
        }
    }

    fn begin_txn(&mut self, txn: Txn, call: &Call, now_ms: u64, out: &mut BackFrames) -> Begun {
        let origin = Origin { ticket: call.ticket, asked: call.asked(), timeout_ms: call.timeout_ms };
        self.begin_machine(txn, &origin, call.class == OpClass::Read, None, now_ms, out)
    }

    /// Starts a machine; `turn` is that of the client that waits for its keys, if one does.
    fn begin_machine(
        &mut self,
        mut txn: Txn,
        origin: &Origin,
        only_reads: bool,
        turn: Option<u64>,
        now_ms: u64,
        out: &mut BackFrames,
    ) -> Begun {
        if txn.keys.is_empty() {
            let cx = self.run_cx(now_ms);
            self.scratch.clear();
            txn.program.run(&mut [], &cx, &mut self.scratch);
            return Begun::Answered;
        }
        txn.program.begin();
        self.serial = self.serial.wrapping_add(1);
        self.reserved += txn.keys.len();
        let timeout_ms = origin.timeout_ms;
        let deadline_ms = (timeout_ms > 0).then(|| now_ms.saturating_add(u64::from(timeout_ms)));
        let mut machine = Machine::new(self.serial, origin.ticket, origin.asked, deadline_ms, txn);
        machine.turn = turn;
        let index = self.machines.insert(machine);
        let Some(machine) = self.machines.get_mut(index) else { return Begun::Stalled };
        // What only reads may go beside others: its load goes out now, before anything that comes behind it. But not
        // past a command of the same client that has yet to be stored.
        let conn = origin.ticket.conn;
        if !only_reads || machine.keys().iter().any(|key| self.locks.has(key, conn)) {
            (machine.locks, machine.waits_for) = self.locks.enqueue(machine.keys(), index, conn);
        }
        if machine.waits_for > 0 {
            return Begun::InFlight;
        }
        match self.load(index, now_ms, out) {
            Ok(()) => Begun::InFlight,
            Err(failure) => {
                self.remove(index);
                self.scratch.clear();
                write_failure::<A, B>(failure, origin.asked, &mut self.scratch);
                Begun::Answered
            }
        }
    }

    fn answer_error(&mut self, asked: Asked, error: KvError) -> Begun {
        self.scratch.clear();
        A::error(asked, error, B::BACK, &mut self.scratch);
        Begun::Answered
    }

    #[allow(clippy::too_many_arguments)]
    fn send(
        &mut self,
        step: &Step<'_>,
        kind: StepKind,
        owner: Owner,
        endpoint: Option<u16>,
        timeout_ms: u32,
        now_ms: u64,
        out: &mut BackFrames,
    ) -> Result<(), KvError> {
        let start = out.wire.len();
        let encoded = B::encode(step, now_ms, self.options.max_value, &mut out.wire)?;
        let token = self.pending.insert(Pending { kind, owner });
        out.frames.push(BackFrame {
            span: mecha_core::Span::wire(start, out.wire.len() - start),
            key: encoded.key,
            endpoint,
            token,
            op: encoded.op,
            timeout_ms,
        });
        Ok(())
    }

    fn has_machines(&self, conn: ConnKey) -> bool {
        self.machines.iter().any(|(_, machine)| machine.ticket.conn == conn)
    }

    fn answer_failure(&self, failure: Failure, ticket: Ticket, asked: Asked, answers: &mut Answers) {
        let start = answers.wire.len();
        let outcome = write_failure::<A, B>(failure, asked, &mut answers.wire);
        push_answer(answers, start, ticket, asked.op, outcome);
    }
}

fn write_failure<A: KvFront, B: KvBack>(failure: Failure, asked: Asked, out: &mut Vec<u8>) -> Outcome {
    match failure {
        Failure::Kv(error) => A::error(asked, error, B::BACK, out),
        Failure::Refused(why) => {
            A::refuse(asked, why, out);
            Outcome::Refused(why)
        }
    }
}

fn push_answer(answers: &mut Answers, start: usize, ticket: Ticket, op: OpId, outcome: Outcome) {
    let span = mecha_core::Span::wire(start, answers.wire.len() - start);
    answers.list.push(Answer { ticket, span, op, outcome });
}

/// Turns an entry that has expired into [`StepReply::Missing`].
fn alive(reply: StepReply<'_>, now_ms: u64) -> StepReply<'_> {
    let expire_at_ms = match &reply {
        StepReply::Str { expire_at_ms, .. } => *expire_at_ms,
        StepReply::Typed(entry) => entry.expire_at_ms,
        _ => None,
    };
    if expire_at_ms.is_some_and(|at| at <= now_ms) { StepReply::Missing } else { reply }
}

/// SplitMix64: cheap, and different on every call; nothing here needs more.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
