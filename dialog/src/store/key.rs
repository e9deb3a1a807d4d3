//! Client keys: idempotency keys of `Send` and `Create`, kept without expiry. A key is claimed before
//! any dialog is locked. Of two concurrent claims of a key, the second waits for the first transaction
//! to commit and then reads its result.

use db::{Error, Executor, Tx, query};
use proto::{DialogId, MessageId, UserId};

use crate::text::ClientKey;

/// Claim of a client key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim<T> {
    /// Object that the first call created.
    pub target: T,
    /// Hash of the first call's input.
    pub hash: Vec<u8>,
}

/// Message that a client key refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SentMessage {
    pub id: MessageId,
    pub dialog_id: DialogId,
}

/// Claims a key for a message. Returns false if the author has used it before.
pub(crate) async fn claim_message(
    tx: &mut Tx,
    author: UserId,
    key: &ClientKey,
    target: SentMessage,
    hash: Vec<u8>,
) -> Result<bool, Error> {
    let insert = query(
        "insert into message_key (author_id, client_key, message_id, dialog_id, text_hash)
         values ($1, $2, $3, $4, $5)
         on conflict (author_id, client_key) do nothing",
    );
    let insert = insert.bind(author.uuid()).bind(key.as_str());
    let insert = insert.bind(target.id.uuid()).bind(target.dialog_id.uuid()).bind(hash);
    Ok(insert.execute(tx).await? == 1)
}

/// Returns the claim of a key that was used for a message, with the hash of its text.
pub(crate) async fn message_claim(
    on: impl Into<Executor<'_>>,
    author: UserId,
    key: &ClientKey,
) -> Result<Option<Claim<SentMessage>>, Error> {
    let select = query(
        "select message_id, dialog_id, text_hash from message_key where author_id = $1 and client_key = $2",
    );
    let Some(row) = select.bind(author.uuid()).bind(key.as_str()).optional(on).await? else {
        return Ok(None);
    };
    let target = SentMessage {
        id: MessageId::new(row.get("message_id")?),
        dialog_id: DialogId::new(row.get("dialog_id")?),
    };
    Ok(Some(Claim { target, hash: row.get("text_hash")? }))
}

/// Claims a key for a dialog. Returns false if the author has used it before.
pub(crate) async fn claim_dialog(
    tx: &mut Tx,
    author: UserId,
    key: &ClientKey,
    dialog: DialogId,
    hash: Vec<u8>,
) -> Result<bool, Error> {
    let insert = query(
        "insert into dialog_key (author_id, client_key, dialog_id, request_hash) values ($1, $2, $3, $4)
         on conflict (author_id, client_key) do nothing",
    );
    let insert = insert.bind(author.uuid()).bind(key.as_str()).bind(dialog.uuid()).bind(hash);
    Ok(insert.execute(tx).await? == 1)
}

/// Changes the dialog of a claimed key to an existing direct dialog.
pub(crate) async fn set_dialog(
    tx: &mut Tx,
    author: UserId,
    key: &ClientKey,
    dialog: DialogId,
) -> Result<(), Error> {
    let update = query("update dialog_key set dialog_id = $3 where author_id = $1 and client_key = $2");
    update.bind(author.uuid()).bind(key.as_str()).bind(dialog.uuid()).execute(tx).await.map(drop)
}

/// Returns the claim of a key that was used for a dialog, with the hash of its request.
pub(crate) async fn dialog_claim(
    on: impl Into<Executor<'_>>,
    author: UserId,
    key: &ClientKey,
) -> Result<Option<Claim<DialogId>>, Error> {
    let select =
        query("select dialog_id, request_hash from dialog_key where author_id = $1 and client_key = $2");
    let Some(row) = select.bind(author.uuid()).bind(key.as_str()).optional(on).await? else {
        return Ok(None);
    };
    Ok(Some(Claim { target: DialogId::new(row.get("dialog_id")?), hash: row.get("request_hash")? }))
}
