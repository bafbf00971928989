//! Answers before the answer (RFC 9110, section 15.2), such as hints of what a page will need (103, RFC 8297).
//!
//! The engine hands those of HTTP/1.1 servers to a callback, and has no way to send them. So they are written to the client's
//! stream beside it, between two of its messages; where the stream is busy they are left out, as nobody depends on them.

use std::fmt::Write;

use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, StatusCode};
use mecha_http::fields::{self, Direction};
use tokio::sync::mpsc::{Receiver, channel};

/// Such answers that wait to be passed on.
const MAX_WAITING: usize = 8;

/// Asks for those that come before the answer to the request with this head.
pub(super) fn wanted(head: &mut Parts) -> Receiver<Vec<u8>> {
    let (tell, wait) = channel(MAX_WAITING);
    let mut request = Request::new(());
    hyper::ext::on_informational(&mut request, move |answer| {
        // 100 is said by whoever reads the body, and 101 is an answer of its own.
        let is_wanted = !matches!(answer.status(), StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS);
        if is_wanted {
            // Who says more than anybody takes is not waited for.
            let _ = tell.try_send(written(answer.status(), answer.headers().clone()));
        }
    });
    head.extensions.extend(request.into_parts().0.extensions);
    wait
}

/// A head, as HTTP/1.1 writes it.
fn written(status: StatusCode, mut headers: HeaderMap) -> Vec<u8> {
    fields::end_hop(&mut headers, Direction::Response);
    let mut line = String::new();
    let _ = write!(line, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or(""));
    let mut out = line.into_bytes();
    for (name, value) in &headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}
