//! Users and their sessions.

use async_graphql::{ID, SimpleObject};
use proto::{UserId, auth};

use crate::error::Error;

use super::DateTime;

/// A user account.
#[derive(SimpleObject, Debug, Clone, PartialEq, Eq)]
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
