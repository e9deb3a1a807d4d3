//! Access tokens: what they say, and the rules by which one is believed. EdDSA only, type `at+jwt`, for us alone, and
//! not a second longer than it says.

#![warn(clippy::indexing_slicing, clippy::panic)]

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Rejection;

/// Whom tokens are for.
pub const AUDIENCE: &str = "tidings";
/// The header's `typ` (RFC 9068).
const TYPE: &str = "at+jwt";
/// The longest token that is looked at, in bytes.
const SIZE_MAX: usize = 4096;
/// How far the signer's clock may be ahead of ours, in seconds.
const CLOCK_AHEAD_S: i64 = 60;
/// The longest life of a token that is believed: ten years, the longest that can be set.
const LIFETIME_MAX_S: i64 = 3_650 * 86_400;

/// What a token says. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who has issued it.
    pub iss: String,
    /// Whom it is for: [`AUDIENCE`].
    pub aud: String,
    /// The person.
    pub sub: Uuid,
    /// The person's session.
    pub sid: Uuid,
    /// From then on it is worth nothing.
    pub exp: i64,
    /// When it was issued.
    pub iat: i64,
    /// The token's own id.
    pub jti: Uuid,
    /// Before then it is worth nothing. Ours do not say it; where one does it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
}

impl Claims {
    /// The claims of a new token for a session, issued at `now_s`, for `lifetime_s` seconds.
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

/// Who calls, by a token that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The person.
    pub user: Uuid,
    /// The person's session.
    pub session: Uuid,
    /// When the token ends, in seconds since the Unix epoch.
    pub expires_at_s: i64,
}

/// The header of tokens signed by this key.
pub(crate) fn header(kid: &str) -> Header {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(kid.to_owned());
    header
}

/// The id of the key that a token says it is signed by. What can be refused without a key is refused here.
///
/// # Errors
/// [`Rejection::Invalid`] where it is too large, not a token, of another type or algorithm, or names no key.
pub(crate) fn key_id(token: &str) -> Result<String, Rejection> {
    if token.len() > SIZE_MAX || token.split('.').count() != 3 {
        return Err(Rejection::Invalid);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Rejection::Invalid)?;
    let ours = header.alg == Algorithm::EdDSA && header.typ.as_deref() == Some(TYPE) && header.crit.is_none();
    if ours { header.kid.ok_or(Rejection::Invalid) } else { Err(Rejection::Invalid) }
}

/// Believes a token signed by this key.
///
/// # Errors
/// [`Rejection::Invalid`], or [`Rejection::Expired`] where nothing else is wrong with it.
pub(crate) fn verify(token: &str, key: &DecodingKey, issuer: &str, now_s: i64) -> Result<Caller, Rejection> {
    let claims =
        jsonwebtoken::decode::<Claims>(token, key, &signature_only()).map_err(|_| Rejection::Invalid)?.claims;
    let soon_s = now_s.saturating_add(CLOCK_AHEAD_S);
    let ours = claims.iss == issuer && claims.aud == AUDIENCE;
    let begun = claims.iat <= soon_s && claims.nbf.is_none_or(|nbf| nbf <= soon_s);
    if !ours || !begun || claims.exp.saturating_sub(claims.iat) > LIFETIME_MAX_S {
        return Err(Rejection::Invalid);
    }
    if claims.exp <= now_s {
        return Err(Rejection::Expired);
    }
    Ok(Caller { user: claims.sub, session: claims.sid, expires_at_s: claims.exp })
}

