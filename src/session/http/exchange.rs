//! One request, and its answer.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::ops::{Range, RangeFrom};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use mecha_clusters::http::{Answer, Failure, FieldCase, Outbound};
use mecha_core::{Call, ConnKey, Cx, Outcome, Policy, Protocol, Refusal, Ticket, Verdict};
use mecha_filters::http::HttpCx;
use mecha_http::answer::{self, Reader};
use mecha_http::edit::Edits;
use mecha_http::fields::{self, Direction};
use mecha_http::routes::Matched;
use mecha_http::{Http, ops};
use tokio::sync::mpsc::Receiver;

use super::affinity::Key;
use super::changed::Inbound;
use super::filters::{Ended, Followers};
use super::link::{Link, Onward};
use super::outgoing::{End, Open, Outgoing, Passed};
use super::route::{self, Action, Forward, Retry, Target};
use super::{Asked, HttpEngine, early, tunnel};

/// Answers one request of a client.
pub(super) async fn exchange(
    engine: Rc<HttpEngine>,
    link: Rc<Link>,
    request: Asked,
    is_http2: bool,
) -> Result<Response<Outgoing>, Infallible> {
    let is_connect = request.method() == Method::CONNECT;
    let answer = answer(&engine, &link, request, is_http2).await;
    // What follows a tunnel that was refused may be anything.
    let is_last = link.is_draining.get() || is_connect && !answer.status().is_success();
    Ok(if is_last && !is_http2 { closing(answer) } else { answer })
}

/// The same answer, behind which the connection ends.
fn closing(mut answer: Response<Outgoing>) -> Response<Outgoing> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn answer(engine: &HttpEngine, link: &Rc<Link>, request: Asked, is_http2: bool) -> Response<Outgoing> {
    let is_head = request.method() == Method::HEAD;
    let mut followers = Followers::default();
    let answer = filtered(engine, link, request, is_http2, &mut followers).await;
    if followers.is_empty() { answer } else { Box::pin(followers.answered(answer, is_head)).await }
}

