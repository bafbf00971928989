//! Logins: SASL as Kafka has it, both sides of it.
//!
//! ```text
//! client ── SaslHandshake: the mechanism ──────► broker
//! client ── SaslAuthenticate: token ───────────► broker     once for PLAIN and OAUTHBEARER,
//!        ◄── token, how long the login holds ───             twice for SCRAM
//! ```
//!
//! [`Login`] is a client's side, from the first request to the last answer, for whoever logs in at a broker in its own name. The same
//! two requests on a connection that is logged in renew a login whose time is over (KIP-368). [`Trial`] is what a broker
//! makes of the tokens, for whoever logs clients in.
//!
//! SCRAM is RFC 5802 and 7677 without channel binding, and without SASLprep, which Kafka's own clients do not do either.
//! Deliberately absent: GSSAPI, delegation tokens, and SASL without Kafka's framing, which 4.0 has removed.

mod base64;
mod login;
mod scram;
mod trial;

pub use login::{Failed, Login, Progress, Recall};
pub use scram::Verifier;
pub use trial::{Accounts, Step, Trial};

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// A token that somebody else has signed (RFC 7628).
    OauthBearer,
    /// Name and password as they are (RFC 4616). For connections that nobody else can read.
    Plain,
    /// Neither side shows the other what it knows (RFC 7677).
    ScramSha256,
    /// As [`Mechanism::ScramSha256`], with longer hashes.
    ScramSha512,
}

impl Mechanism {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::OauthBearer, Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// As it is named on the wire, and in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OauthBearer => "OAUTHBEARER",
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }
}

/// A message that is none, or that does not belong here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsound;
