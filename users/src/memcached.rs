//! The guard of Memcached.
//!
//! Clients log in as memcached has it: with SASL PLAIN in the binary protocol, and in text with a first `set` of any
//! key whose value is name and password with a space between. Categories are those of Redis, as far as they fit: values
//! are strings.

use mecha_core::{Batch, Call, Cx, Framed, Keys, OpClass, OpId, Protocol, Refusal, Verdict};
use mecha_memcached::binary::Response;
use mecha_memcached::{Memcached, base64, ops};
use mecha_resp::touch;

use crate::guard::{Gate, Guarded, Who, answer, set};
use crate::user::Vocabulary;

impl Vocabulary for Memcached {
    fn names() -> Vec<&'static str> {
        Self::ops().iter().map(|op| op.name).collect()
    }

    fn is_in(op: OpId, category: &str) -> bool {
        let Some(row) = Self::ops().get(usize::from(op.0)) else { return false };
        let is_data = matches!(row.class, OpClass::Read | OpClass::Write);
        match category {
            "admin" | "dangerous" | "slow" => row.class == OpClass::Admin,
            "connection" => row.class == OpClass::Session,
            "fast" => row.class != OpClass::Admin,
            "keyspace" => ["delete", "touch", "md", "flush_all"]
                .iter()
                .any(|name| crate::rules::is_named(row.name, name)),
            "read" => row.class == OpClass::Read,
            "string" => is_data,
            "write" => row.class == OpClass::Write,
            _ => false,
        }
    }
}

/// What everybody may ask, logged in or not.
fn is_free(op: OpId) -> bool {
    matches!(
        op,
        ops::BIN_SASL_LIST
            | ops::BIN_SASL_AUTH
            | ops::BIN_SASL_STEP
            | ops::BIN_VERSION
            | ops::QUIT
            | ops::BIN_QUIT
            | ops::BIN_QUITQ
            | ops::BIN_MALFORMED
            | ops::BIN_UNKNOWN
    )
}

impl Guarded for Memcached {
    fn is_login(call: &Call, who: &Who) -> bool {
        match call.op {
            ops::BIN_SASL_LIST | ops::BIN_SASL_AUTH | ops::BIN_SASL_STEP => true,
            ops::SET | ops::SET_NOREPLY => who.user().is_none(),
            _ => false,
        }
    }

    fn login(gate: &Gate, batch: &mut Batch<'_, Self>, index: usize, who: &mut Who, cx: &Cx<'_>) {
        let (Some(call), Some(head)) = (batch.calls.get(index).copied(), batch.heads.get(index).copied())
        else {
            return;
        };
        let refuse = |batch: &mut Batch<'_, Self>, why| set(batch, index, Verdict::Refuse(why));
        let frame = batch.frame(index);
        let is_whole = frame.len() >= head.value().end();
        let value = head.value().of(frame, &[]);
        let said = |value: &'static [u8]| {
            let opcode = head.opcode().unwrap_or_default();
            move |out: &mut Vec<u8>| {
                Response { opcode, opaque: head.opaque(), value, ..Response::default() }.write(out);
            }
        };
        let credentials = match call.op {
            ops::BIN_SASL_LIST => return answer(batch, index, said(b"PLAIN")),
            ops::BIN_SASL_AUTH if Self::key(&head, frame) == Some(b"PLAIN") => plain(value),
            ops::BIN_SASL_AUTH | ops::BIN_SASL_STEP => None,
            _ => in_text(value),
        };
        let Some((name, password)) = credentials.filter(|_| is_whole) else {
            let is_text = matches!(call.op, ops::SET | ops::SET_NOREPLY);
            return refuse(batch, if is_text { Refusal::LoginNeeded } else { Refusal::LoginFailed });
        };
        match gate.login((&name, &password), who, cx) {
            Err(why) => refuse(batch, why),
            Ok(()) if call.op == ops::BIN_SASL_AUTH => answer(batch, index, said(b"Authenticated")),
            Ok(()) => answer(batch, index, |out| {
                if call.op == ops::SET {
                    out.extend_from_slice(b"STORED\r\n");
                }
            }),
        }
    }

    fn judge(batch: &mut Batch<'_, Self>, index: usize, who: &Who) -> Option<Refusal> {
        let (call, head) = (batch.calls.get(index)?, batch.heads.get(index)?);
        if is_free(call.op) {
            return None;
        }
        let Some(user) = who.user() else { return Some(Refusal::LoginNeeded) };
        if call.class == OpClass::Session {
            return None;
        }
        if !user.may_run(call.op) {
            return Some(Refusal::NoCommand);
        }
        let what = match call.class {
            OpClass::Read => touch::READ,
            // It gives the value too.
            _ if matches!(call.op, ops::GAT | ops::GATS | ops::MG_UPDATE | ops::MG_UPDATE_QUIET)
                || (ops::BIN_GAT.0..=ops::BIN_GATKQ.0).contains(&call.op.0) =>
            {
                touch::READ | touch::WRITE
            }
            _ => touch::WRITE,
        };
        if user.keys.may_all(what) {
            return None;
        }
        let frame = call.span.of(batch.wire, batch.local);
        let is_meta = (ops::ME.0..=ops::MG_UPDATE_QUIET.0).contains(&call.op.0);
        let is_base64 = is_meta && says_base64(frame.get(..head.line_len()).unwrap_or_default());
        let mut is_fine = true;
        let known = Self::keys(head, frame, &mut |key| {
            is_fine &= if is_base64 {
                let mut plain = Vec::new();
                base64::decode(key, &mut plain).is_some() && user.keys.may(&plain, what)
            } else {
                user.keys.may(key, what)
            };
        });
        (!is_fine || known == Keys::Unknown).then_some(Refusal::NoKey)
    }

    fn answer(_gate: &Gate, _batch: &mut Batch<'_, Self>, _index: usize, _who: &Who) {}
}

/// Whether the words behind a meta command's key say that it is in base64.
fn says_base64(line: &[u8]) -> bool {
    let words = line.split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).filter(|word| !word.is_empty());
    words.skip(2).any(|word| word.first() == Some(&b'b'))
}

/// Name and password of SASL PLAIN; whom the client wants to act for must be nobody or itself.
fn plain(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts = value.splitn(3, |byte| *byte == 0);
    let (acted_for, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    (acted_for.is_empty() || acted_for == name).then(|| (name.to_vec(), password.to_vec()))
}

/// Name and password of a `set`.
fn in_text(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let at = value.iter().position(|byte| *byte == b' ')?;
    let (name, password) = value.split_at_checked(at)?;
    Some((name.to_vec(), password.get(1..)?.to_vec()))
}

#[cfg(test)]
mod tests;
