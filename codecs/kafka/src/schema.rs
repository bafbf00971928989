//! What Kafka's messages look like, as data.
//!
//! Kafka describes each message in a file of its own: fields, their types, and the versions that have them.
//! `cargo xtask kafka-schemas` turns those files into the tables of [`MESSAGES`], and everything here that looks into a body
//! ([`crate::walk`]) reads the tables instead of having code for each message. So a message is looked into in the same
//! way whether somebody wants to know if it is sound, or to change addresses or names in it; and a new version of Kafka
//! is a new table.
//!
//! A message of version `v` is its fields that exist in `v`, in order. From its *flexible* version on, strings and
//! arrays have lengths as varints, and each structure ends with *tagged fields*: a count, then tag, size and content of
//! each, in the order of tags. Who does not know a tag skips it.

mod messages;

pub use messages::{MESSAGES, RELEASE};

/// A request or a response.
#[derive(Debug)]
pub struct Message {
    /// Which API.
    pub key: i16,
    /// Whether it is what brokers send.
    pub is_response: bool,
    /// As Kafka names it.
    pub name: &'static str,
    /// Versions that are described here.
    pub versions: Versions,
    /// From this version on it is flexible; `i16::MAX` if never.
    pub flexible: i16,
    /// Who serves it; empty in responses.
    pub listeners: &'static [Listener],
    /// In the order of the wire; the tagged ones in any.
    pub fields: &'static [Field],
}

/// Who serves an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Brokers, to clients.
    Broker,
    /// Controllers, to brokers.
    Controller,
}

/// From the first to the last, both included. Nothing is in `first > last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first one.
    pub first: i16,
    /// The last one; `i16::MAX` where nothing ends it.
    pub last: i16,
}

/// One field of a structure.
#[derive(Debug)]
pub struct Field {
    /// As Kafka names it.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// Versions that have it.
    pub versions: Versions,
    /// Versions in which it may be null.
    pub nullable: Versions,
    /// Where it stands among tagged fields, if that is where it stands.
    pub tag: Option<u8>,
    /// What it is for, where that matters here.
    pub role: Role,
    /// What it is where nobody says otherwise.
    pub default: Default,
}

/// How a value is written.
#[derive(Debug)]
pub enum Kind {
    /// A count, and that many values.
    Array(&'static Kind),
    /// One byte.
    Bool,
    /// A length (four bytes, or a varint) and bytes.
    Bytes,
    /// Eight bytes.
    Float64,
    /// Two bytes.
    Int16,
    /// Four bytes.
    Int32,
    /// Eight bytes.
    Int64,
    /// One byte.
    Int8,
    /// As bytes: record batches.
    Records,
    /// A length (two bytes, or a varint) and UTF-8.
    String,
    /// The fields, one after the other.
    Struct(&'static [Field]),
    /// Two bytes.
    Uint16,
    /// Sixteen bytes.
    Uuid,
}

/// What a field is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Nothing that matters here.
    None,
    /// Acknowledgements that a producer waits for.
    Acks,
    /// Whether a request failed, or a part of it.
    ErrorCode,
    /// What is said about that.
    ErrorMessage,
    /// Name of a consumer group, of whatever kind.
    Group,
    /// Where a broker listens; its port follows.
    Host,
    /// Which broker the host and port that follow belong to.
    Node,
    /// Port where a broker listens.
    Port,
    /// Record batches.
    Records,
    /// How long a client should wait, in milliseconds.
    Throttle,
    /// Name of a topic.
    Topic,
    /// A regular expression over names of topics.
    TopicPattern,
    /// Name of a transactional producer.
    TransactionalId,
}

/// Value of a field where nobody gives it another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This number, or true for 1.
    Number(i64),
    /// No value.
    Null,
    /// Zero, false or empty.
    Zero,
}

// === impl Message ===

impl Message {
    /// Whether a version has varints for lengths, and tagged fields.
    #[must_use]
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }
}

// === impl Versions ===

impl Versions {
    /// No version.
    pub const NONE: Self = Self { first: 1, last: 0 };

    /// Whether a version is among them.
    #[must_use]
    pub const fn has(self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }

    /// What both have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    /// Whether there is no version in them.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.first > self.last
    }
}

// === impl Field ===

impl Field {
    const fn new(name: &'static str, kind: Kind, first: i16) -> Self {
        let versions = Versions { first, last: i16::MAX };
        Self {
            name,
            kind,
            versions,
            nullable: Versions::NONE,
            tag: None,
            role: Role::None,
            default: Default::Zero,
        }
    }

    const fn until(mut self, last: i16) -> Self {
        self.versions.last = last;
        self
    }

    const fn nullable(mut self, first: i16, last: i16) -> Self {
        self.nullable = Versions { first, last };
        self
    }

    const fn tagged(mut self, tag: u8) -> Self {
        self.tag = Some(tag);
        self
    }

    const fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    const fn default(mut self, default: Default) -> Self {
        self.default = default;
        self
    }
}

// === impl Kind ===

impl Kind {
    /// Bytes that every value of this kind takes, if that is always the same.
    #[must_use]
    pub const fn size(&self) -> Option<usize> {
        match self {
            Self::Bool | Self::Int8 => Some(1),
            Self::Int16 | Self::Uint16 => Some(2),
            Self::Int32 => Some(4),
            Self::Float64 | Self::Int64 => Some(8),
            Self::Uuid => Some(16),
            Self::Array(_) | Self::Bytes | Self::Records | Self::String | Self::Struct(_) => None,
        }
    }

    /// Whether values of it are UTF-8.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        matches!(self, Self::String) || matches!(self, Self::Array(Self::String))
    }

    /// The fields of a structure, or of the structures in an array.
    #[must_use]
    pub fn fields(&self) -> &'static [Field] {
        match self {
            Self::Array(of) => of.fields(),
            Self::Struct(fields) => fields,
            _ => &[],
        }
    }
}
