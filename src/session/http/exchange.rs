//! One request, and its answer.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use mecha_clusters::http::{Answer, Failure, Outbound};
use mecha_core::{Call, ConnKey, Cx, Outcome, Policy, Protocol, Refusal, Ticket, Verdict};
use mecha_http::answer::{self, Reader};
use mecha_http::edit::Edits;
use mecha_http::fields::{self, Direction};
use mecha_http::routes::Matched;
use mecha_http::{Http, ops};

use super::link::Link;
use super::outgoing::{Open, Outgoing, Passed};
use super::route::{self, Action, Forward, Retry, Target};
use super::{Asked, HttpEngine};

/// Answers one request of a client.
pub(super) async fn exchange(
    engine: Rc<HttpEngine>,
    link: Rc<Link>,
    request: Asked,
    is_http2: bool,
) -> Result<Response<Outgoing>, Infallible> {
    let answer = answer(&engine, &link, request, is_http2).await;
    Ok(if link.is_draining.get() && !is_http2 { closing(answer) } else { answer })
}

/// The same answer, behind which the connection ends.
fn closing(mut answer: Response<Outgoing>) -> Response<Outgoing> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn answer(engine: &HttpEngine, link: &Rc<Link>, request: Asked, is_http2: bool) -> Response<Outgoing> {
    let mut call = open(engine, link, &request);
    let listener = Rc::clone(&call.listener);
    let started_micros = call.started_micros;
    let reader = if call.op == ops::GRPC { Reader::Grpc } else { Reader::Http };
    let cx = Cx { now_micros: started_micros, peer: &link.peer };
    let neutral = Http::call(&call.op, call.ticket);
    let of_listener = match admit(&listener.policies, neutral, &cx) {
        Ok(within) => within,
        Err(why) => return refused(call, why, reader),
    };
    let is_head = request.method() == Method::HEAD;
    let (mut head, body) = request.into_parts();
    let Some(upgrade) = end_hop(&mut head, is_http2) else {
        return own(answer::bad_request("the request does not say clearly whom it is for"));
    };
    let is_upgrade = upgrade.is_some();
    if head.method == Method::CONNECT {
        return refused(call, Refusal::Unsupported, reader);
    }
    let found = route::find(&listener.routes, &head);
    let (edits, matched) = match found {
        Some((route, matched)) => (Some((&route.request, &route.response)), matched),
        None => (None, Matched::default()),
    };
    let forward = match found.map(|(route, _)| &route.action) {
        None => &listener.forward,
        Some(Action::Forward(forward)) => forward,
        Some(Action::Redirect(redirect)) => {
            call.outcome = Outcome::Ok;
            return edited(own(redirect.answer(&head, matched, listener.is_tls)), edits);
        }
        Some(Action::Respond(status, body)) => {
            call.outcome = Http::outcome(status);
            let mut answer = Response::new(body.clone());
            *answer.status_mut() = *status;
            return edited(own(answer), edits);
        }
    };
    let Some(target) = forward.target() else { return refused(call, Refusal::NoRoute, reader) };
    let of_target = match admit(&target.policies, neutral, &cx) {
        Ok(within) => within,
        Err(why) => return refused(call, why, reader),
    };
    call.target = Some(Rc::clone(target));
    if let Some(metrics) = &target.metrics {
        metrics.calls(1);
    }
    // What a gRPC client waits for no longer is worth nothing to it.
    let deadline = (reader == Reader::Grpc).then(|| fields::grpc_timeout(&head.headers)).flatten();
    let within = [of_listener, of_target, forward.timeout, deadline].into_iter().flatten().min();
    if !forward.rewrite(&mut head, matched) {
        return own(answer::bad_request("the request's path cannot be rewritten"));
    }
    if let Some((request, _)) = edits {
        request.apply(&mut head.headers);
    }
    let sending = send(forward, target, head, body, link);
    let sent = match within {
        None => sending.await,
        Some(within) => tokio::time::timeout(within, sending).await.unwrap_or(Err(TIMED_OUT)),
    };
    let is_late =
        || within.is_some_and(|within| engine.clock.micros() - started_micros >= within.as_micros() as u64);
    let Answer { response, mut lease } = match sent {
        Ok(answer) => answer,
        // A server that gives up at the same moment has had the same time.
        Err(Failure::Server(Refusal::UpstreamGone)) if is_late() => {
            return refused(call, Refusal::TimedOut, reader);
        }
        Err(Failure::Server(why)) => return refused(call, why, reader),
        Err(Failure::Request) => return own(answer::bad_request("the request's body is broken")),
    };
    let (mut head, body) = response.into_parts();
    call.outcome = ops::grpc_outcome(&head.headers).unwrap_or_else(|| Http::outcome(&head.status));
    let becomes = (head.status == StatusCode::SWITCHING_PROTOCOLS).then(|| fields::upgrade(&head.headers));
    fields::end_hop(&mut head.headers, Direction::Response);
    head.version = hyper::Version::HTTP_11;
    if let Some(protocol) = becomes {
        let Some(protocol) = protocol.filter(|_| is_upgrade) else {
            return refused(call, Refusal::UpstreamConfused, reader);
        };
        fields::set_upgrade(&mut head.headers, protocol);
        link.upgraded.set(Some(lease));
        return Response::from_parts(head, Outgoing::Own(Bytes::new()));
    }
    if is_head {
        // There is none, whatever its head says.
        lease.finished();
    }
    edited(Response::from_parts(head, Outgoing::Passed(Passed { body, lease, call })), edits)
}

const TIMED_OUT: Failure = Failure::Server(Refusal::TimedOut);

