//! Client-side caching, for whoever does it in the servers' place: what clients ask for (`CLIENT TRACKING`, `CLIENT CACHING`)
//! and what they are told.
//!
//! The rules and the words of errors are the server's. Not here: `REDIRECT`, which names another client.
//! <https://redis.io/docs/latest/develop/reference/client-side-caching/>

use mecha_core::OpId;

use crate::args;
use crate::ops::{flag, op, op_info};
use crate::reply::Writer;

/// Prefixes that one client may name.
const MAX_PREFIXES: usize = 1024;

/// Which reads a client wants to hear about, outside broadcast mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// All.
    #[default]
    Every,
    /// Those behind `CLIENT CACHING YES`.
    OptIn,
    /// All but those behind `CLIENT CACHING NO`.
    OptOut,
}

/// What a client wants to hear about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// All keys with one of the prefixes, instead of those that it has read.
    pub is_broadcast: bool,
    /// Which reads count.
    pub choice: Choice,
    /// It asked not to hear of its own writes.
    pub is_noloop: bool,
    /// Of broadcast mode. An empty one stands for all keys.
    pub prefixes: Vec<Box<[u8]>>,
}

// === impl Tracking ===

impl Tracking {
    /// What the `CLIENT TRACKING` in `frame` makes of `current`; `None` is nothing any more.
    ///
    /// # Errors
    /// What the server says to it, without the code word.
    pub fn asked(frame: &[u8], current: Option<&Self>) -> Result<Option<Self>, String> {
        let mut words = args(frame).skip(2);
        let what = words.next().unwrap_or_default();
        let mut asked = Self::default();
        let (mut opts_in, mut opts_out) = (false, false);
        while let Some(word) = words.next() {
            match word.to_ascii_uppercase().as_slice() {
                b"BCAST" => asked.is_broadcast = true,
                b"NOLOOP" => asked.is_noloop = true,
                b"OPTIN" => opts_in = true,
                b"OPTOUT" => opts_out = true,
                b"PREFIX" => asked.prefixes.push(words.next().ok_or("syntax error")?.into()),
                _ => return Err("syntax error".into()),
            }
        }
        if what.eq_ignore_ascii_case(b"OFF") {
            return Ok(None);
        }
        if !what.eq_ignore_ascii_case(b"ON") {
            return Err("syntax error".into());
        }
        if !asked.is_broadcast && !asked.prefixes.is_empty() {
            return Err("PREFIX option requires BCAST mode to be enabled".into());
        }
        if current.is_some_and(|current| current.is_broadcast != asked.is_broadcast) {
            return Err(
                "You can't switch BCAST mode on/off before disabling tracking for this client, and then \
                        re-enabling it with a different mode."
                    .into(),
            );
        }
        if asked.is_broadcast && (opts_in || opts_out) {
            return Err("OPTIN and OPTOUT are not compatible with BCAST".into());
        }
        asked.choice = match (opts_in, opts_out) {
            (true, true) => return Err("You can't specify both OPTIN mode and OPTOUT mode".into()),
            (true, false) => Choice::OptIn,
            (false, true) => Choice::OptOut,
            (false, false) => Choice::Every,
        };
        let is_other = |current: &Self| {
            let known = current.choice;
            known != Choice::Every && asked.choice != Choice::Every && known != asked.choice
        };
        if current.is_some_and(is_other) {
            return Err(
                "You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then \
                        re-enabling it with a different mode."
                    .into(),
            );
        }
        asked.add_prefixes(current)?;
        Ok(Some(asked))
    }

