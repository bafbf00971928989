//! The guard of RESP.
//!
//! What `ACL` tells about users is told here, and what would change them is refused: the server knows only mecha.
//!
//! `AUTH` and `HELLO` with `AUTH` inside a transaction are refused: they would be queued, and run as another user than
//! those behind them were judged for.

mod acl;

use mecha_core::{Batch, Call, Cx, Keys, OpId, Refusal, Span};
use mecha_resp::reply::Writer;
use mecha_resp::{
    Resp, access, args, each_touched, flag, normalise, op, op_info, op_named, replace, touch, write_request,
};

use crate::guard::{Gate, Guarded, Who, answer, set};
use crate::user::{DEFAULT, User, Vocabulary};

const CALLED_WITHOUT_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                                       Are you sure your configuration is correct?";

impl Vocabulary for Resp {
    fn names() -> Vec<&'static str> {
        mecha_resp::ops().iter().map(|op| op.name).collect()
    }

    fn is_in(op: OpId, category: &str) -> bool {
        let bit = mecha_resp::CATEGORIES.iter().position(|name| *name == category);
        bit.is_some_and(|bit| access(op).categories >> bit & 1 == 1)
    }
}

impl Guarded for Resp {
    fn is_login(call: &Call, _who: &Who) -> bool {
        matches!(call.op, op::AUTH | op::HELLO | op::RESET)
    }

    fn login(gate: &Gate, batch: &mut Batch<'_, Self>, index: usize, who: &mut Who, cx: &Cx<'_>) {
        normalise(batch, index);
        let Some(call) = batch.calls.get(index).copied() else { return };
        let is_open = batch.heads.get(index).is_none_or(|head| head.is_open);
        let frame = batch.frame(index);
        if call.op == op::RESET {
            if op_info(op::RESET).accepts(args(frame).count()) {
                gate.reset(who);
            }
            return;
        }
        let Some(asked) = Credentials::read(call.op, frame) else { return };
        let refuse = |batch: &mut Batch<'_, Self>, why| set(batch, index, mecha_core::Verdict::Refuse(why));
        if is_open {
            return refuse(batch, Refusal::LoginFailed);
        }
        if batch.session.multi || batch.session.is_uncounted() {
            return refuse(batch, Refusal::Unsupported);
        }
        if call.op == op::AUTH && asked.name.is_none() && gate.is_open() {
            return answer(batch, index, |out| Writer::new(out, 2).error(CALLED_WITHOUT_PASSWORD));
        }
        let name = asked.name.as_deref().unwrap_or(DEFAULT.as_bytes());
        match gate.login((name, &asked.password), who, cx) {
            Err(why) => refuse(batch, why),
            Ok(()) if call.op == op::AUTH => answer(batch, index, |out| Writer::new(out, 2).ok()),
            Ok(()) => {
                // The rest of the greeting goes on; whose it is concerns nobody behind mecha.
                let start = batch.local.len();
                write_request(asked.rest.iter().map(Vec::as_slice), batch.local);
                let written = Span::local(start, batch.local.len() - start);
                replace(batch, index, written);
            }
        }
    }

    fn judge(batch: &mut Batch<'_, Self>, index: usize, who: &Who) -> Option<Refusal> {
        let (call, head) = (batch.calls.get(index)?, batch.heads.get(index)?);
        let op = call.op;
        let is_free = op_info(op).has(flag::NO_AUTH);
        let Some(user) = who.user() else {
            return (!is_free || op == op::HELLO).then_some(Refusal::LoginNeeded);
        };
        if is_free {
            return None;
        }
        if !user.may_run(op) {
            return Some(Refusal::NoCommand);
        }
        if user.keys.has_all() && !has_channels(op) {
            return None;
        }
        let is_open = head.is_open;
        // Only arrays say where their arguments are.
        normalise(batch, index);
        judge_arguments(op, batch.frame(index), is_open, user)
    }

