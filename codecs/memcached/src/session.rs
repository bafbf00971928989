//! What mecha answers in the server's place: faults, `mn`, `quit`, and commands that concern one server only.
//!
//! A connection to memcached has no state of its own but which protocol it speaks, and whether it has become a log
//! (`watch`): then the server reads nothing from it any more, or goes on if it has refused, so all is left to the server.

use mecha_core::{Affinity, Batch, Call, Looked, Refusal, ReplyCount, Session, Span, Verdict};

use crate::binary::{Response, status};
use crate::request::Fault;
use crate::{Memcached, ops};

/// The profile of connections that speak the binary protocol.
pub(crate) const BINARY: u8 = 1;

/// The state of one client connection: what it speaks, whether it speaks at all, and to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    is_binary: bool,
    is_watching: bool,
    /// It has its own connection to the server, and keeps it.
    is_kept: bool,
}

impl Session<Memcached> for Connection {
    fn on_requests(batch: &mut Batch<'_, Memcached>, from: usize) -> Looked {
        batch.session.is_binary = batch.heads.first().is_some_and(|head| head.binary.is_some());
        let mut closes = false;
        if batch.session.is_watching {
            return Looked { next: batch.calls.len(), is_over: false };
        }
        let calls = batch.heads.iter().zip(batch.calls.iter_mut());
        for (at, (head, call)) in calls.enumerate().skip(from) {
            if closes {
                // Nothing that a client sends behind its `quit` is run.
                call.replies = ReplyCount::Maybe;
                call.verdict = Verdict::Answered(Span::local(batch.local.len(), 0));
                continue;
            }
            if batch.session.is_kept && call.affinity == Affinity::Once {
                call.affinity = Affinity::Waits;
            }
            if call.verdict == Verdict::Forward && call.op == ops::WATCH {
                // What came before must be under way when the state changes.
                batch.session.is_watching = at == from;
                return Looked { next: if at == from { at + 1 } else { at }, is_over: false };
            }
            if call.verdict != Verdict::Forward || !ops::is_local(call.op) {
                continue;
            }
            let start = batch.local.len();
            match (head.fault, call.op) {
                (fault, op) if head.binary.is_some() => {
                    let opcode = head.binary.unwrap_or_default();
                    let status = fault.map_or(status::OK, Fault::status);
                    if op != ops::BIN_QUITQ {
                        Response::error(opcode, head.echo, status, batch.local);
                    }
                }
                _ if head.quiet => {}
                (Some(fault), _) => batch.local.extend_from_slice(fault.message()),
                (None, ops::MN) => batch.local.extend_from_slice(b"MN\r\n"),
                (None, ops::QUIT) => {}
                (None, _) => crate::write_refusal(Refusal::Unsupported, batch.local),
            }
            closes = matches!(call.op, ops::QUIT | ops::BIN_QUIT | ops::BIN_QUITQ)
                || head.fault.is_some_and(Fault::ends);
            call.verdict = Verdict::Answered(Span::local(start, batch.local.len() - start));
        }
        Looked { next: batch.calls.len(), is_over: closes }
    }

    fn keep(&mut self) {
        self.is_kept = true;
    }

    fn on_refused(&mut self, call: &Call) -> bool {
        self.is_watching &= call.op != ops::WATCH;
        false
    }

    fn profile(&self) -> u8 {
        if self.is_binary { BINARY } else { 0 }
    }

    fn of_profile(profile: u8) -> Self {
        Self { is_binary: profile == BINARY, ..Self::default() }
    }

    fn concerns(&self, call: &Call) -> bool {
        (ops::is_binary(call.op) && !self.is_binary)
            || ops::is_local(call.op)
            || call.affinity != Affinity::Shared
    }
}
