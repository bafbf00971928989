//! Asks for a name and a password (RFC 7617).
//!
//! Passwords are known by their hashes only. A wrong name takes as long as a wrong password.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, request};
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Refusal;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Fetch, HttpCx, HttpFactory, HttpFilter, HttpKind, Step};
use crate::Help;

pub(super) static KIND: HttpKind = HttpKind {
    name: "basic_auth",
    help: Help {
        summary: "Asks for a name and a password.",
        options: &[
            FilterOption {
                name: "users",
                takes: Takes::Texts,
                without: Without::Nothing,
                about: "names with the SHA-256 of their passwords, as in alice:5e88…",
            },
            FilterOption {
                name: "realm",
                takes: Takes::Text,
                without: Without::Default("mecha"),
                about: "what people are told that they log in to",
            },
            FilterOption {
                name: "user_header",
                takes: Takes::Text,
                without: Without::Means("none"),
                about: "the field that tells the server who it is",
            },
        ],
        docs: "`printf %s 'password' | sha256sum` makes a hash. The login itself does not reach the server.",
        example: "- basic_auth: { users: [\"alice:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"], realm: shop }",
    },
    build: |options, _| build(options).map(|auth| Box::new(auth) as Box<dyn HttpFactory>),
};

/// The longest name and password together, in bytes of base64.
const MAX_LOGIN: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    users: Vec<String>,
    realm: Option<String>,
    user_header: Option<String>,
}

#[derive(Clone)]
struct BasicAuth(Arc<Known>);

struct Known {
    users: Vec<(String, [u8; 32])>,
    challenge: HeaderValue,
    user_header: Option<HeaderName>,
}

/// A name and the hash of a password.
fn user(text: &str) -> Option<(String, [u8; 32])> {
    let (name, hash) = text.rsplit_once(':')?;
    let mut bytes = [0; 32];
    if name.is_empty() || name.contains(':') || hash.len() != 64 || !hash.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hash.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some((name.into(), bytes))
}

fn build(options: &Options) -> Result<BasicAuth, Vec<ConfigError>> {
    let challenge = |realm: &str| {
        let is_plain = !realm.contains(['"', '\\']) && realm.chars().all(|one| !one.is_control());
        let text = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
        HeaderValue::try_from(text).ok().filter(|_| is_plain)
    };
    let raw: RawAuth = options.check(|raw: &RawAuth, errors| {
        if raw.users.is_empty() {
            errors.push(
                options.error("users", "names nobody").hint("as in `[\"alice:<sha256 of her password>\"]`"),
            );
        }
        for (at, _) in raw.users.iter().enumerate().filter(|(_, text)| user(text).is_none()) {
            // What stands there may be a password.
            let message = format!("entry {} is no name with a SHA-256", at + 1);
            let hint = "`name:` and 64 hexadecimal digits; `printf %s 'password' | sha256sum` makes them";
            errors.push(options.error("users", message).hint(hint));
        }
        if raw.realm.as_deref().is_some_and(|realm| challenge(realm).is_none()) {
            errors.push(
                options.error("realm", "cannot be put on the wire").hint("no quotes and no control bytes"),
            );
        }
        if let Some(name) =
            raw.user_header.as_ref().filter(|name| HeaderName::try_from(name.as_str()).is_err())
        {
            errors.push(
                options
                    .error("user_header", format!("`{name}` is no name of a field"))
                    .hint("as in `x-user`"),
            );
        }
    })?;
    let challenge = challenge(raw.realm.as_deref().unwrap_or("mecha"));
    Ok(BasicAuth(Arc::new(Known {
        users: raw.users.iter().filter_map(|text| user(text)).collect(),
        challenge: challenge.unwrap_or(HeaderValue::from_static("Basic")),
        user_header: raw.user_header.and_then(|name| HeaderName::try_from(name).ok()),
    })))
}

