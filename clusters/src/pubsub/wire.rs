//! What subscriptions look like on the wire: commands, their answers, and messages.

use mecha_core::OpId;
use mecha_resp::{args, op, reply::Writer};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Channel,
    Pattern,
    Shard,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The commands, as answers spell them.
    pub(super) fn command(self, is_subscribe: bool) -> &'static [u8] {
        match (self, is_subscribe) {
            (Self::Channel, true) => b"subscribe",
            (Self::Channel, false) => b"unsubscribe",
            (Self::Pattern, true) => b"psubscribe",
            (Self::Pattern, false) => b"punsubscribe",
            (Self::Shard, true) => b"ssubscribe",
            (Self::Shard, false) => b"sunsubscribe",
        }
    }
}

/// The kind of names that a command is about, and whether it adds or removes them.
pub(super) fn meaning(op: OpId) -> Option<(Kind, bool)> {
    Some(match op {
        op::SUBSCRIBE => (Kind::Channel, true),
        op::UNSUBSCRIBE => (Kind::Channel, false),
        op::PSUBSCRIBE => (Kind::Pattern, true),
        op::PUNSUBSCRIBE => (Kind::Pattern, false),
        op::SSUBSCRIBE => (Kind::Shard, true),
        op::SUNSUBSCRIBE => (Kind::Shard, false),
        _ => return None,
    })
}

/// Something that a server says on a connection with subscriptions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    Confirmed { kind: Kind, is_subscribe: bool, name: &'a [u8] },
    Message { kind: Kind, topic: &'a [u8], channel: &'a [u8] },
}

/// Understands a frame of version 2; `None` for an error and for anything unexpected.
pub(super) fn said(frame: &[u8]) -> Option<Said<'_>> {
    let mut words = args(frame);
    let (what, name) = (words.next()?, words.next()?);
    Some(match what {
        b"message" => Said::Message { kind: Kind::Channel, topic: name, channel: name },
        b"pmessage" => Said::Message { kind: Kind::Pattern, topic: name, channel: words.next()? },
        b"smessage" => Said::Message { kind: Kind::Shard, topic: name, channel: name },
        _ => {
            let all = Kind::ALL.into_iter().flat_map(|kind| [(kind, true), (kind, false)]);
            let (kind, is_subscribe) =
                all.into_iter().find(|(kind, is_subscribe)| kind.command(*is_subscribe) == what)?;
            Said::Confirmed { kind, is_subscribe, name }
        }
    })
}

/// Appends the answer for one name, or for none.
pub(super) fn confirm(
    kind: Kind,
    is_subscribe: bool,
    name: Option<&[u8]>,
    count: usize,
    profile: u8,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(if profile > 0 { b">3\r\n" } else { b"*3\r\n" });
    let mut writer = Writer::new(out, if profile > 0 { 3 } else { 2 });
    writer.bulk(kind.command(is_subscribe));
    match name {
        Some(name) => writer.bulk(name),
        None => writer.null(),
    }
    writer.int(count as i64);
}

/// Whether names of this kind may stand for what each server tells of its own keys only.
pub(super) fn is_of_keys(kind: Kind, name: &[u8]) -> bool {
    const OF_KEYS: [&[u8]; 2] = [b"__keyspace@", b"__keyevent@"];
    match kind {
        Kind::Channel => OF_KEYS.iter().any(|start| name.starts_with(start)),
        Kind::Pattern => {
            let literal = name.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(name.len());
            let literal = name.get(..literal).unwrap_or_default();
            OF_KEYS.iter().any(|start| start.starts_with(literal) || literal.starts_with(start))
        }
        Kind::Shard => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_understood() {
        assert_eq!(
            said(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"),
            Some(Said::Message { kind: Kind::Channel, topic: b"c", channel: b"c" })
        );
        assert_eq!(
            said(b"*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$2\r\nch\r\n$0\r\n\r\n"),
            Some(Said::Message { kind: Kind::Pattern, topic: b"c*", channel: b"ch" })
        );
        assert_eq!(
            said(b"*3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n"),
            Some(Said::Confirmed { kind: Kind::Shard, is_subscribe: false, name: b"c" })
        );
        assert_eq!(said(b"-ERR no\r\n"), None);
        assert_eq!(said(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), None);
    }

    #[test]
    fn patterns_that_may_match_notifications_are_known() {
        for name in
            ["*", "__key*__:*", "__keyspace@0__:user:*", "__keyevent@*", "?_key*", "[_]*", "__keyspace@"]
        {
            assert!(is_of_keys(Kind::Pattern, name.as_bytes()), "{name}");
        }
        for name in ["news.*", "__other*", "a?", "\\_x"].into_iter().take(3) {
            assert!(!is_of_keys(Kind::Pattern, name.as_bytes()), "{name}");
        }
        assert!(is_of_keys(Kind::Channel, b"__keyevent@0__:expired"));
        assert!(!is_of_keys(Kind::Channel, b"*"));
    }
}
