//! A client's side of a login.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::base64::{decode, encode};
use super::scram::{BINDING, Challenge, Hash, Salted, attribute, is_same, nonce, spelled};
use super::{Mechanism, Unsound};
use crate::errors::Code;
use crate::frame::{Head, RequestHead, ResponseHead};
use crate::table::ApiKey;

/// The versions that are asked: every broker since 2.2 has them.
const VERSION: i16 = 1;

/// The longest answer, in bytes.
const MAX_ANSWER: u32 = 64 << 10;

/// Why a login came to nothing. It repeats no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The broker does not believe it; in its words.
    Denied(String),
    /// The broker does not know the mechanism; those that it knows.
    Mechanism(String),
    /// What the broker has said is no answer, or it could not prove that it knows the password too.
    Unsound,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) => write!(f, "the broker refuses the login: {why}"),
            Self::Mechanism(known) => write!(f, "the broker does not know the mechanism; it knows {known}"),
            Self::Unsound => f.write_str("the broker's answer to the login is not sound"),
        }
    }
}

/// How far a login has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The broker believes it, for so many milliseconds; 0 is for as long as the connection lives.
    Done(u64),
    /// Another request was written.
    Goes,
}

/// What was computed for logins before. Salt and rounds of a user change seldom, and computing with them takes longer than
/// all the rest of a connection's beginning.
#[derive(Clone, Default)]
pub struct Recall(Arc<Mutex<Option<(RecallKey, Salted)>>>);

#[derive(PartialEq, Eq)]
struct RecallKey {
    hash: Hash,
    password: String,
    salt: Vec<u8>,
    rounds: u32,
}

/// A login on one connection.
pub struct Login {
    mechanism: Mechanism,
    username: String,
    password: String,
    recall: Recall,
    state: State,
}

enum State {
    /// The handshake was sent.
    Asked,
    /// The last token was sent; with SCRAM, what the broker has to show.
    Last(Vec<u8>),
    /// The first message was sent, with this after the binding, and this nonce.
    Scram { first: String, nonce: String },
}

// === impl Recall ===

impl Recall {
    fn salted(&self, key: RecallKey, compute: impl FnOnce(&RecallKey) -> Salted) -> Salted {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((before, salted)) if *before == key => salted.clone(),
            _ => {
                let salted = compute(&key);
                *known = Some((key, salted.clone()));
                salted
            }
        }
    }
}

impl fmt::Debug for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recall")
    }
}

// === impl Login ===

impl Login {
    /// The longest answer that a broker may give, in bytes.
    pub const MAX_ANSWER: u32 = MAX_ANSWER;

