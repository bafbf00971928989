//! What ties requests to a server, where a hash chooses it.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{COOKIE, HeaderValue, SET_COOKIE};
use mecha_config::HashOn;
use mecha_core::Peer;

/// What a request is hashed by, and the cookie that its client gets for it.
pub(super) struct Key {
    bytes: Bytes,
    cookie: Option<HeaderValue>,
}

enum Bytes {
    Source([u8; 16]),
    Text(Vec<u8>),
}

impl Key {
    pub(super) fn of(hash_on: &HashOn, headers: &HeaderMap, peer: &Peer) -> Self {
        let bytes = |bytes: &[u8]| Self { bytes: Bytes::Text(bytes.to_vec()), cookie: None };
        match hash_on {
            HashOn::Source => Self::source(peer),
            HashOn::Header(name) => match headers.get(name) {
                Some(value) => bytes(value.as_bytes()),
                None => Self::source(peer),
            },
            HashOn::Cookie(name, ttl) => match cookie(headers, name) {
                Some(value) => bytes(value.as_bytes()),
                None => {
                    let value = format!("{:016x}", fastrand::u64(..));
                    let field = format!("{name}={value}; Max-Age={ttl}; Path=/; HttpOnly; SameSite=Lax");
                    Self { cookie: HeaderValue::try_from(field).ok(), ..bytes(value.as_bytes()) }
                }
            },
        }
    }

    /// The client's address without the port, so that all its connections meet one server.
    fn source(peer: &Peer) -> Self {
        let octets = match peer.addr.map(|addr| addr.ip()) {
            Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(ip)) => ip.octets(),
            None => [0; 16],
        };
        Self { bytes: Bytes::Source(octets), cookie: None }
    }

    /// What is hashed.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Source(octets) => octets,
            Bytes::Text(text) => text,
        }
    }

    /// Tells the client its cookie, if it got a new one.
    pub(super) fn tell(&mut self, headers: &mut HeaderMap) {
        if let Some(cookie) = self.cookie.take() {
            headers.append(SET_COOKIE, cookie);
        }
    }
}

/// The value of a cookie (RFC 6265, section 4.2.1).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(known, value)| (known == name && !value.is_empty()).then_some(value))
}
