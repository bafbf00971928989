//! Users between the configuration and the guards of listeners.

use std::sync::Arc;

use mecha_config::{ConfigError, RuleComplaint, UserSpec};
use mecha_telemetry::LoginMetrics;
use mecha_users::{Definition, Gate, Rules, Secret, Users, Vocabulary};

/// What is wrong with the rules of a user.
pub fn check_rules(words: &[String]) -> Vec<RuleComplaint> {
    let told = |complaint: mecha_users::Complaint| {
        let word = words.get(complaint.word).map_or("", String::as_str);
        // What may be a password is not repeated.
        let message = match word.as_bytes().first() {
            Some(b'+' | b'-' | b'~' | b'&' | b'%' | b'(') => format!("{} (`{word}`)", complaint.message),
            _ => format!("{} (word {})", complaint.message, complaint.word + 1),
        };
        RuleComplaint { message, hint: complaint.hint }
    };
    mecha_users::check(words).into_iter().map(told).collect()
}

/// The users of one listener, resolved for its protocol.
///
/// # Errors
/// Rules that cannot be understood, which a configuration that was read does not have.
pub(super) fn gate<V: Vocabulary>(
    specs: &[UserSpec],
    metrics: LoginMetrics,
    previous: Option<&Arc<Gate>>,
) -> Result<Arc<Gate>, Vec<ConfigError>> {
    let (mut definitions, mut errors) = (Vec::new(), Vec::new());
    for spec in specs {
        let secret = spec.password.as_ref().map(|password| Secret::of(password.0.as_bytes()));
        match Rules::new(&spec.rules) {
            Ok(rules) => definitions.push(Definition { name: spec.name.clone(), rules, secret }),
            Err(complaints) => errors.extend(complaints.into_iter().map(|complaint| {
                let error = ConfigError::new(format!("users.{}", spec.name), complaint.message);
                ConfigError { hint: complaint.hint, ..error }
            })),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Arc::new(Gate::new(Users::new::<V>(&definitions), metrics, previous.map(|gate| &**gate))))
}
