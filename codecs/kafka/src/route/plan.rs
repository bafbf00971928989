//! Where the parts of a request go, and the requests that it is taken apart into.

use std::ops::Range;

use super::cursor::{Cursor, int32, put_count, text};
use super::{Key, Parts, Serves, Topic, serves};
use crate::guard;
use crate::schema::{Field, Kind, Role};
use crate::table::ApiKey;
use crate::wire::{Malformed, put_string};

/// What a resource is that `DescribeConfigs` and its like name: a broker, or a broker's loggers.
const BROKERS: [u8; 2] = [4, 8];

/// A request whose names were read: which bytes of its body belong to which of them.
#[derive(Debug, Default)]
pub struct Plan {
    /// One for each name: where its bytes are, and which of `outer` they belong to.
    items: Vec<Item>,
    outer: Vec<Outer>,
    /// The array with the names, its count included; empty if the request has no such array.
    array: Range<usize>,
    is_flexible: bool,
    is_nested: bool,
    is_split: bool,
}

#[derive(Debug)]
struct Item {
    bytes: Range<usize>,
    outer: usize,
    /// The broker's number.
    goes: Option<i32>,
}

/// A topic's bytes but for its partitions.
#[derive(Debug, Default)]
struct Outer {
    head: Range<usize>,
    tail: Range<usize>,
}

