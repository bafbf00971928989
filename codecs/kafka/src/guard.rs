//! The guard before decoding: nothing is decoded that was not walked through.
//!
//! kafka-protocol reserves memory for as many values as a count announces, so that five bytes make the process abort.
//! [`check`] walks through a body by its schema first, and finds that all counts, lengths, varints and tagged fields
//! are what the bytes bear out. What is decoded then is as large as the bytes allow, times what a value takes in memory
//! (about forty bytes for each byte of the densest message): bound the size of a body before it is decoded.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message as _, Request, StrBytes, VersionRange,
};

use crate::schema::Message;
use crate::table::ApiKey;
use crate::walk::{Step, Walk};
use crate::wire::{Malformed, uvarint};

/// Whether a body (what follows the correlation id) is sound, to its last byte.
///
/// # Errors
/// See [`Malformed`].
pub fn check(message: &'static Message, version: i16, body: &[u8]) -> Result<(), Malformed> {
    let size = u32::try_from(body.len()).map_err(|_| Malformed::Length)?;
    let mut walk = Walk::new(message, version, size)?;
    let mut rest = body;
    loop {
        let step = walk.step(rest)?;
        match step {
            Step::Done => return Ok(()),
            Step::More => return Err(Malformed::Truncated),
            Step::Value { field, head, body, .. } if field.is_none_or(|field| field.kind.is_text()) => {
                let text = rest.get(head..head + body).ok_or(Malformed::Truncated)?;
                std::str::from_utf8(text).map_err(|_| Malformed::Value)?;
            }
            _ => {}
        }
        rest = rest.get(step.head() + step.body()..).ok_or(Malformed::Truncated)?;
    }
}

/// Decodes the body of a request (what follows the correlation id): the client's id, and the request.
///
/// # Errors
/// See [`Malformed`]; [`Malformed::Unknown`] also if the crate lacks this version.
pub fn request<R: Request>(version: i16, body: Bytes) -> Result<(Option<StrBytes>, R), Malformed> {
    let message = ApiKey(R::KEY).request().ok_or(Malformed::Unknown)?;
    is_decodable(R::VERSIONS, version)?;
    check(message, version, &body)?;
    let (client, size) = header(&body, message.is_flexible(version))?;
    let client = client.map(|id| StrBytes::from_string(id.into()));
    Ok((client, R::decode(&mut body.slice(size..), version).map_err(|_| Malformed::Value)?))
}

/// Decodes the body of a response (what follows the correlation id) to a request of this kind.
///
/// # Errors
/// As [`request`].
pub fn response<R: Request>(version: i16, mut body: Bytes) -> Result<R::Response, Malformed> {
    let message = ApiKey(R::KEY).response().ok_or(Malformed::Unknown)?;
    is_decodable(R::Response::VERSIONS, version)?;
    check(message, version, &body)?;
    if R::Response::header_version(version) > 0 {
        body.advance(tags(&body)?);
    }
    R::Response::decode(&mut body, version).map_err(|_| Malformed::Value)
}

/// Encodes the body of a request (what follows the correlation id).
///
/// # Errors
/// [`Malformed::Value`] if the version has no place for something in it.
pub fn encode_request<R: Request>(
    client: Option<&str>,
    request: &R,
    version: i16,
    out: &mut BytesMut,
) -> Result<(), Malformed> {
    is_decodable(R::VERSIONS, version)?;
    let length = client.map_or(Ok(-1), |id| i16::try_from(id.len())).map_err(|_| Malformed::Length)?;
    out.put_i16(length);
    out.put_slice(client.unwrap_or_default().as_bytes());
    if R::header_version(version) > 1 {
        out.put_u8(0);
    }
    request.encode(out, version).map_err(|_| Malformed::Value)
}

/// Encodes the body of a response (what follows the correlation id) to a request of this kind.
///
/// # Errors
/// As [`encode_request`].
pub fn encode_response<R: Request>(
    response: &R::Response,
    version: i16,
    out: &mut BytesMut,
) -> Result<(), Malformed> {
    is_decodable(R::Response::VERSIONS, version)?;
    if R::Response::header_version(version) > 0 {
        out.put_u8(0);
    }
    response.encode(out, version).map_err(|_| Malformed::Value)
}

/// What a body of a request begins with: the client's id, and how many bytes the rest of the header is.
///
/// # Errors
/// See [`Malformed`].
pub fn header(body: &[u8], is_flexible: bool) -> Result<(Option<&str>, usize), Malformed> {
    let (length, rest) = body.split_first_chunk().ok_or(Malformed::Truncated)?;
    let (client, size) = match usize::try_from(i16::from_be_bytes(*length)) {
        Ok(length) => (Some(rest.get(..length).ok_or(Malformed::Length)?), 2 + length),
        Err(_) => (None, 2),
    };
    let client = client.map(std::str::from_utf8).transpose().map_err(|_| Malformed::Value)?;
    if !is_flexible {
        return Ok((client, size));
    }
    Ok((client, size + tags(body.get(size..).unwrap_or_default())?))
}

/// How many bytes the tagged fields are that a body begins with.
pub(crate) fn tags(body: &[u8]) -> Result<usize, Malformed> {
    let number = |at: usize| {
        let rest = body.get(at..).unwrap_or_default();
        uvarint(rest)?.ok_or(Malformed::Truncated)
    };
    let (count, mut at) = number(0)?;
    for _ in 0..count {
        at += number(at)?.1;
        let (size, bytes) = number(at)?;
        at = at
            .checked_add(bytes + size as usize)
            .filter(|end| *end <= body.len())
            .ok_or(Malformed::Length)?;
    }
    Ok(at)
}

/// Whether the crate really has a version: what it says of an API as a whole is more than its codecs have.
fn is_decodable(versions: VersionRange, version: i16) -> Result<(), Malformed> {
    if (versions.min..=versions.max).contains(&version) { Ok(()) } else { Err(Malformed::Unknown) }
}
