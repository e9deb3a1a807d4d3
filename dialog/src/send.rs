//! Sending: the first step of a message's saga. Sends that arrive together share one transaction
//! ([`queue`], [`batch`]). A repeated client key returns the same message, without a time limit.

mod batch;
mod queue;
mod repeated;

use db::Db;
use events::Headers;
use proto::{DialogId, MessageId, TransactionId, UserId, events::MessageSent};
use telemetry::Call;

use crate::{
    Error,
    message::Message,
    text::{ClientKey, Text},
};
use batch::{Outcome, Send};
pub(crate) use queue::Queue;

/// Validated input of a send.
#[derive(Debug)]
pub(crate) struct NewMessage {
    pub id: MessageId,
    /// Id of the saga, and of its MessageSent event.
    pub transaction_id: TransactionId,
    pub dialog_id: DialogId,
    pub text: Text,
    /// Makes the call idempotent.
    pub client_key: Option<ClientKey>,
    /// Newest message that the author has read.
    pub read_up_to: Option<MessageId>,
}

/// Stores a PENDING message and appends MessageSent, or returns the current state of the message that
/// the client key was used for before.
///
/// # Errors
/// [`Error::NoDialog`]; [`Error::NoMessage`] if `read_up_to` is not a message of the dialog;
/// [`Error::KeyTaken`] if the key was used with another dialog or text; [`Error::Busy`] if more sends
/// wait than the database stores in time; [`Error::Database`].
#[tracing::instrument(
    name = "dialog.message.send",
    skip_all,
    fields(user_id = %author, dialog_id = %new.dialog_id)
)]
pub(crate) async fn send(
    db: &Db,
    queue: &Queue,
    call: &Call,
    author: UserId,
    new: NewMessage,
) -> Result<Message, Error> {
    let claim = new.client_key.clone().map(|key| (key, new.dialog_id, new.text.hash()));
    match queue.store(Send { author, new, cause: Headers::from(call) }).await? {
        Outcome::Stored(message) => Ok(message),
        Outcome::NoDialog => Err(Error::NoDialog),
        Outcome::NoReadMessage => Err(Error::NoMessage),
        Outcome::Repeated => {
            let (key, dialog_id, hash) = claim.ok_or(Error::KeyTaken)?;
            repeated::find(db, author, &key, dialog_id, &hash).await
        }
    }
}

/// Builds the MessageSent event of a message, for the log and for `Settle` calls.
pub(crate) fn message_sent(message: &Message) -> MessageSent {
    MessageSent {
        dialog_id: message.dialog_id.bytes(),
        version: message.version,
        message_id: message.id.bytes(),
        seq: message.seq,
        sender_id: message.author_id.bytes(),
        transaction_id: message.transaction_id.bytes(),
        created_at_us: message.created_at_us,
        read_up_to: message.read_up_to,
    }
}
