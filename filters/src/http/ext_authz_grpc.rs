//! Asks a server whether a request may pass, as Envoy does by gRPC (`envoy.service.auth.v3.Authorization/Check`).
//!
//! Open Policy Agent, Authorino and their like speak it. They are told of the client and of the head of its request, never
//! of its body, and say what becomes of it: fields that the server or the client gets, or an answer in its place.

mod messages;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode, Version, request, response};
use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use serde::Deserialize;

use self::messages::{
    Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption,
    HttpRequest, OkHttpResponse, Peer, Request, SocketAddress, Status, Timestamp,
};
use super::{Fetch, Follow, HttpCx, HttpFactory, HttpFilter, HttpKind, Resume, Step, Transform, grpc};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "ext_authz_grpc",
    help: Help {
        summary: "Asks a server by gRPC whether a request may pass, as Envoy does.",
        options: &[
            FilterOption {
                name: "cluster",
                takes: Takes::Text,
                without: Without::Nothing,
                about: "a cluster of `clusters` that speaks gRPC (`grpc://`, `grpcs://`)",
            },
            FilterOption {
                name: "timeout",
                takes: Takes::Duration,
                without: Without::Default("1s"),
                about: "how long it may take",
            },
            FilterOption {
                name: "context",
                takes: Takes::Texts,
                without: Without::Means("nothing"),
                about: "what it is told besides, as in virtual_host:shop (`context_extensions`)",
            },
            FilterOption {
                name: "allow_on_failure",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "lets requests pass when it cannot be asked",
            },
        ],
        docs: "It is asked with envoy.service.auth.v3.Authorization/Check about the client's address and certificate, and the request's head.\n\
               When it cannot be asked, the answer is 503.",
        example: "- ext_authz_grpc: { cluster: opa, timeout: 500ms, context: [\"policy:shop\"] }",
    },
    build: |options, _| build(options).map(|authz| Box::new(authz) as Box<dyn HttpFactory>),
};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Fields that nobody may set: messages are read by them.
const UNTOUCHED: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuthz {
    cluster: String,
    timeout: Option<Period>,
    #[serde(default)]
    context: Vec<String>,
    #[serde(default)]
    allow_on_failure: bool,
}

#[derive(Clone)]
struct ExtAuthz(Arc<Rules>);

struct Rules {
    cluster: String,
    timeout: Duration,
    context: BTreeMap<String, String>,
    is_open_on_failure: bool,
}

