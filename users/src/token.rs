//! Tokens that somebody else has signed: JWT (RFC 7519) by keys of a JWKS (RFC 7517).
//!
//! A token says who it is for and until when; that is believed if one of the keys has signed it. RS256 and ES256 are what issuers
//! use; anything else is refused, `none` above all. What the head of a token says of its algorithm must be what
//! its key is for, so that a public key is never taken for a shared secret.

use std::fmt;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::Value;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 30;

/// The keys of an issuer, and what its tokens must say.
#[derive(Clone, Debug, Default)]
pub struct Issuer {
    keys: Vec<Key>,
    /// What `iss` must be, if it matters.
    pub name: Option<String>,
    /// What `aud` must have, if it matters.
    pub audience: Option<String>,
    /// The claim that names the user: `sub`, usually.
    pub claim: String,
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// An uncompressed point of P-256.
    Es256(Vec<u8>),
    Rs256 {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// Who a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The name.
    pub name: String,
    /// Seconds since 1970 when it ends.
    pub until: u64,
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// It is for somebody else, or from somebody else.
    Claims,
    /// It is not valid any more, or not yet.
    Expired,
    /// It is none.
    Malformed,
    /// No key has signed it.
    Signature,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Claims => "the token is from another issuer, for another audience, or names nobody",
            Self::Expired => "the token is not valid at this time",
            Self::Malformed => "this is no token",
            Self::Signature => "no known key has signed the token",
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Issuer {
    /// Reads the keys of a JWKS. Keys of other kinds, and those for encryption, are left out.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(jwks: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(jwks).map_err(|_| "this is no JSON".to_string())?;
        let keys = value.get("keys").and_then(Value::as_array).ok_or("there are no `keys` in it")?;
        let keys: Vec<Key> = keys.iter().filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err("it has no key for RS256 or ES256".into());
        }
        Ok(Self { keys, claim: "sub".into(), ..Self::default() })
    }

    /// Looks at a token at this time, in seconds since 1970.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify(&self, token: &str, now: u64) -> Result<Bearer, TokenError> {
        self.open(token, now).map(|(bearer, _)| bearer)
    }

    /// As [`Issuer::verify`], with everything that the token says.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn open(&self, token: &str, now: u64) -> Result<(Bearer, Value), TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (head, body) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let (head, signature) = (object(head)?, decode(signature).ok_or(TokenError::Malformed)?);
        let text = |name: &str| head.get(name).and_then(Value::as_str);
        let is_meant = |key: &&Key| {
            text("alg") == Some(key.kind.name())
                && text("kid").is_none_or(|id| key.id.as_deref().is_none_or(|known| known == id))
        };
        // What is critical and not understood must not be ignored (RFC 7515, section 4.1.11).
        let is_signed = head.get("crit").is_none()
            && self
                .keys
                .iter()
                .filter(is_meant)
                .any(|key| key.kind.has_signed(signed.as_bytes(), &signature));
        if !is_signed {
            return Err(TokenError::Signature);
        }
        let claims = object(body)?;
        let seconds = |name: &str| claims.get(name).and_then(Value::as_f64).map(|at| at.max(0.0) as u64);
        let until = seconds("exp").ok_or(TokenError::Expired)?;
        let is_begun = seconds("nbf").is_none_or(|from| from <= now.saturating_add(LEEWAY));
        if !is_begun || until.saturating_add(LEEWAY) <= now {
            return Err(TokenError::Expired);
        }
        let is_from = |name: &String| claims.get("iss").and_then(Value::as_str) == Some(name);
        let is_for = |wanted: &String| match claims.get("aud") {
            Some(Value::String(one)) => one == wanted,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(wanted)),
            _ => false,
        };
        let name = claims.get(&self.claim).and_then(Value::as_str).filter(|name| !name.is_empty());
        match name {
            Some(name)
                if self.name.as_ref().is_none_or(is_from) && self.audience.as_ref().is_none_or(is_for) =>
            {
                let bearer = Bearer { name: name.into(), until };
                Ok((bearer, claims))
            }
            _ => Err(TokenError::Claims),
        }
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let bytes = |name: &str| decode(text(name)?);
        if text("use").is_some_and(|used| used != "sig") {
            return None;
        }
        let (kind, algorithm) = match (text("kty")?, text("crv")) {
            ("RSA", _) => (Kind::Rs256 { n: bytes("n")?, e: bytes("e")? }, "RS256"),
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                let is_point = x.len() == 32 && y.len() == 32;
                (Kind::Es256(is_point.then(|| [&[4], &x[..], &y[..]].concat())?), "ES256")
            }
            _ => return None,
        };
        let is_it = text("alg").is_none_or(|named| named == algorithm);
        is_it.then(|| Self { id: text("kid").map(Into::into), kind })
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256 { .. } => "RS256",
        }
    }

    fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(text, signature).is_ok()
            }
            Self::Rs256 { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, text, signature).is_ok()
            }
        }
    }
}

