//! Keeps answers for the next who asks, as far as servers allow it (RFC 9111).
//!
//! What may be kept, for how long, and when the server must be asked again is `http-cache-semantics`' to say. This is a
//! shared cache: what is private, needs a login or sets a cookie is not kept. Each worker keeps its own, so nothing is locked.
//!
//! Deliberately absent: parts of answers (ranges pass by), and one request for many who ask for the same at a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, ETAG, HOST, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, RANGE, SET_COOKIE,
};
use http::{HeaderMap, Method, Response, StatusCode, request, response};
use http_cache_semantics::{AfterResponse, BeforeRequest, CacheOptions, CachePolicy};
use mecha_config::units::ByteSize;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use serde::Deserialize;

use super::{Fetch, Follow, HttpCx, HttpFactory, HttpFilter, HttpKind, Known, Step, Transform};
use crate::{BuildCx, Help};

pub(super) static KIND: HttpKind = HttpKind {
    name: "cache",
    help: Help {
        summary: "Keeps answers for the next who asks, as far as servers allow it.",
        options: &[
            FilterOption {
                name: "size",
                takes: Takes::Size,
                without: Without::Default("64MiB"),
                about: "what all workers keep together; each has its share",
            },
            FilterOption {
                name: "max_object",
                takes: Takes::Size,
                without: Without::Default("1MiB"),
                about: "the longest body that is kept",
            },
        ],
        docs: "Servers say what may be kept, by Cache-Control, Expires, Vary and validators (RFC 9111). Answers to logins, with cookies, and parts of\n\
               answers are not. Cache-Status says what has become of a request. Whoever must be asked first stands before it: `jwt`, `ext_authz`.",
        example: "- cache: { size: 256MiB, max_object: 4MiB }",
    },
    build: |options, cx| build(options, cx).map(|cache| Box::new(cache) as Box<dyn HttpFactory>),
};

/// Answers to one URL that are kept, for requests that differ in what the answer depends on.
const MAX_VARIANTS: usize = 8;

/// What an answer is taken to need besides its body, in bytes.
const OVERHEAD: u64 = 2048;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCache {
    size: Option<ByteSize>,
    max_object: Option<ByteSize>,
}

#[derive(Clone, Copy)]
struct Sizes {
    size: u64,
    max_object: usize,
}

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<Sizes, Vec<ConfigError>> {
    let sizes = |raw: &RawCache| {
        let size = raw.size.map_or(64 << 20, u64::from);
        (size, raw.max_object.map_or(1 << 20, u64::from))
    };
    let raw: RawCache = options.check(|raw: &RawCache, errors| {
        let (size, max_object) = sizes(raw);
        if max_object > size / cx.workers.max(1) as u64 {
            let hint = "each worker keeps its own share of `size`, in which it must have room";
            errors.push(options.error("max_object", "is larger than what one worker keeps").hint(hint));
        }
    })?;
    let (size, max_object) = sizes(&raw);
    let max_object = usize::try_from(max_object).unwrap_or(usize::MAX);
    Ok(Sizes { size: size / cx.workers.max(1) as u64, max_object })
}

impl HttpFactory for Sizes {
    fn open(&self, _fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        let items = usize::try_from(self.size / 16_384).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        let kept = RefCell::new(Cache::with_weighter(items, self.size, Weight));
        Box::new(Keeper(Rc::new(Store { kept, max_object: self.max_object })))
    }
}

/// One answer.
struct Kept {
    policy: CachePolicy,
    body: Bytes,
}

type Variants = Vec<Rc<Kept>>;

#[derive(Clone)]
struct Weight;

impl Weighter<String, Variants> for Weight {
    fn weight(&self, key: &String, variants: &Variants) -> u64 {
        let bodies: u64 = variants.iter().map(|kept| kept.body.len() as u64 + OVERHEAD).sum();
        key.len() as u64 + bodies
    }
}

struct Store {
    kept: RefCell<Cache<String, Variants, Weight>>,
    max_object: usize,
}

impl Store {
    /// Keeps an answer in the place of `old`, if that is one of those that are kept.
    fn keep(&self, key: &str, kept: Kept, old: Option<&Rc<Kept>>) {
        let mut all = self.kept.borrow_mut();
        let mut variants = all.get(key).cloned().unwrap_or_default();
        variants.retain(|known| old.is_none_or(|old| !Rc::ptr_eq(old, known)));
        variants.insert(0, Rc::new(kept));
        variants.truncate(MAX_VARIANTS);
        all.insert(key.to_string(), variants);
    }

    fn forget(&self, key: &str) {
        self.kept.borrow_mut().remove(key);
    }
}

struct Keeper(Rc<Store>);

