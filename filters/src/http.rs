//! Typed filters of HTTP.
//!
//! ```text
//! request ──► on_request of each, in the order of the configuration ──► route, server
//!                │ may answer, refuse, wait for somebody, or want to see the answer too (Follow)
//! answer  ◄── on_response of those that follow, the last one first ◄──┘
//! ```
//!
//! A filter changes heads in place. Bodies stream past it: one that has something to do with them hands over a
//! [`Transform`] for this message. Nothing waits for a whole body, unless a transform keeps it to itself.

mod basic_auth;
mod body_limit;
mod cache;
mod compression;
mod cors;
mod ext_authz;
mod ext_authz_grpc;
mod grpc;
mod grpc_json;
mod grpc_web;
mod jwt;
mod traceparent;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request, response};
use mecha_core::{Peer, Refusal};

use crate::{Build, Help};

pub use self::grpc::Trailers;

/// Every filter of this protocol, in alphabetical order.
pub const FILTERS: &[&HttpKind] = &[
    &basic_auth::KIND,
    &body_limit::KIND,
    &cache::KIND,
    &compression::KIND,
    &cors::KIND,
    &ext_authz::KIND,
    &ext_authz_grpc::KIND,
    &grpc_json::KIND,
    &grpc_web::KIND,
    &jwt::KIND,
    &traceparent::KIND,
];

/// A filter of HTTP that can be configured.
pub struct HttpKind {
    /// As the configuration spells it.
    pub name: &'static str,
    /// For people.
    pub help: Help,
    /// Understands the options.
    pub build: Build<dyn HttpFactory>,
}

/// Makes one filter for each worker.
pub trait HttpFactory: Send + Sync {
    /// Called once on each worker. `fetch` asks [`HttpFactory::cluster`], if it names one.
    fn open(&self, fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter>;

    /// The configured cluster that it asks about requests.
    fn cluster(&self) -> Option<&str> {
        None
    }
}

/// A filter, on one worker.
pub trait HttpFilter {
    /// Looks at a request before anybody knows where it goes. Its `Host` is settled, and what ends at this hop is gone.
    fn on_request(&self, head: &mut request::Parts, cx: &HttpCx<'_>) -> Step;
}

/// Stands beside a head whose client has shown who it is: its answer may be for nobody else.
#[derive(Clone, Copy, Debug)]
struct Known;

/// What a filter may know of a request besides its head.
#[derive(Clone, Copy)]
pub struct HttpCx<'a> {
    /// The client.
    pub peer: &'a Peer,
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// When the request came, by the worker's clock.
    pub now_micros: u64,
    /// Length of the request's body, if it is declared.
    pub length: Option<u64>,
}

/// What becomes of a request.
pub enum Step {
    /// It is answered here.
    Answer(Response<Bytes>),
    /// It goes on, and the filter has something to do with bodies or with the answer.
    Follow(Box<dyn Follow>),
    /// It goes on.
    Pass,
    /// mecha refuses it in its own words, or in gRPC's, with these fields besides.
    Refuse(Refusal, HeaderMap),
    /// The filter asks somebody, and then goes on with the head.
    Wait(Pin<Box<dyn Future<Output = Resume>>>),
}

/// What a filter does with the head of a request when it knows what it has asked for.
pub type Resume = Box<dyn FnOnce(&mut request::Parts) -> Step>;

/// What a filter does for one request behind its head.
pub trait Follow {
    /// What changes in the request's body. Whoever changes its length has taken `Content-Length` away.
    fn request_body(&mut self) -> Option<Box<dyn Transform>> {
        None
    }

    /// Looks at the head of the answer, which may be mecha's own. What it returns changes the body; whoever changes its
    /// length has taken `Content-Length` away.
    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        let _ = head;
        None
    }

    /// Whether it must have the whole answer with this head, of at most so many bytes, before anybody sees its head. Then
    /// [`Follow::on_whole`] is called in place of [`Follow::on_response`].
    fn holds(&self, head: &response::Parts) -> Option<usize> {
        let _ = head;
        None
    }

    /// Makes another answer of a whole one: its body, and its trailers; `None` if it was broken off or is too large.
    fn on_whole(&mut self, head: &mut response::Parts, whole: Option<(Bytes, HeaderMap)>) -> Bytes {
        let _ = head;
        whole.map(|(body, _)| body).unwrap_or_default()
    }
}

/// Changes a body that streams past.
pub trait Transform {
    /// What becomes of these bytes; nothing may be a part of it that comes later.
    ///
    /// # Errors
    /// The message cannot go on.
    fn data(&mut self, bytes: Bytes) -> Result<Bytes, Refusal>;

    /// What stands at the end, with the trailers that the message has.
    ///
    /// # Errors
    /// The message cannot end here.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(Bytes, Option<HeaderMap>), Refusal> {
        Ok((Bytes::new(), trailers))
    }
}

/// Sends a request to a cluster and brings the whole answer, or why there is none.
pub trait Fetch {
    /// `request` has a path for its target; the answer must be there `within` this time. Its trailers are among its
    /// extensions ([`Trailers`]).
    fn fetch(&self, request: Request<Bytes>, within: Duration) -> Fetching;
}

/// An answer that is awaited.
pub type Fetching = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Refusal>>>>;

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => write!(f, "Answer({})", answer.status()),
            Self::Follow(_) => f.write_str("Follow"),
            Self::Pass => f.write_str("Pass"),
            Self::Refuse(why, fields) => write!(f, "Refuse({why:?}, {fields:?})"),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

/// Adds `name` to what an answer depends on (RFC 9110, section 12.5.5).
fn vary(headers: &mut HeaderMap, name: &'static str) {
    let has = |value: &http::HeaderValue| {
        let words = value.to_str().unwrap_or_default().split(',').map(str::trim);
        words.into_iter().any(|word| word == "*" || word.eq_ignore_ascii_case(name))
    };
    if !headers.get_all(http::header::VARY).iter().any(has) {
        headers.append(http::header::VARY, http::HeaderValue::from_static(name));
    }
}

#[cfg(test)]
mod testing {
    //! What the tests of these filters share.

    use super::*;
    use crate::testing::{PEER, options, with_cx};

    pub(super) fn cx() -> HttpCx<'static> {
        HttpCx { peer: &PEER, is_tls: false, now_micros: 0, length: None }
    }

    pub(super) fn open(kind: &HttpKind, example: &str) -> Box<dyn HttpFilter> {
        let built = with_cx(&mecha_telemetry::Registry::new(), |cx| (kind.build)(&options(example), cx));
        built.unwrap_or_else(|errors| panic!("{errors:?}")).open(None)
    }

    /// What a kind says against an example.
    pub(super) fn refused(kind: &HttpKind, example: &str) -> String {
        let built = with_cx(&mecha_telemetry::Registry::new(), |cx| (kind.build)(&options(example), cx));
        let errors = built.err().expect("options are wrong");
        let text = |error: &mecha_config::ConfigError| {
            format!("{}: {} ({})\n", error.path, error.message, error.hint.as_deref().unwrap_or_default())
        };
        errors.iter().map(text).collect()
    }

    pub(super) fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    pub(super) fn answer(status: u16, fields: &[(&str, &str)]) -> response::Parts {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        answer.body(()).unwrap().into_parts().0
    }
}
