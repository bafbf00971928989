//! One request, and its answer.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Response, StatusCode};
use mecha_clusters::http::{Answer, Failure, Outbound};
use mecha_core::{Call, ConnKey, Cx, Outcome, Protocol, Refusal, Ticket, Verdict};
use mecha_http::answer::{self, Reader};
use mecha_http::fields::{self, Direction};
use mecha_http::{Http, ops};

use super::link::Link;
use super::outgoing::{Open, Outgoing, Passed};
use super::{Asked, HttpEngine, HttpListener};

/// Answers one request of a client.
pub(super) async fn exchange(
    engine: Rc<HttpEngine>,
    link: Rc<Link>,
    request: Asked,
    is_http2: bool,
) -> Result<Response<Outgoing>, Infallible> {
    let listener = link.current();
    let op = ops::op(request.method(), request.headers());
    let reader = if op == ops::GRPC { Reader::Grpc } else { Reader::Http };
    let started_micros = engine.clock.micros();
    link.in_flight.set(link.in_flight.get() + 1);
    link.requests.set(link.requests.get().wrapping_add(1));
    let conn = ConnKey { index: link.number.get() as u32, epoch: 0 };
    let ticket = Ticket { conn, seq: link.requests.get() };
    let mut call = Open {
        link: Rc::clone(&link),
        listener: Rc::clone(&listener),
        clock: engine.clock,
        ticket,
        op,
        started_micros,
        outcome: Outcome::ClientError,
    };
    let within =
        match admit(&listener, Http::call(&op, ticket), &Cx { now_micros: started_micros, peer: &link.peer })
        {
            Ok(within) => within,
            Err(why) => return Ok(refused(call, why, reader)),
        };
    // What a gRPC client waits for no longer is worth nothing to it.
    let deadline = (reader == Reader::Grpc).then(|| fields::grpc_timeout(request.headers())).flatten();
    let within = within.into_iter().chain(deadline).min();
    let is_upgrade = !is_http2 && fields::upgrade(request.headers()).is_some();
    let is_head = request.method() == Method::HEAD;
    let Some((request, is_safe)) = prepare(request, is_http2) else {
        return Ok(own(answer::bad_request("the request does not say clearly whom it is for")));
    };
    if *request.method() == Method::CONNECT {
        return Ok(refused(call, Refusal::Unsupported, reader));
    }
    let key = key_of(&link);
    let sending = listener.upstream.send(request, &key, is_safe);
    let sent = match within {
        None => sending.await,
        Some(within) => match tokio::time::timeout(within, sending).await {
            Ok(sent) => sent,
            Err(_) => Err(Failure::Server(Refusal::TimedOut)),
        },
    };
    let is_late =
        || within.is_some_and(|within| engine.clock.micros() - started_micros >= within.as_micros() as u64);
    let Answer { response, mut lease } = match sent {
        Ok(answer) => answer,
        // A server that gives up at the same moment has had the same time.
        Err(Failure::Server(Refusal::UpstreamGone)) if is_late() => {
            return Ok(refused(call, Refusal::TimedOut, reader));
        }
        Err(Failure::Server(why)) => return Ok(refused(call, why, reader)),
        Err(Failure::Request) => return Ok(own(answer::bad_request("the request's body is broken"))),
    };
    let (mut head, body) = response.into_parts();
    call.outcome = ops::grpc_outcome(&head.headers).unwrap_or_else(|| Http::outcome(&head.status));
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(protocol) = fields::upgrade(&head.headers).filter(|_| is_upgrade) else {
            return Ok(refused(call, Refusal::UpstreamConfused, reader));
        };
        fields::end_hop(&mut head.headers, Direction::Response);
        fields::set_upgrade(&mut head.headers, protocol);
        link.upgraded.set(Some(lease));
        return Ok(Response::from_parts(head, Outgoing::Own(Bytes::new())));
    }
    fields::end_hop(&mut head.headers, Direction::Response);
    head.version = hyper::Version::HTTP_11;
    if is_head {
        // There is none, whatever its head says.
        lease.finished();
    }
    Ok(Response::from_parts(head, Outgoing::Passed(Passed { body, lease, call })))
}

/// Asks the policies. Returns how long the answer may take, if they say so.
fn admit(listener: &HttpListener, call: Call, cx: &Cx<'_>) -> Result<Option<Duration>, Refusal> {
    let mut policies = listener.policies.borrow_mut();
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

/// The request as it goes on, and whether it may go twice. `None` if nobody can say for sure whom it is for.
fn prepare(request: Asked, is_http2: bool) -> Option<(hyper::Request<Outbound>, bool)> {
    let (mut head, body) = request.into_parts();
    let upgrade = if is_http2 { None } else { fields::upgrade(&head.headers) };
    fields::end_hop(&mut head.headers, Direction::Request);
    if let Some(protocol) = upgrade {
        fields::set_upgrade(&mut head.headers, protocol);
    }
    let authority = head.uri.authority().map(|authority| authority.as_str());
    if !fields::settle_host(&mut head.headers, authority, is_http2) {
        return None;
    }
    head.extensions.clear();
    let has_body = !hyper::body::Body::is_end_stream(&body);
    let is_safe = !has_body && ops::info(ops::op(&head.method, &head.headers)).idempotent;
    let body = if has_body { Outbound::Streamed(body) } else { Outbound::Empty };
    let origin = head.uri.path_and_query().cloned();
    if head.method != Method::CONNECT && authority.is_some() {
        head.uri = origin.map_or_else(|| hyper::Uri::from_static("/"), hyper::Uri::from);
    }
    Some((hyper::Request::from_parts(head, body), is_safe))
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
