//! Lets programs that speak JSON call gRPC, as the option `google.api.http` of its methods says (AIP-127, and the comments of
//! `google/api/http.proto`).
//!
//! A set of descriptors, which `protoc` makes, says which requests call which methods. Path, query and body become the message
//! (`build`); of the answer a message becomes JSON, a stream an array or lines, and an error a status with an object (`render`). What no
//! rule knows passes as it is.
//!
//! The whole body of a request is taken before its message is made, and so is the whole answer of a call with one message: only
//! its end says what its status is. Streams of servers stay streams.

mod build;
mod render;
mod rules;
mod template;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TE, TRAILER,
};
use http::{HeaderMap, Method, Response, StatusCode, request, response};
use mecha_config::units::ByteSize;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use serde::Deserialize;
use serde_json::{Value, json};

use self::build::Said;
use self::render::{Answer, Stream, Style, failure, http_status, only};
use self::rules::{Call, Rules};
use super::grpc::PREFIX;
use super::{Fetch, Follow, HttpCx, HttpFactory, HttpFilter, HttpKind, Step, Transform};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "grpc_json",
    help: Help {
        summary: "Lets programs that speak JSON call gRPC.",
        options: &[
            FilterOption {
                name: "descriptors",
                takes: Takes::Text,
                without: Without::Nothing,
                about: "file that `protoc --include_imports --descriptor_set_out=FILE` has made",
            },
            FilterOption {
                name: "services",
                takes: Takes::Texts,
                without: Without::Means("all of the file"),
                about: "services that can be called, as in shop.v1.Shop",
            },
            FilterOption {
                name: "auto",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "methods without the option google.api.http are called by POST /package.Service/Method",
            },
            FilterOption {
                name: "streams",
                takes: Takes::Word(&["array", "lines"]),
                without: Without::Default("array"),
                about: "whether a stream of the server is a JSON array, or a line for each message",
            },
            FilterOption {
                name: "defaults",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "answers have fields without a value too",
            },
            FilterOption {
                name: "proto_names",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "answers have names of fields as their definition spells them",
            },
            FilterOption {
                name: "ignore_unknown",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "requests may have fields that nobody knows",
            },
            FilterOption {
                name: "max_message",
                takes: Takes::Size,
                without: Without::Default("4MiB"),
                about: "bytes of a request's body, and of one message of an answer",
            },
        ],
        docs: "The option google.api.http of methods says which requests call them. Errors are a status with { code, message, details }. Servers\n\
               are those of a grpc:// cluster; requests of gRPC, and those that no method knows, pass as they are.",
        example: "- grpc_json: { descriptors: shop.pb, streams: lines }",
    },
    build: |options, _| build(options).map(|json| Box::new(json) as Box<dyn HttpFactory>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJson {
    descriptors: String,
    #[serde(default)]
    services: Vec<String>,
    #[serde(default)]
    auto: bool,
    #[serde(default)]
    streams: Streams,
    #[serde(default)]
    defaults: bool,
    #[serde(default)]
    proto_names: bool,
    #[serde(default)]
    ignore_unknown: bool,
    max_message: Option<ByteSize>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Streams {
    #[default]
    Array,
    Lines,
}

#[derive(Clone)]
struct GrpcJson {
    rules: Arc<Rules>,
    style: Style,
    ignores_unknown: bool,
}

fn build(options: &Options) -> Result<GrpcJson, Vec<ConfigError>> {
    let mut rules = None;
    let raw: RawJson = options.check(|raw: &RawJson, errors| {
        let hint = "`protoc --include_imports --descriptor_set_out=shop.pb shop.proto` makes such a file";
        let read = std::fs::read(&raw.descriptors).map_err(|error| format!("`{}`: {error}", raw.descriptors));
        match read.and_then(|set| Rules::new(&set, &raw.services, raw.auto)) {
            Ok(made) => rules = Some(made),
            Err(why) => errors.push(options.error("descriptors", why).hint(hint)),
        }
    })?;
    let max_message = raw.max_message.map_or(4 << 20, u64::from);
    let Some(rules) = rules else { return Err(Vec::new()) };
    Ok(GrpcJson {
        rules: Arc::new(rules),
        style: Style {
            has_defaults: raw.defaults,
            has_own_names: raw.proto_names,
            has_lines: raw.streams == Streams::Lines,
            max_message: usize::try_from(max_message).unwrap_or(usize::MAX),
        },
        ignores_unknown: raw.ignore_unknown,
    })
}

impl HttpFactory for GrpcJson {
    fn open(&self, _fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        let style = Rc::new(self.style.clone());
        Box::new(Transcoder { rules: Arc::clone(&self.rules), style, ignores_unknown: self.ignores_unknown })
    }
}

struct Transcoder {
    rules: Arc<Rules>,
    style: Rc<Style>,
    ignores_unknown: bool,
}

/// An error as a whole answer.
fn error(code: u32, message: &str) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(object(code, message).to_string()));
    *answer.status_mut() = status(code);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn object(code: u32, message: &str) -> Value {
    json!({ "code": code, "message": message, "details": [] })
}

fn status(code: u32) -> StatusCode {
    StatusCode::from_u16(http_status(code)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

const INVALID_ARGUMENT: u32 = 3;
const INTERNAL: u32 = 13;

impl HttpFilter for Transcoder {
    fn on_request(&self, head: &mut request::Parts, _cx: &HttpCx<'_>) -> Step {
        let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if kind.starts_with(b"application/grpc") {
            return Step::Pass;
        }
        let Some((rule, bound)) = self.rules.find(&head.method, head.uri.path()) else { return Step::Pass };
        let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if !head.headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
            let mut answer = error(INVALID_ARGUMENT, "the body is compressed");
            *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Step::Answer(answer);
        }
        let query = head.uri.query();
        let said = match Said::new(&rule.call.input, &rule.body, bound, query, self.ignores_unknown) {
            Ok(said) => said,
            Err(why) => return Step::Answer(error(INVALID_ARGUMENT, &why)),
        };
        let answer = Answer {
            output: rule.call.output.clone(),
            field: rule.answer.clone(),
            style: Rc::clone(&self.style),
        };
        head.method = Method::POST;
        head.uri = rule.call.path.clone();
        for name in [ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH] {
            head.headers.remove(name);
        }
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        let (call, rules) = (Arc::clone(&rule.call), Arc::clone(&self.rules));
        Step::Follow(Box::new(Exchange { said: Some(said), call, answer, rules, wrong: Rc::default() }))
    }
}

/// One call.
struct Exchange {
    said: Option<Said>,
    call: Arc<Call>,
    answer: Answer,
    rules: Arc<Rules>,
    /// What is wrong with the body of the request.
    wrong: Rc<RefCell<Option<String>>>,
}

fn is_grpc(head: &response::Parts) -> bool {
    head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Fields of gRPC that mean nothing to other clients.
fn strip(headers: &mut HeaderMap) {
    for name in
        ["grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding", "grpc-accept-encoding"]
    {
        headers.remove(HeaderName::from_static(name));
    }
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRAILER);
}

impl Exchange {
    /// Makes an error of the answer.
    fn fail(head: &mut response::Parts, (code, error): (u32, Value)) -> Bytes {
        strip(&mut head.headers);
        head.status = status(code);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        error.to_string().into()
    }
}

impl Follow for Exchange {
    fn request_body(&mut self) -> Option<Box<dyn Transform>> {
        Some(Box::new(Asking {
            said: self.said.take(),
            is_stream: self.call.streams_in,
            body: BytesMut::new(),
            max: self.answer.style.max_message,
            wrong: Rc::clone(&self.wrong),
        }))
    }

    fn holds(&self, head: &response::Parts) -> Option<usize> {
        let is_failed = super::grpc::status(&head.headers).is_some_and(|code| code != 0);
        let is_whole = !self.call.streams_out || is_failed;
        (self.wrong.borrow().is_some() || is_whole && is_grpc(head))
            .then_some(self.answer.style.max_message + PREFIX)
    }

    fn on_whole(&mut self, head: &mut response::Parts, whole: Option<(Bytes, HeaderMap)>) -> Bytes {
        if let Some(wrong) = self.wrong.take() {
            return Self::fail(head, (INVALID_ARGUMENT, object(INVALID_ARGUMENT, &wrong)));
        }
        let Some((body, trailers)) = whole else {
            return Self::fail(
                head,
                (INTERNAL, object(INTERNAL, "the answer has not come whole, or is too large")),
            );
        };
        let pool = &self.rules.pool;
        if let Some(failure) = failure(&trailers, pool).or_else(|| failure(&head.headers, pool)) {
            return Self::fail(head, failure);
        }
        let has_status =
            [&trailers, &head.headers].iter().any(|fields| super::grpc::status(fields).is_some());
        let answer = only(&body).filter(|_| has_status).and_then(|message| self.answer.whole(message));
        let kind = answer.as_ref().and_then(|(kind, _)| HeaderValue::try_from(kind.as_str()).ok());
        match answer.zip(kind) {
            Some(((_, body), kind)) => {
                strip(&mut head.headers);
                head.headers.insert(CONTENT_TYPE, kind);
                body
            }
            None => {
                Self::fail(head, (INTERNAL, object(INTERNAL, "the answer is not what the method answers")))
            }
        }
    }

    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        if !is_grpc(head) {
            return None;
        }
        strip(&mut head.headers);
        let kind = if self.answer.style.has_lines { "application/x-ndjson" } else { "application/json" };
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let (answer, pool) = (self.answer.clone(), self.rules.pool.clone());
        Some(Box::new(Stream { answer, pool, rest: BytesMut::new(), count: 0 }))
    }
}

/// Takes the body of a request, and makes messages of it.
struct Asking {
    said: Option<Said>,
    is_stream: bool,
    body: BytesMut,
    max: usize,
    wrong: Rc<RefCell<Option<String>>>,
}

impl Transform for Asking {
    fn data(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        if self.body.len() + bytes.len() > self.max {
            return Err(Refusal::TooLarge);
        }
        self.body.extend_from_slice(&bytes);
        Ok(Bytes::new())
    }

    fn end(&mut self, _trailers: Option<HeaderMap>) -> Result<(Bytes, Option<HeaderMap>), Refusal> {
        let said = self.said.take().ok_or(Refusal::Malformed)?;
        let made = if self.is_stream {
            said.messages(&self.body)
        } else {
            said.message(&self.body).map(|message| vec![message])
        };
        let messages = made.map_err(|why| {
            self.wrong.replace(Some(why));
            Refusal::Malformed
        })?;
        let mut out = BytesMut::new();
        for message in messages {
            let length = u32::try_from(message.len()).map_err(|_| Refusal::TooLarge)?;
            out.put_u8(0);
            out.put_u32(length);
            out.put_slice(&message);
        }
        Ok((out.freeze(), None))
    }
}

#[cfg(test)]
mod tests;
