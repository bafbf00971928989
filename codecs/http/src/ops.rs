//! Requests as policies see them: one operation for each method, and one for gRPC, whose methods are all `POST`.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};
use mecha_core::{Asked, Call, OpClass, OpId, OpInfo, Outcome, Protocol, Refusal, Ticket};

/// HTTP, of any version.
#[derive(Clone, Copy, Debug)]
pub struct Http;

const fn row(name: &'static str, class: OpClass, idempotent: bool) -> OpInfo {
    OpInfo { name, class, idempotent }
}

/// RFC 9110, section 9, and RFC 5789; idempotence by section 9.2.2.
static OPS: [OpInfo; 11] = [
    row("other", OpClass::Write, false),
    row("connect", OpClass::Session, false),
    row("delete", OpClass::Write, true),
    row("get", OpClass::Read, true),
    row("grpc", OpClass::Write, false),
    row("head", OpClass::Read, true),
    row("options", OpClass::Read, true),
    row("patch", OpClass::Write, false),
    row("post", OpClass::Write, false),
    row("put", OpClass::Write, true),
    row("trace", OpClass::Read, true),
];

/// The row of gRPC calls.
pub const GRPC: OpId = OpId(4);

/// The row of a request.
pub fn op(method: &Method, headers: &HeaderMap) -> OpId {
    OpId(match *method {
        Method::GET => 3,
        Method::POST if is_grpc(headers) => return GRPC,
        Method::POST => 8,
        Method::HEAD => 5,
        Method::PUT => 9,
        Method::DELETE => 2,
        Method::OPTIONS => 6,
        Method::PATCH => 7,
        Method::CONNECT => 1,
        Method::TRACE => 10,
        _ => 0,
    })
}

/// Whether the body is gRPC's: `application/grpc`, with or without a suffix (gRPC over HTTP/2, "Requests").
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let Some(rest) = value.as_bytes().strip_prefix(b"application/grpc") else { return false };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// What a row of the table says.
pub fn info(op: OpId) -> &'static OpInfo {
    let [other, ..] = &OPS;
    OPS.get(usize::from(op.0)).unwrap_or(other)
}

impl Protocol for Http {
    const NAME: &'static str = "http";

    type Request = OpId;
    type Reply = StatusCode;

    fn ops() -> &'static [OpInfo] {
        &OPS
    }

    fn call(request: &OpId, ticket: Ticket) -> Call {
        Call { ticket, op: *request, class: info(*request).class, ..Call::default() }
    }

    fn outcome(reply: &StatusCode) -> Outcome {
        match reply.as_u16() {
            500.. => Outcome::ServerError,
            400..500 => Outcome::ClientError,
            _ => Outcome::Ok,
        }
    }

    fn refuse(_: Asked, why: Refusal, out: &mut Vec<u8>) {
        crate::answer::raw(why, out);
    }
}

/// What gRPC's status says to policies; the code of an answer that has one in place of the HTTP status, which is 200
/// whatever happened.
pub fn grpc_outcome(headers: &HeaderMap) -> Option<Outcome> {
    let code: u8 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    Some(match code {
        0 => Outcome::Ok,
        // UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE and DATA_LOSS are the server's.
        2 | 4 | 8 | 13 | 14 | 15 => Outcome::ServerError,
        _ => Outcome::ClientError,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn each_method_has_a_row_of_its_name() {
        let none = HeaderMap::new();
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"] {
            let found = op(&Method::from_bytes(method.as_bytes()).unwrap(), &none);
            assert_eq!(info(found).name, method.to_lowercase());
        }
        assert_eq!(op(&Method::from_bytes(b"BREW").unwrap(), &none), OpId::UNKNOWN);
    }

    #[test]
    fn only_a_post_with_the_type_of_grpc_is_a_grpc_call() {
        let with =
            |value: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
        for grpc in ["application/grpc", "application/grpc+proto", "application/grpc; charset=x"] {
            assert_eq!(op(&Method::POST, &with(grpc)), GRPC);
        }
        for other in ["application/grpc-web", "application/grpcx", "text/plain"] {
            assert_ne!(op(&Method::POST, &with(other)), GRPC);
        }
        assert_ne!(op(&Method::GET, &with("application/grpc")), GRPC);
    }
}