fn build(options: &Options) -> Result<ExtAuthz, Vec<ConfigError>> {
    let raw: RawAuthz = options.check(|raw: &RawAuthz, errors| {
        for text in raw.context.iter().filter(|text| !text.contains(':')) {
            let error = options.error("context", format!("`{text}` is no name with a value"));
            errors.push(error.hint("as in `policy:shop`"));
        }
    })?;
    let pair =
        |text: &String| text.split_once(':').map(|(name, value)| (name.trim().into(), value.trim().into()));
    Ok(ExtAuthz(Arc::new(Rules {
        cluster: raw.cluster,
        timeout: raw.timeout.map_or(Duration::from_secs(1), Duration::from),
        context: raw.context.iter().filter_map(pair).collect(),
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

impl HttpFilter for Asking {
    fn on_request(&self, head: &mut request::Parts, cx: &HttpCx<'_>) -> Step {
        let Some(fetch) = &self.fetch else { return Step::Refuse(Refusal::NoRoute, HeaderMap::new()) };
        let question = question(&self.rules, head, cx);
        let asked = fetch.fetch(grpc::call(CHECK, &question, self.rules.timeout), self.rules.timeout);
        let is_open_on_failure = self.rules.is_open_on_failure;
        let is_grpc = is_grpc(&head.headers);
        Step::Wait(Box::pin(async move {
            let answer = asked.await.ok().and_then(|answer| grpc::answered::<CheckResponse>(&answer));
            Box::new(move |head: &mut request::Parts| match answer {
                Some(answer) => judged(answer, head, is_grpc),
                None if is_open_on_failure => Step::Pass,
                None => Step::Refuse(Refusal::UpstreamUnreachable, HeaderMap::new()),
            }) as Resume
        }))
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// What is asked about this request.
fn question(rules: &Rules, head: &request::Parts, cx: &HttpCx<'_>) -> CheckRequest {
    let peer = |addr: Option<SocketAddr>, principal: String| {
        let socket = |addr: SocketAddr| Address {
            socket_address: Some(SocketAddress {
                address: addr.ip().to_string(),
                port_value: addr.port().into(),
            }),
        };
        Peer { address: addr.map(socket), principal }
    };
    // As Envoy has it: the first name of the certificate, or its subject.
    let principal =
        cx.peer.identity.as_ref().map(|identity| identity.names.first().unwrap_or(&identity.subject).clone());
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().into())
            .and_modify(|known| {
                // Several lines are one (RFC 9110, section 5.3).
                known.push(',');
                known.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    let text = |value: Option<&HeaderValue>| {
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let http = HttpRequest {
        id: cx.peer.id.to_string(),
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or("/", |path| path.as_str()).into(),
        host: text(head.headers.get(HOST)),
        scheme: if cx.is_tls { "https" } else { "http" }.into(),
        size: cx.length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
        protocol: if head.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.into(),
        headers,
    };
    let time = Timestamp { seconds: now.as_secs() as i64, nanos: now.subsec_nanos() as i32 };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(cx.peer.addr, principal.unwrap_or_default())),
            destination: Some(peer(cx.peer.local, String::new())),
            request: Some(Request { time: Some(time), http: Some(http) }),
            context_extensions: rules.context.clone(),
        }),
    }
}

/// What becomes of the request after this answer.
fn judged(answer: CheckResponse, head: &mut request::Parts, is_grpc: bool) -> Step {
    let status = answer.status.unwrap_or_default();
    if status.code != 0 {
        return Step::Answer(denied(status, answer.denied.unwrap_or_default(), is_grpc));
    }
    let OkHttpResponse { headers, headers_to_remove, response_headers_to_add } =
        answer.ok.unwrap_or_default();
    for name in headers_to_remove.iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok()) {
        if !UNTOUCHED.contains(&name) {
            head.headers.remove(name);
        }
    }
    // Fields of requests take the place of what the client says, unless the answer wants them beside it.
    headers.iter().for_each(|option| set(&mut head.headers, option, Action::Overwrite));
    head.extensions.insert(super::Known);
    if response_headers_to_add.is_empty() {
        return Step::Pass;
    }
    Step::Follow(Box::new(Adding(response_headers_to_add)))
}

/// How a field is set, by the numbers of `HeaderAppendAction`.
#[derive(Clone, Copy)]
enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

/// Sets a field as the answer wants; `usual` is what it means when it does not say.
fn set(headers: &mut HeaderMap, option: &HeaderValueOption, usual: Action) {
    let Some(header) = &option.header else { return };
    let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    let (Ok(name), Ok(value)) = (HeaderName::try_from(header.key.as_str()), HeaderValue::from_bytes(value))
    else {
        return;
    };
    if UNTOUCHED.contains(&name) {
        return;
    }
    let action = match (option.append.as_ref().map(|append| append.value), option.append_action) {
        (Some(true), _) => Action::Append,
        (Some(false), _) => Action::Overwrite,
        (None, 1) => Action::AddIfAbsent,
        (None, 2) => Action::Overwrite,
        (None, 3) => Action::OverwriteIfExists,
        (None, _) => usual,
    };
    let is_there = headers.contains_key(&name);
    match action {
        Action::Append => drop(headers.append(name, value)),
        Action::AddIfAbsent if is_there => {}
        Action::OverwriteIfExists if !is_there => {}
        Action::AddIfAbsent | Action::Overwrite | Action::OverwriteIfExists => {
            drop(headers.insert(name, value))
        }
    }
}

/// The client's answer.
fn denied(status: Status, denied: DeniedHttpResponse, is_grpc: bool) -> Response<Bytes> {
    let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
    let code = code.and_then(|code| StatusCode::from_u16(code).ok()).filter(|code| code.as_u16() >= 200);
    let mut answer = Response::new(Bytes::new());
    denied.headers.iter().for_each(|option| set(answer.headers_mut(), option, Action::Overwrite));
    if is_grpc {
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u32::try_from(status.code).unwrap_or(7)));
        let text = if denied.body.is_empty() { status.message } else { denied.body };
        headers.insert("grpc-message", grpc::message_field(&text));
        return answer;
    }
    *answer.status_mut() = code.unwrap_or(StatusCode::FORBIDDEN);
    *answer.body_mut() = Bytes::from(denied.body);
    answer
}

/// Sets fields of the answer.
struct Adding(Vec<HeaderValueOption>);

impl Follow for Adding {
    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        self.0.iter().for_each(|option| set(&mut head.headers, option, Action::Append));
        None
    }
}

#[cfg(test)]
mod tests;
