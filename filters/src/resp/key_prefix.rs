//! Gives a listener's clients a name space of their own.
//!
//! Every key of a request gets the prefix; replies that name keys lose it. A command whose keys are not known, or that
//! reaches beyond the prefix whatever its keys are (`FLUSHALL`, `DBSIZE`, `SWAPDB`), is refused: a name space that leaks
//! is worse than none. Scripts are trusted to touch only the keys that they declare, as Redis Cluster trusts them;
//! functions, which all clients of a server share, can be called but not changed or listed. Channels get the prefix as
//! keys do, see [`super::channels`].
//!
//! `RANDOMKEY` goes as `KEYS` of the prefix, of whose answer one is chosen: what a server would choose is nearly always
//! somebody else's.

use std::collections::VecDeque;
use std::sync::Arc;

use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{
    Batch, Cx, Done, Filter, Framed, Keys, OpId, Passage, Refusal, Replies, Span, Ticket, Verdict,
};
use mecha_resp::reply::{Writer, write_int};
use mecha_resp::{Resp, args, head_of, is_learned, op, op_info, write_request};
use serde::Deserialize;

use super::channels::{Space, is_ambiguous, is_of_keys};
use super::replies::{NameShape, strip, strip_with};
use crate::{BuildCx, FilterFactory, FilterKind, Help};

pub(crate) const KIND: FilterKind<Resp> = FilterKind {
    name: "key_prefix",
    help: Help {
        summary: "Puts a prefix before every key and channel, and takes it off replies and messages that name them.",
        options: &[FilterOption {
            name: "prefix",
            takes: Takes::Text,
            without: Without::Nothing,
            about: "what to put before each key, 1 to 128 bytes",
        }],
        docs: "Commands that reach beyond a prefix (FLUSHALL, FLUSHDB, DBSIZE, SWAPDB, SLOWLOG, CLUSTER, PUBSUB NUMPAT, FUNCTION\n\
               LOAD ...) and commands whose keys are not known are refused; those that answer with names (KEYS, SCAN, XREAD,\n\
               LMPOP ...) also in a transaction, and where replies are not counted: on a connection of its own that a\n\
               client has subscribed on. CLIENT TRACKING is refused, and so is publishing on channels of keyspace\n\
               notifications; to subscribe to those shows the events of one's own keys. RANDOMKEY costs as much as KEYS.\n\
               Scripts are trusted with keys that they do not declare: deny EVAL where clients are not.",
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
    /// The prefix as part of a pattern: its own special characters stand for themselves.
    escaped: Arc<[u8]>,
    /// Calls of `RANDOMKEY` under way, with the version of the protocol, the oldest first.
    randoms: VecDeque<(Ticket, u8)>,
    /// Chooses among keys.
    dice: u64,
}

/// So many calls of `RANDOMKEY` are remembered on a worker. Those of clients that have left are the first to go.
const MOST_RANDOMS: usize = 1024;

fn build(options: &Options, _cx: &BuildCx<'_>) -> Result<KeyPrefix, Vec<ConfigError>> {
    let raw: RawKeyPrefix = options.decode()?;
    if raw.prefix.is_empty() || raw.prefix.len() > 128 {
        return Err(vec![
            options.error("prefix", "must be 1 to 128 bytes").hint("as in `prefix: \"tenant-7:\"`"),
        ]);
    }
    if is_ambiguous(raw.prefix.as_bytes()) {
        let error = options.error("prefix", "cannot be told from channels of keyspace notifications");
        return Err(vec![error.hint("they begin with `__key`")]);
    }
    Ok(KeyPrefix::new(raw.prefix.as_bytes()))
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
    const FAMILIES: &[&str] =
        &["cluster", "debug", "module", "replicaof", "slaveof", "failover", "acl", "function", "slowlog"];
    const COMMANDS: &[&str] = &[
        "bgrewriteaof",
        "client|tracking",
        "dbsize",
        "flushall",
        "flushdb",
        "migrate",
        "monitor",
        "psync",
        "pfselftest",
        "pubsub|numpat",
        "restore-asking",
        "script|flush",
        "script|kill",
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
        op::KEYS | op::PUBSUB_CHANNELS | op::PUBSUB_SHARDCHANNELS => NameShape::Elements,
        op::PUBSUB_NUMSUB | op::PUBSUB_SHARDNUMSUB => NameShape::OddElements,
        op::SCAN => NameShape::SecondElementsElements,
        op::XREAD | op::XREADGROUP => NameShape::PairsNames,
        _ => return None,
    })
}

