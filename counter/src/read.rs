//! Read pointers: `markRead` moves a user's pointer in a dialog forward, never back. The pointer may be
//! ahead of the messages that the counter has applied.

use db::Db;
use events::Headers;
use proto::{DialogId, UserId};

use crate::{
    Error,
    kernel::{Change, Input},
    publish, store,
    unread::{Row, Version},
};

/// State after [`mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) version: Version,
    /// Unread messages of the user in all dialogs.
    pub(crate) total: i64,
    /// The user's counts in the dialog.
    pub(crate) row: Row,
}

/// Moves the user's read pointer to `seq` unless it is there already, and returns the state after the
/// call. Safe to repeat.
///
/// Membership is not checked: the dialog service has done that. If the join has not been applied yet,
/// the row keeps the pointer and counts nothing.
///
/// # Errors
/// [`Error::Invalid`] if a constraint of the database refuses the new counts; [`Error::Database`].
#[tracing::instrument(name = "counter.read.mark", skip_all, fields(%user_id, %dialog_id, seq))]
pub(crate) async fn mark(
    db: &Db,
    user_id: UserId,
    dialog_id: DialogId,
    seq: i64,
    headers: Headers,
) -> Result<Marked, Error> {
    // A pointer never goes back, so a read of what is already read needs no lock and no write.
    let mut tx = db.snapshot().await?;
    let row = store::row(&mut tx, user_id, dialog_id).await?;
    let (version, total) = store::version(&mut tx, user_id).await?;
    tx.rollback().await?;
    if seq <= row.read_seq {
        return Ok(Marked { version, total, row });
    }
    // Detached from the request: a client that disconnects must not cancel the transaction halfway
    // (docs/decisions/0002-no-begin-is-cancelled.md).
    db.detach(write(db.clone(), user_id, dialog_id, seq, headers)).await
}

async fn write(
    db: Db,
    user_id: UserId,
    dialog_id: DialogId,
    seq: i64,
    headers: Headers,
) -> Result<Marked, Error> {
    let mut tx = db.begin().await?;
    let input = Input::Dialog { dialog_id, version: None, change: Change::Read { user_id, up_to: seq } };
    let outcome = store::transact(&mut tx, &[input]).await?;
    if !outcome.refused.is_empty() {
        return Err(Error::Invalid(store::REFUSAL_REASON));
    }
    // Read under the locks of this transaction: the answer is exactly the state that the events
    // announce.
    let (version, total) = store::version(&mut tx, user_id).await?;
    let row = store::row(&mut tx, user_id, dialog_id).await?;
    publish::append(&mut tx, version.epoch, outcome.effects, Vec::new(), |_, _| headers.clone()).await?;
    tx.commit().await?;
    Ok(Marked { version, total, row })
}
