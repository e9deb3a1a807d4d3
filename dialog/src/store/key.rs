//! Keys of clients: each is claimed once, for ever, before any dialog is locked. Of two who claim one at the same time the
//! second waits for the first to commit, and then reads what the first has made.

use db::{Error, On, Tx, query};
use proto::{DialogId, MessageId, UserId};

use crate::text::ClientKey;

/// What a key was used for first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed<T> {
    /// What was made.
    pub made: T,
    /// The hash of what was asked for.
    pub hash: Vec<u8>,
}

/// Claims a key for a message. `false`: somebody has it.
///
/// # Errors
/// As the database has them.
pub async fn claim_message(
    tx: &mut Tx,
    (author, key): (UserId, &ClientKey),
    (message, dialog): (MessageId, DialogId),
    hash: Vec<u8>,
) -> Result<bool, Error> {
    let insert = query(
        "insert into message_key (author_id, client_key, message_id, dialog_id, text_hash) values ($1, $2, $3, $4, $5)
         on conflict (author_id, client_key) do nothing",
    );
    let insert =
        insert.bind(author.uuid()).bind(key.as_str()).bind(message.uuid()).bind(dialog.uuid()).bind(hash);
    Ok(insert.execute(tx).await? == 1)
}

/// The message and dialog that a key was used for, and the hash of the text.
///
/// # Errors
/// As the database has them.
pub async fn claimed_message(
    on: impl Into<On<'_>>,
    author: UserId,
    key: &ClientKey,
) -> Result<Option<Claimed<(MessageId, DialogId)>>, Error> {
    let select = query(
        "select message_id, dialog_id, text_hash from message_key where author_id = $1 and client_key = $2",
    );
    let Some(row) = select.bind(author.uuid()).bind(key.as_str()).optional(on).await? else {
        return Ok(None);
    };
    let made = (MessageId::new(row.get("message_id")?), DialogId::new(row.get("dialog_id")?));
    Ok(Some(Claimed { made, hash: row.get("text_hash")? }))
}

/// Claims a key for a dialog. `false`: somebody has it.
///
/// # Errors
/// As the database has them.
pub async fn claim_dialog(
    tx: &mut Tx,
    (author, key): (UserId, &ClientKey),
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

/// Points a key at the dialog that was there already.
///
/// # Errors
/// As the database has them.
pub async fn point_at(tx: &mut Tx, author: UserId, key: &ClientKey, dialog: DialogId) -> Result<(), Error> {
    let update = query("update dialog_key set dialog_id = $3 where author_id = $1 and client_key = $2");
    update.bind(author.uuid()).bind(key.as_str()).bind(dialog.uuid()).execute(tx).await.map(drop)
}

/// The dialog that a key was used for, and the hash of the request.
///
/// # Errors
/// As the database has them.
pub async fn claimed_dialog(
    on: impl Into<On<'_>>,
    author: UserId,
    key: &ClientKey,
) -> Result<Option<Claimed<DialogId>>, Error> {
    let select =
        query("select dialog_id, request_hash from dialog_key where author_id = $1 and client_key = $2");
    let Some(row) = select.bind(author.uuid()).bind(key.as_str()).optional(on).await? else {
        return Ok(None);
    };
    Ok(Some(Claimed { made: DialogId::new(row.get("dialog_id")?), hash: row.get("request_hash")? }))
}
