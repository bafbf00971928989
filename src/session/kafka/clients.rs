//! Who clients may be, where mecha has users.

use std::collections::HashMap;
use std::sync::Arc;

use mecha_config::{OauthSpec, UserSpec};
use mecha_core::{Cx, Refusal};
use mecha_kafka::sasl::{Accounts, Mechanism, Verifier};
use mecha_users::{Gate, Issuer, Who};

/// The users of one listener.
pub struct Clients {
    specs: Vec<UserSpec>,
    gate: Arc<Gate>,
    verifiers: HashMap<String, [Option<Verifier>; 2]>,
    oauth: Option<(OauthSpec, Issuer)>,
}

impl Clients {
    /// Computes what proves passwords that are known, which takes some milliseconds for each user.
    #[must_use]
    pub fn new(specs: &[UserSpec], gate: Arc<Gate>, oauth: Option<(OauthSpec, Issuer)>) -> Self {
        let verifiers = specs.iter().filter_map(|spec| {
            let password = spec.password.as_ref()?.0.as_bytes();
            let is_on = !spec.rules.iter().any(|word| word.eq_ignore_ascii_case("off"));
            let both = [Mechanism::ScramSha256, Mechanism::ScramSha512];
            is_on.then(|| (spec.name.clone(), both.map(|mechanism| Verifier::of(mechanism, password))))
        });
        Self { specs: specs.to_vec(), gate, verifiers: verifiers.collect(), oauth }
    }

    /// Whether it is made of these.
    #[must_use]
    pub fn is_of(&self, specs: &[UserSpec], oauth: Option<&OauthSpec>) -> bool {
        self.specs == specs && self.oauth.as_ref().map(|(spec, _)| spec) == oauth
    }

    /// The ways to prove who one is.
    pub(super) fn mechanisms(&self) -> impl Iterator<Item = Mechanism> {
        let is_there = |mechanism: &Mechanism| match mechanism {
            Mechanism::OauthBearer => self.oauth.is_some(),
            Mechanism::Plain => !self.specs.is_empty(),
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => !self.verifiers.is_empty(),
        };
        Mechanism::ALL.into_iter().filter(is_there)
    }

    /// What counts their logins.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

/// What one client says, looked up.
pub(super) struct Asking<'a> {
    pub(super) clients: &'a Clients,
    pub(super) cx: Cx<'a>,
    /// What was said of it last, for the figures.
    pub(super) is_plain: bool,
    /// When what it has shown ends, in seconds since 1970.
    pub(super) until: Option<u64>,
}

impl Asking<'_> {
    /// A proof has failed or not: for the figures, and for those who try too often.
    pub(super) fn ended(&self, is_proved: bool) {
        // Passwords as they are were counted when they were compared.
        if !self.is_plain {
            self.clients.gate.tried(is_proved, &self.cx);
        }
    }
}

impl Accounts for Asking<'_> {
    fn has(&mut self, name: &str, password: &str) -> bool {
        self.is_plain = true;
        let login =
            self.clients.gate.login((name.as_bytes(), password.as_bytes()), &mut Who::default(), &self.cx);
        login == Ok::<(), Refusal>(())
    }

    fn bearer(&mut self, token: &str) -> Option<String> {
        self.is_plain = false;
        let (_, issuer) = self.clients.oauth.as_ref()?;
        if !self.clients.gate.may_try(&self.cx) {
            return None;
        }
        match issuer.verify(token, seconds()) {
            Ok(bearer) => {
                self.until = Some(bearer.until);
                Some(bearer.name)
            }
            Err(error) => {
                tracing::debug!(%error, "a client's token is not believed");
                None
            }
        }
    }

    fn verifier(&mut self, name: &str, mechanism: Mechanism) -> Option<Verifier> {
        self.is_plain = false;
        if !self.clients.gate.may_try(&self.cx) {
            return None;
        }
        let both = self.clients.verifiers.get(name)?;
        both.iter().flatten().find(|verifier| verifier.mechanism() == mechanism).cloned()
    }
}

/// Seconds since 1970.
pub(super) fn seconds() -> u64 {
    mecha_transport::unix_ms() / 1000
}
