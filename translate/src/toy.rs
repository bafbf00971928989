//! A small front, and batches for it, for the tests of this crate.
//!
//! A request is a list of byte strings; a reply is a line of text. The commands are chosen to use every kind of plan.

use mecha_core::{
    Asked, Batch, Call, ConnKey, Decode, Decoded, Framed, Keys, Limits, Looked, Matched, OpClass, OpInfo,
    Outcome, Peer, Protocol, ProtocolError, Refusal, Session, Span, Ticket, Verdict,
};

use crate::kv::{
    Atomicity, Expire, Fast, FastAction, Guard, KeySpace, KvError, KvFront, Plan, PlanCx, Program, Recall,
    RunCx, StepReply, Txn, Walk, Want,
};
use crate::slot::{Entry, Slot, Value};
use crate::zset::ZSet;

pub(crate) struct Toy;

pub(crate) struct NoDecoder;

impl Decode for NoDecoder {
    type Head = ();

    fn decode(&mut self, buf: &[u8], _: &mut Vec<()>) -> Result<Decoded, ProtocolError> {
        Ok(Decoded { tail: 0, consumed: buf.len(), open: false })
    }
}

#[derive(Default)]
pub(crate) struct NoSession;

impl Protocol for Toy {
    const NAME: &'static str = "toy";
    type Request = ();
    type Reply = ();

    fn ops() -> &'static [OpInfo] {
        &[]
    }

    fn call(_: &(), ticket: Ticket) -> Call {
        Call { ticket, ..Call::default() }
    }

    fn outcome(_: &()) -> Outcome {
        Outcome::Ok
    }

    fn refuse(_: Asked, why: Refusal, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("refused:{}", why.name()).as_bytes());
    }
}

impl Framed for Toy {
    type RequestDecoder = NoDecoder;
    type ReplyDecoder = NoDecoder;
    type Session = NoSession;

    fn request_decoder(_: Limits) -> NoDecoder {
        NoDecoder
    }

    fn reply_decoder(_: Limits, _: u8) -> NoDecoder {
        NoDecoder
    }

    fn reply_span(_: &()) -> Span {
        Span::default()
    }

    fn set_reply_span(_: &mut (), _: Span) {}

    fn matched(_: &()) -> Matched {
        Matched::Last
    }

    fn key<'w>(_: &(), _: &'w [u8]) -> Option<&'w [u8]> {
        None
    }

    fn keys<'w>(_: &(), _: &'w [u8], _: &mut dyn FnMut(&'w [u8])) -> Keys {
        Keys::Unknown
    }

    fn protocol_error(_: ProtocolError, _: &mut Vec<u8>) {}
}

impl Session<Toy> for NoSession {
    fn on_requests(batch: &mut Batch<'_, Toy>, _: usize) -> Looked {
        Looked { next: batch.calls.len(), is_over: false }
    }
}

/// A request from its arguments.
pub(crate) fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::new();
    for arg in args {
        frame.extend_from_slice(&(arg.len() as u32).to_be_bytes());
        frame.extend_from_slice(arg);
    }
    frame
}

/// A request from words.
pub(crate) fn words(line: &str) -> Vec<u8> {
    request(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}

fn args(frame: &[u8]) -> Vec<Span> {
    let (mut spans, mut at) = (Vec::new(), 0);
    while let Some(len) = frame.get(at..at + 4) {
        let len = u32::from_be_bytes(len.try_into().expect("four bytes")) as usize;
        spans.push(Span::wire(at + 4, len));
        at += 4 + len;
    }
    spans
}

struct Run<F>(F);

impl<F: FnMut(&mut [Slot], &RunCx) -> String> Program for Run<F> {
    fn run(&mut self, slots: &mut [Slot], cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        out.extend_from_slice((self.0)(slots, cx).as_bytes());
        Outcome::Ok
    }
}

fn txn(
    keys: &[&[u8]],
    want: Want,
    atomicity: Atomicity,
    run: impl FnMut(&mut [Slot], &RunCx) -> String + 'static,
) -> Plan {
    let keys = keys.iter().map(|key| key.to_vec()).collect();
    Plan::Txn(Txn { keys, program: Box::new(Run(run)), want, atomicity })
}

/// Changes one key's value in place, or makes it.
fn change(key: &[u8], fresh: Value, mut with: impl FnMut(&mut Value) -> Option<String> + 'static) -> Plan {
    txn(&[key], Want::Everything, Atomicity::PerKey, move |slots, _| {
        let entry = slots[0].entry.get_or_insert_with(|| Entry::new(fresh.clone()));
        match with(&mut entry.value) {
            None => "wrongtype".into(),
            Some(reply) => {
                slots[0].settle();
                reply
            }
        }
    })
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).expect("a test writes numbers")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Hash(_) => "hash",
        Value::List(_) => "list",
        Value::Set(_) => "set",
        Value::Str(_) => "string",
        Value::ZSet(_) => "zset",
    }
}

