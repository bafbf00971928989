//! Who leads and who coordinates, from the responses that say it.

use super::Topic;
use super::cursor::{Cursor, int32, text};
use crate::guard;
use crate::schema::{Field, Kind, Role};
use crate::table::ApiKey;
use crate::wire::Malformed;

/// A partition as metadata tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led<'a> {
    /// The topic's name; `None` in answers that only have its id.
    pub name: Option<&'a str>,
    /// The topic's id; `None` before version 10.
    pub id: Option<[u8; 16]>,
    /// Which one.
    pub index: i32,
    /// The broker's number; -1 while it has none.
    pub leader: i32,
}

/// Calls `note` with every partition in the body of a response to `Metadata`.
///
/// # Errors
/// See [`Malformed`].
pub fn leaders(version: i16, body: &[u8], note: &mut dyn FnMut(Led<'_>)) -> Result<(), Malformed> {
    let (mut cursor, fields) = response(ApiKey::METADATA, version, body)?;
    for field in fields {
        match &field.kind {
            Kind::Array(of) if field.name == "Topics" && cursor.has(field) => {
                for _ in 0..cursor.count()?.unwrap_or_default() {
                    topic(of.fields(), &mut cursor, note)?;
                }
            }
            _ if cursor.has(field) => {
                cursor.field(field)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn topic(
    fields: &'static [Field],
    cursor: &mut Cursor<'_>,
    note: &mut dyn FnMut(Led<'_>),
) -> Result<(), Malformed> {
    let mut led = Led { name: None, id: None, index: -1, leader: -1 };
    for field in fields {
        if !cursor.has(field) {
            continue;
        }
        match &field.kind {
            Kind::Array(of) if field.name == "Partitions" => {
                for _ in 0..cursor.count()?.unwrap_or_default() {
                    partition(of.fields(), cursor, &mut led)?;
                    note(led);
                }
            }
            _ => match (field.role, cursor.field(field)?) {
                (Role::Topic, Some(name)) => led.name = Some(text(name)?),
                (_, Some(id)) if field.name == "TopicId" => led.id = id.first_chunk().copied(),
                _ => {}
            },
        }
    }
    cursor.tags()
}

fn partition(fields: &'static [Field], cursor: &mut Cursor<'_>, led: &mut Led<'_>) -> Result<(), Malformed> {
    for field in fields {
        if !cursor.has(field) {
            continue;
        }
        let value = cursor.field(field)?;
        match field.name {
            "PartitionIndex" => led.index = int32(value)?,
            "LeaderId" => led.leader = int32(value)?,
            _ => {}
        }
    }
    cursor.tags()
}

/// What a coordinator is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kept {
    /// A consumer group, of whatever kind.
    Group,
    /// A transaction.
    Transaction,
}

/// Calls `note` with every name that a request to find coordinators has. Nothing for what is neither a group nor a
/// transaction.
///
/// # Errors
/// See [`Malformed`].
pub fn sought(version: i16, body: &[u8], note: &mut dyn FnMut(Kept, &str)) -> Result<(), Malformed> {
    let message = ApiKey::FIND_COORDINATOR.request().ok_or(Malformed::Unknown)?;
    guard::check(message, version, body)?;
    let is_flexible = message.is_flexible(version);
    let (_, at) = guard::header(body, is_flexible)?;
    // The kind may stand behind the name, or not at all.
    let mut kind = Some(Kept::Group);
    for is_named in [false, true] {
        let mut cursor = Cursor { body, at, version, is_flexible };
        for field in message.fields {
            if !cursor.has(field) {
                continue;
            }
            match &field.kind {
                Kind::Array(of) if is_named => {
                    for _ in 0..cursor.count()?.unwrap_or_default() {
                        let name = text(cursor.value(of, false)?.unwrap_or_default())?;
                        kind.into_iter().for_each(|kind| note(kind, name));
                    }
                }
                _ => match (field.name, cursor.field(field)?) {
                    ("KeyType", Some([0])) => kind = Some(Kept::Group),
                    ("KeyType", Some([1])) => kind = Some(Kept::Transaction),
                    ("KeyType", _) => kind = None,
                    ("Key", Some(name)) if is_named => {
                        let name = text(name)?;
                        kind.into_iter().for_each(|kind| note(kind, name));
                    }
                    _ => {}
                },
            }
        }
    }
    Ok(())
}

/// Calls `note` with every coordinator in the body of a response to `FindCoordinator`: its number, and what it keeps, which
/// older versions leave to whoever remembers what was asked.
///
/// # Errors
/// See [`Malformed`].
pub fn coordinators(
    version: i16,
    body: &[u8],
    note: &mut dyn FnMut(Option<&str>, i32),
) -> Result<(), Malformed> {
    let (mut cursor, fields) = response(ApiKey::FIND_COORDINATOR, version, body)?;
    one(fields, &mut cursor, note)
}

fn one(
    fields: &'static [Field],
    cursor: &mut Cursor<'_>,
    note: &mut dyn FnMut(Option<&str>, i32),
) -> Result<(), Malformed> {
    let (mut name, mut node, mut is_failed) = (None, None, false);
    for field in fields {
        if !cursor.has(field) {
            continue;
        }
        if let Kind::Array(of) = &field.kind {
            for _ in 0..cursor.count()?.unwrap_or_default() {
                one(of.fields(), cursor, note)?;
                cursor.tags()?;
            }
            continue;
        }
        match (field.name, cursor.field(field)?) {
            ("Key", Some(key)) => name = Some(text(key)?),
            ("NodeId", id) => node = Some(int32(id)?),
            ("ErrorCode", Some(code)) => is_failed = code != [0, 0],
            _ => {}
        }
    }
    if let Some(node) = node.filter(|node| *node >= 0 && !is_failed) {
        note(name, node);
    }
    Ok(())
}

/// A response that was checked, from behind its header on.
fn response(key: ApiKey, version: i16, body: &[u8]) -> Result<(Cursor<'_>, &'static [Field]), Malformed> {
    let message = key.response().ok_or(Malformed::Unknown)?;
    guard::check(message, version, body)?;
    let is_flexible = message.is_flexible(version);
    let mut cursor = Cursor { body, at: 0, version, is_flexible };
    cursor.tags()?;
    Ok((cursor, message.fields))
}

impl Led<'_> {
    /// By what requests may name its topic.
    pub fn topics(&self) -> impl Iterator<Item = Topic<'_>> {
        let id = self.id.filter(|id| *id != [0; 16]).map(Topic::Id);
        self.name.map(Topic::Name).into_iter().chain(id)
    }
}
