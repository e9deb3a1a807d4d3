//! Topics of the event log, and the name and encoding of each event. A payload is an encoded
//! `tidings.events.Event`, the same in the outbox and in Kafka.

use prost::Message;

use crate::events::{Event, event::Kind};

/// Events of users and sessions, keyed by user id.
pub const AUTH: &str = "tidings.auth";
/// Events of dialogs, memberships and messages, keyed by dialog id.
pub const DIALOG: &str = "tidings.dialog";
/// Replies of the counting saga, and read pointers, keyed by dialog id.
pub const COUNTER: &str = "tidings.counter";
/// Changes of unread counts, keyed by user id.
pub const UNREAD: &str = "tidings.unread";
/// Dead letters: events that no consumer can apply, for operators to inspect.
pub const DEAD: &str = "tidings.dead";

impl Kind {
    /// Returns the name of the event, for the outbox's `type` column and the `type` header of a record.
    pub fn name(&self) -> &'static str {
        match self {
            Self::UserRegistered(_) => "UserRegistered",
            Self::UserLoggedIn(_) => "UserLoggedIn",
            Self::UserRenamed(_) => "UserRenamed",
            Self::SessionRevoked(_) => "SessionRevoked",
            Self::DialogCreated(_) => "DialogCreated",
            Self::DialogRenamed(_) => "DialogRenamed",
            Self::ParticipantJoined(_) => "ParticipantJoined",
            Self::ParticipantLeft(_) => "ParticipantLeft",
            Self::MessageSent(_) => "MessageSent",
            Self::MessageCommitted(_) => "MessageCommitted",
            Self::MessageFailed(_) => "MessageFailed",
            Self::MessageDeleted(_) => "MessageDeleted",
            Self::Counted(_) => "Counted",
            Self::CountRefused(_) => "CountRefused",
            Self::ReadMarked(_) => "ReadMarked",
            Self::UnreadChanged(_) => "UnreadChanged",
            Self::DialogEpochRaised(_) | Self::UnreadEpochRaised(_) => "EpochRaised",
            Self::DeadLetter(_) => "DeadLetter",
        }
    }

    /// Encodes the event as the payload of a record.
    pub fn payload(self) -> Vec<u8> {
        Event { kind: Some(self) }.encode_to_vec()
    }

    /// Decodes the payload of a record. Returns `None` for malformed bytes and for a kind of event that
    /// this build does not know.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        Event::decode(payload).ok()?.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::UserRenamed;

    #[test]
    fn an_encoded_event_is_decoded_and_other_bytes_are_not() {
        let kind = Kind::UserRenamed(UserRenamed { user_id: vec![7; 16] });
        assert_eq!(Kind::decode(&kind.clone().payload()), Some(kind));
        assert_eq!(Kind::decode(b"\xff\xff\xff"), None);
        assert_eq!(Kind::decode(b""), None, "an event of an unknown kind decodes like empty bytes");
    }
}
