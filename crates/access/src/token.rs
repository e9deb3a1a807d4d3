//! Access tokens: their claims, and the rules by which a token is accepted. The algorithm is EdDSA only,
//! the type is `at+jwt`, the audience is this system, and a token is accepted up to the second at which
//! it expires.

#![warn(clippy::indexing_slicing, clippy::panic)]

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Rejection, key_set::FoundKey};

/// Audience of the tokens, the claim `aud`.
pub const AUDIENCE: &str = "tidings";
/// Type of the tokens, the header field `typ` (RFC 9068, section 2.1).
const TYPE: &str = "at+jwt";
/// Maximum size of a token in bytes. Ours have about 500; a longer text is rejected before it is parsed.
pub(crate) const SIZE_MAX: usize = 4096;
/// Maximum time in seconds by which the issuer's clock may be ahead of this one.
const CLOCK_AHEAD_S: i64 = 60;
/// Maximum lifetime of an accepted token in seconds: ten years, the maximum of the setting.
const LIFETIME_MAX_S: i64 = 3_650 * 86_400;

/// Claims of an access token. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Audience: [`AUDIENCE`].
    pub aud: String,
    /// Subject: the user.
    pub sub: Uuid,
    /// Session of the user.
    pub sid: Uuid,
    /// Time at which the token expires.
    pub exp: i64,
    /// Time at which the token was issued.
    pub iat: i64,
    /// Id of the token.
    pub jti: Uuid,
    /// Time before which the token is not valid. This issuer does not set it; if it is set, it is
    /// checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
}

impl Claims {
    /// Creates the claims of a token for a session, issued at `now_s` and valid for `lifetime_s`
    /// seconds.
    pub fn new(issuer: &str, user: Uuid, session: Uuid, now_s: i64, lifetime_s: i64) -> Self {
        Self {
            iss: issuer.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user,
            sid: session,
            exp: now_s.saturating_add(lifetime_s),
            iat: now_s,
            jti: Uuid::new_v4(),
            nbf: None,
        }
    }
}

/// Authenticated caller: the user and the session of a verified access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub user: Uuid,
    /// Session of the user.
    pub session: Uuid,
    /// Time at which the token expires, in seconds since the Unix epoch.
    pub expires_at_s: i64,
}

/// Token that passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Caller of the token.
    pub(crate) caller: Caller,
    /// Earliest time at which the token is accepted, in seconds since the Unix epoch.
    pub(crate) valid_from_s: i64,
    /// Revision of the key set whose key verified the signature.
    pub(crate) keys_revision: u64,
}

impl Verified {
    /// Returns true if the token still passes the checks that depend on the key set and on the time.
    pub(crate) fn is_valid(&self, keys_revision: u64, now_s: i64) -> bool {
        self.keys_revision == keys_revision && self.valid_from_s <= now_s && now_s < self.caller.expires_at_s
    }
}

/// Creates the header of a token that is signed with the key `kid`.
pub(crate) fn header(kid: &str) -> Header {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(kid.to_owned());
    header
}

/// Returns the id of the key that a token names. Everything that can be checked without the key is
/// checked first.
///
/// # Errors
/// [`Rejection::Invalid`] if the token is too large, malformed, of another type or algorithm, or names
/// no key.
pub(crate) fn key_id(token: &str) -> Result<String, Rejection> {
    if token.len() > SIZE_MAX || token.split('.').count() != 3 {
        return Err(Rejection::Invalid);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Rejection::Invalid)?;
    // Extensions listed in `crit` must be understood (RFC 7515, section 4.1.11), and none is.
    let accepted =
        header.alg == Algorithm::EdDSA && header.typ.as_deref() == Some(TYPE) && header.crit.is_none();
    if accepted { header.kid.ok_or(Rejection::Invalid) } else { Err(Rejection::Invalid) }
}

/// Verifies the signature and the claims of a token with a key of a key set.
///
/// # Errors
/// [`Rejection::Expired`] if the token is valid otherwise; [`Rejection::Invalid`] in every other case.
pub(crate) fn verify(token: &str, key: &FoundKey, issuer: &str, now_s: i64) -> Result<Verified, Rejection> {
    let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &signature_only());
    let claims = decoded.map_err(|_| Rejection::Invalid)?.claims;
    let for_us = claims.iss == issuer && claims.aud == AUDIENCE;
    // The time of issue is not compared with the clock: with a clock that is behind the issuer's, every new
    // token would be refused.
    let lifetime_s = claims.exp.saturating_sub(claims.iat);
    let valid_from_s = claims.nbf.map_or(i64::MIN, |nbf| nbf.saturating_sub(CLOCK_AHEAD_S));
    if !for_us || lifetime_s > LIFETIME_MAX_S || valid_from_s > now_s {
        return Err(Rejection::Invalid);
    }
    if claims.exp <= now_s {
        return Err(Rejection::Expired);
    }
    if lifetime_s <= 0 {
        return Err(Rejection::Invalid);
    }
    let caller = Caller { user: claims.sub, session: claims.sid, expires_at_s: claims.exp };
    Ok(Verified { caller, valid_from_s, keys_revision: key.keys_revision })
}

