//! Kafka's own errors, for requests that are not passed on.
//!
//! An error has no message of its own: it is a response to the request like any other, with the error where that
//! response has a place for it. Clients look for it there. Some responses have one place; others one for each topic,
//! partition, group or resource, and those have to be named again, since a client that asked about three partitions waits
//! to hear about three. Which parts of a request come back in its response is the table `ECHOES`; the rest is led by the
//! schemas.

mod code_names;

pub use code_names::NAMES;

use crate::schema::{Default, Field, Kind, Message, Role, Versions};
use crate::table::{ApiKey, Class};
use crate::tree::{Node, read};
use crate::walk::{Step, Walk};
use crate::wire::{Malformed, put_string, put_uvarint};

/// An error's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub i16);

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug)]
pub struct Reason<'a> {
    /// The error.
    pub code: Code,
    /// What is said about it, where the response has a place for that.
    pub message: Option<&'a str>,
    /// How long the client should wait before it asks again, in milliseconds.
    pub throttle_millis: i32,
}

/// An array of a response that answers one of the request value by value.
struct Echo {
    key: ApiKey,
    versions: Versions,
    /// Name in the request, and in the response.
    array: (&'static str, &'static str),
    /// An array in each of its values, if that has places for errors.
    inner: (&'static str, &'static str),
}

const fn echo(key: i16, array: (&'static str, &'static str), inner: (&'static str, &'static str)) -> Echo {
    Echo { key: ApiKey(key), versions: Versions { first: 0, last: i16::MAX }, array, inner }
}

const NOTHING: (&str, &str) = ("", "");
const PARTITIONS: (&str, &str) = ("Partitions", "Partitions");
const TOPICS: (&str, &str) = ("Topics", "Topics");

/// In the order of keys. What is not here has one place for an error.
#[rustfmt::skip]
static ECHOES: &[Echo] = &[
    echo(0, ("TopicData", "Responses"), ("PartitionData", "PartitionResponses")),
    echo(1, ("Topics", "Responses"), PARTITIONS),
    echo(2, TOPICS, PARTITIONS),
    echo(3, TOPICS, NOTHING),
    echo(8, TOPICS, PARTITIONS),
    echo(9, TOPICS, ("PartitionIndexes", "Partitions")).only(0, 1),
    echo(9, ("Groups", "Groups"), NOTHING).only(8, i16::MAX),
    echo(10, ("CoordinatorKeys", "Coordinators"), NOTHING).only(4, i16::MAX),
    echo(15, ("Groups", "Groups"), NOTHING),
    echo(19, TOPICS, NOTHING),
    echo(20, ("TopicNames", "Responses"), NOTHING).only(0, 5),
    echo(20, ("Topics", "Responses"), NOTHING).only(6, i16::MAX),
    echo(21, TOPICS, PARTITIONS),
    echo(23, TOPICS, PARTITIONS),
    echo(24, ("V3AndBelowTopics", "ResultsByTopicV3AndBelow"), ("Partitions", "ResultsByPartition")).only(0, 3),
    echo(28, TOPICS, PARTITIONS),
    echo(30, ("Creations", "Results"), NOTHING),
    echo(31, ("Filters", "FilterResults"), NOTHING),
    echo(32, ("Resources", "Results"), NOTHING),
    echo(33, ("Resources", "Responses"), NOTHING),
    echo(37, ("Topics", "Results"), NOTHING),
    echo(42, ("GroupsNames", "Results"), NOTHING),
    echo(43, ("TopicPartitions", "ReplicaElectionResults"), ("Partitions", "PartitionResult")).only(0, 0),
    echo(44, ("Resources", "Responses"), NOTHING),
    echo(49, ("Entries", "Entries"), ("Entity", "Entity")),
    echo(61, TOPICS, ("PartitionIndexes", "Partitions")),
    echo(65, ("TransactionalIds", "TransactionStates"), NOTHING),
    echo(69, ("GroupIds", "Groups"), NOTHING),
    echo(75, TOPICS, NOTHING),
    echo(77, ("GroupIds", "Groups"), NOTHING),
    echo(89, ("GroupIds", "Groups"), NOTHING),
    echo(90, ("Groups", "Groups"), NOTHING),
];

