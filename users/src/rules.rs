//! Rules as Redis's `ACL SETUSER` takes them, word by word.
//!
//! | rule | meaning |
//! |---|---|
//! | `on`, `off` | whether the user can log in; a user that is defined is on |
//! | `nopass` | any password is right |
//! | `#<64 hex digits>` | SHA-256 of a password; several are alternatives |
//! | `~<pattern>`, `%R~<pattern>`, `%W~<pattern>`, `%RW~<pattern>`, `allkeys`, `resetkeys` | keys |
//! | `&<pattern>`, `allchannels`, `resetchannels` | channels |
//! | `+<command>`, `-<command>`, `+<command>\|<sub>`, `+@<category>`, `-@<category>`, `allcommands`, `nocommands` | commands |
//! | `reset` | everything from here on starts anew |
//!
//! Commands are judged in the order of the rules: the last that names one decides.

use mecha_core::{OpInfo, Protocol};
use mecha_memcached::Memcached;
use mecha_resp::{CATEGORIES, Resp, touch};

use crate::pattern::{ChannelPatterns, KeyPatterns};
use crate::secret::Secret;

/// The most patterns and command rules of one user, so that a call's cost is bounded.
const MOST: usize = 1024;

/// What a user's words come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub(crate) is_on: bool,
    pub(crate) has_no_password: bool,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) keys: KeyPatterns,
    pub(crate) channels: ChannelPatterns,
    pub(crate) commands: Vec<CommandRule>,
}

/// One rule about commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandRule {
    pub(crate) is_allowed: bool,
    pub(crate) what: Commands,
}

/// Which commands a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Commands {
    All,
    /// Without the `@`.
    Category(String),
    /// In lower case; a subcommand has its command's name and `|` in front.
    Named(String),
}

/// What is wrong with one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Which word; the first is 0.
    pub word: usize,
    /// What is wrong, without any secret.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            is_on: true,
            has_no_password: false,
            secrets: Vec::new(),
            keys: KeyPatterns::default(),
            channels: ChannelPatterns::default(),
            commands: Vec::new(),
        }
    }
}

/// Everything that is wrong with these words.
pub fn check(words: &[String]) -> Vec<Complaint> {
    Rules::new(words).err().unwrap_or_default()
}

