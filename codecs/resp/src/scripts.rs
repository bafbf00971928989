//! `EVAL` and its like: where a script is in a request, and how one that is named by its digest is spelled out.

use mecha_core::{OpId, ScriptRole};

use crate::{args, op, write_request};

/// How all servers begin the error for a script that they lack.
pub(crate) const LACKING: &[u8] = b"-NOSCRIPT No matching script";

/// See [`mecha_core::Framed::script_role`].
#[inline]
pub(crate) fn role(op: OpId) -> ScriptRole {
    match op {
        op::AUTH | op::HELLO => ScriptRole::LogsIn,
        op::EVAL | op::EVAL_RO => ScriptRole::Spells,
        op::EVALSHA | op::EVALSHA_RO => ScriptRole::Recalls,
        op::SCRIPT_FLUSH => ScriptRole::Flushes,
        op::SCRIPT_LOAD => ScriptRole::Loads,
        _ => ScriptRole::None,
    }
}

/// See [`mecha_core::Framed::script`].
pub(crate) fn script(op: OpId, frame: &[u8]) -> Option<&[u8]> {
    let at = match role(op) {
        ScriptRole::Recalls | ScriptRole::Spells => 1,
        ScriptRole::Loads => 2,
        ScriptRole::Flushes | ScriptRole::LogsIn | ScriptRole::None => return None,
    };
    args(frame).nth(at)
}

/// See [`mecha_core::Framed::spell_out`].
pub(crate) fn spell_out(op: OpId, frame: &[u8], text: &[u8], out: &mut Vec<u8>) {
    let mut words: Vec<_> = args(frame).collect();
    if let [name, script, ..] = &mut words[..] {
        *name = if op == op::EVALSHA_RO { b"EVAL_RO" } else { b"EVAL" };
        *script = text;
    }
    write_request(words.into_iter(), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        write_request(words.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter(), &mut frame);
        frame
    }

    #[test]
    fn a_digest_is_replaced_by_the_text_and_nothing_else_changes() {
        for (op, before, after) in [
            (op::EVALSHA, "evalsha abcd 1 k arg", "EVAL text 1 k arg"),
            (op::EVALSHA_RO, "EVALSHA_RO abcd 0", "EVAL_RO text 0"),
        ] {
            let (frame, mut out) = (request(before), Vec::new());
            assert_eq!(script(op, &frame), Some(b"abcd".as_slice()));
            spell_out(op, &frame, b"text", &mut out);
            assert_eq!(out, request(after));
        }
    }

    #[test]
    fn texts_are_found_where_they_are() {
        assert_eq!(script(op::EVAL, &request("EVAL text 0")), Some(b"text".as_slice()));
        assert_eq!(script(op::SCRIPT_LOAD, &request("SCRIPT LOAD text")), Some(b"text".as_slice()));
        assert_eq!(script(op::SCRIPT_LOAD, &request("SCRIPT LOAD")), None);
        assert_eq!(script(op::GET, &request("GET k")), None);
    }
}
