//! Bounds the bodies of requests and answers.

use std::rc::Rc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, request, response};
use mecha_config::units::ByteSize;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use serde::Deserialize;

use super::{Fetch, Follow, HttpCx, HttpFactory, HttpFilter, HttpKind, Step, Transform};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "body_limit",
    help: Help {
        summary: "Bounds the bodies of requests and answers.",
        options: &[
            FilterOption {
                name: "request",
                takes: Takes::Size,
                without: Without::Means("no bound"),
                about: "the largest body of a request",
            },
            FilterOption {
                name: "response",
                takes: Takes::Size,
                without: Without::Means("no bound"),
                about: "the largest body of an answer",
            },
        ],
        docs: "A request that is too large gets 413 before a server sees it, if its length is declared. An answer that is too large\n\
               is replaced by an error if its length is declared, and broken off where the bound is otherwise.",
        example: "- body_limit: { request: 1MiB, response: 64MiB }",
    },
    build: |options, _| build(options).map(|limit| Box::new(limit) as Box<dyn HttpFactory>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimit {
    request: Option<ByteSize>,
    response: Option<ByteSize>,
}

#[derive(Clone, Copy)]
struct BodyLimit {
    request: u64,
    response: u64,
}

fn build(options: &Options) -> Result<BodyLimit, Vec<ConfigError>> {
    let raw: RawLimit = options.check(|raw: &RawLimit, errors| {
        if raw.request.is_none() && raw.response.is_none() {
            errors.push(options.error("", "bounds nothing").hint("as in `{ request: 1MiB }`"));
        }
    })?;
    let bound = |size: Option<ByteSize>| size.map_or(u64::MAX, u64::from);
    Ok(BodyLimit { request: bound(raw.request), response: bound(raw.response) })
}

impl HttpFactory for BodyLimit {
    fn open(&self, _fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        Box::new(*self)
    }
}

impl HttpFilter for BodyLimit {
    fn on_request(&self, _head: &mut request::Parts, cx: &HttpCx<'_>) -> Step {
        if cx.length.is_some_and(|length| length > self.request) {
            return Step::Refuse(Refusal::TooLarge, HeaderMap::new());
        }
        let is_counted = self.request < u64::MAX && cx.length.is_none();
        if !is_counted && self.response == u64::MAX {
            return Step::Pass;
        }
        Step::Follow(Box::new(Bounded { limit: *self, is_counted }))
    }
}

struct Bounded {
    limit: BodyLimit,
    /// Whether nobody has said how long the request is.
    is_counted: bool,
}

impl Follow for Bounded {
    fn request_body(&mut self) -> Option<Box<dyn Transform>> {
        self.is_counted.then(|| Box::new(Left(self.limit.request)) as Box<dyn Transform>)
    }

    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        if self.limit.response == u64::MAX {
            return None;
        }
        let declared =
            head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match declared {
            Some(length) if length <= self.limit.response => None,
            _ => Some(Box::new(Left(self.limit.response))),
        }
    }
}

/// Bytes that may still come.
struct Left(u64);

impl Transform for Left {
    fn data(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        self.0 = self.0.checked_sub(bytes.len() as u64).ok_or(Refusal::TooLarge)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, cx, head, open, refused};
    use super::*;

    #[test]
    fn what_is_declared_is_judged_at_once_and_the_rest_is_counted() {
        let filter = open(&KIND, "- body_limit: { request: 10B, response: 5B }");
        let mut asked = head("POST", "/", &[]);
        let with = |length| HttpCx { length, ..cx() };
        assert!(matches!(filter.on_request(&mut asked, &with(Some(11))), Step::Refuse(Refusal::TooLarge, _)));
        let Step::Follow(mut follow) = filter.on_request(&mut asked, &with(Some(10))) else { panic!() };
        assert!(follow.request_body().is_none(), "its length is known");
        let Step::Follow(mut follow) = filter.on_request(&mut asked, &with(None)) else { panic!() };
        let mut body = follow.request_body().unwrap();
        assert!(body.data(Bytes::from_static(b"1234567890")).is_ok());
        assert_eq!(body.data(Bytes::from_static(b"1")), Err(Refusal::TooLarge));
        assert!(follow.on_response(&mut answer(200, &[("content-length", "5")])).is_none());
        let mut body = follow.on_response(&mut answer(200, &[])).unwrap();
        assert_eq!(body.data(Bytes::from_static(b"123456")), Err(Refusal::TooLarge));
        assert!(refused(&KIND, "- body_limit: {}").contains("bounds nothing"));
    }
}