async fn filtered(
    engine: &HttpEngine,
    link: &Rc<Link>,
    request: Asked,
    is_http2: bool,
    followers: &mut Followers,
) -> Response<Outgoing> {
    let mut call = open(engine, link, &request);
    let listener = Rc::clone(&call.listener);
    let started_micros = call.started_micros;
    let reader = if call.op == ops::GRPC { Reader::Grpc } else { Reader::Http };
    let cx = Cx { now_micros: started_micros, peer: &link.peer };
    let neutral = Http::call(&call.op, call.ticket);
    let first = listener.filters.first().map_or(usize::MAX, |(place, _)| *place);
    let mut of_listener = match admit(&listener.policies, 0..first, neutral, &cx) {
        Ok(within) => within,
        Err(why) => return refused(call, why, reader),
    };
    let is_head = request.method() == Method::HEAD;
    let (mut head, body) = request.into_parts();
    // hyper has the stream of a tunnel where it has its notes about a request.
    let stream = head.extensions.remove::<OnUpgrade>().filter(|_| is_http2);
    let keeps_notes = listener.case == FieldCase::Preserve;
    let Some(upgrade) = end_hop(&mut head, is_http2, keeps_notes) else {
        return own(answer::bad_request("the request does not say clearly whom it is for"));
    };
    let is_upgrade = upgrade.is_some();
    let is_connect = head.method == Method::CONNECT;
    if is_connect && listener.tunnels.is_empty() {
        return refused(call, Refusal::Unsupported, reader);
    }
    let http_cx = HttpCx {
        peer: &link.peer,
        is_tls: listener.is_tls,
        now_micros: started_micros,
        length: body.size_hint().exact(),
    };
    let mut body = Some(Inbound::Plain(body));
    for (at, (place, filter)) in listener.filters.iter().enumerate() {
        let next = listener.filters.get(at + 1).map_or(usize::MAX, |(next, _)| *next);
        // Boxed, so that requests without filters take no more memory for them.
        let passed = Box::pin(followers.pass(&**filter, &mut head, &mut body, &http_cx)).await;
        if let Err(ended) = passed {
            // Those that stand behind it are told how it ended, and not that it came.
            skip(&listener.policies, *place.., neutral, &cx);
            return at_filter(call, ended, reader);
        }
        match admit(&listener.policies, *place..next, neutral, &cx) {
            Ok(within) => of_listener = of_listener.into_iter().chain(within).min(),
            Err(why) => return refused(call, why, reader),
        }
    }
    if is_connect {
        return Box::pin(connect(call, &head, stream, of_listener, neutral)).await;
    }
    let found = route::find(&listener.routes, &head);
    let (edits, matched) = match found {
        Some((route, matched)) => (Some((&route.request, &route.response)), matched),
        None => (None, Matched::default()),
    };
    for filter in found.iter().flat_map(|(route, _)| &route.filters) {
        let passed = Box::pin(followers.pass(&**filter, &mut head, &mut body, &http_cx)).await;
        if let Err(ended) = passed {
            return at_filter(call, ended, reader);
        }
    }
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
    let of_target = match admit(&target.policies, 0..usize::MAX, neutral, &cx) {
        Ok(within) => within,
        Err(why) => return refused(call, why, reader),
    };
    call.target = Some(Rc::clone(target));
    if let Some(metrics) = &target.metrics {
        metrics.calls(1);
    }
    // What a gRPC client waits for no longer is worth nothing to it.
    let deadline = (reader == Reader::Grpc).then(|| fields::grpc_timeout(&head.headers)).flatten();
    let longest = [forward.max_duration, listener.max_duration].into_iter().flatten().min();
    let within = [of_listener, of_target, forward.timeout, deadline, longest].into_iter().flatten().min();
    if !forward.rewrite(&mut head, matched) {
        return own(answer::bad_request("the request's path cannot be rewritten"));
    }
    if let Some((request, _)) = edits {
        request.apply(&mut head.headers);
    }
    // It is there: only transforms have taken it, and put another one in its place.
    let Some(body) = body else { return refused(call, Refusal::Unsupported, reader) };
    let mut key = Key::of(&target.hash_on, &head.headers, &link.peer);
    let is_early = listener.has_early && !is_http2 && head.version == Version::HTTP_11;
    let early = is_early.then(|| early::wanted(&mut head));
    let sending = send(forward, target, head, body, key.bytes());
    let sending = async {
        match early {
            None => sending.await,
            Some(early) => Box::pin(passing_early(link, early, sending)).await,
        }
    };
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
        Err(Failure::Request) => {
            return match followers.broken() {
                Some(why) => refused(call, why, reader),
                None => own(answer::bad_request("the request's body is broken")),
            };
        }
    };
    let (mut head, body) = response.into_parts();
    call.outcome = ops::grpc_outcome(&head.headers).unwrap_or_else(|| Http::outcome(&head.status));
    let becomes = (head.status == StatusCode::SWITCHING_PROTOCOLS).then(|| fields::upgrade(&head.headers));
    fields::end_hop(&mut head.headers, Direction::Response);
    key.tell(&mut head.headers);
    head.version = hyper::Version::HTTP_11;
    if let Some(protocol) = becomes {
        let Some(protocol) = protocol.filter(|_| is_upgrade) else {
            return refused(call, Refusal::UpstreamConfused, reader);
        };
        fields::set_upgrade(&mut head.headers, protocol);
        link.onward.set(Some(Onward::Lease(lease)));
        return Response::from_parts(head, Outgoing::Own(Bytes::new()));
    }
    if is_head {
        // There is none, whatever its head says.
        lease.finished();
    }
    let elapsed = Duration::from_micros(engine.clock.micros().saturating_sub(started_micros));
    let end = longest.map(|longest| {
        let sleep = tokio::time::sleep(longest.saturating_sub(elapsed));
        Box::new(End { sleep: Box::pin(sleep), is_grpc: reader == Reader::Grpc })
    });
    edited(Response::from_parts(head, Outgoing::Passed(Passed { body, lease, call, end })), edits)
}

