//! Deleting what one has said: the text goes, the row stays as a tombstone, and where it stands in its saga is untouched.

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

/// Deletes a message of the caller's own. Repeating it changes nothing.
///
/// # Errors
/// [`Error::NoMessage`] where it is absent, somebody else's, or in a dialog that the caller takes no part in; and
/// [`Error::Database`].
#[tracing::instrument(name = "dialog.message.delete", skip_all, fields(user_id = %caller, message_id = %id))]
pub async fn delete(db: &Db, call: &Call, caller: UserId, id: MessageId) -> Result<Message, Error> {
    let (writer, cause) = (db.clone(), Headers::from(call));
    let write = async move {
        let mut tx = writer.begin().await?;
        let message = write(&mut tx, caller, id, &cause).await?;
        tx.commit().await?;
        Ok(message)
    };
    db.detach(write).await
}

async fn write(tx: &mut Tx, caller: UserId, id: MessageId, cause: &Headers) -> Result<Message, Error> {
    let dialog = message::dialog_of(&mut *tx, id).await?.ok_or(Error::NoMessage)?;
    let mut held = store::lock_one(tx, dialog).await?.ok_or(Error::NoMessage)?;
    let Some(deleted) = message::delete(tx, id, caller, held.next_version()).await? else {
        let there = message::by_ids(tx, caller, &[id], &[]).await?.pop();
        return there.filter(|message| message.author_id == caller).ok_or(Error::NoMessage);
    };
    let event = MessageDeleted {
        dialog_id: dialog.bytes(),
        version: deleted.version,
        message_id: id.bytes(),
        seq: deleted.seq,
        sender_id: caller.bytes(),
    };
    held.record(Kind::MessageDeleted(event), cause);
    store::save(tx, held).await?;
    Ok(deleted)
}
