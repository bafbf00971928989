//! A broker's side of a login.

use super::base64::{decode, encode};
use super::scram::{BINDING, Hash, Verifier, attribute, nonce, unspelled};
use super::{Mechanism, Unsound};

/// The longest token of a client, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// Who there is.
pub trait Accounts {
    /// Whether somebody has this name and this password.
    fn has(&mut self, name: &str, password: &str) -> bool;

    /// Whom this token is for, if it is believed.
    fn bearer(&mut self, token: &str) -> Option<String>;

    /// What proves the password of the one with this name, for this mechanism.
    fn verifier(&mut self, name: &str, mechanism: Mechanism) -> Option<Verifier>;
}

/// What a token comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nobody is believed to be anybody.
    Denied,
    /// The client is who has this name.
    Done(String),
    /// The client has to say more.
    Goes,
}

/// What a client has said so far to prove who it is.
#[derive(Debug)]
pub struct Trial {
    mechanism: Mechanism,
    challenged: Option<Challenged>,
}

#[derive(Debug)]
struct Challenged {
    name: String,
    is_known: bool,
    verifier: Verifier,
    /// What was said so far that is signed.
    said: String,
    nonce: String,
}

impl Trial {
    /// It has named a mechanism.
    #[must_use]
    pub fn of(mechanism: Mechanism) -> Self {
        Self { mechanism, challenged: None }
    }

    /// Takes a token, and appends what is answered to `out`.
    pub fn token(&mut self, token: &[u8], accounts: &mut dyn Accounts, out: &mut Vec<u8>) -> Step {
        let text = std::str::from_utf8(token).ok().filter(|text| text.len() <= MAX_TOKEN);
        let step =
            text.ok_or(Unsound).and_then(|text| match (Hash::of(self.mechanism), self.challenged.take()) {
                (None, _) if self.mechanism == Mechanism::OauthBearer => bearer(text, accounts),
                (None, _) => Ok(plain(text, accounts)),
                (Some(hash), None) => self.challenge(hash, text, accounts, out),
                (Some(_), Some(challenged)) => challenged.finish(text, out),
            });
        step.unwrap_or(Step::Denied)
    }

    fn challenge(
        &mut self,
        hash: Hash,
        text: &str,
        accounts: &mut dyn Accounts,
        out: &mut Vec<u8>,
    ) -> Result<Step, Unsound> {
        // `n,,` or `n,a=name,`: nobody acts for anybody else.
        let rest = text.strip_prefix("n,").ok_or(Unsound)?;
        let (other, first) = rest.split_once(',').ok_or(Unsound)?;
        let (spelled, rest) = attribute(first, 'n')?;
        let (theirs, _) = attribute(rest, 'r')?;
        if other.strip_prefix("a=").is_some_and(|other| other != spelled) || theirs.is_empty() {
            return Err(Unsound);
        }
        let name = unspelled(spelled)?;
        let known = accounts.verifier(&name, self.mechanism);
        let is_known = known.is_some();
        let verifier = known.unwrap_or_else(|| Verifier::nobodys(hash, &name));
        let nonce = format!("{theirs}{}", nonce()?);
        let answer = verifier.challenge(&nonce);
        out.extend_from_slice(answer.as_bytes());
        let said = format!("{first},{answer}");
        self.challenged = Some(Challenged { name, is_known, verifier, said, nonce });
        Ok(Step::Goes)
    }
}

/// `n,[a=authzid],` and pairs, each behind a byte of 1, of which one is the token (RFC 7628, section 3.1). What a broker would
/// say about a token that it does not believe is in the error of Kafka's answer.
fn bearer(text: &str, accounts: &mut dyn Accounts) -> Result<Step, Unsound> {
    let (head, pairs) = text.split_once('\u{1}').ok_or(Unsound)?;
    let other = head.strip_prefix("n,").and_then(|rest| rest.strip_suffix(',')).ok_or(Unsound)?;
    let auth = pairs.split('\u{1}').find_map(|pair| pair.strip_prefix("auth=")).ok_or(Unsound)?;
    let (scheme, token) = auth.split_once(' ').ok_or(Unsound)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Unsound);
    }
    let name = accounts.bearer(token.trim_matches(' '));
    let is_own = |name: &String| other.is_empty() || other.strip_prefix("a=") == Some(name);
    Ok(name.filter(is_own).map_or(Step::Denied, Step::Done))
}

/// `[authzid] NUL name NUL password`.
fn plain(text: &str, accounts: &mut dyn Accounts) -> Step {
    let mut parts = text.split('\0');
    let (Some(other), Some(name), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Step::Denied;
    };
    let is_own = other.is_empty() || other == name;
    if accounts.has(name, password) && is_own { Step::Done(name.into()) } else { Step::Denied }
}

impl Challenged {
    fn finish(self, text: &str, out: &mut Vec<u8>) -> Result<Step, Unsound> {
        let (last, proof) = text.rsplit_once(",p=").ok_or(Unsound)?;
        let (binding, rest) = attribute(last, 'c')?;
        let (nonce, _) = attribute(rest, 'r')?;
        let binding = decode(binding)?;
        // What was said about channels must be what is said now; both forms of the beginning mean none.
        if !binding.starts_with(b"n,") || BINDING.0.len() > binding.len() || nonce != self.nonce {
            return Err(Unsound);
        }
        let said = format!("{},{last}", self.said);
        let shown = self.verifier.verify(&decode(proof)?, said.as_bytes());
        match shown.filter(|_| self.is_known) {
            Some(shown) => {
                out.extend_from_slice(format!("v={}", encode(&shown)).as_bytes());
                Ok(Step::Done(self.name))
            }
            None => Ok(Step::Denied),
        }
    }
}

#[cfg(test)]
mod tests;