impl Rules {
    /// Understands the words.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(words: &[String]) -> Result<Self, Vec<Complaint>> {
        let (mut rules, mut complaints) = (Self::default(), Vec::new());
        for (index, word) in words.iter().enumerate() {
            if let Err((message, hint)) = rules.word(word) {
                complaints.push(Complaint { word: index, message, hint });
            }
        }
        if rules.commands.len() > MOST
            || rules.keys.words().len() > MOST
            || rules.channels.words().len() > MOST
        {
            let message = format!("more than {MOST} rules of one kind");
            complaints.push(Complaint { word: 0, message, hint: None });
        }
        if complaints.is_empty() { Ok(rules) } else { Err(complaints) }
    }

    fn word(&mut self, word: &str) -> Result<(), (String, Option<String>)> {
        let wrong = |message: &str, hint: &str| Err((message.to_string(), Some(hint.to_string())));
        match word.to_ascii_lowercase().as_str() {
            "on" => self.is_on = true,
            "off" => self.is_on = false,
            "nopass" => self.has_no_password = true,
            "resetpass" => (self.has_no_password, self.secrets) = (false, Vec::new()),
            "allkeys" => self.keys.allow(b"*", touch::READ | touch::WRITE),
            "resetkeys" => self.keys.reset(),
            "allchannels" => self.channels.allow(b"*"),
            "resetchannels" => self.channels.reset(),
            "allcommands" => self.command(true, Commands::All),
            "nocommands" => self.command(false, Commands::All),
            "reset" => *self = Self::default(),
            // What they are about happens in servers.
            "sanitize-payload" | "skip-sanitize-payload" => {}
            lower => match (word.split_at_checked(1), lower) {
                (Some(("#", hex)), _) => match Secret::from_hex(hex) {
                    Some(secret) => self.secrets.push(secret),
                    None => {
                        return wrong(
                            "a hash has 64 hexadecimal digits",
                            "as `printf %s PASSWORD | sha256sum` prints",
                        );
                    }
                },
                (Some((">", _)), _) => {
                    let hint =
                        "write `#` and what `printf %s PASSWORD | sha256sum` prints, or use `password_file`";
                    return wrong("a password in plain text", hint);
                }
                (Some(("<" | "!", _)), _) => {
                    return wrong("passwords cannot be taken back here", "leave the password out");
                }
                (Some(("~", pattern)), _) => self.keys.allow(pattern.as_bytes(), touch::READ | touch::WRITE),
                (Some(("&", pattern)), _) => self.channels.allow(pattern.as_bytes()),
                (Some(("%", _)), _) => {
                    let what =
                        [("%r~", touch::READ), ("%w~", touch::WRITE), ("%rw~", touch::READ | touch::WRITE)];
                    let found = what.iter().find(|(start, _)| lower.starts_with(start));
                    let Some((start, what)) = found else {
                        return wrong(
                            "not a kind of access to keys",
                            "`%R~pattern`, `%W~pattern` or `%RW~pattern`",
                        );
                    };
                    self.keys.allow(word.get(start.len()..).unwrap_or_default().as_bytes(), *what);
                }
                (Some(("+", _)), _) => self.named(true, &lower[1..])?,
                (Some(("-", _)), _) => self.named(false, &lower[1..])?,
                (Some(("(", _)), _) => return wrong("selectors are not supported", "define a second user"),
                _ => {
                    let hint = "as in `on #<sha256> ~app:* &news:* +@read +set -@dangerous`";
                    return wrong("this is no rule", hint);
                }
            },
        }
        Ok(())
    }

    fn command(&mut self, is_allowed: bool, what: Commands) {
        if what == Commands::All {
            self.commands.clear();
        }
        self.commands.push(CommandRule { is_allowed, what });
    }

    fn named(&mut self, is_allowed: bool, name: &str) -> Result<(), (String, Option<String>)> {
        if let Some(category) = name.strip_prefix('@') {
            if category == "all" {
                self.command(is_allowed, Commands::All);
            } else if CATEGORIES.contains(&category) {
                self.command(is_allowed, Commands::Category(category.into()));
            } else {
                let hint = format!("there are @all, @{}", CATEGORIES.join(", @"));
                return Err((format!("there is no category `@{category}`"), Some(hint)));
            }
            return Ok(());
        }
        let is_known = |ops: &[OpInfo]| ops.iter().skip(1).any(|op| is_named(op.name, name));
        if !is_known(Resp::ops()) && !is_known(Memcached::ops()) {
            let near = nearest(name);
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "a command, a part of one as in `+client|kill`, or a category as in `+@read`".into(),
            };
            let hint = Some(hint);
            return Err((format!("there is no command `{name}`"), hint));
        }
        self.command(is_allowed, Commands::Named(name.into()));
        Ok(())
    }
}

/// Whether a rule about `name` is about the row called `row`: a command stands for its subcommands too.
pub(crate) fn is_named(row: &str, name: &str) -> bool {
    row.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
}

/// A command whose name differs by one letter.
fn nearest(name: &str) -> Option<&'static str> {
    let ops = Resp::ops().iter().chain(Memcached::ops()).skip(1).map(|op| op.name);
    let mut near = ops.filter(|known| differ_little(known.as_bytes(), name.as_bytes()));
    near.next()
}

/// Whether one letter more, less or other makes one the other.
fn differ_little(one: &[u8], other: &[u8]) -> bool {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let (one, other) = (one.get(same..).unwrap_or_default(), other.get(same..).unwrap_or_default());
    let behind = |rest: &[u8], by: usize| rest.get(by..).map(<[u8]>::to_vec);
    [(0, 1), (1, 0), (1, 1)].iter().any(|(in_one, in_other)| {
        behind(one, *in_one).is_some_and(|rest| behind(other, *in_other) == Some(rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(Into::into).collect()
    }

    #[test]
    fn what_redis_lists_is_understood() {
        let hash = "148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";
        let text = format!(
            "on sanitize-payload #{hash} ~app:* %R~ro:* resetchannels &news:* +@all -@dangerous -get"
        );
        let rules = Rules::new(&words(&text)).unwrap();
        assert!(rules.is_on && !rules.has_no_password);
        assert_eq!(rules.secrets, [Secret::of(b"p")]);
        assert_eq!(rules.keys.words(), ["~app:*", "%R~ro:*"]);
        assert_eq!(rules.commands.len(), 3);
    }

    #[test]
    fn every_wrong_word_is_told_with_a_way_out() {
        let text = ">secret #12 %X~a +nosuch +@nosuch (~a) hello +gett";
        let complaints = check(&words(text));
        assert_eq!(
            complaints.iter().map(|complaint| complaint.word).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
        assert!(complaints.iter().all(|complaint| !complaint.message.contains("secret")));
        assert_eq!(complaints[7].hint.as_deref(), Some("did you mean `get`?"));
        assert!(check(&words("+get +client|kill +config -mg +FLUSHALL")).is_empty());
    }
}