impl HttpFactory for BasicAuth {
    fn open(&self, _fetch: Option<Rc<dyn Fetch>>) -> Box<dyn HttpFilter> {
        Box::new(self.clone())
    }
}

impl Known {
    /// Who has this name and this password.
    fn who(&self, name: &str, password: &[u8]) -> Option<&str> {
        let digest: [u8; 32] = Sha256::digest(password).into();
        let mut found = None;
        for (known, hash) in &self.users {
            let differs = hash.iter().zip(digest).fold(0, |sum, (one, other)| sum | (one ^ other));
            if known == name && std::hint::black_box(differs) == 0 {
                found = Some(known.as_str());
            }
        }
        found
    }
}

/// Name and password.
fn login(value: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, word) = value.to_str().ok()?.split_once(' ')?;
    let word = word.trim();
    if !scheme.eq_ignore_ascii_case("basic") || word.len() > MAX_LOGIN {
        return None;
    }
    let bytes = STANDARD.decode(word).ok()?;
    let at = bytes.iter().position(|byte| *byte == b':')?;
    let (name, password) = bytes.split_at(at);
    Some((String::from_utf8(name.to_vec()).ok()?, password.get(1..)?.to_vec()))
}

impl HttpFilter for BasicAuth {
    fn on_request(&self, head: &mut request::Parts, _cx: &HttpCx<'_>) -> Step {
        let known = &*self.0;
        let shown = head.headers.remove(AUTHORIZATION);
        if let Some(field) = &known.user_header {
            head.headers.remove(field);
        }
        let refuse = |why: Refusal| {
            Step::Refuse(why, HeaderMap::from_iter([(WWW_AUTHENTICATE, known.challenge.clone())]))
        };
        let Some((name, password)) = shown.as_ref().and_then(login) else {
            return refuse(Refusal::LoginNeeded);
        };
        let Some(name) = known.who(&name, &password) else { return refuse(Refusal::LoginFailed) };
        if let (Some(field), Ok(name)) = (&known.user_header, HeaderValue::try_from(name)) {
            head.headers.insert(field, name);
        }
        head.extensions.insert(super::Known);
        Step::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cx, head, open, refused};
    use super::*;

    #[test]
    fn only_who_knows_the_password_passes() {
        let example = format!("{}, user_header: x-user }}", KIND.help.example.trim_end_matches(" }"));
        let filter = open(&KIND, &example);
        for (login, expected) in [
            ("alice:password", Ok("alice")),
            ("alice:passwor", Err(Refusal::LoginFailed)),
            ("alice:", Err(Refusal::LoginFailed)),
            ("bob:password", Err(Refusal::LoginFailed)),
            ("alice", Err(Refusal::LoginNeeded)),
        ] {
            let word = format!("Basic {}", STANDARD.encode(login));
            let mut head = head("GET", "/", &[("authorization", &word), ("x-user", "root")]);
            match (filter.on_request(&mut head, &cx()), expected) {
                (Step::Pass, Ok(name)) => assert_eq!(head.headers["x-user"], name),
                (Step::Refuse(why, fields), Err(expected)) => {
                    assert_eq!(why, expected, "{login}");
                    assert_eq!(fields[WWW_AUTHENTICATE], "Basic realm=\"shop\", charset=\"UTF-8\"");
                }
                (step, _) => panic!("{login}: {step:?}"),
            }
            assert!(!head.headers.contains_key("authorization"), "it reaches the server");
        }
        for value in ["Bearer x", "Basic", "Basic !!!", "basic QQ=="] {
            let step = filter.on_request(&mut head("GET", "/", &[("authorization", value)]), &cx());
            assert!(matches!(step, Step::Refuse(Refusal::LoginNeeded, _)), "{value}: {step:?}");
        }
    }

    #[test]
    fn passwords_are_in_no_error() {
        let text =
            refused(&KIND, "- basic_auth: { users: [\"alice:hunter2\"], realm: 'a\"b', user_header: 'x y' }");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
