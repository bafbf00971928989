//! YAML as a tree whose nodes know where they stand.
//!
//! Anchors and aliases are refused: configuration of this size needs none, and without them a small text cannot stand for
//! a large tree. Depth and number of nodes are bounded.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

use crate::ConfigError;

const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 100_000;

/// Line and column, from 1; 0 is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Place {
    fn of(marker: &Marker) -> Self {
        Self { line: marker.line() as u32, column: marker.col() as u32 + 1 }
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Kind {
    List(Vec<Node>),
    /// Keys with their places, in order.
    Map(Vec<(String, Place, Node)>),
    #[default]
    Null,
    /// Text, and whether it was quoted.
    Scalar(String, bool),
}

impl Node {
    /// The tree of `text`; an empty text is null.
    ///
    /// # Errors
    /// Text that is no tree. Keys that are given twice do not prevent one: they are added to `errors`.
    pub(crate) fn parse(text: &str, errors: &mut Vec<ConfigError>) -> Result<Self, ConfigError> {
        let mut builder = Builder { stack: Vec::new(), root: None, count: 0, errors: Vec::new() };
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let place = Place::of(error.marker());
                at(place, format!("not valid YAML: {}", error.info()))
                    .hint("indentation or a missing colon or quote?")
            })?;
            builder.event(event, Place::of(&span.start))?;
        }
        errors.append(&mut builder.errors);
        Ok(builder.root.unwrap_or_default())
    }

    /// As JSON, with plain scalars as the types that they look like.
    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            Kind::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            Kind::Map(pairs) => Value::Object(
                pairs.iter().map(|(key, _, node)| (key.clone(), node.value())).collect::<Map<_, _>>(),
            ),
            Kind::Null => Value::Null,
            Kind::Scalar(text, is_quoted) => scalar(text, *is_quoted),
        }
    }

    /// What a user would call it.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
            Kind::Null => "nothing",
            Kind::Scalar(..) => "a value",
        }
    }

    /// The node that `path` (as in `a.b[0]`) leads to, or the last one on the way.
    pub(crate) fn find(&self, path: &str) -> &Self {
        let mut node = self;
        for step in
            path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty())
        {
            let next = match &node.kind {
                Kind::Map(pairs) => pairs.iter().find(|(key, ..)| key == step).map(|(_, _, node)| node),
                Kind::List(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => return node,
            }
        }
        node
    }

    /// The place of the key `name` of a map.
    pub(crate) fn key_place(&self, name: &str) -> Option<Place> {
        match &self.kind {
            Kind::Map(pairs) => pairs.iter().find(|(key, ..)| key == name).map(|(_, place, _)| *place),
            _ => None,
        }
    }
}

pub(crate) fn at(place: Place, message: String) -> ConfigError {
    ConfigError { line: place.line, column: place.column, ..ConfigError::new("", message) }
}

fn scalar(text: &str, is_quoted: bool) -> Value {
    if is_quoted {
        return Value::String(text.into());
    }
    let digits = text.replace('_', "");
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ if !text.starts_with('_') && digits.parse::<i64>().is_ok() => {
            Value::Number(digits.parse::<i64>().unwrap_or_default().into())
        }
        _ if text.starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '.') => {
            match digits.parse::<f64>().ok().and_then(Number::from_f64) {
                Some(number) => Value::Number(number),
                None => Value::String(text.into()),
            }
        }
        _ => Value::String(text.into()),
    }
}

enum Open {
    List(Place, Vec<Node>),
    Map(Place, Vec<(String, Place, Node)>, Option<(String, Place)>),
}

struct Builder {
    stack: Vec<Open>,
    root: Option<Node>,
    count: usize,
    errors: Vec<ConfigError>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), ConfigError> {
        match event {
            Event::Alias(_) => {
                return Err(at(place, "aliases are not supported".into()).hint("write the value out"));
            }
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return Err(at(place, "anchors are not supported".into()).hint("write the value out"));
            }
            Event::Scalar(text, style, ..) => {
                let is_quoted = !matches!(style, ScalarStyle::Plain);
                let is_null = !is_quoted && matches!(text.as_ref(), "" | "~" | "null");
                let kind = if is_null { Kind::Null } else { Kind::Scalar(text.into_owned(), is_quoted) };
                self.add(Node { place, kind })?;
            }
            Event::SequenceStart(..) => self.open(Open::List(place, Vec::new()), place)?,
            Event::MappingStart(..) => self.open(Open::Map(place, Vec::new(), None), place)?,
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(place, items)) => self.add(Node { place, kind: Kind::List(items) })?,
                Some(Open::Map(place, pairs, _)) => self.add(Node { place, kind: Kind::Map(pairs) })?,
                None => {}
            },
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err(at(place, "only one YAML document is read".into())
                    .hint("remove `---` and what follows, or make it a file of its own"));
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, open: Open, place: Place) -> Result<(), ConfigError> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(
                at(place, format!("nested deeper than {MAX_DEPTH} levels")).hint("is this the right file?")
            );
        }
        self.stack.push(open);
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<(), ConfigError> {
        self.count += 1;
        if self.count > MAX_NODES {
            return Err(
                at(node.place, format!("more than {MAX_NODES} values")).hint("is this the right file?")
            );
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, pairs, key)) => match key.take() {
                Some((name, place)) => match pairs.iter().find(|(known, ..)| *known == name) {
                    Some((_, first, _)) => {
                        let hint = format!("it stands in line {} already; remove one", first.line);
                        self.errors.push(at(place, format!("`{name}` is given twice")).hint(hint));
                    }
                    None => pairs.push((name, place, node)),
                },
                None => match node.kind {
                    Kind::Scalar(name, _) => *key = Some((name, node.place)),
                    _ => {
                        return Err(
                            at(node.place, "a key must be plain text".into()).hint("as in `key: value`")
                        );
                    }
                },
            },
        }
        Ok(())
    }
}
