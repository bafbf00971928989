//! Calls of gRPC that filters make, and messages as gRPC frames them ("gRPC over HTTP/2").

use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Method, Request, Response, Uri};
use prost::Message;

/// The trailers of an answer that was fetched; they stand among its extensions.
#[derive(Clone, Debug, Default)]
pub struct Trailers(pub HeaderMap);

/// Bytes before each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// A call of one method with one message.
pub(super) fn call(path: &'static str, message: &impl Message, within: Duration) -> Request<Bytes> {
    let mut request = Request::new(framed(message));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    // At most eight digits.
    let millis = within.as_millis().min(99_999_999);
    if let Ok(timeout) = HeaderValue::try_from(format!("{millis}m")) {
        headers.insert("grpc-timeout", timeout);
    }
    request
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.into()
}

/// The status of a call whose answer this is, if it says so.
pub(super) fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The one message of an answer that has succeeded.
pub(super) fn answered<M: Message + Default>(answer: &Response<Bytes>) -> Option<M> {
    let trailers = answer.extensions().get::<Trailers>();
    let status = trailers.and_then(|trailers| status(&trailers.0)).or_else(|| status(answer.headers()));
    if !answer.status().is_success() || status != Some(0) {
        return None;
    }
    let (prefix, message) = answer.body().split_first_chunk::<PREFIX>()?;
    let [0, length @ ..] = prefix else { return None };
    let length = u32::from_be_bytes(*length) as usize;
    M::decode(message.get(..length).filter(|whole| whole.len() == message.len())?).ok()
}

/// A text as `grpc-message` has it ("Responses": percent-encoding of what is not printable ASCII).
pub(super) fn message_field(text: &str) -> HeaderValue {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes().take(1024) {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(out).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Name {
        #[prost(string, tag = "1")]
        text: String,
    }

    #[test]
    fn an_answer_counts_if_it_is_whole_and_has_succeeded() {
        let name = Name { text: "a".into() };
        let request = call("/a.B/c", &name, Duration::from_secs(2));
        assert_eq!(
            (&request.headers()["grpc-timeout"], request.body().len()),
            (&HeaderValue::from_static("2000m"), 8)
        );
        let answer = |frame: &[u8], in_head: Option<&'static str>, in_trailers: Option<&'static str>| {
            let mut answer = Response::new(Bytes::copy_from_slice(frame));
            let fields = |status: &'static str| {
                HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    HeaderValue::from_static(status),
                )])
            };
            answer.headers_mut().extend(in_head.map(fields).unwrap_or_default());
            if let Some(status) = in_trailers {
                answer.extensions_mut().insert(Trailers(fields(status)));
            }
            answered::<Name>(&answer)
        };
        let frame = framed(&name);
        assert_eq!(answer(&frame, None, Some("0")), Some(name.clone()));
        assert_eq!(answer(&frame, Some("0"), None), Some(name));
        for (frame, head, trailers) in [
            (&frame[..], None, None),
            (&frame[..], Some("0"), Some("13")),
            (&frame[..7], None, Some("0")),
            (&[&frame[..], b"x"].concat()[..], None, Some("0")),
            (&[&[1], &frame[1..]].concat()[..], None, Some("0")),
            (&b"\0\0\0\0\x01\xff"[..], None, Some("0")),
            (&b""[..], None, Some("0")),
        ] {
            assert_eq!(answer(frame, head, trailers), None, "{frame:?}");
        }
        assert_eq!(message_field("50% \u{e4}\n"), "50%25 %C3%A4%0A");
    }
}
