//! One map of the file at a time: its keys are taken by name, and what nobody took is unknown.
//!
//! Every function that reads a value takes what [`Fields::take`] returned, records whatever is wrong with it, and
//! returns nothing then, so that reading goes on and all errors come at once.

use std::time::Duration;

use super::Reader;
use crate::ConfigError;
use crate::error::suggestion;
use crate::node::{Kind, Node, Place};
use crate::options::join;
use crate::target::Complaint;
use crate::units::{parse_period, parse_size};

/// The value of a key that is there, with its path.
pub(super) type Found<'n> = Option<(&'n Node, String)>;

/// One map being read: its keys are taken one by one, and what is left is unknown.
pub(super) struct Fields<'n> {
    pub(super) pairs: Vec<(&'n str, Place, &'n Node)>,
    path: String,
    pub(super) place: Place,
    names: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    pub(super) fn take(&mut self, name: &'static str) -> Found<'n> {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        let at = self.pairs.iter().position(|(key, ..)| *key == name)?;
        let (_, _, node) = self.pairs.remove(at);
        Some((node, join(&self.path, name)))
    }
}

impl Reader<'_> {
    pub(super) fn error(
        &mut self,
        place: Place,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.errors.push(ConfigError {
            line: place.line,
            column: place.column,
            hint,
            ..ConfigError::new(path, message)
        });
    }

    pub(super) fn complain(&mut self, node: &Node, path: &str, complaint: Complaint) {
        self.error(node.place, path, complaint.0, complaint.1);
    }

    pub(super) fn fields<'n>(&mut self, node: &'n Node, path: &str) -> Fields<'n> {
        let pairs = match &node.kind {
            Kind::Map(pairs) => pairs.iter().map(|(key, place, node)| (key.as_str(), *place, node)).collect(),
            Kind::Null => Vec::new(),
            _ => {
                let hint = match path {
                    "" => {
                        "as in `listeners: [ { listen: \"redis://127.0.0.1:6379\", to: \"embedded://\" } ]`"
                    }
                    _ => "as in `key: value`, one a line and indented, or `{ key: value }`",
                };
                self.error(
                    node.place,
                    path,
                    format!("expected a map, got {}", node.describe()),
                    Some(hint.into()),
                );
                Vec::new()
            }
        };
        Fields { pairs, path: path.into(), place: node.place, names: Vec::new() }
    }

    /// Complains about those of `names` that are there, and takes them: they say something about calls, where
    /// bytes are passed on as they are.
    pub(super) fn without_calls(&mut self, fields: &mut Fields<'_>, names: &[&'static str]) {
        self.without(fields, names, "where bytes are passed on as they are");
    }

    /// Complains of keys that have no meaning `here`.
    pub(super) fn without(&mut self, fields: &mut Fields<'_>, names: &[&'static str], here: &str) {
        for name in names {
            if let Some((node, path)) = fields.take(name) {
                let message = format!("`{name}` has no meaning {here}");
                self.error(node.place, &path, message, Some("remove it".into()));
            }
        }
    }

    pub(super) fn finish(&mut self, fields: Fields<'_>) {
        for (key, place, _) in fields.pairs {
            let path = join(&fields.path, key);
            self.error(
                place,
                &path,
                format!("there is no key `{key}` here"),
                Some(suggestion(key, &fields.names)),
            );
        }
    }

    pub(super) fn items<'n>(&mut self, found: Found<'n>) -> Vec<(&'n Node, String)> {
        match found {
            None => Vec::new(),
            Some((node, path)) => match &node.kind {
                Kind::List(items) => {
                    items.iter().enumerate().map(|(index, item)| (item, format!("{path}[{index}]"))).collect()
                }
                Kind::Null => Vec::new(),
                _ => {
                    let hint = Some("start each entry with `- `".to_string());
                    self.error(node.place, &path, format!("expected a list, got {}", node.describe()), hint);
                    Vec::new()
                }
            },
        }
    }

    pub(super) fn text(&mut self, found: Found<'_>) -> Option<String> {
        let (node, path) = found?;
        match &node.kind {
            Kind::Scalar(text, _) => Some(text.clone()),
            _ => {
                let hint = "one value; in quotes if it begins with a bracket, a brace or a `#`".to_string();
                let message = format!("expected text, got {}", node.describe());
                self.error(node.place, &path, message, Some(hint));
                None
            }
        }
    }

    pub(super) fn parsed<T>(
        &mut self,
        found: Found<'_>,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let (node, path) = found?;
        let text = self.text(Some((node, path.clone())))?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.complain(node, &path, complaint);
                None
            }
        }
    }

    pub(super) fn period(&mut self, found: Found<'_>, least: Duration) -> Option<Duration> {
        self.parsed(found, |text| {
            let period: Duration =
                parse_period(text).map_err(|help| (format!("`{text}` is no duration"), Some(help)))?.into();
            if period < least {
                return Err((format!("must be at least {least:?}"), Some(format!("`{text}` is shorter"))));
            }
            Ok(period)
        })
    }

    pub(super) fn size(&mut self, found: Found<'_>, least: u64) -> Option<u64> {
        self.parsed(found, |text| {
            let size: u64 =
                parse_size(text).map_err(|help| (format!("`{text}` is no size"), Some(help)))?.into();
            if size < least {
                return Err((format!("must be at least {least} bytes"), Some(format!("`{text}` is less"))));
            }
            Ok(size)
        })
    }

    pub(super) fn count(&mut self, found: Found<'_>, max: u32) -> Option<u32> {
        self.parsed(found, |text| match text.replace('_', "").parse::<u32>() {
            Ok(count) if (1..=max).contains(&count) => Ok(count),
            _ => Err((
                format!("`{text}` is not a number from 1 to {max}"),
                Some("a whole number without a unit".into()),
            )),
        })
    }

    pub(super) fn word<T: Copy>(&mut self, found: Found<'_>, words: &[(&'static str, T)]) -> Option<T> {
        self.parsed(found, |text| {
            let value = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            value.ok_or_else(|| {
                (format!("`{text}` is not one of {}", names.join(", ")), Some(suggestion(text, &names)))
            })
        })
    }
}

/// Changes `slot` where the file says something.
pub(super) fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}
