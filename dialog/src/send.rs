//! Sending: the first step of a message's saga. Claims the client key, then locks the dialog and assigns
//! seq and version; message and event are written in the same transaction. A repeated client key returns
//! the same message, without a time limit.

use db::{Db, Tx};
use events::Headers;
use proto::{
    DialogId, MessageId, TransactionId, UserId,
    events::{MessageSent, event::Kind},
};
use telemetry::Call;

use crate::{
    Error,
    message::Message,
    store::{
        self,
        key::{Claim, SentMessage},
        message,
    },
    text::{ClientKey, Text},
};

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
/// [`Error::KeyTaken`] if the key was used with another dialog or text; [`Error::Database`].
#[tracing::instrument(
    name = "dialog.message.send",
    skip_all,
    fields(user_id = %caller, dialog_id = %new.dialog_id)
)]
pub(crate) async fn send(db: &Db, call: &Call, caller: UserId, new: NewMessage) -> Result<Message, Error> {
    let writer = db.clone();
    let cause = Headers::from(call);
    let write = async move {
        let mut tx = writer.begin().await?;
        let message = write(&mut tx, caller, &new, &cause).await?;
        tx.commit().await?;
        Ok(message)
    };
    db.detach(write).await
}

async fn write(tx: &mut Tx, caller: UserId, new: &NewMessage, cause: &Headers) -> Result<Message, Error> {
    // Lock order: the client key before the dialog, as in `create`.
    if let Some(key) = &new.client_key {
        let target = SentMessage { id: new.id, dialog_id: new.dialog_id };
        if !store::key::claim_message(tx, caller, key, target, new.text.hash()).await? {
            return repeated_message(tx, caller, key, new).await;
        }
    }
    let mut dialog = store::lock_one(tx, new.dialog_id).await?.ok_or(Error::NoDialog)?;
    let row = message::NewRow {
        id: new.id,
        dialog_id: new.dialog_id,
        seq: dialog.head_seq + 1,
        author_id: caller,
        text: new.text.as_str(),
        transaction_id: new.transaction_id,
        version: dialog.next_version(),
        read_up_to: new.read_up_to,
    };
    let message = message::insert(tx, row).await?.ok_or(Error::NoDialog)?;
    if new.read_up_to.is_some() && message.read_up_to == 0 {
        return Err(Error::NoMessage);
    }
    dialog.head_seq = message.seq;
    // The maximum, because the database's clock can step back.
    dialog.last_activity_us = dialog.last_activity_us.max(message.created_at_us);
    // The event id is the transaction id: the sweeper finds by it if the event is still in the outbox.
    dialog.record_as(new.transaction_id.uuid(), Kind::MessageSent(message_sent(&message)), cause);
    store::save(tx, dialog).await?;
    Ok(message)
}

/// Returns the message of a client key that was used before.
async fn repeated_message(
    tx: &mut Tx,
    caller: UserId,
    key: &ClientKey,
    new: &NewMessage,
) -> Result<Message, Error> {
    let Claim { target, hash } =
        store::key::message_claim(&mut *tx, caller, key).await?.ok_or(Error::KeyTaken)?;
    if target.dialog_id != new.dialog_id || hash != new.text.hash() {
        return Err(Error::KeyTaken);
    }
    message::by_ids(tx, caller, &[target.id], &[]).await?.pop().ok_or(Error::NoDialog)
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
