//! Asks a server of the user's whether a request may pass.
//!
//! The question is a `GET` with the fields of the request, and with what it is for in `X-Forwarded-Method`, `-Proto`,
//! `-Host` and `-Uri`, as programs that log people in expect it. An answer of 2xx lets the request pass; anything else is
//! the client's answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, Request, Response, Uri, request};
use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use serde::Deserialize;

use super::{Fetch, HttpCx, HttpFactory, HttpFilter, HttpKind, Resume, Step};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "ext_authz",
    help: Help {
        summary: "Asks a server whether a request may pass.",
        options: &[
            FilterOption {
                name: "cluster",
                takes: Takes::Text,
                without: Without::Nothing,
                about: "a cluster of `clusters` that speaks HTTP",
            },
            FilterOption {
                name: "path",
                takes: Takes::Text,
                without: Without::Default("/"),
                about: "what is asked for there",
            },
            FilterOption {
                name: "timeout",
                takes: Takes::Duration,
                without: Without::Default("1s"),
                about: "how long it may take",
            },
            FilterOption {
                name: "copy",
                takes: Takes::Texts,
                without: Without::Means("none"),
                about: "fields of its answer that the request gets, as in x-user",
            },
            FilterOption {
                name: "allow_on_failure",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "lets requests pass when it cannot be asked",
            },
        ],
        docs: "It is asked with GET, the fields of the request, and X-Forwarded-Method, -Proto, -Host and -Uri. 2xx lets the request pass;\n\
               any other answer goes to the client as it is. When it cannot be asked, the answer is 503.",
        example: "- ext_authz: { cluster: auth, path: /verify, copy: [x-user, x-groups], timeout: 500ms }",
    },
    build: |options, _| build(options).map(|authz| Box::new(authz) as Box<dyn HttpFactory>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuthz {
    cluster: String,
    path: Option<String>,
    timeout: Option<Period>,
    #[serde(default)]
    copy: Vec<String>,
    #[serde(default)]
    allow_on_failure: bool,
}

#[derive(Clone)]
struct ExtAuthz(Arc<Rules>);

struct Rules {
    cluster: String,
    path: Uri,
    timeout: Duration,
    copy: Vec<HeaderName>,
    is_open_on_failure: bool,
}

fn build(options: &Options) -> Result<ExtAuthz, Vec<ConfigError>> {
    let path = |raw: &RawAuthz| {
        let text = raw.path.as_deref().unwrap_or("/");
        Uri::try_from(text).ok().filter(|_| text.starts_with('/'))
    };
    let raw: RawAuthz = options.check(|raw: &RawAuthz, errors| {
        if path(raw).is_none() {
            errors.push(options.error("path", "is no path").hint("as in `/verify`"));
        }
        for name in raw.copy.iter().filter(|name| HeaderName::try_from(name.as_str()).is_err()) {
            errors.push(
                options.error("copy", format!("`{name}` is no name of a field")).hint("as in `x-user`"),
            );
        }
    })?;
    Ok(ExtAuthz(Arc::new(Rules {
        path: path(&raw).unwrap_or_default(),
        cluster: raw.cluster,
        timeout: raw.timeout.map_or(Duration::from_secs(1), Duration::from),
        copy: raw.copy.iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok()).collect(),
        is_open_on_failure: raw.allow_on_failure,
    })))
}

impl HttpFactory for ExtAuthz {
    fn open(&self, fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        Box::new(Asking { rules: Arc::clone(&self.0), fetch })
    }

    fn cluster(&self) -> Option<&str> {
        Some(&self.0.cluster)
    }
}

struct Asking {
    rules: Arc<Rules>,
    fetch: Option<Rc<dyn Fetch>>,
}

/// What is asked about this request.
fn question(rules: &Rules, head: &request::Parts, cx: &HttpCx<'_>) -> Request<Bytes> {
    let mut question = Request::new(Bytes::new());
    *question.uri_mut() = rules.path.clone();
    let headers = question.headers_mut();
    headers.clone_from(&head.headers);
    for name in [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    let scheme = if cx.is_tls { "https" } else { "http" };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let fields = [
        ("x-forwarded-method", HeaderValue::try_from(head.method.as_str()).ok()),
        ("x-forwarded-proto", Some(HeaderValue::from_static(scheme))),
        ("x-forwarded-host", head.headers.get(HOST).cloned()),
        ("x-forwarded-uri", HeaderValue::try_from(path).ok()),
        ("x-forwarded-for", cx.peer.addr.and_then(|addr| HeaderValue::try_from(addr.ip().to_string()).ok())),
    ];
    for (name, value) in fields {
        headers.remove(name);
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    question
}

/// The client's answer, without what was for mecha only.
fn denied(answer: Response<Bytes>) -> Step {
    let (mut head, body) = answer.into_parts();
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    Step::Answer(Response::from_parts(head, body))
}

impl HttpFilter for Asking {
    fn on_request(&self, head: &mut request::Parts, cx: &HttpCx<'_>) -> Step {
        let Some(fetch) = &self.fetch else { return Step::Refuse(Refusal::NoRoute, HeaderMap::new()) };
        let asked = fetch.fetch(question(&self.rules, head, cx), self.rules.timeout);
        let rules = Arc::clone(&self.rules);
        Step::Wait(Box::pin(async move {
            let answer = asked.await;
            Box::new(move |head: &mut request::Parts| match answer {
                Ok(answer) if answer.status().is_success() => {
                    for name in &rules.copy {
                        head.headers.remove(name);
                        for value in answer.headers().get_all(name) {
                            head.headers.append(name.clone(), value.clone());
                        }
                    }
                    head.extensions.insert(super::Known);
                    Step::Pass
                }
                Ok(answer) if answer.status().is_server_error() && rules.is_open_on_failure => Step::Pass,
                Ok(answer) => denied(answer),
                Err(_) if rules.is_open_on_failure => Step::Pass,
                Err(_) => Step::Refuse(Refusal::UpstreamUnreachable, HeaderMap::new()),
            }) as Resume
        }))
    }
}