/// Configures the library to check only the signature. [`verify`] checks the claims: the library would
/// read the system clock and allow 60 s after the expiry.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::*;
    use crate::{KeySet, SigningKeys};

    const NOW_S: i64 = 1_800_000_000;

    struct Issuer {
        keys: SigningKeys,
        set: KeySet,
        claims: Claims,
    }

    impl Issuer {
        fn new() -> Self {
            let keys = SigningKeys::generate();
            let set = KeySet::of(&keys);
            let claims = Claims::new("issuer", Uuid::new_v4(), Uuid::new_v4(), NOW_S, 300);
            Self { keys, set, claims }
        }

        fn kid(&self) -> String {
            let set: Value = serde_json::from_str(&self.keys.jwks()).expect("json");
            set["keys"][0]["kid"].as_str().expect("a kid").to_owned()
        }

        fn public(&self) -> Vec<u8> {
            let set: Value = serde_json::from_str(&self.keys.jwks()).expect("json");
            URL_SAFE_NO_PAD.decode(set["keys"][0]["x"].as_str().expect("a point")).expect("base64url")
        }

        fn header(&self) -> Value {
            json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": self.kid() })
        }

        /// Creates a token of any header and claims with a valid signature of the newest key.
        fn signed(&self, header: &Value, claims: &Value) -> String {
            let message = format!("{}.{}", part(header), part(claims));
            let signature = self.keys.sign_bytes(message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        async fn verify(&self, token: &str) -> Result<Caller, Rejection> {
            self.set.verify(token, "issuer", NOW_S).await.map(|verified| verified.caller)
        }

        async fn with(&self, change: impl FnOnce(&mut Claims)) -> Result<Caller, Rejection> {
            let mut claims = self.claims.clone();
            change(&mut claims);
            self.verify(&self.keys.sign(&claims)).await
        }
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn changed(value: &Value, name: &str, to: Value) -> Value {
        let mut value = value.clone();
        value[name] = to;
        value
    }

    fn without(value: &Value, name: &str) -> Value {
        let mut value = value.clone();
        value.as_object_mut().expect("an object").remove(name).expect("a field to remove");
        value
    }

    #[tokio::test]
    async fn a_valid_token_gives_the_caller() {
        let issuer = Issuer::new();
        let caller =
            Caller { user: issuer.claims.sub, session: issuer.claims.sid, expires_at_s: NOW_S + 300 };
        assert_eq!(issuer.verify(&issuer.keys.sign(&issuer.claims)).await, Ok(caller));
        let claims = serde_json::to_value(&issuer.claims).expect("json");
        assert_eq!(issuer.verify(&issuer.signed(&issuer.header(), &claims)).await, Ok(caller));
    }

    #[tokio::test]
    async fn a_token_expires_to_the_second() {
        let issuer = Issuer::new();
        assert_eq!(issuer.with(|claims| claims.exp = NOW_S - 1).await, Err(Rejection::Expired));
        assert_eq!(issuer.with(|claims| claims.exp = NOW_S).await, Err(Rejection::Expired));
        assert!(issuer.with(|claims| claims.exp = NOW_S + 1).await.is_ok());
        assert_eq!(issuer.with(|claims| claims.nbf = Some(NOW_S + 61)).await, Err(Rejection::Invalid));
        assert!(issuer.with(|claims| claims.nbf = Some(NOW_S + 60)).await.is_ok());
        let forged = issuer.with(|claims| (claims.exp, claims.iss) = (NOW_S - 1, "other".to_owned())).await;
        assert_eq!(forged, Err(Rejection::Invalid), "only otherwise valid tokens are reported as expired");
    }

    #[tokio::test]
    async fn a_clock_behind_the_issuers_makes_a_token_live_longer_and_refuses_none() {
        let issuer = Issuer::new();
        let hour = 3_600;
        let later = |claims: &mut Claims| (claims.iat, claims.exp) = (NOW_S + hour, NOW_S + hour + 300);
        assert!(issuer.with(later).await.is_ok());
        let never = |claims: &mut Claims| claims.iat = claims.exp;
        assert_eq!(issuer.with(never).await, Err(Rejection::Invalid), "it never was valid");
    }

    #[tokio::test]
    async fn missing_and_wrong_claims_are_rejected_despite_a_valid_signature() {
        let issuer = Issuer::new();
        let header = issuer.header();
        let claims = serde_json::to_value(&issuer.claims).expect("json");
        for name in ["iss", "aud", "sub", "sid", "exp", "iat", "jti"] {
            let token = issuer.signed(&header, &without(&claims, name));
            assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "without {name}");
            let token = issuer.signed(&header, &changed(&claims, name, Value::Null));
            assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "{name} null");
        }
        for (name, value) in [
            ("iss", json!("other")),
            ("iss", json!("")),
            ("aud", json!("other")),
            ("aud", json!(["tidings", "other"])),
            ("sub", json!("no uuid")),
            ("sid", json!(7)),
            ("exp", json!("2030-01-01")),
            ("exp", json!(1e30)),
            ("iat", json!("now")),
        ] {
            let token = issuer.signed(&header, &changed(&claims, name, value.clone()));
            assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "{name} {value}");
        }
        assert_eq!(issuer.verify(&issuer.signed(&header, &json!([]))).await, Err(Rejection::Invalid));
    }

    #[tokio::test]
    async fn missing_and_wrong_header_fields_are_rejected_despite_a_valid_signature() {
        let issuer = Issuer::new();
        let header = issuer.header();
        let claims = serde_json::to_value(&issuer.claims).expect("json");
        for name in ["typ", "alg", "kid"] {
            let token = issuer.signed(&without(&header, name), &claims);
            assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "without {name}");
        }
        for (name, value) in [
            ("typ", json!("JWT")),
            ("typ", json!("AT+JWT")),
            ("alg", json!("none")),
            ("alg", json!("None")),
            ("alg", json!("HS256")),
            ("alg", json!("RS256")),
            ("alg", json!("ES256")),
            ("kid", json!("unknown")),
            ("kid", json!("")),
            ("kid", json!(1)),
            ("crit", json!(["exp"])),
        ] {
            let token = issuer.signed(&changed(&header, name, value.clone()), &claims);
            assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "{name} {value}");
        }
    }

    #[tokio::test]
    async fn unsigned_and_foreign_tokens_are_rejected() {
        let issuer = Issuer::new();
        let claims = serde_json::to_value(&issuer.claims).expect("json");
        for alg in ["none", "NONE", "EdDSA"] {
            let head = part(&changed(&issuer.header(), "alg", json!(alg)));
            for token in [format!("{head}.{}.", part(&claims)), format!("{head}.{}", part(&claims))] {
                assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "{alg}");
            }
        }
        // Algorithm confusion: the public key is used as the secret of a symmetric algorithm.
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let mut header = super::header(&issuer.kid());
            header.alg = algorithm;
            for secret in [issuer.public(), URL_SAFE_NO_PAD.encode(issuer.public()).into_bytes()] {
                let key = jsonwebtoken::EncodingKey::from_secret(&secret);
                let token = jsonwebtoken::encode(&header, &issuer.claims, &key).expect("a token");
                assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "{algorithm:?}");
            }
        }
        let other_issuer = SigningKeys::generate();
        assert_eq!(
            issuer.verify(&other_issuer.sign(&issuer.claims)).await,
            Err(Rejection::Invalid),
            "an unknown key"
        );
        let message = format!("{}.{}", part(&issuer.header()), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(other_issuer.sign_bytes(message.as_bytes()));
        let borrowed = format!("{message}.{signature}");
        assert_eq!(
            issuer.verify(&borrowed).await,
            Err(Rejection::Invalid),
            "another issuer's signature under our key id"
        );
    }

    #[tokio::test]
    async fn a_token_changed_or_truncated_anywhere_is_rejected() {
        let issuer = Issuer::new();
        let token = issuer.keys.sign(&issuer.claims);
        for (at, old) in token.char_indices().filter(|(_, old)| *old != '.') {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if old == 'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).expect("ascii");
            assert!(issuer.verify(&forged).await.is_err(), "changed at {at}");
        }
        for length in 0..token.len() {
            assert!(issuer.verify(&token[..length]).await.is_err(), "cut at {length}");
        }
        let other = issuer.keys.sign(&Claims { sub: Uuid::new_v4(), ..issuer.claims.clone() });
        let parts: Vec<&str> = token.split('.').chain(other.split('.')).collect();
        let mixed = format!("{}.{}.{}", parts[0], parts[4], parts[2]);
        assert_eq!(
            issuer.verify(&mixed).await,
            Err(Rejection::Invalid),
            "another token's claims under this signature"
        );
    }

    #[tokio::test]
    async fn malformed_tokens_are_rejected() {
        let issuer = Issuer::new();
        let token = issuer.keys.sign(&issuer.claims);
        let claims = serde_json::to_value(&issuer.claims).expect("json");
        let large = issuer.signed(&issuer.header(), &changed(&claims, "more", json!("x".repeat(5000))));
        let padded = format!("{token}==");
        let four = format!("{token}.{token}");
        let before = format!(" {token}");
        let after = format!("{token} ");
        for bad in
            ["", ".", "..", "...", "a.b.c", "ü.ü.ü", "\0.\0.\0", &large, &padded, &four, &before, &after]
        {
            assert_eq!(issuer.verify(bad).await, Err(Rejection::Invalid), "{bad:?}");
        }
    }
}
