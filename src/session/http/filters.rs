//! A request on its way through typed filters, and its answer on the way back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use mecha_clusters::http::{Answer, Failure, HttpServers, Outbound};
use mecha_core::Refusal;
use mecha_filters::http::{Fetch, Fetching, Follow, HttpCx, HttpFilter, Step, Trailers};

use super::changed::{Changed, Inbound};
use super::outgoing::Outgoing;

/// The longest answer that a filter is told.
const MAX_FETCHED: usize = 1 << 20;

/// What filters have to do with one request.
#[derive(Default)]
pub(super) struct Followers {
    followers: Vec<Box<dyn Follow>>,
    /// Why the request's body was broken off, if a filter looks at it and did that.
    broken: Option<Rc<Cell<Option<Refusal>>>>,
}

/// Why a request ends at a filter.
pub(super) enum Ended {
    Answered(Response<Bytes>),
    Refused(Refusal, hyper::HeaderMap),
}

impl Followers {
    /// Takes a request past one filter.
    pub(super) async fn pass(
        &mut self,
        filter: &dyn HttpFilter,
        head: &mut Parts,
        body: &mut Option<Inbound>,
        cx: &HttpCx<'_>,
    ) -> Result<(), Ended> {
        let mut step = filter.on_request(head, cx);
        loop {
            step = match step {
                Step::Answer(answer) => return Err(Ended::Answered(answer)),
                Step::Follow(mut follow) => {
                    if let Some(transform) = follow.request_body() {
                        let broken = Rc::clone(self.broken.get_or_insert_default());
                        *body = body
                            .take()
                            .map(|body| Inbound::Changed(Box::new(Changed::new(body, transform, broken))));
                    }
                    self.followers.push(follow);
                    return Ok(());
                }
                Step::Pass => return Ok(()),
                Step::Refuse(why, fields) => return Err(Ended::Refused(why, fields)),
                Step::Wait(waiting) => waiting.await(head),
            };
        }
    }

    /// Why the request's body was broken off, if a filter did that.
    pub(super) fn broken(&self) -> Option<Refusal> {
        self.broken.as_ref()?.get()
    }

    /// Whether nobody follows.
    pub(super) fn is_empty(&self) -> bool {
        self.followers.is_empty()
    }

    /// Shows them the answer.
    pub(super) async fn answered(self, answer: Response<Outgoing>, is_head: bool) -> Response<Outgoing> {
        let (mut head, mut body) = answer.into_parts();
        for mut follow in self.followers.into_iter().rev() {
            if let Some(max) = follow.holds(&head) {
                let whole = Limited::new(body, max).collect().await.ok().map(|whole| {
                    let trailers = whole.trailers().cloned().unwrap_or_default();
                    (whole.to_bytes(), trailers)
                });
                body = Outgoing::Own(follow.on_whole(&mut head, whole));
                continue;
            }
            let transform = follow.on_response(&mut head);
            // A filter may have made another answer of it.
            let has_body = !is_head
                && !head.status.is_informational()
                && !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            if let Some(transform) = transform.filter(|_| has_body) {
                body = Outgoing::Changed(Box::new(Changed::new(body, transform, Rc::default())));
            }
        }
        Response::from_parts(head, body)
    }
}

/// Asks the servers of a cluster on behalf of a filter.
pub struct Asker(pub Rc<HttpServers>);

impl Fetch for Asker {
    fn fetch(&self, request: Request<Bytes>, within: Duration) -> Fetching {
        let servers = Rc::clone(&self.0);
        Box::pin(async move {
            let asking = async {
                let sent = servers.send(request.map(Outbound::Whole), b"", true).await;
                let Answer { response, mut lease } = sent.map_err(|failure| match failure {
                    Failure::Request => Refusal::UpstreamGone,
                    Failure::Server(why) => why,
                })?;
                let (head, body) = response.into_parts();
                let whole = Limited::new(body, MAX_FETCHED).collect().await;
                let whole = whole.map_err(|_| Refusal::UpstreamGone)?;
                lease.finished();
                let trailers = whole.trailers().cloned();
                let mut answer = Response::from_parts(head, whole.to_bytes());
                if let Some(trailers) = trailers {
                    answer.extensions_mut().insert(Trailers(trailers));
                }
                Ok(answer)
            };
            tokio::time::timeout(within, asking).await.unwrap_or(Err(Refusal::TimedOut))
        })
    }
}
