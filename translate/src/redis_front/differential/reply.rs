//! Replies, without what a server does not promise.

use std::io::BufRead;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reply {
    Bulk(Vec<u8>),
    /// Sigil and elements; maps have two for each pair.
    Many(char, Vec<Reply>),
    /// Null, with its sigil.
    Nothing(char),
    /// Sigil and text.
    Line(char, String),
    /// A number that time has an influence on.
    About(i64),
}

impl Reply {
    pub(super) fn read(from: &mut impl BufRead) -> Self {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).expect("a reply");
        let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        let sigil = line.chars().next().expect("not empty");
        let rest = line.get(1..).unwrap_or_default().to_owned();
        match sigil {
            '$' | '*' if rest == "-1" => Self::Nothing(sigil),
            '_' => Self::Nothing('_'),
            '$' | '=' => {
                let mut text = vec![0; rest.parse::<usize>().expect("a length") + 2];
                from.read_exact(&mut text).expect("the bytes");
                assert!(text.ends_with(b"\r\n"));
                text.truncate(text.len() - 2);
                Self::Bulk(text)
            }
            '*' | '~' | '%' => {
                let len = rest.parse::<usize>().expect("a length") * if sigil == '%' { 2 } else { 1 };
                Self::Many(sigil, (0..len).map(|_| Self::read(from)).collect())
            }
            '+' | '-' | ':' | ',' | '#' => Self::Line(sigil, rest),
            _ => panic!("strange reply {line:?}"),
        }
    }

    pub(super) fn whole(mut bytes: &[u8]) -> Self {
        let reply = Self::read(&mut bytes);
        assert!(bytes.is_empty(), "more than one reply: {reply:?}, then {bytes:?}");
        reply
    }

    pub(super) fn is_error(&self) -> bool {
        matches!(self, Self::Line('-', _))
    }

    fn sorted(self) -> Self {
        let Self::Many(sigil, mut elements) = self else { return self };
        elements.sort();
        Self::Many(sigil, elements)
    }

    /// The same without every text and number.
    fn shape(&self) -> Self {
        match self {
            Self::Bulk(_) => Self::Bulk(Vec::new()),
            Self::Many(sigil, elements) => Self::Many(*sigil, elements.iter().map(Self::shape).collect()),
            Self::Line(sigil @ (':' | ','), _) => Self::Line(*sigil, String::new()),
            Self::About(_) => Self::About(0),
            other => other.clone(),
        }
    }

    /// Leaves out what differs from server to server and from moment to moment. DBSIZE of a server counts keys that
    /// have expired unnoticed.
    pub(super) fn normal(self, words: &[Vec<u8>]) -> Self {
        let name = String::from_utf8_lossy(&words[0]).to_lowercase();
        match (name.as_str(), self) {
            ("keys" | "smembers", reply) => reply.sorted(),
            ("dbsize" | "hello" | "randomkey" | "time", reply) => reply.shape(),
            ("scan", Self::Many('*', halves)) => {
                Self::Many('*', halves.into_iter().map(Self::sorted).collect())
            }
            ("ttl" | "pttl" | "expiretime" | "pexpiretime", Self::Line(':', number)) => {
                let number: i64 = number.parse().expect("a number");
                Self::About(if name.starts_with('p') { number / 1000 } else { number })
            }
            (_, reply) => reply,
        }
    }

    /// Equality, but for times.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::About(one), Self::About(other)) => {
                (*one < 0) == (*other < 0) && one.abs_diff(*other) <= 1 && (*one >= 0 || one == other)
            }
            (Self::Many(sigil, ours), Self::Many(other_sigil, theirs)) => {
                sigil == other_sigil
                    && ours.len() == theirs.len()
                    && ours.iter().zip(theirs).all(|(one, other)| one.is_like(other))
            }
            _ => self == other,
        }
    }
}
