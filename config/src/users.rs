//! Users that are defined in the configuration.
//!
//! What their rules mean is told by whoever guards the listeners ([`crate::Known::check_rules`]).

use std::fmt;

use crate::Secret;

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpec {
    /// Unique.
    pub name: String,
    /// Word by word; hashes of passwords among them.
    pub rules: Vec<String>,
    /// A password from a file or the environment.
    pub password: Option<Secret>,
}

/// Whose tokens say who clients are.
#[derive(Clone, PartialEq, Eq)]
pub struct OauthSpec {
    /// The issuer's public keys: a JWKS.
    pub jwks: String,
    /// What tokens must be from, if it matters.
    pub issuer: Option<String>,
    /// What tokens must be for, if it matters.
    pub audience: Option<String>,
    /// The claim that names the user.
    pub claim: String,
}

impl fmt::Debug for OauthSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OauthSpec").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Something wrong with one word of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleComplaint {
    /// What is wrong, without any secret.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}
