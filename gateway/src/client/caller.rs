//! Authentication of a request on every transport: an access token proves the user and the session.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use access::{Guard, Rejection, bearer_token};
use http::{HeaderMap, header};
use parking_lot::Mutex;
use proto::{SessionId, UserId};
use telemetry::Secret;
use tokio::time::timeout;

use crate::{
    client::revoked_sessions::RevokedSessions,
    error::{Code, Error},
};

/// User and session that a valid access token proves.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// The session that the token was issued for.
    pub session: SessionId,
    /// Expiry of the token, in seconds since the epoch.
    pub expires_at_s: i64,
    /// The header that is sent with the calls to services on behalf of this user.
    pub authorization: Authorization,
}

/// `Authorization` header with the caller's newest token, `Bearer …`. Clones share one header, so a renewal
/// reaches all of them.
#[derive(Clone, Debug)]
pub struct Authorization(Arc<Mutex<(i64, Secret)>>);

impl Authorization {
    /// Wraps a header whose token expires at `expires_at_s`, in seconds since the epoch.
    pub fn new(header: &str, expires_at_s: i64) -> Self {
        Self(Arc::new(Mutex::new((expires_at_s, Secret::new(header)))))
    }

    /// Returns the header.
    pub fn newest(&self) -> Secret {
        self.0.lock().1.clone()
    }

    /// Returns the expiry of its token, in seconds since the epoch.
    pub fn expires_at_s(&self) -> i64 {
        self.0.lock().0
    }

    /// Replaces the token by that of `other` if that one expires later.
    pub fn renew(&self, other: &Self) {
        // Cloned first: holding both locks could deadlock with a renewal in the other direction.
        let newer = other.0.lock().clone();
        let mut own = self.0.lock();
        if newer.0 > own.0 {
            *own = newer;
        }
    }
}

/// Longest wait of the first requests after the start for the ended sessions. In one process auth names them
/// within milliseconds.
const COMPLETE_WAIT: Duration = Duration::from_secs(2);

/// Verifies access tokens and rejects those of revoked sessions.
#[derive(Clone, Debug)]
pub struct Authenticator {
    guard: Guard,
    revoked: RevokedSessions,
}

impl Authenticator {
    /// Creates an authenticator that accepts the tokens of `guard`, except for those of `revoked` sessions.
    pub fn new(guard: Guard, revoked: RevokedSessions) -> Self {
        Self { guard, revoked }
    }

    /// Authenticates an access token, without the prefix `Bearer`.
    ///
    /// # Errors
    /// UNAUTHENTICATED if the token is malformed or expired, or its session is revoked; UNAVAILABLE while the
    /// keys cannot be loaded, or auth has not named the ended sessions since the start of this gateway.
    pub async fn token(&self, token: &str) -> Result<Caller, Error> {
        let verified = self.guard.verify(token, now_s()).await.map_err(rejected_token)?;
        let session = SessionId::new(verified.session);
        if !self.revoked.is_complete() && timeout(COMPLETE_WAIT, self.revoked.complete()).await.is_err() {
            return Err(Error::new(Code::Unavailable, "tokens cannot be checked yet, try again"));
        }
        if self.revoked.rejects(session, verified.expires_at_s) {
            return Err(Error::new(Code::Unauthenticated, "the session has ended, sign in again"));
        }
        Ok(Caller {
            user: UserId::new(verified.user),
            session,
            expires_at_s: verified.expires_at_s,
            authorization: Authorization::new(&format!("Bearer {token}"), verified.expires_at_s),
        })
    }

    /// Authenticates the `Authorization` header. Returns `None`, the anonymous caller, if it is absent or
    /// empty.
    ///
    /// # Errors
    /// The errors of [`Authenticator::token`], also for operations that need no token; UNAUTHENTICATED for
    /// two headers.
    pub async fn header(&self, headers: &HeaderMap) -> Result<Option<Caller>, Error> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let value = value.to_str().map_err(|_| rejected_token(Rejection::Invalid))?;
        if values.next().is_some() {
            // Two tokens are ambiguous: a proxy in front might have checked the other one.
            return Err(rejected_token(Rejection::Invalid));
        }
        if value.trim().is_empty() {
            return Ok(None);
        }
        let token = bearer_token(value).filter(|token| !token.contains(' '));
        let token = token.ok_or_else(|| rejected_token(Rejection::Invalid))?;
        self.token(token).await.map(Some)
    }

    /// Replaces the token of an open socket by a newer one, which arrives in the `extensions` of any
    /// operation. The socket and its running subscriptions continue with the newer token. It must belong to
    /// the same user and the same session, as a refresh returns it: a new sign-in is a new session and needs
    /// another socket. A token that is as old as the present one changes nothing.
    ///
    /// # Errors
    /// UNAUTHENTICATED for an anonymous socket, and for a token that is malformed, expired or revoked, that
    /// belongs to another user or session, or that is older than the socket's; UNAVAILABLE while the keys
    /// cannot be loaded. The socket keeps the token that it has.
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

fn rejected_token(reason: Rejection) -> Error {
    let code = match reason {
        Rejection::Missing | Rejection::Invalid | Rejection::Expired => Code::Unauthenticated,
        Rejection::KeysUnavailable => Code::Unavailable,
    };
    Error::new(code, reason.to_string())
}

/// Returns the seconds since the epoch by the system clock.
pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