/// Leads a client to the server that it names, if it may go there.
async fn connect(
    mut call: Open,
    head: &Parts,
    stream: Option<OnUpgrade>,
    of_listener: Option<Duration>,
    neutral: Call,
) -> Response<Outgoing> {
    let Some((host, port)) = tunnel::named(head) else {
        return own(answer::bad_request("the target is no host and port"));
    };
    let listener = Rc::clone(&call.listener);
    let Some(tunnel) = tunnel::find(&listener.tunnels, &host, port) else {
        return refused(call, Refusal::Denied, Reader::Http);
    };
    call.tunnel = Some(Rc::clone(tunnel));
    let link = Rc::clone(&call.link);
    let cx = Cx { now_micros: call.started_micros, peer: &link.peer };
    let of_target = match admit(&tunnel.policies, 0..usize::MAX, neutral, &cx) {
        Ok(within) => within,
        Err(why) => return refused(call, why, Reader::Http),
    };
    let within = of_listener.into_iter().chain(of_target).min();
    let server = match tunnel.open((host, port), &link.peer, within).await {
        Ok(server) => server,
        Err(why) => return refused(call, why, Reader::Http),
    };
    call.outcome = Outcome::Ok;
    match stream {
        Some(stream) => {
            tokio::task::spawn_local(Rc::clone(tunnel).pass(stream, server, listener.max_duration));
        }
        None => link.onward.set(Some(Onward::Tunnel(server, Rc::clone(tunnel)))),
    }
    own(Response::new(Bytes::new()))
}

/// Passes on what comes before the answer while that is awaited.
async fn passing_early(
    link: &Link,
    mut early: Receiver<Vec<u8>>,
    sending: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    let mut sending = pin!(sending);
    loop {
        tokio::select! {
            biased;
            Some(head) = early.recv() => link.interject(&head),
            sent = &mut sending => {
                // What came with the answer stands before it.
                while let Ok(head) = early.try_recv() {
                    link.interject(&head);
                }
                return sent;
            }
        }
    }
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
        tunnel: None,
        clock: engine.clock,
        ticket: Ticket { conn, seq: link.requests.get() },
        op: ops::op(request.method(), request.headers()),
        started_micros: engine.clock.micros(),
        outcome: Outcome::ClientError,
    }
}