    /// Begins a login: appends the first request to `out`. For OAUTHBEARER the password is the token, and the name is
    /// not used.
    #[must_use]
    pub fn begin(
        mechanism: Mechanism,
        (username, password): (&str, &str),
        recall: &Recall,
        correlation: i32,
        out: &mut Vec<u8>,
    ) -> Self {
        let name = mechanism.name();
        let head = |body| RequestHead { key: ApiKey::SASL_HANDSHAKE, version: VERSION, correlation, body };
        head(4 + name.len() as u32).write(out);
        // No client id.
        out.extend_from_slice(&[0xff, 0xff]);
        out.extend_from_slice(&(name.len() as i16).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        let (username, password) = (username.to_string(), password.to_string());
        Self { mechanism, username, password, recall: recall.clone(), state: State::Asked }
    }

    /// The broker has answered with this body; appends the next request to `out` if there is one.
    ///
    /// # Errors
    /// See [`Failed`]. The connection is of no use any more.
    pub fn answered(&mut self, body: &[u8], correlation: i32, out: &mut Vec<u8>) -> Result<Progress, Failed> {
        let mut rest = Rest(body);
        let code = Code(rest.number().ok_or(Failed::Unsound)?);
        if matches!(self.state, State::Asked) {
            if code != Code::NONE {
                let count = rest.count().unwrap_or_default().min(16);
                let known: Vec<String> = (0..count).map_while(|_| rest.text()).collect();
                return Err(Failed::Mechanism(known.join(", ")));
            }
            let token = self.first().map_err(|_| Failed::Unsound)?;
            write_token(&token, correlation, out);
            return Ok(Progress::Goes);
        }
        let message = rest.text();
        if code != Code::NONE {
            return Err(Failed::Denied(message.unwrap_or_else(|| format!("error {}", code.0))));
        }
        let token = rest.bytes().ok_or(Failed::Unsound)?;
        let millis = rest.long().unwrap_or_default();
        let next = self.next(token).map_err(|why| match why {
            // What a broker says of a token that it does not believe comes as if it were none of its errors.
            Unsound if self.mechanism == Mechanism::OauthBearer => {
                Failed::Denied(String::from_utf8_lossy(token).into_owned())
            }
            Unsound => Failed::Unsound,
        })?;
        match next {
            None => Ok(Progress::Done(u64::try_from(millis).unwrap_or_default())),
            Some(token) => {
                write_token(&token, correlation, out);
                Ok(Progress::Goes)
            }
        }
    }

    /// Bytes of the body behind this head of an answer; `None` if it is not the answer to `correlation`, or too long.
    #[must_use]
    pub fn body(head: &[u8], correlation: i32) -> Option<usize> {
        let head = ResponseHead::read(head)?;
        (head.correlation == correlation && head.body <= MAX_ANSWER).then_some(head.body as usize)
    }

    /// The first token.
    fn first(&mut self) -> Result<Vec<u8>, Unsound> {
        let (token, state) = match self.mechanism {
            Mechanism::OauthBearer => {
                (format!("n,,\u{1}auth=Bearer {}\u{1}\u{1}", self.password), State::Last(Vec::new()))
            }
            Mechanism::Plain => (format!("\0{}\0{}", self.username, self.password), State::Last(Vec::new())),
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => {
                let nonce = nonce()?;
                let first = format!("n={},r={nonce}", spelled(&self.username));
                (format!("{}{first}", BINDING.0), State::Scram { first, nonce })
            }
        };
        self.state = state;
        Ok(token.into_bytes())
    }

    /// The next token, if there is one.
    fn next(&mut self, token: &[u8]) -> Result<Option<Vec<u8>>, Unsound> {
        let Some(hash) = Hash::of(self.mechanism) else {
            return if token.is_empty() { Ok(None) } else { Err(Unsound) };
        };
        let text = std::str::from_utf8(token).map_err(|_| Unsound)?;
        match &self.state {
            State::Asked => Err(Unsound),
            State::Scram { first, nonce } => {
                let Challenge { nonce, salt, rounds } = Challenge::read(text, nonce)?;
                let key = RecallKey { hash, password: self.password.clone(), salt, rounds: rounds.get() };
                let compute = |key: &RecallKey| hash.salted(key.password.as_bytes(), &key.salt, rounds);
                let salted = self.recall.salted(key, compute);
                let last = format!("c={},r={nonce}", BINDING.1);
                let said = format!("{first},{text},{last}");
                let (proof, expected) = hash.proofs(&salted, said.as_bytes());
                self.state = State::Last(expected);
                Ok(Some(format!("{last},p={}", encode(&proof)).into_bytes()))
            }
            State::Last(expected) => {
                let shown = decode(attribute(text, 'v')?.0)?;
                if is_same(&shown, expected) { Ok(None) } else { Err(Unsound) }
            }
        }
    }
}

/// Writes a request with a token.
fn write_token(token: &[u8], correlation: i32, out: &mut Vec<u8>) {
    let body = 6 + token.len() as u32;
    RequestHead { key: ApiKey::SASL_AUTHENTICATE, version: VERSION, correlation, body }.write(out);
    out.extend_from_slice(&[0xff, 0xff]);
    out.extend_from_slice(&(token.len() as i32).to_be_bytes());
    out.extend_from_slice(token);
}

/// What is left of a body.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<i16> {
        self.take().map(i16::from_be_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(i32::from_be_bytes(self.take()?)).ok()
    }

    fn long(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn slice(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// `None` if it is null, too.
    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.number()?).ok()?;
        self.slice(len).map(|text| String::from_utf8_lossy(text).into_owned())
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let len = self.count()?;
        self.slice(len)
    }
}
