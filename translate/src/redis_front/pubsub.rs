//! SUBSCRIBE and its kind, PUBLISH and PUBSUB, among the clients of this process ([`crate::exchange`]).
//!
//! A client of version 2 that listens may say little else, as at a server. In a transaction PUBLISH takes effect with it;
//! subscribing there is refused.

use mecha_core::{ConnKey, OpId, Outcome, Session as _};
use mecha_resp::reply::Writer;
use mecha_resp::{Session, TopicKind, op, op_info, subscribes};

use super::support::{Support, resp_support};
use crate::exchange::{Counts, Door};
use crate::kv::{Plan, PlanCx};

const HELP: &[&str] = &[
    "CHANNELS [<pattern>]",
    "    Return the currently active channels matching a <pattern> (default: '*').",
    "NUMPAT",
    "    Return number of subscriptions to patterns.",
    "NUMSUB [<channel> ...]",
    "    Return the number of subscribers for the specified channels, excluding",
    "    pattern subscriptions(default: no channels).",
    "SHARDCHANNELS [<pattern>]",
    "    Return the currently active shard level channels matching a <pattern> (default: '*').",
    "SHARDNUMSUB [<shardchannel> ...]",
    "    Return the number of subscribers for the specified shard level channel(s)",
    "HELP",
    "    Prints this help.",
];

/// A PUBLISH of a transaction.
pub(super) struct Publish {
    door: Door,
    is_shard: bool,
    channel: Vec<u8>,
    message: Vec<u8>,
}

// === impl Publish ===

impl Publish {
    /// Sends it, and appends the reply.
    pub(super) fn send(&self, out: &mut Vec<u8>) {
        let count = self.door.publish(self.is_shard, &self.channel, &self.message);
        Writer::new(out, 2).int(count as i64);
    }

    /// Appends the reply that it would have.
    pub(super) fn promise(&self, out: &mut Vec<u8>) {
        Writer::new(out, 2).int(self.door.receivers(self.is_shard, &self.channel) as i64);
    }
}

/// The command of a transaction, if it is a PUBLISH.
pub(super) fn published(op: OpId, words: &[Vec<u8>], cx: &PlanCx<'_>) -> Option<Publish> {
    let ([_, channel, message], op::PUBLISH | op::SPUBLISH) = (words, op) else { return None };
    let (channel, message) = (channel.clone(), message.clone());
    Some(Publish { door: cx.door?.clone(), is_shard: op == op::SPUBLISH, channel, message })
}

/// Whether it subscribes or unsubscribes, which no transaction can.
pub(super) fn is_about(op: OpId) -> bool {
    subscribes(op).is_some()
}

/// Answers what a client that listens may not say, or is answered otherwise than others.
pub(super) fn restrict(
    op: OpId,
    words: impl Fn() -> Vec<Vec<u8>>,
    session: &Session,
    cx: &PlanCx<'_>,
    out: &mut Vec<u8>,
) -> Option<Plan> {
    if session.proto > 2 || op == OpId::UNKNOWN || is_about(op) || matches!(op, op::QUIT | op::RESET) {
        return None;
    }
    let (info, words) = (op_info(op), words());
    if !info.accepts(words.len()) || resp_support(info.name, cx.back) == Support::Refused {
        return None;
    }
    let mut writer = Writer::new(out, session.proto);
    if op == op::PING {
        if words.len() > 2 {
            return None;
        }
        writer.array(2);
        writer.bulk(b"pong");
        writer.bulk(words.get(1).map(Vec::as_slice).unwrap_or_default());
        return Some(Plan::Answered(Outcome::Ok));
    }
    writer.error(&format!(
        "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        info.name
    ));
    Some(Plan::Answered(Outcome::ClientError))
}

