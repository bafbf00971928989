//! What mecha answers in the server's place: faults, `mn`, `quit`, and commands that concern one server only.
//!
//! A connection to memcached has no state of its own, so this has none either.

use mecha_core::{Affinity, Batch, Call, Looked, Refusal, ReplyCount, Session, Span, Verdict};

use crate::request::Fault;
use crate::{Memcached, ops};

/// The state of one client connection: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection;

impl Session<Memcached> for Connection {
    fn on_requests(batch: &mut Batch<'_, Memcached>, from: usize) -> Looked {
        let mut closes = false;
        for (head, call) in batch.heads.iter().zip(batch.calls.iter_mut()).skip(from) {
            if closes {
                // Nothing that a client sends behind its `quit` is run.
                call.replies = ReplyCount::Maybe;
                call.verdict = Verdict::Answered(Span::local(batch.local.len(), 0));
                continue;
            }
            if call.verdict != Verdict::Forward || !ops::is_local(call.op) {
                continue;
            }
            let start = batch.local.len();
            match (head.fault, call.op) {
                _ if head.quiet => {}
                (Some(fault), _) => batch.local.extend_from_slice(fault.message()),
                (None, ops::MN) => batch.local.extend_from_slice(b"MN\r\n"),
                (None, ops::QUIT) => {}
                (None, _) => crate::write_refusal(Refusal::Unsupported, batch.local),
            }
            closes = call.op == ops::QUIT || head.fault == Some(Fault::Http);
            call.verdict = Verdict::Answered(Span::local(start, batch.local.len() - start));
        }
        Looked { next: batch.calls.len(), is_over: closes }
    }

    fn concerns(&self, call: &Call) -> bool {
        ops::is_local(call.op) || call.affinity != Affinity::Shared
    }
}
