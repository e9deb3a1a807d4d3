//! Deletion of a message by its author. The text is erased and the row stays as a tombstone; the saga
//! status is unaffected.

use db::{Db, Tx};
use events::Headers;
use proto::{
    MessageId, UserId,
    events::{MessageDeleted, event::Kind},
};
use telemetry::Call;

use crate::{
    Error,
    message::Message,
    store::{self, message},
};

/// Deletes a message of the caller and appends MessageDeleted. Idempotent.
///
/// # Errors
/// [`Error::NoMessage`] if it does not exist, is another user's, or is in a dialog that the caller does
/// not take part in; [`Error::Database`].
#[tracing::instrument(name = "dialog.message.delete", skip_all, fields(user_id = %caller, message_id = %id))]
pub(crate) async fn delete(db: &Db, call: &Call, caller: UserId, id: MessageId) -> Result<Message, Error> {
    let writer = db.clone();
    let cause = Headers::from(call);
    let write = async move {
        let mut tx = writer.begin().await?;
        let message = write(&mut tx, caller, id, &cause).await?;
        tx.commit().await?;
        Ok(message)
    };
    db.detach(write).await
}

async fn write(tx: &mut Tx, caller: UserId, id: MessageId, cause: &Headers) -> Result<Message, Error> {
    // Safe without a lock: a message never moves to another dialog.
    let dialog_id = message::dialog_of(&mut *tx, id).await?.ok_or(Error::NoMessage)?;
    let mut dialog = store::lock_one(tx, dialog_id).await?.ok_or(Error::NoMessage)?;
    let Some(deleted) = message::delete(tx, id, caller, dialog.next_version()).await? else {
        // Nothing was updated: either the message is deleted already, or it is not the caller's to
        // delete.
        let found = message::by_ids(tx, caller, &[id], &[]).await?.pop();
        return found.filter(|message| message.author_id == caller).ok_or(Error::NoMessage);
    };
    let event = MessageDeleted {
        dialog_id: dialog_id.bytes(),
        version: deleted.version,
        message_id: id.bytes(),
        seq: deleted.seq,
        sender_id: caller.bytes(),
    };
    dialog.record(Kind::MessageDeleted(event), cause);
    store::save(tx, dialog).await?;
    Ok(deleted)
}
