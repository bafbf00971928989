//! Which keys and channels a user may use.

use mecha_resp::{glob, touch};

/// Patterns of keys, each with what may be done to the keys that match: bits of [`touch`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyPatterns {
    /// What may be done to every key.
    all: u8,
    some: Vec<(Vec<u8>, u8)>,
}

impl KeyPatterns {
    pub(crate) fn allow(&mut self, pattern: &[u8], what: u8) {
        if pattern == b"*" {
            self.all |= what;
        } else if !self.some.iter().any(|known| known.0 == pattern && known.1 == what) {
            self.some.push((pattern.to_vec(), what));
        }
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether everything may be done to every key.
    pub(crate) fn has_all(&self) -> bool {
        self.may_all(touch::READ | touch::WRITE)
    }

    /// Whether this may be done to every key.
    pub(crate) fn may_all(&self, what: u8) -> bool {
        // A command that touches no value needs a pattern all the same.
        self.all != 0 && self.all & what == what
    }

    /// Whether this may be done to `key`. One pattern must allow it all, as in Redis.
    pub(crate) fn may(&self, key: &[u8], what: u8) -> bool {
        self.may_all(what)
            || self
                .some
                .iter()
                .any(|(pattern, allowed)| allowed & what == what && glob::matches(pattern, key))
    }

    /// As rules.
    pub(crate) fn words(&self) -> Vec<String> {
        let all = (self.all != 0).then(|| (b"*".to_vec(), self.all));
        let word = |(pattern, what): (Vec<u8>, u8)| {
            let prefix = match what {
                touch::READ => "%R~",
                touch::WRITE => "%W~",
                _ => "~",
            };
            format!("{prefix}{}", String::from_utf8_lossy(&pattern))
        };
        all.into_iter().chain(self.some.iter().cloned()).map(word).collect()
    }
}

/// Patterns of channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelPatterns {
    all: bool,
    some: Vec<Vec<u8>>,
}

impl ChannelPatterns {
    pub(crate) fn allow(&mut self, pattern: &[u8]) {
        if pattern == b"*" {
            self.all = true;
        } else if !self.some.iter().any(|known| known == pattern) {
            self.some.push(pattern.to_vec());
        }
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn may(&self, channel: &[u8]) -> bool {
        self.all || self.some.iter().any(|pattern| glob::matches(pattern, channel))
    }

    /// Whether a client may subscribe to `wanted`, which is a pattern: it must be one of ours, letter by letter, since
    /// what else it would match cannot be told.
    pub(crate) fn may_pattern(&self, wanted: &[u8]) -> bool {
        self.all || self.some.iter().any(|pattern| pattern == wanted)
    }

    /// As rules.
    pub(crate) fn words(&self) -> Vec<String> {
        let all = self.all.then(|| b"*".to_vec());
        all.iter().chain(&self.some).map(|pattern| format!("&{}", String::from_utf8_lossy(pattern))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touch::{READ, WRITE};

    #[test]
    fn one_pattern_must_allow_all_that_is_done() {
        let mut keys = KeyPatterns::default();
        keys.allow(b"ro:*", READ);
        keys.allow(b"*:wo", WRITE);
        keys.allow(b"app:*", READ | WRITE);
        assert!(keys.may(b"ro:1", READ) && !keys.may(b"ro:1", WRITE) && keys.may(b"ro:1", 0));
        assert!(!keys.may(b"ro:wo", READ | WRITE) && keys.may(b"ro:wo", WRITE));
        assert!(keys.may(b"app:1", READ | WRITE) && !keys.may(b"other", 0));
        keys.allow(b"*", READ);
        assert!(keys.may(b"other", READ) && !keys.may(b"other", WRITE) && !keys.has_all());
        assert_eq!(keys.words(), ["%R~*", "%R~ro:*", "%W~*:wo", "~app:*"]);
    }

    #[test]
    fn a_pattern_of_channels_must_be_one_that_is_allowed() {
        let mut channels = ChannelPatterns::default();
        channels.allow(b"news:*");
        assert!(channels.may(b"news:a") && !channels.may(b"other"));
        assert!(channels.may_pattern(b"news:*") && !channels.may_pattern(b"news:a*"));
    }
}
