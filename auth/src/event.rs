//! What auth tells the others: events of a person, keyed by the person's id. They are appended in the transaction of their
//! cause, and carry ids alone.

use events::{Event, Headers};
use proto::{
    SessionId, UserId,
    events::{SessionRevoked, UserLoggedIn, UserRegistered, UserRenamed, event::Kind},
    topic,
};
use uuid::Uuid;

/// A person is there.
pub(crate) fn registered(user: UserId, headers: &Headers) -> Event {
    event(user, Kind::UserRegistered(UserRegistered { user_id: user.bytes() }), headers)
}

/// A person has signed in, by a password or by registering.
pub(crate) fn logged_in(user: UserId, session: SessionId, headers: &Headers) -> Event {
    let kind = Kind::UserLoggedIn(UserLoggedIn { user_id: user.bytes(), session_id: session.bytes() });
    event(user, kind, headers)
}

/// A person has another name.
pub(crate) fn renamed(user: UserId, headers: &Headers) -> Event {
    event(user, Kind::UserRenamed(UserRenamed { user_id: user.bytes() }), headers)
}

/// These sessions of a person are over. `None` where there are none.
pub(crate) fn revoked(user: UserId, sessions: &[SessionId], headers: &Headers) -> Option<Event> {
    let session_ids: Vec<_> = sessions.iter().map(|id| id.bytes()).collect();
    let kind = Kind::SessionRevoked(SessionRevoked { user_id: user.bytes(), session_ids });
    (!sessions.is_empty()).then(|| event(user, kind, headers))
}

fn event(user: UserId, kind: Kind, headers: &Headers) -> Event {
    Event {
        event_id: Uuid::now_v7(),
        topic: topic::AUTH,
        key: user.to_string(),
        version: 0,
        kind: kind.name(),
        payload: kind.payload(),
        headers: headers.clone(),
    }
}
