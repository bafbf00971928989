//! Steps through the fields of a body that was checked, and says where each is.

use crate::schema::{Field, Kind};
use crate::wire::{Malformed, uvarint};

/// A place in a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) body: &'a [u8],
    pub(super) at: usize,
    pub(super) version: i16,
    pub(super) is_flexible: bool,
}

impl<'a> Cursor<'a> {
    /// Whether this version has the field here.
    pub(super) fn has(&self, field: &Field) -> bool {
        field.tag.is_none() && field.versions.has(self.version)
    }

    /// Passes a field, and returns its bytes without their length; none for null, and for what has parts of its own.
    pub(super) fn field(&mut self, field: &'static Field) -> Result<Option<&'a [u8]>, Malformed> {
        self.value(&field.kind, field.nullable.has(self.version))
    }

    /// As [`Cursor::field`].
    pub(super) fn value(
        &mut self,
        kind: &'static Kind,
        may_be_null: bool,
    ) -> Result<Option<&'a [u8]>, Malformed> {
        if let Some(size) = kind.size() {
            return self.take(size).map(Some);
        }
        match kind {
            Kind::Struct(fields) => {
                if !may_be_null || self.take(1)? != [0xff] {
                    self.fields(fields)?;
                }
                Ok(None)
            }
            Kind::Array(of) => {
                for _ in 0..self.count()?.unwrap_or_default() {
                    self.value(of, false)?;
                }
                Ok(None)
            }
            kind => match self.length(kind)? {
                Some(length) => self.take(length).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Passes a structure's fields, the tagged ones too.
    pub(super) fn fields(&mut self, fields: &'static [Field]) -> Result<(), Malformed> {
        for field in fields {
            if self.has(field) {
                self.field(field)?;
            }
        }
        self.tags()
    }

    /// Passes tagged fields, where the version has them.
    pub(super) fn tags(&mut self) -> Result<(), Malformed> {
        if self.is_flexible {
            for _ in 0..self.uvarint()? {
                self.uvarint()?;
                let size = self.uvarint()?;
                self.take(size as usize)?;
            }
        }
        Ok(())
    }

    /// Passes the count of an array; none for null.
    pub(super) fn count(&mut self) -> Result<Option<usize>, Malformed> {
        self.length(&Kind::Bytes)
    }

    fn length(&mut self, kind: &Kind) -> Result<Option<usize>, Malformed> {
        let length = match kind {
            _ if self.is_flexible => i64::from(self.uvarint()?) - 1,
            Kind::String => i64::from(i16::from_be_bytes(*self.chunk()?)),
            _ => i64::from(i32::from_be_bytes(*self.chunk()?)),
        };
        Ok(usize::try_from(length).ok())
    }

    fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        self.take(N)?.first_chunk().ok_or(Malformed::Truncated)
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(bytes).ok_or(Malformed::Length)?;
        let taken = self.body.get(self.at..end).ok_or(Malformed::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn uvarint(&mut self) -> Result<u32, Malformed> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let (value, size) = uvarint(rest)?.ok_or(Malformed::Truncated)?;
        self.at += size;
        Ok(value)
    }
}

/// Appends the count of an array.
pub(super) fn put_count(count: usize, is_flexible: bool, out: &mut Vec<u8>) {
    if is_flexible {
        crate::wire::put_uvarint(count as u32 + 1, out);
    } else {
        out.extend_from_slice(&(count as i32).to_be_bytes());
    }
}

/// A number of four bytes.
pub(super) fn int32(bytes: Option<&[u8]>) -> Result<i32, Malformed> {
    let bytes = bytes.and_then(<[u8]>::first_chunk).ok_or(Malformed::Truncated)?;
    Ok(i32::from_be_bytes(*bytes))
}

/// A name.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::Value)
}
