//! Repeated sends: a client key that was used before stands for the message of its first use.

use db::Db;
use proto::{DialogId, UserId};

use crate::{
    Error,
    message::Message,
    store::{key, key::Claim, message},
    text::ClientKey,
};

/// Returns the current state of the message that a client key was used for.
///
/// # Errors
/// [`Error::KeyTaken`] if it was used with another dialog or text; [`Error::NoDialog`] if the author has
/// left the dialog; [`Error::Database`].
pub(super) async fn find(
    db: &Db,
    author: UserId,
    key: &ClientKey,
    dialog_id: DialogId,
    text_hash: &[u8],
) -> Result<Message, Error> {
    let Claim { target, hash } = key::message_claim(db, author, key).await?.ok_or(Error::KeyTaken)?;
    if target.dialog_id != dialog_id || hash != text_hash {
        return Err(Error::KeyTaken);
    }
    message::by_ids(db, author, &[target.id], &[]).await?.pop().ok_or(Error::NoDialog)
}
