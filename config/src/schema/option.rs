//! The options of filters, as people and editors read them.

use serde_json::{Value, json};

/// One option of a filter. Its decoder must agree; a test compares their names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FilterOption {
    /// As the configuration spells it.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// What holds without it.
    pub without: Without,
    /// What it is for, and its bounds.
    pub about: &'static str,
}

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Takes {
    /// A whole number from this one on.
    Count(u32),
    /// `true` or `false`.
    Flag,
    /// A number above 0 and at most 1.
    Share,
    /// A duration with its unit.
    Duration,
    /// A size with its unit.
    Size,
    /// Any text.
    Text,
    /// A list of any texts.
    Texts,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of these words.
    Words(&'static [&'static str]),
}

/// What holds without an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// This value.
    Default(&'static str),
    /// This, in words.
    Means(&'static str),
    /// Nothing: the option must be there.
    Nothing,
}

impl FilterOption {
    /// Whether it must be there.
    pub fn is_required(&self) -> bool {
        self.without == Without::Nothing
    }

    /// The schema of its value.
    pub(super) fn schema(&self) -> Value {
        let mut schema = match self.takes {
            Takes::Count(least) => count(least),
            Takes::Duration => duration(),
            Takes::Flag => json!({ "type": "boolean" }),
            Takes::Share => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 }),
            Takes::Size => size(),
            Takes::Text => json!({ "type": "string" }),
            Takes::Texts => json!({ "type": "array", "items": { "type": "string" } }),
            Takes::Word(words) => json!({ "enum": words }),
            Takes::Words(words) => json!({ "type": "array", "items": { "enum": words } }),
        };
        schema["description"] = match self.without {
            Without::Default(value) => format!("{} ({value})", self.about),
            Without::Means(what) => format!("{} (without it: {what})", self.about),
            Without::Nothing => self.about.to_string(),
        }
        .into();
        if let Without::Default(value) = self.without {
            schema["default"] = match self.takes {
                Takes::Count(_) | Takes::Flag | Takes::Share => {
                    serde_json::from_str(value).unwrap_or_else(|_| value.into())
                }
                _ => value.into(),
            };
        }
        schema
    }

    /// A line for people: name, kind, what holds without it, and what it is for.
    pub fn line(&self) -> String {
        let kind = match self.takes {
            Takes::Count(least) => format!("number from {least} on"),
            Takes::Duration => "duration".into(),
            Takes::Flag => "true or false".into(),
            Takes::Share => "number above 0, at most 1".into(),
            Takes::Size => "size".into(),
            Takes::Text => "text".into(),
            Takes::Texts => "list of texts".into(),
            Takes::Word(words) => words.join(" or "),
            Takes::Words(words) => format!("list of {}", words.join(", ")),
        };
        let without = match self.without {
            Without::Default(value) => format!("default {value}"),
            Without::Means(what) => format!("without it: {what}"),
            Without::Nothing => "required".into(),
        };
        format!("{}: {} [{kind}; {without}]", self.name, self.about)
    }
}

/// A whole number. Digits may be grouped by `_`, which makes them text for editors.
pub(super) fn count(least: u32) -> Value {
    json!({ "type": ["integer", "string"], "minimum": least, "pattern": "^[0-9][0-9_]*$" })
}

pub(super) fn duration() -> Value {
    json!({ "type": "string", "pattern": "^[0-9._]+ *(us|ms|s|m|h|d)$" })
}

pub(super) fn size() -> Value {
    json!({ "type": "string", "pattern": "^[0-9._]+ *(B|kB|KB|MB|GB|KiB|MiB|GiB)$" })
}

/// The schema of one filter's options; `null` where none is needed.
pub(super) fn of_filter(options: &[FilterOption]) -> Value {
    let properties: serde_json::Map<_, _> =
        options.iter().map(|option| (option.name.to_string(), option.schema())).collect();
    let required: Vec<_> =
        options.iter().filter(|option| option.is_required()).map(|option| option.name).collect();
    let kinds = if required.is_empty() { json!(["object", "null"]) } else { json!("object") };
    json!({ "type": kinds, "properties": properties, "required": required, "additionalProperties": false })
}
