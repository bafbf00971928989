//! Channels in a name space: which part of a name is the tenant's.
//!
//! An ordinary channel, pattern or shard channel gets the prefix in front, as keys do. Notifications about keys come on
//! channels of the server, so there it is the key that has the prefix: at the end of `__keyspace@<db>__:<key>`, and in the
//! message of `__keyevent@<db>__:<event>`, which every tenant may listen to, and of which each gets its own. Patterns that
//! begin like such a channel (`__keyspace@*__:user:*`, `__key*__:*`) are treated as one; others (`*`, `__*`) mean ordinary
//! channels only.

use mecha_core::Passage;
use mecha_resp::args;
use mecha_resp::reply::write_int;

use super::replies::{NameShape, strip_with};

const OF_KEYS: &[u8] = b"__key";
const KEYSPACE: &[u8] = b"__keyspace@";
const KEYEVENT: &[u8] = b"__keyevent@";
/// Stands between the database and the key or event.
const COLON: &[u8] = b"__:";

/// A tenant's prefix.
#[derive(Clone, Copy)]
pub(super) struct Space<'p> {
    pub(super) prefix: &'p [u8],
    /// As part of a pattern.
    pub(super) escaped: &'p [u8],
}

/// Whether only a server publishes there.
pub(super) fn is_of_keys(channel: &[u8]) -> bool {
    channel.starts_with(KEYSPACE) || channel.starts_with(KEYEVENT)
}

/// Whether this prefix could be taken for the beginning of such a channel.
pub(super) fn is_ambiguous(prefix: &[u8]) -> bool {
    prefix.starts_with(OF_KEYS) || OF_KEYS.starts_with(prefix)
}

/// Where the prefix stands in a channel; `None` is nowhere.
fn in_channel(channel: &[u8]) -> Option<usize> {
    match () {
        () if channel.starts_with(KEYEVENT) => None,
        () if channel.starts_with(KEYSPACE) => behind_colon(channel),
        () => Some(0),
    }
}

/// Where the prefix stands in a pattern; `None` is nowhere.
fn in_pattern(pattern: &[u8]) -> Option<usize> {
    match () {
        () if pattern.starts_with(KEYEVENT) => None,
        // What may mean events too stays as it is; the messages tell whose they are.
        () if pattern.starts_with(OF_KEYS) && !pattern.starts_with(KEYSPACE) => {
            behind_colon(pattern).filter(|at| pattern.get(*at..) != Some(b"*"))
        }
        () if pattern.starts_with(KEYSPACE) => behind_colon(pattern),
        () => Some(0),
    }
}

fn behind_colon(name: &[u8]) -> Option<usize> {
    let at = name.windows(COLON.len()).position(|window| window == COLON)?;
    Some(at + COLON.len())
}

fn put(name: &[u8], at: Option<usize>, prefix: &[u8]) -> Vec<u8> {
    let (before, behind) = at.and_then(|at| name.split_at_checked(at)).unwrap_or((name, b""));
    if at.is_some() { [before, prefix, behind].concat() } else { name.to_vec() }
}

/// Where `prefix` is to be cut out of a name.
fn found(name: &[u8], at: Option<usize>, prefix: &[u8]) -> Option<usize> {
    at.filter(|at| name.get(*at..).is_some_and(|rest| rest.starts_with(prefix)))
}

// === impl Space ===

