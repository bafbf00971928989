//! Lets pages call gRPC: gRPC-Web to gRPC and back ("gRPC Web", the protocol's own document).
//!
//! Pages cannot read trailers, so those stand in the body as a last message of their own, and where they cannot send
//! bytes either, everything is base64.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{HeaderMap, request, response};
use mecha_config::{ConfigError, Options};
use mecha_core::Refusal;
use serde::Deserialize;

use super::{Fetch, Follow, HttpCx, HttpFactory, HttpFilter, HttpKind, Step, Transform};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "grpc_web",
    help: Help {
        summary: "Lets pages call gRPC.",
        options: &[],
        docs: "Requests of gRPC-Web, in bytes or as text, become gRPC for servers of a grpc:// cluster, and answers become gRPC-Web again. Others\n\
               pass as they are. Pages of other origins need `cors` before it, with `expose: [grpc-status, grpc-message]`.",
        example: "- grpc_web",
    },
    build: |options, _| build(options).map(|web| Box::new(web) as Box<dyn HttpFactory>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWeb {}

#[derive(Clone, Copy)]
struct GrpcWeb;

fn build(options: &Options) -> Result<GrpcWeb, Vec<ConfigError>> {
    options.decode::<RawWeb>().map(|RawWeb {}| GrpcWeb)
}

impl HttpFactory for GrpcWeb {
    fn open(&self, _fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        Box::new(*self)
    }
}

/// What stands behind `application/grpc-web` in a type, and whether it is the form in base64.
fn web_type(headers: &HeaderMap) -> Option<(bool, String)> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let rest = value.strip_prefix("application/grpc-web")?;
    let (is_text, rest) = rest.strip_prefix("-text").map_or((false, rest), |rest| (true, rest));
    matches!(rest.bytes().next(), None | Some(b'+' | b';')).then(|| (is_text, rest.to_string()))
}

impl HttpFilter for GrpcWeb {
    fn on_request(&self, head: &mut request::Parts, _cx: &HttpCx<'_>) -> Step {
        let Some((is_text, suffix)) = web_type(&head.headers) else { return Step::Pass };
        let Ok(plain) = HeaderValue::try_from(format!("application/grpc{suffix}")) else { return Step::Pass };
        head.headers.insert(CONTENT_TYPE, plain);
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        if is_text {
            head.headers.remove(CONTENT_LENGTH);
        }
        Step::Follow(Box::new(Page { is_text }))
    }
}

struct Page {
    is_text: bool,
}

impl Follow for Page {
    fn request_body(&mut self) -> Option<Box<dyn Transform>> {
        self.is_text.then(|| Box::new(FromText(Vec::new())) as Box<dyn Transform>)
    }

    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        let value = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let suffix = value.strip_prefix("application/grpc").filter(|rest| !rest.starts_with('-'))?;
        let web = if self.is_text { "application/grpc-web-text" } else { "application/grpc-web" };
        let web = HeaderValue::try_from(format!("{web}{suffix}")).ok()?;
        head.headers.insert(CONTENT_TYPE, web);
        head.headers.remove(CONTENT_LENGTH);
        // What is refused at once has its status here, where pages read it too.
        let has_status = head.headers.contains_key("grpc-status");
        Some(Box::new(ToWeb { is_text: self.is_text, has_status, rest: Vec::new() }))
    }
}

/// Base64 that comes in pieces, each message of which may be padded.
struct FromText(Vec<u8>);