/// Answers these commands; `None` for all others.
pub(super) fn answer(
    op: OpId,
    words: &[Vec<u8>],
    session: &mut Session,
    cx: &PlanCx<'_>,
    out: &mut Vec<u8>,
) -> Option<Plan> {
    let arg = |at: usize| words.get(at).map(Vec::as_slice).unwrap_or_default();
    let names = words.get(2..).unwrap_or_default();
    let is_shard = matches!(op, op::SPUBLISH | op::PUBSUB_SHARDCHANNELS | op::PUBSUB_SHARDNUMSUB);
    let kind = if is_shard { TopicKind::Shard } else { TopicKind::Channel };
    let Some(door) = cx.door else {
        if is_about(op) || matches!(op, op::PUBLISH | op::SPUBLISH) {
            Writer::new(out, session.proto).error(&super::unsupported(op, cx.back));
            return Some(Plan::Answered(Outcome::ClientError));
        }
        return None;
    };
    let mut writer = Writer::new(out, session.proto);
    match op {
        op::PUBLISH | op::SPUBLISH => writer.int(door.publish(is_shard, arg(1), arg(2)) as i64),
        op::PUBSUB_CHANNELS | op::PUBSUB_SHARDCHANNELS if names.len() > 1 => {
            let word = String::from_utf8_lossy(arg(1)).into_owned();
            writer.error(&format!(
                "ERR unknown subcommand or wrong number of arguments for '{word}'. Try PUBSUB HELP."
            ));
            return Some(Plan::Answered(Outcome::ClientError));
        }
        op::PUBSUB_CHANNELS | op::PUBSUB_SHARDCHANNELS => {
            let heard = door.heard(kind, names.first().map(Vec::as_slice));
            writer.array(heard.len());
            heard.iter().for_each(|name| writer.bulk(name));
        }
        op::PUBSUB_NUMSUB | op::PUBSUB_SHARDNUMSUB => {
            writer.array(2 * names.len());
            for name in names {
                writer.bulk(name);
                writer.int(door.audience(kind, name) as i64);
            }
        }
        op::PUBSUB_NUMPAT => writer.int(door.heard(TopicKind::Pattern, None).len() as i64),
        op::PUBSUB_HELP => super::server::help("PUBSUB", HELP, &mut writer),
        _ => {
            let (kind, adds) = subscribes(op)?;
            let given = words.get(1..).unwrap_or_default();
            let outcome = change(door, cx.conn, kind, adds, given, session, out);
            return Some(Plan::Answered(outcome));
        }
    }
    Some(Plan::Answered(Outcome::Ok))
}

/// The client leaves everything.
pub(super) fn leave_all(session: &mut Session, cx: &PlanCx<'_>) {
    if let Some(door) = cx.door.filter(|_| session.is_listening()) {
        door.forget(cx.conn);
    }
}

/// The client may speak another version from now on.
pub(super) fn speaks(session: &Session, cx: &PlanCx<'_>) {
    if let Some(door) = cx.door.filter(|_| session.is_listening()) {
        door.speaks(cx.conn, session.proto);
    }
}

fn change(
    door: &Door,
    conn: ConnKey,
    kind: TopicKind,
    adds: bool,
    given: &[Vec<u8>],
    session: &mut Session,
    out: &mut Vec<u8>,
) -> Outcome {
    let proto = session.proto;
    let mut confirm = |name: Option<&[u8]>, counts: Counts| {
        let count = if kind == TopicKind::Shard { counts.shard } else { counts.common };
        mecha_resp::confirm(kind, adds, name, count, proto, out);
    };
    let mut outcome = Outcome::Ok;
    if adds {
        for name in given {
            match door.join(conn, proto, kind, name) {
                Some(counts) => confirm(Some(name), counts),
                None => outcome = Outcome::ClientError,
            }
        }
    } else if given.is_empty() {
        let known = door.names(conn, kind);
        for name in &known {
            confirm(Some(name), door.leave(conn, kind, name));
        }
        if known.is_empty() {
            confirm(None, door.counts(conn));
        }
    } else {
        for name in given {
            confirm(Some(name), door.leave(conn, kind, name));
        }
    }
    let counts = door.counts(conn);
    session.listens(counts.common, counts.shard);
    if outcome != Outcome::Ok {
        Writer::new(out, proto).error("ERR mecha: clients listen to too many channels");
    }
    outcome
}
