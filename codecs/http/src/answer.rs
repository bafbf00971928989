//! What a client reads when mecha answers in the backend's place.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use mecha_core::Refusal;

/// Tells people and programs that mecha has answered, and why; the value is a refusal's name.
pub const REFUSED: HeaderName = HeaderName::from_static("mecha-refused");

/// What kind of client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// gRPC: status 200, and gRPC's own code.
    Grpc,
    /// Anything else.
    Http,
}

/// The status of a refusal (RFC 9110, section 15).
pub fn status(why: Refusal) -> StatusCode {
    match why {
        Refusal::RateLimited | Refusal::TooManyLogins => StatusCode::TOO_MANY_REQUESTS,
        Refusal::LoginFailed | Refusal::LoginNeeded => StatusCode::UNAUTHORIZED,
        Refusal::Denied | Refusal::NoChannel | Refusal::NoCommand | Refusal::NoKey => StatusCode::FORBIDDEN,
        Refusal::CrossRoute | Refusal::CrossSlot | Refusal::Malformed | Refusal::NeedsTls => {
            StatusCode::BAD_REQUEST
        }
        Refusal::Filtered | Refusal::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Refusal::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::UpstreamConfused | Refusal::UpstreamDenied | Refusal::UpstreamGone => {
            StatusCode::BAD_GATEWAY
        }
        Refusal::CircuitOpen
        | Refusal::Migrating
        | Refusal::Moved
        | Refusal::NoRoute
        | Refusal::Overloaded
        | Refusal::TooManyClients
        | Refusal::TooManyPins
        | Refusal::UpstreamUnreachable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// gRPC's code of a refusal ("Status codes and their use in gRPC").
fn grpc_code(why: Refusal) -> HeaderValue {
    HeaderValue::from_static(match why {
        Refusal::Malformed => "3",
        Refusal::TimedOut => "4",
        Refusal::Denied | Refusal::NoChannel | Refusal::NoCommand | Refusal::NoKey => "7",
        Refusal::RateLimited | Refusal::TooLarge | Refusal::TooManyLogins => "8",
        Refusal::Filtered | Refusal::Unsupported => "12",
        Refusal::CrossRoute | Refusal::CrossSlot | Refusal::UpstreamConfused => "13",
        Refusal::LoginFailed | Refusal::LoginNeeded => "16",
        _ => "14",
    })
}

/// Whether the client is told to come again, and when.
fn retry_after(why: Refusal) -> Option<HeaderValue> {
    let is_passing = matches!(status(why), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    is_passing.then(|| HeaderValue::from_static("1"))
}

/// The whole answer. A gRPC client gets it as trailers without a body, which is how its servers refuse.
pub fn refusal(why: Refusal, reader: Reader) -> Response<Bytes> {
    let name = HeaderValue::from_static(why.name());
    if reader == Reader::Grpc {
        let mut answer = Response::new(Bytes::new());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", grpc_code(why));
        headers.insert("grpc-message", message(why));
        headers.insert(REFUSED, name);
        return answer;
    }
    let mut answer = Response::new(Bytes::from(format!("mecha: {}\n", why.reason())));
    *answer.status_mut() = status(why);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(REFUSED, name);
    if let Some(after) = retry_after(why) {
        headers.insert(RETRY_AFTER, after);
    }
    answer
}

/// Refusals are plain ASCII without a percent sign, which is what gRPC wants of a message.
fn message(why: Refusal) -> HeaderValue {
    HeaderValue::from_str(&format!("mecha: {}", why.reason())).unwrap_or(HeaderValue::from_static("mecha"))
}

/// How an answer to a client of gRPC ends that was broken off.
pub fn grpc_trailers(why: Refusal) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", grpc_code(why));
    trailers.insert("grpc-message", message(why));
    trailers.insert(REFUSED, HeaderValue::from_static(why.name()));
    trailers
}

/// The answer to a request that cannot be served as it is, whatever configuration says.
pub fn bad_request(reason: &str) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(format!("mecha: {reason}\n")));
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// As [`refusal`], as bytes of HTTP/1.1 for clients that are closed behind it.
pub(crate) fn raw(why: Refusal, out: &mut Vec<u8>) {
    let answer = refusal(why, Reader::Http);
    let reason = answer.status().canonical_reason().unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", answer.status().as_str()).as_bytes());
    for (name, value) in answer.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(
        format!("content-length: {}\r\nconnection: close\r\n\r\n", answer.body().len()).as_bytes(),
    );
    out.extend_from_slice(answer.body());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_an_error_of_http_and_of_grpc() {
        for why in Refusal::ALL {
            let http = refusal(why, Reader::Http);
            assert!(http.status().as_u16() >= 400, "{why:?}");
            assert_eq!(http.headers()[REFUSED], why.name());
            let grpc = refusal(why, Reader::Grpc);
            assert_eq!(grpc.status(), StatusCode::OK);
            assert_ne!(grpc.headers()["grpc-status"], "0", "{why:?}");
            assert!(grpc.body().is_empty());
        }
    }

    #[test]
    fn a_passing_trouble_says_when_to_come_again() {
        assert_eq!(refusal(Refusal::RateLimited, Reader::Http).headers()[RETRY_AFTER], "1");
        assert!(!refusal(Refusal::Denied, Reader::Http).headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn raw_answers_are_whole_messages() {
        let mut out = Vec::new();
        raw(Refusal::NeedsTls, &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
        assert!(head.contains(&format!("content-length: {}", body.len())));
    }
}