impl Plan {
    /// Reads a request's body (what follows the correlation id), and asks `place` which broker each of its names is at.
    /// `None` is a name of which nobody knows that.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn read(
        &mut self,
        key: ApiKey,
        version: i16,
        body: &[u8],
        place: &mut dyn FnMut(Key<'_>) -> Option<i32>,
    ) -> Result<(), Malformed> {
        self.items.clear();
        self.outer.clear();
        self.array = 0..0;
        let message = key.request().ok_or(Malformed::Unknown)?;
        guard::check(message, version, body)?;
        let is_flexible = message.is_flexible(version);
        let (_, at) = guard::header(body, is_flexible)?;
        let mut cursor = Cursor { body, at, version, is_flexible };
        let parts = Parts::of(key, version);
        (self.is_flexible, self.is_split) = (is_flexible, parts.is_some_and(|parts| parts.is_split));
        self.is_nested = parts.is_some_and(|parts| !parts.inner.is_empty());
        for field in message.fields {
            if !cursor.has(field) {
                continue;
            }
            let start = cursor.at;
            if let Some(parts) = parts.filter(|parts| parts.outer == field.name) {
                self.outer_array(field, parts, key, &mut cursor, place)?;
                self.array = start..cursor.at;
                return Ok(());
            }
            let value = cursor.field(field)?;
            let key = match (serves(key), field.role, value) {
                (Serves::Group, Role::Group, Some(name)) => Key::Group(text(name)?),
                (Serves::Transaction, Role::TransactionalId, Some(name)) => Key::Transaction(text(name)?),
                _ => continue,
            };
            self.items.push(Item { bytes: 0..0, outer: 0, goes: place(key) });
            if parts.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn outer_array(
        &mut self,
        field: &'static Field,
        parts: &Parts,
        key: ApiKey,
        cursor: &mut Cursor<'_>,
        place: &mut dyn FnMut(Key<'_>) -> Option<i32>,
    ) -> Result<(), Malformed> {
        let Kind::Array(of) = &field.kind else { return Err(Malformed::Unknown) };
        for _ in 0..cursor.count()?.unwrap_or_default() {
            if self.is_nested {
                self.topic(of.fields(), parts, cursor, place)?;
                continue;
            }
            let start = cursor.at;
            let goes = match serves(key) {
                Serves::Node => resource(of.fields(), cursor)?.and_then(|node| place(Key::Node(node))),
                Serves::Transaction => place(Key::Transaction(name(of, cursor)?)),
                _ => place(Key::Group(name(of, cursor)?)),
            };
            self.items.push(Item { bytes: start..cursor.at, outer: 0, goes });
        }
        Ok(())
    }

    fn topic(
        &mut self,
        fields: &'static [Field],
        parts: &Parts,
        cursor: &mut Cursor<'_>,
        place: &mut dyn FnMut(Key<'_>) -> Option<i32>,
    ) -> Result<(), Malformed> {
        let (start, outer) = (cursor.at, self.outer.len());
        let mut topic = None;
        let mut spans = Outer::default();
        for field in fields {
            if !cursor.has(field) {
                continue;
            }
            let begins = cursor.at;
            if field.name != parts.inner {
                let value = cursor.field(field)?.unwrap_or_default();
                if field.role == Role::Topic {
                    topic = Some(Topic::Name(text(value)?));
                } else if field.name == "TopicId" {
                    topic = value.first_chunk().map(|id| Topic::Id(*id));
                }
                continue;
            }
            let Kind::Array(of) = &field.kind else { return Err(Malformed::Unknown) };
            for _ in 0..cursor.count()?.unwrap_or_default() {
                let start = cursor.at;
                let index = int32(match of {
                    Kind::Struct(fields) => first(fields, cursor)?,
                    of => cursor.value(of, false)?,
                })?;
                let goes = topic.and_then(|topic| place(Key::Partition(topic, index)));
                self.items.push(Item { bytes: start..cursor.at, outer, goes });
            }
            spans = Outer { head: start..begins, tail: cursor.at..cursor.at };
        }
        cursor.tags()?;
        spans.tail.end = cursor.at;
        self.outer.push(spans);
        Ok(())
    }

    /// The brokers that it goes to, each once, in the order of their first names; a name of which nobody knows goes with the
    /// others, and nowhere by itself.
    pub fn brokers(&self) -> impl Iterator<Item = i32> {
        let first = |at: &usize, broker: i32| {
            let earlier = self.items.get(..*at).unwrap_or_default();
            !earlier.iter().any(|item| item.goes == Some(broker))
        };
        let goes = self.items.iter().enumerate().filter_map(|(at, item)| Some((at, item.goes?)));
        goes.filter(move |(at, broker)| first(at, *broker)).map(|(_, broker)| broker)
    }

    /// Whether it names anything that decides.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether it can be taken apart.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.is_split
    }

    /// Appends the body of the request that has only what goes to one broker; what nobody knows the place of is in that
    /// which is `first`. `body` is what was read.
    pub fn write(&self, body: &[u8], broker: i32, first: bool, out: &mut Vec<u8>) {
        let is_here = |item: &Item| item.goes.map_or(first, |goes| goes == broker);
        let copy = |range: Range<usize>, out: &mut Vec<u8>| {
            out.extend_from_slice(body.get(range).unwrap_or_default());
        };
        copy(0..self.array.start, out);
        if self.is_nested {
            let of =
                |outer: usize| self.items.iter().filter(move |item| item.outer == outer && is_here(item));
            let is_wanted = |outer: &usize| of(*outer).next().is_some();
            put_count((0..self.outer.len()).filter(is_wanted).count(), self.is_flexible, out);
            for (at, spans) in self.outer.iter().enumerate().filter(|(at, _)| is_wanted(at)) {
                copy(spans.head.clone(), out);
                put_count(of(at).count(), self.is_flexible, out);
                of(at).for_each(|item| copy(item.bytes.clone(), out));
                copy(spans.tail.clone(), out);
            }
        } else {
            put_count(self.items.iter().filter(|item| is_here(item)).count(), self.is_flexible, out);
            self.items.iter().filter(|item| is_here(item)).for_each(|item| copy(item.bytes.clone(), out));
        }
        copy(self.array.end..body.len(), out);
    }
}

/// Passes a structure, and returns its first field.
fn first<'a>(fields: &'static [Field], cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    let mut found = None;
    for (at, field) in fields.iter().filter(|field| field.tag.is_none()).enumerate() {
        if cursor.has(field) {
            let value = cursor.field(field)?;
            found = if at == 0 { value } else { found };
        }
    }
    cursor.tags()?;
    Ok(found)
}

/// Passes a name, or a structure that begins with one.
fn name<'a>(kind: &'static Kind, cursor: &mut Cursor<'a>) -> Result<&'a str, Malformed> {
    let value = match kind {
        Kind::Struct(fields) => first(fields, cursor)?,
        kind => cursor.value(kind, false)?,
    };
    text(value.unwrap_or_default())
}

/// Passes a resource, and returns the broker's number if that is what it is.
fn resource(fields: &'static [Field], cursor: &mut Cursor<'_>) -> Result<Option<i32>, Malformed> {
    let (mut is_broker, mut number) = (false, None);
    for field in fields {
        if !cursor.has(field) {
            continue;
        }
        match (field.name, cursor.field(field)?) {
            ("ResourceType", Some(&[kind])) => is_broker = BROKERS.contains(&kind),
            ("ResourceName", Some(name)) => number = text(name)?.parse().ok(),
            _ => {}
        }
    }
    cursor.tags()?;
    Ok(number.filter(|_| is_broker))
}

/// The first partition that a request to produce names, from the beginning of its body; `None` if that is not in there.
///
/// # Errors
/// See [`Malformed`].
pub fn first_partition(version: i16, body: &[u8]) -> Result<Option<(Topic<'_>, i32)>, Malformed> {
    let message = ApiKey::PRODUCE.request().ok_or(Malformed::Unknown)?;
    let is_flexible = message.is_flexible(version);
    let found = || {
        let (_, at) = guard::header(body, is_flexible)?;
        let mut cursor = Cursor { body, at, version, is_flexible };
        for field in message.fields {
            if !cursor.has(field) {
                continue;
            }
            let Kind::Array(of) = &field.kind else {
                cursor.field(field)?;
                continue;
            };
            if cursor.count()?.unwrap_or_default() == 0 {
                return Ok(None);
            }
            let mut topic = None;
            for field in of.fields() {
                if !cursor.has(field) {
                    continue;
                }
                if let Kind::Array(_) = &field.kind {
                    let is_some = cursor.count()?.unwrap_or_default() > 0;
                    let index = if is_some { Some(int32(cursor.value(&Kind::Int32, false)?)?) } else { None };
                    return Ok(topic.zip(index));
                }
                let value = cursor.field(field)?.unwrap_or_default();
                topic = match field.role {
                    Role::Topic => Some(Topic::Name(text(value)?)),
                    _ => value.first_chunk().map(|id| Topic::Id(*id)),
                };
            }
        }
        Ok(None)
    };
    match found() {
        // More of it is to come.
        Err(Malformed::Truncated | Malformed::Length) => Ok(None),
        found => found,
    }
}

/// Whether a request to fetch goes on with what an earlier one has begun, and so belongs to the broker that has answered that.
///
/// # Errors
/// See [`Malformed`].
pub fn is_continued(key: ApiKey, version: i16, body: &[u8]) -> Result<bool, Malformed> {
    let message = key.request().ok_or(Malformed::Unknown)?;
    guard::check(message, version, body)?;
    let is_flexible = message.is_flexible(version);
    let (_, at) = guard::header(body, is_flexible)?;
    let mut cursor = Cursor { body, at, version, is_flexible };
    for field in message.fields {
        if cursor.has(field) {
            let value = cursor.field(field)?;
            if matches!(field.name, "SessionId" | "ShareSessionEpoch") {
                return Ok(int32(value)? != 0);
            }
        }
    }
    Ok(false)
}

/// Appends the body of a request to fetch without what says in which rack the client is; false if it does not say that. A
/// leader that knows would send it to a replica nearby, which has the same address here.
///
/// # Errors
/// See [`Malformed`].
pub fn without_rack(version: i16, body: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let message = ApiKey::FETCH.request().ok_or(Malformed::Unknown)?;
    guard::check(message, version, body)?;
    let is_flexible = message.is_flexible(version);
    let (_, at) = guard::header(body, is_flexible)?;
    let mut cursor = Cursor { body, at, version, is_flexible };
    for field in message.fields {
        if !cursor.has(field) {
            continue;
        }
        let start = cursor.at;
        let value = cursor.field(field)?;
        if field.name == "RackId" && value.is_some_and(|rack| !rack.is_empty()) {
            out.extend_from_slice(body.get(..start).unwrap_or_default());
            put_string(b"", is_flexible, out);
            out.extend_from_slice(body.get(cursor.at..).unwrap_or_default());
            return Ok(true);
        }
    }
    Ok(false)
}