/// Where an answer to `op` names keys or channels that a reply which is not counted could not lose the prefix of.
fn names(op: OpId) -> bool {
    op == op::RANDOMKEY || shape_of(op).is_some()
}

impl KeyPrefix {
    fn new(prefix: &[u8]) -> Self {
        let mut escaped = Vec::with_capacity(prefix.len());
        for byte in prefix {
            if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^') {
                escaped.push(b'\\');
            }
            escaped.push(*byte);
        }
        Self { prefix: prefix.into(), escaped: escaped.into(), randoms: VecDeque::new(), dice: 1 }
    }

    fn space(&self) -> Space<'_> {
        Space { prefix: &self.prefix, escaped: &self.escaped }
    }

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
            op::GEORADIUS => return self.rewrite_georadius(frame, 6, out),
            op::GEORADIUSBYMEMBER => return self.rewrite_georadius(frame, 5, out),
            op::RANDOMKEY => {
                write_request([b"KEYS".as_slice(), &self.pattern(b"*")].into_iter(), out);
                return true;
            }
            // What it says of another request is about the client's own words.
            op::COMMAND_GETKEYS | op::COMMAND_GETKEYSANDFLAGS => {
                out.extend_from_slice(frame);
                return true;
            }
            _ => {}
        }
        if let Some(is_done) = self.rewrite_channels(op, frame, out) {
            return is_done;
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

    fn pattern(&self, pattern: &[u8]) -> Vec<u8> {
        [&self.escaped, pattern].concat()
    }

    /// The request with other words.
    fn rewrite_words(
        frame: &[u8],
        out: &mut Vec<u8>,
        mut word: impl FnMut(usize, &[u8]) -> Option<Vec<u8>>,
    ) -> bool {
        let words: Vec<Vec<u8>> =
            args(frame).enumerate().map(|(at, old)| word(at, old).unwrap_or_else(|| old.to_vec())).collect();
        write_request(words.iter().map(Vec::as_slice), out);
        true
    }

    /// Commands about channels; `None` for others.
    fn rewrite_channels(&self, op: OpId, frame: &[u8], out: &mut Vec<u8>) -> Option<bool> {
        let space = self.space();
        let put = |word: &[u8]| [&self.prefix, word].concat();
        Some(match op {
            op::SUBSCRIBE | op::UNSUBSCRIBE => {
                Self::rewrite_words(frame, out, |at, word| (at > 0).then(|| space.channel(word)))
            }
            op::PSUBSCRIBE | op::PUNSUBSCRIBE => {
                Self::rewrite_words(frame, out, |at, word| (at > 0).then(|| space.pattern(word)))
            }
            op::SSUBSCRIBE | op::SUNSUBSCRIBE => {
                Self::rewrite_words(frame, out, |at, word| (at > 0).then(|| put(word)))
            }
            op::PUBLISH => {
                !args(frame).nth(1).is_some_and(is_of_keys)
                    && Self::rewrite_words(frame, out, |at, word| (at == 1).then(|| put(word)))
            }
            op::SPUBLISH => Self::rewrite_words(frame, out, |at, word| (at == 1).then(|| put(word))),
            op::PUBSUB_CHANNELS | op::PUBSUB_SHARDCHANNELS if args(frame).count() == 2 => {
                let pattern = self.pattern(b"*");
                let words: Vec<_> = args(frame).chain([pattern.as_slice()]).collect();
                write_request(words.into_iter(), out);
                true
            }
            op::PUBSUB_CHANNELS | op::PUBSUB_SHARDCHANNELS => {
                Self::rewrite_words(frame, out, |at, word| (at > 1).then(|| self.pattern(word)))
            }
            op::PUBSUB_NUMSUB => {
                Self::rewrite_words(frame, out, |at, word| (at > 1).then(|| space.channel(word)))
            }
            op::PUBSUB_SHARDNUMSUB => Self::rewrite_words(frame, out, |at, word| (at > 1).then(|| put(word))),
            _ => return None,
        })
    }

    /// Every `STORE` and `STOREDIST` names a key, whichever of them counts in the end. `from` is the first option.
    fn rewrite_georadius(&self, frame: &[u8], from: usize, out: &mut Vec<u8>) -> bool {
        let (mut is_key, mut is_count) = (true, false);
        Self::rewrite_words(frame, out, |at, word| {
            let is = |option: &[u8]| at >= from && !is_count && word.eq_ignore_ascii_case(option);
            let wants_prefix = at == 1 || at > from && is_key;
            (is_key, is_count) =
                (!wants_prefix && (is(b"STORE") || is(b"STOREDIST")), !wants_prefix && is(b"COUNT"));
            wants_prefix.then(|| [&self.prefix, word].concat())
        })
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

    /// Every `MATCH` names a pattern: the last of them counts.
    fn rewrite_scan(&self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        let options: Vec<&[u8]> = args(frame).skip(2).step_by(2).collect();
        if options.iter().any(|option| option.eq_ignore_ascii_case(b"MATCH")) {
            let is_match = |at: usize| {
                let option = at.checked_sub(3).filter(|before| before % 2 == 0).map(|before| before / 2);
                option
                    .and_then(|at| options.get(at))
                    .is_some_and(|option| option.eq_ignore_ascii_case(b"MATCH"))
            };
            return Self::rewrite_words(frame, out, |at, word| is_match(at).then(|| self.pattern(word)));
        }
        let pattern = self.pattern(b"*");
        // In front, so that options that are wrong stay so.
        let words: Vec<_> =
            args(frame).take(2).chain([b"MATCH".as_slice(), &pattern]).chain(args(frame).skip(2)).collect();
        write_request(words.into_iter(), out);
        true
    }

    /// Writes the answer to `RANDOMKEY` that is made of one to `KEYS`. `false` if the frame is none.
    fn choose(&mut self, ticket: Ticket, frame: &[u8], out: &mut Vec<u8>) -> bool {
        let known = self.randoms.iter().position(|(known, _)| *known == ticket);
        let proto = known.and_then(|at| self.randoms.remove(at)).map_or(2, |(_, proto)| proto);
        if frame.first() != Some(&b'*') {
            return false;
        }
        let count = args(frame).count();
        // Marsaglia's xorshift, begun anew for each client.
        self.dice ^= u64::from(ticket.seq) << 32 | u64::from(ticket.conn.index);
        self.dice |= u64::from(self.dice == 0);
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let at = (self.dice % count.max(1) as u64) as usize;
        let mut writer = Writer::new(out, proto);
        writer.bulk_or_null(args(frame).nth(at).and_then(|key| key.strip_prefix(&*self.prefix)));
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
            other if is_queued && call.verdict == Verdict::Forward && names(other) => {
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
            let is_unnamed = batch.session.is_uncounted() && names(call.op);
            if head.is_inline || is_unnamed || !self.rewrite(call.op, head, frame, batch.local) {
                batch.local.truncate(start);
                call.verdict = Verdict::Refuse(Refusal::Filtered);
                continue;
            }
            let Some(mut fresh) = head_of(batch.local.get(start..).unwrap_or_default()) else { continue };
            fresh.span = Span::local(start, batch.local.len() - start);
            (call.span, *head) = (fresh.span, fresh);
            if call.op == op::RANDOMKEY {
                if self.randoms.len() == MOST_RANDOMS {
                    self.randoms.pop_front();
                }
                self.randoms.push_back((call.ticket, batch.session.proto));
            }
        }
    }

    fn on_replies(&mut self, replies: &mut Replies<'_, Resp>, _cx: &Cx<'_>) {
        for (head, done) in replies.heads.iter_mut().zip(replies.done) {
            let start = replies.local.len();
            // What another filter has written lies in the buffer that grows.
            let copy;
            let frame = if head.span.is_local() {
                copy = head.span.of(&[], replies.local).to_vec();
                &copy
            } else {
                head.span.of(replies.wire, &[])
            };
            let out = &mut *replies.local;
            let is_rewritten = match done.op {
                op::RANDOMKEY => self.choose(done.ticket, frame, out),
                op::SUBSCRIBE
                | op::UNSUBSCRIBE
                | op::PSUBSCRIBE
                | op::PUNSUBSCRIBE
                | op::SSUBSCRIBE
                | op::SUNSUBSCRIBE => self.space().message(frame, out) == Passage::Rewritten,
                op::PUBSUB_NUMSUB => {
                    let cut = |name: &[u8]| self.space().cut_of_channel(name);
                    strip_with(frame, NameShape::OddElements, self.prefix.len(), &cut, out)
                }
                op => shape_of(op).is_some_and(|shape| strip(frame, shape, &self.prefix, out)),
            };
            if is_rewritten {
                head.span = Span::local(start, replies.local.len() - start);
            } else {
                replies.local.truncate(start);
            }
        }
    }

    fn on_done(&mut self, done: &[Done], _cx: &Cx<'_>) {
        if !self.randoms.is_empty() {
            self.randoms.retain(|(ticket, _)| !done.iter().any(|done| done.ticket == *ticket));
        }
    }

    fn rewrites_messages(&self) -> bool {
        true
    }

    fn on_message(&mut self, frame: &[u8], out: &mut Vec<u8>, _cx: &Cx<'_>) -> Passage {
        self.space().message(frame, out)
    }
}

#[cfg(test)]
mod tests {
    use mecha_core::{Protocol, Ticket};
    use mecha_resp::Session;

    use super::*;
    use crate::testing::{batch_of, cx};

    fn frame(line: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        write_request(line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter(), &mut wire);
        wire
    }

    /// What becomes of a request: its words, or the refusal.
    fn rewritten(line: &str) -> String {
        batch_of(&[line], |batch| {
            KeyPrefix::new(b"p:").on_requests(batch, &cx(0));
            if let Verdict::Refuse(why) = batch.calls[0].verdict {
                return why.name().into();
            }
            let words: Vec<_> =
                args(batch.frame(0)).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            words.join(" ")
        })
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
            ("PUBLISH ch m", "PUBLISH p:ch m"),
            ("PUBLISH __keyspace@0__:k m", "filtered"),
            ("SPUBLISH ch m", "SPUBLISH p:ch m"),
            ("SUBSCRIBE a __keyspace@0__:k", "SUBSCRIBE p:a __keyspace@0__:p:k"),
            ("PSUBSCRIBE * __keyevent@*", "PSUBSCRIBE p:* __keyevent@*"),
            ("SSUBSCRIBE a b", "SSUBSCRIBE p:a p:b"),
            ("UNSUBSCRIBE", "UNSUBSCRIBE"),
            ("PUBSUB CHANNELS", "PUBSUB CHANNELS p:*"),
            ("PUBSUB CHANNELS a*", "PUBSUB CHANNELS p:a*"),
            ("PUBSUB NUMSUB a __keyspace@0__:k", "PUBSUB NUMSUB p:a __keyspace@0__:p:k"),
            ("PUBSUB NUMPAT", "filtered"),
            ("KEYS a*", "KEYS p:a*"),
            ("RANDOMKEY", "KEYS p:*"),
            ("COMMAND GETKEYS SET a b", "COMMAND GETKEYS SET a b"),
            ("SCAN 0 COUNT 5", "SCAN 0 MATCH p:* COUNT 5"),
            ("SCAN 0 match u*", "SCAN 0 match p:u*"),
            ("SCAN 0 MATCH u* TYPE match MATCH *", "SCAN 0 MATCH p:u* TYPE match MATCH p:*"),
            ("SCAN 0 COUNT MATCH MATCH", "SCAN 0 COUNT MATCH MATCH"),
            (
                "GEORADIUS g 0 0 1 m STORE a STOREDIST b COUNT STORE STORE c",
                "GEORADIUS p:g 0 0 1 m STORE p:a STOREDIST p:b COUNT STORE STORE p:c",
            ),
            (
                "GEORADIUSBYMEMBER STORE STORE 1 m ASC STORE a",
                "GEORADIUSBYMEMBER p:STORE STORE 1 m ASC STORE p:a",
            ),
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
        KeyPrefix::new(b"p:").on_requests(&mut batch, &cx(0));
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
        for line in [
            "FLUSHALL",
            "DBSIZE",
            "JSON.GET a",
            "CLUSTER NODES",
            "SWAPDB 0 1",
            "SLOWLOG GET",
            "FUNCTION LIST",
        ] {
            assert_eq!(rewritten(line), "filtered", "{line}");
        }
    }
}