/// Counts a request in; it is counted out when it is dropped.
fn open(engine: &HttpEngine, link: &Rc<Link>, request: &Asked) -> Open {
    link.in_flight.set(link.in_flight.get() + 1);
    link.requests.set(link.requests.get().wrapping_add(1));
    let conn = ConnKey { index: link.number.get() as u32, epoch: 0 };
    Open {
        link: Rc::clone(link),
        listener: link.current(),
        target: None,
        clock: engine.clock,
        ticket: Ticket { conn, seq: link.requests.get() },
        op: ops::op(request.method(), request.headers()),
        started_micros: engine.clock.micros(),
        outcome: Outcome::ClientError,
    }
}

/// Asks policies. Returns how long the answer may take, if they say so.
fn admit(
    policies: &RefCell<Vec<Box<dyn Policy>>>,
    call: Call,
    cx: &Cx<'_>,
) -> Result<Option<Duration>, Refusal> {
    let mut policies = policies.borrow_mut();
    if policies.is_empty() {
        return Ok(None);
    }
    let mut calls = [call];
    policies.iter_mut().for_each(|policy| policy.on_calls(&mut calls, cx));
    let [call] = calls;
    match call.verdict {
        Verdict::Refuse(why) => Err(why),
        Verdict::Answered(_) | Verdict::Forward => {
            Ok((call.timeout_ms > 0).then(|| Duration::from_millis(call.timeout_ms.into())))
        }
    }
}

/// Ends what is for this hop only. Returns what the connection is to become, and `None` if nobody can say for sure whom the
/// request is for.
fn end_hop(head: &mut Parts, is_http2: bool) -> Option<Option<HeaderValue>> {
    let upgrade = if is_http2 { None } else { fields::upgrade(&head.headers) };
    fields::end_hop(&mut head.headers, Direction::Request);
    if let Some(protocol) = &upgrade {
        fields::set_upgrade(&mut head.headers, protocol.clone());
    }
    let authority = head.uri.authority().map(|authority| authority.as_str());
    if !fields::settle_host(&mut head.headers, authority, is_http2) {
        return None;
    }
    if head.method != Method::CONNECT && authority.is_some() {
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map_or_else(|| hyper::Uri::from_static("/"), hyper::Uri::from);
    }
    head.extensions.clear();
    Some(upgrade)
}

/// Sends a request, more than once if its route says so.
async fn send(
    forward: &Forward,
    target: &Rc<Target>,
    head: Parts,
    body: Incoming,
    link: &Link,
) -> Result<Answer, Failure> {
    let key = key_of(link);
    let has_body = !body.is_end_stream();
    let is_idempotent = ops::info(ops::op(&head.method, &head.headers)).idempotent;
    let Some(retry) = &forward.retry else {
        let body = if has_body { Outbound::Streamed(body) } else { Outbound::Empty };
        return target.servers.send(Request::from_parts(head, body), &key, is_idempotent && !has_body).await;
    };
    retry.note();
    let body = if has_body { hold(body, retry).await? } else { Held::Whole(Bytes::new()) };
    let bytes = match body {
        Held::Streamed(body) => {
            // What has begun to flow cannot flow again.
            return target
                .servers
                .send(Request::from_parts(head, Outbound::Streamed(body)), &key, false)
                .await;
        }
        Held::Whole(bytes) => bytes,
    };
    let mut last = target;
    for number in 0.. {
        let request = Request::from_parts(head.clone(), Outbound::Whole(bytes.clone()));
        let sending = last.servers.send(request, &key, is_idempotent);
        let sent = match retry.per_try {
            None => sending.await,
            Some(per_try) => tokio::time::timeout(per_try, sending).await.unwrap_or(Err(TIMED_OUT)),
        };
        let is_wanted = match &sent {
            Ok(answer) => retry.wants_other(answer.response.status(), is_idempotent),
            Err(failure) => retry.wants(*failure, is_idempotent),
        };
        let Some(wait) = is_wanted.then(|| retry.take(number)).flatten() else { return sent };
        drop(sent);
        tokio::time::sleep(wait).await;
        last = forward.target().unwrap_or(target);
    }
    Err(Failure::Server(Refusal::UpstreamUnreachable))
}

/// A body that can be sent again, or not.
enum Held {
    Streamed(Incoming),
    Whole(Bytes),
}

/// Takes the whole body, if it says beforehand that it is small enough: nobody may be waiting for an answer to its beginning.
async fn hold(body: Incoming, retry: &Retry) -> Result<Held, Failure> {
    match body.size_hint().exact() {
        Some(length) if length <= retry.max_body => {
            let whole = body.collect().await.map_err(|_| Failure::Request)?;
            Ok(Held::Whole(whole.to_bytes()))
        }
        _ => Ok(Held::Streamed(body)),
    }
}

/// What a hash of the client is made of: its address without the port.
fn key_of(link: &Link) -> [u8; 16] {
    match link.peer.addr.map(|addr| addr.ip()) {
        Some(std::net::IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
        Some(std::net::IpAddr::V6(ip)) => ip.octets(),
        None => [0; 16],
    }
}

fn refused(mut call: Open, why: Refusal, reader: Reader) -> Response<Outgoing> {
    call.outcome = Outcome::Refused(why);
    own(answer::refusal(why, reader))
}

fn own(answer: Response<Bytes>) -> Response<Outgoing> {
    answer.map(Outgoing::Own)
}

fn edited(mut answer: Response<Outgoing>, edits: Option<(&Edits, &Edits)>) -> Response<Outgoing> {
    if let Some((_, response)) = edits {
        response.apply(answer.headers_mut());
    }
    answer
}
