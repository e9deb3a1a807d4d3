//! Events of auth, on topic `tidings.auth`, keyed by user id. They carry only ids and are appended to
//! the outbox in the same transaction as the change that they report.

use events::{Event, Headers};
use proto::{
    SessionId, UserId,
    events::{SessionRevoked, UserLoggedIn, UserRegistered, UserRenamed, event::Kind},
    topic,
};
use uuid::Uuid;

use crate::session::Ended;

/// UserRegistered: a user was created.
pub(crate) fn registered(user: UserId, headers: &Headers) -> Event {
    event(user, Kind::UserRegistered(UserRegistered { user_id: user.bytes() }), headers)
}

/// UserLoggedIn: a session was opened, by a login, a registration or a change of password.
pub(crate) fn logged_in(user: UserId, session: SessionId, headers: &Headers) -> Event {
    let kind = Kind::UserLoggedIn(UserLoggedIn { user_id: user.bytes(), session_id: session.bytes() });
    event(user, kind, headers)
}

/// UserRenamed: the display name was changed.
pub(crate) fn renamed(user: UserId, headers: &Headers) -> Event {
    event(user, Kind::UserRenamed(UserRenamed { user_id: user.bytes() }), headers)
}

/// SessionRevoked: these sessions of a user were ended. Returns `None` for an empty list.
pub(crate) fn revoked(user: UserId, ended: &[Ended], headers: &Headers) -> Option<Event> {
    let expires_at_us = ended.iter().map(|ended| ended.expires_at_us).max()?;
    let session_ids = ended.iter().map(|ended| ended.session.bytes()).collect();
    let kind = Kind::SessionRevoked(SessionRevoked { user_id: user.bytes(), session_ids, expires_at_us });
    Some(event(user, kind, headers))
}

fn event(user: UserId, kind: Kind, headers: &Headers) -> Event {
    Event {
        event_id: Uuid::now_v7(),
        topic: topic::AUTH,
        key: user.to_string(),
        // A user has no version; consumers of this topic do not order by it.
        version: 0,
        kind: kind.name(),
        payload: kind.payload(),
        headers: headers.clone(),
    }
}
