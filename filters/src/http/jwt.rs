//! Lets those in who show a token that an issuer has signed (RFC 6750, RFC 7519).
//!
//! The issuer's keys (a JWKS) are in a file, which is read again when it has changed, or at a server of a cluster, which is asked
//! now and then, and when a token is signed by a key that nobody knows yet.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Request, Uri, request};
use mecha_config::units::Period;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use mecha_users::{Issuer, TokenError};
use serde::Deserialize;
use serde_json::Value;

use super::{Fetch, HttpCx, HttpFactory, HttpFilter, HttpKind, Resume, Step};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "jwt",
    help: Help {
        summary: "Lets those in who show a token that an issuer has signed.",
        options: &[
            FilterOption {
                name: "jwks_file",
                takes: Takes::Text,
                without: Without::Means("the keys are at `cluster`"),
                about: "a file with the issuer's keys",
            },
            FilterOption {
                name: "cluster",
                takes: Takes::Text,
                without: Without::Means("the keys are in `jwks_file`"),
                about: "a cluster of `clusters` that has the issuer's keys",
            },
            FilterOption {
                name: "path",
                takes: Takes::Text,
                without: Without::Default("/.well-known/jwks.json"),
                about: "where they are there",
            },
            FilterOption {
                name: "refresh",
                takes: Takes::Duration,
                without: Without::Default("5m"),
                about: "how old keys may be until they are looked for again",
            },
            FilterOption {
                name: "issuer",
                takes: Takes::Text,
                without: Without::Means("any"),
                about: "what `iss` must be",
            },
            FilterOption {
                name: "audience",
                takes: Takes::Text,
                without: Without::Means("any"),
                about: "what `aud` must have",
            },
            FilterOption {
                name: "claim",
                takes: Takes::Text,
                without: Without::Default("sub"),
                about: "the claim that must name somebody",
            },
            FilterOption {
                name: "claims",
                takes: Takes::Texts,
                without: Without::Means("none"),
                about: "claims that the server gets, with their fields, as in sub:x-user",
            },
            FilterOption {
                name: "strip",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "keeps the token from the server",
            },
        ],
        docs: "RS256 and ES256. Fields of `claims` that a client sends itself are taken away.",
        example: "- jwt: { cluster: issuer, path: /keys, issuer: \"https://id.example.com\", audience: shop, claims: [\"sub:x-user\"] }",
    },
    build: |options, _| build(options).map(|jwt| Box::new(jwt) as Box<dyn HttpFactory>),
};

/// How often a file is looked at, and a server asked about keys that nobody knows.
const PAUSE_MICROS: u64 = 5_000_000;

/// How long a server of keys may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwt {
    jwks_file: Option<String>,
    cluster: Option<String>,
    path: Option<String>,
    refresh: Option<Period>,
    issuer: Option<String>,
    audience: Option<String>,
    claim: Option<String>,
    #[serde(default)]
    claims: Vec<String>,
    #[serde(default)]
    strip: bool,
}

#[derive(Clone)]
struct Jwt(Arc<Rules>);

struct Rules {
    place: Place,
    refresh_micros: u64,
    issuer: Option<String>,
    audience: Option<String>,
    claim: String,
    claims: Vec<(String, HeaderName)>,
    is_stripped: bool,
}

enum Place {
    File(String),
    Server(String, Uri),
}

/// A claim and the field that it goes to.
fn claim(text: &str) -> Option<(String, HeaderName)> {
    let (claim, field) = text.split_once(':')?;
    let field = HeaderName::try_from(field.trim()).ok()?;
    (!claim.is_empty()).then(|| (claim.trim().to_string(), field))
}

fn read(path: &str) -> Result<Issuer, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("`{path}`: {error}"))?;
    Issuer::read(&text).map_err(|why| format!("`{path}`: {why}"))
}

fn build(options: &Options) -> Result<Jwt, Vec<ConfigError>> {
    let path = |raw: &RawJwt| {
        let text = raw.path.as_deref().unwrap_or("/.well-known/jwks.json");
        Uri::try_from(text).ok().filter(|_| text.starts_with('/'))
    };
    let raw: RawJwt = options.check(|raw: &RawJwt, errors| {
        match (&raw.jwks_file, &raw.cluster) {
            (Some(file), None) => {
                if let Err(why) = read(file) {
                    let hint = "a JWKS, as the issuer publishes it";
                    errors.push(options.error("jwks_file", why).hint(hint));
                }
            }
            (None, Some(_)) => {}
            _ => {
                let hint = "`jwks_file: keys.json`, or `cluster: issuer` and its `path`";
                errors.push(options.error("", "it must be clear where the keys are").hint(hint));
            }
        }
        if path(raw).is_none() {
            errors.push(options.error("path", "is no path").hint("as in `/keys`"));
        }
        for text in raw.claims.iter().filter(|text| claim(text).is_none()) {
            errors.push(
                options
                    .error("claims", format!("`{text}` is no claim with a field"))
                    .hint("as in `sub:x-user`"),
            );
        }
    })?;
    let place = match (raw.jwks_file.clone(), raw.cluster.clone()) {
        (Some(file), _) => Place::File(file),
        (None, cluster) => Place::Server(cluster.unwrap_or_default(), path(&raw).unwrap_or_default()),
    };
    let refresh = raw.refresh.map_or(Duration::from_secs(300), Duration::from);
    Ok(Jwt(Arc::new(Rules {
        place,
        refresh_micros: u64::try_from(refresh.as_micros()).unwrap_or(u64::MAX),
        issuer: raw.issuer,
        audience: raw.audience,
        claim: raw.claim.unwrap_or_else(|| "sub".into()),
        claims: raw.claims.iter().filter_map(|text| claim(text)).collect(),
        is_stripped: raw.strip,
    })))
}