/// Whether the client has this answer already (RFC 9110, section 13.2.2).
fn has_it(asked: &HeaderMap, kept: &HeaderMap) -> bool {
    if let Some(tags) = asked.get(IF_NONE_MATCH) {
        let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_string();
        let tag = kept.get(ETAG).and_then(|tag| tag.to_str().ok()).map(strong);
        let tags = tags.to_str().unwrap_or_default();
        return tags.split(',').any(|known| known.trim() == "*" || Some(strong(known)) == tag);
    }
    let since = asked.get(IF_MODIFIED_SINCE);
    since.is_some() && since == kept.get(LAST_MODIFIED)
}

/// What was kept, as an answer to the request with these fields.
fn answer(mut head: response::Parts, body: &Bytes, asked: &HeaderMap) -> Response<Bytes> {
    head.headers.insert(CACHE_STATUS, HeaderValue::from_static("mecha; hit"));
    if has_it(asked, &head.headers) {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(head, Bytes::new());
    }
    Response::from_parts(head, body.clone())
}

impl HttpFilter for Keeper {
    fn on_request(&self, head: &mut request::Parts, _cx: &HttpCx<'_>) -> Step {
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let key = format!("{}{path}", host.to_ascii_lowercase());
        if head.method != Method::GET {
            // What changes something makes what is known of it old (section 4.4).
            let is_safe = [Method::HEAD, Method::OPTIONS, Method::TRACE].contains(&head.method);
            let forgetting = || Step::Follow(Box::new(Forgetting { store: Rc::clone(&self.0), key }));
            return if is_safe { Step::Pass } else { forgetting() };
        }
        if head.headers.contains_key(RANGE) {
            return Step::Pass;
        }
        let now = SystemTime::now();
        let mut old = None;
        for kept in self.0.kept.borrow().get(&key).into_iter().flatten() {
            match kept.policy.before_request(head, now) {
                BeforeRequest::Fresh(parts) => return Step::Answer(answer(parts, &kept.body, &head.headers)),
                BeforeRequest::Stale { request, matches: true } => old = Some((Rc::clone(kept), request)),
                BeforeRequest::Stale { .. } => {}
            }
        }
        let mut asked = clone(head);
        if head.extensions.get::<Known>().is_some() {
            // Whoever has let the client in may have kept its login to itself; the answer is no less for it alone.
            asked.headers.insert(AUTHORIZATION, HeaderValue::from_static("mecha"));
        }
        let old = old.map(|(kept, request)| {
            // The server is asked whether it is what is kept, whatever the client has.
            head.headers = request.headers;
            kept
        });
        Step::Follow(Box::new(Keeping { store: Rc::clone(&self.0), key, asked, sent: clone(head), old }))
    }
}

/// A head without what others have put beside it.
fn clone(head: &request::Parts) -> request::Parts {
    let (mut same, ()) = http::Request::new(()).into_parts();
    same.method = head.method.clone();
    same.uri = head.uri.clone();
    same.headers = head.headers.clone();
    same
}

/// Nobody may be told any more what was true before.
struct Forgetting {
    store: Rc<Store>,
    key: String,
}

impl Follow for Forgetting {
    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        if !head.status.is_client_error() && !head.status.is_server_error() {
            self.store.forget(&self.key);
        }
        None
    }
}

/// The answer may be kept.
struct Keeping {
    store: Rc<Store>,
    key: String,
    /// As the client has asked, and as the server was.
    asked: request::Parts,
    sent: request::Parts,
    /// What may still be true.
    old: Option<Rc<Kept>>,
}

impl Follow for Keeping {
    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        let now = SystemTime::now();
        if let Some(old) = self.old.take() {
            if head.status == StatusCode::NOT_MODIFIED
                && let AfterResponse::NotModified(policy, parts) =
                    old.policy.after_response(&self.sent, head, now)
            {
                let kept = Kept { policy, body: old.body.clone() };
                self.store.keep(&self.key, kept, Some(&old));
                let is_had = has_it(&self.asked.headers, &parts.headers);
                head.headers = parts.headers;
                head.headers.insert(CACHE_STATUS, HeaderValue::from_static("mecha; hit; detail=revalidated"));
                if is_had {
                    head.headers.remove(CONTENT_LENGTH);
                    return None;
                }
                head.status = parts.status;
                return Some(Box::new(Instead(old.body.clone())));
            }
            if !head.status.is_server_error() {
                self.store.forget(&self.key);
            }
        }
        head.headers.insert(CACHE_STATUS, HeaderValue::from_static("mecha; fwd=miss"));
        let policy = CachePolicy::new_options(&self.asked, head, now, CacheOptions::default());
        let length =
            head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let is_kept = policy.is_storable()
            && !head.headers.contains_key(SET_COOKIE)
            && head.status != StatusCode::PARTIAL_CONTENT
            && length.is_none_or(|length| length <= self.store.max_object)
            // What is old at once and cannot be asked about again is of no use.
            && (!policy.is_stale(now) || head.headers.contains_key(ETAG) || head.headers.contains_key(LAST_MODIFIED));
        is_kept.then(|| {
            let (store, key) = (Rc::clone(&self.store), std::mem::take(&mut self.key));
            Box::new(Copying { store, key, policy: Some(policy), length, body: Vec::new() })
                as Box<dyn Transform>
        })
    }
}

