//! Lets pages of other origins read answers (Fetch Standard, "CORS protocol").
//!
//! What is asked before a request (preflight) is answered here. What the server says about origins itself is taken away, so that
//! browsers never see two answers.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN,
};
use http::{HeaderMap, Method, Response, StatusCode, request, response};
use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use serde::Deserialize;
use std::rc::Rc;
use std::sync::Arc;

use super::{Fetch, Follow, HttpCx, HttpFactory, HttpFilter, HttpKind, Step, Transform, vary};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "cors",
    help: Help {
        summary: "Lets pages of other origins read answers.",
        options: &[
            FilterOption {
                name: "origins",
                takes: Takes::Texts,
                without: Without::Nothing,
                about: "as in https://app.example.com, https://*.example.com, or * for all",
            },
            FilterOption {
                name: "methods",
                takes: Takes::Texts,
                without: Without::Default("[GET, HEAD, POST]"),
                about: "what pages may do",
            },
            FilterOption {
                name: "headers",
                takes: Takes::Texts,
                without: Without::Means("whatever is asked for"),
                about: "fields that requests of pages may have",
            },
            FilterOption {
                name: "expose",
                takes: Takes::Texts,
                without: Without::Means("those that are always open"),
                about: "fields of answers that pages may read",
            },
            FilterOption {
                name: "credentials",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "whether requests may carry cookies and logins",
            },
            FilterOption {
                name: "max_age",
                takes: Takes::Duration,
                without: Without::Default("10m"),
                about: "how long browsers may remember what they have asked",
            },
        ],
        docs: "Questions of browsers (OPTIONS) are answered here and reach no server. Requests of other origins pass as they are, but\n\
               browsers do not show their answers to pages.",
        example: "- cors: { origins: [\"https://app.example.com\"], methods: [GET, POST, DELETE], credentials: true }",
    },
    build: |options, _| build(options).map(|cors| Box::new(cors) as Box<dyn HttpFactory>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCors {
    origins: Vec<String>,
    methods: Option<Vec<String>>,
    headers: Option<Vec<String>>,
    expose: Option<Vec<String>>,
    #[serde(default)]
    credentials: bool,
    max_age: Option<Period>,
}

#[derive(Clone)]
struct Cors(Arc<Rules>);

struct Rules {
    origins: Vec<Origin>,
    methods: HeaderValue,
    /// `None`: whatever is asked for.
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    has_credentials: bool,
    max_age: HeaderValue,
}

enum Origin {
    Any,
    /// What stands before and behind one or more labels.
    Below(String, String),
    One(String),
}

impl Origin {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/').to_ascii_lowercase();
        if text == "*" {
            return Some(Self::Any);
        }
        let (scheme, host) = text.split_once("://")?;
        if scheme.is_empty() || host.is_empty() || host.contains(['/', ' ']) {
            return None;
        }
        match host.strip_prefix("*.") {
            Some(rest) if !rest.contains('*') => {
                Some(Self::Below(format!("{scheme}://"), format!(".{rest}")))
            }
            None if !host.contains('*') => Some(Self::One(text)),
            _ => None,
        }
    }

    fn is(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(before, behind) => {
                let host = origin.strip_prefix(before.as_str());
                let label = host.and_then(|host| host.strip_suffix(behind.as_str()));
                label.is_some_and(|label| !label.is_empty() && !label.contains(['/', ':']))
            }
            Self::One(one) => origin == one,
        }
    }
}

fn build(options: &Options) -> Result<Cors, Vec<ConfigError>> {
    let list = |texts: &[String]| HeaderValue::try_from(texts.join(", "));
    let is_list = |texts: &Option<Vec<String>>| {
        let is_token = |text: &String| text == "*" || http::HeaderName::try_from(text.as_str()).is_ok();
        texts.as_ref().is_none_or(|texts| texts.iter().all(is_token))
    };
    let raw: RawCors = options.check(|raw: &RawCors, errors| {
        if raw.origins.is_empty() {
            errors.push(
                options.error("origins", "names no origin").hint("as in `[\"https://app.example.com\"]`"),
            );
        }
        for text in raw.origins.iter().filter(|text| Origin::read(text).is_none()) {
            let hint = "scheme and host, as in `https://app.example.com` or `https://*.example.com`, or `*`";
            errors.push(options.error("origins", format!("`{text}` is no origin")).hint(hint));
        }
        for (name, texts) in [("methods", &raw.methods), ("headers", &raw.headers), ("expose", &raw.expose)] {
            if !is_list(texts) {
                errors.push(
                    options.error(name, "has a name that HTTP cannot have").hint("as in `[GET, X-Id]`"),
                );
            }
        }
    })?;
    let methods = raw.methods.unwrap_or_else(|| ["GET", "HEAD", "POST"].map(str::to_string).to_vec());
    let fail = |_| vec![options.error("", "names cannot be put on the wire")];
    let max_age = raw.max_age.map_or(Duration::from_secs(600), Duration::from);
    Ok(Cors(Arc::new(Rules {
        origins: raw.origins.iter().filter_map(|text| Origin::read(text)).collect(),
        methods: list(&methods).map_err(fail)?,
        headers: raw.headers.map(|texts| list(&texts)).transpose().map_err(fail)?,
        expose: raw.expose.map(|texts| list(&texts)).transpose().map_err(fail)?,
        has_credentials: raw.credentials,
        max_age: HeaderValue::from(max_age.as_secs()),
    })))
}

