//! Gives each request a trace that its servers can go on with (W3C Trace Context, level 1).
//!
//! mecha reports no spans of its own, so a trace that a client has begun passes as it is.

use std::rc::Rc;

use http::header::{HeaderName, HeaderValue};
use http::request;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use serde::Deserialize;

use super::{Fetch, HttpCx, HttpFactory, HttpFilter, HttpKind, Step};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "traceparent",
    help: Help {
        summary: "Gives each request a trace that its servers can go on with.",
        options: &[FilterOption {
            name: "sample",
            takes: Takes::Count(0),
            without: Without::Default("1"),
            about: "one new trace in so many is marked to be recorded; 0 marks none",
        }],
        docs: "A trace that the client has begun passes as it is. One that cannot be read is begun anew, and `tracestate` goes with it.",
        example: "- traceparent: { sample: 100 }",
    },
    build: |options, _| build(options).map(|trace| Box::new(trace) as Box<dyn HttpFactory>),
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTrace {
    sample: Option<u32>,
}

#[derive(Clone, Copy)]
struct Trace {
    sample: u32,
}

fn build(options: &Options) -> Result<Trace, Vec<ConfigError>> {
    let raw: RawTrace = options.decode()?;
    Ok(Trace { sample: raw.sample.unwrap_or(1) })
}

impl HttpFactory for Trace {
    fn open(&self, _fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        Box::new(*self)
    }
}

/// Whether a trace can be gone on with (section 3.2.2); versions to come may have more behind it.
fn is_sound(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_some = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
    let Some((known, rest)) = value.split_at_checked(55) else { return false };
    let mut parts = known.split(|byte| *byte == b'-');
    let (Some(version), Some(trace), Some(parent), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let is_open = version == b"00" && rest.is_empty()
        || version != b"00" && version != b"ff" && matches!(rest.first(), None | Some(b'-'));
    (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2)
        && is_open
        && is_hex(version)
        && is_some(trace)
        && is_some(parent)
        && is_hex(flags)
}

impl HttpFilter for Trace {
    fn on_request(&self, head: &mut request::Parts, _cx: &HttpCx<'_>) -> Step {
        let mut known = head.headers.get_all(TRACEPARENT).iter();
        let first = known.next();
        if known.next().is_none() && first.is_some_and(|value| is_sound(value.as_bytes())) {
            return Step::Pass;
        }
        let is_recorded = self.sample > 0 && fastrand::u32(..self.sample) == 0;
        let (trace, parent) = (fastrand::u128(1..), fastrand::u64(1..));
        let text = format!("00-{trace:032x}-{parent:016x}-{:02x}", u8::from(is_recorded));
        head.headers.remove(TRACESTATE);
        if let Ok(value) = HeaderValue::try_from(text) {
            head.headers.insert(TRACEPARENT, value);
        }
        Step::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cx, head, open};
    use super::*;

    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_that_can_be_read_passes_and_others_are_begun_anew() {
        let filter = open(&KIND, "- traceparent: { sample: 0 }");
        for value in [SOUND, "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes"] {
            let mut head = head("GET", "/", &[("traceparent", value), ("tracestate", "a=b")]);
            assert!(matches!(filter.on_request(&mut head, &cx()), Step::Pass));
            assert_eq!(head.headers[TRACEPARENT], value);
            assert_eq!(head.headers[TRACESTATE], "a=b");
        }
        for value in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            let mut head = head("GET", "/", &[("traceparent", value), ("tracestate", "a=b")]);
            filter.on_request(&mut head, &cx());
            let made = head.headers[TRACEPARENT].to_str().unwrap();
            assert!(is_sound(made.as_bytes()) && made.ends_with("-00") && made != value, "{value}: {made}");
            assert!(!head.headers.contains_key(TRACESTATE));
        }
        let mut none = head("GET", "/", &[]);
        open(&KIND, "- traceparent").on_request(&mut none, &cx());
        assert!(none.headers[TRACEPARENT].to_str().unwrap().ends_with("-01"));
    }
}
