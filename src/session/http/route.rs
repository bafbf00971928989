//! What becomes of a request: where it goes, what it is answered, and when it is sent again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HOST, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode, Uri};
use mecha_clusters::http::{Failure, HttpServers};
use mecha_config::HashOn;
use mecha_core::{Policy, Refusal};
use mecha_filters::http::HttpFilter;
use mecha_http::edit::{Edits, with_path, with_prefix};
use mecha_http::routes::{Conditions, Matched, host_in};
use mecha_telemetry::RouteMetrics;

/// Requests that may be sent again when none has been sent yet, and at most ever.
const MAX_TOKENS: u32 = 10;

/// One route of a listener.
pub struct HttpRoute {
    /// Which requests it takes.
    pub conditions: Conditions,
    /// What becomes of them.
    pub action: Action,
    /// Filters behind those of the listener.
    pub filters: Vec<Box<dyn HttpFilter>>,
    /// What changes in requests.
    pub request: Edits,
    /// What changes in answers.
    pub response: Edits,
}

/// What becomes of a request.
pub enum Action {
    /// It goes to a server.
    Forward(Forward),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// It is answered.
    Respond(StatusCode, Bytes),
}

/// How requests go on.
#[derive(Default)]
pub struct Forward {
    /// Where, with weights.
    pub targets: Vec<(Rc<Target>, u32)>,
    /// Takes the place of the prefix that has matched.
    pub prefix: Option<String>,
    /// Takes the place of the path.
    pub path: Option<String>,
    /// Takes the place of the host.
    pub host: Option<HeaderValue>,
    /// For the head of the answer, all attempts together.
    pub timeout: Option<Duration>,
    /// For the request and its answer, to their ends.
    pub max_duration: Option<Duration>,
    /// When it is sent again.
    pub retry: Option<Retry>,
}

/// One cluster that requests go to.
pub struct Target {
    /// Its servers.
    pub servers: Rc<HttpServers>,
    /// What is hashed to choose one, where a hash decides.
    pub hash_on: HashOn,
    /// Its policies, behind those of the listener.
    pub policies: RefCell<Vec<Box<dyn Policy>>>,
    /// Counts what goes there, on a listener with routes.
    pub metrics: Option<Arc<RouteMetrics>>,
}

/// Where the client is sent; what is missing stays as it is.
pub struct Redirect {
    /// A redirection.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host and maybe port.
    pub host: Option<String>,
    /// The whole path.
    pub path: Option<String>,
    /// In place of the prefix that has matched.
    pub prefix: Option<String>,
}

/// Reasons to send a request again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No server could be reached.
    pub connect: bool,
    /// The connection was lost, or a try took too long.
    pub reset: bool,
    /// Answers: first and last status of each range.
    pub statuses: Vec<(u16, u16)>,
}

/// When a request is sent again.
pub struct Retry {
    /// How often at most.
    pub attempts: u32,
    /// For which reasons.
    pub on: RetryOn,
    /// For the head of one answer.
    pub per_try: Option<Duration>,
    /// When another server is asked too, although the first one may yet answer.
    pub hedge_after: Option<Duration>,
    /// The first wait; it doubles, and half of it is left to chance.
    pub backoff: Duration,
    /// Bodies up to this size are held.
    pub max_body: u64,
    /// Of a hundred requests, so many may be sent again.
    pub budget: u32,
    /// Hundredths of requests that may be sent again now.
    pub tokens: Cell<u32>,
}

// === impl HttpRoute ===

/// The first of `routes` that takes the request with this head.
pub(super) fn find<'r>(routes: &'r [HttpRoute], head: &Parts) -> Option<(&'r HttpRoute, Matched)> {
    routes.iter().find_map(|route| Some((route, route.conditions.hold(head)?)))
}

// === impl Forward ===

impl Forward {
    /// The cluster for one request.
    pub(super) fn target(&self) -> Option<&Rc<Target>> {
        match &*self.targets {
            [] => None,
            [(only, _)] => Some(only),
            several => {
                let total: u32 = several.iter().map(|(_, weight)| weight).sum();
                let mut at = fastrand::u32(..total.max(1));
                let chosen = several.iter().find(|(_, weight)| {
                    let is_here = at < *weight;
                    at = at.saturating_sub(*weight);
                    is_here
                });
                chosen.or(several.first()).map(|(target, _)| target)
            }
        }
    }

    /// Changes path and host. Returns `false` if that makes no request.
    pub(super) fn rewrite(&self, head: &mut Parts, matched: Matched) -> bool {
        let path = match (&self.path, &self.prefix) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(prefix)) => Some(with_prefix(head.uri.path(), matched.prefix, prefix)),
            (None, None) => None,
        };
        if let Some(path) = path {
            let Some(path) = with_path(&head.uri, &path) else { return false };
            head.uri = Uri::from(path);
        }
        if let Some(host) = &self.host {
            head.headers.insert(HOST, host.clone());
        }
        true
    }
}

// === impl Redirect ===