impl Space<'_> {
    pub(super) fn channel(self, channel: &[u8]) -> Vec<u8> {
        put(channel, in_channel(channel), self.prefix)
    }

    pub(super) fn pattern(self, pattern: &[u8]) -> Vec<u8> {
        put(pattern, in_pattern(pattern), self.escaped)
    }

    /// Where the prefix is in the name of a channel.
    pub(super) fn cut_of_channel(self, channel: &[u8]) -> Option<usize> {
        found(channel, in_channel(channel), self.prefix)
    }

    /// What a client gets to see of a frame that it did not ask for.
    pub(super) fn message(self, frame: &[u8], out: &mut Vec<u8>) -> Passage {
        if !matches!(frame.first(), Some(b'*' | b'>')) {
            return Passage::Kept;
        }
        let array;
        let elements = match frame.split_first() {
            Some((b'>', rest)) => {
                array = [b"*", rest].concat();
                &array
            }
            _ => frame,
        };
        let mut words = args(elements);
        let (Some(what), Some(name)) = (words.next(), words.next()) else { return Passage::Kept };
        let rest: Vec<&[u8]> = words.collect();
        match (what, rest.as_slice()) {
            (b"message", [payload]) => self.show(frame, &[what], name, payload, true, out),
            (b"smessage", [_]) => {
                self.confirmation(frame, |name| found(name, Some(0), self.prefix), self.prefix, out)
            }
            (b"pmessage", [channel, payload]) => {
                let cut = found(name, in_pattern_of_server(name), self.escaped);
                let pattern = without(name, cut, self.escaped.len());
                // What others have published there is not theirs to see, nor is it ours.
                let is_ours = !name.starts_with(OF_KEYS) || is_of_keys(channel);
                self.show(frame, &[what, &pattern], channel, payload, is_ours, out)
            }
            _ => match what {
                b"subscribe" | b"unsubscribe" => self.confirmation(
                    frame,
                    |name| found(name, in_channel(name), self.prefix),
                    self.prefix,
                    out,
                ),
                b"psubscribe" | b"punsubscribe" => {
                    let cut = |name: &[u8]| found(name, in_pattern_of_server(name), self.escaped);
                    self.confirmation(frame, cut, self.escaped, out)
                }
                b"ssubscribe" | b"sunsubscribe" => {
                    self.confirmation(frame, |name| found(name, Some(0), self.prefix), self.prefix, out)
                }
                _ => Passage::Kept,
            },
        }
    }

    /// A frame whose second element is a name.
    fn confirmation(
        self,
        frame: &[u8],
        cut: impl Fn(&[u8]) -> Option<usize>,
        prefix: &[u8],
        out: &mut Vec<u8>,
    ) -> Passage {
        let is_done = strip_with(frame, NameShape::SecondElement, prefix.len(), &cut, out);
        if is_done { Passage::Rewritten } else { Passage::Kept }
    }

    /// A message on `channel`, with what stands before it.
    fn show(
        self,
        frame: &[u8],
        before: &[&[u8]],
        channel: &[u8],
        payload: &[u8],
        is_ours: bool,
        out: &mut Vec<u8>,
    ) -> Passage {
        let (name, payload) = if channel.starts_with(KEYEVENT) {
            match payload.strip_prefix(self.prefix) {
                Some(key) => (channel.to_vec(), key),
                None => return Passage::Dropped,
            }
        } else {
            match found(channel, in_channel(channel), self.prefix) {
                Some(at) => (without(channel, Some(at), self.prefix.len()), payload),
                None if is_of_keys(channel) || !is_ours => return Passage::Dropped,
                None => return Passage::Kept,
            }
        };
        if !is_ours {
            return Passage::Dropped;
        }
        out.extend(frame.first());
        write_int(before.len() as i64 + 2, out);
        out.extend_from_slice(b"\r\n");
        for word in before.iter().copied().chain([name.as_slice(), payload]) {
            out.push(b'$');
            write_int(word.len() as i64, out);
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        Passage::Rewritten
    }
}

/// Where the prefix may stand in a pattern that has been sent: also where [`in_pattern`] has left one alone.
fn in_pattern_of_server(pattern: &[u8]) -> Option<usize> {
    if pattern.starts_with(OF_KEYS) { behind_colon(pattern) } else { Some(0) }
}

fn without(name: &[u8], at: Option<usize>, len: usize) -> Vec<u8> {
    let Some(at) = at else { return name.to_vec() };
    [name.get(..at).unwrap_or_default(), name.get(at + len..).unwrap_or_default()].concat()
}

#[cfg(test)]
mod tests {
    use mecha_resp::write_request;
    use proptest::prelude::*;

    use super::*;

    const SPACE: Space<'_> = Space { prefix: b"p*:", escaped: b"p\\*:" };

    fn frame(words: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        write_request(words.iter().map(|word| word.as_bytes()), &mut out);
        out
    }

