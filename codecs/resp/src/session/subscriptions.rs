//! Subscriptions: of a client that has none, and of one that shares its with others.
//!
//! Where an upstream shares subscriptions, a client that subscribes needs no dedicated connection. What it may say then
//! is what a server allows: with version 2 of the protocol little else, with version 3 everything. The one exception are
//! subscriptions of a client that has a dedicated connection as well, whose rights and state the shared ones do not have.

use mecha_core::{Affinity, OpId};

use super::Session;
use super::look::{Seen, Step};
use crate::args;
use crate::ops::{op, op_info};
use crate::reply::Writer;
use crate::topics::{confirm, subscribes};

/// How many names the client listens to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Subscriptions {
    /// Channels and patterns.
    common: i64,
    /// Shard channels.
    shard: i64,
}

// === impl Subscriptions ===

impl Subscriptions {
    pub(super) fn is_some(self) -> bool {
        self.common > 0 || self.shard > 0
    }

    /// The last number of an answer counts what there is now.
    pub(super) fn answered(&mut self, op: OpId, answer: &[u8]) {
        let number = answer.strip_suffix(b"\r\n").and_then(|answer| {
            let at = answer.iter().rposition(|byte| *byte == b':')?;
            crate::args::decimal(answer.get(at + 1..)?)
        });
        match number.filter(|_| is_about(op) && !answer.starts_with(b"-")) {
            Some(number) if matches!(op, op::SSUBSCRIBE | op::SUNSUBSCRIBE) => self.shard = number,
            Some(number) => self.common = number,
            None => {}
        }
    }
}

/// Whether the command subscribes or unsubscribes.
pub(super) fn is_about(op: OpId) -> bool {
    subscribes(op).is_some()
}

// === impl Session ===

impl Session {
    /// The client listens to so many channels and patterns, and to so many shard channels, of an upstream in this process.
    pub fn listens(&mut self, common: usize, shard: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.subscriptions = Subscriptions { common: number(common), shard: number(shard) };
        self.is_subscriber = self.subscriptions.is_some();
    }

    /// Decides on one call of a client that shares subscriptions; `None` if they make no difference.
    pub(super) fn step_listening(&mut self, seen: &Seen<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let is_pinned = self.is_pinned();
        let adds = matches!(seen.op, op::SUBSCRIBE | op::PSUBSCRIBE | op::SSUBSCRIBE);
        let may_share = !seen.is_open && !self.multi && (!adds || !is_pinned);
        let mut writer = Writer::new(out, self.proto);
        match seen.op {
            op::QUIT => return None,
            op if is_about(op) && may_share => {
                return Some(Step::Go(Affinity::Aside));
            }
            op::RESET if !is_pinned => return Some(Step::Go(Affinity::Aside)),
            op::PING if self.proto < 3 => {
                writer.array(2);
                writer.bulk(b"pong");
                writer.bulk(seen.word(1));
            }
            op::HELLO if self.proto >= 3 && !is_pinned => {
                return Some(match self.hello(seen, out) {
                    Step::Rewritten(_) => Step::Rewritten(Affinity::Aside),
                    step => step,
                });
            }
            OpId::UNKNOWN => return None,
            op::CLIENT_REPLY if self.proto >= 3 && !self.multi => return None,
            // Their replies could not be told from messages.
            op if is_about(op)
                || matches!(
                    op,
                    op::CLIENT_REPLY
                        | op::HELLO
                        | op::MONITOR
                        | op::PSYNC
                        | op::REPLCONF
                        | op::RESET
                        | op::SCRIPT_DEBUG
                        | op::SYNC
                ) && self.proto >= 3 =>
            {
                let name = op_info(op).name.to_ascii_uppercase();
                writer.error(&format!(
                    "ERR mecha: {name} is not possible here: this client shares subscriptions; use another connection"
                ));
            }
            op if self.proto < 3 => {
                let name = op_info(op).name;
                writer.error(&format!(
                    "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                     this context"
                ));
            }
            _ => return None,
        }
        Some(Step::Answered)
    }
}

/// The answers to a client that has no subscription: one for each channel, or one without.
pub(super) fn unsubscribe(seen: &Seen<'_>, proto: u8, out: &mut Vec<u8>) {
    let Some((kind, adds)) = subscribes(seen.op) else { return };
    let mut one = |channel: Option<&[u8]>| confirm(kind, adds, channel, 0, proto, out);
    if seen.argc == 1 {
        one(None);
    }
    args(seen.frame).skip(1).for_each(|channel| one(Some(channel)));
}
