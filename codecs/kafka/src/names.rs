//! Names of topics, groups and transactional ids in requests and responses: replaced, in every place that has one.
//!
//! A tenant's `orders` is the cluster's `tenant-a.orders`. That holds only if no place is forgotten, so this is for the
//! messages that were looked through as a whole ([`is_understood`]), and a test fails when one of them gets a text that
//! nobody has looked at. Others must be refused.
//!
//! Most places are known by their schema ([`Role`]). Besides:
//!
//! - names of resources, whose kind stands before them;
//! - keys of coordinators, whose kind only the request says, so it is noted for the response ([`Note`]);
//! - what consumers tell each other in `JoinGroup` and `SyncGroup`, which is bytes to the protocol: subscriptions and
//!   assignments, if the group says that it is of consumers;
//! - regular expressions over topics, see [`pattern()`].
//!
//! What is not the client's own has no name in its view: in a response, the part that has it is left out.
//!
//! Deliberately absent: access control lists, whose wildcards reach over all names; streams groups; records, which may
//! say anything.

mod consumer;
mod mentioned;
mod pattern;

pub use mentioned::{Mention, mentioned, topic_id};
pub use pattern::{own_pattern, pattern};

use crate::guard;
use crate::schema::{Field, Kind, Message, Role, Versions};
use crate::table::ApiKey;
use crate::wire::{Malformed, put_string, put_uvarint, uvarint};

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A consumer or share group.
    Group,
    /// A topic.
    Topic,
    /// Topics, by a regular expression.
    TopicPattern,
    /// A transactional producer.
    TransactionalId,
}

/// What must be known of a request, or of one before it, to understand a message. Keep one for each request in flight,
/// begun as a copy of the last one on its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// What a coordinator was asked for: 0 is a group, 1 a transactional id.
    coordinator: i8,
    /// Whether the group that was joined is of consumers; `None` before any was.
    is_of_consumers: Option<bool>,
}

impl Note {
    /// It as a number, for whoever keeps numbers.
    #[must_use]
    pub fn bits(self) -> u64 {
        let group = self.is_of_consumers.map_or(0, |is_of_consumers| 1 + u64::from(is_of_consumers));
        u64::from(self.coordinator as u8) | group << 8
    }

    /// That which has this number.
    #[must_use]
    pub fn of_bits(bits: u64) -> Self {
        let is_of_consumers = match bits >> 8 {
            0 => None,
            group => Some(group == 2),
        };
        Self { coordinator: bits as u8 as i8, is_of_consumers }
    }
}

/// Why names were not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A name that the client must not use, or that it cannot be told.
    Foreign(Name),
    /// The message is not sound.
    Malformed(Malformed),
    /// Nobody knows where all the names are.
    NotUnderstood,
}

/// Appends the new name to the bytes; false if there is none.
pub type Map<'m> = dyn FnMut(Name, &[u8], &mut Vec<u8>) -> bool + 'm;

/// APIs that were looked through, with the last version of which that is true.
#[rustfmt::skip]
const UNDERSTOOD: &[(i16, i16)] = &[
    (0, 13), (1, 18), (2, 11), (3, 13), (8, 10), (9, 10), (10, 6), (11, 9), (12, 4), (13, 5), (14, 5), (15, 6),
    (16, 5), (17, 1), (18, 4), (19, 7), (20, 6), (21, 2), (22, 5), (23, 4), (24, 5), (25, 4), (26, 5), (28, 5),
    (32, 4), (33, 2), (36, 2), (37, 3), (42, 2), (44, 1), (47, 0), (60, 2), (61, 0), (65, 0), (66, 1), (68, 1),
    (69, 1), (75, 0), (76, 1), (77, 1), (78, 2), (79, 2), (90, 1), (91, 0), (92, 0),
];

/// Kinds of resources that have names of their own.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_GROUP: i8 = 32;

