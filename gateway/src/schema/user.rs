//! People and what signs them in.

use async_graphql::{ID, SimpleObject};
use proto::{UserId, auth};

use crate::error::Error;

use super::DateTime;

/// A person.
#[derive(SimpleObject, Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Never changes and is never given to anybody else.
    pub id: ID,
    /// What the person signs in with: 3 to 32 characters of `a-z`, `0-9`, `_`, `.`, `-`. Unique, never changes.
    pub login: String,
    /// What the person is called: 1 to 64 characters, not unique. `updateMe` changes it.
    pub name: String,
    /// When the person registered.
    pub created_at: DateTime,
}

/// A sign-in of a person on a device.
#[derive(SimpleObject)]
pub struct Session {
    /// Who has signed in.
    pub user: User,
    /// Goes into the header `Authorization: Bearer …` of every request, and into the payload of `connection_init`. A JWT,
    /// signed with EdDSA; short-lived.
    pub access_token: String,
    /// For `refreshSession`, once: it returns the next one. Opaque; keep it secret.
    pub refresh_token: String,
    /// When the access token expires.
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