impl Transform for FromText {
    fn data(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        self.0.extend_from_slice(&bytes);
        let whole = self.0.len() / 4 * 4;
        let mut out = Vec::with_capacity(whole / 4 * 3);
        for group in self.0.get(..whole).unwrap_or_default().chunks(4) {
            STANDARD.decode_vec(group, &mut out).map_err(|_| Refusal::Unsupported)?;
        }
        self.0.drain(..whole);
        Ok(out.into())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(Bytes, Option<HeaderMap>), Refusal> {
        if self.0.is_empty() { Ok((Bytes::new(), trailers)) } else { Err(Refusal::Unsupported) }
    }
}

struct ToWeb {
    is_text: bool,
    has_status: bool,
    /// Bytes that make no whole group of base64 yet.
    rest: Vec<u8>,
}

impl ToWeb {
    /// What can be sent of it now; all of it at the end.
    fn text(&mut self, bytes: &[u8], is_end: bool) -> Bytes {
        if !self.is_text {
            return Bytes::copy_from_slice(bytes);
        }
        self.rest.extend_from_slice(bytes);
        let whole = if is_end { self.rest.len() } else { self.rest.len() / 3 * 3 };
        let text = STANDARD.encode(self.rest.get(..whole).unwrap_or_default());
        self.rest.drain(..whole);
        text.into()
    }
}

/// The message that trailers are: a mark, a length, and fields as HTTP/1 writes them.
fn message(trailers: &HeaderMap) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in trailers {
        text.extend_from_slice(HeaderName::as_str(name).as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let mut message = vec![0x80];
    message.extend_from_slice(&(text.len() as u32).to_be_bytes());
    message.extend_from_slice(&text);
    message
}

impl Transform for ToWeb {
    fn data(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        if self.is_text { Ok(self.text(&bytes, false)) } else { Ok(bytes) }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(Bytes, Option<HeaderMap>), Refusal> {
        let last = match trailers {
            Some(trailers) => message(&trailers),
            None if self.has_status => Vec::new(),
            // The server has ended without a word.
            None => message(&HeaderMap::from_iter([(
                HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("14"),
            )])),
        };
        Ok((self.text(&last, true), None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, cx, head, open};
    use super::*;

    fn follow(kind: &str) -> (request::Parts, Box<dyn Follow>) {
        let filter = open(&KIND, KIND.help.example);
        let mut asked = head("POST", "/shop.Cart/Add", &[("content-type", kind), ("content-length", "12")]);
        match filter.on_request(&mut asked, &cx()) {
            Step::Follow(follow) => (asked, follow),
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn text_is_read_in_any_pieces_and_written_so_that_it_can_be() {
        let (asked, mut page) = follow("application/grpc-web-text+proto");
        assert_eq!(asked.headers[CONTENT_TYPE], "application/grpc+proto");
        assert!(!asked.headers.contains_key(CONTENT_LENGTH));
        // Two messages, each padded.
        let text = [STANDARD.encode(b"\0\0\0\0\x01a"), STANDARD.encode(b"\0\0\0\0\x02bc")].concat();
        for size in 1..text.len() {
            let (_, mut page) = follow("application/grpc-web-text");
            let mut body = page.request_body().unwrap();
            let mut read = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                read.extend_from_slice(&body.data(Bytes::copy_from_slice(piece)).unwrap());
            }
            assert!(body.end(None).is_ok());
            assert_eq!(read, b"\0\0\0\0\x01a\0\0\0\0\x02bc", "{size}");
        }
        let mut answered = answer(200, &[("content-type", "application/grpc+proto")]);
        let mut body = page.on_response(&mut answered).unwrap();
        assert_eq!(answered.headers[CONTENT_TYPE], "application/grpc-web-text+proto");
        let mut text = Vec::new();
        for piece in [&b"\0\0\0"[..], b"\0\x02ab"] {
            text.extend_from_slice(&body.data(Bytes::copy_from_slice(piece)).unwrap());
        }
        let trailers =
            HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        let (last, trailers) = body.end(Some(trailers)).unwrap();
        assert!(trailers.is_none());
        text.extend_from_slice(&last);
        assert_eq!(STANDARD.decode(text).unwrap(), b"\0\0\0\0\x02ab\x80\0\0\0\x10grpc-status: 0\r\n");
    }

    #[test]
    fn bytes_pass_and_a_status_in_the_head_stays_there() {
        let (asked, mut page) = follow("application/grpc-web");
        assert_eq!(asked.headers[CONTENT_TYPE], "application/grpc");
        assert!(asked.headers.contains_key(CONTENT_LENGTH) && page.request_body().is_none());
        let mut answered = answer(200, &[("content-type", "application/grpc"), ("grpc-status", "5")]);
        let mut body = page.on_response(&mut answered).unwrap();
        assert_eq!(answered.headers[CONTENT_TYPE], "application/grpc-web");
        assert!(body.end(None).unwrap().0.is_empty());
        let filter = open(&KIND, KIND.help.example);
        for kind in ["application/grpc", "application/json", "application/grpc-websocket"] {
            let mut asked = head("POST", "/", &[("content-type", kind)]);
            assert!(matches!(filter.on_request(&mut asked, &cx()), Step::Pass), "{kind}");
        }
    }
}
