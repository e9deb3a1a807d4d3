//! Who asks: the person and the session that an access token proves, on every transport.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use access::{Guard, Rejection};
use http::{HeaderMap, header};
use proto::{SessionId, UserId};
use telemetry::Secret;

use crate::{
    client::revoked_sessions::RevokedSessions,
    error::{Code, Error},
};

/// A signed-in person, as an access token says.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The person.
    pub user: UserId,
    /// The sign-in that the token belongs to.
    pub session: SessionId,
    /// When the token expires, in seconds since the epoch.
    pub expires_at_s: i64,
    /// The header that travels with calls on this person's behalf.
    pub authorization: Authorization,
}

/// The header of somebody's newest token, `Bearer …`. All clones are one: whoever holds it has the newest.
#[derive(Clone, Debug)]
pub struct Authorization(Arc<Mutex<(i64, Secret)>>);

impl Authorization {
    /// A header, and when its token expires, in seconds since the epoch.
    pub fn new(header: &str, expires_at_s: i64) -> Self {
        Self(Arc::new(Mutex::new((expires_at_s, Secret::new(header)))))
    }

    /// The header.
    pub fn newest(&self) -> Secret {
        self.lock().1.clone()
    }

    /// When its token expires, in seconds since the epoch.
    pub fn expires_at_s(&self) -> i64 {
        self.lock().0
    }

    /// Takes over another one's, where it lives longer.
    pub fn renew(&self, other: &Self) {
        let newer = other.lock().clone();
        let mut own = self.lock();
        if newer.0 > own.0 {
            *own = newer;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (i64, Secret)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says who asks.
#[derive(Clone, Debug)]
pub struct Authenticator {
    guard: Guard,
    revoked: RevokedSessions,
}

impl Authenticator {
    /// One that believes what this guard believes, but for sessions that are over.
    pub fn new(guard: Guard, revoked: RevokedSessions) -> Self {
        Self { guard, revoked }
    }

    /// Who shows this access token, with or without `Bearer` before it.
    ///
    /// # Errors
    /// UNAUTHENTICATED where it is not valid, has expired, or its session is over; UNAVAILABLE where nobody can say.
    pub async fn token(&self, text: &str) -> Result<Caller, Error> {
        let text = text.trim();
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            Some(_) => return Err(refused(Rejection::Invalid)),
            None => text,
        };
        let verified = self.guard.verify(token, now_s()).await.map_err(refused)?;
        let session = SessionId::new(verified.session);
        if self.revoked.contains(session) {
            return Err(Error::new(Code::Unauthenticated, "the session is over, sign in again"));
        }
        Ok(Caller {
            user: UserId::new(verified.user),
            session,
            expires_at_s: verified.expires_at_s,
            authorization: Authorization::new(&format!("Bearer {token}"), verified.expires_at_s),
        })
    }

    /// Who sends these headers; `None` without an authorization header, or with an empty one.
    ///
    /// # Errors
    /// As [`Authenticator::token`]: a bad token is refused even where none is needed.
    pub async fn header(&self, headers: &HeaderMap) -> Result<Option<Caller>, Error> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let value = value.to_str().map_err(|_| refused(Rejection::Invalid))?;
        if values.next().is_some() {
            // Two tokens: nobody can say which of them is meant.
            return Err(refused(Rejection::Invalid));
        }
        if value.trim().is_empty() {
            return Ok(None);
        }
        let (scheme, token) = value.split_once(' ').ok_or_else(|| refused(Rejection::Invalid))?;
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().contains(' ') {
            return Err(refused(Rejection::Invalid));
        }
        self.token(token).await.map(Some)
    }

    /// Replaces the token of an open socket by a newer one, which arrives in the `extensions` of any operation. The
    /// socket and its running subscriptions continue with the newer token. It must belong to the same user and the same
    /// session, as a refresh returns it: a new sign-in is a new session and needs a socket of its own. A token that is
    /// as old as the present one changes nothing.
    ///
    /// # Errors
    /// UNAUTHENTICATED for an anonymous socket, and for a token that is malformed, expired or revoked, that belongs to
    /// another user or session, or that is older than the socket's; UNAVAILABLE while the keys cannot be loaded. The
    /// socket keeps the token that it has.
    pub async fn renew(&self, token: &str, caller: Option<&Caller>) -> Result<(), Error> {
        let rejected = |message: &str| Error::new(Code::Unauthenticated, message);
        let caller = caller
            .ok_or_else(|| rejected("this socket is anonymous: open another socket with this token"))?;
        let newer = self.token(token).await?;
        if newer.user != caller.user {
            return Err(rejected("this token belongs to another user than the socket's"));
        }
        if newer.session != caller.session {
            return Err(rejected("this token belongs to another session: open another socket with it"));
        }
        if newer.expires_at_s < caller.authorization.expires_at_s() {
            return Err(rejected("this token is older than the socket's"));
        }
        caller.authorization.renew(&newer.authorization);
        Ok(())
    }
}

fn refused(reason: Rejection) -> Error {
    let code = match reason {
        Rejection::Missing | Rejection::Invalid | Rejection::Expired => Code::Unauthenticated,
        Rejection::KeysUnavailable => Code::Unavailable,
    };
    Error::new(code, reason.to_string())
}

/// Seconds since the epoch, by this machine's clock.
pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
