//! A dialog as one of its participants sees it.

use proto::{DialogId, UserId};

use crate::message::Message;

/// A dialog. Times are microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    /// Its id.
    pub id: DialogId,
    /// Its title, where it has one.
    pub title: Option<String>,
    /// Whether it is the one dialog of two people.
    pub direct: bool,
    /// Who takes part now, by id.
    pub participants: Vec<UserId>,
    /// When it was made.
    pub created_at_us: i64,
    /// When something was last said in it, or else when it was made.
    pub last_activity_us: i64,
    /// The newest message that the person may see, as the person sees it.
    pub last_message: Option<Message>,
}
