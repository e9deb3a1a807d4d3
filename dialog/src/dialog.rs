//! Dialog as one of its participants sees it.

use proto::{DialogId, UserId};

use crate::message::Message;

/// Dialog. Times are in microseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dialog {
    pub id: DialogId,
    pub title: Option<String>,
    /// True for the one dialog of two users without a title.
    pub direct: bool,
    /// Current participants, ordered by id.
    pub participants: Vec<UserId>,
    pub created_at_us: i64,
    /// Time of the newest message, or of the creation if there is none.
    pub last_activity_us: i64,
    /// Newest message that the caller may see.
    pub last_message: Option<Message>,
}