/// Names of what tells one part of a request from the others, in requests and responses. Nothing else comes back.
const SAME: [&[&str]; 8] = [
    &["Index", "Partition", "PartitionId", "PartitionIndex"],
    &["Name", "Topic", "TopicName"],
    &["GroupId", "Key", "Name", "TransactionalId"],
    &["TopicId"],
    &["ResourceType"],
    &["ResourceName"],
    &["EntityType"],
    &["EntityName"],
];

/// Numbers that are -1 in a response that has an error, although no schema says so.
const MISSING: [&str; 4] = ["BaseOffset", "CommittedOffset", "HighWatermark", "LowWatermark"];

/// Appends the body of the response (what follows the correlation id) that tells a client why this request was not
/// passed on. `body` is that of the request. False if the response has no place for an error, or it is not known: then
/// all that can be done is to close the connection.
///
/// A produce request that wants no acknowledgement has no response; nobody must ask for one here.
///
/// # Errors
/// See [`Malformed`]: the request is not sound. Nothing was appended.
pub fn refuse(
    key: ApiKey,
    version: i16,
    body: &[u8],
    reason: Reason<'_>,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    let (Some(request), Some(response)) = (key.request(), key.response()) else { return Ok(false) };
    if !key.versions().has(version) {
        return Ok(false);
    }
    let echo = ECHOES.iter().find(|echo| echo.key == key && echo.versions.has(version));
    if echo.is_none() && !has_place(response, version) {
        return Ok(false);
    }
    let request = read(request, version, body)?;
    let is_flexible = response.is_flexible(version);
    if is_flexible && key != ApiKey::API_VERSIONS {
        out.push(0);
    }
    // An error of the whole would keep clients from looking at the parts.
    let mut writer = Writer { version, is_flexible, reason: &reason, echo, is_part: echo.is_none(), out };
    writer.fields(response.fields, Some(&request));
    Ok(true)
}

/// Calls `note` with every error in the body of a response, [`Code::NONE`] too.
///
/// # Errors
/// See [`Malformed`].
pub fn codes(key: ApiKey, version: i16, body: &[u8], note: &mut dyn FnMut(Code)) -> Result<(), Malformed> {
    let message = key.response().ok_or(Malformed::Unknown)?;
    let size = u32::try_from(body.len()).map_err(|_| Malformed::Length)?;
    let (mut walk, mut rest) = (Walk::new(message, version, size)?, body);
    loop {
        let step = walk.step(rest)?;
        match step {
            Step::Done => return Ok(()),
            Step::More => return Err(Malformed::Truncated),
            Step::Value { field: Some(field), .. } if field.role == Role::ErrorCode => {
                note(Code(rest.first_chunk().map_or(0, |code| i16::from_be_bytes(*code))));
            }
            _ => {}
        }
        rest = rest.get(step.head() + step.body()..).ok_or(Malformed::Truncated)?;
    }
}

fn has_place(response: &Message, version: i16) -> bool {
    response.fields.iter().any(|field| field.role == Role::ErrorCode && field.versions.has(version))
}

/// Writes a response by its schema.
struct Writer<'r, 'o> {
    version: i16,
    is_flexible: bool,
    reason: &'r Reason<'r>,
    echo: Option<&'static Echo>,
    /// Whether the error belongs here.
    is_part: bool,
    out: &'o mut Vec<u8>,
}

impl Writer<'_, '_> {
    /// Writes a structure. `from` is what it answers: a structure of the request, or a value that stands for one.
    fn fields(&mut self, fields: &'static [Field], from: Option<&Node<'_>>) {
        for field in fields {
            if field.tag.is_none() && field.versions.has(self.version) {
                self.field(field, from);
            }
        }
        if self.is_flexible {
            self.out.push(0);
        }
    }