impl HttpFactory for Jwt {
    fn open(&self, fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        Box::new(Gate(Rc::new(Keys {
            rules: Arc::clone(&self.0),
            fetch,
            issuer: RefCell::default(),
            modified: Cell::default(),
            looked_micros: Cell::default(),
        })))
    }

    fn cluster(&self) -> Option<&str> {
        match &self.0.place {
            Place::File(_) => None,
            Place::Server(cluster, _) => Some(cluster),
        }
    }
}

struct Gate(Rc<Keys>);

/// The issuer's keys, as one worker knows them.
struct Keys {
    rules: Arc<Rules>,
    fetch: Option<Rc<dyn Fetch>>,
    issuer: RefCell<Option<Issuer>>,
    modified: Cell<Option<SystemTime>>,
    /// When they were looked for last; 0 is never.
    looked_micros: Cell<u64>,
}

impl Keys {
    fn learn(&self, mut issuer: Issuer) {
        issuer.name.clone_from(&self.rules.issuer);
        issuer.audience.clone_from(&self.rules.audience);
        issuer.claim.clone_from(&self.rules.claim);
        self.issuer.replace(Some(issuer));
    }

    /// Reads the file again if it has changed; one that cannot be used changes nothing.
    fn look_at(&self, path: &str, now_micros: u64) {
        let looked = self.looked_micros.get();
        if looked > 0 && now_micros.saturating_sub(looked) < PAUSE_MICROS {
            return;
        }
        self.looked_micros.set(now_micros.max(1));
        let modified = std::fs::metadata(path).and_then(|data| data.modified()).ok();
        if self.issuer.borrow().is_some() && modified == self.modified.get() {
            return;
        }
        match read(path) {
            Ok(issuer) => {
                self.modified.set(modified);
                self.learn(issuer);
            }
            Err(why) => tracing::warn!(why, "the keys of an issuer cannot be used"),
        }
    }

    /// Judges a token by the keys that are known. `None` if it may be the keys that are missing.
    fn judge(&self, token: &str, head: &mut request::Parts) -> Option<Step> {
        let issuer = self.issuer.borrow();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match issuer.as_ref()?.open(token, now) {
            Ok((_, claims)) => Some(self.passed(&claims, head)),
            Err(TokenError::Signature) => None,
            Err(_) => Some(refuse(true)),
        }
    }

    fn passed(&self, claims: &Value, head: &mut request::Parts) -> Step {
        for (claim, field) in &self.rules.claims {
            let text = match claims.get(claim) {
                Some(Value::String(text)) => text.clone(),
                Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
                Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
                _ => continue,
            };
            if let Ok(value) = HeaderValue::try_from(text) {
                head.headers.insert(field, value);
            }
        }
        if self.rules.is_stripped {
            head.headers.remove(AUTHORIZATION);
        }
        head.extensions.insert(super::Known);
        Step::Pass
    }
}

/// RFC 6750, section 3: who has shown nothing is not told of an error.
fn refuse(is_shown: bool) -> Step {
    let challenge = if is_shown { "Bearer error=\"invalid_token\"" } else { "Bearer" };
    let why = if is_shown { Refusal::LoginFailed } else { Refusal::LoginNeeded };
    Step::Refuse(why, HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))]))
}

impl HttpFilter for Gate {
    fn on_request(&self, head: &mut request::Parts, cx: &HttpCx<'_>) -> Step {
        let keys = &self.0;
        keys.rules.claims.iter().for_each(|(_, field)| drop(head.headers.remove(field)));
        let shown = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        let token = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some(token) = token.map(|(_, token)| token.trim().to_string()) else { return refuse(false) };
        let age = cx.now_micros.saturating_sub(keys.looked_micros.get());
        let (is_old, may_ask) = match &keys.rules.place {
            Place::File(path) => {
                keys.look_at(path, cx.now_micros);
                (false, false)
            }
            Place::Server(..) => {
                let is_first = keys.looked_micros.get() == 0;
                (is_first || age >= keys.rules.refresh_micros, is_first || age >= PAUSE_MICROS)
            }
        };
        if !is_old && let Some(step) = keys.judge(&token, head) {
            return step;
        }
        let asked = match (&keys.rules.place, &keys.fetch) {
            // While nobody knows any keys, everybody asks: there is no other way to an answer.
            (Place::Server(_, path), Some(fetch)) if may_ask || keys.issuer.borrow().is_none() => {
                keys.looked_micros.set(cx.now_micros.max(1));
                let mut request = Request::new(Bytes::new());
                *request.uri_mut() = path.clone();
                fetch.fetch(request, PATIENCE)
            }
            _ => return keys.judge(&token, head).unwrap_or_else(|| refuse(true)),
        };
        let keys = Rc::clone(keys);
        Step::Wait(Box::pin(async move {
            let answer = asked.await;
            Box::new(move |head: &mut request::Parts| {
                let text = answer.ok().filter(|answer| answer.status().is_success());
                let text = text.and_then(|answer| String::from_utf8(answer.into_body().to_vec()).ok());
                match text.as_deref().map(Issuer::read) {
                    Some(Ok(issuer)) => keys.learn(issuer),
                    Some(Err(why)) => tracing::warn!(why, "the keys of an issuer cannot be used"),
                    None => tracing::warn!("the keys of an issuer cannot be had"),
                }
                if keys.issuer.borrow().is_none() {
                    return Step::Refuse(Refusal::UpstreamUnreachable, HeaderMap::new());
                }
                keys.judge(&token, head).unwrap_or_else(|| refuse(true))
            }) as Resume
        }))
    }
}
