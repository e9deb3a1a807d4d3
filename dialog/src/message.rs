//! A message as it is stored, where it stands in its saga, and how others than its author see it.

use std::fmt;

use proto::{DialogId, MessageId, TransactionId, UserId, dialog as wire};

/// Where a message stands: it moves from pending to one of the others, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Stored; the counters have not confirmed it yet.
    Pending,
    /// Stored and counted.
    Committed,
    /// Refused by the counters.
    Failed,
}

impl Status {
    /// The status as the database spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Committed => "committed",
            Self::Failed => "failed",
        }
    }

    /// Reads the database's spelling; a check constraint knows no other.
    pub fn read(text: &str) -> Self {
        match text {
            "committed" => Self::Committed,
            "failed" => Self::Failed,
            _ => Self::Pending,
        }
    }

    /// The status on the wire.
    pub fn wire(self) -> i32 {
        match self {
            Self::Pending => wire::Status::Pending.into(),
            Self::Committed => wire::Status::Committed.into(),
            Self::Failed => wire::Status::Failed.into(),
        }
    }
}

/// A message as its author sees it. Times are microseconds since the epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Where it was said.
    pub dialog_id: DialogId,
    /// Its place: 1, 2, 3 … without gaps.
    pub seq: i64,
    /// Who said it.
    pub author_id: UserId,
    /// What was said; empty when deleted.
    pub text: String,
    /// Where it stands.
    pub status: Status,
    /// Why the counters refused it, where they did.
    pub failure_reason: Option<String>,
    /// The saga that counts it.
    pub transaction_id: TransactionId,
    /// When it was stored.
    pub created_at_us: i64,
    /// When its author deleted it, where that is so.
    pub deleted_at_us: Option<i64>,
    /// The dialog's version at its last change.
    pub version: i64,
}

impl fmt::Debug for Message {
    /// Without what was said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, dialog_id, seq, status, version, .. } = self;
        write!(f, "Message({id}, {seq} of {dialog_id}, {status:?}, version {version})")
    }
}

impl Message {
    /// The message as this person may see it: a failed one of somebody else has neither text nor reason.
    #[must_use]
    pub fn seen_by(mut self, person: UserId) -> Self {
        if self.status == Status::Failed && self.author_id != person {
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
    fn only_its_author_reads_a_failed_message() {
        let author = UserId::now();
        let message = |status, failure_reason: Option<&str>| Message {
            id: MessageId::now(),
            dialog_id: DialogId::now(),
            seq: 1,
            author_id: author,
            text: "words".to_owned(),
            status,
            failure_reason: failure_reason.map(str::to_owned),
            transaction_id: TransactionId::now(),
            created_at_us: 1,
            deleted_at_us: None,
            version: 3,
        };
        let failed = message(Status::Failed, Some("full"));
        assert_eq!(failed.clone().seen_by(author), failed);
        let others = failed.seen_by(UserId::now());
        assert_eq!((others.text.as_str(), others.failure_reason, others.status), ("", None, Status::Failed));
        for status in [Status::Pending, Status::Committed] {
            let said = message(status, None);
            assert_eq!(said.clone().seen_by(UserId::now()), said);
        }
    }

    #[test]
    fn a_status_reads_back() {
        for status in [Status::Pending, Status::Committed, Status::Failed] {
            assert_eq!(Status::read(status.as_str()), status);
        }
    }
}