struct AllKeys;

impl Walk for AllKeys {
    fn run(&mut self, keys: &dyn KeySpace, _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let (mut cursor, mut names) = (0, Vec::new());
        loop {
            cursor =
                keys.scan(cursor, 7, &mut |key, _| names.push(String::from_utf8_lossy(key).into_owned()));
            if cursor == 0 {
                break;
            }
        }
        names.sort();
        out.extend_from_slice(names.join(" ").as_bytes());
        Outcome::Ok
    }
}

struct AnyKey;

impl Walk for AnyKey {
    fn run(&mut self, keys: &dyn KeySpace, cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        out.extend_from_slice(&keys.random(cx.random).unwrap_or_default());
        Outcome::Ok
    }
}

impl KvFront for Toy {
    fn plan(_: &(), frame: &[u8], _: &mut NoSession, cx: &PlanCx<'_>, out: &mut Vec<u8>) -> Plan {
        let spans = args(frame);
        let all: Vec<&[u8]> = spans.iter().map(|span| span.of(frame, &[])).collect();
        let key = spans.get(1).copied().unwrap_or_default();
        let fast = |action| Plan::Fast(Fast { key, action, keep: Span::default(), memo: 0 });
        match all.as_slice() {
            [b"ping"] => {
                out.extend_from_slice(b"pong");
                Plan::Answered(Outcome::Ok)
            }
            [b"quit"] => {
                out.extend_from_slice(b"bye");
                Plan::Close
            }
            [b"count"] => {
                out.extend_from_slice(format!("{:?}", cx.key_count).as_bytes());
                Plan::Answered(Outcome::Ok)
            }
            [b"keys"] => Plan::Walk(Box::new(AllKeys)),
            [b"random"] => Plan::Walk(Box::new(AnyKey)),
            [b"nokeys"] => {
                txn(&[], Want::Header, Atomicity::PerKey, |slots, _| format!("slots:{}", slots.len()))
            }
            [b"flush", delay] => fast(FastAction::Flush { delay_s: number(delay) as u32 }),
            [b"get", _] => fast(FastAction::Get(Want::Everything)),
            [b"type", _] => Plan::Fast(Fast {
                key,
                action: FastAction::Get(Want::Header),
                keep: Span::default(),
                memo: 1,
            }),
            [b"del", _] => fast(FastAction::Delete),
            [b"set", _, _, rest @ ..] => {
                let guard = match rest.first().copied() {
                    Some(b"nx") => Guard::Absent,
                    Some(b"xx") => Guard::Present,
                    _ => Guard::Always,
                };
                let expire = rest.get(1).map_or(Expire::Never, |at| Expire::AtMs(number(at)));
                let flags = rest.get(2).map_or(0, |flags| number(flags) as u32);
                fast(FastAction::Set { value: spans[2], flags, expire, guard })
            }
            [b"read", key] => txn(&[key], Want::Everything, Atomicity::PerKey, |slots, _| {
                format!("{:?}", slots[0].entry.as_ref().map(|entry| (&entry.value, entry.expire_at_ms)))
            }),
            [b"head", key] => {
                txn(&[key], Want::Header, Atomicity::PerKey, |slots, _| match &slots[0].entry {
                    None => "nil".into(),
                    Some(entry) => format!("{} {:?}", kind(&entry.value), entry.expire_at_ms),
                })
            }
            [b"expire", key, at] => {
                let at = number(at);
                txn(&[key], Want::Everything, Atomicity::PerKey, move |slots, _| {
                    let Some(entry) = &mut slots[0].entry else { return "nil".into() };
                    entry.expire_at_ms = (at > 0).then_some(at);
                    slots[0].settle();
                    "ok".into()
                })
            }
            [b"incr", key] => change(key, Value::Str(b"0".to_vec()), |value| {
                let Value::Str(digits) = value else { return None };
                let next = number(digits) + 1;
                *digits = next.to_string().into_bytes();
                Some(format!("int:{next}"))
            }),
            [b"push", key, item] => {
                let item = item.to_vec();
                change(key, Value::List(Default::default()), move |value| {
                    let Value::List(items) = value else { return None };
                    items.push_back(item.clone());
                    Some(format!("int:{}", items.len()))
                })
            }
            [b"pop", key] => change(key, Value::List(Default::default()), |value| {
                let Value::List(items) = value else { return None };
                Some(
                    items
                        .pop_front()
                        .map_or("nil".into(), |item| String::from_utf8_lossy(&item).into_owned()),
                )
            }),
            [b"hset", key, field, item] => {
                let (field, item) = (field.to_vec(), item.to_vec());
                change(key, Value::Hash(Default::default()), move |value| {
                    let Value::Hash(fields) = value else { return None };
                    fields.insert(field.clone(), item.clone());
                    Some(format!("int:{}", fields.len()))
                })
            }
            [b"sadd", key, member] => {
                let member = member.to_vec();
                change(key, Value::Set(Default::default()), move |value| {
                    let Value::Set(members) = value else { return None };
                    members.insert(member.clone());
                    Some(format!("int:{}", members.len()))
                })
            }
            [b"zadd", key, score, member] => {
                let (score, member) = (number(score) as f64, member.to_vec());
                change(key, Value::ZSet(ZSet::default()), move |value| {
                    let Value::ZSet(members) = value else { return None };
                    let _ = members.insert(&member, score);
                    Some(format!("int:{}", members.len()))
                })
            }
            [b"dels", keys @ ..] => txn(keys, Want::Header, Atomicity::PerKey, |slots, _| {
                format!("int:{}", slots.iter_mut().filter_map(|slot| slot.delete().then_some(())).count())
            }),
            [b"mset", rest @ ..] => {
                let keys: Vec<&[u8]> = rest.iter().step_by(2).copied().collect();
                let values: Vec<Vec<u8>> =
                    rest.iter().skip(1).step_by(2).map(|value| value.to_vec()).collect();
                txn(&keys, Want::Header, Atomicity::PerKey, move |slots, _| {
                    for (slot, value) in slots.iter_mut().zip(&values) {
                        slot.put(Entry::new(Value::Str(value.clone())));
                    }
                    "ok".into()
                })
            }
            [b"move", from, to] => txn(&[from, to], Want::Everything, Atomicity::AllOrNothing, |slots, _| {
                let Some(entry) = slots[0].entry.clone() else { return "nil".into() };
                slots[0].delete();
                slots[1].put(entry);
                "ok".into()
            }),
            [b"panic", key] => txn(&[key], Want::Everything, Atomicity::PerKey, |_, _| panic!("on purpose")),
            other => panic!("no such command: {other:?}"),
        }
    }