    /// Adds what there is to the prefixes that were given, none of which may begin another one.
    fn add_prefixes(&mut self, current: Option<&Self>) -> Result<(), String> {
        if !self.is_broadcast {
            return Ok(());
        }
        if self.prefixes.is_empty() {
            self.prefixes.push(Box::default());
        }
        let text = String::from_utf8_lossy;
        let overlap = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
        let known = current.map(|current| current.prefixes.as_slice()).unwrap_or_default();
        for (at, prefix) in self.prefixes.iter().enumerate() {
            // The same once more changes nothing.
            if let Some(other) = known.iter().find(|other| overlap(prefix, other) && prefix != *other) {
                return Err(format!(
                    "Prefix '{}' overlaps with an existing prefix '{}'. Prefixes for a single client must not overlap.",
                    text(prefix),
                    text(other)
                ));
            }
            if let Some(other) = self.prefixes.iter().skip(at + 1).find(|other| overlap(prefix, other)) {
                return Err(format!(
                    "Prefix '{}' overlaps with another provided prefix '{}'. Prefixes for a single client must not \
                     overlap.",
                    text(prefix),
                    text(other)
                ));
            }
        }
        let fresh: Vec<_> = known.iter().filter(|known| !self.prefixes.contains(known)).cloned().collect();
        self.prefixes.extend(fresh);
        self.prefixes.sort_unstable();
        if self.prefixes.len() > MAX_PREFIXES {
            return Err(format!("mecha: a client may name {MAX_PREFIXES} prefixes"));
        }
        Ok(())
    }

    /// Whether the client must hear of a change of `key`, whatever it has read.
    #[must_use]
    pub fn covers(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// Whether a read counts that the client has said this of: that it is about `CLIENT CACHING` (`is_chosen`).
    #[must_use]
    pub fn counts(&self, is_chosen: bool) -> bool {
        !self.is_broadcast
            && match self.choice {
                Choice::Every => true,
                Choice::OptIn => is_chosen,
                Choice::OptOut => !is_chosen,
            }
    }
}

/// What the `CLIENT CACHING` in `frame` makes of a client that wants to hear of `current`.
///
/// # Errors
/// What the server says to it, without the code word.
pub fn chosen(frame: &[u8], current: &Tracking) -> Result<(), String> {
    let word = args(frame).nth(2).unwrap_or_default();
    match (word.to_ascii_uppercase().as_slice(), current.choice) {
        (b"YES", Choice::OptIn) | (b"NO", Choice::OptOut) => Ok(()),
        (b"YES", _) => Err("CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.".into()),
        (b"NO", _) => Err("CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.".into()),
        _ => Err("syntax error".into()),
    }
}

/// Appends the answer to `CLIENT TRACKINGINFO`.
pub fn tracking_info(current: &Tracking, is_chosen: bool, writer: &mut Writer<'_>) {
    let mut flags = vec!["on"];
    if current.is_broadcast {
        flags.push("bcast");
    }
    match current.choice {
        Choice::Every => {}
        Choice::OptIn => flags.push("optin"),
        Choice::OptOut => flags.push("optout"),
    }
    match current.choice {
        Choice::OptIn if is_chosen => flags.push("caching-yes"),
        Choice::OptOut if is_chosen => flags.push("caching-no"),
        _ => {}
    }
    if current.is_noloop {
        flags.push("noloop");
    }
    writer.map(3);
    writer.bulk(b"flags");
    writer.set(flags.len());
    flags.into_iter().for_each(|flag| writer.bulk(flag.as_bytes()));
    writer.bulk(b"redirect");
    writer.int(0);
    writer.bulk(b"prefixes");
    let prefixes = current.prefixes.iter().filter(|prefix| !prefix.is_empty());
    writer.array(prefixes.clone().count());
    prefixes.for_each(|prefix| writer.bulk(prefix));
}

/// Whether a client that runs this operation may keep what it has read of its keys. Scripts may read all of theirs.
#[must_use]
pub fn is_kept(op: OpId) -> bool {
    let is_script =
        matches!(op, op::EVAL | op::EVALSHA | op::EVALSHA_RO | op::EVAL_RO | op::FCALL | op::FCALL_RO);
    is_script || op_info(op).has(flag::READONLY)
}

/// What a server tells on a connection that tracks keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid<'a> {
    /// Every key may have changed.
    Everything,
    /// The keys in this array have.
    Keys(&'a [u8]),
}

// === impl Invalid ===

impl<'a> Invalid<'a> {
    /// Understands a message of version 3; `None` for every other one.
    #[must_use]
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let body = frame.strip_prefix(b">2\r\n$10\r\ninvalidate\r\n")?;
        match body.first()? {
            b'_' => Some(Self::Everything),
            b'*' if body.starts_with(b"*-1") => Some(Self::Everything),
            b'*' => Some(Self::Keys(body)),
            _ => None,
        }
    }

