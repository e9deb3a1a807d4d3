//! Users and their sessions.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, ID, SimpleObject};
use proto::{SessionId, UserId, auth};

use crate::error::Error;

use super::{
    DateTime, Scope,
    page::{self, PAGE_MAX},
};

/// A user account.
#[derive(SimpleObject, Debug, Clone, PartialEq, Eq)]
#[graphql(complex)]
pub struct User {
    /// Unique and permanent; an id is never reused.
    #[graphql(owned)] // The interface Node requires a getter that returns `ID`.
    pub id: ID,
    /// The sign-in name: 3 to 32 of the characters `a-z`, `0-9`, `_`, `.` and `-`. Unique and permanent.
    pub login: String,
    /// The display name, 1 to 64 characters. Not unique. Changed with `updateMe`.
    pub name: String,
    /// The time of registration.
    pub created_at: DateTime,
}

#[ComplexObject]
impl User {
    /// The open sessions of the caller, most recently used first, at most 100: signing in once more ends the
    /// oldest. Null for every other user. Null with an UNAVAILABLE error while the auth service is
    /// unavailable.
    #[graphql(complexity = "page::list_cost(SESSIONS_MAX, child_complexity)")]
    async fn sessions(&self, ctx: &Context<'_>) -> Result<Option<Arc<Vec<OpenSession>>>, Error> {
        let scope = Scope::of(ctx);
        let caller = scope.caller()?.user;
        if self.id.as_str() != caller.to_string() {
            return Ok(None);
        }
        scope.loaders.sessions.load(caller).await
    }
}

/// Most open sessions of a user.
const SESSIONS_MAX: usize = PAGE_MAX as usize;

/// An open session in the list of its user.
#[derive(SimpleObject, Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    /// The id, for `endSession`.
    pub id: ID,
    /// The name that the client gave the device when it signed in. Null if it gave none.
    pub device_name: Option<String>,
    /// The header `User-Agent` of the sign-in or the last refresh, at most 256 characters, without control
    /// characters. A client can state anything. Null if it stated nothing. Has a complexity of 3, because the
    /// text takes up to 1 kB.
    #[graphql(complexity = 3)]
    pub user_agent: Option<String>,
    /// The time of the sign-in. A change of password is a new sign-in.
    pub created_at: DateTime,
    /// The time of the last use, exact to the lifetime of an access token: that of the sign-in or of the last
    /// refresh. Other requests are not recorded.
    pub last_used_at: DateTime,
    /// True for the session that sends the request.
    pub current: bool,
}

/// A session of a user on one device.
#[derive(SimpleObject)]
pub struct Session {
    /// The user who signed in.
    pub user: User,
    /// A short-lived JWT, signed with EdDSA. Send it in the header `Authorization: Bearer …` of every
    /// request and in the payload of `connection_init`.
    pub access_token: String,
    /// An opaque, secret token for `refreshSession`, which accepts it once and returns its successor.
    pub refresh_token: String,
    /// The expiry time of the access token.
    pub expires_at: DateTime,
}

impl TryFrom<auth::User> for User {
    type Error = Error;

    fn try_from(user: auth::User) -> Result<Self, Error> {
        Ok(Self {
            id: ID(UserId::parse(&user.id)?.to_string()),
            login: user.login,
            name: user.name,
            created_at: DateTime::from_microseconds(user.created_at_us),
        })
    }
}

impl TryFrom<auth::OpenSession> for OpenSession {
    type Error = Error;

    fn try_from(session: auth::OpenSession) -> Result<Self, Error> {
        Ok(Self {
            id: ID(SessionId::parse(&session.session_id)?.to_string()),
            device_name: session.device_name,
            user_agent: session.user_agent,
            created_at: DateTime::from_microseconds(session.created_at_us),
            last_used_at: DateTime::from_microseconds(session.last_used_at_us),
            current: session.current,
        })
    }
}

impl TryFrom<auth::Session> for Session {
    type Error = Error;

    fn try_from(session: auth::Session) -> Result<Self, Error> {
        let user = session.user.ok_or_else(|| Error::internal("a session without a user"))?;
        Ok(Self {
            user: user.try_into()?,
            access_token: session.access_token,
            refresh_token: session.refresh_token,
            expires_at: DateTime::from_microseconds(session.expires_at_us),
        })
    }
}