    /// What the client reads; `None` is nothing.
    fn shown(words: &[&str]) -> Option<Vec<String>> {
        let (frame, mut out) = (frame(words), Vec::new());
        let seen = match SPACE.message(&frame, &mut out) {
            Passage::Dropped => return None,
            Passage::Kept => frame,
            Passage::Rewritten => out,
        };
        Some(args(&seen).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    }

    fn reads(words: &[&str], expected: &[&str]) {
        assert_eq!(shown(words), Some(expected.iter().map(ToString::to_string).collect()), "{words:?}");
    }

    #[test]
    fn a_prefix_stands_before_the_tenants_part_of_a_name() {
        for (channel, expected) in [
            ("news", "p*:news"),
            ("", "p*:"),
            ("__keyspace@0__:user", "__keyspace@0__:p*:user"),
            ("__keyspace@0__:a__:b", "__keyspace@0__:p*:a__:b"),
            ("__keyevent@0__:set", "__keyevent@0__:set"),
            ("__key", "p*:__key"),
        ] {
            assert_eq!(String::from_utf8(SPACE.channel(channel.as_bytes())).unwrap(), expected);
        }
        for (pattern, expected) in [
            ("*", "p\\*:*"),
            ("news.?", "p\\*:news.?"),
            ("__keyspace@*__:user:*", "__keyspace@*__:p\\*:user:*"),
            ("__keyspace@*", "__keyspace@*"),
            ("__keyevent@*__:*", "__keyevent@*__:*"),
            ("__key*__:*", "__key*__:*"),
            ("__key*__:user", "__key*__:p\\*:user"),
            ("__*", "p\\*:__*"),
        ] {
            let sent = SPACE.pattern(pattern.as_bytes());
            assert_eq!(String::from_utf8(sent.clone()).unwrap(), expected);
            let sent = String::from_utf8(sent).unwrap();
            reads(&["psubscribe", &sent, "1"], &["psubscribe", pattern, "1"]);
        }
    }

    #[test]
    fn messages_name_what_the_tenant_has_named() {
        reads(&["message", "p*:news", "p*:text"], &["message", "news", "p*:text"]);
        reads(&["smessage", "p*:s", "m"], &["smessage", "s", "m"]);
        reads(&["pmessage", "p\\*:n*", "p*:news", "m"], &["pmessage", "n*", "news", "m"]);
        reads(&["message", "__keyspace@0__:p*:k", "set"], &["message", "__keyspace@0__:k", "set"]);
        reads(&["message", "__keyevent@0__:set", "p*:k"], &["message", "__keyevent@0__:set", "k"]);
        reads(
            &["pmessage", "__key*__:*", "__keyevent@0__:set", "p*:k"],
            &["pmessage", "__key*__:*", "__keyevent@0__:set", "k"],
        );
        reads(
            &["pmessage", "__keyspace@*", "__keyspace@3__:p*:k", "del"],
            &["pmessage", "__keyspace@*", "__keyspace@3__:k", "del"],
        );
        reads(&["pong", "p*:x"], &["pong", "p*:x"]);
    }

    #[test]
    fn nothing_of_other_tenants_is_seen() {
        for words in [
            &["message", "__keyevent@0__:set", "q:k"][..],
            &["message", "__keyspace@0__:q:k", "set"],
            &["pmessage", "__key*__:*", "__keyevent@0__:set", "q:k"],
            &["pmessage", "__key*__:*", "__keyspace@0__:q:k", "set"],
            &["pmessage", "__key*__:*", "__keynote", "of somebody"],
            &["pmessage", "__key*__:*", "__keyspace@0", "x"],
            &["pmessage", "__keyspace@*__:p\\*:*", "__keyspace@0__:q__:p*:k", "set"],
        ] {
            assert_eq!(shown(words), None, "{words:?}");
        }
    }

    #[test]
    fn versions_of_the_protocol_and_absent_names_are_kept() {
        for (sent, expected) in [
            (
                ">3\r\n$7\r\nmessage\r\n$4\r\np*:a\r\n$1\r\nm\r\n",
                Some(">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n"),
            ),
            (
                ">3\r\n$9\r\nsubscribe\r\n$4\r\np*:a\r\n:1\r\n",
                Some(">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
            ),
            ("*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n", None),
            (">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n", None),
            ("+OK\r\n", None),
            ("$7\r\nmessage\r\n", None),
        ] {
            let mut out = Vec::new();
            let passage = SPACE.message(sent.as_bytes(), &mut out);
            assert_eq!(
                (passage == Passage::Rewritten).then(|| String::from_utf8(out).unwrap()).as_deref(),
                expected
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = SPACE.message(&bytes, &mut Vec::new());
            let (_, _) = (SPACE.channel(&bytes), SPACE.pattern(&bytes));
        }

        #[test]
        fn every_pattern_is_confirmed_as_it_was_asked_for(
            pattern in prop_oneof!["(__key(space@|event@)?[0-9*]{0,2}(__:)?)?[a-z*:p\\\\]{0,6}", "[a-z*?\\[_:@]{0,8}"],
        ) {
            let sent = String::from_utf8(SPACE.pattern(pattern.as_bytes())).unwrap();
            // Nobody can ask for a pattern of events that has the tenant's own prefix, which stays and is then cut.
            prop_assume!(!pattern.contains("__:p\\*:"));
            prop_assert_eq!(shown(&["psubscribe", &sent, "1"]).map(|words| words[1].clone()), Some(pattern));
        }
    }
}