    fn field(&mut self, field: &'static Field, from: Option<&Node<'_>>) {
        if let Kind::Array(of) = &field.kind {
            return self.array(field, of, from);
        }
        match field.role {
            Role::ErrorCode => {
                let code = if self.is_part { self.reason.code.0 } else { 0 };
                return self.out.extend_from_slice(&code.to_be_bytes());
            }
            Role::ErrorMessage if field.nullable.has(self.version) => {
                let message = self.reason.message.filter(|_| self.is_part).map(str::as_bytes);
                return self.bytes(&field.kind, message);
            }
            Role::Throttle => return self.out.extend_from_slice(&self.reason.throttle_millis.to_be_bytes()),
            _ => {}
        }
        match from.and_then(|from| same(field, from)) {
            Some(value) if field.kind.size().is_some() => self.out.extend_from_slice(value),
            Some(value) => self.bytes(&field.kind, Some(value)),
            None => self.nothing(field),
        }
    }

    fn array(&mut self, field: &'static Field, of: &'static Kind, from: Option<&Node<'_>>) {
        let pairs = self.echo.into_iter().flat_map(|echo| [echo.array, echo.inner]);
        let name = pairs.into_iter().find(|(_, here)| *here == field.name).map(|(there, _)| there);
        let items = match from.and_then(|from| from.field(name?)) {
            Some((_, Node::Items(items))) => items.as_slice(),
            _ => {
                let is_null = field.default == Default::Null && field.nullable.has(self.version);
                return self.count(if is_null { None } else { Some(0) });
            }
        };
        self.count(Some(items.len()));
        let outside = std::mem::replace(&mut self.is_part, true);
        for item in items {
            self.fields(of.fields(), Some(item));
        }
        self.is_part = outside;
    }

    /// What a field is when there is nothing to tell.
    fn nothing(&mut self, field: &'static Field) {
        let is_null = field.nullable.has(self.version) && field.default == Default::Null;
        let number = match field.default {
            Default::Number(number) => number,
            _ if MISSING.contains(&field.name) || matches!(field.role, Role::Node | Role::Port) => -1,
            _ => 0,
        };
        match (&field.kind, field.kind.size()) {
            (_, Some(size)) => {
                let wide = i128::from(number).to_be_bytes();
                self.out.extend_from_slice(wide.get(wide.len() - size..).unwrap_or_default());
            }
            (Kind::Struct(_), _) if is_null => self.out.push(0xff),
            (Kind::Struct(fields), _) => {
                if field.nullable.has(self.version) {
                    self.out.push(1);
                }
                self.fields(fields, None);
            }
            (kind, _) => self.bytes(kind, if is_null { None } else { Some(&[]) }),
        }
    }

    fn bytes(&mut self, kind: &Kind, bytes: Option<&[u8]>) {
        match (kind, bytes) {
            (Kind::String, Some(text)) => put_string(text, self.is_flexible, self.out),
            (Kind::String, None) if !self.is_flexible => self.out.extend_from_slice(&[0xff, 0xff]),
            (_, bytes) => {
                self.count(bytes.map(<[u8]>::len));
                self.out.extend_from_slice(bytes.unwrap_or_default());
            }
        }
    }

    fn count(&mut self, count: Option<usize>) {
        if self.is_flexible {
            put_uvarint(count.map_or(0, |count| count as u32 + 1), self.out);
        } else {
            self.out.extend_from_slice(&count.map_or(-1, |count| count as i32).to_be_bytes());
        }
    }
}

/// What a request has for a field of its response.
fn same<'n>(field: &Field, from: &'n Node<'_>) -> Option<&'n [u8]> {
    let value = match from {
        // An array of names or numbers, where the response has structures that begin with one.
        Node::Value(value) => {
            return SAME
                .iter()
                .any(|names| names.contains(&field.name))
                .then_some(*value)
                .filter(|value| field.kind.size().is_none_or(|size| size == value.len()));
        }
        from => {
            let names = SAME.iter().filter(|names| names.contains(&field.name)).copied().flatten();
            names.copied().find_map(|name| from.field(name).filter(|(_, value)| !matches!(value, Node::Null)))
        }
    };
    match value {
        Some((other, Node::Value(value))) if is_alike(&other.kind, &field.kind) => Some(value),
        _ => None,
    }
}

