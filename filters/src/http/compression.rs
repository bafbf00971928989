//! Compresses answers for clients that can read them so (RFC 9110, section 12.5.3).

use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderValue,
};
use http::{HeaderMap, Method, StatusCode, request, response};
use mecha_config::units::ByteSize;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use serde::Deserialize;

use super::{Fetch, Follow, HttpCx, HttpFactory, HttpFilter, HttpKind, Step, Transform, vary};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "compression",
    help: Help {
        summary: "Compresses answers for clients that can read them so.",
        options: &[
            FilterOption {
                name: "level",
                takes: Takes::Count(1),
                without: Without::Default("4"),
                about: "from 1 (fast) to 9 (small)",
            },
            FilterOption {
                name: "min_size",
                takes: Takes::Size,
                without: Without::Default("1KiB"),
                about: "answers that say they are smaller are left alone",
            },
            FilterOption {
                name: "types",
                takes: Takes::Texts,
                without: Without::Means("text, JSON, XML, JavaScript, SVG, fonts, WebAssembly"),
                about: "media types, as in application/json or text/*",
            },
        ],
        docs: "gzip. What is compressed already, is a part of something, or says `no-transform` passes as it is. What a server sends\n\
               reaches the client at once, so streams of events stay streams.",
        example: "- compression: { level: 4, min_size: 1KiB }",
    },
    build: |options, _| build(options).map(|compression| Box::new(compression) as Box<dyn HttpFactory>),
};

/// What is smaller afterwards as a rule.
const TYPES: [&str; 11] = [
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "application/x-ndjson",
    "application/manifest+json",
    "image/svg+xml",
    "font/ttf",
    "font/otf",
    "application/*+json",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCompression {
    level: Option<u32>,
    min_size: Option<ByteSize>,
    types: Option<Vec<String>>,
}

#[derive(Clone)]
struct Compression(Arc<Rules>);

struct Rules {
    level: Level,
    min_size: u64,
    types: Vec<String>,
}

fn build(options: &Options) -> Result<Compression, Vec<ConfigError>> {
    let raw: RawCompression = options.check(|raw: &RawCompression, errors| {
        if raw.level.is_some_and(|level| !(1..=9).contains(&level)) {
            errors.push(options.error("level", "must be from 1 to 9").hint("4 is a good start"));
        }
        let is_type = |text: &str| {
            text.split_once('/').is_some_and(|(one, other)| !one.is_empty() && !other.is_empty())
        };
        for text in raw.types.iter().flatten().filter(|text| !is_type(text)) {
            errors.push(
                options
                    .error("types", format!("`{text}` is no media type"))
                    .hint("as in `application/json`, `text/*`"),
            );
        }
    })?;
    let usual = || TYPES.map(str::to_string).to_vec();
    Ok(Compression(Arc::new(Rules {
        level: Level::new(raw.level.unwrap_or(4)),
        min_size: raw.min_size.map_or(1024, u64::from),
        types: raw
            .types
            .map_or_else(usual, |types| types.iter().map(|one| one.to_ascii_lowercase()).collect()),
    })))
}

impl HttpFactory for Compression {
    fn open(&self, _fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        Box::new(self.clone())
    }
}

/// Whether the client can read gzip, by its own words.
fn reads_gzip(headers: &HeaderMap) -> bool {
    let mut any = None;
    for value in headers.get_all(ACCEPT_ENCODING) {
        for word in value.to_str().unwrap_or_default().split(',') {
            let mut parts = word.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
            if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
                return weight > 0.0;
            }
            if name == "*" {
                any = Some(weight > 0.0);
            }
        }
    }
    any.unwrap_or(false)
}

impl Rules {
    fn has_type(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let value = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        self.types.iter().any(|known| match known.split_once('*') {
            Some((before, behind)) => {
                value.strip_prefix(before).is_some_and(|rest| !rest.is_empty() && rest.ends_with(behind))
            }
            None => *known == value,
        })
    }

    /// Whether the answer may be another one for clients that read gzip.
    fn takes(&self, head: &response::Parts) -> bool {
        let headers = &head.headers;
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let is_whole = !matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
        ) && !head.status.is_informational()
            && !headers.contains_key(CONTENT_RANGE);
        let is_open = |value: &HeaderValue| {
            !value.to_str().unwrap_or_default().to_ascii_lowercase().contains("no-transform")
        };
        is_whole
            && headers.get(CONTENT_ENCODING).is_none_or(|value| value == "identity")
            && headers.get_all(CACHE_CONTROL).iter().all(is_open)
            && length.is_none_or(|length| length >= self.min_size)
            && self.has_type(headers)
    }
}