/// The library checks the signature. The claims are checked above: it would take the system's clock, and a leeway.
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

        /// Truly signed by the newest key, whatever it says.
        fn signed(&self, header: &Value, claims: &Value) -> String {
            let message = format!("{}.{}", part(header), part(claims));
            let signature = self.keys.sign_bytes(message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        async fn verify(&self, token: &str) -> Result<Caller, Rejection> {
            self.set.verify(token, "issuer", NOW_S).await
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
        value.as_object_mut().expect("an object").remove(name).expect("there before");
        value
    }

    #[tokio::test]
    async fn a_true_token_says_who_calls() {
        let issuer = Issuer::new();
        let caller =
            Caller { user: issuer.claims.sub, session: issuer.claims.sid, expires_at_s: NOW_S + 300 };
        assert_eq!(issuer.verify(&issuer.keys.sign(&issuer.claims)).await, Ok(caller));
        let claims = serde_json::to_value(&issuer.claims).expect("json");
        assert_eq!(issuer.verify(&issuer.signed(&issuer.header(), &claims)).await, Ok(caller));
    }

    #[tokio::test]
    async fn a_token_ends_to_the_second() {
        let issuer = Issuer::new();
        assert_eq!(issuer.with(|claims| claims.exp = NOW_S - 1).await, Err(Rejection::Expired));
        assert_eq!(issuer.with(|claims| claims.exp = NOW_S).await, Err(Rejection::Expired));
        assert!(issuer.with(|claims| claims.exp = NOW_S + 1).await.is_ok());
        assert_eq!(issuer.with(|claims| claims.iat = NOW_S + 61).await, Err(Rejection::Invalid));
        assert!(issuer.with(|claims| claims.iat = NOW_S + 60).await.is_ok());
        let forged = issuer.with(|claims| (claims.exp, claims.iss) = (NOW_S - 1, "other".to_owned())).await;
        assert_eq!(forged, Err(Rejection::Invalid), "expired is said of our own tokens alone");
    }

    #[tokio::test]
    async fn claims_that_are_missing_or_wrong_are_refused_though_truly_signed() {
        let issuer = Issuer::new();
        let (header, claims) = (issuer.header(), serde_json::to_value(&issuer.claims).expect("json"));
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
            ("sub", json!("somebody")),
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
    async fn headers_that_are_missing_or_wrong_are_refused_though_truly_signed() {
        let issuer = Issuer::new();
        let (header, claims) = (issuer.header(), serde_json::to_value(&issuer.claims).expect("json"));
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
    async fn tokens_that_nobody_has_signed_are_refused() {
        let issuer = Issuer::new();
        let claims = serde_json::to_value(&issuer.claims).expect("json");
        for alg in ["none", "NONE", "EdDSA"] {
            let head = part(&changed(&issuer.header(), "alg", json!(alg)));
            for token in [format!("{head}.{}.", part(&claims)), format!("{head}.{}", part(&claims))] {
                assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "{alg}");
            }
        }
        // The classic: the public key taken for the secret of a symmetric algorithm.
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let mut header = super::header(&issuer.kid());
            header.alg = algorithm;
            for secret in [issuer.public(), URL_SAFE_NO_PAD.encode(issuer.public()).into_bytes()] {
                let key = jsonwebtoken::EncodingKey::from_secret(&secret);
                let token = jsonwebtoken::encode(&header, &issuer.claims, &key).expect("a token");
                assert_eq!(issuer.verify(&token).await, Err(Rejection::Invalid), "{algorithm:?}");
            }
        }
        let stranger = SigningKeys::generate();
        assert_eq!(
            issuer.verify(&stranger.sign(&issuer.claims)).await,
            Err(Rejection::Invalid),
            "an unknown key"
        );
        let message = format!("{}.{}", part(&issuer.header()), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(stranger.sign_bytes(message.as_bytes()));
        let borrowed = format!("{message}.{signature}");
        assert_eq!(issuer.verify(&borrowed).await, Err(Rejection::Invalid), "another's key under our id");
    }

    #[tokio::test]
    async fn a_token_changed_in_any_character_or_cut_anywhere_is_refused() {
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
            "another's claims under our signature"
        );
    }

    #[tokio::test]
    async fn what_is_no_token_is_refused() {
        let issuer = Issuer::new();
        let token = issuer.keys.sign(&issuer.claims);
        let claims = serde_json::to_value(&issuer.claims).expect("json");
        let large = issuer.signed(&issuer.header(), &changed(&claims, "more", json!("x".repeat(5000))));
        let padded = format!("{token}==");
        let four = format!("{token}.{token}");
        let (before, after) = (format!(" {token}"), format!("{token} "));
        for bad in
            ["", ".", "..", "...", "a.b.c", "ü.ü.ü", "\0.\0.\0", &large, &padded, &four, &before, &after]
        {
            assert_eq!(issuer.verify(bad).await, Err(Rejection::Invalid), "{bad:?}");
        }
    }
}
