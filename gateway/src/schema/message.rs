//! Messages and where each stands in its saga.

use std::sync::Arc;

use async_graphql::{ComplexObject, Context, Enum, ID, SimpleObject};
use proto::{DialogId, MessageId, TransactionId, UserId, dialog};

use crate::error::Error;

use super::{DateTime, Scope, User};

/// Whether the counters have confirmed a message. It moves from PENDING to COMMITTED or to FAILED, and never again.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageStatus {
    /// Stored and visible to everybody; the counters have not confirmed it yet.
    Pending,
    /// Stored and counted.
    Committed,
    /// Refused by the counters: only its author still finds it, with the reason.
    Failed,
}

/// Something said in a dialog.
#[derive(SimpleObject, Debug, Clone, PartialEq, Eq)]
#[graphql(complex)]
pub struct Message {
    /// Never changes.
    pub id: ID,
    /// The dialog that it was said in.
    pub dialog_id: ID,
    /// Its number in the dialog: 1, 2, 3 … allocated without gaps. Others than the author see a hole where a message FAILED.
    pub seq: i64,
    /// Who said it.
    pub sender_id: ID,
    /// What was said: 1 to 4,000 characters. Empty where the message was deleted. Costs 16, for as many kB.
    #[graphql(complexity = 16)]
    pub text: String,
    /// Whether the counters have confirmed it.
    pub status: MessageStatus,
    /// Why it FAILED, for its author; null for everybody else and otherwise.
    pub failure_reason: Option<String>,
    /// The saga that counts it; `message(transactionId:)` finds it by this.
    pub transaction_id: ID,
    /// When it was stored.
    pub created_at: DateTime,
    /// When it was deleted; null where it was not.
    pub deleted_at: Option<DateTime>,
    #[graphql(skip)]
    sender: UserId,
}

#[ComplexObject]
impl Message {
    /// Who said it. Null with an UNAVAILABLE error while names cannot be had; `senderId` is always there.
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
            dialog::Status::Unspecified => return Err(Error::internal("a message without a status")),
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
