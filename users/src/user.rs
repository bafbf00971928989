//! Users as the guard of one protocol knows them.

use std::collections::HashMap;
use std::sync::Arc;

use mecha_core::OpId;

use crate::pattern::{ChannelPatterns, KeyPatterns};
use crate::rules::{Commands, Rules, is_named};
use crate::secret::{Secret, is_one_of};

/// The name of the user that a client is before it has said otherwise.
pub(crate) const DEFAULT: &str = "default";

/// The names and categories of one protocol's commands.
pub trait Vocabulary {
    /// Name of each row of the command table; row 0 stands for what the table lacks.
    fn names() -> Vec<&'static str>;
    /// Whether a row is in a category.
    fn is_in(op: OpId, category: &str) -> bool;
}

/// One user as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Unique.
    pub name: String,
    /// What it may do.
    pub rules: Rules,
    /// A password besides those of the rules.
    pub secret: Option<Secret>,
}

/// One user.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// Unique in its listener.
    pub name: Arc<str>,
    pub(crate) is_on: bool,
    pub(crate) has_no_password: bool,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) keys: KeyPatterns,
    pub(crate) channels: ChannelPatterns,
    /// The rules about commands, for people.
    pub(crate) command_words: String,
    /// A bit for each row.
    rows: Vec<u64>,
    /// Rows of the table.
    count: usize,
}

/// The users of one listener.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Users {
    by_name: HashMap<Arc<str>, Arc<User>>,
}

impl User {
    fn new<V: Vocabulary>(definition: &Definition) -> Self {
        let Definition { name, rules, secret } = definition;
        let names = V::names();
        let mut rows = vec![0; names.len().div_ceil(64)];
        for rule in &rules.commands {
            for (row, name) in names.iter().enumerate() {
                let is_meant = match &rule.what {
                    Commands::All => true,
                    Commands::Category(category) => row > 0 && V::is_in(OpId(row as u16), category),
                    Commands::Named(named) => row > 0 && is_named(name, named),
                };
                if let Some(word) = rows.get_mut(row / 64).filter(|_| is_meant) {
                    let bit = 1_u64 << (row % 64);
                    if rule.is_allowed { *word |= bit } else { *word &= !bit }
                }
            }
        }
        let words = rules.commands.iter().map(|rule| {
            let sign = if rule.is_allowed { '+' } else { '-' };
            match &rule.what {
                Commands::All => format!("{sign}@all"),
                Commands::Category(name) => format!("{sign}@{name}"),
                Commands::Named(name) => format!("{sign}{name}"),
            }
        });
        let words: Vec<_> = words.collect();
        Self {
            name: name.as_str().into(),
            is_on: rules.is_on,
            has_no_password: rules.has_no_password,
            secrets: rules.secrets.iter().chain(secret).cloned().collect(),
            keys: rules.keys.clone(),
            channels: rules.channels.clone(),
            // Redis shows what a user without rules has.
            command_words: if words.is_empty() { "-@all".into() } else { words.join(" ") },
            rows,
            count: names.len(),
        }
    }

    /// Whether it may run this command at all.
    #[inline]
    pub(crate) fn may_run(&self, op: OpId) -> bool {
        // What was learned of a server is known to no rule, as is what nobody knows.
        let row = Some(usize::from(op.0)).filter(|row| *row < self.count).unwrap_or_default();
        self.rows.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Whether `password` is the user's.
    fn has_password(&self, password: &[u8]) -> bool {
        // Hashed whoever it is, so that the time does not tell which users there are.
        let is_known = is_one_of(password, &self.secrets);
        self.is_on && (self.has_no_password || is_known)
    }

    /// Whether whoever is it may do the same as before.
    pub(crate) fn may_the_same(&self, other: &Self) -> bool {
        self.keys == other.keys && self.channels == other.channels && self.rows == other.rows
    }

    /// As `ACL LIST` shows it. Hashes are left out: a listing is read by more people than a configuration.
    pub(crate) fn line(&self) -> String {
        let mut words = vec!["user".to_string(), self.name.to_string()];
        words.push(if self.is_on { "on" } else { "off" }.into());
        if self.has_no_password {
            words.push("nopass".into());
        }
        words.extend(self.keys.words());
        let channels = self.channels.words();
        if channels.is_empty() {
            words.push("resetchannels".into())
        } else {
            words.extend(channels)
        }
        words.push(self.command_words.clone());
        words.join(" ")
    }
}

impl Users {
    /// Resolves definitions for one protocol.
    pub fn new<V: Vocabulary>(definitions: &[Definition]) -> Self {
        let users = definitions.iter().map(|definition| Arc::new(User::new::<V>(definition)));
        Self { by_name: users.map(|user| (Arc::clone(&user.name), user)).collect() }
    }

    /// The user of this name.
    pub(crate) fn named(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(std::str::from_utf8(name).ok()?)
    }

    /// Sorted by name.
    pub(crate) fn sorted(&self) -> Vec<&Arc<User>> {
        let mut users: Vec<_> = self.by_name.values().collect();
        users.sort_by(|one, other| one.name.cmp(&other.name));
        users
    }

    /// Who a client is that has not said who it is.
    pub(crate) fn unasked(&self) -> Option<Arc<User>> {
        let user = self.named(DEFAULT.as_bytes())?;
        (user.is_on && user.has_no_password).then(|| Arc::clone(user))
    }

    /// Who has this name and this password.
    pub(crate) fn login(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        match self.named(name) {
            Some(user) => user.has_password(password).then(|| Arc::clone(user)),
            None => {
                // For the time that it takes.
                let _ = std::hint::black_box(is_one_of(password, &[]));
                None
            }
        }
    }
}
