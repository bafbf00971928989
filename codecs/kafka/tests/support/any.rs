//! Makes bodies by the schemas: what a test does with every message in every version.

use fastrand::Rng;
use mecha_kafka::schema::{Default, Field, Kind, Message};
use mecha_kafka::table::ApiKey;
use mecha_kafka::wire::put_uvarint;

/// How bodies are made.
pub(crate) struct Any<'t> {
    pub(crate) random: Rng,
    /// What strings are made of.
    pub(crate) text: &'t str,
    /// Whether everything that may be absent is there.
    pub(crate) is_full: bool,
}

impl Any<'_> {
    /// A body: what follows the correlation id.
    pub(crate) fn body(&mut self, message: &'static Message, version: i16) -> Vec<u8> {
        let mut out = Vec::new();
        let is_flexible = message.is_flexible(version);
        if !message.is_response {
            out.extend_from_slice(b"\x00\x06client");
        }
        if is_flexible && !(message.is_response && message.key == ApiKey::API_VERSIONS.0) {
            out.push(0);
        }
        self.fields(message.fields, version, is_flexible, &mut out);
        out
    }

    fn fields(&mut self, fields: &'static [Field], version: i16, is_flexible: bool, out: &mut Vec<u8>) {
        let has = |field: &&Field| field.versions.has(version);
        for field in fields.iter().filter(has).filter(|field| field.tag.is_none()) {
            self.value(field, &field.kind, version, is_flexible, out);
        }
        if is_flexible {
            let mut tagged: Vec<_> = fields.iter().filter(has).filter(|field| field.tag.is_some()).collect();
            tagged.sort_by_key(|field| field.tag);
            tagged.retain(|_| self.is_full || self.random.bool());
            put_uvarint(tagged.len() as u32, out);
            for field in tagged {
                let mut content = Vec::new();
                self.value(field, &field.kind, version, true, &mut content);
                put_uvarint(field.tag.unwrap().into(), out);
                put_uvarint(content.len() as u32, out);
                out.extend_from_slice(&content);
            }
        }
    }

    fn value(
        &mut self,
        field: &'static Field,
        kind: &'static Kind,
        version: i16,
        is_flexible: bool,
        out: &mut Vec<u8>,
    ) {
        let is_own = std::ptr::eq(kind, &raw const field.kind);
        let may_be_null = is_own && field.nullable.has(version);
        let is_null = may_be_null && !self.is_full && self.random.u8(..4) == 0;
        let length = |length: Option<usize>, wide: bool, out: &mut Vec<u8>| match length {
            length if is_flexible => put_uvarint(length.map_or(0, |length| length as u32 + 1), out),
            length if wide => out.extend_from_slice(&length.map_or(-1, |length| length as i32).to_be_bytes()),
            length => out.extend_from_slice(&length.map_or(-1, |length| length as i16).to_be_bytes()),
        };
        match kind {
            Kind::Array(_) if is_null => length(None, true, out),
            Kind::Array(of) => {
                let count = if self.is_full { 2 } else { self.random.usize(..3) };
                length(Some(count), true, out);
                for _ in 0..count {
                    self.value(field, of, version, is_flexible, out);
                }
            }
            Kind::Bytes | Kind::Records | Kind::String if is_null => {
                length(None, !matches!(kind, Kind::String), out);
            }
            Kind::Bytes | Kind::Records => {
                let bytes: Vec<u8> = (0..self.random.usize(1..40)).map(|_| self.random.u8(..)).collect();
                length(Some(bytes.len()), true, out);
                out.extend_from_slice(&bytes);
            }
            Kind::String => {
                length(Some(self.text.len()), false, out);
                out.extend_from_slice(self.text.as_bytes());
            }
            Kind::Struct(_) if is_null => out.push(0xff),
            Kind::Struct(fields) => {
                if may_be_null {
                    out.push(1);
                }
                self.fields(fields, version, is_flexible, out);
            }
            // Not what they would be anyway, so that a codec has a reason to write them.
            Kind::Bool => out.push(u8::from(field.default != Default::Number(1))),
            _ => {
                let size = kind.size().unwrap();
                out.resize(out.len() + size - 1, 0);
                out.push(self.random.u8(2..100));
            }
        }
    }
}
