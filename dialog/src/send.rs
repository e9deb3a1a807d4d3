//! Sending a message: the first step of its saga. The key is claimed, then the dialog locked and numbered; message and
//! event are written together. The same author and key is the same message, for ever.

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
    store::{self, message},
    text::{ClientKey, Text},
};

/// A message to be sent.
#[derive(Debug)]
pub struct New {
    /// Its id, where it is stored.
    pub id: MessageId,
    /// Its saga's id, where it is stored.
    pub transaction_id: TransactionId,
    /// Where it is said.
    pub dialog_id: DialogId,
    /// What is said.
    pub text: Text,
    /// Repeats this call safely.
    pub client_key: Option<ClientKey>,
}

/// Stores a pending message, or finds the one that the client's key has already, as it is now.
///
/// # Errors
/// [`Error::NoDialog`], [`Error::KeyTaken`] where the key was used with another dialog or text, and [`Error::Database`].
#[tracing::instrument(name = "dialog.message.send", skip_all, fields(user_id = %caller, dialog_id = %new.dialog_id))]
pub async fn send(db: &Db, call: &Call, caller: UserId, new: New) -> Result<Message, Error> {
    let (writer, cause) = (db.clone(), Headers::from(call));
    let write = async move {
        let mut tx = writer.begin().await?;
        let message = write(&mut tx, caller, &new, &cause).await?;
        tx.commit().await?;
        Ok(message)
    };
    db.detach(write).await
}

async fn write(tx: &mut Tx, caller: UserId, new: &New, cause: &Headers) -> Result<Message, Error> {
    if let Some(key) = &new.client_key
        && !store::key::claim_message(tx, (caller, key), (new.id, new.dialog_id), new.text.hash()).await?
    {
        return repeated(tx, caller, key, new).await;
    }
    let mut held = store::lock_one(tx, new.dialog_id).await?.ok_or(Error::NoDialog)?;
    let stored = message::New {
        id: new.id,
        dialog_id: new.dialog_id,
        seq: held.head_seq + 1,
        author_id: caller,
        text: new.text.as_str(),
        transaction_id: new.transaction_id,
        version: held.next_version(),
    };
    let message = message::insert(tx, stored).await?.ok_or(Error::NoDialog)?;
    held.head_seq = message.seq;
    held.last_activity_us = held.last_activity_us.max(message.created_at_us);
    held.record_as(new.transaction_id.uuid(), Kind::MessageSent(sent(&message)), cause);
    store::save(tx, held).await?;
    Ok(message)
}

/// The message of a key that was used before.
async fn repeated(tx: &mut Tx, caller: UserId, key: &ClientKey, new: &New) -> Result<Message, Error> {
    let claimed = store::key::claimed_message(&mut *tx, caller, key).await?.ok_or(Error::KeyTaken)?;
    let (message, dialog) = claimed.made;
    if dialog != new.dialog_id || claimed.hash != new.text.hash() {
        return Err(Error::KeyTaken);
    }
    message::by_ids(tx, caller, &[message], &[]).await?.pop().ok_or(Error::NoDialog)
}

/// The event of a message, as the counters are told and asked.
pub fn sent(message: &Message) -> MessageSent {
    MessageSent {
        dialog_id: message.dialog_id.bytes(),
        version: message.version,
        message_id: message.id.bytes(),
        seq: message.seq,
        sender_id: message.author_id.bytes(),
        transaction_id: message.transaction_id.bytes(),
        created_at_us: message.created_at_us,
    }
}
