//! What servers say on connections with subscriptions.

use mecha_resp::{TopicKind, args};

/// Something that a server says on a connection with subscriptions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    Confirmed { kind: TopicKind, is_subscribe: bool, name: &'a [u8] },
    Message { kind: TopicKind, topic: &'a [u8], channel: &'a [u8] },
}

/// Understands a frame of version 2; `None` for an error and for anything unexpected.
pub(super) fn said(frame: &[u8]) -> Option<Said<'_>> {
    let mut words = args(frame);
    let (what, name) = (words.next()?, words.next()?);
    Some(match what {
        b"message" => Said::Message { kind: TopicKind::Channel, topic: name, channel: name },
        b"pmessage" => Said::Message { kind: TopicKind::Pattern, topic: name, channel: words.next()? },
        b"smessage" => Said::Message { kind: TopicKind::Shard, topic: name, channel: name },
        _ => {
            let all = TopicKind::ALL.into_iter().flat_map(|kind| [(kind, true), (kind, false)]);
            let (kind, is_subscribe) =
                all.into_iter().find(|(kind, is_subscribe)| kind.command(*is_subscribe) == what)?;
            Said::Confirmed { kind, is_subscribe, name }
        }
    })
}

/// Whether names of this kind may stand for what each server tells of its own keys only.
pub(super) fn is_of_keys(kind: TopicKind, name: &[u8]) -> bool {
    const OF_KEYS: [&[u8]; 2] = [b"__keyspace@", b"__keyevent@"];
    match kind {
        TopicKind::Channel => OF_KEYS.iter().any(|start| name.starts_with(start)),
        TopicKind::Pattern => {
            let literal = name.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(name.len());
            let literal = name.get(..literal).unwrap_or_default();
            OF_KEYS.iter().any(|start| start.starts_with(literal) || literal.starts_with(start))
        }
        TopicKind::Shard => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_understood() {
        assert_eq!(
            said(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"),
            Some(Said::Message { kind: TopicKind::Channel, topic: b"c", channel: b"c" })
        );
        assert_eq!(
            said(b"*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$2\r\nch\r\n$0\r\n\r\n"),
            Some(Said::Message { kind: TopicKind::Pattern, topic: b"c*", channel: b"ch" })
        );
        assert_eq!(
            said(b"*3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n"),
            Some(Said::Confirmed { kind: TopicKind::Shard, is_subscribe: false, name: b"c" })
        );
        assert_eq!(said(b"-ERR no\r\n"), None);
        assert_eq!(said(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), None);
    }

    #[test]
    fn patterns_that_may_match_notifications_are_known() {
        for name in
            ["*", "__key*__:*", "__keyspace@0__:user:*", "__keyevent@*", "?_key*", "[_]*", "__keyspace@"]
        {
            assert!(is_of_keys(TopicKind::Pattern, name.as_bytes()), "{name}");
        }
        for name in ["news.*", "__other*", "a?", "\\_x"].into_iter().take(3) {
            assert!(!is_of_keys(TopicKind::Pattern, name.as_bytes()), "{name}");
        }
        assert!(is_of_keys(TopicKind::Channel, b"__keyevent@0__:expired"));
        assert!(!is_of_keys(TopicKind::Channel, b"*"));
    }
}
