//! What travels through the hub of messages: events of the log, read from the wire once, and the frames made of them.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use proto::{
    DialogId, InvalidId, MessageId, UserId,
    dialog::{self, Status},
    events::event,
};

use crate::version::Version;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A message was stored.
    Sent,
    /// The counters have counted it.
    Committed,
    /// The counters have refused it.
    Failed,
    /// Its author has deleted it.
    Deleted,
    /// Too much has changed to be told: the history is to be loaded again.
    Reset,
    /// Nothing has changed.
    Current,
}

impl Kind {
    /// What the state of a message says, where it is not known what happened last.
    pub fn of(message: &dialog::Message) -> Self {
        match message.status() {
            _ if message.deleted_at_us.is_some() => Self::Deleted,
            Status::Failed => Self::Failed,
            Status::Committed => Self::Committed,
            Status::Pending | Status::Unspecified => Self::Sent,
        }
    }
}

/// A frame of a dialog's live stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// What it says.
    pub kind: Kind,
    /// The version to resume from after it.
    pub version: Version,
    /// The message, in its newest state and as its author sees it; none in RESET and CURRENT.
    pub message: Option<Arc<dialog::Message>>,
    /// Whether the reader is its author; others than the author see less of a failed message.
    pub author: bool,
}

impl Frame {
    /// A frame about a message.
    pub fn about(kind: Kind, version: Version, message: Arc<dialog::Message>, reader: UserId) -> Self {
        let author = message.sender_id == reader.uuid().as_bytes();
        Self { kind, version, message: Some(message), author }
    }

    /// A frame without a message.
    pub fn bare(kind: Kind, version: Version) -> Self {
        Self { kind, version, message: None, author: false }
    }
}

/// What happened in a dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A message changed.
    Message(MessageId, Kind),
    /// Somebody left.
    Left(UserId),
    /// Nothing that this stream tells; its version counts.
    Other,
}

/// An event of a dialog: one step of its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The dialog's version after it.
    pub version: i64,
    /// What happened.
    pub what: What,
}

impl Event {
    /// Reads an event of the topic of dialogs; `None` for any other.
    ///
    /// # Errors
    /// Where an id is none.
    pub fn read(kind: &event::Kind) -> Result<Option<(DialogId, Self)>, InvalidId> {
        let message = |id: &[u8], kind| Ok(What::Message(MessageId::parse(id)?, kind));
        let (dialog, version, what) = match kind {
            event::Kind::DialogCreated(it) => (&it.dialog_id, it.version, Ok(What::Other)),
            event::Kind::ParticipantJoined(it) => (&it.dialog_id, it.version, Ok(What::Other)),
            event::Kind::ParticipantLeft(it) => {
                (&it.dialog_id, it.version, UserId::parse(&it.user_id).map(What::Left))
            }
            event::Kind::MessageSent(it) => (&it.dialog_id, it.version, message(&it.message_id, Kind::Sent)),
            event::Kind::MessageCommitted(it) => {
                (&it.dialog_id, it.version, message(&it.message_id, Kind::Committed))
            }
            event::Kind::MessageFailed(it) => {
                (&it.dialog_id, it.version, message(&it.message_id, Kind::Failed))
            }
            event::Kind::MessageDeleted(it) => {
                (&it.dialog_id, it.version, message(&it.message_id, Kind::Deleted))
            }
            _ => return Ok(None),
        };
        Ok(Some((DialogId::parse(dialog)?, Self { version, what: what? })))
    }
}