impl HttpFactory for Cors {
    fn open(&self, _fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        Box::new(self.clone())
    }
}

impl Rules {
    /// What an answer says to a page of `origin`; `None` if it may not read it.
    fn allow(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        if !self.origins.iter().any(|known| known.is(&text)) {
            return None;
        }
        // With credentials, a star means nothing to browsers.
        Some(if self.is_open() { HeaderValue::from_static("*") } else { origin.clone() })
    }

    /// Whether all origins are told the same.
    fn is_open(&self) -> bool {
        !self.has_credentials && matches!(*self.origins, [Origin::Any])
    }

    fn mark(&self, headers: &mut HeaderMap, allowed: HeaderValue) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.has_credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    fn preflight(&self, head: &request::Parts, allowed: HeaderValue) -> Response<Bytes> {
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        self.mark(headers, allowed);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        let asked = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(fields) = self.headers.as_ref().or(asked) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, fields.clone());
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        vary(headers, "origin");
        vary(headers, "access-control-request-method");
        vary(headers, "access-control-request-headers");
        answer
    }
}

impl HttpFilter for Cors {
    fn on_request(&self, head: &mut request::Parts, _cx: &HttpCx<'_>) -> Step {
        let origin = head.headers.get(ORIGIN);
        let allowed = origin.and_then(|origin| self.0.allow(origin));
        let is_question =
            head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        match (origin, allowed) {
            (Some(_), Some(allowed)) if is_question => Step::Answer(self.0.preflight(head, allowed)),
            (Some(_), None) if is_question => Step::Refuse(Refusal::Denied, HeaderMap::new()),
            (_, allowed) => Step::Follow(Box::new(Reader { rules: Arc::clone(&self.0), allowed })),
        }
    }
}

struct Reader {
    rules: Arc<Rules>,
    allowed: Option<HeaderValue>,
}

impl Follow for Reader {
    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        head.headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        head.headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        if let Some(allowed) = self.allowed.take() {
            self.rules.mark(&mut head.headers, allowed);
            if let Some(expose) = &self.rules.expose {
                head.headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
            }
        }
        if !self.rules.is_open() {
            vary(&mut head.headers, "origin");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, cx, head, open, refused};
    use super::*;

    const EXAMPLE: &str = "- cors: { origins: [\"https://app.example.com\", \"https://*.example.org\"], expose: [X-Id], credentials: true }";

    fn read(filter: &dyn HttpFilter, origin: &str) -> response::Parts {
        let mut asked = head("GET", "/", &[("origin", origin)]);
        let Step::Follow(mut follow) = filter.on_request(&mut asked, &cx()) else { panic!("it follows") };
        let mut answered = answer(200, &[("access-control-allow-origin", "*")]);
        assert!(follow.on_response(&mut answered).is_none());
        answered
    }

    #[test]
    fn only_origins_that_are_named_may_read_answers() {
        let filter = open(&KIND, EXAMPLE);
        for (origin, is_allowed) in [
            ("https://app.example.com", true),
            ("https://APP.example.com", true),
            ("https://a.b.example.org", true),
            ("http://app.example.com", false),
            ("https://app.example.com.evil.net", false),
            ("https://example.org", false),
            ("https://evil.net/.example.org", false),
            ("null", false),
        ] {
            let answered = read(&*filter, origin);
            let told = answered.headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(told.is_some(), is_allowed, "{origin}");
            assert!(told.is_none_or(|told| told == origin));
            assert_eq!(answered.headers["vary"], "origin");
        }
    }

    #[test]
    fn questions_are_answered_here() {
        let filter = open(&KIND, EXAMPLE);
        let fields = [
            ("origin", "https://app.example.com"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x-a, x-b"),
        ];
        let Step::Answer(told) = filter.on_request(&mut head("OPTIONS", "/x", &fields), &cx()) else {
            panic!("it is answered")
        };
        assert_eq!(told.status(), 204);
        assert_eq!(told.headers()[ACCESS_CONTROL_ALLOW_METHODS], "GET, HEAD, POST");
        assert_eq!(told.headers()[ACCESS_CONTROL_ALLOW_HEADERS], "x-a, x-b");
        assert_eq!(told.headers()[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        let other = [("origin", "https://evil.net"), fields[1]];
        assert!(matches!(
            filter.on_request(&mut head("OPTIONS", "/x", &other), &cx()),
            Step::Refuse(Refusal::Denied, _)
        ));
        // An OPTIONS that no browser asks is for the server.
        assert!(matches!(filter.on_request(&mut head("OPTIONS", "/x", &[]), &cx()), Step::Follow(_)));
    }

    #[test]
    fn a_star_is_told_to_everybody_alike() {
        let filter = open(&KIND, "- cors: { origins: [\"*\"] }");
        let answered = read(&*filter, "https://any.where");
        assert_eq!(answered.headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!answered.headers.contains_key("vary"));
        let text =
            refused(&KIND, "- cors: { origins: [example.com, \"https://*x.com\"], methods: [\"a b\"] }");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
