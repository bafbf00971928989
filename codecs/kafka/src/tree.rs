//! A message as a tree of its fields, where somebody has to go back and forth in it.
//!
//! It is as large as the message has fields; long values stay where they are. What is on the way of bytes that pass uses
//! [`crate::walk`] instead.

use crate::guard;
use crate::schema::{Field, Kind, Message};
use crate::wire::{Malformed, uvarint};

/// A value.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    /// The fields of a structure that stand in it, without the tagged ones.
    Fields(Vec<Node<'a>>, &'static [Field]),
    /// The values of an array.
    Items(Vec<Node<'a>>),
    /// None, or a field that the version lacks.
    Null,
    /// The bytes of anything else, without their length.
    Value(&'a [u8]),
}

/// Reads the message in a body of a request, which is checked first.
pub(crate) fn read<'a>(
    message: &'static Message,
    version: i16,
    body: &'a [u8],
) -> Result<Node<'a>, Malformed> {
    guard::check(message, version, body)?;
    let is_flexible = message.is_flexible(version);
    let (_, at) = guard::header(body, is_flexible)?;
    let mut reader = Reader { rest: body.get(at..).unwrap_or_default(), version, is_flexible };
    reader.fields(message.fields).ok_or(Malformed::Truncated)
}

impl<'a> Node<'a> {
    /// A field of a structure, by its name.
    pub(crate) fn field(&self, name: &str) -> Option<(&'static Field, &Self)> {
        let Self::Fields(values, fields) = self else { return None };
        fields.iter().zip(values).find(|(field, _)| field.name == name)
    }
}

/// Everything was checked: what is missing here is a mistake of ours.
struct Reader<'a> {
    rest: &'a [u8],
    version: i16,
    is_flexible: bool,
}

impl<'a> Reader<'a> {
    fn fields(&mut self, fields: &'static [Field]) -> Option<Node<'a>> {
        let mut values = Vec::with_capacity(fields.len());
        for field in fields {
            let is_here = field.versions.has(self.version) && field.tag.is_none();
            values.push(if is_here {
                self.value(&field.kind, field.nullable.has(self.version))?
            } else {
                Node::Null
            });
        }
        if self.is_flexible {
            for _ in 0..self.uvarint()? {
                self.uvarint()?;
                let size = self.uvarint()?;
                self.take(size as usize)?;
            }
        }
        Some(Node::Fields(values, fields))
    }

    fn value(&mut self, kind: &'static Kind, may_be_null: bool) -> Option<Node<'a>> {
        if let Some(size) = kind.size() {
            return self.take(size).map(Node::Value);
        }
        if let Kind::Struct(fields) = kind {
            if may_be_null && self.take(1)? == [0xff] {
                return Some(Node::Null);
            }
            return self.fields(fields);
        }
        let length = match kind {
            _ if self.is_flexible => i64::from(self.uvarint()?) - 1,
            Kind::String => i64::from(i16::from_be_bytes(*self.take(2)?.first_chunk()?)),
            _ => i64::from(i32::from_be_bytes(*self.take(4)?.first_chunk()?)),
        };
        let Ok(length) = usize::try_from(length) else { return Some(Node::Null) };
        match kind {
            Kind::Array(of) => {
                (0..length).map(|_| self.value(of, false)).collect::<Option<_>>().map(Node::Items)
            }
            _ => self.take(length).map(Node::Value),
        }
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn uvarint(&mut self) -> Option<u32> {
        let (value, size) = uvarint(self.rest).ok()??;
        self.take(size)?;
        Some(value)
    }
}
