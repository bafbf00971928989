//! Answers of gRPC as JSON.

use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use mecha_core::Refusal;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};

use super::super::Transform;
use super::super::grpc::PREFIX;
use super::template::decoded;

/// How messages are written.
#[derive(Clone, Debug)]
pub(super) struct Style {
    pub(super) has_defaults: bool,
    pub(super) has_own_names: bool,
    /// Streams are lines, and not an array.
    pub(super) has_lines: bool,
    /// Bytes of one message.
    pub(super) max_message: usize,
}

/// What an answer is.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) output: MessageDescriptor,
    pub(super) field: Option<FieldDescriptor>,
    pub(super) style: Rc<Style>,
}

/// What is answered in place of JSON, where the method says so (`google.api.HttpBody`).
const RAW: &str = "google.api.HttpBody";

impl Answer {
    /// The type and the body of one message.
    pub(super) fn whole(&self, message: &[u8]) -> Option<(String, Bytes)> {
        if self.output.full_name() == RAW {
            let message = DynamicMessage::decode(self.output.clone(), message).ok()?;
            let kind = message.get_field_by_name("content_type")?.as_str().unwrap_or_default().to_string();
            return Some((kind, message.get_field_by_name("data")?.as_bytes()?.clone()));
        }
        Some(("application/json".into(), self.json(message)?.into()))
    }

    /// One message as JSON.
    pub(super) fn json(&self, message: &[u8]) -> Option<Vec<u8>> {
        let message = DynamicMessage::decode(self.output.clone(), message).ok()?;
        let options = SerializeOptions::new()
            .skip_default_fields(!self.style.has_defaults)
            .use_proto_field_name(self.style.has_own_names);
        let Some(field) = &self.field else {
            let mut out = Vec::new();
            message.serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options).ok()?;
            return Some(out);
        };
        // The others are left out, so that it is there even if it is empty.
        let options = options.skip_default_fields(false);
        let mut all = message.serialize_with_options(serde_json::value::Serializer, &options).ok()?;
        let name = if self.style.has_own_names { field.name() } else { field.json_name() };
        serde_json::to_vec(&all.as_object_mut()?.remove(name).unwrap_or(Value::Null)).ok()
    }
}

/// The one message of an answer, without its frame.
pub(super) fn only(frames: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = frames.split_first_chunk::<PREFIX>()?;
    let [0, length @ ..] = prefix else { return None };
    message.get(..u32::from_be_bytes(*length) as usize).filter(|whole| whole.len() == message.len())
}

/// How a call has ended: its code, and an object that says so.
pub(super) fn failure(fields: &HeaderMap, pool: &DescriptorPool) -> Option<(u32, Value)> {
    let code = super::super::grpc::status(fields)?;
    if code == 0 {
        return None;
    }
    let text = fields.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let message = decoded(text, false).unwrap_or_else(|| text.into());
    let details = fields.get("grpc-status-details-bin").and_then(|value| details(value.as_bytes(), pool));
    Some((code, json!({ "code": code, "message": message, "details": details.unwrap_or_else(|| json!([])) })))
}

/// The details of `google.rpc.Status`, where the set of descriptors knows what they are.
fn details(value: &[u8], pool: &DescriptorPool) -> Option<Value> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let value: Vec<_> = value.iter().copied().filter(|byte| *byte != b'=').collect();
    let bytes = STANDARD_NO_PAD.decode(value).ok()?;
    let status = pool.get_message_by_name("google.rpc.Status")?;
    let status = DynamicMessage::decode(status, bytes.as_slice()).ok()?;
    serde_json::to_value(&status).ok()?.get("details").cloned()
}

/// The status that stands for a code (`google.rpc.Code`).
pub(super) fn http_status(code: u32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// A stream of messages as an array, or as lines. An error that comes later is its last element.
pub(super) struct Stream {
    pub(super) answer: Answer,
    pub(super) pool: DescriptorPool,
    pub(super) rest: BytesMut,
    pub(super) count: usize,
}

impl Stream {
    fn element(&mut self, json: &[u8], out: &mut Vec<u8>) {
        if !self.answer.style.has_lines {
            out.push(if self.count == 0 { b'[' } else { b',' });
        }
        out.extend_from_slice(json);
        if self.answer.style.has_lines {
            out.push(b'\n');
        }
        self.count += 1;
    }
}

impl Transform for Stream {
    fn data(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        self.rest.extend_from_slice(&bytes);
        let mut out = Vec::new();
        while let Some((prefix, after)) = self.rest.split_first_chunk::<PREFIX>() {
            let [0, length @ ..] = prefix else { return Err(Refusal::UpstreamConfused) };
            let length = u32::from_be_bytes(*length) as usize;
            if length > self.answer.style.max_message {
                return Err(Refusal::TooLarge);
            }
            let Some(message) = after.get(..length) else { break };
            let json = self.answer.json(message).ok_or(Refusal::UpstreamConfused)?;
            self.element(&json, &mut out);
            self.rest.advance(PREFIX + length);
        }
        Ok(out.into())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(Bytes, Option<HeaderMap>), Refusal> {
        let mut out = Vec::new();
        let fields = trailers.unwrap_or_default();
        if super::super::grpc::status(&fields).is_none() || !self.rest.is_empty() {
            // What the server has begun it has not ended.
            return Err(Refusal::UpstreamGone);
        }
        if let Some((_, error)) = failure(&fields, &self.pool) {
            self.element(json!({ "error": error }).to_string().as_bytes(), &mut out);
        }
        if !self.answer.style.has_lines {
            out.extend_from_slice(if self.count == 0 { b"[]" } else { b"]" });
        }
        Ok((out.into(), None))
    }
}
