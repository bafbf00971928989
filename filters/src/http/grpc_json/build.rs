//! Messages from JSON, paths and queries.
//!
//! Everything that a request says is put into one JSON object, which then becomes the message by the rules of protobuf's
//! JSON; so a number in a query is what the same number in a body is.

use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Number, Value};

use super::rules::{Body, named};
use super::template::{Bound, decoded};

/// Parameters of one query.
const MAX_PARAMETERS: usize = 1000;

/// What a request says besides its body.
#[derive(Debug)]
pub(super) struct Said {
    input: MessageDescriptor,
    root: Map<String, Value>,
    body: Body,
    /// Fields that the path sets; they win over those of a body.
    bound: Vec<(String, String)>,
    ignores_unknown: bool,
}

impl Said {
    /// What a path and a query say.
    ///
    /// # Errors
    /// What is wrong with them, for the client.
    pub(super) fn new(
        input: &MessageDescriptor,
        body: &Body,
        bound: Bound<'_>,
        query: Option<&str>,
        ignores_unknown: bool,
    ) -> Result<Self, String> {
        let mut root = Map::new();
        let parameters = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        // Where the body is the whole message there is nothing left to say.
        let parameters = parameters.filter(|_| !matches!(body, Body::All));
        for (count, pair) in parameters.enumerate() {
            if count == MAX_PARAMETERS {
                return Err("the query has too many parameters".into());
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |text: &str| {
                decoded(&text.replace('+', " "), false).ok_or_else(|| format!("`{text}` is no text"))
            };
            let (name, value) = (text(name)?, text(value)?);
            let is_bound = bound.iter().any(|(field, _)| *field == name);
            match insert(&mut root, input, &name, &value) {
                Ok(()) if is_bound => return Err(format!("`{name}` stands in the path already")),
                Err(Wrong::Unknown) if ignores_unknown => {}
                Err(Wrong::Unknown) => return Err(format!("there is no field `{name}`")),
                other => other.map_err(|wrong| wrong.about(&name))?,
            }
        }
        // Paths that make no message must not wait for a body.
        let mut trial = root.clone();
        for (name, value) in &bound {
            insert(&mut trial, input, name, value).map_err(|wrong| wrong.about(name))?;
        }
        let bound = bound.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        Ok(Self { input: input.clone(), root, body: body.clone(), bound, ignores_unknown })
    }

    /// The message, with what the body says.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub(super) fn message(mut self, body: &[u8]) -> Result<Vec<u8>, String> {
        let text = body.trim_ascii();
        let json =
            || serde_json::from_slice::<Value>(text).map_err(|error| format!("the body is no JSON: {error}"));
        match &self.body {
            Body::None if text.is_empty() => {}
            Body::None => return Err("this request has no body".into()),
            Body::All if text.is_empty() => {}
            Body::All => match json()? {
                Value::Object(all) => self.root = all,
                // Some messages are texts in JSON, and then there is nothing else to say.
                other if self.bound.is_empty() => return encoded(&self.input, other, self.ignores_unknown),
                _ => return Err("the body is no object".into()),
            },
            Body::Field(_) if text.is_empty() => {}
            Body::Field(field) => {
                let value = json()?;
                take(&mut self.root, field);
                self.root.insert(field.json_name().into(), value);
            }
        }
        for (name, value) in &self.bound {
            forget(&mut self.root, &self.input, name);
            insert(&mut self.root, &self.input, name, value).map_err(|wrong| wrong.about(name))?;
        }
        encoded(&self.input, Value::Object(self.root), self.ignores_unknown)
    }

    /// The messages of a stream: a JSON array, or one after the other.
    ///
    /// # Errors
    /// As [`Said::message`].
    pub(super) fn messages(self, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut all = Vec::new();
        for value in serde_json::Deserializer::from_slice(body).into_iter::<Value>() {
            match value.map_err(|error| format!("the body is no JSON: {error}"))? {
                Value::Array(values) => all.extend(values),
                value => all.push(value),
            }
        }
        all.into_iter().map(|value| encoded(&self.input, value, self.ignores_unknown)).collect()
    }
}

