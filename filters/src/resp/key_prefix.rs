//! Gives a listener's clients a name space of their own.
//!
//! Every key of a request gets the prefix; replies that name keys lose it. A command whose keys are not known, or that
//! reaches beyond the prefix whatever its keys are (`FLUSHALL`, `DBSIZE`, `SWAPDB`), is refused: a name space that leaks
//! is worse than none. Scripts are trusted to touch only the keys that they declare, as Redis Cluster trusts them.
//! Channels are not keys and stay as they are.

use std::sync::Arc;

use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{Batch, Cx, Filter, Framed, Keys, OpId, Refusal, Replies, Span, Verdict};
use mecha_resp::reply::write_int;
use mecha_resp::{Resp, args, head_of, is_learned, op, op_info, write_request};
use serde::Deserialize;

use super::replies::{NameShape, strip};
use crate::{BuildCx, FilterFactory, FilterKind, Help};

pub(crate) const KIND: FilterKind<Resp> = FilterKind {
    name: "key_prefix",
    help: Help {
        summary: "Puts a prefix before every key, and takes it off replies that name keys.",
        options: &[FilterOption {
            name: "prefix",
            takes: Takes::Text,
            without: Without::Nothing,
            about: "what to put before each key, 1 to 128 bytes",
        }],
        docs: "Commands that reach beyond a prefix (FLUSHALL, FLUSHDB, DBSIZE, SWAPDB, RANDOMKEY, CLUSTER ...) and commands whose\n\
               keys are not known are refused; in a transaction also those that answer with key names (KEYS, SCAN, XREAD,\n\
               LMPOP ...).",
        example: "- key_prefix: { prefix: \"tenant-7:\" }",
    },
    build: |options, cx| build(options, cx).map(|filter| Box::new(filter) as Box<dyn FilterFactory<Resp>>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKeyPrefix {
    prefix: String,
}

#[derive(Clone)]
struct KeyPrefix {
    prefix: Arc<[u8]>,
}

fn build(options: &Options, _cx: &BuildCx<'_>) -> Result<KeyPrefix, Vec<ConfigError>> {
    let raw: RawKeyPrefix = options.decode()?;
    if raw.prefix.is_empty() || raw.prefix.len() > 128 {
        return Err(vec![
            options.error("prefix", "must be 1 to 128 bytes").hint("as in `prefix: \"tenant-7:\"`"),
        ]);
    }
    Ok(KeyPrefix { prefix: raw.prefix.into_bytes().into() })
}

impl FilterFactory<Resp> for KeyPrefix {
    fn open(&self) -> Box<dyn Filter<Resp>> {
        Box::new(self.clone())
    }

    fn needs_whole_frames(&self) -> bool {
        true
    }
}

/// Commands whose effect or answer is about keys beyond the prefix, or that the filter cannot rewrite.
fn reaches_beyond(name: &str) -> bool {
    const FAMILIES: &[&str] = &["cluster", "debug", "module", "replicaof", "slaveof", "failover", "acl"];
    const COMMANDS: &[&str] = &[
        "bgrewriteaof",
        "command|getkeys",
        "command|getkeysandflags",
        "client|tracking",
        "dbsize",
        "flushall",
        "flushdb",
        "migrate",
        "monitor",
        "psync",
        "pfselftest",
        "randomkey",
        "restore-asking",
        "swapdb",
        "sync",
    ];
    let family = name.split('|').next().unwrap_or(name);
    FAMILIES.contains(&family) || COMMANDS.contains(&name)
}

/// Where a reply to `op` names keys.
fn shape_of(op: OpId) -> Option<NameShape> {
    Some(match op {
        op::BLPOP
        | op::BRPOP
        | op::BZPOPMIN
        | op::BZPOPMAX
        | op::LMPOP
        | op::BLMPOP
        | op::ZMPOP
        | op::BZMPOP => NameShape::FirstElement,
        op::KEYS => NameShape::Elements,
        op::SCAN => NameShape::SecondElementsElements,
        op::XREAD | op::XREADGROUP => NameShape::PairsNames,
        _ => return None,
    })
}

impl KeyPrefix {
    /// Appends the rewritten request to `out`. `false` if it cannot be done honestly.
    fn rewrite(&self, op: OpId, head: &mecha_resp::Request, frame: &[u8], out: &mut Vec<u8>) -> bool {
        let info = op_info(op);
        // What a server has told of its modules does not tell that they keep to the keys that they are given.
        if op == OpId::UNKNOWN || is_learned(op) || reaches_beyond(info.name) {
            return false;
        }
        match op {
            op::KEYS => return self.rewrite_pattern(frame, 1, out),
            op::SCAN => return self.rewrite_scan(frame, out),
            op::SORT | op::SORT_RO => return self.rewrite_sort(frame, out),
            _ => {}
        }
        let base = frame.as_ptr() as usize;
        let mut places = Vec::new();
        let known =
            Resp::keys(head, frame, &mut |key| places.push((key.as_ptr() as usize - base, key.len())));
        if known == Keys::Unknown {
            return false;
        }
        places.sort_unstable();
        places.dedup();
        let mut copied = 0;
        for (at, len) in places {
            // The length stands on the line before the key: copy up to it, write the new one.
            let header = frame
                .get(..at.saturating_sub(2))
                .and_then(|before| before.iter().rposition(|byte| *byte == b'$'));
            let Some(header) = header.filter(|header| *header >= copied) else { return false };
            out.extend_from_slice(frame.get(copied..=header).unwrap_or_default());
            write_int((len + self.prefix.len()) as i64, out);
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&self.prefix);
            copied = at;
        }
        out.extend_from_slice(frame.get(copied..).unwrap_or_default());
        true
    }

    /// The prefix as part of a pattern: its own special characters stand for themselves.
    fn pattern(&self, pattern: &[u8]) -> Vec<u8> {
        let mut escaped = Vec::with_capacity(self.prefix.len() + pattern.len());
        for byte in self.prefix.iter() {
            if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^') {
                escaped.push(b'\\');
            }
            escaped.push(*byte);
        }
        escaped.extend_from_slice(pattern);
        escaped
    }

    fn rewrite_pattern(&self, frame: &[u8], at: usize, out: &mut Vec<u8>) -> bool {
        let pattern = args(frame).nth(at).map(|pattern| self.pattern(pattern));
        let Some(pattern) = pattern else {
            // Wrong arguments: the server says so.
            out.extend_from_slice(frame);
            return true;
        };
        let words: Vec<_> = args(frame)
            .enumerate()
            .map(|(index, word)| if index == at { pattern.as_slice() } else { word })
            .collect();
        write_request(words.into_iter(), out);
        true
    }

    /// BY and GET name keys by patterns, whose first `*` stands for the element: the key behind them is the pattern's,
    /// so it gets the prefix as keys do. `#` is the element itself.
    fn rewrite_sort(&self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        let mut words: Vec<Vec<u8>> = args(frame).map(<[u8]>::to_vec).collect();
        let mut at = 1;
        let mut is_key = true;
        while let Some(word) = words.get_mut(at) {
            if is_key {
                let is_pattern = at > 1 && word.contains(&b'*');
                if is_pattern && self.prefix.contains(&b'*') {
                    return false;
                }
                if word.as_slice() != b"#" || at == 1 {
                    word.splice(0..0, self.prefix.iter().copied());
                }
                is_key = false;
            } else if word.eq_ignore_ascii_case(b"LIMIT") {
                at += 2;
            } else {
                is_key =
                    [&b"BY"[..], b"GET", b"STORE"].iter().any(|option| word.eq_ignore_ascii_case(option));
            }
            at += 1;
        }
        write_request(words.iter().map(Vec::as_slice), out);
        true
    }

    fn rewrite_scan(&self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        let found = args(frame).skip(2).position(|word| word.eq_ignore_ascii_case(b"MATCH"));
        if let Some(at) = found {
            return self.rewrite_pattern(frame, at + 3, out);
        }
        let pattern = self.pattern(b"*");
        let words: Vec<_> = args(frame).chain([b"MATCH".as_slice(), &pattern]).collect();
        write_request(words.into_iter(), out);
        true
    }
}