impl HttpFilter for Compression {
    fn on_request(&self, head: &mut request::Parts, _cx: &HttpCx<'_>) -> Step {
        Step::Follow(Box::new(Reader {
            rules: Arc::clone(&self.0),
            reads_gzip: reads_gzip(&head.headers) && head.method != Method::HEAD,
        }))
    }
}

struct Reader {
    rules: Arc<Rules>,
    reads_gzip: bool,
}

impl Follow for Reader {
    fn on_response(&mut self, head: &mut response::Parts) -> Option<Box<dyn Transform>> {
        if !self.rules.takes(head) {
            return None;
        }
        let headers = &mut head.headers;
        vary(headers, "accept-encoding");
        if !self.reads_gzip {
            return None;
        }
        headers.remove(CONTENT_LENGTH);
        headers.remove(ACCEPT_RANGES);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        // It is another representation than the one with this tag, which means the same (RFC 9110, section 8.8.1).
        let weak = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
        if let Some(weak) =
            weak.and_then(|tag| HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()).ok())
        {
            headers.insert(ETAG, weak);
        }
        Some(Box::new(Gzip(GzEncoder::new(Vec::new(), self.rules.level))))
    }
}

struct Gzip(GzEncoder<Vec<u8>>);

impl Transform for Gzip {
    fn data(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        // It writes to memory, which takes everything.
        let _ = self.0.write_all(&bytes).and_then(|()| self.0.flush());
        Ok(Bytes::from(std::mem::take(self.0.get_mut())))
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(Bytes, Option<HeaderMap>), Refusal> {
        let _ = self.0.try_finish();
        Ok((Bytes::from(std::mem::take(self.0.get_mut())), trailers))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::testing::{answer, cx, head, open, refused};
    use super::*;

    fn follow(accepts: &str) -> Box<dyn Follow> {
        let filter = open(&KIND, "- compression");
        match filter.on_request(&mut head("GET", "/", &[("accept-encoding", accepts)]), &cx()) {
            Step::Follow(follow) => follow,
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn what_is_compressed_is_the_same_when_it_is_read() {
        let mut answered = answer(
            200,
            &[("content-type", "Text/HTML; charset=utf-8"), ("etag", "\"1\""), ("content-length", "9000")],
        );
        let mut body = follow("deflate, gzip;q=0.5").on_response(&mut answered).unwrap();
        assert_eq!(answered.headers["content-encoding"], "gzip");
        assert_eq!(answered.headers["etag"], "W/\"1\"");
        assert_eq!(answered.headers["vary"], "accept-encoding");
        assert!(!answered.headers.contains_key("content-length"));
        let mut packed = Vec::new();
        for part in ["a".repeat(4000), "b".repeat(5000)] {
            let sent = body.data(Bytes::from(part)).unwrap();
            // It can be read at once.
            assert!(!sent.is_empty());
            packed.extend_from_slice(&sent);
        }
        packed.extend_from_slice(&body.end(None).unwrap().0);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "a".repeat(4000) + &"b".repeat(5000));
        assert!(packed.len() < 200);
    }

    #[test]
    fn what_must_not_change_passes_as_it_is() {
        let html = ("content-type", "text/html");
        for (accepts, status, fields) in [
            ("gzip;q=0", 200, vec![html]),
            ("br", 200, vec![html]),
            ("", 200, vec![html]),
            ("gzip", 206, vec![html]),
            ("gzip", 304, vec![html]),
            ("gzip", 200, vec![html, ("content-encoding", "br")]),
            ("gzip", 200, vec![html, ("cache-control", "public, No-Transform")]),
            ("gzip", 200, vec![html, ("content-length", "1023")]),
            ("gzip", 200, vec![("content-type", "image/png")]),
            ("gzip", 200, vec![]),
        ] {
            let mut answered = answer(status, &fields);
            assert!(follow(accepts).on_response(&mut answered).is_none(), "{accepts} {status} {fields:?}");
            assert!(answered.headers.get("content-encoding").is_none_or(|value| value == "br"));
        }
        for accepts in ["*", "gzip;q=0.1, *;q=0", "identity, GZIP"] {
            assert!(follow(accepts).on_response(&mut answer(200, &[html])).is_some(), "{accepts}");
        }
        let text = refused(&KIND, "- compression: { level: 10, types: [html] }");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