impl Redirect {
    /// The answer to the request with this head.
    pub(super) fn answer(&self, head: &Parts, matched: Matched, is_tls: bool) -> Response<Bytes> {
        let path = match (&self.path, &self.prefix) {
            (Some(path), _) => path.clone(),
            (None, Some(prefix)) => with_prefix(head.uri.path(), matched.prefix, prefix),
            (None, None) => head.uri.path().to_string(),
        };
        let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let place = if self.scheme.is_some() || self.host.is_some() {
            let scheme = self.scheme.as_deref().unwrap_or(if is_tls { "https" } else { "http" });
            let host = self.host.as_deref().unwrap_or_else(|| host_in(&head.uri, &head.headers));
            format!("{scheme}://{host}{path}{query}")
        } else {
            // Beginning with two slashes, it would name a host.
            format!("/{}{query}", path.trim_start_matches('/'))
        };
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = self.status;
        if let Ok(place) = HeaderValue::try_from(place) {
            answer.headers_mut().insert(LOCATION, place);
        }
        answer
    }
}

// === impl RetryOn ===

impl RetryOn {
    /// What the words of the configuration mean.
    ///
    /// # Errors
    /// A word that means nothing.
    pub fn new(words: &[String]) -> Result<Self, String> {
        let mut on = Self::default();
        for word in words {
            match (word.as_str(), word.parse()) {
                ("connect", _) => on.connect = true,
                ("reset", _) => on.reset = true,
                ("gateway", _) => on.statuses.push((502, 504)),
                ("5xx", _) => on.statuses.push((500, 599)),
                (_, Ok(status @ 400..=599)) => on.statuses.push((status, status)),
                _ => return Err(word.clone()),
            }
        }
        Ok(on)
    }
}

// === impl Retry ===

impl Retry {
    /// A request has come.
    pub(super) fn note(&self) {
        self.tokens.set((self.tokens.get() + self.budget).min(MAX_TOKENS * 100));
    }

    /// Whether another attempt is called for. Only those that change nothing however often they come are made again
    /// when a server may have seen them.
    pub(super) fn wants(&self, failure: Failure, is_safe: bool) -> bool {
        match failure {
            Failure::Request => false,
            Failure::Server(Refusal::UpstreamUnreachable | Refusal::TooManyPins) => self.on.connect,
            Failure::Server(Refusal::UpstreamGone | Refusal::TimedOut) => self.on.reset && is_safe,
            Failure::Server(_) => false,
        }
    }

    /// As [`Retry::wants`], for an answer.
    pub(super) fn wants_other(&self, status: StatusCode, is_safe: bool) -> bool {
        let is_in = |(first, last): &(u16, u16)| (*first..=*last).contains(&status.as_u16());
        is_safe && self.on.statuses.iter().any(is_in)
    }

    /// Takes one attempt of the budget for another server to be asked at the same time. Whether there is one.
    pub(super) fn take_hedge(&self) -> bool {
        let left = self.tokens.get().checked_sub(100);
        left.inspect(|left| self.tokens.set(*left)).is_some()
    }

    /// Takes one attempt of the budget, if there is one, and says how long to wait before it.
    pub(super) fn take(&self, number: u32) -> Option<Duration> {
        if number >= self.attempts || self.tokens.get() < 100 {
            return None;
        }
        self.tokens.set(self.tokens.get() - 100);
        let whole = self.backoff.saturating_mul(1 << number.min(10)).min(Duration::from_secs(10));
        Some(whole.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(attempts: u32, budget: u32) -> Retry {
        let on = RetryOn::new(&["connect".into(), "reset".into(), "gateway".into(), "429".into()]).unwrap();
        Retry {
            attempts,
            on,
            per_try: None,
            hedge_after: None,
            backoff: Duration::from_millis(100),
            max_body: 0,
            budget,
            tokens: Cell::new(MAX_TOKENS * 100),
        }
    }

    #[test]
    fn what_a_server_may_have_done_is_done_again_only_if_that_changes_nothing() {
        let retry = retry(1, 0);
        let (gone, unreachable) =
            (Failure::Server(Refusal::UpstreamGone), Failure::Server(Refusal::UpstreamUnreachable));
        assert!(retry.wants(gone, true) && !retry.wants(gone, false));
        assert!(retry.wants(unreachable, false));
        assert!(retry.wants_other(StatusCode::BAD_GATEWAY, true));
        assert!(retry.wants_other(StatusCode::TOO_MANY_REQUESTS, true));
        assert!(!retry.wants_other(StatusCode::BAD_GATEWAY, false));
        assert!(!retry.wants_other(StatusCode::INTERNAL_SERVER_ERROR, true));
    }

    #[test]
    fn the_budget_bounds_what_is_sent_again() {
        let retry = retry(3, 20);
        let sent = (0..100).filter(|_| {
            retry.note();
            retry.take(0).is_some()
        });
        // Ten to begin with, and then one of five.
        assert_eq!(sent.count(), 29);
        assert!(RetryOn::new(&["sometimes".into()]).is_err());
    }

    #[test]
    fn waits_double_and_end_with_the_attempts() {
        let retry = retry(3, 100);
        for (number, most) in [(0, 100), (1, 200), (2, 400)] {
            let wait = retry.take(number).unwrap().as_millis();
            assert!((most / 2..=most).contains(&wait), "{number}: {wait}");
        }
        assert!(retry.take(3).is_none());
    }
}