/// The reply to `EXEC` does not tell which command each of its elements answers, so names in it could not lose their
/// prefix: commands that answer with names are refused in a transaction, which is then aborted.
fn refuse_names_in_transactions(batch: &mut Batch<'_, Resp>) {
    // The session knows the state behind the last call; what came before it follows from the calls.
    let mut is_queued = batch.session.multi;
    for call in batch.calls.iter_mut().rev() {
        match call.op {
            op::EXEC | op::DISCARD if call.verdict == Verdict::Forward => is_queued = true,
            op::MULTI => is_queued = false,
            other if is_queued && call.verdict == Verdict::Forward && shape_of(other).is_some() => {
                call.verdict = Verdict::Refuse(Refusal::Filtered);
            }
            _ => {}
        }
    }
}

impl Filter<Resp> for KeyPrefix {
    fn on_requests(&mut self, batch: &mut Batch<'_, Resp>, _cx: &Cx<'_>) {
        refuse_names_in_transactions(batch);
        for (call, head) in batch.calls.iter_mut().zip(batch.heads.iter_mut()) {
            if call.verdict != Verdict::Forward {
                continue;
            }
            let start = batch.local.len();
            // A frame that an earlier filter rewrote lies in the buffer that grows.
            let copy;
            let frame = if call.span.is_local() {
                copy = call.span.of(&[], batch.local).to_vec();
                &copy
            } else {
                call.span.of(batch.wire, &[])
            };
            let is_inline = head.is_inline;
            if is_inline || !self.rewrite(call.op, head, frame, batch.local) {
                batch.local.truncate(start);
                call.verdict = Verdict::Refuse(Refusal::Filtered);
                continue;
            }
            let Some(mut fresh) = head_of(batch.local.get(start..).unwrap_or_default()) else { continue };
            fresh.span = Span::local(start, batch.local.len() - start);
            (call.span, *head) = (fresh.span, fresh);
        }
    }

