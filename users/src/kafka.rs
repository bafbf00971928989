//! Users of Kafka. They are who they are; what they may do is said by filters, which know topics and groups.

use mecha_core::OpId;

use crate::user::Vocabulary;

/// No commands to allow or to forbid.
#[derive(Clone, Copy, Debug)]
pub struct NoCommands;

impl Vocabulary for NoCommands {
    fn names() -> Vec<&'static str> {
        vec!["other"]
    }

    fn is_in(_: OpId, _: &str) -> bool {
        false
    }
}

/// The first of these rules that says what a user may do, rather than who it is.
#[must_use]
pub fn limiting(words: &[String]) -> Option<&str> {
    const ALL: [&str; 9] =
        ["on", "off", "nopass", "~*", "allkeys", "&*", "allchannels", "+@all", "allcommands"];
    let is_harmless =
        |word: &&String| word.starts_with('#') || ALL.iter().any(|known| word.eq_ignore_ascii_case(known));
    words.iter().find(|word| !is_harmless(word)).map(String::as_str)
}