fn is_alike(one: &Kind, other: &Kind) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

// === impl Echo ===

impl Echo {
    const fn only(mut self, first: i16, last: i16) -> Self {
        self.versions = Versions { first, last };
        self
    }
}

// === impl Code ===

#[allow(missing_docs, reason = "the names are Kafka's")]
impl Code {
    pub const UNKNOWN_SERVER_ERROR: Self = Self(-1);
    pub const NONE: Self = Self(0);
    pub const CORRUPT_MESSAGE: Self = Self(2);
    pub const UNKNOWN_TOPIC_OR_PARTITION: Self = Self(3);
    pub const LEADER_NOT_AVAILABLE: Self = Self(5);
    pub const NOT_LEADER_OR_FOLLOWER: Self = Self(6);
    pub const REQUEST_TIMED_OUT: Self = Self(7);
    pub const BROKER_NOT_AVAILABLE: Self = Self(8);
    pub const MESSAGE_TOO_LARGE: Self = Self(10);
    pub const NETWORK_EXCEPTION: Self = Self(13);
    pub const COORDINATOR_LOAD_IN_PROGRESS: Self = Self(14);
    pub const COORDINATOR_NOT_AVAILABLE: Self = Self(15);
    pub const NOT_COORDINATOR: Self = Self(16);
    pub const INVALID_TOPIC: Self = Self(17);
    pub const TOPIC_AUTHORIZATION_FAILED: Self = Self(29);
    pub const GROUP_AUTHORIZATION_FAILED: Self = Self(30);
    pub const CLUSTER_AUTHORIZATION_FAILED: Self = Self(31);
    pub const UNSUPPORTED_SASL_MECHANISM: Self = Self(33);
    pub const ILLEGAL_SASL_STATE: Self = Self(34);
    pub const UNSUPPORTED_VERSION: Self = Self(35);
    pub const INVALID_REQUEST: Self = Self(42);
    pub const POLICY_VIOLATION: Self = Self(44);
    pub const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Self = Self(53);
    pub const SASL_AUTHENTICATION_FAILED: Self = Self(58);
    pub const DELEGATION_TOKEN_AUTHORIZATION_FAILED: Self = Self(65);
    pub const INVALID_RECORD: Self = Self(87);
    pub const THROTTLING_QUOTA_EXCEEDED: Self = Self(89);
    pub const INVALID_REGULAR_EXPRESSION: Self = Self(128);
}

impl Code {
    /// How a client is told that it may not do what it asks for.
    #[must_use]
    pub fn denied(key: ApiKey) -> Self {
        match key.api().map(|api| api.class) {
            Some(Class::Produce | Class::Fetch) => Self::TOPIC_AUTHORIZATION_FAILED,
            Some(Class::Group) => Self::GROUP_AUTHORIZATION_FAILED,
            Some(Class::Transaction) => Self::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            _ => match key {
                ApiKey::METADATA | ApiKey::CREATE_TOPICS | ApiKey::DELETE_TOPICS => {
                    Self::TOPIC_AUTHORIZATION_FAILED
                }
                ApiKey::FIND_COORDINATOR => Self::GROUP_AUTHORIZATION_FAILED,
                _ => Self::CLUSTER_AUTHORIZATION_FAILED,
            },
        }
    }

    /// Whether a broker says by it that it is not the one to ask, or not yet, or that it cannot reach others: what a
    /// circuit breaker counts.
    #[must_use]
    pub fn is_of_broker(self) -> bool {
        [
            Self::LEADER_NOT_AVAILABLE,
            Self::NOT_LEADER_OR_FOLLOWER,
            Self::REQUEST_TIMED_OUT,
            Self::BROKER_NOT_AVAILABLE,
            Self::NETWORK_EXCEPTION,
            Self::COORDINATOR_LOAD_IN_PROGRESS,
            Self::COORDINATOR_NOT_AVAILABLE,
            Self::NOT_COORDINATOR,
        ]
        .contains(&self)
    }
}