fn encoded(input: &MessageDescriptor, value: Value, ignores_unknown: bool) -> Result<Vec<u8>, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(!ignores_unknown);
    let message = DynamicMessage::deserialize_with_options(input.clone(), value, &options);
    message.map(|message| message.encode_to_vec()).map_err(|error| error.to_string())
}

/// Why a text cannot be put into a field.
enum Wrong {
    /// There is no such field.
    Unknown,
    /// It is no value of that field.
    Value(&'static str),
}

impl Wrong {
    fn about(self, name: &str) -> String {
        match self {
            Self::Unknown => format!("there is no field `{name}`"),
            Self::Value(wanted) => format!("`{name}` is {wanted}"),
        }
    }
}

/// Takes a field out, however it is spelt.
fn take(object: &mut Map<String, Value>, field: &FieldDescriptor) -> Option<Value> {
    let by_name = object.remove(field.name());
    object.remove(field.json_name()).or(by_name)
}

/// Takes what a path with dots leads to out.
fn forget(object: &mut Map<String, Value>, message: &MessageDescriptor, path: &str) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(field) = named(message, name) else { return };
    let known = take(object, &field);
    if let (Some(rest), Some(Value::Object(mut inner)), Kind::Message(message)) = (rest, known, field.kind())
    {
        forget(&mut inner, &message, rest);
        object.insert(field.json_name().into(), Value::Object(inner));
    }
}

/// Puts a text where a path with dots leads.
fn insert(
    object: &mut Map<String, Value>,
    message: &MessageDescriptor,
    path: &str,
    text: &str,
) -> Result<(), Wrong> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let field = named(message, name).ok_or(Wrong::Unknown)?;
    let key = field.json_name().to_string();
    if let Some(rest) = rest {
        let kind = field.kind();
        let inner =
            kind.as_message().filter(|_| !field.is_list() && !field.is_map()).ok_or(Wrong::Unknown)?;
        return match object.entry(key).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(object) => insert(object, inner, rest, text),
            _ => Err(Wrong::Value("no message")),
        };
    }
    if field.is_map() {
        return Err(Wrong::Value("a map, which only a body can say"));
    }
    let value = scalar(&field.kind(), text)?;
    if !field.is_list() {
        return match object.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(Wrong::Value("there twice")),
        };
    }
    match object.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(values) => values.push(value),
        _ => return Err(Wrong::Value("no list")),
    }
    Ok(())
}

/// A text as JSON has it for a field of this kind.
fn scalar(kind: &Kind, text: &str) -> Result<Value, Wrong> {
    let number = |number: Option<Number>| number.map(Value::Number).ok_or(Wrong::Value("a number"));
    match kind {
        Kind::Bool => text.parse().map(Value::Bool).map_err(|_| Wrong::Value("true or false")),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            number(text.parse::<i64>().ok().map(Number::from))
        }
        Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64 => {
            number(text.parse::<u64>().ok().map(Number::from))
        }
        Kind::Float | Kind::Double if ["NaN", "Infinity", "-Infinity"].contains(&text) => {
            Ok(Value::String(text.into()))
        }
        Kind::Float | Kind::Double => number(text.parse().ok().and_then(Number::from_f64)),
        Kind::Enum(_) => Ok(text.parse::<i32>().map_or_else(|_| Value::String(text.into()), Value::from)),
        Kind::Bytes | Kind::String => Ok(Value::String(text.into())),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Duration" | "google.protobuf.FieldMask" | "google.protobuf.Timestamp" => {
                Ok(Value::String(text.into()))
            }
            name if name.starts_with("google.protobuf.")
                && name.ends_with("Value")
                && name != "google.protobuf.Value" =>
            {
                let value = message.get_field_by_name("value");
                value.map_or(Err(Wrong::Value("a message")), |field| scalar(&field.kind(), text))
            }
            _ => Err(Wrong::Value("a message, whose fields can be said one by one")),
        },
    }
}
