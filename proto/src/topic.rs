//! The topics of the log, and the events' names and encoding.

use prost::Message;

use crate::events::{Event, event::Kind};

/// Users and sessions; keyed by user.
pub const AUTH: &str = "tidings.auth";
/// Dialogs, memberships and messages; keyed by dialog.
pub const DIALOG: &str = "tidings.dialog";
/// The saga's replies and read pointers; keyed by dialog.
pub const COUNTER: &str = "tidings.counter";
/// Unread counts; keyed by user.
pub const UNREAD: &str = "tidings.unread";
/// What nobody could apply; read by operators.
pub const DEAD: &str = "tidings.dead";

impl Kind {
    /// The event's name, as the outbox and the log's headers carry it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::UserRegistered(_) => "UserRegistered",
            Self::UserLoggedIn(_) => "UserLoggedIn",
            Self::UserRenamed(_) => "UserRenamed",
            Self::SessionRevoked(_) => "SessionRevoked",
            Self::DialogCreated(_) => "DialogCreated",
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
            Self::DeadLetter(_) => "DeadLetter",
        }
    }

    /// The payload of a record.
    pub fn payload(self) -> Vec<u8> {
        Event { kind: Some(self) }.encode_to_vec()
    }

    /// Reads a payload back. `None` where it is not an event that this build knows: a dead letter.
    pub fn read(payload: &[u8]) -> Option<Self> {
        Event::decode(payload).ok()?.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::UserRenamed;

    #[test]
    fn an_event_reads_back_and_noise_is_none() {
        let kind = Kind::UserRenamed(UserRenamed { user_id: vec![7; 16] });
        assert_eq!(Kind::read(&kind.clone().payload()), Some(kind));
        assert_eq!(Kind::read(b"\xff\xff\xff"), None);
        assert_eq!(Kind::read(b""), None, "an event of a later build has no kind here");
    }
}