/// A part of a token that is an object.
fn object(part: &str) -> Result<Value, TokenError> {
    let bytes = decode(part).ok_or(TokenError::Malformed)?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object).ok_or(TokenError::Malformed)
}

/// Base64 for URLs, without padding (RFC 4648, section 5). Bits that nobody needs may be anything.
fn decode(text: &str) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose =
        GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));
    ENGINE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    /// As [`decode`] reads it.
    fn encode(bytes: &[u8]) -> String {
        general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    }

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap())
        }

        fn jwks(&self) -> String {
            let point = self.0.public_key().as_ref();
            let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
            format!(
                "{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"AA\"}},{{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"1\",\"x\":\"{x}\",\"y\":\"{y}\"}}]}}"
            )
        }

        fn token(&self, head: &str, claims: &str) -> String {
            let signed = format!("{}.{}", encode(head.as_bytes()), encode(claims.as_bytes()));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", encode(signature.as_ref()))
        }
    }

    const HEAD: &str = r#"{"alg":"ES256","kid":"1"}"#;
    const CLAIMS: &str = r#"{"sub":"orders","iss":"i","aud":["a","b"],"exp":1000,"nbf":500}"#;

    #[test]
    fn a_token_is_believed_for_as_long_and_for_whom_it_says() {
        let signer = Signer::new();
        let issuer = Issuer::read(&signer.jwks()).unwrap();
        let token = signer.token(HEAD, CLAIMS);
        let bearer = Bearer { name: "orders".into(), until: 1000 };
        assert_eq!(issuer.verify(&token, 900), Ok(bearer.clone()));
        assert_eq!(issuer.verify(&token, 1000 + LEEWAY), Err(TokenError::Expired));
        assert_eq!(issuer.verify(&token, 400), Err(TokenError::Expired));
        let named = |name: &str, audience: &str| Issuer {
            name: Some(name.into()),
            audience: Some(audience.into()),
            ..issuer.clone()
        };
        assert_eq!(named("i", "b").verify(&token, 900), Ok(bearer));
        assert_eq!(named("j", "b").verify(&token, 900), Err(TokenError::Claims));
        assert_eq!(named("i", "c").verify(&token, 900), Err(TokenError::Claims));
        for claims in [r#"{"exp":1000}"#, r#"{"sub":"","exp":1000}"#, r#"{"sub":7,"exp":1000}"#] {
            assert_eq!(issuer.verify(&signer.token(HEAD, claims), 900), Err(TokenError::Claims), "{claims}");
        }
        assert_eq!(issuer.verify(&signer.token(HEAD, r#"{"sub":"a"}"#), 900), Err(TokenError::Expired));
    }

    #[test]
    fn what_no_key_has_signed_is_not_believed() {
        let (signer, other) = (Signer::new(), Signer::new());
        let issuer = Issuer::read(&signer.jwks()).unwrap();
        let good = signer.token(HEAD, CLAIMS);
        let (signed, _) = good.rsplit_once('.').unwrap();
        for token in [
            other.token(HEAD, CLAIMS),
            signer.token(r#"{"alg":"none"}"#, CLAIMS),
            signer.token(r#"{"alg":"HS256"}"#, CLAIMS),
            signer.token(r#"{"alg":"RS256"}"#, CLAIMS),
            signer.token(r#"{"alg":"ES256","kid":"2"}"#, CLAIMS),
            signer.token(r#"{"alg":"ES256","crit":["x"]}"#, CLAIMS),
            format!("{signed}."),
            format!("{}A.{}", signed, &good[signed.len() + 1..]),
        ] {
            assert!(
                matches!(issuer.verify(&token, 900), Err(TokenError::Signature | TokenError::Malformed)),
                "{token}"
            );
        }
        for token in ["", ".", "..", "a.b.c", "e30.e30", "\u{e9}.e30.e30"] {
            assert!(issuer.verify(token, 900).is_err(), "{token}");
        }
    }

    /// RFC 7515, A.2.
    #[test]
    fn an_rsa_signature_of_the_rfc_is_known() {
        let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let jwks = format!("{{\"keys\":[{{\"kty\":\"RSA\",\"n\":\"{n}\",\"e\":\"AQAB\"}}]}}");
        let issuer = Issuer { claim: "iss".into(), ..Issuer::read(&jwks).unwrap() };
        assert_eq!(issuer.verify(token, 1_300_819_000).map(|bearer| bearer.name), Ok("joe".into()));
        let forged = token.replacen("MDA4MTkz", "MDA4MTk0", 1);
        assert_eq!(issuer.verify(&forged, 1_300_819_000), Err(TokenError::Signature));
    }

    #[test]
    fn keys_that_cannot_be_used_are_told() {
        for (text, said) in [
            ("", "no JSON"),
            ("{}", "no `keys`"),
            (r#"{"keys":[]}"#, "no key for"),
            (r#"{"keys":[{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"}]}"#, "no key for"),
            (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#, "no key for"),
        ] {
            assert!(Issuer::read(text).unwrap_err().contains(said), "{text}");
        }
    }
}