    fn fast_reply(recall: &Recall<'_>, reply: &StepReply<'_>, out: &mut Vec<u8>) -> Outcome {
        let text = match reply {
            StepReply::Applied { .. } => "ok".into(),
            StepReply::Failed(_) => "translators never pass failures".into(),
            StepReply::Guarded => "guarded".into(),
            StepReply::Missing => "nil".into(),
            StepReply::Str { .. } if recall.memo == 1 => "string".into(),
            StepReply::Str { value, flags: 0, .. } => format!("str:{}", String::from_utf8_lossy(value)),
            StepReply::Str { value, flags, .. } => format!("str:{}:{flags}", String::from_utf8_lossy(value)),
            StepReply::Typed(entry) => kind(&entry.value).into(),
        };
        out.extend_from_slice(text.as_bytes());
        Outcome::Ok
    }

    fn error(_: Asked, error: KvError, _: &'static str, out: &mut Vec<u8>) -> Outcome {
        out.extend_from_slice(format!("error:{error:?}").as_bytes());
        Outcome::ServerError
    }
}

/// One client's requests as the engine would hold them.
pub(crate) struct Requests {
    pub(crate) wire: Vec<u8>,
    pub(crate) local: Vec<u8>,
    pub(crate) heads: Vec<()>,
    pub(crate) calls: Vec<Call>,
    pub(crate) session: NoSession,
}

pub(crate) const PEER: Peer = Peer { id: 7, addr: None, local: None, identity: None, user: None };

impl Requests {
    pub(crate) fn new(client: u32, frames: &[Vec<u8>]) -> Self {
        let (mut wire, mut calls) = (Vec::new(), Vec::new());
        for (seq, frame) in frames.iter().enumerate() {
            calls.push(Call {
                ticket: Ticket { conn: ConnKey { index: client, epoch: 0 }, seq: seq as u32 },
                span: Span::wire(wire.len(), frame.len()),
                class: OpClass::Write,
                ..Call::default()
            });
            wire.extend_from_slice(frame);
        }
        let heads = vec![(); frames.len()];
        Self { wire, local: Vec::new(), heads, calls, session: NoSession }
    }

    pub(crate) fn batch(&mut self) -> Batch<'_, Toy> {
        Batch {
            wire: &self.wire,
            local: &mut self.local,
            heads: &mut self.heads,
            calls: &mut self.calls,
            session: &mut self.session,
        }
    }

    /// The local answer to a call, if it has one.
    pub(crate) fn answer(&self, index: usize) -> Option<String> {
        match self.calls[index].verdict {
            Verdict::Answered(span) => {
                Some(String::from_utf8_lossy(span.of(&self.wire, &self.local)).into_owned())
            }
            _ => None,
        }
    }
}
