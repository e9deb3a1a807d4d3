//! Access tokens: what they say, and the rules by which one is believed. EdDSA only, type `at+jwt`, for us alone, and
//! not a second longer than it says.

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Refused;

/// Whom tokens are for.
pub const AUDIENCE: &str = "tidings";
/// The header's `typ` (RFC 9068).
const TYPE: &str = "at+jwt";
/// The longest token that is looked at, in bytes.
const SIZE_MAX: usize = 4096;
/// How far the signer's clock may be ahead of ours, in seconds.
const CLOCK_AHEAD_S: i64 = 60;

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
/// [`Refused::Invalid`] where it is too large, not a token, of another type or algorithm, or names no key.
pub(crate) fn key_id(token: &str) -> Result<String, Refused> {
    if token.len() > SIZE_MAX || token.split('.').count() != 3 {
        return Err(Refused::Invalid);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Refused::Invalid)?;
    let ours = header.alg == Algorithm::EdDSA && header.typ.as_deref() == Some(TYPE) && header.crit.is_none();
    if ours { header.kid.ok_or(Refused::Invalid) } else { Err(Refused::Invalid) }
}

/// Believes a token signed by this key.
///
/// # Errors
/// [`Refused::Invalid`], or [`Refused::Expired`] where nothing else is wrong with it.
pub(crate) fn verify(token: &str, key: &DecodingKey, issuer: &str, now_s: i64) -> Result<Caller, Refused> {
    let claims = jsonwebtoken::decode::<Claims>(token, key, &signature_only()).map_err(|_| Refused::Invalid)?.claims;
    let ours = claims.iss == issuer && claims.aud == AUDIENCE && claims.iat <= now_s.saturating_add(CLOCK_AHEAD_S);
    if !ours {
        return Err(Refused::Invalid);
    }
    if claims.exp <= now_s {
        return Err(Refused::Expired);
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
