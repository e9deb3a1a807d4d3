//! Message: its stored form, its saga status, and the view of it that users other than the author get.

use std::fmt;

use proto::{DialogId, MessageId, TransactionId, UserId, dialog as wire};

/// Saga status. Moves once, from pending to committed or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Stored, and not yet confirmed by the counter.
    Pending,
    /// Stored and counted.
    Committed,
    /// Refused by the counter.
    Failed,
}

impl Status {
    /// Returns the database's representation.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Committed => "committed",
            Self::Failed => "failed",
        }
    }

    /// Parses the database's representation. A check constraint excludes other texts.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "committed" => Self::Committed,
            "failed" => Self::Failed,
            _ => Self::Pending,
        }
    }

    /// Returns the protobuf value.
    pub(crate) fn wire(self) -> i32 {
        match self {
            Self::Pending => wire::Status::Pending.into(),
            Self::Committed => wire::Status::Committed.into(),
            Self::Failed => wire::Status::Failed.into(),
        }
    }
}

/// Message as its author sees it. Times are in microseconds since the Unix epoch. `Debug` omits the
/// text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub id: MessageId,
    pub dialog_id: DialogId,
    /// Number within the dialog: 1, 2, 3 … without gaps.
    pub seq: i64,
    pub author_id: UserId,
    /// Text; empty if deleted.
    pub text: String,
    pub status: Status,
    /// Reason of the counter's refusal; set if the status is failed.
    pub failure_reason: Option<String>,
    /// Id of the saga.
    pub transaction_id: TransactionId,
    pub created_at_us: i64,
    pub deleted_at_us: Option<i64>,
    /// Version of the dialog at the message's last change.
    pub version: i64,
    /// Seq up to which the author had read the dialog when sending; 0 if not stated.
    pub read_up_to: i64,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, dialog_id, seq, status, version, .. } = self;
        write!(f, "Message({id}, {seq} of {dialog_id}, {status:?}, version {version})")
    }
}

impl Message {
    /// Returns the message as `user` may see it: another user's failed message has neither text nor
    /// reason.
    #[must_use]
    pub(crate) fn seen_by(mut self, user: UserId) -> Self {
        if self.status == Status::Failed && self.author_id != user {
            self.text.clear();
            self.failure_reason = None;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_author_sees_the_text_of_a_failed_message() {
        let author = UserId::now();
        let message = |status, failure_reason: Option<&str>| Message {
            id: MessageId::now(),
            dialog_id: DialogId::now(),
            seq: 1,
            author_id: author,
            text: "text".to_owned(),
            status,
            failure_reason: failure_reason.map(str::to_owned),
            transaction_id: TransactionId::now(),
            created_at_us: 1,
            deleted_at_us: None,
            version: 3,
            read_up_to: 0,
        };
        let failed = message(Status::Failed, Some("full"));
        assert_eq!(failed.clone().seen_by(author), failed);
        let others = failed.seen_by(UserId::now());
        assert_eq!((others.text.as_str(), others.failure_reason, others.status), ("", None, Status::Failed));
        for status in [Status::Pending, Status::Committed] {
            let message = message(status, None);
            assert_eq!(message.clone().seen_by(UserId::now()), message);
        }
    }

    #[test]
    fn the_stored_form_of_a_status_is_parsed_back() {
        for status in [Status::Pending, Status::Committed, Status::Failed] {
            assert_eq!(Status::parse(status.as_str()), status);
        }
    }
}
