//! Options of a filter: a subtree that its owner decodes.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::ConfigError;
use crate::error::nearest;
use crate::node::Node;

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
        error.source = line.cloned().unwrap_or_default();
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
    /// What does not fit `T`, with its place: a missing or unknown key, a wrong type, a value without its unit.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Vec<ConfigError>> {
        let mut value = self.node.value();
        if value.is_null() {
            value = serde_json::Value::Object(serde_json::Map::new());
        }
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            let text = error.inner().to_string();
            let mut located = match quoted(&text, "unknown field `") {
                Some(field) => {
                    // The path names the unknown key already, or ends at its map.
                    let parent =
                        path.strip_suffix(&field).map_or(path.as_str(), |path| path.trim_end_matches('.'));
                    let mut error = self.error(parent, format!("there is no option `{field}`"));
                    if let Some(place) = self.node.find(parent).key_place(&field) {
                        (error.line, error.column) = (place.line, place.column);
                    }
                    error.path = join(&join(&self.path, parent), &field);
                    let known: Vec<&str> = text.split('`').skip(3).step_by(2).collect();
                    error.hint = Some(match nearest(&field, known.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("there is {}", known.join(", ")),
                    });
                    error
                }
                None => self.error(&path, text),
            };
            located = self.origin.locate(located);
            vec![located]
        })
    }

    /// A problem with the option at `path` (empty: the filter itself).
    pub fn error(&self, path: &str, message: impl Into<String>) -> ConfigError {
        let place = self.node.find(path).place;
        let error = ConfigError {
            line: place.line,
            column: place.column,
            ..ConfigError::new(join(&self.path, path), message)
        };
        self.origin.locate(error)
    }

    /// The options in an example that shows one filter as a list entry; for tests of filters.
    ///
    /// # Panics
    /// The example is not a list with one filter.
    pub fn from_example(example: &str) -> Self {
        let node = Node::parse(example).expect("an example is YAML");
        let crate::node::Kind::List(items) = &node.kind else { panic!("an example is a list") };
        let Some(crate::node::Kind::Map(pairs)) = items.first().map(|item| &item.kind) else {
            return Self::default();
        };
        let (name, _, options) = pairs.first().expect("an example names a filter");
        Self { node: options.clone(), path: name.clone(), origin: Origin::new("example", example) }
    }
}

/// What stands in back quotes behind `start`.
fn quoted(text: &str, start: &str) -> Option<String> {
    let rest = text.split_once(start)?.1;
    rest.split_once('`').map(|(quoted, _)| quoted.to_string())
}

pub(crate) fn join(path: &str, more: &str) -> String {
    match (path.is_empty(), more.is_empty()) {
        (_, true) => path.into(),
        (true, _) => more.into(),
        _ if more.starts_with('[') => format!("{path}{more}"),
        _ => format!("{path}.{more}"),
    }
}
