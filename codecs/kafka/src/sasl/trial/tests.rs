//! Both sides against each other, and against the RFC's own conversation.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::{Accounts, Step, Trial};
use crate::errors::Code;
use crate::frame::{Head, RequestHead};
use crate::sasl::scram::{Hash, spelled, unspelled};
use crate::sasl::{Failed, Login, Mechanism, Progress, Recall, Verifier};

/// One user.
struct One(&'static str, &'static str);

impl Accounts for One {
    fn has(&mut self, name: &str, password: &str) -> bool {
        (name, password) == (self.0, self.1)
    }

    fn bearer(&mut self, token: &str) -> Option<String> {
        (token == self.1).then(|| self.0.into())
    }

    fn verifier(&mut self, name: &str, mechanism: Mechanism) -> Option<Verifier> {
        (name == self.0).then(|| Verifier::of(mechanism, self.1.as_bytes()))?
    }
}

/// The token of a request as [`Login`] writes it.
fn token(request: &[u8]) -> Vec<u8> {
    let head = RequestHead::read(request).unwrap();
    assert_eq!(request.len(), RequestHead::SIZE + head.body as usize);
    request[RequestHead::SIZE + 6..].to_vec()
}

/// A broker's answer with a token.
fn answer(code: Code, token: &[u8], millis: i64) -> Vec<u8> {
    let mut body = code.0.to_be_bytes().to_vec();
    body.extend([0xff, 0xff]);
    body.extend((token.len() as i32).to_be_bytes());
    body.extend(token);
    body.extend(millis.to_be_bytes());
    body
}

/// What a login with these words comes to.
fn login(mechanism: Mechanism, words: (&str, &str), recall: &Recall) -> Result<(Progress, String), Failed> {
    let mut accounts = One("al=i,ce", "pass wörd");
    let mut request = Vec::new();
    let mut login = Login::begin(mechanism, words, recall, 7, &mut request);
    assert_eq!(RequestHead::read(&request).unwrap().correlation, 7);
    let mut trial = Trial::of(mechanism);
    let mut body = [0; 6].to_vec();
    let mut who = String::new();
    loop {
        request.clear();
        let progress = login.answered(&body, 8, &mut request)?;
        if let Progress::Done(_) = progress {
            return Ok((progress, who));
        }
        let mut said = Vec::new();
        let code = match trial.token(&token(&request), &mut accounts, &mut said) {
            Step::Denied => Code::SASL_AUTHENTICATION_FAILED,
            Step::Done(name) => {
                who = name;
                Code::NONE
            }
            Step::Goes => Code::NONE,
        };
        body = answer(code, &said, 1234);
    }
}

#[test]
fn who_knows_the_password_is_believed_and_nobody_else() {
    for mechanism in Mechanism::ALL {
        let recall = Recall::default();
        // What is remembered of the first must not hold for the second, whose password is another.
        for _ in 0..2 {
            let right = login(mechanism, ("al=i,ce", "pass wörd"), &recall);
            assert_eq!(right, Ok((Progress::Done(1234), "al=i,ce".into())), "{mechanism:?}");
            for wrong in [("al=i,ce", "password"), ("bob", "pass wörd"), ("", ""), ("al=i,ce", "")] {
                // A token is for whom it is for.
                if mechanism == Mechanism::OauthBearer && wrong.0 == "bob" {
                    continue;
                }
                let denied = login(mechanism, wrong, &recall);
                assert!(matches!(denied, Err(Failed::Denied(_))), "{mechanism:?} {wrong:?} {denied:?}");
            }
        }
    }
}

/// RFC 7677, section 3.
#[test]
fn proofs_are_those_of_the_rfc() {
    let said = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
                r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
                c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let salt = crate::sasl::base64::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let salted = Hash::Sha256.salted(b"pencil", &salt, NonZeroU32::new(4096).unwrap());
    let (proof, shown) = Hash::Sha256.proofs(&salted, said.as_bytes());
    assert_eq!(crate::sasl::base64::encode(&proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    assert_eq!(crate::sasl::base64::encode(&shown), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn a_broker_that_does_not_know_the_password_is_not_believed() {
    let mut request = Vec::new();
    let mut login =
        Login::begin(Mechanism::ScramSha256, ("alice", "secret"), &Recall::default(), 1, &mut request);
    request.clear();
    login.answered(&[0; 6], 1, &mut request).unwrap();
    let mut said = Vec::new();
    let mut trial = Trial::of(Mechanism::ScramSha256);
    trial.token(&token(&request), &mut One("alice", "other"), &mut said);
    request.clear();
    login.answered(&answer(Code::NONE, &said, 0), 1, &mut request).unwrap();
    let shown = format!("v={}", "A".repeat(43) + "=");
    assert_eq!(
        login.answered(&answer(Code::NONE, shown.as_bytes(), 0), 1, &mut request),
        Err(Failed::Unsound)
    );
}

#[test]
fn a_broker_says_which_mechanisms_it_knows() {
    let mut out = Vec::new();
    let mut login = Login::begin(Mechanism::Plain, ("a", "b"), &Recall::default(), 1, &mut out);
    let body = b"\x00\x21\x00\x00\x00\x02\x00\x03ABC\x00\x02DE";
    assert_eq!(login.answered(body, 1, &mut out), Err(Failed::Mechanism("ABC, DE".into())));
}

#[test]
fn kept_verifiers_are_read_and_wrong_ones_are_not() {
    let (salt, key) = ("W22ZaJ0SNY7soEsUEjb6gQ==", "A".repeat(43) + "=");
    let good = format!("SCRAM-SHA-256$4096:{salt}${key}:{key}");
    assert_eq!(Verifier::read(&good).unwrap().mechanism(), Mechanism::ScramSha256);
    for wrong in [
        String::new(),
        good.replace("4096", "1000"),
        good.replace("256", "512"),
        good.replace("SCRAM-SHA-256", "PLAIN"),
        good.replace(salt, ""),
        good.replace(':', ","),
    ] {
        assert!(Verifier::read(&wrong).is_none(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn names_are_spelled_so_that_they_can_be_read(name in ".*") {
        prop_assert!(!spelled(&name).contains(','));
        prop_assert_eq!(unspelled(&spelled(&name)), Ok(name));
    }

    #[test]
    fn hostile_tokens_prove_nothing(tokens in proptest::collection::vec("(n,,n=alice,r=x|c=biws,r=.*,p=.*|.*)", 1..4)) {
        for mechanism in Mechanism::ALL {
            let mut trial = Trial::of(mechanism);
            for token in &tokens {
                let step = trial.token(token.as_bytes(), &mut One("alice", "secret"), &mut Vec::new());
                prop_assert!(!matches!(step, Step::Done(_)));
            }
        }
    }

    #[test]
    fn hostile_answers_end_a_login(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 1..4)) {
        let mut out = Vec::new();
        let mut login = Login::begin(Mechanism::ScramSha512, ("a", "b"), &Recall::default(), 1, &mut out);
        for body in &bodies {
            prop_assert!(!matches!(login.answered(body, 1, &mut out), Ok(Progress::Done(_))));
        }
    }
}
