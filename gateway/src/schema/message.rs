//! Messages and their status in the saga that counts them.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, ID, SimpleObject};
use proto::{DialogId, MessageId, TransactionId, UserId, dialog};

use crate::error::Error;

use super::{DateTime, Scope, User};

/// The result of counting a message. It changes once, from PENDING to COMMITTED or to FAILED.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageStatus {
    /// Stored and visible to all participants, but not counted yet.
    Pending,
    /// Stored and counted.
    Committed,
    /// Refused by the counter service. Only the author can still see the message and the reason.
    Failed,
}

impl MessageStatus {
    /// Returns the name in the schema.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Committed => "COMMITTED",
            Self::Failed => "FAILED",
        }
    }
}

/// A message in a dialog.
#[derive(SimpleObject, Debug, Clone, PartialEq, Eq)]
#[graphql(complex)]
pub struct Message {
    /// Unique and permanent.
    #[graphql(owned)] // The interface Node requires a getter that returns `ID`.
    pub id: ID,
    /// The id of the dialog that contains the message.
    pub dialog_id: ID,
    /// The number of the message in its dialog: 1, 2, 3 and so on, allocated without gaps. Participants
    /// other than the author see a gap in place of a FAILED message.
    pub seq: i64,
    /// The id of the author.
    pub sender_id: ID,
    /// The text, 1 to 4,000 characters. Empty if the message was deleted, and for participants other
    /// than the author if it FAILED. Has a complexity of 40, because a text takes up to 16 kB.
    #[graphql(complexity = 40)]
    pub text: String,
    /// The result of counting the message.
    pub status: MessageStatus,
    /// The reason why the message FAILED. Null unless it FAILED and the caller is its author.
    pub failure_reason: Option<String>,
    /// The id of the saga that counts the message. `message(transactionId:)` accepts this id.
    pub transaction_id: ID,
    /// The time at which the message was stored.
    pub created_at: DateTime,
    /// The time at which the message was deleted. Null if it was not deleted.
    pub deleted_at: Option<DateTime>,
    #[graphql(skip)]
    pub(super) sender: UserId,
}

#[ComplexObject]
impl Message {
    /// The author. Null with an UNAVAILABLE error while the auth service is unavailable; `senderId` is
    /// always set.
    async fn sender(&self, ctx: &Context<'_>) -> Result<Option<Arc<User>>, Error> {
        Scope::of(ctx).loaders.users.load(self.sender).await
    }
}

impl TryFrom<dialog::Message> for Message {
    type Error = Error;

    fn try_from(message: dialog::Message) -> Result<Self, Error> {
        let status = match message.status() {
            dialog::Status::Pending => MessageStatus::Pending,
            dialog::Status::Committed => MessageStatus::Committed,
            dialog::Status::Failed => MessageStatus::Failed,
            dialog::Status::Unspecified => return Err(Error::internal("message without a status")),
        };
        let sender = UserId::parse(&message.sender_id)?;
        Ok(Self {
            id: ID(MessageId::parse(&message.id)?.to_string()),
            dialog_id: ID(DialogId::parse(&message.dialog_id)?.to_string()),
            seq: message.seq,
            sender_id: ID(sender.to_string()),
            text: message.text,
            status,
            failure_reason: message.failure_reason,
            transaction_id: ID(TransactionId::parse(&message.transaction_id)?.to_string()),
            created_at: DateTime::from_microseconds(message.created_at_us),
            deleted_at: message.deleted_at_us.map(DateTime::from_microseconds),
            sender,
        })
    }
}