    fn answer(gate: &Gate, batch: &mut Batch<'_, Self>, index: usize, who: &Who) {
        let Some(call) = batch.calls.get(index).copied() else { return };
        if !op_info(call.op).name.starts_with("acl") {
            return;
        }
        normalise(batch, index);
        let words: Vec<_> = args(batch.frame(index)).map(<[u8]>::to_vec).collect();
        let proto = batch.session.proto;
        // Without the right number of arguments the server has the right words.
        if batch.session.multi || batch.session.is_uncounted() {
            return set(batch, index, mecha_core::Verdict::Refuse(Refusal::Unsupported));
        }
        if op_info(call.op).accepts(words.len()) && call.op != op::ACL_GENPASS {
            answer(batch, index, |out| acl::answer(call.op, &words, gate, who, proto, out));
        }
    }
}

/// Whether the arguments may name channels.
fn has_channels(op: OpId) -> bool {
    matches!(op, op::PUBLISH | op::SPUBLISH | op::SUBSCRIBE | op::SSUBSCRIBE | op::PSUBSCRIBE)
}

/// Whether the user may use what the arguments name.
fn judge_arguments(op: OpId, frame: &[u8], is_open: bool, user: &User) -> Option<Refusal> {
    match op {
        op::PUBLISH | op::SPUBLISH => {
            return (!args(frame).skip(1).take(1).all(|name| user.channels.may(name)))
                .then_some(Refusal::NoChannel);
        }
        op::SUBSCRIBE | op::SSUBSCRIBE => {
            let is_fine = !is_open && args(frame).skip(1).all(|name| user.channels.may(name));
            return (!is_fine).then_some(Refusal::NoChannel);
        }
        op::PSUBSCRIBE => {
            let is_fine = !is_open && args(frame).skip(1).all(|name| user.channels.may_pattern(name));
            return (!is_fine).then_some(Refusal::NoChannel);
        }
        // They read keys that no argument names.
        op::SORT | op::SORT_RO if !user.keys.may_all(touch::READ) => {
            let is_far = |word: &[u8]| word.eq_ignore_ascii_case(b"BY") || word.eq_ignore_ascii_case(b"GET");
            if args(frame).skip(2).any(is_far) {
                return Some(Refusal::NoKey);
            }
        }
        _ => {}
    }
    let mut is_fine = true;
    let known = each_touched(op, frame, &mut |key, what| {
        is_fine &= what & touch::CHANNEL != 0 || user.keys.may(key, what);
    });
    // Of a request that goes by in pieces only the first key is sure to be here.
    let is_whole = !is_open || op_info(op).key_range().0 == op_info(op).key_range().1;
    (!is_fine || known == Keys::Unknown || !is_whole).then_some(Refusal::NoKey)
}

/// What a client says about itself.
struct Credentials {
    /// `None`: the default user.
    name: Option<Vec<u8>>,
    password: Vec<u8>,
    /// The request without it.
    rest: Vec<Vec<u8>>,
}

impl Credentials {
    /// `None` if there are none, or not the right number of words; the server finds the words for that.
    fn read(op: OpId, frame: &[u8]) -> Option<Self> {
        let words: Vec<_> = args(frame).map(<[u8]>::to_vec).collect();
        match (op, words.as_slice()) {
            (op::AUTH, [_, password]) => {
                Some(Self { name: None, password: password.clone(), rest: Vec::new() })
            }
            (op::AUTH, [_, name, password]) => {
                Some(Self { name: Some(name.clone()), password: password.clone(), rest: Vec::new() })
            }
            (op::HELLO, [_, _, options @ ..]) => {
                let mut at = 0;
                while let Some(option) = options.get(at) {
                    if option.eq_ignore_ascii_case(b"AUTH") {
                        let (name, password) = (options.get(at + 1)?.clone(), options.get(at + 2)?.clone());
                        let rest = words.iter().take(2 + at).chain(words.iter().skip(2 + at + 3)).cloned();
                        return Some(Self { name: Some(name), password, rest: rest.collect() });
                    }
                    at += 2;
                }
                None
            }
            _ => None,
        }
    }
}

/// The row of a command that is named by words: a subcommand if there is one.
fn op_of(words: &[Vec<u8>]) -> OpId {
    let op = words.first().map_or(OpId::UNKNOWN, |name| op_named(name));
    match words.get(1) {
        Some(sub) if op_info(op).is_container => mecha_resp::sub_named(op, sub),
        _ => op,
    }
}

#[cfg(test)]
mod tests;
