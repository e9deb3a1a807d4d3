//! Who asks: the person and the session that an access token proves.

use proto::{SessionId, UserId};
use telemetry::Secret;

/// A signed-in person, as an access token says.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// The person.
    pub user: UserId,
    /// The sign-in that the token belongs to.
    pub session: SessionId,
    /// When the token expires, in seconds since the epoch.
    pub expires_at_s: i64,
    /// The header that travels with calls on this person's behalf, `Bearer …`.
    pub authorization: Secret,
}
