//! Routes of HTTP listeners, from the configuration to what a worker has.

use std::cell::Cell;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use mecha_config::{
    HttpActionSpec, HttpComplaint, HttpEditSpec, HttpForwardSpec, HttpRetrySpec, HttpRouteSpec,
};
use mecha_http::edit::Edits;
use mecha_http::routes::{Conditions, Texts};

use crate::session::http::{Action, Forward, HttpRoute, Redirect, Retry, RetryOn, Target};

fn conditions(spec: &HttpRouteSpec) -> Result<Conditions, Vec<HttpComplaint>> {
    Conditions::new(Texts {
        hosts: &spec.hosts,
        paths: &spec.paths,
        prefixes: &spec.prefixes,
        regexes: &spec.regexes,
        grpc: &spec.grpc,
        methods: &spec.methods,
        headers: &spec.headers,
        query: &spec.query,
    })
}

fn edits(key: &'static str, spec: &HttpEditSpec) -> Result<Edits, Vec<HttpComplaint>> {
    Edits::new(key, &spec.set, &spec.add, &spec.remove)
}

/// What is wrong with a route.
pub fn check_http_route(spec: &HttpRouteSpec) -> Vec<HttpComplaint> {
    let mut complaints = conditions(spec).err().unwrap_or_default();
    complaints.extend(edits("request", &spec.request).err().unwrap_or_default());
    complaints.extend(edits("response", &spec.response).err().unwrap_or_default());
    let path = |key: &'static str, text: &Option<String>| {
        let text = text.as_ref().filter(|text| !text.starts_with('/') || text.contains(['?', '#', ' ']))?;
        Some((key, format!("`{text}` is no path"), Some("as in `/api`, without a query".to_string())))
    };
    match &spec.action {
        HttpActionSpec::Forward(forward) => {
            complaints.extend(path("rewrite.path", &forward.path));
            complaints.extend(path("rewrite.prefix", &forward.prefix));
            if let Some(host) = forward.host.as_ref().filter(|host| !is_host(host)) {
                complaints.push(("rewrite.host", format!("`{host}` is no host"), None));
            }
            if let Some(word) = forward.retry.as_ref().and_then(|retry| RetryOn::new(&retry.on).err()) {
                let hint = "`connect`, `reset`, `gateway`, `5xx`, or a status from 400 to 599".to_string();
                complaints.push((
                    "retry.on",
                    format!("`{word}` is no reason to send a request again"),
                    Some(hint),
                ));
            }
            let is_by_prefix = !spec.prefixes.is_empty() || spec.paths.is_empty();
            if forward.prefix.is_some() && !is_by_prefix {
                complaints.push(needs_prefix("rewrite.prefix"));
            }
        }
        HttpActionSpec::Redirect(redirect) => {
            complaints.extend(path("redirect.path", &redirect.path));
            complaints.extend(path("redirect.prefix", &redirect.prefix));
            if let Some(host) = redirect.host.as_ref().filter(|host| !is_host(host)) {
                complaints.push(("redirect.host", format!("`{host}` is no host"), None));
            }
            if redirect.prefix.is_some() && spec.prefixes.is_empty() {
                complaints.push(needs_prefix("redirect.prefix"));
            }
        }
        HttpActionSpec::Respond { .. } => {}
    }
    complaints
}

fn needs_prefix(key: &'static str) -> HttpComplaint {
    let hint = "the route needs a `prefix` of its own, which this one takes the place of".to_string();
    (key, "there is no prefix to replace".to_string(), Some(hint))
}

fn is_host(text: &str) -> bool {
    !text.contains('@') && hyper::http::uri::Authority::try_from(text).is_ok()
}

/// A route that was checked; `target` opens a cluster.
pub(super) fn open(
    spec: &HttpRouteSpec,
    mut target: impl FnMut(usize) -> Option<std::rc::Rc<Target>>,
) -> Option<HttpRoute> {
    let action = match &spec.action {
        HttpActionSpec::Forward(forward) => Action::Forward(Forward {
            targets: forward
                .targets
                .iter()
                .filter_map(|(at, weight)| Some((target(*at)?, *weight)))
                .collect(),
            ..forward_of(forward)
        }),
        HttpActionSpec::Redirect(redirect) => Action::Redirect(Redirect {
            status: StatusCode::from_u16(redirect.status).ok()?,
            scheme: redirect.scheme.clone(),
            host: redirect.host.clone(),
            path: redirect.path.clone(),
            prefix: redirect.prefix.clone(),
        }),
        HttpActionSpec::Respond { status, body } => {
            Action::Respond(StatusCode::from_u16(*status).ok()?, Bytes::from(body.clone()))
        }
    };
    Some(HttpRoute {
        conditions: conditions(spec).ok()?,
        action,
        filters: Vec::new(),
        request: edits("request", &spec.request).ok()?,
        response: edits("response", &spec.response).ok()?,
    })
}

fn forward_of(spec: &HttpForwardSpec) -> Forward {
    Forward {
        targets: Vec::new(),
        prefix: spec.prefix.clone(),
        path: spec.path.clone(),
        host: spec.host.as_ref().and_then(|host| HeaderValue::try_from(host).ok()),
        timeout: spec.timeout,
        max_duration: spec.max_duration,
        retry: spec.retry.as_ref().and_then(retry_of),
    }
}

fn retry_of(spec: &HttpRetrySpec) -> Option<Retry> {
    Some(Retry {
        attempts: spec.attempts,
        on: RetryOn::new(&spec.on).ok()?,
        per_try: spec.per_try,
        hedge_after: spec.hedge_after,
        backoff: spec.backoff,
        max_body: spec.max_body,
        budget: spec.budget,
        tokens: Cell::new(1000),
    })
}
