//! Values of the hub of messages: events of the log and the frames built from them. Protobuf events are
//! parsed here and nowhere else.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use proto::{
    DialogId, InvalidId, MessageId, UserId,
    dialog::{self, Status},
    events::event,
};

use crate::version::Version;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A message was stored.
    Sent,
    /// A message was counted.
    Committed,
    /// The counter service refused a message.
    Failed,
    /// A message was deleted by its author.
    Deleted,
    /// Too many changes to replay: the reader has to reload the history.
    Reset,
    /// Nothing is replayed.
    Current,
}

impl Kind {
    /// Derives the kind from the state of a message, for a replay, where its latest event is not known.
    pub fn of(message: &dialog::Message) -> Self {
        match message.status() {
            _ if message.deleted_at_us.is_some() => Self::Deleted,
            Status::Failed => Self::Failed,
            Status::Committed => Self::Committed,
            Status::Pending | Status::Unspecified => Self::Sent,
        }
    }
}

/// A frame of a subscription to a dialog's messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The kind of the frame.
    pub kind: Kind,
    /// The version to resume from after the frame.
    pub version: Version,
    /// The newest state of the message, with all that its author may see. None in RESET and CURRENT.
    pub message: Option<Arc<dialog::Message>>,
    /// True if the reader is the author. Other readers do not see the text and the reason of a failed
    /// message.
    pub author: bool,
}

impl Frame {
    /// Creates a frame with a message.
    pub fn with_message(kind: Kind, version: Version, message: Arc<dialog::Message>, reader: UserId) -> Self {
        let author = message.sender_id == reader.uuid().as_bytes();
        Self { kind, version, message: Some(message), author }
    }

    /// Creates a frame without a message: RESET or CURRENT.
    pub fn without_message(kind: Kind, version: Version) -> Self {
        Self { kind, version, message: None, author: false }
    }
}

/// The change that an event records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A message changed.
    Message(MessageId, Kind),
    /// A participant joined.
    Joined(UserId),
    /// A participant left.
    Left(UserId),
    /// The title changed.
    Renamed,
    /// A change without a frame. Its version still counts.
    Other,
}

/// An event of a dialog, which raises the dialog's version by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The number of the dialog's version after the event.
    pub version: i64,
    /// The change.
    pub change: Change,
}

impl Event {
    /// Parses an event of the dialog topic. Returns `None` for events of other topics.
    ///
    /// # Errors
    /// [`InvalidId`] if an id is malformed.
    pub fn from_log(kind: &event::Kind) -> Result<Option<(DialogId, Self)>, InvalidId> {
        let message = |id: &[u8], kind| Ok(Change::Message(MessageId::parse(id)?, kind));
        let (dialog, version, change) = match kind {
            event::Kind::DialogCreated(it) => (&it.dialog_id, it.version, Ok(Change::Other)),
            event::Kind::DialogRenamed(it) => (&it.dialog_id, it.version, Ok(Change::Renamed)),
            event::Kind::ParticipantJoined(it) => {
                (&it.dialog_id, it.version, UserId::parse(&it.user_id).map(Change::Joined))
            }
            event::Kind::ParticipantLeft(it) => {
                (&it.dialog_id, it.version, UserId::parse(&it.user_id).map(Change::Left))
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
        Ok(Some((DialogId::parse(dialog)?, Self { version, change: change? })))
    }
}