/// The body that is kept, in the place of none.
struct Instead(Bytes);

impl Transform for Instead {
    fn data(&mut self, _: Bytes) -> Result<Bytes, Refusal> {
        Ok(Bytes::new())
    }

    fn end(&mut self, _: Option<HeaderMap>) -> Result<(Bytes, Option<HeaderMap>), Refusal> {
        Ok((std::mem::take(&mut self.0), None))
    }
}

/// A body that passes, and is kept when it has come to its end.
struct Copying {
    store: Rc<Store>,
    key: String,
    policy: Option<CachePolicy>,
    /// How long it is, if that was said: nobody may ask for the end of such a body.
    length: Option<usize>,
    body: Vec<u8>,
}

impl Copying {
    fn keep(&mut self) {
        if let Some(policy) = self.policy.take() {
            let body = Bytes::from(std::mem::take(&mut self.body));
            self.store.keep(&self.key, Kept { policy, body }, None);
        }
    }
}

impl Transform for Copying {
    fn data(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        if self.policy.is_some() {
            if self.body.len() + bytes.len() > self.store.max_object {
                (self.policy, self.body) = (None, Vec::new());
            } else {
                self.body.extend_from_slice(&bytes);
            }
            if self.length == Some(self.body.len()) {
                self.keep();
            }
        }
        Ok(bytes)
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(Bytes, Option<HeaderMap>), Refusal> {
        if trailers.is_none() && self.length.is_none() {
            self.keep();
        }
        Ok((Bytes::new(), trailers))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, cx, head, open, refused};
    use super::*;

    /// What becomes of a request: what is kept, or whether the server may be asked only if something has changed.
    fn ask(filter: &dyn HttpFilter, path: &str, fields: &[(&str, &str)]) -> Result<Response<Bytes>, Asked> {
        let host = [("host", "a.example")];
        let mut asked = head("GET", path, &[&host[..], fields].concat());
        match filter.on_request(&mut asked, &cx()) {
            Step::Answer(answer) => Ok(answer),
            Step::Follow(follow) => Err(Asked { follow, tag: asked.headers.get(IF_NONE_MATCH).cloned() }),
            step => panic!("{step:?}"),
        }
    }

    struct Asked {
        follow: Box<dyn Follow>,
        tag: Option<HeaderValue>,
    }

    impl Asked {
        /// The server answers, to the end.
        fn answered(
            mut self,
            status: u16,
            fields: &[(&str, &str)],
            body: &'static str,
        ) -> (response::Parts, Vec<u8>) {
            let mut answered = answer(status, fields);
            let Some(mut transform) = self.follow.on_response(&mut answered) else {
                return (answered, body.into());
            };
            let mut read = transform.data(Bytes::from_static(body.as_bytes())).unwrap().to_vec();
            read.extend_from_slice(&transform.end(None).unwrap().0);
            (answered, read)
        }
    }

    fn asked(filter: &dyn HttpFilter, path: &str, fields: &[(&str, &str)]) -> Asked {
        ask(filter, path, fields).map(|answer| answer.status()).expect_err("it is kept")
    }

    #[test]
    fn what_may_be_kept_is_and_for_those_whom_it_answers() {
        let filter = open(&KIND, "- cache");
        let fields = [("cache-control", "max-age=60"), ("vary", "accept-language"), ("etag", "\"1\"")];
        let (_, body) = asked(&*filter, "/a", &[("accept-language", "de")]).answered(200, &fields, "hallo");
        assert_eq!(body, b"hallo");
        let kept = ask(&*filter, "/a", &[("accept-language", "de")]).ok().unwrap();
        assert_eq!((kept.status().as_u16(), &kept.body()[..]), (200, &b"hallo"[..]));
        assert_eq!(kept.headers()["cache-status"], "mecha; hit");
        assert!(kept.headers().contains_key("age"));
        asked(&*filter, "/a", &[("accept-language", "fr")]).answered(200, &fields, "salut");
        for (language, body) in [("de", "hallo"), ("fr", "salut")] {
            let kept = ask(&*filter, "/a", &[("accept-language", language)]).ok().unwrap();
            assert_eq!(&kept.body()[..], body.as_bytes());
        }
        // Who has it is told so.
        let kept =
            ask(&*filter, "/a", &[("accept-language", "de"), ("if-none-match", "W/\"1\"")]).ok().unwrap();
        assert_eq!((kept.status().as_u16(), kept.body().len()), (304, 0));
        for path in ["/b", "/a?x=1"] {
            assert!(ask(&*filter, path, &[("accept-language", "de")]).is_err(), "{path}");
        }
        let other_host = &mut head("GET", "/a", &[("host", "b.example"), ("accept-language", "de")]);
        assert!(matches!(filter.on_request(other_host, &cx()), Step::Follow(_)));
    }

    #[test]
    fn what_is_private_or_may_not_be_kept_is_not() {
        let filter = open(&KIND, "- cache: { size: 1MiB, max_object: 10B }");
        for (at, (asking, answering, body)) in [
            (&[][..], &[("cache-control", "private, max-age=60")][..], "x"),
            (&[], &[("cache-control", "no-store")], "x"),
            (&[], &[], "x"),
            (&[("authorization", "Basic x")], &[("cache-control", "max-age=60")], "x"),
            (&[], &[("cache-control", "max-age=60"), ("set-cookie", "a=b")], "x"),
            (&[], &[("cache-control", "max-age=60")], "longer than ten"),
        ]
        .into_iter()
        .enumerate()
        {
            let path = format!("/{at}");
            asked(&*filter, &path, asking).answered(200, answering, body);
            assert!(ask(&*filter, &path, asking).is_err(), "{answering:?}");
        }
        assert!(refused(&KIND, "- cache: { size: 1MiB, max_object: 2MiB }").contains("larger than"));
    }

    #[test]
    fn what_was_answered_to_somebody_who_is_known_is_for_nobody_else() {
        let filter = open(&KIND, "- cache");
        for (path, answering, is_kept) in [
            ("/own", "max-age=60", false),
            ("/all", "public, max-age=60", true),
            ("/shared", "s-maxage=60", true),
        ] {
            let mut asked = head("GET", path, &[("host", "a.example")]);
            asked.extensions.insert(Known);
            let Step::Follow(follow) = filter.on_request(&mut asked, &cx()) else { panic!() };
            Asked { follow, tag: None }.answered(200, &[("cache-control", answering)], "x");
            assert_eq!(ask(&*filter, path, &[]).is_ok(), is_kept, "{answering}");
        }
    }

    #[test]
    fn what_is_old_is_asked_about_and_what_is_changed_is_forgotten() {
        let filter = open(&KIND, "- cache");
        let fields = [("cache-control", "max-age=60, must-revalidate"), ("etag", "\"1\"")];
        asked(&*filter, "/a", &[]).answered(200, &fields, "old");
        // The client wants to be sure.
        let again = asked(&*filter, "/a", &[("cache-control", "no-cache")]);
        assert_eq!(again.tag.as_ref().unwrap(), "\"1\"");
        let (told, body) = again.answered(304, &fields, "");
        assert_eq!((told.status.as_u16(), &body[..]), (200, &b"old"[..]));
        let again = asked(&*filter, "/a", &[("cache-control", "no-cache")]);
        let (told, body) = again.answered(200, &[("cache-control", "max-age=60"), ("etag", "\"2\"")], "new");
        assert_eq!((told.status.as_u16(), &body[..]), (200, &b"new"[..]));
        assert_eq!(&ask(&*filter, "/a", &[]).ok().unwrap().body()[..], b"new");
        let mut posting = head("POST", "/a", &[("host", "a.example")]);
        let Step::Follow(mut follow) = filter.on_request(&mut posting, &cx()) else { panic!() };
        follow.on_response(&mut answer(500, &[]));
        assert!(ask(&*filter, "/a", &[]).is_ok());
        follow.on_response(&mut answer(204, &[]));
        assert!(ask(&*filter, "/a", &[]).is_err());
    }

    #[test]
    fn what_is_broken_off_is_not_kept_and_there_is_room_for_so_much_only() {
        let filter = open(&KIND, "- cache: { size: 64KiB, max_object: 32KiB }");
        let fields = [("cache-control", "max-age=60")];
        let mut half = asked(&*filter, "/half", &[]);
        let mut transform = half.follow.on_response(&mut answer(200, &fields)).unwrap();
        transform.data(Bytes::from_static(b"half")).unwrap();
        drop(transform);
        assert!(ask(&*filter, "/half", &[]).is_err());
        static LARGE: [u8; 8192] = [b'x'; 8192];
        let large = std::str::from_utf8(&LARGE).unwrap();
        for number in 0..100 {
            asked(&*filter, &format!("/{number}"), &[]).answered(200, &fields, large);
        }
        let kept = (0..100).filter(|number| ask(&*filter, &format!("/{number}"), &[]).is_ok()).count();
        assert!((1..=6).contains(&kept), "{kept}");
    }
}