    fn on_replies(&mut self, replies: &mut Replies<'_, Resp>, _cx: &Cx<'_>) {
        for (head, done) in replies.heads.iter_mut().zip(replies.done) {
            let Some(shape) = shape_of(done.op) else { continue };
            let frame = head.span.of(replies.wire, &[]);
            let start = replies.local.len();
            if !head.span.is_local() && strip(frame, shape, &self.prefix, replies.local) {
                head.span = Span::local(start, replies.local.len() - start);
            } else {
                replies.local.truncate(start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mecha_core::{Protocol, Ticket};
    use mecha_resp::Session;

    use super::*;
    use crate::testing::cx;

    fn frame(line: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        write_request(line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter(), &mut wire);
        wire
    }

    /// What becomes of a request: its words, or the refusal.
    fn rewritten(line: &str) -> String {
        let wire = frame(line);
        let mut heads = [head_of(&wire).unwrap()];
        let mut calls = [Resp::call(&heads[0], Ticket::default())];
        let (mut local, mut session) = (Vec::new(), Session::default());
        let mut batch = Batch {
            wire: &wire,
            local: &mut local,
            heads: &mut heads,
            calls: &mut calls,
            session: &mut session,
        };
        KeyPrefix { prefix: b"p:".as_slice().into() }.on_requests(&mut batch, &cx(0));
        if let Verdict::Refuse(why) = batch.calls[0].verdict {
            return why.name().into();
        }
        let words: Vec<_> =
            args(batch.frame(0)).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn every_key_gets_the_prefix() {
        for (line, expected) in [
            ("GET a", "GET p:a"),
            ("MSET a 1 b 2", "MSET p:a 1 p:b 2"),
            ("EVAL s 2 a b c", "EVAL s 2 p:a p:b c"),
            ("XREAD COUNT 1 STREAMS s t 0 0", "XREAD COUNT 1 STREAMS p:s p:t 0 0"),
            ("ZUNIONSTORE d 2 a b", "ZUNIONSTORE p:d 2 p:a p:b"),
            ("SORT a STORE b", "SORT p:a STORE p:b"),
            ("SORT by", "SORT p:by"),
            ("SORT a BY w_* GET # GET o_*->f", "SORT p:a BY p:w_* GET # GET p:o_*->f"),
            (
                "SORT a by nosort limit 0 5 desc get v_* store d",
                "SORT p:a by p:nosort limit 0 5 desc get p:v_* store p:d",
            ),
            ("PING", "PING"),
            ("PUBLISH ch m", "PUBLISH ch m"),
            ("KEYS a*", "KEYS p:a*"),
            ("SCAN 0 COUNT 5", "SCAN 0 COUNT 5 MATCH p:*"),
            ("SCAN 0 match u*", "SCAN 0 match p:u*"),
            ("SET $5 $5", "SET p:$5 $5"),
        ] {
            assert_eq!(rewritten(line), expected);
        }
    }

    /// Which calls of a pipeline pass, where the session is in a transaction behind it or not.
    fn passing(lines: &[&str], is_multi: bool) -> Vec<bool> {
        let mut wire = Vec::new();
        let (mut heads, mut calls) = (Vec::new(), Vec::new());
        for line in lines {
            let frame = frame(line);
            let mut head = head_of(&frame).unwrap();
            head.span = Span::wire(wire.len(), frame.len());
            calls.push(Resp::call(&head, Ticket::default()));
            heads.push(head);
            wire.extend(frame);
        }
        let (mut local, mut session) = (Vec::new(), Session::default());
        session.multi = is_multi;
        let mut batch = Batch {
            wire: &wire,
            local: &mut local,
            heads: &mut heads,
            calls: &mut calls,
            session: &mut session,
        };
        KeyPrefix { prefix: b"p:".as_slice().into() }.on_requests(&mut batch, &cx(0));
        batch.calls.iter().map(|call| call.verdict == Verdict::Forward).collect()
    }

    #[test]
    fn names_in_the_reply_to_a_transaction_are_refused() {
        let lines = ["KEYS *", "MULTI", "KEYS *", "GET a", "EXEC", "SCAN 0"];
        assert_eq!(passing(&lines, false), [true, true, false, true, true, true]);
        assert_eq!(passing(&["KEYS *", "GET a"], true), [false, true]);
    }

    #[test]
    fn what_reaches_beyond_the_prefix_is_refused() {
        for line in ["FLUSHALL", "DBSIZE", "JSON.GET a", "CLUSTER NODES", "SWAPDB 0 1", "RANDOMKEY"] {
            assert_eq!(rewritten(line), "filtered", "{line}");
        }
    }
}
