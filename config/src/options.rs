//! Options of a filter: a subtree that its owner decodes.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::ConfigError;
use crate::node::Node;
use crate::repair::Repair;

/// A raw subtree that remembers where it stands.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub(crate) node: Node,
    /// Path of the subtree in its file.
    pub(crate) path: String,
    pub(crate) origin: Arc<Origin>,
}

/// The text that a configuration came from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) file: Option<String>,
    pub(crate) lines: Vec<String>,
}

impl Origin {
    pub(crate) fn new(file: &str, text: &str) -> Arc<Self> {
        Arc::new(Self { file: Some(file.into()), lines: text.lines().map(Into::into).collect() })
    }

    /// Adds file and source line to an error that has a place.
    pub(crate) fn locate(&self, mut error: ConfigError) -> ConfigError {
        error.file.clone_from(&self.file);
        let line = (error.line as usize).checked_sub(1).and_then(|index| self.lines.get(index));
        error.source = line.map(|line| without_secret(line)).unwrap_or_default();
        error
    }
}

/// The same options, wherever they stand.
impl PartialEq for Options {
    fn eq(&self, other: &Self) -> bool {
        self.node.value() == other.node.value()
    }
}

impl Options {
    /// Decodes the whole subtree; no options at all decode like an empty map.
    ///
    /// # Errors
    /// Everything that does not fit `T`, with its place: missing and unknown keys, wrong types, values without their
    /// unit.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Vec<ConfigError>> {
        self.check(|_: &T, _| {})
    }

    /// As [`Options::decode`], and lets `judge` say what is wrong with values of the right type. It is asked even if
    /// other options do not fit, so that all errors come at once; it is not heard about those.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check<T: DeserializeOwned>(
        &self,
        judge: impl FnOnce(&T, &mut Vec<ConfigError>),
    ) -> Result<T, Vec<ConfigError>> {
        let mut repair = Repair::new(self);
        let decoded = repair.decode::<T>();
        let Repair { mut errors, damaged, .. } = repair;
        if let Some(decoded) = decoded {
            let mut more = Vec::new();
            judge(&decoded, &mut more);
            let damaged: Vec<_> = damaged.iter().map(|path| join(&self.path, path)).collect();
            errors.extend(more.into_iter().filter(|error| !damaged.contains(&error.path)));
            if errors.is_empty() {
                return Ok(decoded);
            }
        }
        errors.sort_by_key(|error| (error.line, error.column));
        Err(errors)
    }

    /// A problem with the option at `path` (empty: the filter itself). Unless it gets a better hint, it points to the
    /// reference.
    pub fn error(&self, path: &str, message: impl Into<String>) -> ConfigError {
        let place = self.node.find(path).place;
        let error = ConfigError {
            line: place.line,
            column: place.column,
            ..ConfigError::new(join(&self.path, path), message)
        };
        self.origin.locate(error).hint(self.reference())
    }

    /// Where the options are explained.
    pub(crate) fn reference(&self) -> String {
        let name = self.path.rsplit('.').next().unwrap_or_default();
        format!("`mecha filters {name}` explains the options")
    }

    /// The options in an example that shows one filter as a list entry; for tests of filters.
    ///
    /// # Panics
    /// The example is not a list with one filter.
    pub fn from_example(example: &str) -> Self {
        let node = Node::parse(example, &mut Vec::new()).expect("an example is YAML");
        let crate::node::Kind::List(items) = &node.kind else { panic!("an example is a list") };
        let Some(crate::node::Kind::Map(pairs)) = items.first().map(|item| &item.kind) else {
            return Self::default();
        };
        let (name, _, options) = pairs.first().expect("an example names a filter");
        Self { node: options.clone(), path: name.clone(), origin: Origin::new("example", example) }
    }
}

/// Keys whose values are secrets, or hold them; also as people misspell them.
const SECRET_KEYS: [&str; 5] = ["auth:", "pass", "pwd:", "secret:", "token:"];

/// A line as it may be shown. Cut off is what follows a key that takes a password (or is a misspelt one), a password
/// among rules (`>password`, `#password`), and what stands before the `@` of an address.
fn without_secret(line: &str) -> String {
    let line = &without_userinfo(line);
    let starts = |at: &usize| {
        let before = line.get(..*at).and_then(|before| before.chars().next_back());
        let behind = line.get(at + 1..).and_then(|behind| behind.chars().next());
        before.is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | '[' | ','))
            && behind.is_some_and(|c| !c.is_whitespace())
    };
    if let Some(at) = line.match_indices('>').map(|(at, _)| at).find(starts) {
        return format!("{}>***", line.get(..at).unwrap_or_default());
    }
    // A hash is none, but what somebody took for the place of a password is.
    let is_hash = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let word_at = |at: usize| {
        let rest = line.get(at + 1..).unwrap_or_default();
        rest.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ']' | ','))
            .next()
            .unwrap_or_default()
    };
    let hashes = line.match_indices('#').map(|(at, _)| at).filter(starts);
    if let Some(at) = hashes.into_iter().find(|at| !is_hash(word_at(*at))) {
        return format!("{}#***", line.get(..at).unwrap_or_default());
    }
    let lower = line.to_ascii_lowercase();
    // A map has keys of its own, and the name of a file or a variable is no secret.
    let is_secret = |at: usize| {
        let colon = at + lower.get(at..)?.find(':')? + 1;
        let (key, value) = (lower.get(at..colon)?, line.get(colon..)?.trim_start());
        let is_named = key.contains("_file") || key.contains("_env");
        let is_plain = key.starts_with("passw") || !(value.is_empty() || value.starts_with('{'));
        (is_plain && !is_named).then_some(colon)
    };
    let colons =
        SECRET_KEYS.iter().flat_map(|key| lower.match_indices(key)).filter_map(|(at, _)| is_secret(at));
    match colons.min().and_then(|at| line.get(..at)) {
        Some(start) => format!("{start} ***"),
        None => line.clone(),
    }
}

/// The line without what stands before the `@` of addresses.
fn without_userinfo(line: &str) -> String {
    let mut shown = String::new();
    let mut words = line.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ','));
    for word in &mut words {
        // `+@all` is a rule, and what has no colon before its `@` says nobody's password.
        match word.rsplit_once('@') {
            Some((before, rest)) if !before.ends_with(['+', '-']) && !before.is_empty() => {
                let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
                let colon = if scheme.is_empty() { "" } else { "://" };
                shown += &format!("{scheme}{colon}***@{rest}");
            }
            _ => shown += word,
        }
    }
    shown
}

pub(crate) fn join(path: &str, more: &str) -> String {
    match (path.is_empty(), more.is_empty()) {
        (_, true) => path.into(),
        (true, _) => more.into(),
        _ if more.starts_with('[') => format!("{path}{more}"),
        _ => format!("{path}.{more}"),
    }
}