/// Whether all names in requests and responses of this version are known.
#[must_use]
pub fn is_understood(key: ApiKey, version: i16) -> bool {
    UNDERSTOOD.iter().any(|(known, last)| *known == key.0 && version <= *last) && key.versions().has(version)
}

/// Versions of which [`is_understood`] is true.
#[must_use]
pub fn understood(key: ApiKey) -> Versions {
    let last = UNDERSTOOD.iter().find(|(known, _)| *known == key.0);
    last.map_or(Versions::NONE, |(_, last)| key.versions().and(Versions { first: 0, last: *last }))
}

/// Replaces the names in the body of a request, and appends the new body to `out`.
///
/// # Errors
/// See [`Failure`]. What was appended by then is of no use.
pub fn request(
    key: ApiKey,
    version: i16,
    body: &[u8],
    note: &mut Note,
    map: &mut Map<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let message = key.request().filter(|_| is_understood(key, version)).ok_or(Failure::NotUnderstood)?;
    if key == ApiKey::FIND_COORDINATOR {
        note.coordinator = coordinator(message, version, body)?;
    }
    copy(message, version, body, note, map, out)
}

/// From this version on requests to produce have no names behind their beginning.
pub const NAMELESS_PRODUCE: i16 = 13;

/// Replaces the names in the beginning of a request to produce ([`crate::pending::beginning`]), of a version from
/// [`NAMELESS_PRODUCE`] on, and appends the new beginning to `out`.
///
/// # Errors
/// As [`request`].
pub fn beginning(version: i16, bytes: &[u8], map: &mut Map<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
    let (key, is_nameless) = (ApiKey::PRODUCE, version >= NAMELESS_PRODUCE);
    let is_known = is_nameless && is_understood(key, version);
    let message = key.request().filter(|_| is_known).ok_or(Failure::NotUnderstood)?;
    let first = message.fields.first().filter(|field| field.role == Role::TransactionalId);
    let first = first.ok_or(Failure::NotUnderstood)?;
    let is_flexible = message.is_flexible(version);
    let mut copier = Copier {
        key,
        is_response: false,
        version,
        is_flexible,
        rest: bytes,
        resource: 0,
        note: &mut Note::default(),
        map,
        name: Vec::new(),
        out,
    };
    let header = guard::header(bytes, is_flexible)?.1;
    let header = copier.take(header)?;
    copier.out.extend_from_slice(header);
    if let Some(name) = copier.field(first)? {
        return Err(Failure::Foreign(name));
    }
    let acks = copier.take(copier.rest.len())?;
    copier.out.extend_from_slice(acks);
    Ok(())
}

/// Replaces the names in the body of a response. `note` is that of the request.
///
/// # Errors
/// As [`request`].
pub fn response(
    key: ApiKey,
    version: i16,
    body: &[u8],
    note: &mut Note,
    map: &mut Map<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let message = key.response().filter(|_| is_understood(key, version)).ok_or(Failure::NotUnderstood)?;
    copy(message, version, body, note, map, out)
}

/// The kind of coordinator that a request asks for, which may stand behind the key.
fn coordinator(message: &'static Message, version: i16, body: &[u8]) -> Result<i8, Failure> {
    let root = crate::tree::read(message, version, body)?;
    match root.field("KeyType") {
        Some((_, crate::tree::Node::Value([kind]))) => Ok(*kind as i8),
        // Version 0 knows groups only.
        _ => Ok(0),
    }
}

fn copy(
    message: &'static Message,
    version: i16,
    body: &[u8],
    note: &mut Note,
    map: &mut Map<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    guard::check(message, version, body)?;
    let is_flexible = message.is_flexible(version);
    let mut copier = Copier {
        key: ApiKey(message.key),
        is_response: message.is_response,
        version,
        is_flexible,
        rest: body,
        resource: 0,
        note,
        map,
        name: Vec::new(),
        out,
    };
    let header = match message.is_response {
        false => guard::header(body, is_flexible)?.1,
        true if is_flexible && copier.key != ApiKey::API_VERSIONS => guard::tags(body)?,
        true => 0,
    };
    let header = copier.take(header)?;
    copier.out.extend_from_slice(header);
    match copier.fields(message.fields)? {
        None => Ok(()),
        Some(name) => Err(Failure::Foreign(name)),
    }
}

