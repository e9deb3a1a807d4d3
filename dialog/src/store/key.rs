//! Client keys: idempotency keys of `Send` and `Create`, kept without expiry. A key is claimed before
//! any dialog is locked. Of two concurrent claims of a key, the second waits for the first transaction
//! to commit and then reads its result.

use std::collections::BTreeSet;

use db::{Error, Executor, Tx, query};
use proto::{DialogId, MessageId, UserId};
use serde_json::{Value, json};

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

/// Claim of a key for a new message.
#[derive(Debug)]
pub(crate) struct NewClaim<'a> {
    pub author: UserId,
    pub key: &'a ClientKey,
    pub id: MessageId,
    pub dialog_id: DialogId,
    /// Hash of the text.
    pub hash: Vec<u8>,
}

/// Claims keys for messages, sorted by author and key. Returns the ids of the messages that got their
/// key; the author of any other message has used its key before. No two claims may have the same author
/// and key.
pub(crate) async fn claim_messages(
    tx: &mut Tx,
    claims: &[NewClaim<'_>],
) -> Result<BTreeSet<MessageId>, Error> {
    if claims.is_empty() {
        return Ok(BTreeSet::new());
    }
    let insert = query(
        "insert into message_key (author_id, client_key, message_id, dialog_id, text_hash)
         select author_id, client_key, message_id, dialog_id, text_hash
         from rows($1: author_id uuid, client_key text, message_id uuid, dialog_id uuid, text_hash bytea) as r
         where true order by author_id, client_key
         on conflict (author_id, client_key) do nothing
         returning message_id",
    );
    let rows: Value = claims
        .iter()
        .map(|claim| {
            json!({
                "author_id": claim.author.uuid(),
                "client_key": claim.key.as_str(),
                "message_id": claim.id.uuid(),
                "dialog_id": claim.dialog_id.uuid(),
                "text_hash": db::hexadecimal(&claim.hash),
            })
        })
        .collect();
    let rows = insert.bind(rows).all(tx).await?;
    rows.iter().map(|row| row.get("message_id").map(MessageId::new)).collect()
}

/// Frees keys that this transaction has claimed.
pub(crate) async fn release_messages<'a>(
    tx: &mut Tx,
    keys: impl Iterator<Item = (UserId, &'a ClientKey)>,
) -> Result<(), Error> {
    let rows: Vec<Value> =
        keys.map(|(author, key)| json!({ "author_id": author.uuid(), "client_key": key.as_str() })).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let delete = query(
        "delete from message_key where (author_id, client_key) in (
             select r.author_id, r.client_key from rows($1: author_id uuid, client_key text) as r
         )",
    );
    delete.bind(Value::Array(rows)).execute(tx).await.map(drop)
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
