//! Users that are defined in the configuration.
//!
//! What their rules mean is told by whoever guards the listeners ([`crate::Known::check_rules`]).

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

/// Something wrong with one word of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleComplaint {
    /// What is wrong, without any secret.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}