/// Copies a message that was checked, with other names in it.
struct Copier<'a, 'c> {
    key: ApiKey,
    is_response: bool,
    version: i16,
    is_flexible: bool,
    rest: &'a [u8],
    /// Kind of the resource whose name comes next.
    resource: i8,
    note: &'c mut Note,
    map: &'c mut Map<'c>,
    /// A name that is being made.
    name: Vec<u8>,
    out: &'c mut Vec<u8>,
}

/// `Some` if what was copied has to be left out, for a name that has no other.
type Copied = Result<Option<Name>, Failure>;

impl<'a> Copier<'a, '_> {
    fn fields(&mut self, fields: &'static [Field]) -> Copied {
        let mut foreign = None;
        for field in fields {
            if field.tag.is_none() && field.versions.has(self.version) {
                // The rest is copied all the same, so that it is behind us.
                foreign = self.field(field)?.or(foreign);
            }
        }
        if self.is_flexible {
            let before = self.rest;
            let size = guard::tags(before)?;
            let tags = self.take(size)?;
            self.out.extend_from_slice(tags);
        }
        Ok(foreign)
    }

    fn field(&mut self, field: &'static Field) -> Copied {
        let start = self.rest;
        let copied = self.value(field, &field.kind)?;
        match (field.name, start) {
            ("ResourceType", [kind, ..]) => self.resource = *kind as i8,
            ("ProtocolType", _) => {
                let text = start.get(..start.len() - self.rest.len()).unwrap_or_default();
                match text {
                    // Null or empty, where a member had no group to join.
                    [0xff, 0xff] | [0, 0] | [0 | 1] => {}
                    b"\x00\x08consumer" | b"\x09consumer" => self.note.is_of_consumers = Some(true),
                    _ => self.note.is_of_consumers = Some(false),
                }
            }
            _ => {}
        }
        Ok(copied)
    }

    fn value(&mut self, field: &'static Field, kind: &'static Kind) -> Copied {
        if let Some(size) = kind.size() {
            let value = self.take(size)?;
            self.out.extend_from_slice(value);
            return Ok(None);
        }
        match kind {
            Kind::Struct(fields) => {
                let may_be_null =
                    std::ptr::eq(kind, &raw const field.kind) && field.nullable.has(self.version);
                if may_be_null {
                    let marker = self.take(1)?;
                    self.out.extend_from_slice(marker);
                    if marker == [0xff] {
                        return Ok(None);
                    }
                }
                self.fields(fields)
            }
            Kind::Array(of) => self.array(field, of),
            Kind::String => self.text(field),
            _ => self.bytes(field),
        }
    }

    fn array(&mut self, field: &'static Field, of: &'static Kind) -> Copied {
        let (length, _) = self.length(false)?;
        let Some(count) = length else {
            self.put_length(None, false);
            return Ok(None);
        };
        let (start, mut kept) = (self.out.len(), 0);
        for _ in 0..count {
            let before = self.out.len();
            match self.value(field, of)? {
                None => kept += 1,
                Some(name) if !self.is_response => return Err(Failure::Foreign(name)),
                Some(_) => self.out.truncate(before),
            }
        }
        // The count stands before the values.
        let end = self.out.len();
        self.put_length(Some(kept), false);
        let size = self.out.len() - end;
        self.out.get_mut(start..).unwrap_or_default().rotate_right(size);
        Ok(None)
    }

    fn text(&mut self, field: &'static Field) -> Copied {
        let (length, head) = self.length(true)?;
        let text = self.take(length.unwrap_or(0))?;
        let name = self.names(field)?;
        // What is empty names nothing, but for a group, which may have no other name.
        let name = name.filter(|name| !text.is_empty() || *name == Name::Group && !self.is_response);
        let (Some(name), true) = (name, length.is_some()) else {
            self.out.extend_from_slice(head);
            self.out.extend_from_slice(text);
            return Ok(None);
        };
        self.name.clear();
        if !(self.map)(name, text, &mut self.name) {
            return Ok(Some(name));
        }
        if self.name.len() > i16::MAX as usize {
            return Err(Failure::Foreign(name));
        }
        put_string(&self.name, self.is_flexible, self.out);
        Ok(None)
    }

    /// What a text names, if it is a name.
    fn names(&self, field: &Field) -> Result<Option<Name>, Failure> {
        Ok(match (field.role, field.name) {
            (Role::Group, _) => Some(Name::Group),
            (Role::Topic, _) => Some(Name::Topic),
            (Role::TopicPattern, _) => Some(Name::TopicPattern),
            (Role::TransactionalId, _) => Some(Name::TransactionalId),
            (_, "ResourceName") => match self.resource {
                RESOURCE_TOPIC => Some(Name::Topic),
                RESOURCE_GROUP => Some(Name::Group),
                _ => None,
            },
            (_, "Key" | "CoordinatorKeys") if self.key == ApiKey::FIND_COORDINATOR => {
                match self.note.coordinator {
                    0 => Some(Name::Group),
                    1 => Some(Name::TransactionalId),
                    _ => return Err(Failure::NotUnderstood),
                }
            }
            _ => None,
        })
    }

    fn bytes(&mut self, field: &'static Field) -> Copied {
        let (length, head) = self.length(false)?;
        let bytes = self.take(length.unwrap_or(0))?;
        let is_of_members = [ApiKey::JOIN_GROUP, ApiKey::SYNC_GROUP, ApiKey(15)].contains(&self.key);
        if !is_of_members || bytes.is_empty() {
            self.out.extend_from_slice(head);
            self.out.extend_from_slice(bytes);
            return Ok(None);
        }
        self.name.clear();
        match self.note.is_of_consumers {
            Some(true) => {
                let is_assignment = field.name.ends_with("Assignment");
                consumer::copy(bytes, is_assignment, self.is_response, self.map, &mut self.name)?;
            }
            // What others tell each other is their own: it comes back as it went.
            Some(false) => self.name.extend_from_slice(bytes),
            None => return Err(Failure::NotUnderstood),
        }
        self.put_length(Some(self.name.len()), false);
        self.out.extend_from_slice(&self.name);
        Ok(None)
    }

    /// Reads a length or a count: `None` for null. And the bytes that it is.
    fn length(&mut self, is_text: bool) -> Result<(Option<usize>, &'a [u8]), Malformed> {
        let (length, size) = if self.is_flexible {
            let (length, size) = uvarint(self.rest)?.ok_or(Malformed::Truncated)?;
            (i64::from(length) - 1, size)
        } else if is_text {
            let length = self.rest.first_chunk().ok_or(Malformed::Truncated)?;
            (i64::from(i16::from_be_bytes(*length)), 2)
        } else {
            let length = self.rest.first_chunk().ok_or(Malformed::Truncated)?;
            (i64::from(i32::from_be_bytes(*length)), 4)
        };
        Ok((usize::try_from(length).ok(), self.take(size)?))
    }

    fn put_length(&mut self, length: Option<usize>, is_text: bool) {
        match length {
            length if self.is_flexible => {
                put_uvarint(length.map_or(0, |length| length as u32 + 1), self.out);
            }
            length if is_text => {
                self.out.extend_from_slice(&length.map_or(-1, |length| length as i16).to_be_bytes());
            }
            length => self.out.extend_from_slice(&length.map_or(-1, |length| length as i32).to_be_bytes()),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

// === impl Failure ===

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