/// Asks some policies. Returns how long the answer may take, if they say so.
fn admit(
    policies: &RefCell<Vec<Box<dyn Policy>>>,
    which: Range<usize>,
    call: Call,
    cx: &Cx<'_>,
) -> Result<Option<Duration>, Refusal> {
    let mut policies = policies.borrow_mut();
    let end = which.end.min(policies.len());
    let Some(policies) = policies.get_mut(which.start..end).filter(|policies| !policies.is_empty()) else {
        return Ok(None);
    };
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

/// Shows policies a request that was answered before it came to them.
fn skip(policies: &RefCell<Vec<Box<dyn Policy>>>, which: RangeFrom<usize>, call: Call, cx: &Cx<'_>) {
    let mut calls = [Call { verdict: Verdict::Refuse(Refusal::Filtered), ..call }];
    let mut policies = policies.borrow_mut();
    let policies = policies.get_mut(which).unwrap_or_default();
    policies.iter_mut().for_each(|policy| policy.on_calls(&mut calls, cx));
}

/// The answer to a request that has come to its end at a filter.
fn at_filter(mut call: Open, ended: Ended, reader: Reader) -> Response<Outgoing> {
    match ended {
        Ended::Answered(answer) => {
            call.outcome = Http::outcome(&answer.status());
            own(answer)
        }
        Ended::Refused(why, fields) => {
            let mut answer = refused(call, why, reader);
            answer.headers_mut().extend(fields);
            answer
        }
    }
}

/// Ends what is for this hop only. Returns what the connection is to become, and `None` if nobody can say for sure whom the
/// request is for.
fn end_hop(head: &mut Parts, is_http2: bool, keeps_notes: bool) -> Option<Option<HeaderValue>> {
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
    // Notes of how names were written are among them.
    if !keeps_notes {
        head.extensions.clear();
    }
    Some(upgrade)
}

/// Sends a request, more than once if its route says so.
async fn send(
    forward: &Forward,
    target: &Rc<Target>,
    head: Parts,
    body: Inbound,
    key: &[u8],
) -> Result<Answer, Failure> {
    let has_body = !body.is_end_stream();
    let is_idempotent = ops::info(ops::op(&head.method, &head.headers)).idempotent;
    let Some(retry) = &forward.retry else {
        let body = if has_body { outbound(body) } else { Outbound::Empty };
        return target.servers.send(Request::from_parts(head, body), key, is_idempotent && !has_body).await;
    };
    retry.note();
    let body = if has_body { hold(body, retry).await? } else { Held::Whole(Bytes::new()) };
    let bytes = match body {
        Held::Streamed(body) => {
            // What has begun to flow cannot flow again.
            return target.servers.send(Request::from_parts(head, outbound(body)), key, false).await;
        }
        Held::Whole(bytes) => bytes,
    };
    let mut last = target;
    // Its place among those that are being sent again, from the second attempt on.
    let mut share = None;
    for number in 0.. {
        let whole = || Request::from_parts(head.clone(), Outbound::Whole(bytes.clone()));
        let sending = async {
            match retry.hedge_after.filter(|_| is_idempotent) {
                None => last.servers.send(whole(), key, is_idempotent).await,
                Some(after) => {
                    let other = forward.target().unwrap_or(target);
                    hedged([last, other], whole, key, || retry.take_hedge(), after).await
                }
            }
        };
        let sent = match retry.per_try {
            None => sending.await,
            Some(per_try) => tokio::time::timeout(per_try, sending).await.unwrap_or(Err(TIMED_OUT)),
        };
        let is_wanted = match &sent {
            Ok(answer) => retry.wants_other(answer.response.status(), is_idempotent),
            Err(failure) => retry.wants(*failure, is_idempotent),
        };
        let Some(wait) = is_wanted.then(|| retry.take(number)).flatten() else { return sent };
        let next = forward.target().unwrap_or(target);
        if share.is_none() {
            share = next.servers.take_retry();
            if share.is_none() {
                return sent;
            }
        }
        drop(sent);
        tokio::time::sleep(wait).await;
        last = next;
    }
    Err(Failure::Server(Refusal::UpstreamUnreachable))
}

/// Sends a request to one server, and to another if the first has not answered after a while. The first answer counts, and the
/// other request is broken off.
async fn hedged(
    [one, other]: [&Rc<Target>; 2],
    request: impl Fn() -> Request<Outbound>,
    key: &[u8],
    may_be_sent: impl Fn() -> bool,
    after: Duration,
) -> Result<Answer, Failure> {
    let mut first = pin!(one.servers.send(request(), key, true));
    if let Ok(sent) = tokio::time::timeout(after, &mut first).await {
        return sent;
    }
    if !may_be_sent() {
        return first.await;
    }
    let mut second = pin!(other.servers.send(request(), key, true));
    tokio::select! {
        sent = &mut first => if sent.is_ok() { sent } else { second.await },
        sent = &mut second => if sent.is_ok() { sent } else { first.await },
    }
}

fn outbound(body: Inbound) -> Outbound {
    match body {
        Inbound::Changed(body) => Outbound::Changed(Box::pin(body)),
        Inbound::Plain(body) => Outbound::Streamed(body),
    }
}

/// A body that can be sent again, or not.
enum Held {
    Streamed(Inbound),
    Whole(Bytes),
}

/// Takes the whole body, if it says beforehand that it is small enough: nobody may be waiting for an answer to its beginning.
async fn hold(body: Inbound, retry: &Retry) -> Result<Held, Failure> {
    match body.size_hint().exact() {
        Some(length) if length <= retry.max_body => {
            let whole = body.collect().await.map_err(|_| Failure::Request)?;
            Ok(Held::Whole(whole.to_bytes()))
        }
        _ => Ok(Held::Streamed(body)),
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
