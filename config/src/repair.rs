//! All errors of a subtree, from a decoder that stops at the first.
//!
//! `serde` gives up where it meets something wrong. So what is wrong is noted, taken out, and decoding starts again, until
//! it succeeds or nothing can be taken out any more. A missing key is stood in for by the first value that its type
//! takes. The result is only good for looking for further errors, and is never put to use.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::suggestion;
use crate::options::join;
use crate::{ConfigError, Options};

/// Errors told about one subtree; more would not be read.
const MOST: usize = 32;

pub(crate) struct Repair<'o> {
    options: &'o Options,
    value: Value,
    pub(crate) errors: Vec<ConfigError>,
    /// Paths of what was taken out or stood in for, relative to the subtree.
    pub(crate) damaged: Vec<String>,
}

impl<'o> Repair<'o> {
    pub(crate) fn new(options: &'o Options) -> Self {
        let value = options.node.value();
        let value = if value.is_null() { Value::Object(Map::new()) } else { value };
        Self { options, value, errors: Vec::new(), damaged: Vec::new() }
    }

    /// A value that has the type, if one can be had.
    pub(crate) fn decode<T: DeserializeOwned>(&mut self) -> Option<T> {
        while self.errors.len() < MOST {
            let (path, text) = match attempt::<T>(&self.value) {
                Ok(decoded) => return Some(decoded),
                Err(error) => error,
            };
            if let Some(field) = quoted(&text, "unknown field `") {
                // The path names the unknown key already, or ends at its map.
                let parent =
                    path.strip_suffix(&field).map_or(path.as_str(), |path| path.trim_end_matches('.'));
                self.unknown(parent, &field, &text);
                self.remove(&join(parent, &field))?;
            } else if let Some(field) = quoted(&text, "missing field `") {
                let whole = join(&path, &field);
                // What was taken out above is missing now, which its owner need not hear.
                if !self.damaged.contains(&whole) {
                    let place = self.options.error(&path, format!("`{field}` is missing"));
                    let hint = self.options.reference();
                    self.errors
                        .push(ConfigError { path: join(&self.options.path, &whole), ..place }.hint(hint));
                    self.damaged.push(whole.clone());
                }
                self.stand_in::<T>(&path, &field)?;
            } else {
                self.misfit(&path, &text);
                self.remove(&path)?;
            }
        }
        None
    }

    fn unknown(&mut self, parent: &str, field: &str, text: &str) {
        let mut error = self.options.error(parent, format!("there is no option `{field}`"));
        if let Some(place) = self.options.node.find(parent).key_place(field) {
            (error.line, error.column) = (place.line, place.column);
        }
        error.path = join(&join(&self.options.path, parent), field);
        let known: Vec<&str> = text.split('`').skip(3).step_by(2).collect();
        let error = self.options.origin.locate(error);
        self.errors.push(error.hint(suggestion(field, &known)));
    }

    /// A value that does not fit, in words that do not speak of the decoder.
    fn misfit(&mut self, path: &str, text: &str) {
        let hint = match text.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`')) {
            Some((word, rest)) => {
                let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
                suggestion(word, &known)
            }
            None => self.options.reference(),
        };
        let message = match text.strip_prefix("unknown variant ") {
            Some(rest) => rest.replacen(", expected", " is not known; expected", 1),
            None => {
                let rest =
                    text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
                match rest.and_then(|rest| rest.split_once(", expected ")) {
                    Some((got, wanted)) => format!("expected {}, got {}", people(wanted), people(got)),
                    None => text.to_string(),
                }
            }
        };
        self.errors.push(self.options.error(path, message).hint(hint));
    }

    /// Takes out what is at `path`. `None` if that is the whole subtree.
    fn remove(&mut self, path: &str) -> Option<()> {
        let (parent, last) = match path.rfind(['.', '[']) {
            Some(at) => path.split_at(at),
            None => ("", path),
        };
        let last = last.trim_matches(['.', '[', ']']);
        self.damaged.push(path.to_string());
        match find(&mut self.value, parent)? {
            Value::Object(map) => map.remove(last).map(|_| ()),
            Value::Array(items) => {
                let at = last.parse::<usize>().ok().filter(|at| *at < items.len())?;
                items.remove(at);
                Some(())
            }
            _ => None,
        }
    }

    /// Puts the first value that the decoder takes where `field` is missing.
    fn stand_in<T: DeserializeOwned>(&mut self, parent: &str, field: &str) -> Option<()> {
        let whole = join(parent, field);
        for value in [json!(1), json!("1s"), json!("1MiB"), json!(true), json!([]), json!({}), json!("x")] {
            let Value::Object(map) = find(&mut self.value, parent)? else { return None };
            map.insert(field.to_string(), value);
            match attempt::<T>(&self.value) {
                Err((path, _)) if path == whole || path.starts_with(&format!("{whole}.")) => {}
                _ => return Some(()),
            }
        }
        None
    }
}

/// The decoder's complaint and where it stopped.
fn attempt<T: DeserializeOwned>(value: &Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value.clone()).map_err(|error| {
        let path = error.path().to_string();
        (if path == "." { String::new() } else { path }, error.inner().to_string())
    })
}

fn find<'v>(value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    let steps = path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty());
    steps.into_iter().try_fold(value, |value, step| match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// The decoder's words for types, as people say them.
fn people(text: &str) -> String {
    let text = match text {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list, as in `[a, b]`",
        "a string" => "text",
        "null" => "nothing",
        "map" => "a map",
        "sequence" => "a list",
        _ if text.starts_with("struct ") => "a map of options, as in `{ key: value }`",
        _ => text,
    };
    text.replacen("integer ", "the number ", 1).replacen("floating point ", "the number ", 1).replacen(
        "string ",
        "the text ",
        1,
    )
}

/// What stands in back quotes behind `start`.
fn quoted(text: &str, start: &str) -> Option<String> {
    let rest = text.strip_prefix(start)?;
    rest.split_once('`').map(|(quoted, _)| quoted.to_string())
}
