//! What clients subscribe to: commands and their answers, whoever keeps the subscriptions.

use mecha_core::OpId;

use crate::ops::op;
use crate::reply::Writer;

/// What a name that clients subscribe to stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// A channel of the whole cluster.
    Channel,
    /// All channels that a pattern matches.
    Pattern,
    /// A channel of one slot.
    Shard,
}

impl TopicKind {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The command that adds or removes such names, as answers spell it.
    #[must_use]
    pub fn command(self, adds: bool) -> &'static [u8] {
        match (self, adds) {
            (Self::Channel, true) => b"subscribe",
            (Self::Channel, false) => b"unsubscribe",
            (Self::Pattern, true) => b"psubscribe",
            (Self::Pattern, false) => b"punsubscribe",
            (Self::Shard, true) => b"ssubscribe",
            (Self::Shard, false) => b"sunsubscribe",
        }
    }
}

/// The kind of names that a command is about, and whether it adds or removes them; `None` of every other command.
#[must_use]
pub fn subscribes(op: OpId) -> Option<(TopicKind, bool)> {
    Some(match op {
        op::SUBSCRIBE => (TopicKind::Channel, true),
        op::UNSUBSCRIBE => (TopicKind::Channel, false),
        op::PSUBSCRIBE => (TopicKind::Pattern, true),
        op::PUNSUBSCRIBE => (TopicKind::Pattern, false),
        op::SSUBSCRIBE => (TopicKind::Shard, true),
        op::SUNSUBSCRIBE => (TopicKind::Shard, false),
        _ => return None,
    })
}

/// Appends the answer for one name, or for none, to a client that speaks version `proto` and listens to `count` names.
pub fn confirm(kind: TopicKind, adds: bool, name: Option<&[u8]>, count: usize, proto: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(if proto > 2 { b">3\r\n" } else { b"*3\r\n" });
    let mut writer = Writer::new(out, proto);
    writer.bulk(kind.command(adds));
    match name {
        Some(name) => writer.bulk(name),
        None => writer.null(),
    }
    writer.int(count as i64);
}