    /// The keys.
    pub fn keys(self) -> impl Iterator<Item = &'a [u8]> {
        match self {
            Self::Everything => args(&[]),
            Self::Keys(array) => args(array),
        }
    }
}

/// Appends what is behind the first byte of the message that `keys` have changed; without keys, that all may have.
pub fn invalidate<'a>(keys: impl ExactSizeIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"2\r\n$10\r\ninvalidate\r\n");
    let mut writer = Writer::new(out, 3);
    if keys.len() == 0 {
        writer.null();
        return;
    }
    writer.array(keys.len());
    keys.for_each(|key| writer.bulk(key));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inline_to_array;

    fn asked(words: &str, current: Option<&Tracking>) -> Result<Option<Tracking>, String> {
        let mut frame = Vec::new();
        inline_to_array(format!("CLIENT TRACKING {words}\r\n").as_bytes(), &mut frame).unwrap();
        Tracking::asked(&frame, current)
    }

    fn on(words: &str, current: Option<&Tracking>) -> Tracking {
        asked(words, current).unwrap().unwrap()
    }

    #[test]
    fn options_are_taken_as_the_server_takes_them() {
        assert_eq!(on("ON", None), Tracking::default());
        assert_eq!(asked("off", Some(&Tracking::default())), Ok(None));
        assert_eq!(on("on optin noloop", None).choice, Choice::OptIn);
        let broadcast = on("ON BCAST PREFIX a: PREFIX b:", None);
        assert!(broadcast.covers(b"a:1") && broadcast.covers(b"b:") && !broadcast.covers(b"c"));
        assert_eq!(on("ON BCAST PREFIX c:", Some(&broadcast)).prefixes.len(), 3);
        assert_eq!(on("ON BCAST PREFIX a:", Some(&broadcast)).prefixes.len(), 2);
        assert!(on("ON BCAST", None).covers(b"anything"));
    }

    #[test]
    fn what_contradicts_itself_is_an_error() {
        let (plain, broadcast) = (on("ON", None), on("ON BCAST PREFIX ab", None));
        let wrong = [
            ("ON PREFIX a", None),
            ("ON BCAST OPTIN", None),
            ("ON OPTIN OPTOUT", None),
            ("ON BCAST PREFIX a PREFIX ab", None),
            ("ON BCAST PREFIX", None),
            ("MAYBE", None),
            ("ON MAYBE", None),
            ("ON BCAST", Some(&plain)),
            ("ON", Some(&broadcast)),
            ("ON BCAST PREFIX abc", Some(&broadcast)),
            ("ON BCAST", Some(&broadcast)),
        ];
        for (words, current) in wrong {
            assert!(asked(words, current).is_err(), "{words}");
        }
        let (opts_in, opts_out) = (on("ON OPTIN", None), on("ON OPTOUT", None));
        assert!(asked("ON OPTOUT", Some(&opts_in)).is_err() && asked("ON OPTIN", Some(&opts_out)).is_err());
        assert!(opts_in.counts(true) && !opts_in.counts(false) && opts_out.counts(false));
    }

    #[test]
    fn messages_are_written_and_understood() {
        let mut frame = vec![b'>'];
        invalidate([&b"a\r\nb"[..], b""].into_iter(), &mut frame);
        let invalid = Invalid::of(&frame).unwrap();
        assert_eq!(invalid.keys().collect::<Vec<_>>(), [&b"a\r\nb"[..], b""]);
        let mut frame = vec![b'>'];
        invalidate(std::iter::empty(), &mut frame);
        assert_eq!(Invalid::of(&frame), Some(Invalid::Everything));
        assert_eq!(Invalid::of(b">2\r\n$10\r\ninvalidate\r\n*-1\r\n"), Some(Invalid::Everything));
        assert_eq!(Invalid::of(b">2\r\n$4\r\nelse\r\n*0\r\n"), None);
        for end in 0..frame.len() {
            // Whatever is cut off, nothing is made up.
            let cut = Invalid::of(&frame[..end]);
            assert!(cut.is_none_or(|cut| cut == Invalid::Everything || cut.keys().count() <= 2));
        }
    }
}
