//! Header fields that end at a proxy (RFC 9110, section 7.6).

use std::time::Duration;

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};

/// Fields that `Connection` cannot take away, whatever it names: what follows would be read in another way, or the
/// backend would trust somebody else.
const PROTECTED: [&str; 12] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the backend.
    Request,
    /// To the client.
    Response,
}

/// Takes the fields away that are for the next hop only, and those that `Connection` names. `TE: trailers` stays: it is
/// true of mecha, too.
pub fn end_hop(headers: &mut HeaderMap, direction: Direction) {
    if headers.contains_key(CONNECTION) {
        end_named(headers);
    }
    for name in ["keep-alive", "proxy-connection"] {
        if headers.contains_key(name) {
            headers.remove(name);
        }
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(TRANSFER_ENCODING);
    }
    if headers.contains_key(UPGRADE) {
        headers.remove(UPGRADE);
    }
    match direction {
        Direction::Request => {
            headers.remove(PROXY_AUTHORIZATION);
            if headers.contains_key(TE) {
                let wants_trailers = headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
                headers.remove(TE);
                if wants_trailers {
                    headers.insert(TE, HeaderValue::from_static("trailers"));
                }
            }
        }
        Direction::Response => {
            headers.remove(PROXY_AUTHENTICATE);
        }
    }
}

fn end_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !PROTECTED.contains(&name.as_str()) && *name != TE)
        .collect();
    headers.remove(CONNECTION);
    for name in named {
        headers.remove(name);
    }
}

/// The elements of a list (RFC 9110, section 5.6.1).
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether a list has `token`, in any case. Parameters of elements are ignored.
pub fn has_token(value: &HeaderValue, token: &str) -> bool {
    let name = |element: &[u8]| {
        let end = element.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t'));
        element
            .get(..end.unwrap_or(element.len()))
            .is_some_and(|name| name.eq_ignore_ascii_case(token.as_bytes()))
    };
    tokens(value).any(name)
}

/// What the client wants its connection to become (RFC 9110, section 7.8); `None` for `h2c`, which nobody has to offer
/// (RFC 9113, section 3.1).
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(UPGRADE)?;
    let is_asked = headers.get_all(CONNECTION).iter().any(|value| has_token(value, "upgrade"));
    (is_asked && !has_token(value, "h2c")).then(|| value.clone())
}

/// Says that the connection becomes `protocol` from here on.
pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Makes `Host` what the target says, where that names an authority: the target wins (RFC 9112, section 3.2.2), and HTTP/2
/// has it there alone. Returns `false` if the two name different ones, which HTTP/2 does not allow (RFC 9113, section
/// 8.3.1).
#[must_use]
pub fn settle_host(headers: &mut HeaderMap, authority: Option<&str>, is_http2: bool) -> bool {
    let Some(authority) = authority else { return !is_http2 || headers.contains_key(HOST) };
    // Who asks is no part of where (RFC 9110, section 4.2.4).
    if authority.contains('@') {
        return false;
    }
    if is_http2
        && headers.get(HOST).is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
    {
        return false;
    }
    match HeaderValue::from_str(authority) {
        Ok(value) => {
            headers.insert(HOST, value);
            true
        }
        Err(_) => false,
    }
}

/// How long a gRPC client waits (gRPC over HTTP/2, "Requests": at most eight digits and a unit).
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn fields_of_the_hop_and_those_that_connection_names_end_here() {
        let mut headers = fields(&[
            ("connection", "keep-alive, X-Secret , close"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers, deflate;q=0.5"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ]);
        end_hop(&mut headers, Direction::Request);
        assert_eq!(names(&headers), ["accept", "te"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn connection_cannot_take_away_what_messages_are_read_by() {
        let mut headers = fields(&[
            ("connection", "content-length, host, cookie, x-forwarded-for"),
            ("content-length", "3"),
            ("host", "a"),
            ("cookie", "b"),
            ("x-forwarded-for", "c"),
        ]);
        end_hop(&mut headers, Direction::Request);
        assert_eq!(names(&headers), ["content-length", "cookie", "host", "x-forwarded-for"]);
    }

    #[test]
    fn an_upgrade_is_one_only_if_connection_says_so() {
        let asked = [("connection", "Upgrade"), ("upgrade", "websocket")];
        assert_eq!(upgrade(&fields(&asked)).unwrap(), "websocket");
        assert!(upgrade(&fields(&asked[1..])).is_none());
        assert!(upgrade(&fields(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")])).is_none());
    }

    #[test]
    fn grpc_timeouts_have_a_number_and_a_unit() {
        let of = |value: &'static str| grpc_timeout(&fields(&[("grpc-timeout", value)]));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for broken in ["", "m", "1", "1x", "-1S", "1 S", "123456789S"] {
            assert_eq!(of(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn the_target_says_which_host_is_meant() {
        let mut headers = fields(&[("host", "other")]);
        assert!(settle_host(&mut headers, Some("example.com:80"), false));
        assert_eq!(headers["host"], "example.com:80");
        let mut headers = fields(&[("host", "other")]);
        assert!(!settle_host(&mut headers, Some("example.com"), true));
        assert!(!settle_host(&mut HeaderMap::new(), Some("user@example.com"), true));
    }
}
